//! When is a shard this worker's, and what ends when it no longer is?
//!
//! ```text
//!  claimed
//!     │
//!     ▼   requested, expired     acks were waited for        stored
//!  Reading ───────────────▶ Draining ───────────────▶ Releasing ─────▶ Gone
//!     │                        │                          │              ▲
//!     └────────────────────────┴── lost, recreated, ended ┴──────────────┘
//! ```
//!
//! However far a transition leads, its effects come in one order: first nothing more is read or delivered, then acks
//! no longer count, and only then the lease is given up.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::delivery::outbox::Outbox;
use crate::delivery::ownership::Phase;
use crate::delivery::progress::Progress;
use crate::lease::{Checkpoint, Commit, Lease, Release};
use crate::model::{SequenceNumber, ShardId, Stream, WorkerId};
use crate::telemetry;

/// A stream and a shard, by which owned shards are found.
pub(crate) type Key = (Stream, ShardId);

/// A shard whose lease this worker holds.
#[derive(Debug)]
pub(crate) struct OwnedShard {
    lease: Lease,
    progress: Arc<Progress>,
    /// The token that is canceled when the shard must not be read any more.
    stop: CancellationToken,
    outbox: Arc<Outbox>,
    /// The requester of the shard, if it was not alive at the last rebalance. Its request causes no further rebalance.
    pub(super) dead_requester: Option<WorkerId>,
    /// The last checkpoint that was stored.
    stored: Option<Checkpoint>,
    /// How many records were acknowledged at the last store.
    stored_done: u64,
    /// When the lease was last stored or renewed.
    stored_at: Instant,
}

/// The last state of a shard to store.
#[derive(Debug)]
pub(super) enum Last {
    /// The acknowledged position. The lease goes to the worker that requested the shard, or to none.
    Acked { to: Option<WorkerId> },
    /// The shard end, with the last position if any record of the shard was read.
    End(Option<SequenceNumber>),
}

/// A commit that is due, and what to note once it is stored.
#[derive(Debug)]
pub(super) struct Due {
    pub(super) key: Key,
    pub(super) epoch: u64,
    /// The checkpoint; `None` if the lease is only renewed.
    pub(super) checkpoint: Option<Checkpoint>,
    done: u64,
}

impl OwnedShard {
    /// Makes the state of a shard that was just claimed. `stop` is canceled when it must not be read any more.
    pub(crate) fn new(lease: Lease, progress: Arc<Progress>, stop: CancellationToken, outbox: Arc<Outbox>) -> Self {
        Self {
            lease,
            progress,
            stop,
            outbox,
            dead_requester: None,
            stored: None,
            stored_done: 0,
            stored_at: Instant::now(),
        }
    }

    pub(crate) fn key(&self) -> Key {
        (self.lease.stream.clone(), self.lease.shard.clone())
    }

    pub(super) fn progress(&self) -> &Arc<Progress> {
        &self.progress
    }

    pub(super) fn epoch(&self) -> u64 {
        self.lease.epoch
    }

    /// Whether this is the reading of its shard with this progress. A later reading, under its own lease, may have
    /// started after that one was given up.
    pub(super) fn is_of(&self, progress: &Progress) -> bool {
        std::ptr::eq(&raw const *self.progress, progress)
    }

    /// Whether the shard is read, and its lease is not being given up.
    pub(super) fn is_reading(&self) -> bool {
        self.progress.ownership.phase() == Phase::Reading
    }

    /// Stops the reading: nothing more of the shard is read or delivered. Returns whether it was read until now.
    pub(super) fn stop_reading(&self) -> bool {
        let was_reading = self.is_reading();
        self.enter(Phase::Draining);
        was_reading
    }

    /// Stops the reading because another worker asked for the shard. What was gathered for a batch is still delivered,
    /// until acks no longer count.
    pub(super) fn stop_reading_and_drain(&self) {
        if self.is_reading() {
            self.outbox.drain(&self.progress.names);
        }
        self.stop_reading();
    }

    /// The outbox, which may still hold records of the shard.
    pub(super) fn outbox(&self) -> &Arc<Outbox> {
        &self.outbox
    }

    /// Ends everything but the lease: later acks change nothing.
    pub(super) fn freeze(&self) {
        self.enter(Phase::Releasing);
    }

    /// Ends everything: the lease is released or lost. Only the progress is left, for what is still in flight.
    pub(super) fn revoke(self) -> Arc<Progress> {
        self.enter(Phase::Gone);
        self.progress
    }

    fn enter(&self, to: Phase) {
        let before = match self.progress.ownership.enter(to) {
            Ok(before) => before,
            Err(illegal) => {
                debug_assert!(false, "{illegal}");
                telemetry::illegal_transition(&self.lease.stream, &self.lease.shard, &illegal);
                return;
            }
        };
        if before == Phase::Reading && to > Phase::Reading {
            // Before the events are dropped that were not delivered whole.
            self.progress.keep_positions();
            self.stop.cancel();
        }
        if before <= Phase::Draining
            && to > before
            && !(to == Phase::Draining && self.outbox.drains(&self.progress.names))
        {
            self.outbox.forget(&self.progress.names);
        }
    }

    /// Makes a commit that only renews the lease.
    pub(super) fn renewal(&self) -> Commit {
        Commit::new(&self.lease, None)
    }

    /// Makes the commit that is due, if any: the position moved, or the lease has been idle for this long. Without
    /// `renews`, an idle lease is not stored unless its position moved.
    pub(super) fn due(&self, idle: Duration, renews: bool) -> Option<(Due, Commit)> {
        let (checkpoint, done) = self.progress.checkpoint();
        let moved = checkpoint.is_some() && checkpoint != self.stored;
        let old = self.stored_at.elapsed() >= idle;
        let renew = old && (moved || renews);
        let is_due = renew || moved && done > self.stored_done;
        if !is_due {
            return None;
        }
        let checkpoint = checkpoint.filter(|_| moved);
        let commit = Commit::new(&self.lease, checkpoint.clone());
        Some((Due { key: self.key(), epoch: self.lease.epoch, checkpoint, done }, commit))
    }

    /// Notes that a commit was stored.
    pub(super) fn stored(&mut self, due: Due) {
        self.stored = due.checkpoint.or(self.stored.take());
        self.stored_done = due.done;
        self.stored_at = Instant::now();
    }

    /// Makes the release of the lease with the last state of the shard.
    pub(super) fn release(&self, last: &Last) -> Release {
        match last {
            Last::Acked { to } => {
                let (checkpoint, _) = self.progress.checkpoint();
                Release::new(&self.lease, checkpoint, to.clone())
            }
            Last::End(position) => Release::new(&self.lease, Some(Checkpoint::ShardEnd(position.clone())), None),
        }
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt;
    use pipeline_plugin_api::Demand;

    use super::*;
    use crate::delivery::Delivery;
    use crate::delivery::redelivery::RedeliveryPolicy;
    use crate::lease::memory::MemoryStore;
    use crate::lease::validity::LeaseValidity;
    use crate::lease::{Claim, ClaimFrom, LeaseStore};
    use crate::model::ShardNames;
    use crate::pool::Pool;
    use crate::reading::wire::Event;
    use crate::records::RecordTable;

    const TEXT: &str = r#"{"Records":[{"SequenceNumber":"1","Data":""},{"SequenceNumber":"2","Data":""}]}"#;

    /// A transition ends all that comes before its phase, wherever it starts.
    #[tokio::test]
    async fn transition_ends_reading_then_acks_then_the_lease() {
        for (to, delivers, counts) in [
            (None, true, true),
            (Some(Phase::Draining), false, true),
            (Some(Phase::Releasing), false, false),
            (Some(Phase::Gone), false, false),
        ] {
            let store = MemoryStore::default();
            let stream = Stream::new("orders", "arn:orders");
            let Claim::Owned(lease, _) = store.claim(&stream, &"s".into(), ClaimFrom::Nobody).await.unwrap() else {
                panic!("the shard is free")
            };
            let names = Arc::new(ShardNames { stream, shard: "s".into() });
            let outbox = Arc::new(Outbox::new(64, Arc::new(LeaseValidity::unlimited())));
            let progress = Arc::new(Progress::new(Arc::clone(&names), 1000, RedeliveryPolicy::UNTIL_ACCEPTED));
            let stop = CancellationToken::new();
            let shard = OwnedShard::new(lease, Arc::clone(&progress), stop.clone(), Arc::clone(&outbox));

            let rows = Event::parse(TEXT.as_bytes()).unwrap().rows;
            let table = Arc::new(RecordTable::new(&names, rows));
            let base = progress.track(&table, SequenceNumber::new("2").unwrap());
            let pool = Pool::new(10, 1 << 20);
            let (records, bytes) = (pool.reserve_records(2).await, Arc::new(pool.reserve(1).await));
            let mut lane = outbox.lane(&names);
            lane.push(Delivery::new(&progress, &table, 0..2, base, records, &bytes)).await.unwrap();

            let was_reading = shard.is_reading();
            match to {
                None => {}
                Some(Phase::Draining) => assert!(shard.stop_reading()),
                Some(Phase::Releasing) => shard.freeze(),
                Some(_) => drop(shard.revoke()),
            }
            assert!(was_reading);
            assert_eq!(stop.is_cancelled(), !delivers, "{to:?}");
            let demand = Demand::new(1, Duration::ZERO);
            let delivered = outbox.next(demand).now_or_never().and_then(|next| next.unwrap()).is_some();
            assert_eq!(delivered, delivers, "{to:?}");
            progress.ack(base..base + 2);
            assert_eq!(progress.checkpoint().1, if counts { 2 } else { 0 }, "{to:?}");
        }
    }

    #[tokio::test]
    async fn ack_above_a_gap_counts_though_a_stop_drops_the_rest_of_its_event() {
        let store = MemoryStore::default();
        let stream = Stream::new("orders", "arn:orders");
        let Claim::Owned(lease, _) = store.claim(&stream, &"s".into(), ClaimFrom::Nobody).await.unwrap() else {
            panic!("the shard is free")
        };
        let names = Arc::new(ShardNames { stream, shard: "s".into() });
        let outbox = Arc::new(Outbox::new(64, Arc::new(LeaseValidity::unlimited())));
        let progress = Arc::new(Progress::new(Arc::clone(&names), 1000, RedeliveryPolicy::UNTIL_ACCEPTED));
        let shard = OwnedShard::new(lease, Arc::clone(&progress), CancellationToken::new(), outbox);
        let of = |text: &str| Arc::new(RecordTable::new(&names, Event::parse(text.as_bytes()).unwrap().rows));
        let (first, second) = (of(TEXT), of(&TEXT.replace(r#""1""#, r#""3""#).replace(r#""2""#, r#""4""#)));
        let gap = progress.track(&first, SequenceNumber::new("2").unwrap());
        let above = progress.track(&second, SequenceNumber::new("4").unwrap());
        progress.ack(above..above + 1);
        assert!(shard.stop_reading());
        // The second record of the event was never delivered, so nothing holds the event any more.
        drop(second);
        progress.ack(gap..gap + 2);
        let reached = Checkpoint::After(SequenceNumber::new("3").unwrap());
        assert_eq!(progress.checkpoint(), (Some(reached), 3));
    }
}
