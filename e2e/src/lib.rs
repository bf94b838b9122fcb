//! What the probe inside a sandbox and the tests outside share: bytes that
//! both can make and check, and what the probe reports. And what the tests
//! leave of themselves: records, and the table of them.

pub mod pattern;
pub mod record;
pub mod report;
pub mod table;
