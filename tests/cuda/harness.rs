//! Runs kernels in the emulator: their source compiled by the machine's C++ compiler, over memory that ends at a page which must
//! not be touched and begins as numbers that are none.

use std::ffi::{CString, c_char, c_void};
use std::hash::{Hash, Hasher};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

use harvestd::compute::cuda::kernels::{In, Launch, Out, PRELUDE, SOURCES};
use libloading::Library;
use libloading::os::unix::{Library as Unix, RTLD_GLOBAL, RTLD_NOW};

/// Orders in which threads and blocks run.
pub const SEEDS: u64 = 3;

/// The emulator with every kernel; `None`, loudly, where there is no compiler and that is allowed.
pub fn emulator() -> Option<&'static Emulator> {
    static EMULATOR: OnceLock<Option<Emulator>> = OnceLock::new();
    EMULATOR.get_or_init(Emulator::build).as_ref()
}

/// The compiled kernels.
pub struct Emulator {
    library: Library,
}

/// The folder with the emulator under the names of a driver, NVRTC and cuBLASLt; `None`, loudly, where there is no compiler and that
/// is allowed. Compiled once for each state of the sources.
pub fn built() -> Option<&'static Path> {
    static FOLDER: OnceLock<Option<PathBuf>> = OnceLock::new();
    FOLDER.get_or_init(build).as_deref()
}

fn build() -> Option<PathBuf> {
    let compiler = std::env::var("CXX").unwrap_or_else(|_| "c++".to_owned());
    if Command::new(&compiler).arg("--version").output().is_err() {
        assert!(std::env::var_os("CI").is_none(), "in CI there must be a C++ compiler, for the emulator of kernels");
        eprintln!("SKIPPED: there is no C++ compiler `{compiler}`; kernels were not run");
        return None;
    }
    let here = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/cuda/emulator");
    let own = |name: &str| std::fs::read_to_string(here.join(name)).unwrap();
    let header = own("emulator.h");
    let mut unit = format!("{}#include \"prelude.cuh\"\n{}", own("emulator.cpp"), own("driver.cpp"));
    for source in SOURCES {
        unit += &format!("#line 1 \"{}.cu\"\n{}", source.name, source.text);
    }
    let mut hasher = std::hash::DefaultHasher::new();
    (&compiler, FLAGS, &header, PRELUDE, &unit).hash(&mut hasher);
    let root = Path::new(env!("CARGO_TARGET_TMPDIR"));
    let folder = root.join(format!("emulator-{:016x}", hasher.finish()));
    if folder.exists() {
        return Some(folder);
    }
    // made aside: other tests may be at it too
    let aside = tempfile::tempdir_in(root).unwrap();
    std::fs::write(aside.path().join("prelude.cuh"), PRELUDE).unwrap();
    std::fs::write(aside.path().join("emulator.h"), header).unwrap();
    let (text, library) = (aside.path().join("kernels.cpp"), aside.path().join("libcuda.so.1"));
    std::fs::write(&text, unit).unwrap();
    let output = Command::new(&compiler).args(FLAGS).arg("-o").args([&library, &text]).output().unwrap();
    assert!(output.status.success(), "the emulator does not compile:\n{}", String::from_utf8_lossy(&output.stderr));
    for name in ["libnvrtc.so.12", "libcublasLt.so.12"] {
        std::os::unix::fs::symlink("libcuda.so.1", aside.path().join(name)).unwrap();
    }
    if std::fs::rename(aside.path(), &folder).is_ok() {
        let _ = aside.keep();
    }
    Some(folder)
}

/// `libcuda.so.1` is the name by which it is found once it is open.
const FLAGS: [&str; 10] = [
    "-std=c++17",
    "-O2",
    "-g1",
    "-shared",
    "-fPIC",
    "-Wall",
    "-Werror",
    "-Wno-unknown-pragmas",
    "-Wno-unused-function",
    "-Wl,-soname,libcuda.so.1",
];

type Describe = unsafe extern "C" fn(*const c_char, *mut u64, *mut u64, *mut u32) -> i32;
type Run = unsafe extern "C" fn(*const c_char, u32, u32, u32, *const c_void, u64) -> i32;
type Number = unsafe extern "C" fn() -> u64;

impl Emulator {
    fn build() -> Option<Self> {
        let library = built()?.join("libcuda.so.1");
        // SAFETY: the initialisers of our own library register kernels.
        let library = unsafe { Unix::open(Some(library), RTLD_NOW | RTLD_GLOBAL) }.unwrap();
        Some(Self { library: library.into() })
    }

    /// One of its functions, of a type that the caller vouches for.
    pub unsafe fn symbol<F: Copy>(&self, name: &str) -> F {
        // SAFETY: the caller vouches for the type; the library is never closed.
        *unsafe { self.library.get::<F>(name) }.unwrap()
    }

    /// Kernels it has.
    pub fn count(&self) -> usize {
        // SAFETY: the type is that of the function.
        unsafe { self.library.get::<Number>("emulator_count").unwrap()() as usize }
    }

    /// Bytes and alignment of a kernel's argument, and threads of its blocks, by the C++ compiler.
    pub fn describe(&self, name: &str) -> (usize, usize, u32) {
        let (name, mut size, mut align, mut threads) = (CString::new(name).unwrap(), 0, 0, 0);
        // SAFETY: the type is that of the function, which writes three numbers.
        let rc = unsafe {
            self.library.get::<Describe>("emulator_describe").unwrap()(
                name.as_ptr(),
                &mut size,
                &mut align,
                &mut threads,
            )
        };
        assert_eq!(rc, 0, "no kernel {name:?}");
        (size as usize, align as usize, threads)
    }

    /// Run a launch; `seed` chooses the order in which its blocks and threads go on.
    pub fn run(&self, launch: &Launch<'_>, seed: u64) {
        let entry = launch.entry();
        let (size, _, threads) = self.describe(entry.name);
        assert_eq!((launch.bytes(), entry.threads), (size, threads), "`{}` in Rust and in C++", entry.name);
        let name = CString::new(entry.name).unwrap();
        let [x, y] = launch.grid();
        // SAFETY: the type is that of the function. The argument has the kernel's layout, and its addresses are those of
        // buffers that the test keeps; a kernel that leaves them ends the process, which is what it is here for.
        let rc = unsafe {
            let run = self.library.get::<Run>("emulator_launch").unwrap();
            run(name.as_ptr(), x, y, launch.shared(), launch.argument(), seed)
        };
        assert_eq!(rc, 0, "no kernel `{}`", entry.name);
    }
}

/// Numbers at the end of a page before one that cannot be touched; what lies before them is watched.
pub struct Buffer<T> {
    pages: *mut u8,
    room: usize,
    len: usize,
    kind: std::marker::PhantomData<T>,
}

const PAGE: usize = 4096;
/// What memory holds that nobody wrote: as bfloat16 and f32 not a number.
const POISON: u8 = 0xff;

impl<T: Copy> Buffer<T> {
    /// `len` numbers that nobody has written.
    pub fn poisoned(len: usize) -> Self {
        // vectors of 16 bytes must be aligned
        let bytes = (len * size_of::<T>()).next_multiple_of(16);
        let room = bytes.next_multiple_of(PAGE).max(PAGE);
        // SAFETY: a new mapping of our own; the last page of it is closed.
        let pages = unsafe {
            let pages = libc::mmap(
                std::ptr::null_mut(),
                room + PAGE,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_PRIVATE | libc::MAP_ANONYMOUS,
                -1,
                0,
            );
            assert_ne!(pages, libc::MAP_FAILED);
            let pages = pages.cast::<u8>();
            assert_eq!(libc::mprotect(pages.add(room).cast(), PAGE, libc::PROT_NONE), 0);
            std::ptr::write_bytes(pages, POISON, room);
            pages
        };
        Self { pages, room, len, kind: std::marker::PhantomData }
    }

    /// These numbers.
    pub fn of(data: &[T]) -> Self {
        let buffer = Self::poisoned(data.len());
        // SAFETY: the buffer is as long as the data and not the same memory.
        unsafe { std::ptr::copy_nonoverlapping(data.as_ptr(), buffer.start(), data.len()) };
        buffer
    }

    fn start(&self) -> *mut T {
        let bytes = (self.len * size_of::<T>()).next_multiple_of(16);
        // SAFETY: within the mapping.
        unsafe { self.pages.add(self.room - bytes).cast() }
    }

    /// What is there now. Nothing may have been written beside it.
    pub fn read(&self) -> Vec<T> {
        let (start, end) = (self.start() as usize - self.pages as usize, self.len * size_of::<T>());
        // SAFETY: the mapping is readable up to its last page.
        let all = unsafe { std::slice::from_raw_parts(self.pages, self.room) };
        let beside = all[..start].iter().chain(&all[start + end..]);
        assert!(beside.copied().all(|byte| byte == POISON), "a kernel wrote beside its buffer");
        // SAFETY: `len` numbers from the start on are within the mapping; any bits are a number of the types used.
        unsafe { std::slice::from_raw_parts(self.start(), self.len) }.to_vec()
    }

    /// For a kernel to read.
    pub fn input(&self) -> In<T> {
        In::at(self.start() as u64)
    }

    /// For a kernel to write.
    pub fn output(&self) -> Out<T> {
        Out::at(self.start() as u64)
    }
}

impl<T> Drop for Buffer<T> {
    fn drop(&mut self) {
        // SAFETY: the mapping is ours and not used any more.
        unsafe { libc::munmap(self.pages.cast(), self.room + PAGE) };
    }
}

/// What `run` returns, which must not depend on the seed it is given.
pub fn every_order<R: PartialEq + std::fmt::Debug>(mut run: impl FnMut(u64) -> R) -> R {
    let first = run(0);
    for seed in 1..SEEDS {
        assert!(run(seed) == first, "seed {seed} gives other bits: something depends on the order of threads");
    }
    first
}

/// Random numbers.
pub struct Random(pub u64);

impl Random {
    pub fn bits(&mut self) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) ^ self.0 >> 50
    }

    pub fn below(&mut self, n: usize) -> usize {
        (self.bits() % n as u64) as usize
    }

    /// About normal, with deviation `scale`.
    pub fn normal(&mut self, scale: f32) -> f32 {
        let sum: f32 = (0..6).map(|_| (self.bits() & 0xffff) as f32 / 65536.0 - 0.5).sum();
        sum * scale * std::f32::consts::SQRT_2
    }

    pub fn floats(&mut self, n: usize, scale: f32) -> Vec<f32> {
        (0..n).map(|_| self.normal(scale)).collect()
    }

    /// Bits of bfloat16 numbers.
    pub fn halves(&mut self, n: usize, scale: f32) -> Vec<u16> {
        (0..n).map(|_| half::bf16::from_f32(self.normal(scale)).to_bits()).collect()
    }
}

/// Bits of bfloat16 as numbers.
pub fn wide(bits: &[u16]) -> Vec<f64> {
    bits.iter().map(|&b| half::bf16::from_bits(b).to_f64()).collect()
}

/// Floats as numbers.
pub fn doubles(x: &[f32]) -> Vec<f64> {
    x.iter().map(|&x| f64::from(x)).collect()
}

/// `got` is as long as `want` and within `tolerance` of it, relative to its norm; numbers that are none are not.
#[track_caller]
pub fn assert_close(got: &[f64], want: &[f64], tolerance: f64, what: &str) {
    assert_eq!(got.len(), want.len(), "{what}");
    let difference: f64 = got.iter().zip(want).map(|(g, w)| (g - w).powi(2)).sum();
    let distance = (difference / want.iter().map(|w| w * w).sum::<f64>().max(1e-30)).sqrt();
    assert!(distance < tolerance, "{what}: {distance:.2e} from the reference, {tolerance:.1e} is allowed");
}
