//! Do plans keep what they promise, and do whole fleets settle?

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt;
use proptest::prelude::*;
use tokio::time::Instant;

use super::assignment::{Member, Share, plan};
use super::liveness::Liveness;
use super::memory::{MemoryStore, MemoryTable};
use super::rebalance::{self, ActionKind, Asked, StreamView, View};
use super::{
    Claim, ClaimFrom, Commit, HeartbeatAnswer, Hold, Lease, LeaseStore, Presence, Release, Row, SharedStore, Worker,
};
use crate::model::{ShardId, Stream, WorkerId};
use crate::sync::lock;

const NAMES: [&str; 5] = ["a", "b", "c", "d", "e"];

fn counts(plan: &[Option<usize>], shards: &[Share<'_>], stream: usize, members: usize) -> Vec<usize> {
    let mut counts = vec![0; members];
    for (shard, member) in shards.iter().zip(plan).filter(|(shard, _)| shard.stream == stream) {
        assert!(member.is_some(), "no worker is assigned {}", shard.name);
        counts[member.unwrap()] += 1;
    }
    counts
}

fn spread(counts: &[usize]) -> usize {
    counts.iter().max().unwrap() - counts.iter().min().unwrap()
}

/// Finds the fewest moves that any fair plan needs, by trying all of them.
fn fewest_moves(has: &[Vec<usize>], totals: &[usize], members: usize) -> usize {
    fn go(stream: usize, has: &[Vec<usize>], totals: &[usize], sums: &[usize], moves: usize, best: &mut usize) {
        let members = sums.len();
        if stream == totals.len() {
            if spread(sums) <= 1 {
                *best = moves.min(*best);
            }
            return;
        }
        for more in 0_u32..1 << members {
            if more.count_ones() as usize != totals[stream] % members {
                continue;
            }
            let gets: Vec<usize> =
                (0..members).map(|member| totals[stream] / members + (more >> member & 1) as usize).collect();
            let given: usize = (0..members).map(|member| has[stream][member].saturating_sub(gets[member])).sum();
            let sums: Vec<usize> = sums.iter().zip(&gets).map(|(a, b)| a + b).collect();
            go(stream + 1, has, totals, &sums, moves + given, best);
        }
    }
    let mut best = usize::MAX;
    go(0, has, totals, &vec![0; members], 0, &mut best);
    best
}

proptest! {
    #[test]
    fn plan_is_fair_and_moves_as_few_shards_as_possible(
        members in 1_usize..5,
        streams in proptest::collection::vec(proptest::collection::vec(proptest::option::of(0_usize..5), 0..10), 1..4),
    ) {
        let takers: Vec<Member<'_>> = (0..members)
            .map(|member| Member { name: NAMES[member], foreign: false, streams: vec![true; streams.len()] })
            .collect();
        let names: Vec<String> = (0..10).map(|at| format!("shard-{at}")).collect();
        let mut shards = Vec::new();
        for (stream, owners) in streams.iter().enumerate() {
            for (at, owner) in owners.iter().enumerate() {
                shards.push(Share { stream, name: &names[at], owner: owner.filter(|member| *member < members) });
            }
        }
        let assigned = plan(&takers, &NAMES[..streams.len()], &shards);
        let mut sums = vec![0; members];
        let mut has = Vec::new();
        let mut moves = 0;
        for (stream, owners) in streams.iter().enumerate() {
            let counts = counts(&assigned, &shards, stream, members);
            prop_assert!(spread(&counts) <= 1, "within a stream: {counts:?}");
            for (sum, count) in sums.iter_mut().zip(counts) {
                *sum += count;
            }
            has.push((0..members).map(|member| owners.iter().filter(|owner| **owner == Some(member)).count()).collect());
        }
        prop_assert!(spread(&sums) <= 1, "over all: {sums:?}");
        for (shard, member) in shards.iter().zip(&assigned) {
            moves += usize::from(shard.owner.is_some() && shard.owner != *member);
        }
        let totals: Vec<usize> = streams.iter().map(Vec::len).collect();
        prop_assert_eq!(moves, fewest_moves(&has, &totals, members));

        // A plan that was carried out in part, in any order, is still the plan.
        for half in 0..2 {
            let mut later = shards.clone();
            for (at, share) in later.iter_mut().enumerate() {
                if at % 2 == half {
                    share.owner = assigned[at];
                }
            }
            prop_assert_eq!(&plan(&takers, &NAMES[..streams.len()], &later), &assigned);
        }
    }
}

proptest! {
    /// The plan is fair for more streams than can be compared with all other plans.
    #[test]
    fn many_streams_are_assigned_fairly(
        members in 2_usize..12,
        streams in proptest::collection::vec(proptest::collection::vec(0_usize..12, 0..20), 1..12),
    ) {
        let names: Vec<String> = (0..20).map(|at| format!("name-{at:02}")).collect();
        let reads = vec![true; streams.len()];
        let members: Vec<Member<'_>> =
            names[..members].iter().map(|name| Member { name, foreign: false, streams: reads.clone() }).collect();
        let mut shards = Vec::new();
        for (stream, owners) in streams.iter().enumerate() {
            for (owner, name) in owners.iter().zip(&names) {
                shards.push(Share { stream, name, owner: Some(*owner).filter(|member| *member < members.len()) });
            }
        }
        let all: Vec<&str> = names[..streams.len()].iter().map(String::as_str).collect();
        let assigned = plan(&members, &all, &shards);
        let mut sums = vec![0; members.len()];
        for stream in 0..streams.len() {
            let counts = counts(&assigned, &shards, stream, members.len());
            prop_assert!(spread(&counts) <= 1, "within a stream: {counts:?}");
            sums.iter_mut().zip(counts).for_each(|(sum, count)| *sum += count);
        }
        prop_assert!(spread(&sums) <= 1, "over all: {sums:?}");
    }
}

#[test]
fn new_worker_gets_as_many_as_others_though_no_stream_has_enough_for_all() {
    let member = |name| Member { name, foreign: false, streams: vec![true; 3] };
    let members = ["a", "b", "c", "d"].map(member);
    let shards: Vec<Share<'_>> =
        (0..9).map(|at| Share { stream: at / 3, name: ["one", "two", "three"][at % 3], owner: Some(at % 3) }).collect();
    let assigned = plan(&members, &["s", "t", "u"], &shards);
    let mut sums: Vec<usize> =
        (0..4).map(|member| assigned.iter().filter(|owner| **owner == Some(member)).count()).collect();
    sums.sort_unstable();
    assert_eq!(sums, [2, 2, 2, 3]);
}

#[test]
fn other_program_keeps_its_share_and_is_assigned_nothing() {
    let member = |name, foreign| Member { name, foreign, streams: vec![true] };
    let members = [member("ours", false), member("theirs", true)];
    let names: Vec<String> = (0..10).map(|at| format!("shard-{at}")).collect();
    let shares = |theirs: usize| -> Vec<Share<'_>> {
        let share = |(at, name): (usize, &'static str)| Share { stream: 0, name, owner: (at < theirs).then_some(1) };
        let names: Vec<&'static str> = names.iter().map(|name| &*name.clone().leak()).collect();
        names.into_iter().enumerate().map(share).collect()
    };
    for (theirs, left) in [(10, 5), (5, 5), (3, 3), (0, 0)] {
        let shares = shares(theirs);
        let assigned = plan(&members, &["s"], &shares);
        assert_eq!(counts(&assigned, &shares, 0, 2), [10 - left, left], "they have {theirs}");
    }
}

#[test]
fn workers_that_read_different_streams_are_compared_within_each() {
    let member = |name, streams: &[bool]| Member { name, foreign: false, streams: streams.to_vec() };
    let members = [member("a", &[true, false]), member("b", &[true, true])];
    let names: Vec<String> = (0..6).map(|at| format!("shard-{at}")).collect();
    let shards: Vec<Share<'_>> =
        (0..2).flat_map(|stream| names.iter().map(move |name| Share { stream, name, owner: None })).collect();
    let assigned = plan(&members, &["s", "t"], &shards);
    assert_eq!(counts(&assigned, &shards, 0, 2), [3, 3]);
    assert_eq!(counts(&assigned, &shards, 1, 2), [0, 6]);
}

const LEASE: u32 = 30;
const PERIOD: u32 = 30;
const BEAT: u32 = 5;
/// The time in seconds between two renewals of the row of an idle shard.
const RENEWAL: u32 = 45;
/// The default commit period plus the default grace period, in seconds.
const HANDED_OVER_WITHIN: u32 = 7;

/// A worker of a simulated fleet, which carries out its actions at once.
struct SimWorker {
    store: MemoryStore,
    presence: Presence,
    liveness: Liveness,
    leases: BTreeMap<(Stream, ShardId), Lease>,
    asked: HashMap<(Stream, ShardId), Asked>,
    /// The second of its next rebalance. `heartbeat` is the second of its next heartbeat.
    rebalance_at: u32,
    heartbeat: u32,
    wake_ups: u64,
    /// The calls since its last regular rebalance. `most_calls` is the largest such number.
    calls: u64,
    most_calls: u64,
}

/// A fleet on a clock of seconds.
struct Sim {
    table: Arc<MemoryTable>,
    streams: Vec<(Stream, Vec<ShardId>)>,
    workers: Vec<SimWorker>,
    start: Instant,
    second: u32,
    owners: HashMap<(Stream, ShardId), WorkerId>,
    /// How often each shard moved from one worker to another.
    moves: HashMap<(Stream, ShardId), u32>,
    random: fastrand::Rng,
    named: u32,
}

fn now<T>(future: impl Future<Output = T>) -> T {
    future.now_or_never().expect("memory never waits")
}

impl Sim {
    fn new(seed: u64, shards: &[usize]) -> Self {
        let streams = shards.iter().enumerate().map(|(at, count)| {
            let stream = Stream::new(format!("stream-{at}"), format!("arn:stream-{at}"));
            (stream, (0..*count).map(|shard| ShardId::from(&*format!("shardId-{shard:012}"))).collect())
        });
        Self {
            table: Arc::default(),
            streams: streams.collect(),
            workers: Vec::new(),
            start: Instant::now(),
            second: 0,
            owners: HashMap::new(),
            moves: HashMap::new(),
            random: fastrand::Rng::with_seed(seed),
            named: 0,
        }
    }

    /// Adds a worker, which sends a heartbeat now and rebalances for the first time a little later.
    fn add(&mut self) {
        self.named += 1;
        let name = format!("worker-{:08x}-{}", self.random.u32(..), self.named);
        let presence = Presence {
            streams: self.streams.iter().map(|(stream, _)| stream.arn().to_owned()).collect(),
            ..Presence::default()
        };
        let store = MemoryStore::new(&self.table, &name);
        now(store.heartbeat(&presence)).unwrap();
        self.workers.push(SimWorker {
            store,
            presence,
            liveness: Liveness::new(Duration::from_secs(LEASE.into())),
            leases: BTreeMap::new(),
            asked: HashMap::new(),
            rebalance_at: self.second + 1 + self.random.u32(0..2),
            heartbeat: self.second + BEAT,
            wake_ups: 0,
            calls: 0,
            most_calls: 0,
        });
    }

    fn now(&self) -> Instant {
        self.start + Duration::from_secs(self.second.into())
    }

    fn action(&mut self) {
        self.second += 1;
        for at in 0..self.workers.len() {
            if self.workers[at].heartbeat <= self.second {
                self.heartbeat(at);
            }
            if self.workers[at].rebalance_at <= self.second {
                self.rebalance(at);
            }
        }
    }

    fn heartbeat(&mut self, at: usize) {
        let worker = &mut self.workers[at];
        worker.heartbeat = self.second + BEAT;
        if self.second % RENEWAL < BEAT {
            let renewals = worker.leases.values().map(|lease| Commit::new(lease, None));
            now(worker.store.commit(renewals.collect()));
        }
        let HeartbeatAnswer::Alive { wake_ups } = now(worker.store.heartbeat(&worker.presence)).unwrap() else {
            panic!("replaced")
        };
        if wake_ups != worker.wake_ups {
            worker.wake_ups = wake_ups;
            worker.rebalance_at = self.second;
        }
    }

    fn rebalance(&mut self, at: usize) {
        let clock = self.now();
        let before = lock(&self.table.core).calls;
        let worker = &mut self.workers[at];
        let workers = now(worker.store.workers()).unwrap();
        let rows: Vec<_> = self.streams.iter().map(|(stream, _)| now(worker.store.rows(stream)).unwrap()).collect();
        let seen = self.streams.iter().zip(&rows).map(|((stream, _), rows)| (stream, &**rows));
        worker.liveness.observe(clock, &workers, seen);
        // A shard that another worker requested is handed over at once.
        for ((stream, _), rows) in self.streams.iter().zip(&rows) {
            for row in rows {
                let key = (stream.clone(), row.shard.clone());
                if let Some(taker) = &row.requester
                    && let Some(lease) = worker.leases.remove(&key)
                {
                    now(worker.store.release(vec![Release::new(&lease, None, Some(taker.clone()))]));
                    now(worker.store.wake(taker)).unwrap();
                }
            }
        }
        let held: Vec<BTreeSet<ShardId>> = self
            .streams
            .iter()
            .map(|(stream, _)| {
                worker.leases.keys().filter(|(other, _)| other == stream).map(|(_, shard)| shard.clone()).collect()
            })
            .collect();
        let readable: Vec<Vec<ShardId>> = self
            .streams
            .iter()
            .zip(&held)
            .map(|((_, shards), held)| shards.iter().filter(|shard| !held.contains(*shard)).cloned().collect())
            .collect();
        let streams: Vec<_> = (0..rows.len())
            .map(|at| StreamView {
                stream: &self.streams[at].0,
                rows: &rows[at],
                readable: &readable[at],
                held: &held[at],
            })
            .collect();
        let view = View {
            now: clock,
            me: worker.store.me(),
            workers: &workers,
            streams: &streams,
            liveness: &worker.liveness,
            settle: rebalance::settling_time(Duration::from_secs(PERIOD.into())),
            asked: &worker.asked,
        };
        let actions = rebalance::plan_shared(&view);
        for action in actions.actions {
            let stream = self.streams[action.stream].0.clone();
            let key = (stream.clone(), action.shard.clone());
            let from = match &action.kind {
                ActionKind::Claim => ClaimFrom::Nobody,
                ActionKind::TakeOver(hold) => ClaimFrom::Unchanged(hold),
                ActionKind::Resume(hold) | ActionKind::Force(hold) | ActionKind::Steal(hold) => ClaimFrom::Holder(hold),
                ActionKind::Ask { hold, instead_of } => {
                    if now(worker.store.ask(&stream, &action.shard, hold, instead_of.as_ref())).unwrap() {
                        now(worker.store.wake(&hold.worker)).unwrap();
                        let until = clock + Duration::from_secs(HANDED_OVER_WITHIN.into());
                        worker.asked.insert(key, Asked { hold: hold.clone(), until });
                    }
                    continue;
                }
            };
            if let Claim::Owned(lease, _) = now(worker.store.claim(&stream, &action.shard, from)).unwrap() {
                worker.asked.remove(&key);
                worker.leases.insert(key.clone(), lease);
                let before = self.owners.insert(key.clone(), worker.store.me().clone());
                if before.is_some_and(|before| before != *worker.store.me()) {
                    *self.moves.entry(key).or_default() += 1;
                }
            }
        }
        worker.calls += lock(&self.table.core).calls - before;
        worker.most_calls = worker.most_calls.max(worker.calls);
        worker.rebalance_at = if actions.more {
            self.second + 1
        } else {
            worker.calls = 0;
            let regular = self.second + PERIOD - self.random.u32(0..PERIOD / 10);
            let over = worker.liveness.next_expiry(clock).map(|over| (over - self.start).as_secs_f64().ceil() as u32);
            over.map_or(regular, |over| regular.min(over))
        };
    }

    /// Returns how far the live workers differ in shards within a stream and over all streams, and how many shards are
    /// owned.
    fn spread(&self) -> (usize, usize, usize) {
        let mut sums = vec![0; self.workers.len()];
        let mut within = 0;
        for (stream, _) in &self.streams {
            let of = |worker: &SimWorker| worker.leases.keys().filter(|(other, _)| other == stream).count();
            let counts: Vec<usize> = self.workers.iter().map(of).collect();
            within = within.max(spread(&counts));
            for (sum, count) in sums.iter_mut().zip(counts) {
                *sum += count;
            }
        }
        (within, spread(&sums), sums.iter().sum())
    }

    fn is_balanced(&self) -> bool {
        let all: usize = self.streams.iter().map(|(_, shards)| shards.len()).sum();
        let (within, over_all, owned) = self.spread();
        within <= 1 && over_all <= 1 && owned == all
    }

    /// Runs until all shards are balanced. Returns the seconds that this took.
    fn settle(&mut self, at_most: u32) -> u32 {
        let begin = self.second;
        while !self.is_balanced() {
            assert!(self.second - begin < at_most, "not balanced after {at_most} s: {:?}", self.spread());
            self.action();
        }
        let took = self.second - begin;
        // The fleet stays balanced.
        let moves = self.total_moves();
        for _ in 0..2 * PERIOD {
            self.action();
        }
        assert!(self.is_balanced(), "out of balance again");
        assert_eq!(moves, self.total_moves(), "it moves on though all is balanced");
        took
    }

    fn total_moves(&self) -> u32 {
        self.moves.values().sum()
    }

    fn most_moves(&self) -> u32 {
        self.moves.values().copied().max().unwrap_or(0)
    }

    /// Stops a worker gracefully: its leases are released at once.
    fn stop(&mut self, at: usize) {
        let mut worker = self.workers.remove(at);
        let leases = std::mem::take(&mut worker.leases).into_values();
        now(worker.store.release(leases.map(|lease| Release::new(&lease, None, None)).collect()));
        now(worker.store.leave()).unwrap();
        for other in &self.workers {
            now(worker.store.wake(other.store.me())).unwrap();
        }
    }

    fn forget_moves(&mut self) {
        self.moves.clear();
        for worker in &mut self.workers {
            worker.most_calls = 0;
        }
    }
}

#[test]
fn fleets_settle_without_further_moves() {
    println!("workers  shards      event            settled_s  moves  most_of_one  calls_a_worker");
    let fleets: [(usize, &[usize]); 9] = [
        (1, &[1]),
        (1, &[40]),
        (6, &[24]),
        (6, &[12, 7, 1]),
        (10, &[5]),
        (30, &[100, 33]),
        (50, &[1000]),
        (100, &[500]),
        (20, &[10_000]),
    ];
    for (workers, shards) in fleets {
        let mut sim = Sim::new(workers as u64, shards);
        let all: usize = shards.iter().sum();
        let tell = |sim: &Sim, event: &str, took: u32| {
            let calls = sim.workers.iter().map(|worker| worker.most_calls).max().unwrap_or(0);
            println!(
                "{workers:>7}  {:<10}  {event:<15}  {took:>9}  {:>5}  {:>11}  {calls:>14}",
                format!("{shards:?}"),
                sim.total_moves(),
                sim.most_moves(),
            );
            // The bound covers reads and wake-ups, and a few calls for each shard that comes or goes.
            let share = all.div_ceil(workers) as u64 + 1;
            let bound = (20 + 4 * share) * (shards.len() as u64 + 1) + 2 * workers as u64;
            assert!(calls <= bound, "{calls} calls of at most {bound}");
        };

        for _ in 0..workers {
            sim.add();
        }
        let took = sim.settle(2 * PERIOD);
        tell(&sim, "start together", took);
        assert_eq!(sim.total_moves(), 0, "they start together, so nothing has to move");

        sim.forget_moves();
        sim.add();
        let took = sim.settle(2 * PERIOD);
        tell(&sim, "one more", took);
        assert!(sim.most_moves() <= 1);
        assert!(sim.total_moves() as usize <= all.div_ceil(workers + 1) + shards.len());

        if all > 1000 {
            // The other cases would take long and show nothing new.
            continue;
        }
        sim.forget_moves();
        let owned = sim.workers[0].leases.len();
        sim.stop(0);
        let took = sim.settle(2 * PERIOD);
        tell(&sim, "one stops", took);
        assert_eq!(sim.total_moves() as usize, owned, "only the shards that it had");

        if workers > 1 {
            sim.forget_moves();
            let owned = sim.workers.remove(0).leases.len();
            let took = sim.settle(LEASE + PERIOD + BEAT);
            tell(&sim, "one dies", took);
            assert_eq!(sim.total_moves() as usize, owned, "only the shards that it had");
        }
    }
}

#[test]
fn six_workers_start_together() {
    for seed in 0..50 {
        let mut sim = Sim::new(seed, &[25]);
        for _ in 0..6 {
            // The workers start within ten seconds.
            for _ in 0..fastrand::Rng::with_seed(seed).u32(0..3) {
                sim.action();
            }
            sim.add();
        }
        sim.settle(2 * PERIOD);
        assert!(sim.most_moves() <= 1, "seed {seed}: a shard moved twice");
    }
}

#[test]
fn rolling_restart_moves_as_few_shards_as_it_has_to() {
    let mut sim = Sim::new(7, &[40]);
    for _ in 0..5 {
        sim.add();
    }
    sim.settle(2 * PERIOD);
    for _ in 0..5 {
        sim.forget_moves();
        sim.stop(0);
        let away = sim.settle(2 * PERIOD);
        sim.add();
        let back = sim.settle(2 * PERIOD);
        // Eight shards must move to the other workers, and eight to the new one.
        assert_eq!(sim.total_moves(), 16, "after {away} s and {back} s");
    }
}

#[test]
fn worker_never_requests_its_own_shard() {
    let mut sim = Sim::new(3, &[10]);
    sim.add();
    sim.settle(2 * PERIOD);
    let epochs = |sim: &Sim| -> Vec<_> { sim.workers[0].leases.values().map(|lease| lease.epoch).collect() };
    let before = epochs(&sim);
    for _ in 0..10 * PERIOD {
        sim.action();
    }
    assert_eq!(epochs(&sim), before);
}

#[test]
fn shard_requested_from_one_owner_is_not_forced_from_the_next() {
    let (stream, start) = (Stream::new("orders", "arn:orders"), Instant::now());
    let shards: Vec<ShardId> = vec!["one".into(), "two".into()];
    let presence = Presence { streams: ["arn:orders".to_owned()].into(), ..Presence::default() };
    let workers = ["a", "b"].map(|id| Worker { id: id.into(), heartbeat: "1".into(), presence: presence.clone() });
    let hold = |epoch| Hold { worker: "a".into(), epoch: Some(epoch), stamp: "x".into() };
    let row = |shard: &ShardId| Row { hold: Some(hold(2)), ..Row::new(shard.clone(), None) };
    let rows: Vec<Row> = shards.iter().map(row).collect();
    let mut liveness = Liveness::new(Duration::from_secs(30));
    liveness.observe(start, &workers, [(&stream, &*rows)]);
    let now = start + Duration::from_secs(20);
    let beaten = workers.clone().map(|worker| Worker { heartbeat: "2".into(), ..worker });
    liveness.observe(now, &beaten, [(&stream, &*rows)]);
    for (epoch, forced) in [(1, false), (2, true)] {
        let asked = shards.iter().map(|shard| {
            ((stream.clone(), shard.clone()), Asked { hold: hold(epoch), until: start + Duration::from_secs(1) })
        });
        let (asked, held) = (asked.collect(), BTreeSet::new());
        let view = [StreamView { stream: &stream, rows: &rows, readable: &shards, held: &held }];
        let me = "b".into();
        let view = View {
            now,
            me: &me,
            workers: &workers,
            streams: &view,
            liveness: &liveness,
            settle: Duration::ZERO,
            asked: &asked,
        };
        let actions = rebalance::plan_shared(&view).actions;
        let [action] = &actions[..] else { panic!("{actions:?}") };
        assert_eq!(matches!(action.kind, ActionKind::Force(_)), forced, "{action:?}");
        assert_eq!(matches!(action.kind, ActionKind::Ask { .. }), !forced, "{action:?}");
    }
}
