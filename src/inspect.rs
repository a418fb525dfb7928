//! Which worker owns which shard, since when, and how far behind is it?
//!
//! This module is for operators of a fleet of workers. [`LeaseTable`] reads the lease table, asks the streams how far
//! behind each shard is, and releases the leases of a worker that is gone for good.
//!
//! ```no_run
//! # async fn show() -> Result<(), Box<dyn std::error::Error>> {
//! use kinesis_input::inspect::{LeaseTable, TableAt};
//!
//! let table = LeaseTable::open(&TableAt { table: "leases".into(), ..TableAt::default() }).await?;
//! let mut seen = table.overview(None).await?;
//! table.ask_how_far_behind(&mut seen).await;
//! println!("{} shards, {} workers", seen.shards.len(), seen.workers.len());
//! # Ok(())
//! # }
//! ```

use std::collections::HashMap;
use std::time::Duration;

use aws_smithy_runtime_api::client::http::SharedHttpClient;
use aws_smithy_runtime_api::shared::IntoShared;
use aws_types::SdkConfig;
use futures::stream::{self, StreamExt};
use pipeline_plugin_api::deadline;
use serde::Serialize;
use tokio::time::{Instant, sleep};

use crate::aws::Service;
use crate::aws::credentials::{self, AccessError, Called, Outside, Settings};
use crate::aws::http::{ControlClient, Sockets};
use crate::aws::sdk::Aws;
use crate::config::{Credentials, DynamoDb};
pub use crate::lease::{Overview, SeenShard, SeenWorker, State};
use crate::lease::{StoreError, Table};
use crate::model::{ShardId, Stream};
use crate::retry::Fault;

/// The number of shards that are asked for at once.
const ASKED_AT_ONCE: usize = 8;
/// How often a worker's heartbeat is checked.
const LOOK_AGAIN: Duration = Duration::from_millis(500);
/// How long a call to the table may take.
pub(crate) const CALL: Duration = Duration::from_secs(5);

/// The location of a table, and of the streams whose leases it holds. Missing fields come from the environment.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct TableAt {
    /// The name of the table.
    pub table: String,
    /// The namespace of the rows: `dynamodb.namespace` of the pipelines.
    pub namespace: Option<String>,
    /// The region of the table and the streams.
    pub region: Option<String>,
    /// An endpoint other than AWS's own, for the table and, unless they have their own, the streams.
    pub endpoint: Option<String>,
    /// An endpoint for the streams other than AWS's own.
    pub kinesis_endpoint: Option<String>,
    /// The credentials, for the table and the streams.
    pub credentials: Credentials,
}

impl TableAt {
    /// The configuration of a table that is there.
    pub(crate) fn config(&self) -> DynamoDb {
        DynamoDb { table: self.table.clone(), namespace: self.namespace.clone().into(), ..DynamoDb::default() }
    }
}

/// The reason why a table can't be read or changed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum InspectError {
    /// No region or no credentials were found.
    #[error(transparent)]
    Access(#[from] AccessError),
    /// The table can't be used.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// No worker of this name holds a lease or sends a heartbeat.
    #[error("there is no worker {0} in the table")]
    NoSuchWorker(String),
    /// The worker is alive.
    #[error(
        "worker {0} is alive; stop its process, which gives its shards back at once and without duplicates. What was taken \
         from a live worker would be read twice, and it would take it again"
    )]
    Alive(String),
}

/// The reason why a stream can't be asked.
#[derive(Debug, thiserror::Error)]
#[error("stream {stream}: {doing}: {cause}")]
#[non_exhaustive]
pub struct StreamError {
    /// The stream.
    pub stream: String,
    /// The step that failed.
    pub doing: &'static str,
    /// The error of the service.
    pub cause: String,
}

impl StreamError {
    pub(crate) fn new(stream: &str, doing: &'static str, fault: &Fault) -> Self {
        Self { stream: stream.to_owned(), doing, cause: fault.to_string() }
    }
}

/// What a change of stored positions has done.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct Done {
    /// The number of positions that were written.
    pub written: usize,
    /// The shards whose rows had changed since the plan was made, and which were not touched.
    pub changed: Vec<String>,
}

impl Done {
    /// Notes whether the position of a shard was written.
    pub(crate) fn note(&mut self, shard: &ShardId, written: bool) {
        if written {
            self.written += 1;
        } else {
            self.changed.push(shard.to_string());
        }
    }
}

/// The result of a release.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct Released {
    /// The number of shards that were released.
    pub shards: usize,
    /// The number of shards whose owner changed meanwhile, and which were not touched.
    pub changed: usize,
}

/// A lease table.
#[derive(Debug)]
pub struct LeaseTable {
    table: Table,
    namespace: Option<String>,
    streams: Aws,
}

impl LeaseTable {
    /// Opens a table. It is never created here.
    ///
    /// # Errors
    ///
    /// An error is returned without a region, without credentials, or without such a table.
    pub async fn open(at: &TableAt) -> Result<Self, InspectError> {
        let (access, streams) = sessions(at).await?;
        let table = Table::open(&access, &at.config(), CALL).await?;
        Ok(Self { table, namespace: at.namespace.clone(), streams })
    }

    /// Reads the table: all of the namespace, or one stream of it by its name there. Without a namespace, all rows are
    /// read, those in namespaces too, unless a stream is given.
    ///
    /// # Errors
    ///
    /// An error is returned when the table can't be read.
    pub async fn overview(&self, stream: Option<&str>) -> Result<Overview, InspectError> {
        Ok(self.table.overview(stream).await?)
    }

    /// Asks the streams how far behind each shard is that is not read to its end, and finds the shards that no worker
    /// has read yet. A shard that can't be asked for gets a remark.
    ///
    /// This makes two calls per shard, which count against the five reads a second that a shard allows all its
    /// polling readers.
    pub async fn ask_how_far_behind(&self, seen: &mut Overview) {
        let mut streams: HashMap<String, Result<Stream, Fault>> = HashMap::new();
        for shard in &seen.shards {
            if !streams.contains_key(&shard.stream) {
                let found = self.streams.describe_stream(&shard.stream).await;
                streams.insert(shard.stream.clone(), found);
            }
        }
        // Without a listing, the shards in the table are still asked for.
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
            let namespace = &shard.namespace;
            let follows = follow.contains(&(namespace.clone(), shard.stream.clone(), id.clone()));
            let pinned = |stream: &&Stream| latest.get(&(namespace.clone(), stream.arn().to_owned()));
            let latest = stream.as_ref().ok().and_then(pinned).filter(|_| !follows);
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

    /// Releases the leases of a worker of the namespace that is gone for good, so that other workers need not wait until they expire.
    ///
    /// The worker is watched for `watched` first, or for two of its heartbeats if that is longer: a worker sends a
    /// heartbeat every `commit_period`, or three times in a `lease_period` if that is more often.
    ///
    /// # Errors
    ///
    /// An error is returned when the worker is alive or unknown, or when the table can't be read or written. Leases
    /// that were released before the error stay released.
    pub async fn release(&self, worker: &str, watched: Duration) -> Result<Released, InspectError> {
        let before = self.overview(None).await?;
        let namespace = self.namespace.as_deref();
        let (shards, shown) = before.of(worker, namespace);
        if shards.is_empty() && shown.is_none() {
            return Err(InspectError::NoSuchWorker(worker.to_owned()));
        }
        let until = deadline(long_enough(watched, shown));
        loop {
            let now = self.overview(None).await?;
            let renewed = |shard: &SeenShard| {
                let same = shards.iter().find(|old| (&old.stream, &old.shard) == (&shard.stream, &shard.shard));
                same.is_none_or(|old| old.lease_until != shard.lease_until)
            };
            let (shards_now, shown_now) = now.of(worker, namespace);
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

/// Makes a session for tables, and a client for streams.
pub(crate) async fn sessions(at: &TableAt) -> Result<(SdkConfig, Aws), InspectError> {
    let settings = Settings::load(at.credentials.profile.as_deref()).await?;
    let trusted = settings.certificates().await?;
    let http: SharedHttpClient =
        ControlClient::new(&trusted, settings.machine_addresses(), &Sockets::default()).into_shared();
    let outside = Outside::new(http.clone());
    let (region, endpoint) = (at.region.clone(), at.endpoint.as_deref());
    let access =
        credentials::session(region.clone(), endpoint, &at.credentials, &settings, Called::DynamoDb, &outside).await?;
    let streams = match at.kinesis_endpoint.as_deref() {
        None => {
            settings.check_endpoint(&access, Called::Kinesis)?;
            access.clone()
        }
        endpoint => credentials::beside(&access, region, endpoint, &settings, Called::Kinesis, &outside).await?,
    };
    let streams = Aws::new(&streams, http);
    Ok((access, streams))
}

/// How long to watch a worker that may be alive: at least two of its heartbeats, one of which may fail.
fn long_enough(asked: Duration, shown: Option<&SeenWorker>) -> Duration {
    let heartbeats =
        shown.and_then(|shown| shown.heartbeat_period).map_or(Duration::ZERO, |every| every * 2 + LOOK_AGAIN);
    asked.max(heartbeats)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn worker_is_watched_for_two_of_its_heartbeats() {
        let seconds = Duration::from_secs;
        let mut worker = SeenWorker {
            namespace: None,
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
