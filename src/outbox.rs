//! What is delivered next?
//!
//! Each shard has a lane. In a lane, what was nacked comes before what is new; among the lanes everybody has a turn.
//! At most `message_buffer_cap` new deliveries wait in the lanes; further ones wait in line with the task that read
//! them. With a cap of zero every delivery is handed over directly from the line.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use pipeline_plugin_api::{Batch, Demand, deadline};
use tokio::sync::{Notify, oneshot};
use tokio::time::Instant;

use crate::delivery::Delivery;
use crate::lease::keeper::Tenure;
use crate::record::ShardNames;
use crate::sync::{Mutex, lock};

/// A nacked delivery rests before it comes again, so that a host that refuses everything doesn't spin: this long
/// after the first nack, twice as long after each further one.
const FIRST_REST: Duration = Duration::from_millis(1);
/// The longest rest.
const LONGEST_REST: Duration = Duration::from_secs(1);

/// Deliveries on their way to the host.
#[derive(Debug)]
pub(crate) struct Outbox {
    core: Mutex<Core>,
    /// Nothing is delivered that may be someone else's by now. A process that slept finds out here, whatever it was at.
    tenure: Arc<Tenure>,
    /// Signals one reader that something may be ready.
    ready: Notify,
    /// Signals that a delivery came back from the host.
    returned: Notify,
}

/// Which lane: the address of the shard's names, which live as long as the shard is read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct LaneId(usize);

impl LaneId {
    fn of(names: &Arc<ShardNames>) -> Self {
        Self(Arc::as_ptr(names) as usize)
    }
}

#[derive(Debug)]
struct Core {
    cap: usize,
    /// New deliveries in all lanes together.
    buffered: usize,
    lanes: HashMap<LaneId, Lane>,
    /// Lanes with something in them, in the order of their turns. Each stands here once.
    turns: VecDeque<LaneId>,
    /// Deliveries that wait for room, at most one for each shard.
    line: VecDeque<InLine>,
    /// Deliveries at the host.
    outstanding: usize,
    closed: bool,
}

#[derive(Debug, Default)]
struct Lane {
    /// What was nacked, by ordinal.
    replay: BTreeMap<u64, Delivery>,
    /// What is new.
    fresh: VecDeque<Delivery>,
    /// Nothing of the lane is delivered before.
    rests_until: Option<Instant>,
    /// Whether the lane stands in `turns`.
    has_turn: bool,
}

#[derive(Debug)]
struct InLine {
    lane: LaneId,
    delivery: Delivery,
    accepted: oneshot::Sender<()>,
}

/// What a look into the outbox finds.
#[derive(Debug)]
enum Look {
    Ready(Delivery),
    /// Nothing now; something may have rested by then.
    Later(Option<Instant>),
    Closed,
}

/// The outbox is closed: nothing is delivered any more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Closed;

impl Outbox {
    /// An outbox in which at most `cap` new deliveries wait. It delivers while our leases are good.
    pub(crate) fn new(cap: usize, tenure: Arc<Tenure>) -> Self {
        let core = Core {
            cap,
            buffered: 0,
            lanes: HashMap::new(),
            turns: VecDeque::new(),
            line: VecDeque::new(),
            outstanding: 0,
            closed: false,
        };
        Self { core: Mutex::new(core), tenure, ready: Notify::new(), returned: Notify::new() }
    }

    /// Opens the lane of a shard. It is gone when the returned value is dropped, with all that waits in it.
    pub(crate) fn lane(self: &Arc<Self>, names: &Arc<ShardNames>) -> OpenLane {
        lock(&self.core).lanes.insert(LaneId::of(names), Lane::default());
        OpenLane { outbox: Arc::clone(self), names: Arc::clone(names) }
    }

    /// Waits for the next delivery and hands at most `demand.max_messages` of it to the host; an empty batch when
    /// none comes in time.
    ///
    /// # Cancel safety
    ///
    /// A dropped call has taken nothing.
    pub(crate) async fn next(self: &Arc<Self>, demand: Demand) -> Result<Batch, Closed> {
        let give_up = deadline(demand.max_wait);
        let mut watching = WatchesRest { outbox: self, until: None };
        loop {
            let ready = self.ready.notified();
            let mut ready = std::pin::pin!(ready);
            // In the queue before the look, so that nothing slips in between.
            ready.as_mut().enable();
            watching.until = match self.look(demand.max_messages.get()) {
                Look::Ready(delivery) => {
                    // The look has woken another reader if there is more.
                    watching.until = None;
                    return Ok(delivery.into_batch(self));
                }
                Look::Closed => return Err(Closed),
                Look::Later(rested) => rested,
            };
            let until = watching.until.map_or(give_up, |until| until.min(give_up));
            tokio::select! {
                biased;
                () = ready => {}
                () = tokio::time::sleep_until(until) => {
                    if Instant::now() >= give_up {
                        return Ok(Batch::empty());
                    }
                }
            }
        }
    }

    fn look(&self, max: usize) -> Look {
        let mut core = lock(&self.core);
        if self.tenure.is_over() && !core.closed {
            // The keeper is about to have it all forgotten, which wakes who waits.
            return Look::Later(None);
        }
        let look = core.take(max, Instant::now());
        let more = !core.turns.is_empty() || !core.line.is_empty();
        if more && matches!(look, Look::Ready(_)) {
            // Another reader may take it. Who found nothing wakes nobody, least of all himself.
            self.ready.notify_one();
        }
        look
    }

    /// Takes back what the host refused. It comes before anything newer of its shard.
    pub(crate) fn replay(&self, delivery: Delivery) {
        let refused = {
            let mut core = lock(&self.core);
            let id = LaneId::of(delivery.names());
            match core.lanes.get_mut(&id) {
                Some(lane) => {
                    let rest = FIRST_REST.saturating_mul(1 << (delivery.nacks().clamp(1, 16) - 1)).min(LONGEST_REST);
                    let until = Instant::now() + rest;
                    lane.rests_until = Some(lane.rests_until.map_or(until, |other| other.max(until)));
                    lane.replay.insert(delivery.first_ordinal(), delivery);
                    core.give_turn(id);
                    None
                }
                None => Some(delivery),
            }
        };
        // Its permits go back outside the lock.
        drop(refused);
        self.ready.notify_one();
    }

    /// Forgets the lane of a shard, with all that waits in it. When this returns, nothing of it goes out any more.
    pub(crate) fn forget(&self, names: &Arc<ShardNames>) {
        let id = LaneId::of(names);
        let forgotten = {
            let mut core = lock(&self.core);
            let lane = core.lanes.remove(&id);
            if let Some(lane) = &lane {
                core.buffered -= lane.fresh.len();
                core.turns.retain(|other| *other != id);
                core.accept();
            }
            lane
        };
        drop(forgotten);
        self.ready.notify_one();
    }

    /// One delivery came back from the host, settled or not.
    pub(crate) fn returned(&self) {
        lock(&self.core).outstanding -= 1;
        self.returned.notify_waiters();
    }

    /// Waits until no delivery is at the host. Cancel safe.
    pub(crate) async fn all_returned(&self) {
        loop {
            let returned = self.returned.notified();
            let mut returned = std::pin::pin!(returned);
            returned.as_mut().enable();
            if lock(&self.core).outstanding == 0 {
                return;
            }
            returned.await;
        }
    }

    /// Delivers nothing any more and forgets what waits.
    pub(crate) fn close(&self) {
        let forgotten = {
            let mut core = lock(&self.core);
            core.closed = true;
            core.buffered = 0;
            core.turns.clear();
            (std::mem::take(&mut core.lanes), std::mem::take(&mut core.line))
        };
        drop(forgotten);
        // Every reader has to see it, those who come later too.
        self.ready.notify_waiters();
        self.ready.notify_one();
    }
}

impl Core {
    fn take(&mut self, max: usize, now: Instant) -> Look {
        if self.closed {
            return Look::Closed;
        }
        let mut earliest: Option<Instant> = None;
        for _ in 0..self.turns.len() {
            let Some(id) = self.turns.pop_front() else { break };
            let Some(lane) = self.lanes.get_mut(&id) else { continue };
            if let Some(until) = lane.rests_until.filter(|until| *until > now) {
                earliest = Some(earliest.map_or(until, |other| other.min(until)));
                self.turns.push_back(id);
                continue;
            }
            lane.rests_until = None;
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
                delivery.goes_out();
                self.outstanding += 1;
                return Look::Ready(delivery);
            }
        }
        // Directly from the line, unless something older of the same shard rests.
        let free = self.line.iter().position(|waiting| self.lanes.get(&waiting.lane).is_some_and(Lane::is_empty));
        if let Some(at) = free
            && let Some(waiting) = self.line.remove(at)
        {
            let mut delivery = waiting.delivery;
            // The task that waited may be gone already; its lane then is too, and we would not be here.
            let _ = waiting.accepted.send(());
            if delivery.len() > max {
                let first = delivery.split_first(max);
                self.put_back(waiting.lane, delivery);
                delivery = first;
            }
            delivery.goes_out();
            self.outstanding += 1;
            return Look::Ready(delivery);
        }
        Look::Later(earliest)
    }

    /// The rest of a delivery that was larger than the demand stays first in its lane.
    fn put_back(&mut self, id: LaneId, delivery: Delivery) {
        if let Some(lane) = self.lanes.get_mut(&id) {
            lane.fresh.push_front(delivery);
            self.buffered += 1;
            self.give_turn(id);
        }
    }

    /// Lets deliveries from the line into the lanes while there is room.
    fn accept(&mut self) {
        while self.buffered < self.cap {
            let Some(waiting) = self.line.pop_front() else { return };
            if let Some(lane) = self.lanes.get_mut(&waiting.lane) {
                lane.fresh.push_back(waiting.delivery);
                self.buffered += 1;
                self.give_turn(waiting.lane);
            }
            let _ = waiting.accepted.send(());
        }
    }

    fn give_turn(&mut self, id: LaneId) {
        if let Some(lane) = self.lanes.get_mut(&id)
            && !lane.has_turn
        {
            lane.has_turn = true;
            self.turns.push_back(id);
        }
    }
}

impl Lane {
    fn is_empty(&self) -> bool {
        self.replay.is_empty() && self.fresh.is_empty()
    }

    /// At most `max` records of what comes first, and whether a place among the new deliveries became free.
    fn take(&mut self, max: usize) -> (Option<Delivery>, bool) {
        if let Some((_, mut delivery)) = self.replay.pop_first() {
            if delivery.len() > max {
                let first = delivery.split_first(max);
                self.replay.insert(delivery.first_ordinal(), delivery);
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

/// A reader that knows until when a nacked delivery rests. Of several readers one was woken for it, so when it gives up or is
/// dropped, another one has to look.
struct WatchesRest<'a> {
    outbox: &'a Outbox,
    until: Option<Instant>,
}

impl Drop for WatchesRest<'_> {
    fn drop(&mut self) {
        if self.until.is_some() {
            self.outbox.ready.notify_one();
        }
    }
}

/// The right to put deliveries of one shard into the outbox. Dropping it forgets what waits in the lane.
#[derive(Debug)]
pub(crate) struct OpenLane {
    outbox: Arc<Outbox>,
    names: Arc<ShardNames>,
}

impl OpenLane {
    /// Puts a delivery behind those of its shard; waits for room.
    ///
    /// # Cancel safety
    ///
    /// A dropped call has put nothing, or all of it.
    pub(crate) async fn push(&mut self, delivery: Delivery) -> Result<(), Closed> {
        let id = LaneId::of(&self.names);
        let accepted = {
            let mut core = lock(&self.outbox.core);
            if core.closed {
                return Err(Closed);
            }
            let (sender, accepted) = oneshot::channel();
            core.line.push_back(InLine { lane: id, delivery, accepted: sender });
            core.accept();
            accepted
        };
        self.outbox.ready.notify_one();
        let waiting = LeavesLine { outbox: &self.outbox, lane: id };
        let outcome = accepted.await.map_err(|_| Closed);
        drop(waiting);
        outcome
    }
}

impl Drop for OpenLane {
    fn drop(&mut self) {
        self.outbox.forget(&self.names);
    }
}

/// Takes a delivery out of the line when the task that waits with it goes.
struct LeavesLine<'a> {
    outbox: &'a Outbox,
    lane: LaneId,
}

impl Drop for LeavesLine<'_> {
    fn drop(&mut self) {
        let forgotten = {
            let mut core = lock(&self.outbox.core);
            let at = core.line.iter().position(|waiting| waiting.lane == self.lane);
            at.and_then(|at| core.line.remove(at))
        };
        drop(forgotten);
    }
}
