//! The specs, by theme. Each file holds a table of prose and the steps to it.

mod call;
mod control;
mod ends;
mod limits;
mod listen;
mod operator;
mod pod;
mod sandboxes;
mod service;
mod sessions;
mod streams;
mod targets;
mod tokens;
mod tunnel;
mod upgrade;
mod validation;
mod websocket;

use crate::spec::Spec;

/// Every spec, theme by theme.
pub(crate) fn all() -> impl Iterator<Item = &'static Spec> {
    [
        validation::SPECS,
        call::SPECS,
        service::SPECS,
        tokens::SPECS,
        listen::SPECS,
        upgrade::SPECS,
        websocket::SPECS,
        tunnel::SPECS,
        control::SPECS,
        streams::SPECS,
        targets::SPECS,
        sessions::SPECS,
        ends::SPECS,
        sandboxes::SPECS,
        limits::SPECS,
        operator::SPECS,
    ]
    .into_iter()
    .flatten()
}
