//! Heads of sites: captured, they are columns of the whole; evaluated, only their columns are replaced. Coders of several
//! sites replace all of theirs at once.

use harvestd::activation::{KeepRule, capture};
use harvestd::compute::cpu::Cpu;
use harvestd::error::Result;
use harvestd::hooks::{self, HookPoint, Site, SiteWidth};
use harvestd::pipeline::evaluate::{Depth, Reconstruct, evaluate};
use harvestd::sae::codes::Codes;
use harvestd::tokens::TokenBatch;
use harvestd::tokens::config::ExcludeConfig;

use crate::fixture::*;
use crate::{T, cpu, load};

/// Two sequences of two documents' worth of hashes, as the capture needs them.
fn tokens(ids: &[u32]) -> TokenBatch {
    let mut batch = batch(&[&ids[..T], &ids[T..]]);
    batch.doc_ids = vec![1; batch.ids.len()];
    batch
}

#[test]
fn heads_are_slices_of_the_whole_at_every_site() {
    for name in MODELS {
        let mut model = load(cpu(), name);
        let spec = model.spec().clone();
        let points = spec.points(shape(name).context_length);
        let sites = hooks::resolve(&["**", "**[*]"], &points, spec.module_paths()).unwrap();
        let keep = KeepRule::new(&ExcludeConfig { positions: vec![0, 5], ..ExcludeConfig::default() }, &[]);
        let ids = Tensors::golden(name).ids();
        let captured = capture::<Cpu>(tokens(&ids), &sites, &keep, |batch, tap| model.forward(batch, tap)).unwrap();
        assert!(captured.n_rows() > 0);
        let mut heads = 0;
        for site in captured.sites.iter().filter(|site| site.point.head.is_some()) {
            let whole = captured.site(site.point.whole()).unwrap();
            let start = site.point.head.unwrap() as usize * site.width;
            let rows = whole.data.chunks_exact(whole.width).flat_map(|row| &row[start..start + site.width]);
            assert!(site.data.iter().eq(rows), "{name} {}", site.point);
            heads += 1;
        }
        let declared: usize = points.iter().filter(|shape| shape.has_heads()).map(|shape| shape.heads).sum();
        assert_eq!(heads, declared, "{name}");
        assert_eq!(sites.len(), points.len() + heads);
    }
}

/// Gives back its rows times `factor`; zeros, if it reads another site than it writes.
struct Scaled {
    reads: Vec<SiteWidth>,
    writes: Vec<SiteWidth>,
    factor: f32,
}

fn scaled(point: HookPoint, width: usize, factor: f32) -> Scaled {
    Scaled { reads: vec![(point, width)], writes: vec![(point, width)], factor }
}

impl Reconstruct for Scaled {
    fn reads(&self) -> &[SiteWidth] {
        &self.reads
    }

    fn writes(&self) -> &[SiteWidth] {
        &self.writes
    }

    fn n_latents(&self) -> usize {
        1
    }

    fn reconstruct(&self, rows: &[f32], out: &mut Vec<f32>, codes: &mut Codes) -> Result<()> {
        out.clear();
        codes.clear();
        let width = |sites: &[SiteWidth]| sites.iter().map(|(_, width)| width).sum::<usize>();
        for row in rows.chunks_exact(width(&self.reads)) {
            match self.reads == self.writes {
                true => out.extend(row.iter().map(|x| x * self.factor)),
                false => out.extend(vec![0.0; width(&self.writes)]),
            }
            codes.push(&[0], &[1.0]);
        }
        Ok(())
    }
}

/// Mean cross-entropy of the next token in each of the two sequences.
fn cross_entropy(logits: &[f32], ids: &[u32], vocab_size: usize) -> f64 {
    let loss = |row: usize| {
        let logits = &logits[row * vocab_size..][..vocab_size];
        let sum: f64 = logits.iter().map(|&x| f64::from(x).exp()).sum();
        sum.ln() - f64::from(logits[ids[row + 1] as usize])
    };
    let rows = (0..ids.len()).filter(|row| (row + 1) % T != 0);
    let losses: Vec<f64> = rows.map(loss).collect();
    losses.iter().sum::<f64>() / losses.len() as f64
}

#[test]
fn evaluating_a_head_replaces_its_columns_and_no_others() {
    for name in MODELS {
        let mut model = load(cpu(), name);
        let spec = model.spec().clone();
        let ids = Tensors::golden(name).ids();
        let (head, width) = (spec.n_heads - 1, spec.d_head);
        let z = HookPoint::block(0, Site::Z);
        let coder = |factor| scaled(z.at_head(head as u32), width, factor);
        let (same, nothing) = (coder(1.0), coder(0.0));
        let all = scaled(z, spec.n_heads * width, 0.0);
        let mut batches = vec![tokens(&ids)];
        let (coders, keep) = ([&same as &dyn Reconstruct, &nothing, &all], KeepRule::default());
        let found = evaluate(model.as_mut(), &coders, &keep, 1, &Depth::default(), || Ok(batches.pop()));
        let [same, nothing, all] = found
            .unwrap()
            .into_iter()
            .map(|found| found.evaluation().unwrap().language_model.unwrap())
            .collect::<Vec<_>>()
            .try_into()
            .unwrap();
        assert_eq!(same.ce_spliced, same.ce_clean, "{name}: its own values change nothing");
        assert_eq!(nothing.ce_spliced, nothing.ce_zero_ablated, "{name}");
        assert_ne!(nothing.ce_spliced, all.ce_spliced, "{name}: the other heads stay");

        let row = spec.n_heads * width;
        let columns = head * width..(head + 1) * width;
        let change = |i: usize, x: f32| if columns.contains(&(i % row)) { 0.0 } else { x };
        let hidden = final_after_edit(model.as_mut(), &tokens(&ids), z, &change);
        let mut logits = Vec::new();
        model.unembed(&hidden, &mut logits).unwrap();
        let expected = cross_entropy(&logits, &ids, spec.vocab_size);
        assert!((nothing.ce_spliced - expected).abs() < 1e-6, "{name}: {} {expected}", nothing.ce_spliced);
        assert!((nothing.ce_spliced - nothing.ce_clean).abs() > 1e-4, "{name}: the head does something");
    }
}

#[test]
fn coders_of_several_sites_replace_all_that_they_reconstruct() {
    for name in MODELS {
        let mut model = load(cpu(), name);
        let d = model.spec().d_model;
        let ids = Tensors::golden(name).ids();
        let (attention, mlp) = ((HookPoint::block(0, Site::AttnOut), d), (HookPoint::block(0, Site::MlpOut), d));
        let embedded = (HookPoint::block(0, Site::ResidPre), d);
        let both = vec![attention, mlp];
        let same = Scaled { reads: both.clone(), writes: both.clone(), factor: 1.0 };
        let half = Scaled { reads: both.clone(), writes: both.clone(), factor: 0.5 };
        // a transcoder that says nothing, and the same site without it
        let silent = Scaled { reads: vec![embedded], writes: vec![mlp], factor: 0.0 };
        let without = scaled(mlp.0, d, 0.0);
        let nothing = Scaled { reads: vec![embedded], writes: both, factor: 0.0 };
        let mut batches = vec![tokens(&ids)];
        let coders = [&same as &dyn Reconstruct, &half, &silent, &without, &nothing];
        let keep = KeepRule::default();
        let found = evaluate(model.as_mut(), &coders, &keep, 1, &Depth::default(), || Ok(batches.pop())).unwrap();
        let found: Vec<_> = found.into_iter().map(|found| found.evaluation().unwrap()).collect();
        let ce = |i: usize| found[i].language_model.unwrap();
        assert_eq!(ce(0).ce_spliced, ce(0).ce_clean, "{name}: their own values change nothing");
        assert_eq!(found[0].reconstruction.fvu, 0.0);
        assert_eq!(ce(2).ce_spliced, ce(3).ce_spliced, "{name}: what a transcoder writes is replaced");
        assert_eq!(ce(2).ce_spliced, ce(2).ce_zero_ablated);
        assert_eq!(ce(4).ce_spliced, ce(4).ce_zero_ablated);
        assert_ne!(ce(4).ce_spliced, ce(2).ce_spliced, "{name}: attention is replaced too");
        assert_ne!(ce(1).ce_spliced, ce(1).ce_clean);
        let sites: Vec<&str> = found[1].sites.iter().map(|site| site.site.as_str()).collect();
        assert_eq!(sites, ["blocks.0.hook_attn_out", "blocks.0.hook_mlp_out"]);
        // mean |x - x/2|^2 of a site is a quarter of its mean square; the sum of both sites' is the whole's
        let of_sites: f64 = found[1].sites.iter().map(|site| site.reconstruction.mse).sum();
        assert!((of_sites / found[1].reconstruction.mse - 1.0).abs() < 1e-6);
        assert!(found[2].sites.is_empty());
    }
}
