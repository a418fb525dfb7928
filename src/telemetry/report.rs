//! What does an input do at the moment, shard by shard, and what changed lately?
//!
//! A report is computed when it is asked for, from what the input holds anyway. What is known of a shard is gone with the
//! shard, and the list of changes is bounded.

use std::collections::VecDeque;
use std::time::Duration;

use pipeline_plugin_api::State;
use tokio::time::Instant;

use crate::model::{SequenceNumber, ShardId, ShardNames, Stream, WorkerId};
use crate::sync::{Mutex, lock};

/// The number of changes that are kept.
const CHANGES_KEPT: usize = 200;
/// Changes of one kind that follow each other within this time count as one: a start claims thousands of shards at once.
const COUNTED_WITHIN: Duration = Duration::from_secs(5);

/// What an input does at the moment.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Report {
    /// The state of the input.
    pub state: State,
    /// A readable description of the streams.
    pub target: String,
    /// A sentence that explains why the input is not healthy.
    pub reason: Option<String>,
    /// The name under which this worker holds leases.
    pub worker: WorkerId,
    /// What is known only while the input is connected.
    pub connected: Option<Connected>,
}

/// What is known of a connected input.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Connected {
    /// The streams that are read.
    pub streams: Vec<Stream>,
    /// The greatest lag of the shards that this worker reads, or that no worker reads.
    pub lag: Duration,
    /// How long there has been a shard that no worker reads; `None` if every shard has a worker.
    pub unread_for: Option<Duration>,
    /// Whether the leases of this worker are valid; `None` where there are no leases to renew.
    pub leases_valid: Option<bool>,
    /// The number of live workers that share the table, including this one; `None` where no table is shared.
    pub workers: Option<u64>,
    /// The pending records.
    pub records: Used,
    /// The bytes that the pending records hold, and frames that are being read.
    pub bytes: Used,
    /// The shards that this worker reads or drains.
    pub shards: Vec<ShardReport>,
    /// What is not read, delivered or stored, the longest first.
    pub conditions: Vec<ConditionReport>,
    /// What changed lately, the newest first. At most 200 changes are kept.
    pub changes: Vec<Change>,
}

/// The usage of the pool for one quantity.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct Used {
    /// The amount that is taken now.
    pub used: u64,
    /// The highest amount that was ever taken at once.
    pub peak: u64,
    /// The configured limit.
    pub capacity: u64,
    /// The number of reservations that wait for space.
    pub waiting: usize,
}

/// A shard that this worker owns.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct ShardReport {
    /// The stream.
    pub stream: Stream,
    /// The shard.
    pub shard: ShardId,
    /// How long ago this worker claimed the shard.
    pub held_for: Duration,
    /// Whether the shard is still read. Otherwise only the deliveries in flight are waited for.
    pub is_reading: bool,
    /// The last record up to which everything is acknowledged; `None` until a record is, since the claim.
    pub position: Option<SequenceNumber>,
    /// The age of the oldest record that is not acknowledged, or not read.
    pub lag: Duration,
    /// The records that were read since the claim.
    pub read_records: u64,
    /// The bytes of their data.
    pub read_bytes: u64,
    /// The records that were acknowledged since the claim.
    pub acked_records: u64,
    /// The records that were nacked since the claim.
    pub nacked_records: u64,
    /// The records that were read and are not acknowledged.
    pub pending_records: u64,
    /// Those of them that the host has.
    pub in_flight_records: u64,
    /// Whether a record that was read waits for `checkpoint_limit`.
    pub is_held_by_limit: bool,
    /// The last error of a subscription or a poll, and how long ago it was.
    pub last_error: Option<(String, Duration)>,
}

/// A part of the input that is not read, delivered or stored.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct ConditionReport {
    /// The stream of the part, if it belongs to one.
    pub stream: Option<Stream>,
    /// The shard of the part, if it belongs to one.
    pub shard: Option<ShardId>,
    /// The reason, in a sentence.
    pub reason: String,
    /// How long the condition has lasted.
    pub lasts: Duration,
}

/// The kind of a change.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ChangeKind {
    /// This worker claimed a shard that no worker held, or that was handed over to it.
    Claimed,
    /// This worker took a shard from another worker.
    TookOver,
    /// This worker released a shard, to another worker or to none.
    Released,
    /// Another worker took a shard of this worker without a request.
    Lost,
    /// A shard was read to its end, acknowledged and stored.
    Ended,
    /// The leases of this worker expired, so nothing is read.
    LeasesExpired,
    /// The leases of this worker are valid again.
    LeasesRenewed,
    /// A part of the input is not read, delivered or stored.
    Degraded,
    /// A part of the input works again.
    Recovered,
}

/// A change, or several of one kind that followed each other closely.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Change {
    /// How long ago the last of them was.
    pub ago: Duration,
    /// The kind of the changes.
    pub kind: ChangeKind,
    /// The stream of the last of them, if it concerns one.
    pub stream: Option<Stream>,
    /// The shard of the last of them, if it concerns one.
    pub shard: Option<ShardId>,
    /// What is to be said beside the kind: another worker, or a reason.
    pub detail: Option<String>,
    /// The number of changes; at least one.
    pub count: u64,
}

/// The latest changes of one input.
#[derive(Debug, Default)]
pub(crate) struct Changes(Mutex<VecDeque<Noted>>);

#[derive(Debug)]
struct Noted {
    at: Instant,
    kind: ChangeKind,
    stream: Option<Stream>,
    shard: Option<ShardId>,
    detail: Option<String>,
    count: u64,
}

impl Changes {
    /// Notes a change that concerns a shard.
    pub(crate) fn of_shard(&self, kind: ChangeKind, stream: &Stream, shard: &ShardId, detail: Option<String>) {
        self.note(kind, Some(stream.clone()), Some(shard.clone()), detail);
    }

    /// Notes a change.
    pub(crate) fn note(
        &self,
        kind: ChangeKind,
        stream: Option<Stream>,
        shard: Option<ShardId>,
        detail: Option<String>,
    ) {
        let now = Instant::now();
        let mut noted = lock(&self.0);
        if let Some(last) = noted.back_mut()
            && last.kind == kind
            && last.stream == stream
            && now.saturating_duration_since(last.at) < COUNTED_WITHIN
        {
            (last.at, last.shard, last.detail) = (now, shard, detail);
            last.count += 1;
            return;
        }
        if noted.len() >= CHANGES_KEPT {
            noted.pop_front();
        }
        noted.push_back(Noted { at: now, kind, stream, shard, detail, count: 1 });
    }

    /// The changes, the newest first.
    pub(crate) fn read(&self, now: Instant) -> Vec<Change> {
        let changes = lock(&self.0);
        let changes = changes.iter().rev().map(|noted| Change {
            ago: now.saturating_duration_since(noted.at),
            kind: noted.kind,
            stream: noted.stream.clone(),
            shard: noted.shard.clone(),
            detail: noted.detail.clone(),
            count: noted.count,
        });
        changes.collect()
    }
}

impl ShardReport {
    /// Makes the report of a shard of which nothing has been read.
    pub(crate) fn new(names: &ShardNames) -> Self {
        Self {
            stream: names.stream.clone(),
            shard: names.shard.clone(),
            held_for: Duration::ZERO,
            is_reading: true,
            position: None,
            lag: Duration::ZERO,
            read_records: 0,
            read_bytes: 0,
            acked_records: 0,
            nacked_records: 0,
            pending_records: 0,
            in_flight_records: 0,
            is_held_by_limit: false,
            last_error: None,
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::advance;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn changes_of_one_kind_that_follow_closely_count_as_one_and_the_list_is_bounded() {
        let changes = Changes::default();
        let stream = Stream::new("orders", "arn:orders");
        for number in 0..2000 {
            changes.of_shard(ChangeKind::Claimed, &stream, &format!("{number}").as_str().into(), None);
        }
        changes.of_shard(ChangeKind::Lost, &stream, &"7".into(), Some("worker-2".into()));
        advance(COUNTED_WITHIN).await;
        changes.of_shard(ChangeKind::Lost, &stream, &"8".into(), Some("worker-3".into()));
        let read = changes.read(Instant::now());
        let seen: Vec<_> = read.iter().map(|change| (change.kind, change.count, change.ago)).collect();
        let lost = ChangeKind::Lost;
        let expected =
            [(lost, 1, Duration::ZERO), (lost, 1, COUNTED_WITHIN), (ChangeKind::Claimed, 2000, COUNTED_WITHIN)];
        assert_eq!(seen, expected);
        assert_eq!(read[2].shard, Some("1999".into()));
        for _ in 0..1000 {
            advance(COUNTED_WITHIN).await;
            changes.of_shard(ChangeKind::Lost, &stream, &"7".into(), None);
        }
        assert_eq!(changes.read(Instant::now()).len(), CHANGES_KEPT);
    }
}
