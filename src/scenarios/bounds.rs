//! The pool, acks that come late, twice or never, and what is left at the end.

use std::sync::atomic::Ordering;
use std::time::Duration;

use pipeline_plugin_api::{Demand, Verdict, Verdicts};

use super::bench::{Bench, close, is_quiet, numbers, take, take_any, take_at_most};
use super::script::{Piece, Script, body, event, large, records};
use crate::lease::Checkpoint;
use crate::model::SequenceNumber;

const MINUTE: Duration = Duration::from_mins(1);

#[expect(clippy::unnecessary_wraps, reason = "rows hold it so")]
fn after(number: u64) -> Option<Checkpoint> {
    Some(Checkpoint::After(SequenceNumber::new(&number.to_string()).unwrap()))
}

#[tokio::test(start_paused = true)]
async fn event_larger_than_the_pool() {
    let script = Script::new(["s", "t"]);
    script.answer("s", [body([large(1, 100_000), large(2, 100_000), Piece::Hang])]);
    script.answer("t", [body([large(11, 100_000), records(12..=13), Piece::Hang])]);
    let bench = Bench::new(script, "enhanced_fan_out: {enabled: true, max_pending_bytes: 20KiB}");
    let session = bench.open().await;
    let mut all = numbers(&session, 5).await;
    all.sort_unstable();
    assert_eq!(all, [1, 2, 11, 12, 13]);
    close(&session).await;
}

#[tokio::test(start_paused = true)]
async fn more_records_than_the_pool_come_in_slices() {
    let script = Script::new(["s"]);
    script.answer("s", [body([records(1..=100), Piece::Hang])]);
    let bench = Bench::new(script, "enhanced_fan_out: {enabled: true, max_pending_records: 10}");
    let session = bench.open().await;
    assert_eq!(numbers(&session, 100).await, (1..=100).collect::<Vec<_>>());
    assert!(session.pool.records().peak <= 10, "{}", session.pool.records().peak);
    close(&session).await;
}

#[tokio::test(start_paused = true)]
async fn acks_never_come() {
    let script = Script::new(["s", "t"]);
    for shard in ["s", "t"] {
        script.answer(shard, (0..200).map(|at| body([records(at * 10 + 1..=at * 10 + 10), Piece::Hang])));
    }
    let bench = Bench::new(script, "enhanced_fan_out: {enabled: true, max_pending_records: 20}");
    let session = bench.open().await;
    let mut receipts = Vec::new();
    let mut count = 0;
    while count < 20 {
        let (records, receipt) = take_any(&session, 1000).await;
        count += records.len();
        receipts.push(receipt);
    }
    assert!(is_quiet(&session, 10 * MINUTE).await, "more came than the pool holds");
    assert_eq!((count, session.pool.records().used), (20, 20));
    // Nothing is read meanwhile, and no connection is kept waiting.
    let calls = bench.script.calls().len();
    assert!(is_quiet(&session, 10 * MINUTE).await);
    assert_eq!(bench.script.calls().len(), calls);
    for receipt in receipts {
        receipt.settle_in_test(Verdicts::ACK).unwrap();
    }
    assert!(!numbers(&session, 20).await.is_empty(), "it goes on");
    close(&session).await;
}

#[tokio::test(start_paused = true)]
async fn pool_wait_of_thirty_seconds_closes_the_subscription_and_resumes_behind_the_last_event() {
    let script = Script::new(["s"]);
    script.answer("s", [body([large(1, 8000), large(2, 8000), Piece::Hang]), body([large(2, 8000), Piece::Hang])]);
    let bench = Bench::new(script, "enhanced_fan_out: {enabled: true, max_pending_bytes: 20KiB}");
    let session = bench.open().await;
    let (_, first, receipt) = take(&session).await;
    assert_eq!(first, [1]);
    tokio::time::sleep(Duration::from_secs(29)).await;
    assert_eq!(bench.script.calls().len(), 1);
    tokio::time::sleep(2 * MINUTE).await;
    receipt.settle_in_test(Verdicts::ACK).unwrap();
    assert_eq!(numbers(&session, 1).await, [2]);
    let calls = bench.script.calls();
    assert_eq!(calls.len(), 2, "one clean close, and one subscription when there was space");
    assert_eq!(calls[1].start, crate::model::StartPosition::After(SequenceNumber::new("1").unwrap()));
    close(&session).await;
}

#[tokio::test(start_paused = true)]
async fn nack_then_ack_behind_it() {
    let script = Script::new(["s"]);
    script.answer("s", [body([records(1..=2), records(3..=4), Piece::Hang])]);
    let bench = Bench::new(script, "");
    let session = bench.open().await;
    let (_, first, nacked) = take_at_most(&session, 2).await;
    let (_, second, acked) = take_at_most(&session, 2).await;
    assert_eq!((first, second), (vec![1, 2], vec![3, 4]));
    nacked.settle_in_test(Verdicts::NACK).unwrap();
    acked.settle_in_test(Verdicts::ACK).unwrap();
    let (_, again, receipt) = take(&session).await;
    assert_eq!(again, [1, 2]);
    tokio::time::sleep(10 * MINUTE).await;
    assert_eq!(bench.stored("s").await, None);
    receipt.settle_in_test(Verdicts::ACK).unwrap();
    tokio::time::sleep(MINUTE).await;
    assert_eq!(bench.stored("s").await, after(4));
    close(&session).await;
}

#[tokio::test(start_paused = true)]
async fn out_of_order_acks() {
    let script = Script::new(["s"]);
    script.answer("s", [body((0..20).map(|at| records(at * 2 + 1..=at * 2 + 2)).chain([Piece::Hang]))]);
    let bench = Bench::new(script, "");
    let session = bench.open().await;
    let mut receipts = Vec::new();
    let mut expected = 1;
    while expected <= 40 {
        let (_, numbers, receipt) = take_at_most(&session, 2).await;
        expected += numbers.len() as u64;
        receipts.push(receipt);
    }
    let first = receipts.remove(0);
    for receipt in receipts.into_iter().rev() {
        receipt.settle_in_test(Verdicts::ACK).unwrap();
    }
    tokio::time::sleep(10 * MINUTE).await;
    assert_eq!(bench.stored("s").await, None, "the first is not acked");
    first.settle_in_test(Verdicts::Each(vec![Verdict::Ack, Verdict::NACK])).unwrap();
    tokio::time::sleep(MINUTE).await;
    assert_eq!(bench.stored("s").await, after(1));
    close(&session).await;
}

#[tokio::test(start_paused = true)]
async fn receipt_dropped_by_the_host() {
    let script = Script::new(["s"]);
    script.answer("s", [body([records(1..=3), Piece::Hang])]);
    let bench = Bench::new(script, "");
    let session = bench.open().await;
    for _ in 0..3 {
        let (_, came, receipt) = take(&session).await;
        assert_eq!(came, [1, 2, 3]);
        drop(receipt);
    }
    assert_eq!(numbers(&session, 3).await, [1, 2, 3]);
    close(&session).await;
    assert_eq!(bench.stored("s").await, after(3));
}

#[tokio::test(start_paused = true)]
async fn nack_without_replay_drops_the_record() {
    let script = Script::new(["s"]);
    script.answer("s", [body([records(1..=3), Piece::Hang])]);
    let bench = Bench::new(script, "auto_replay_nacks: false");
    let session = bench.open().await;
    let (_, _, receipt) = take(&session).await;
    receipt.settle_in_test(Verdicts::NACK).unwrap();
    assert!(is_quiet(&session, MINUTE).await);
    assert_eq!(bench.stored("s").await, after(3));
    close(&session).await;
}

#[tokio::test(start_paused = true)]
async fn message_buffer_cap_holds() {
    for cap in [0, 1, 3] {
        let script = Script::new(["s"]);
        script.answer("s", [body((1..=10).map(|number| records([number])).chain([Piece::Hang]))]);
        let bench = Bench::new(script, &format!("message_buffer_cap: {cap}"));
        let session = bench.open().await;
        tokio::time::sleep(Duration::from_secs(20)).await;
        // The buffered records, and the one whose task waits with it.
        assert_eq!(session.pool.records().used, cap + 1);
        assert_eq!(numbers(&session, 10).await, (1..=10).collect::<Vec<_>>());
        close(&session).await;
    }
}

#[tokio::test(start_paused = true)]
async fn everything_released() {
    let script = Script::new(["s", "t", "u"]);
    for shard in ["s", "t", "u"] {
        script.answer(shard, [body([records(1..=50), large(51, 9000), large(52, 9000), Piece::Hang])]);
    }
    let bench =
        Bench::new(script, "enhanced_fan_out: {enabled: true, max_pending_records: 60, max_pending_bytes: 30KiB}");
    let session = bench.open().await;
    let (shard, came, late) = take_at_most(&session, 5).await;
    let (_, _, acked) = take_at_most(&session, 5).await;
    // The session is closed while shards wait for everything that they can wait for, and a receipt is in flight.
    let closing = session.close(Duration::from_secs(5));
    let acking = async {
        tokio::time::sleep(Duration::from_secs(1)).await;
        acked.settle_in_test(Verdicts::ACK).unwrap();
    };
    tokio::join!(closing, acking).0.unwrap();
    assert!(session.tasks.is_empty());
    assert_eq!(session.pool.records().used, came.len() as u64, "only the records that the host still holds");
    let stored = bench.stored(&shard).await;
    // The ack comes too late: it has no effect except that it frees the records of the receipt.
    late.settle_in_test(Verdicts::ACK).unwrap();
    assert_eq!((session.pool.records().used, session.pool.bytes().used), (0, 0));
    assert_eq!(bench.stored(&shard).await, stored);
}

#[tokio::test(start_paused = true)]
async fn graceful_stop_leaves_no_duplicates() {
    let script = Script::new(["s"]);
    script.answer("s", [body([records(1..=5), Piece::Hang])]);
    let bench = Bench::new(script, "");
    let session = bench.open().await;
    let (_, first, receipt) = take_at_most(&session, 2).await;
    assert_eq!(first, [1, 2]);
    let closing = session.close(Duration::from_secs(5));
    let acking = async {
        tokio::time::sleep(Duration::from_secs(3)).await;
        receipt.settle_in_test(Verdicts::ACK).unwrap();
    };
    tokio::join!(closing, acking).0.unwrap();
    bench.script.answer("s", [body([records(3..=5), Piece::Hang])]);
    let session = bench.open().await;
    assert_eq!(numbers(&session, 3).await, [3, 4, 5]);
    assert_eq!(
        bench.script.calls().pop().unwrap().start,
        crate::model::StartPosition::After(SequenceNumber::new("2").unwrap())
    );
    close(&session).await;
}

#[tokio::test(start_paused = true)]
async fn idle_cpu() {
    let shards: Vec<_> = (0..1000).map(|shard| format!("shard-{shard:04}")).collect();
    let script = Script::new(&shards);
    for shard in &shards {
        let heartbeats =
            (1..60).flat_map(|heartbeat| [event([], Some(heartbeat), &[]), Piece::Wait(Duration::from_secs(5))]);
        script.answer(shard, [body(heartbeats)]);
    }
    let bench = Bench::new(script, "");
    let session = bench.open().await;
    assert!(is_quiet(&session, 4 * MINUTE).await);
    assert_eq!(bench.script.calls().len(), 1000, "an idle shard keeps its subscription");
    // The position is stored now and then, so that it doesn't expire, and not at each of 48 events.
    let writes = bench.store.writes.load(Ordering::Relaxed);
    assert!(writes <= 1000, "{writes} writes for 1000 idle shards in four minutes");
    close(&session).await;
}

#[tokio::test(start_paused = true)]
async fn records_of_ten_mebibytes_are_read() {
    const LARGE: usize = 10 << 20;
    let script = Script::new(["s", "t"]);
    script.answer("s", [body((1..=3).map(|number| large(number, LARGE)).chain([Piece::Hang]))]);
    script.answer("t", [body((11..=13).map(|number| large(number, LARGE)).chain([Piece::Hang]))]);
    let bench = Bench::new(script, "enhanced_fan_out: {enabled: true, max_pending_bytes: 40MiB}");
    let session = bench.open().await;
    let mut all = Vec::new();
    while all.len() < 6 {
        let batch = session.read(Demand::new(10, Duration::from_hours(1))).await.unwrap();
        let (messages, receipt) = batch.into_parts();
        assert!(messages.iter().all(|message| message.payload().len() == LARGE));
        all.extend(
            messages.iter().map(|message| message.get("kinesis_sequence_number").unwrap().to_text().into_owned()),
        );
        receipt.settle_in_test(Verdicts::ACK).unwrap();
    }
    all.sort();
    assert_eq!(all, ["1", "11", "12", "13", "2", "3"]);
    let peak = session.pool.bytes().peak;
    assert!(peak <= 40 << 20, "{peak} bytes were pending");
    close(&session).await;
}
