//! How do deliveries get from the shard tasks to the host?
//!
//! The order of the deliveries is decided in [`lanes`](super::lanes). This module adds the lock and the waiting.

use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use pipeline_plugin_api::{Demand, deadline};
use tokio::sync::Notify;
use tokio::time::Instant;

use super::batching::BatchPolicy;
use super::lanes::{LaneId, Lanes, Next};
use super::{Deliveries, Delivery};
use crate::lease::validity::LeaseValidity;
use crate::model::ShardNames;
use crate::pool::Pool;
use crate::records::RecordTable;
use crate::sync::{Mutex, lock};

pub(crate) use super::lanes::Closed;

/// The deliveries that wait for the host.
#[derive(Debug)]
pub(crate) struct Outbox {
    lanes: Mutex<Lanes>,
    /// The validity of the leases. Nothing is delivered once they have expired, because another worker may own the
    /// shards. A process that was suspended notices it here, whatever it was doing.
    validity: Arc<LeaseValidity>,
    /// A signal to one reader that a delivery may be ready.
    ready: Notify,
    /// A signal that the host has settled or dropped a delivery.
    returned: Notify,
    /// How many readers wait, because nothing is ready.
    asking: AtomicUsize,
    /// The pool, if deliveries are gathered: nothing is gathered for longer while it lets nothing more in.
    pool: Option<Pool>,
}

impl Outbox {
    /// Makes an outbox that buffers at most `cap` new deliveries. It delivers while the leases are valid.
    pub(crate) fn new(cap: usize, validity: Arc<LeaseValidity>) -> Self {
        let lanes = Mutex::new(Lanes::new(cap, None));
        let (ready, returned) = (Notify::new(), Notify::new());
        Self { lanes, validity, ready, returned, asking: AtomicUsize::new(0), pool: None }
    }

    /// Makes an outbox that gathers batches for each shard, and buffers at most `cap` of them. It waits for nothing that
    /// the pool does not let in.
    pub(crate) fn gathering(cap: usize, policy: BatchPolicy, pool: &Pool, validity: Arc<LeaseValidity>) -> Arc<Self> {
        let lanes = Mutex::new(Lanes::new(cap, Some(policy)));
        let (ready, returned) = (Notify::new(), Notify::new());
        let (asking, pool_of_outbox) = (AtomicUsize::new(0), Some(pool.clone()));
        let outbox = Arc::new(Self { lanes, validity, ready, returned, asking, pool: pool_of_outbox });
        let gathering = Arc::downgrade(&outbox);
        pool.on_wait(move || {
            if let Some(outbox) = gathering.upgrade() {
                outbox.flush_all();
            }
        });
        outbox
    }

    /// Opens the lane of a shard. The lane is removed, with everything in it, when the returned handle is dropped.
    pub(crate) fn lane(self: &Arc<Self>, names: &Arc<ShardNames>) -> LaneHandle {
        lock(&self.lanes).open(LaneId::of(names), Instant::now());
        LaneHandle { outbox: Arc::clone(self), names: Arc::clone(names) }
    }

    fn flush(&self, id: LaneId) {
        let flushed = lock(&self.lanes).flush(id);
        if flushed {
            self.ready.notify_one();
        }
    }

    fn flush_all(&self) {
        let flushed = lock(&self.lanes).flush_all();
        if flushed {
            self.ready.notify_one();
        }
    }

    /// Waits for a delivery, and returns as many as are ready then, up to the demand; `None` if none comes in time. Each
    /// of them counts as in flight: the caller must hand it out, or call [`returned`](Self::returned).
    ///
    /// # Cancel safety
    ///
    /// A dropped call has taken nothing.
    pub(crate) async fn next(self: &Arc<Self>, demand: Demand) -> Result<Option<Deliveries>, Closed> {
        let give_up = deadline(demand.max_wait);
        let mut watching = WakeAnotherOnDrop { outbox: self, until: None };
        loop {
            let ready = self.ready.notified();
            let mut ready = std::pin::pin!(ready);
            // The reader is registered before the check, so that no delivery in between is missed.
            ready.as_mut().enable();
            watching.until = match self.try_next(&demand) {
                Next::Ready(deliveries) => {
                    // If there is more, `try_next` has woken another reader.
                    watching.until = None;
                    return Ok(Some(deliveries));
                }
                Next::Closed => {
                    // After a drain nothing else wakes the readers that still wait.
                    self.ready.notify_one();
                    return Err(Closed);
                }
                Next::Later(rested) => rested,
            };
            let until = watching.until.map_or(give_up, |until| until.min(give_up));
            let _asking = Asking::new(&self.asking);
            tokio::select! {
                biased;
                () = ready => {}
                () = tokio::time::sleep_until(until) => {
                    if Instant::now() >= give_up {
                        return Ok(None);
                    }
                }
            }
        }
    }

    /// Whether a host waits for a delivery.
    pub(crate) fn is_asked(&self) -> bool {
        self.asking.load(Ordering::Acquire) > 0
    }

    fn try_next(&self, demand: &Demand) -> Next {
        let mut lanes = lock(&self.lanes);
        if self.validity.is_expired() && !lanes.is_closed() {
            // The expiry is about to remove all lanes, which wakes the waiting readers.
            return Next::Later(None);
        }
        let next = lanes.take(demand, Instant::now());
        if lanes.has_more() && matches!(next, Next::Ready(_)) {
            // Another reader may take it. A reader that found nothing wakes no other, because it would wake itself
            // again.
            self.ready.notify_one();
        }
        next
    }

    /// Takes back nacked deliveries, all at once. They come before all newer deliveries of their shards.
    pub(crate) fn redeliver(&self, deliveries: Vec<Delivery>) {
        if deliveries.is_empty() {
            return;
        }
        let now = Instant::now();
        let refused: Vec<Delivery> = {
            let mut lanes = lock(&self.lanes);
            deliveries.into_iter().filter_map(|delivery| lanes.redeliver(delivery, now)).collect()
        };
        // Deliveries whose lanes are gone are dropped outside the lock, which returns their permits.
        drop(refused);
        self.ready.notify_one();
    }

    /// Removes the lane of a shard and everything in it. When this returns, none of it is delivered any more.
    pub(crate) fn forget(&self, names: &Arc<ShardNames>) {
        let forgotten = lock(&self.lanes).remove(LaneId::of(names));
        drop(forgotten);
        self.ready.notify_one();
    }

    /// Lets nothing more into the lane of a shard that is about to be handed over, but delivers what was gathered. Without
    /// a batch policy the lane is removed.
    pub(crate) fn drain(&self, names: &Arc<ShardNames>) {
        let drains = lock(&self.lanes).drain(LaneId::of(names));
        if drains {
            self.ready.notify_one();
        } else {
            self.forget(names);
        }
    }

    /// Lets nothing more into any lane, but delivers what was gathered; then the outbox counts as closed. Returns whether
    /// there is anything to deliver. Does nothing without a batch policy.
    pub(crate) fn drain_all(&self) -> bool {
        let drains = lock(&self.lanes).drain_all();
        if drains {
            self.ready.notify_one();
        }
        drains
    }

    /// Whether nothing more is let in.
    pub(crate) fn is_draining(&self) -> bool {
        lock(&self.lanes).is_draining()
    }

    /// Whether the lane of a shard drains.
    pub(crate) fn drains(&self, names: &Arc<ShardNames>) -> bool {
        lock(&self.lanes).drains(LaneId::of(names))
    }

    /// Waits until nothing of a shard is left to deliver. Cancel safe.
    pub(crate) async fn drained(&self, names: &Arc<ShardNames>) {
        self.until(|lanes| lanes.is_drained(LaneId::of(names))).await;
    }

    /// Counts a delivery as returned: the host has settled or dropped it.
    pub(crate) fn returned(&self) {
        lock(&self.lanes).returned();
        self.returned.notify_waiters();
    }

    /// Waits until no delivery is in flight. Cancel safe.
    pub(crate) async fn all_returned(&self) {
        self.until(|lanes| lanes.in_flight() == 0).await;
    }

    /// Waits until this holds, which it can after a delivery was returned.
    async fn until(&self, holds: impl Fn(&Lanes) -> bool) {
        loop {
            let returned = self.returned.notified();
            let mut returned = std::pin::pin!(returned);
            returned.as_mut().enable();
            if holds(&lock(&self.lanes)) {
                return;
            }
            returned.await;
        }
    }

    /// Closes the outbox: nothing is delivered any more, and everything in the lanes is dropped.
    pub(crate) fn close(&self) {
        let forgotten = lock(&self.lanes).close();
        drop(forgotten);
        // Every reader must see that the outbox is closed, including readers that come later.
        self.ready.notify_waiters();
        self.ready.notify_one();
    }
}

/// A reader that waits. It no longer does when this is dropped.
struct Asking<'a>(&'a AtomicUsize);

impl<'a> Asking<'a> {
    fn new(asking: &'a AtomicUsize) -> Self {
        asking.fetch_add(1, Ordering::AcqRel);
        Self(asking)
    }
}

impl Drop for Asking<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::AcqRel);
    }
}

/// A guard of a reader that waits until a nacked delivery may be delivered again. Only one of several readers was woken
/// for that delivery, so when this reader gives up or is dropped, the guard wakes another.
struct WakeAnotherOnDrop<'a> {
    outbox: &'a Outbox,
    until: Option<Instant>,
}

impl Drop for WakeAnotherOnDrop<'_> {
    fn drop(&mut self) {
        if self.until.is_some() {
            self.outbox.ready.notify_one();
        }
    }
}

/// The handle with which a shard task adds deliveries to the outbox. Dropping it removes the lane and everything in it.
#[derive(Debug)]
pub(crate) struct LaneHandle {
    outbox: Arc<Outbox>,
    names: Arc<ShardNames>,
}

impl LaneHandle {
    /// Adds a delivery behind those of its shard, and waits until it is accepted.
    ///
    /// # Cancel safety
    ///
    /// A dropped call has added nothing, or the whole delivery.
    pub(crate) async fn push(&mut self, delivery: Delivery) -> Result<(), Closed> {
        let id = LaneId::of(&self.names);
        let pushed = lock(&self.outbox.lanes).push(id, delivery, Instant::now())?;
        if pushed.wakes {
            self.outbox.ready.notify_one();
        }
        // A wait for the pool that began before flushed only what was gathered by then.
        if self.outbox.pool.as_ref().is_some_and(Pool::has_waiters) {
            self.outbox.flush(id);
        }
        let waiting = WithdrawOnDrop { outbox: &self.outbox, lane: id };
        let outcome = pushed.accepted.await.map_err(|_| Closed);
        drop(waiting);
        outcome
    }

    /// Returns how many of these records belong to the batch that is gathered: all, or up to the one that completes it.
    pub(crate) fn room(&self, table: &RecordTable, rows: Range<usize>) -> usize {
        if !self.gathers() {
            return rows.len();
        }
        let lanes = lock(&self.outbox.lanes);
        if lanes.policy().is_some_and(BatchPolicy::weighs) {
            lanes.room(LaneId::of(&self.names), table.payload_sizes(rows).map(|size| size as u64))
        } else {
            lanes.room(LaneId::of(&self.names), rows.map(|_| 0))
        }
    }

    /// Whether batches are gathered.
    pub(crate) fn gathers(&self) -> bool {
        self.outbox.pool.is_some()
    }

    /// Returns the ordinal of the first record that is gathered, if there is any.
    pub(crate) fn gathered_from(&self) -> Option<u64> {
        lock(&self.outbox.lanes).gathered_from(LaneId::of(&self.names))
    }

    /// Delivers what was gathered, because nothing more can be added.
    pub(crate) fn flush(&self) {
        if self.gathers() {
            self.outbox.flush(LaneId::of(&self.names));
        }
    }
}

impl Drop for LaneHandle {
    fn drop(&mut self) {
        // A lane that drains is removed when its shard is handed over.
        if !self.outbox.drains(&self.names) {
            self.outbox.forget(&self.names);
        }
    }
}

/// A guard that withdraws a waiting delivery when the task that waits with it is dropped.
struct WithdrawOnDrop<'a> {
    outbox: &'a Outbox,
    lane: LaneId,
}

impl Drop for WithdrawOnDrop<'_> {
    fn drop(&mut self) {
        let forgotten = lock(&self.outbox.lanes).withdraw(self.lane);
        drop(forgotten);
    }
}
