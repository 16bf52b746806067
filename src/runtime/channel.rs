//! A queue between two stages, bounded by the weight of what it holds (bytes or rows).
//!
//! Both ends work from threads (`send`, `recv`) and from tasks (`send_async`, `recv_async`). Items leave in the order in
//! which they entered. The stream ends when all senders are dropped and the queue is empty; that says that nobody will
//! send more, not that the sender finished its work: completeness is in the items (a batch says that it ends its unit).
//! An item heavier than the whole budget passes when the queue is empty.
//!
//! Waiting is counted on both sides ([`QueueStats`]): a stage that waits to send is faster than the next one, a stage
//! that waits to receive is faster than the one before.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use crate::error::{Error, Result};
use crate::runtime::clock::Stopwatch;
use crate::runtime::monitor::Monitor;
use crate::telemetry::metrics::QueueStats;
use crate::telemetry::registry::Seconds;

/// A queue called `name` that holds items of at most `budget` weight in all, by `weight`.
pub fn channel<T>(name: &'static str, budget: u64, weight: fn(&T) -> u64) -> (Sender<T>, Receiver<T>) {
    let state = State { items: VecDeque::new(), weight: 0, senders: 1, receivers: 1 };
    let stats = QueueStats::default();
    stats.budget.set(budget as f64);
    let queue = Arc::new(Queue { name, budget, weigh: weight, state: Monitor::new(state), stats });
    (Sender { queue: Arc::clone(&queue) }, Receiver { queue })
}

/// The sending end. Clones send into the same queue.
pub struct Sender<T> {
    queue: Arc<Queue<T>>,
}

/// The receiving end. Clones share the items: each goes to one of them.
pub struct Receiver<T> {
    queue: Arc<Queue<T>>,
}

/// Why [`Sender::try_send`] did not take an item.
#[derive(Debug, PartialEq, Eq)]
pub enum NotSent<T> {
    /// There is no room now.
    Full(T),
    /// Every receiver is gone.
    Closed(T),
}

/// What [`Receiver::recv_timeout`] got.
#[derive(Debug, PartialEq, Eq)]
pub enum Received<T> {
    /// An item.
    Item(T),
    /// Nothing yet; more may come.
    Nothing,
    /// Nothing more will come.
    End,
}

struct Queue<T> {
    name: &'static str,
    budget: u64,
    weigh: fn(&T) -> u64,
    state: Monitor<State<T>>,
    stats: QueueStats,
}

struct State<T> {
    /// Items and their weights.
    items: VecDeque<(T, u64)>,
    weight: u64,
    senders: usize,
    receivers: usize,
}

impl<T> Sender<T> {
    /// Wait, blocking the thread, until there is room, and send. [`Error::closed`] if every receiver is gone.
    pub fn send(&self, item: T) -> Result<()> {
        let mut offer = self.queue.offer(item);
        if let Some(answer) = self.queue.state.attempt(|s| self.queue.push(s, &mut offer)) {
            return answer;
        }
        timed(&self.queue.stats.send_blocked, || self.queue.state.wait(|s| self.queue.push(s, &mut offer)))
    }

    /// As [`Sender::send`], for tasks. Dropped before it is ready, it drops the item.
    pub async fn send_async(&self, item: T) -> Result<()> {
        let mut offer = self.queue.offer(item);
        let since = Stopwatch::start();
        let answer = self.queue.state.wait_async(|s| self.queue.push(s, &mut offer)).await;
        self.queue.stats.send_blocked.add(since.elapsed());
        answer
    }

    /// Send if there is room now; otherwise the item comes back.
    pub fn try_send(&self, item: T) -> Result<(), NotSent<T>> {
        let mut offer = self.queue.offer(item);
        let answer = self.queue.state.attempt(|s| self.queue.push(s, &mut offer));
        match (answer, offer) {
            (Some(Err(_)), Some((item, _))) => Err(NotSent::Closed(item)),
            (None, Some((item, _))) => Err(NotSent::Full(item)),
            (_, None) | (Some(Ok(())), _) => Ok(()),
        }
    }

    /// Counters of this queue.
    pub fn stats(&self) -> &QueueStats {
        &self.queue.stats
    }
}

impl<T> Receiver<T> {
    /// Wait, blocking the thread, for the next item; `None` at the end of the stream.
    pub fn recv(&self) -> Option<T> {
        if let Some(answer) = self.queue.state.attempt(|s| self.queue.pop(s)) {
            return answer;
        }
        timed(&self.queue.stats.receive_blocked, || self.queue.state.wait(|s| self.queue.pop(s)))
    }

    /// As [`Receiver::recv`], for tasks. Cancel-safe: dropped before it is ready, it took nothing.
    pub async fn recv_async(&self) -> Option<T> {
        let since = Stopwatch::start();
        let answer = self.queue.state.wait_async(|s| self.queue.pop(s)).await;
        self.queue.stats.receive_blocked.add(since.elapsed());
        answer
    }

    /// As [`Receiver::recv`], for at most `timeout`; zero does not wait.
    pub fn recv_timeout(&self, timeout: Duration) -> Received<T> {
        let answer =
            timed(&self.queue.stats.receive_blocked, || self.queue.state.wait_for(timeout, |s| self.queue.pop(s)));
        match answer {
            Some(Some(item)) => Received::Item(item),
            Some(None) => Received::End,
            None => Received::Nothing,
        }
    }

    /// Counters of this queue.
    pub fn stats(&self) -> &QueueStats {
        &self.queue.stats
    }
}

impl<T> Queue<T> {
    fn offer(&self, item: T) -> Option<(T, u64)> {
        let weight = (self.weigh)(&item);
        Some((item, weight))
    }

    /// Take the offer if there is room; leave it where it is if not, or if nobody would receive it.
    fn push(&self, state: &mut State<T>, offer: &mut Option<(T, u64)>) -> Option<Result<()>> {
        if state.receivers == 0 {
            return Some(Err(Error::closed(self.name)));
        }
        let fits = |weight: u64| state.items.is_empty() || state.weight.saturating_add(weight) <= self.budget;
        let (item, weight) = offer.take_if(|(_, weight)| fits(*weight))?;
        state.items.push_back((item, weight));
        state.weight = state.weight.saturating_add(weight);
        self.stats.items.inc();
        self.show(state);
        Some(Ok(()))
    }

    fn pop(&self, state: &mut State<T>) -> Option<Option<T>> {
        match state.items.pop_front() {
            Some((item, weight)) => {
                state.weight -= weight;
                self.show(state);
                Some(Some(item))
            }
            None if state.senders == 0 => Some(None),
            None => None,
        }
    }

    fn show(&self, state: &State<T>) {
        self.stats.depth.set(state.items.len() as f64);
        self.stats.weight.set(state.weight as f64);
    }
}

fn timed<R>(seconds: &Seconds, wait: impl FnOnce() -> R) -> R {
    let since = Stopwatch::start();
    let result = wait();
    seconds.add(since.elapsed());
    result
}

// === ends come and go ===

impl<T> Clone for Sender<T> {
    fn clone(&self) -> Self {
        self.queue.state.update(|s| s.senders += 1);
        Self { queue: Arc::clone(&self.queue) }
    }
}

impl<T> Clone for Receiver<T> {
    fn clone(&self) -> Self {
        self.queue.state.update(|s| s.receivers += 1);
        Self { queue: Arc::clone(&self.queue) }
    }
}

impl<T> Drop for Sender<T> {
    fn drop(&mut self) {
        self.queue.state.update(|s| s.senders -= 1);
    }
}

impl<T> Drop for Receiver<T> {
    /// The last receiver takes the items with it: what they hold (memory permits) must not wait for the senders.
    fn drop(&mut self) {
        let left = self.queue.state.update(|s| {
            s.receivers -= 1;
            if s.receivers > 0 {
                return VecDeque::new();
            }
            s.weight = 0;
            let left = std::mem::take(&mut s.items);
            self.queue.show(s);
            left
        });
        // outside the lock: dropping an item may wake others
        drop(left);
    }
}

#[cfg(test)]
mod tests;
