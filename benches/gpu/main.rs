//! The suite for a machine with a GPU: what the device computes beside what it should, and how fast it is.
//!
//! `benches/gpu/check` builds it, carries it where the card is, and keeps what it writes: one JSON file and one Markdown file. Each
//! part begins only if the time that is left is enough; what was left out stands in the report. With `--small` it is quick enough
//! for an emulator or for `compute-sanitizer`.

#[allow(dead_code)] // what only tests use
#[path = "../../tests/golden/fixture.rs"]
mod fixture;
#[allow(dead_code)]
#[path = "../../tests/cuda/parity.rs"]
mod parity;
mod report;
mod speed;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use harvestd::compute::cuda::cache::Cache;
use harvestd::compute::cuda::nvrtc::Nvrtc;
use harvestd::compute::cuda::{Cuda, Device, Gpu, Libraries, probe};
use harvestd::config::env;
use harvestd::runtime::worker::catch;
use report::Report;

/// What the command line says.
struct Options {
    ordinal: usize,
    is_small: bool,
    seconds: u64,
    out: PathBuf,
}

fn main() {
    let options = match options() {
        Ok(options) => options,
        Err(wrong) => {
            eprintln!("{wrong}\nusage: gpu [--device N] [--small] [--seconds 500] [--out FOLDER]");
            std::process::exit(64);
        }
    };
    let end = Instant::now() + Duration::from_secs(options.seconds);
    let mut report = Report::default();
    let outcome = catch(|| {
        let libraries = env::cuda_libraries();
        let (gpu, device) = open(&options, &libraries, &mut report)?;
        for part in parts() {
            let left = end.saturating_duration_since(Instant::now());
            if left < Duration::from_secs(part.needs) && !options.is_small {
                report.leave_out(part.name, &format!("{} s were left", left.as_secs()));
                continue;
            }
            eprintln!("{}", part.name);
            let began = Instant::now();
            let result = catch(|| {
                (part.run)(&Run { gpu: &gpu, device: &device, is_small: options.is_small }, &mut report);
                Ok(())
            });
            if let Err(error) = result {
                report.check(part.name, false, &error.to_string());
            }
            report.took(part.name, began.elapsed());
            if let Some(fault) = device.fault() {
                report.check("device", false, &fault.to_string());
                break;
            }
        }
        let memory = device.memory_use();
        report.number("memory", "most held", memory.peak as f64 / 1e9, "GB");
        Ok(())
    });
    if let Err(error) = outcome {
        report.check("device", false, &error.to_string());
    }
    if let Err(error) = report.write(&options.out) {
        eprintln!("the report cannot be written to `{}`: {error}", options.out.display());
        std::process::exit(74);
    }
    std::process::exit(i32::from(!report.is_good()));
}

/// What a part works with.
pub struct Run<'a> {
    pub gpu: &'a Gpu,
    pub device: &'a Device,
    pub is_small: bool,
}

/// A part of the suite, and the seconds it may need on a card.
struct Part {
    name: &'static str,
    needs: u64,
    run: fn(&Run<'_>, &mut Report),
}

/// Correctness first.
fn parts() -> [Part; 7] {
    [
        Part { name: "copies", needs: 20, run: speed::copies },
        Part { name: "products", needs: 40, run: speed::products },
        Part { name: "models", needs: 60, run: models },
        Part { name: "coders", needs: 60, run: coders },
        Part { name: "peak", needs: 20, run: speed::peak },
        Part { name: "sae_step", needs: 90, run: speed::sae_step },
        Part { name: "forward", needs: 90, run: speed::forward },
    ]
}

/// Every site of the golden models.
fn models(run: &Run<'_>, report: &mut Report) {
    let backend = Arc::new(Cuda::for_models(run.device.clone()).expect("a device that is open"));
    for name in parity::families().take(if run.is_small { 2 } else { usize::MAX }) {
        let (errors, share) = parity::sites(&backend, name);
        let (site, worst) = errors.iter().max_by(|a, b| a.1.total_cmp(&b.1)).expect("a model has sites");
        let text = format!(
            "{} sites, worst {worst:.1e} at {site} ({:.0e} allowed), {share:.2} of the distance of transformers in bfloat16",
            errors.len(),
            parity::SITES
        );
        let is_good = *worst <= parity::SITES && share <= parity::BESIDE_TRANSFORMERS;
        report.check(&format!("model {name}"), is_good, &text);
    }
}

/// Fifty steps of each coder.
fn coders(run: &Run<'_>, report: &mut Report) {
    for coder in parity::coders().into_iter().take(if run.is_small { 2 } else { usize::MAX }) {
        let [step, parameters] = parity::training(run.device, &coder);
        let is_good = step <= parity::STEP && parameters <= parity::PARAMETERS;
        let text = format!("50 steps within {step:.1e} of the CPU's, parameters and moments {parameters:.1e}");
        report.check(&format!("coder {}", coder["type"].as_str().unwrap_or_default()), is_good, &text);
    }
}

fn open(options: &Options, libraries: &Libraries, report: &mut Report) -> harvestd::error::Result<(Gpu, Device)> {
    let missing = |text: String| harvestd::error::Error::new(harvestd::error::ErrorKind::Device, text);
    let probe = probe::probe().map_err(|e| missing(e.to_string()))?;
    let (driver, count) = (probe::version(probe.driver), probe.gpus.len());
    let gpu = probe.gpus.into_iter().nth(options.ordinal);
    let gpu = gpu.ok_or_else(|| missing(format!("there is no device {} of {count}", options.ordinal)))?;
    let nvrtc = Nvrtc::open(libraries)?.version();
    report.about("card", &gpu.name);
    report.about("architecture", &gpu.architecture());
    report.about("driver", &format!("for CUDA {driver}"));
    report.about("nvrtc", &format!("{}.{}", nvrtc.0, nvrtc.1));
    let began = Instant::now();
    let device = Device::open(&gpu, libraries, &Cache::new(env::kernel_cache()?))?;
    report.number("open", "context, and kernels compiled or read", began.elapsed().as_secs_f64(), "s");
    Ok((gpu, device))
}

fn options() -> Result<Options, String> {
    let mut options = Options { ordinal: 0, is_small: false, seconds: 500, out: PathBuf::from(".") };
    let mut words = std::env::args().skip(1);
    while let Some(word) = words.next() {
        let mut value = || words.next().ok_or(format!("`{word}` needs a value"));
        let number = |text: String| text.parse::<u64>().map_err(|_| format!("`{text}` is no number"));
        match word.as_str() {
            "--small" => options.is_small = true,
            "--device" => options.ordinal = number(value()?)? as usize,
            "--seconds" => options.seconds = number(value()?)?,
            "--out" => options.out = PathBuf::from(value()?),
            // what cargo gives every benchmark
            "--bench" => {}
            other => return Err(format!("`{other}` is not an option")),
        }
    }
    Ok(options)
}
