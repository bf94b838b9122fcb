//! What the probe inside a sandbox and the tests outside share: bytes that
//! both can make and check, and what the probe reports.

pub mod pattern;
pub mod report;
