//! What runs between connect and close?

pub(crate) mod completion;
pub(crate) mod error;
pub(crate) mod open;
pub(crate) mod overrides;
mod wiring;

use std::fmt::Display;
use std::sync::Arc;
use std::time::Duration;

use futures::future::join_all;
use pipeline_plugin_api::{Batch, Demand, InputError, State, Status};
use tokio::time::{Instant, MissedTickBehavior, interval, timeout};
use tokio_util::sync::DropGuard;
use tokio_util::task::TaskTracker;

use self::completion::{Completion, End};
use crate::delivery::in_flight;
use crate::delivery::outbox::{Closed, Outbox};
use crate::lease::heartbeat::Heartbeat;
use crate::lease::{Lease, LeaseStore, Overview, Release, SharedStore, StoreError, Worker};
use crate::model::{Stream, WorkerId};
use crate::pool::{Pool, Usage};
use crate::reading::ReaderFactory;
use crate::reading::threads::Threads;
use crate::shards::checkpointer::Checkpointer;
use crate::shards::coordinator::{Coordinator, CoordinatorEnd};
use crate::supervise::{self, FatalHandler, once};
use crate::telemetry;
use crate::telemetry::health::Health;
use crate::telemetry::report::{Connected, Report, Used};

/// How often the gauges are set and the health is checked.
const POOL_PERIOD: Duration = Duration::from_secs(1);

/// How long a close may take to leave the other workers.
const ANNOUNCE_TIMEOUT: Duration = Duration::from_secs(5);
/// How many workers are woken at close; the others notice at their next rebalance.
const WOKEN_AT_CLOSE: usize = 100;

/// A connected input. Dropping it stops its tasks; closing it also waits for them and stores what was acknowledged.
#[derive(Debug)]
pub(crate) struct Session {
    /// The streams that are read, as a text for people.
    pub(crate) target: String,
    pub(crate) streams: Vec<Stream>,
    pub(crate) pool: Pool,
    pub(crate) outbox: Arc<Outbox>,
    pub(crate) health: Arc<Health>,
    pub(crate) checkpointer: Arc<Checkpointer>,
    pub(crate) completion: Arc<Completion>,
    /// The reader factories whose consumers are deregistered at close, unless another worker reads the stream.
    pub(crate) factories: Vec<(Stream, Arc<dyn ReaderFactory>)>,
    pub(crate) tasks: TaskTracker,
    /// The threads on which shards are read.
    pub(crate) threads: Arc<Threads>,
    /// The guard that ends the releases in progress, at the latest when the session is dropped. They could otherwise go
    /// on for as long as the store can't be reached.
    pub(crate) _closing: DropGuard,
    /// The guard that stops every task that reads, at the latest when the session is dropped.
    pub(crate) stop: DropGuard,
    pub(crate) store: Arc<dyn LeaseStore>,
    /// The guard that stops the heartbeat and the checkpointer. It is used after `stop`, because deliveries in flight
    /// may still be acknowledged.
    pub(crate) keep: DropGuard,
}

/// The error that the session has ended. The reason is in [`Completion`].
#[derive(Debug, thiserror::Error)]
#[error("the input is closed")]
struct SessionOver;

#[derive(Debug, thiserror::Error)]
#[error("{0}")]
struct Failure(String);

/// The parts of an input, connected to each other but not started.
pub(crate) struct Parts {
    pub(crate) session: Session,
    pub(crate) coordinator: Coordinator,
    /// The heartbeat; `None` if the store serves only one worker.
    pub(crate) heartbeat: Option<Heartbeat>,
    pub(crate) fatal: FatalHandler,
}

impl Parts {
    /// Starts the tasks. Each task is supervised: one that panics or returns is restarted, or fails the input.
    pub(crate) fn start(self, commit_period: Duration, checkpoint_limit: usize) -> Session {
        let Self { session, coordinator, heartbeat, fatal } = self;
        let (stop, keep) = (session.stop.token().clone(), session.keep.token().clone());
        let (completion, stopped) = (Arc::clone(&session.completion), stop.clone());
        let (is_over, all_read) = (Arc::clone(&completion), Arc::clone(&completion));
        session.tasks.spawn(supervise::essential(
            "coordinator",
            fatal.clone(),
            move || stopped.is_cancelled() || is_over.end().is_some(),
            async move {
                if coordinator.run().await == CoordinatorEnd::AllRead {
                    all_read.all_read();
                }
            },
        ));
        let (checkpointer, commits) = (Arc::clone(&session.checkpointer), keep.clone());
        session.tasks.spawn(async move {
            let storing = supervise::restarted("checkpointer", move || {
                let checkpointer = Arc::clone(&checkpointer);
                async move { checkpointer.run(commit_period).await }
            });
            commits.run_until_cancelled(storing).await;
        });
        if let Some(heartbeat) = heartbeat {
            let kept = keep.clone();
            session.tasks.spawn(supervise::essential(
                "heartbeat",
                fatal,
                move || kept.is_cancelled() || completion.end().is_some(),
                async move { keep.run_until_cancelled(heartbeat.run()).await.unwrap_or_default() },
            ));
        }
        let (pool, health, outbox) = (session.pool.clone(), Arc::clone(&session.health), Arc::clone(&session.outbox));
        session.tasks.spawn(async move {
            let watching = supervise::restarted("meter", move || {
                watch(pool.clone(), Arc::clone(&health), Arc::clone(&outbox), checkpoint_limit)
            });
            stop.run_until_cancelled(watching).await;
        });
        session
    }
}

impl Session {
    pub(crate) async fn read(&self, demand: Demand) -> Result<Batch, InputError> {
        match in_flight::next_batch(&self.outbox, demand).await {
            Ok(batch) => Ok(batch),
            Err(Closed) => Err(match self.completion.end() {
                Some(End::AllRead) => InputError::EndOfInput,
                Some(End::Failed(cause)) => InputError::Fatal(Failure(cause).into()),
                None if self.outbox.is_draining() => InputError::EndOfInput,
                None => InputError::NotConnected(SessionOver.into()),
            }),
        }
    }

    /// Makes ready what was gathered for batches, and lets nothing more be gathered. Returns whether there is anything.
    pub(crate) fn drain(&self) -> bool {
        self.outbox.drain_all()
    }

    pub(crate) fn status(&self) -> Status {
        let (state, reason) = self.state();
        let mut status = pending(Status::new(state, &self.target), &self.pool);
        status.reason = reason;
        status.pending_age = Some(self.health.lag());
        status
    }

    fn state(&self) -> (State, Option<String>) {
        match (self.completion.end(), self.health.reason()) {
            (Some(End::Failed(cause)), _) => (State::Failed, Some(cause)),
            (Some(End::AllRead), _) => (State::Ended, None),
            (None, Some(reason)) => (State::Degraded, Some(reason)),
            (None, None) => (State::Connected, None),
        }
    }

    /// Reports what the worker of this name does at the moment.
    pub(crate) fn report(&self, worker: &WorkerId) -> Report {
        let now = Instant::now();
        let (state, reason) = self.state();
        let shards = self.health.shards(now);
        let unread_for = self.health.unread_for(now);
        let leases = self.health.meter.leases();
        let connected = Connected {
            streams: self.streams.clone(),
            lag: shards.iter().map(|shard| shard.lag).chain(unread_for).max().unwrap_or_default(),
            unread_for,
            leases_valid: leases.map(|(valid, _)| valid),
            workers: leases.map(|(_, workers)| workers),
            records: used(self.pool.records()),
            bytes: used(self.pool.bytes()),
            shards,
            conditions: self.health.conditions(now),
            changes: self.health.meter.changes.read(now),
        };
        let (target, worker) = (self.target.clone(), worker.clone());
        Report { state, target, reason, worker, connected: Some(connected) }
    }

    /// Reads the leases of all workers, if several share the store.
    pub(crate) async fn overview(&self) -> Result<Option<Overview>, StoreError> {
        self.store.overview().await
    }

    /// Leaves the other workers, and deregisters the consumers that no worker needs any more.
    async fn leave(&self) {
        let others = match self.store.shared() {
            Some(shared) => announce_stop(shared, &self.streams, &self.health).await,
            None => Some(Vec::new()),
        };
        for (stream, factory) in &self.factories {
            // A consumer that other workers may read with is kept.
            let reads = |other: &Worker| other.presence.streams.contains(stream.arn());
            if others.as_ref().is_some_and(|others| !others.iter().any(reads)) {
                factory.clean_up().await;
            }
        }
    }

    /// The pool, whose permits outlive the session if its host keeps receipts.
    pub(crate) fn pool(&self) -> &Pool {
        &self.pool
    }

    /// Stops reading, waits for the deliveries in flight, stores the checkpoints and releases the leases.
    pub(crate) async fn close(&self, within: Duration) -> Result<(), InputError> {
        // Before the events are dropped that were not delivered whole.
        self.checkpointer.keep_positions();
        self.outbox.close();
        self.stop.token().cancel();
        self.tasks.close();
        let all_returned = timeout(within, self.outbox.all_returned()).await.is_ok();
        self.keep.token().cancel();
        // The tasks stop at once, except for a write to the store that one of them may be in.
        self.tasks.wait().await;
        // The checkpoints are stored first, however long the rest takes to end. A host may close in a task that is not
        // supervised, so no panic gets out, and none prevents the rest.
        let stored = once("storing the last checkpoints", self.checkpointer.finish())
            .await
            .unwrap_or_else(|cause| Err(StoreError::Failed { what: "store the last checkpoints", cause }));
        self.threads.end().await;
        // A worker that was not woken notices by itself.
        let _ = once("leaving", self.leave()).await;
        self.health.meter.reading_shards(0);
        self.health.meter.report(&self.pool, Duration::ZERO, 0);
        telemetry::closed(!all_returned, stored.as_ref().map(drop).map_err(|error| error as &dyn Display));
        stored.map_err(|error| InputError::Fatal(error.into()))
    }
}

/// Adds to a status what the pool holds.
pub(crate) fn pending(mut status: Status, pool: &Pool) -> Status {
    let records = pool.records();
    status.pending_messages = records.used;
    status.capacity_messages = Some(records.capacity);
    status.pending_bytes = pool.bytes().used;
    status
}

fn used(usage: Usage) -> Used {
    Used { used: usage.used, peak: usage.peak, capacity: usage.capacity, waiting: usage.waiting }
}

/// Leaves, and wakes the other workers so that they rebalance the released shards at once. Returns those workers, if
/// they could be read.
async fn announce_stop(store: &dyn SharedStore, streams: &[Stream], health: &Health) -> Option<Vec<Worker>> {
    let mut others = None;
    let announcement = async {
        store.leave().await?;
        let others = others.insert(store.workers().await?);
        // The rows are left alone if another process uses the name of this worker, because they then belong to that
        // process.
        let ours = others.iter().all(|other| other.id != *store.me());
        let withdrawn = join_all(streams.iter().filter(|_| ours).map(|stream| withdraw_requests(store, stream))).await;
        // The other workers are woken even if that failed.
        let wake_ups = others.iter().take(WOKEN_AT_CLOSE).map(|worker| store.wake(&worker.id));
        withdrawn.into_iter().chain(join_all(wake_ups).await).collect::<Result<(), _>>()
    };
    // A worker that was not woken notices at its next rebalance.
    if let Ok(Err(error)) = timeout(ANNOUNCE_TIMEOUT, announcement).await {
        health.meter.table_failed(&error);
    }
    others
}

/// Withdraws the requests of this worker, and releases the shards that were handed over to it since the last rebalance.
async fn withdraw_requests(store: &dyn SharedStore, stream: &Stream) -> Result<(), StoreError> {
    let mut handed_over = Vec::new();
    for row in store.rows(stream).await? {
        let hold = match row.hold {
            Some(hold) if hold.worker == *store.me() => Some(hold),
            _ if row.requester.as_ref() == Some(store.me()) => store.withdraw(stream, &row.shard).await?,
            _ => None,
        };
        if let Some(epoch) = hold.and_then(|hold| hold.epoch) {
            let lease = Lease { stream: stream.clone(), shard: row.shard, epoch };
            handed_over.push(Release::new(&lease, None, None));
        }
    }
    store.release(handed_over).await.into_iter().try_for_each(|released| released.map(drop))
}

/// Keeps the metrics up to date, and reports when something is not read, delivered or stored.
async fn watch(pool: Pool, health: Arc<Health>, outbox: Arc<Outbox>, checkpoint_limit: usize) {
    let mut ticks = interval(POOL_PERIOD);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        health.report(&pool);
        health.look_for_limit(checkpoint_limit, outbox.is_asked() && !pool.has_waiters());
    }
}
