//! GPUs, proved without one: what is said of drivers that are missing or broken, what the compiler makes of the kernels, and their
//! own source run in an emulator against the f64 reference. In a process of its own: a broken kernel ends it.

#[cfg(all(target_arch = "x86_64", target_os = "linux"))]
#[path = "cuda/coder.rs"]
mod coder;
#[path = "cuda/compile.rs"]
mod compile;
#[path = "cuda/driver.rs"]
mod driver;
#[cfg(all(target_arch = "x86_64", target_os = "linux"))]
#[path = "cuda/harness.rs"]
mod harness;
#[cfg(all(target_arch = "x86_64", target_os = "linux"))]
#[path = "cuda/model.rs"]
mod model;
mod support;
