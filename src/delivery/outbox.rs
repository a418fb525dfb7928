//! How do deliveries get from the shards' tasks to the host?
//!
//! Which delivery comes next is decided in [`lanes`](super::lanes). This is the lock around it, and the waiting.

use std::sync::Arc;

use pipeline_plugin_api::{Demand, deadline};
use tokio::sync::Notify;
use tokio::time::Instant;

use super::Delivery;
use super::lanes::{LaneId, Lanes, Next};
use crate::lease::validity::LeaseValidity;
use crate::model::ShardNames;
use crate::sync::{Mutex, lock};

pub(crate) use super::lanes::Closed;

/// Deliveries on their way to the host.
#[derive(Debug)]
pub(crate) struct Outbox {
    lanes: Mutex<Lanes>,
    /// Nothing is delivered that may be someone else's by now. A process that slept finds out here, whatever it was at.
    validity: Arc<LeaseValidity>,
    /// Signals one reader that something may be ready.
    ready: Notify,
    /// Signals that a delivery came back from the host.
    returned: Notify,
}

impl Outbox {
    /// An outbox in which at most `cap` new deliveries wait. It delivers while our leases are good.
    pub(crate) fn new(cap: usize, validity: Arc<LeaseValidity>) -> Self {
        Self { lanes: Mutex::new(Lanes::new(cap)), validity, ready: Notify::new(), returned: Notify::new() }
    }

    /// Opens the lane of a shard. It is gone when the returned value is dropped, with all that waits in it.
    pub(crate) fn lane(self: &Arc<Self>, names: &Arc<ShardNames>) -> LaneHandle {
        lock(&self.lanes).open(LaneId::of(names));
        LaneHandle { outbox: Arc::clone(self), names: Arc::clone(names) }
    }

    /// Waits for the next delivery, and returns at most `demand.max_messages` records of it; `None` when none comes in time.
    /// It counts as in flight: the caller hands it out, or calls [`returned`](Self::returned).
    ///
    /// # Cancel safety
    ///
    /// A dropped call has taken nothing.
    pub(crate) async fn next(self: &Arc<Self>, demand: Demand) -> Result<Option<Delivery>, Closed> {
        let give_up = deadline(demand.max_wait);
        let mut watching = WakeAnotherOnDrop { outbox: self, until: None };
        loop {
            let ready = self.ready.notified();
            let mut ready = std::pin::pin!(ready);
            // In the queue before the look, so that nothing slips in between.
            ready.as_mut().enable();
            watching.until = match self.try_next(demand.max_messages.get()) {
                Next::Ready(delivery) => {
                    // The look has woken another reader if there is more.
                    watching.until = None;
                    return Ok(Some(delivery));
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

    fn try_next(&self, max: usize) -> Next {
        let mut lanes = lock(&self.lanes);
        if self.validity.is_expired() && !lanes.is_closed() {
            // The keeper is about to have it all forgotten, which wakes who waits.
            return Next::Later(None);
        }
        let next = lanes.take(max, Instant::now());
        if lanes.has_more() && matches!(next, Next::Ready(_)) {
            // Another reader may take it. Who found nothing wakes nobody, least of all himself.
            self.ready.notify_one();
        }
        next
    }

    /// Takes back what the host refused. It comes before anything newer of its shard.
    pub(crate) fn redeliver(&self, delivery: Delivery) {
        let refused = lock(&self.lanes).redeliver(delivery, Instant::now());
        // Its permits go back outside the lock.
        drop(refused);
        self.ready.notify_one();
    }

    /// Forgets the lane of a shard, with all that waits in it. When this returns, nothing of it goes out any more.
    pub(crate) fn forget(&self, names: &Arc<ShardNames>) {
        let forgotten = lock(&self.lanes).remove(LaneId::of(names));
        drop(forgotten);
        self.ready.notify_one();
    }

    /// One delivery came back from the host, settled or not.
    pub(crate) fn returned(&self) {
        lock(&self.lanes).returned();
        self.returned.notify_waiters();
    }

    /// Waits until no delivery is at the host. Cancel safe.
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

    /// Delivers nothing any more and forgets what waits.
    pub(crate) fn close(&self) {
        let forgotten = lock(&self.lanes).close();
        drop(forgotten);
        // Every reader has to see it, those who come later too.
        self.ready.notify_waiters();
        self.ready.notify_one();
    }
}

/// A reader that knows until when a nacked delivery rests. Of several readers one was woken for it, so when it gives up or is
/// dropped, another one has to look.
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

/// The right to put deliveries of one shard into the outbox. Dropping it forgets what waits in the lane.
#[derive(Debug)]
pub(crate) struct LaneHandle {
    outbox: Arc<Outbox>,
    names: Arc<ShardNames>,
}

impl LaneHandle {
    /// Puts a delivery behind those of its shard; waits for room.
    ///
    /// # Cancel safety
    ///
    /// A dropped call has put nothing, or all of it.
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

/// Takes a delivery out of the line when the task that waits with it goes.
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
