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

use std::collections::HashMap;
use std::time::Duration;

use aws_smithy_runtime_api::client::http::SharedHttpClient;
use aws_smithy_runtime_api::shared::IntoShared;
use futures::stream::{self, StreamExt};
use pipeline_plugin_api::deadline;
use serde::Serialize;
use tokio::time::{Instant, sleep};

use crate::aws::Service;
use crate::aws::credentials::{self, AccessError, Called, Outside, Settings};
use crate::aws::http::ControlClient;
use crate::aws::sdk::Aws;
use crate::config::{Credentials, DynamoDb};
pub use crate::lease::{Overview, SeenShard, SeenWorker, State};
use crate::lease::{StoreError, Table};
use crate::model::{ShardId, Stream};
use crate::retry::Fault;

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
            credentials::session(region.clone(), endpoint, &at.credentials, &settings, Called::DynamoDb, &outside)
                .await?;
        let config = DynamoDb { table: at.table.clone(), ..DynamoDb::default() };
        let table = Table::open(&access, &config, CALL).await?;
        let streams = match at.kinesis_endpoint.as_deref() {
            None => {
                settings.check_endpoint(&access, Called::Kinesis)?;
                access
            }
            endpoint => credentials::beside(&access, region, endpoint, &settings, Called::Kinesis, &outside).await?,
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
            let heartbeats = |shown: Option<&SeenWorker>| shown.map(|worker| worker.heartbeat.clone());
            if (shown_now.is_some() && heartbeats(shown_now) != heartbeats(shown))
                || shards_now.into_iter().any(renewed)
            {
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
        self.table.remove_dead_worker(worker, shown.map(|shown| shown.heartbeat.as_str())).await?;
        Ok(released)
    }
}

/// For how long to watch a worker that may be alive: two of its beats at least, one of which may fail.
fn long_enough(asked: Duration, shown: Option<&SeenWorker>) -> Duration {
    let heartbeats =
        shown.and_then(|shown| shown.heartbeat_period).map_or(Duration::ZERO, |every| every * 2 + LOOK_AGAIN);
    asked.max(heartbeats)
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
            heartbeat: "1".into(),
            heartbeat_period: Some(seconds(30)),
        };
        assert!(long_enough(seconds(15), Some(&worker)) > seconds(60));
        assert_eq!(long_enough(seconds(120), Some(&worker)), seconds(120));
        worker.heartbeat_period = None;
        assert_eq!(long_enough(seconds(15), Some(&worker)), seconds(15));
    }
}
