//! The central value: the kept rows of every captured site, with what each row is.
//!
//! An [`ActivationBatch`] is immutable and shared by `Arc` between the store and the trainers. Rows are aligned across
//! sites: row `i` is the same token everywhere, so a row that one site rejects (outlier, NaN) is dropped for all.

pub mod batch;
pub mod capture;
pub mod keep;

pub use batch::{ActivationBatch, SiteRows};
pub use capture::{CaptureTap, capture};
pub use keep::KeepRule;
