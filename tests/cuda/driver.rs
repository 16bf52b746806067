//! `harvestd devices` before drivers of every kind: none, a file that is none, and small libraries that answer as drivers do.

use std::path::Path;
use std::process::Command;

use serde_json::Value;

use super::support::BINARY;

/// A driver: what its calls say is chosen by definitions.
const DRIVER: &str = r#"
int cuInit(unsigned flags) { return INIT; }
int cuDriverGetVersion(int* version) { *version = VERSION; return 0; }
int cuDeviceGetCount(int* count) { *count = COUNT; return 0; }
int cuDeviceGet(int* device, int ordinal) { *device = 40 + ordinal; return 0; }
int cuDeviceGetName(char* name, int room, int device) { __builtin_snprintf(name, room, "Card %d", device); return 0; }
#ifdef MEMORY
int cuDeviceTotalMem_v2(unsigned long* bytes, int device) { *bytes = MEMORY; return 0; }
#endif
int cuDeviceGetAttribute(int* value, int attribute, int device) {
  *value = attribute == 16 ? 132 : attribute == 75 ? (device == 40 ? 9 : 7) : attribute == 76 ? (device == 40 ? 0 : 5) : -1;
  return *value < 0;
}
int cuGetErrorString(int code, const char** text) { *text = code == 999 ? "unknown error" : 0; return code != 999; }
"#;

/// What `harvestd devices --json` says with the libraries of a folder before all others.
fn devices(folder: &Path) -> Value {
    let mut command = Command::new(BINARY);
    command.args(["devices", "--json"]).env("LD_LIBRARY_PATH", folder).env("HARVESTD_CUDA_LIBRARIES", folder);
    let output = command.env_remove("CUDA_HOME").env_remove("VIRTUAL_ENV").output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert!(output.stderr.is_empty(), "{}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).unwrap()
}

/// The same with a driver made by these definitions.
fn with_driver(definitions: &[&str]) -> Value {
    let folder = tempfile::tempdir().unwrap();
    let (text, library) = (folder.path().join("driver.c"), folder.path().join("libcuda.so.1"));
    std::fs::write(&text, DRIVER).unwrap();
    let status =
        Command::new("cc").args(["-shared", "-fPIC"]).args(definitions).arg("-o").args([&library, &text]).status();
    assert!(status.unwrap().success());
    devices(folder.path())
}

fn reason(report: &Value) -> &str {
    report["cuda"]["unavailable"].as_str().unwrap()
}

#[test]
fn a_working_driver_and_its_cards() {
    let report = with_driver(&["-DINIT=0", "-DVERSION=12080", "-DCOUNT=2", "-DMEMORY=150000000000"]);
    assert_eq!(report["cuda"]["driver"], "12.8");
    assert!(report["cuda"]["unavailable"].is_null());
    let gpus = report["cuda"]["gpus"].as_array().unwrap();
    assert_eq!(gpus.len(), 2);
    assert_eq!((&gpus[0]["device"], &gpus[0]["name"]), (&"cuda:0".into(), &"Card 40".into()));
    assert_eq!((&gpus[0]["architecture"], &gpus[0]["multiprocessors"]), (&"sm_90".into(), &132.into()));
    assert_eq!(gpus[0]["memory_bytes"], 150_000_000_000_u64);
    assert!(gpus[0]["unusable"].is_null());
    assert_eq!(gpus[1]["unusable"], "compute capability 7.5 is below 8.0");
}

#[test]
fn drivers_that_do_not_work() {
    let base = ["-DMEMORY=1", "-DINIT=0", "-DVERSION=12040", "-DCOUNT=1"];
    let with = |change: &[&str]| with_driver(&[&base[..], change].concat());
    let report = with(&["-UINIT", "-DINIT=999"]);
    assert_eq!(reason(&report), "the NVIDIA driver failed: cuInit says 999 (unknown error)");
    let report = with(&["-UINIT", "-DINIT=12345"]);
    assert!(reason(&report).contains("cuInit says 12345 (a status this driver has no words for)"), "{report}");
    for none in ["-DINIT=100", "-DCOUNT=0"] {
        let name = format!("-U{}", &none[2..none.find('=').unwrap()]);
        assert!(reason(&with(&[&name, none])).contains("sees no device"), "{none}");
    }
    assert!(reason(&with(&["-UVERSION", "-DVERSION=12020"])).contains("is for CUDA 12.2, and 12.4 or newer is needed"));
    assert!(reason(&with(&["-UMEMORY"])).contains("lacks `cuDeviceTotalMem_v2`"));
}

#[test]
fn no_driver_and_no_library() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("libcuda.so.1"), "not a library").unwrap();
    std::fs::write(folder.path().join("libnvrtc.so.12"), "not a library").unwrap();
    let report = devices(folder.path());
    assert!(report["cpu"]["threads"].as_u64().unwrap() >= 1);
    assert_eq!(report["cuda"]["library_folders"][0].as_str(), folder.path().to_str());
    // a machine with a driver of its own finds that one after the broken file
    if report["cuda"]["gpus"].as_array().unwrap().is_empty() {
        assert!(reason(&report).contains("there is no NVIDIA driver here"), "{report}");
    }
    if let Some(reason) = report["cuda"]["nvrtc"]["unavailable"].as_str() {
        assert!(reason.contains("libnvrtc cannot be loaded") && reason.contains("pip install"), "{reason}");
    }
}

#[test]
fn for_people_it_is_a_table() {
    let output = Command::new(BINARY).arg("devices").output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.success() && text.contains("cpu") && text.contains("computes"), "{text}");
    assert!(text.lines().any(|line| line.starts_with("driver ")), "{text}");
}
