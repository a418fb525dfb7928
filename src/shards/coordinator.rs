//! Which worker reads which shards of the streams, and since when?
//!
//! Each input has one coordinator task. From time to time it rebalances: it reads which shards exist and which workers
//! hold them, claims those that this worker should have, and starts a task for each. When a shard ends, it goes on with
//! the children at once. It reads no records itself and restarts no tasks: a shard task runs until its shard has ended,
//! is lost, is requested by another worker, or can't be read.
//!
//! The actions of a rebalance are decided in [`rebalance`](crate::lease::rebalance), which is pure; expired leases are
//! detected in [`liveness`](crate::lease::liveness). The coordinator does not wait for lost leases: the
//! [`Checkpointer`] stops the reading at once.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;

use futures::future::{join_all, try_join_all};
use tokio::runtime::Handle;
use tokio::sync::Notify;
use tokio::task::{Id, JoinError, JoinSet};
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;

use super::former_rows::report_unreadable;
use super::task::Outcome;
use crate::config::OutOfRange;
use crate::delivery::outbox::Outbox;
use crate::delivery::redelivery::RedeliveryPolicy;
use crate::lease::liveness::Liveness;
use crate::lease::rebalance::{self, Action, ActionKind, Asked, SOON, StreamView, View};
use crate::lease::validity::LeaseValidity;
use crate::lease::{LeaseStore, Row, SharedStore, StoreError, Worker};
use crate::model::{ShardId, ShardListing, Stream, WorkerId};
use crate::pool::Pool;
use crate::reading::ReaderFactory;
use crate::reading::listing::{StreamIdentity, StreamListing};
use crate::reading::threads::Threads;
use crate::retry::Fault;
use crate::shards::checkpointer::Checkpointer;
use crate::shards::topology::Topology;
use crate::supervise::{self, FatalHandler};
use crate::telemetry;
use crate::telemetry::health::Health;

/// The longest delay of the first rebalance, which lets workers that start together see each other.
const START_JITTER: Duration = Duration::from_secs(2);
/// The shortest time between two listings that may confirm something.
const JUDGE_AGAIN: Duration = Duration::from_millis(500);
/// The delay before the next rebalance after the table could not be read, and between other retries.
pub(super) const RETRY_AFTER: Duration = Duration::from_secs(2);

/// The settings that the coordinator and the shard tasks need.
#[derive(Debug, Clone)]
pub(crate) struct ReadSettings {
    pub(crate) checkpoint_limit: u64,
    /// What becomes of nacked records.
    pub(crate) redelivery: RedeliveryPolicy,
    /// The most records in one delivery.
    pub(crate) slice: usize,
    /// Whether aggregated records are split into the records that they contain.
    pub(crate) deaggregate: bool,
    /// What becomes of user records of aggregates that belong to another shard.
    pub(crate) out_of_range: OutOfRange,
    pub(crate) rebalance_period: Duration,
    pub(crate) lease_period: Duration,
    /// The time within which a requested shard must be handed over.
    pub(crate) handed_over_within: Duration,
    /// Whether the configuration names the shards.
    pub(crate) explicit: bool,
}

/// One stream, and what is known about its shards.
#[derive(Debug)]
pub(crate) struct StreamState {
    pub(crate) stream: Stream,
    pub(crate) topology: Topology,
    pub(crate) listing: Arc<StreamListing>,
    pub(crate) readers: Arc<dyn ReaderFactory>,
}

/// The parts that the coordinator works with.
#[derive(Debug)]
pub(crate) struct Context {
    pub(crate) threads: Arc<Threads>,
    pub(crate) store: Arc<dyn LeaseStore>,
    pub(crate) validity: Arc<LeaseValidity>,
    pub(crate) checkpointer: Arc<Checkpointer>,
    pub(crate) outbox: Arc<Outbox>,
    pub(crate) pool: Pool,
    /// The handler that fails the input.
    pub(crate) fatal: FatalHandler,
    pub(crate) health: Arc<Health>,
    pub(crate) settings: ReadSettings,
    /// The signal to rebalance now, which the heartbeat and the listings send.
    pub(crate) rebalance_now: Arc<Notify>,
    /// The token that stops the coordinator and all shard tasks.
    pub(crate) stop: CancellationToken,
}

/// The way in which a coordinator ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum CoordinatorEnd {
    /// Everything that was to be read is read, acknowledged and stored.
    AllRead,
    /// The coordinator was told to stop.
    Stopped,
}

/// The coordinator of all streams of an input.
#[derive(Debug)]
pub(crate) struct Coordinator {
    pub(super) streams: Vec<StreamState>,
    pub(super) context: Context,
    pub(super) liveness: Liveness,
    /// The requests of this worker to other workers. A request is removed when the shard is claimed, or a lease period
    /// after it was due.
    pub(super) asked: HashMap<(Stream, ShardId), Asked>,
    pub(super) running: Running,
    /// Since when each shard of a stream has been read by no worker, as far as was seen. Every rebalance updates it and
    /// reports the earliest time to the health.
    pub(super) unread: HashMap<(usize, ShardId), Instant>,
    /// The streams of which everything that was to be read is read.
    pub(super) done: BTreeSet<usize>,
    /// The streams with rows of former ones that could not be set aside yet.
    pub(super) leftovers: BTreeSet<usize>,
}

/// The content of the table.
pub(super) struct TableView {
    /// When the first read of the table began. The content is from then or later, so a worker that appears silent was
    /// silent until then at least.
    pub(super) asked_at: Instant,
    pub(super) workers: Vec<Worker>,
    /// The rows of each stream.
    pub(super) rows: Vec<Vec<Row>>,
}

/// The shard tasks, and the shard of each task.
#[derive(Debug, Default)]
pub(super) struct Running {
    tasks: JoinSet<Outcome>,
    shards: HashMap<Id, (usize, ShardId, Stream)>,
}

impl Coordinator {
    pub(crate) fn new(streams: Vec<StreamState>, context: Context) -> Self {
        let liveness = Liveness::new(context.settings.lease_period);
        Self {
            streams,
            context,
            liveness,
            asked: HashMap::new(),
            running: Running::default(),
            unread: HashMap::new(),
            done: BTreeSet::new(),
            leftovers: BTreeSet::new(),
        }
    }

    /// Runs until it is told to stop, or until everything that was to be read is read. When it returns, none of its
    /// tasks runs any more.
    pub(crate) async fn run(mut self) -> CoordinatorEnd {
        let stop = self.context.stop.clone();
        let mut next = Instant::now();
        if self.context.store.shared().is_some() && !self.context.settings.explicit {
            let jitter = START_JITTER.min(self.context.settings.rebalance_period / 10);
            next += jitter.mul_f64(0.5 + 0.5 * fastrand::f64());
        }
        let mut end = CoordinatorEnd::AllRead;
        while !self.all_read() {
            tokio::select! {
                biased;
                () = stop.cancelled() => {
                    end = CoordinatorEnd::Stopped;
                    break;
                }
                Some(ended) = self.running.tasks.join_next_with_id() => self.ended(ended).await,
                () = self.context.rebalance_now.notified() => next = Instant::now(),
                () = self.context.checkpointer.rebalance_wanted() => next = next.min(Instant::now() + SOON),
                () = sleep_until(next) => {
                    let Some(after) = self.rebalance().await else {
                        end = CoordinatorEnd::Stopped;
                        break;
                    };
                    next = Instant::now() + after;
                }
            }
        }
        // All tasks are stopped by the same token, so none of them remains.
        while self.running.tasks.join_next().await.is_some() {}
        end
    }

    fn all_read(&mut self) -> bool {
        for (at, state) in self.streams.iter().enumerate() {
            if state.topology.all_ended() {
                self.done.insert(at);
            }
        }
        self.done.len() == self.streams.len()
    }

    /// Reads the table and carries out the plan. Returns when the next rebalance is due, or `None` if it was told to
    /// stop.
    ///
    /// The service and the store may take long to answer. A close waits for none of these calls except claims: see
    /// [`claim`](Self::claim).
    async fn rebalance(&mut self) -> Option<Duration> {
        let period = self.context.settings.rebalance_period;
        let (stop, store) = (self.context.stop.clone(), Arc::clone(&self.context.store));
        let Some(store) = store.shared() else {
            stop.run_until_cancelled(self.restart_recreated_streams()).await?;
            stop.run_until_cancelled(self.refresh_all(period / 2)).await?;
            stop.run_until_cancelled(self.set_aside_leftovers()).await?;
            stop.run_until_cancelled(self.remove_vanished_rows()).await?;
            self.release_vanished();
            for at in 0..self.streams.len() {
                self.claim_free(at, None).await;
            }
            self.note_unread(&[]);
            let period = if self.leftovers.is_empty() { period } else { RETRY_AFTER.min(period) };
            return Some(self.until_judged(period));
        };
        if self.context.validity.is_expired() {
            // Other workers consider this one dead. The heartbeat reports when it is alive again.
            return Some(RETRY_AFTER.min(period));
        }
        stop.run_until_cancelled(self.restart_recreated_streams()).await?;
        let seen = match stop.run_until_cancelled(self.read_table(store)).await? {
            Ok(seen) => seen,
            Err(error) => {
                self.context.health.table_failed(&error);
                return Some(RETRY_AFTER.min(period));
            }
        };
        self.context.health.table_read();
        stop.run_until_cancelled(self.refresh_all(period / 2)).await?;
        if self.streams.iter().any(|state| state.listing.has_successor()) {
            // The rows that were read are of a stream that is gone.
            return Some(Duration::ZERO);
        }
        stop.run_until_cancelled(self.store_ends_found_elsewhere(store)).await?;
        self.release_vanished();
        let more = self.carry_out(store, &seen).await;
        self.note_unread(&seen.rows);
        stop.run_until_cancelled(self.remove_garbage(store, &seen)).await?;
        if more {
            return Some(SOON.min(period));
        }
        let regular = period.mul_f64(0.9 + 0.1 * fastrand::f64());
        // The next rebalance comes at the latest when the lease of a silent worker expires.
        let over = self.liveness.next_expiry(seen.asked_at).map(|over| over.saturating_duration_since(Instant::now()));
        Some(self.until_judged(over.map_or(regular, |over| regular.min(over))))
    }

    /// Returns this time, or the time until a listing may confirm what the last one left open.
    fn until_judged(&self, time: Duration) -> Duration {
        let judges_at = self.streams.iter().filter_map(|state| state.topology.judges_at()).min();
        judges_at.map_or(time, |at| time.min(at.saturating_duration_since(Instant::now()).max(JUDGE_AGAIN)))
    }

    /// Updates since when shards have been read by no worker: those that could be read and are not held by a live
    /// worker.
    fn note_unread(&mut self, rows: &[Vec<Row>]) {
        let now = Instant::now();
        let mut unread = HashMap::new();
        for (at, state) in self.streams.iter_mut().enumerate() {
            let ours = self.context.checkpointer.held(&state.stream);
            let held: BTreeSet<&ShardId> = rows
                .get(at)
                .into_iter()
                .flatten()
                .filter(|row| {
                    let hold = row.hold.as_ref();
                    hold.is_some_and(|hold| !self.liveness.is_expired(&state.stream, &row.shard, hold, now))
                })
                .map(|row| &row.shard)
                .collect();
            for shard in state.topology.unread() {
                if !ours.contains(&shard) && !held.contains(&shard) {
                    let key = (at, shard);
                    let since = self.unread.get(&key).copied().unwrap_or(now);
                    unread.insert(key, since);
                }
            }
        }
        self.unread = unread;
        self.context.health.unread_since(self.unread.values().min().copied());
    }

    /// Obtains listings that are at most this old, or new ones where they are needed.
    async fn refresh_all(&mut self, max_age: Duration) {
        let listings = join_all(self.streams.iter().map(|state| {
            let is_due = state.topology.judges_at().is_some_and(|at| at <= Instant::now());
            let max_age = if is_due || state.topology.wants_listing() { Duration::ZERO } else { max_age };
            state.listing.list(max_age)
        }));
        let listings = listings.await;
        for (at, listing) in listings.into_iter().enumerate() {
            self.listed(at, listing).await;
        }
    }

    /// Takes in a listing. Returns whether there is one.
    pub(super) async fn listed(&mut self, at: usize, listing: Result<ShardListing, Fault>) -> bool {
        let state = &mut self.streams[at];
        let listing = match listing {
            Ok(listing) => listing,
            Err(fault) => {
                self.context.health.listing_failed(&state.stream, &fault);
                return false;
            }
        };
        self.context.health.listed(&state.stream);
        let learned = state.topology.listed(&listing);
        for shard in &learned.gone {
            telemetry::vanished_before_connect(&state.stream, shard);
        }
        let is_known = match state.stream.created() {
            Some(_) if learned.doubted => state.listing.identity(listing.asked_at).await == StreamIdentity::Same,
            _ => true,
        };
        if !is_known {
            // The next listing raises the question again, unless the stream is restarted meanwhile.
            return true;
        }
        state.topology.is_same_stream();
        if learned.recreated && state.stream.created().is_none() {
            // The service does not say when the stream was created, and the shards are evidence enough.
            let stream = state.stream.clone();
            self.restart_stream(at, stream).await;
        } else if !learned.contradicted.is_empty() {
            self.set_aside(at, &learned.contradicted).await;
        }
        true
    }

    /// Makes the shards whose leases this worker no longer holds available for a new claim.
    fn release_vanished(&mut self) {
        for (at, state) in self.streams.iter_mut().enumerate() {
            let held = self.context.checkpointer.held(&state.stream);
            for shard in state.topology.reading() {
                if !held.contains(&shard) && !self.running.has(at, &shard) {
                    state.topology.released(&shard);
                }
            }
        }
    }

    /// Reads the table.
    async fn read_table(&mut self, store: &dyn SharedStore) -> Result<TableView, StoreError> {
        let asked_at = Instant::now();
        let rows = try_join_all(self.streams.iter().map(|state| store.rows(&state.stream))).await?;
        // The workers are read after the rows: a worker that claimed a shard in between has sent a heartbeat before, so
        // no shard is taken from a worker that has just come back.
        let workers = store.workers().await?;
        let answered_at = Instant::now();
        let seen = self.streams.iter().zip(&rows).map(|(state, rows)| (&state.stream, &**rows));
        self.liveness.observe(answered_at, &workers, seen);
        for (state, rows) in self.streams.iter_mut().zip(&rows) {
            // Reading under a lost lease stops before anything else.
            let is_alive = |worker: &WorkerId| self.liveness.is_alive(worker, asked_at);
            self.context.checkpointer.reconcile(&state.stream, rows, is_alive);
            report_unreadable(&self.context.health, &state.stream, rows);
        }
        let mut of_this_stream = Vec::with_capacity(rows.len());
        for (at, rows) in rows.into_iter().enumerate() {
            let rows = self.without_former(at, rows).await;
            self.streams[at].topology.learn(&rows, answered_at);
            of_this_stream.push(rows);
        }
        Ok(TableView { asked_at, workers, rows: of_this_stream })
    }

    /// Stores the end of shards that another program has finished, so that no worker has to find out again.
    async fn store_ends_found_elsewhere(&mut self, store: &dyn SharedStore) {
        for state in &mut self.streams {
            for shard in state.topology.ended_elsewhere() {
                match store.end(&state.stream, &shard).await {
                    Ok(true) => {}
                    // Another worker has started to read the shard in the meantime.
                    Ok(false) => state.topology.not_ended(&shard),
                    Err(error) => self.context.health.table_failed(&error),
                }
            }
        }
    }

    /// Carries out this worker's part of the plan. Returns whether something is left to do soon.
    async fn carry_out(&mut self, store: &dyn SharedStore, seen: &TableView) -> bool {
        let TableView { asked_at, workers, rows } = seen;
        let held: Vec<_> = self.streams.iter().map(|state| self.context.checkpointer.held(&state.stream)).collect();
        let readable: Vec<_> = self.streams.iter_mut().map(|state| state.topology.readable()).collect();
        let streams: Vec<StreamView<'_>> = (self.streams.iter().enumerate())
            .map(|(at, state)| StreamView {
                stream: &state.stream,
                rows: &rows[at],
                readable: &readable[at],
                held: &held[at],
            })
            .collect();
        let settle = rebalance::settling_time(self.context.settings.rebalance_period);
        let (me, liveness, asked) = (store.me(), &self.liveness, &self.asked);
        let view = View { now: *asked_at, me, workers, streams: &streams, liveness, settle, asked };
        self.context
            .health
            .meter
            .workers(workers.iter().filter(|worker| self.liveness.is_alive(&worker.id, *asked_at)).count());
        let actions = if self.context.settings.explicit {
            match rebalance::plan_explicit(&view) {
                Ok(actions) => actions,
                Err(taken) => {
                    let stream = self.streams[taken.stream].stream.clone();
                    self.context.fatal.report(occupied(&stream, &taken.shard, &taken.holder));
                    return false;
                }
            }
        } else {
            rebalance::plan_shared(&view)
        };
        let (asks, claims): (Vec<Action>, Vec<Action>) =
            actions.actions.into_iter().partition(|action| matches!(action.kind, ActionKind::Ask { .. }));
        if self.context.stop.clone().run_until_cancelled(self.ask(store, asks)).await.is_none() {
            return false;
        }
        let got = self.claim(claims).await;
        self.start_all(got);
        // A request that was answered in another way, or not at all, is forgotten a lease period after it was due.
        let patience = self.context.settings.lease_period;
        let now = Instant::now();
        self.asked.retain(|_, asked| asked.until + patience > now);
        actions.more
    }

    /// Handles the end of a shard task.
    async fn ended(&mut self, ended: Result<(Id, Outcome), JoinError>) {
        let (task, outcome) = match ended {
            Ok((task, outcome)) => (task, outcome),
            Err(error) => {
                let shard = self.running.shards.remove(&error.id());
                let of = shard.map_or_else(String::new, |(_, id, stream)| format!(" of {stream} {id}"));
                let cause = match error.try_into_panic() {
                    Ok(panic) => supervise::message(&*panic),
                    Err(error) => error.to_string(),
                };
                telemetry::task_ended("shard", &cause, false);
                let what = format!("the task{of} ended unexpectedly ({cause}); this is a bug, please report it");
                self.context.fatal.report(what);
                return;
            }
        };
        // The tasks of a former stream are forgotten.
        let Some((at, id, _)) = self.running.shards.remove(&task) else { return };
        match outcome {
            Outcome::Ended { children, last } => {
                let stop = self.context.stop.clone();
                let state = &mut self.streams[at];
                state.topology.children(&children, Instant::now());
                state.topology.ended(&id, last);
                if state.topology.wants_listing() {
                    let period = self.context.settings.rebalance_period;
                    stop.run_until_cancelled(self.refresh_all(period / 2)).await;
                }
                // The worker that read the parent goes on with the children. A later rebalance decides whether another
                // worker should have them.
                let children: Vec<ShardId> = children.into_iter().map(|child| child.id).collect();
                let only = self.context.store.shared().is_some().then_some(&*children);
                self.claim_free(at, only).await;
            }
            Outcome::Stopped => {}
            Outcome::Failed(error) => self.context.fatal.report(error.to_string()),
        }
    }
}

fn occupied(stream: &Stream, shard: &ShardId, holder: &WorkerId) -> String {
    format!(
        "stream {stream}: shard {shard} was asked for by name, and worker {holder} reads it; stop that worker, or leave the \
         shard out"
    )
}

impl Running {
    pub(super) fn start(
        &mut self,
        shard: (usize, ShardId, Stream),
        task: impl Future<Output = Outcome> + Send + 'static,
        on: &Handle,
    ) {
        let handle = self.tasks.spawn_on(task, on);
        self.shards.insert(handle.id(), shard);
    }

    /// Forgets the tasks of a stream, whose ends count no more.
    pub(super) fn forget(&mut self, stream: usize) {
        self.shards.retain(|_, (at, _, _)| *at != stream);
    }

    fn has(&self, stream: usize, shard: &ShardId) -> bool {
        self.shards.values().any(|(at, id, _)| *at == stream && id == shard)
    }
}
