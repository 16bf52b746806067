//! The index: every latent in a table that is sorted, turned over and searched.

use std::collections::HashMap;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use super::super::html::{count, escaped};
use super::{PER_PAGE, document, n_pages, page_file};
use crate::features::{About, Feature, Features};
use crate::tokens::Pieces;

const SCRIPT: &str = include_str!("index.js");
/// Tokens of a latent's contexts that are searched, at most.
const ACTIVE_MAX: usize = 24;

/// The index page.
pub fn index(features: &Features, about: &About, pieces: &Pieces) -> String {
    let title = format!("{}: features of {}", escaped(&about.pipeline), escaped(&about.coder));
    let special = if about.special_tokens { ", special tokens included" } else { "" };
    // which of several sites' parts of decoder rows promote
    let through = match about.promotes_through == about.writes || about.promotes_through.is_empty() {
        true => String::new(),
        false => format!(" Promoted tokens are through {}.", escaped(&about.promotes_through)),
    };
    let facts = format!(
        "{} latents of {}, watched on {} tokens of {} documents{special} ({} rows with a code); {} never fired.{through} \
         harvestd {}.",
        count(about.latents as u64),
        escaped(&about.reads),
        count(about.tokens),
        escaped(&about.documents),
        count(about.rows),
        count(about.silent as u64),
        escaped(&about.harvestd),
    );
    let links: String = (0..n_pages(features.len()))
        .map(|page| format!("<a href=\"{}\">{}</a> ", page_file(page), page * PER_PAGE))
        .collect();
    let body = format!(
        "<header><h1>{title}</h1><p>{facts}</p></header>\
         <form id=\"find\" role=\"search\"><label>Token <input id=\"query\" type=\"search\" autocomplete=\"off\"></label> \
         <label>in <select id=\"where\"><option value=\"both\">contexts and promoted tokens</option>\
         <option value=\"contexts\">contexts</option><option value=\"promoted\">promoted tokens</option></select></label> \
         <label><input id=\"silent\" type=\"checkbox\"> those that never fired too</label></form>\
         <p id=\"said\" aria-live=\"polite\"></p><div class=\"scroll\"><table id=\"table\"><thead><tr>{}</tr></thead><tbody>\
         </tbody></table></div><p class=\"pager\"><button id=\"before\">← before</button> <button id=\"after\">after →</button></p>\
         <details><summary>Pages, by their first latent</summary><p class=\"jump\">{links}</p></details>\
         <script type=\"application/json\" id=\"data\">{}</script>",
        heads(),
        data(features, pieces),
    );
    document(&title, &body, Some((SCRIPT, &STANDARD.encode(Sha256::digest(SCRIPT)))))
}

fn heads() -> String {
    let sorted = |key: &str, name: &str, what: &str| {
        format!("<th scope=\"col\" title=\"{what}\"><button data-sort=\"{key}\">{name}</button></th>")
    };
    [
        sorted("latent", "latent", "its index"),
        sorted("density", "density", "share of the rows on which it fired"),
        sorted("max", "largest", "its largest activation"),
        "<th scope=\"col\" class=\"words\">fires on</th><th scope=\"col\" class=\"words\">promotes</th>".to_owned(),
    ]
    .concat()
}

/// Latents as `[density, largest activation, tokens of contexts, promoted tokens]`, in their order; tokens are indices into
/// their table.
fn data(features: &Features, pieces: &Pieces) -> String {
    let mut table: Vec<String> = Vec::new();
    let mut known: HashMap<u32, usize> = HashMap::new();
    let mut place = |id: u32| {
        *known.entry(id).or_insert_with(|| {
            table.push(pieces.shown(id));
            table.len() - 1
        })
    };
    let latents: Vec<Value> = features
        .each()
        .map(|feature| {
            let active: Vec<usize> = active(&feature).into_iter().map(&mut place).collect();
            let promoted = feature.effects.map(|effects| &effects.promoted[..]).unwrap_or_default();
            let promoted: Vec<usize> = promoted.iter().map(|(id, _)| place(*id)).collect();
            json!([short(feature.density), short(f64::from(feature.sizes.max())), active, promoted])
        })
        .collect();
    // in a script element only `<` can end it
    json!({"perPage": PER_PAGE, "tokens": table, "latents": latents}).to_string().replace('<', "\\u003c")
}

/// In four digits: what is shown of it, in fewer bytes.
fn short(x: f64) -> f64 {
    format!("{x:.3e}").parse().unwrap_or(x)
}

/// Tokens on which a latent fires in its strongest contexts, strongest first.
fn active(feature: &Feature<'_>) -> Vec<u32> {
    let mut by_token: HashMap<u32, f32> = HashMap::new();
    for context in feature.top {
        for (&id, activation) in context.ids.iter().zip(&context.activations).filter(|(_, a)| **a != 0.0) {
            let largest = by_token.entry(id).or_default();
            *largest = largest.max(activation.abs());
        }
    }
    let mut sorted: Vec<(u32, f32)> = by_token.into_iter().collect();
    sorted.sort_by(|a, b| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0)));
    sorted.truncate(ACTIVE_MAX);
    sorted.into_iter().map(|(id, _)| id).collect()
}
