//! The report's page.

use super::chart::{Axis, Mark, Series, chart};
use super::html::{count, escaped, maybe, number, percent, table};
use super::result::{CoderReport, PairReport, Report};
use crate::evaluation::Evaluation;
use crate::evaluation::geometry::{Geometry, Histogram, Spread};
use crate::trainer::history::{HeldOutPoint, HistoryPoint};

const STYLE: &str = include_str!("style.css");
/// Characters of a name in a plot.
const NAME_MAX: usize = 28;

/// The page of `report`.
pub fn page(report: &Report) -> String {
    let pipeline = escaped(&report.pipeline);
    let body = [
        heading(report),
        section("Coders", &summary(report)),
        section("Frontier", &frontier(report)),
        section("Training", &training(report)),
        section("Densities", &densities(report)),
        section("Directions", &directions(report)),
        section("Reconstruction", &reconstruction(report)),
        section("In the host model", &language_model(report)),
        section("Sparsity and description", &sparsity(report)),
        section("Dark matter", &dark_matter(report)),
        section("Pairs", &pairs(&report.pairs)),
    ]
    .concat();
    format!(
        "<!DOCTYPE html>\n<html lang=\"en\"><head><meta charset=\"utf-8\">\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\
         <meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'; img-src data:\">\
         <meta name=\"color-scheme\" content=\"light dark\"><link rel=\"icon\" href=\"data:,\">\
         <title>{pipeline}: evaluation</title><style>{STYLE}</style></head><body><main>{body}</main></body></html>\n"
    )
}

fn heading(report: &Report) -> String {
    let held_out = &report.held_out;
    let unit = if held_out.source == "text" { "held-out tokens" } else { "held-out rows" };
    let special = if held_out.special_tokens { ", special tokens included" } else { "" };
    format!(
        "<header><h1>{}</h1><p>{} on up to {} {unit}{special}; harvestd {}. Hover over a column's name for its \
         definition.</p></header>",
        escaped(&report.pipeline),
        if report.coders.len() == 1 { "1 coder".to_owned() } else { format!("{} coders", report.coders.len()) },
        count(held_out.wanted),
        escaped(&report.harvestd),
    )
}

/// Nothing without content.
fn section(title: &str, content: &str) -> String {
    if content.is_empty() { String::new() } else { format!("<section><h2>{title}</h2>{content}</section>") }
}

/// A table with a row for each coder that `row` says something about; nothing without rows.
fn by_coder(report: &Report, header: &[(&str, &str)], row: impl Fn(&CoderReport) -> Option<Vec<String>>) -> String {
    let rows: Vec<Vec<String>> =
        report.coders.iter().filter_map(|coder| Some([vec![coder.name.clone()], row(coder)?].concat())).collect();
    let header: Vec<(&str, &str)> = [("coder", "its name")].into_iter().chain(header.iter().copied()).collect();
    if rows.is_empty() { String::new() } else { table(&header, &rows) }
}

fn of(coder: &CoderReport) -> Option<&Evaluation> {
    coder.evaluation.as_ref()
}

fn summary(report: &Report) -> String {
    let header = [
        ("site", "whose rows it reconstructs"),
        ("latents", "of the dictionary"),
        ("trained rows", "rows of the site that it was trained on"),
        ("L0", "mean number of latents that fire on a row"),
        ("FVU", "fraction of variance unexplained: sum |x - y|² / sum |x - mean x|²"),
        ("dead", "share of latents that fired on no row of the sample"),
        ("ΔCE", "cross-entropy with reconstructions less that without, nats a token"),
        ("CE recovered", "(CE of zeros - CE of reconstructions) / (CE of zeros - CE)"),
        ("bits", "description length of a row's code"),
        ("from", "checkpoint or folder"),
    ];
    by_coder(report, &header, |coder| {
        let e = of(coder);
        let model = e.and_then(|e| e.language_model.as_ref());
        Some(vec![
            coder.site.clone(),
            count(coder.latents as u64),
            coder.trained_rows.map_or_else(|| "-".to_owned(), count),
            maybe(e.map(|e| e.sparsity.l0)),
            maybe(e.map(|e| e.reconstruction.fvu)),
            e.map_or_else(|| "-".to_owned(), |e| percent(e.sparsity.dead_fraction)),
            maybe(model.map(|m| m.ce_increase)),
            model.map_or_else(|| "-".to_owned(), |m| percent(m.ce_recovered)),
            maybe(coder.description.as_ref().and_then(|d| d.bits)),
            coder.from.clone(),
        ])
    })
}

/// One series a coder, in its colour; coders without points have none.
fn series(report: &Report, points: impl Fn(&CoderReport) -> Vec<(f64, f64)>) -> Vec<Series> {
    let short = |name: &str| match name.chars().count() > NAME_MAX {
        true => name.chars().take(NAME_MAX - 1).chain(['…']).collect(),
        false => name.to_owned(),
    };
    let coders = report.coders.iter().enumerate();
    let all = coders.map(|(colour, coder)| Series { name: short(&coder.name), colour, points: points(coder) });
    all.filter(|series| !series.points.is_empty()).collect()
}

fn axis(label: &str, log: bool) -> Axis<'_> {
    Axis { label, log, from_zero: !log }
}

fn figures(charts: impl IntoIterator<Item = Option<String>>) -> String {
    let charts: String = charts.into_iter().flatten().collect();
    if charts.is_empty() { charts } else { format!("<div class=\"figures\">{charts}</div>") }
}

fn frontier(report: &Report) -> String {
    let l0 = Axis { label: "L0 (latents a row)", log: true, from_zero: false };
    let against = |title: &str, label: &str, value: &dyn Fn(&Evaluation) -> Option<f64>| {
        let points = |coder: &CoderReport| -> Vec<(f64, f64)> {
            of(coder).and_then(|e| Some((e.sparsity.l0, value(e)?))).into_iter().collect()
        };
        chart(title, Mark::Dot, l0, axis(label, false), &series(report, points))
    };
    figures([
        against("Reconstruction against sparsity", "FVU", &|e| Some(e.reconstruction.fvu)),
        against("What the model loses against sparsity", "ΔCE (nats a token)", &|e| {
            e.language_model.as_ref().map(|m| m.ce_increase)
        }),
    ])
}

fn training(report: &Report) -> String {
    let over_rows = |title: &str, label: &str, log: bool, value: &dyn Fn(&HistoryPoint) -> f64| {
        let points = |coder: &CoderReport| coder.history.iter().map(|p| (p.rows as f64, value(p))).collect::<Vec<_>>();
        chart(title, Mark::Line, axis("rows trained on", false), axis(label, log), &series(report, points))
    };
    let held_out = |title: &str, label: &str, log: bool, value: &dyn Fn(&HeldOutPoint) -> f64| {
        let points = |coder: &CoderReport| coder.held_out_history.iter().map(|p| (p.rows as f64, value(p))).collect();
        chart(title, Mark::Line, axis("rows trained on", false), axis(label, log), &series(report, points))
    };
    figures([
        over_rows("Loss", "loss of a batch", true, &|p| p.loss),
        over_rows("FVU of batches", "FVU", true, &|p| p.fvu),
        held_out("FVU of held-out rows", "FVU", true, &|p| p.fvu),
        held_out("Dead latents on held-out rows", "share", false, &|p| p.dead_fraction),
        over_rows("L0 of batches", "L0", false, &|p| p.l0),
        over_rows("Dead latents", "share", false, &|p| p.dead_fraction),
        over_rows("Gradient norm", "norm before clipping", true, &|p| p.grad_norm),
        over_rows("Learning rate", "rate", false, &|p| p.learning_rate),
    ])
}

fn densities(report: &Report) -> String {
    let points = |coder: &CoderReport| -> Vec<(f64, f64)> {
        let d = &coder.density;
        // densities below one row in the sample cannot occur; the first bin, of those that never fired, is in the table
        let bins = d.counts.iter().enumerate().skip(1).map(|(i, &n)| (d.from + d.step * i as f64, n as f64));
        let bins: Vec<_> = bins.collect();
        let first = bins.iter().position(|bin| bin.1 > 0.0).unwrap_or(bins.len()).saturating_sub(1);
        bins[first..].to_vec()
    };
    let x = Axis { label: "log10 of density (share of rows on which a latent fires)", log: false, from_zero: false };
    let title = "How often latents fire (those that never fired left out)";
    figures([chart(title, Mark::Steps, x, axis("latents", false), &series(report, points))])
}

fn directions(report: &Report) -> String {
    let histogram = |title: &str, label: &str, of: fn(&Geometry) -> &Histogram| {
        let points = |coder: &CoderReport| -> Vec<(f64, f64)> {
            let Some(Histogram { from, step, counts }) = coder.geometry.as_ref().map(of) else { return Vec::new() };
            counts.iter().enumerate().map(|(i, &n)| (from + step * i as f64, n as f64)).collect()
        };
        let x = Axis { label, log: false, from_zero: false };
        chart(title, Mark::Steps, x, axis("latents", false), &series(report, points))
    };
    let plots = figures([
        histogram("Norms of decoder rows", "norm, in raw space", |geometry| &geometry.decoder_norms),
        histogram("Nearest neighbours in the decoder", "largest cosine with another row", |geometry| {
            &geometry.nearest_cosines
        }),
    ]);
    let header = [
        ("decoder norm", "median (5th to 95th percentile), in raw space"),
        ("encoder norm", "median (5th to 95th percentile), in raw space"),
        ("nearest cosine", "each decoder row's largest cosine with another: median (5th to 95th percentile)"),
        ("duplicates", "share of latents whose nearest is above 0.9"),
        ("cos(enc, dec)", "cosine of a latent's encoder and decoder row: median (5th to 95th percentile)"),
    ];
    let rows = by_coder(report, &header, |coder| {
        let g = coder.geometry.as_ref()?;
        Some(vec![
            shown(&g.decoder_norm),
            g.encoder_norm.as_ref().map_or_else(|| "-".to_owned(), shown),
            shown(&g.nearest_cosine),
            percent(g.duplicates),
            g.encoder_decoder_cosine.as_ref().map_or_else(|| "-".to_owned(), shown),
        ])
    });
    plots + &rows
}

/// The median, and most of the others.
fn shown(s: &Spread) -> String {
    format!("{} ({} to {})", number(s.p50), number(s.p5), number(s.p95))
}

fn reconstruction(report: &Report) -> String {
    let header = [
        ("rows", "that it was judged on"),
        ("FVU", "sum |x - y|² / sum |x - mean x|²"),
        ("EV", "1 - FVU"),
        ("EV centred", "1 - sum Var(e) / sum Var(x): a constant error does not count"),
        ("EV by row", "mean of 1 - |e|² / |x - mean x|²: rows near the mean decide"),
        ("R² scalar", "1 - sum |x - y|² / sum (x - m)², m the mean of all values of all rows"),
        ("MSE", "mean |x - y|², summed over dimensions"),
        ("nMSE", "mean |e|² / |x|²"),
        ("cosine", "mean cosine of x and y"),
        ("|y| / |x|", "mean: below 1 if reconstructions are too short"),
        ("relative bias", "mean |y|² / mean <x, y>"),
    ];
    by_coder(report, &header, |coder| {
        let r = &of(coder)?.reconstruction;
        Some(vec![
            count(r.rows),
            number(r.fvu),
            number(r.explained_variance),
            number(r.explained_variance_centred),
            maybe(r.explained_variance_by_row),
            maybe(r.r2_scalar_mean),
            number(r.mse),
            number(r.nmse),
            number(r.cosine),
            number(r.l2_ratio),
            number(r.relative_bias),
        ])
    })
}

fn language_model(report: &Report) -> String {
    let header = [
        ("tokens", "whose next token is scored"),
        ("CE", "cross-entropy of the untouched model, nats a token"),
        ("CE reconstructed", "with reconstructions in place of activations"),
        ("ΔCE", "the difference"),
        ("CE zeros", "with zeros in their place"),
        ("CE mean", "with their mean in their place"),
        ("recovered", "(CE zeros - CE reconstructed) / (CE zeros - CE)"),
        ("recovered (mean)", "the same against the mean, which is stricter"),
        ("KL", "mean KL(untouched || reconstructed), nats"),
        ("KL recovered", "(KL of zeros - KL) / KL of zeros"),
    ];
    by_coder(report, &header, |coder| {
        let m = of(coder)?.language_model.as_ref()?;
        Some(vec![
            count(m.tokens),
            number(m.ce_clean),
            number(m.ce_spliced),
            number(m.ce_increase),
            number(m.ce_zero_ablated),
            maybe(m.ce_mean_ablated),
            percent(m.ce_recovered),
            m.ce_recovered_mean.map_or_else(|| "-".to_owned(), percent),
            number(m.kl),
            percent(m.kl_recovered),
        ])
    })
}

fn sparsity(report: &Report) -> String {
    let header = [
        ("L0", "mean number of latents that fire on a row"),
        ("median", "of that number"),
        ("p99", "its 99th percentile"),
        ("dead", "share of latents that fired on no row of the sample"),
        ("of rows", "rows in that sample"),
        ("> 1%", "share of latents that fire on more than 1% of rows"),
        ("> 10%", "share of latents that fire on more than 10% of rows: dense"),
        ("> 1% mass", "share of all activations that are of latents above 1%"),
        ("dense mass", "share of all activations that are of latents above 10%"),
        ("Hoyer", "1 if one latent fires, 0 if all fire alike"),
        ("L1", "mean of the sum of a code's values over the norm of the row that is read, in raw space"),
        ("a prompt", "rows on which a latent fires over prompts in which it does: median (5th to 95th percentile)"),
        ("bits", "description length of a row's code, with the fewest bins that add at most 0.01 to the FVU"),
        ("bits by bins", "description length for each number of bins, and what rounding adds to the FVU"),
    ];
    by_coder(report, &header, |coder| {
        let e = of(coder)?;
        let s = &e.sparsity;
        let by_bins = coder.description.iter().flat_map(|d| &d.by_bins);
        let by_bins = by_bins.map(|b| format!("{}: {} (+{})", b.bins, number(b.bits), maybe(b.added_fvu)));
        Some(vec![
            number(s.l0),
            count(s.l0_p50),
            count(s.l0_p99),
            percent(s.dead_fraction),
            count(e.reconstruction.rows),
            percent(s.over_1_percent),
            percent(s.dense_fraction),
            s.over_1_percent_mass.map_or_else(|| "-".to_owned(), percent),
            percent(s.dense_mass),
            number(s.hoyer),
            maybe(s.normalized_l1),
            s.consistent_activation.as_ref().map_or_else(|| "-".to_owned(), shown),
            maybe(coder.description.as_ref().and_then(|d| d.bits)),
            by_bins.collect::<Vec<_>>().join("; "),
        ])
    })
}

fn dark_matter(report: &Report) -> String {
    let header = [
        (
            "R² of error",
            "of a linear map from what is read to the error, on rows that it was not fitted to, mean over dimensions",
        ),
        ("pooled", "the same, dimensions weighted by their variance"),
        ("R² of |e|²", "of a linear function from what is read to the squared error"),
        ("R² of |x|²", "the same for the squared norm of what is read, for comparison"),
        ("fitted", "rows that the maps were fitted to"),
        ("judged", "rows that they are judged on"),
    ];
    by_coder(report, &header, |coder| {
        let d = coder.dark_matter.as_ref()?;
        Some(vec![
            number(d.error_r2),
            number(d.error_r2_pooled),
            number(d.error_norm_r2),
            number(d.input_norm_r2),
            count(d.rows_fitted),
            count(d.rows_judged),
        ])
    })
}

fn pairs(pairs: &[PairReport]) -> String {
    let header = [
        ("first → second", "the two coders"),
        ("MMCS →", "mean over the first's latents of the largest cosine with one of the second"),
        ("MMCS ←", "the same from the second's latents"),
        ("paired cosine", "mean cosine of decoder rows that are paired one to one"),
        ("shared", "share of the smaller dictionary with a pair above 0.7 in decoder and encoder both"),
        ("pairing", "Hungarian: exact; greedy: from each latent's 32 nearest"),
        ("correlation →", "mean over the first's latents of the largest correlation of codes with one of the second"),
        ("correlation ←", "the same from the second's latents"),
        ("> 0.5", "share of the second's latents whose largest correlation is above 0.5"),
        ("SVCCA (chance)", "mean canonical correlation of the decoder rows of correlated latents; for random pairings"),
        ("CKA (chance)", "linear centred kernel alignment of the same; for random pairings"),
        ("RSA (chance)", "rank correlation of the distances between the same; for random pairings"),
    ];
    let rows: Vec<Vec<String>> = pairs
        .iter()
        .map(|pair| {
            let (m, u) = (pair.matching.as_ref(), pair.universality.as_ref());
            let space = u.and_then(|u| u.space.as_ref());
            let with_chance = |found: Option<(f64, f64)>| {
                found
                    .map_or_else(|| "-".to_owned(), |(score, chance)| format!("{} ({})", number(score), number(chance)))
            };
            vec![
                format!("{} → {}", pair.first, pair.second),
                maybe(m.map(|m| m.mmcs_first_to_second)),
                maybe(m.map(|m| m.mmcs_second_to_first)),
                maybe(m.map(|m| m.paired_cosine)),
                m.and_then(|m| m.shared).map_or_else(|| "-".to_owned(), percent),
                m.map_or("-", |m| if m.exact { "Hungarian" } else { "greedy" }).to_owned(),
                maybe(u.map(|u| u.correlation_first_to_second)),
                maybe(u.map(|u| u.correlation_second_to_first)),
                u.map_or_else(|| "-".to_owned(), |u| percent(u.above_half)),
                with_chance(space.map(|s| (s.svcca, s.svcca_shuffled))),
                with_chance(space.map(|s| (s.cka, s.cka_shuffled))),
                with_chance(space.map(|s| (s.rsa, s.rsa_shuffled))),
            ]
        })
        .collect();
    if rows.is_empty() { String::new() } else { table(&header, &rows) }
}
