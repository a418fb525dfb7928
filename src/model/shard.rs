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
    /// The hash keys whose records the shard takes, if the listing shows them.
    pub(crate) hash_range: Option<HashRange>,
}

/// The range of hash keys of a shard, inclusive.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct HashRange {
    start: u128,
    end: u128,
}

impl HashRange {
    /// Makes a range of its decimal bounds; `None` if they are not a range. (Local servers swap them after a split.)
    pub(crate) fn new(start: &str, end: &str) -> Option<Self> {
        let (start, end) = (hash_key(start.as_bytes())?, hash_key(end.as_bytes())?);
        (start <= end).then_some(Self { start, end })
    }

    /// The first and the last hash key.
    pub(crate) fn bounds(self) -> (u128, u128) {
        (self.start, self.end)
    }

    pub(crate) fn contains(self, hash: u128) -> bool {
        (self.start..=self.end).contains(&hash)
    }

    /// Whether every hash key is in the range.
    pub(crate) fn is_whole(self) -> bool {
        self.start == 0 && self.end == u128::MAX
    }
}

/// Reads a hash key: a decimal number below 2¹²⁸.
pub(crate) fn hash_key(text: &[u8]) -> Option<u128> {
    let is_number = !text.is_empty() && text.iter().all(u8::is_ascii_digit);
    std::str::from_utf8(text).ok().filter(|_| is_number)?.parse().ok()
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
