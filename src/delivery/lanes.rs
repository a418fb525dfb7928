//! Which delivery goes to the host next?
//!
//! This module is pure. Each shard has a lane. Within a lane, redeliveries come before new deliveries, and the lanes
//! take turns. At most `message_buffer_cap` new deliveries are buffered in the lanes; further deliveries wait with the
//! tasks that read them. With a cap of zero every delivery is handed over directly from a waiting task.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::oneshot;
use tokio::time::Instant;

use super::Delivery;
use crate::model::ShardNames;

/// How long a delivery is kept back after its first nack, so that a host that nacks everything doesn't cause a busy
/// loop. The time doubles with each further nack.
const FIRST_REDELIVERY_BACKOFF: Duration = Duration::from_millis(1);
/// The longest time that a delivery is kept back.
const LONGEST_REDELIVERY_BACKOFF: Duration = Duration::from_secs(1);

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
    Ready(Delivery),
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

    /// Takes the next delivery, with at most `max` records. It counts as in flight from here on.
    pub(super) fn take(&mut self, max: usize, now: Instant) -> Next {
        if self.closed {
            return Next::Closed;
        }
        let mut earliest: Option<Instant> = None;
        for _ in 0..self.turns.len() {
            let Some(id) = self.turns.pop_front() else { break };
            let Some(lane) = self.by_shard.get_mut(&id) else { continue };
            if let Some(until) = lane.retry_at.filter(|until| *until > now) {
                earliest = Some(earliest.map_or(until, |other| other.min(until)));
                self.turns.push_back(id);
                continue;
            }
            lane.retry_at = None;
            let (taken, used_up_fresh) = lane.take(max);
            if lane.is_empty() {
                lane.has_turn = false;
            } else {
                self.turns.push_back(id);
            }
            if used_up_fresh {
                self.buffered -= 1;
                self.accept();
            }
            if let Some(delivery) = taken {
                delivery.handed_out();
                self.in_flight += 1;
                return Next::Ready(delivery);
            }
        }
        // A delivery is taken directly from a waiter, unless its lane still has an older delivery.
        let free = self.waiters.iter().position(|waiting| self.by_shard.get(&waiting.lane).is_some_and(Lane::is_empty));
        if let Some(at) = free
            && let Some(waiting) = self.waiters.remove(at)
        {
            let mut delivery = waiting.delivery;
            // The waiting task may be gone already, but then its lane would be gone too, and this would not be reached.
            let _ = waiting.accepted.send(());
            if delivery.len() > max {
                let first = delivery.split_first(max);
                self.put_rest_back(waiting.lane, delivery);
                delivery = first;
            }
            delivery.handed_out();
            self.in_flight += 1;
            return Next::Ready(delivery);
        }
        Next::Later(earliest)
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

    /// Takes at most `max` records of the first delivery. Also returns whether room for a new delivery became free.
    fn take(&mut self, max: usize) -> (Option<Delivery>, bool) {
        if let Some((_, mut delivery)) = self.redeliveries.pop_first() {
            if delivery.len() > max {
                let first = delivery.split_first(max);
                self.redeliveries.insert(delivery.first_ordinal(), delivery);
                delivery = first;
            }
            return (Some(delivery), false);
        }
        match self.fresh.front_mut() {
            Some(front) if front.len() > max => (Some(front.split_first(max)), false),
            Some(_) => (self.fresh.pop_front(), true),
            None => (None, false),
        }
    }
}
