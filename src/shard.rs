//! The life of one shard.

pub(crate) mod task;

/// Where a shard is in its life.
///
/// ```text
///  WaitingForParents ──parents ended and stored──▶ Unowned ──claimed──▶ Reading ──all read, acked, end stored──▶ Ended
///                                                    ▲                    │ lease lost / handed off / closing
///                                                    └──────released──────┘
/// ```
///
/// Between reading and ended a shard drains: its end has been read, but not everything is acked. That is the task's
/// own affair (see [`task`]); for everybody else a shard that drains is still being read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Life {
    /// A parent is not ended yet.
    WaitingForParents,
    /// It may be read, and nobody here does.
    Unowned,
    /// We own it.
    Reading,
    /// Everything in it is done, and that is stored.
    Ended,
}

impl Life {
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
