//! How much is held, and what is left in the end.

use tokio::runtime::Handle;

use crate::bench::{Bench, Host, MINUTE, secs};

#[tokio::test(start_paused = true)]
async fn acks_never_come() {
    const POOL: u64 = 20;
    let bench = Bench::new(2).await.fan_out("max_pending_records: 20");
    let worker = bench.connect("a").await;
    for shard in 0..2_u32 {
        let first = u64::from(shard) * 100;
        bench.put(shard, first + 1..=first + 100);
    }
    let mut held = worker.hold(POOL as usize).await;
    assert!(worker.is_quiet(10 * MINUTE).await, "more came than the pool holds");
    assert_eq!(worker.status().pending_messages, POOL);
    assert_eq!(bench.simulator.kinesis(|kinesis| kinesis.open_subscriptions()), 0, "a connection is kept waiting");
    let leases = [0, 1].map(|shard| bench.row(shard).lease);
    let calls = bench.calls_of("SubscribeToShard").len();
    // Somebody else would take what is not kept.
    let other = bench.connect("b").await;
    let moves = bench.until_shared("a", "b").await;
    let kept = 1 - moves;
    assert!(worker.is_quiet(10 * MINUTE).await, "more came than the pool holds");
    assert_eq!(bench.row(kept).lease, leases[kept as usize], "a lease was lost, or claimed from itself");
    let reread = bench.calls_of("SubscribeToShard");
    assert!(reread[calls..].iter().all(|call| call.asked()["ShardId"].as_str().unwrap().ends_with(&moves.to_string())));
    let mut all: Vec<u64> =
        held.iter().filter(|taken| taken.shard == kept).flat_map(|taken| taken.numbers.clone()).collect();
    let elsewhere = Host::of(&other);
    for taken in held.drain(..) {
        worker.ack(taken).await;
    }
    all.extend(worker.numbers(100 - all.len()).await);
    let of_shard = |shard: u32| u64::from(shard) * 100 + 1..=u64::from(shard) * 100 + 100;
    assert_eq!(all, of_shard(kept).collect::<Vec<_>>());
    bench.until_stored(moves, *of_shard(moves).end()).await;
    drop(elsewhere);
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
    let hosts = (Host::of(&first), Host::of(&second));
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
    sleep_until_buffered().await;
    let held = first.take().await;
    let alive = Handle::current().metrics().num_alive_tasks();
    assert!(alive > 4, "{alive} tasks are few");
    bench.close([first, second]).await;
    drop(held);
    for shard in [0, 2, 3] {
        assert!(bench.row(shard).ended, "{shard}");
    }
}

async fn sleep_until_buffered() {
    tokio::time::sleep(secs(2)).await;
}
