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
#[allow(dead_code, reason = "some of the servers are those of other tests")]
#[path = "../stores/servers.rs"]
mod servers;
mod soak;
mod tools;
mod traces;
