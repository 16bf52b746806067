//! `harvestd serve` as an operator meets it: a real process, signals, HTTP, and the tools that watch it.

#[path = "../support/mod.rs"]
mod support;

mod control;
mod dashboard;
mod deploy;
mod follow;
mod lifecycle;
mod package;
mod process;
mod tools;
