//! What a coder remembers from batch to batch besides its parameters; saved with them.

use serde::{Deserialize, Serialize};

use crate::sae::coder::BatchReport;
use crate::sae::loss::anneal::Anneal;
use crate::sae::settings::{CoderSettings, SelectionSettings};

/// See the module.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct CoderState {
    /// BatchTopK: moving average of the least value (times the decoder row's norm where that ranks) that a batch kept.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub threshold: Option<f64>,
    /// A penalty whose exponent falls.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub anneal: Option<Anneal>,
}

impl CoderState {
    /// Whether there is nothing to save.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// After a batch that was learnt from, the `steps`-th.
    pub fn update(&mut self, settings: &CoderSettings, report: &BatchReport, steps: u64) {
        let least = report.least;
        if let SelectionSettings::BatchTopK { threshold_rate, .. } = settings.selection
            && least.is_finite()
        {
            self.threshold = Some(match self.threshold {
                None => least,
                Some(average) => (1.0 - threshold_rate) * average + threshold_rate * least,
            });
        }
        if let Some(anneal) = &settings.anneal {
            self.anneal.get_or_insert_default().update(anneal, report.annealed, steps);
        }
    }
}
