//! Ends of shards, parents and children, and when each is stored.

use std::sync::atomic::Ordering;
use std::time::Duration;

use pipeline_plugin_api::Verdicts;

use super::bench::{Bench, close, is_quiet, numbers, take, take_and_ack, take_at_most};
use super::script::{Answer, Piece, Script, body, end, event, fault, listed, records};
use crate::lease::{Checkpoint, LeaseStore};
use crate::model::{SequenceNumber, StartPosition};

fn checkpoint(number: u64) -> SequenceNumber {
    SequenceNumber::new(&number.to_string()).unwrap()
}

const MINUTE: Duration = Duration::from_mins(1);

#[tokio::test(start_paused = true)]
async fn shard_end_while_events_are_buffered() {
    let script = Script::new(["parent"]);
    script.answer("parent", [body([records(1..=3), records(4..=6), end([7], &[("child", &["parent"])])])]);
    script.answer("child", [body([records(10..=11), Piece::Hang])]);
    let bench = Bench::new(script, "");
    let session = bench.open().await;
    // The end was read long before the first record is taken.
    tokio::time::sleep(MINUTE).await;
    assert!(bench.script.calls_of("child").is_empty());
    let mut taken = Vec::new();
    let mut receipts = Vec::new();
    while taken.len() < 7 {
        let (shard, numbers, receipt) = take_at_most(&session, 3).await;
        assert_eq!(shard, "parent");
        taken.extend(numbers);
        receipts.push(receipt);
    }
    assert_eq!(taken, [1, 2, 3, 4, 5, 6, 7]);
    let last = receipts.pop().unwrap();
    for receipt in receipts {
        receipt.settle_in_test(Verdicts::ACK).unwrap();
    }
    // All records but the last are acked, so the end is not.
    assert!(is_quiet(&session, MINUTE).await);
    assert_eq!(bench.stored("parent").await, Some(Checkpoint::After(checkpoint(6))));
    last.settle_in_test(Verdicts::ACK).unwrap();
    assert_eq!(take_and_ack(&session, 2).await, [("child".to_owned(), 10), ("child".to_owned(), 11)]);
    assert_eq!(bench.stored("parent").await, Some(Checkpoint::ShardEnd(Some(checkpoint(7)))));
    close(&session).await;
}

#[tokio::test(start_paused = true)]
async fn flush_fails_at_shard_end() {
    let script = Script::new(["parent"]);
    script.answer("parent", [body([end(1..=3, &[("child", &["parent"])])])]);
    script.answer("child", [body([records(10..=11), Piece::Hang])]);
    let bench = Bench::new(script, "");
    bench.store.fails.store(true, Ordering::Relaxed);
    let session = bench.open().await;
    assert_eq!(numbers(&session, 3).await, [1, 2, 3]);
    assert!(is_quiet(&session, MINUTE).await, "the child is read before its parent's end is stored");
    assert!(bench.script.calls_of("child").is_empty());
    bench.store.fails.store(false, Ordering::Relaxed);
    assert_eq!(numbers(&session, 2).await, [10, 11]);
    close(&session).await;
}

#[tokio::test(start_paused = true)]
async fn checkpoint_window_full_at_shard_end() {
    let script = Script::new(["parent"]);
    script.answer("parent", [body([records(1..=4), end(5..=8, &[("child", &["parent"])])])]);
    script.answer("child", [body([records(10..=11), Piece::Hang])]);
    let bench = Bench::new(script, "checkpoint_limit: 4");
    let session = bench.open().await;
    let (_, first, receipt) = take(&session).await;
    assert_eq!(first, [1, 2, 3, 4]);
    assert!(is_quiet(&session, MINUTE).await, "more than the limit is out");
    receipt.settle_in_test(Verdicts::ACK).unwrap();
    assert_eq!(numbers(&session, 6).await, [5, 6, 7, 8, 10, 11]);
    close(&session).await;
}

#[tokio::test(start_paused = true)]
async fn children_created_while_start_is_latest() {
    let script = Script::new(["parent"]);
    script.answer("parent", [body([end([], &[("left", &["parent"]), ("right", &["parent"])])])]);
    script.answer("left", [body([records(1..=2), Piece::Hang])]);
    script.answer("right", [body([records(3..=4), Piece::Hang])]);
    let bench = Bench::new(script, "start_from_oldest: false");
    let session = bench.open().await;
    assert_eq!(numbers(&session, 4).await.len(), 4);
    assert!(matches!(bench.script.calls_of("parent")[0].start, StartPosition::At(_)));
    assert_eq!(bench.script.calls_of("left")[0].start, StartPosition::Oldest);
    assert_eq!(bench.script.calls_of("right")[0].start, StartPosition::Oldest);
    close(&session).await;
}

#[tokio::test(start_paused = true)]
async fn latest_is_pinned_once() {
    let script = Script::new(["s"]);
    script.answer("s", (0..3).map(|_| Answer::Refused(fault("InternalFailureException"))));
    let bench = Bench::new(script, "start_from_oldest: false");
    // The time is not now, so the first connect found it stored.
    let pinned = bench.store.pin_latest(&crate::model::Stream::new("orders", "arn:orders"), 1_234).await.unwrap();
    let session = bench.open().await;
    bench.script.called(4).await;
    close(&session).await;
    let session = bench.open().await;
    bench.script.called(5).await;
    close(&session).await;
    let starts: Vec<_> = bench.script.calls().into_iter().map(|call| call.start).collect();
    assert!(starts.iter().all(|start| *start == StartPosition::At(pinned)), "{starts:?}");
}

#[tokio::test(start_paused = true)]
async fn closed_shards_never_read_before() {
    let script = Script::new(["parent"]);
    script.list(vec![
        listed("parent", &[], true),
        listed("left", &["parent"], false),
        listed("right", &["parent"], false),
    ]);
    let children: &[(&str, &[&str])] = &[("left", &["parent"]), ("right", &["parent"])];
    script.answer("parent", [body([records(1..=2), end([3], children)])]);
    script.answer("left", [body([records(4..=5), Piece::Hang])]);
    script.answer("right", [body([records(6..=7), Piece::Hang])]);
    let bench = Bench::new(script, "");
    let session = bench.open().await;
    let (shard, first, receipt) = take_at_most(&session, 2).await;
    assert_eq!((shard.as_str(), &first[..]), ("parent", &[1, 2][..]));
    assert!(bench.script.calls().iter().all(|call| call.shard == "parent".into()));
    receipt.settle_in_test(Verdicts::ACK).unwrap();
    assert_eq!(numbers(&session, 5).await.len(), 5);
    close(&session).await;
}

#[tokio::test(start_paused = true)]
async fn double_reshard_while_down() {
    let script = Script::new(["a"]);
    script.answer("a", [body([records(1..=2), Piece::Hang])]);
    let bench = Bench::new(script, "start_from_oldest: false");
    let session = bench.open().await;
    assert_eq!(numbers(&session, 2).await, [1, 2]);
    close(&session).await;
    // While no worker reads, `a` is split and its left half is split again.
    bench.script.list(vec![
        listed("a", &[], true),
        listed("b", &["a"], true),
        listed("c", &["a"], false),
        listed("d", &["b"], false),
        listed("e", &["b"], false),
    ]);
    bench.script.answer("a", [body([end([3], &[("b", &["a"]), ("c", &["a"])])])]);
    bench.script.answer("b", [body([end([4, 5], &[("d", &["b"]), ("e", &["b"])])])]);
    bench.script.answer("c", [body([records([6]), Piece::Hang])]);
    bench.script.answer("d", [body([records([7]), Piece::Hang])]);
    bench.script.answer("e", [body([records([8]), Piece::Hang])]);
    let session = bench.open().await;
    let mut all = numbers(&session, 6).await;
    all.sort_unstable();
    assert_eq!(all, [3, 4, 5, 6, 7, 8]);
    for shard in ["b", "c", "d", "e"] {
        assert_eq!(bench.script.calls_of(shard)[0].start, StartPosition::Oldest, "{shard}");
    }
    close(&session).await;
}

#[tokio::test(start_paused = true)]
async fn merge_waits_for_both_parents() {
    let script = Script::new(["left", "right"]);
    let child: &[(&str, &[&str])] = &[("child", &["left", "right"])];
    script.answer("left", [body([end([1], child)])]);
    script.answer("right", [body([records([2]), Piece::Wait(MINUTE / 2), end([3], child)])]);
    script.answer("child", [body([records([4]), Piece::Hang])]);
    let bench = Bench::new(script, "");
    let session = bench.open().await;
    let all = take_and_ack(&session, 4).await;
    assert_eq!(all.last(), Some(&("child".to_owned(), 4)));
    assert!(bench.script.calls_of("child")[0].at - bench.script.calls()[0].at >= MINUTE / 2);
    close(&session).await;
}

#[tokio::test(start_paused = true)]
async fn children_beside_a_continuation_do_not_end_a_shard() {
    let script = Script::new(["parent"]);
    let child: &[(&str, &[&str])] = &[("child", &["parent"])];
    // Some local servers send children with every event, with records still to come.
    script.answer(
        "parent",
        [
            body([event([1], Some(1), child), event([2], Some(2), child), event([], Some(3), child)]),
            body([event([], Some(3), child)]),
            body([event([], Some(3), child)]),
        ],
    );
    script.answer("child", [body([records([4]), Piece::Hang])]);
    let bench = Bench::new(script, "");
    bench.script.list(vec![listed("parent", &[], true), listed("child", &["parent"], false)]);
    let session = bench.open().await;
    assert_eq!(numbers(&session, 3).await, [1, 2, 4]);
    assert!(bench.script.calls_of("parent").len() >= 3, "the end was not confirmed");
    close(&session).await;
}

#[tokio::test(start_paused = true)]
async fn all_explicit_shards_ended() {
    let script = Script::new(["shardId-000000000000", "shardId-000000000001"]);
    script.answer("shardId-000000000000", [body([end([1], &[("child", &["shardId-000000000000"])])])]);
    let bench = Bench::new(script, "streams: ['orders:0']");
    let session = bench.open().await;
    assert_eq!(numbers(&session, 1).await, [1]);
    let demand = pipeline_plugin_api::Demand::new(1, MINUTE);
    assert!(matches!(session.read(demand).await, Err(pipeline_plugin_api::InputError::EndOfInput)));
    close(&session).await;
    let again = bench.open().await;
    assert!(matches!(again.read(demand).await, Err(pipeline_plugin_api::InputError::EndOfInput)));
    close(&again).await;
}
