//! Rules of what coders are judged on.

use super::Rules;
use crate::units::{Count, Percent};

impl Rules<'_> {
    /// That there is something to judge coders on, where they are to be judged.
    pub(super) fn evaluation(&mut self) {
        let judged = self.items("trainers") > 0 && self.value::<Count>("evaluate.tokens").is_some_and(|t| t.0 > 0);
        let holdout = if self.is_replay() { "replay.holdout" } else { "corpus.holdout" };
        if judged && self.value::<Percent>(holdout).is_some_and(|h| h.share() == 0.0) {
            self.note(holdout, "no text is held out, so trained coders are not judged at the end");
        }
        let nothing = self.value::<Percent>(holdout).is_some_and(|h| h.share() == 0.0);
        for i in 0..self.items("trainers") {
            let key = format!("trainers[{i}].evaluate_every_rows");
            if self.written::<Count>(&key).is_some() && (!judged || nothing) {
                self.broken(&key, format!("needs held-out rows: {holdout} and evaluate.tokens must be above 0"));
            }
        }
    }
}
