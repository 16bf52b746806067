//! One latent as a section of a page.

use super::super::chart::{Axis, Mark, Series, chart};
use super::super::html::{count, escaped, number, percent};
use super::{PER_PAGE, visible};
use crate::features::{About, Context, Feature};
use crate::tokens::Pieces;

/// Bins a power of two of the histogram.
const PER_OCTAVE: u32 = 4;
/// Classes of activations, from none (0) to that of the latent's largest.
const SHADES: f32 = 9.0;

/// The section.
pub(super) fn section(feature: &Feature<'_>, about: &About, pieces: &Pieces) -> String {
    let (latent, sizes) = (feature.latent, feature.sizes);
    let mut facts = vec![match sizes.n() {
        0 => format!("fired on none of {} rows", count(about.rows)),
        n => format!("fired on {} of {} rows ({})", count(n), count(about.rows), percent(feature.density)),
    }];
    if sizes.n() > 0 {
        let (mean, median, max) = (sizes.mean(), f64::from(sizes.quantile(0.5)), f64::from(sizes.max()));
        facts.push(format!("mean {}, median {}, largest {}", number(mean), number(median), number(max)));
    }
    if let Some(norm) = feature.decoder_norm {
        facts.push(format!("decoder norm {}", number(f64::from(norm))));
    }
    if let Some(score) = feature.input_score() {
        facts.push(format!("input score {}", number(score)));
    }
    let parts = [histogram(feature), tokens(feature, pieces), neighbours(feature)].concat();
    let contexts = contexts(feature, pieces);
    format!(
        "<section class=\"feature\" id=\"f{latent}\"><h2>Latent {latent}</h2><p class=\"facts\">{}</p>\
         <div class=\"parts\">{parts}</div>{contexts}</section>",
        facts.join("; ")
    )
}

fn histogram(feature: &Feature<'_>) -> String {
    let (edges, counts) = feature.sizes.histogram(PER_OCTAVE);
    let mut points: Vec<(f64, f64)> =
        edges.iter().zip(&counts).map(|(&edge, &count)| (f64::from(edge), count as f64)).collect();
    // the last bin ends where another would begin
    points.extend(edges.last().filter(|_| !counts.is_empty()).map(|&edge| (f64::from(edge), 0.0)));
    let x = Axis { label: "activation", log: true, from_zero: false };
    let y = Axis { label: "rows", log: false, from_zero: true };
    let series = [Series { name: "rows".to_owned(), colour: 0, points }];
    chart("Activations where it fires", Mark::Steps, x, y, &series).unwrap_or_default()
}

fn tokens(feature: &Feature<'_>, pieces: &Pieces) -> String {
    let Some(effects) = feature.effects else { return String::new() };
    let list = |title: &str, tokens: &[(u32, f32)]| {
        let row = |(id, logit): &(u32, f32)| {
            let (token, logit) = (visible(&pieces.shown(*id)), number(f64::from(*logit)));
            format!("<li><code>{token}</code> <span class=\"number\">{logit}</span></li>")
        };
        format!("<div class=\"list\"><h3>{title}</h3><ol>{}</ol></div>", tokens.iter().map(row).collect::<String>())
    };
    list("Promotes", &effects.promoted) + &list("Suppresses", &effects.suppressed)
}

fn neighbours(feature: &Feature<'_>) -> String {
    let list = |title: &str, what: &str, rows: Vec<(u32, f32)>| {
        if rows.is_empty() {
            return String::new();
        }
        let row = |(latent, value): (u32, f32)| {
            format!("<li>{} <span class=\"number\">{}</span></li>", link(latent), number(f64::from(value)))
        };
        let rows: String = rows.into_iter().map(row).collect();
        format!("<div class=\"list\"><h3 title=\"{}\">{title}</h3><ol>{rows}</ol></div>", escaped(what))
    };
    let near = |near: &[crate::features::directions::Near]| near.iter().map(|n| (n.latent, n.cosine)).collect();
    let coactive = feature.coactive.iter().map(|other| (other.latent, other.jaccard)).collect();
    list("Decoder neighbours", "cosine of decoder rows", near(feature.near_decoder))
        + &list("Encoder neighbours", "cosine of encoder rows", near(feature.near_encoder))
        + &list("Fires with", "rows on which both fire over rows on which either does", coactive)
}

fn link(latent: u32) -> String {
    format!("<a href=\"{:05}.html#f{latent}\">{latent}</a>", latent as usize / PER_PAGE)
}

fn contexts(feature: &Feature<'_>, pieces: &Pieces) -> String {
    let largest = feature.sizes.max();
    let item = |stratum: Option<u32>, context: &Context| {
        let place = context.place;
        let stratum = stratum.map(|s| format!("slice {}, ", s + 1)).unwrap_or_default();
        let place = format!(
            "{stratum}document {:016x}, unit {}, sequence {}, position {}",
            place.document, place.unit, place.sequence, place.position
        );
        let value = number(f64::from(context.activation));
        format!(
            "<li title=\"{place}\"><span class=\"number\">{value}</span> <span class=\"text\">{}</span></li>",
            text(context, largest, pieces)
        )
    };
    if feature.top.is_empty() {
        return String::new();
    }
    let top: String = feature.top.iter().map(|context| item(None, context)).collect();
    // one of each slice: the others are in the Parquet file
    let mut slices = feature.sampled.clone();
    slices.dedup_by_key(|(stratum, _)| *stratum);
    let sampled: String = slices.iter().map(|(stratum, context)| item(Some(*stratum), context)).collect();
    format!(
        "<h3>Strongest contexts</h3><ol class=\"contexts\">{top}</ol><details><summary>Drawn from all {} places where it \
         peaks, one a slice by strength</summary><ol class=\"contexts\">{sampled}</ol></details>",
        count(feature.peaks)
    )
}

/// The tokens, those on which the latent fires shaded by its activation.
fn text(context: &Context, largest: f32, pieces: &Pieces) -> String {
    let mut out = String::new();
    let mut plain: Vec<u32> = Vec::new();
    for (i, (&id, &activation)) in context.ids.iter().zip(&context.activations).enumerate() {
        if activation == 0.0 {
            plain.push(id);
            continue;
        }
        out.push_str(&visible(&pieces.text(&plain)));
        plain.clear();
        let shade = (activation.abs() / largest.max(f32::MIN_POSITIVE) * SHADES).ceil().clamp(1.0, SHADES);
        let peak = if i == context.peak as usize { " p" } else { "" };
        let (token, value) = (visible(&pieces.shown(id)), number(f64::from(activation)));
        out.push_str(&format!("<b class=\"a{shade}{peak}\" title=\"{value}\">{token}</b>"));
    }
    out.push_str(&visible(&pieces.text(&plain)));
    out
}
