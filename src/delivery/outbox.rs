//! How do deliveries get from the shard tasks to the host?
//!
//! The order of the deliveries is decided in [`lanes`](super::lanes). This module adds the lock and the waiting.

use std::sync::Arc;

use pipeline_plugin_api::{Demand, deadline};
use tokio::sync::Notify;
use tokio::time::Instant;

use super::lanes::{LaneId, Lanes, Next};
use super::{Deliveries, Delivery};
use crate::lease::validity::LeaseValidity;
use crate::model::ShardNames;
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
}

impl Outbox {
    /// Makes an outbox that buffers at most `cap` new deliveries. It delivers while the leases are valid.
    pub(crate) fn new(cap: usize, validity: Arc<LeaseValidity>) -> Self {
        Self { lanes: Mutex::new(Lanes::new(cap)), validity, ready: Notify::new(), returned: Notify::new() }
    }

    /// Opens the lane of a shard. The lane is removed, with everything in it, when the returned handle is dropped.
    pub(crate) fn lane(self: &Arc<Self>, names: &Arc<ShardNames>) -> LaneHandle {
        lock(&self.lanes).open(LaneId::of(names));
        LaneHandle { outbox: Arc::clone(self), names: Arc::clone(names) }
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
                Next::Closed => return Err(Closed),
                Next::Later(rested) => rested,
            };
            let until = watching.until.map_or(give_up, |until| until.min(give_up));
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

    /// Counts a delivery as returned: the host has settled or dropped it.
    pub(crate) fn returned(&self) {
        lock(&self.lanes).returned();
        self.returned.notify_waiters();
    }

    /// Waits until no delivery is in flight. Cancel safe.
    pub(crate) async fn all_returned(&self) {
        loop {
            let returned = self.returned.notified();
            let mut returned = std::pin::pin!(returned);
            returned.as_mut().enable();
            if lock(&self.lanes).in_flight() == 0 {
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
        let accepted = lock(&self.outbox.lanes).push(id, delivery)?;
        self.outbox.ready.notify_one();
        let waiting = WithdrawOnDrop { outbox: &self.outbox, lane: id };
        let outcome = accepted.await.map_err(|_| Closed);
        drop(waiting);
        outcome
    }
}

impl Drop for LaneHandle {
    fn drop(&mut self) {
        self.outbox.forget(&self.names);
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
