//! What happens to records between the reader and the final ack?
//!
//! ```text
//! event ─▶ Delivery (waits in the outbox) ─▶ InFlight (at the host) ─▶ acked: watermark moves, permits return
//!                    ▲                            │
//!                    └────────── nacked ──────────┘
//! ```
//!
//! A batch of the host holds any number of deliveries, of one shard or several. Each of them is settled by itself.
//!
//! The permits of the records are part of the delivery, so they are returned wherever the delivery is dropped.

pub(crate) mod batching;
pub(crate) mod in_flight;
mod lanes;
pub(crate) mod outbox;
#[cfg(test)]
mod outbox_tests;
pub(crate) mod ownership;
pub(crate) mod progress;
pub(crate) mod redelivery;
pub(crate) mod watermark;

use std::ops::Range;
use std::sync::Arc;

use tokio::time::Instant;

use crate::model::ShardNames;
use crate::pool::Permit;
use crate::records::RecordTable;

use progress::Progress;

/// A group of records of one event that stay together until they are settled.
#[derive(Debug)]
pub(crate) struct Delivery {
    progress: Arc<Progress>,
    table: Arc<RecordTable>,
    /// The records of the event that belong to this delivery, as indices.
    rows: Range<usize>,
    /// The ordinal of the event's first record.
    base: u64,
    /// The space in the pool for these records.
    records: Permit,
    /// The space in the pool for the event's buffers, shared by all deliveries of the event.
    bytes: Arc<Permit>,
    /// How often the delivery was nacked.
    nacks: u32,
    /// How many of the nacks count against its records.
    refusals: u32,
    /// When it was first handed out.
    delivered_at: Option<Instant>,
    /// Whether the delivery is the last of its batch. Without a batch policy each delivery is.
    ends_batch: bool,
}

impl Delivery {
    /// Makes a delivery of the records `rows` of `table`, whose first record has the ordinal `base`.
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
            refusals: 0,
            delivered_at: None,
            ends_batch: true,
        }
    }

    pub(crate) fn names(&self) -> &Arc<ShardNames> {
        &self.progress.names
    }

    pub(crate) fn len(&self) -> usize {
        self.rows.len()
    }

    /// The ordinal of its first record, which is its position among the deliveries of the shard.
    pub(crate) fn first_ordinal(&self) -> u64 {
        self.base + self.rows.start as u64
    }

    pub(crate) fn nacks(&self) -> u32 {
        self.nacks
    }

    /// The number of the delivery that comes next, from 1.
    fn attempt(&self) -> u32 {
        self.nacks.saturating_add(1)
    }

    fn ordinals(&self) -> Range<u64> {
        self.base + self.rows.start as u64..self.base + self.rows.end as u64
    }

    /// Splits off the first `count` records.
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
            refusals: self.refusals,
            delivered_at: self.delivered_at,
            ends_batch: self.ends_batch && count >= self.rows.len(),
        };
        self.rows.start = middle;
        first
    }

    /// Returns how many of the first `count` records have payloads of together at most `bytes`.
    fn fitting(&self, count: usize, bytes: u64) -> usize {
        let mut sum = 0;
        let sizes = self.table.payload_sizes(self.rows.start..self.rows.start + count);
        sizes
            .take_while(|size| {
                sum += *size as u64;
                sum <= bytes
            })
            .count()
    }

    /// Returns how many bytes the payloads have.
    fn payload_bytes(&self) -> u64 {
        self.table.payload_sizes(self.rows.clone()).map(|size| size as u64).sum()
    }
}

/// The deliveries of a batch: at least one. A batch of one needs no list.
#[derive(Debug)]
pub(crate) struct Deliveries {
    first: Delivery,
    more: Vec<Delivery>,
}

impl Deliveries {
    fn len(&self) -> usize {
        1 + self.more.len()
    }

    fn iter(&self) -> impl Iterator<Item = &Delivery> {
        std::iter::once(&self.first).chain(&self.more)
    }

    fn iter_mut(&mut self) -> impl Iterator<Item = &mut Delivery> {
        std::iter::once(&mut self.first).chain(&mut self.more)
    }
}
