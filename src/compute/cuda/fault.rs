//! What can go wrong on a device.

use super::Unavailable;
use crate::error::{Error, ErrorKind};

/// A failure of a device. All but a lack of memory end it: its memory is not to be trusted, and every later command is refused
/// with the first fault.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Fault {
    /// There is no device to open.
    #[error(transparent)]
    Unavailable(#[from] Unavailable),
    /// The device cannot run the kernels, or they cannot be compiled for it.
    #[error("{device} cannot be used: {reason}")]
    Unusable {
        /// The device.
        device: String,
        /// Why.
        reason: String,
    },
    /// An allocation found no room.
    #[error(
        "{device} has no room for {} more: {} in use here, {} at most so far, {} free on the device; take smaller batches \
         or fewer coders, or a device that nobody else uses",
        mebibytes(*.wanted), mebibytes(*.used), mebibytes(*.peak), mebibytes(*.free)
    )]
    OutOfMemory {
        /// The device.
        device: String,
        /// Bytes asked for.
        wanted: u64,
        /// Bytes that this process holds there.
        used: u64,
        /// The most it held.
        peak: u64,
        /// Bytes that the driver says are free.
        free: u64,
    },
    /// Memory lost bits beyond repair.
    #[error(
        "{device} had a memory error that it could not correct ({call} says {code}, {text}): start again; if it returns, the card \
         needs service (`nvidia-smi -q -d ECC`)"
    )]
    Uncorrectable {
        /// The device.
        device: String,
        /// The call that told.
        call: &'static str,
        /// Its status.
        code: i32,
        /// The status in words.
        text: String,
    },
    /// The device does not answer any more.
    #[error(
        "{device} is lost ({call} says {code}, {text}): see `dmesg` for an Xid; the card or the machine needs a restart"
    )]
    Lost {
        /// The device.
        device: String,
        /// The call that told.
        call: &'static str,
        /// Its status.
        code: i32,
        /// The status in words.
        text: String,
    },
    /// A kernel failed: a fault of ours.
    #[error(
        "a kernel failed on {device}, `{near}` or one before it ({call} says {code}, {text}): report this, with the pipeline"
    )]
    Kernel {
        /// The device.
        device: String,
        /// The kernel launched last.
        near: &'static str,
        /// The call that told.
        call: &'static str,
        /// Its status.
        code: i32,
        /// The status in words.
        text: String,
    },
    /// A call failed otherwise.
    #[error("{device} failed: {call} says {code} ({text})")]
    Call {
        /// The device.
        device: String,
        /// The call.
        call: &'static str,
        /// Its status.
        code: i32,
        /// The status in words.
        text: String,
    },
    /// The thread that owns the device has ended.
    #[error("the thread that owns {device} has ended")]
    Ended {
        /// The device.
        device: String,
    },
}

/// `CUDA_ERROR_OUT_OF_MEMORY`.
pub(super) const OUT_OF_MEMORY: i32 = 2;

impl Fault {
    /// What a status of a driver's call means; `near` is the kernel launched last.
    pub(super) fn of_status(device: &str, near: &'static str, call: &'static str, code: i32, text: String) -> Self {
        let device = device.to_owned();
        match code {
            // ECC_UNCORRECTABLE, CONTAINED
            214 | 226 => Self::Uncorrectable { device, call, code, text },
            // DEINITIALIZED, DEVICE_UNAVAILABLE, UNKNOWN
            4 | 46 | 999 => Self::Lost { device, call, code, text },
            // ILLEGAL_ADDRESS, LAUNCH_TIMEOUT, ASSERT, HARDWARE_STACK_ERROR ... INVALID_PC, LAUNCH_FAILED
            700 | 702 | 710 | 714..=719 => Self::Kernel { device, near, call, code, text },
            _ => Self::Call { device, call, code, text },
        }
    }

    /// Whether the device can be used after it.
    pub fn is_passing(&self) -> bool {
        matches!(self, Self::OutOfMemory { .. })
    }

    /// End the calling stage with this fault as its error: the vocabulary of operations has no results.
    pub(super) fn raise(self) -> ! {
        std::panic::resume_unwind(Box::new(Error::from(self)))
    }
}

impl From<Fault> for Error {
    fn from(fault: Fault) -> Self {
        Self::new(ErrorKind::Device, fault.to_string())
    }
}

fn mebibytes(bytes: u64) -> String {
    format!("{} MiB", bytes.div_ceil(1 << 20))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn statuses_are_told_apart() {
        let of = |code| Fault::of_status("cuda:1", "act", "cuStreamSynchronize", code, "words".to_owned());
        assert!(matches!(of(214), Fault::Uncorrectable { .. }) && matches!(of(999), Fault::Lost { .. }));
        assert!(matches!(of(700), Fault::Kernel { .. }) && matches!(of(1), Fault::Call { .. }));
        let error = Error::from(of(700));
        assert_eq!(error.kind(), ErrorKind::Device);
        assert!(error.to_string().contains("a kernel failed on cuda:1, `act` or one before it"), "{error}");
        assert!(!of(700).is_passing());
    }
}
