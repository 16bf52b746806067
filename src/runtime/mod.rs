//! The floor that every other folder stands on: seeds, queues, shutdown, named threads.
//!
//! It knows nothing of models, corpora or files. Time is read, and threads are started, only here.
//! Everything is passed to those who need it; there are no global accessors.

pub mod rng;
