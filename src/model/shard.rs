//! How is a shard represented: in a listing, as a child, and in its lifecycle?

use std::sync::Arc;

use tokio::time::Instant;

use super::ids::{SequenceNumber, ShardId};

/// A shard as a listing shows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ListedShard {
    pub(crate) id: ShardId,
    pub(crate) parents: Vec<ShardId>,
    /// Whether the shard is closed: no more records are written to it.
    pub(crate) closed: bool,
    /// The sequence number at which the shard begins. A shard of the same id in a recreated stream begins elsewhere.
    pub(crate) begin: Option<SequenceNumber>,
}

/// All shards of a stream, as the service listed them.
#[derive(Debug, Clone)]
pub(crate) struct ShardListing {
    /// The time of the request. Changes before this time are in the listing.
    pub(crate) asked_at: Instant,
    pub(crate) shards: Arc<[ListedShard]>,
}

/// A child of the shard that is read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ChildShard {
    /// The id of the child.
    pub id: ShardId,
    /// The parents of the child: one after a split, two after a merge.
    pub parents: Vec<ShardId>,
}

/// The lifecycle state of a shard.
///
/// ```text
///  WaitingForParents ──parents ended and stored──▶ Unowned ──claimed──▶ Reading ──all read, acked, end stored──▶ Ended
///                                                    ▲                    │ lease lost / handed over / closing
///                                                    └──────released──────┘
/// ```
///
/// Between reading and ended a shard drains: its end has been read, but not everything is acked. Only the shard task
/// distinguishes that; for all other parts a draining shard is still being read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ShardState {
    /// A parent has not ended yet.
    WaitingForParents,
    /// The shard may be read, and this worker does not read it.
    Unowned,
    /// This worker owns the shard.
    Reading,
    /// All records are done, and the shard end is stored.
    Ended,
}

impl ShardState {
    /// The state after all its parents have ended.
    pub(crate) fn parents_done(self) -> Self {
        if self == Self::WaitingForParents { Self::Unowned } else { self }
    }

    /// The state after this worker claimed its lease.
    pub(crate) fn claimed(self) -> Self {
        if self == Self::Unowned { Self::Reading } else { self }
    }

    /// The state after this worker released or lost its lease.
    pub(crate) fn released(self) -> Self {
        if self == Self::Reading { Self::Unowned } else { self }
    }

    /// The state after its end is stored.
    pub(crate) fn ended(self) -> Self {
        if self == Self::Reading { Self::Ended } else { self }
    }
}
