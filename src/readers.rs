//! Who reads which shards of the streams, and from when on?
//!
//! One task an input. Now and then it makes a round: it looks which shards there are and who has them, claims those that
//! it should have, and starts a task for each. When a shard ends, it goes on with its children at once. It reads nothing
//! itself and restarts nobody: a shard's task lives until the shard is over, lost, asked for, or fatal.
//!
//! What a round does is decided in [`round`](crate::lease::round), purely; who holds leases too long in
//! [`watch`](crate::lease::watch). Losing one is not waited for here: the [`Checkpointer`] stops the reading at once.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;

use futures::future::{join_all, try_join_all};
use futures::stream::{self, StreamExt};
use tokio::runtime::Handle;
use tokio::sync::Notify;
use tokio::task::{Id, JoinError, JoinSet};
use tokio::time::{Instant, sleep, sleep_until};
use tokio_util::sync::CancellationToken;

use crate::checkpoint::Checkpointer;
use crate::delivery::Progress;
use crate::efo::subscription::{Shared, Subscription};
use crate::ending::Ending;
use crate::lease::keeper::Tenure;
use crate::lease::round::{self, SOON, Sight, Step, StreamSight, What};
use crate::lease::watch::Watch;
use crate::lease::{Claim, From, Lease, LeaseStore, Place, Row, SharedStore, StoreError, Worker, Write, Written};
use crate::names::{ShardId, Stream, WorkerId};
use crate::outbox::Outbox;
use crate::record::ShardNames;
use crate::shard::task::{Outcome, ShardTask};
use crate::telemetry::{self, Claimed};
use crate::threads::Threads;
use crate::topology::{Start, Topology};

/// When many shards start at once, they spread over so long for each of them: the service admits a limited rate.
const START_SPREAD: Duration = Duration::from_millis(2);
/// Calls to the store on their way at once.
const CALLS_AT_ONCE: usize = 16;
/// The first round comes so much later at most, so that workers that start together see each other.
const START_JITTER: Duration = Duration::from_secs(2);
/// After a look that failed.
const LOOK_AGAIN: Duration = Duration::from_secs(2);

/// The settings of the configuration that matter here.
#[derive(Debug, Clone)]
pub(crate) struct Settings {
    pub(crate) checkpoint_limit: u64,
    pub(crate) replay_nacks: bool,
    /// The most records delivered at once.
    pub(crate) slice: usize,
    /// Aggregated records are to be taken apart.
    pub(crate) deaggregate: bool,
    pub(crate) rebalance_period: Duration,
    pub(crate) lease_period: Duration,
    /// Within what time a shard that was asked for is to be handed over.
    pub(crate) handed_over_within: Duration,
    /// The shards were named in the configuration.
    pub(crate) explicit: bool,
}

/// One stream, and what is known of its shards.
#[derive(Debug)]
pub(crate) struct StreamState {
    pub(crate) stream: Stream,
    pub(crate) topology: Topology,
    pub(crate) shared: Shared,
}

/// Everything the task works with.
#[derive(Debug)]
pub(crate) struct Tools {
    pub(crate) threads: Arc<Threads>,
    pub(crate) store: Arc<dyn LeaseStore>,
    pub(crate) tenure: Arc<Tenure>,
    pub(crate) checkpointer: Arc<Checkpointer>,
    pub(crate) outbox: Arc<Outbox>,
    pub(crate) ending: Arc<Ending>,
    pub(crate) settings: Settings,
    /// Somebody wants a round now.
    pub(crate) look: Arc<Notify>,
    pub(crate) stop: CancellationToken,
}

/// The readers of all streams of an input.
#[derive(Debug)]
pub(crate) struct Readers {
    streams: Vec<StreamState>,
    tools: Tools,
    watch: Watch,
    /// What we asked other workers for, and until when they are to hand it over.
    asked: HashMap<(Stream, ShardId), Instant>,
    running: Running,
    /// Streams of which everything that was asked for is read.
    done: BTreeSet<usize>,
}

/// The shards' tasks, and which task is whose.
#[derive(Debug, Default)]
struct Running {
    tasks: JoinSet<Outcome>,
    shards: HashMap<Id, (usize, ShardId)>,
}

/// A shard that is ours now.
struct Got {
    stream: usize,
    lease: Lease,
    place: Place,
    /// Its holder before, who knows no requests, may store a place until then.
    settles: Option<Instant>,
}

impl Readers {
    pub(crate) fn new(streams: Vec<StreamState>, tools: Tools) -> Self {
        let watch = Watch::new(tools.settings.lease_period);
        Self { streams, tools, watch, asked: HashMap::new(), running: Running::default(), done: BTreeSet::new() }
    }

    /// Reads until it is told to stop, or until all that was asked for is read. When it returns, no task of it runs.
    pub(crate) async fn run(mut self) {
        let stop = self.tools.stop.clone();
        let mut next = Instant::now();
        if self.tools.store.shared().is_some() && !self.tools.settings.explicit {
            let jitter = START_JITTER.min(self.tools.settings.rebalance_period / 10);
            next += jitter.mul_f64(0.5 + 0.5 * fastrand::f64());
        }
        while !self.all_read() {
            tokio::select! {
                biased;
                () = stop.cancelled() => break,
                Some(ended) = self.running.tasks.join_next_with_id() => self.ended(ended).await,
                () = self.tools.look.notified() => next = Instant::now(),
                () = self.tools.checkpointer.lease_gone() => next = next.min(Instant::now() + SOON),
                () = sleep_until(next) => {
                    // The service and the store may take long to answer, and close doesn't wait for them.
                    let Some(after) = stop.run_until_cancelled(self.round()).await else { break };
                    next = Instant::now() + after;
                }
            }
        }
        // Each task is told by the same token; nobody is left behind.
        while self.running.tasks.join_next().await.is_some() {}
    }

    fn all_read(&mut self) -> bool {
        for (at, state) in self.streams.iter().enumerate() {
            if state.topology.all_ended() && self.done.insert(at) {
                self.tools.ending.stream_is_read();
            }
        }
        self.done.len() == self.streams.len()
    }

    /// Looks, and does what is to be done. Returns after what time the next one is due.
    async fn round(&mut self) -> Duration {
        let period = self.tools.settings.rebalance_period;
        self.refresh_all(period / 2).await;
        self.give_up_what_is_gone();
        let store = Arc::clone(&self.tools.store);
        let Some(store) = store.shared() else {
            for at in 0..self.streams.len() {
                self.claim_free(at, None).await;
            }
            return period;
        };
        match self.look(store).await {
            Ok((workers, rows)) => {
                let more = self.act(store, &workers, &rows).await;
                self.tidy(store, &workers, &rows).await;
                if more {
                    return SOON.min(period);
                }
                let regular = period.mul_f64(0.9 + 0.1 * fastrand::f64());
                // When one that is silent will be seen to be gone.
                let now = Instant::now();
                self.watch.next_over(now).map_or(regular, |over| regular.min(over - now))
            }
            Err(error) => {
                telemetry::look_failed(&error);
                LOOK_AGAIN.min(period)
            }
        }
    }

    async fn refresh_all(&mut self, max_age: Duration) {
        let listings = join_all(self.streams.iter().map(|state| state.shared.shards.list(max_age))).await;
        for (state, listing) in self.streams.iter_mut().zip(listings) {
            match listing {
                Ok(listed) => {
                    for shard in state.topology.listed(listed.to_vec()) {
                        telemetry::vanished_before_connect(&state.stream, &shard);
                    }
                }
                Err(fault) => telemetry::listing_failed(&state.stream, &fault),
            }
        }
    }

    /// What nobody here has a lease of any more, may be claimed again.
    fn give_up_what_is_gone(&mut self) {
        for (at, state) in self.streams.iter_mut().enumerate() {
            let in_hand = self.tools.checkpointer.in_hand(&state.stream);
            for shard in state.topology.reading() {
                if !in_hand.contains(&shard) && !self.running.has(at, &shard) {
                    state.topology.released(&shard);
                }
            }
        }
    }

    /// Reads the table.
    async fn look(&mut self, store: &dyn SharedStore) -> Result<(Vec<Worker>, Vec<Vec<Row>>), StoreError> {
        let rows = try_join_all(self.streams.iter().map(|state| store.rows(&state.stream)));
        let (workers, rows) = tokio::try_join!(store.workers(), rows)?;
        let seen = self.streams.iter().zip(&rows).map(|(state, rows)| (&state.stream, &**rows));
        self.watch.look(Instant::now(), &workers, seen);
        for (state, rows) in self.streams.iter_mut().zip(&rows) {
            // What was lost stops before anything else.
            self.tools.checkpointer.compare(&state.stream, rows);
            state.topology.learn(rows);
            for shard in state.topology.ended_elsewhere() {
                store_end_elsewhere(store, &state.stream, &shard).await;
            }
        }
        self.give_up_what_is_gone();
        Ok((workers, rows))
    }

    /// Carries out our part of the plan. Whether something is left to do soon.
    async fn act(&mut self, store: &dyn SharedStore, workers: &[Worker], rows: &[Vec<Row>]) -> bool {
        let now = Instant::now();
        let in_hand: Vec<_> = self.streams.iter().map(|state| self.tools.checkpointer.in_hand(&state.stream)).collect();
        let readable: Vec<_> = self.streams.iter_mut().map(|state| state.topology.readable()).collect();
        let streams: Vec<StreamSight<'_>> = (self.streams.iter().enumerate())
            .map(|(at, state)| StreamSight {
                stream: &state.stream,
                rows: &rows[at],
                readable: &readable[at],
                in_hand: &in_hand[at],
            })
            .collect();
        let settle = round::settle(self.tools.settings.rebalance_period);
        let (me, watch, asked) = (store.me(), &self.watch, &self.asked);
        let sight = Sight { now, me, workers, streams: &streams, watch, settle, asked };
        telemetry::workers(workers.iter().filter(|worker| self.watch.is_alive(&worker.id, now)).count());
        let steps = if self.tools.settings.explicit {
            match round::told(&sight) {
                Ok(steps) => steps,
                Err(taken) => {
                    let stream = self.streams[taken.stream].stream.clone();
                    self.tools.ending.fail(occupied(&stream, &taken.shard, &taken.holder));
                    return false;
                }
            }
        } else {
            round::share(&sight)
        };
        let (asks, claims): (Vec<Step>, Vec<Step>) =
            steps.steps.into_iter().partition(|step| matches!(step.what, What::Ask(_)));
        self.ask(store, asks, now).await;
        let got = self.claim(claims).await;
        self.start_all(got);
        // What was asked for and came otherwise, or not at all, is not waited for any more.
        let patience = self.tools.settings.lease_period;
        self.asked.retain(|_, deadline| *deadline + patience > now);
        steps.more
    }

    async fn ask(&mut self, store: &dyn SharedStore, asks: Vec<Step>, now: Instant) {
        let streams = &self.streams;
        let asking = stream::iter(asks).map(|step| async move {
            let stream = &streams[step.stream].stream;
            let What::Ask(hold) = &step.what else { return None };
            match store.ask(stream, &step.shard, hold).await {
                Ok(true) => Some((stream.clone(), step.shard, hold.worker.clone())),
                // Somebody else was quicker.
                Ok(false) => None,
                Err(error) => {
                    telemetry::look_failed(&error);
                    None
                }
            }
        });
        let asked: Vec<_> = asking.buffer_unordered(CALLS_AT_ONCE).filter_map(std::future::ready).collect().await;
        let mut holders = BTreeSet::new();
        for (stream, shard, holder) in asked {
            telemetry::asked(&stream, &shard, &holder);
            self.asked.insert((stream, shard), now + self.tools.settings.handed_over_within);
            holders.insert(holder);
        }
        for holder in holders {
            if let Err(error) = store.nudge(&holder).await {
                telemetry::look_failed(&error);
            }
        }
    }

    /// Claims what is to be claimed; what we got.
    async fn claim(&mut self, steps: Vec<Step>) -> Vec<Got> {
        let (streams, store, settings) = (&self.streams, &self.tools.store, &self.tools.settings);
        let claiming = stream::iter(steps).map(|step| async move {
            let stream = &streams[step.stream].stream;
            let (from, how, hold) = match &step.what {
                What::Claim => (From::Nobody, Claimed::Free, None),
                What::Resume(hold) => (From::Holder(hold), Claimed::PassedOn, Some(hold)),
                What::TakeOver(hold) => (From::Unchanged(hold), Claimed::LeftBehind, Some(hold)),
                What::Force(hold) => (From::Holder(hold), Claimed::Forced, Some(hold)),
                What::Steal(hold) => (From::Holder(hold), Claimed::Stolen, Some(hold)),
                What::Ask(_) => return None,
            };
            match store.claim(stream, &step.shard, from).await {
                Ok(Claim::Owned(lease, place)) => {
                    telemetry::claimed(stream, &step.shard, how, hold);
                    let settles =
                        matches!(step.what, What::Steal(_)).then(|| Instant::now() + settings.handed_over_within);
                    Some(Got { stream: step.stream, lease, place, settles })
                }
                Ok(Claim::HeldBy(holder)) => {
                    telemetry::held(stream, &step.shard, &holder);
                    None
                }
                Err(error) => {
                    telemetry::look_failed(&error);
                    None
                }
            }
        });
        let got: Vec<Got> = claiming.buffer_unordered(CALLS_AT_ONCE).filter_map(std::future::ready).collect().await;
        for got in &got {
            self.asked.remove(&(got.lease.stream.clone(), got.lease.shard.clone()));
        }
        got
    }

    /// Claims what is free, of those that may be read: all, or just these.
    async fn claim_free(&mut self, at: usize, only: Option<&[ShardId]>) {
        let readable = self.streams[at].topology.readable().into_iter();
        let readable = readable.filter(|shard| only.is_none_or(|only| only.contains(shard)));
        let steps = readable.map(|shard| Step { stream: at, shard, what: What::Claim }).collect();
        let got = self.claim(steps).await;
        self.start_all(got);
    }

    fn start_all(&mut self, got: Vec<Got>) {
        let spread = START_SPREAD.saturating_mul(got.len() as u32);
        for got in got {
            self.start(got, spread);
        }
        telemetry::reading_shards(self.tools.checkpointer.len());
    }

    fn start(&mut self, got: Got, spread: Duration) {
        let Got { stream: at, lease, place, settles } = got;
        let tools = &self.tools;
        let state = &mut self.streams[at];
        let id = lease.shard.clone();
        state.topology.claimed(&id);
        if let Place::End(last) = place {
            // Someone else finished it after we looked.
            state.topology.ended(&id, last);
            let (store, lease) = (Arc::clone(&tools.store), lease.back(Place::Nowhere, None));
            self.running.tasks.spawn(async move {
                if let Some(Err(error)) = store.release(vec![lease]).await.pop() {
                    telemetry::store_failed(&error);
                }
                Outcome::Stopped
            });
            return;
        }
        let names = Arc::new(ShardNames { stream: state.stream.clone(), shard: id.clone() });
        let start = state.topology.start(&id, &place);
        telemetry::resumed_at(&names, &start);
        let progress = Progress::new(names, tools.settings.checkpoint_limit, tools.settings.replay_nacks);
        let progress = Arc::new(progress);
        let stop = tools.stop.child_token();
        let epoch = lease.epoch;
        let settling = settles.map(|until| (until, Arc::clone(&tools.store), epoch));
        tools.checkpointer.add(lease, Arc::clone(&progress), stop.clone());
        let begin = Instant::now() + spread.mul_f64(fastrand::f64());
        let thread = tools.threads.next();
        let lane = tools.outbox.lane(&progress.names);
        let (shared, service) = (state.shared.clone(), Arc::clone(&thread.service));
        let task = ShardTask {
            reader: Box::new(Subscription::new(shared, service, Arc::clone(&progress), start, begin)),
            lane,
            progress,
            pool: state.shared.pool.clone(),
            health: Arc::clone(&state.shared.health),
            checkpointer: Arc::clone(&tools.checkpointer),
            tenure: Arc::clone(&tools.tenure),
            slice: tools.settings.slice,
            deaggregate: tools.settings.deaggregate,
            seen_open: state.topology.seen_open(&id),
            stop,
        };
        match settling {
            None => self.running.start((at, id), task.run(), &thread.handle),
            Some(settling) => self.running.start((at, id), after_the_last_commit(settling, task), &thread.handle),
        }
    }

    /// A shard's task is over.
    async fn ended(&mut self, ended: Result<(Id, Outcome), JoinError>) {
        let (task, outcome) = match ended {
            Ok((task, outcome)) => (task, outcome),
            Err(error) => {
                self.tools.ending.fail(format!("the task of a shard broke: {error}"));
                return;
            }
        };
        let Some((at, id)) = self.running.shards.remove(&task) else { return };
        match outcome {
            Outcome::Ended { children, last } => {
                let stop = self.tools.stop.clone();
                let state = &mut self.streams[at];
                state.topology.children(&children);
                state.topology.ended(&id, last);
                if state.topology.wants_listing() {
                    stop.run_until_cancelled(self.refresh_all(Duration::ZERO)).await;
                }
                // Who read the parent goes on with the children. Whether another should have them, a round will see.
                let children: Vec<ShardId> = children.into_iter().map(|child| child.id).collect();
                let only = self.tools.store.shared().is_some().then_some(&*children);
                stop.run_until_cancelled(self.claim_free(at, only)).await;
            }
            Outcome::Stopped => {}
            Outcome::Failed(error) => self.tools.ending.fail(error.to_string()),
        }
    }

    /// Removes rows that nobody needs any more. One worker does it for all.
    async fn tidy(&mut self, store: &dyn SharedStore, workers: &[Worker], rows: &[Vec<Row>]) {
        let now = Instant::now();
        let alive = workers.iter().filter(|worker| self.watch.is_alive(&worker.id, now));
        if alive.map(|worker| &worker.id).min() != Some(store.me()) {
            return;
        }
        for worker in self.watch.long_dead(workers, now) {
            if let Err(error) = store.bury(worker).await {
                telemetry::look_failed(&error);
            }
        }
        for (state, rows) in self.streams.iter().zip(rows) {
            for row in state.topology.forgettable(rows) {
                let held = row.hold.as_ref();
                if held.is_some_and(|hold| !self.watch.is_over(&state.stream, &row.shard, hold, now)) {
                    continue;
                }
                if let Err(error) = store.forget(&state.stream, row).await {
                    telemetry::look_failed(&error);
                }
            }
        }
    }
}

/// Stores that a shard is ended which another program is done with, so that nobody has to find out again.
async fn store_end_elsewhere(store: &dyn SharedStore, stream: &Stream, shard: &ShardId) {
    match store.claim(stream, shard, From::Nobody).await {
        Ok(Claim::Owned(lease, _)) => {
            if let Some(Err(error)) = store.release(vec![lease.back(Place::End(None), None)]).await.pop() {
                telemetry::store_failed(&error);
            }
        }
        Ok(Claim::HeldBy(_)) => {}
        Err(error) => telemetry::store_failed(&error),
    }
}

/// Waits until the holder before has stored its last place, and reads on from there.
async fn after_the_last_commit(settling: (Instant, Arc<dyn LeaseStore>, u64), mut task: ShardTask) -> Outcome {
    let (until, store, epoch) = settling;
    let wait = async {
        sleep_until(until).await;
        loop {
            let ShardNames { stream, shard } = &*task.progress.names;
            let renewal = Write { stream: stream.clone(), shard: shard.clone(), epoch, place: Place::Nowhere };
            match store.commit(vec![renewal]).await.pop() {
                Some(Ok(Written::Stored { place, .. })) => return Some(place),
                Some(Ok(Written::Lost { .. })) | None => return None,
                Some(Err(error)) => telemetry::store_failed(&error),
            }
            sleep(LOOK_AGAIN).await;
        }
    };
    match task.stop.clone().run_until_cancelled(wait).await {
        Some(Some(place)) => {
            if let Place::After(place) = place {
                task.reader.start_at(Start::After(place));
            }
            task.run().await
        }
        Some(None) | None => Outcome::Stopped,
    }
}

fn occupied(stream: &Stream, shard: &ShardId, holder: &WorkerId) -> String {
    format!(
        "stream {stream}: shard {shard} was asked for by name, and worker {holder} reads it; stop that worker, or leave the \
         shard out"
    )
}

impl Running {
    fn start(&mut self, shard: (usize, ShardId), task: impl Future<Output = Outcome> + Send + 'static, on: &Handle) {
        let handle = self.tasks.spawn_on(task, on);
        self.shards.insert(handle.id(), shard);
    }

    fn has(&self, stream: usize, shard: &ShardId) -> bool {
        self.shards.values().any(|(at, id)| *at == stream && id == shard)
    }
}
