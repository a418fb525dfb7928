//! Records that the output rejects again and again.

use std::collections::BTreeMap;
use std::time::Duration;

use pipeline_plugin_api::{Demand, Verdict, Verdicts};
use tokio::time::{Instant, sleep};
use tracing::Level;

use super::bench::{Bench, close, is_quiet, numbers, take};
use super::logs::Log;
use super::script::{Piece, Script, body, records};
use super::table::{MINUTE, checkpoint, secs};
use crate::lease::Checkpoint;
use crate::records::KinesisRecord;
use crate::session::Session;

fn after(number: u64) -> Checkpoint {
    Checkpoint::After(checkpoint(number))
}

/// A service whose shard has this many records, in events of a hundred.
fn shard_of(count: u64) -> Script {
    let script = Script::new(["s"]);
    let events = (0..count.div_ceil(100)).map(|at| records(at * 100 + 1..=(at * 100 + 100).min(count)));
    script.answer("s", [body(events.chain([Piece::Hang]))]);
    script
}

/// Reads with an output that refuses every batch with the `poison` until `enough` records were accepted. Returns what was
/// accepted, in order, and how often each record was delivered.
async fn read_with_poison(session: &Session, poison: u64, enough: usize) -> (Vec<u64>, BTreeMap<u64, u32>) {
    let (mut accepted, mut deliveries) = (Vec::new(), BTreeMap::new());
    while accepted.len() < enough {
        let (_, came, receipt) = take(session).await;
        for number in &came {
            *deliveries.entry(*number).or_default() += 1;
        }
        if came.contains(&poison) {
            receipt.settle_in_test(Verdicts::nack("bad record")).unwrap();
        } else {
            accepted.extend(came);
            receipt.settle_in_test(Verdicts::ACK).unwrap();
        }
    }
    (accepted, deliveries)
}

#[tokio::test(start_paused = true)]
async fn record_that_is_rejected_too_often_is_dropped_and_logged() {
    let log = Log::default();
    let _listening = log.listen();
    let bench = Bench::new(shard_of(3), "redelivery: {max_attempts: 3, then: drop}");
    let session = bench.open().await;
    for attempt in 1..=3 {
        let (_, came, receipt) = take(&session).await;
        // The output names the record that it refuses.
        let verdict = |number: &u64| if *number == 2 { Verdict::nack("not JSON") } else { Verdict::Ack };
        assert_eq!(came, if attempt == 1 { vec![1, 2, 3] } else { vec![2] });
        receipt.settle_in_test(Verdicts::Each(came.iter().map(verdict).collect())).unwrap();
    }
    assert!(is_quiet(&session, MINUTE).await);
    assert_eq!(bench.stored("s").await, Some(after(3)), "the shard goes on behind it");
    let dropped: Vec<String> = log.at(Level::WARN).into_iter().filter(|line| line.contains("dropped")).collect();
    assert_eq!(dropped.len(), 1, "{dropped:?}");
    for part in ["stream=orders", "shard=s", "records=1", "nacks=3", "sequence_number=2", "reason=not JSON"] {
        assert!(dropped[0].contains(part), "{part}: {dropped:?}");
    }
    close(&session).await;
}

#[tokio::test(start_paused = true)]
async fn record_that_is_rejected_for_too_long_is_dropped() {
    let bench = Bench::new(shard_of(1), "redelivery: {max_age: 30s, then: drop}");
    let session = bench.open().await;
    let start = Instant::now();
    let mut last = start;
    while let Ok((_, _, receipt)) = tokio::time::timeout(MINUTE, take(&session)).await {
        last = Instant::now();
        receipt.settle_in_test(Verdicts::NACK).unwrap();
    }
    assert!((secs(30)..secs(32)).contains(&(last - start)), "{:?}", last - start);
    assert_eq!(bench.stored("s").await, Some(after(1)));
    close(&session).await;
}

#[tokio::test(start_paused = true)]
async fn rejected_record_holds_its_shard_by_default() {
    let bench = Bench::new(shard_of(1), "");
    let session = bench.open().await;
    for _ in 0..100 {
        take(&session).await.2.settle_in_test(Verdicts::NACK).unwrap();
    }
    assert_eq!(bench.stored("s").await, None);
    assert_eq!(numbers(&session, 1).await, [1]);
    close(&session).await;
}

/// An output that takes or refuses batches as a whole never says which record is bad.
#[tokio::test(start_paused = true)]
async fn one_bad_record_is_found_by_halves_and_the_others_are_not_dropped() {
    for gathers in ["", "batching: {count: 250}\n"] {
        let yaml = format!("{gathers}redelivery: {{max_attempts: 3, then: drop, bisect: true}}");
        let bench = Bench::new(shard_of(1000), &yaml);
        let session = bench.open().await;
        let start = Instant::now();
        let (accepted, deliveries) = read_with_poison(&session, 777, 999).await;
        assert_eq!(accepted, (1..=1000).filter(|number| *number != 777).collect::<Vec<_>>(), "each once, in order");
        // A batch of 250 is found in eight halvings, after it was refused twice, and then refused three times.
        assert!(deliveries[&777] <= 2 + 8 + 3, "{}", deliveries[&777]);
        assert!(start.elapsed() < secs(5), "{:?}", start.elapsed());
        assert!(is_quiet(&session, MINUTE).await);
        assert_eq!(bench.stored("s").await, Some(after(1000)));
        close(&session).await;
    }
}

#[tokio::test(start_paused = true)]
async fn output_that_fails_once_gets_whole_batches_again() {
    let bench = Bench::new(shard_of(100), "redelivery: {bisect: true}");
    let session = bench.open().await;
    let (_, first, receipt) = take(&session).await;
    receipt.settle_in_test(Verdicts::NACK).unwrap();
    let (_, again, receipt) = take(&session).await;
    assert_eq!((again.len(), &again), (100, &first));
    receipt.settle_in_test(Verdicts::NACK).unwrap();
    let (_, half, receipt) = take(&session).await;
    assert_eq!(half, (1..=50).collect::<Vec<_>>());
    receipt.settle_in_test(Verdicts::ACK).unwrap();
    assert_eq!(numbers(&session, 50).await, (51..=100).collect::<Vec<_>>());
    close(&session).await;
}

#[tokio::test(start_paused = true)]
async fn message_says_how_often_it_was_delivered() {
    let bench = Bench::new(shard_of(2), "");
    let session = bench.open().await;
    for attempt in 1..=3 {
        let (messages, receipt) = session.read(Demand::new(10, Duration::from_hours(1))).await.unwrap().into_parts();
        for message in &messages {
            assert_eq!(message.get("kinesis_delivery_attempt").unwrap().to_text(), attempt.to_string());
            let record = KinesisRecord::of(message).unwrap();
            assert_eq!(record.delivery_attempt(), attempt);
            assert!(!record.sequence_number().to_string().is_empty());
            let mut keys = Vec::new();
            message.for_each_metadata(|key, _| keys.push(key.to_owned()));
            assert!(
                keys.contains(&"kinesis_delivery_attempt".to_owned()) && keys.contains(&"kinesis_shard".to_owned())
            );
            assert_eq!(message.ordering_key(), Some("s"));
        }
        receipt.settle_in_test(Verdicts::NACK).unwrap();
    }
    sleep(secs(1)).await;
    close(&session).await;
}
