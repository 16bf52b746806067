//! The plan of a replay: what is read, how often, and the memory for it.

use std::process::ExitCode;

use serde_json::json;

use super::super::{Globals, Outcome, async_runtime, output};
use crate::catalog::columns::View;
use crate::config::sites::trainer_memory;
use crate::config::{Loaded, Problems};
use crate::pipeline::prepare::QUEUE_SHARE;
use crate::pipeline::replay;
use crate::replay::{Order, ReplayConfig};
use crate::units::{ByteSize, Count};

/// Print the plan of the pipeline `loaded`, which replays `config`.
pub(super) fn execute(loaded: &Loaded, config: &ReplayConfig, globals: &Globals) -> Outcome {
    let pipeline = &loaded.pipeline;
    let runtime = async_runtime()?;
    let location = loaded.stores.open(&config.url)?;
    let (source, inputs) = runtime.block_on(async {
        let view = View::open(location).await?;
        replay::open(loaded, &view).await
    })?;
    if let Some(problem) = replay::problems(loaded, &inputs) {
        return Err(Problems::new(&loaded.source.display().to_string(), vec![problem]).into());
    }
    let memory = trainer_memory(pipeline, &inputs)?;
    let held = memory.iter().map(|m| m.buffer.0 + m.coder.0).sum::<u64>();
    let epochs = u64::from(config.epochs);
    let row: u64 = source.sites().iter().map(|site| 4 * site.width as u64).sum::<u64>() + 24;
    let window = match config.order {
        Order::Stream => 0,
        Order::Shuffled => config.shuffle_rows.0.min(source.rows()) * row,
    };
    let rows = (source.rows() as f64 * (1.0 - config.holdout.share())) as u64 * epochs;
    let read = source.column_bytes() * epochs;
    let mut warnings = Vec::new();
    for trainer in &pipeline.trainers {
        let gives = rows.saturating_mul(u64::from(trainer.buffer.reuse));
        if gives < trainer.rows.0 {
            warnings.push(format!(
                "trainer `{}` wants {} rows; the dataset gives about {gives} in {epochs} epochs: raise replay.epochs",
                trainer.name, trainer.rows.0
            ));
        }
    }
    if globals.json {
        output::print_json(&json!({
            "pipeline": pipeline.name,
            "replay": {
                "url": config.url, "order": config.order, "epochs": epochs, "shards": source.shards(),
                "rows": source.rows(), "rows_trained_on": rows, "bytes_read": read, "snapshot": source.snapshot(),
            },
            "memory": {
                "trainers": held, "prefetch": config.prefetch.0, "shuffled_rows": window, "queues_at_most": pipeline.memory_limit.0 / QUEUE_SHARE,
            },
            "warnings": warnings,
        }));
        return Ok(ExitCode::SUCCESS);
    }
    output::fields(&[
        ("pipeline", pipeline.name.clone()),
        ("dataset", format!("{}: {} rows in {} shards", config.url, Count(source.rows()), source.shards())),
        ("sites", source.sites().iter().map(|s| s.header.name.clone()).collect::<Vec<_>>().join(", ")),
        ("rows", format!("{} in {epochs} epochs, {} read", Count(rows), ByteSize(read))),
        (
            "memory",
            format!(
                "trainers {}, read ahead {}, rows that are shuffled {}, queues at most {}",
                ByteSize(held),
                config.prefetch,
                ByteSize(window),
                ByteSize(pipeline.memory_limit.0 / QUEUE_SHARE)
            ),
        ),
    ]);
    warnings.iter().for_each(|warning| output::print(&format!("warning   {warning}")));
    loaded.notes.iter().for_each(|note| output::print(&note.line(&loaded.source.display().to_string())));
    Ok(ExitCode::SUCCESS)
}
