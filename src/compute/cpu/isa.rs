//! Which instructions the loops are compiled for: those of the machine, or fewer where that is asked for.
//!
//! Results do not depend on it: reductions have one order, and what is screened at low precision is computed again
//! ([`super::screen`]). Fewer are for tests of that, and for comparing.

use std::cell::Cell;
use std::fmt;
use std::str::FromStr;

use crate::error::{Error, Result};

/// Instruction sets, each with those before it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Isa {
    /// What the build targets: nothing is assumed of the machine.
    Baseline,
    /// 256 bits: `avx2,fma`.
    Avx2,
    /// 512 bits: `avx512f,avx512vl,avx512bw,avx512dq`.
    Avx512,
    /// With products of bfloat16 pairs: `avx512bf16`.
    Avx512Bf16,
}

thread_local! {
    /// What this thread was told to stay within.
    static CHOSEN: Cell<Option<Isa>> = const { Cell::new(None) };
}

impl Isa {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Baseline, Self::Avx2, Self::Avx512, Self::Avx512Bf16];

    /// What this machine has (the standard library remembers it: a few loads).
    #[inline(always)]
    pub fn of_machine() -> Self {
        #[cfg(target_arch = "x86_64")]
        if is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") {
            let whole = is_x86_feature_detected!("avx512f") && is_x86_feature_detected!("avx512vl");
            let small = is_x86_feature_detected!("avx512bw") && is_x86_feature_detected!("avx512dq");
            return match (whole && small, is_x86_feature_detected!("avx512bf16")) {
                (true, true) => Self::Avx512Bf16,
                (true, false) => Self::Avx512,
                (false, _) => Self::Avx2,
            };
        }
        Self::Baseline
    }

    /// What loops on this thread use.
    #[inline(always)]
    pub(crate) fn here() -> Self {
        CHOSEN.get().unwrap_or_else(Self::of_machine)
    }

    /// From now on loops on this thread use this; the machine must have it.
    pub(super) fn choose(self) {
        debug_assert!(self <= Self::of_machine());
        CHOSEN.set(Some(self.min(Self::of_machine())));
    }

    /// As it is written.
    pub fn name(self) -> &'static str {
        match self {
            Self::Baseline => "baseline",
            Self::Avx2 => "avx2",
            Self::Avx512 => "avx512",
            Self::Avx512Bf16 => "avx512bf16",
        }
    }
}

impl fmt::Display for Isa {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Isa {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let names = Self::ALL.map(Self::name).join("`, `");
        let found = Self::ALL.into_iter().find(|isa| isa.name() == text);
        found.ok_or_else(|| Error::config(format!("`{text}` is no instruction set: use one of `{names}`")))
    }
}
