//! Which delivery goes to the host next?
//!
//! This module is pure. Each shard has a lane. Within a lane, redeliveries come before new deliveries, and the lanes
//! take turns, within a batch and from one batch to the next. A batch takes as many deliveries as are ready, up to what
//! the host asked for. At most `message_buffer_cap` new deliveries are buffered in the lanes; further deliveries wait with the
//! tasks that read them. With a cap of zero every delivery is handed over directly from a waiting task.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use pipeline_plugin_api::Demand;
use tokio::sync::oneshot;
use tokio::time::Instant;

use super::{Deliveries, Delivery};
use crate::model::ShardNames;

/// How long a delivery is kept back after its first nack, so that a host that nacks everything doesn't cause a busy
/// loop. The time doubles with each further nack.
const FIRST_REDELIVERY_BACKOFF: Duration = Duration::from_millis(1);
/// The longest time that a delivery is kept back.
const LONGEST_REDELIVERY_BACKOFF: Duration = Duration::from_secs(1);
/// After this many nacks a delivery is a batch of its own. An output that refuses whole batches because of one record
/// would otherwise hold up every shard that shares them. The first nack changes nothing, because an output that fails as
/// a whole is no reason for small batches.
const ALONE_AFTER_NACKS: u32 = 2;

/// The id of a lane: the address of the shard's names, which exist as long as the shard is read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct LaneId(usize);

impl LaneId {
    pub(super) fn of(names: &Arc<ShardNames>) -> Self {
        Self(Arc::as_ptr(names) as usize)
    }
}

/// The lanes of all shards that are read.
#[derive(Debug)]
pub(super) struct Lanes {
    /// How many new deliveries may be buffered.
    cap: usize,
    /// How many new deliveries are in all lanes together.
    buffered: usize,
    by_shard: HashMap<LaneId, Lane>,
    /// The lanes that are not empty, in the order in which they are served. Each lane is listed once.
    turns: VecDeque<LaneId>,
    /// The deliveries that wait for room with the tasks that read them, at most one for each shard.
    waiters: VecDeque<Waiter>,
    /// How many deliveries the host has and has not settled.
    in_flight: usize,
    /// Whether the outbox is closed. It is set once, and nothing is delivered afterwards.
    closed: bool,
}

/// The deliveries of one shard.
#[derive(Debug, Default)]
pub(super) struct Lane {
    /// The deliveries that were nacked, by the ordinal of their first record.
    redeliveries: BTreeMap<u64, Delivery>,
    /// The new deliveries, in order.
    fresh: VecDeque<Delivery>,
    /// The earliest time for the next delivery of the lane, after a nack.
    retry_at: Option<Instant>,
    /// Whether the lane is listed in `turns`.
    has_turn: bool,
}

/// A delivery whose task waits until it is accepted.
#[derive(Debug)]
pub(super) struct Waiter {
    lane: LaneId,
    delivery: Delivery,
    accepted: oneshot::Sender<()>,
}

/// The result of a request for the next delivery.
#[derive(Debug)]
pub(super) enum Next {
    Ready(Deliveries),
    /// Nothing is ready now. The time says when a redelivery will be ready, if there is one.
    Later(Option<Instant>),
    Closed,
}

/// The error that the outbox is closed: nothing is delivered any more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Closed;

impl Lanes {
    /// Makes lanes that buffer at most `cap` new deliveries.
    pub(super) fn new(cap: usize) -> Self {
        Self {
            cap,
            buffered: 0,
            by_shard: HashMap::new(),
            turns: VecDeque::new(),
            waiters: VecDeque::new(),
            in_flight: 0,
            closed: false,
        }
    }

    /// Opens an empty lane.
    pub(super) fn open(&mut self, id: LaneId) {
        self.by_shard.insert(id, Lane::default());
    }

    pub(super) fn is_closed(&self) -> bool {
        self.closed
    }

    /// Whether any delivery is left, ready or not.
    pub(super) fn has_more(&self) -> bool {
        !self.turns.is_empty() || !self.waiters.is_empty()
    }

    /// How many deliveries the host has and has not settled.
    pub(super) fn in_flight(&self) -> usize {
        self.in_flight
    }

    /// Counts a delivery as returned: the host has settled or dropped it.
    pub(super) fn returned(&mut self) {
        self.in_flight -= 1;
    }

    /// Adds a delivery behind all others. The returned channel says when it is accepted.
    pub(super) fn push(&mut self, id: LaneId, delivery: Delivery) -> Result<oneshot::Receiver<()>, Closed> {
        if self.closed {
            return Err(Closed);
        }
        let (sender, accepted) = oneshot::channel();
        self.waiters.push_back(Waiter { lane: id, delivery, accepted: sender });
        self.accept();
        Ok(accepted)
    }

    /// Withdraws the delivery that waits for room in a lane, if there is one.
    pub(super) fn withdraw(&mut self, id: LaneId) -> Option<Waiter> {
        let at = self.waiters.iter().position(|waiting| waiting.lane == id)?;
        self.waiters.remove(at)
    }

    /// Keeps a nacked delivery back for a while, before all newer deliveries of its shard. Returns the delivery if its
    /// lane is gone.
    pub(super) fn redeliver(&mut self, delivery: Delivery, now: Instant) -> Option<Delivery> {
        let id = LaneId::of(delivery.names());
        let Some(lane) = self.by_shard.get_mut(&id) else { return Some(delivery) };
        let backoff = FIRST_REDELIVERY_BACKOFF.saturating_mul(1 << (delivery.nacks().clamp(1, 16) - 1));
        let until = now + backoff.min(LONGEST_REDELIVERY_BACKOFF);
        lane.retry_at = Some(lane.retry_at.map_or(until, |other| other.max(until)));
        lane.redeliveries.insert(delivery.first_ordinal(), delivery);
        self.give_turn(id);
        None
    }

    /// Removes a lane. Returns its contents, so that their space in the pool is returned outside any lock.
    pub(super) fn remove(&mut self, id: LaneId) -> Option<Lane> {
        let lane = self.by_shard.remove(&id)?;
        self.buffered -= lane.fresh.len();
        self.turns.retain(|other| *other != id);
        self.accept();
        Some(lane)
    }

    /// Stops all delivery. Returns the contents of the lanes, so that their space in the pool is returned outside any
    /// lock.
    pub(super) fn close(&mut self) -> (impl Sized + use<>, impl Sized + use<>) {
        self.closed = true;
        self.buffered = 0;
        self.turns.clear();
        (std::mem::take(&mut self.by_shard), std::mem::take(&mut self.waiters))
    }

    /// Takes what is ready, up to the demand. Each delivery counts as in flight from here on.
    pub(super) fn take(&mut self, demand: &Demand, now: Instant) -> Next {
        if self.closed {
            return Next::Closed;
        }
        let mut batch = Taking::new(demand);
        let earliest = self.take_from_lanes(&mut batch, now);
        self.take_from_waiters(&mut batch);
        match batch.taken {
            Some(taken) => {
                self.in_flight += taken.len();
                Next::Ready(taken)
            }
            None => Next::Later(earliest),
        }
    }

    /// Takes deliveries from the lanes in turn. Returns when the first of the lanes that are kept back is ready.
    fn take_from_lanes(&mut self, batch: &mut Taking, now: Instant) -> Option<Instant> {
        let mut earliest: Option<Instant> = None;
        // The lanes that are kept back gather behind the others.
        let mut kept_back = 0;
        while kept_back < self.turns.len() && !batch.is_full {
            let Some(id) = self.turns.pop_front() else { break };
            let Some(lane) = self.by_shard.get_mut(&id) else { continue };
            if let Some(until) = lane.retry_at.filter(|until| *until > now) {
                earliest = Some(earliest.map_or(until, |other| other.min(until)));
                self.turns.push_back(id);
                kept_back += 1;
                continue;
            }
            lane.retry_at = None;
            match lane.take(batch) {
                // Its delivery comes first in the next batch.
                Took::Nothing => self.turns.push_front(id),
                Took::Some { used_up_fresh } => {
                    if lane.is_empty() {
                        lane.has_turn = false;
                    } else {
                        self.turns.push_back(id);
                    }
                    if used_up_fresh {
                        self.buffered -= 1;
                        self.accept();
                    }
                }
            }
        }
        earliest
    }

    /// Takes deliveries directly from the waiters, unless their lanes still have older ones.
    fn take_from_waiters(&mut self, batch: &mut Taking) {
        while !batch.is_full {
            let is_free = |waiting: &Waiter| self.by_shard.get(&waiting.lane).is_some_and(Lane::is_empty);
            let free = self.waiters.iter().position(is_free);
            let Some(mut waiting) = free.and_then(|at| self.waiters.remove(at)) else { return };
            match batch.fits(&waiting.delivery) {
                0 => {
                    batch.is_full = true;
                    // Only its own lane could have become free meanwhile, so it loses no turn that is due.
                    self.waiters.push_front(waiting);
                    return;
                }
                count if count < waiting.delivery.len() => {
                    batch.put(waiting.delivery.split_first(count));
                    batch.is_full = true;
                    self.put_rest_back(waiting.lane, waiting.delivery);
                }
                _ => batch.put(waiting.delivery),
            }
            // The waiting task may be gone already, but then its lane would be gone too, and this would not be reached.
            let _ = waiting.accepted.send(());
        }
    }

    /// Puts the rest of a delivery that was larger than the demand first in its lane.
    fn put_rest_back(&mut self, id: LaneId, delivery: Delivery) {
        if let Some(lane) = self.by_shard.get_mut(&id) {
            lane.fresh.push_front(delivery);
            self.buffered += 1;
            self.give_turn(id);
        }
    }

    /// Moves waiting deliveries into the lanes while there is room.
    fn accept(&mut self) {
        while self.buffered < self.cap {
            let Some(waiting) = self.waiters.pop_front() else { return };
            if let Some(lane) = self.by_shard.get_mut(&waiting.lane) {
                lane.fresh.push_back(waiting.delivery);
                self.buffered += 1;
                self.give_turn(waiting.lane);
            }
            let _ = waiting.accepted.send(());
        }
    }

    fn give_turn(&mut self, id: LaneId) {
        if let Some(lane) = self.by_shard.get_mut(&id)
            && !lane.has_turn
        {
            lane.has_turn = true;
            self.turns.push_back(id);
        }
    }
}

impl Lane {
    fn is_empty(&self) -> bool {
        self.redeliveries.is_empty() && self.fresh.is_empty()
    }

    /// Adds as much of the first delivery to the batch as fits.
    fn take(&mut self, batch: &mut Taking) -> Took {
        if let Some(mut first) = self.redeliveries.first_entry() {
            return match batch.fits(first.get()) {
                0 => {
                    batch.is_full = true;
                    Took::Nothing
                }
                count if count < first.get().len() => {
                    batch.put(first.get_mut().split_first(count));
                    batch.is_full = true;
                    let rest = first.remove();
                    self.redeliveries.insert(rest.first_ordinal(), rest);
                    Took::Some { used_up_fresh: false }
                }
                _ => {
                    batch.put(first.remove());
                    Took::Some { used_up_fresh: false }
                }
            };
        }
        let Some(mut first) = self.fresh.pop_front() else { return Took::Some { used_up_fresh: false } };
        match batch.fits(&first) {
            0 => {
                batch.is_full = true;
                self.fresh.push_front(first);
                Took::Nothing
            }
            count if count < first.len() => {
                batch.put(first.split_first(count));
                batch.is_full = true;
                self.fresh.push_front(first);
                Took::Some { used_up_fresh: false }
            }
            _ => {
                batch.put(first);
                Took::Some { used_up_fresh: true }
            }
        }
    }
}

/// Whether anything was taken from a lane.
enum Took {
    /// The first delivery has to wait for the next batch.
    Nothing,
    /// A delivery was taken, or there was none. Room for a new delivery may have become free.
    Some { used_up_fresh: bool },
}

/// A batch that is being put together.
struct Taking {
    taken: Option<Deliveries>,
    /// How many more messages and bytes of payload may be taken.
    messages: usize,
    bytes: Option<u64>,
    /// Whether nothing more may be added.
    is_full: bool,
}

impl Taking {
    fn new(demand: &Demand) -> Self {
        Self { taken: None, messages: demand.max_messages.get(), bytes: demand.max_bytes, is_full: false }
    }

    /// How many records of a delivery may be added.
    fn fits(&self, delivery: &Delivery) -> usize {
        let is_first = self.taken.is_none();
        if delivery.nacks() >= ALONE_AFTER_NACKS && !is_first {
            return 0;
        }
        let count = delivery.len().min(self.messages);
        match self.bytes {
            None => count,
            // The first message comes however large it is.
            Some(bytes) => delivery.fitting(count, bytes).max(usize::from(is_first)),
        }
    }

    fn put(&mut self, delivery: Delivery) {
        self.messages -= delivery.len();
        if let Some(bytes) = &mut self.bytes {
            *bytes = bytes.saturating_sub(delivery.payload_bytes());
        }
        self.is_full |= self.messages == 0 || delivery.nacks() >= ALONE_AFTER_NACKS;
        // Under the outbox's lock, so that a call that removes the lane sees it.
        delivery.progress.handed_out();
        match &mut self.taken {
            None => self.taken = Some(Deliveries { first: delivery, more: Vec::new() }),
            Some(taken) => taken.more.push(delivery),
        }
    }
}
