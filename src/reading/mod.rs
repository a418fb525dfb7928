//! What does a shard task need from a shard reader?
//!
//! `fan_out` implements it by enhanced fan-out, `polling` by GetRecords.

mod body;
mod cursor;
pub(crate) mod fan_out;
pub(crate) mod listing;
pub(crate) mod polling;
pub(crate) mod threads;
pub mod wire;

use std::fmt::Debug;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use pipeline_plugin_api::Message;
use tokio::time::Instant;

use self::listing::StreamListing;
use crate::aws::Service;
use crate::telemetry::ShardMeter;

use crate::model::{ChildShard, HashRange, SequenceNumber, ShardNames, StartPosition};
use crate::pool::Permit;
use crate::records::{Found, Rows, deaggregate, resident};

/// How long a reader waits for space with an open subscription before it closes the subscription. The service gives
/// up on readers that take nothing at some point, and a clean close and a fresh start is better for both sides.
pub(crate) const STALL_TIMEOUT: Duration = Duration::from_secs(30);

/// A shard to read, and what its reader needs.
#[derive(Debug)]
pub(crate) struct ShardToRead {
    pub(crate) names: Arc<ShardNames>,
    pub(crate) meter: Arc<ShardMeter>,
    /// The service that the shard is read from, on the connections of its thread.
    pub(crate) service: Arc<dyn Service>,
    /// How aggregates are replaced by their user records; `None` if they stay whole.
    pub(crate) deaggregation: Option<Deaggregation>,
}

/// How aggregates are replaced by their user records.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Deaggregation {
    /// The hash keys of the shard. User records outside are marked; without a range none is.
    pub(crate) range: Option<HashRange>,
}

impl ShardToRead {
    /// Replaces aggregates by their user records, if that is wanted. It is done before the space for the rows is
    /// settled, because it takes some.
    pub(crate) fn deaggregate(&self, rows: &mut Rows) {
        let Some(Deaggregation { range }) = self.deaggregation else { return };
        let found = deaggregate(rows, range);
        if found != Found::default() {
            self.meter.aggregated(&found);
        }
    }
}

/// Creates the readers of one stream.
#[async_trait]
pub(crate) trait ReaderFactory: Debug + Send + Sync {
    /// Creates a reader of one shard that begins at `start` and sends no request before `begin`. Nothing is opened
    /// yet.
    fn reader(&self, shard: ShardToRead, start: StartPosition, begin: Instant) -> Box<dyn ShardReader>;

    /// Switches to a recreated stream. `listing` lists the shards of the new stream; readers that are created from
    /// now on read it.
    async fn recreated(&self, listing: Arc<StreamListing>);

    /// Removes what this process created at the service to read the stream.
    async fn clean_up(&self);
}

/// Reads one shard from a position on, until the end of the shard.
#[async_trait]
pub(crate) trait ShardReader: Debug + Send {
    /// Waits for the next step. Connection faults stay inside the reader; the result is the next step in the shard,
    /// or an error that a retry would not fix.
    async fn next(&mut self) -> Result<Step, ReadError>;

    /// Sets the position to begin at. Allowed only before the first call of `next`.
    fn start_at(&mut self, start: StartPosition);

    /// Closes what is open, because nothing will be taken for a while. The next call of `next` opens it again, behind
    /// the last step that was returned.
    fn pause(&mut self);
}

/// The next step in a shard.
#[derive(Debug)]
pub(crate) enum Step {
    /// Records, or only a new position.
    Event(ReadEvent),
    /// The shard has ended. Its children come after it; the list is empty if they are not known (yet).
    End(Vec<ChildShard>),
}

/// The result of one read.
#[derive(Debug)]
pub(crate) struct ReadEvent {
    pub(crate) rows: Rows,
    /// The position to continue at after this event.
    pub(crate) continuation: SequenceNumber,
    /// Space in the pool for the memory that the rows hold.
    pub(crate) permit: Permit,
    /// Records that arrived before this time are not wanted; milliseconds since 1970.
    pub(crate) not_before: Option<i64>,
}

/// The error of a shard that can't be read even with retries.
#[derive(Debug, Clone, thiserror::Error)]
#[error("stream {stream}, {shard}: {cause}")]
pub(crate) struct ReadError {
    pub(crate) stream: String,
    pub(crate) shard: String,
    pub(crate) cause: String,
}

/// Whether these are the children of a shard that ended: the service names them, and the parents of each.
fn name_their_parents(children: &[ChildShard]) -> bool {
    !children.is_empty() && children.iter().all(|child| !child.parents.is_empty())
}

/// The bytes of memory that records and their messages hold until they are acknowledged.
fn held_bytes(rows: &Rows) -> u64 {
    resident((rows.kept_bytes() + rows.len() * size_of::<Message>()) as u64)
}
