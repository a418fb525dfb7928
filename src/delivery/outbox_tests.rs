//! Does the outbox keep its order, its limits and its promises when a call is dropped?

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use pipeline_plugin_api::{Batch, Demand, Receipt, Verdict, Verdicts};
use tokio::time::Instant;

use crate::delivery::Delivery;
use crate::delivery::in_flight::next_batch;
use crate::delivery::outbox::{Closed, LaneHandle, Outbox};
use crate::delivery::progress::Progress;
use crate::delivery::redelivery::RedeliveryPolicy;
use crate::lease::validity::LeaseValidity;
use crate::model::{SequenceNumber, ShardNames, Stream};
use crate::pool::Pool;
use crate::reading::wire::Event;
use crate::records::{KinesisRecord, RecordTable};

const HOUR: Duration = Duration::from_hours(1);

/// Makes leases that never expire.
fn unlimited() -> Arc<LeaseValidity> {
    Arc::new(LeaseValidity::unlimited())
}

/// A shard, and its lane in the outbox.
struct Shard {
    progress: Arc<Progress>,
    lane: LaneHandle,
    pool: Pool,
}

impl Shard {
    fn new(outbox: &Arc<Outbox>, pool: &Pool, name: &str) -> Self {
        let names = Arc::new(ShardNames { stream: Stream::new("orders", "arn:orders"), shard: name.into() });
        let lane = outbox.lane(&names);
        Self {
            progress: Arc::new(Progress::new(names, 1000, RedeliveryPolicy::UNTIL_ACCEPTED)),
            lane,
            pool: pool.clone(),
        }
    }

    /// Makes a delivery of these records.
    async fn delivery(&self, numbers: impl IntoIterator<Item = u64>) -> Delivery {
        self.delivery_of_sizes(numbers.into_iter().map(|number| (number, 0))).await
    }

    /// Makes a delivery of records with payloads of these sizes.
    async fn delivery_of_sizes(&self, records: impl IntoIterator<Item = (u64, usize)>) -> Delivery {
        let data = |size| base64_simd::STANDARD.encode_to_string(vec![0_u8; size]);
        let records: Vec<_> = records
            .into_iter()
            .map(|(number, size)| serde_json::json!({ "SequenceNumber": number.to_string(), "Data": data(size) }))
            .collect();
        let rows = Event::parse(serde_json::json!({ "Records": records }).to_string().as_bytes()).unwrap().rows;
        let count = rows.len();
        let last = SequenceNumber::read(rows.last().unwrap().sequence());
        let table = Arc::new(RecordTable::new(&self.progress.names, rows));
        let base = self.progress.track(&table, last);
        let bytes = Arc::new(self.pool.reserve(1).await);
        let records = self.pool.reserve_records(count as u64).await;
        Delivery::new(&self.progress, &table, 0..count, base, records, &bytes)
    }

    async fn push(&mut self, numbers: impl IntoIterator<Item = u64>) {
        let delivery = self.delivery(numbers).await;
        self.lane.push(delivery).await.unwrap();
    }
}

impl Shard {
    async fn push_sizes(&mut self, records: impl IntoIterator<Item = (u64, usize)>) {
        let delivery = self.delivery_of_sizes(records).await;
        self.lane.push(delivery).await.unwrap();
    }
}

fn pool() -> Pool {
    Pool::new(1000, 1000)
}

/// Polls a future once. Returns its output if it is ready.
fn now<F: Future>(future: Pin<&mut F>) -> Option<F::Output> {
    match future.poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(output) => Some(output),
        Poll::Pending => None,
    }
}

async fn next(outbox: &Arc<Outbox>, max: usize) -> (String, Vec<u64>, Receipt) {
    let batch = next_batch(outbox, Demand::new(max, HOUR)).await.unwrap();
    assert!(!batch.is_empty(), "nothing came for an hour");
    parts(batch)
}

/// The shard of the first record, and the numbers of all.
fn parts(batch: Batch) -> (String, Vec<u64>, Receipt) {
    let (messages, receipt) = batch.into_parts();
    let records: Vec<_> = messages.iter().map(|message| KinesisRecord::of(message).unwrap()).collect();
    for (message, record) in messages.iter().zip(&records) {
        assert_eq!(message.ordering_key(), Some(record.shard().as_str()));
    }
    let numbers = records.iter().map(|record| record.sequence_number().as_str().parse().unwrap()).collect();
    (records[0].shard().to_string(), numbers, receipt)
}

async fn is_empty(outbox: &Arc<Outbox>) -> bool {
    next_batch(outbox, Demand::new(1000, Duration::from_mins(1))).await.unwrap().is_empty()
}

#[tokio::test(start_paused = true)]
async fn push_beyond_the_cap_waits_until_a_delivery_is_taken() {
    let outbox = Arc::new(Outbox::new(2, unlimited()));
    let pool = pool();
    let (mut one, mut other) = (Shard::new(&outbox, &pool, "one"), Shard::new(&outbox, &pool, "other"));
    one.push([1]).await;
    other.push([11]).await;
    let third = one.delivery([2]).await;
    let mut third = Box::pin(one.lane.push(third));
    assert!(now(third.as_mut()).is_none(), "more wait than the cap allows");
    let (_, _, _receipt) = next(&outbox, 10).await;
    assert_eq!(now(third.as_mut()), Some(Ok(())));
}

#[tokio::test(start_paused = true)]
async fn delivery_without_a_cap_waits_for_a_reader() {
    let outbox = Arc::new(Outbox::new(0, unlimited()));
    let mut shard = Shard::new(&outbox, &pool(), "one");
    let delivery = shard.delivery([1, 2, 3]).await;
    let mut pushed = Box::pin(shard.lane.push(delivery));
    tokio::time::sleep(HOUR).await;
    assert!(now(pushed.as_mut()).is_none(), "the delivery was taken without a reader");
    // The delivery is larger than the demand: the remainder comes next, and the task that added it continues meanwhile.
    let (_, first, _first_receipt) = next(&outbox, 2).await;
    assert_eq!((first, now(pushed.as_mut())), (vec![1, 2], Some(Ok(()))));
    drop(pushed);
    let behind = shard.delivery([4]).await;
    let mut behind = Box::pin(shard.lane.push(behind));
    assert!(now(behind.as_mut()).is_none());
    for (expected, done) in [([3], false), ([4], true)] {
        let (_, came, receipt) = next(&outbox, 1).await;
        assert_eq!(came, expected);
        assert!(!done || now(behind.as_mut()).is_some());
        receipt.settle_in_test(Verdicts::ACK).unwrap();
    }
}

#[tokio::test(start_paused = true)]
async fn waiting_reader_receives_the_next_delivery() {
    for cap in [0, 8] {
        let outbox = Arc::new(Outbox::new(cap, unlimited()));
        let mut shard = Shard::new(&outbox, &pool(), "one");
        let start = Instant::now();
        let ((_, came, _receipt), ()) = tokio::join!(next(&outbox, 10), async {
            tokio::time::sleep(Duration::from_secs(5)).await;
            shard.push([1]).await;
        });
        assert_eq!((came, start.elapsed()), (vec![1], Duration::from_secs(5)), "cap {cap}");
    }
}

#[tokio::test(start_paused = true)]
async fn every_shard_has_its_turn() {
    let outbox = Arc::new(Outbox::new(64, unlimited()));
    let pool = pool();
    let (mut busy, mut rare) = (Shard::new(&outbox, &pool, "busy"), Shard::new(&outbox, &pool, "rare"));
    for number in 1..=20 {
        busy.push([number]).await;
    }
    rare.push([1]).await;
    let mut order = Vec::new();
    let mut receipts = Vec::new();
    for _ in 0..21 {
        let (shard, _, receipt) = next(&outbox, 1).await;
        order.push(shard);
        receipts.push(receipt);
    }
    let turn = order.iter().position(|shard| shard == "rare").unwrap();
    assert!(turn <= 1, "the rare shard came after {turn} deliveries of the busy one");
}

#[tokio::test(start_paused = true)]
async fn delivery_larger_than_the_demand_is_split_and_takes_turns() {
    let outbox = Arc::new(Outbox::new(64, unlimited()));
    let pool = pool();
    let (mut one, mut other) = (Shard::new(&outbox, &pool, "one"), Shard::new(&outbox, &pool, "other"));
    one.push(1..=7).await;
    other.push(11..=12).await;
    let mut receipts = Vec::new();
    let mut came = Vec::new();
    for _ in 0..3 {
        let (_, numbers, receipt) = next(&outbox, 3).await;
        came.push(numbers);
        receipts.push(receipt);
    }
    assert_eq!(came, [vec![1, 2, 3], vec![11, 12, 4], vec![5, 6, 7]]);
    assert!(is_empty(&outbox).await);
    for receipt in receipts {
        receipt.settle_in_test(Verdicts::ACK).unwrap();
    }
    assert_eq!((pool.records().used, pool.bytes().used), (0, 0));
}

#[tokio::test(start_paused = true)]
async fn batch_takes_all_that_is_ready() {
    for cap in [0, 1, 64] {
        let outbox = Arc::new(Outbox::new(cap, unlimited()));
        let pool = pool();
        let (mut one, mut other) = (Shard::new(&outbox, &pool, "one"), Shard::new(&outbox, &pool, "other"));
        let (first, second) = (one.delivery([1, 2, 3]).await, other.delivery([11]).await);
        let (mut first, mut second) = (Box::pin(one.lane.push(first)), Box::pin(other.lane.push(second)));
        let _ = (now(first.as_mut()), now(second.as_mut()));
        let start = Instant::now();
        let (_, came, receipt) = next(&outbox, 10).await;
        assert_eq!((came, start.elapsed()), (vec![1, 2, 3, 11], Duration::ZERO), "cap {cap}");
        receipt.settle_in_test(Verdicts::ACK).unwrap();
        assert_eq!((pool.records().used, pool.bytes().used), (0, 0));
        assert_eq!((one.progress.checkpoint().1, other.progress.checkpoint().1), (3, 1));
    }
}

#[tokio::test(start_paused = true)]
async fn shards_take_turns_within_a_batch() {
    let outbox = Arc::new(Outbox::new(64, unlimited()));
    let pool = pool();
    let (mut one, mut other) = (Shard::new(&outbox, &pool, "one"), Shard::new(&outbox, &pool, "other"));
    for numbers in [1..=2, 3..=4, 5..=6] {
        one.push(numbers).await;
    }
    other.push(11..=12).await;
    let (_, came, _receipt) = next(&outbox, 6).await;
    assert_eq!(came, [1, 2, 11, 12, 3, 4]);
    let (_, came, _receipt) = next(&outbox, 6).await;
    assert_eq!(came, [5, 6]);
}

#[tokio::test(start_paused = true)]
async fn batch_ends_before_the_message_that_exceeds_its_bytes() {
    let outbox = Arc::new(Outbox::new(64, unlimited()));
    let mut shard = Shard::new(&outbox, &pool(), "s");
    shard.push_sizes([(1, 40), (2, 40), (3, 40)]).await;
    shard.push_sizes([(4, 20), (5, 500), (6, 1)]).await;
    let mut came = Vec::new();
    for _ in 0..4 {
        let batch = next_batch(&outbox, Demand::new(10, HOUR).max_bytes(100)).await.unwrap();
        let (_, numbers, receipt) = parts(batch);
        came.push(numbers);
        receipt.settle_in_test(Verdicts::ACK).unwrap();
    }
    assert_eq!(came, [vec![1, 2], vec![3, 4], vec![5], vec![6]]);
}

#[tokio::test(start_paused = true)]
async fn partial_nack_across_shards() {
    let outbox = Arc::new(Outbox::new(64, unlimited()));
    let pool = pool();
    let (mut one, mut other) = (Shard::new(&outbox, &pool, "one"), Shard::new(&outbox, &pool, "other"));
    one.push(1..=2).await;
    other.push(11..=13).await;
    one.push(3..=4).await;
    let (_, came, receipt) = next(&outbox, 10).await;
    assert_eq!(came, [1, 2, 11, 12, 13, 3, 4]);
    let nacked = [2, 12, 3];
    let verdicts = came.iter().map(|number| if nacked.contains(number) { Verdict::NACK } else { Verdict::Ack });
    receipt.settle_in_test(Verdicts::Each(verdicts.collect())).unwrap();
    assert_eq!((one.progress.checkpoint().1, other.progress.checkpoint().1), (1, 1));
    assert_eq!(pool.records().used, 3);
    let (_, mut again, receipt) = next(&outbox, 10).await;
    let second = again.iter().position(|number| *number == 2).unwrap();
    assert!(second < again.iter().position(|number| *number == 3).unwrap(), "{again:?}");
    again.sort_unstable();
    assert_eq!(again, [2, 3, 12]);
    receipt.settle_in_test(Verdicts::ACK).unwrap();
    assert_eq!((one.progress.checkpoint().1, other.progress.checkpoint().1), (4, 3));
    assert_eq!((pool.records().used, pool.bytes().used), (0, 0));
}

/// An output that refuses whole batches because of one record holds up only the shard of that record.
#[tokio::test(start_paused = true)]
async fn delivery_that_was_nacked_twice_comes_alone() {
    let outbox = Arc::new(Outbox::new(64, unlimited()));
    let pool = pool();
    let (mut bad, mut good) = (Shard::new(&outbox, &pool, "bad"), Shard::new(&outbox, &pool, "good"));
    bad.push([1]).await;
    let mut alone = 0;
    for round in 0..10 {
        good.push([11 + round]).await;
        // A batch with the bad record is refused as a whole, as by an output that writes all or nothing.
        for _ in 0..2 {
            let batch = next_batch(&outbox, Demand::new(10, Duration::from_millis(1100))).await.unwrap();
            if batch.is_empty() {
                continue;
            }
            let (_, came, receipt) = parts(batch);
            let is_bad = came.contains(&1);
            assert!(round < 2 || !is_bad || came == [1], "{came:?}");
            alone += usize::from(came == [1]);
            receipt.settle_in_test(if is_bad { Verdicts::NACK } else { Verdicts::ACK }).unwrap();
        }
    }
    assert!(alone > 3, "{alone}");
    assert_eq!(good.progress.checkpoint().1, 10);
    assert_eq!(bad.progress.checkpoint().1, 0);
}

#[tokio::test(start_paused = true)]
async fn lost_shard_of_a_batch_leaves_the_others() {
    let outbox = Arc::new(Outbox::new(64, unlimited()));
    let pool = pool();
    let (mut lost, mut kept) = (Shard::new(&outbox, &pool, "lost"), Shard::new(&outbox, &pool, "kept"));
    lost.push(1..=2).await;
    kept.push(11..=12).await;
    let (_, _, receipt) = next(&outbox, 10).await;
    let _ = lost.progress.ownership.enter(crate::delivery::ownership::Phase::Gone);
    let lost_progress = Arc::clone(&lost.progress);
    drop(lost);
    receipt.settle_in_test(Verdicts::Each(vec![Verdict::Ack, Verdict::NACK, Verdict::Ack, Verdict::NACK])).unwrap();
    assert_eq!((lost_progress.checkpoint().1, kept.progress.checkpoint().1), (0, 1));
    let (shard, again, receipt) = next(&outbox, 10).await;
    assert_eq!((shard.as_str(), again), ("kept", vec![12]));
    receipt.settle_in_test(Verdicts::ACK).unwrap();
    assert_eq!((pool.records().used, pool.bytes().used), (0, 0));
}

#[tokio::test(start_paused = true)]
async fn redelivery_precedes_new_records_of_its_shard() {
    let outbox = Arc::new(Outbox::new(64, unlimited()));
    let mut shard = Shard::new(&outbox, &pool(), "one");
    for numbers in [1..=2, 3..=4, 5..=6, 7..=8] {
        shard.push(numbers).await;
    }
    let (_, _, first) = next(&outbox, 2).await;
    let (_, _, second) = next(&outbox, 2).await;
    // The deliveries are nacked in reverse order, and half of the older one is acked: they are delivered in their order
    // all the same.
    second.settle_in_test(Verdicts::NACK).unwrap();
    first.settle_in_test(Verdicts::Each(vec![Verdict::Ack, Verdict::NACK])).unwrap();
    let mut came = Vec::new();
    let mut receipts = Vec::new();
    while came.len() < 7 {
        let (_, numbers, receipt) = next(&outbox, 10).await;
        came.extend(numbers);
        receipts.push(receipt);
    }
    assert_eq!(came, [2, 3, 4, 5, 6, 7, 8]);
}

#[tokio::test(start_paused = true)]
async fn shard_in_backoff_after_a_nack_does_not_block_other_shards() {
    let outbox = Arc::new(Outbox::new(1, unlimited()));
    let pool = pool();
    let (mut bad, mut good) = (Shard::new(&outbox, &pool, "bad"), Shard::new(&outbox, &pool, "good"));
    bad.push([1]).await;
    // The delivery was nacked so often that it is kept back for a second.
    for _ in 0..12 {
        next(&outbox, 10).await.2.settle_in_test(Verdicts::NACK).unwrap();
    }
    let start = Instant::now();
    good.push([11]).await;
    let (shard, _, _receipt) = next(&outbox, 10).await;
    assert_eq!((shard.as_str(), start.elapsed()), ("good", Duration::ZERO));
    let (shard, again, _receipt) = next(&outbox, 10).await;
    assert_eq!((shard.as_str(), again), ("bad", vec![1]));
    let delay = start.elapsed();
    assert!(delay > Duration::from_millis(500) && delay < Duration::from_millis(1100), "{delay:?}");
}

#[tokio::test(start_paused = true)]
async fn new_records_do_not_overtake_a_redelivery_without_a_cap() {
    let outbox = Arc::new(Outbox::new(0, unlimited()));
    let mut shard = Shard::new(&outbox, &pool(), "one");
    let ((_, first, receipt), ()) = tokio::join!(next(&outbox, 10), shard.push([1]));
    assert_eq!(first, [1]);
    receipt.settle_in_test(Verdicts::NACK).unwrap();
    let second = shard.delivery([2]).await;
    let mut pushed = Box::pin(shard.lane.push(second));
    assert!(now(pushed.as_mut()).is_none());
    let (_, again, _first_receipt) = next(&outbox, 1).await;
    let (_, then, _second_receipt) = next(&outbox, 1).await;
    assert_eq!((again, then), (vec![1], vec![2]));
    assert!(now(pushed.as_mut()).is_some());
}

#[tokio::test(start_paused = true)]
async fn dropped_read_takes_nothing() {
    for cap in [0, 8] {
        let outbox = Arc::new(Outbox::new(cap, unlimited()));
        let mut shard = Shard::new(&outbox, &pool(), "one");
        let demand = Demand::new(10, HOUR);
        // The reader waits, is woken by a delivery, and is dropped before it is polled again.
        let mut dropped = Box::pin(next_batch(&outbox, demand));
        assert!(now(dropped.as_mut()).is_none());
        let delivery = shard.delivery([1]).await;
        let mut pushed = Box::pin(shard.lane.push(delivery));
        let _ = now(pushed.as_mut());
        // Another reader waits already: the wake-up must not be lost with the first.
        let mut waits = Box::pin(next_batch(&outbox, demand));
        drop(dropped);
        let (_, came, _receipt) = parts(waits.as_mut().await.unwrap());
        assert_eq!(came, [1], "cap {cap}");
    }
}

#[tokio::test(start_paused = true)]
async fn wake_up_of_a_dropped_read_goes_to_the_next_reader() {
    let outbox = Arc::new(Outbox::new(8, unlimited()));
    let mut shard = Shard::new(&outbox, &pool(), "one");
    let demand = Demand::new(10, HOUR);
    let mut dropped = Box::pin(next_batch(&outbox, demand));
    assert!(now(dropped.as_mut()).is_none());
    let other = Arc::clone(&outbox);
    let mut readers = tokio::task::JoinSet::new();
    readers.spawn(async move { next_batch(&other, demand).await.map(|batch| batch.len()) });
    // The second reader waits too, behind the first.
    tokio::task::yield_now().await;
    let start = Instant::now();
    shard.push([1]).await;
    drop(dropped);
    assert_eq!(readers.join_next().await.unwrap().unwrap(), Ok(1));
    assert_eq!(start.elapsed(), Duration::ZERO, "the delivery was found at the end of the wait, not on arrival");
}

#[tokio::test(start_paused = true)]
async fn dropped_push_leaves_nothing() {
    let outbox = Arc::new(Outbox::new(1, unlimited()));
    let pool = pool();
    let mut shard = Shard::new(&outbox, &pool, "one");
    shard.push([1]).await;
    let second = shard.delivery([2]).await;
    assert_eq!(pool.records().used, 2);
    let mut dropped = Box::pin(shard.lane.push(second));
    assert!(now(dropped.as_mut()).is_none());
    drop(dropped);
    assert_eq!(pool.records().used, 1, "it holds space in the pool");
    let (_, came, receipt) = next(&outbox, 10).await;
    assert_eq!(came, [1]);
    receipt.settle_in_test(Verdicts::ACK).unwrap();
    assert!(is_empty(&outbox).await);
    // The waiter is removed as well.
    shard.push([3]).await;
    assert_eq!(next(&outbox, 10).await.1, [3]);
}

#[tokio::test(start_paused = true)]
async fn dropped_lane_removes_its_records_and_makes_room() {
    let outbox = Arc::new(Outbox::new(1, unlimited()));
    let pool = pool();
    let (mut gone, mut other) = (Shard::new(&outbox, &pool, "gone"), Shard::new(&outbox, &pool, "other"));
    gone.push([1]).await;
    let delivery = other.delivery([11]).await;
    let mut pushed = Box::pin(other.lane.push(delivery));
    assert!(now(pushed.as_mut()).is_none());
    drop(gone);
    assert_eq!(now(pushed.as_mut()), Some(Ok(())));
    assert_eq!(pool.records().used, 1);
    let (shard, _, receipt) = next(&outbox, 10).await;
    assert_eq!(shard, "other");
    receipt.settle_in_test(Verdicts::ACK).unwrap();
    assert!(is_empty(&outbox).await);
}

#[tokio::test(start_paused = true)]
async fn nack_after_its_lane_was_dropped_is_discarded() {
    let outbox = Arc::new(Outbox::new(1, unlimited()));
    let pool = pool();
    let mut shard = Shard::new(&outbox, &pool, "one");
    shard.push([1]).await;
    let (_, _, receipt) = next(&outbox, 10).await;
    drop(shard);
    receipt.settle_in_test(Verdicts::NACK).unwrap();
    assert_eq!((pool.records().used, pool.bytes().used), (0, 0));
    assert!(is_empty(&outbox).await);
}

#[tokio::test(start_paused = true)]
async fn close_ends_every_wait_and_discards_queued_records() {
    let outbox = Arc::new(Outbox::new(1, unlimited()));
    let pool = pool();
    let mut shard = Shard::new(&outbox, &pool, "one");
    shard.push([1]).await;
    let (_, _, in_flight) = next(&outbox, 10).await;
    let mut readers = tokio::task::JoinSet::new();
    for _ in 0..3 {
        let outbox = Arc::clone(&outbox);
        readers.spawn(async move { next_batch(&outbox, Demand::new(10, HOUR)).await.map(|batch| batch.len()) });
    }
    tokio::task::yield_now().await;
    let start = Instant::now();
    outbox.close();
    while let Some(read) = readers.join_next().await {
        assert_eq!(read.unwrap(), Err(Closed));
    }
    assert_eq!(start.elapsed(), Duration::ZERO);
    let late = shard.delivery([2]).await;
    assert_eq!(shard.lane.push(late).await, Err(Closed));
    assert!(matches!(next_batch(&outbox, Demand::new(10, HOUR)).await, Err(Closed)));
    // The close waits for deliveries in flight.
    let mut returned = Box::pin(outbox.all_returned());
    assert!(now(returned.as_mut()).is_none());
    in_flight.settle_in_test(Verdicts::NACK).unwrap();
    assert!(now(returned.as_mut()).is_some());
    assert_eq!((pool.records().used, pool.bytes().used), (0, 0));
}

/// One of two readers was woken for a delivery that is kept back. When that reader gives up or is dropped, the other
/// one gets the delivery.
#[tokio::test(start_paused = true)]
async fn waiting_reader_gets_a_delayed_redelivery_after_another_gives_up() {
    for is_dropped in [false, true] {
        let outbox = Arc::new(Outbox::new(64, unlimited()));
        let mut shard = Shard::new(&outbox, &pool(), "s");
        shard.push([1]).await;
        let (_, _, mut receipt) = next(&outbox, 10).await;
        // After some nacks the delivery is kept back longer than the first reader waits.
        for _ in 0..8 {
            receipt.settle_in_test(Verdicts::NACK).unwrap();
            (_, _, receipt) = next(&outbox, 10).await;
        }
        let mut impatient = Box::pin(next_batch(&outbox, Demand::new(10, Duration::from_millis(50))));
        let mut patient = Box::pin(next_batch(&outbox, Demand::new(10, HOUR)));
        assert!(now(impatient.as_mut()).is_none() && now(patient.as_mut()).is_none());
        receipt.settle_in_test(Verdicts::NACK).unwrap();
        assert!(now(impatient.as_mut()).is_none() && now(patient.as_mut()).is_none());
        if is_dropped {
            drop(impatient);
        } else {
            assert!(impatient.await.unwrap().is_empty());
        }
        let came = tokio::time::timeout(Duration::from_secs(2), patient).await;
        assert_eq!(came.expect("the patient reader was not woken").unwrap().len(), 1);
    }
}

#[tokio::test(start_paused = true)]
async fn unlimited_wait_ends_when_a_record_arrives() {
    let outbox = Arc::new(Outbox::new(64, unlimited()));
    let mut shard = Shard::new(&outbox, &pool(), "s");
    let reading = next_batch(&outbox, Demand::new(10, Duration::MAX));
    let mut reading = std::pin::pin!(reading);
    assert!(now(reading.as_mut()).is_none());
    shard.push([1]).await;
    assert_eq!(reading.await.unwrap().len(), 1);
}
