//! What does an operator see of the leases?

use std::collections::{HashMap, HashSet};
use std::time::Duration;

use serde::Serialize;

use crate::model::{ListedShard, SequenceNumber, ShardId, StartPosition};

/// What is in a table.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct Overview {
    /// All workers that show themselves, by name. Connect's don't.
    pub workers: Vec<SeenWorker>,
    /// All shards, by stream and name. Those that nobody has read yet are among them once it was asked how far behind each is.
    pub shards: Vec<SeenShard>,
    /// The lag of all streams together: the age in milliseconds of the oldest record of any shard that is not done, whether
    /// somebody reads the shard or not. Unknown until asked, and where no shard could be asked. A worker exposes the same of
    /// what it reads, and of what nobody reads, as `kinesis_input_lag_seconds`.
    pub lag_ms: Option<u64>,
    /// Where streams begin that were to be read from their latest record, in milliseconds since 1970, by their ARN.
    #[serde(skip)]
    pub(crate) latest: HashMap<String, i64>,
}

/// A worker.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct SeenWorker {
    /// Its name.
    pub worker: String,
    /// How many shards it holds.
    pub shards: usize,
    /// Whether it reads shards that it was told by name, and takes no others.
    pub explicit: bool,
    /// The ARNs of the streams whose shards it takes.
    pub streams: Vec<String>,
    /// Since when it runs, by its own clock, in RFC 3339.
    pub since: Option<String>,
    /// The same in seconds before now, by the two clocks.
    pub runs_seconds: Option<i64>,
    /// When it showed itself last, by its own clock, in RFC 3339.
    pub seen_at: Option<String>,
    /// The same in seconds before now, by the two clocks.
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
    /// The stream, as it is called in the table: by name or ARN.
    pub stream: String,
    /// The shard's id.
    pub shard: String,
    /// Whether somebody reads it.
    pub state: State,
    /// Who holds it.
    pub owner: Option<String>,
    /// How many seconds ago its owner showed itself; unknown for other programs.
    pub owner_seen_seconds_ago: Option<i64>,
    /// Whether the owner is another program, such as Connect.
    pub other_program: bool,
    /// Since when the owner holds it, by the owner's clock, in RFC 3339.
    pub since: Option<String>,
    /// The same in seconds before now.
    pub held_seconds: Option<i64>,
    /// Until when the lease is good for programs that go by the clock, in RFC 3339.
    pub lease_until: Option<String>,
    /// Who has asked the owner for it.
    pub requester: Option<String>,
    /// Up to where it is done.
    pub sequence_number: Option<String>,
    /// How many milliseconds ago the oldest record that is not done arrived; 0 if all are. Unknown until asked.
    pub behind_ms: Option<u64>,
    /// What is wrong with the row, or why it is not known how far behind it is.
    pub remark: Option<String>,
}

/// Whether a shard is read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
pub enum State {
    /// Somebody holds it.
    Held,
    /// Nobody holds it.
    Free,
    /// Read to its end.
    Ended,
    /// Its row can't be understood, so nobody reads its stream.
    Unreadable,
}

impl Overview {
    /// Adds the shards that are listed, by the spelling of their stream, and have no row yet. Returns the shards that follow some
    /// of which something is stored: they are read from their beginning.
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

    /// What a worker holds, and itself if it shows itself.
    pub(crate) fn of(&self, worker: &str) -> (Vec<&SeenShard>, Option<&SeenWorker>) {
        let shards = self.shards.iter().filter(|shard| shard.owner.as_deref() == Some(worker)).collect();
        (shards, self.workers.iter().find(|shown| shown.worker == worker))
    }
}

impl SeenShard {
    /// Where reading it goes on; at this time at the earliest, if nothing of it was stored.
    pub(crate) fn start(&self, latest: Option<i64>) -> StartPosition {
        match (&self.sequence_number, latest) {
            // Was checked when the row was read.
            (Some(number), _) => StartPosition::After(SequenceNumber::read(number)),
            (None, Some(latest)) => StartPosition::At(latest),
            (None, None) => StartPosition::Oldest,
        }
    }

    /// A shard of which nothing is known but its name.
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
            behind_ms: None,
            remark: None,
        }
    }
}
