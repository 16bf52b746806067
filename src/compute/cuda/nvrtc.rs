//! NVRTC: CUDA C++ to the machine code of one architecture, at run time, without a toolkit and without a GPU.

use std::ffi::{CStr, CString, c_char, c_int, c_void};
use std::path::{Path, PathBuf};

use libloading::Library;

use super::Libraries;
use crate::error::{Error, ErrorKind, Result};

/// Options of every compilation. `-v` makes the assembler say what each kernel uses: [`Resources`].
pub const OPTIONS: [&str; 3] = ["--std=c++17", "-default-device", "--ptxas-options=-v"];

/// A compiler.
#[derive(Debug)]
pub struct Nvrtc {
    library: &'static Library,
    path: PathBuf,
    version: (i32, i32),
}

/// Machine code and what it needs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Compiled {
    /// An ELF file for the driver.
    pub cubin: Vec<u8>,
    /// What each kernel uses, in the order the assembler met them.
    pub resources: Vec<Resources>,
}

/// What one kernel uses.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Resources {
    /// Its name.
    pub kernel: String,
    /// Registers a thread.
    pub registers: u32,
    /// Bytes a thread that did not fit into registers: written and read.
    pub spilled: u32,
    /// Bytes of local memory a thread, arrays indexed at run time among them.
    pub stack: u32,
    /// Bytes of shared memory a block that are fixed in the source.
    pub shared: u32,
}

type Program = *mut c_void;
type Version = unsafe extern "C" fn(*mut c_int, *mut c_int) -> c_int;
type Create = unsafe extern "C" fn(
    *mut Program,
    *const c_char,
    *const c_char,
    c_int,
    *const *const c_char,
    *const *const c_char,
) -> c_int;
type Compile = unsafe extern "C" fn(Program, c_int, *const *const c_char) -> c_int;
type GetSize = unsafe extern "C" fn(Program, *mut usize) -> c_int;
type GetBytes = unsafe extern "C" fn(Program, *mut c_char) -> c_int;
type Destroy = unsafe extern "C" fn(*mut Program) -> c_int;
type ErrorString = unsafe extern "C" fn(c_int) -> *const c_char;

/// More than a log or a kernel can have: a size above it is a fault of the library.
const LARGEST: usize = 1 << 28;

#[allow(unsafe_code)]
impl Nvrtc {
    /// Open the newest NVRTC that is found.
    pub fn open(libraries: &Libraries) -> Result<Self> {
        // version 13 looks for its built-in functions by name alone, so they must be open already
        for builtins in libraries.find("nvrtc-builtins") {
            open_for_good(&builtins);
        }
        let (library, path) = libraries.open("nvrtc").map_err(|reason| {
            let hint = "install the CUDA toolkit, or `pip install nvidia-cuda-nvrtc` in the active Python environment";
            Error::new(ErrorKind::Device, format!("libnvrtc cannot be loaded ({reason}): {hint}"))
        })?;
        let mut nvrtc = Self { library, path, version: (0, 0) };
        // SAFETY: the type is that of `nvrtcVersion`, which writes two ints.
        let code = unsafe { nvrtc.symbol::<Version>("nvrtcVersion")?(&mut nvrtc.version.0, &mut nvrtc.version.1) };
        nvrtc.check("nvrtcVersion", code)?;
        Ok(nvrtc)
    }

    /// Major and minor version.
    pub fn version(&self) -> (i32, i32) {
        self.version
    }

    /// The library's file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Compile `source` for `architecture` (`sm_80`, `sm_90a`). `name` stands in messages.
    ///
    /// # Errors
    /// With the compiler's messages where the source is wrong for the architecture.
    pub fn compile(&self, name: &str, source: &str, architecture: &str) -> Result<Compiled> {
        let text =
            |text: &str| CString::new(text).map_err(|_| Error::internal(format!("kernel `{name}` holds a null byte")));
        let (c_source, c_name) = (text(source)?, text(name)?);
        let mut options = vec![text(&format!("--gpu-architecture={architecture}"))?];
        for option in OPTIONS {
            options.push(text(option)?);
        }
        let pointers: Vec<_> = options.iter().map(|option| option.as_ptr()).collect();
        let mut raw = std::ptr::null_mut();
        let (no_headers, destroy) = (std::ptr::null(), self.symbol_of_destroy()?);
        // SAFETY: the types are those of the two calls; all texts outlive them, and no headers are given.
        let compiled = unsafe {
            let create: Create = self.symbol("nvrtcCreateProgram")?;
            self.check(
                "nvrtcCreateProgram",
                create(&mut raw, c_source.as_ptr(), c_name.as_ptr(), 0, no_headers, no_headers),
            )?;
            let program = Owned { program: raw, destroy };
            let compile: Compile = self.symbol("nvrtcCompileProgram")?;
            let code = compile(program.program, pointers.len() as c_int, pointers.as_ptr());
            (program, code)
        };
        let (program, code) = compiled;
        let log = self.bytes(&program, "nvrtcGetProgramLogSize", "nvrtcGetProgramLog")?;
        let log = String::from_utf8_lossy(&log).trim_end_matches('\0').trim().to_owned();
        if code != 0 {
            let reason = self.text_of(code);
            return Err(Error::new(
                ErrorKind::Device,
                format!("kernel `{name}` cannot be compiled for {architecture} ({reason}): {log}"),
            ));
        }
        let cubin = self.bytes(&program, "nvrtcGetCUBINSize", "nvrtcGetCUBIN")?;
        Ok(Compiled { cubin, resources: resources(&log) })
    }

    /// # Safety
    /// `F` must be the function's type.
    unsafe fn symbol<F: Copy>(&self, name: &'static str) -> Result<F> {
        // SAFETY: the caller vouches for the type; the library is never closed.
        let found = unsafe { self.library.get::<F>(name) };
        found.map(|f| *f).map_err(|_| {
            Error::new(
                ErrorKind::Device,
                format!("`{}` has no `{name}`: it is too old, install CUDA 12.4 or newer", self.path.display()),
            )
        })
    }

    fn symbol_of_destroy(&self) -> Result<Destroy> {
        // SAFETY: the type is that of the call.
        unsafe { self.symbol("nvrtcDestroyProgram") }
    }

    fn check(&self, call: &str, code: c_int) -> Result<()> {
        if code == 0 {
            return Ok(());
        }
        Err(Error::new(ErrorKind::Device, format!("NVRTC failed: {call} says {code} ({})", self.text_of(code))))
    }

    fn text_of(&self, code: c_int) -> String {
        // SAFETY: the type is that of the call, which returns a text that is never freed.
        unsafe {
            match self.symbol::<ErrorString>("nvrtcGetErrorString").map(|get| get(code)) {
                Ok(text) if !text.is_null() => CStr::from_ptr(text).to_string_lossy().into_owned(),
                _ => format!("status {code}"),
            }
        }
    }

    /// What a pair of calls says: first its size, then its bytes.
    fn bytes(&self, program: &Owned, size_call: &'static str, call: &'static str) -> Result<Vec<u8>> {
        let mut size = 0usize;
        // SAFETY: the types are those of the calls; the second writes as many bytes as the first says.
        unsafe {
            self.check(size_call, self.symbol::<GetSize>(size_call)?(program.program, &mut size))?;
            if size > LARGEST {
                return Err(Error::new(ErrorKind::Device, format!("NVRTC failed: {size_call} says {size} bytes")));
            }
            let mut bytes = vec![0u8; size];
            self.check(call, self.symbol::<GetBytes>(call)?(program.program, bytes.as_mut_ptr().cast()))?;
            Ok(bytes)
        }
    }
}

/// A program that is destroyed with this.
struct Owned {
    program: Program,
    destroy: Destroy,
}

#[allow(unsafe_code)]
impl Drop for Owned {
    fn drop(&mut self) {
        // SAFETY: the program was made by the same library and is destroyed once. A failure leaves nothing to do.
        unsafe { (self.destroy)(&mut self.program) };
    }
}

/// Open a library for the whole process, for those that look for it by its name. One that cannot be opened is missed later, with
/// a better message.
#[allow(unsafe_code)]
fn open_for_good(path: &Path) {
    use libloading::os::unix::{Library, RTLD_GLOBAL, RTLD_NOW};
    // SAFETY: loading runs the initialisers of an NVIDIA library, which have no preconditions.
    if let Ok(library) = unsafe { Library::open(Some(path), RTLD_NOW | RTLD_GLOBAL) } {
        std::mem::forget(library);
    }
}

/// What the assembler said of each kernel.
fn resources(log: &str) -> Vec<Resources> {
    let mut found: Vec<Resources> = Vec::new();
    for line in log.lines() {
        if let Some(rest) = line.split("Compiling entry function '").nth(1) {
            let kernel = rest.split('\'').next().unwrap_or_default().to_owned();
            found.push(Resources { kernel, registers: 0, spilled: 0, stack: 0, shared: 0 });
        }
        let Some(last) = found.last_mut() else { continue };
        let before = |words: &str| {
            let number = line.split(words).next().filter(|start| start.len() < line.len())?;
            number.split([' ', ',']).rfind(|word| !word.is_empty())?.parse::<u32>().ok()
        };
        last.registers = last.registers.max(before(" registers").unwrap_or(0));
        last.stack = last.stack.max(before(" bytes stack frame").unwrap_or(0));
        last.spilled += before(" bytes spill stores").unwrap_or(0) + before(" bytes spill loads").unwrap_or(0);
        last.shared = last.shared.max(before(" bytes smem").unwrap_or(0));
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_assembler_says_is_read() {
        let log = "ptxas info    : 0 bytes gmem\n\
            ptxas info    : Compiling entry function 'a' for 'sm_90a'\n\
            ptxas info    : Function properties for a\n    \
                8 bytes stack frame, 16 bytes spill stores, 20 bytes spill loads\n\
            ptxas info    : Used 124 registers, used 1 barriers, 27648 bytes smem, 400 bytes cmem[0]\n\
            ptxas info    : Compiling entry function 'b' for 'sm_90a'\n\
            ptxas info    : Used 12 registers, 360 bytes cmem[0]\n";
        let expected = [
            Resources { kernel: "a".into(), registers: 124, spilled: 36, stack: 8, shared: 27648 },
            Resources { kernel: "b".into(), registers: 12, spilled: 0, stack: 0, shared: 0 },
        ];
        assert_eq!(resources(log), expected);
    }

    #[test]
    fn a_folder_without_the_library_says_how_to_get_it() {
        let root = tempfile::tempdir().unwrap();
        std::fs::write(root.path().join("libnvrtc.so.12"), "not a library").unwrap();
        let libraries = Libraries::new(vec![root.path().to_owned()], None, None);
        // where a toolkit is installed the loader finds that one
        if let Err(e) = Nvrtc::open(&libraries) {
            assert!(e.to_string().contains("pip install nvidia-cuda-nvrtc"), "{e}");
        }
    }
}
