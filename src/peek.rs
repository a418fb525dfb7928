//! What is in a stream, for a person who wants to see it?
//!
//! A [`Peek`] reads records with iterators of its own: it takes no lease, stores nothing and takes nothing away from
//! workers, except that each call is one of the five in a second that a shard allows all that poll it. It makes at most
//! one in a second.

use std::collections::BTreeSet;
use std::time::{Duration, SystemTime};

use serde::Serialize;
use tokio::time::{Instant, sleep_until, timeout};

use crate::aws::sdk::Aws;
use crate::aws::{Encoding, Service};
use crate::inspect::{InspectError, StreamError, TableAt, sessions};
use crate::model::{ShardId, StartPosition, Stream, millis};
use crate::reading::polling::poller::AnswerReader;
use crate::reading::wire::Event;
use crate::records::{Record, deaggregate};
use crate::reset::To;
use crate::retry::{self, Fault, Remedy};

/// The time between two calls on a shard.
const PACE: Duration = Duration::from_secs(1);
/// How long the service may take to answer.
const ANSWER_WITHIN: Duration = Duration::from_secs(20);
/// The most bytes of an answer: 10 MiB of data in base64, and the text around them.
const LARGEST_ANSWER: usize = 32 << 20;

/// The reason why nothing more can be read.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PeekError {
    /// No region or no credentials were found.
    #[error(transparent)]
    Inspect(#[from] InspectError),
    /// The stream can't be read.
    #[error(transparent)]
    Stream(#[from] StreamError),
    /// The stream has no shard of this id.
    #[error("the stream has no shard {0}")]
    NoSuchShard(String),
    /// A record belongs to one shard, and none or several are named.
    #[error("a sequence number is a position in one shard: name it")]
    OneShard,
}

/// A record. Those that the KPL packed into one are shown one by one.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct PeekedRecord {
    /// The shard.
    pub shard: String,
    /// The sequence number.
    pub sequence_number: String,
    /// The index of a user record in its aggregate.
    pub sub_sequence_number: Option<u32>,
    /// The partition key, if the producer gave one.
    pub partition_key: Option<String>,
    /// The explicit hash key that the producer gave a user record.
    pub explicit_hash_key: Option<String>,
    /// When the record arrived at the stream, in milliseconds since 1970.
    pub arrival_ms: Option<i64>,
    /// The payload.
    #[serde(skip)]
    pub data: Vec<u8>,
}

/// Reads records of a stream from a position on.
#[derive(Debug)]
pub struct Peek {
    streams: Aws,
    stream: Stream,
    shards: Vec<OpenShard>,
    /// The shard whose turn it is.
    turn: usize,
    /// Whether to go on at the latest record.
    waits: bool,
    calls: u64,
}

#[derive(Debug)]
struct OpenShard {
    id: ShardId,
    iterator: String,
    next_call: Instant,
}

impl Peek {
    /// Finds the stream and its shards; all of them if none are named. Of `at`, the table is not used.
    ///
    /// # Errors
    ///
    /// An error is returned without a region, without credentials, and for a stream, a shard or a record that does not
    /// exist.
    pub async fn open(at: &TableAt, stream: &str, shards: &[String], from: &To) -> Result<Self, PeekError> {
        let (_, streams) = sessions(at).await?;
        let found = streams.describe_stream(stream).await;
        let stream = found.map_err(|fault| StreamError::new(stream, "looking for it", &fault))?;
        let listing = streams.list_shards(&stream).await;
        let listing = listing.map_err(|fault| StreamError::new(stream.name(), "listing the shards", &fault))?;
        let known: BTreeSet<&str> = listing.iter().map(|shard| shard.id.as_str()).collect();
        if let Some(missing) = shards.iter().find(|shard| !known.contains(shard.as_str())) {
            return Err(PeekError::NoSuchShard(missing.clone()));
        }
        if matches!(from, To::Record(_)) && shards.len() != 1 {
            return Err(PeekError::OneShard);
        }
        let start = match from {
            To::Oldest => StartPosition::Oldest,
            To::Latest => StartPosition::At(millis(streams.time().unwrap_or_else(SystemTime::now)).max(0)),
            To::Time(time) => StartPosition::At(millis(*time).max(0)),
            To::Record(record) => StartPosition::AtRecord(record.clone()),
        };
        let mut peek = Self { streams, stream, shards: Vec::new(), turn: 0, waits: *from == To::Latest, calls: 0 };
        let is_meant = |id: &ShardId| shards.is_empty() || shards.iter().any(|shard| shard == id.as_str());
        // What is written from now on is not written to closed shards.
        let shards = listing.into_iter().filter(|shard| is_meant(&shard.id) && !(peek.waits && shard.closed));
        for shard in shards.collect::<Vec<_>>() {
            let iterator = peek.streams.shard_iterator(&peek.stream, &shard.id, &start).await;
            let iterator =
                iterator.map_err(|fault| StreamError::new(peek.stream.name(), "finding the position", &fault))?;
            peek.shards.push(OpenShard { id: shard.id, iterator, next_call: Instant::now() });
        }
        Ok(peek)
    }

    /// How many calls of GetRecords were made.
    pub fn calls(&self) -> u64 {
        self.calls
    }

    /// Waits for records: some of one shard, at most about `most`. The result is `None` once everything was read up to the
    /// latest record, unless reading began there.
    ///
    /// # Errors
    ///
    /// An error is returned when the stream can't be read.
    ///
    /// # Cancel safety
    ///
    /// What a dropped call has read is read again.
    pub async fn next(&mut self, most: u32) -> Result<Option<Vec<PeekedRecord>>, PeekError> {
        while !self.shards.is_empty() {
            self.turn %= self.shards.len();
            let shard = &self.shards[self.turn];
            sleep_until(shard.next_call).await;
            let answer = self.call(shard, most.clamp(1, 100)).await;
            self.calls += 1;
            let shard = &mut self.shards[self.turn];
            shard.next_call = Instant::now() + PACE;
            let mut event = match answer {
                Ok(event) => event,
                // Other programs poll the shard as well.
                Err(fault) if retry::records(&fault) == Remedy::SlowDown => {
                    self.turn += 1;
                    continue;
                }
                Err(fault) => return Err(StreamError::new(self.stream.name(), "reading records", &fault).into()),
            };
            let is_at_latest = event.millis_behind.is_none_or(|millis| millis <= 0);
            deaggregate(&mut event.rows, None);
            let id = shard.id.clone();
            let records: Vec<_> = event.rows.iter().map(|record| peeked(&id, record)).collect();
            match event.next_iterator {
                Some(next) if self.waits || !is_at_latest => {
                    shard.iterator = next;
                    self.turn += 1;
                }
                _ => drop(self.shards.remove(self.turn)),
            }
            if !records.is_empty() {
                return Ok(Some(records));
            }
        }
        Ok(None)
    }

    async fn call(&self, shard: &OpenShard, limit: u32) -> Result<Event, Fault> {
        let call = self.streams.get_records(&self.stream, &shard.iterator, limit, Encoding::Json);
        let silence = || Fault::wire("Timeout", "the call was not answered");
        let answer = timeout(ANSWER_WITHIN, call).await.map_err(|_| silence())??;
        let read = AnswerReader::default().read(answer, LARGEST_ANSWER).await?;
        let (event, _) =
            read.ok_or_else(|| Fault::wire("BadAnswer", "the answer is larger than the service's largest"))?;
        Ok(event)
    }
}

fn peeked(shard: &ShardId, record: Record<'_>) -> PeekedRecord {
    PeekedRecord {
        shard: shard.to_string(),
        sequence_number: record.sequence().to_owned(),
        sub_sequence_number: record.sub_sequence_number(),
        partition_key: record.partition_key().map(str::to_owned),
        explicit_hash_key: record.explicit_hash_key().map(str::to_owned),
        arrival_ms: record.arrival_millis(),
        data: record.data_ref().to_vec(),
    }
}
