//! What happens between a configuration and a running input?
//!
//! ```text
//! config ─▶ is all of it built? ─▶ credentials ─▶ checkpoint store ─▶ streams ─▶ shards, consumers ─▶ tasks
//! ```
//!
//! A failure at any point drops what was opened before it, so that the next connect finds nothing in its way.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use aws_smithy_async::time::SharedTimeSource;
use aws_smithy_runtime_api::shared::IntoShared;
use aws_types::SdkConfig;
use futures::future::try_join_all;
use tokio::sync::{Notify, Semaphore};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::aws::Service;
use crate::aws::credentials::{self, Outside};
use crate::aws::http::{self, ControlClient, SubscriptionClient};
use crate::aws::sdk::Aws;
use crate::config::{Config, Deaggregate, StreamEntry};
use crate::delivery::outbox::Outbox;
use crate::lease::heartbeat::{self, Heartbeat};
use crate::lease::validity::LeaseValidity;
use crate::lease::{DynamoDbStore, FileStore, LeaseStore, Presence, Table};
use crate::model::{ShardId, Stream, WorkerId};
use crate::pool::Pool;
use crate::reading::ReaderFactory;
use crate::reading::fan_out::FanOut;
use crate::reading::fan_out::consumer::{Consumer, ConsumerSpec};
use crate::reading::fan_out::subscription::StreamAccess;
use crate::reading::listing::StreamListing;
use crate::reading::threads::Threads;
use crate::retry::{self, Control, Fault};
use crate::session::completion::Completion;
use crate::session::error::ConnectError;
use crate::session::overrides::Overrides;
use crate::session::{Parts, Session, wiring};
use crate::shards::checkpointer::Checkpointer;
use crate::shards::coordinator::{Context, Coordinator, ReadSettings, StreamState};
use crate::shards::former_rows::{report_unreadable, set_aside_former};
use crate::shards::topology::{Fresh, Topology};
use crate::telemetry::health::Health;
use crate::{config, records, telemetry};

/// The part of `steal_grace_period` in which acks are waited for. The rest is for storing the last place: who asked for
/// the shard takes it when the whole of it is over.
const GRACE_FOR_ACKS: f64 = 0.75;
/// Consumers that may be made at once: the service's own limit for an account.
const REGISTERING_AT_ONCE: usize = 5;

/// Opens everything and starts reading.
///
/// `background` takes what outlives a connect that is given up, for moments.
pub(crate) async fn open(
    config: &Config,
    overrides: &Overrides,
    me: &WorkerId,
    background: &TaskTracker,
) -> Result<Session, ConnectError> {
    if let Some((field, what)) = config::unsupported::first(config) {
        return Err(ConnectError::NotBuilt { field, what });
    }
    let mut trusted = overrides.trusted.clone();
    let settings = credentials::Settings::load(config.credentials.profile.as_deref()).await?;
    // The table may have a profile of its own.
    let of_table = match &config.dynamodb.credentials.profile {
        same if *same == config.credentials.profile => None,
        own => Some(credentials::Settings::load(own.as_deref()).await?),
    };
    let mut machine = Vec::new();
    for settings in std::iter::once(&settings).chain(&of_table) {
        trusted.extend(settings.certificates().await?);
        machine.extend(settings.machine_addresses());
    }
    let control = overrides.client.clone().unwrap_or_else(|| ControlClient::new(&trusted, machine).into_shared());
    // Connections of its own for each who asks.
    let subscriptions = || {
        overrides.client.clone().unwrap_or_else(|| {
            let settings = http::Settings {
                // Checked to be far below 4 GiB.
                stream_window: records::allocatable(config.enhanced_fan_out.stream_window.bytes()) as u32,
                trusted: trusted.clone(),
                ..http::Settings::default()
            };
            SubscriptionClient::new(settings).into_shared()
        })
    };
    let mut outside = Outside::new(control);
    if let Some(time) = &overrides.time {
        outside.time = time.clone();
    }
    let access = credentials::kinesis(config, &settings, &outside).await?;
    let of_table = of_table.as_ref().unwrap_or(&settings);
    let table_access = credentials::dynamodb(config, &access, &settings, of_table, &outside).await?;
    let region = access.region().map(ToString::to_string).unwrap_or_default();
    let service = || -> Arc<dyn Service> { Arc::new(Aws::new(&access, subscriptions())) };
    let store = store(config, &table_access, me).await?;
    let threads = Arc::new(Threads::start(config.enhanced_fan_out.reader_threads, service)?);
    let connecting = Connecting { config, threads, store, region, time: outside.time, background: background.clone() };
    connecting.open().await
}

async fn store(config: &Config, access: &SdkConfig, me: &WorkerId) -> Result<Arc<dyn LeaseStore>, ConnectError> {
    // Exactly one of the two is there, as the configuration was checked.
    if let Some(path) = config.checkpoint_file.as_deref() {
        return Ok(Arc::new(FileStore::open(path).await?));
    }
    let lease = config.lease_period.into();
    let heartbeat = heartbeat::heartbeat_timeout(lease, config.commit_period.into());
    let table = Table::open(access, &config.dynamodb, heartbeat).await?;
    Ok(Arc::new(DynamoDbStore::new(table, me.clone(), lease)))
}

/// What is there once the service and the store are.
pub(crate) struct Connecting<'a> {
    pub(crate) config: &'a Config,
    pub(crate) threads: Arc<Threads>,
    pub(crate) store: Arc<dyn LeaseStore>,
    pub(crate) region: String,
    pub(crate) time: SharedTimeSource,
    pub(crate) background: TaskTracker,
}

/// What the discovery of streams finds.
struct Discovered {
    streams: Vec<Stream>,
    health: Arc<Health>,
    /// Has the coordinator rebalance_now at the table at once.
    rebalance_now: Arc<Notify>,
    found: Vec<Found>,
}

/// A stream that was found, with what is known of it.
struct Found {
    stream: Stream,
    consumer: Arc<Consumer>,
    shards: Arc<StreamListing>,
    topology: Topology,
}

impl Connecting<'_> {
    /// Discovers the streams, wires the parts and starts them.
    pub(crate) async fn open(&self) -> Result<Session, ConnectError> {
        telemetry::describe_metrics();
        let discovered = self.discover().await?;
        let parts = self.wire(discovered).await?;
        Ok(parts.start(self.config.commit_period.into()))
    }

    /// Finds the streams with their shards, stored positions and consumers.
    async fn discover(&self) -> Result<Discovered, ConnectError> {
        let entries = self.config.stream_entries();
        let streams = try_join_all(entries.iter().map(|entry| self.find(entry))).await?;
        each_once(entries, &streams)?;
        let health = Arc::new(Health::new(&target(&streams), self.time.clone()));
        let rebalance_now = Arc::new(Notify::new());
        let registering = Semaphore::new(REGISTERING_AT_ONCE);
        let found = entries.iter().zip(&streams);
        let found = found.map(|(entry, stream)| self.prepare(entry, stream, &health, &rebalance_now, &registering));
        let found = try_join_all(found).await?;
        Ok(Discovered { streams, health, rebalance_now, found })
    }

    /// Makes the parts of the input and connects them to each other. The first heartbeat is the last thing that can fail: no
    /// worker is shown that is not there.
    async fn wire(&self, discovered: Discovered) -> Result<Parts, ConnectError> {
        let config = self.config;
        let Discovered { streams, health, rebalance_now, found } = discovered;
        let fan_out = &config.enhanced_fan_out;
        let pool = Pool::new(fan_out.max_pending_records as u64, fan_out.max_pending_bytes.bytes());
        let (stop, keep) = (CancellationToken::new(), CancellationToken::new());
        let lease: Duration = config.lease_period.into();
        let grace: Duration = config.steal_grace_period.into();
        let settings = self.settings();
        let every = heartbeat::heartbeat_period(lease, config.commit_period.into());
        let presence = Presence {
            streams: streams.iter().map(|stream| stream.arn().to_owned()).collect(),
            explicit: settings.explicit,
            lease: Some(lease),
            heartbeat_period: Some(every),
        };
        let (validity, wake_ups) = if self.store.shared().is_some() {
            heartbeat::begin(&self.store, presence.clone(), lease, &self.background).await?
        } else {
            (LeaseValidity::unlimited(), 0)
        };
        let validity = Arc::new(validity);
        let outbox = Arc::new(Outbox::new(config.message_buffer_cap, Arc::clone(&validity)));
        let completion = Arc::new(Completion::new(Arc::clone(&outbox), stop.clone(), keep.clone()));
        let fatal = wiring::fatal(&completion);
        let checkpointer = Arc::new(Checkpointer::new(
            Arc::clone(&self.store),
            Arc::clone(&outbox),
            Arc::clone(&health),
            fatal.clone(),
            lease,
            grace.mul_f64(GRACE_FOR_ACKS),
        ));
        let heartbeat = self.store.shared().is_some().then(|| Heartbeat {
            store: Arc::clone(&self.store),
            presence,
            lease,
            every,
            validity: Arc::clone(&validity),
            health: Arc::clone(&health),
            on_event: wiring::lease_events(&checkpointer, &rebalance_now, &fatal),
            wake_ups,
        });
        let (mut factories, mut states) = (Vec::new(), Vec::new());
        for Found { stream, consumer, shards, topology } in found {
            telemetry::connected(&stream, topology.len(), consumer.label());
            let readers: Arc<dyn ReaderFactory> = Arc::new(FanOut::new(StreamAccess {
                consumer,
                shards: Arc::clone(&shards),
                pool: pool.clone(),
                health: Arc::clone(&health),
                max_resubscribe_interval: fan_out.max_resubscribe_interval.into(),
            }));
            if fan_out.deregister_on_close {
                factories.push((stream.clone(), Arc::clone(&readers)));
            }
            states.push(StreamState { stream, topology, listing: shards, readers });
        }
        let coordinator = Coordinator::new(
            states,
            Context {
                threads: Arc::clone(&self.threads),
                store: Arc::clone(&self.store),
                validity,
                checkpointer: Arc::clone(&checkpointer),
                outbox: Arc::clone(&outbox),
                pool: pool.clone(),
                fatal: fatal.clone(),
                health: Arc::clone(&health),
                settings,
                rebalance_now,
                stop: stop.clone(),
            },
        );
        let session = Session {
            _closing: checkpointer.closing(),
            target: target(&streams),
            pool,
            outbox,
            health,
            checkpointer,
            completion,
            factories,
            streams,
            tasks: TaskTracker::new(),
            threads: Arc::clone(&self.threads),
            stop: stop.drop_guard(),
            store: Arc::clone(&self.store),
            keep: keep.drop_guard(),
        };
        Ok(Parts { session, coordinator, heartbeat, fatal })
    }

    fn settings(&self) -> ReadSettings {
        let config = self.config;
        // A slice waits for its place in the pool as one, so it is to be a small part of it.
        let slice = config.checkpoint_limit.min(config.enhanced_fan_out.max_pending_records.div_ceil(4));
        ReadSettings {
            checkpoint_limit: config.checkpoint_limit as u64,
            redeliver_nacks: config.auto_replay_nacks,
            slice: slice.max(1),
            deaggregate: config.deaggregate == Deaggregate::Auto,
            rebalance_period: config.rebalance_period.into(),
            lease_period: config.lease_period.into(),
            handed_over_within: Duration::from(config.commit_period) + Duration::from(config.steal_grace_period),
            explicit: config.stream_entries().iter().any(|entry| !entry.shards.is_empty()),
        }
    }

    /// For calls that belong to no shard.
    fn service(&self) -> Arc<dyn Service> {
        Arc::clone(&self.threads.next().service)
    }

    async fn find(&self, entry: &StreamEntry) -> Result<Stream, ConnectError> {
        let configured = entry.stream.to_string();
        let found = self.service().describe_stream(&configured).await;
        found.map_err(|fault| match retry::control(&fault) {
            Control::NotFound => ConnectError::NoSuchStream { stream: configured, region: self.region.clone() },
            Control::Retry if fault.is_no_such_host() && self.config.endpoint.is_none() => {
                ConnectError::HostNotFound { stream: configured, region: self.region.clone(), fault }
            }
            _ => failed(configured, "looking for it", fault),
        })
    }

    /// Learns the shards of a stream and has its consumer ready.
    async fn prepare(
        &self,
        entry: &StreamEntry,
        stream: &Stream,
        health: &Arc<Health>,
        rebalance_now: &Arc<Notify>,
        registering: &Semaphore,
    ) -> Result<Found, ConnectError> {
        let explicit: BTreeSet<ShardId> = entry.shards.iter().map(|shard| shard_id(shard)).collect();
        let explicit = (!explicit.is_empty()).then_some(explicit);
        let mut topology = Topology::new(explicit, self.fresh(stream).await?);
        self.store.adopt(stream, &entry.stream.to_string()).await?;
        let (rows, read_at) = (self.store.rows(stream).await?, Instant::now());
        // After what is stored, so that what is not in it is gone.
        let shards = StreamListing::new(self.service(), stream.clone(), Arc::clone(rebalance_now), Arc::clone(health));
        let shards = Arc::new(shards);
        let listing = shards.list(Duration::ZERO).await;
        let listing = listing.map_err(|fault| failed(stream.to_string(), "listing its shards", fault))?;
        let mut begins = topology.anew();
        begins.listed(&listing);
        let rows = set_aside_former(&*self.store, stream, &begins, rows).await?;
        report_unreadable(health, stream, &rows);
        topology.learn(&rows, read_at);
        topology.listed(&listing);
        let missing = topology.missing();
        if !missing.is_empty() {
            let shards = missing.iter().map(ShardId::as_str).collect::<Vec<_>>().join(", ");
            return Err(ConnectError::NoSuchShard { stream: stream.to_string(), shards });
        }
        let spec = self.consumer_spec(stream).await?;
        let activation = self.config.enhanced_fan_out.consumer_activation_timeout.into();
        let consumer = Consumer::open(self.service(), stream.clone(), spec, activation, registering).await?;
        Ok(Found { stream: stream.clone(), consumer: Arc::new(consumer), shards, topology })
    }

    /// Where shards begin that nobody has read of.
    async fn fresh(&self, stream: &Stream) -> Result<Fresh, ConnectError> {
        if let Some(time) = self.config.start_at_timestamp.as_ref() {
            return Ok(Fresh::At(millis(time.system_time())));
        }
        if self.config.start_from_oldest {
            return Ok(Fresh::Oldest);
        }
        // By the clock of arrival times. Ours may be ahead of it, and records that came in between would be skipped.
        let now = self.service().time().unwrap_or_else(|| self.time.now());
        Ok(Fresh::At(self.store.pin_latest(stream, millis(now)).await?))
    }

    async fn consumer_spec(&self, stream: &Stream) -> Result<ConsumerSpec, ConnectError> {
        let fan_out = &self.config.enhanced_fan_out;
        if let Some(arn) = fan_out.consumer_arn.as_deref() {
            if !arn.starts_with(&format!("{}/consumer/", stream.arn())) {
                return Err(ConnectError::ForeignConsumer { arn: arn.into(), stream: stream.to_string() });
            }
            return Ok(ConsumerSpec::Arn(arn.into()));
        }
        let name = match fan_out.consumer_name.as_deref() {
            Some(name) => name.to_owned(),
            None => format!("kinesis-input-{}", self.store.identity().await?),
        };
        Ok(ConsumerSpec::Named(name))
    }
}

fn failed(stream: String, doing: &'static str, fault: Fault) -> ConnectError {
    match retry::control(&fault) {
        Control::Retry | Control::InUse => ConnectError::Unreachable { stream, doing, fault },
        Control::Fatal | Control::NotFound => ConnectError::Refused { stream, doing, fault },
    }
}

/// What is read, for people.
fn target(streams: &[Stream]) -> String {
    streams.iter().map(Stream::name).collect::<Vec<_>>().join(", ")
}

/// A name and an ARN may mean the same stream. Read twice, each of its records would come twice.
fn each_once(entries: &[StreamEntry], streams: &[Stream]) -> Result<(), ConnectError> {
    for (second, stream) in streams.iter().enumerate() {
        if let Some(first) = streams[..second].iter().position(|other| other.arn() == stream.arn()) {
            return Err(ConnectError::SameStream {
                stream: stream.to_string(),
                first: entries[first].stream.to_string(),
                second: entries[second].stream.to_string(),
            });
        }
    }
    Ok(())
}

/// The id of a shard that may be written as a bare number.
fn shard_id(written: &str) -> ShardId {
    match written.parse::<u64>() {
        Ok(number) => ShardId::from(format!("shardId-{number:012}").as_str()),
        Err(_) => ShardId::from(written),
    }
}

/// Milliseconds since 1970.
fn millis(time: SystemTime) -> i64 {
    let (after, sign) = match time.duration_since(UNIX_EPOCH) {
        Ok(after) => (after, 1),
        Err(before) => (before.duration(), -1),
    };
    i64::try_from(after.as_millis()).unwrap_or(i64::MAX) * sign
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_shard_may_be_written_as_a_number() {
        assert_eq!(shard_id("3"), ShardId::from("shardId-000000000003"));
        assert_eq!(shard_id("shardId-000000000003"), ShardId::from("shardId-000000000003"));
    }
}
