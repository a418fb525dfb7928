//! What does a worker do about the shards now?
//!
//! Pure. From what it sees of the table and of the streams it makes the plan (see [`balance`](super::assignment)), and from
//! the plan the few calls that are its own part of it.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::time::Duration;

use tokio::time::Instant;

use super::assignment::{Member, Share, plan};
use super::liveness::Watch;
use super::{Hold, Place, Row, Worker};
use crate::model::{ShardId, Stream, WorkerId};

/// While something is left to do, the next round comes after so long, whatever the rebalance period.
pub(crate) const SOON: Duration = Duration::from_secs(1);
/// How long after a worker came shards are asked for, where rounds are further apart.
const SETTLE: Duration = Duration::from_secs(10);
/// At least so many shards may be asked for in a round.
const LEAST_ASKS: usize = 4;

/// How long after a worker came shards are asked for.
pub(crate) fn settle(rebalance_period: Duration) -> Duration {
    SETTLE.min(rebalance_period / 3)
}

/// What a worker sees.
#[derive(Debug)]
pub(crate) struct Sight<'a> {
    pub(crate) now: Instant,
    pub(crate) me: &'a WorkerId,
    pub(crate) workers: &'a [Worker],
    pub(crate) streams: &'a [StreamSight<'a>],
    pub(crate) watch: &'a Watch,
    /// Nothing is asked for before it is so long ago that a worker came. Workers often come one after the other, and what
    /// went to the second would have to go on to the fifth.
    pub(crate) settle: Duration,
    /// What we asked for.
    pub(crate) asked: &'a HashMap<(Stream, ShardId), Asked>,
}

/// What we asked for a shard.
#[derive(Debug)]
pub(crate) struct Asked {
    /// Its holder, who was told. Whoever has it later knows of nothing.
    pub(crate) hold: Hold,
    /// Until when it is to be handed over.
    pub(crate) until: Instant,
}

/// What it sees of one stream.
#[derive(Debug)]
pub(crate) struct StreamSight<'a> {
    pub(crate) stream: &'a Stream,
    pub(crate) rows: &'a [Row],
    /// Shards that may be read now and are not ours.
    pub(crate) readable: &'a [ShardId],
    /// Shards whose leases we have in hand, those that we are about to give back included.
    pub(crate) in_hand: &'a BTreeSet<ShardId>,
}

/// Something to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Step {
    /// An index into the streams.
    pub(crate) stream: usize,
    pub(crate) shard: ShardId,
    pub(crate) what: What,
}

/// What to do about a shard.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum What {
    /// Nobody has it: claim it.
    Claim,
    /// It is held by our own name, from a life before, or was passed on to us: claim it.
    Resume(Hold),
    /// Its holder has not renewed it: claim it.
    TakeOver(Hold),
    /// Its holder has too many: ask for it, in place of one who asked before and is gone.
    Ask { hold: Hold, instead_of: Option<WorkerId> },
    /// It was asked for, and was not handed over in time: claim it.
    Force(Hold),
    /// Its holder, another program, has too many and knows no requests: claim it, and wait for its last commit.
    Steal(Hold),
}

/// The steps of one round.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Steps {
    pub(crate) steps: Vec<Step>,
    /// Something is left for a round that should come soon.
    pub(crate) more: bool,
}

/// What one worker does now that shares whole streams with others.
pub(crate) fn share(sight: &Sight<'_>) -> Steps {
    let all = Everything::gather(sight);
    let names: Vec<&str> = sight.streams.iter().map(|one| one.stream.arn()).collect();
    let plan = plan(&all.members(sight), &names, &all.shares());
    let mine = plan.iter().filter(|who| **who == Some(all.me)).count();
    let mut steps = Steps::default();
    let (mut free, mut asks, mut thefts) = (Vec::new(), 0, 0);
    let unsettled = sight.watch.someone_came(sight.settle, sight.now);
    for (known, who) in all.shards.iter().zip(&plan) {
        if known.in_hand || known.waits {
            continue;
        }
        let step = |what| Step { stream: known.stream, shard: known.id.clone(), what };
        let hold = known.row.and_then(|row| row.hold.as_ref());
        match hold {
            Some(hold) if hold.worker == *sight.me => steps.steps.push(step(What::Resume(hold.clone()))),
            _ if *who != Some(all.me) => {}
            None => free.push(step(What::Claim)),
            Some(hold) if known.over => steps.steps.push(step(What::TakeOver(hold.clone()))),
            Some(hold) if hold.epoch.is_none() && unsettled => steps.more = true,
            Some(hold) if hold.epoch.is_none() => {
                // As they take from each other: one at a time.
                if thefts == 0 {
                    steps.steps.push(step(What::Steal(hold.clone())));
                }
                thefts += 1;
            }
            Some(hold) => {
                let stream = sight.streams[known.stream].stream;
                let asked = sight.asked.get(&(stream.clone(), known.id.clone()));
                match asked.filter(|asked| asked.hold.is_same(hold)) {
                    Some(asked) if asked.until <= sight.now => steps.steps.push(step(What::Force(hold.clone()))),
                    Some(_) => steps.more = true,
                    None if unsettled => steps.more = true,
                    None => {
                        if asks < mine.div_ceil(2).max(LEAST_ASKS) {
                            let before = known.row.and_then(|row| row.wanted_by.clone());
                            let instead_of = before.filter(|worker| !sight.watch.is_alive(worker, sight.now));
                            steps.steps.push(step(What::Ask { hold: hold.clone(), instead_of }));
                        }
                        asks += 1;
                        steps.more = true;
                    }
                }
            }
        }
    }
    // Half of what is free, so that workers who start at the same time get their part before it is taken.
    let now = free.len().div_ceil(2);
    steps.more |= free.len() > now;
    steps.steps.extend(free.into_iter().take(now));
    steps
}

/// Somebody else reads a shard that we were told to read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Occupied {
    pub(crate) stream: usize,
    pub(crate) shard: ShardId,
    pub(crate) holder: WorkerId,
}

/// What one worker does now that was told its shards by name: it takes them as soon as they are free or left behind.
/// One that a live worker holds is an error.
pub(crate) fn told(sight: &Sight<'_>) -> Result<Steps, Occupied> {
    let mut steps = Steps::default();
    for (stream, seen) in sight.streams.iter().enumerate() {
        let rows: BTreeMap<&ShardId, &Row> = seen.rows.iter().map(|row| (&row.shard, row)).collect();
        for shard in seen.readable.iter().filter(|shard| !seen.in_hand.contains(*shard)) {
            let step = |what| Step { stream, shard: shard.clone(), what };
            let hold = rows.get(shard).and_then(|row| row.hold.as_ref());
            match hold {
                None => steps.steps.push(step(What::Claim)),
                Some(hold) if hold.worker == *sight.me => steps.steps.push(step(What::Resume(hold.clone()))),
                Some(hold) if sight.watch.is_over(seen.stream, shard, hold, sight.now) => {
                    steps.steps.push(step(What::TakeOver(hold.clone())));
                }
                Some(hold) if sight.watch.is_proven(seen.stream, shard, hold, sight.now) => {
                    return Err(Occupied { stream, shard: shard.clone(), holder: hold.worker.clone() });
                }
                // Alive or not: that will be seen.
                Some(_) => steps.more = true,
            }
        }
    }
    Ok(steps)
}

/// Everything there is to be shared, in the same order for every worker.
struct Everything<'a> {
    shards: Vec<Known<'a>>,
    /// Who takes shards: his name, and whether he is another program.
    names: Vec<(&'a WorkerId, bool)>,
    me: usize,
}

struct Known<'a> {
    stream: usize,
    id: &'a ShardId,
    row: Option<&'a Row>,
    in_hand: bool,
    /// It may not be read yet: a parent is not done, whoever holds it. It is somebody's share all the same.
    waits: bool,
    /// It is held, and its holder has not renewed it.
    over: bool,
    /// Who has it, or will have it.
    owner: Option<usize>,
}

impl<'a> Everything<'a> {
    fn gather(sight: &Sight<'a>) -> Self {
        let alive = |worker: &WorkerId| worker == sight.me || sight.watch.is_alive(worker, sight.now);
        let told: BTreeSet<&WorkerId> =
            sight.workers.iter().filter(|one| one.presence.explicit && alive(&one.id)).map(|one| &one.id).collect();
        let ours = |one: &Worker| sight.streams.iter().any(|seen| one.presence.streams.contains(seen.stream.arn()));
        let shown = sight.workers.iter().filter(|one| !one.presence.explicit && ours(one) && alive(&one.id));
        let mut names: BTreeMap<&WorkerId, bool> = shown.map(|one| (&one.id, false)).collect();
        names.insert(sight.me, false);
        let mut shards = Vec::new();
        for (stream, seen) in sight.streams.iter().enumerate() {
            let readable: BTreeSet<&ShardId> = seen.readable.iter().collect();
            let mut of_stream: BTreeMap<&ShardId, Option<&Row>> =
                seen.readable.iter().chain(seen.in_hand).map(|shard| (shard, None)).collect();
            for row in seen.rows {
                let held = row.hold.is_some() && !matches!(row.place, Place::End(_));
                if held || of_stream.contains_key(&row.shard) {
                    of_stream.insert(&row.shard, Some(row));
                }
            }
            for (id, row) in of_stream {
                let hold = row.and_then(|row| row.hold.as_ref());
                let in_hand = seen.in_hand.contains(id);
                let over = !in_hand
                    && hold.is_some_and(|hold| {
                        hold.worker != *sight.me && sight.watch.is_over(seen.stream, id, hold, sight.now)
                    });
                if let Some(hold) = hold.filter(|_| !over) {
                    if told.contains(&hold.worker) {
                        continue;
                    }
                    // Who shows no beats, or not now, is left what it has.
                    names.entry(&hold.worker).or_insert(true);
                }
                let waits = !in_hand && !readable.contains(id);
                shards.push(Known { stream, id, row, in_hand, waits, over, owner: None });
            }
        }
        let names: Vec<(&WorkerId, bool)> = names.into_iter().collect();
        let index = |worker: &WorkerId| names.iter().position(|(name, _)| *name == worker);
        for shard in &mut shards {
            let wanted = shard.row.and_then(|row| row.wanted_by.as_ref()).filter(|worker| alive(worker));
            let holder = shard.row.and_then(|row| row.hold.as_ref()).filter(|_| !shard.over);
            let holder = holder.map(|hold| &hold.worker);
            // What we have in hand and the table does not show yet, is ours.
            let holder = holder.or(shard.in_hand.then_some(sight.me));
            shard.owner = wanted.filter(|_| holder.is_some()).and_then(index).or_else(|| holder.and_then(index));
        }
        let me = names.iter().position(|(name, _)| *name == sight.me).unwrap_or_default();
        Self { shards, names, me }
    }

    fn members(&self, sight: &Sight<'a>) -> Vec<Member<'a>> {
        let takes = |id: &WorkerId, stream: &Stream| {
            let shown = sight.workers.iter().find(|worker| worker.id == *id);
            id == sight.me || shown.is_some_and(|worker| worker.presence.streams.contains(stream.arn()))
        };
        let holds = |who: usize, stream: usize| {
            self.shards.iter().any(|shard| shard.stream == stream && shard.owner == Some(who))
        };
        let members = self.names.iter().enumerate();
        members
            .map(|(who, (id, foreign))| {
                let streams = sight.streams.iter().enumerate();
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
