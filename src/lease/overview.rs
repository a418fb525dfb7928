//! What does an operator see of the leases?

use std::collections::{HashMap, HashSet};
use std::time::Duration;

use serde::Serialize;

use crate::model::{ListedShard, ShardId, StartPosition};

/// The content of a lease table.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct Overview {
    /// All workers that have a row in the table, by name. Workers of Redpanda Connect have none.
    pub workers: Vec<SeenWorker>,
    /// All shards, by stream and id. Shards without a row are included once the lag of each shard has been requested.
    pub shards: Vec<SeenShard>,
    /// The lag of all streams together: the age in milliseconds of the oldest record of any shard that is not
    /// processed, whether or not a worker reads the shard. Unknown until requested, and where no shard could be
    /// queried. A worker exposes the same value for the shards that it reads, and for the shards that no worker reads,
    /// as `kinesis_input_lag_seconds`.
    pub lag_ms: Option<u64>,
    /// The start of each stream that was to be read from its latest record, in milliseconds since 1970, by ARN.
    #[serde(skip)]
    pub(crate) latest: HashMap<String, i64>,
}

/// A worker.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct SeenWorker {
    /// The worker's name.
    pub worker: String,
    /// How many shards the worker holds.
    pub shards: usize,
    /// Whether the worker reads shards that its configuration names, and takes no others.
    pub explicit: bool,
    /// The ARNs of the streams whose shards the worker reads.
    pub streams: Vec<String>,
    /// When the worker started, by its own clock, in RFC 3339.
    pub since: Option<String>,
    /// How many seconds ago the worker started. It compares the clocks of two machines.
    pub runs_seconds: Option<i64>,
    /// When the worker sent its last heartbeat, by its own clock, in RFC 3339.
    pub seen_at: Option<String>,
    /// How many seconds ago the worker sent its last heartbeat. It compares the clocks of two machines.
    pub seen_seconds_ago: Option<i64>,
    #[serde(skip)]
    pub(crate) heartbeat: String,
    #[serde(skip)]
    pub(crate) heartbeat_period: Option<Duration>,
}

/// A shard.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct SeenShard {
    /// The stream, as the table spells it: its name or ARN.
    pub stream: String,
    /// The shard's id.
    pub shard: String,
    /// Whether the shard is read.
    pub state: State,
    /// The worker that holds the shard.
    pub owner: Option<String>,
    /// How many seconds ago the owner sent its last heartbeat; unknown for other programs.
    pub owner_seen_seconds_ago: Option<i64>,
    /// Whether the owner is another program, such as Redpanda Connect.
    pub other_program: bool,
    /// Since when the owner has held the shard, by the owner's clock, in RFC 3339.
    pub since: Option<String>,
    /// How many seconds ago the owner claimed the shard.
    pub held_seconds: Option<i64>,
    /// When the lease ends for programs that judge it by the clock, in RFC 3339.
    pub lease_until: Option<String>,
    /// The worker that has requested the shard from its owner.
    pub requester: Option<String>,
    /// The stored checkpoint: the last record up to which the shard is processed.
    pub sequence_number: Option<String>,
    #[serde(skip)]
    pub(crate) start: Option<StartPosition>,
    /// How many milliseconds ago the oldest record that is not processed arrived; 0 if all records are processed.
    /// Unknown until requested.
    pub behind_ms: Option<u64>,
    /// The problem with the row, or the reason why the lag of the shard is unknown.
    pub remark: Option<String>,
}

/// Whether a shard is read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
pub enum State {
    /// A worker holds the shard.
    Held,
    /// No worker holds the shard.
    Free,
    /// The shard has been read to its end.
    Ended,
    /// The row of the shard can't be understood, so the shard is not read.
    Unreadable,
}

impl Overview {
    /// Adds the listed shards that have no row yet; the listings are keyed by the spelling of their stream. Returns the
    /// children of shards for which a position is stored: they are read from their beginning.
    pub(crate) fn add_unread(&mut self, listings: &HashMap<String, Vec<ListedShard>>) -> HashSet<(String, ShardId)> {
        let rows: HashMap<(&str, &str), bool> = self
            .shards
            .iter()
            .map(|row| ((row.stream.as_str(), row.shard.as_str()), row.sequence_number.is_some()))
            .collect();
        let (mut unread, mut follow) = (Vec::new(), HashSet::new());
        for (stream, listing) in listings {
            for shard in listing {
                if !rows.contains_key(&(stream.as_str(), shard.id.as_str())) {
                    unread.push(SeenShard::unread(stream, shard.id.as_str()));
                }
                if shard.parents.iter().any(|parent| rows.get(&(stream.as_str(), parent.as_str())) == Some(&true)) {
                    follow.insert((stream.clone(), shard.id.clone()));
                }
            }
        }
        self.shards.extend(unread);
        self.shards.sort_by(|a, b| (&a.stream, &a.shard).cmp(&(&b.stream, &b.shard)));
        follow
    }

    /// Returns the shards that a worker holds, and the worker itself if it has a row.
    pub(crate) fn of(&self, worker: &str) -> (Vec<&SeenShard>, Option<&SeenWorker>) {
        let shards = self.shards.iter().filter(|shard| shard.owner.as_deref() == Some(worker)).collect();
        (shards, self.workers.iter().find(|shown| shown.worker == worker))
    }
}

impl SeenShard {
    /// The position from which reading goes on. Without a stored position, it is the time `latest`, if that is given,
    /// or the oldest record.
    pub(crate) fn start(&self, latest: Option<i64>) -> StartPosition {
        self.start.clone().or(latest.map(StartPosition::At)).unwrap_or(StartPosition::Oldest)
    }

    /// Makes a shard of which only the name is known.
    pub(crate) fn unread(stream: &str, shard: &str) -> Self {
        Self {
            stream: stream.to_owned(),
            shard: shard.to_owned(),
            state: State::Free,
            owner: None,
            owner_seen_seconds_ago: None,
            other_program: false,
            since: None,
            held_seconds: None,
            lease_until: None,
            requester: None,
            sequence_number: None,
            start: None,
            behind_ms: None,
            remark: None,
        }
    }
}
