//! What should a worker do about the shards now?
//!
//! This module is pure. From its view of the table and the streams a worker makes the plan (see
//! [`assignment`](super::assignment)), and from the plan the few calls that are its own part of it.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::time::Duration;

use tokio::time::Instant;

use super::assignment::{Member, Share, plan};
use super::liveness::Liveness;
use super::{Checkpoint, Hold, Row, Worker};
use crate::model::{ShardId, Stream, WorkerId};

/// While something is left to do, the next rebalance follows after this long, whatever the rebalance period.
pub(crate) const SOON: Duration = Duration::from_secs(1);
/// The longest time after a worker appeared in which no shard is requested.
const SETTLE: Duration = Duration::from_secs(10);
/// At least this many shards may be requested in one rebalance.
const LEAST_ASKS: usize = 4;

/// How long after a worker appeared no shard is requested: a third of the rebalance period, and at most ten seconds.
pub(crate) fn settling_time(rebalance_period: Duration) -> Duration {
    SETTLE.min(rebalance_period / 3)
}

/// What a worker sees.
#[derive(Debug)]
pub(crate) struct View<'a> {
    pub(crate) now: Instant,
    pub(crate) me: &'a WorkerId,
    pub(crate) workers: &'a [Worker],
    pub(crate) streams: &'a [StreamView<'a>],
    pub(crate) liveness: &'a Liveness,
    /// No shard is requested until this long after the last worker appeared: workers often start one after the other,
    /// and a shard that went to the second would have to move on to the fifth.
    pub(crate) settle: Duration,
    /// The requests of this worker that are not yet answered.
    pub(crate) asked: &'a HashMap<(Stream, ShardId), Asked>,
}

/// A request for a shard.
#[derive(Debug)]
pub(crate) struct Asked {
    /// The lease of the holder that was asked. A later holder does not know of the request.
    pub(crate) hold: Hold,
    /// The time by which the shard must be handed over.
    pub(crate) until: Instant,
}

/// What a worker sees of one stream.
#[derive(Debug)]
pub(crate) struct StreamView<'a> {
    pub(crate) stream: &'a Stream,
    pub(crate) rows: &'a [Row],
    /// The shards that may be read now and are not held by this worker.
    pub(crate) readable: &'a [ShardId],
    /// The shards whose leases this worker holds, including those that it is about to release.
    pub(crate) held: &'a BTreeSet<ShardId>,
}

/// Something that the worker has to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Action {
    /// An index into the streams.
    pub(crate) stream: usize,
    pub(crate) shard: ShardId,
    pub(crate) kind: ActionKind,
}

/// What the worker has to do about a shard.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum ActionKind {
    /// No worker holds the shard: claim it.
    Claim,
    /// The shard is held under this worker's own name, by an earlier process or after it was handed over: claim it.
    Resume(Hold),
    /// The lease on the shard has expired: claim it.
    TakeOver(Hold),
    /// The holder has too many shards: request this one, in place of an earlier requester that is dead.
    Ask { hold: Hold, instead_of: Option<WorkerId> },
    /// The shard was requested and not handed over in time, though its holder has been alive since: claim it.
    Force(Hold),
    /// The holder is another program that has too many shards and knows no requests: claim the shard, and wait for the
    /// last commit of that program.
    Steal(Hold),
}

/// The actions of one rebalance.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Plan {
    pub(crate) actions: Vec<Action>,
    /// Whether something is left for another rebalance that should follow soon.
    pub(crate) more: bool,
}

/// Plans the actions of a worker that shares whole streams with other workers.
pub(crate) fn plan_shared(view: &View<'_>) -> Plan {
    let all = Everything::gather(view);
    let names: Vec<&str> = view.streams.iter().map(|one| one.stream.arn()).collect();
    let plan = plan(&all.members(view), &names, &all.shares());
    let mine = plan.iter().filter(|who| **who == Some(all.me)).count();
    let mut actions = Plan::default();
    let (mut free, mut asks, mut thefts) = (Vec::new(), 0, 0);
    let unsettled = view.liveness.someone_came(view.settle, view.now);
    for (known, who) in all.shards.iter().zip(&plan) {
        if known.held || known.waits {
            continue;
        }
        let action = |kind| Action { stream: known.stream, shard: known.id.clone(), kind };
        let hold = known.row.and_then(|row| row.hold.as_ref());
        match hold {
            Some(hold) if hold.worker == *view.me => actions.actions.push(action(ActionKind::Resume(hold.clone()))),
            _ if *who != Some(all.me) => {}
            None => free.push(action(ActionKind::Claim)),
            Some(hold) if known.expired => actions.actions.push(action(ActionKind::TakeOver(hold.clone()))),
            Some(hold) if hold.epoch.is_none() && unsettled => actions.more = true,
            Some(hold) if hold.epoch.is_none() => {
                // Other programs take shards from each other one at a time, too.
                if thefts == 0 {
                    actions.actions.push(action(ActionKind::Steal(hold.clone())));
                }
                thefts += 1;
            }
            Some(hold) => {
                let stream = view.streams[known.stream].stream;
                let asked = view.asked.get(&(stream.clone(), known.id.clone()));
                match asked.filter(|asked| asked.hold.is_same(hold)) {
                    // A holder that gave no sign of life since then may be cut off from the table. It would read on,
                    // beside this worker, until its lease expires. By then the shard can be taken over instead.
                    Some(asked)
                        if asked.until <= view.now && view.liveness.was_alive_since(&hold.worker, asked.until) =>
                    {
                        actions.actions.push(action(ActionKind::Force(hold.clone())));
                    }
                    Some(_) => actions.more = true,
                    None if unsettled => actions.more = true,
                    None => {
                        if asks < mine.div_ceil(2).max(LEAST_ASKS) {
                            let before = known.row.and_then(|row| row.requester.clone());
                            let instead_of = before.filter(|worker| !view.liveness.is_alive(worker, view.now));
                            actions.actions.push(action(ActionKind::Ask { hold: hold.clone(), instead_of }));
                        }
                        asks += 1;
                        actions.more = true;
                    }
                }
            }
        }
    }
    // Half of the free shards are claimed, so that workers that start at the same time get their part before it is
    // taken.
    let now = free.len().div_ceil(2);
    actions.more |= free.len() > now;
    actions.actions.extend(free.into_iter().take(now));
    actions
}

/// The error that another worker reads a shard that this worker was configured to read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Occupied {
    pub(crate) stream: usize,
    pub(crate) shard: ShardId,
    pub(crate) holder: WorkerId,
}

/// Plans the actions of a worker whose configuration names its shards: it takes them as soon as they are free or
/// expired. A shard that a live worker holds is an error.
pub(crate) fn plan_explicit(view: &View<'_>) -> Result<Plan, Occupied> {
    let mut actions = Plan::default();
    for (stream, seen) in view.streams.iter().enumerate() {
        let rows: BTreeMap<&ShardId, &Row> = seen.rows.iter().map(|row| (&row.shard, row)).collect();
        for shard in seen.readable.iter().filter(|shard| !seen.held.contains(*shard)) {
            let action = |kind| Action { stream, shard: shard.clone(), kind };
            let hold = rows.get(shard).and_then(|row| row.hold.as_ref());
            match hold {
                None => actions.actions.push(action(ActionKind::Claim)),
                Some(hold) if hold.worker == *view.me => actions.actions.push(action(ActionKind::Resume(hold.clone()))),
                Some(hold) if view.liveness.is_expired(seen.stream, shard, hold, view.now) => {
                    actions.actions.push(action(ActionKind::TakeOver(hold.clone())));
                }
                Some(hold) if view.liveness.is_proven(seen.stream, shard, hold, view.now) => {
                    return Err(Occupied { stream, shard: shard.clone(), holder: hold.worker.clone() });
                }
                // Whether the holder is alive is not known yet; a later rebalance will show it.
                Some(_) => actions.more = true,
            }
        }
    }
    Ok(actions)
}

/// All shards and workers that the plan covers, in the same order for every worker.
struct Everything<'a> {
    shards: Vec<Known<'a>>,
    /// The workers that take shards: the name of each, and whether it is another program.
    names: Vec<(&'a WorkerId, bool)>,
    /// The index of this worker in `names`.
    me: usize,
}

struct Known<'a> {
    stream: usize,
    id: &'a ShardId,
    row: Option<&'a Row>,
    /// Whether this worker holds the shard.
    held: bool,
    /// Whether the shard may not be read yet, because a parent is not finished. It counts in the plan all the same.
    waits: bool,
    /// Whether the shard is held under an expired lease.
    expired: bool,
    /// The worker that has the shard, or will have it: an index into `names`.
    owner: Option<usize>,
}

impl<'a> Everything<'a> {
    fn gather(view: &View<'a>) -> Self {
        let alive = |worker: &WorkerId| worker == view.me || view.liveness.is_alive(worker, view.now);
        let explicit: BTreeSet<&WorkerId> =
            view.workers.iter().filter(|one| one.presence.explicit && alive(&one.id)).map(|one| &one.id).collect();
        let ours = |one: &Worker| view.streams.iter().any(|seen| one.presence.streams.contains(seen.stream.arn()));
        let shown = view.workers.iter().filter(|one| !one.presence.explicit && ours(one) && alive(&one.id));
        let mut names: BTreeMap<&WorkerId, bool> = shown.map(|one| (&one.id, false)).collect();
        names.insert(view.me, false);
        let mut shards = Vec::new();
        for (stream, seen) in view.streams.iter().enumerate() {
            let readable: BTreeSet<&ShardId> = seen.readable.iter().collect();
            let mut of_stream: BTreeMap<&ShardId, Option<&Row>> =
                seen.readable.iter().chain(seen.held).map(|shard| (shard, None)).collect();
            for row in seen.rows {
                let held = row.hold.is_some() && !matches!(row.checkpoint, Some(Checkpoint::ShardEnd(_)));
                if held || of_stream.contains_key(&row.shard) {
                    of_stream.insert(&row.shard, Some(row));
                }
            }
            for (id, row) in of_stream {
                let hold = row.and_then(|row| row.hold.as_ref());
                let held = seen.held.contains(id);
                let expired = !held
                    && hold.is_some_and(|hold| {
                        hold.worker != *view.me && view.liveness.is_expired(seen.stream, id, hold, view.now)
                    });
                if let Some(hold) = hold.filter(|_| !expired) {
                    if explicit.contains(&hold.worker) {
                        continue;
                    }
                    // A holder that sends no heartbeats, or none now, keeps what it has.
                    names.entry(&hold.worker).or_insert(true);
                }
                let waits = !held && !readable.contains(id);
                shards.push(Known { stream, id, row, held, waits, expired, owner: None });
            }
        }
        let names: Vec<(&WorkerId, bool)> = names.into_iter().collect();
        let index = |worker: &WorkerId| names.iter().position(|(name, _)| *name == worker);
        for shard in &mut shards {
            let wanted = shard.row.and_then(|row| row.requester.as_ref()).filter(|worker| alive(worker));
            let holder = shard.row.and_then(|row| row.hold.as_ref()).filter(|_| !shard.expired);
            let holder = holder.map(|hold| &hold.worker);
            // A shard that this worker holds and the table does not show yet belongs to this worker.
            let holder = holder.or(shard.held.then_some(view.me));
            shard.owner = wanted.filter(|_| holder.is_some()).and_then(index).or_else(|| holder.and_then(index));
        }
        let me = names.iter().position(|(name, _)| *name == view.me).unwrap_or_default();
        Self { shards, names, me }
    }

    fn members(&self, view: &View<'a>) -> Vec<Member<'a>> {
        let takes = |id: &WorkerId, stream: &Stream| {
            let shown = view.workers.iter().find(|worker| worker.id == *id);
            id == view.me || shown.is_some_and(|worker| worker.presence.streams.contains(stream.arn()))
        };
        let holds = |who: usize, stream: usize| {
            self.shards.iter().any(|shard| shard.stream == stream && shard.owner == Some(who))
        };
        let members = self.names.iter().enumerate();
        members
            .map(|(who, (id, foreign))| {
                let streams = view.streams.iter().enumerate();
                let streams = streams.map(|(at, seen)| takes(id, seen.stream) || (*foreign && holds(who, at)));
                Member { name: id.as_str(), foreign: *foreign, streams: streams.collect() }
            })
            .collect()
    }

    fn shares(&self) -> Vec<Share<'a>> {
        let shares = self.shards.iter();
        shares.map(|known| Share { stream: known.stream, name: known.id.as_str(), owner: known.owner }).collect()
    }
}
