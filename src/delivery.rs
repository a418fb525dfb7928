//! What happens to records between the reader and the final ack?
//!
//! ```text
//! event ─▶ Delivery (waits in the outbox) ─▶ Outstanding (at the host) ─▶ acked: watermark moves, permits return
//!                    ▲                            │
//!                    └────────── nacked ──────────┘
//! ```
//!
//! A record's permits travel with it. Whatever drops a delivery, drops them.

use std::ops::Range;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;

use pipeline_plugin_api::{Batch, Receipt, Settle, Verdict, Verdicts};
use tokio::sync::Notify;
use tokio::time::Instant;

use crate::ack::{Oldest, Sequences, Watermark};
use crate::names::SequenceNumber;
use crate::outbox::Outbox;
use crate::pool::Permit;
use crate::record::{RecordTable, ShardNames};
use crate::sync::{Mutex, lock};
use crate::telemetry::ShardMeter;

/// The records of an event that was read.
#[derive(Debug)]
struct Tracked {
    table: Weak<RecordTable>,
    at: Instant,
}

impl Sequences for Tracked {
    fn sequence(&self, index: usize) -> Option<SequenceNumber> {
        self.table.upgrade()?.sequence(index)
    }

    fn oldest(&self, index: usize) -> Oldest {
        Oldest { arrived: self.table.upgrade().and_then(|table| table.arrival_millis(index)), tracked_at: self.at }
    }
}

/// How far a shard has got, shared by the one who reads it, those who ack it and the one who stores it.
#[derive(Debug)]
pub(crate) struct Progress {
    pub(crate) names: Arc<ShardNames>,
    pub(crate) meter: ShardMeter,
    watermark: Mutex<Watermark<Tracked>>,
    /// Signals every ack. The shard's task waits on it, for room or for the last ack.
    moved: Notify,
    /// Deliveries that the host has and has not settled.
    out: AtomicUsize,
    /// False once the shard is no longer ours: what is acked then must not move anything.
    live: AtomicBool,
    /// Whether a nack means "again" or "drop".
    replay_nacks: bool,
}

impl Progress {
    pub(crate) fn new(names: Arc<ShardNames>, checkpoint_limit: u64, replay_nacks: bool) -> Self {
        let meter = ShardMeter::new(&names);
        Self {
            names,
            meter,
            watermark: Mutex::new(Watermark::new(checkpoint_limit)),
            moved: Notify::new(),
            out: AtomicUsize::new(0),
            live: AtomicBool::new(true),
            replay_nacks,
        }
    }

    /// Takes the records of an event; returns the ordinal of the first.
    pub(crate) fn track(&self, table: &Arc<RecordTable>, continuation: SequenceNumber) -> u64 {
        let count = table.len() as u64;
        let records = Tracked { table: Arc::downgrade(table), at: Instant::now() };
        lock(&self.watermark).track(records, count, continuation).start
    }

    /// Counts records as done.
    pub(crate) fn ack(&self, ordinals: Range<u64>) {
        if self.is_live() {
            lock(&self.watermark).ack(ordinals);
            self.moved.notify_waiters();
        }
    }

    /// Waits until the record before ordinal `end` may be delivered. Cancel safe.
    pub(crate) async fn room_for(&self, end: u64) {
        self.until(|watermark| watermark.room_for(end)).await;
    }

    /// Waits until all that was delivered is done. Cancel safe.
    pub(crate) async fn drained(&self) {
        self.until(Watermark::is_drained).await;
    }

    /// Waits until the host has nothing of the shard, acked or not. Cancel safe.
    pub(crate) async fn returned(&self) {
        self.until(|_| self.out.load(Ordering::Acquire) == 0).await;
    }

    async fn until(&self, mut holds: impl FnMut(&Watermark<Tracked>) -> bool) {
        loop {
            let moved = self.moved.notified();
            let mut moved = std::pin::pin!(moved);
            // Registered before looking, so that an ack in between is not missed.
            moved.as_mut().enable();
            if holds(&lock(&self.watermark)) {
                return;
            }
            moved.await;
        }
    }

    /// The place that may be stored, and how many records are done before it.
    pub(crate) fn checkpoint(&self) -> (Option<SequenceNumber>, u64) {
        let watermark = lock(&self.watermark);
        (watermark.checkpoint(), watermark.done())
    }

    /// How long ago the oldest record arrived that is not acknowledged, or not read. `wall` is the time of day in
    /// milliseconds since 1970, by the clock of arrival times.
    pub(crate) fn lag(&self, now: Instant, wall: i64) -> Duration {
        let oldest = lock(&self.watermark).oldest();
        let unacked = oldest.map_or(Duration::ZERO, |oldest| match oldest.arrived {
            Some(arrived) => Duration::from_millis(u64::try_from(wall.saturating_sub(arrived)).unwrap_or_default()),
            None => now.saturating_duration_since(oldest.tracked_at),
        });
        unacked.max(self.meter.unread(now))
    }

    pub(crate) fn is_live(&self) -> bool {
        self.live.load(Ordering::Acquire)
    }

    /// The shard is no longer ours: later acks change nothing.
    pub(crate) fn retire(&self) {
        self.live.store(false, Ordering::Release);
    }
}

/// Records of one event that belong together until they are settled.
#[derive(Debug)]
pub(crate) struct Delivery {
    progress: Arc<Progress>,
    table: Arc<RecordTable>,
    /// Which of the event's records.
    rows: Range<usize>,
    /// The ordinal of the event's first record.
    base: u64,
    /// Space in the pool for these records.
    records: Permit,
    /// Space in the pool for the event's buffers, shared by all deliveries of the event.
    bytes: Arc<Permit>,
    /// How often it was nacked.
    nacks: u32,
}

impl Delivery {
    /// The records `rows` of `table`, whose first record has ordinal `base`.
    pub(crate) fn new(
        progress: &Arc<Progress>,
        table: &Arc<RecordTable>,
        rows: Range<usize>,
        base: u64,
        records: Permit,
        bytes: &Arc<Permit>,
    ) -> Self {
        debug_assert_eq!(records.amount(), rows.len() as u64);
        Self {
            progress: Arc::clone(progress),
            table: Arc::clone(table),
            rows,
            base,
            records,
            bytes: Arc::clone(bytes),
            nacks: 0,
        }
    }

    pub(crate) fn names(&self) -> &Arc<ShardNames> {
        &self.progress.names
    }

    pub(crate) fn len(&self) -> usize {
        self.rows.len()
    }

    /// The ordinal of its first record: its place among the deliveries of the shard.
    pub(crate) fn first_ordinal(&self) -> u64 {
        self.base + self.rows.start as u64
    }

    pub(crate) fn nacks(&self) -> u32 {
        self.nacks
    }

    fn ordinals(&self) -> Range<u64> {
        self.base + self.rows.start as u64..self.base + self.rows.end as u64
    }

    /// Cuts off the first `count` records.
    pub(crate) fn split_first(&mut self, count: usize) -> Self {
        let middle = self.rows.start + count.min(self.rows.len());
        let first = Self {
            progress: Arc::clone(&self.progress),
            table: Arc::clone(&self.table),
            rows: self.rows.start..middle,
            base: self.base,
            records: self.records.split((middle - self.rows.start) as u64),
            bytes: Arc::clone(&self.bytes),
            nacks: self.nacks,
        };
        self.rows.start = middle;
        first
    }

    /// It is on its way to the host. Said under the outbox's lock, so that whoever forgets the lane sees it.
    pub(crate) fn goes_out(&self) {
        self.progress.out.fetch_add(1, Ordering::AcqRel);
    }

    /// Hands it to the host, after [`goes_out`](Self::goes_out).
    pub(crate) fn into_batch(self, outbox: &Arc<Outbox>) -> Batch {
        let messages = self.table.messages(self.rows.clone());
        self.progress.meter.delivered(messages.len());
        let progress = Arc::clone(&self.progress);
        let outstanding = Outstanding { delivery: Some(self), progress, outbox: Arc::clone(outbox) };
        let receipt = Receipt::new(messages.len(), outstanding);
        Batch::new(messages, receipt)
    }

    /// All its records are done.
    fn acked(self) {
        self.progress.meter.acked(self.rows.len());
        self.progress.ack(self.ordinals());
    }

    /// None of its records is done.
    fn nacked(mut self, outbox: &Outbox) {
        let count = self.rows.len();
        self.progress.meter.nacked(count);
        if !self.progress.replay_nacks {
            self.progress.meter.dropped(&self.progress.names, count);
            self.progress.ack(self.ordinals());
        } else if self.progress.is_live() {
            self.nacks += 1;
            outbox.replay(self);
        }
    }
}

/// A delivery that the host has and has not settled.
#[derive(Debug)]
struct Outstanding {
    /// `None` once it is settled.
    delivery: Option<Delivery>,
    progress: Arc<Progress>,
    outbox: Arc<Outbox>,
}

impl Settle for Outstanding {
    fn settle(mut self: Box<Self>, verdicts: Verdicts) {
        let Some(delivery) = self.delivery.take() else { return };
        match verdicts {
            Verdicts::All(Verdict::Ack) => delivery.acked(),
            Verdicts::All(Verdict::Nack) => delivery.nacked(&self.outbox),
            Verdicts::Each(each) => settle_each(delivery, &each, &self.outbox),
        }
    }
}

impl Drop for Outstanding {
    fn drop(&mut self) {
        self.progress.out.fetch_sub(1, Ordering::AcqRel);
        self.progress.moved.notify_waiters();
        self.outbox.returned();
    }
}

/// Settles runs of the same verdict together.
fn settle_each(mut delivery: Delivery, verdicts: &[Verdict], outbox: &Outbox) {
    for run in verdicts.chunk_by(PartialEq::eq) {
        let part = delivery.split_first(run.len());
        match run[0] {
            Verdict::Ack => part.acked(),
            Verdict::Nack => part.nacked(outbox),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicBool;

    use super::*;
    use crate::efo::wire::Event;
    use crate::names::Stream;

    const EVENTS: u64 = 300;

    /// Many threads ack events in any order, one looks at what may be stored.
    #[test]
    fn what_is_acked_above_a_gap_is_not_kept() {
        let names = Arc::new(ShardNames { stream: Stream::new("orders", "arn:orders"), shard: "s".into() });
        let progress = Progress::new(Arc::clone(&names), u64::MAX, true);
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
        // Its space in the pool is given back, so its records have to be gone too.
        assert!(memory.upgrade().is_none());
        progress.ack(first..first + 1);
        assert_eq!(progress.checkpoint().0.unwrap().as_str(), "2");
    }

    #[test]
    fn concurrent_acks() {
        let names = Arc::new(ShardNames { stream: Stream::new("orders", "arn:orders"), shard: "s".into() });
        let progress = Arc::new(Progress::new(Arc::clone(&names), u64::MAX, true));
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
                let stored: u64 = place.map_or(0, |place| place.as_str().parse().unwrap());
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
