//! GPUs, proved without one: what is said of drivers that are missing or broken, what the compiler makes of the kernels, and their
//! own source run in an emulator against the f64 reference. In a process of its own: a broken kernel ends it.

#[cfg(all(target_arch = "x86_64", target_os = "linux"))]
#[path = "cuda/coder.rs"]
mod coder;
#[path = "cuda/compile.rs"]
mod compile;
#[cfg(all(target_arch = "x86_64", target_os = "linux"))]
#[path = "cuda/device.rs"]
mod device;
#[path = "cuda/driver.rs"]
mod driver;
#[cfg(all(target_arch = "x86_64", target_os = "linux"))]
#[allow(dead_code)] // what only the tests of the CPU use
#[path = "golden/fixture.rs"]
mod fixture;
#[cfg(all(target_arch = "x86_64", target_os = "linux"))]
#[path = "cuda/forward.rs"]
mod forward;
#[cfg(all(target_arch = "x86_64", target_os = "linux"))]
#[path = "cuda/harness.rs"]
mod harness;
#[cfg(all(target_arch = "x86_64", target_os = "linux"))]
#[path = "cuda/model.rs"]
mod model;
#[cfg(all(target_arch = "x86_64", target_os = "linux"))]
#[path = "cuda/parity.rs"]
mod parity;
#[cfg(all(target_arch = "x86_64", target_os = "linux"))]
#[path = "cuda/run.rs"]
mod run;
mod support;
#[cfg(all(target_arch = "x86_64", target_os = "linux"))]
#[path = "cuda/training.rs"]
mod training;
