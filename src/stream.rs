//! Who reads the shards of one stream?
//!
//! One task a stream: it finds the shards, claims those that may be read, starts a task for each, and learns from
//! their ends which come next. It reads nothing itself and restarts nobody: a shard's task lives until the shard is
//! over, lost or fatal.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::runtime::Handle;
use tokio::task::{Id, JoinError, JoinSet};
use tokio::time::{Instant, MissedTickBehavior, interval_at};
use tokio_util::sync::CancellationToken;

use crate::checkpoint::Checkpointer;
use crate::delivery::Progress;
use crate::efo::subscription::{Shared, Subscription};
use crate::ending::Ending;
use crate::lease::{Claim, LeaseStore, Place};
use crate::names::{ShardId, Stream};
use crate::outbox::Outbox;
use crate::record::ShardNames;
use crate::shard::task::{Outcome, ShardTask};
use crate::telemetry;
use crate::threads::Threads;
use crate::topology::Topology;

/// When many shards start at once, they spread over so long for each of them: the service admits a limited rate.
const START_SPREAD: Duration = Duration::from_millis(2);

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
}

/// The reader of one stream.
#[derive(Debug)]
pub(crate) struct StreamReader {
    pub(crate) stream: Stream,
    pub(crate) topology: Topology,
    pub(crate) shared: Shared,
    pub(crate) threads: Arc<Threads>,
    pub(crate) store: Arc<dyn LeaseStore>,
    pub(crate) checkpointer: Arc<Checkpointer>,
    pub(crate) outbox: Arc<Outbox>,
    pub(crate) ending: Arc<Ending>,
    pub(crate) settings: Settings,
    pub(crate) stop: CancellationToken,
}

/// The shards' tasks, and which task is whose.
#[derive(Debug, Default)]
struct Running {
    tasks: JoinSet<Outcome>,
    shards: HashMap<Id, ShardId>,
}

impl StreamReader {
    /// Reads until it is told to stop, or until all that was asked for is read. When it returns, no task of it runs.
    pub(crate) async fn run(mut self) {
        let mut running = Running::default();
        let mut ticks = interval_at(Instant::now() + self.settings.rebalance_period, self.settings.rebalance_period);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        // What was lost or refused rests until the next tick.
        let mut resting = Vec::new();
        let stop = self.stop.clone();
        self.start_readable(&mut running, &mut resting).await;
        loop {
            if self.topology.all_ended() {
                self.ending.stream_is_read();
                break;
            }
            tokio::select! {
                biased;
                () = stop.cancelled() => break,
                Some(ended) = running.tasks.join_next_with_id() => {
                    self.ended(ended, &mut running, &mut resting).await;
                }
                _ = ticks.tick() => {
                    for id in resting.drain(..) {
                        self.topology.released(&id);
                    }
                    self.refresh(self.settings.rebalance_period / 2).await;
                    self.start_readable(&mut running, &mut resting).await;
                }
            }
        }
        // Each task is told by the same token; nobody is left behind.
        while running.tasks.join_next().await.is_some() {}
    }

    /// Looks at the listing.
    async fn refresh(&mut self, max_age: Duration) {
        // The service may take long to answer, and close doesn't wait for it.
        let listing = self.stop.run_until_cancelled(self.shared.shards.list(max_age)).await;
        match listing {
            None => {}
            Some(Ok(listed)) => {
                for shard in self.topology.listed(listed.to_vec()) {
                    telemetry::vanished_before_connect(&self.stream, &shard);
                }
            }
            Some(Err(fault)) => telemetry::listing_failed(&self.stream, &fault),
        }
    }

    async fn start_readable(&mut self, running: &mut Running, resting: &mut Vec<ShardId>) {
        let readable = self.topology.readable();
        let spread = START_SPREAD.saturating_mul(readable.len() as u32);
        for id in readable {
            match self.store.claim(&self.stream, &id).await {
                Ok(Claim::Owned(lease, Place::End(last))) => {
                    // Someone else finished it after we looked.
                    self.topology.claimed(&id);
                    self.topology.ended(&id, last);
                    if let Err(error) = self.store.release(vec![lease]).await {
                        telemetry::store_failed(&error);
                    }
                }
                Ok(Claim::Owned(lease, place)) => {
                    self.topology.claimed(&id);
                    let names = Arc::new(ShardNames { stream: self.stream.clone(), shard: id.clone() });
                    let start = self.topology.start(&id, &place);
                    telemetry::resumed_at(&names, &start);
                    let progress =
                        Arc::new(Progress::new(names, self.settings.checkpoint_limit, self.settings.replay_nacks));
                    let stop = self.stop.child_token();
                    self.checkpointer.add(lease, Arc::clone(&progress), stop.clone());
                    let begin = Instant::now() + spread.mul_f64(fastrand::f64());
                    let thread = self.threads.next();
                    let (shared, service) = (self.shared.clone(), Arc::clone(&thread.service));
                    let subscription = Subscription::new(shared, service, Arc::clone(&progress), start, begin);
                    let task = ShardTask {
                        reader: Box::new(subscription),
                        lane: self.outbox.lane(&progress.names),
                        progress,
                        pool: self.shared.pool.clone(),
                        health: Arc::clone(&self.shared.health),
                        checkpointer: Arc::clone(&self.checkpointer),
                        slice: self.settings.slice,
                        deaggregate: self.settings.deaggregate,
                        seen_open: self.topology.seen_open(&id),
                        stop,
                    };
                    running.start(id, task, &thread.handle);
                }
                Ok(Claim::HeldBy(holder)) => {
                    telemetry::held(&self.stream, &id, &holder);
                    resting.push(id);
                }
                Err(error) => {
                    telemetry::store_failed(&error);
                    resting.push(id);
                }
            }
        }
        telemetry::reading_shards(self.checkpointer.len());
    }

    /// A shard's task is over.
    async fn ended(
        &mut self,
        ended: Result<(Id, Outcome), JoinError>,
        running: &mut Running,
        resting: &mut Vec<ShardId>,
    ) {
        let (task, outcome) = match ended {
            Ok((task, outcome)) => (task, outcome),
            Err(error) => {
                self.ending.fail(format!("stream {}: the task of a shard broke: {error}", self.stream));
                return;
            }
        };
        let Some(id) = running.shards.remove(&task) else { return };
        match outcome {
            Outcome::Ended { children, last } => {
                self.topology.children(&children);
                self.topology.ended(&id, last);
                if self.topology.wants_listing() {
                    self.refresh(Duration::ZERO).await;
                }
                self.start_readable(running, resting).await;
            }
            Outcome::Stopped => resting.push(id),
            Outcome::Failed(error) => self.ending.fail(error.to_string()),
        }
    }
}

impl Running {
    fn start(&mut self, id: ShardId, task: ShardTask, on: &Handle) {
        let handle = self.tasks.spawn_on(task.run(), on);
        self.shards.insert(handle.id(), id);
    }
}
