//! Evaluations for people and programs: what is reported ([`result`]), and that as one HTML page ([`page`]).
//!
//! The page is self-contained: styles and plots (SVG, [`chart`]) are in it, there is no script, and its content security
//! policy forbids every request. It follows the reader's light or dark setting. It is a function of the result alone.

pub mod chart;
pub mod html;
pub mod page;
pub mod result;

pub use page::page;
pub use result::{CoderReport, HeldOut, PairReport, Report};

#[cfg(test)]
mod tests;
