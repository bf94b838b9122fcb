//! What the stories stand on: machines, a control plane, nodes, and the programs
//! that people use.

pub(crate) mod cluster;
pub(crate) mod control;
pub(crate) mod crowd;
pub(crate) mod doctor;
pub(crate) mod forward;
pub(crate) mod impostor;
pub(crate) mod inside;
pub(crate) mod install;
pub(crate) mod kubectl;
pub(crate) mod late;
pub(crate) mod machine;
pub(crate) mod network;
pub(crate) mod pki;
pub(crate) mod pods;
pub(crate) mod runner;
pub(crate) mod shop;
pub(crate) mod stolen;
pub(crate) mod tls;
pub(crate) mod token;
pub(crate) mod worker;
