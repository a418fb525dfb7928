//! When is progress stored, and when is a lease given back?
//!
//! Every `commit_period`, for all shards at once, and only where it moved. A shard that is idle is stored now and
//! then all the same: so that its place doesn't grow older than the stream's retention, and so that programs which judge
//! leases by the time in their rows see that it is read.
//!
//! ```text
//!            ┌── committed, renewed ──┐
//!            ▼                        │            asked for, or our leases are over
//! add ──▶ in hand ────────────────────┴──▶ leaving: stop reading ─▶ wait for acks ─▶ last place and release in one write
//!            └── the store says that it is lost ──▶ stop reading, forget
//! ```

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{Notify, Semaphore};
use tokio::time::{Instant, MissedTickBehavior, interval, sleep, timeout};
use tokio_util::sync::{CancellationToken, DropGuard};
use tokio_util::task::TaskTracker;

use crate::delivery::outbox::Outbox;
use crate::delivery::progress::Progress;
use crate::lease::{Checkpoint, Commit, CommitOutcome, Lease, LeaseStore, Release, Row, StoreError};
use crate::model::{SequenceNumber, ShardId, Stream, WorkerId};
use crate::retry::backoff::Backoff;
use crate::supervise::{self, FatalHandler};
use crate::sync::{Mutex, lock};
use crate::telemetry;
use crate::telemetry::health::{Aspect, Health, Part};

/// How often the place of an idle shard is stored where nobody else looks.
const IDLE_PERIOD: Duration = Duration::from_mins(5);
/// Where others look, an idle lease is renewed after so many lease periods. Connect takes what was not renewed for three.
const IDLE_LEASES: f64 = 1.5;
/// How long to wait before the store is asked again, at first and at most.
const FIRST_RETRY: Duration = Duration::from_millis(300);
const LATEST_RETRY: Duration = Duration::from_secs(5);

/// How long all leases together may take to be given back at the end.
const FINISHED_WITHIN: Duration = Duration::from_secs(15);
/// Leases that are given back at once. More would only wait for each other in the store.
const RELEASES_AT_ONCE: usize = 16;

type Key = (Stream, ShardId);

/// Has charge of the leases of all shards that are read, and stores how far these are.
#[derive(Debug)]
pub(crate) struct Checkpointer {
    store: Arc<dyn LeaseStore>,
    outbox: Arc<Outbox>,
    shards: Mutex<BTreeMap<Key, Entry>>,
    /// One flush at a time, and none while leases are given back: an older write must not overtake a newer one.
    flushing: tokio::sync::RwLock<()>,
    /// Leases that may be given back at once.
    release_slots: Semaphore,
    health: Arc<Health>,
    fatal: FatalHandler,
    /// How often an idle lease is renewed.
    idle: Duration,
    /// How long acks are waited for when a lease is to be given back.
    grace: Duration,
    /// Signals that a lease is gone or asked for, so that somebody looks what that means.
    look: Notify,
    /// The leases that are being given back.
    releases: TaskTracker,
    /// The input is closing: what is left is given back by [`finish`](Self::finish).
    closing: CancellationToken,
}

#[derive(Debug)]
struct Entry {
    lease: Lease,
    progress: Arc<Progress>,
    /// Cancelled when the shard is not to be read any more.
    stop: CancellationToken,
    /// It is being given back.
    releasing: bool,
    /// Who asked for it and was not alive when we looked.
    dead_requester: Option<WorkerId>,
    stored: Option<SequenceNumber>,
    stored_done: u64,
    stored_at: Instant,
}

impl Entry {
    /// Whether it is of this reading of its shard. Another may have begun, under a lease of its own, since one was given up.
    fn is_of(&self, progress: &Progress) -> bool {
        std::ptr::eq(&raw const *self.progress, progress)
    }
}

/// What became of a shard's end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum EndStored {
    Stored,
    /// The shard is someone else's now.
    Lost,
}

/// What is stored last of a shard.
#[derive(Debug)]
enum Last {
    /// What has been acknowledged, for the worker that requested the shard, or for no one.
    Acked { to: Option<WorkerId> },
    /// The end of the shard, with the last position if anything of it was read.
    End(Option<SequenceNumber>),
}

/// Why a lease is given back.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum ReleaseReason {
    /// Another worker asked for it.
    HandOver(WorkerId),
    /// It could not be renewed in time.
    Expired,
}

impl Checkpointer {
    /// Leases last for `lease`, and acks are waited for at most `grace` before one is given back.
    pub(crate) fn new(
        store: Arc<dyn LeaseStore>,
        outbox: Arc<Outbox>,
        health: Arc<Health>,
        fatal: FatalHandler,
        lease: Duration,
        grace: Duration,
    ) -> Self {
        let idle = if store.shared().is_some() { lease.mul_f64(IDLE_LEASES) } else { IDLE_PERIOD };
        Self {
            store,
            outbox,
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

    /// Takes charge of a shard, and of its lease. `stop` is cancelled when it is not to be read any more.
    pub(crate) fn add(&self, lease: Lease, progress: Arc<Progress>, stop: CancellationToken) {
        let key = (lease.stream.clone(), lease.shard.clone());
        let entry = Entry {
            lease,
            progress,
            stop,
            releasing: false,
            dead_requester: None,
            stored: None,
            stored_done: 0,
            stored_at: Instant::now(),
        };
        lock(&self.shards).insert(key, entry);
    }

    /// A commit that only renews the lease of a shard; `None` if the shard is not held any more.
    pub(crate) fn renewal(&self, progress: &Progress) -> Option<Commit> {
        let key = (progress.names.stream.clone(), progress.names.shard.clone());
        let shards = lock(&self.shards);
        let entry = shards.get(&key).filter(|entry| entry.is_of(progress))?;
        Some(Commit::new(&entry.lease, None))
    }

    /// How many shards it is in charge of.
    pub(crate) fn len(&self) -> usize {
        lock(&self.shards).len()
    }

    /// The shards of a stream that it is in charge of, those included that it is giving back.
    pub(crate) fn held(&self, stream: &Stream) -> BTreeSet<ShardId> {
        lock(&self.shards).keys().filter(|(other, _)| other == stream).map(|(_, shard)| shard.clone()).collect()
    }

    /// Waits until a lease is gone, or asked for. Cancel safe.
    pub(crate) async fn rebalance_wanted(&self) {
        self.look.notified().await;
    }

    /// Stores what is due, for ever. Whoever drops it, calls [`finish`](Self::finish).
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

    /// Stores what is due. The first error, if there was one; what could be stored is.
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

    /// Notes what became of writes. Returns the first error.
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

    /// What was acked, and idle places that have become old.
    fn due(&self) -> Vec<(Due, Commit)> {
        let shards = lock(&self.shards);
        let mut due = Vec::new();
        for (key, entry) in shards.iter() {
            let (checkpoint, done) = entry.progress.checkpoint();
            let moved = checkpoint.is_some() && checkpoint != entry.stored;
            let old = entry.stored_at.elapsed() >= self.idle;
            // Where others look, a lease is renewed even if its place never moved.
            let renew = old && (moved || self.store.shared().is_some());
            if renew || moved && done > entry.stored_done {
                let checkpoint = checkpoint.filter(|_| moved);
                let commit = Commit::new(&entry.lease, checkpoint.clone().map(Checkpoint::After));
                due.push((Due { key: key.clone(), epoch: entry.lease.epoch, checkpoint, done }, commit));
            }
        }
        due
    }

    fn stored(&self, due: Due, requester: Option<&WorkerId>) {
        let mut shards = lock(&self.shards);
        // It may have been given back and claimed anew meanwhile.
        let Some(entry) = shards.get_mut(&due.key).filter(|entry| entry.lease.epoch == due.epoch) else { return };
        entry.stored = due.checkpoint.or(entry.stored.take());
        entry.stored_done = due.done;
        entry.stored_at = Instant::now();
        if !entry.releasing && requester.is_some() && requester != entry.dead_requester.as_ref() {
            // Whether who asks is alive, a look tells.
            self.look.notify_one();
        }
    }

    fn lost(&self, key: &Key, epoch: u64, holder: &str) {
        let lost = {
            let mut shards = lock(&self.shards);
            // It may have been given back and claimed anew meanwhile.
            if shards.get(key).is_none_or(|entry| entry.lease.epoch != epoch) { None } else { shards.remove(key) }
        };
        if let Some(entry) = lost {
            // Reading stops before anything else.
            self.stop_reading(&entry);
            entry.progress.freeze();
            self.health.forget(&entry.progress.names);
            telemetry::lease_lost(&key.0, &key.1, holder);
            self.look.notify_one();
        }
    }

    /// A lease is given back.
    fn remove(&self, key: &Key, progress: &Progress) {
        let mut shards = lock(&self.shards);
        if shards.get(key).is_some_and(|entry| entry.is_of(progress)) {
            shards.remove(key);
            self.health.forget(&progress.names);
        }
    }

    /// A stream does not exist any more: stops reading its shards at once. Nothing of them is stored, for another stream has
    /// its name.
    pub(crate) fn abandon(&self, stream: &Stream) {
        let abandoned: Vec<Entry> = {
            let mut shards = lock(&self.shards);
            let keys: Vec<Key> = shards.keys().filter(|(other, _)| other == stream).cloned().collect();
            keys.iter().filter_map(|key| shards.remove(key)).collect()
        };
        for entry in abandoned {
            self.stop_reading(&entry);
            entry.progress.freeze();
            self.health.forget(&entry.progress.names);
        }
    }

    /// A guard that ends what is being given back when it is dropped.
    pub(crate) fn closing(&self) -> DropGuard {
        self.closing.clone().drop_guard()
    }

    /// Nothing more of the shard is read, or goes to the host.
    fn stop_reading(&self, entry: &Entry) {
        entry.stop.cancel();
        self.outbox.forget(&entry.progress.names);
    }

    /// Compares what it is in charge of with what the store shows, and does what others ask for who are alive. What went
    /// to one who isn't, nobody would read.
    pub(crate) fn reconcile(self: &Arc<Self>, stream: &Stream, rows: &[Row], is_alive: impl Fn(&WorkerId) -> bool) {
        let rows: HashMap<&ShardId, &Row> = rows.iter().map(|row| (&row.shard, row)).collect();
        let (mut lost, mut asked) = (Vec::new(), Vec::new());
        for (key, entry) in
            lock(&self.shards).iter_mut().filter(|((other, _), entry)| other == stream && !entry.releasing)
        {
            let hold = rows.get(&key.1).and_then(|row| row.hold.as_ref());
            let requester = rows.get(&key.1).and_then(|row| row.requester.clone());
            match hold {
                Some(hold) if hold.epoch == Some(entry.lease.epoch) => {
                    let (taker, dead) = match requester {
                        Some(worker) if is_alive(&worker) => (Some(worker), None),
                        other => (None, other),
                    };
                    asked.extend(taker.map(|taker| (key.clone(), taker)));
                    entry.dead_requester = dead;
                }
                other => {
                    let holder = other.map_or_else(|| "nobody".to_owned(), |hold| hold.worker.to_string());
                    lost.push((key.clone(), entry.lease.epoch, holder));
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

    /// None of our leases can be relied on any more: stops reading all shards, at once.
    pub(crate) fn release_all(self: &Arc<Self>) {
        let keys: Vec<Key> = lock(&self.shards).keys().cloned().collect();
        for key in keys {
            self.begin_release(&key, ReleaseReason::Expired);
        }
    }

    /// Gives a lease back: stops reading, waits for what is out, stores how far it got and lets go.
    pub(crate) fn begin_release(self: &Arc<Self>, key: &Key, why: ReleaseReason) {
        let progress = {
            let mut shards = lock(&self.shards);
            let Some(entry) = shards.get_mut(key).filter(|entry| !entry.releasing) else { return };
            entry.releasing = true;
            self.stop_reading(entry);
            Arc::clone(&entry.progress)
        };
        match &why {
            ReleaseReason::HandOver(requester) => telemetry::handing_over(&key.0, &key.1, requester),
            ReleaseReason::Expired => telemetry::lease_expired(&key.0, &key.1),
        }
        let (this, key, closing) = (Arc::clone(self), key.clone(), self.closing.clone());
        let fatal = self.fatal.clone();
        // If it broke, the lease would be renewed and its shard read by no worker.
        self.releases.spawn(supervise::essential("release", fatal, || true, async move {
            closing.run_until_cancelled(this.release(&key, &progress, why)).await;
        }));
    }

    async fn release(&self, key: &Key, progress: &Progress, why: ReleaseReason) {
        // What is not acked in time will be read again.
        let _ = timeout(self.grace, progress.returned()).await;
        let to = match why {
            ReleaseReason::HandOver(requester) => Some(requester),
            ReleaseReason::Expired => None,
        };
        if self.give_back(key, progress, Last::Acked { to: to.clone() }).await == EndStored::Lost {
            return;
        }
        telemetry::released(&key.0, &key.1, to.as_ref());
        if let (Some(requester), Some(shared)) = (&to, self.store.shared())
            && let Err(error) = shared.wake(requester).await
        {
            self.health.meter.table_failed(&error);
        }
        self.look.notify_one();
    }

    /// Stores the last checkpoint of a shard and gives its lease back in one write, however long it takes.
    async fn give_back(&self, key: &Key, progress: &Progress, last: Last) -> EndStored {
        let mut backoff = Backoff::new(FIRST_RETRY, LATEST_RETRY);
        loop {
            let written = {
                let _turn = self.flushing.read().await;
                let _permit = self.release_slots.acquire().await;
                let Some(release) = self.release_of(key, progress, &last) else { return EndStored::Lost };
                let epoch = release.epoch();
                if let Last::Acked { .. } = last {
                    // What is acknowledged from here on is not stored.
                    progress.freeze();
                }
                self.store.release(vec![release]).await.into_iter().next().map(|written| (written, epoch))
            };
            match written {
                Some((Ok(CommitOutcome::Stored { .. }), _)) => {
                    self.remove(key, progress);
                    progress.freeze();
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

    /// `None` if the shard is not held any more, be it claimed anew or not.
    fn release_of(&self, key: &Key, progress: &Progress, last: &Last) -> Option<Release> {
        let shards = lock(&self.shards);
        let entry = shards.get(key).filter(|entry| entry.is_of(progress))?;
        Some(match last {
            Last::Acked { to } => {
                let (position, _) = entry.progress.checkpoint();
                Release::new(&entry.lease, position.map(Checkpoint::After), to.clone())
            }
            Last::End(position) => Release::new(&entry.lease, Some(Checkpoint::ShardEnd(position.clone())), None),
        })
    }

    /// Stores the end of a shard, however long it takes, and gives its lease back.
    ///
    /// # Cancel safety
    ///
    /// Dropped before it returns, it may or may not have stored the end; the shard is then read on from its last
    /// position, where it is found to be at its end again.
    pub(crate) async fn store_end(&self, progress: &Progress, last: Option<SequenceNumber>) -> EndStored {
        let key = (progress.names.stream.clone(), progress.names.shard.clone());
        let stored = self.give_back(&key, progress, Last::End(last)).await;
        if stored == EndStored::Stored {
            telemetry::stored(1);
        }
        stored
    }

    /// Nothing counts any more from here on: stores what was acked, and gives all leases back. A store that doesn't answer
    /// is not waited for longer than [`FINISHED_WITHIN`]; what it hasn't heard of is read again.
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
        let entries = std::mem::take(&mut *lock(&self.shards));
        let (mut releases, mut keys) = (Vec::new(), Vec::new());
        for (key, entry) in entries {
            entry.progress.freeze();
            let (checkpoint, _) = entry.progress.checkpoint();
            let checkpoint = checkpoint.map(Checkpoint::After);
            keys.push(key);
            releases.push(Release::new(&entry.lease, checkpoint, None));
        }
        let mut outcome = Ok(());
        let mut stored = 0;
        for (key, written) in keys.iter().zip(self.store.release(releases).await) {
            match written {
                Ok(CommitOutcome::Stored { .. }) => stored += 1,
                Ok(CommitOutcome::Lost { holder }) => telemetry::lease_lost(&key.0, &key.1, &holder),
                Err(error) => outcome = outcome.and(Err(error)),
            }
        }
        telemetry::stored(stored);
        outcome
    }
}

/// A commit that is due, and what to note once it is stored.
#[derive(Debug)]
struct Due {
    key: Key,
    epoch: u64,
    /// `None` if the lease is only renewed.
    checkpoint: Option<SequenceNumber>,
    done: u64,
}

#[cfg(test)]
mod tests;
