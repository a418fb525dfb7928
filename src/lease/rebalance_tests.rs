//! Does a worker do its own part of the plan, and nothing else?

use std::collections::{BTreeSet, HashMap};
use std::time::Duration;

use tokio::time::Instant;

use super::liveness::Liveness;
use super::rebalance::{
    Action, ActionKind, Asked, Occupied, Plan, StreamView, View, plan_explicit, plan_shared, settling_time,
};
use super::{Checkpoint, Hold, Presence, Row, Worker};
use crate::model::{ShardId, Stream, WorkerId};

const SECOND: Duration = Duration::from_secs(1);
const LEASE: Duration = Duration::from_secs(30);

/// The view that `me` has of one stream. A worker named `dead` sends no heartbeat after the first read of the table.
struct Scene {
    workers: Vec<Worker>,
    rows: Vec<Row>,
    readable: Vec<ShardId>,
    held: BTreeSet<ShardId>,
    /// The requests, and when each shard must be handed over, in seconds since the first read of the table.
    asked: HashMap<ShardId, (Hold, u32)>,
    settle: Duration,
    /// The seconds since the first read of the table.
    now: u32,
}

impl Scene {
    /// Makes a scene in which all shards may be read, and in which more than a lease period has passed since the first
    /// read of the table.
    fn new(workers: &[&str], rows: Vec<Row>) -> Self {
        let presence = Presence { streams: ["arn:orders".to_owned()].into(), ..Presence::default() };
        let shown = |id: &&str| Worker { id: (*id).into(), heartbeat: "1".into(), presence: presence.clone() };
        Self {
            workers: workers.iter().map(shown).collect(),
            readable: rows.iter().map(|row| row.shard.clone()).collect(),
            rows,
            held: BTreeSet::new(),
            asked: HashMap::new(),
            settle: Duration::ZERO,
            now: 40,
        }
    }

    fn rebalance<T>(&self, act: impl Fn(&View<'_>) -> T) -> T {
        let (stream, start) = (Stream::new("orders", "arn:orders"), Instant::now());
        let now = start + self.now * SECOND;
        let mut liveness = Liveness::new(LEASE);
        let mut workers = self.workers.clone();
        liveness.observe(start, &workers, [(&stream, &*self.rows)]);
        workers
            .iter_mut()
            .filter(|worker| worker.id.as_str() != "dead")
            .for_each(|worker| worker.heartbeat = "2".into());
        liveness.observe(now, &workers, [(&stream, &*self.rows)]);
        let asked = self.asked.iter().map(|(shard, (hold, until))| {
            ((stream.clone(), shard.clone()), Asked { hold: hold.clone(), until: start + *until * SECOND })
        });
        let streams = [StreamView { stream: &stream, rows: &self.rows, readable: &self.readable, held: &self.held }];
        act(&View {
            now,
            me: &"me".into(),
            workers: &workers,
            streams: &streams,
            liveness: &liveness,
            settle: self.settle,
            asked: &asked.collect(),
        })
    }

    fn plan_shared(&self) -> (Vec<ActionKind>, bool) {
        let Plan { actions, more } = self.rebalance(plan_shared);
        (actions.into_iter().map(|action| action.kind).collect(), more)
    }

    fn explicit(&self) -> Result<(Vec<ActionKind>, bool), WorkerId> {
        let actions = self.rebalance(plan_explicit).map_err(|occupied: Occupied| occupied.holder)?;
        Ok((actions.actions.into_iter().map(|action| action.kind).collect(), actions.more))
    }
}

fn hold(worker: &str) -> Hold {
    Hold { worker: worker.into(), epoch: Some(1), stamp: "x".into() }
}

fn theirs() -> Hold {
    Hold { epoch: None, ..hold("connect") }
}

fn rows(count: usize, hold: Option<&Hold>) -> Vec<Row> {
    let row = |at: usize| Row { hold: hold.cloned(), ..Row::new(format!("shard-{at:02}").as_str(), None) };
    (0..count).map(row).collect()
}

fn asks(holder: &str, count: usize) -> Vec<ActionKind> {
    vec![ActionKind::Ask { hold: hold(holder), instead_of: None }; count]
}

#[test]
fn half_of_the_free_shards_are_claimed_at_once() {
    for (free, claimed, more) in [(1, 1, false), (2, 1, true), (5, 3, true)] {
        assert_eq!(
            Scene::new(&["me"], rows(free, None)).plan_shared(),
            (vec![ActionKind::Claim; claimed], more),
            "{free} free"
        );
    }
}

#[test]
fn shards_held_under_our_own_name_are_resumed_at_once() {
    let scene = Scene::new(&["me", "other"], rows(5, Some(&hold("me"))));
    assert_eq!(scene.plan_shared(), (vec![ActionKind::Resume(hold("me")); 5], false));
}

#[test]
fn expired_shards_are_taken_over_by_the_assigned_worker() {
    let mut scene = Scene::new(&["me"], rows(5, Some(&hold("dead"))));
    assert_eq!(scene.plan_shared(), (vec![ActionKind::TakeOver(hold("dead")); 5], false));
    scene.now = 29;
    assert_eq!(scene.plan_shared(), (asks("dead", 2), true), "it may be alive");
    let two = Scene::new(&["me", "other"], rows(6, Some(&hold("dead"))));
    assert_eq!(two.plan_shared(), (vec![ActionKind::TakeOver(hold("dead")); 3], false));
}

#[test]
fn other_program_loses_one_shard_at_a_time_once_workers_have_settled() {
    let mut scene = Scene::new(&["me"], rows(6, Some(&theirs())));
    assert_eq!(scene.plan_shared(), (vec![ActionKind::Steal(theirs())], false));
    scene.settle = 60 * SECOND;
    assert_eq!(scene.plan_shared(), (vec![], true));
}

#[test]
fn requests_are_limited_to_half_of_our_share_and_at_least_four() {
    for (all, asked) in [(9, 3), (18, 4), (30, 5)] {
        let scene = Scene::new(&["me", "other", "third"], rows(all, Some(&hold("other"))));
        assert_eq!(scene.plan_shared(), (asks("other", asked), true), "{all} shards");
    }
}

#[test]
fn nothing_is_requested_before_workers_have_settled() {
    let mut scene = Scene::new(&["me", "other"], rows(4, Some(&hold("other"))));
    scene.settle = 41 * SECOND;
    assert_eq!(scene.plan_shared(), (vec![], true));
    scene.settle = 40 * SECOND;
    assert_eq!(scene.plan_shared(), (asks("other", 2), true));
}

#[test]
fn requester_that_is_gone_is_replaced() {
    let mut scene = Scene::new(&["me", "other"], rows(2, Some(&hold("other"))));
    scene.rows.iter_mut().for_each(|row| row.requester = Some("dead".into()));
    let ask = ActionKind::Ask { hold: hold("other"), instead_of: Some("dead".into()) };
    assert_eq!(scene.plan_shared(), (vec![ask], true));
    // A shard that a live worker has requested counts as that worker's.
    let mut scene = Scene::new(&["me", "other", "third"], rows(3, Some(&hold("other"))));
    scene.rows[0].requester = Some("third".into());
    scene.rows[1].requester = Some("me".into());
    assert_eq!(scene.plan_shared(), (asks("other", 1), true), "ours, which the holder may not have heard of");
}

#[test]
fn requested_shard_is_forced_only_when_due() {
    let mut scene = Scene::new(&["me", "other"], rows(2, Some(&hold("other"))));
    for row in &mut scene.rows {
        scene.asked.insert(row.shard.clone(), (hold("other"), 41));
    }
    assert_eq!(scene.plan_shared(), (vec![], true));
    for asked in scene.asked.values_mut() {
        asked.1 = 40;
    }
    assert_eq!(scene.plan_shared(), (vec![ActionKind::Force(hold("other"))], false));
}

/// It would go on reading until its lease expires.
#[test]
fn requested_shard_of_a_holder_that_may_be_cut_off_is_not_forced() {
    let mut scene = Scene::new(&["me", "dead"], rows(2, Some(&hold("dead"))));
    scene.now = 29;
    for row in &mut scene.rows {
        scene.asked.insert(row.shard.clone(), (hold("dead"), 20));
    }
    assert_eq!(scene.plan_shared(), (vec![], true));
    scene.now = 30;
    let (actions, _) = scene.plan_shared();
    assert_eq!(actions, vec![ActionKind::TakeOver(hold("dead")); 2], "its lease has expired");
}

#[test]
fn shard_that_waits_for_its_parents_counts_and_is_left_alone() {
    let mut scene = Scene::new(&["me", "other"], rows(4, Some(&hold("other"))));
    scene.readable.clear();
    assert_eq!(scene.plan_shared(), (vec![], false));
    // Two of the four shards belong to `me`, which holds their leases.
    scene.held = scene.rows[..2].iter().map(|row| row.shard.clone()).collect();
    scene.rows[..2].iter_mut().for_each(|row| row.hold = None);
    scene.readable = scene.rows[2..].iter().map(|row| row.shard.clone()).collect();
    assert_eq!(scene.plan_shared(), (vec![], false));
}

#[test]
fn waiting_shard_held_under_our_name_counts_as_ours() {
    let mut scene = Scene::new(&["me", "other"], rows(4, Some(&hold("other"))));
    scene.rows[..2].iter_mut().for_each(|row| row.hold = Some(hold("me")));
    scene.readable.drain(..2);
    assert_eq!(scene.plan_shared(), (vec![], false), "two for each");
}

#[test]
fn dead_workers_with_rows_are_assigned_nothing() {
    assert_eq!(Scene::new(&["dead", "me"], rows(4, None)).plan_shared(), (vec![ActionKind::Claim; 2], true));
}

#[test]
fn worker_of_explicit_shards_is_assigned_nothing() {
    let mut scene = Scene::new(&["me", "named"], rows(4, Some(&hold("named"))));
    scene.workers[1].presence.explicit = true;
    scene.rows[2..].iter_mut().for_each(|row| row.hold = None);
    assert_eq!(scene.plan_shared(), (vec![ActionKind::Claim], true), "of the two that are free");
    // A dead worker keeps nothing.
    scene.workers.pop();
    scene.rows[2..].iter_mut().for_each(|row| row.hold = Some(hold("me")));
    let (actions, more) = scene.plan_shared();
    assert_eq!(actions.iter().filter(|action| **action == ActionKind::TakeOver(hold("named"))).count(), 2);
    assert!(!more);
}

#[test]
fn worker_of_other_streams_is_assigned_nothing() {
    let mut scene = Scene::new(&["me", "other"], rows(2, None));
    scene.workers[1].presence.streams = ["arn:others".to_owned()].into();
    scene.rows[0].hold = Some(hold("me"));
    scene.rows[1].hold = Some(hold("dead"));
    assert_eq!(scene.plan_shared(), (vec![ActionKind::Resume(hold("me")), ActionKind::TakeOver(hold("dead"))], false));
}

#[test]
fn ended_shards_are_not_assigned() {
    let mut scene = Scene::new(&["me", "other"], rows(4, Some(&hold("other"))));
    scene.rows[..2].iter_mut().for_each(|row| row.checkpoint = Some(Checkpoint::ShardEnd(None)));
    scene.readable.drain(..2);
    assert_eq!(scene.plan_shared(), (asks("other", 1), true), "one of the two that are left");
}

#[test]
fn explicit_shard_is_claimed_if_free_expired_or_our_own() {
    for (held, what) in [
        (None, ActionKind::Claim),
        (Some(hold("me")), ActionKind::Resume(hold("me"))),
        (Some(hold("dead")), ActionKind::TakeOver(hold("dead"))),
    ] {
        let scene = Scene::new(&["me"], rows(3, held.as_ref()));
        assert_eq!(scene.explicit(), Ok((vec![what; 3], false)));
    }
}

#[test]
fn explicit_shard_of_a_live_worker_fails_and_of_an_unproven_one_waits() {
    let mut scene = Scene::new(&["me", "other"], rows(2, Some(&hold("other"))));
    assert_eq!(scene.explicit(), Err("other".into()));
    scene.held = scene.readable.iter().cloned().collect();
    assert_eq!(scene.explicit(), Ok((vec![], false)), "a shard that we hold is ours");
    let mut scene = Scene::new(&["me"], rows(2, Some(&hold("dead"))));
    scene.now = 29;
    assert_eq!(scene.explicit(), Ok((vec![], true)));
    let other = Scene::new(&["me"], rows(2, Some(&theirs())));
    assert_eq!(other.explicit(), Ok((vec![], true)), "it has not renewed it while we looked");
}

/// Returns how many actions `me` has for two streams, and whether more are left. `me` holds `ours` shards of each
/// stream.
fn share_two(workers: &[Worker], ours: [usize; 2], rows: [&[Row]; 2], free: usize) -> (usize, bool) {
    let streams = ["one", "two"].map(|name| Stream::new(name, name));
    let (start, mut liveness) = (Instant::now(), Liveness::new(LEASE));
    liveness.observe(start, workers, streams.iter().zip(rows));
    let ids =
        |kind: &str, count: usize| (0..count).map(|at| ShardId::from(&*format!("{kind}-{at}"))).collect::<Vec<_>>();
    let held = ours.map(|count| ids("ours", count).into_iter().collect::<BTreeSet<_>>());
    let readable = rows
        .map(|rows| ids("free", free).into_iter().chain(rows.iter().map(|row| row.shard.clone())).collect::<Vec<_>>());
    let seen =
        |at: usize| StreamView { stream: &streams[at], rows: rows[at], readable: &readable[at], held: &held[at] };
    let actions = plan_shared(&View {
        now: start + SECOND,
        me: &"me".into(),
        workers,
        streams: &[seen(0), seen(1)],
        liveness: &liveness,
        settle: Duration::ZERO,
        asked: &HashMap::new(),
    });
    (actions.actions.len(), actions.more)
}

#[test]
fn worker_gets_its_part_of_the_streams_that_it_reads() {
    let reads = |id: &str, streams: &[&str]| {
        let streams = streams.iter().map(|arn| (*arn).to_owned()).collect();
        Worker { id: id.into(), heartbeat: "1".into(), presence: Presence { streams, ..Presence::default() } }
    };
    let workers = [reads("me", &["one", "two"]), reads("other", &["one"])];
    // It has two of four shards and four of four; half of them are claimed at once.
    assert_eq!(share_two(&workers, [0, 0], [&[], &[]], 4), (3, true));
}

#[test]
fn other_program_gets_its_part_of_the_streams_of_which_it_holds_shards() {
    let (one, two) = (rows(1, Some(&theirs())), rows(3, Some(&Hold { epoch: None, ..hold("another") })));
    let me = Scene::new(&["me"], vec![]).workers;
    assert_eq!(share_two(&me, [1, 3], [&one, &two], 0), (0, false), "as many as we have ourselves");
    assert_eq!(share_two(&me, [1, 1], [&one, &two], 0), (1, false), "one too many");
}

#[test]
fn step_names_its_shard() {
    let scene = Scene::new(&["me"], rows(2, None));
    let actions = scene.rebalance(plan_shared).actions;
    assert_eq!(actions, [Action { stream: 0, shard: "shard-00".into(), kind: ActionKind::Claim }]);
}

#[test]
fn settling_takes_a_third_of_the_period_and_at_most_ten_seconds() {
    for (period, settled) in [(6, 2), (30, 10), (300, 10)] {
        assert_eq!(settling_time(period * SECOND), settled * SECOND);
    }
}
