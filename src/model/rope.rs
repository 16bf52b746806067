//! Rotary position embedding: its settings in `config.json`, and what they mean.
//!
//! Formulas are those of transformers' `modeling_rope_utils.py`, in f64.

use std::f64::consts::PI;

use crate::error::{Error, Result};
use crate::model::json::Config;

/// Rotary position embedding.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Rope {
    /// Base of the geometric series of wavelengths.
    pub theta: f64,
    /// Channels of each head that are rotated: its first ones. Even.
    pub rotary: usize,
    /// How the wavelengths are stretched for long contexts.
    pub scaling: RopeScaling,
}

/// Stretching of rotary wavelengths.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum RopeScaling {
    /// None.
    Default,
    /// All by `factor`.
    Linear {
        /// The factor.
        factor: f64,
    },
    /// By a larger base where the context is longer than the model was made for. As transformers does with sequences that
    /// fill the context: the base follows from the context's length, not from that of each document.
    Dynamic {
        /// The factor.
        factor: f64,
        /// Positions that the model was made for.
        max_positions: f64,
    },
    /// Long wavelengths by `factor`, short ones not at all, those between in between.
    Llama3 {
        /// The factor.
        factor: f64,
        /// Wavelengths above `original_positions / low_freq_factor` are long.
        low_freq_factor: f64,
        /// Wavelengths below `original_positions / high_freq_factor` are short.
        high_freq_factor: f64,
        /// Context length before the stretching.
        original_positions: f64,
    },
    /// As [`RopeScaling::Llama3`] with a ramp over channels instead of wavelengths; rotated vectors also grow
    /// (<https://arxiv.org/abs/2309.00071>).
    Yarn {
        /// The factor.
        factor: f64,
        /// Factor on cosines and sines.
        attention_factor: f64,
        /// Channels that turn more often over the original context are kept.
        beta_fast: f64,
        /// Channels that turn less often are stretched.
        beta_slow: f64,
        /// Context length before the stretching.
        original_positions: f64,
        /// Whether the ramp's ends are rounded to whole channels.
        truncate: bool,
    },
}

/// Rotary settings of a family: what holds where `config.json` is silent.
#[derive(Clone, Copy, Debug)]
pub(in crate::model) struct RopeDefaults {
    /// Key and default of the base, before transformers 5.
    pub(in crate::model) theta: (&'static str, f64),
    /// Key and default of the rotated share of a head, before transformers 5; `None`: all of it.
    pub(in crate::model) share: Option<(&'static str, f64)>,
}

/// Llama's, which most families share.
pub(in crate::model) const LLAMA_ROPE: RopeDefaults = RopeDefaults { theta: ("rope_theta", 10_000.0), share: None };

/// Read `rope_parameters` (transformers 5) or `rope_scaling` and the keys beside it (before).
pub(in crate::model) fn parse(
    config: &Config<'_>,
    d_head: usize,
    max_positions: usize,
    defaults: RopeDefaults,
) -> Result<Rope> {
    let new = config.object("rope_parameters")?;
    let old = config.object("rope_scaling")?;
    if new.is_some() && old.is_some() {
        return Err(config
            .wrong("rope_scaling", "stands beside rope_parameters, which says the same in a newer way: remove one"));
    }
    parse_options(config, new.as_ref().or(old.as_ref()), d_head, max_positions, defaults)
}

/// As [`parse`], of the object `options`, or of the keys beside it alone.
pub(in crate::model) fn parse_options(
    config: &Config<'_>,
    options: Option<&Config<'_>>,
    d_head: usize,
    max_positions: usize,
    defaults: RopeDefaults,
) -> Result<Rope> {
    let beside = |(key, default): (&str, f64)| config.number_or(key, default);
    let theta = match options {
        Some(options) if options.get("rope_theta").is_some() => options.number("rope_theta")?,
        _ => beside(defaults.theta)?,
    };
    if theta <= 1.0 {
        return Err(Error::data(format!(
            "config.json: `{}` ({theta}), the base of rotary embedding, must be above 1",
            defaults.theta.0
        )));
    }
    let share = match options {
        Some(options) if options.get("partial_rotary_factor").is_some() => options.number("partial_rotary_factor")?,
        _ => defaults.share.map_or(Ok(1.0), beside)?,
    };
    // where transformers reads no share, it ignores one
    if defaults.share.is_none() && share != 1.0 {
        let rule = "is not supported for this architecture, whose heads rotate as a whole";
        return Err(options.unwrap_or(config).wrong("partial_rotary_factor", rule));
    }
    let rotary = (d_head as f64 * share) as usize;
    if share > 1.0 || rotary == 0 || !rotary.is_multiple_of(2) {
        let key = if share == 1.0 { "head_dim" } else { "partial_rotary_factor" };
        let rule = format!("makes {rotary} of a head's {d_head} channels rotate, which must be an even number");
        return Err(config.wrong(key, &rule));
    }
    let scaling = options.map_or(Ok(RopeScaling::Default), |options| scaling(options, max_positions as f64))?;
    Ok(Rope { theta, rotary, scaling })
}

fn scaling(options: &Config<'_>, max_positions: f64) -> Result<RopeScaling> {
    let kind_key = if options.get("rope_type").is_some() { "rope_type" } else { "type" };
    let kind = if options.get(kind_key).is_some() { options.text(kind_key)? } else { "default" };
    let factor = || options.number("factor");
    // transformers reads the length before the stretching here, and takes the whole length where it is not given
    let original = || options.number_or("original_max_position_embeddings", max_positions);
    let (scaling, known): (RopeScaling, &[&str]) = match kind {
        "default" => (RopeScaling::Default, &[]),
        "linear" => (RopeScaling::Linear { factor: factor()? }, &["factor"]),
        "dynamic" => {
            (RopeScaling::Dynamic { factor: factor()?, max_positions }, &["factor", "original_max_position_embeddings"])
        }
        "llama3" => {
            let (low_freq_factor, high_freq_factor) =
                (options.number("low_freq_factor")?, options.number("high_freq_factor")?);
            if low_freq_factor >= high_freq_factor {
                return Err(options.wrong("low_freq_factor", "must be less than high_freq_factor"));
            }
            let scaling = RopeScaling::Llama3 {
                factor: factor()?,
                low_freq_factor,
                high_freq_factor,
                original_positions: original()?,
            };
            (scaling, &["factor", "low_freq_factor", "high_freq_factor", "original_max_position_embeddings"])
        }
        "yarn" => (yarn(options, original()?, max_positions)?, &YARN_KEYS),
        _ => {
            return Err(
                options.wrong(kind_key, "is not supported: there are default, linear, dynamic, llama3 and yarn")
            );
        }
    };
    let common = ["rope_type", "type", "rope_theta", "partial_rotary_factor"];
    match options.keys().find(|key| !known.contains(key) && !common.contains(key)) {
        Some(key) => Err(options.wrong(key, &format!("is not an option of rope type `{kind}`"))),
        None => Ok(scaling),
    }
}

const YARN_KEYS: [&str; 8] = [
    "factor",
    "original_max_position_embeddings",
    "attention_factor",
    "beta_fast",
    "beta_slow",
    "mscale",
    "mscale_all_dim",
    "truncate",
];

fn yarn(options: &Config<'_>, original_positions: f64, max_positions: f64) -> Result<RopeScaling> {
    let factor = options.number_or("factor", max_positions / original_positions)?;
    let magnitude = |scale: f64| if factor <= 1.0 { 1.0 } else { 0.1 * scale * factor.ln() + 1.0 };
    let both = options.get("mscale").is_some() && options.get("mscale_all_dim").is_some();
    let inferred = if both {
        magnitude(options.number("mscale")?) / magnitude(options.number("mscale_all_dim")?)
    } else {
        magnitude(1.0)
    };
    Ok(RopeScaling::Yarn {
        factor,
        attention_factor: options.number_or("attention_factor", inferred)?,
        beta_fast: options.number_or("beta_fast", 32.0)?,
        beta_slow: options.number_or("beta_slow", 1.0)?,
        original_positions,
        truncate: options.flag_or("truncate", true)?,
    })
}

impl Rope {
    /// `[rotary / 2]` radians a position, in contexts of `context_length`.
    pub(in crate::model) fn frequencies(&self, context_length: usize) -> Vec<f64> {
        let width = self.rotary as f64;
        let theta = match self.scaling {
            RopeScaling::Dynamic { factor, max_positions } => {
                let length = max_positions.max(context_length as f64);
                self.theta * (factor * length / max_positions - (factor - 1.0)).powf(width / (width - 2.0))
            }
            _ => self.theta,
        };
        (0..self.rotary / 2).map(|j| self.stretched(theta.powf(-2.0 * j as f64 / width), j)).collect()
    }

    /// Factor on cosines and sines.
    pub(in crate::model) fn amplitude(&self) -> f64 {
        match self.scaling {
            RopeScaling::Yarn { attention_factor, .. } => attention_factor,
            _ => 1.0,
        }
    }

    /// The frequency of channel pair `j`.
    fn stretched(&self, frequency: f64, j: usize) -> f64 {
        match self.scaling {
            RopeScaling::Default | RopeScaling::Dynamic { .. } => frequency,
            RopeScaling::Linear { factor } => frequency / factor,
            RopeScaling::Llama3 { factor, low_freq_factor, high_freq_factor, original_positions } => {
                // 0 where the wavelength is long (stretched by the factor), 1 where it is short (kept)
                let waves = original_positions * frequency / (2.0 * PI);
                let kept = ((waves - low_freq_factor) / (high_freq_factor - low_freq_factor)).clamp(0.0, 1.0);
                (1.0 - kept) * frequency / factor + kept * frequency
            }
            RopeScaling::Yarn { factor, beta_fast, beta_slow, original_positions, truncate, .. } => {
                let width = self.rotary as f64;
                // the channel that turns so often over the original context
                let channel =
                    |turns: f64| width * (original_positions / (turns * 2.0 * PI)).ln() / (2.0 * self.theta.ln());
                let (low, high) = (channel(beta_fast), channel(beta_slow));
                let (low, high) = if truncate { (low.floor(), high.ceil()) } else { (low, high) };
                let (low, high) = (low.max(0.0), high.min(width - 1.0));
                let high = if low == high { high + 0.001 } else { high };
                let stretched = ((j as f64 - low) / (high - low)).clamp(0.0, 1.0);
                stretched * frequency / factor + (1.0 - stretched) * frequency
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn llama3_keeps_short_waves_stretches_long_ones_and_is_monotonic() {
        let scaling = RopeScaling::Llama3 {
            factor: 8.0,
            low_freq_factor: 1.0,
            high_freq_factor: 4.0,
            original_positions: 8192.0,
        };
        let rope = |scaling| Rope { theta: 5e5, rotary: 128, scaling };
        let plain = rope(RopeScaling::Default).frequencies(4096);
        let llama3 = rope(scaling).frequencies(4096);
        assert_eq!(plain[0], llama3[0]);
        assert_eq!(plain[63] / 8.0, llama3[63]);
        assert!(llama3.is_sorted_by(|a, b| a > b));
        let between = plain.iter().zip(&llama3).filter(|(p, l)| *l < *p && **l > **p / 8.0).count();
        assert!(between > 0);
    }

    #[test]
    fn dynamic_scaling_starts_where_the_model_was_made_for_less() {
        let rope = |scaling| Rope { theta: 1e4, rotary: 16, scaling };
        let dynamic = rope(RopeScaling::Dynamic { factor: 2.0, max_positions: 64.0 });
        assert_eq!(dynamic.frequencies(64), rope(RopeScaling::Default).frequencies(64));
        let long = dynamic.frequencies(256);
        assert!(long[0] == 1.0 && long[7] < dynamic.frequencies(64)[7]);
    }
}
