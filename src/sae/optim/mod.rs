//! How parameters are updated: the gradient's norm is bounded, the rate follows a schedule, Adam applies it.

pub mod adam;
pub mod clip;
pub mod schedule;

pub use adam::Adam;
pub use schedule::Schedule;
