//! The online loop around [`crate::sae`]: mixing buffer, step, checkpoint, evaluation. A plain state machine without I/O.
pub mod config;
