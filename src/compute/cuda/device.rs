//! A device for many users: one thread owns it and does what it is told, in order.
//!
//! Whoever has a [`Device`] sends commands and goes on; only what gives an answer (an allocation, a read, a wait) waits for it.
//! There is one stream, so that commands of different users keep the order in which they were sent. Memory is a handle
//! ([`Memory`]) that is freed by a command of its own when it is dropped, after everything that uses it.
//!
//! The first fault that is not passing ends the device: every later answer is that fault. Nothing that a device computed is
//! used after it failed, since what leaves a device leaves it by [`Device::read`].

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};

use crossbeam_channel::{Receiver, Sender, bounded};

use super::cache::Cache;
use super::context::{Context, OwnedLaunch};
use super::fault::Fault;
use super::kernels::Launch;
use super::product::Product;
use super::{Gpu, Libraries};
use crate::error::Result;
use crate::runtime::worker::Worker;

/// Commands that may wait: enough to keep the device busy, few enough that what they hold stays small.
const COMMANDS: usize = 256;

/// A device that is open. Clones share it; it is closed when the last one and all memory are gone.
#[derive(Clone)]
pub struct Device(Arc<Shared>);

struct Shared {
    commands: Sender<Command>,
    owner: Option<Worker<()>>,
    gpu: Gpu,
    used: AtomicU64,
    peak: AtomicU64,
    first_fault: Arc<OnceLock<Fault>>,
}

/// Memory of a device.
pub struct Memory {
    device: Device,
    address: u64,
    bytes: usize,
}

/// Memory of this process on a device, in bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct MemoryUse {
    /// Held now.
    pub used: u64,
    /// The most that was held.
    pub peak: u64,
    /// Of the whole device.
    pub total: u64,
}

/// What the owner is told.
enum Command {
    Allocate { bytes: usize, answer: Answer<u64> },
    Free { address: u64 },
    Write { to: u64, bytes: Vec<u8> },
    Read { from: u64, bytes: Vec<u8>, answer: Answer<Vec<u8>> },
    Clear { at: u64, bytes: usize },
    Copy { from: u64, to: u64, bytes: usize },
    Launch(OwnedLaunch),
    Multiply { product: Product, plainly: bool },
    Finish { answer: Answer<()> },
    Start,
    Stop { answer: Answer<f64> },
}

type Answer<T> = Sender<std::result::Result<T, Fault>>;

impl Device {
    /// Open `gpu`. Its kernels are taken from `cache`, or compiled now.
    ///
    /// # Errors
    /// A [`Fault`] as an error of kind `Device`.
    pub fn open(gpu: &Gpu, libraries: &Libraries, cache: &Cache) -> Result<Self> {
        let (commands, received) = bounded(COMMANDS);
        let (opened, outcome) = bounded(1);
        let first_fault = Arc::new(OnceLock::new());
        let (seen, its) = (Arc::clone(&first_fault), gpu.clone());
        let (libraries, cache) = (libraries.clone(), cache.clone());
        let owner = Worker::start(&format!("cuda-{}", gpu.ordinal), move || {
            let context = Context::open(&its, &libraries, &cache);
            let (answer, context) = match context {
                Ok(context) => (Ok(()), Some(context)),
                Err(fault) => (Err(fault), None),
            };
            // whoever opens it waits for this
            let _ = opened.send(answer);
            if let Some(context) = context {
                serve(context, &received, &seen);
            }
            Ok(())
        })?;
        let (used, peak) = (AtomicU64::new(0), AtomicU64::new(0));
        let device = Self(Arc::new(Shared { commands, owner: Some(owner), gpu: gpu.clone(), used, peak, first_fault }));
        outcome.recv().unwrap_or_else(|_| Err(device.ended()))?;
        Ok(device)
    }

    /// The device.
    pub fn gpu(&self) -> &Gpu {
        &self.0.gpu
    }

    /// `cuda:N`.
    pub fn name(&self) -> String {
        format!("cuda:{}", self.0.gpu.ordinal)
    }

    /// The fault that ended it, if one did.
    pub fn fault(&self) -> Option<&Fault> {
        self.0.first_fault.get()
    }

    /// What this process holds there.
    pub fn memory_use(&self) -> MemoryUse {
        let Shared { used, peak, gpu, .. } = &*self.0;
        MemoryUse { used: used.load(Ordering::Relaxed), peak: peak.load(Ordering::Relaxed), total: gpu.memory }
    }

    /// Memory that nobody has written.
    ///
    /// # Errors
    /// [`Fault::OutOfMemory`], after which the device can still be used, or what ended it.
    pub fn allocate(&self, bytes: usize) -> std::result::Result<Memory, Fault> {
        if bytes == 0 {
            return Ok(Memory { device: self.clone(), address: 0, bytes });
        }
        let found = self.ask(|answer| Command::Allocate { bytes, answer });
        let Shared { used, peak, .. } = &*self.0;
        match found {
            Ok(address) => {
                let now = used.fetch_add(bytes as u64, Ordering::Relaxed) + bytes as u64;
                peak.fetch_max(now, Ordering::Relaxed);
                Ok(Memory { device: self.clone(), address, bytes })
            }
            Err(Fault::OutOfMemory { device, wanted, free, .. }) => {
                let MemoryUse { used, peak, .. } = self.memory_use();
                Err(Fault::OutOfMemory { device, wanted, used, peak, free })
            }
            Err(fault) => Err(fault),
        }
    }

    /// Enqueue a kernel. Whoever made the launch vouches for its addresses: they must be of memory of this device.
    pub fn launch(&self, launch: &Launch<'_>) {
        self.tell(Command::Launch(owned(launch)));
    }

    /// Enqueue a product, by the library's kernels; whoever made it vouches for its addresses.
    pub fn multiply(&self, product: Product) {
        product.shape.check();
        self.tell(Command::Multiply { product, plainly: false });
    }

    /// As [`Device::multiply`] by a kernel of our own, slow and simple: what the library's are compared with.
    pub fn multiply_plainly(&self, product: Product) {
        product.shape.check();
        self.tell(Command::Multiply { product, plainly: true });
    }

    /// Wait until all that was sent is done.
    ///
    /// # Errors
    /// What ended the device.
    pub fn finish(&self) -> std::result::Result<(), Fault> {
        self.ask(|answer| Command::Finish { answer })
    }

    /// Seconds on the device that the commands took which `work` sent.
    ///
    /// # Errors
    /// What ended the device.
    pub fn timed(&self, work: impl FnOnce()) -> std::result::Result<f64, Fault> {
        self.tell(Command::Start);
        work();
        self.ask(|answer| Command::Stop { answer })
    }

    fn tell(&self, command: Command) {
        // an owner that has ended says so to the next who asks
        let _ = self.0.commands.send(command);
    }

    fn ask<T>(&self, command: impl FnOnce(Answer<T>) -> Command) -> std::result::Result<T, Fault> {
        let (answer, answered) = bounded(1);
        self.tell(command(answer));
        answered.recv().unwrap_or_else(|_| Err(self.ended()))
    }

    fn ended(&self) -> Fault {
        let other = || Fault::Ended { device: self.name() };
        self.0.first_fault.get().cloned().unwrap_or_else(other)
    }
}

impl Memory {
    /// Where it begins; 0 if it has no bytes.
    pub fn address(&self) -> u64 {
        self.address
    }

    /// Its bytes.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// The device.
    pub fn device(&self) -> &Device {
        &self.device
    }

    /// Copy `data` to it, from its byte `at` on.
    pub fn write(&self, at: usize, data: Vec<u8>) {
        self.check(at, data.len());
        if !data.is_empty() {
            self.device.tell(Command::Write { to: self.address + at as u64, bytes: data });
        }
    }

    /// Its `len` bytes from `at` on, when all that was sent before is done.
    ///
    /// # Errors
    /// What ended the device.
    pub fn read(&self, at: usize, len: usize) -> std::result::Result<Vec<u8>, Fault> {
        self.check(at, len);
        if len == 0 {
            return Ok(Vec::new());
        }
        let bytes = vec![0; len];
        self.device.ask(|answer| Command::Read { from: self.address + at as u64, bytes, answer })
    }

    /// Zeros in `len` bytes from `at` on.
    pub fn clear(&self, at: usize, len: usize) {
        self.check(at, len);
        if len > 0 {
            self.device.tell(Command::Clear { at: self.address + at as u64, bytes: len });
        }
    }

    /// The first `len` bytes of `from`.
    pub fn copy_from(&self, from: &Self, len: usize) {
        self.check(0, len);
        from.check(0, len);
        assert!(Arc::ptr_eq(&self.device.0, &from.device.0), "memory of two devices");
        if len > 0 {
            self.device.tell(Command::Copy { from: from.address, to: self.address, bytes: len });
        }
    }

    fn check(&self, at: usize, len: usize) {
        assert!(at.checked_add(len).is_some_and(|end| end <= self.bytes), "{at} and {len} bytes of {}", self.bytes);
    }
}

impl Drop for Memory {
    fn drop(&mut self) {
        if self.bytes > 0 {
            self.device.0.used.fetch_sub(self.bytes as u64, Ordering::Relaxed);
            self.device.tell(Command::Free { address: self.address });
        }
    }
}

/// A launch that outlives its argument.
pub(super) fn owned(launch: &Launch<'_>) -> OwnedLaunch {
    let bytes = launch.bytes();
    let mut argument = vec![0u64; bytes.div_ceil(8)];
    #[allow(unsafe_code)]
    // SAFETY: the launch borrows an argument of as many bytes, and the copy has room for them.
    unsafe {
        std::ptr::copy_nonoverlapping(launch.argument().cast::<u8>(), argument.as_mut_ptr().cast::<u8>(), bytes);
    }
    OwnedLaunch { entry: launch.entry(), grid: launch.grid(), shared: launch.shared(), argument, bytes }
}

/// Do what is asked until nobody can ask any more; the fault that ends the device is `seen`.
fn serve(mut context: Context, commands: &Receiver<Command>, seen: &OnceLock<Fault>) {
    let mut started = Vec::new();
    for command in commands {
        if let Some(fault) = seen.get() {
            command.refuse(fault);
            continue;
        }
        let c = &mut context;
        let outcome = match command {
            Command::Allocate { bytes, answer } => reply(c.allocate(bytes), &answer),
            Command::Free { address } => c.free(address),
            Command::Write { to, bytes } => c.write(to, &bytes),
            Command::Read { from, mut bytes, answer } => {
                let read = c.read(from, &mut bytes).map(|()| bytes);
                reply(read, &answer)
            }
            Command::Clear { at, bytes } => c.clear(at, bytes),
            Command::Copy { from, to, bytes } => c.copy(from, to, bytes),
            Command::Launch(launch) => c.launch(&launch),
            Command::Multiply { product, plainly: true } => c.multiply_plainly(&product),
            Command::Multiply { product, plainly: false } => c.multiply(&product),
            Command::Finish { answer } => reply(c.finish(), &answer),
            Command::Start => c.mark().map(|event| started.push(event)),
            Command::Stop { answer } => {
                let seconds = match started.pop() {
                    Some(start) => c.mark().and_then(|stop| c.between([start, stop])),
                    None => Ok(0.0),
                };
                reply(seconds, &answer)
            }
        };
        if let Some(fault) = outcome.err().filter(|fault| !fault.is_passing()) {
            tracing::error!(%fault, "device failed");
            let _ = seen.set(fault);
        }
    }
}

/// Send an answer, and keep its fault.
fn reply<T>(outcome: std::result::Result<T, Fault>, answer: &Answer<T>) -> std::result::Result<(), Fault> {
    let fault = outcome.as_ref().err().cloned();
    // whoever asked may be gone
    let _ = answer.send(outcome);
    fault.map_or(Ok(()), Err)
}

impl Command {
    /// The device has ended: whoever asks hears why.
    fn refuse(self, fault: &Fault) {
        let fault = fault.clone();
        // whoever asked may be gone
        let _ = match self {
            Self::Allocate { answer, .. } => answer.send(Err(fault)).is_ok(),
            Self::Read { answer, .. } => answer.send(Err(fault)).is_ok(),
            Self::Finish { answer } => answer.send(Err(fault)).is_ok(),
            Self::Stop { answer } => answer.send(Err(fault)).is_ok(),
            _ => true,
        };
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        // nobody can ask any more: the owner closes the device and ends
        drop(std::mem::replace(&mut self.commands, bounded(0).0));
        if let Some(Err(error)) = self.owner.take().map(Worker::join) {
            tracing::error!(%error, "the owner of a device failed");
        }
    }
}

impl std::fmt::Debug for Device {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Device").field("gpu", &self.0.gpu).field("memory", &self.memory_use()).finish()
    }
}
