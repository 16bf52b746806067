//! What a coder remembers from batch to batch besides its parameters; saved with them.

use serde::{Deserialize, Serialize};

use crate::sae::bias_control::BiasControl;
use crate::sae::coder::BatchReport;
use crate::sae::loss::anneal::Anneal;
use crate::sae::selection::feature_choice::Choice;
use crate::sae::settings::{CoderSettings, SelectionSettings};

/// See the module.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct CoderState {
    /// BatchTopK, top-AFA: the least value (times the decoder row's norm where that ranks) that batches kept.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub threshold: Option<MovingAverage>,
    /// A penalty whose exponent falls.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub anneal: Option<Anneal>,
    /// Feature Choice: what is known of each latent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub choice: Option<Choice>,
    /// Biases that follow how often latents fire.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bias_control: Option<BiasControl>,
}

/// The mean of the first values, then an exponential average: a new value weighs `rate`, or one part in as many as there
/// were so far where that is more.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct MovingAverage {
    /// The average.
    pub value: f64,
    /// Values so far.
    pub count: u64,
}

impl MovingAverage {
    /// Take in a value.
    pub fn add(&mut self, value: f64, rate: f64) {
        self.count += 1;
        let rate = rate.max(1.0 / self.count as f64);
        self.value = (1.0 - rate) * self.value + rate * value;
    }
}

impl CoderState {
    /// Whether there is nothing to save.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// After a batch that was learnt from, the `steps`-th.
    pub fn update(&mut self, settings: &CoderSettings, report: &BatchReport, steps: u64) {
        let least = report.least;
        match &settings.selection {
            SelectionSettings::BatchTopK { threshold_rate, .. } | SelectionSettings::TopAfa { threshold_rate, .. }
                if least.is_finite() =>
            {
                self.threshold.get_or_insert_default().add(least, *threshold_rate);
            }
            SelectionSettings::FeatureChoice(own) => {
                let batch = (&report.fired[..], &report.least_of_each[..]);
                Choice::update(&mut self.choice, own, batch, report.rows, steps);
            }
            _ => {}
        }
        if let Some(anneal) = &settings.anneal {
            self.anneal.get_or_insert_default().update(anneal, report.annealed, steps);
        }
    }
}
