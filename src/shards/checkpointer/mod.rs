//! When is progress stored, and when is a lease released?
//!
//! Progress is stored every `commit_period`, for all shards at once, and only where it moved. An idle shard is stored
//! from time to time all the same: its checkpoint must not become older than the stream's retention, and programs that
//! judge leases by the time in their rows must see that the shard is read.
//!
//! Which phases a shard passes until its lease is given up, and what ends in each, is in [`owned`](super::owned).

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;

use pipeline_plugin_api::deadline;
use tokio::sync::{Notify, Semaphore};
use tokio::time::{MissedTickBehavior, interval, sleep, timeout, timeout_at};
use tokio_util::sync::{CancellationToken, DropGuard};
use tokio_util::task::TaskTracker;

use crate::delivery::outbox::Outbox;
use crate::delivery::progress::Progress;
use crate::lease::{Commit, CommitOutcome, LeaseStore, Release, Row, StoreError};
use crate::model::{SequenceNumber, ShardId, Stream, WorkerId};
use crate::retry::backoff::Backoff;
use crate::shards::owned::{Due, Key, Last, OwnedShard};
use crate::supervise::{self, FatalHandler};
use crate::sync::{Mutex, lock};
use crate::telemetry;
use crate::telemetry::health::{Aspect, Health, Part};

/// How often the checkpoint of an idle shard is stored, if the store serves only one worker.
const IDLE_PERIOD: Duration = Duration::from_mins(5);
/// The number of lease periods after which an idle lease is renewed, if several workers share the store. Redpanda
/// Connect takes leases that were not renewed for three.
const IDLE_LEASES: f64 = 1.5;
/// The first and the longest delay before a call to the store is retried.
const FIRST_RETRY: Duration = Duration::from_millis(300);
const LATEST_RETRY: Duration = Duration::from_secs(5);

/// How long the release of all leases together may take at the end.
const FINISHED_WITHIN: Duration = Duration::from_secs(15);
/// How many leases may be released at once. More would only wait for each other in the store.
const RELEASES_AT_ONCE: usize = 16;

/// The checkpointer, which holds the leases of all shards that are read and stores their checkpoints.
#[derive(Debug)]
pub(crate) struct Checkpointer {
    store: Arc<dyn LeaseStore>,
    /// The leases that are held. A shard is added when it is claimed, and removed when its lease is released or lost.
    shards: Mutex<BTreeMap<Key, OwnedShard>>,
    /// The lock that allows one flush at a time, and none during a release: an older write must not overtake a newer
    /// one.
    flushing: tokio::sync::RwLock<()>,
    /// The permits that limit how many leases are released at once.
    release_slots: Semaphore,
    health: Arc<Health>,
    fatal: FatalHandler,
    /// The time after which an idle lease is renewed.
    idle: Duration,
    /// How long acks are waited for before a lease is released.
    grace: Duration,
    /// The signal that a lease is gone or requested, so that the coordinator rebalances.
    look: Notify,
    /// The releases in progress.
    releases: TaskTracker,
    /// The token that says that the input is closing: the remaining leases are released by [`finish`](Self::finish).
    closing: CancellationToken,
}

/// The outcome of storing a shard end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum EndStored {
    Stored,
    /// Another worker holds the shard now.
    Lost,
}

/// The reason why a lease is released.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum ReleaseReason {
    /// Another worker requested the shard.
    HandOver(WorkerId),
    /// The lease could not be renewed in time, or the shard turned out to be ended when it was claimed.
    Expired,
}

impl Checkpointer {
    /// Makes a checkpointer. Leases last for `lease`, and acks are waited for at most `grace` before a release.
    pub(crate) fn new(
        store: Arc<dyn LeaseStore>,
        health: Arc<Health>,
        fatal: FatalHandler,
        lease: Duration,
        grace: Duration,
    ) -> Self {
        let idle = if store.shared().is_some() { lease.mul_f64(IDLE_LEASES) } else { IDLE_PERIOD };
        Self {
            store,
            shards: Mutex::default(),
            flushing: tokio::sync::RwLock::new(()),
            release_slots: Semaphore::new(RELEASES_AT_ONCE),
            health,
            fatal,
            idle,
            grace,
            look: Notify::new(),
            releases: TaskTracker::new(),
            closing: CancellationToken::new(),
        }
    }

    /// Adds a shard that was claimed.
    pub(crate) fn add(&self, shard: OwnedShard) {
        lock(&self.shards).insert(shard.key(), shard);
    }

    /// Makes a commit that only renews the lease of a shard; `None` if the shard is not held any more.
    pub(crate) fn renewal(&self, progress: &Progress) -> Option<Commit> {
        let shards = lock(&self.shards);
        let shard = shards.get(&key_of(progress)).filter(|shard| shard.is_of(progress))?;
        Some(shard.renewal())
    }

    /// Returns how many shards are held.
    pub(crate) fn len(&self) -> usize {
        lock(&self.shards).len()
    }

    /// Returns the shards of a stream that are held, including those that are being released.
    pub(crate) fn held(&self, stream: &Stream) -> BTreeSet<ShardId> {
        lock(&self.shards).keys().filter(|(other, _)| other == stream).map(|(_, shard)| shard.clone()).collect()
    }

    /// Waits until a lease is gone or requested. Cancel safe.
    pub(crate) async fn rebalance_wanted(&self) {
        self.look.notified().await;
    }

    /// Stores what is due, indefinitely. A caller that drops this future must call [`finish`](Self::finish).
    pub(crate) async fn run(self: &Arc<Self>, period: Duration) {
        let mut ticks = interval(period);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            match self.flush().await {
                Ok(()) => self.health.stored(),
                Err(error) => self.health.store_failed(&error),
            }
        }
    }

    /// Stores what is due. Returns the first error; other checkpoints are stored all the same.
    async fn flush(self: &Arc<Self>) -> Result<(), StoreError> {
        let _turn = self.flushing.write().await;
        let due = self.due();
        if due.is_empty() {
            return Ok(());
        }
        let (due, commits): (Vec<Due>, Vec<Commit>) = due.into_iter().unzip();
        let written = self.store.commit(commits).await;
        self.note(due, written)
    }

    /// Notes the outcomes of writes. Returns the first error.
    fn note(&self, due: Vec<Due>, written: Vec<Result<CommitOutcome, StoreError>>) -> Result<(), StoreError> {
        let (mut outcome, mut stored) = (Ok(()), 0);
        for (due, written) in due.into_iter().zip(written) {
            match written {
                Ok(CommitOutcome::Stored { requester, .. }) => {
                    stored += 1;
                    self.stored(due, requester.as_ref());
                }
                Ok(CommitOutcome::Lost { holder }) => self.lost(&due.key, due.epoch, &holder),
                Err(error) => outcome = outcome.and(Err(error)),
            }
        }
        telemetry::stored(stored);
        outcome
    }

    /// Returns the commits that are due: checkpoints that moved, and leases that have been idle for too long.
    fn due(&self) -> Vec<(Due, Commit)> {
        // If several workers share the store, a lease is renewed even if its checkpoint never moved.
        let renews = self.store.shared().is_some();
        lock(&self.shards).values().filter_map(|shard| shard.due(self.idle, renews)).collect()
    }

    fn stored(&self, due: Due, requester: Option<&WorkerId>) {
        let mut shards = lock(&self.shards);
        // The shard may have been released and claimed again meanwhile.
        let Some(shard) = shards.get_mut(&due.key).filter(|shard| shard.epoch() == due.epoch) else { return };
        shard.stored(due);
        if shard.is_reading() && requester.is_some() && requester != shard.dead_requester.as_ref() {
            // A rebalance finds out whether the requester is alive.
            self.look.notify_one();
        }
    }

    fn lost(&self, key: &Key, epoch: u64, holder: &str) {
        // The shard may have been released and claimed again meanwhile.
        if self.remove(key, |shard| shard.epoch() == epoch) {
            self.health.meter.lease_lost(&key.0, &key.1, holder);
            self.look.notify_one();
        }
    }

    /// Removes a shard whose lease is released or lost, if it is the one that is meant. Returns whether it was.
    fn remove(&self, key: &Key, is_meant: impl FnOnce(&OwnedShard) -> bool) -> bool {
        let removed = {
            let mut shards = lock(&self.shards);
            if shards.get(key).is_some_and(is_meant) { shards.remove(key) } else { None }
        };
        let is_removed = removed.is_some();
        self.revoke(removed);
        is_removed
    }

    /// Ends everything about shards that were removed.
    fn revoke(&self, removed: impl IntoIterator<Item = OwnedShard>) {
        for shard in removed {
            let progress = shard.revoke();
            self.health.forget(&progress.names);
        }
    }

    /// Stops reading the shards of a stream that does not exist any more. Nothing of them is stored, because another
    /// stream has its name.
    pub(crate) fn abandon(&self, stream: &Stream) {
        let abandoned: Vec<OwnedShard> = {
            let mut shards = lock(&self.shards);
            let keys: Vec<Key> = shards.keys().filter(|(other, _)| other == stream).cloned().collect();
            keys.iter().filter_map(|key| shards.remove(key)).collect()
        };
        self.revoke(abandoned);
    }

    /// Returns a guard that ends the releases in progress when it is dropped.
    pub(crate) fn closing(&self) -> DropGuard {
        self.closing.clone().drop_guard()
    }

    /// Compares the leases with the rows of the store. Lost leases are dropped, and shards that live workers requested
    /// are handed over. A shard that was handed over to a dead worker would not be read.
    pub(crate) fn reconcile(self: &Arc<Self>, stream: &Stream, rows: &[Row], is_alive: impl Fn(&WorkerId) -> bool) {
        let rows: HashMap<&ShardId, &Row> = rows.iter().map(|row| (&row.shard, row)).collect();
        let (mut lost, mut asked) = (Vec::new(), Vec::new());
        for (key, shard) in
            lock(&self.shards).iter_mut().filter(|((other, _), shard)| other == stream && shard.is_reading())
        {
            let hold = rows.get(&key.1).and_then(|row| row.hold.as_ref());
            let requester = rows.get(&key.1).and_then(|row| row.requester.clone());
            match hold {
                Some(hold) if hold.epoch == Some(shard.epoch()) => {
                    let (taker, dead) = match requester {
                        Some(worker) if is_alive(&worker) => (Some(worker), None),
                        other => (None, other),
                    };
                    asked.extend(taker.map(|taker| (key.clone(), taker)));
                    shard.dead_requester = dead;
                }
                other => {
                    let holder = other.map_or_else(|| "nobody".to_owned(), |hold| hold.worker.to_string());
                    lost.push((key.clone(), shard.epoch(), holder));
                }
            }
        }
        for (key, epoch, holder) in lost {
            self.lost(&key, epoch, &holder);
        }
        for (key, taker) in asked {
            self.begin_release(&key, ReleaseReason::HandOver(taker));
        }
    }

    /// Stops reading all shards at once and releases their leases, because none of them is valid any more.
    pub(crate) fn release_all(self: &Arc<Self>) {
        let keys: Vec<Key> = lock(&self.shards).keys().cloned().collect();
        for key in keys {
            self.begin_release(&key, ReleaseReason::Expired);
        }
    }

    /// Keeps the positions behind what is acknowledged above gaps, in all shards, because reading is about to stop.
    pub(crate) fn keep_positions(&self) {
        for shard in lock(&self.shards).values() {
            shard.progress().keep_positions();
        }
    }

    /// Starts to release a lease: reading stops, and then the deliveries in flight are waited for, the checkpoint is
    /// stored and the lease is released.
    pub(crate) fn begin_release(self: &Arc<Self>, key: &Key, why: ReleaseReason) {
        let (progress, outbox) = {
            let shards = lock(&self.shards);
            let Some(shard) = shards.get(key).filter(|shard| shard.is_reading()) else { return };
            match &why {
                ReleaseReason::HandOver(_) => shard.stop_reading_and_drain(),
                ReleaseReason::Expired => {
                    shard.stop_reading();
                }
            }
            (Arc::clone(shard.progress()), Arc::clone(shard.outbox()))
        };
        match &why {
            ReleaseReason::HandOver(requester) => telemetry::handing_over(&key.0, &key.1, requester),
            ReleaseReason::Expired => telemetry::lease_expired(&key.0, &key.1),
        }
        let (this, key, closing) = (Arc::clone(self), key.clone(), self.closing.clone());
        let fatal = self.fatal.clone();
        // If this task ended unnoticed, the lease would be renewed and its shard read by no worker.
        self.releases.spawn(supervise::essential("release", fatal, || true, async move {
            closing.run_until_cancelled(this.release(&key, &progress, &outbox, why)).await;
        }));
    }

    async fn release(&self, key: &Key, progress: &Progress, outbox: &Outbox, why: ReleaseReason) {
        // Records that are not taken or not acknowledged in time will be read again. What is taken late could hardly be
        // acknowledged in time.
        let until = deadline(self.grace);
        let _ = timeout(self.grace / 2, outbox.drained(&progress.names)).await;
        outbox.forget(&progress.names);
        let _ = timeout_at(until, progress.returned()).await;
        let to = match why {
            ReleaseReason::HandOver(requester) => Some(requester),
            ReleaseReason::Expired => None,
        };
        if self.give_back(key, progress, Last::Acked { to: to.clone() }).await == EndStored::Lost {
            return;
        }
        self.health.meter.released(&key.0, &key.1, to.as_ref());
        if let (Some(requester), Some(shared)) = (&to, self.store.shared())
            && let Err(error) = shared.wake(requester).await
        {
            self.health.meter.table_failed(&error);
        }
        self.look.notify_one();
    }

    /// Stores the last state of a shard and releases its lease in one write, however long it takes.
    async fn give_back(&self, key: &Key, progress: &Progress, last: Last) -> EndStored {
        let mut backoff = Backoff::new(FIRST_RETRY, LATEST_RETRY);
        loop {
            let written = {
                let _turn = self.flushing.read().await;
                let _permit = self.release_slots.acquire().await;
                let Some(release) = self.release_of(key, progress, &last) else { return EndStored::Lost };
                let epoch = release.epoch();
                self.store.release(vec![release]).await.into_iter().next().map(|written| (written, epoch))
            };
            match written {
                Some((Ok(CommitOutcome::Stored { .. }), _)) => {
                    self.remove(key, |shard| shard.is_of(progress));
                    return EndStored::Stored;
                }
                Some((Ok(CommitOutcome::Lost { holder }), epoch)) => {
                    self.lost(key, epoch, &holder);
                    return EndStored::Lost;
                }
                Some((Err(error), _)) => self.give_back_failed(key, progress, &last, &error),
                None => {}
            }
            sleep(backoff.next_delay(fastrand::f64())).await;
        }
    }

    fn give_back_failed(&self, key: &Key, progress: &Progress, last: &Last, error: &StoreError) {
        match last {
            Last::End(_) => self.health.end_failed(&progress.names, error),
            Last::Acked { .. } => {
                telemetry::release_failed(&key.0, &key.1, error);
                self.health.failing(
                    Part::of(&progress.names, Aspect::End),
                    &format_args!("its lease can't be released: {error}"),
                );
            }
        }
    }

    /// Makes the release of a shard; `None` if its lease is not held any more, even if the shard was claimed again.
    fn release_of(&self, key: &Key, progress: &Progress, last: &Last) -> Option<Release> {
        let shards = lock(&self.shards);
        let shard = shards.get(key).filter(|shard| shard.is_of(progress))?;
        if let Last::Acked { .. } = last {
            // Records that are acknowledged from here on are not stored.
            shard.freeze();
        }
        Some(shard.release(last))
    }

    /// Stores the end of a shard, however long it takes, and releases its lease.
    ///
    /// # Cancel safety
    ///
    /// If this future is dropped, the end may or may not have been stored. The shard is then read on from its last
    /// position, where its end is found again.
    pub(crate) async fn store_end(&self, progress: &Progress, last: Option<SequenceNumber>) -> EndStored {
        let stored = self.give_back(&key_of(progress), progress, Last::End(last)).await;
        if stored == EndStored::Stored {
            telemetry::stored(1);
        }
        stored
    }

    /// Stores what was acknowledged and releases all leases; later acks change nothing. A store that doesn't answer is
    /// waited for at most [`FINISHED_WITHIN`]; records whose acks it has not received are read again.
    pub(crate) async fn finish(&self) -> Result<(), StoreError> {
        timeout(FINISHED_WITHIN, self.give_all_back()).await.unwrap_or_else(|_| {
            let cause = format!("the store did not answer within {} s", FINISHED_WITHIN.as_secs());
            Err(StoreError::Failed { what: "store the last checkpoints", cause })
        })
    }

    async fn give_all_back(&self) -> Result<(), StoreError> {
        self.closing.cancel();
        self.releases.close();
        self.releases.wait().await;
        let _turn = self.flushing.write().await;
        let shards = std::mem::take(&mut *lock(&self.shards));
        let releases = shards.values().map(|shard| {
            shard.freeze();
            shard.release(&Last::Acked { to: None })
        });
        let releases = releases.collect();
        let mut outcome = Ok(());
        let mut stored = 0;
        for (key, written) in shards.keys().zip(self.store.release(releases).await) {
            match written {
                Ok(CommitOutcome::Stored { .. }) => stored += 1,
                Ok(CommitOutcome::Lost { holder }) => self.health.meter.lease_lost(&key.0, &key.1, &holder),
                Err(error) => outcome = outcome.and(Err(error)),
            }
        }
        telemetry::stored(stored);
        self.revoke(shards.into_values());
        outcome
    }
}

fn key_of(progress: &Progress) -> Key {
    (progress.names.stream.clone(), progress.names.shard.clone())
}

#[cfg(test)]
mod tests;
