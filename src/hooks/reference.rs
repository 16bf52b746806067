//! The reference of all sites in Markdown: `docs/sites.md`, written from what the architectures declare.

use std::collections::BTreeMap;
use std::fmt::Write;

use crate::hooks::{ModulePaths, PointShape, Site};

/// A configuration of an architecture, as far as sites go.
#[derive(Clone, Debug)]
pub struct Example {
    /// What `config.json` calls the architecture.
    pub model_type: String,
    /// The points that the configuration has.
    pub points: Vec<PointShape>,
    /// The architecture's module paths.
    pub paths: &'static ModulePaths,
}

/// The document, from at least one example of each architecture.
pub fn markdown(examples: &[Example]) -> String {
    let mut by_type: BTreeMap<&str, Vec<&Example>> = BTreeMap::new();
    for example in examples {
        by_type.entry(&example.model_type).or_default().push(example);
    }
    let mut out = INTRODUCTION.to_owned();
    // writing to a string cannot fail
    let _ = definitions(&mut out)
        .map(|()| out.push_str(COMPARISON))
        .and_then(|()| matrix(&mut out, &by_type))
        .and_then(|()| aliases(&mut out, &by_type));
    out
}

const INTRODUCTION: &str = "# Sites

Written from the code (`UPDATE_DOCS=1 cargo test --test sites`); do not edit. `harvestd sites MODEL` prints the sites of one
model with their widths and bytes a token.

Names are those of TransformerLens; values are Hugging Face's: no folding of weights, no centring. A name is written
`blocks.3.hook_resid_post`; globs choose several: `*` and `?` within a segment, `**` across segments, `{0,3}` and `{0-11}`.

One head of a site is written in brackets behind the name: `blocks.3.attn.hook_z[5]`, several as `[0,3]` or `[0-3]`, each head
as a column of its own as `[*]`. Key/value sites count key/value heads; in a mixture of experts the sites of the chosen
experts count those. The whole and its heads may be captured together.

";

const COMPARISON: &str = "
## Compared with TransformerLens

Names and values are those of a `TransformerBridge`, or of `HookedTransformer.from_pretrained_no_processing`; the default
processing of `from_pretrained` folds and centres weights, which changes the residual stream. Besides:

- heads lie side by side in a row, `[h*e]`, where TransformerLens has `[h, e]`; scores and patterns are rows of a query, `[h*t]`,
  where it has `[h, query, key]`.
- `hook_normalized` never has the norm's weight and bias. In a `HookedTransformer` that was not folded a layer norm's has them:
  that is `hook_out` here, as in a `TransformerBridge`.
- `attn.hook_attn_scores` is 0 where a token does not attend; TransformerLens has -infinity.
- `mlp.hook_expert_weights` has the chosen experts' weights; a `HookedTransformer`'s has the softmax over all experts.
- Where attention and MLP read the same residual stream (Pythia, Phi) there is no `hook_resid_mid`, as there.
- Only a `TransformerBridge` has `ln1.hook_out`, `ln2.hook_out`, `ln_final.hook_out`, `attn.hook_out`, `mlp.hook_out` and the outputs
  of query and key norms.
";

fn definitions(out: &mut String) -> std::fmt::Result {
    out.push_str(
        "## Definitions

Widths: `d` residual, `h` heads, `k` key/value heads, `e` of a head, `m` MLP, `t` context length, `r` experts, `s` experts that a
token is sent to. *Edits*: what replaces the value is read by later layers, so a coder there is evaluated by the model's loss;
elsewhere only its reconstruction is judged. *Norm*: `tokens.exclude.norm_above_median` applies.

| site | width | heads | edits | norm | what it is |
|---|---|---|---|---|---|
",
    );
    let yes = |is: bool| if is { "yes" } else { "" };
    for site in Site::ALL {
        writeln!(
            out,
            "| `{}` | {} | {} | {} | {} | {} |",
            site.suffix(),
            site.width(),
            site.parts(),
            yes(site.edits_propagate()),
            yes(site.has_norm()),
            site.definition()
        )?;
    }
    Ok(())
}

fn matrix(out: &mut String, by_type: &BTreeMap<&str, Vec<&Example>>) -> std::fmt::Result {
    out.push_str(
        "
## Which architecture has which

Columns are `model_type` in `config.json`; (x): only with some options or in some blocks.

| site |",
    );
    for model_type in by_type.keys() {
        write!(out, " {model_type} |")?;
    }
    write!(out, "\n|---|{}\n", ":-:|".repeat(by_type.len()))?;
    for site in Site::ALL {
        write!(out, "| `{}` |", site.suffix())?;
        for examples in by_type.values() {
            let everywhere = examples.iter().all(|example| blocks_with(example, site).1);
            let somewhere = examples.iter().any(|example| blocks_with(example, site).0);
            write!(
                out,
                " {} |",
                if everywhere {
                    "x"
                } else if somewhere {
                    "(x)"
                } else {
                    ""
                }
            )?;
        }
        out.push('\n');
    }
    Ok(())
}

/// Whether an example has `site` in any of its blocks, and in all of them.
fn blocks_with(example: &Example, site: Site) -> (bool, bool) {
    let n = |site: Site| example.points.iter().filter(|shape| shape.point.site == site).count();
    let expected = if site.in_block() { n(Site::ResidPost) } else { 1 };
    (n(site) > 0, n(site) == expected)
}

fn aliases(out: &mut String, by_type: &BTreeMap<&str, Vec<&Example>>) -> std::fmt::Result {
    out.push_str(
        "
## Hugging Face's names

A path names what the module returns (`.output` behind it says the same), with `.input` what it reads. `L` is the block; paths of
a bare base model, without what stands before `L` in a whole one, are accepted too.
",
    );
    // architectures that share a table share a section
    let mut sections: Vec<(Vec<&str>, &Example)> = Vec::new();
    for (model_type, examples) in by_type {
        let Some(first) = examples.first() else { continue };
        match sections.iter_mut().find(|(_, other)| std::ptr::eq(other.paths, first.paths)) {
            Some((types, _)) => types.push(model_type),
            None => sections.push((vec![model_type], first)),
        }
    }
    for (types, Example { paths, .. }) in sections {
        write!(out, "\n### {}\n\n| path | site |\n|---|---|\n", types.join(", "))?;
        let blocks = paths.blocks.first().copied().unwrap_or_default();
        for (path, site) in paths.in_block {
            writeln!(out, "| `{blocks}.L{path}` | `blocks.L.{}` |", site.suffix())?;
        }
        for (path, site) in paths.outside {
            writeln!(out, "| `{path}` | `{}` |", site.suffix())?;
        }
    }
    Ok(())
}
