//! How far has a shard got, and may more of it be delivered?

use std::ops::Range;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::Instant;

use crate::delivery::ownership::{Ownership, Phase};
use crate::delivery::redelivery::RedeliveryPolicy;
use crate::delivery::watermark::{Oldest, Sequences, Watermark};
use crate::lease::{Checkpoint, Within};
use crate::model::{SequenceNumber, ShardNames};
use crate::records::RecordTable;
use crate::sync::{Mutex, lock};
use crate::telemetry::ShardMeter;
use crate::telemetry::health::ObservedShard;
use crate::telemetry::report::ShardReport;

/// The records of an event that was read.
#[derive(Debug)]
struct Tracked {
    table: Weak<RecordTable>,
    at: Instant,
}

impl Sequences for Tracked {
    fn checkpoint(&self, index: usize) -> Option<Checkpoint> {
        let table = self.table.upgrade()?;
        let record = table.record(index)?;
        let number = SequenceNumber::read(record.sequence());
        match record.sub_sequence_number() {
            Some(sub) if !record.is_last_of_its_number() => {
                let before = index.checked_sub(sub as usize + 1).and_then(|before| table.record(before));
                let after = before.map(|before| SequenceNumber::read(before.sequence()));
                Some(Checkpoint::Within(Within { after, record: number, sub }))
            }
            _ => Some(Checkpoint::After(number)),
        }
    }

    fn oldest(&self, index: usize) -> Oldest {
        Oldest { arrived: self.table.upgrade().and_then(|table| table.arrival_millis(index)), tracked_at: self.at }
    }
}

/// The progress of a shard, shared by its reader, by the host's acks and by the checkpointer.
#[derive(Debug)]
pub(crate) struct Progress {
    pub(crate) names: Arc<ShardNames>,
    pub(crate) meter: Arc<ShardMeter>,
    /// The ordinals of the records that are acknowledged, and the checkpoint that follows from them.
    watermark: Mutex<Watermark<Tracked>>,
    /// A signal of every ack and every settled delivery. The shard's task waits for it, for room or for the last ack.
    moved: Notify,
    /// How many deliveries of the shard are in flight. The outbox counts them up, and the host's receipts count them
    /// down.
    out: AtomicUsize,
    /// Whether a record that was read waits for `checkpoint_limit`. The shard's task sets it, and the health looks at it.
    is_held_by_limit: AtomicBool,
    /// The phase of the shard, which says whether acks still move the watermark.
    pub(crate) ownership: Ownership,
    /// What becomes of nacked records.
    pub(super) redelivery: RedeliveryPolicy,
}

impl Progress {
    pub(crate) fn new(names: Arc<ShardNames>, checkpoint_limit: u64, redelivery: RedeliveryPolicy) -> Self {
        let meter = Arc::new(ShardMeter::new(&names));
        Self {
            names,
            meter,
            watermark: Mutex::new(Watermark::new(checkpoint_limit)),
            moved: Notify::new(),
            out: AtomicUsize::new(0),
            is_held_by_limit: AtomicBool::new(false),
            ownership: Ownership::default(),
            redelivery,
        }
    }

    /// Takes the records of an event. Returns the ordinal of the first.
    pub(crate) fn track(&self, table: &Arc<RecordTable>, continuation: SequenceNumber) -> u64 {
        let count = table.len() as u64;
        let records = Tracked { table: Arc::downgrade(table), at: Instant::now() };
        lock(&self.watermark).track(records, count, continuation).start
    }

    /// Counts records as acknowledged.
    pub(crate) fn ack(&self, ordinals: Range<u64>) {
        if self.is_live() {
            lock(&self.watermark).ack(ordinals);
            self.moved.notify_waiters();
        }
    }

    /// Keeps the positions behind what is acknowledged above gaps, because reading is about to stop.
    pub(crate) fn keep_positions(&self) {
        lock(&self.watermark).keep_positions();
    }

    /// Whether the record before the ordinal `end` may be delivered, as part of a batch that begins at `starts`.
    pub(crate) fn has_room_for_batch(&self, end: u64, starts: impl Fn() -> u64) -> bool {
        let watermark = lock(&self.watermark);
        watermark.room_for(end) || watermark.done() >= starts()
    }

    /// Waits until the record before the ordinal `end` may be delivered, as part of a batch that begins at `starts`. Cancel
    /// safe.
    pub(crate) async fn room_for_batch(&self, end: u64, starts: impl Fn() -> u64) {
        if !self.has_room_for_batch(end, &starts) {
            let _held = HeldByLimit::new(&self.is_held_by_limit);
            self.until(|watermark| watermark.room_for(end) || watermark.done() >= starts()).await;
        }
    }

    /// Waits until the record before the ordinal `end` may be delivered. Cancel safe.
    pub(crate) async fn room_for(&self, end: u64) {
        if !lock(&self.watermark).room_for(end) {
            let _held = HeldByLimit::new(&self.is_held_by_limit);
            self.until(|watermark| watermark.room_for(end)).await;
        }
    }

    /// Waits until all records that were read are acknowledged. Cancel safe.
    pub(crate) async fn drained(&self) {
        self.until(Watermark::is_drained).await;
    }

    /// Waits until no delivery of the shard is in flight, whether acknowledged or not. Cancel safe.
    pub(crate) async fn returned(&self) {
        self.until(|_| self.out.load(Ordering::Acquire) == 0).await;
    }

    /// Counts a delivery as in flight. It is called under the outbox's lock, so that a call that removes the lane sees
    /// it.
    pub(super) fn handed_out(&self) {
        self.out.fetch_add(1, Ordering::AcqRel);
    }

    /// Counts a delivery as no longer in flight: the host has settled or dropped it.
    pub(super) fn settled(&self) {
        self.out.fetch_sub(1, Ordering::AcqRel);
        self.moved.notify_waiters();
    }

    async fn until(&self, mut holds: impl FnMut(&Watermark<Tracked>) -> bool) {
        loop {
            let moved = self.moved.notified();
            let mut moved = std::pin::pin!(moved);
            // The waiter is registered before the check, so that an ack in between is not missed.
            moved.as_mut().enable();
            if holds(&lock(&self.watermark)) {
                return;
            }
            moved.await;
        }
    }

    /// Returns the position that may be stored, and how many records are acknowledged before it.
    pub(crate) fn checkpoint(&self) -> (Option<Checkpoint>, u64) {
        let watermark = lock(&self.watermark);
        (watermark.checkpoint(), watermark.done())
    }

    /// Whether acks still count.
    pub(crate) fn is_live(&self) -> bool {
        self.ownership.counts_acks()
    }
}

/// A wait for `checkpoint_limit`, which ends when this is dropped.
struct HeldByLimit<'a>(&'a AtomicBool);

impl<'a> HeldByLimit<'a> {
    fn new(is_held: &'a AtomicBool) -> Self {
        is_held.store(true, Ordering::Release);
        Self(is_held)
    }
}

impl Drop for HeldByLimit<'_> {
    fn drop(&mut self) {
        self.0.store(false, Ordering::Release);
    }
}

impl ObservedShard for Progress {
    fn names(&self) -> &ShardNames {
        &self.names
    }

    fn acked_through(&self) -> u64 {
        self.checkpoint().1
    }

    fn is_live(&self) -> bool {
        self.is_live()
    }

    fn is_held_by_limit(&self) -> bool {
        self.is_held_by_limit.load(Ordering::Acquire)
    }

    fn lag(&self, now: Instant, wall: i64) -> Duration {
        let oldest = lock(&self.watermark).oldest();
        let unacked = oldest.map_or(Duration::ZERO, |oldest| match oldest.arrived {
            Some(arrived) => Duration::from_millis(u64::try_from(wall.saturating_sub(arrived)).unwrap_or_default()),
            None => now.saturating_duration_since(oldest.tracked_at),
        });
        unacked.max(self.meter.unread(now))
    }

    fn report(&self, now: Instant, wall: i64) -> ShardReport {
        let (position, pending) = {
            let watermark = lock(&self.watermark);
            (watermark.checkpoint().and_then(|checkpoint| checkpoint.position().cloned()), watermark.pending())
        };
        ShardReport {
            is_reading: self.ownership.phase() == Phase::Reading,
            position,
            lag: self.lag(now, wall),
            pending_records: pending,
            is_held_by_limit: self.is_held_by_limit(),
            ..self.meter.report(now)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::delivery::redelivery::RedeliveryPolicy;
    use crate::model::Stream;
    use crate::reading::wire::Event;

    const EVENTS: u64 = 300;

    #[test]
    fn records_acked_above_a_gap_are_freed() {
        let names = Arc::new(ShardNames { stream: Stream::new("orders", "arn:orders"), shard: "s".into() });
        let progress = Progress::new(Arc::clone(&names), u64::MAX, RedeliveryPolicy::UNTIL_ACCEPTED);
        let event = |number: u64| {
            let json = format!(r#"{{"Records":[{{"SequenceNumber":"{number}","Data":""}}]}}"#);
            let table = Arc::new(RecordTable::new(&names, Event::parse(json.as_bytes()).unwrap().rows));
            (progress.track(&table, SequenceNumber::new(&number.to_string()).unwrap()), table)
        };
        let (first, _out) = event(1);
        let (second, acked) = event(2);
        let memory = Arc::downgrade(&acked);
        drop(acked);
        progress.ack(second..second + 1);
        // Its space in the pool has been returned, so its records must be freed too.
        assert!(memory.upgrade().is_none());
        progress.ack(first..first + 1);
        assert_eq!(progress.checkpoint().0.unwrap().position().unwrap().as_str(), "2");
    }

    /// Several threads ack events in any order, while one thread reads the position that may be stored.
    #[test]
    fn concurrent_acks() {
        let names = Arc::new(ShardNames { stream: Stream::new("orders", "arn:orders"), shard: "s".into() });
        let progress = Arc::new(Progress::new(Arc::clone(&names), u64::MAX, RedeliveryPolicy::UNTIL_ACCEPTED));
        let starts: Vec<u64> = (1..=EVENTS)
            .map(|number| {
                let json = format!(r#"{{"Records":[{{"SequenceNumber":"{number}","Data":""}}]}}"#);
                let rows = Event::parse(json.as_bytes()).unwrap().rows;
                let table = Arc::new(RecordTable::new(&names, rows));
                progress.track(&table, SequenceNumber::new(&number.to_string()).unwrap())
            })
            .collect();
        let acked: Vec<AtomicBool> = (0..EVENTS).map(|_| AtomicBool::new(false)).collect();
        std::thread::scope(|scope| {
            for thread in 0..4 {
                let (progress, acked, starts) = (&progress, &acked, &starts);
                scope.spawn(move || {
                    let mut mine: Vec<usize> = (0..EVENTS as usize).filter(|at| at % 4 == thread).collect();
                    fastrand::shuffle(&mut mine);
                    for at in mine {
                        acked[at].store(true, Ordering::SeqCst);
                        progress.ack(starts[at]..starts[at] + 1);
                        std::thread::yield_now();
                    }
                });
            }
            let mut last = 0;
            while last < EVENTS {
                let (place, _) = progress.checkpoint();
                let stored: u64 = place.map_or(0, |place| place.position().unwrap().as_str().parse().unwrap());
                assert!(stored >= last, "moved back from {last} to {stored}");
                assert!(
                    acked[..stored as usize].iter().all(|acked| acked.load(Ordering::SeqCst)),
                    "passed an unacked record"
                );
                last = stored;
            }
        });
    }
}
