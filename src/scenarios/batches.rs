//! What a batch of the host holds, and when it comes, with `batching` and without.

use std::time::Duration;

use pipeline_plugin_api::{Demand, InputError, Verdicts};
use tokio::time::{Instant, sleep};

use super::bench::{Bench, close, is_quiet, numbers, take, take_any, take_at_most};
use super::script::{Piece, Script, body, end, event, large, records};
use super::table::{MINUTE, Table, checkpoint, secs, then_idle};
use crate::lease::Checkpoint;
use crate::model::SequenceNumber;
use crate::sync::lock;

fn shards(batch: &[(String, u64)], shard: &str) -> Vec<u64> {
    batch.iter().filter(|(other, _)| other == shard).map(|(_, number)| *number).collect()
}

/// A service whose shard gets ten records at a time, every second.
fn ten_a_second(shard: &str, seconds: u64) -> Script {
    let script = Script::new([shard]);
    let each = (0..seconds).flat_map(|at| [records(at * 10 + 1..=at * 10 + 10), Piece::Wait(secs(1))]);
    script.answer(shard, [body(each.chain([Piece::Hang]))]);
    script
}

#[tokio::test(start_paused = true)]
async fn batch_takes_all_that_is_ready_of_all_shards() {
    let script = Script::new(["one", "two"]);
    script.answer("one", [body([records(1..=2), records(3..=4), Piece::Hang])]);
    script.answer("two", [body([records(11..=12), records(13..=14), Piece::Hang])]);
    let bench = Bench::new(script, "");
    let session = bench.open().await;
    sleep(secs(1)).await;
    let (batch, receipt) = take_any(&session, 1000).await;
    assert_eq!((shards(&batch, "one"), shards(&batch, "two")), ((1..=4).collect(), (11..=14).collect()));
    receipt.settle_in_test(Verdicts::ACK).unwrap();
    close(&session).await;
    assert_eq!(bench.stored("one").await, Some(Checkpoint::After(checkpoint(4))));
    assert_eq!(bench.stored("two").await, Some(Checkpoint::After(checkpoint(14))));
}

#[tokio::test(start_paused = true)]
async fn lease_lost_of_one_shard_in_a_batch() {
    let script = Script::new(["lost", "kept"]);
    script.answer("lost", [body([records(1..=2), Piece::Hang])]);
    script.answer("kept", [body([records(11..=12), Piece::Hang])]);
    let bench = Bench::new(script, "");
    let session = bench.open().await;
    sleep(secs(1)).await;
    let (batch, receipt) = take_any(&session, 1000).await;
    assert_eq!((shards(&batch, "lost"), shards(&batch, "kept")), (vec![1, 2], vec![11, 12]));
    *lock(&bench.store.lost) = Some("lost".into());
    receipt.settle_in_test(Verdicts::ACK).unwrap();
    sleep(secs(5)).await;
    assert_eq!(bench.stored("lost").await, None);
    assert!(is_quiet(&session, MINUTE).await);
    close(&session).await;
    assert_eq!(bench.stored("kept").await, Some(Checkpoint::After(checkpoint(12))));
}

#[tokio::test(start_paused = true)]
async fn batch_is_complete_with_its_count() {
    for cap in [0, 1, 64] {
        let bench = Bench::new(ten_a_second("s", 10), &format!("batching: {{count: 25}}\nmessage_buffer_cap: {cap}"));
        let session = bench.open().await;
        let start = Instant::now();
        let (_, first, one) = take(&session).await;
        assert_eq!((first, start.elapsed().as_secs()), ((1..=25).collect(), 2), "cap {cap}");
        let (_, second, other) = take(&session).await;
        assert_eq!((second, start.elapsed().as_secs()), ((26..=50).collect(), 4), "cap {cap}");
        other.settle_in_test(Verdicts::ACK).unwrap();
        one.settle_in_test(Verdicts::ACK).unwrap();
        // A batch is handed out by itself, though the next is complete, and comes again as it was.
        sleep(secs(10)).await;
        let (_, third, receipt) = take(&session).await;
        assert_eq!(third, (51..=75).collect::<Vec<_>>());
        receipt.settle_in_test(Verdicts::NACK).unwrap();
        sleep(secs(1)).await;
        let (_, again, receipt) = take(&session).await;
        assert_eq!(again, (51..=75).collect::<Vec<_>>());
        receipt.settle_in_test(Verdicts::ACK).unwrap();
        let (_, last, receipt) = take(&session).await;
        assert_eq!(last, (76..=100).collect::<Vec<_>>());
        receipt.settle_in_test(Verdicts::ACK).unwrap();
        close(&session).await;
    }
}

#[tokio::test(start_paused = true)]
async fn each_message_is_a_batch_with_a_count_of_one() {
    let bench = Bench::new(ten_a_second("s", 1), "batching: {count: 1}");
    let session = bench.open().await;
    for number in 1..=10 {
        let (_, batch, receipt) = take(&session).await;
        assert_eq!(batch, [number]);
        receipt.settle_in_test(Verdicts::ACK).unwrap();
    }
    close(&session).await;
}

#[tokio::test(start_paused = true)]
async fn batch_exceeds_its_bytes_by_one_message() {
    let script = Script::new(["s"]);
    script.answer("s", [body((1..=6).map(|number| large(number, 400)).chain([Piece::Hang]))]);
    let bench = Bench::new(script, "batching: {byte_size: 1000}");
    let session = bench.open().await;
    for expected in [1..=3, 4..=6] {
        let (_, batch, receipt) = take(&session).await;
        assert_eq!(batch, expected.collect::<Vec<_>>());
        receipt.settle_in_test(Verdicts::ACK).unwrap();
    }
    close(&session).await;
}

#[tokio::test(start_paused = true)]
async fn batch_larger_than_the_demand_comes_in_parts() {
    let bench = Bench::new(ten_a_second("s", 3), "batching: {count: 25, period: 1h}");
    let session = bench.open().await;
    let mut receipts = Vec::new();
    for expected in [1..=12, 13..=24, 25..=25] {
        let (_, batch, receipt) = take_at_most(&session, 12).await;
        assert_eq!(batch, expected.collect::<Vec<_>>());
        receipts.push(receipt);
    }
    assert!(is_quiet(&session, MINUTE).await, "the next batch is not complete");
    for receipt in receipts {
        receipt.settle_in_test(Verdicts::ACK).unwrap();
    }
    close(&session).await;
}

/// Before a graceful stop the host gets what was gathered; what comes later is read again.
#[tokio::test(start_paused = true)]
async fn drain_hands_out_what_is_gathered_and_lets_nothing_more_in() {
    for cap in [0, 1, 64] {
        let bench = Bench::new(
            ten_a_second("s", 10),
            &format!("batching: {{count: 25, period: 1h}}\nmessage_buffer_cap: {cap}"),
        );
        let session = bench.open().await;
        let (_, first, one) = take(&session).await;
        assert_eq!(first, (1..=25).collect::<Vec<_>>());
        // The shard's task adds what is behind the batch.
        sleep(Duration::from_millis(1)).await;
        assert!(session.drain(), "cap {cap}");
        assert!(session.drain(), "once more changes nothing");
        sleep(secs(10)).await;
        let (_, rest, other) = take(&session).await;
        assert_eq!(rest, (26..=30).collect::<Vec<_>>(), "cap {cap}");
        // What is nacked now comes again.
        other.settle_in_test(Verdicts::NACK).unwrap();
        sleep(secs(1)).await;
        let (_, again, other) = take(&session).await;
        assert_eq!(again, rest);
        let end = session.read(Demand::new(1000, secs(1))).await;
        assert!(matches!(end, Err(InputError::EndOfInput)), "{end:?}");
        one.settle_in_test(Verdicts::ACK).unwrap();
        other.settle_in_test(Verdicts::ACK).unwrap();
        close(&session).await;
        assert_eq!(bench.stored("s").await, Some(Checkpoint::After(SequenceNumber::new("30").unwrap())), "cap {cap}");
    }
    // There is nothing to make ready.
    for batching in ["", "batching: {count: 25}"] {
        let script = Script::new(["s"]);
        script.answer("s", [body([Piece::Hang])]);
        let bench = Bench::new(script, batching);
        let session = bench.open().await;
        assert!(!session.drain());
        assert!(is_quiet(&session, secs(1)).await);
        close(&session).await;
    }
}

/// The tail of a silent shard comes when its period is over. A reader that waits is woken once for it.
#[tokio::test(start_paused = true)]
async fn batch_period_with_a_silent_shard() {
    for cap in [0, 64] {
        let script = Script::new(["s"]);
        let idle = (0..19).flat_map(|_| [Piece::Wait(secs(5)), event([], Some(3), &[])]);
        let pieces = std::iter::once(records(1..=3)).chain(idle).chain([records(4..=4), Piece::Hang]);
        script.answer("s", [body(pieces)]);
        let bench = Bench::new(script, &format!("batching: {{count: 1000, period: 10s}}\nmessage_buffer_cap: {cap}"));
        let session = bench.open().await;
        let start = Instant::now();
        let mut polls = 0;
        let mut reading = std::pin::pin!(session.read(Demand::new(1000, Duration::from_hours(1))));
        let counted = std::future::poll_fn(|cx| {
            polls += 1;
            reading.as_mut().poll(cx)
        });
        let batch = counted.await.unwrap();
        assert_eq!((batch.len(), start.elapsed().as_secs()), (3, 10), "cap {cap}");
        assert!(polls <= 4, "{polls} polls");
        let (_, receipt) = batch.into_parts();
        receipt.settle_in_test(Verdicts::ACK).unwrap();
        // The period goes on while nothing comes.
        let (_, tail, receipt) = take(&session).await;
        assert_eq!((tail, start.elapsed().as_secs()), (vec![4], 100), "cap {cap}");
        receipt.settle_in_test(Verdicts::ACK).unwrap();
        close(&session).await;
    }
}

#[tokio::test(start_paused = true)]
async fn batch_count_larger_than_the_pool() {
    for fan_out in ["max_pending_records: 20", "max_pending_bytes: 20KiB"] {
        let script = Script::new(["one", "two", "three"]);
        for (at, shard) in ["one", "two", "three"].into_iter().enumerate() {
            let numbers = (0..30).map(move |number| 100 * at as u64 + number + 1);
            script.answer(shard, [body(numbers.map(|number| large(number, 2000)).chain([Piece::Hang]))]);
        }
        let more = format!("batching: {{count: 1000}}\nenhanced_fan_out: {{enabled: true, {fan_out}}}");
        let bench = Bench::new(script, &more);
        let session = bench.open().await;
        // The last ones of each shard wait for more.
        let mut came = 0;
        while !is_over(&session, &mut came).await {}
        assert!(came >= 60, "{came} of 90 came with {fan_out}");
        close(&session).await;
    }
}

async fn is_over(session: &crate::session::Session, came: &mut usize) -> bool {
    let batch = session.read(Demand::new(1000, MINUTE)).await.unwrap();
    *came += batch.len();
    let is_empty = batch.is_empty();
    let (_, receipt) = batch.into_parts();
    receipt.settle_in_test(Verdicts::ACK).unwrap();
    is_empty
}

#[tokio::test(start_paused = true)]
async fn batch_count_larger_than_the_checkpoint_limit() {
    for cap in [0, 64] {
        let more = format!("batching: {{count: 25}}\ncheckpoint_limit: 1\nmessage_buffer_cap: {cap}");
        let bench = Bench::new(ten_a_second("s", 10), &more);
        let session = bench.open().await;
        for expected in [1..=25, 26..=50, 51..=75, 76..=100] {
            let (_, batch, receipt) = take(&session).await;
            assert_eq!(batch, expected.collect::<Vec<_>>());
            // As with single messages, none comes before the one before it is acknowledged.
            assert!(is_quiet(&session, secs(30)).await);
            receipt.settle_in_test(Verdicts::ACK).unwrap();
        }
        close(&session).await;
    }
}

#[tokio::test(start_paused = true)]
async fn batch_flushes_at_shard_end_and_hand_over() {
    let script = Script::new(["parent"]);
    script.answer("parent", [body([end(1..=3, &[("child", &["parent"])])])]);
    script.answer("child", [body([records(10..=11), Piece::Hang])]);
    let bench = Bench::new(script, "batching: {count: 1000}");
    let session = bench.open().await;
    assert_eq!(numbers(&session, 3).await, [1, 2, 3]);
    assert!(is_quiet(&session, MINUTE).await, "the child has no end");
    close(&session).await;

    let script = Script::new(["one", "two"]);
    for shard in ["one", "two"] {
        script.answer(shard, [then_idle(1..=3), then_idle(4..=4)]);
    }
    let (bench, table) = (Bench::new(script, "batching: {count: 1000}"), Table::new());
    let a = bench.join(&table.worker("a")).await;
    assert!(is_quiet(&a, MINUTE).await);
    let b = bench.join(&table.worker("b")).await;
    let moved = table.until_requested(&["one", "two"]).await;
    let (shard, taken, receipt) = take(&a).await;
    assert_eq!((shard.as_str(), taken), (moved, vec![1, 2, 3]));
    assert_eq!(table.holder(moved), Some("a".into()));
    receipt.settle_in_test(Verdicts::ACK).unwrap();
    table.until_held(moved, "b").await;
    assert_eq!(table.checkpoint(moved), Some(Checkpoint::After(checkpoint(3))));
    close(&a).await;
    close(&b).await;
}

/// A host that takes nothing does not hold up a hand-over, and what was gathered is not delivered after it.
#[tokio::test(start_paused = true)]
async fn hand_over_waits_for_what_was_gathered_only_for_its_grace() {
    let script = Script::new(["one", "two"]);
    for shard in ["one", "two"] {
        script.answer(shard, [then_idle(1..=3), then_idle(1..=3)]);
    }
    let (bench, table) = (Bench::new(script, "batching: {count: 1000}"), Table::new());
    let a = bench.join(&table.worker("a")).await;
    sleep(MINUTE).await;
    let b = bench.join(&table.worker("b")).await;
    let moved = table.until_requested(&["one", "two"]).await;
    let asked = Instant::now();
    table.until_held(moved, "b").await;
    assert!(asked.elapsed() < secs(4), "{:?}", asked.elapsed());
    assert!(is_quiet(&a, secs(1)).await);
    close(&a).await;
    close(&b).await;
    assert_eq!(table.checkpoint(moved), None);
}
