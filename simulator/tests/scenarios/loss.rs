//! What could lose a record?

use kinesis_simulator::faults::CallFault;
use tokio::time::sleep;

use crate::bench::{Bench, MINUTE, secs};

fn refused(code: &str, status: u16) -> CallFault {
    CallFault::Error { code: code.to_owned(), status }
}

#[tokio::test(start_paused = true)]
async fn shard_end_while_events_are_buffered() {
    let bench = Bench::new(1).await;
    let worker = bench.connect("a").await;
    for event in 0..3 {
        bench.put(0, event * 10 + 1..=event * 10 + 10);
        sleep(secs(1)).await;
    }
    bench.split(0).await;
    bench.put(1, 31..=33);
    // Everything is read, including the end, and nothing is taken.
    sleep(MINUTE).await;
    assert!(!bench.row(0).ended, "nothing of it is acked");
    let mut taken = worker.hold(30).await;
    let last = taken.pop().unwrap();
    for taken in taken {
        worker.ack(taken).await;
    }
    assert!(worker.is_quiet(MINUTE).await, "a child is read before its parent is done");
    assert!(!bench.row(0).ended, "the last of it is not acked");
    assert!(bench.subscribes(1).is_empty());
    worker.ack(last).await;
    assert_eq!(worker.numbers(3).await, [31, 32, 33]);
    assert!(bench.row(0).ended);
    bench.close([worker]).await;
}

#[tokio::test(start_paused = true)]
async fn flush_fails_at_shard_end() {
    let bench = Bench::new(1).await;
    let worker = bench.connect("a").await;
    bench.put(0, 1..=3);
    let taken = worker.hold(3).await;
    bench.split(0).await;
    bench.put(2, 4..=6);
    sleep(secs(5)).await;
    // The table refuses every write. Some of the writes are heartbeats, which don't matter here.
    for _ in 0..10 {
        worker.link.next_call("UpdateItem", refused("AccessDeniedException", 400));
    }
    for taken in taken {
        worker.ack(taken).await;
    }
    assert_eq!(worker.numbers(3).await, [4, 5, 6]);
    assert_eq!(worker.link.faults(), 10);
    let refusals = bench.calls_of("UpdateItem");
    let last = refusals.iter().rfind(|call| call.said == "AccessDeniedException").unwrap();
    let ended = bench.ended_at(0).unwrap();
    assert!(last.at <= ended && ended <= bench.subscribes(2)[0].at, "a child was read before the end was stored");
    bench.close([worker]).await;
}

#[tokio::test(start_paused = true)]
async fn checkpoint_window_full_at_shard_end() {
    let bench = Bench::new(1).await.lines("checkpoint_limit: 5");
    let worker = bench.connect("a").await;
    bench.put(0, 1..=12);
    bench.split(0).await;
    bench.put(1, 13..=15);
    for window in [1..=5, 6..=10, 11..=12] {
        let taken = worker.hold(window.clone().count()).await;
        let numbers: Vec<u64> = taken.iter().flat_map(|taken| taken.numbers.clone()).collect();
        assert_eq!(numbers, window.collect::<Vec<_>>());
        assert!(worker.is_quiet(MINUTE).await, "more came than the window holds");
        assert!(!bench.row(0).ended && bench.subscribes(1).is_empty(), "{numbers:?} are not acked");
        for taken in taken {
            worker.ack(taken).await;
        }
    }
    assert_eq!(worker.numbers(3).await, [13, 14, 15]);
    bench.close([worker]).await;
}

#[tokio::test(start_paused = true)]
async fn children_created_while_start_is_latest() {
    let bench = Bench::new(1).await.lines("start_from_oldest: false");
    bench.put(0, 1..=3);
    sleep(secs(1)).await;
    let worker = bench.connect("a").await;
    bench.put(0, 4..=6);
    assert_eq!(worker.numbers(3).await, [4, 5, 6]);
    // The worker can't see that there are children until they have had records for a while.
    worker.link.cut(true);
    bench.split(0).await;
    bench.put(1, 7..=9);
    bench.put(2, 10..=12);
    sleep(secs(10)).await;
    worker.link.cut(false);
    let mut numbers = worker.numbers(6).await;
    numbers.sort_unstable();
    assert_eq!(numbers, [7, 8, 9, 10, 11, 12]);
    bench.close([worker]).await;
}

#[tokio::test(start_paused = true)]
async fn latest_is_pinned_once() {
    let bench = Bench::new(1).await.lines("start_from_oldest: false");
    bench.put(0, 1..=3);
    sleep(secs(1)).await;
    // All its writes are refused, so the first worker stores no position.
    let first = bench.worker("a");
    for _ in 0..1000 {
        first.link.next_call("SubscribeToShard", refused("InternalFailure", 500));
    }
    first.input.connect().await.unwrap();
    bench.until("a subscription is refused", || first.link.faults() > 0).await;
    bench.put(0, 4..=6);
    sleep(secs(20)).await;
    first.close().await;
    bench.put(0, 7..=9);
    sleep(MINUTE).await;
    let second = bench.worker("b");
    for _ in 0..3 {
        second.link.next_call("SubscribeToShard", refused("InternalFailure", 500));
    }
    second.input.connect().await.unwrap();
    bench.until("a subscription is refused", || second.link.faults() > 0).await;
    bench.put(0, 10..=12);
    assert_eq!(second.numbers(9).await, (4..=12).collect::<Vec<_>>());
    bench.close([second]).await;
}

#[tokio::test(start_paused = true)]
async fn closed_shards_never_read_before() {
    let bench = Bench::new(1).await;
    bench.put(0, 1..=3);
    bench.split(0).await;
    bench.put(1, 4..=6);
    bench.put(2, 7..=9);
    bench.split(1).await;
    bench.put(3, 10..=12);
    let worker = bench.connect("a").await;
    let numbers = worker.numbers(12).await;
    let position = |number: u64| numbers.iter().position(|one| *one == number).unwrap();
    assert!(position(3) < position(4) && position(3) < position(7) && position(6) < position(10), "{numbers:?}");
    assert_eq!((1..=12).map(position).max(), Some(11), "{numbers:?}");
    bench.close([worker]).await;
}

#[tokio::test(start_paused = true)]
async fn double_reshard_while_down() {
    let bench = Bench::new(1).await;
    bench.put(0, 1..=3);
    let worker = bench.connect("a").await;
    assert_eq!(worker.numbers(3).await, [1, 2, 3]);
    bench.close([worker]).await;
    bench.put(0, 4..=5);
    bench.split(0).await;
    bench.put(1, 6..=7);
    bench.put(2, 8..=9);
    bench.merge(1, 2).await;
    bench.put(3, 10..=11);
    let worker = bench.connect("b").await;
    let numbers = worker.numbers(8).await;
    assert_eq!((&numbers[..2], &numbers[6..]), (&[4, 5][..], &[10, 11][..]));
    let mut middle = numbers[2..6].to_vec();
    middle.sort_unstable();
    assert_eq!(middle, [6, 7, 8, 9]);
    bench.close([worker]).await;
}

#[tokio::test(start_paused = true)]
async fn nack_then_ack_behind_it() {
    let bench = Bench::new(1).await;
    let worker = bench.connect("a").await;
    bench.put(0, 1..=2);
    let first = worker.take().await;
    bench.put(0, 3..=4);
    let second = worker.take().await;
    assert_eq!((&*first.numbers, &*second.numbers), (&[1, 2][..], &[3, 4][..]));
    worker.nack(first).await;
    worker.ack(second).await;
    let again = worker.take().await;
    assert_eq!(again.numbers, [1, 2]);
    assert!(worker.is_quiet(2 * MINUTE).await);
    assert_eq!(bench.row(0).stored, 0, "a position behind a nack is stored");
    worker.ack(again).await;
    bench.until_stored(0, 4).await;
    bench.close([worker]).await;
}

#[tokio::test(start_paused = true)]
async fn stored_sequence_expired() {
    let bench = Bench::new(1).await;
    bench.put(0, 1..=3);
    let worker = bench.connect("a").await;
    assert_eq!(worker.numbers(3).await, [1, 2, 3]);
    bench.close([worker]).await;
    // Records are kept for a day: half of those that no worker has read expire.
    bench.put(0, 4..=6);
    sleep(13 * 60 * MINUTE).await;
    bench.put(0, 7..=9);
    sleep(13 * 60 * MINUTE).await;
    let worker = bench.connect("b").await;
    assert_eq!(worker.numbers(3).await, [7, 8, 9]);
    bench.put(0, 10..=12);
    assert_eq!(worker.numbers(3).await, [10, 11, 12]);
    bench.until_stored(0, 12).await;
    bench.close([worker]).await;
}
