//! Which worker owns which shard, and how far has each shard been read?
//!
//! A store keeps the owner and the checkpoint of every shard. Every write requires a [`Lease`], which proves that the
//! worker owned the shard when it last looked. A store refuses a write whose lease has been lost, so that no worker
//! moves a checkpoint that another worker now owns.
//!
//! Where several workers share a store, each worker sends a heartbeat every few seconds, and the others judge from it
//! whether that worker is alive:
//!
//! ```text
//! heartbeat ──▶ store ◀── coordinator ─▶ liveness (which workers are alive?) ─▶ assignment (which worker gets which?)
//!    │ none succeeds for a lease period              │
//!    └──▶ all leases expire                          └──▶ rebalance: claim free and expired shards, request others
//! ```

mod assignment;
#[cfg(test)]
mod assignment_tests;
mod dynamodb;
mod file;
mod file_trial;
pub(crate) mod heartbeat;
pub(crate) mod liveness;
#[cfg(test)]
pub(crate) mod memory;
mod overview;
pub(crate) mod rebalance;
#[cfg(test)]
mod rebalance_tests;
#[cfg(test)]
mod store_tests;
pub(crate) mod validity;

use std::collections::BTreeSet;
use std::fmt::Debug;
use std::path::PathBuf;
use std::time::Duration;

use async_trait::async_trait;

use crate::model::{SequenceNumber, ShardId, StartPosition, Stream, WorkerId};

#[cfg(test)]
pub(crate) use dynamodb::tests as dynamodb_tests;
pub(crate) use dynamodb::{
    DynamoDbStore, Lives, Table, TableCall, TableSeen, TableTrial, cause_of_failure, is_condition_failure, scan_table,
};
pub(crate) use file::{Disk, FileStore};
pub(crate) use file_trial::{FileSeen, can_make_files_beside, look_at};
pub use overview::{Overview, SeenShard, SeenWorker, State};

/// A store of leases and checkpoints.
#[async_trait]
pub(crate) trait LeaseStore: Debug + Send + Sync + 'static {
    /// Returns a name that is the same for all workers that share this store, and that never changes. Consumers are
    /// named after it.
    async fn identity(&self) -> Result<String, StoreError>;

    /// Tells the store how the configuration spells a stream, before any other call about the stream. The store may
    /// keep the leases under another spelling of the stream.
    async fn adopt(&self, _stream: &Stream, _configured: &str) -> Result<(), StoreError> {
        Ok(())
    }

    /// Reads the rows of all shards of a stream, as they are now.
    async fn rows(&self, stream: &Stream) -> Result<Vec<Row>, StoreError>;

    /// Returns the timestamp in milliseconds that "latest" means for this stream: `now` on the first call, and the same
    /// value on every later call.
    async fn pin_latest(&self, stream: &Stream, now: i64) -> Result<i64, StoreError>;

    /// Claims a shard that is in the state `from`. Of several claims made at the same time, one succeeds.
    async fn claim(&self, stream: &Stream, shard: &ShardId, from: ClaimFrom<'_>) -> Result<Claim, StoreError>;

    /// Stores checkpoints and renews the leases. The answers are in the order of the writes.
    async fn commit(&self, writes: Vec<Commit>) -> Vec<Result<CommitOutcome, StoreError>>;

    /// Releases shards, each with its last checkpoint and each in one write. A shard whose requester has withdrawn its
    /// request becomes free. The answers are in the order of the releases.
    async fn release(&self, releases: Vec<Release>) -> Vec<Result<CommitOutcome, StoreError>>;

    /// Removes the row of a shard that is no longer in its stream, unless the row has changed.
    async fn forget(&self, stream: &Stream, row: &Row) -> Result<(), StoreError>;

    /// Sets aside a row that was written for a deleted stream of the same name and ARN, unless the row has changed.
    /// Returns whether it did. The row replaces one that was set aside earlier for the same shard.
    async fn set_aside(&self, stream: &Stream, row: &Row) -> Result<bool, StoreError>;

    /// Reads all leases and workers, for an operator; `None` if the store serves only one worker.
    async fn overview(&self) -> Result<Option<Overview>, StoreError> {
        Ok(None)
    }

    /// The interface for several workers; `None` if the store serves only one.
    fn shared(&self) -> Option<&dyn SharedStore> {
        None
    }
}

/// A store that several workers share.
#[async_trait]
pub(crate) trait SharedStore: LeaseStore {
    /// The name of this worker.
    fn me(&self) -> &WorkerId;

    /// Sends a heartbeat, which renews all leases of this worker. It also publishes which streams the worker reads, so
    /// that other workers include it in their plans.
    async fn heartbeat(&self, presence: &Presence) -> Result<HeartbeatAnswer, StoreError>;

    /// Reads all workers that have a row in the store.
    async fn workers(&self) -> Result<Vec<Worker>, StoreError>;

    /// Requests a shard from its holder, in place of the earlier requester `instead_of`, if that is given. Returns
    /// `false` if the holder no longer has the lease, or if another worker requested the shard before.
    async fn ask(
        &self,
        stream: &Stream,
        shard: &ShardId,
        holder: &Hold,
        instead_of: Option<&WorkerId>,
    ) -> Result<bool, StoreError>;

    /// Withdraws a request of this worker. Returns the lease if the shard has been handed over to this worker
    /// meanwhile.
    async fn withdraw(&self, stream: &Stream, shard: &ShardId) -> Result<Option<Hold>, StoreError>;

    /// Stores the shard end in one write, if nothing is stored for the shard. Returns whether it did.
    async fn end(&self, stream: &Stream, shard: &ShardId) -> Result<bool, StoreError>;

    /// Asks a worker to rebalance at once; its next heartbeat tells it so. A worker without a row is ignored.
    async fn wake(&self, worker: &WorkerId) -> Result<(), StoreError>;

    /// Removes the row of this worker.
    async fn leave(&self) -> Result<(), StoreError>;

    /// Removes the row of a dead worker, unless the row has changed.
    async fn remove_dead_worker(&self, worker: &Worker) -> Result<(), StoreError>;
}

/// What the store knows about a shard.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Row {
    pub(crate) shard: ShardId,
    pub(crate) checkpoint: Option<Checkpoint>,
    /// Where the shard begins as long as it has no checkpoint, whatever the configuration says: at its oldest record or
    /// at a time. Only a migration from another program stores this.
    pub(crate) begins: Option<StartPosition>,
    /// The lease on the shard; `None` if the shard is free.
    pub(crate) hold: Option<Hold>,
    /// The worker that has requested the shard from its holder.
    pub(crate) requester: Option<WorkerId>,
    /// Whether another program wrote the row. Such a program removes rows instead of marking shards as ended.
    pub(crate) foreign: bool,
    /// When the stream that the row was written for was created, in milliseconds since 1970. Unknown for rows of other
    /// programs, and for rows that earlier versions wrote.
    pub(crate) created: Option<i64>,
    /// The reason why the row can't be understood, and what the user can do about it. `checkpoint` has no meaning then,
    /// and the shard is neither read nor changed.
    pub(crate) unreadable: Option<String>,
}

impl Row {
    /// Makes a row with a checkpoint, held by no worker.
    pub(crate) fn new(shard: impl Into<ShardId>, checkpoint: Option<Checkpoint>) -> Self {
        Self {
            shard: shard.into(),
            checkpoint,
            begins: None,
            hold: None,
            requester: None,
            foreign: false,
            created: None,
            unreadable: None,
        }
    }
}

/// The lease on a shard, as its row shows it.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct Hold {
    pub(crate) worker: WorkerId,
    /// The epoch of the lease; `None` if another program holds the shard. Such a program knows neither heartbeats nor
    /// requests.
    pub(crate) epoch: Option<u64>,
    /// A text that changes with every renewal. The time in it is only for other programs.
    pub(crate) stamp: String,
}

/// How far a shard has been processed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Checkpoint {
    /// Everything up to and including this record is processed.
    After(SequenceNumber),
    /// A part of an aggregate is processed, and everything before it.
    Within(Within),
    /// The whole shard is processed. The number is the last position, if any record of the shard was read.
    ShardEnd(Option<SequenceNumber>),
}

/// A position inside an aggregate, which is one record for the service and for other programs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Within {
    /// The last record before the aggregate; `None` if it is the one that is stored already, or if there is none.
    pub(crate) after: Option<SequenceNumber>,
    /// The record that is an aggregate.
    pub(crate) record: SequenceNumber,
    /// The index of the last user record that is processed.
    pub(crate) sub: u32,
}

impl Checkpoint {
    /// Makes the checkpoint that a row shows; `None` if nothing of the shard is processed. A position inside an
    /// aggregate counts only if the aggregate lies behind the last whole record: another program, which knows whole
    /// records only, may have gone on.
    pub(crate) fn stored(
        ended: bool,
        after: Option<SequenceNumber>,
        within: Option<(SequenceNumber, u32)>,
    ) -> Option<Self> {
        match within.filter(|(record, _)| after.as_ref().is_none_or(|after| record > after)) {
            _ if ended => Some(Self::ShardEnd(after)),
            Some((record, sub)) => Some(Self::Within(Within { after, record, sub })),
            None => after.map(Self::After),
        }
    }

    /// The last whole record that is processed; `None` for the end of a shard of which nothing was read.
    pub(crate) fn position(&self) -> Option<&SequenceNumber> {
        match self {
            Self::After(position) => Some(position),
            Self::Within(within) => within.after.as_ref(),
            Self::ShardEnd(position) => position.as_ref(),
        }
    }

    /// The position inside an aggregate, if it is one.
    pub(crate) fn within(&self) -> Option<&Within> {
        match self {
            Self::Within(within) => Some(within),
            Self::After(_) | Self::ShardEnd(_) => None,
        }
    }

    /// The last record that is processed, whole or in part.
    pub(crate) fn reached(&self) -> Option<&SequenceNumber> {
        match self {
            Self::Within(within) => Some(&within.record),
            Self::After(_) | Self::ShardEnd(_) => self.position(),
        }
    }

    /// Where reading goes on; `None` behind the end of a shard.
    pub(crate) fn start(&self) -> Option<StartPosition> {
        match self {
            Self::After(position) => Some(StartPosition::After(position.clone())),
            Self::Within(within) => Some(StartPosition::AtRecord(within.record.clone())),
            Self::ShardEnd(_) => None,
        }
    }

    /// Whether this is further than the other. The end of a shard is further than any position.
    pub(crate) fn is_beyond(&self, other: &Self) -> bool {
        let rank = |checkpoint: &Self| match checkpoint {
            Self::After(_) => (false, u64::MAX),
            Self::Within(within) => (false, u64::from(within.sub)),
            Self::ShardEnd(_) => (true, u64::MAX),
        };
        let (ours, theirs) = (rank(self), rank(other));
        (ours.0, self.reached(), ours.1) > (theirs.0, other.reached(), theirs.1)
    }
}

/// The state that a shard must be in for a claim.
#[derive(Debug, Clone, Copy)]
pub(crate) enum ClaimFrom<'a> {
    /// No worker holds the shard.
    Nobody,
    /// The shard is still held under this lease, which has not been renewed since.
    Unchanged(&'a Hold),
    /// The shard is still held under this lease, renewed or not.
    Holder(&'a Hold),
}

/// The answer to a claim.
#[derive(Debug)]
pub(crate) enum Claim {
    /// The shard now belongs to this worker; its checkpoint is included.
    Owned(Lease, Option<Checkpoint>),
    /// Another worker holds the shard, or the shard was not in the required state.
    HeldBy(String),
}

/// The proof that this worker owns a shard. It can't be copied: to release the shard is to give the lease to the store.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Lease {
    pub(crate) stream: Stream,
    pub(crate) shard: ShardId,
    /// A number that differs for each claim of this shard, so that an older lease can be told from the present one.
    pub(crate) epoch: u64,
}

/// A checkpoint to store, and a renewal of the lease. It can only be made from the lease.
#[derive(Debug)]
pub(crate) struct Commit {
    stream: Stream,
    shard: ShardId,
    epoch: u64,
    checkpoint: Option<Checkpoint>,
}

/// A release of a shard. It can only be made from the lease.
#[derive(Debug)]
pub(crate) struct Release {
    stream: Stream,
    shard: ShardId,
    epoch: u64,
    /// The last checkpoint; `None` keeps the stored one.
    checkpoint: Option<Checkpoint>,
    /// The requester that gets the shard; `None` makes the shard free.
    to: Option<WorkerId>,
}

/// The outcome of a write.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum CommitOutcome {
    Stored {
        /// The checkpoint that is stored now.
        checkpoint: Option<Checkpoint>,
        /// The worker that has requested the shard.
        requester: Option<WorkerId>,
    },
    /// Another worker holds the lease now.
    Lost { holder: String },
}

/// What a worker publishes about itself with its heartbeats.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Presence {
    /// The ARNs of the streams whose shards the worker reads.
    pub(crate) streams: BTreeSet<String>,
    /// Whether the worker reads shards that its configuration names, and takes no others.
    pub(crate) explicit: bool,
    /// The lease period of the worker, by which other workers judge whether it is alive. Unknown for workers of other
    /// versions.
    pub(crate) lease: Option<Duration>,
    /// The time between two heartbeats of the worker.
    pub(crate) heartbeat_period: Option<Duration>,
}

/// A worker, as its row shows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Worker {
    pub(crate) id: WorkerId,
    /// A text that changes with every heartbeat.
    pub(crate) heartbeat: String,
    pub(crate) presence: Presence,
}

/// The answer to a heartbeat.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum HeartbeatAnswer {
    /// The heartbeat was stored. The number changes when another worker asks this one to rebalance.
    Alive { wake_ups: u64 },
    /// Another process uses the name of this worker.
    Replaced,
}

impl Hold {
    /// Whether both are the same lease, renewed or not.
    pub(crate) fn is_same(&self, other: &Self) -> bool {
        (&self.worker, self.epoch) == (&other.worker, other.epoch)
    }
}

impl Release {
    /// Releases the lease with the last checkpoint, to the worker that requested the shard or to none.
    pub(crate) fn new(lease: &Lease, checkpoint: Option<Checkpoint>, to: Option<WorkerId>) -> Self {
        Self { stream: lease.stream.clone(), shard: lease.shard.clone(), epoch: lease.epoch, checkpoint, to }
    }

    /// The shard that is released.
    #[cfg(test)]
    pub(crate) fn shard(&self) -> &ShardId {
        &self.shard
    }

    /// The last checkpoint.
    #[cfg(test)]
    pub(crate) fn checkpoint(&self) -> Option<&Checkpoint> {
        self.checkpoint.as_ref()
    }

    /// The epoch of the lease that is released.
    pub(crate) fn epoch(&self) -> u64 {
        self.epoch
    }
}

impl Commit {
    /// Stores the checkpoint under the lease. Without a checkpoint it only renews the lease.
    pub(crate) fn new(lease: &Lease, checkpoint: Option<Checkpoint>) -> Self {
        Self { stream: lease.stream.clone(), shard: lease.shard.clone(), epoch: lease.epoch, checkpoint }
    }

    /// The shard that the checkpoint belongs to.
    #[cfg(test)]
    pub(crate) fn shard(&self) -> &ShardId {
        &self.shard
    }
}

/// The reason why a store could not do what it was asked.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum StoreError {
    /// Another process has the file open.
    #[error("checkpoint_file {path}: in use by {holder}; each process needs a file of its own")]
    InUse {
        /// The file.
        path: PathBuf,
        /// The process that uses the file, as named in its lock file.
        holder: String,
    },
    /// The file can't be opened or created.
    #[error("checkpoint_file {path}: {cause}; {advice}")]
    Unusable {
        /// The file.
        path: PathBuf,
        /// The error of the system or the store.
        cause: String,
        /// The advice for the user.
        advice: &'static str,
    },
    /// The file was written by another program, or by a version that this one does not know.
    #[error("checkpoint_file {path}: {what}")]
    Foreign {
        /// The file.
        path: PathBuf,
        /// A description of the file's content.
        what: String,
    },
    /// The table does not exist, is not a lease table, or may not be used.
    #[error("dynamodb.table {table}: {what}")]
    Table {
        /// The table's name.
        table: String,
        /// The problem, and what the user can do.
        what: String,
    },
    /// A row of the table can't be read.
    #[error("dynamodb.table {table}: the row {stream} {shard}: {what}")]
    BadRow {
        /// The table's name.
        table: String,
        /// The row's `StreamID`.
        stream: String,
        /// The row's `ShardID`.
        shard: String,
        /// The problem, and what the user can do.
        what: String,
    },
    /// Another process uses the name of this worker.
    #[error("client_id {worker}: another process uses it too; give each a name of its own, or none")]
    Replaced {
        /// The name.
        worker: String,
    },
    /// The permission is missing, and a retry would not help.
    #[error("could not {what}: {cause}; check the credentials and their permissions on the table")]
    Refused {
        /// The step that failed.
        what: &'static str,
        /// The error of the store.
        cause: String,
    },
    /// The call failed this time; a retry may succeed.
    #[error("could not {what}: {cause}")]
    Failed {
        /// The step that failed.
        what: &'static str,
        /// The error of the store.
        cause: String,
    },
}

/// Returns the checkpoint to store. A write must not move a checkpoint back, even under a valid lease: that would be a
/// bug of this crate, and it would cause duplicates.
fn forward(stored: Option<&Checkpoint>, new: Option<Checkpoint>) -> Option<Checkpoint> {
    match (stored, &new) {
        (Some(Checkpoint::ShardEnd(_)), _) | (Some(_), None) => stored.cloned(),
        (Some(before), Some(after)) if before.is_beyond(after) => stored.cloned(),
        // A worker that read nothing of the shard before its end knows no position.
        (Some(before), Some(Checkpoint::ShardEnd(None))) => Some(Checkpoint::ShardEnd(before.position().cloned())),
        (Some(before), Some(Checkpoint::Within(within))) if within.after.is_none() => {
            Some(Checkpoint::Within(Within { after: before.position().cloned(), ..within.clone() }))
        }
        _ => new,
    }
}
