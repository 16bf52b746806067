//! What a run computes on: the CPU, or a GPU with the kernels that there are for it.

use std::sync::Arc;

use crate::compute::cpu::Cpu;
use crate::compute::cuda::cache::Cache;
use crate::compute::cuda::{Cuda, Device, probe};
use crate::config::env;
use crate::error::{Error, ErrorKind, Result};
use crate::model::ModelSource;
use crate::model::config::DeviceChoice;
use crate::pipeline::prepare::Backends;

/// The number of the GPU, or none for the CPU. `auto` is the CPU: no kernel has run on a card yet (docs/gpu.md).
///
/// # Errors
/// `Config` if it is neither.
pub fn chosen(device: &str) -> Result<Option<usize>> {
    match DeviceChoice::parse(device) {
        Some(DeviceChoice::Cpu | DeviceChoice::Auto) => Ok(None),
        Some(DeviceChoice::Cuda(ordinal)) => Ok(Some(ordinal)),
        None => {
            Err(Error::config(format!("`model.device` is `{device}`: it must be `auto`, `cpu`, `cuda` or `cuda:N`")))
        }
    }
}

/// The CPU with as many threads.
///
/// # Errors
/// Those of [`env::cpu`].
pub fn cpu(threads: usize) -> Result<Backends<Cpu>> {
    let cpu = Arc::new(env::cpu(threads)?);
    let shown = format!("cpu, {} threads", cpu.threads());
    Ok(Backends { of_model: Arc::clone(&cpu), of_coders: cpu, shown })
}

/// A GPU, open, for a model that it can compute.
///
/// # Errors
/// `Config` if it cannot, or if there is no such GPU; `Device` without a driver, or if it cannot be opened.
pub fn cuda(ordinal: usize, source: &ModelSource) -> Result<Backends<Cuda>> {
    for model in std::iter::once(source).chain(source.second()) {
        if let Some(why) = model.spec().not_on_gpu() {
            return Err(Error::config(format!("the model cannot be computed on a GPU ({why}): set `device: cpu`")));
        }
    }
    let probe = probe::probe().map_err(|e| Error::new(ErrorKind::Device, e.to_string()))?;
    let count = probe.gpus.len();
    let Some(gpu) = probe.gpus.into_iter().nth(ordinal) else {
        return Err(Error::config(format!("there is no `cuda:{ordinal}`: the driver sees {count} devices")));
    };
    let device = Device::open(&gpu, &env::cuda_libraries(), &Cache::new(env::kernel_cache()?))?;
    let shown = format!("{}, {}", device.name(), gpu.name);
    tracing::warn!(
        device = shown,
        "the GPU path has been proved in emulation only: check what it gives with `harvestd selftest` and against the CPU"
    );
    let (of_model, of_coders) = (Cuda::for_models(device.clone())?, Cuda::for_coders(device)?);
    Ok(Backends { of_model: Arc::new(of_model), of_coders: Arc::new(of_coders), shown })
}
