//! What the compiler makes of the kernels: machine code for both architectures, in registers alone.

use std::path::PathBuf;
use std::process::Command;

use harvestd::compute::cuda::Libraries;
use harvestd::compute::cuda::cache::Cache;
use harvestd::compute::cuda::kernels::{PRELUDE, SOURCES};
use harvestd::compute::cuda::nvrtc::Nvrtc;

use super::support;

/// What is compiled for: Ampere, which newer cards of the same generation run too, and Hopper.
const ARCHITECTURES: [&str; 2] = ["sm_80", "sm_90a"];

/// The compiler that the budgets are for: that of the folder `HARVESTD_NVRTC`, or of the Python package
/// `nvidia-cuda-nvrtc-cu12`. `None`, loudly, where there is none and that is allowed.
fn nvrtc() -> Option<Nvrtc> {
    let folder = match std::env::var_os("HARVESTD_NVRTC") {
        Some(folder) => PathBuf::from(folder),
        None => {
            let find = "import importlib.util, os; s = importlib.util.find_spec('nvidia.cuda_nvrtc'); \
                        print(os.path.join(list(s.submodule_search_locations)[0], 'lib') if s else '')";
            let output = Command::new(support::python("NVRTC")?).args(["-c", find]).output().unwrap();
            PathBuf::from(String::from_utf8_lossy(&output.stdout).trim())
        }
    };
    if !folder.is_dir() {
        assert!(std::env::var_os("CI").is_none(), "in CI the Python package nvidia-cuda-nvrtc-cu12 must be installed");
        eprintln!("SKIPPED: nvidia-cuda-nvrtc-cu12 is not installed; kernels were not compiled");
        return None;
    }
    Some(Nvrtc::open(&Libraries::new(vec![folder], None, None)).unwrap())
}

#[test]
fn every_kernel_compiles_within_its_registers() {
    let Some(nvrtc) = nvrtc() else { return };
    let mut problems = Vec::new();
    for (source, architecture) in SOURCES.iter().flat_map(|s| ARCHITECTURES.map(|a| (s, a))) {
        let compiled = nvrtc.compile(source.name, &source.code(), architecture).unwrap();
        assert_eq!(&compiled.cubin[..4], b"\x7fELF", "{} for {architecture}", source.name);
        assert_eq!(compiled.resources.len(), source.entries.len(), "{} for {architecture}", source.name);
        for entry in source.entries {
            let used = compiled.resources.iter().find(|r| r.kernel == entry.name).unwrap();
            println!("{:<18} {architecture:<7} {:>3} registers of {:>3}", entry.name, used.registers, entry.registers);
            assert!(used.registers > 0, "the compiler said nothing of {}", entry.name);
            if used.spilled > 0 || used.stack > 0 || used.registers > entry.registers {
                problems.push(format!("{used:?} on {architecture}, {} are allowed", entry.registers));
            }
            // what a block has without being asked for: more is dynamic
            assert!(used.shared <= 48 << 10, "{used:?}");
        }
    }
    assert!(problems.is_empty(), "{problems:#?}");
}

#[test]
fn the_compiler_says_what_is_wrong_and_what_is_spilled() {
    let Some(nvrtc) = nvrtc() else { return };
    let wrong =
        nvrtc.compile("wrong", &format!("{PRELUDE}KERNEL(wrong, int, 32) {{ nonsense(a); }}"), "sm_80").unwrap_err();
    assert!(wrong.to_string().contains("kernel `wrong`") && wrong.to_string().contains("nonsense"), "{wrong}");
    let unknown = nvrtc.compile("none", PRELUDE, "sm_1").unwrap_err();
    assert!(unknown.to_string().contains("sm_1"), "{unknown}");
    // an array that is indexed at run time lies in local memory: the check above can fail
    let array = "struct Args { float* y; int n; };\n\
        KERNEL(array, Args, 32) { float x[64] = {}; for (int i = 0; i < a.n; i++) x[a.n * i & 63] += a.y[i]; a.y[0] = x[a.n & 63]; }";
    let compiled = nvrtc.compile("array", &format!("{PRELUDE}{array}"), "sm_90a").unwrap();
    assert!(compiled.resources[0].stack >= 256, "{:?}", compiled.resources);
}

#[test]
fn compiled_kernels_are_kept() {
    let Some(nvrtc) = nvrtc() else { return };
    let root = tempfile::tempdir().unwrap();
    let cache = Cache::new(root.path());
    let source = "extern \"C\" __global__ void f(float* y) { *y = 1.f; }";
    let first = cache.cubin(&nvrtc, "f", source, "sm_80").unwrap();
    let files: Vec<_> = std::fs::read_dir(root.path()).unwrap().map(|e| e.unwrap().path()).collect();
    assert_eq!(files.len(), 1);
    // marked, so that a second compilation would show
    let marked = [b"marked".to_vec(), first.clone()].concat();
    let digest = <sha2::Sha256 as sha2::Digest>::digest(&marked).to_vec();
    std::fs::write(&files[0], [digest, marked.clone()].concat()).unwrap();
    assert_eq!(cache.cubin(&nvrtc, "f", source, "sm_80").unwrap(), marked);
    // damaged: compiled anew, and whole again
    std::fs::write(&files[0], b"damaged").unwrap();
    assert_eq!(cache.cubin(&nvrtc, "f", source, "sm_80").unwrap(), first);
    assert_eq!(cache.cubin(&nvrtc, "f", source, "sm_80").unwrap(), first);
    assert_ne!(cache.cubin(&nvrtc, "f", source, "sm_90a").unwrap(), first);
}
