//! Doors for the fuzzer, to what reads bytes from outside and is no part of an
//! interface.

use crate::identity::{FrontProxy, Stranger, User};
use http::HeaderMap;

/// The user that headers name, as if the front proxy had sent them.
///
/// # Errors
/// They name nobody, or too much.
pub fn named(proxy: &FrontProxy, headers: &HeaderMap) -> Result<User, Stranger> {
    proxy.named(headers)
}
