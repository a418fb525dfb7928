//! In which phase is a shard whose lease this worker holds?
//!
//! This is the one state that acks, the outbox and the checkpointer agree on. It only moves forward: a shard that is
//! claimed again begins anew, under another lease.

use std::fmt;
use std::sync::atomic::{AtomicU8, Ordering};

/// The phase of a shard, from its claim to the loss or release of its lease.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Phase {
    /// The shard is read and delivered.
    Reading,
    /// Nothing more is read or delivered. Acks of deliveries in flight still count.
    Draining,
    /// The last checkpoint is being stored, and the lease released. Acks no longer count.
    Releasing,
    /// The lease is released or lost.
    Gone,
}

/// The error of a transition that would lead back.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a shard in phase {from} can't go to {to}")]
pub(crate) struct IllegalTransition {
    pub(crate) from: Phase,
    pub(crate) to: Phase,
}

/// The phase of a shard, shared by all that depends on it.
#[derive(Debug, Default)]
pub(crate) struct Ownership(AtomicU8);

impl Phase {
    const ALL: [Self; 4] = [Self::Reading, Self::Draining, Self::Releasing, Self::Gone];

    fn of(number: u8) -> Self {
        Self::ALL.get(usize::from(number)).copied().unwrap_or(Self::Gone)
    }
}

impl fmt::Display for Phase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Reading => "reading",
            Self::Draining => "draining",
            Self::Releasing => "releasing",
            Self::Gone => "gone",
        })
    }
}

impl Ownership {
    /// Returns the current phase.
    pub(crate) fn phase(&self) -> Phase {
        Phase::of(self.0.load(Ordering::Acquire))
    }

    /// Whether acks still count: the lease is held, and the last checkpoint is not being stored yet.
    pub(crate) fn counts_acks(&self) -> bool {
        self.phase() < Phase::Releasing
    }

    /// Enters a phase, and returns the one before. Entering the current phase again is legal.
    pub(crate) fn enter(&self, to: Phase) -> Result<Phase, IllegalTransition> {
        let from = Phase::of(self.0.fetch_max(to as u8, Ordering::AcqRel));
        if from > to { Err(IllegalTransition { from, to }) } else { Ok(from) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn phases_only_move_forward() {
        for (at, from) in Phase::ALL.into_iter().enumerate() {
            for (other, to) in Phase::ALL.into_iter().enumerate() {
                let ownership = Ownership::default();
                assert_eq!(ownership.enter(from), Ok(Phase::Reading));
                let entered = ownership.enter(to);
                assert_eq!(entered, if other >= at { Ok(from) } else { Err(IllegalTransition { from, to }) });
                assert_eq!(ownership.phase(), from.max(to));
                assert_eq!(ownership.counts_acks(), from.max(to) < Phase::Releasing);
            }
        }
    }
}
