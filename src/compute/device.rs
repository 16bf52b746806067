//! What hardware is there.

use std::num::NonZeroUsize;

/// Whether an NVIDIA driver library can be loaded. Opens the library and touches no device.
#[allow(unsafe_code)]
pub fn cuda_driver_present() -> bool {
    // SAFETY: the call loads `libcuda` if it is installed, which runs the library's initialisers and nothing else.
    unsafe { cudarc::driver::sys::is_culib_present() }
}

/// The processor.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cpu {
    /// As the system calls it, where that is known.
    pub name: Option<String>,
    /// Threads this process may run at once.
    pub threads: usize,
    /// Bytes of memory of the machine, where that is known.
    pub memory: Option<u64>,
    /// Vector instructions that the kernels ask for and find.
    pub vectors: Vec<&'static str>,
}

/// Look at the processor.
pub fn cpu() -> Cpu {
    // where there is no such file, nothing is known
    let processors = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let memory = std::fs::read_to_string("/proc/meminfo").unwrap_or_default();
    Cpu {
        name: field(&processors, "model name").map(str::to_owned),
        threads: std::thread::available_parallelism().map_or(1, NonZeroUsize::get),
        memory: field(&memory, "MemTotal")
            .and_then(|text| text.strip_suffix(" kB")?.parse::<u64>().ok())
            .map(|kb| kb << 10),
        vectors: vectors(),
    }
}

#[cfg(target_arch = "x86_64")]
fn vectors() -> Vec<&'static str> {
    let found = [
        ("avx2", is_x86_feature_detected!("avx2")),
        ("fma", is_x86_feature_detected!("fma")),
        ("avx512f", is_x86_feature_detected!("avx512f")),
        ("avx512bf16", is_x86_feature_detected!("avx512bf16")),
    ];
    found.into_iter().filter(|(_, is_there)| *is_there).map(|(name, _)| name).collect()
}

#[cfg(not(target_arch = "x86_64"))]
fn vectors() -> Vec<&'static str> {
    Vec::new()
}

/// The first value of `name : value` lines.
fn field<'a>(text: &'a str, name: &str) -> Option<&'a str> {
    let lines = text.lines().filter_map(|line| line.split_once(':'));
    lines.into_iter().find(|(key, _)| key.trim() == name).map(|(_, value)| value.trim())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_are_found_by_their_whole_name() {
        let text = "processor\t: 0\nmodel name x\t: no\nmodel name\t: A chip: fast\nmodel name\t: B\n";
        assert_eq!(field(text, "model name"), Some("A chip: fast"));
        assert_eq!(field(text, "flags"), None);
        assert!(cpu().threads >= 1);
    }
}
