//! Peaks of this machine, measured for a fraction of a second each.

use std::io::Write;
use std::path::Path;
use std::time::Duration;

use serde::Serialize;

use crate::compute::cpu::Cpu;
use crate::compute::cpu::peak::{Peaks, Unit};
use crate::compute::cpu::product::multiplies_pairs;
use crate::error::{ErrorKind, Result, ResultExt};
use crate::runtime::clock::Stopwatch;

/// Time spent on each measurement. Its best stretch counts: whatever else runs only ever takes from it.
const MEASURED: Duration = Duration::from_millis(120);
/// Bytes that are read or copied: more than caches hold.
const MEMORY_BYTES: usize = 128 << 20;
/// Bytes of the file that is written.
const DISK_BYTES: usize = 64 << 20;

/// Operations or bytes a second.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Rate {
    /// By one thread.
    pub one: f64,
    /// By all of them at once.
    pub all: f64,
}

/// The peak of an instruction set.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct UnitRate {
    /// Its name.
    pub name: &'static str,
    /// Whether its factors are bfloat16; they are f32 otherwise.
    pub bf16: bool,
    /// Floating-point operations a second: a multiplication and an addition are two.
    pub flops: Rate,
}

/// What a machine can do.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Machine {
    /// The processor's name, if the system tells it.
    pub processor: String,
    /// Compute threads.
    pub threads: usize,
    /// Every instruction set that may be used, narrowest first.
    pub units: Vec<UnitRate>,
    /// Whether the processor has AMX tiles, which this build does not use.
    pub has_amx: bool,
    /// Whether products of `bfloat16` weights run on `avx512 bf16` here, else they are widened to f32.
    pub multiplies_bf16: bool,
    /// Bytes a second read from memory.
    pub read: Rate,
    /// Bytes a second copied, counted as read and as written.
    pub copy: Rate,
    /// Bytes a second written to a file and synced.
    pub disk_write: f64,
}

impl Machine {
    /// Measure with the threads and the instructions of `all`, writing a file of 64 MiB in `folder`, which is deleted.
    pub fn measure(all: &Cpu, folder: &Path) -> Result<Self> {
        let one = Cpu::with_isa(1, all.isa())?;
        let mut peaks = [Peaks::new(&one, MEMORY_BYTES), Peaks::new(all, MEMORY_BYTES)];
        let units = all.run(Unit::here).into_iter().map(|unit| UnitRate {
            name: unit.name(),
            bf16: unit.is_bf16(),
            flops: Rate { one: peaks[0].multiply(unit, MEASURED), all: peaks[1].multiply(unit, MEASURED) },
        });
        Ok(Self {
            processor: processor(),
            threads: all.threads(),
            units: units.collect(),
            has_amx: has_amx(),
            multiplies_bf16: all.run(multiplies_pairs),
            read: rates(&mut peaks, |peaks| peaks.read()),
            copy: rates(&mut peaks, Peaks::copy),
            disk_write: disk_write(folder)?,
        })
    }

    /// The best of its f32 units.
    pub fn f32_flops(&self) -> Rate {
        self.best(false)
    }

    /// What products of bfloat16 weights run on.
    pub fn bf16_flops(&self) -> Rate {
        self.best(self.multiplies_bf16)
    }

    fn best(&self, bf16: bool) -> Rate {
        let of_kind = || self.units.iter().filter(|unit| unit.bf16 == bf16);
        let most = |rate: fn(&UnitRate) -> f64| of_kind().map(rate).fold(0.0, f64::max);
        Rate { one: most(|unit| unit.flops.one), all: most(|unit| unit.flops.all) }
    }
}

/// The best rate of both pools at something that says how much it did.
fn rates<'a>(peaks: &mut [Peaks<'a>; 2], mut work: impl FnMut(&mut Peaks<'a>) -> usize) -> Rate {
    let [one, all] = peaks;
    Rate { one: best(|| work(one)), all: best(|| work(all)) }
}

/// The best rate of `work`, which says how much it did, within [`MEASURED`].
fn best(mut work: impl FnMut() -> usize) -> f64 {
    let (whole, mut best) = (Stopwatch::start(), 0.0f64);
    loop {
        let watch = Stopwatch::start();
        let done = work();
        best = best.max(done as f64 / watch.elapsed().as_secs_f64().max(1e-9));
        if whole.elapsed() >= MEASURED {
            return best;
        }
    }
}

/// The rate at which a file is written and synced.
fn disk_write(folder: &Path) -> Result<f64> {
    let path = folder.join(format!(".harvestd-roofline-{}", std::process::id()));
    let trouble = || format!("cannot write `{}` to measure the disk", path.display());
    let written = std::fs::File::create_new(&path).and_then(|mut file| {
        let block = vec![0x5a; 1 << 20];
        let watch = Stopwatch::start();
        (0..DISK_BYTES / block.len()).try_for_each(|_| file.write_all(&block))?;
        file.sync_all()?;
        Ok(DISK_BYTES as f64 / watch.elapsed().as_secs_f64().max(1e-9))
    });
    // nothing is left behind, whether it was written or not
    drop(std::fs::remove_file(&path));
    written.or_kind(ErrorKind::Unavailable, trouble)
}

/// The processor's name.
fn processor() -> String {
    let info = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let field = |name: &str| {
        let line = info.lines().find(|line| line.split(':').next().is_some_and(|key| key.trim() == name))?;
        Some(line.split_once(':')?.1.trim().to_owned())
    };
    let name = field("model name").unwrap_or_else(|| std::env::consts::ARCH.to_owned());
    match (field("cpu family"), field("model")) {
        (Some(family), Some(model)) => format!("{name} (family {family}, model {model})"),
        _ => name,
    }
}

/// Whether the processor has AMX tiles for bfloat16.
fn has_amx() -> bool {
    let info = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    info.lines().find(|line| line.starts_with("flags")).is_some_and(|flags| flags.split(' ').any(|f| f == "amx_bf16"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::compute::cpu::isa::Isa;

    #[test]
    fn a_machine_has_rates_above_zero_and_nothing_stays_on_its_disk() {
        let folder = tempfile::tempdir().unwrap();
        let machine = Machine::measure(&Cpu::new(2).unwrap(), folder.path()).unwrap();
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
        assert_eq!(machine.threads, 2);
        let rates = [machine.f32_flops(), machine.bf16_flops(), machine.read, machine.copy];
        assert!(rates.iter().all(|rate| rate.one > 1e6 && rate.all > 1e6), "{machine:?}");
        assert!(machine.disk_write > 0.0);
        assert!(machine.units.iter().any(|unit| !unit.bf16), "every machine multiplies f32");
    }

    #[test]
    fn only_instructions_that_may_be_used_are_measured() {
        let folder = tempfile::tempdir().unwrap();
        let machine = Machine::measure(&Cpu::with_isa(1, Isa::Baseline).unwrap(), folder.path()).unwrap();
        assert!(machine.units.len() == 1 && !machine.multiplies_bf16, "{machine:?}");
    }

    #[test]
    fn a_folder_that_cannot_be_written_is_named() {
        let error = Machine::measure(&Cpu::new(1).unwrap(), Path::new("/proc/no-such-folder")).unwrap_err();
        assert!(error.to_string().contains("/proc/no-such-folder"), "{error}");
    }
}
