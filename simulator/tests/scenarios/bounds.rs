//! How much is held, and what is left at the end?

use tokio::runtime::Handle;
use tokio::time::sleep;

use crate::bench::{Bench, Host, LEASE, MINUTE, assert_is_empty, secs};

#[tokio::test(start_paused = true)]
async fn acks_never_come() {
    let bench = Bench::new(1).await.fan_out("max_pending_records: 20");
    let worker = bench.connect("a").await;
    bench.put(0, 1..=100);
    let held = worker.hold(20).await;
    // Another worker would take a shard that is not kept.
    let other = bench.connect("b").await;
    assert!(worker.is_quiet(MINUTE).await, "more came than the pool holds");
    let (lease, calls) = (bench.row(0).lease, bench.subscribes(0).len());
    let (quiet, other_quiet) = tokio::join!(worker.is_quiet(5 * MINUTE), other.is_quiet(5 * MINUTE));
    assert!(quiet && other_quiet, "more came than the pool holds");
    assert_eq!(worker.status().pending_messages, 20);
    assert_eq!(bench.row(0).lease, lease, "the lease was lost, or claimed from itself");
    // Nothing is read meanwhile, and no connection is kept waiting.
    assert_eq!(bench.subscribes(0).len(), calls);
    assert_eq!(bench.simulator.kinesis(|kinesis| kinesis.open_subscriptions()), 0);
    for taken in held {
        worker.ack(taken).await;
    }
    assert_eq!(worker.numbers(80).await, (21..=100).collect::<Vec<_>>());
    bench.close([worker, other]).await;
}

#[tokio::test(start_paused = true)]
async fn everything_released() {
    let bench = Bench::new(4).await;
    let (first, second) = (bench.connect("a").await, bench.connect("b").await);
    for shard in 0..4_u32 {
        let from = u64::from(shard) * 100;
        bench.put(shard, from + 1..=from + 100);
    }
    let hosts = [&first, &second].map(Host::of);
    bench.split(0).await;
    bench.merge(2, 3).await;
    bench.put(4, 401..=500);
    bench.put(6, 501..=600);
    for (shard, last) in [(1, 200), (4, 500), (6, 600)] {
        bench.until_stored(shard, last).await;
    }
    drop(hosts);
    // Some records are read and not taken, some taken and not settled.
    bench.put(4, 601..=700);
    bench.put(6, 701..=800);
    sleep(secs(2)).await;
    let held = first.take().await;
    let alive = Handle::current().metrics().num_alive_tasks();
    assert!(alive > 4, "{alive} tasks are few");
    let inputs = bench.close_with_some_in_flight([first, second]).await;
    assert_eq!(inputs[0].status().pending_messages, held.numbers.len() as u64, "more is in flight than its host has");
    drop(held);
    for input in &inputs {
        assert_is_empty(&**input);
    }
    for shard in [0, 2, 3] {
        assert!(bench.row(shard).ended, "{shard}");
    }
}

/// A frame reserves the most that it can become, and keeps what its records are.
#[tokio::test(start_paused = true)]
async fn reservation_shrinks_to_what_an_event_holds() {
    let bench = Bench::new(1).await;
    let worker = bench.connect("a").await;
    bench.put_large(0, 1..=1, 1000);
    let held = worker.hold(1).await;
    let bytes = worker.status().pending_bytes;
    assert!((1000..4000).contains(&bytes), "a record of 1000 bytes holds {bytes}");
    for taken in held {
        worker.ack(taken).await;
    }
    assert!(worker.is_quiet(MINUTE).await);
    assert_eq!(worker.status().pending_bytes, 0);
    bench.close([worker]).await;
}

/// Events without records say where the shard continues. Without them an idle shard's position would be past retention
/// some day.
#[tokio::test(start_paused = true)]
async fn events_without_records_move_the_position() {
    let bench = Bench::new(1).await;
    let worker = bench.connect("a").await;
    bench.until("the position of an idle shard is stored", || bench.row(0).position.is_some()).await;
    let first = bench.row(0).position;
    bench.until("it moves on", || bench.row(0).position > first).await;
    bench.close([worker]).await;
}

/// While a worker stops, acks may come later than a lease lasts.
#[tokio::test(start_paused = true)]
async fn leases_are_kept_until_the_last_ack_of_a_stop() {
    let bench = Bench::new(1).await;
    let first = bench.connect("a").await;
    bench.put(0, 1..=5);
    let held = first.hold(5).await;
    let second = bench.connect("b").await;
    let late = async {
        sleep(LEASE * 3).await;
        assert_eq!(bench.holder(0).as_deref(), Some("a"), "a lease was let go before its last ack");
        for taken in held {
            first.ack(taken).await;
        }
    };
    let (closed, ()) = tokio::join!(first.input.close(LEASE * 4), late);
    closed.unwrap();
    assert_eq!(bench.row(0).stored, 5);
    bench.put(0, 6..=6);
    assert_eq!(second.numbers(1).await, [6]);
    bench.close([second]).await;
}
