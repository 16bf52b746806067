//! Whole forward passes on a device, before the emulator: every site of every family against transformers.

use std::sync::Arc;

use harvestd::compute::Backend;
use harvestd::compute::cuda::Cuda;
use harvestd::error::{ErrorKind, Result};
use harvestd::hooks::{HookPoint, PointShape, Site, Taps, Want};
use harvestd::runtime::worker::catch;

use super::device::{TURN, fail, open};
use super::fixture::{T, Tensors, batch, documents, record, worst_row_error};
use super::parity::{BESIDE_TRANSFORMERS, SITES, families, load, sites};

fn cuda() -> Option<Arc<Cuda>> {
    open().map(|device| Arc::new(Cuda::for_models(device).unwrap()))
}

#[test]
fn every_site_is_that_of_transformers() {
    let _turn = TURN.lock().unwrap_or_else(|e| e.into_inner());
    let Some(backend) = cuda() else { return };
    let mut wrong = Vec::new();
    for name in families() {
        let (errors, share) = sites(&backend, name);
        let (site, worst) = errors.iter().max_by(|a, b| a.1.total_cmp(&b.1)).unwrap();
        eprintln!("{name}: worst {worst:.1e} at {site}, {share:.2} of transformers in bfloat16");
        assert!(share < BESIDE_TRANSFORMERS, "{name}: {share:.2} times as far from f32 as transformers in bfloat16");
        assert!(*worst > 1e-4, "{name}: nothing is rounded to bfloat16");
        wrong.extend(
            errors.iter().filter(|(_, error)| *error > SITES).map(|(site, e)| format!("{name} {site} {e:.1e}")),
        );
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
    let memory = backend.device().memory_use();
    assert!(memory.peak > memory.used && memory.used < 1 << 20, "what models held is free again: {memory:?}");
}

#[test]
fn sequences_and_documents_do_not_see_each_other() {
    let _turn = TURN.lock().unwrap_or_else(|e| e.into_inner());
    let Some(backend) = cuda() else { return };
    for name in ["gpt2", "llama", "qwen2_window"] {
        let ids = Tensors::golden(name).ids();
        let mut model = load(&backend, name);
        let points = model.points().to_vec();
        let (a, b) = (&ids[..9], &ids[9..T]);
        let whole = record(model.as_mut(), &documents(&[vec![a, b]]), &|_| true);
        let first = record(model.as_mut(), &batch(&[a]), &|_| true);
        let second = record(model.as_mut(), &batch(&[b]), &|_| true);
        for PointShape { point, width, .. } in points {
            if matches!(point.site, Site::Pattern | Site::AttnScores) {
                continue; // its columns are positions in the sequence
            }
            let want = [&first[&point][..], &second[&point][..]].concat();
            let error = worst_row_error(&whole[&point], &want, width);
            // other tiles, so that sums and their rounding differ
            assert!(error < 1e-2, "{name} {point}: {error:e}");
        }
    }
}

/// Reads some columns of some rows, as captures do.
struct Picks(Vec<f32>);

impl<B: Backend> Taps<B> for Picks {
    fn wants(&self, point: HookPoint) -> Want {
        if point == HookPoint::block(1, Site::Z) { Want::Read } else { Want::Nothing }
    }

    fn visit(&mut self, backend: &B, _: HookPoint, value: &mut B::Tensor, n: usize, width: usize) -> Result<()> {
        let mut all = vec![0.0; n * width];
        backend.read(value, 0, &mut all);
        for columns in [0..width, 8..16, 3..7] {
            let rows = [5u32, 0, n as u32 - 1];
            let mut out = vec![0.0; rows.len() * columns.len()];
            backend.gather_rows(value, width, columns.clone(), &rows, &mut out);
            let want: Vec<f32> =
                rows.iter().flat_map(|&row| &all[row as usize * width..][columns.clone()]).copied().collect();
            assert_eq!(out, want, "{columns:?}");
            self.0.extend(out);
        }
        Ok(())
    }
}

#[test]
fn rows_and_columns_are_picked_on_the_device() {
    let _turn = TURN.lock().unwrap_or_else(|e| e.into_inner());
    let Some(backend) = cuda() else { return };
    let ids = Tensors::golden("llama").ids();
    let mut picks = Picks(Vec::new());
    load(&backend, "llama").forward(&batch(&[&ids[..T]]), &mut picks).unwrap();
    assert!(!picks.0.is_empty() && picks.0.iter().all(|x| x.is_finite()));
}

#[test]
fn mixtures_of_experts_are_refused() {
    let _turn = TURN.lock().unwrap_or_else(|e| e.into_inner());
    let Some(backend) = cuda() else { return };
    let ids = Tensors::golden("mixtral").ids();
    let mut model = load(&backend, "mixtral");
    let error = catch(|| {
        drop(record(model.as_mut(), &batch(&[&ids[..T]]), &|_| true));
        Ok(())
    })
    .unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Config);
    assert!(error.to_string().contains("a mixture of experts cannot be computed on a GPU"), "{error}");
}

#[test]
fn a_device_that_fails_under_a_pass_ends_it_with_the_fault() {
    let _turn = TURN.lock().unwrap_or_else(|e| e.into_inner());
    let Some(backend) = cuda() else { return };
    let ids = Tensors::golden("gpt2").ids();
    let mut model = load(&backend, "gpt2");
    fail(Some("cuLaunchKernel"), 9, 700);
    let outcome = catch(|| {
        drop(record(model.as_mut(), &batch(&[&ids[..T]]), &|_| true));
        Ok(())
    });
    fail(None, 0, 0);
    let error = outcome.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Device);
    assert!(error.to_string().contains("a kernel failed on cuda:0"), "{error}");
}
