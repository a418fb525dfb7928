//! What is a shard to the rest of the input: listed, named as a child, and in which state?

use std::sync::Arc;

use tokio::time::Instant;

use super::ids::{SequenceNumber, ShardId};

/// A shard as a listing shows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ListedShard {
    pub(crate) id: ShardId,
    pub(crate) parents: Vec<ShardId>,
    /// Nothing is written to it any more.
    pub(crate) closed: bool,
    /// The sequence number at which it begins. A shard of the same id in a stream that was made again begins elsewhere.
    pub(crate) begin: Option<SequenceNumber>,
}

/// All shards of a stream, as the service listed them.
#[derive(Debug, Clone)]
pub(crate) struct ShardListing {
    /// What happened before is in it.
    pub(crate) asked_at: Instant,
    pub(crate) shards: Arc<[ListedShard]>,
}

/// A shard that comes after the one that is read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ChildShard {
    /// Its id.
    pub id: ShardId,
    /// The shards it comes after: one after a split, two after a merge.
    pub parents: Vec<ShardId>,
}

/// Where a shard is in its life.
///
/// ```text
///  WaitingForParents ──parents ended and stored──▶ Unowned ──claimed──▶ Reading ──all read, acked, end stored──▶ Ended
///                                                    ▲                    │ lease lost / handed off / closing
///                                                    └──────released──────┘
/// ```
///
/// Between reading and ended a shard drains: its end has been read, but not everything is acked. That is the task's
/// own affair ; for everybody else a shard that drains is still being read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ShardState {
    /// A parent is not ended yet.
    WaitingForParents,
    /// It may be read, and nobody here does.
    Unowned,
    /// We own it.
    Reading,
    /// Everything in it is done, and that is stored.
    Ended,
}

impl ShardState {
    /// All its parents are ended.
    pub(crate) fn parents_done(self) -> Self {
        if self == Self::WaitingForParents { Self::Unowned } else { self }
    }

    /// Its lease is ours.
    pub(crate) fn claimed(self) -> Self {
        if self == Self::Unowned { Self::Reading } else { self }
    }

    /// Its lease is not ours any more.
    pub(crate) fn released(self) -> Self {
        if self == Self::Reading { Self::Unowned } else { self }
    }

    /// Its end is stored.
    pub(crate) fn ended(self) -> Self {
        if self == Self::Reading { Self::Ended } else { self }
    }
}
