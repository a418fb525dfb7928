//! Which leases do the workers of one process share in memory, in tests?
//!
//! [`MemoryTable`] is the table, and [`MemoryStore`] is a worker's view of it. It follows the rules of the table in
//! DynamoDB.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use tokio::sync::Notify;
use tokio::time::sleep;
use tokio_util::task::TaskTracker;

use super::{
    Checkpoint, Claim, ClaimFrom, Commit, CommitOutcome, HeartbeatAnswer, Hold, Lease, LeaseStore, Presence, Release,
    Row, SharedStore, StoreError, Worker, forward,
};
use crate::model::{ShardId, Stream, WorkerId};
use crate::sync::{Mutex, MutexGuard, lock};

/// A table that exists until it is dropped.
#[derive(Debug, Default)]
pub(crate) struct MemoryTable {
    pub(crate) core: Mutex<Core>,
}

#[derive(Debug, Default)]
pub(crate) struct Core {
    pub(crate) rows: BTreeMap<(Stream, ShardId), Row>,
    pub(crate) workers: BTreeMap<WorkerId, Member>,
    pins: BTreeMap<Stream, i64>,
    /// The rows that were set aside.
    pub(crate) former: BTreeMap<(Stream, ShardId), Row>,
    /// A counter that supplies every value that must differ from all earlier ones.
    count: u64,
    /// Whether all reads and writes fail.
    pub(crate) closed: bool,
    /// How many calls there were, in total and of each kind.
    pub(crate) calls: u64,
    pub(crate) by_call: BTreeMap<&'static str, u64>,
}

#[derive(Debug, Clone)]
pub(crate) struct Member {
    pub(crate) shown: Worker,
    life: u64,
    pub(crate) wake_ups: u64,
}

/// The view of the table that one worker has.
#[derive(Debug)]
pub(crate) struct MemoryStore {
    pub(crate) table: Arc<MemoryTable>,
    me: WorkerId,
    /// A number that tells two processes of the same name apart.
    life: u64,
    /// Whether the table doesn't answer this worker.
    frozen: AtomicBool,
    thawed: Notify,
    /// The trouble with each kind of call of this worker.
    trouble: Mutex<BTreeMap<&'static str, Trouble>>,
}

/// The trouble with a kind of call.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Trouble {
    /// The request takes this long to arrive.
    Slow(Duration),
    /// The request takes this long to arrive, and arrives even if the caller has given up. Only for claims of free
    /// shards.
    SlowAndSent(Duration),
    /// The answer takes this long to arrive.
    LateAnswer(Duration),
    /// The call fails.
    Fails,
    /// The task that makes the call panics.
    Panics,
}

impl Default for MemoryStore {
    fn default() -> Self {
        Self::new(&Arc::default(), "worker")
    }
}

impl MemoryStore {
    pub(crate) fn new(table: &Arc<MemoryTable>, me: &str) -> Self {
        let life = lock(&table.core).next();
        let (frozen, thawed) = (AtomicBool::new(false), Notify::new());
        Self { table: Arc::clone(table), me: me.into(), life, frozen, thawed, trouble: Mutex::default() }
    }

    /// Makes the table stop answering this worker, or answer it again.
    pub(crate) fn freeze(&self, frozen: bool) {
        self.frozen.store(frozen, Ordering::Release);
        self.thawed.notify_waiters();
    }

    /// Sets the trouble with a kind of call from now on; `None` ends it.
    pub(crate) fn trouble(&self, call: &'static str, trouble: Option<Trouble>) {
        match trouble {
            Some(trouble) => lock(&self.trouble).insert(call, trouble),
            None => lock(&self.trouble).remove(call),
        };
    }

    /// Writes a row by hand, for the stream that all scenarios read.
    pub(crate) fn put(&self, row: Row) {
        let stream = Stream::new("orders", "arn:orders");
        lock(&self.table.core).rows.insert((stream, row.shard.clone()), row);
    }

    /// The shards that were set aside, with the last position of each.
    pub(crate) fn former(&self) -> Vec<(ShardId, crate::model::SequenceNumber)> {
        let core = lock(&self.table.core);
        let checkpoints = core
            .former
            .iter()
            .filter_map(|((_, shard), row)| Some((shard.clone(), row.checkpoint.as_ref()?.position()?.clone())));
        checkpoints.collect()
    }

    fn trouble_with(&self, call: &str) -> Option<Trouble> {
        lock(&self.trouble).get(call).copied()
    }

    /// Waits until the answer to a call has arrived.
    async fn answered(&self, call: &'static str) {
        if let Some(Trouble::LateAnswer(time)) = self.trouble_with(call) {
            sleep(time).await;
        }
    }

    /// Reaches the table for a call; waits while the store is frozen.
    async fn core(&self, call: &'static str) -> Result<MutexGuard<'_, Core>, StoreError> {
        match self.trouble_with(call) {
            Some(Trouble::Slow(time)) => sleep(time).await,
            Some(Trouble::Fails) => {
                return Err(StoreError::Failed { what: "reach the table", cause: "injected by the test".into() });
            }
            Some(Trouble::Panics) => panic!("injected by the test"),
            Some(Trouble::LateAnswer(_) | Trouble::SlowAndSent(_)) | None => {}
        }
        loop {
            let thawed = self.thawed.notified();
            if !self.frozen.load(Ordering::Acquire) {
                break;
            }
            thawed.await;
        }
        let mut core = lock(&self.table.core);
        core.calls += 1;
        *core.by_call.entry(call).or_default() += 1;
        if core.closed {
            return Err(StoreError::Failed { what: "reach the table", cause: "it is closed".into() });
        }
        Ok(core)
    }

    async fn write(
        &self,
        call: &'static str,
        stream: Stream,
        shard: ShardId,
        epoch: u64,
        change: impl FnOnce(&mut Core, &mut Row) + Send,
    ) -> Result<CommitOutcome, StoreError> {
        let mut core = {
            assert!(!matches!(self.trouble_with(call), Some(Trouble::Panics)), "injected by the test");
            self.core("update").await?
        };
        let key = key(&stream, &shard);
        let Some(mut row) = core.rows.get(&key).cloned() else {
            return Ok(CommitOutcome::Lost { holder: "nobody".into() });
        };
        match &row.hold {
            Some(hold) if hold.worker == self.me && hold.epoch == Some(epoch) => {
                change(&mut core, &mut row);
                let written =
                    CommitOutcome::Stored { checkpoint: row.checkpoint.clone(), requester: row.requester.clone() };
                core.rows.insert(key, row);
                Ok(written)
            }
            hold => Ok(CommitOutcome::Lost { holder: holder(hold.as_ref()) }),
        }
    }
}

fn holder(hold: Option<&Hold>) -> String {
    hold.map_or_else(|| "nobody".into(), |hold| hold.worker.to_string())
}

impl Core {
    fn next(&mut self) -> u64 {
        self.count += 1;
        self.count
    }

    fn claim(&mut self, me: &WorkerId, stream: &Stream, shard: &ShardId, from: ClaimFrom<'_>) -> Claim {
        let key = key(stream, shard);
        let before = self.rows.get(&key).cloned();
        let hold = before.as_ref().and_then(|row| row.hold.as_ref());
        let as_expected = match (from, hold) {
            (ClaimFrom::Nobody, None) => true,
            (ClaimFrom::Unchanged(expected), Some(hold)) => expected == hold,
            (ClaimFrom::Holder(expected), Some(hold)) => expected.is_same(hold),
            _ => false,
        };
        let has_ended =
            matches!(before.as_ref().and_then(|row| row.checkpoint.as_ref()), Some(Checkpoint::ShardEnd(_)));
        let is_other_life = stream.is_other_life(before.as_ref().and_then(|row| row.created));
        if !as_expected || has_ended && hold.is_none() || is_other_life {
            return Claim::HeldBy(holder(hold));
        }
        let taken = hold.is_some_and(|hold| hold.worker != *me);
        let checkpoint = before.map(|row| row.checkpoint).unwrap_or_default();
        let epoch = self.next();
        let hold = Hold { worker: me.clone(), epoch: Some(epoch), stamp: epoch.to_string() };
        let row = Row { hold: Some(hold), created: stream.created(), ..Row::new(shard.clone(), checkpoint.clone()) };
        self.rows.insert(key, row);
        *self.by_call.entry("claimed").or_default() += 1;
        if taken {
            *self.by_call.entry("taken").or_default() += 1;
        }
        Claim::Owned(Lease { stream: stream.clone(), shard: shard.clone(), epoch }, checkpoint)
    }
}

#[async_trait]
impl LeaseStore for MemoryStore {
    async fn identity(&self) -> Result<String, StoreError> {
        Ok("memory".into())
    }

    async fn rows(&self, stream: &Stream) -> Result<Vec<Row>, StoreError> {
        let core = self.core("rows").await?;
        Ok(core.rows.iter().filter(|((other, _), _)| other.arn() == stream.arn()).map(|(_, row)| row.clone()).collect())
    }

    async fn pin_latest(&self, stream: &Stream, now: i64) -> Result<i64, StoreError> {
        Ok(*self.core("pin").await?.pins.entry(stream.created_at(None)).or_insert(now))
    }

    async fn claim(&self, stream: &Stream, shard: &ShardId, from: ClaimFrom<'_>) -> Result<Claim, StoreError> {
        if let (Some(Trouble::SlowAndSent(time)), ClaimFrom::Nobody) = (self.trouble_with("claim"), from) {
            let (table, me, stream, shard) = (Arc::clone(&self.table), self.me.clone(), stream.clone(), shard.clone());
            let arrives = TaskTracker::new().spawn(async move {
                sleep(time).await;
                lock(&table.core).claim(&me, &stream, &shard, ClaimFrom::Nobody)
            });
            return arrives.await.map_err(|error| StoreError::Failed { what: "claim", cause: error.to_string() });
        }
        let claim = self.core("claim").await.map(|mut core| core.claim(&self.me, stream, shard, from));
        self.answered("claim").await;
        claim
    }

    async fn commit(&self, writes: Vec<Commit>) -> Vec<Result<CommitOutcome, StoreError>> {
        let mut written = Vec::new();
        for Commit { stream, shard, epoch, checkpoint } in writes {
            let commit = |core: &mut Core, row: &mut Row| {
                row.checkpoint = forward(row.checkpoint.as_ref(), checkpoint);
                if let Some(hold) = &mut row.hold {
                    hold.stamp = core.next().to_string();
                }
            };
            written.push(self.write("commit", stream, shard, epoch, commit).await);
        }
        written
    }

    async fn release(&self, releases: Vec<Release>) -> Vec<Result<CommitOutcome, StoreError>> {
        let mut written = Vec::new();
        for Release { stream, shard, epoch, checkpoint, to } in releases {
            let release = |core: &mut Core, row: &mut Row| {
                row.checkpoint = forward(row.checkpoint.as_ref(), checkpoint);
                let to = to.filter(|to| row.requester.take().as_ref() == Some(to));
                row.hold = to.map(|worker| {
                    let epoch = core.next();
                    Hold { worker, epoch: Some(epoch), stamp: epoch.to_string() }
                });
            };
            written.push(self.write("release", stream, shard, epoch, release).await);
        }
        written
    }

    async fn forget(&self, stream: &Stream, row: &Row) -> Result<(), StoreError> {
        let mut core = self.core("forget").await?;
        let key = key(stream, &row.shard);
        if core.rows.get(&key) == Some(row) {
            core.rows.remove(&key);
        }
        Ok(())
    }

    async fn set_aside(&self, stream: &Stream, row: &Row) -> Result<bool, StoreError> {
        let mut core = self.core("set_aside").await?;
        let key = key(stream, &row.shard);
        let is_unchanged = core.rows.get(&key) == Some(row);
        if is_unchanged && let Some(row) = core.rows.remove(&key) {
            core.former.insert(key, row);
        }
        Ok(is_unchanged)
    }

    fn shared(&self) -> Option<&dyn SharedStore> {
        Some(self)
    }
}

/// The key of a row, which is the same for all incarnations of a stream.
fn key(stream: &Stream, shard: &ShardId) -> (Stream, ShardId) {
    (stream.created_at(None), shard.clone())
}

#[async_trait]
impl SharedStore for MemoryStore {
    fn me(&self) -> &WorkerId {
        &self.me
    }

    async fn heartbeat(&self, presence: &Presence) -> Result<HeartbeatAnswer, StoreError> {
        let heartbeat = self.core("heartbeat").await.map(|mut core| {
            let heartbeat = core.next().to_string();
            let wake_ups = match core.workers.get(&self.me) {
                // The name belongs to the process that started later.
                Some(other) if other.life > self.life => return HeartbeatAnswer::Replaced,
                Some(other) => other.wake_ups,
                None => 0,
            };
            let shown = Worker { id: self.me.clone(), heartbeat, presence: presence.clone() };
            core.workers.insert(self.me.clone(), Member { shown, life: self.life, wake_ups });
            HeartbeatAnswer::Alive { wake_ups }
        });
        self.answered("heartbeat").await;
        heartbeat
    }

    async fn workers(&self) -> Result<Vec<Worker>, StoreError> {
        Ok(self.core("workers").await?.workers.values().map(|member| member.shown.clone()).collect())
    }

    async fn ask(
        &self,
        stream: &Stream,
        shard: &ShardId,
        holder: &Hold,
        instead_of: Option<&WorkerId>,
    ) -> Result<bool, StoreError> {
        let mut core = self.core("ask").await?;
        let Some(row) = core.rows.get_mut(&key(stream, shard)) else { return Ok(false) };
        let same = row.hold.as_ref().is_some_and(|hold| hold.is_same(holder));
        if !same || row.requester.as_ref().is_some_and(|other| *other != self.me && Some(other) != instead_of) {
            return Ok(false);
        }
        row.requester = Some(self.me.clone());
        Ok(true)
    }

    async fn withdraw(&self, stream: &Stream, shard: &ShardId) -> Result<Option<Hold>, StoreError> {
        let mut core = self.core("withdraw").await?;
        let Some(row) = core.rows.get_mut(&key(stream, shard)) else { return Ok(None) };
        row.requester.take_if(|by| *by == self.me);
        Ok(row.hold.clone().filter(|hold| hold.worker == self.me))
    }

    async fn end(&self, stream: &Stream, shard: &ShardId) -> Result<bool, StoreError> {
        let ended = self.core("end").await.map(|mut core| {
            let key = key(stream, shard);
            let new = !core.rows.contains_key(&key);
            let checkpoint = Some(Checkpoint::ShardEnd(None));
            let row = Row { created: stream.created(), ..Row::new(shard.clone(), checkpoint) };
            core.rows.entry(key).or_insert(row);
            new
        });
        self.answered("end").await;
        ended
    }

    async fn wake(&self, worker: &WorkerId) -> Result<(), StoreError> {
        if let Some(member) = self.core("nudge").await?.workers.get_mut(worker) {
            member.wake_ups += 1;
        }
        Ok(())
    }

    async fn leave(&self) -> Result<(), StoreError> {
        let mut core = self.core("leave").await?;
        if core.workers.get(&self.me).is_some_and(|member| member.life == self.life) {
            core.workers.remove(&self.me);
        }
        Ok(())
    }

    async fn remove_dead_worker(&self, worker: &Worker) -> Result<(), StoreError> {
        let mut core = self.core("bury").await?;
        if core.workers.get(&worker.id).is_some_and(|member| member.shown == *worker) {
            core.workers.remove(&worker.id);
        }
        Ok(())
    }
}
