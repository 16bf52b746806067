//! Many pipelines in one process, for weeks: each on threads of its own, started again after faults that pass, paused and
//! resumed, and replaced when its file changes, without touching the others.
//!
//! [`Daemon`] is the list of pipelines and does what an operator asks ([`crate::admin::Control`]); `member` is one pipeline and its
//! states; [`memory`] keeps what was asked over restarts; [`notify`] talks to systemd. What a pipeline has done is not
//! kept here: commits and checkpoints say it.

mod cell;
mod member;
pub mod memory;
pub mod notify;
mod room;
mod roster;
mod settle;

pub use member::RestartPolicy;
pub use roster::{Daemon, Loader};
