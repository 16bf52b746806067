//! Trainers on a device, before the emulator: the same steps as on the CPU.

use std::sync::Arc;

use harvestd::compute::cuda::Cuda;
use harvestd::error::ErrorKind;
use harvestd::runtime::worker::catch;
use harvestd::trainer::Trainer;
use serde_json::{Value, json};

use super::device::{TURN, fail, open};
use super::parity::{BATCH, LATENTS, PARAMETERS, ROWS, STEP, coders, cpu, rows, settings, train, training, whole};

fn topk() -> Value {
    json!({"type": "topk", "width": LATENTS, "k": 4, "dead_after_tokens": 200})
}

#[test]
fn fifty_steps_are_those_of_the_cpu() {
    let _turn = TURN.lock().unwrap_or_else(|e| e.into_inner());
    let Some(device) = open() else { return };
    for coder in coders() {
        let [reports, parameters] = training(&device, &coder);
        eprintln!("{}: reports within {reports:.1e} of the CPU's, parameters {parameters:.1e}", coder["type"]);
        assert!(reports < STEP && parameters < PARAMETERS, "{coder}: {reports:e}, {parameters:e}");
    }
}

#[test]
fn checkpoints_go_from_the_device_to_the_cpu() {
    let _turn = TURN.lock().unwrap_or_else(|e| e.into_inner());
    let Some(device) = open() else { return };
    let cuda = Arc::new(Cuda::for_coders(device).unwrap());
    // on the device the same bits every time, whatever was saved between
    let (_, uninterrupted) = whole(Arc::clone(&cuda), &topk());
    let mut first = Trainer::new(Arc::clone(&cuda), settings(topk())).unwrap();
    train(&mut first, 0, 20 * BATCH);
    let half_way = first.save().unwrap();
    let mut second = Trainer::restore(Arc::clone(&cuda), settings(topk()), &half_way).unwrap();
    assert!(second.save().unwrap() == half_way, "a restored trainer saves what it was restored from");
    train(&mut second, 20 * BATCH, ROWS);
    assert!(second.save().unwrap() == uninterrupted, "an interrupted run ends in other bytes");
    // and on the CPU training goes on from there
    let mut on_cpu = Trainer::restore(cpu(), settings(topk()), &half_way).unwrap();
    train(&mut on_cpu, 20 * BATCH, ROWS);
    let (a, b) = (on_cpu.report(), second.report());
    assert!((a.loss - b.loss).abs() < STEP * a.loss, "{a:?} {b:?}");
    let (mut out, mut l0, mut fired) = (Vec::new(), Vec::new(), vec![0; LATENTS]);
    let (mut other, mut other_l0) = (Vec::new(), Vec::new());
    let held_out = rows(30);
    second.reconstruct(&held_out, &mut out, &mut l0, &mut fired).unwrap();
    on_cpu.reconstruct(&held_out, &mut other, &mut other_l0, &mut fired).unwrap();
    assert!(out.iter().zip(&other).all(|(x, y)| (x - y).abs() < 0.05), "reconstructions differ");
}

#[test]
fn what_is_not_computed_on_a_device_is_refused() {
    let _turn = TURN.lock().unwrap_or_else(|e| e.into_inner());
    let Some(device) = open() else { return };
    let cuda = Arc::new(Cuda::for_coders(device).unwrap());
    let coder = json!({"type": "gated", "width": LATENTS, "l1_coefficient": 0.1});
    let error = catch(|| {
        train(&mut Trainer::new(cuda, settings(coder))?, 0, ROWS);
        Ok(())
    })
    .unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Config);
    assert!(error.to_string().contains("cannot be computed on a GPU"), "{error}");
}

#[test]
fn a_device_that_fails_leaves_the_last_checkpoint_good() {
    let _turn = TURN.lock().unwrap_or_else(|e| e.into_inner());
    let Some(device) = open() else { return };
    let cuda = Arc::new(Cuda::for_coders(device).unwrap());
    let mut trainer = Trainer::new(Arc::clone(&cuda), settings(topk())).unwrap();
    train(&mut trainer, 0, 20 * BATCH);
    let saved = trainer.save().unwrap();
    fail(Some("cuLaunchKernel"), 30, 719);
    let outcome = catch(|| {
        train(&mut trainer, 20 * BATCH, ROWS);
        Ok(())
    });
    fail(None, 0, 0);
    let error = outcome.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Device);
    assert!(error.to_string().contains("a kernel failed on cuda:0"), "{error}");
    assert!(catch(|| trainer.save()).is_err(), "nothing is saved of a device that failed");
    let again = Arc::new(Cuda::for_coders(open().unwrap()).unwrap());
    let mut restored = Trainer::restore(again, settings(topk()), &saved).unwrap();
    assert!(restored.save().unwrap() == saved);
    train(&mut restored, 20 * BATCH, ROWS);
    assert!(restored.done());
}
