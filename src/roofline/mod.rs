//! The floor: what this machine can do at most, and what a pipeline asks of it.
//!
//! [`machine`] measures peaks (arithmetic by each instruction set, memory, disk); [`work`] counts operations and bytes of each
//! stage; a stage's ideal rate is the one at which the scarcer of the two is used up. What a run reaches of it says how much
//! is left to gain.

pub mod machine;
pub mod work;

pub use machine::Machine;
pub use work::{ForwardWork, Stage};
