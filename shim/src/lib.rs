//! The node side of Sternline.
//!
//! Data flows one way: the [`service`] validates a request, the [`binder`] finds
//! the sandbox and binds in it, the [`cache`] keeps a token, the [`streaming`]
//! endpoint redeems it, and the [`session`] forwards connections. Nothing calls
//! an earlier stage.
//!
//! Everything that enters a network namespace or talks to the container runtime
//! stands behind the [`binder::Binder`] trait: [`sandbox`], [`netns`],
//! [`listener`] and [`watch`].

pub mod app;
pub mod audit;
pub mod binder;
pub mod cache;
pub mod cluster;
pub mod config;
pub mod drain;
pub mod endpoint;
#[doc(hidden)]
pub mod fuzzing;
pub mod limits;
pub mod listener;
pub mod metrics;
pub mod netns;
pub mod observe;
pub mod privileges;
pub mod registry;
pub mod sandbox;
pub mod sentence;
pub mod service;
pub mod session;
pub mod streaming;
pub mod switch;
pub mod takeover;
pub mod telemetry;
pub mod tls;
pub mod watch;
