//! What a trainer's coder reconstructs, as it is written in a pipeline; and how a row of its buffer is laid out.
//!
//! A row holds the values of all sites that the trainer names, side by side, in the order of [`TargetConfig::others`] after
//! the input. Each site has a scale of its own.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};
use crate::hooks::{HookPoint, SiteWidth};
use crate::sae::CoderSettings;
use crate::sae::coders::StandardConfig;
use crate::sae::config::CoderConfig;
use crate::sae::continued;
use crate::sae::rows::RowScaling;
use crate::sae::scales::{Part, Scales};
use crate::trainer::TrainerSettings;
use crate::trainer::config::Normalize;

/// What a coder reconstructs.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "type", rename_all = "snake_case", deny_unknown_fields)]
pub enum TargetConfig {
    /// What it reads.
    #[default]
    Autoencoder,
    /// The values of another site at the same tokens: what a layer makes of its input (Dunefsky et al. 2024).
    Transcoder {
        /// The site that is reconstructed.
        #[schemars(length(min = 1))]
        output: String,
        /// Whether the input is added to the reconstruction through a linear map that is trained too (skip transcoder, Paulo
        /// et al. 2025).
        #[serde(default, skip_serializing_if = "std::ops::Not::not")]
        skip: bool,
    },
    /// What it reads: the values of several sites at the same tokens, with one code for all (Lindsey et al. 2024).
    Crosscoder {
        /// The sites besides `input`.
        #[schemars(length(min = 1), inner(length(min = 1)))]
        with: Vec<String>,
    },
    /// What a trained coder leaves of the same values: a second coder for what the first does badly (Koriagin et al. 2025). The
    /// two are judged, and exported where that is possible, as one.
    Boosting {
        /// Folder or URL of the trained coder, as in `start_from`. It does not change.
        #[schemars(length(min = 1))]
        base: String,
    },
    /// The values of another site in several layers at the same tokens; the latents of a layer read its input and speak to
    /// the outputs of this and of all later layers (Ameisen et al. 2025).
    CrossLayer {
        /// The inputs of the layers after the first, whose is `input`.
        #[schemars(length(min = 1), inner(length(min = 1)))]
        inputs: Vec<String>,
        /// The outputs of all layers.
        #[schemars(length(min = 2), inner(length(min = 1)))]
        outputs: Vec<String>,
    },
}

impl TargetConfig {
    /// The sites that a row holds after the input's, with their keys below `target`.
    pub fn others<'a>(&'a self) -> Vec<(String, &'a str)> {
        match self {
            Self::Autoencoder | Self::Boosting { .. } => Vec::new(),
            Self::Transcoder { output, .. } => vec![("output".to_owned(), output)],
            Self::Crosscoder { with } => {
                with.iter().enumerate().map(|(i, site)| (format!("with[{i}]"), site.as_str())).collect()
            }
            Self::CrossLayer { inputs, outputs } => {
                let named = |key: &'static str, sites: &'a [String]| {
                    sites.iter().enumerate().map(move |(i, site)| (format!("{key}[{i}]"), site.as_str()))
                };
                named("inputs", inputs).chain(named("outputs", outputs)).collect()
            }
        }
    }

    /// Of `n` sites of a row, how many are read; all of them are reconstructed too if it is all, the others if not.
    pub fn n_read(&self, n: usize) -> usize {
        match self {
            Self::Autoencoder | Self::Boosting { .. } | Self::Crosscoder { .. } => n,
            Self::Transcoder { .. } | Self::CrossLayer { .. } => n / 2,
        }
    }

    /// Where the coder is whose residuals are reconstructed.
    pub fn base(&self) -> Option<&str> {
        match self {
            Self::Boosting { base } => Some(base),
            _ => None,
        }
    }

    /// Whether it is the input, alone.
    pub fn is_autoencoder(&self) -> bool {
        *self == Self::Autoencoder
    }

    /// Whether it is of several layers.
    pub fn is_cross_layer(&self) -> bool {
        matches!(self, Self::CrossLayer { .. })
    }

    /// The coder, for sites of these widths.
    ///
    /// # Errors
    /// `Config` if a setting of the coder is out of range.
    pub(super) fn coder(&self, coder: &CoderConfig, sites: &[SiteWidth]) -> Result<CoderSettings> {
        let widths: Vec<usize> = sites.iter().map(|(_, width)| *width).collect();
        match (self, &widths[..]) {
            (Self::Autoencoder, [d]) => coder.settings(*d),
            (Self::Boosting { .. }, [d]) => Ok(coder.settings(*d)?.boosting()),
            (Self::Transcoder { skip, .. }, [d, out]) => {
                let transcoder = coder.settings(*out)?.reading(*d);
                Ok(if *skip { transcoder.with_skip() } else { transcoder })
            }
            (Self::Crosscoder { .. }, [_, _, ..]) => Ok(coder.settings(widths.iter().sum())?.of_parts(widths)),
            (Self::CrossLayer { .. }, [d, ..]) => {
                let layers = widths.len() / 2;
                let (inputs, outputs) = widths.split_at(layers);
                if inputs.iter().any(|width| width != d) || outputs.iter().any(|width| *width != outputs[0]) {
                    return Err(Error::config(format!(
                        "`target`: the inputs of layers must have one width, and so must their outputs; these have {inputs:?} \
                         and {outputs:?}"
                    )));
                }
                Ok(coder.settings(outputs.iter().sum())?.across_layers(*d, layers))
            }
            _ => Err(Error::internal(format!("a target of {} sites: {self:?}", widths.len()))),
        }
    }

    /// The scales of the coder's sides, of those of a row's sites.
    pub(super) fn scales(&self, sites: &[SiteWidth], scales: &[f64]) -> Scales {
        let parts = sites.iter().zip(scales).map(|((_, width), scale)| Part { width: *width, scale: *scale });
        let parts: Vec<Part> = parts.collect();
        match (self, &parts[..]) {
            (Self::Transcoder { .. } | Self::CrossLayer { .. }, _) => {
                let (input, output) = parts.split_at(parts.len() / 2);
                Scales { input: input.to_vec(), output: output.to_vec() }
            }
            _ => Scales { input: parts.clone(), output: parts },
        }
    }

    /// Why such a coder goes on from no folder (`start_from`), if it does not. `None` for settings that are wrong otherwise.
    pub fn never_continues(&self, coder: &CoderConfig) -> Option<&'static str> {
        // what decides it is the same for every width
        let settings = coder.settings(1).ok()?;
        continued::never(&match self {
            Self::Autoencoder | Self::Transcoder { .. } => settings,
            Self::Boosting { .. } => settings.boosting(),
            Self::Crosscoder { .. } => settings.of_parts(vec![1, 1]),
            Self::CrossLayer { .. } => settings.across_layers(1, 2),
        })
    }

    /// Keys of a trainer that do not go with it: the key, and what it must be.
    pub fn faults(&self, input: &str, normalize: Normalize, coder: Option<&CoderConfig>) -> Vec<(String, String)> {
        let mut faults = Vec::new();
        let judged_by_first = "must be a site of the first model, by whose logits coders are judged; only a crosscoder's `with` \
                               may name the second's";
        let read = std::iter::once(("input".to_owned(), input));
        let others = self.others().into_iter().map(|(key, site)| (format!("target.{key}"), site));
        let fixed = read.chain(others.filter(|_| !matches!(self, Self::Crosscoder { .. })));
        let of_second = fixed.filter(|(_, site)| site.parse().is_ok_and(|point: HookPoint| point.second));
        faults.extend(of_second.map(|(key, _)| (key, judged_by_first.to_owned())));
        if self.is_autoencoder() {
            return faults;
        }
        if normalize.rows() != RowScaling::None {
            let rule = "must be one constant for all rows (`sqrt_d`, `unit_rms`, `unit_norm` or `none`) where `target` is \
                        not the input alone: the scale of a row that is reconstructed is not known";
            faults.push(("normalize".to_owned(), rule.to_owned()));
        }
        if let Some(CoderConfig::Standard(StandardConfig { apply_b_dec_to_input: Some(true), .. })) = coder {
            let rule = "must be left out where `target` is not the input alone";
            faults.push(("coder.apply_b_dec_to_input".to_owned(), rule.to_owned()));
        }
        if let (Self::CrossLayer { .. }, Some(CoderConfig::Standard(StandardConfig { ghost_gradients: true, .. }))) =
            (self, coder)
        {
            let rule = "must be left out where `target` has several layers";
            faults.push(("coder.ghost_gradients".to_owned(), rule.to_owned()));
        }
        if matches!((self, coder), (Self::Transcoder { skip: true, .. }, Some(CoderConfig::TopAfa(_)))) {
            let rule =
                "must be left out of `type: top_afa`: how many latents it keeps is that of the whole output's norm";
            faults.push(("target.skip".to_owned(), rule.to_owned()));
        }
        if let Self::CrossLayer { inputs, outputs } = self {
            if outputs.len() != inputs.len() + 1 {
                let rule = format!("must name {} sites: one for `input` and for each of `inputs`", inputs.len() + 1);
                faults.push(("target.outputs".to_owned(), rule));
            }
            if coder.is_some_and(|coder| !matches!(coder, CoderConfig::Standard(_) | CoderConfig::Jumprelu(_))) {
                let rule = "must be `standard` or `jumprelu` where `target` has several layers";
                faults.push(("coder.type".to_owned(), rule.to_owned()));
            }
        }
        if coder.is_some_and(CoderConfig::reconstructs_its_input_only) {
            faults
                .push(("target".to_owned(), "must be left out: such a coder reconstructs its input alone".to_owned()));
        }
        let mut known = vec![input];
        for (key, site) in self.others() {
            if known.contains(&site) {
                faults.push((format!("target.{key}"), "is a site of this trainer already".to_owned()));
            }
            known.push(site);
        }
        faults
    }
}

impl TrainerSettings {
    /// The site of the input.
    pub fn point(&self) -> HookPoint {
        self.sites[0].0
    }

    /// The sites that the coder reads, side by side.
    pub fn reads(&self) -> &[SiteWidth] {
        &self.sites[..self.config.target.n_read(self.sites.len())]
    }

    /// The sites that it reconstructs, side by side.
    pub fn writes(&self) -> &[SiteWidth] {
        let n_read = self.config.target.n_read(self.sites.len());
        if n_read == self.sites.len() { &self.sites } else { &self.sites[n_read..] }
    }

    /// Values a row.
    pub fn width(&self) -> usize {
        self.sites.iter().map(|(_, width)| width).sum()
    }
}

#[cfg(test)]
mod tests;
