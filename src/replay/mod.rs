//! Stored shards back to activation batches: what a trainer reads when there is no model.
//!
//! ```text
//! Catalog -> Source (what is committed now, which columns) -> Reader -+-> order by unit: the batches of the run that stored them
//!                                                                     +-> order by window: shards as they lie, or shuffled
//! ```
//!
//! The order of rows is a pure function of the commits, the settings and the seed, so the position in it is a small
//! [`SourceCursor`](crate::corpus::cursor::SourceCursor), and whoever holds one continues with the very next row. Row groups are fetched ahead by range
//! requests for the chosen columns alone, decoded on blocking threads several at a time, and handed out in order; how many
//! bytes wait is bounded. It knows neither models nor trainers, and it never writes.

mod ahead;
mod by_unit;
mod by_window;
pub mod config;
mod reader;
mod rows;
mod shard;
mod source;

pub use config::{Order, ReplayConfig};
pub use reader::{Reader, identity};
pub use shard::{OpenShard, ShardReader};
pub use source::{Source, StoredSite};

#[cfg(test)]
mod tests;
