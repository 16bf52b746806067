//! A device in the hands of the one thread that owns it: context, stream, memory, kernels.

use std::collections::{HashMap, VecDeque};
use std::ffi::{CString, c_int, c_void};
use std::ptr;

use super::api::{self, Api, Handle};
use super::cache::Cache;
use super::fault::{Fault, OUT_OF_MEMORY};
use super::kernels::{Entry, PlainProduct, SOURCES};
use super::nvrtc::Nvrtc;
use super::product::{CublasLt, Product, WORKSPACE};
use super::{Gpu, Libraries};

/// Bytes of a pinned buffer: copies between host and device pass through two of them.
const STAGE: usize = 4 << 20;
/// Bytes of shared memory that a block may have without asking.
const PLAIN_SHARED: u32 = 48 << 10;

/// What a launch needs, its argument kept.
#[derive(Debug)]
pub(super) struct OwnedLaunch {
    pub(super) entry: Entry,
    pub(super) grid: [u32; 2],
    pub(super) shared: u32,
    /// The argument, aligned to 8 bytes, and its length.
    pub(super) argument: Vec<u64>,
    pub(super) bytes: usize,
}

/// Context, stream, pool, pinned buffers and kernels of one device.
pub(super) struct Context {
    api: Api,
    name: String,
    ordinal: c_int,
    stream: Handle,
    pool: Handle,
    stages: VecDeque<Stage>,
    modules: Vec<Handle>,
    functions: HashMap<&'static str, Function>,
    blas: Option<(CublasLt, u64)>,
    /// The kernel launched last.
    near: &'static str,
}

/// A pinned buffer, and the event after its last copy.
struct Stage {
    bytes: *mut u8,
    copied: Handle,
}

#[derive(Clone, Copy)]
struct Function {
    handle: Handle,
    /// Dynamic shared memory that it may have.
    shared: u32,
    /// Whether its argument is known to be what Rust gives.
    is_checked: bool,
}

#[allow(unsafe_code)]
impl Context {
    /// Open `gpu`: its primary context, and every kernel, compiled or from `cache`.
    pub(super) fn open(gpu: &Gpu, libraries: &Libraries, cache: &Cache) -> Result<Self, Fault> {
        let name = format!("cuda:{}", gpu.ordinal);
        let unusable = |reason: String| Fault::Unusable { device: name.clone(), reason };
        if let Some(reason) = gpu.why_not() {
            return Err(unusable(reason));
        }
        let api = Api::load()?;
        let mut context = Self {
            api,
            name: name.clone(),
            ordinal: 0,
            stream: ptr::null_mut(),
            pool: ptr::null_mut(),
            stages: VecDeque::new(),
            modules: Vec::new(),
            functions: HashMap::new(),
            blas: None,
            near: "none",
        };
        context.start(gpu.ordinal as c_int)?;
        let nvrtc = Nvrtc::open(libraries).map_err(|e| unusable(e.to_string()))?;
        for source in SOURCES {
            let architecture = gpu.target();
            let cubin = cache.cubin(&nvrtc, source.name, &source.code(), &architecture);
            let cubin = cubin.map_err(|e| unusable(e.to_string()))?;
            context.load(&cubin, source.entries)?;
        }
        match CublasLt::open(libraries) {
            Ok(blas) => {
                let workspace = context.allocate(WORKSPACE)?;
                tracing::debug!(path = %blas.path().display(), "cuBLASLt");
                context.blas = Some((blas, workspace));
            }
            Err(reason) => {
                return Err(unusable(format!(
                    "libcublasLt cannot be loaded ({reason}): install the CUDA toolkit, or `pip install nvidia-cublas` in the \
                     active Python environment"
                )));
            }
        }
        context.finish()?;
        Ok(context)
    }

    /// Make the context current on this thread, for good, and make stream, pool and pinned buffers.
    fn start(&mut self, ordinal: c_int) -> Result<(), Fault> {
        let (mut device, mut context, mut stream, mut pool) = (0, ptr::null_mut(), ptr::null_mut(), ptr::null_mut());
        // SAFETY: the types are those of the calls, in the order that the driver wants them; each writes the one value that it is
        // given.
        unsafe {
            self.check("cuInit", (self.api.init)(0))?;
            self.check("cuDeviceGet", (self.api.device_get)(&mut device, ordinal))?;
            self.check("cuDevicePrimaryCtxRetain", (self.api.context_retain)(&mut context, device))?;
            self.ordinal = device;
            self.check("cuCtxSetCurrent", (self.api.context_set)(context))?;
            self.check("cuStreamCreate", (self.api.stream_create)(&mut stream, api::STREAM_NON_BLOCKING))?;
            self.stream = stream;
            self.check("cuDeviceGetDefaultMemPool", (self.api.pool_default)(&mut pool, device))?;
            self.pool = pool;
            // memory that is freed stays with the pool: the driver would give it back at every wait otherwise
            let mut keep = u64::MAX;
            let value = ptr::from_mut(&mut keep).cast();
            self.check("cuMemPoolSetAttribute", (self.api.pool_set)(self.pool, api::POOL_RELEASE_THRESHOLD, value))?;
            for _ in 0..2 {
                let mut stage = Stage { bytes: ptr::null_mut(), copied: ptr::null_mut() };
                let bytes = ptr::from_mut(&mut stage.bytes).cast();
                self.check("cuMemHostAlloc", (self.api.pin)(bytes, STAGE, api::PIN_PORTABLE))?;
                let code = (self.api.event_create)(&mut stage.copied, api::EVENT_WITHOUT_TIME);
                self.check("cuEventCreate", code)?;
                self.stages.push_back(stage);
            }
        }
        Ok(())
    }

    /// Load machine code and find its kernels.
    fn load(&mut self, cubin: &[u8], entries: &'static [Entry]) -> Result<(), Fault> {
        let mut module = ptr::null_mut();
        // SAFETY: the code is a whole ELF file, by the digest that it was kept with; the call copies it.
        let code = unsafe { (self.api.module_load)(&mut module, cubin.as_ptr().cast()) };
        self.check("cuModuleLoadData", code)?;
        self.modules.push(module);
        for entry in entries {
            let mut handle = ptr::null_mut();
            let c_name = CString::new(entry.name).unwrap_or_default();
            // SAFETY: the type is that of the call, and the name outlives it.
            let code = unsafe { (self.api.module_function)(&mut handle, module, c_name.as_ptr()) };
            self.near = entry.name;
            self.check("cuModuleGetFunction", code)?;
            self.functions.insert(entry.name, Function { handle, shared: PLAIN_SHARED, is_checked: false });
        }
        Ok(())
    }

    /// `bytes` of the device's memory, which nobody has written.
    pub(super) fn allocate(&mut self, bytes: usize) -> Result<u64, Fault> {
        let mut address = 0;
        // SAFETY: the type is that of the call, which writes one address.
        let mut code = unsafe { (self.api.allocate)(&mut address, bytes, self.stream) };
        if code == OUT_OF_MEMORY {
            // what was freed in other sizes goes back to the driver, and is asked for once more
            self.finish()?;
            // SAFETY: the types are those of the calls.
            code = unsafe {
                (self.api.pool_trim)(self.pool, 0);
                (self.api.allocate)(&mut address, bytes, self.stream)
            };
        }
        if code == OUT_OF_MEMORY {
            let (device, wanted) = (self.name.clone(), bytes as u64);
            return Err(Fault::OutOfMemory { device, wanted, used: 0, peak: 0, free: self.memory().0 });
        }
        self.check("cuMemAllocAsync", code).map(|()| address)
    }

    pub(super) fn free(&mut self, address: u64) -> Result<(), Fault> {
        // SAFETY: the address was given by [`Self::allocate`] and is freed once; the stream's earlier work is done before.
        let code = unsafe { (self.api.free)(address, self.stream) };
        self.check("cuMemFreeAsync", code)
    }

    /// Bytes free and in all, by the driver; zeros where it does not say.
    pub(super) fn memory(&self) -> (u64, u64) {
        let (mut free, mut total) = (0, 0);
        // SAFETY: the type is that of the call, which writes two numbers.
        match unsafe { (self.api.memory_info)(&mut free, &mut total) } {
            0 => (free as u64, total as u64),
            _ => (0, 0),
        }
    }

    /// Copy `from` to the device; it may be let go when this returns.
    pub(super) fn write(&mut self, mut to: u64, from: &[u8]) -> Result<(), Fault> {
        for chunk in from.chunks(STAGE) {
            let stage = self.next_stage()?;
            // SAFETY: a stage holds `STAGE` bytes, and its last copy was waited for; the stream keeps order with other users of `to`.
            unsafe {
                ptr::copy_nonoverlapping(chunk.as_ptr(), stage.0, chunk.len());
                let code = (self.api.copy_in)(to, stage.0.cast(), chunk.len(), self.stream);
                self.check("cuMemcpyHtoDAsync", code)?;
                self.check("cuEventRecord", (self.api.event_record)(stage.1, self.stream))?;
            }
            to += chunk.len() as u64;
        }
        Ok(())
    }

    /// Copy from the device, and wait for it: while one stage is emptied the other is filled.
    pub(super) fn read(&mut self, mut from: u64, to: &mut [u8]) -> Result<(), Fault> {
        let mut under_way: VecDeque<(*mut u8, Handle, &mut [u8])> = VecDeque::new();
        for chunk in to.chunks_mut(STAGE) {
            if under_way.len() == self.stages.len() {
                self.empty(&mut under_way)?;
            }
            let stage = self.next_stage()?;
            // SAFETY: a stage holds `STAGE` bytes, and whoever used it last is done.
            unsafe {
                let code = (self.api.copy_out)(stage.0.cast(), from, chunk.len(), self.stream);
                self.check("cuMemcpyDtoHAsync", code)?;
                self.check("cuEventRecord", (self.api.event_record)(stage.1, self.stream))?;
            }
            from += chunk.len() as u64;
            under_way.push_back((stage.0, stage.1, chunk));
        }
        while !under_way.is_empty() {
            self.empty(&mut under_way)?;
        }
        Ok(())
    }

    /// Wait for the oldest copy and hand its bytes on.
    fn empty(&self, under_way: &mut VecDeque<(*mut u8, Handle, &mut [u8])>) -> Result<(), Fault> {
        let Some((bytes, copied, to)) = under_way.pop_front() else { return Ok(()) };
        // SAFETY: the event is ours; after it the stage holds the bytes, of which there are as many as `to` is long.
        unsafe {
            self.check("cuEventSynchronize", (self.api.event_finish)(copied))?;
            ptr::copy_nonoverlapping(bytes, to.as_mut_ptr(), to.len());
        }
        Ok(())
    }

    /// The pinned buffer that was used longest ago, free to be used again.
    fn next_stage(&mut self) -> Result<(*mut u8, Handle), Fault> {
        self.stages.rotate_left(1);
        let Stage { bytes, copied } = self.stages[0];
        // SAFETY: the event is ours; one that was never recorded is done.
        let code = unsafe { (self.api.event_finish)(copied) };
        self.check("cuEventSynchronize", code).map(|()| (bytes, copied))
    }

    pub(super) fn clear(&mut self, at: u64, bytes: usize) -> Result<(), Fault> {
        // SAFETY: the type is that of the call; the handle of the memory vouches for its size.
        let code = unsafe { (self.api.fill)(at, 0, bytes, self.stream) };
        self.check("cuMemsetD8Async", code)
    }

    pub(super) fn copy(&mut self, from: u64, to: u64, bytes: usize) -> Result<(), Fault> {
        // SAFETY: as in [`Self::clear`].
        let code = unsafe { (self.api.copy)(to, from, bytes, self.stream) };
        self.check("cuMemcpyDtoDAsync", code)
    }

    /// Enqueue a kernel.
    pub(super) fn launch(&mut self, launch: &OwnedLaunch) -> Result<(), Fault> {
        let name = launch.entry.name;
        self.near = name;
        let Some(&function) = self.functions.get(name) else {
            let reason = format!("there is no kernel `{name}`");
            return Err(Fault::Unusable { device: self.name.clone(), reason });
        };
        if !function.is_checked {
            self.check_argument(name, function.handle, launch.bytes)?;
        }
        if launch.shared > function.shared {
            let bytes = launch.shared as c_int;
            // SAFETY: the type is that of the call.
            let code = unsafe { (self.api.function_set)(function.handle, api::FUNCTION_DYNAMIC_SHARED, bytes) };
            self.check("cuFuncSetAttribute", code)?;
        }
        if !function.is_checked || launch.shared > function.shared {
            let shared = function.shared.max(launch.shared);
            self.functions.insert(name, Function { is_checked: true, shared, ..function });
        }
        let mut argument = launch.argument.as_ptr().cast::<c_void>().cast_mut();
        let ([x, y], no_extra) = (launch.grid, ptr::null_mut());
        // SAFETY: the kernel takes one argument of as many bytes as were checked, which the call copies; its addresses are those of
        // memory that is freed only by later commands of this thread.
        let code = unsafe {
            (self.api.launch)(
                function.handle,
                x,
                y,
                1,
                launch.entry.threads,
                1,
                1,
                launch.shared,
                self.stream,
                &mut argument,
                no_extra,
            )
        };
        self.check("cuLaunchKernel", code)
    }

    /// The kernel on the device must take what Rust gives it.
    fn check_argument(&self, name: &'static str, handle: Handle, bytes: usize) -> Result<(), Fault> {
        let (mut offset, mut size) = (0, 0);
        // SAFETY: the type is that of the call, which writes two numbers.
        let code = unsafe { (self.api.function_argument)(handle, 0, &mut offset, &mut size) };
        self.check("cuFuncGetParamInfo", code)?;
        if (offset, size) == (0, bytes) {
            return Ok(());
        }
        let reason = format!("kernel `{name}` takes {size} bytes at {offset}, and {bytes} are given");
        Err(Fault::Unusable { device: self.name.clone(), reason })
    }

    /// Enqueue a product: by cuBLASLt, or where it has no way for a shape, by a plain kernel.
    pub(super) fn multiply(&mut self, product: &Product) -> Result<(), Fault> {
        let stream = self.stream;
        self.near = "cublasLtMatmul";
        let Some((blas, workspace)) = &mut self.blas else { return self.multiply_plainly(product) };
        match blas.multiply(product, *workspace, stream) {
            Ok(()) => Ok(()),
            Err(failed) if failed.call == "cublasLtMatmulAlgoGetHeuristic" => self.multiply_plainly(product),
            Err(failed) => {
                let text = "a status of cuBLAS".to_owned();
                Err(Fault::Call { device: self.name.clone(), call: failed.call, code: failed.code, text })
            }
        }
    }

    /// The same by a kernel of ours.
    pub(super) fn multiply_plainly(&mut self, product: &Product) -> Result<(), Fault> {
        let arguments = PlainProduct::of(product);
        self.launch(&super::device::owned(&arguments.launch()))
    }

    /// Wait until everything is done.
    pub(super) fn finish(&mut self) -> Result<(), Fault> {
        // SAFETY: the stream is ours.
        let code = unsafe { (self.api.stream_finish)(self.stream) };
        self.check("cuStreamSynchronize", code)
    }

    /// A new event here, with its time.
    pub(super) fn mark(&mut self) -> Result<Handle, Fault> {
        let mut event = ptr::null_mut();
        // SAFETY: the types are those of the calls.
        unsafe {
            self.check("cuEventCreate", (self.api.event_create)(&mut event, 0))?;
            self.check("cuEventRecord", (self.api.event_record)(event, self.stream))?;
        }
        Ok(event)
    }

    /// Seconds on the device between two marks, which are used up.
    pub(super) fn between(&mut self, [from, to]: [Handle; 2]) -> Result<f64, Fault> {
        let mut milliseconds = 0f32;
        // SAFETY: both events are ours and are destroyed once.
        unsafe {
            self.check("cuEventSynchronize", (self.api.event_finish)(to))?;
            let code = (self.api.event_elapsed)(&mut milliseconds, from, to);
            (self.api.event_destroy)(from);
            (self.api.event_destroy)(to);
            self.check("cuEventElapsedTime", code)?;
        }
        Ok(f64::from(milliseconds) / 1e3)
    }

    fn check(&self, call: &'static str, code: c_int) -> Result<(), Fault> {
        match code {
            0 => Ok(()),
            _ => Err(Fault::of_status(&self.name, self.near, call, code, self.api.text_of(code))),
        }
    }
}

#[allow(unsafe_code)]
impl Drop for Context {
    fn drop(&mut self) {
        if self.stream.is_null() {
            return; // it was not opened
        }
        // SAFETY: everything is ours and released once, on the thread that made it, after what uses it. Failures leave nothing to do.
        unsafe {
            (self.api.stream_finish)(self.stream);
            for stage in &self.stages {
                (self.api.event_destroy)(stage.copied);
                (self.api.unpin)(stage.bytes.cast());
            }
            if let Some((_, workspace)) = self.blas {
                (self.api.free)(workspace, self.stream);
            }
            (self.api.stream_finish)(self.stream);
            for module in &self.modules {
                (self.api.module_unload)(*module);
            }
            (self.api.stream_destroy)(self.stream);
            (self.api.context_release)(self.ordinal);
        }
    }
}
