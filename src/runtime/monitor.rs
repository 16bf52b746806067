//! State behind a lock that others wait for: threads block, tasks await, both see every change.
//!
//! A waiter gives a closure that looks at the state and answers `Some` when it can go on; what the closure changed then
//! wakes everybody else. Items here are large and rare (a batch, a shard), so waking all is cheaper than being clever.

use std::future::poll_fn;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::task::{Poll, Waker};
use std::time::Duration;

use crate::runtime::clock::Stopwatch;

/// State `S` and those who wait for it to change.
pub(crate) struct Monitor<S> {
    inner: Mutex<Inner<S>>,
    changed: Condvar,
}

struct Inner<S> {
    state: S,
    /// Tasks that wait; all are woken, and forgotten, at each change.
    wakers: Vec<Waker>,
}

impl<S> Monitor<S> {
    pub(crate) fn new(state: S) -> Self {
        Self { inner: Mutex::new(Inner { state, wakers: Vec::new() }), changed: Condvar::new() }
    }

    /// Look without changing anything.
    pub(crate) fn read<R>(&self, look: impl FnOnce(&S) -> R) -> R {
        look(&self.lock().state)
    }

    /// Change the state and wake those who wait.
    pub(crate) fn update<R>(&self, change: impl FnOnce(&mut S) -> R) -> R {
        let mut inner = self.lock();
        let result = change(&mut inner.state);
        self.wake(inner);
        result
    }

    /// Try once: `Some` means the state was changed.
    pub(crate) fn attempt<R>(&self, mut step: impl FnMut(&mut S) -> Option<R>) -> Option<R> {
        let mut inner = self.lock();
        let result = step(&mut inner.state)?;
        self.wake(inner);
        Some(result)
    }

    /// Block until `step` answers.
    pub(crate) fn wait<R>(&self, mut step: impl FnMut(&mut S) -> Option<R>) -> R {
        let mut inner = self.lock();
        loop {
            if let Some(result) = step(&mut inner.state) {
                self.wake(inner);
                return result;
            }
            inner = self.changed.wait(inner).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// Block until `step` answers, for at most `timeout`.
    pub(crate) fn wait_for<R>(&self, timeout: Duration, mut step: impl FnMut(&mut S) -> Option<R>) -> Option<R> {
        let since = Stopwatch::start();
        let mut inner = self.lock();
        loop {
            if let Some(result) = step(&mut inner.state) {
                self.wake(inner);
                return Some(result);
            }
            let left = timeout.checked_sub(since.elapsed()).filter(|left| !left.is_zero())?;
            inner = self.changed.wait_timeout(inner, left).unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    /// As [`Monitor::wait`], for tasks. Dropping the future before it is ready leaves the state as it was.
    pub(crate) async fn wait_async<R>(&self, mut step: impl FnMut(&mut S) -> Option<R>) -> R {
        poll_fn(|context| {
            let mut inner = self.lock();
            match step(&mut inner.state) {
                Some(result) => {
                    self.wake(inner);
                    Poll::Ready(result)
                }
                None => {
                    if !inner.wakers.iter().any(|w| w.will_wake(context.waker())) {
                        inner.wakers.push(context.waker().clone());
                    }
                    Poll::Pending
                }
            }
        })
        .await
    }

    fn wake(&self, mut inner: MutexGuard<'_, Inner<S>>) {
        let wakers = std::mem::take(&mut inner.wakers);
        drop(inner);
        self.changed.notify_all();
        wakers.into_iter().for_each(Waker::wake);
    }

    /// A panic while the lock is held is a bug in a step closure; the state is still consistent, because each step
    /// checks before it changes.
    fn lock(&self) -> MutexGuard<'_, Inner<S>> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    #[test]
    fn a_thread_and_a_task_both_see_a_change() {
        let monitor = Arc::new(Monitor::new(0));
        let seen = |n: &mut i32| (*n >= 2).then_some(*n);
        let (a, b) = (Arc::clone(&monitor), Arc::clone(&monitor));
        let thread = std::thread::spawn(move || a.wait(seen));
        let task = std::thread::spawn(move || futures::executor::block_on(b.wait_async(seen)));
        monitor.update(|n| *n += 1);
        assert!(monitor.attempt(seen).is_none());
        monitor.update(|n| *n += 1);
        assert_eq!((thread.join().unwrap(), task.join().unwrap()), (2, 2));
    }

    #[test]
    fn waiting_ends_at_the_timeout() {
        let monitor = Monitor::new(());
        assert_eq!(monitor.wait_for(Duration::from_millis(5), |()| None::<()>), None);
    }
}
