//! Coders are judged: the numbers are those of numpy and scipy, and what `harvestd eval` writes is read by programs and,
//! in a real browser, by people.

mod features;
#[path = "../support/mod.rs"]
mod support;

use std::path::Path;

use harvestd::compute::cpu::Cpu;
use harvestd::evaluation::dark_matter::DarkMatterSums;
use harvestd::evaluation::description::describe;
use harvestd::evaluation::geometry::Dictionary;
use harvestd::evaluation::reconstruction::ReconstructionSums;
use harvestd::evaluation::sample::CodeSample;
use harvestd::evaluation::sparsity::SparsitySums;
use harvestd::evaluation::{matching, rsa, universality};
use harvestd::report::Report;
use harvestd::runtime::rng::{Rng, Seed};
use harvestd::sae::codes::Codes;
use serde_json::{Value, json};
use support::{ask_python, harvestd, summary, write_corpus, write_pipeline};

fn normals(rng: &mut Rng, n: usize) -> Vec<f32> {
    (0..n).map(|_| rng.normal() as f32).collect()
}

fn rows_of(values: &[f32], width: usize) -> Value {
    json!(values.chunks_exact(width).map(|row| row.to_vec()).collect::<Vec<_>>())
}

/// Sparse codes that depend on `seen` `[n, 3]`, dense as `[n, f]`.
fn dense_codes(rng: &mut Rng, seen: &[f32], f: usize) -> Vec<f32> {
    let weights = normals(rng, f * 3);
    let rows = seen.chunks_exact(3);
    rows.flat_map(|row| {
        let code = |w: &[f32]| -> f32 { row.iter().zip(w).map(|(x, w)| x * w).sum() };
        weights.chunks_exact(3).map(|w| if code(w) > 1.5 { code(w) } else { 0.0 }).collect::<Vec<_>>()
    })
    .collect()
}

fn sparse(dense: &[f32], f: usize) -> Codes {
    let mut codes = Codes::default();
    for row in dense.chunks_exact(f) {
        let active: Vec<u32> = (0..f as u32).filter(|&i| row[i as usize] != 0.0).collect();
        codes.push(&active, &active.iter().map(|&i| row[i as usize]).collect::<Vec<f32>>());
    }
    codes
}

fn sample(codes: &Codes) -> CodeSample {
    let mut sample = CodeSample::default();
    sample.add(&(0..codes.len() as u64).collect::<Vec<_>>(), codes);
    sample
}

#[test]
fn numbers_are_those_of_numpy_and_scipy() {
    let Some(python) = support::python("metrics as numpy and scipy compute them") else { return };
    let (n, d, f) = (600, 12, 60);
    let mut rng = Seed(8).stream("metrics");
    let x: Vec<f32> = normals(&mut rng, n * d).iter().enumerate().map(|(i, x)| x + (i % d) as f32).collect();
    // shrunk, mixed and noisy
    let mixed = |i: usize| 0.1 * x[i / d * d + (i + 5) % d];
    let y: Vec<f32> = (0..n * d).map(|i| 0.8 * x[i] + mixed(i) + 0.3 * rng.normal() as f32).collect();
    let (first, second) = (normals(&mut rng, f * d), normals(&mut rng, (f + 7) * d));
    let seen = normals(&mut rng, n * 3);
    let (first_codes, second_codes) = (dense_codes(&mut rng, &seen, f), dense_codes(&mut rng, &seen, f + 7));

    let mean = (0..d).map(|j| x.iter().skip(j).step_by(d).map(|&x| f64::from(x)).sum::<f64>() / n as f64);
    let mut sums = ReconstructionSums::about(mean.collect());
    sums.add(&x, &y);
    let r = sums.finish().unwrap();
    let mut dark = DarkMatterSums::new(d, d).unwrap();
    dark.add(&x, &x, &y);
    let dark = dark.finish().unwrap();
    let dictionary = |rows: &[f32]| Dictionary {
        encoder_width: d,
        decoder_width: d,
        encoder: rows.to_vec(),
        decoder: rows.to_vec(),
        rows_scaled: false,
    };
    let matched = matching::compare(&Cpu::new(1).unwrap(), &dictionary(&first), &dictionary(&second)).unwrap();
    let wide = |rows: &[f32]| rows[..40 * d].iter().map(|&x| f64::from(x)).collect::<Vec<f64>>();
    let (a, b) = (sparse(&first_codes, f), sparse(&second_codes, f + 7));
    let universal = universality::compare((&sample(&a), &sample(&b)), (f, f + 7), None).unwrap();
    let mut sparsity = SparsitySums::new(f);
    let prompts: Vec<u64> = (0..n as u64).map(|row| row / 20).collect();
    sparsity.add_read(&a, &x, Some(&prompts));
    let s = sparsity.finish().unwrap();
    let description = describe(&sample(&a), None).unwrap();
    let bits_16 = description.by_bins.iter().find(|binned| binned.bins == 16).unwrap().bits;

    // near to the first's rows, so that the score is not that of chance
    let noise = wide(&second);
    let mixed_rows: Vec<f64> = wide(&first).iter().zip(&noise).map(|(x, noise)| x + 0.5 * noise).collect();
    let given = json!({
        "x": rows_of(&x, d), "y": rows_of(&y, d), "first": rows_of(&first, d), "second": rows_of(&second, d),
        "first_codes": rows_of(&first_codes, f), "second_codes": rows_of(&second_codes, f + 7),
    });
    let expected = ask_python(&python, "evaluation_reference.py", &[], &given);
    for (key, found) in [
        ("fvu", r.fvu),
        ("explained_variance_centred", r.explained_variance_centred),
        ("explained_variance_by_row", r.explained_variance_by_row.unwrap()),
        ("nmse", r.nmse),
        ("l2_ratio", r.l2_ratio),
        ("error_r2", dark.error_r2),
        ("error_r2_pooled", dark.error_r2_pooled),
        ("error_norm_r2", dark.error_norm_r2),
        ("input_norm_r2", dark.input_norm_r2),
        ("mmcs_first_to_second", matched.mmcs_first_to_second),
        ("mmcs_second_to_first", matched.mmcs_second_to_first),
        ("paired_cosine", matched.paired_cosine),
        ("svcca", universality::svcca(&wide(&first), d, &wide(&second), d)),
        ("cka", universality::cka(&wide(&first), d, &wide(&second), d)),
        ("rsa", rsa::rsa(&wide(&first), d, &wide(&second), d)),
        ("rsa_mixed", rsa::rsa(&wide(&first), d, &mixed_rows, d)),
        ("correlation_first_to_second", universal.correlation_first_to_second),
        ("correlation_second_to_first", universal.correlation_second_to_first),
        ("bits_16", bits_16),
        ("l0", s.l0),
        ("l0_p99", s.l0_p99 as f64),
        ("hoyer", s.hoyer),
        ("normalized_l1", s.normalized_l1.unwrap()),
        ("consistent_activation", s.consistent_activation.unwrap().mean),
        ("over_1_percent_mass", s.over_1_percent_mass.unwrap()),
        ("r2_scalar_mean", r.r2_scalar_mean.unwrap()),
    ] {
        let expected = expected[key].as_f64().unwrap();
        assert!((found - expected).abs() < 1e-5 * expected.abs().max(1.0), "{key}: {found}, expected {expected}");
    }
    assert!(
        r.fvu > 0.02 && dark.error_r2 > 0.1 && universal.correlation_first_to_second < 0.99,
        "a case that says little"
    );
}

/// The fields of a coder's report.
fn coder<'a>(report: &'a Report, name: &str) -> &'a harvestd::report::CoderReport {
    report.coders.iter().find(|coder| coder.name == name).unwrap_or_else(|| panic!("no coder {name}"))
}

fn report_in(folder: &Path) -> Report {
    serde_json::from_slice(&std::fs::read(folder.join("evaluation.json")).unwrap()).unwrap()
}

#[test]
fn trained_coders_are_judged_compared_and_shown() {
    let folder = tempfile::tempdir().unwrap();
    let (corpus, out) = (folder.path().join("corpus"), folder.path().join("out"));
    write_corpus(&corpus, 24, 4);
    let pipeline = write_pipeline(&corpus, &out);
    let text = std::fs::read_to_string(&pipeline).unwrap();
    let second = text.split("  - name: one").nth(1).unwrap().split("evaluate:").next().unwrap();
    let second = second.replace("/coder\"", "/second\"").replace("width: 384, k: 8", "width: 192, k: 16");
    let text = text.replace("evaluate:", &format!("  - name: two{second}evaluate:"));
    // a quarter of 59 steps of 1,024 rows
    let text = text.replace("    rows: 60k\n", "    rows: 60k\n    evaluate_every_rows: 15104\n");
    std::fs::write(&pipeline, text).unwrap();
    let pipeline = pipeline.to_str().unwrap();

    let early = harvestd(&["eval", pipeline]);
    let why = String::from_utf8_lossy(&early.stderr).into_owned();
    assert!(early.status.code() == Some(78) && why.contains("there is no coder to evaluate"), "{why}");
    let ran = harvestd(&["run", pipeline, "--json"]);
    assert!(ran.status.success(), "{}", String::from_utf8_lossy(&ran.stderr));
    let ran = summary(&ran);

    let to = out.join("evaluation");
    let (saelens, sparsify) = (out.join("coder/saelens"), out.join("coder/sparsify"));
    let given = format!("plain={}", saelens.display());
    let bare = format!("bare={}", sparsify.display());
    let args = ["eval", pipeline, "--out", to.to_str().unwrap(), "--coder", &given, "--coder", &bare];
    let siteless = harvestd(&args);
    let why = String::from_utf8_lossy(&siteless.stderr).into_owned();
    assert!(siteless.status.code() == Some(78) && why.contains("--site bare=SITE"), "{why}");
    let wrong = harvestd(&[&args[..], &["--site", "bare=blocks.1.mlp.hook_post"]].concat());
    let why = String::from_utf8_lossy(&wrong.stderr).into_owned();
    assert!(wrong.status.code() == Some(78) && why.contains("coder `bare` reads rows of"), "{why}");
    let judged = harvestd(&[&args[..], &["--site", "bare=blocks.1.hook_resid_post"]].concat());
    assert!(judged.status.success(), "{}", String::from_utf8_lossy(&judged.stderr));
    let shown = String::from_utf8_lossy(&judged.stdout).into_owned();
    assert!(shown.contains("one to two") && shown.contains("report.html"), "{shown}");

    let report = report_in(&to);
    let (one, two) = (coder(&report, "one"), coder(&report, "two"));
    let found = one.evaluation.as_ref().unwrap();
    // the end of the run said the same
    let at_the_end = &ran["trainers"][0]["evaluation"];
    for (key, found) in
        [("fvu", found.reconstruction.fvu), ("l0", found.sparsity.l0), ("dead_fraction", found.sparsity.dead_fraction)]
    {
        assert!((at_the_end[key].as_f64().unwrap() - found).abs() < 1e-9, "{key}: {at_the_end} {found}");
    }
    // and so did the judge while it trained, whose last turn was after the last step
    assert_eq!(one.held_out_history.iter().map(|p| p.rows).collect::<Vec<_>>(), [15_360, 30_720, 46_080, 60_416]);
    for (coder, ended) in [(one, 0), (two, 1)] {
        let (last, ended) = (coder.held_out_history.last().unwrap(), &ran["trainers"][ended]["evaluation"]);
        for (key, online) in [("fvu", last.fvu), ("l0", last.l0), ("dead_fraction", last.dead_fraction)] {
            assert_eq!(ended[key].as_f64().unwrap(), online, "{}: {key}", coder.name);
        }
    }
    assert!(one.held_out_history[0].fvu > one.held_out_history[3].fvu);
    let model = found.language_model.as_ref().unwrap();
    assert_eq!(at_the_end["language_model"]["ce_spliced"].as_f64().unwrap(), model.ce_spliced);
    let mean_ablated = model.ce_mean_ablated.unwrap();
    assert!(model.ce_clean < model.ce_spliced && model.ce_spliced < mean_ablated, "{model:?}");
    assert!(model.ce_recovered_mean.unwrap() < 1.0 && model.kl_recovered > 0.0, "{model:?}");
    assert!(found.reconstruction.explained_variance_by_row.is_some());
    assert!(one.history.len() > 10 && one.trained_rows.unwrap() >= 60_000, "{}", one.history.len());
    assert!(one.history.last().unwrap().fvu < one.history[0].fvu);
    assert_eq!(one.density.counts.iter().sum::<u64>(), 384);
    assert!(one.geometry.is_some() && one.description.as_ref().unwrap().by_bins[0].bits > 1.0);
    assert_eq!((two.latents, two.evaluation.as_ref().unwrap().sparsity.l0_p99), (192, 16));
    // what other tools are given is the same coder
    for name in ["plain", "bare"] {
        let other = coder(&report, name).evaluation.as_ref().unwrap().reconstruction;
        assert!((other.fvu / found.reconstruction.fvu - 1.0).abs() < 1e-4, "{name}: {other:?}");
        let pair = report.pairs.iter().find(|pair| pair.first == "one" && pair.second == name).unwrap();
        let (matched, universal) = (pair.matching.as_ref().unwrap(), pair.universality.as_ref().unwrap());
        assert!(matched.exact && matched.paired_cosine > 1.0 - 1e-5 && matched.shared == Some(1.0), "{matched:?}");
        assert!(universal.correlation_second_to_first > 0.999, "{universal:?}");
    }
    assert_eq!(report.pairs.len(), 6);
    let pair = report.pairs.iter().find(|pair| pair.second == "two").unwrap();
    let matched = pair.matching.as_ref().unwrap();
    assert!(matched.pairs == 192 && matched.paired_cosine < 0.99, "{matched:?}");

    with_special_tokens(pipeline, &out, &report);
    from_stored_rows(pipeline, &out);
    look_at(&to.join("report.html"), report.coders.len());
}

/// Rows of special tokens are judged too where that is wanted.
fn with_special_tokens(pipeline: &str, out: &Path, without: &Report) {
    let to = out.join("special");
    let judged = harvestd(&["eval", pipeline, "--special-tokens", "--json", "--out", to.to_str().unwrap()]);
    assert!(judged.status.success(), "{}", String::from_utf8_lossy(&judged.stderr));
    let rows = |report: &Report| coder(report, "one").evaluation.as_ref().unwrap().reconstruction.rows;
    let report = report_in(&to);
    assert!(report.held_out.special_tokens && rows(&report) > rows(without), "{} {}", rows(&report), rows(without));
    assert_eq!(summary(&judged)["report"]["coders"].as_array().unwrap().len(), 2);
}

/// The same coder on rows of the dataset that the run stored.
fn from_stored_rows(pipeline: &str, out: &Path) {
    let replay = out.join("replay.yaml");
    let text = std::fs::read_to_string(pipeline).unwrap();
    let trainers = text.split("trainers:").nth(1).unwrap().split("evaluate:").next().unwrap();
    let trainers = trainers.replace("blocks.1", "\"blocks.1").replace("resid_post", "resid_post\"");
    let text = format!(
        "version: 1\nname: stored\nreplay: {{url: \"{}/acts\", holdout: 20%}}\ntrainers:{trainers}evaluate: {{tokens: 2000}}\n",
        out.display()
    );
    std::fs::write(&replay, text).unwrap();
    let to = out.join("stored-evaluation");
    let judged = harvestd(&["eval", replay.to_str().unwrap(), "--out", to.to_str().unwrap()]);
    assert!(judged.status.success(), "{}", String::from_utf8_lossy(&judged.stderr));
    let report = report_in(&to);
    let found = coder(&report, "one").evaluation.as_ref().unwrap();
    assert_eq!((report.held_out.source.as_str(), found.language_model), ("rows", None));
    assert!(found.reconstruction.rows >= 2000 && found.reconstruction.fvu < 0.9, "{found:?}");
    let special = harvestd(&["eval", replay.to_str().unwrap(), "--special-tokens"]);
    assert_eq!(special.status.code(), Some(78));
    let none = harvestd(&["eval", replay.to_str().unwrap(), "--tokens", "0"]);
    let why = String::from_utf8_lossy(&none.stderr).into_owned();
    assert!(none.status.code() == Some(64) && why.contains("must be at least 1"), "{why}");
    // all rows, for a coder of others: nothing is trained
    let text = format!("version: 1\nname: all\nreplay: {{url: \"{}/acts\", holdout: 100%}}\n", out.display());
    std::fs::write(&replay, text).unwrap();
    let given = format!("plain={}", out.join("coder/saelens").display());
    let args = ["eval", replay.to_str().unwrap(), "--only-given", "--coder", &given, "--tokens", "2000"];
    let judged = harvestd(&[&args[..], &["--out", to.to_str().unwrap()]].concat());
    assert!(judged.status.success(), "{}", String::from_utf8_lossy(&judged.stderr));
    let all = report_in(&to);
    assert!(coder(&all, "plain").evaluation.as_ref().unwrap().reconstruction.rows >= 2000);
    assert_eq!(harvestd(&["eval", replay.to_str().unwrap()]).status.code(), Some(78), "a pipeline that may be run");
}

/// Coders whose weights no other format holds have directions too: their geometry, their pairs, the tokens they promote.
#[test]
fn coders_of_no_format_have_directions() {
    let folder = tempfile::tempdir().unwrap();
    let (corpus, out) = (folder.path().join("corpus"), folder.path().join("out"));
    write_corpus(&corpus, 24, 4);
    let pipeline = write_pipeline(&corpus, &out);
    let text = std::fs::read_to_string(&pipeline).unwrap();
    let (head, own) = text.split_once("  - name: one").unwrap();
    let (own, tail) = own.split_once("evaluate:").unwrap();
    let crossing = "{type: crosscoder, with: [blocks.0.mlp.hook_post]}";
    let mut trainers = String::new();
    for (name, coder, target) in [
        ("sparse", "{type: k_sparse, width: 64, k: 8}", ""),
        ("kron", "{type: kron, width: 64, k: 8}", ""),
        ("cross", "{type: topk, width: 96, k: 8}", crossing),
        ("ranked", "{type: topk, width: 96, k: 8, decoder: ranked}", ""),
        ("trans", "{type: topk, width: 64, k: 8}", "{type: transcoder, output: blocks.1.hook_mlp_out}"),
    ] {
        let own = own.replace("/coder\"", &format!("/{name}\"")).replace("rows: 60k", "rows: 6k");
        let at = own.find("coder: {").unwrap();
        let end = at + own[at..].find('\n').unwrap();
        let target = if target.is_empty() { String::new() } else { format!("\n    target: {target}") };
        trainers += &format!("  - name: {name}{}coder: {coder}{target}{}", &own[..at], &own[end..]);
    }
    std::fs::write(&pipeline, format!("{head}{trainers}evaluate:{tail}")).unwrap();
    let pipeline = pipeline.to_str().unwrap();
    let ran = harvestd(&["run", pipeline]);
    assert!(ran.status.success(), "{}", String::from_utf8_lossy(&ran.stderr));

    let to = out.join("evaluation");
    let given = format!("folder={}", out.join("ranked/saelens").display());
    let judged = harvestd(&["eval", pipeline, "--out", to.to_str().unwrap(), "--coder", &given, "--tokens", "8k"]);
    assert!(judged.status.success(), "{}", String::from_utf8_lossy(&judged.stderr));
    let report = report_in(&to);
    for coder in &report.coders {
        let (name, geometry) = (&coder.name, coder.geometry.as_ref().unwrap());
        assert!(geometry.decoder_norm.min > 0.0 && geometry.nearest_cosine.max > 0.0, "{name}: {geometry:?}");
        assert_eq!(geometry.encoder_norm.is_some(), name != "kron", "{name}");
        assert!(coder.description.as_ref().unwrap().by_bins.iter().all(|b| b.added_fvu.is_some()), "{name}");
        let sparsity = &coder.evaluation.as_ref().unwrap().sparsity;
        assert!(sparsity.normalized_l1.unwrap() > 0.0, "{name}");
        assert!(sparsity.consistent_activation.unwrap().min >= 1.0, "{name}");
    }
    let dark = coder(&report, "trans").dark_matter.unwrap();
    assert!(dark.rows_judged > 1000 && dark.error_r2 < 1.0, "{dark:?}");
    assert!(coder(&report, "cross").evaluation.as_ref().unwrap().fvu_of_sites.is_some());
    let of_pair = |a: &str, b: &str| report.pairs.iter().find(|pair| pair.first == a && pair.second == b).unwrap();
    let matched = of_pair("sparse", "kron").matching.as_ref().unwrap();
    assert!(matched.exact && matched.pairs == 64 && matched.shared.is_none(), "{matched:?}");
    assert!(of_pair("sparse", "cross").matching.is_none(), "rows of two sites are another space");
    // the checkpoint and its folder are one coder: the same values, bit for bit or nearly
    let same = of_pair("ranked", "folder").matching.as_ref().unwrap();
    assert!(same.shared == Some(1.0) && same.paired_cosine > 1.0 - 1e-5, "{same:?}");
    let (ours, theirs) = (coder(&report, "ranked"), coder(&report, "folder"));
    let sparsity = |coder: &harvestd::report::CoderReport| coder.evaluation.as_ref().unwrap().sparsity.clone();
    let bits = |coder: &harvestd::report::CoderReport| coder.description.as_ref().unwrap().by_bins[1].bits;
    for (what, a, b) in [
        ("hoyer", sparsity(ours).hoyer, sparsity(theirs).hoyer),
        ("normalized_l1", sparsity(ours).normalized_l1.unwrap(), sparsity(theirs).normalized_l1.unwrap()),
        ("bits", bits(ours), bits(theirs)),
        (
            "decoder norm",
            ours.geometry.as_ref().unwrap().decoder_norm.p50,
            theirs.geometry.as_ref().unwrap().decoder_norm.p50,
        ),
    ] {
        assert!((a / b - 1.0).abs() < 1e-3, "{what}: {a} of the checkpoint, {b} of the folder");
    }

    let to = out.join("features");
    let args = ["features", pipeline, "--out", to.to_str().unwrap(), "--tokens", "2k", "--format", "parquet", "--json"];
    let found = harvestd(&args);
    assert!(found.status.success(), "{}", String::from_utf8_lossy(&found.stderr));
    let said = summary(&found);
    let through = |name: &str| {
        let coders = said["coders"].as_array().unwrap().iter();
        coders.map(|coder| &coder["about"]).find(|about| about["coder"] == name).unwrap()["promotes_through"].clone()
    };
    // the other site of the crosscoder is none of the residual stream
    for name in ["sparse", "kron", "cross"] {
        assert_eq!(through(name), "blocks.1.hook_resid_post", "{name}");
    }
    assert_eq!(through("trans"), "blocks.1.hook_mlp_out");
}

/// The page in a real browser.
fn look_at(page: &Path, coders: usize) {
    let what = "the report in a browser";
    let (Some(python), Some(chromium)) = (support::python(what), support::chromium(what)) else { return };
    let pictures = page.parent().unwrap();
    let args = [chromium.as_str(), page.to_str().unwrap(), pictures.to_str().unwrap()];
    let found = ask_python(&python, "look_at_page.py", &args, &Value::Null);
    for key in ["console", "errors", "requests"] {
        assert_eq!(found[key], json!([]), "{key}");
    }
    let views = found["views"].as_array().unwrap();
    assert_eq!(views.len(), 4);
    for view in views {
        let headings = view["headings"].as_array().unwrap();
        for heading in ["Coders", "Frontier", "Training", "Densities", "Directions", "Pairs"] {
            assert!(headings.contains(&json!(heading)), "{heading}: {view}");
        }
        let charts = view["charts"].as_array().unwrap();
        let is_seen = |chart: &Value| chart[0].as_f64().unwrap() > 250.0 && chart[1].as_f64().unwrap() > 100.0;
        assert!(charts.len() >= 10 && charts.iter().all(is_seen), "{view}");
        assert!(view["marks"].as_u64().unwrap() as usize >= 2 * coders + 10, "{view}");
        assert_eq!(view["overflow"], 0, "nothing sticks out to the side: {view}");
        assert!(view["strokes"].as_array().unwrap().iter().all(|stroke| stroke != "none"), "{view}");
        assert!(Path::new(view["picture"].as_str().unwrap()).metadata().unwrap().len() > 20_000);
    }
    assert_ne!(views[0]["background"], views[2]["background"], "light and dark differ");
    if let Some(keep) = std::env::var_os("HARVESTD_PICTURES") {
        for view in views {
            let picture = Path::new(view["picture"].as_str().unwrap());
            std::fs::copy(picture, Path::new(&keep).join(picture.file_name().unwrap())).unwrap();
        }
        std::fs::copy(page, Path::new(&keep).join("report.html")).unwrap();
    }
}
