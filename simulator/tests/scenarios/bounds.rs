//! How much is held, and what is left in the end.

use tokio::runtime::Handle;
use tokio::time::sleep;

use crate::bench::{Bench, Host, MINUTE, secs};

#[tokio::test(start_paused = true)]
async fn acks_never_come() {
    let bench = Bench::new(1).await.fan_out("max_pending_records: 20");
    let worker = bench.connect("a").await;
    bench.put(0, 1..=100);
    let held = worker.hold(20).await;
    // Somebody else would take what is not kept.
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
    // Some is read and not taken, some taken and not settled.
    bench.put(4, 601..=700);
    bench.put(6, 701..=800);
    sleep(secs(2)).await;
    let held = first.take().await;
    let alive = Handle::current().metrics().num_alive_tasks();
    assert!(alive > 4, "{alive} tasks are few");
    bench.close([first, second]).await;
    drop(held);
    for shard in [0, 2, 3] {
        assert!(bench.row(shard).ended, "{shard}");
    }
}
