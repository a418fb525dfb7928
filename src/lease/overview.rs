//! What does an operator see of the leases?

use std::collections::{BTreeMap, HashMap, HashSet};
use std::time::Duration;

use serde::Serialize;

use crate::model::{ListedShard, ShardId, StartPosition};

/// A shard of a stream in a namespace.
pub(crate) type Place = (Option<String>, String, ShardId);

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
    /// The start of each stream that was to be read from its latest record, in milliseconds since 1970, by namespace and
    /// ARN.
    #[serde(skip)]
    pub(crate) latest: HashMap<(Option<String>, String), i64>,
}

/// A worker.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct SeenWorker {
    /// The namespace of the worker's rows, if they are in one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub namespace: Option<String>,
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
    /// The namespace of the shard's row, if it is in one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub namespace: Option<String>,
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
    /// Adds the listed shards that have no row yet, in each namespace that has rows of their stream; the listings are
    /// keyed by the spelling of the stream. Returns the children of shards for which a position is stored: they are read
    /// from their beginning.
    pub(crate) fn add_unread(&mut self, listings: &HashMap<String, Vec<ListedShard>>) -> HashSet<Place> {
        let (mut unread, mut follow) = (Vec::new(), HashSet::new());
        let mut rows: BTreeMap<(Option<&str>, &str), HashMap<&str, bool>> = BTreeMap::new();
        for row in &self.shards {
            let stream = rows.entry((row.namespace.as_deref(), &row.stream)).or_default();
            stream.insert(&row.shard, row.sequence_number.is_some());
        }
        for ((namespace, stream), rows) in rows {
            for shard in listings.get(stream).into_iter().flatten() {
                let namespace = namespace.map(str::to_owned);
                if !rows.contains_key(shard.id.as_str()) {
                    let namespace = namespace.clone();
                    unread.push(SeenShard { namespace, ..SeenShard::unread(stream, shard.id.as_str()) });
                }
                if shard.parents.iter().any(|parent| rows.get(parent.as_str()) == Some(&true)) {
                    follow.insert((namespace, stream.to_owned(), shard.id.clone()));
                }
            }
        }
        self.shards.extend(unread);
        self.shards.sort_by(|a, b| (&a.namespace, &a.stream, &a.shard).cmp(&(&b.namespace, &b.stream, &b.shard)));
        follow
    }

    /// Returns the shards that a worker of a namespace holds, and the worker itself if it has a row.
    pub(crate) fn of(&self, worker: &str, namespace: Option<&str>) -> (Vec<&SeenShard>, Option<&SeenWorker>) {
        let is_its =
            |shard: &&SeenShard| shard.namespace.as_deref() == namespace && shard.owner.as_deref() == Some(worker);
        let is_it = |shown: &&SeenWorker| shown.namespace.as_deref() == namespace && shown.worker == worker;
        (self.shards.iter().filter(is_its).collect(), self.workers.iter().find(is_it))
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
            namespace: None,
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
