//! What one shard waits for does not block another, and nothing blocks close.

use std::time::Duration;

use pipeline_plugin_api::{State, Verdicts};
use tokio::time::timeout;

use super::bench::{Bench, close, is_quiet, numbers, take, take_at_most};
use super::script::{Answer, Piece, Script, body, event, fault, large, records};
use crate::model::StartPosition;
use crate::sync::lock;

fn secs(secs: u64) -> Duration {
    Duration::from_secs(secs)
}

#[tokio::test(start_paused = true)]
async fn refused_shard_frees_the_space_that_it_waited_for() {
    let script = Script::new(["large", "small"]);
    // This shard fills the pool until it is acked, after 45 s, and has more after a minute.
    let idle = || event([], Some(1), &[]);
    script.answer(
        "small",
        [body([large(1, 8000), Piece::Wait(secs(30)), idle(), Piece::Wait(secs(30)), records(2..=3)])],
    );
    // This shard waits for space, closes its subscription after 30 s, and is never granted another.
    script.answer("large", [body([Piece::Wait(secs(1)), large(11, 8000), Piece::Hang])]);
    script.answer("large", (0..1000).map(|_| Answer::Refused(fault("AccessDeniedException"))));
    let bench = Bench::new(script, "enhanced_fan_out: {enabled: true, max_pending_bytes: 20KiB}");
    let session = bench.open().await;
    let (shard, first, receipt) = take(&session).await;
    assert_eq!((shard.as_str(), &first[..]), ("small", &[1][..]));
    tokio::time::sleep(secs(45)).await;
    receipt.settle_in_test(Verdicts::ACK).unwrap();
    let came = timeout(secs(60), numbers(&session, 2)).await;
    assert_eq!(came.expect("the pool is held by a shard that can't be read"), [2, 3]);
    assert_eq!(session.status().state, State::Degraded);
    close(&session).await;
}

#[tokio::test(start_paused = true)]
async fn close_does_not_wait_for_a_listing_that_never_comes() {
    let bench = Bench::new(Script::new(["s"]), "rebalance_period: 30s");
    let session = bench.open().await;
    bench.script.silence_listing();
    // This is longer than until the next listing.
    assert!(is_quiet(&session, secs(45)).await);
    timeout(secs(1), close(&session)).await.expect("close waits for the listing");
}

/// The service refuses a time that is ahead of its clock, and ours may be ahead of it.
#[tokio::test(start_paused = true)]
async fn start_in_the_future_of_the_service_is_retried_until_it_comes() {
    // These records arrive in the year 2096, according to the script, so they are not older than the start.
    const ARRIVAL: u64 = 4_000_000_000;
    let script = Script::new(["s"]);
    script.answer("s", (0..5).map(|_| Answer::Refused(fault("InvalidArgumentException"))));
    script.answer("s", [body([records(ARRIVAL..=ARRIVAL + 2), Piece::Hang])]);
    let bench = Bench::new(script, "start_from_oldest: false");
    let session = bench.open().await;
    timeout(secs(60), bench.script.called(3)).await.expect("it gave up");
    let status = session.status();
    assert_eq!(status.state, State::Degraded);
    assert!(status.reason.is_some_and(|reason| reason.contains("InvalidArgumentException")));
    assert_eq!(numbers(&session, 3).await, [ARRIVAL, ARRIVAL + 1, ARRIVAL + 2]);
    assert_eq!(session.status().state, State::Connected);
    assert!(bench.script.calls().iter().all(|call| matches!(call.start, StartPosition::At(_))));
    close(&session).await;
}

#[tokio::test(start_paused = true)]
async fn shard_that_is_gone_is_not_degraded_any_more() {
    let script = Script::new(["s", "gone"]);
    script.answer("gone", (0..3).map(|_| Answer::Refused(fault("AccessDeniedException"))));
    script.answer("gone", [Answer::Refused(fault("ResourceNotFoundException"))]);
    let bench = Bench::new(script, "");
    let session = bench.open().await;
    timeout(secs(300), bench.script.called(4)).await.expect("it gave up");
    assert_eq!(session.status().state, State::Degraded);
    bench.script.list(vec![super::script::listed("s", &[], false)]);
    assert!(is_quiet(&session, secs(300)).await);
    assert_eq!(session.status().state, State::Connected, "{:?}", session.status().reason);
    close(&session).await;
}

#[tokio::test(start_paused = true)]
async fn lease_lost_while_blocked() {
    let script = Script::new(["lost", "kept"]);
    script.answer("lost", [body((0..10).map(|at| records(at * 10 + 1..=at * 10 + 10)).chain([Piece::Hang]))]);
    script.answer("kept", [body([Piece::Wait(secs(20)), records(1001..=1020), Piece::Hang])]);
    let bench = Bench::new(script, "enhanced_fan_out: {enabled: true, max_pending_records: 20}");
    let session = bench.open().await;
    // The shard fills the pool, of which the host has two batches.
    let (_, first, acked) = take_at_most(&session, 5).await;
    let (_, second, late) = take_at_most(&session, 5).await;
    assert_eq!((first, second), ((1..=5).collect(), (6..=10).collect()));
    tokio::time::sleep(secs(10)).await;
    assert_eq!(session.pool.records().used, 20);
    // The next write finds that the shard belongs to another worker.
    *lock(&bench.store.lost) = Some("lost".into());
    acked.settle_in_test(Verdicts::ACK).unwrap();
    tokio::time::sleep(secs(5)).await;
    assert_eq!(session.pool.records().used, 5, "only the records that the host still holds");
    let calls = bench.script.calls_of("lost").len();
    let kept = timeout(secs(60), numbers(&session, 20)).await.expect("the other shard stands still");
    assert_eq!(kept, (1001..=1020).collect::<Vec<_>>());
    // An ack has no effect now, even if the store accepted it.
    *lock(&bench.store.lost) = None;
    late.settle_in_test(Verdicts::ACK).unwrap();
    assert!(is_quiet(&session, secs(60)).await);
    assert_eq!(bench.stored("lost").await, None);
    assert_eq!(bench.script.calls_of("lost").len(), calls, "it is still read");
    close(&session).await;
}
