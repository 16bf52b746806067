//! Evaluations for people and programs: what is reported ([`result`]), and that as one HTML page ([`page`]); and what latents
//! stand for, as pages that are turned over ([`features`]).
//!
//! Pages are self-contained: styles and plots (SVG, [`chart`]) are in them, a script is only where something is searched, and
//! their content security policy forbids every request. They follow the reader's light or dark setting, and are functions of
//! what was found alone.

pub mod chart;
pub mod features;
pub mod html;
pub mod page;
pub mod result;

pub use page::page;
pub use result::{CoderReport, HeldOut, PairReport, Report};

#[cfg(test)]
mod tests;
