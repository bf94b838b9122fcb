//! The gateway over real TLS on loopback, beside a Kubernetes API that was made up.

mod clocks;
mod forward;
mod program;
mod refused;
mod support;
mod who;
mod whole;
