//! `harvestd devices`: what there is to compute on, and why not on a GPU.

use std::process::ExitCode;

use clap::Args;
use serde_json::{Value, json};

use super::{Globals, Outcome, output};
use crate::compute::cpu::Arithmetic;
use crate::compute::cuda::nvrtc::Nvrtc;
use crate::compute::cuda::{self, Gpu, Libraries, Probe, Unavailable};
use crate::compute::device::{self, Cpu};
use crate::config::env;
use crate::units::ByteSize;

/// Arguments of `devices`.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  harvestd devices                                  processor, GPUs, CUDA libraries, and what is missing
  harvestd devices --json | jq -r '.cuda.unavailable'
  HARVESTD_ISA=avx2 harvestd devices                how the CPU would compute with fewer instructions

Libraries are looked for in the folders of HARVESTD_CUDA_LIBRARIES (separated by `:`), in CUDA_HOME/lib64, in the Python
environment of VIRTUAL_ENV, in the usual folders, and where the loader looks. See docs/gpu.md.")]
pub(crate) struct DevicesArgs {}

pub(crate) fn execute(_: &DevicesArgs, globals: &Globals) -> Outcome {
    let libraries = env::cuda_libraries();
    let found = Found {
        cpu: device::cpu(),
        arithmetic: env::cpu(1)?.arithmetic(),
        cuda: cuda::probe::probe(),
        nvrtc: Nvrtc::open(&libraries).map_err(|e| e.to_string()),
    };
    if globals.json {
        output::print_json(&found.to_json(&libraries));
    } else {
        found.print();
    }
    Ok(ExitCode::SUCCESS)
}

/// What is printed.
struct Found {
    cpu: Cpu,
    arithmetic: Arithmetic,
    cuda: Result<Probe, Unavailable>,
    nvrtc: Result<Nvrtc, String>,
}

impl Found {
    fn to_json(&self, libraries: &Libraries) -> Value {
        let gpu = |gpu: &Gpu| {
            json!({
                "device": format!("cuda:{}", gpu.ordinal),
                "name": gpu.name,
                "architecture": gpu.architecture(),
                "memory_bytes": gpu.memory,
                "multiprocessors": gpu.multiprocessors,
                "unusable": gpu.why_not(),
            })
        };
        let probe = self.cuda.as_ref().ok();
        json!({
            "cpu": {
                "name": self.cpu.name,
                "threads": self.cpu.threads,
                "memory_bytes": self.cpu.memory,
                "vectors": self.cpu.vectors,
                "arithmetic": self.arithmetic,
            },
            "cuda": {
                "driver": probe.map(|p| cuda::probe::version(p.driver)),
                "gpus": probe.map(|p| p.gpus.iter().map(gpu).collect::<Vec<_>>()).unwrap_or_default(),
                "unavailable": self.cuda.as_ref().err().map(Unavailable::to_string),
                "nvrtc": {
                    "version": self.nvrtc.as_ref().ok().map(version),
                    "path": self.nvrtc.as_ref().ok().map(|n| n.path().display().to_string()),
                    "unavailable": self.nvrtc.as_ref().err(),
                },
                "library_folders": libraries.folders().iter().map(|f| f.display().to_string()).collect::<Vec<_>>(),
            },
        })
    }

    fn print(&self) {
        let mut rows = vec![self.cpu_row()];
        let gpus = self.cuda.as_ref().map(|probe| probe.gpus.as_slice()).unwrap_or_default();
        rows.extend(gpus.iter().map(|gpu| {
            vec![
                format!("cuda:{}", gpu.ordinal),
                gpu.name.clone(),
                ByteSize(gpu.memory).to_string(),
                format!("{}, {} multiprocessors", gpu.architecture(), gpu.multiprocessors),
                gpu.why_not().map_or_else(|| "with `device: cuda`".to_owned(), |why| format!("not used: {why}")),
            ]
        }));
        output::print(&output::table(&["device", "name", "memory", "what", "use"], &["memory"], rows).to_string());
        output::print("");
        let driver = match &self.cuda {
            Ok(probe) => format!("for CUDA {}", cuda::probe::version(probe.driver)),
            Err(reason) => reason.to_string(),
        };
        let nvrtc = match &self.nvrtc {
            Ok(nvrtc) => format!("{} ({})", version(nvrtc), nvrtc.path().display()),
            Err(reason) => reason.clone(),
        };
        let Arithmetic { instructions, because, float32, bfloat16, screen } = &self.arithmetic;
        output::fields(&[
            ("computes with", format!("{instructions}: {because}")),
            ("  float32", (*float32).to_owned()),
            ("  bfloat16", (*bfloat16).to_owned()),
            ("  selections", format!("screened {screen}")),
            ("driver", driver),
            ("nvrtc", nvrtc),
        ]);
    }

    fn cpu_row(&self) -> Vec<String> {
        let Cpu { name, threads, memory, vectors } = &self.cpu;
        vec![
            "cpu".to_owned(),
            name.clone().unwrap_or_else(|| std::env::consts::ARCH.to_owned()),
            memory.map(|bytes| ByteSize(bytes).to_string()).unwrap_or_default(),
            format!(
                "{threads} threads, {}",
                if vectors.is_empty() { "no vectors".to_owned() } else { vectors.join(" ") }
            ),
            "computes".to_owned(),
        ]
    }
}

fn version(nvrtc: &Nvrtc) -> String {
    format!("{}.{}", nvrtc.version().0, nvrtc.version().1)
}
