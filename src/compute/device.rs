//! What hardware is there. This build computes on the CPU, so the question is only asked to say so.

/// Whether an NVIDIA driver library can be loaded. Opens the library and touches no device.
#[allow(unsafe_code)]
pub fn cuda_driver_present() -> bool {
    // SAFETY: the call loads `libcuda` if it is installed, which runs the library's initialisers and nothing else.
    unsafe { cudarc::driver::sys::is_culib_present() }
}
