//! Who owns which shard, since when, and how far behind is it?
//!
//! For those who look after a fleet of workers: [`LeaseTable`] reads the lease table beside them, asks the streams how
//! far behind each shard is, and gives back what a worker left that is gone for good.
//!
//! ```no_run
//! # async fn look() -> Result<(), Box<dyn std::error::Error>> {
//! use kinesis_input::inspect::{LeaseTable, TableAt};
//!
//! let table = LeaseTable::open(&TableAt { table: "leases".into(), ..TableAt::default() }).await?;
//! let mut seen = table.look(None).await?;
//! table.ask_how_far_behind(&mut seen).await;
//! println!("{} shards, {} workers", seen.shards.len(), seen.workers.len());
//! # Ok(())
//! # }
//! ```

use std::collections::{HashMap, HashSet};
use std::time::Duration;

use aws_smithy_runtime_api::client::http::SharedHttpClient;
use aws_smithy_runtime_api::shared::IntoShared;
use futures::stream::{self, StreamExt};
use pipeline_plugin_api::deadline;
use serde::Serialize;
use tokio::time::{Instant, sleep};

use crate::access::{self, AccessError, Called, Outside, Settings};
use crate::aws::Aws;
use crate::config::{Credentials, DynamoDb};
use crate::lease::{StoreError, Table};
use crate::names::{SequenceNumber, ShardId, Stream};
use crate::retry::Fault;
use crate::service::Service;
use crate::topology::{Listed, Start};
use crate::transport::ControlClient;

/// Shards that are asked for at once.
const ASKED_AT_ONCE: usize = 8;
/// How often it is looked whether a worker shows itself.
const LOOK_AGAIN: Duration = Duration::from_millis(500);
/// How long a call to the table may take.
const CALL: Duration = Duration::from_secs(5);

/// Where a table is, and the streams whose leases it holds. What is left out comes from the environment.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct TableAt {
    /// Its name.
    pub table: String,
    /// The region of the table and the streams.
    pub region: Option<String>,
    /// Another endpoint than AWS's own, for the table and, unless they have one of their own, the streams.
    pub endpoint: Option<String>,
    /// Another endpoint for the streams than AWS's own.
    pub kinesis_endpoint: Option<String>,
    /// The credentials, for both.
    pub credentials: Credentials,
}

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
    pub(crate) beat: String,
    #[serde(skip)]
    pub(crate) beats_every: Option<Duration>,
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
    pub wanted_by: Option<String>,
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

/// What keeps us from looking into a table, or from changing it.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum InspectError {
    /// No region, or no credentials.
    #[error(transparent)]
    Access(#[from] AccessError),
    /// The table can't be used.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// Nobody of this name holds anything or shows itself.
    #[error("there is no worker {0} in the table")]
    NoSuchWorker(String),
    /// It is alive.
    #[error(
        "worker {0} is alive; stop its process, which gives its shards back at once and without duplicates. What was taken \
         from a live worker would be read twice, and it would take it again"
    )]
    Alive(String),
}

/// What was given back.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct Released {
    /// Shards that are nobody's now.
    pub shards: usize,
    /// Shards that changed hands meanwhile, and were left alone.
    pub changed: usize,
}

/// A lease table.
#[derive(Debug)]
pub struct LeaseTable {
    table: Table,
    streams: Aws,
}

impl LeaseTable {
    /// Finds the table. It is never made here.
    ///
    /// # Errors
    ///
    /// Without a region, credentials or such a table.
    pub async fn open(at: &TableAt) -> Result<Self, InspectError> {
        let settings = Settings::load(at.credentials.profile.as_deref()).await?;
        let trusted = settings.certificates().await?;
        let http: SharedHttpClient = ControlClient::new(&trusted, settings.machine_addresses()).into_shared();
        let outside = Outside::new(http.clone());
        let (region, endpoint) = (at.region.clone(), at.endpoint.as_deref());
        let access =
            access::session(region.clone(), endpoint, &at.credentials, &settings, Called::DynamoDb, &outside).await?;
        let config = DynamoDb { table: at.table.clone(), ..DynamoDb::default() };
        let table = Table::open(&access, &config, CALL).await?;
        let streams = match at.kinesis_endpoint.as_deref() {
            None => {
                settings.check_endpoint(&access, Called::Kinesis)?;
                access
            }
            endpoint => access::beside(&access, region, endpoint, &settings, Called::Kinesis, &outside).await?,
        };
        Ok(Self { table, streams: Aws::new(&streams, http) })
    }

    /// What is in the table now: all of it, or one stream as it is called there.
    ///
    /// # Errors
    ///
    /// When the table can't be read.
    pub async fn look(&self, stream: Option<&str>) -> Result<Overview, InspectError> {
        Ok(self.table.overview(stream).await?)
    }

    /// Asks the streams how far behind each shard is that is not read to its end, and finds those that nobody has read yet. What
    /// can't be learnt is remarked on.
    ///
    /// Two calls a shard, which count against the five reads a second that a shard allows all its polling readers.
    pub async fn ask_how_far_behind(&self, seen: &mut Overview) {
        let mut streams: HashMap<String, Result<Stream, Fault>> = HashMap::new();
        for shard in &seen.shards {
            if !streams.contains_key(&shard.stream) {
                let found = self.streams.describe_stream(&shard.stream).await;
                streams.insert(shard.stream.clone(), found);
            }
        }
        // Without a list, what is in the table is still asked.
        let mut listings = HashMap::new();
        for (spelling, stream) in &streams {
            if let Ok(stream) = stream
                && let Ok(listing) = self.streams.list_shards(stream).await
            {
                listings.insert(spelling.clone(), listing);
            }
        }
        let follow = seen.add_unread(&listings);
        let (streams, service, latest) = (&streams, &self.streams, &seen.latest);
        let open = seen.shards.iter_mut().filter(|shard| matches!(shard.state, State::Held | State::Free));
        let asking = open.map(|shard| async {
            let stream = streams[&shard.stream].as_ref().map_err(Clone::clone);
            let id = ShardId::from(shard.shard.as_str());
            let follows = follow.contains(&(shard.stream.clone(), id.clone()));
            let latest = stream.as_ref().ok().and_then(|stream| latest.get(stream.arn())).filter(|_| !follows);
            let start = shard.start(latest.copied());
            let behind = async { service.behind(stream?, &id, &start).await };
            match behind.await {
                Ok(behind) => shard.behind_ms = Some(behind),
                Err(fault) => shard.remark = Some(fault.to_string()),
            }
        });
        stream::iter(asking).buffer_unordered(ASKED_AT_ONCE).collect::<()>().await;
        seen.lag_ms = seen.shards.iter().filter_map(|shard| shard.behind_ms).max();
    }

    /// Gives back what a worker holds that is gone for good, so that others need not wait until its leases are over.
    ///
    /// It is watched for so long first, or for two of its beats if that is longer: a worker of ours shows itself at every
    /// `commit_period`, or three times in a `lease_period` if that is more often.
    ///
    /// # Errors
    ///
    /// When it is alive, unknown, or the table can't be read or written. What was given back before stays so.
    pub async fn release(&self, worker: &str, watched: Duration) -> Result<Released, InspectError> {
        let before = self.look(None).await?;
        let (shards, shown) = before.of(worker);
        if shards.is_empty() && shown.is_none() {
            return Err(InspectError::NoSuchWorker(worker.to_owned()));
        }
        let until = deadline(long_enough(watched, shown));
        loop {
            let now = self.look(None).await?;
            let renewed = |shard: &SeenShard| {
                let same = shards.iter().find(|old| (&old.stream, &old.shard) == (&shard.stream, &shard.shard));
                same.is_none_or(|old| old.lease_until != shard.lease_until)
            };
            let (shards_now, shown_now) = now.of(worker);
            let beats = |shown: Option<&SeenWorker>| shown.map(|worker| worker.beat.clone());
            if (shown_now.is_some() && beats(shown_now) != beats(shown)) || shards_now.into_iter().any(renewed) {
                return Err(InspectError::Alive(worker.to_owned()));
            }
            if Instant::now() >= until {
                break;
            }
            sleep(LOOK_AGAIN.min(until - Instant::now())).await;
        }
        let mut released = Released { shards: 0, changed: 0 };
        for shard in shards {
            *(if self.table.free(shard).await? { &mut released.shards } else { &mut released.changed }) += 1;
        }
        self.table.bury(worker, shown.map(|shown| shown.beat.as_str())).await?;
        Ok(released)
    }
}

/// For how long to watch a worker that may be alive: two of its beats at least, one of which may fail.
fn long_enough(asked: Duration, shown: Option<&SeenWorker>) -> Duration {
    let beats = shown.and_then(|shown| shown.beats_every).map_or(Duration::ZERO, |every| every * 2 + LOOK_AGAIN);
    asked.max(beats)
}

impl SeenShard {
    /// Where reading it goes on; at this time at the earliest, if nothing of it was stored.
    fn start(&self, latest: Option<i64>) -> Start {
        match (&self.sequence_number, latest) {
            // Was checked when the row was read.
            (Some(number), _) => Start::After(SequenceNumber::read(number)),
            (None, Some(latest)) => Start::At(latest),
            (None, None) => Start::Oldest,
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
            wanted_by: None,
            sequence_number: None,
            behind_ms: None,
            remark: None,
        }
    }
}

impl Overview {
    /// Adds the shards that are listed, by the spelling of their stream, and have no row yet. Returns the shards that follow some
    /// of which something is stored: they are read from their beginning.
    fn add_unread(&mut self, listings: &HashMap<String, Vec<Listed>>) -> HashSet<(String, ShardId)> {
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
    fn of(&self, worker: &str) -> (Vec<&SeenShard>, Option<&SeenWorker>) {
        let shards = self.shards.iter().filter(|shard| shard.owner.as_deref() == Some(worker)).collect();
        (shards, self.workers.iter().find(|shown| shown.worker == worker))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_worker_is_watched_for_two_of_its_beats() {
        let seconds = Duration::from_secs;
        let mut worker = SeenWorker {
            worker: "a".into(),
            shards: 0,
            explicit: false,
            streams: Vec::new(),
            since: None,
            runs_seconds: None,
            seen_at: None,
            seen_seconds_ago: None,
            beat: "1".into(),
            beats_every: Some(seconds(30)),
        };
        assert!(long_enough(seconds(15), Some(&worker)) > seconds(60));
        assert_eq!(long_enough(seconds(120), Some(&worker)), seconds(120));
        worker.beats_every = None;
        assert_eq!(long_enough(seconds(15), Some(&worker)), seconds(15));
    }
}
