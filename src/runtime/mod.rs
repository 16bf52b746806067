//! The floor that every other folder stands on: seeds, clocks, queues, budgets, shutdown, named threads.
//!
//! It knows nothing of models, corpora or files. Time is read, and threads are started, only here.
//! Everything is passed to those who need it; there are no global accessors.
//!
//! Whatever waits here ([`channel`], [`budget`], [`shutdown`], [`supervisor`]) is built on one primitive, [`monitor`],
//! which threads block on and async tasks await.

pub mod budget;
pub mod channel;
pub mod clock;
pub(crate) mod monitor;
pub mod readiness;
pub mod retry;
pub mod rng;
pub mod shutdown;
pub mod supervisor;
pub mod tls;
pub mod worker;
