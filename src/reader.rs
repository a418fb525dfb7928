//! What does a shard's task need from whatever reads the shard?
//!
//! Enhanced fan-out implements it; polling will.

use std::fmt::Debug;

use async_trait::async_trait;

use crate::efo::wire::{ChildShard, Rows};
use crate::names::SequenceNumber;
use crate::pool::Permit;
use crate::topology::Start;

/// Reads one shard from a place on, for as long as it takes.
#[async_trait]
pub(crate) trait ShardReader: Debug + Send {
    /// Waits for what comes next. Whatever goes wrong with a connection stays inside; what comes out is the next
    /// thing in the shard, or an error that no retry would mend.
    async fn next(&mut self) -> Result<Step, ReadError>;

    /// Begins here instead. Only before the first call of `next`.
    fn start_at(&mut self, start: Start);

    /// Nothing will be taken for a while: lets go of what is open. The next call of `next` opens it again, behind
    /// what was last returned.
    fn pause(&mut self);
}

/// The next thing in a shard.
#[derive(Debug)]
pub(crate) enum Step {
    /// Records, or only a place further on.
    Event(ReadEvent),
    /// The shard is over. These come after it; none if they aren't known (yet).
    End(Vec<ChildShard>),
}

/// What was read at once.
#[derive(Debug)]
pub(crate) struct ReadEvent {
    pub(crate) rows: Rows,
    /// Where to go on after it.
    pub(crate) continuation: SequenceNumber,
    /// Space in the pool for what the rows hold.
    pub(crate) permit: Permit,
    /// Records that arrived before then are not wanted; milliseconds since 1970.
    pub(crate) not_before: Option<i64>,
}

/// The shard can't be read, and trying on would not help.
#[derive(Debug, Clone, thiserror::Error)]
#[error("stream {stream}, {shard}: {cause}")]
pub(crate) struct ReadError {
    pub(crate) stream: String,
    pub(crate) shard: String,
    pub(crate) cause: String,
}
