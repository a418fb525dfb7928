//! What an operator is told of an input while it runs.

use std::time::Duration;

use pipeline_plugin_api::{State, Verdicts};
use tokio::time::sleep;

use super::bench::{Bench, close, take_at_most};
use super::script::{Answer, Piece, Script, body, fault, records};
use crate::model::WorkerId;
use crate::session::Session;
use crate::sync::lock;
use crate::telemetry::report::{ChangeKind, Connected, ShardReport};

fn report(session: &Session) -> Connected {
    session.report(&WorkerId::from("worker-1")).connected.unwrap()
}

fn of<'a>(report: &'a Connected, shard: &str) -> Option<&'a ShardReport> {
    report.shards.iter().find(|one| one.shard.as_str() == shard)
}

#[tokio::test(start_paused = true)]
async fn report_says_of_each_shard_how_far_it_is_and_what_is_wrong() {
    let script = Script::new(["reads", "refused"]);
    script.answer("reads", [body([records(1..=10), Piece::Hang])]);
    script.answer("refused", (0..1000).map(|_| Answer::Refused(fault("AccessDeniedException"))));
    let bench = Bench::new(script, "enhanced_fan_out: {enabled: true, max_pending_records: 100}");
    let session = bench.open().await;
    let (_, numbers, receipt) = take_at_most(&session, 4).await;
    assert_eq!(numbers, [1, 2, 3, 4]);
    // A subscription that is silent for 35 s is replaced.
    sleep(Duration::from_secs(33)).await;

    let seen = report(&session);
    let shard = of(&seen, "reads").unwrap();
    assert_eq!((shard.read_records, shard.pending_records, shard.in_flight_records), (10, 10, 4));
    assert_eq!((shard.acked_records, &shard.position, shard.is_reading), (0, &None, true));
    assert!(shard.held_for >= Duration::from_secs(33) && shard.last_error.is_none());
    assert_eq!((seen.records.used, seen.records.capacity, seen.records.waiting), (10, 100, 0));
    let refused = of(&seen, "refused").unwrap();
    assert!(refused.last_error.as_ref().unwrap().0.contains("AccessDeniedException"), "{refused:?}");
    let [condition] = &seen.conditions[..] else { panic!("{:?}", seen.conditions) };
    assert_eq!(condition.shard, Some("refused".into()));
    assert!(condition.lasts >= Duration::from_secs(30) && condition.reason.contains("AccessDeniedException"));
    assert_eq!(session.report(&"worker-1".into()).state, State::Degraded);
    let kinds: Vec<_> = seen.changes.iter().map(|change| (change.kind, change.count)).collect();
    assert_eq!(kinds, [(ChangeKind::Degraded, 1), (ChangeKind::Claimed, 2)], "the newest first");

    receipt.settle_in_test(Verdicts::ACK).unwrap();
    let seen = report(&session);
    let shard = of(&seen, "reads").unwrap();
    assert_eq!((shard.acked_records, shard.pending_records, shard.in_flight_records), (4, 6, 0));
    assert_eq!(shard.position.as_ref().unwrap().as_str(), "4");

    // What is written to a shard that can't be read is not read for this long.
    sleep(Duration::from_secs(12)).await;
    let seen = report(&session);
    let lag = of(&seen, "refused").unwrap().lag;
    assert!(lag >= Duration::from_secs(45), "{lag:?}");
    assert_eq!(seen.lag, lag, "the greatest of all shards");
    assert_eq!(session.status().pending_age, Some(lag), "a host is told the same");
    close(&session).await;
}

#[tokio::test(start_paused = true)]
async fn report_of_a_lost_shard_goes_with_it() {
    let script = Script::new(["kept", "lost"]);
    script.answer("lost", [body([records(1..=10), Piece::Hang])]);
    let bench = Bench::new(script, "");
    let session = bench.open().await;
    let (_, _, receipt) = take_at_most(&session, 4).await;
    *lock(&bench.store.lost) = Some("lost".into());
    receipt.settle_in_test(Verdicts::ACK).unwrap();
    sleep(Duration::from_secs(5)).await;
    let seen = report(&session);
    assert!(of(&seen, "lost").is_none() && of(&seen, "kept").is_some(), "{:?}", seen.shards);
    let lost = &seen.changes[0];
    assert_eq!((lost.kind, lost.detail.as_deref()), (ChangeKind::Lost, Some("the thief")));
    assert_eq!(lost.shard, Some("lost".into()));
    *lock(&bench.store.lost) = None;
    close(&session).await;
}
