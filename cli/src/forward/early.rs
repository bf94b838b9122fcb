//! The end of a forward before it was up.

use super::interrupts::{Interrupt, output_closed};
use crate::fault::Fault;

/// Why a forward did not come up.
pub(super) enum Early {
    /// We were asked to stop.
    Stopped,
    /// It failed.
    Fault(Fault),
}

impl From<Fault> for Early {
    fn from(fault: Fault) -> Self {
        Self::Fault(fault)
    }
}

impl From<Interrupt> for Early {
    fn from(interrupt: Interrupt) -> Self {
        match interrupt {
            Interrupt::OutputClosed => Self::Fault(output_closed()),
            // No command runs yet.
            Interrupt::Stop | Interrupt::Command(_) => Self::Stopped,
        }
    }
}
