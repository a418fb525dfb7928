//! What could stand still indefinitely?

use std::time::Duration;

use kinesis_simulator::faults::CallFault;
use pipeline_plugin_api::{Demand, InputError, State};
use tokio::time::timeout;

use crate::bench::{Bench, Host, LEASE, MINUTE, secs};

#[tokio::test(start_paused = true)]
async fn event_larger_than_the_pool() {
    let bench = Bench::new(2).await.fan_out("max_pending_bytes: 20KiB");
    let worker = bench.connect("a").await;
    for shard in 0..2_u32 {
        let first = u64::from(shard) * 10;
        bench.put_large(shard, first + 1..=first + 2, 100_000);
        bench.put(shard, first + 3..=first + 4);
    }
    let mut numbers = worker.numbers(8).await;
    numbers.sort_unstable();
    assert_eq!(numbers, [1, 2, 3, 4, 11, 12, 13, 14]);
    bench.close([worker]).await;
}

#[tokio::test(start_paused = true)]
async fn lease_lost_while_blocked() {
    let bench = Bench::new(1).await.fan_out("max_pending_records: 4");
    let (first, second) = (bench.connect("a").await, bench.worker("b"));
    bench.put(0, 1..=20);
    let mut held = Vec::new();
    for _ in 0..4 {
        held.push(first.take_at_most(1).await);
    }
    first.ack(held.remove(0)).await;
    bench.until_stored(0, 1).await;
    held.extend(first.hold(1).await);
    second.input.connect().await.unwrap();
    assert!(second.is_quiet(MINUTE).await, "the lease of one that is blocked is taken");
    // The worker is blocked, and now also without the table.
    first.link.cut_table(true);
    bench.until_held(0, "b").await;
    assert_eq!(first.status().pending_messages, 4, "it keeps more than its host holds");
    assert_eq!(second.numbers(19).await, (2..=20).collect::<Vec<_>>());
    bench.until_stored(0, 20).await;
    // The first worker recovers, and its acks are late.
    first.link.cut_table(false);
    for taken in held {
        first.ack(taken).await;
    }
    assert_eq!(first.status().pending_messages, 0);
    bench.put(0, 21..=22);
    assert_eq!(second.numbers(2).await, [21, 22]);
    assert!(first.is_quiet(5 * MINUTE).await, "it still reads");
    assert_eq!((bench.row(0).stored, bench.holder(0).as_deref()), (22, Some("b")));
    bench.close([first, second]).await;
}

#[tokio::test(start_paused = true)]
async fn first_connect_fails() {
    let bench = Bench::new(1).await;
    bench.put(0, 1..=3);
    let worker = bench.worker("a");
    // One fault for each kind of call that connecting makes, with all the retries of the SDK.
    for operation in ["DescribeTable", "DescribeStreamSummary", "ListShards", "RegisterStreamConsumer", "UpdateItem"] {
        for _ in 0..4 {
            worker.link.next_call(operation, CallFault::Refused);
        }
    }
    let mut failures = 0;
    while let Err(error) = worker.input.connect().await {
        let InputError::BackOff { after, .. } = error else { panic!("{error}") };
        assert_eq!(worker.status().state, State::Disconnected);
        failures += 1;
        assert!(failures < 20, "it never connects");
        tokio::time::sleep(after).await;
    }
    assert!(failures >= 3, "{failures}");
    assert_eq!(worker.numbers(3).await, [1, 2, 3]);
    bench.close([worker]).await;
}

#[tokio::test(start_paused = true)]
async fn close_before_connect() {
    let bench = Bench::new(1).await;
    let worker = bench.worker("a");
    timeout(secs(1), worker.input.close(MINUTE)).await.expect("it returns").unwrap();
    assert_eq!(worker.status().state, State::Closed);
    assert!(matches!(worker.input.connect().await, Err(InputError::Fatal(_))));
    let read = worker.input.read_batch(Demand::new(1, Duration::ZERO)).await;
    assert!(matches!(read, Err(InputError::NotConnected(_))));
    // Nor does the worker hang behind a connect that gets no answer.
    let worker = bench.worker("b");
    worker.link.cut(true);
    assert!(timeout(secs(5), worker.input.connect()).await.is_err());
    timeout(secs(1), worker.input.close(MINUTE)).await.expect("it returns").unwrap();
    bench.close([]).await;
}

#[tokio::test(start_paused = true)]
async fn explicit_shard_after_crash() {
    let bench = Bench::new(2).await.lines("streams: ['orders:0']");
    bench.put(0, 1..=3);
    bench.put(1, 101..=103);
    let first = bench.connect("a").await;
    assert_eq!(first.numbers(3).await, [1, 2, 3]);
    bench.until_stored(0, 3).await;
    first.kill();
    let killed = bench.now();
    bench.put(0, 4..=6);
    let second = bench.connect("b").await;
    bench.until_held(0, "b").await;
    let waited = bench.now().since(killed);
    assert!(waited + secs(5) >= LEASE && waited <= LEASE + secs(35), "taken after {waited:?}");
    assert_eq!(second.numbers(3).await, [4, 5, 6]);
    assert!(second.is_quiet(MINUTE).await, "it reads a shard that it was not assigned");
    bench.close([second]).await;
}

#[tokio::test(start_paused = true)]
async fn all_explicit_shards_ended() {
    let bench = Bench::new(2).await.lines("streams: ['orders:0']");
    let worker = bench.connect("a").await;
    bench.put(0, 1..=3);
    bench.split(0).await;
    bench.put(2, 4..=6);
    let host = Host::of(&worker);
    bench.until("it is over", || worker.status().state == State::Ended).await;
    assert_eq!(host.read(), [1, 2, 3]);
    let demand = Demand::new(1, MINUTE);
    assert!(matches!(worker.input.read_batch(demand).await, Err(InputError::EndOfInput)));
    bench.close([worker]).await;
    let calls = bench.subscribes(0).len();
    let again = bench.connect("a").await;
    assert!(matches!(again.input.read_batch(demand).await, Err(InputError::EndOfInput)));
    bench.close([again]).await;
    assert_eq!(bench.subscribes(0).len(), calls, "an ended shard is read again");
}

/// A host may connect and close in a task that is not watched.
#[tokio::test(start_paused = true)]
async fn panic_while_connecting_or_closing_does_not_reach_the_host() {
    let bench = Bench::new(1).await;
    bench.put(0, 1..=3);
    let first = bench.worker("a");
    first.link.next_call("DescribeStreamSummary", CallFault::Panic);
    let refused = first.input.connect().await.unwrap_err();
    assert!(matches!(refused, InputError::BackOff { .. }) && refused.to_string().contains("panic"), "{refused}");
    first.input.connect().await.unwrap();
    assert_eq!(first.numbers(3).await, [1, 2, 3]);
    // Notifying the other workers is not worth a failure.
    first.link.next_call("DeleteItem", CallFault::Panic);
    first.close().await;
    assert_eq!((bench.row(0).stored, bench.holder(0)), (3, None));

    let second = bench.connect("b").await;
    bench.put(0, 4..=5);
    let taken = second.take().await;
    second.ack(taken).await;
    // Checkpoints that can't be stored are reported.
    second.link.next_call("UpdateItem", CallFault::Panic);
    let error = second.input.close(secs(10)).await.unwrap_err().to_string();
    assert!(error.contains("store the last checkpoints"), "{error}");
    let third = bench.connect("c").await;
    assert_eq!(third.numbers(2).await, [4, 5]);
    bench.close([third]).await;
}
