//! The functions of the driver that a device calls.
//!
//! `cudarc` loads the library; each function is looked up here once, before any is called, and its status is a plain number:
//! where a symbol is missing `cudarc` panics, and its enumeration of statuses does not know those of newer drivers.

use std::ffi::{CStr, c_char, c_int, c_uint, c_void};

use cudarc::driver::sys;

use super::Unavailable;

/// A handle of the driver: a context, stream, event, pool, module or function.
pub(super) type Handle = *mut c_void;

macro_rules! functions {
    ($($field:ident = $name:literal ($($argument:ty),+);)+) => {
        /// The functions, each named by the driver's name without `cu` and version.
        pub(super) struct Api {
            $(pub(super) $field: unsafe extern "C" fn($($argument),+) -> c_int,)+
        }

        #[allow(unsafe_code)]
        impl Api {
            /// Look all of them up.
            ///
            /// # Errors
            /// Without a driver, or for the first symbol that it lacks.
            pub(super) fn load() -> Result<Self, Unavailable> {
                // SAFETY: the call loads the installed driver, whose initialisers have no preconditions.
                if !unsafe { sys::is_culib_present() } {
                    return Err(Unavailable::NoDriver { reason: "libcuda.so.1 cannot be opened".to_owned() });
                }
                // SAFETY: the library is there, and stays open to the end of the process. The types are those of `cuda.h`.
                unsafe {
                    let library = sys::culib();
                    Ok(Self {
                        $($field: *library
                            .get::<unsafe extern "C" fn($($argument),+) -> c_int>($name)
                            .map_err(|_| Unavailable::Incomplete { symbol: $name })?,)+
                    })
                }
            }
        }
    };
}

functions! {
    init = "cuInit"(c_uint);
    device_get = "cuDeviceGet"(*mut c_int, c_int);
    context_retain = "cuDevicePrimaryCtxRetain"(*mut Handle, c_int);
    context_release = "cuDevicePrimaryCtxRelease_v2"(c_int);
    context_set = "cuCtxSetCurrent"(Handle);
    stream_create = "cuStreamCreate"(*mut Handle, c_uint);
    stream_destroy = "cuStreamDestroy_v2"(Handle);
    stream_finish = "cuStreamSynchronize"(Handle);
    event_create = "cuEventCreate"(*mut Handle, c_uint);
    event_destroy = "cuEventDestroy_v2"(Handle);
    event_record = "cuEventRecord"(Handle, Handle);
    event_finish = "cuEventSynchronize"(Handle);
    event_elapsed = "cuEventElapsedTime"(*mut f32, Handle, Handle);
    memory_info = "cuMemGetInfo_v2"(*mut usize, *mut usize);
    pool_default = "cuDeviceGetDefaultMemPool"(*mut Handle, c_int);
    pool_set = "cuMemPoolSetAttribute"(Handle, c_int, *mut c_void);
    pool_trim = "cuMemPoolTrimTo"(Handle, usize);
    allocate = "cuMemAllocAsync"(*mut u64, usize, Handle);
    free = "cuMemFreeAsync"(u64, Handle);
    pin = "cuMemHostAlloc"(*mut *mut c_void, usize, c_uint);
    unpin = "cuMemFreeHost"(*mut c_void);
    copy_in = "cuMemcpyHtoDAsync_v2"(u64, *const c_void, usize, Handle);
    copy_out = "cuMemcpyDtoHAsync_v2"(*mut c_void, u64, usize, Handle);
    copy = "cuMemcpyDtoDAsync_v2"(u64, u64, usize, Handle);
    fill = "cuMemsetD8Async"(u64, u8, usize, Handle);
    module_load = "cuModuleLoadData"(*mut Handle, *const c_void);
    module_unload = "cuModuleUnload"(Handle);
    module_function = "cuModuleGetFunction"(*mut Handle, Handle, *const c_char);
    function_set = "cuFuncSetAttribute"(Handle, c_int, c_int);
    function_argument = "cuFuncGetParamInfo"(Handle, usize, *mut usize, *mut usize);
    launch = "cuLaunchKernel"(
        Handle, c_uint, c_uint, c_uint, c_uint, c_uint, c_uint, c_uint, Handle, *mut *mut c_void, *mut *mut c_void
    );
    error_text = "cuGetErrorString"(c_int, *mut *const c_char);
}

/// `CU_STREAM_NON_BLOCKING`: the stream does not wait for the default one.
pub(super) const STREAM_NON_BLOCKING: c_uint = 1;
/// `CU_EVENT_DISABLE_TIMING`.
pub(super) const EVENT_WITHOUT_TIME: c_uint = 2;
/// `CU_MEMPOOL_ATTR_RELEASE_THRESHOLD`: bytes that the pool keeps when a stream is waited for.
pub(super) const POOL_RELEASE_THRESHOLD: c_int = 4;
/// `CU_MEMHOSTALLOC_PORTABLE`: pinned for every context, and not write-combined, so that it can be read.
pub(super) const PIN_PORTABLE: c_uint = 1;
/// `CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES`.
pub(super) const FUNCTION_DYNAMIC_SHARED: c_int = 8;

#[allow(unsafe_code)]
impl Api {
    /// The driver's words for a status.
    pub(super) fn text_of(&self, code: c_int) -> String {
        let mut text = std::ptr::null();
        // SAFETY: the call writes a pointer to a text that lives as long as the library, or null.
        unsafe {
            if (self.error_text)(code, &mut text) == 0 && !text.is_null() {
                return CStr::from_ptr(text).to_string_lossy().into_owned();
            }
        }
        "a status this driver has no words for".to_owned()
    }
}
