//! The gateway over real TLS on loopback, beside a Kubernetes API that was made up.

mod program;
mod support;
mod who;
