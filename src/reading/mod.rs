//! What does a shard's task need from whatever reads the shard?
//!
//! Enhanced fan-out implements it; polling will.

pub(crate) mod fan_out;
pub(crate) mod listing;
pub(crate) mod threads;

use std::fmt::Debug;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use tokio::time::Instant;

use self::listing::StreamListing;
use crate::aws::Service;
use crate::telemetry::ShardMeter;

use crate::model::{ChildShard, SequenceNumber, ShardNames, StartPosition};
use crate::pool::Permit;
use crate::records::Rows;

/// How long a reader is kept waiting with a connection that nothing is taken from, before it closes that: the service gives up
/// on such readers at some point, and a clean close and a fresh start is better for both.
pub(crate) const STALL_TIMEOUT: Duration = Duration::from_secs(30);

/// A shard that is to be read, and what its reader needs of it.
#[derive(Debug)]
pub(crate) struct ShardToRead {
    pub(crate) names: Arc<ShardNames>,
    pub(crate) meter: Arc<ShardMeter>,
    /// The service to read it from, on the connections of its thread.
    pub(crate) service: Arc<dyn Service>,
}

/// Makes the readers of one stream.
#[async_trait]
pub(crate) trait ReaderFactory: Debug + Send + Sync {
    /// A reader of one shard that begins at `start`, and asks for nothing before `begin`. Nothing is opened yet.
    fn reader(&self, shard: ShardToRead, start: StartPosition, begin: Instant) -> Box<dyn ShardReader>;

    /// The stream has been deleted and made again; these are the listings of the new one. Readers that are made from now on
    /// read the new stream.
    async fn recreated(&self, listing: Arc<StreamListing>);

    /// Removes what this process made at the service in order to read the stream.
    async fn clean_up(&self);
}

/// Reads one shard from a place on, for as long as it takes.
#[async_trait]
pub(crate) trait ShardReader: Debug + Send {
    /// Waits for what comes next. Whatever goes wrong with a connection stays inside; what comes out is the next
    /// thing in the shard, or an error that no retry would mend.
    async fn next(&mut self) -> Result<Step, ReadError>;

    /// Begins here instead. Only before the first call of `next`.
    fn start_at(&mut self, start: StartPosition);

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
