//! Features of a coder as pages: an index that is sorted and searched, and pages of [`PER_PAGE`] latents each.
//!
//! Everything works from a folder without a server: pages link to each other by relative names, the index has its data in it,
//! and its one script is named by its digest in the content security policy. A page's size depends on how much is kept of a
//! latent, not on how many there are; the index has about 200 bytes a latent.

mod index;
mod latent;

use super::html::escaped;
use crate::features::{About, Features};
use crate::tokens::Pieces;

pub use index::index;

const STYLE: &str = concat!(include_str!("../style.css"), include_str!("style.css"));
/// The index's file.
pub const INDEX_FILE: &str = "index.html";
/// Latents of a page.
pub const PER_PAGE: usize = 64;

/// Pages of `latents` latents.
pub fn n_pages(latents: usize) -> usize {
    latents.div_ceil(PER_PAGE)
}

/// The file of a page.
pub fn page_file(page: usize) -> String {
    format!("pages/{page:05}.html")
}

/// A page of latents.
pub fn page(features: &Features, about: &About, pieces: &Pieces, page: usize) -> String {
    let latents = page * PER_PAGE..((page + 1) * PER_PAGE).min(features.len());
    let name = |page: usize| format!("{page:05}.html");
    let step = |to: Option<usize>, what: &str| match to {
        Some(to) => format!("<a href=\"{}\">{what}</a>", name(to)),
        None => format!("<span>{what}</span>"),
    };
    let next = (page + 1 < n_pages(features.len())).then_some(page + 1);
    let nav = format!(
        "<nav>{} <a href=\"../{INDEX_FILE}\">all latents</a> {}</nav>",
        step(page.checked_sub(1), "← before"),
        step(next, "after →")
    );
    let title = format!("{}: latents {} to {}", escaped(&about.coder), latents.start, latents.end - 1);
    let jump: String = latents.clone().map(|i| format!("<a href=\"#f{i}\">{i}</a> ")).collect();
    let sections: String = latents.map(|i| latent::section(&features.feature(i), about, pieces)).collect();
    let body = format!("<header><h1>{title}</h1>{nav}<p class=\"jump\">{jump}</p></header>{sections}{nav}");
    document(&title, &body, None)
}

/// A document; `script` is all that may run in it.
fn document(title: &str, body: &str, script: Option<(&str, &str)>) -> String {
    let allowed = script.map(|(_, digest)| format!("; script-src 'sha256-{digest}'")).unwrap_or_default();
    let script = script.map(|(text, _)| format!("<script>{text}</script>")).unwrap_or_default();
    format!(
        "<!DOCTYPE html>\n<html lang=\"en\"><head><meta charset=\"utf-8\">\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\
         <meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'; img-src data:{allowed}\">\
         <meta name=\"color-scheme\" content=\"light dark\"><link rel=\"icon\" href=\"data:,\">\
         <title>{title}</title><style>{STYLE}</style></head><body><main>{body}</main>{script}</body></html>\n"
    )
}

/// Text in which everything is seen: line breaks, tabs and other control characters as signs.
fn visible(text: &str) -> String {
    let sign = |c: char| match c {
        '\n' => '↵',
        '\t' => '⇥',
        c if c.is_control() => '·',
        c => c,
    };
    escaped(&text.chars().map(sign).collect::<String>())
}
