//! What an operator sees: metrics and logs.
//!
//! Names, help and labels of all metrics are in [`metrics`] and nowhere else; components hold handles made once and
//! passed to them. There is no global recorder: every pipeline has its own numbers, so that several of them, and tests,
//! live in one process. [`registry`] holds the kinds of numbers and writes the exposition format; [`logging`] sets up the
//! log. This folder imports nothing but the floor.

pub mod events;
pub mod logging;
pub mod metrics;
pub mod registry;
pub mod traces;
