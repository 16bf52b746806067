use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;

use proptest::prelude::*;

use super::*;
use crate::error::ErrorKind;

fn by_value(item: &u64) -> u64 {
    *item
}

#[test]
fn items_come_out_in_order_and_then_the_stream_ends() {
    let (tx, rx) = channel("test", 100, by_value);
    for i in 1..=5 {
        tx.send(i).unwrap();
    }
    drop(tx);
    assert_eq!(std::iter::from_fn(|| rx.recv()).collect::<Vec<_>>(), [1, 2, 3, 4, 5]);
    assert_eq!(rx.recv_timeout(Duration::ZERO), Received::End);
    assert_eq!((rx.stats().items.get(), rx.stats().weight.get()), (5, 0.0));
}

#[test]
fn the_budget_is_weight_and_a_giant_passes_alone() {
    let (tx, rx) = channel("test", 10, by_value);
    tx.send(6).unwrap();
    assert_eq!(tx.try_send(5), Err(NotSent::Full(5)));
    assert_eq!(tx.try_send(4), Ok(()));
    assert_eq!(tx.try_send(1000), Err(NotSent::Full(1000)));
    assert_eq!((rx.recv(), rx.recv()), (Some(6), Some(4)));
    assert_eq!(tx.try_send(1000), Ok(()));
    assert_eq!(tx.try_send(1), Err(NotSent::Full(1)));
    assert_eq!(rx.stats().weight.get(), 1000.0);
}

#[test]
fn a_sender_learns_that_the_receiver_is_gone_even_while_it_waits() {
    let (tx, rx) = channel("fan_out queue", 1, by_value);
    tx.send(1).unwrap();
    let waiting = thread::spawn(move || tx.send(2).map_err(|e| (e.kind(), e.to_string())));
    thread::sleep(Duration::from_millis(20));
    drop(rx);
    assert_eq!(waiting.join().unwrap(), Err((ErrorKind::Closed, "fan_out queue is gone".to_owned())));
}

#[test]
fn items_die_with_the_last_receiver() {
    let (tx, rx) = channel::<Arc<()>>("test", 10, |_| 1);
    let item = Arc::new(());
    tx.send(Arc::clone(&item)).unwrap();
    drop(rx);
    assert_eq!(Arc::strong_count(&item), 1);
    assert!(matches!(tx.try_send(item), Err(NotSent::Closed(_))));
}

#[test]
fn waiting_is_counted_on_the_side_that_waits() {
    let (tx, rx) = channel("test", 1, by_value);
    let slow_consumer = thread::spawn(move || {
        thread::sleep(Duration::from_millis(60));
        (rx.recv(), rx.recv())
    });
    tx.send(1).unwrap();
    tx.send(2).unwrap();
    assert_eq!(slow_consumer.join().unwrap(), (Some(1), Some(2)));
    let blocked = tx.stats().send_blocked.get();
    assert!((0.03..5.0).contains(&blocked), "{blocked}");
    let (tx, rx) = channel::<u64>("test", 1, by_value);
    assert_eq!(rx.recv_timeout(Duration::from_millis(30)), Received::Nothing);
    assert!((0.03..5.0).contains(&tx.stats().receive_blocked.get()));
    assert_eq!(tx.stats().send_blocked.get(), 0.0);
}

#[test]
fn a_task_may_stop_waiting_without_losing_an_item() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
    runtime.block_on(async {
        let (tx, rx) = channel("test", 10, by_value);
        let gave_up = tokio::time::timeout(Duration::from_millis(5), rx.recv_async()).await;
        assert!(gave_up.is_err());
        tx.send_async(7).await.unwrap();
        assert_eq!(rx.recv_async().await, Some(7));
    });
}

/// Producers and consumers on threads and on tasks, all at once: nothing is lost, doubled or reordered within a producer,
/// and the weight in the queue never passes the budget.
fn stress(producers: Vec<Vec<u64>>, consumers: usize, budget: u64) -> (Vec<Vec<(usize, u64)>>, u64) {
    let worst = Arc::new(AtomicU64::new(0));
    let (tx, rx) = channel::<(usize, u64)>("stress", budget, |item| item.1);
    let senders: Vec<_> = producers
        .into_iter()
        .enumerate()
        .map(|(id, items)| {
            let tx = tx.clone();
            thread::spawn(move || {
                for item in items {
                    let sent = match id % 2 {
                        0 => tx.send((id, item)),
                        _ => futures::executor::block_on(tx.send_async((id, item))),
                    };
                    sent.unwrap();
                }
            })
        })
        .collect();
    drop(tx);
    let receivers: Vec<_> = (0..consumers)
        .map(|id| {
            let (rx, worst) = (rx.clone(), Arc::clone(&worst));
            thread::spawn(move || {
                let next = || match id % 2 {
                    0 => futures::executor::block_on(rx.recv_async()),
                    _ => rx.recv(),
                };
                std::iter::from_fn(|| {
                    worst.fetch_max(rx.stats().weight.get() as u64, Ordering::SeqCst);
                    next()
                })
                .collect::<Vec<_>>()
            })
        })
        .collect();
    drop(rx);
    senders.into_iter().for_each(|t| t.join().unwrap());
    (receivers.into_iter().map(|t| t.join().unwrap()).collect(), worst.load(Ordering::SeqCst))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(60))]

    #[test]
    fn nothing_is_lost_doubled_or_reordered(
        producers in prop::collection::vec(prop::collection::vec(0u64..20, 0..120), 1..4),
        consumers in 1usize..4,
        budget in 1u64..40,
    ) {
        let (got, worst) = stress(producers.clone(), consumers, budget);
        // an item of up to 19 may pass alone
        prop_assert!(worst <= budget.max(19), "{worst} > {budget}");
        for (id, sent) in producers.iter().enumerate() {
            let mut all: Vec<u64> = got.iter().flatten().filter(|i| i.0 == id).map(|i| i.1).collect();
            if consumers == 1 {
                prop_assert_eq!(&all, sent);
            }
            let mut sent = sent.clone();
            all.sort_unstable();
            sent.sort_unstable();
            prop_assert_eq!(all, sent);
        }
    }
}
