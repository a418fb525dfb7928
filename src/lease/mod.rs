//! Who owns which shard, and how far has it got?
//!
//! A store keeps, for every shard, who may read it and up to where it is done. Every write asks for a [`Lease`]: the
//! proof that one owned the shard when one last looked. A store refuses a write whose lease has been lost, so that
//! nobody moves a place that has become someone else's.
//!
//! Where several workers share a store, each shows every few seconds that it is alive, and the others watch it:
//!
//! ```text
//! keeper ──beat──▶ store ◀──look── rounds ─▶ watch (who is alive?) ─▶ balance (who should have what?)
//!    │ too long without one                        │
//!    └──▶ all leases are over                      └──▶ claim what is free or left behind, ask for what is another's
//! ```

mod assignment;
#[cfg(test)]
mod assignment_tests;
mod dynamodb;
mod file;
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

use crate::model::{SequenceNumber, ShardId, Stream, WorkerId};

pub(crate) use dynamodb::{DynamoDbStore, Table};
pub(crate) use file::FileStore;
pub use overview::{Overview, SeenShard, SeenWorker, State};

/// Where leases and checkpoints are kept.
#[async_trait]
pub(crate) trait LeaseStore: Debug + Send + Sync + 'static {
    /// A name that is the same for everyone who shares this store, and stays the same. Consumers are named after it.
    async fn identity(&self) -> Result<String, StoreError>;

    /// Learns as what a stream is configured, before anything else is asked about it. Its leases may be kept under
    /// another name of it.
    async fn adopt(&self, _stream: &Stream, _configured: &str) -> Result<(), StoreError> {
        Ok(())
    }

    /// Everything known about the shards of a stream, as it is now.
    async fn rows(&self, stream: &Stream) -> Result<Vec<Row>, StoreError>;

    /// The timestamp in milliseconds that "latest" means for this stream: `now` the first time it is asked, the same
    /// ever after.
    async fn pin_latest(&self, stream: &Stream, now: i64) -> Result<i64, StoreError>;

    /// Asks for a shard that is in the state `from`. Of several who ask at the same time, one gets it.
    async fn claim(&self, stream: &Stream, shard: &ShardId, from: ClaimFrom<'_>) -> Result<Claim, StoreError>;

    /// Stores places and renews the leases. The answers are in the order of the writes.
    async fn commit(&self, writes: Vec<Commit>) -> Vec<Result<CommitOutcome, StoreError>>;

    /// Gives shards back, each with its last place, in one write each. One that is to be passed on to somebody who does not
    /// want it any more, becomes nobody's. The answers are in the order of the releases.
    async fn release(&self, releases: Vec<Release>) -> Vec<Result<CommitOutcome, StoreError>>;

    /// Forgets a shard that is not in its stream any more, unless its row has changed.
    async fn forget(&self, stream: &Stream, row: &Row) -> Result<(), StoreError>;

    /// Sets a row aside that was written for a stream of the same name and ARN that does not exist any more, unless the row
    /// has changed; whether it was. What is set aside replaces what an earlier life of the shard left there.
    async fn set_aside(&self, stream: &Stream, row: &Row) -> Result<bool, StoreError>;

    /// The side of it for several workers; `None` if it serves just one.
    fn shared(&self) -> Option<&dyn SharedStore> {
        None
    }
}

/// A store that several workers share.
#[async_trait]
pub(crate) trait SharedStore: LeaseStore {
    /// Who we are.
    fn me(&self) -> &WorkerId;

    /// Shows that we are alive, which renews all our leases; and what we read, so that others count us in.
    async fn heartbeat(&self, presence: &Presence) -> Result<HeartbeatAnswer, StoreError>;

    /// All workers that show themselves.
    async fn workers(&self) -> Result<Vec<Worker>, StoreError>;

    /// Asks the holder for a shard, in place of one who asked before, if it is given. `false` if it is not its holder any
    /// more, or somebody else asked before.
    async fn ask(
        &self,
        stream: &Stream,
        shard: &ShardId,
        holder: &Hold,
        instead_of: Option<&WorkerId>,
    ) -> Result<bool, StoreError>;

    /// Takes a request of ours back. The lease that we were passed, if it was granted meanwhile.
    async fn withdraw(&self, stream: &Stream, shard: &ShardId) -> Result<Option<Hold>, StoreError>;

    /// Stores that a shard is ended, in one write, if nothing is stored of it; whether that was so.
    async fn end(&self, stream: &Stream, shard: &ShardId) -> Result<bool, StoreError>;

    /// Makes a worker look at once; its next beat tells it so. One that is gone is passed over.
    async fn wake(&self, worker: &WorkerId) -> Result<(), StoreError>;

    /// Stops showing ourselves.
    async fn leave(&self) -> Result<(), StoreError>;

    /// Removes a worker that shows itself no more, unless it has changed.
    async fn remove_dead_worker(&self, worker: &Worker) -> Result<(), StoreError>;
}

/// What is known about a shard.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Row {
    pub(crate) shard: ShardId,
    pub(crate) checkpoint: Option<Checkpoint>,
    /// Who holds it.
    pub(crate) hold: Option<Hold>,
    /// Who has asked the holder for it.
    pub(crate) requester: Option<WorkerId>,
    /// Another program wrote it, which removes rows instead of marking shards as ended.
    pub(crate) foreign: bool,
    /// When the stream was created that it was written for, in milliseconds since 1970. Unknown of rows of other programs,
    /// and of those that earlier versions wrote.
    pub(crate) created: Option<i64>,
    /// What keeps its position from being understood, and what the user can do. Its `place` means nothing then, and the
    /// shard is left alone.
    pub(crate) unreadable: Option<String>,
}

impl Row {
    /// A row with a position, held by no worker.
    pub(crate) fn new(shard: impl Into<ShardId>, checkpoint: Option<Checkpoint>) -> Self {
        Self {
            shard: shard.into(),
            checkpoint,
            hold: None,
            requester: None,
            foreign: false,
            created: None,
            unreadable: None,
        }
    }
}

/// A shard is held.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct Hold {
    pub(crate) worker: WorkerId,
    /// Which lease; `None` if another program holds it, which knows neither beats nor requests.
    pub(crate) epoch: Option<u64>,
    /// Changes with every renewal. What it says of time is for other programs.
    pub(crate) stamp: String,
}

/// Up to where a shard is done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Checkpoint {
    /// Everything up to and including this record.
    After(SequenceNumber),
    /// The whole shard, with its last position if anything of it was read.
    ShardEnd(Option<SequenceNumber>),
}

/// In which state a shard has to be for a claim.
#[derive(Debug, Clone, Copy)]
pub(crate) enum ClaimFrom<'a> {
    /// Nobody holds it.
    Nobody,
    /// It is still held so, and was not renewed since.
    Unchanged(&'a Hold),
    /// It is still held so, renewed or not.
    Holder(&'a Hold),
}

/// The answer to a claim.
#[derive(Debug)]
pub(crate) enum Claim {
    /// It is ours, and this is how far it has got.
    Owned(Lease, Option<Checkpoint>),
    /// Somebody else's, or not in the state it had to be in.
    HeldBy(String),
}

/// The proof of owning a shard. It can't be copied: whoever lets go of it, gives it to the store.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Lease {
    pub(crate) stream: Stream,
    pub(crate) shard: ShardId,
    /// Differs for each claim of this shard, so that an older lease is told from the present one.
    pub(crate) epoch: u64,
}

/// A checkpoint that is to be stored, and a renewal of the lease. It can only be made from the lease.
#[derive(Debug)]
pub(crate) struct Commit {
    stream: Stream,
    shard: ShardId,
    epoch: u64,
    checkpoint: Option<Checkpoint>,
}

/// A shard that is given back.
#[derive(Debug)]
pub(crate) struct Release {
    stream: Stream,
    shard: ShardId,
    epoch: u64,
    /// The last place; `Nowhere` leaves what is stored.
    checkpoint: Option<Checkpoint>,
    /// Who asked for it and gets it; nobody in particular if `None`.
    to: Option<WorkerId>,
}

/// What became of a write.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum CommitOutcome {
    Stored {
        /// Up to where it is done now.
        checkpoint: Option<Checkpoint>,
        /// Who has asked for it.
        requester: Option<WorkerId>,
    },
    /// The lease is someone else's now.
    Lost { holder: String },
}

/// What a worker shows of itself.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Presence {
    /// The ARNs of the streams whose shards it takes.
    pub(crate) streams: BTreeSet<String>,
    /// It reads shards that it was told by name, and takes no others.
    pub(crate) explicit: bool,
    /// How long its leases are, by which others judge it. Unknown of workers of other versions.
    pub(crate) lease: Option<Duration>,
    /// How often it shows itself.
    pub(crate) heartbeat_period: Option<Duration>,
}

/// A worker, as it shows itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Worker {
    pub(crate) id: WorkerId,
    /// Changes with every beat.
    pub(crate) heartbeat: String,
    pub(crate) presence: Presence,
}

/// The answer to a beat.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum HeartbeatAnswer {
    /// We are seen. The number changes when somebody wants us to look.
    Alive { wake_ups: u64 },
    /// Another process goes by our name.
    Replaced,
}

impl Hold {
    /// Whether it is the same lease, renewed or not.
    pub(crate) fn is_same(&self, other: &Self) -> bool {
        (&self.worker, self.epoch) == (&other.worker, other.epoch)
    }
}

impl Release {
    /// Gives the lease back with the last checkpoint, to the worker that requested it or to no one.
    pub(crate) fn new(lease: &Lease, checkpoint: Option<Checkpoint>, to: Option<WorkerId>) -> Self {
        Self {
            stream: lease.stream.clone(),
            shard: lease.shard.clone(),
            epoch: lease.epoch,
            checkpoint: checkpoint,
            to,
        }
    }

    /// The shard that is given back.
    #[cfg(test)]
    pub(crate) fn shard(&self) -> &ShardId {
        &self.shard
    }

    /// The last checkpoint.
    #[cfg(test)]
    pub(crate) fn checkpoint(&self) -> Option<&Checkpoint> {
        self.checkpoint.as_ref()
    }

    /// The epoch of the lease that is given back.
    pub(crate) fn epoch(&self) -> u64 {
        self.epoch
    }
}

impl Commit {
    /// Stores the checkpoint under the lease; without one it only renews the lease.
    pub(crate) fn new(lease: &Lease, checkpoint: Option<Checkpoint>) -> Self {
        Self { stream: lease.stream.clone(), shard: lease.shard.clone(), epoch: lease.epoch, checkpoint }
    }

    /// The shard whose checkpoint it is.
    #[cfg(test)]
    pub(crate) fn shard(&self) -> &ShardId {
        &self.shard
    }
}

/// Why a store could not do what it was asked.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum StoreError {
    /// Another process has the file open.
    #[error("checkpoint_file {path}: in use by {holder}; each process needs a file of its own")]
    InUse {
        /// The file.
        path: PathBuf,
        /// Who has it, as they wrote down.
        holder: String,
    },
    /// The file can't be opened or made.
    #[error("checkpoint_file {path}: {cause}; {advice}")]
    Unusable {
        /// The file.
        path: PathBuf,
        /// What the system or the store says.
        cause: String,
        /// What the user can do.
        advice: &'static str,
    },
    /// It was written by something else, or by a version that this one does not know.
    #[error("checkpoint_file {path}: {what}")]
    Foreign {
        /// The file.
        path: PathBuf,
        /// What was found.
        what: String,
    },
    /// The table is not there, is another one, or may not be used.
    #[error("dynamodb.table {table}: {what}")]
    Table {
        /// Its name.
        table: String,
        /// What is wrong, and what the user can do.
        what: String,
    },
    /// A row of the table can't be understood.
    #[error("dynamodb.table {table}: the row {stream} {shard}: {what}")]
    BadRow {
        /// The table's name.
        table: String,
        /// The row's `StreamID`.
        stream: String,
        /// The row's `ShardID`.
        shard: String,
        /// What is wrong, and what the user can do.
        what: String,
    },
    /// Another process goes by our name.
    #[error("client_id {worker}: another process uses it too; give each a name of its own, or none")]
    Replaced {
        /// The name.
        worker: String,
    },
    /// We may not do that, and trying again would not help.
    #[error("could not {what}: {cause}; check the credentials and their permissions on the table")]
    Refused {
        /// What was being done.
        what: &'static str,
        /// What the store says.
        cause: String,
    },
    /// It did not work this time.
    #[error("could not {what}: {cause}")]
    Failed {
        /// What was being done.
        what: &'static str,
        /// What the store says.
        cause: String,
    },
}

/// A write must not move a place back, even if its lease is good: that would be a bug of ours, and would be paid for
/// with duplicates.
fn forward(stored: &Option<Checkpoint>, new: Option<Checkpoint>) -> Option<Checkpoint> {
    match (stored, &new) {
        (Some(Checkpoint::After(before)), Some(Checkpoint::After(after))) if after < before => stored.clone(),
        (Some(Checkpoint::ShardEnd(_)), _) | (Some(Checkpoint::After(_)), None) => stored.clone(),
        _ => new,
    }
}
