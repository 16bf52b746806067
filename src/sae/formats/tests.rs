use serde_json::json;

use super::*;
use crate::compute::coder_ops::CoderDims;
use crate::compute::cpu::Cpu;
use crate::runtime::rng::Seed;
use crate::sae::codes::Codes;
use crate::sae::config::CoderConfig;
use crate::sae::export::{Architecture, ExportMetadata, W_SKIP, metadata, name_target};
use crate::sae::params::PerParam;
use crate::sae::rows::RowScaling;
use crate::sae::scales::{Part, Scales};
use crate::sae::settings::TargetSettings;
use crate::sae::{Coder, CoderSettings, continued};

const DIMS: CoderDims = CoderDims { d: 3, f: 5, out: 3, groups: 1 };
use Architecture::{Gated, GroupMax, Jumprelu, Standard, Topk};
const ARCHITECTURES: [Architecture; 4] = [Standard, Topk { k: 2 }, Jumprelu, Gated];
const GROUPED: Architecture = GroupMax { groups: 5 };

mod matrix;

/// A coder whose decoder rows have norms of their own; thresholds are positive.
fn small(architecture: Architecture) -> ExportedCoder {
    let mut rng = Seed(3).stream("small");
    let mut numbers = |n: usize| (0..n).map(|_| rng.normal() as f32).collect::<Vec<_>>();
    let params = PerParam {
        w_enc: numbers(15),
        b_enc: numbers(5),
        w_dec: numbers(15),
        b_dec: numbers(3),
        extra: architecture.extra().iter().map(|name| (*name, numbers(5).iter().map(|x| x.abs()).collect())).collect(),
    };
    let about = ExportMetadata { model_name: "m".into(), context_size: 128, ..ExportMetadata::default() };
    let metadata = metadata("blocks.1.hook_resid_post", None, &about);
    let apply_b_dec_to_input = architecture != Standard;
    let rows = RowScaling::None;
    ExportedCoder { dims: DIMS, architecture, apply_b_dec_to_input, rows, transcodes: false, params, metadata }
}

/// A transcoder of layer `layer` from 3 values to `out`, perhaps with a skip connection.
fn transcoder(architecture: Architecture, out: usize, layer: usize, skips: bool) -> ExportedCoder {
    let mut rng = Seed(5 + layer as u64).stream("transcoder");
    let mut numbers = |n: usize| (0..n).map(|_| rng.normal() as f32).collect::<Vec<_>>();
    let mut coder = small(architecture);
    coder.dims.out = out;
    (coder.transcodes, coder.apply_b_dec_to_input) = (true, false);
    (coder.params.w_dec, coder.params.b_dec) = (numbers(5 * out), numbers(out));
    if skips {
        coder.params.extra.push((W_SKIP, numbers(3 * out)));
    }
    let name = |site: &str| vec![format!("blocks.{layer}.{site}")];
    coder.metadata = metadata(&name("ln2.hook_normalized")[0], None, &ExportMetadata::default());
    name_target(&mut coder.metadata, &name("ln2.hook_normalized"), &name("hook_mlp_out"));
    coder
}

/// `architecture` across `layers` layers of 3 values, 5 latents each.
fn across(architecture: Architecture, layers: usize, first: usize) -> ExportedCoder {
    let mut rng = Seed(8).stream("across");
    let mut numbers = |n: usize| (0..n).map(|_| rng.normal() as f32).collect::<Vec<_>>();
    let (f, out) = (5 * layers, 3 * layers);
    let mut coder = transcoder(architecture, 3, 0, false);
    coder.dims = CoderDims { d: 3, f, out, groups: layers };
    let mut w_dec = numbers(f * out);
    for (i, row) in w_dec.chunks_mut(out).enumerate() {
        row[..i / 5 * 3].fill(0.0);
    }
    let threshold = numbers(f).iter().map(|x| x.abs()).collect();
    coder.params = PerParam { w_enc: numbers(f * 3), b_enc: numbers(f), w_dec, b_dec: numbers(out), extra: Vec::new() };
    if architecture == Jumprelu {
        coder.params.extra.push(("threshold", threshold));
    }
    let names = |site: &str| (first..first + layers).map(|i| format!("blocks.{i}.{site}")).collect::<Vec<_>>();
    name_target(&mut coder.metadata, &names("ln2.hook_normalized"), &names("hook_mlp_out"));
    coder
}

fn rows() -> Vec<f32> {
    let mut rng = Seed(3).stream("rows");
    (0..40 * 3).map(|_| 2.0 * rng.normal() as f32).collect()
}

/// Latents and reconstructions of [`rows`], times `scale`.
fn computed(coder: &ExportedCoder, scale: f32) -> (Vec<f32>, Vec<f32>) {
    let backend = Cpu::new(1).unwrap();
    let params = coder.upload(&backend);
    let rows: Vec<f32> = rows().iter().map(|x| scale * x).collect();
    let inference = coder.inference(&backend, &params);
    let (mut out, mut codes) = (Vec::new(), Codes::default());
    inference.code(&backend, &coder.scales(), &rows, &mut out, &mut codes);
    assert!(codes.entries() > 20, "hardly anything is active");
    (codes.dense(5), out)
}

fn assert_close(found: &[f32], expected: &[f32], what: &str) {
    assert_eq!(found.len(), expected.len(), "{what}");
    let off = found.iter().zip(expected).map(|(a, b)| (a - b).abs() / b.abs().max(1.0)).fold(0.0, f32::max);
    assert!(off < 1e-4, "{what}: off by {off}");
}

fn replace(files: &mut Files, file: usize, from: &str, to: &str) {
    let text = String::from_utf8(files[file].1.clone()).unwrap();
    assert!(text.contains(from), "{text}");
    files[file].1 = text.replace(from, to).into_bytes();
}

#[test]
fn a_saelens_folder_reads_back_as_it_was() {
    for architecture in ARCHITECTURES {
        let coder = ExportedCoder { rows: RowScaling::Standard, ..small(architecture) };
        let files = saelens::write(&coder).unwrap();
        let back = read(&files).unwrap();
        assert_eq!((back.dims, back.architecture), (coder.dims, coder.architecture));
        assert_eq!((back.apply_b_dec_to_input, back.rows), (coder.apply_b_dec_to_input, coder.rows));
        assert_eq!((back.params.names(), back.params.each()), (coder.params.names(), coder.params.each()));
        assert_eq!(back.metadata, coder.metadata);
        let w_enc = tensors::Tensors::open("w", &files[1].1).unwrap().floats("W_enc", &[3, 5]).unwrap();
        assert_eq!(w_enc[1], coder.params.w_enc[3], "SAELens has inputs as rows");
    }
}

#[test]
fn coders_of_whole_z_sites_are_reshaped_by_saelens() {
    for (site, head, reshape) in [
        ("blocks.0.attn.hook_z", None, "hook_z"),
        ("blocks.0.attn.hook_z", Some(1), "none"),
        ("blocks.0.mlp", None, "none"),
    ] {
        let coder = ExportedCoder { metadata: metadata(site, head, &ExportMetadata::default()), ..small(Standard) };
        let config: Value = serde_json::from_slice(&saelens::write(&coder).unwrap()[0].1).unwrap();
        assert_eq!(config["reshape_activations"], reshape, "{site} {head:?}");
    }
}

#[test]
fn a_topk_coder_reads_back_from_sparsify_and_others_have_no_folder() {
    let coder = small(Topk { k: 2 });
    let files = sparsify::write(&coder).unwrap().unwrap();
    let back = read(&files).unwrap();
    assert_eq!((back.dims, back.architecture), (coder.dims, coder.architecture));
    assert_eq!(back.params.each(), coder.params.each());
    let unshifted = ExportedCoder { apply_b_dec_to_input: false, ..coder.clone() };
    let folded = read(&sparsify::write(&unshifted).unwrap().unwrap()).unwrap();
    assert!(folded.apply_b_dec_to_input);
    assert_close(&computed(&folded, 1.0).0, &computed(&unshifted, 1.0).0, "bias folded");
    let grouped = small(GROUPED);
    assert_eq!(read(&sparsify::write(&grouped).unwrap().unwrap()).unwrap().architecture, GROUPED);
    assert!(
        Format::Saelens.write(&grouped).unwrap().is_none()
            && Format::DictionaryLearning.write(&grouped).unwrap().is_none()
    );
    assert!(sparsify::write(&small(Standard)).unwrap().is_none());
    assert!(sparsify::write(&ExportedCoder { rows: RowScaling::Norm, ..coder }).unwrap().is_none());
}

#[test]
fn transcoders_read_back_as_they_were_with_their_skip_connections() {
    let names = ["transcoder", "skip_transcoder", "jumprelu_transcoder", "jumprelu_skip_transcoder"];
    let kinds = [(Standard, false), (Standard, true), (Jumprelu, false), (Jumprelu, true)];
    for ((architecture, skips), name) in kinds.into_iter().zip(names) {
        let coder = transcoder(architecture, 4, 0, skips);
        let files = Format::Saelens.write(&coder).unwrap().unwrap();
        let config: Value = serde_json::from_slice(&files[0].1).unwrap();
        assert_eq!((&config["architecture"], &config["d_out"]), (&json!(name), &json!(4)));
        let back = read(&files).unwrap();
        assert_eq!((back.dims, back.architecture, back.transcodes), (coder.dims, architecture, true));
        assert!(!back.apply_b_dec_to_input && back.metadata == coder.metadata);
        assert_eq!((back.params.names(), back.params.each()), (coder.params.names(), coder.params.each()));
        assert!(Format::Sparsify.write(&coder).unwrap().is_none());
        assert!(Format::DictionaryLearning.write(&coder).unwrap().is_none());
    }
    for skips in [false, true] {
        let coder = transcoder(Topk { k: 2 }, 3, 0, skips);
        assert!(Format::Saelens.write(&coder).unwrap().is_none() && saelens::write(&coder).is_err());
        let back = read(&Format::Sparsify.write(&coder).unwrap().unwrap()).unwrap();
        assert_eq!((back.dims, back.architecture, back.transcodes), (coder.dims, coder.architecture, true));
        assert_eq!((back.params.names(), back.params.each()), (coder.params.names(), coder.params.each()));
        assert_close(&computed(&back, 1.0).1, &computed(&coder, 1.0).1, "sparsify");
        assert!(Format::Sparsify.write(&transcoder(Topk { k: 2 }, 4, 0, skips)).unwrap().is_none(), "of other widths");
    }
}

#[test]
fn a_skip_connection_adds_a_linear_map_of_the_raw_input() {
    let coder = transcoder(Jumprelu, 4, 0, true);
    let mut bare = coder.clone();
    bare.params.extra.retain(|(name, _)| *name != W_SKIP);
    let w_skip = coder.params.extra(W_SKIP);
    let ((latents, out), (same, without)) = (computed(&coder, 1.0), computed(&bare, 1.0));
    assert_eq!(latents, same);
    let expected: Vec<f32> = rows()
        .chunks(3)
        .zip(without.chunks(4))
        .flat_map(|(x, y)| {
            let row = |j: usize| (0..3).map(|i| x[i] * w_skip[j * 3 + i]).sum::<f32>();
            (0..4).map(|j| y[j] + row(j)).collect::<Vec<_>>()
        })
        .collect();
    assert_close(&out, &expected, "skip connection");
    // what was trained on other scales of both sides
    let unscaled = coder.of_unscaled_sides(4.0, 0.5);
    let scaled: Vec<f32> = out.iter().map(|y| y / 0.5).collect();
    assert_close(&computed(&unscaled, 0.25).1, &scaled, "scales of two sides");
}

#[test]
fn circuit_tracer_folders_have_all_layers_or_say_what_is_wrong() {
    let set: Vec<_> = [1, 0, 2].into_iter().map(|layer| transcoder(Jumprelu, 3, layer, true)).collect();
    let files = circuit_tracer::write(&set).unwrap().unwrap();
    let names: Vec<&str> = files.iter().map(|(name, _)| name.as_str()).collect();
    assert_eq!(names, ["layer_0.safetensors", "layer_1.safetensors", "layer_2.safetensors", "config.yaml"]);
    let text = std::str::from_utf8(&files[3].1).unwrap();
    assert!(text.contains("model_kind: \"transcoder_set\"\n") && text.contains("hook: \"ln2.hook_normalized\"\n"));
    let layer = tensors::Tensors::open("layer", &files[1].1).unwrap();
    assert_eq!(layer.floats("W_skip", &[3, 3]).unwrap(), *set[0].params.extra(W_SKIP));
    assert_eq!(layer.floats("W_enc", &[5, 3]).unwrap(), set[0].params.w_enc);

    let clt = across(Jumprelu, 3, 0);
    let files = circuit_tracer::write(std::slice::from_ref(&clt)).unwrap().unwrap();
    assert_eq!(files.len(), 7);
    let decoder = tensors::Tensors::open("W_dec_1", &files[3].1).unwrap().floats("W_dec_1", &[5, 2, 3]).unwrap();
    assert_eq!(decoder[..6], clt.params.w_dec[5 * 9 + 3..][..6], "layers 1 and 2 of the first latent of layer 1");

    let error = |coders: &[ExportedCoder]| circuit_tracer::write(coders).unwrap_err().to_string();
    assert!(error(&set[..1]).contains("all layers from 0, each once; these are of [1]"), "{}", error(&set[..1]));
    let twice = [set[1].clone(), set[1].clone()];
    assert!(error(&twice).contains("[0, 0]"));
    let mut other = set[0].clone();
    name_target(&mut other.metadata, &[], &["blocks.1.mlp.hook_out".to_owned()]);
    assert!(error(&[set[1].clone(), other.clone()]).contains("the same sites"));
    let bare = transcoder(Jumprelu, 3, 1, false);
    assert!(error(&[set[1].clone(), bare]).contains("layers 0 and 1 differ"));
    assert!(error(&[across(Standard, 2, 1)]).contains("from layer 0"));
    other.metadata.insert("hook_name".to_owned(), json!("embed"));
    assert!(error(&[other]).contains("blocks.N.SITE"));
    for cannot in [transcoder(Topk { k: 2 }, 3, 0, false), transcoder(Standard, 4, 0, false), small(Standard)] {
        assert!(circuit_tracer::write(&[cannot]).unwrap().is_none());
    }
}

#[test]
fn what_cannot_be_read_is_named() {
    let error = |files: &[(String, Vec<u8>)]| read(files).unwrap_err().to_string();
    let whole = saelens::write(&small(Topk { k: 2 })).unwrap();
    for (from, to, part) in [
        ("\"topk\"", "\"temporal\"", "`architecture` is \"temporal\""),
        ("\"d_in\": 3", "\"d_in\": 4", "`W_enc` is F32 [3, 5]: expected floats [4, 5]"),
        ("\"k\": 2", "\"k\": -2", "`k` is not a positive number"),
        ("\"rescale_acts_by_decoder_norm\": false", "\"rescale_acts_by_decoder_norm\": 1", "expected true or false"),
        ("\"normalize_activations\": \"none\"", "\"normalize_activations\": \"covariance_whitening\"", "can be read"),
        (
            "\"normalize_activations\": \"none\"",
            "\"normalize_activations\": \"expected_average_only_in\"",
            "activation_scaler.json",
        ),
    ] {
        let mut files = whole.clone();
        replace(&mut files, 0, from, to);
        assert!(error(&files).contains(part), "{to}: {}", error(&files));
    }
    assert!(error(&whole[1..]).contains("cfg.json"));
    assert!(error(&whole[..1]).contains("sae_weights.safetensors"));
    let whole = sparsify::write(&small(Topk { k: 2 })).unwrap().unwrap();
    for (from, to, part) in [
        ("\"topk\"", "\"batchtopk\"", "`activation` is \"batchtopk\""),
        ("\"topk\"", "\"groupmax\"", "`k` is 2: it must divide the number of latents (5)"),
        ("\"num_latents\": 5", "\"num_latents\": 6", "`encoder.weight` is F32 [5, 3]"),
        ("\"num_latents\": 5", "\"num_latents\": 0", "`encoder.weight` is F32 [5, 3]"),
    ] {
        let mut files = whole.clone();
        replace(&mut files, 0, from, to);
        assert!(error(&files).contains(part), "{to}: {}", error(&files));
    }
    for (from, to, part) in [
        ("\"transcode\": false", "\"transcode\": 1", "`transcode` is 1: expected true or false"),
        ("\"skip_connection\": false", "\"skip_connection\": true", "only skip connections of transcoders"),
    ] {
        let mut files = whole.clone();
        replace(&mut files, 0, from, to);
        assert!(error(&files).contains(part), "{to}: {}", error(&files));
    }
    let transcoder = saelens::write(&transcoder(Standard, 4, 0, true)).unwrap();
    for (from, to, part) in [
        ("\"d_out\": 4", "\"d_out\": 3", "`W_dec` is F32 [5, 4]: expected floats [5, 3]"),
        ("\"d_out\": 4", "\"d_other\": 4", "`d_out` is not a positive number"),
        ("\"normalize_activations\": \"none\"", "\"normalize_activations\": \"layer_norm\"", "of a transcoder"),
    ] {
        let mut files = transcoder.clone();
        replace(&mut files, 0, from, to);
        assert!(error(&files).contains(part), "{to}: {}", error(&files));
    }
    let mut cut = whole;
    cut[1].1.truncate(40);
    assert!(error(&cut).contains("sae.safetensors"));
}

#[test]
fn an_input_scale_beside_the_weights_is_folded_in() {
    let coder = small(Jumprelu);
    let mut files = saelens::write(&coder).unwrap();
    replace(
        &mut files,
        0,
        "\"normalize_activations\": \"none\"",
        "\"normalize_activations\": \"expected_average_only_in\"",
    );
    files.push((saelens::SCALER_FILE.to_owned(), b"{\"scaling_factor\": 0.25}".to_vec()));
    let (latents, out) = computed(&read(&files).unwrap(), 1.0);
    let (expected, scaled) = computed(&coder, 0.25);
    assert_close(&latents, &expected, "latents");
    assert_close(&out, &scaled.iter().map(|x| 4.0 * x).collect::<Vec<_>>(), "reconstructions");
}

#[test]
fn weights_are_read_from_any_floats() {
    use half::{bf16, f16};
    use safetensors::tensor::{Dtype, TensorView};
    let coder = small(Standard);
    let values: [f32; 3] = [1.5, -0.25, 3.0];
    let as_bytes: [(Dtype, Vec<u8>); 3] = [
        (Dtype::F16, values.iter().flat_map(|&x| f16::from_f32(x).to_le_bytes()).collect()),
        (Dtype::BF16, values.iter().flat_map(|&x| bf16::from_f32(x).to_le_bytes()).collect()),
        (Dtype::F64, values.iter().flat_map(|&x| f64::from(x).to_le_bytes()).collect()),
    ];
    let mut files = saelens::write(&coder).unwrap();
    let weights = files[1].1.clone();
    for (dtype, bytes) in &as_bytes {
        let old = safetensors::SafeTensors::deserialize(&weights).unwrap();
        let mut views: Vec<_> = old.tensors().into_iter().filter(|(name, _)| name != "b_dec").collect();
        views.push(("b_dec".to_owned(), TensorView::new(*dtype, vec![3], bytes).unwrap()));
        files[1].1 = safetensors::serialize(views, None).unwrap();
        assert_eq!(read(&files).unwrap().params.b_dec, values, "{dtype:?}");
    }
    let old = safetensors::SafeTensors::deserialize(&weights).unwrap();
    let mut views: Vec<_> = old.tensors().into_iter().filter(|(name, _)| name != "b_dec").collect();
    let bytes = [0u8; 12];
    views.push(("b_dec".to_owned(), TensorView::new(Dtype::I32, vec![3], &bytes).unwrap()));
    files[1].1 = safetensors::serialize(views, None).unwrap();
    assert!(read(&files).unwrap_err().to_string().contains("`b_dec` is I32"));
}

#[test]
fn folds_leave_the_reconstruction_and_change_latents_by_their_gains() {
    for architecture in ARCHITECTURES {
        let coder = small(architecture);
        let (latents, out) = computed(&coder, 1.0);
        let turned = coder.clone().with_b_dec_subtracted(!coder.apply_b_dec_to_input);
        assert_ne!(turned.params.b_enc, coder.params.b_enc);
        let (same_latents, same) = computed(&turned, 1.0);
        assert_close(&same_latents, &latents, "latents, bias");
        assert_close(&same, &out, "reconstructions, bias");
        let (scaled_latents, scaled) = computed(&coder.clone().of_unscaled(4.0), 0.25);
        assert_close(&scaled_latents, &latents, "latents, scale");
        assert_close(&scaled.iter().map(|x| 4.0 * x).collect::<Vec<_>>(), &out, "reconstructions, scale");
        if architecture != (Topk { k: 2 }) {
            let norms = coder.decoder_norms();
            let unit = coder.with_unit_decoder();
            assert!(unit.decoder_norms().iter().all(|norm| (norm - 1.0).abs() < 1e-6));
            let (gained, same) = computed(&unit, 1.0);
            let expected: Vec<f32> = latents.iter().enumerate().map(|(i, x)| x * norms[i % 5] as f32).collect();
            assert_close(&gained, &expected, "latents, norms");
            assert_close(&same, &out, "reconstructions, norms");
        }
    }
}

/// `coder:` sections that train what a folder holds.
fn trains(architecture: Architecture) -> Vec<Value> {
    match architecture {
        Standard => vec![
            json!({"type": "standard", "width": 5, "l1_coefficient": 1}),
            json!({"type": "standard", "width": 5, "l1_coefficient": 1, "form": "bricken"}),
        ],
        Topk { .. } => vec![
            json!({"type": "topk", "width": 5, "k": 2}),
            json!({"type": "topk", "width": 5, "k": 2, "decoder": "ranked"}),
        ],
        Jumprelu => vec![
            json!({"type": "jumprelu", "width": 5, "l0_coefficient": 1}),
            json!({"type": "jumprelu", "width": 5, "l0_coefficient": 1, "decoder": "unit"}),
            json!({"type": "jumprelu", "width": 5, "l0_coefficient": 1, "decoder": "free"}),
        ],
        GroupMax { .. } => vec![json!({"type": "group_max", "width": 5, "k": 5})],
        Gated => vec![
            json!({"type": "gated", "width": 5, "l1_coefficient": 1}),
            json!({"type": "gated", "width": 5, "l1_coefficient": 1, "decoder": "free"}),
        ],
    }
}

fn settings(coder: &Value, d: usize) -> crate::sae::CoderSettings {
    serde_json::from_value::<CoderConfig>(coder.clone()).unwrap().settings(d).unwrap()
}

#[test]
fn training_goes_on_from_the_same_reconstruction() {
    let backend = Cpu::new(1).unwrap();
    for architecture in ARCHITECTURES {
        let mut from = small(architecture);
        if architecture == (Topk { k: 2 }) {
            from.params.w_dec.chunks_mut(3).for_each(|row| {
                let norm = row.iter().map(|x| x * x).sum::<f32>().sqrt();
                row.iter_mut().for_each(|x| *x *= 0.7 / norm);
            });
        }
        let (_, expected) = computed(&from, 1.0);
        for json in trains(architecture) {
            let settings = settings(&json, 3);
            continued::check(&from, &settings, RowScaling::None).unwrap();
            let (params, state) = continued::start(&backend, &from, &settings, &Scales::one(3, 1.9));
            let mut coder = Coder::new(&backend, settings, params, 40);
            coder.state = state;
            let back =
                ExportedCoder::new(&backend, &coder, &coder.params, &Scales::one(3, 1.9), serde_json::Map::new())
                    .unwrap();
            assert_close(&computed(&back, 1.0).1, &expected, &json.to_string());
            let (mut out, mut l0) = (Vec::new(), Vec::new());
            let inference = coder.inference(&backend, &coder.params);
            inference.reconstruct(&backend, &Scales::one(3, 1.9), &rows(), &mut out, &mut l0, &mut [0; 5]);
            assert_close(&out, &expected, &json.to_string());
        }
    }
}

#[test]
fn a_transcoder_goes_on_with_a_scale_for_each_side() {
    let backend = Cpu::new(1).unwrap();
    let topk = json!({"type": "topk", "width": 5, "k": 2, "decoder": "free"});
    let standard = json!({"type": "standard", "width": 5, "l1_coefficient": 1});
    let jumprelu = json!({"type": "jumprelu", "width": 5, "l0_coefficient": 1, "decoder": "unit"});
    for (architecture, json) in [(Topk { k: 2 }, topk), (Standard, standard), (Jumprelu, jumprelu)] {
        let skips = architecture != Standard;
        let from = transcoder(architecture, 4, 0, skips);
        // one that the folder does not have starts at 0
        let settings = settings(&json, 4).reading(3).with_skip();
        continued::check(&from, &settings, RowScaling::None).unwrap();
        let bare =
            CoderSettings { target: TargetSettings { skip: false, ..settings.target.clone() }, ..settings.clone() };
        assert_eq!(continued::check(&from, &bare, RowScaling::None).is_err(), skips);
        let part = |width, scale| vec![Part { width, scale }];
        let scales = Scales { input: part(3, 1.9), output: part(4, 0.3) };
        let (params, state) = continued::start(&backend, &from, &settings, &scales);
        let mut coder = Coder::new(&backend, settings, params, 40);
        coder.state = state;
        let back = ExportedCoder::new(&backend, &coder, &coder.params, &scales, serde_json::Map::new()).unwrap();
        assert!(back.transcodes);
        assert_close(&computed(&back, 1.0).1, &computed(&from, 1.0).1, &json.to_string());
    }
}

#[test]
fn a_batch_topk_coder_goes_on_with_its_threshold() {
    let backend = Cpu::new(1).unwrap();
    let mut from = small(Jumprelu).with_unit_decoder();
    from.params.extra[0].1.fill(0.4);
    let (_, expected) = computed(&from, 1.0);
    for decoder in ["unit", "ranked"] {
        let settings = settings(&json!({"type": "batch_topk", "width": 5, "k": 2, "decoder": decoder}), 3);
        continued::check(&from, &settings, RowScaling::None).unwrap();
        let (params, state) = continued::start(&backend, &from, &settings, &Scales::one(3, 1.9));
        // in scaled space decoder rows are longer, and so are values once they have norm 1
        assert!((state.threshold.unwrap().value - 0.4 * 1.9).abs() < 1e-6, "{state:?}");
        let mut coder = Coder::new(&backend, settings, params, 40);
        coder.state = state;
        let back =
            ExportedCoder::new(&backend, &coder, &coder.params, &Scales::one(3, 1.9), serde_json::Map::new()).unwrap();
        assert_close(&computed(&back, 1.0).1, &expected, decoder);
    }
}

#[test]
fn what_does_not_fit_is_named() {
    let refused = |from: &ExportedCoder, json: Value, d: usize, rows| {
        continued::check(from, &settings(&json, d), rows).unwrap_err().to_string()
    };
    let topk = json!({"type": "topk", "width": 5, "k": 2});
    let none = RowScaling::None;
    let message = refused(&small(Topk { k: 2 }), topk.clone(), 4, none);
    assert!(message.contains("5 latents from width 3 to 3, this one 5 from width 4 to 4"), "{message}");
    let message = refused(&small(Gated), topk.clone(), 3, none);
    assert!(message.contains("architecture gated"), "{message}");
    let message = refused(&small(Topk { k: 2 }), topk.clone(), 3, RowScaling::Norm);
    assert!(message.contains("`normalize_activations: none`"), "{message}");
    let message = refused(&small(Topk { k: 2 }), topk, 3, none);
    assert!(message.contains("decoder rows of norms from"), "{message}");
    let message = refused(
        &transcoder(Standard, 3, 0, false),
        json!({"type": "standard", "width": 5, "l1_coefficient": 1}),
        3,
        none,
    );
    assert!(message.contains("reconstructs another site than what it reads"), "{message}");
    let message =
        refused(&small(Jumprelu).with_unit_decoder(), json!({"type": "batch_topk", "width": 5, "k": 2}), 3, none);
    assert!(message.contains("thresholds from"), "{message}");
}

#[test]
fn dictionary_learning_folders_have_unit_decoder_rows_where_ranking_allows_it() {
    for architecture in ARCHITECTURES {
        let files = dictionary_learning::write(&small(architecture)).unwrap().unwrap();
        let config: Value = serde_json::from_slice(&files[0].1).unwrap();
        assert_eq!(config["trainer"]["layer"], 1);
        let tensors = tensors::Tensors::open("ae", &files[1].1).unwrap();
        let w_dec = match architecture {
            Jumprelu => tensors.floats("W_dec", &[5, 3]).unwrap(),
            _ => tensors::transposed(&tensors.floats("decoder.weight", &[3, 5]).unwrap(), 3, 5),
        };
        let unit = w_dec.chunks(3).all(|row| (row.iter().map(|x| x * x).sum::<f32>() - 1.0).abs() < 1e-5);
        assert_eq!(unit, architecture != (Topk { k: 2 }), "{architecture:?}");
    }
    assert!(dictionary_learning::write(&ExportedCoder { rows: RowScaling::Norm, ..small(Gated) }).unwrap().is_none());
}
