//! What do the rows of another program say, and what does their absence say?
//!
//! Redpanda Connect stores no end of a shard: it removes the row. So a row that is absent may mean that its shard has
//! ended, that the program never began with it, or that it lost its place. What is known from before, the listings and
//! the rows of the shard's children tell these apart. Workers of this input store ends, and their rows are taken at
//! their word. They remove rows only of shards that are gone, and of streams that are.

use tokio::time::Instant;

use super::Topology;
use crate::lease::{Checkpoint, Row};
use crate::model::{ShardId, ShardState};

/// What is known of the row of one shard.
#[derive(Debug, Default)]
pub(super) struct RowHistory {
    stored: Stored,
    /// Since when the row has been missing, as long as the reason is unknown.
    missing_since: Option<Instant>,
    /// Whether a row of ours is missing, and the service has not said since that it is still the same stream.
    raises_doubt: bool,
}

/// The origin of the row of a shard.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
enum Stored {
    /// There is no row.
    #[default]
    No,
    /// The row was written by a worker of this input.
    Ours,
    /// The row was written by a worker of this input, and by another program before.
    TakenOver,
    /// The row was written by another program.
    Theirs,
}

impl RowHistory {
    /// Notes that the store has this row.
    pub(super) fn is_seen(&mut self, row: &Row) {
        let theirs = row.foreign || row.hold.as_ref().is_some_and(|hold| hold.epoch.is_none());
        self.stored = match self.stored {
            _ if theirs => Stored::Theirs,
            Stored::Theirs | Stored::TakenOver => Stored::TakenOver,
            Stored::No | Stored::Ours => Stored::Ours,
        };
        (self.missing_since, self.raises_doubt) = (None, false);
    }

    /// Notes that the store had no row at this time. Other programs remove the row of a shard once it is ended, even if
    /// another worker holds it by then.
    pub(super) fn is_missing(&mut self, at: Instant, life: ShardState) {
        if matches!(self.stored, Stored::Theirs | Stored::TakenOver) && life != ShardState::Ended {
            self.missing_since = Some(at);
        }
        self.raises_doubt |= self.stored == Stored::Ours && life != ShardState::Ended;
        self.stored = Stored::No;
    }

    /// Whether the row was removed, which may mean that the stream is another one.
    pub(super) fn raises_doubt(&self) -> bool {
        self.raises_doubt
    }

    /// Notes that the service has said that it is still the same stream.
    pub(super) fn is_of_this_stream(&mut self) {
        self.raises_doubt = false;
    }

    /// Notes that this input removed the row.
    pub(super) fn is_removed(&mut self) {
        self.stored = Stored::No;
    }

    /// Whether the store has a row, as far as is known.
    pub(super) fn exists(&self) -> bool {
        self.stored != Stored::No
    }

    /// Whether the row was removed for a reason that is not known yet.
    pub(super) fn is_unexplained(&self) -> bool {
        self.missing_since.is_some() || self.raises_doubt
    }
}

impl Topology {
    /// Judges shards whose row another program removed: a closed shard has ended, and an open one starts again. A
    /// listing from before the row was missed proves this only for closed shards, which stay closed.
    pub(super) fn judge_vanished(&mut self) {
        for node in self.nodes.values_mut().filter(|node| node.life != ShardState::Reading) {
            let Some(since) = node.row.missing_since else { continue };
            if node.closed {
                node.life = ShardState::Ended;
                node.checkpoint = Some(Checkpoint::ShardEnd(None));
                node.row.missing_since = None;
            } else if self.listed_at.is_some_and(|at| at >= since) {
                node.row.missing_since = None;
            }
        }
    }

    /// Returns closed shards that another program has finished; each is returned once, to be stored as ended. The only
    /// evidence is that the program has a row for a child of such a shard and none for the shard itself.
    pub(crate) fn ended_elsewhere(&mut self) -> Vec<ShardId> {
        let mut ended = Vec::new();
        let mut behind: Vec<ShardId> = self
            .nodes
            .values()
            .filter(|node| node.listed && node.row.stored == Stored::Theirs)
            .flat_map(|node| node.parents.clone())
            .collect();
        while let Some(id) = behind.pop() {
            let Some(node) = self.nodes.get_mut(&id) else { continue };
            let open = !matches!(node.life, ShardState::Reading | ShardState::Ended);
            if open && node.closed && !node.row.exists() {
                node.life = ShardState::Ended;
                node.checkpoint = Some(Checkpoint::ShardEnd(None));
                behind.extend(node.parents.clone());
                ended.push(id);
            }
        }
        ended
    }

    /// Corrects a shard that was assumed to be ended: the store has a row for it.
    pub(crate) fn not_ended(&mut self, id: &ShardId) {
        if let Some(node) = self.nodes.get_mut(id) {
            node.life = ShardState::WaitingForParents;
            node.checkpoint = None;
        }
    }
}

#[cfg(test)]
#[path = "foreign_rows_tests.rs"]
mod tests;
