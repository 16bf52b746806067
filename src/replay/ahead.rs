//! Row groups on their way: fetched and decoded in any order, taken in the order they were asked for.

use std::collections::VecDeque;
use std::future::Future;

use tokio::task::JoinHandle;

use crate::dataset::decoder::ShardRows;
use crate::error::{Error, Result};

/// A bounded queue of row groups that are being read.
#[derive(Debug)]
pub(super) struct Ahead {
    queue: VecDeque<OnItsWay>,
    held: u64,
    limit: u64,
}

#[derive(Debug)]
struct OnItsWay {
    bytes: u64,
    rows: JoinHandle<Result<ShardRows>>,
}

impl Drop for OnItsWay {
    fn drop(&mut self) {
        self.rows.abort();
    }
}

impl Ahead {
    /// Nothing yet. Decoded rows of about `limit` bytes may wait, and one row group in any case.
    pub(super) fn new(limit: u64) -> Self {
        Self { queue: VecDeque::new(), held: 0, limit }
    }

    /// Whether another row group may be asked for.
    pub(super) fn has_room(&self) -> bool {
        self.queue.is_empty() || self.held < self.limit
    }

    /// Ask for a row group that will hold `bytes`. Needs the runtime to be entered.
    pub(super) fn push(&mut self, bytes: u64, read: impl Future<Output = Result<ShardRows>> + Send + 'static) {
        self.held += bytes;
        self.queue.push_back(OnItsWay { bytes, rows: tokio::spawn(read) });
    }

    /// The oldest row group, once it is there; `None` if none was asked for.
    pub(super) async fn pop(&mut self) -> Result<Option<ShardRows>> {
        let Some(mut first) = self.queue.pop_front() else { return Ok(None) };
        self.held -= first.bytes;
        match (&mut first.rows).await {
            Ok(rows) => rows.map(Some),
            Err(error) => Err(Error::internal(format!("reading a row group failed: {error}"))),
        }
    }
}
