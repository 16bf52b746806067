//! Corpus to token batches: reads the units in order, tokenises, packs, and sends what somebody wants.

use std::sync::Arc;

use crate::corpus::Growth;
use crate::error::Result;
use crate::pipeline::others::Lookout;
use crate::pipeline::stages::Completion;
use crate::pipeline::wanted::Wanted;
use crate::runtime::channel::Sender;
use crate::runtime::clock::Stopwatch;
use crate::runtime::shutdown::Shutdown;
use crate::runtime::supervisor::Heartbeat;
use crate::telemetry::metrics::{RunStats, StageStats};
use crate::testing::failpoint;
use crate::tokens::TokenBatch;
use crate::tokens::stream::TokenStream;

/// The stage that turns text into token batches.
pub struct Tokenize {
    /// The corpus, tokenised, in the run's order.
    pub stream: TokenStream,
    /// Who needs what.
    pub wanted: Arc<Wanted>,
    /// Finds units that other writers of the dataset finished, if there may be others.
    pub lookout: Option<Lookout>,
    /// Makes the corpus grow, if it does.
    pub growth: Option<Growth>,
    /// To the forward stage.
    pub output: Sender<TokenBatch>,
    /// Set at the end of the corpus.
    pub complete: Completion,
    /// Five numbers.
    pub stats: StageStats,
    /// The run's numbers.
    pub run: RunStats,
    /// Ends the stage early.
    pub shutdown: Shutdown,
}

impl Tokenize {
    /// Work until the corpus ends, nobody wants more, or the run is told to stop.
    pub fn run(mut self, heartbeat: &Heartbeat) -> Result<()> {
        let stop = {
            let (wanted, shutdown) = (Arc::clone(&self.wanted), self.shutdown.clone());
            move || shutdown.is_draining() || wanted.nothing_left()
        };
        loop {
            if stop() {
                if !self.shutdown.is_draining() {
                    self.complete.set();
                }
                return Ok(());
            }
            if let Some(lookout) = &mut self.lookout {
                let found = heartbeat.while_waiting(|| lookout.look());
                self.stream.learn(found);
            }
            failpoint("read_begun");
            let watch = Stopwatch::start();
            // a batch that nobody wants any more also ends the search, so that stopping is noticed between batches
            let mut wanted = |index, unit, batch_in_unit| self.wanted.by_anyone(index, unit, batch_in_unit) || stop();
            let Some(batch) = self.stream.next(&mut wanted)? else {
                let Some(growth) = &mut self.growth else {
                    self.complete.set();
                    return Ok(());
                };
                // bounded waits: whoever waits for files is alive
                self.stats.busy.add(watch.elapsed());
                let watch = Stopwatch::start();
                let corpus = Arc::clone(self.stream.corpus());
                if let Some(grown) = heartbeat.while_waiting(|| {
                    growth.wait(&corpus, &|| {
                        heartbeat.beat();
                        stop()
                    })
                })? {
                    self.run.units_total.set(f64::from(grown.n_units()));
                    self.stream.go_on(grown)?;
                }
                self.stats.blocked.add(watch.elapsed());
                continue;
            };
            failpoint("tokenized");
            self.stats.worked((batch.index, batch.unit), watch.elapsed());
            if stop() {
                continue;
            }
            self.stats.items_in.add(u64::from(batch.documents));
            self.stats.bytes.add(batch.n_tokens() as u64 * 4);
            let watch = Stopwatch::start();
            if heartbeat.while_waiting(|| self.output.send(batch)).is_err() {
                // the next stage ended; it reports why
                return Ok(());
            }
            self.stats.items_out.inc();
            self.stats.blocked.add(watch.elapsed());
        }
    }
}
