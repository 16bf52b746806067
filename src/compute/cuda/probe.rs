//! What the driver says: its version and its devices, or why there are none.
//!
//! The driver is asked through symbols that are looked up here, with status codes as plain numbers: `cudarc` panics where
//! the library or a symbol is missing, and its enumeration of codes does not know those of newer drivers.

use std::ffi::{CStr, c_char, c_int, c_uint};

use libloading::Library;

use super::libraries::why;
use super::{LEAST_CAPABILITY, LEAST_DRIVER};

/// Why no GPU can be used. The text says what to do.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unavailable {
    /// There is no driver library.
    #[error("there is no NVIDIA driver here ({reason}): install it, or give the container its GPU")]
    NoDriver {
        /// What the loader said.
        reason: String,
    },
    /// The driver library lacks a symbol.
    #[error(
        "the NVIDIA driver lacks `{symbol}`: it is older than CUDA 12.4 needs (550), or damaged: install a newer one"
    )]
    Incomplete {
        /// The symbol.
        symbol: &'static str,
    },
    /// A call of the driver failed.
    #[error("the NVIDIA driver failed: {call} says {code} ({text})")]
    Driver {
        /// The call.
        call: &'static str,
        /// Its status.
        code: i32,
        /// The status in words.
        text: String,
    },
    /// The driver is too old.
    #[error("the NVIDIA driver is for CUDA {}, and {} or newer is needed: install driver 550 or newer", version(*.have), version(LEAST_DRIVER))]
    TooOld {
        /// The CUDA version it supports, as `1000 major + 10 minor`.
        have: i32,
    },
    /// The driver works and sees no device.
    #[error("the NVIDIA driver sees no device: give the container or the job a GPU, and look at CUDA_VISIBLE_DEVICES")]
    NoDevice,
}

/// A driver and its devices.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Probe {
    /// CUDA version that the driver supports, as `1000 major + 10 minor`.
    pub driver: i32,
    /// Devices in the driver's order; at least one.
    pub gpus: Vec<Gpu>,
}

/// One device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Gpu {
    /// `N` of `cuda:N`.
    pub ordinal: usize,
    /// As the driver calls it.
    pub name: String,
    /// Compute capability, major and minor.
    pub capability: (i32, i32),
    /// Bytes of memory.
    pub memory: u64,
    /// Streaming multiprocessors.
    pub multiprocessors: i32,
}

impl Gpu {
    /// Its architecture as compilers name it: `sm_90`.
    pub fn architecture(&self) -> String {
        format!("sm_{}{}", self.capability.0, self.capability.1)
    }

    /// What kernels are compiled for to run on it: on Hopper with the instructions that only it has.
    pub fn target(&self) -> String {
        let own = if self.capability == (9, 0) { "a" } else { "" };
        format!("{}{own}", self.architecture())
    }

    /// Why the kernels cannot run on it, if so.
    pub fn why_not(&self) -> Option<String> {
        let (major, minor) = LEAST_CAPABILITY;
        (self.capability < LEAST_CAPABILITY)
            .then(|| format!("compute capability {}.{} is below {major}.{minor}", self.capability.0, self.capability.1))
    }
}

/// `12.4` of `12040`.
pub fn version(number: i32) -> String {
    format!("{}.{}", number / 1000, number % 1000 / 10)
}

/// Ask the driver. Creates no context and allocates nothing on a device.
pub fn probe() -> Result<Probe, Unavailable> {
    let driver = Driver::load()?;
    driver.init()?;
    let found = driver.version()?;
    if found < LEAST_DRIVER {
        return Err(Unavailable::TooOld { have: found });
    }
    let gpus = (0..driver.count()?).map(|ordinal| driver.gpu(ordinal)).collect::<Result<Vec<_>, _>>()?;
    if gpus.is_empty() {
        return Err(Unavailable::NoDevice);
    }
    Ok(Probe { driver: found, gpus })
}

/// Names under which drivers are installed.
const NAMES: [&str; 2] = ["libcuda.so.1", "libcuda.so"];
/// Status of a call that worked.
const SUCCESS: c_int = 0;
/// Status of `cuInit` where there is a driver and no device.
const ERROR_NO_DEVICE: c_int = 100;
/// Attributes of devices.
const MULTIPROCESSORS: c_int = 16;
const CAPABILITY_MAJOR: c_int = 75;
const CAPABILITY_MINOR: c_int = 76;

type Init = unsafe extern "C" fn(c_uint) -> c_int;
type GetInt = unsafe extern "C" fn(*mut c_int) -> c_int;
type GetDevice = unsafe extern "C" fn(*mut c_int, c_int) -> c_int;
type GetName = unsafe extern "C" fn(*mut c_char, c_int, c_int) -> c_int;
type GetMemory = unsafe extern "C" fn(*mut usize, c_int) -> c_int;
type GetAttribute = unsafe extern "C" fn(*mut c_int, c_int, c_int) -> c_int;
type GetErrorText = unsafe extern "C" fn(c_int, *mut *const c_char) -> c_int;

/// The driver library.
#[derive(Debug)]
struct Driver {
    library: Library,
}

#[allow(unsafe_code)]
impl Driver {
    fn load() -> Result<Self, Unavailable> {
        let mut reason = String::new();
        for name in NAMES {
            // SAFETY: loading runs the initialisers of the installed driver, which have no preconditions.
            match unsafe { Library::new(name) } {
                Ok(library) => return Ok(Self { library }),
                // the first name is the one that drivers install
                Err(e) if reason.is_empty() => reason = why(&e),
                Err(_) => {}
            }
        }
        Err(Unavailable::NoDriver { reason })
    }

    /// A function of the driver.
    ///
    /// # Safety
    /// `F` must be the function's type.
    unsafe fn symbol<F: Copy>(&self, name: &'static str) -> Result<F, Unavailable> {
        // SAFETY: the caller vouches for the type; the pointer is used while `self` keeps the library open.
        unsafe { self.library.get::<F>(name) }.map(|f| *f).map_err(|_| Unavailable::Incomplete { symbol: name })
    }

    /// `Ok` if the status is 0.
    fn check(&self, call: &'static str, code: c_int) -> Result<(), Unavailable> {
        if code == SUCCESS {
            return Ok(());
        }
        Err(Unavailable::Driver { call, code, text: self.text_of(code) })
    }

    /// The driver's words for a status.
    fn text_of(&self, code: c_int) -> String {
        // SAFETY: the type is that of `cuGetErrorString`, which fills the pointer with a text that lives as long as the
        // library, or with null.
        unsafe {
            let mut text = std::ptr::null();
            match self.symbol::<GetErrorText>("cuGetErrorString") {
                Ok(get) if get(code, &mut text) == SUCCESS && !text.is_null() => {
                    CStr::from_ptr(text).to_string_lossy().into_owned()
                }
                _ => "a status this driver has no words for".to_owned(),
            }
        }
    }

    fn init(&self) -> Result<(), Unavailable> {
        // SAFETY: the type is that of `cuInit`, whose argument must be 0.
        let code = unsafe { self.symbol::<Init>("cuInit")?(0) };
        if code == ERROR_NO_DEVICE { Err(Unavailable::NoDevice) } else { self.check("cuInit", code) }
    }

    fn version(&self) -> Result<i32, Unavailable> {
        self.number("cuDriverGetVersion")
    }

    fn count(&self) -> Result<c_int, Unavailable> {
        self.number("cuDeviceGetCount")
    }

    fn number(&self, call: &'static str) -> Result<c_int, Unavailable> {
        let mut number = 0;
        // SAFETY: both calls that are asked by this take a pointer to one int.
        let code = unsafe { self.symbol::<GetInt>(call)?(&mut number) };
        self.check(call, code).map(|()| number)
    }

    fn gpu(&self, ordinal: c_int) -> Result<Gpu, Unavailable> {
        let (mut device, mut memory, mut name) = (0, 0usize, [0 as c_char; 128]);
        // SAFETY: the types are those of the three calls; each writes the one value it is given, the name at most as many
        // bytes as are said, with its end.
        unsafe {
            self.check("cuDeviceGet", self.symbol::<GetDevice>("cuDeviceGet")?(&mut device, ordinal))?;
            let get_name: GetName = self.symbol("cuDeviceGetName")?;
            self.check("cuDeviceGetName", get_name(name.as_mut_ptr(), name.len() as c_int - 1, device))?;
            let get_memory: GetMemory = self.symbol("cuDeviceTotalMem_v2")?;
            self.check("cuDeviceTotalMem", get_memory(&mut memory, device))?;
        }
        let bytes = name.iter().take_while(|&&c| c != 0).map(|&c| c as u8).collect::<Vec<_>>();
        Ok(Gpu {
            ordinal: ordinal as usize,
            name: String::from_utf8_lossy(&bytes).into_owned(),
            capability: (self.attribute(CAPABILITY_MAJOR, device)?, self.attribute(CAPABILITY_MINOR, device)?),
            memory: memory as u64,
            multiprocessors: self.attribute(MULTIPROCESSORS, device)?,
        })
    }

    fn attribute(&self, attribute: c_int, device: c_int) -> Result<c_int, Unavailable> {
        let mut value = 0;
        // SAFETY: the type is that of the call, which writes one int.
        let code = unsafe { self.symbol::<GetAttribute>("cuDeviceGetAttribute")?(&mut value, attribute, device) };
        self.check("cuDeviceGetAttribute", code).map(|()| value)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reasons_say_what_to_do() {
        assert!(Unavailable::TooOld { have: 12020 }.to_string().contains("CUDA 12.2, and 12.4 or newer"));
        let failed = Unavailable::Driver { call: "cuInit", code: 999, text: "unknown error".into() };
        assert_eq!(failed.to_string(), "the NVIDIA driver failed: cuInit says 999 (unknown error)");
    }

    #[test]
    fn old_cards_are_refused() {
        let gpu = |capability| Gpu { ordinal: 0, name: "x".into(), capability, memory: 1, multiprocessors: 1 };
        assert_eq!(gpu((9, 0)).why_not(), None);
        assert_eq!(gpu((9, 0)).architecture(), "sm_90");
        assert_eq!(gpu((7, 5)).why_not().as_deref(), Some("compute capability 7.5 is below 8.0"));
    }
}
