//! Which delivery goes to the host next?
//!
//! This module is pure. Each shard has a lane. Within a lane, redeliveries come before new deliveries, and the lanes
//! take turns, within a batch and from one batch to the next. A batch takes as many deliveries as are ready, up to what
//! the host asked for. At most `message_buffer_cap` new deliveries are buffered in the lanes; further deliveries wait with the
//! tasks that read them. With a cap of zero every delivery is handed over directly from a waiting task.
//!
//! With a batch policy the deliveries of a lane are gathered first, and a batch of the host is one batch of one lane:
//!
//! ```text
//! a lane   ┃ redeliveries ┃ fresh: ■ ■ ■▕ ■ ■▕ ■ ■
//!                                 complete     └── gathered: waits for more, for its period, or for a flush
//! ```
//!
//! Only complete batches count as buffered. What is gathered is bounded by the pool and by `checkpoint_limit`, and is
//! flushed as soon as one of them lets nothing more in.

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use pipeline_plugin_api::Demand;
use tokio::sync::oneshot;
use tokio::time::Instant;

use super::batching::{Added, BatchPolicy, Gathering};
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
    /// How many new deliveries may be buffered, or complete batches.
    cap: usize,
    /// How many of them are in all lanes together.
    buffered: usize,
    /// When a batch is complete; `None` if every delivery is handed out as soon as the host asks.
    policy: Option<BatchPolicy>,
    by_shard: HashMap<LaneId, Lane>,
    /// The lanes from which something can be taken, in the order in which they are served. Each lane is listed once.
    turns: VecDeque<LaneId>,
    /// The lanes that gather a batch, by their numbers.
    gathering: BTreeMap<u64, LaneId>,
    /// When the batches of these lanes are flushed, with the numbers of the lanes.
    due: BTreeSet<(Instant, u64)>,
    /// How many lanes were opened so far.
    opened: u64,
    /// The deliveries that wait for room with the tasks that read them, at most one for each shard.
    waiters: VecDeque<Waiter>,
    /// How many deliveries the host has and has not settled.
    in_flight: usize,
    /// Whether nothing more is let in, and only what is in the lanes is still delivered.
    draining: bool,
    /// The deliveries that came afterwards. Their tasks wait until the outbox is closed.
    too_late: VecDeque<Waiter>,
    /// Whether the outbox is closed. It is set once, and nothing is delivered afterwards.
    closed: bool,
}

/// The deliveries of one shard.
#[derive(Debug)]
pub(super) struct Lane {
    /// The deliveries that were nacked, by the ordinal of their first record.
    redeliveries: BTreeMap<u64, Delivery>,
    /// The new deliveries, in order.
    fresh: VecDeque<Delivery>,
    /// How many of the new deliveries are the last of their batch. What is behind them is gathered.
    complete: usize,
    /// The next batch, if there is a policy.
    gathering: Gathering,
    /// Whether what is gathered is delivered without waiting for more.
    flushes: bool,
    /// Whether the shard is about to be handed over, and only what is in the lane is still delivered.
    drains: bool,
    /// The earliest time for the next delivery of the lane, after a nack.
    retry_at: Option<Instant>,
    /// Whether the lane is listed in `turns`.
    has_turn: bool,
    /// The number of the lane, in the order in which lanes were opened: their ids have no order.
    number: u64,
}

/// A delivery that was added.
pub(super) struct Pushed {
    pub(super) accepted: oneshot::Receiver<()>,
    /// Whether a reader has to look: there is something to take, or it has to look again earlier than it knows.
    pub(super) wakes: bool,
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
    /// Makes lanes that buffer at most `cap` new deliveries, or batches if there is a policy.
    pub(super) fn new(cap: usize, policy: Option<BatchPolicy>) -> Self {
        Self {
            cap,
            buffered: 0,
            policy,
            by_shard: HashMap::new(),
            turns: VecDeque::new(),
            gathering: BTreeMap::new(),
            due: BTreeSet::new(),
            opened: 0,
            waiters: VecDeque::new(),
            in_flight: 0,
            draining: false,
            too_late: VecDeque::new(),
            closed: false,
        }
    }

    /// Opens an empty lane.
    pub(super) fn open(&mut self, id: LaneId, now: Instant) {
        let lane = Lane {
            redeliveries: BTreeMap::new(),
            fresh: VecDeque::new(),
            complete: 0,
            gathering: Gathering::new(now),
            flushes: false,
            drains: false,
            retry_at: None,
            has_turn: false,
            number: self.opened,
        };
        self.opened += 1;
        self.by_shard.insert(id, lane);
    }

    /// The policy of batches, if there is one.
    pub(super) fn policy(&self) -> Option<&BatchPolicy> {
        self.policy.as_ref()
    }

    /// Returns the ordinal of the first record that a lane has gathered, if there is any.
    pub(super) fn gathered_from(&self, id: LaneId) -> Option<u64> {
        self.by_shard.get(&id)?.gathering.first()
    }

    /// Returns how many of the messages with these sizes the batch of a lane has room for: all, or up to the one that
    /// completes it.
    pub(super) fn room(&self, id: LaneId, sizes: impl ExactSizeIterator<Item = u64>) -> usize {
        match (&self.policy, self.by_shard.get(&id)) {
            (Some(policy), Some(lane)) => lane.gathering.room(policy, sizes),
            _ => sizes.len(),
        }
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
    pub(super) fn push(&mut self, id: LaneId, mut delivery: Delivery, now: Instant) -> Result<Pushed, Closed> {
        if self.closed {
            return Err(Closed);
        }
        let (sender, accepted) = oneshot::channel();
        if self.draining {
            self.too_late.push_back(Waiter { lane: id, delivery, accepted: sender });
            return Ok(Pushed { accepted, wakes: false });
        }
        if let Some(policy) = &self.policy
            && let Some(lane) = self.by_shard.get_mut(&id)
        {
            let bytes = if policy.weighs() { delivery.payload_bytes() } else { 0 };
            let before = lane.gathering.flush_at();
            let added = Added { first: delivery.first_ordinal(), count: delivery.len(), bytes };
            delivery.ends_batch = lane.gathering.add(policy, added, now, fastrand::f64());
            if !delivery.ends_batch {
                lane.fresh.push_back(delivery);
                let _ = sender.send(());
                let flush_at = lane.gathering.flush_at();
                let is_next = self.gather(id, flush_at);
                return Ok(Pushed { accepted, wakes: is_next });
            }
            lane.flushes = false;
            let number = lane.number;
            self.stop_gathering(number, before);
        }
        self.waiters.push_back(Waiter { lane: id, delivery, accepted: sender });
        self.accept();
        Ok(Pushed { accepted, wakes: true })
    }

    /// Lists a lane as one that gathers. Returns whether a reader has to look at it earlier than at all others.
    fn gather(&mut self, id: LaneId, flush_at: Option<Instant>) -> bool {
        let Some(lane) = self.by_shard.get_mut(&id) else { return false };
        if lane.flushes {
            self.give_turn(id);
            return true;
        }
        let number = lane.number;
        self.gathering.insert(number, id);
        let is_new = flush_at.is_some_and(|at| self.due.insert((at, number)));
        is_new && self.due.first().is_some_and(|(_, first)| *first == number)
    }

    fn stop_gathering(&mut self, number: u64, flush_at: Option<Instant>) {
        self.gathering.remove(&number);
        if let Some(at) = flush_at {
            self.due.remove(&(at, number));
        }
    }

    /// Makes what a lane has gathered ready, however little it is. Returns whether there is anything.
    pub(super) fn flush(&mut self, id: LaneId) -> bool {
        let Some(lane) = self.by_shard.get_mut(&id).filter(|lane| !lane.gathering.is_empty()) else { return false };
        lane.flushes = true;
        let (number, flush_at) = (lane.number, lane.gathering.flush_at());
        self.stop_gathering(number, flush_at);
        self.give_turn(id);
        true
    }

    /// Makes ready what all lanes have gathered. Returns whether there is anything.
    pub(super) fn flush_all(&mut self) -> bool {
        let has_any = !self.gathering.is_empty();
        while let Some((_, id)) = self.gathering.pop_first() {
            self.flush(id);
        }
        has_any
    }

    /// Makes ready what is due. Returns when more will be due.
    fn flush_due(&mut self, now: Instant) -> Option<Instant> {
        while let Some((at, number)) = self.due.first().copied() {
            if at > now {
                return Some(at);
            }
            self.due.pop_first();
            if let Some(id) = self.gathering.get(&number).copied() {
                self.flush(id);
            }
        }
        None
    }

    /// Lets nothing more into a lane, and makes ready what it has. Does nothing without a policy.
    pub(super) fn drain(&mut self, id: LaneId) -> bool {
        if self.policy.is_none() {
            return false;
        }
        self.flush(id);
        let Some(lane) = self.by_shard.get_mut(&id) else { return false };
        lane.drains = true;
        // A delivery that would complete the batch may be withdrawn while it waits for room.
        lane.flushes = !lane.fresh.is_empty();
        self.give_turn(id);
        true
    }

    /// Lets nothing more into any lane, and makes ready what was gathered. Returns whether anything is left to deliver.
    /// Does nothing without a policy, or if nothing is left.
    pub(super) fn drain_all(&mut self) -> bool {
        if self.policy.is_none() || self.closed || !(self.draining || self.has_any()) {
            return false;
        }
        self.draining = true;
        self.flush_all();
        true
    }

    /// Whether any lane, or any task that waits for room, has a delivery.
    fn has_any(&self) -> bool {
        let has_any = |lane: &Lane| !lane.fresh.is_empty() || !lane.redeliveries.is_empty();
        !self.waiters.is_empty() || self.by_shard.values().any(has_any)
    }

    /// Whether nothing more is let in.
    pub(super) fn is_draining(&self) -> bool {
        self.draining
    }

    /// Whether a lane drains.
    pub(super) fn drains(&self, id: LaneId) -> bool {
        self.by_shard.get(&id).is_some_and(|lane| lane.drains)
    }

    /// Whether a lane holds nothing, or does not exist.
    pub(super) fn is_drained(&self, id: LaneId) -> bool {
        self.by_shard.get(&id).is_none_or(|lane| lane.fresh.is_empty() && lane.redeliveries.is_empty())
    }

    /// Withdraws the delivery that waits for room in a lane, if there is one.
    pub(super) fn withdraw(&mut self, id: LaneId) -> Option<Waiter> {
        [&mut self.waiters, &mut self.too_late].into_iter().find_map(|waiters| {
            let at = waiters.iter().position(|waiting| waiting.lane == id)?;
            waiters.remove(at)
        })
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
        self.buffered -= lane.complete;
        self.stop_gathering(lane.number, lane.gathering.flush_at());
        self.turns.retain(|other| *other != id);
        self.accept();
        Some(lane)
    }

    /// Stops all delivery. Returns the contents of the lanes, so that their space in the pool is returned outside any
    /// lock.
    pub(super) fn close(&mut self) -> impl Sized + use<> {
        self.closed = true;
        self.buffered = 0;
        self.turns.clear();
        self.gathering.clear();
        self.due.clear();
        let waiting = [std::mem::take(&mut self.waiters), std::mem::take(&mut self.too_late)];
        (std::mem::take(&mut self.by_shard), waiting)
    }

    /// Takes what is ready, up to the demand. Each delivery counts as in flight from here on.
    pub(super) fn take(&mut self, demand: &Demand, now: Instant) -> Next {
        if self.closed {
            return Next::Closed;
        }
        let due = self.flush_due(now);
        let mut batch = Taking::new(demand, self.policy.is_some());
        let retry = self.take_from_lanes(&mut batch, now);
        self.take_from_waiters(&mut batch, now);
        match batch.taken {
            Some(taken) => {
                self.in_flight += taken.len();
                Next::Ready(taken)
            }
            None if self.draining && !self.has_any() => Next::Closed,
            None => Next::Later(due.into_iter().chain(retry).min()),
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
            let took = lane.take(batch, now);
            if !lane.is_ready() {
                lane.has_turn = false;
            } else if took == Took::Nothing {
                // Its delivery comes first in the next batch.
                self.turns.push_front(id);
            } else {
                self.turns.push_back(id);
            }
            if let Took::Batches(count @ 1..) = took {
                self.buffered -= count;
                self.accept();
            }
        }
        earliest
    }

    /// Takes deliveries directly from the waiters, unless their lanes still have something that comes before.
    fn take_from_waiters(&mut self, batch: &mut Taking, now: Instant) {
        while !batch.is_full {
            let is_free = |waiting: &Waiter| self.by_shard.get(&waiting.lane).is_some_and(Lane::takes_directly);
            let free = self.waiters.iter().position(is_free);
            let Some(waiting) = free.and_then(|at| self.waiters.remove(at)) else { return };
            if batch.fits(&waiting.delivery) == 0 {
                batch.is_full = true;
                // Only its own lane could have become free meanwhile, so it loses no turn that is due.
                self.waiters.push_front(waiting);
                return;
            }
            // The waiting task may be gone already, but then its lane would be gone too, and this would not be reached.
            let _ = waiting.accepted.send(());
            let Some(lane) = self.by_shard.get_mut(&waiting.lane) else { continue };
            lane.put(waiting.delivery);
            self.buffered += 1;
            if let Took::Batches(count) = lane.take(batch, now) {
                self.buffered -= count;
            }
            // What is left of a delivery that was larger than the demand comes in its turn.
            self.give_turn(waiting.lane);
        }
    }

    /// Moves waiting deliveries into the lanes while there is room.
    fn accept(&mut self) {
        while self.buffered < self.cap {
            let Some(waiting) = self.waiters.pop_front() else { return };
            if let Some(lane) = self.by_shard.get_mut(&waiting.lane) {
                lane.put(waiting.delivery);
                self.buffered += 1;
                self.give_turn(waiting.lane);
            }
            let _ = waiting.accepted.send(());
        }
    }

    fn give_turn(&mut self, id: LaneId) {
        if let Some(lane) = self.by_shard.get_mut(&id)
            && lane.is_ready()
            && !lane.has_turn
        {
            lane.has_turn = true;
            self.turns.push_back(id);
        }
    }
}

impl Lane {
    /// Whether there is anything to take.
    fn is_ready(&self) -> bool {
        !self.redeliveries.is_empty() || self.complete > 0 || self.flushes
    }

    /// Whether a waiting delivery is next, with what was gathered before it.
    fn takes_directly(&self) -> bool {
        self.redeliveries.is_empty() && self.complete == 0
    }

    /// Adds a delivery that is the last of its batch.
    fn put(&mut self, delivery: Delivery) {
        debug_assert!(delivery.ends_batch);
        self.fresh.push_back(delivery);
        self.complete += 1;
    }

    /// Adds to a batch what comes first: a delivery, or everything of a gathered batch, as far as it fits.
    fn take(&mut self, batch: &mut Taking, now: Instant) -> Took {
        let Some((mut from, mut took)) = self.take_one(batch, now) else { return Took::Nothing };
        // A redelivered batch does not grow by new records.
        while batch.is_gathered && !batch.is_full && !took.is_last && from == self.first() {
            let Some((next, more)) = self.take_one(batch, now) else { break };
            from = next;
            took = One { batches: took.batches + more.batches, ..more };
        }
        batch.is_full |= batch.is_gathered;
        Took::Batches(took.batches)
    }

    /// Where the next delivery comes from, if there is one to take.
    fn first(&self) -> Option<Source> {
        match (self.redeliveries.is_empty(), self.complete > 0 || self.flushes) {
            (false, _) => Some(Source::Redeliveries),
            (true, true) => Some(Source::Fresh),
            (true, false) => None,
        }
    }

    /// Adds as much of the first delivery to the batch as fits.
    fn take_one(&mut self, batch: &mut Taking, now: Instant) -> Option<(Option<Source>, One)> {
        let from = self.first();
        let mut first = match from? {
            Source::Redeliveries => self.redeliveries.pop_first()?.1,
            Source::Fresh => self.fresh.pop_front()?,
        };
        let count = batch.fits(&first);
        let is_whole = count == first.len();
        let mut one = One { is_last: first.ends_batch && is_whole, batches: 0 };
        if from == Some(Source::Fresh) && count > 0 && self.complete == 0 {
            // This is the beginning of what was gathered, which is flushed.
            self.gathering.flushed(now);
        }
        if is_whole {
            if from == Some(Source::Fresh) {
                one.batches = usize::from(first.ends_batch);
                self.complete -= one.batches;
                self.flushes &= !self.fresh.is_empty();
            }
            batch.put(first);
            return Some((from, one));
        }
        batch.is_full = true;
        if count > 0 {
            batch.put(first.split_first(count));
        }
        match from? {
            Source::Redeliveries => drop(self.redeliveries.insert(first.first_ordinal(), first)),
            Source::Fresh => self.fresh.push_front(first),
        }
        (count > 0).then_some((from, one))
    }
}

/// The two kinds of deliveries in a lane.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Source {
    Redeliveries,
    Fresh,
}

/// What was taken at once from a lane.
struct One {
    /// Whether it is the last of its batch.
    is_last: bool,
    /// How many of the lane's complete batches it ends: none or one.
    batches: usize,
}

/// Whether anything was taken from a lane.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Took {
    /// The first delivery has to wait for the next batch.
    Nothing,
    /// Something was taken, and with it the rest of this many complete batches.
    Batches(usize),
}

/// A batch that is being put together.
struct Taking {
    taken: Option<Deliveries>,
    /// How many more messages and bytes of payload may be taken.
    messages: usize,
    bytes: Option<u64>,
    /// Whether it is one gathered batch of one lane.
    is_gathered: bool,
    /// Whether nothing more may be added.
    is_full: bool,
}

impl Taking {
    fn new(demand: &Demand, is_gathered: bool) -> Self {
        let (messages, bytes) = (demand.max_messages.get(), demand.max_bytes);
        Self { taken: None, messages, bytes, is_gathered, is_full: false }
    }

    /// How many records of a delivery may be added.
    fn fits(&self, delivery: &Delivery) -> usize {
        let is_first = self.taken.is_none();
        if self.is_alone(delivery) && !is_first {
            return 0;
        }
        let count = delivery.len().min(self.messages);
        match self.bytes {
            None => count,
            // The first message comes however large it is.
            Some(bytes) => delivery.fitting(count, bytes).max(usize::from(is_first)),
        }
    }

    /// Whether a delivery is a batch of its own. A gathered batch is of one shard anyway, and comes again as it was.
    fn is_alone(&self, delivery: &Delivery) -> bool {
        !self.is_gathered && delivery.nacks() >= ALONE_AFTER_NACKS
    }

    fn put(&mut self, delivery: Delivery) {
        self.messages -= delivery.len();
        if let Some(bytes) = &mut self.bytes {
            *bytes = bytes.saturating_sub(delivery.payload_bytes());
        }
        self.is_full |= self.messages == 0 || self.is_alone(&delivery);
        // Under the outbox's lock, so that a call that removes the lane sees it.
        delivery.progress.handed_out();
        match &mut self.taken {
            None => self.taken = Some(Deliveries { first: delivery, more: Vec::new() }),
            Some(taken) => taken.more.push(delivery),
        }
    }
}
