//! The maths of sparse coders: no I/O, no async, no clock.
pub mod config;
