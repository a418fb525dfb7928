//! Aggregates of user records, from the event to the checkpoint.

use std::time::Duration;

use pipeline_plugin_api::{Demand, Message, Receipt, Verdicts};

use super::bench::{Bench, close, is_quiet};
use super::script::{Piece, Script, body, data, listed};
use super::table::checkpoint;
use crate::KinesisRecord;
use crate::lease::{Checkpoint, Within};
use crate::model::{HashRange, ListedShard, StartPosition};
use crate::session::Session;

#[expect(clippy::unnecessary_wraps, reason = "rows hold it so")]
fn after(position: u64) -> Option<Checkpoint> {
    Some(Checkpoint::After(checkpoint(position)))
}

#[expect(clippy::unnecessary_wraps, reason = "rows hold it so")]
fn within(after: Option<u64>, record: u64, sub: u32) -> Option<Checkpoint> {
    Some(Checkpoint::Within(Within { after: after.map(checkpoint), record: checkpoint(record), sub }))
}

/// An aggregate of user records with these partition keys; the data of each is its index.
fn aggregate(keys: &[&str]) -> Vec<u8> {
    kinesis_testkit::aggregate::aggregate(keys.iter().enumerate().map(|(at, key)| (*key, at.to_string())))
}

/// Reads one batch, as sequence number, index in the aggregate and data of each message.
async fn take(session: &Session, max: usize) -> (Vec<(u64, Option<u32>, String)>, Receipt) {
    let batch = session.read(Demand::new(max, Duration::from_hours(1))).await.unwrap();
    let (messages, receipt) = batch.into_parts();
    let parts = |message: &Message| {
        let record = KinesisRecord::of(message).unwrap();
        let number = record.sequence_number().as_str().parse().unwrap();
        (number, record.sub_sequence_number(), String::from_utf8_lossy(message.payload()).into_owned())
    };
    (messages.iter().map(parts).collect(), receipt)
}

async fn take_and_ack(session: &Session, count: usize) -> Vec<(u64, Option<u32>, String)> {
    let mut all = Vec::new();
    while all.len() < count {
        let (some, receipt) = take(session, count - all.len()).await;
        assert!(!some.is_empty(), "nothing came for an hour after {all:?}");
        all.extend(some);
        receipt.settle_in_test(Verdicts::ACK).unwrap();
    }
    all
}

fn parts(record: u64, subs: std::ops::Range<u32>) -> Vec<(u64, Option<u32>, String)> {
    subs.map(|sub| (record, Some(sub), sub.to_string())).collect()
}

fn plain(record: u64, data: &str) -> Vec<(u64, Option<u32>, String)> {
    vec![(record, None, data.to_owned())]
}

#[tokio::test(start_paused = true)]
async fn user_records_come_one_by_one_in_order() {
    let script = Script::new(["s"]);
    let records = [(1, b"x".to_vec()), (2, aggregate(&["k"; 3])), (3, aggregate(&["k"; 2])), (4, b"y".to_vec())];
    script.answer("s", [body([data(&records), Piece::Hang])]);
    let bench = Bench::new(script, "");
    let session = bench.open().await;
    let expected = [plain(1, "x"), parts(2, 0..3), parts(3, 0..2), plain(4, "y")].concat();
    assert_eq!(take_and_ack(&session, 7).await, expected);
    close(&session).await;
    assert_eq!(bench.stored("s").await, after(4));
}

#[tokio::test(start_paused = true)]
async fn aggregate_stays_whole_where_deaggregation_is_off() {
    let script = Script::new(["s"]);
    script.answer("s", [body([data(&[(1, aggregate(&["k"; 3]))]), Piece::Hang])]);
    let bench = Bench::new(script, "deaggregate: off");
    let session = bench.open().await;
    let whole = take_and_ack(&session, 1).await;
    assert_eq!((whole[0].0, whole[0].1), (1, None));
    close(&session).await;
}

/// A session that is killed after a part of an aggregate was acknowledged is resumed behind that part.
#[tokio::test(start_paused = true)]
async fn killed_inside_an_aggregate() {
    let script = Script::new(["s"]);
    let second = data(&[(2, aggregate(&["k"; 10])), (3, b"y".to_vec())]);
    let again = data(&[(2, aggregate(&["k"; 10])), (3, b"y".to_vec())]);
    script.answer("s", [body([data(&[(1, b"x".to_vec())]), second, Piece::Hang]), body([again, Piece::Hang])]);
    let bench = Bench::new(script, "");
    let session = bench.open().await;
    assert_eq!(take_and_ack(&session, 5).await, [plain(1, "x"), parts(2, 0..4)].concat());
    let (_, out) = take(&session, 2).await;
    tokio::time::sleep(Duration::from_secs(5)).await;
    // Other programs, which know whole records only, go on behind the record before.
    assert_eq!(bench.stored("s").await, within(Some(1), 2, 3));
    drop(out);
    close(&session).await;

    let session = bench.open().await;
    assert_eq!(take_and_ack(&session, 7).await, [parts(2, 4..10), plain(3, "y")].concat());
    assert_eq!(bench.script.calls().last().unwrap().start, StartPosition::AtRecord(checkpoint(2)));
    close(&session).await;
    assert_eq!(bench.stored("s").await, after(3));
}

#[tokio::test(start_paused = true)]
async fn second_stop_inside_the_same_aggregate_keeps_the_record_before_it() {
    let script = Script::new(["s"]);
    let piece = || data(&[(2, aggregate(&["k"; 10])), (3, b"y".to_vec())]);
    let bodies = [
        body([data(&[(1, b"x".to_vec())]), piece(), Piece::Hang]),
        body([piece(), Piece::Hang]),
        body([piece(), Piece::Hang]),
    ];
    script.answer("s", bodies);
    let bench = Bench::new(script, "");
    for (count, expected, stored) in [
        (3, [plain(1, "x"), parts(2, 0..2)].concat(), within(Some(1), 2, 1)),
        (3, parts(2, 2..5), within(Some(1), 2, 4)),
        (6, [parts(2, 5..10), plain(3, "y")].concat(), after(3)),
    ] {
        let session = bench.open().await;
        assert_eq!(take_and_ack(&session, count).await, expected);
        close(&session).await;
        assert_eq!(bench.stored("s").await, stored);
    }
}

#[tokio::test(start_paused = true)]
async fn aggregate_of_nothing_moves_the_position() {
    let script = Script::new(["s"]);
    script.answer("s", [body([data(&[(1, b"x".to_vec())]), data(&[(2, aggregate(&[]))]), Piece::Hang])]);
    let bench = Bench::new(script, "");
    let session = bench.open().await;
    take_and_ack(&session, 1).await;
    assert!(is_quiet(&session, Duration::from_mins(1)).await);
    close(&session).await;
    assert_eq!(bench.stored("s").await, after(2));
}

#[tokio::test(start_paused = true)]
async fn checkpoint_limit_below_one_aggregate_does_not_block() {
    let script = Script::new(["s"]);
    script.answer("s", [body([data(&[(1, aggregate(&["k"; 500]))]), Piece::Hang])]);
    let bench = Bench::new(script, "checkpoint_limit: 7");
    let session = bench.open().await;
    assert_eq!(take_and_ack(&session, 500).await, parts(1, 0..500));
    close(&session).await;
    assert_eq!(bench.stored("s").await, after(1));
}

/// The hash of `user-1` lies in the right half of all hash keys, that of `user-2` in the left one.
#[tokio::test(start_paused = true)]
async fn user_records_of_another_shard_are_dropped_or_delivered() {
    const HALF: &str = "170141183460469231731687303715884105727";
    let every = parts(1, 0..4);
    let inside = [every[1].clone(), every[2].clone()].to_vec();
    for (yaml, range, expected) in [
        ("", Some(("0", HALF)), &inside),
        ("kpl: {out_of_range: drop}", Some(("0", HALF)), &inside),
        ("kpl: {out_of_range: deliver}", Some(("0", HALF)), &every),
        ("kpl: {out_of_range: drop}", None, &every),
        ("kpl: {out_of_range: drop}", Some((HALF, "0")), &every),
    ] {
        let hash_range = range.and_then(|(start, end)| HashRange::new(start, end));
        let script = Script::new(["s"]);
        script.list(vec![ListedShard { hash_range, ..listed("s", &[], false) }]);
        let keys = ["user-1", "user-2", "user-2", "user-1"];
        script.answer("s", [body([data(&[(1, aggregate(&keys))]), Piece::Hang])]);
        let bench = Bench::new(script, yaml);
        let session = bench.open().await;
        assert_eq!(&take_and_ack(&session, expected.len()).await, expected, "{yaml} {range:?}");
        assert!(is_quiet(&session, Duration::from_mins(1)).await);
        close(&session).await;
        assert_eq!(bench.stored("s").await, after(1), "{yaml} {range:?}");
    }
}
