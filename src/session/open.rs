//! What happens between a configuration and a running input?
//!
//! ```text
//! config ─▶ credentials ─▶ checkpoint store ─▶ streams ─▶ shards, consumers ─▶ tasks
//! ```
//!
//! A failure at any point drops everything that was opened before it, so that the next connect can open it again.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use aws_smithy_async::time::SharedTimeSource;
use aws_smithy_runtime_api::shared::IntoShared;
use aws_types::SdkConfig;
use aws_types::region::Region;
use futures::future::try_join_all;
use tokio::sync::{Notify, Semaphore};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::aws::Service;
use crate::aws::credentials::{self, Outside};
use crate::aws::http::{self, ControlClient, Sockets, SubscriptionClient};
use crate::aws::regions::Regions;
use crate::aws::sdk::Aws;
use crate::config::{Batching, Config, Deaggregate, GivenUp, PollEncoding, Redelivery, StreamEntry};
use crate::delivery::batching::BatchPolicy;
use crate::delivery::outbox::Outbox;
use crate::delivery::redelivery::RedeliveryPolicy;
use crate::lease::heartbeat::{self, Heartbeat};
use crate::lease::validity::LeaseValidity;
use crate::lease::{DynamoDbStore, FileStore, LeaseStore, Lives, Presence, Table};
use crate::model::{ShardId, Stream, WorkerId, millis};
use crate::pool::Pool;
use crate::reading::ReaderFactory;
use crate::reading::fan_out::consumer::{Consumer, ConsumerSpec};
use crate::reading::fan_out::{FanOut, subscription};
use crate::reading::listing::StreamListing;
use crate::reading::polling::{self, Encodings, Polling};
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
use crate::{records, telemetry};

/// The part of `steal_grace_period` in which acks are waited for. The rest is for storing the last checkpoint: the
/// requester takes the shard by force when the commit period and the whole grace period are over.
const GRACE_FOR_ACKS: f64 = 0.75;
/// How many consumers may be registered at once, which is the service's own limit for an account.
const REGISTERING_AT_ONCE: usize = 5;

/// Opens everything and starts reading.
///
/// `background` runs tasks that briefly outlive a connect that is dropped.
pub(crate) async fn open(
    config: &Config,
    overrides: &Overrides,
    me: &WorkerId,
    lives: &Lives,
    background: &TaskTracker,
) -> Result<Session, ConnectError> {
    let mut trusted = overrides.trusted.clone();
    let settings = credentials::Settings::load(config.credentials.profile.as_deref()).await?;
    // The table may have its own profile.
    let of_table = match &config.dynamodb.credentials.profile {
        same if *same == config.credentials.profile => None,
        own => Some(credentials::Settings::load(own.as_deref()).await?),
    };
    let mut machine = Vec::new();
    for settings in std::iter::once(&settings).chain(&of_table) {
        trusted.extend(settings.certificates().await?);
        machine.extend(settings.machine_addresses());
    }
    let sockets = Sockets::new(&config.tcp);
    let control =
        overrides.client.clone().unwrap_or_else(|| ControlClient::new(&trusted, machine, &sockets).into_shared());
    // Each reader thread gets a client with its own connections.
    let subscriptions = || {
        overrides.client.clone().unwrap_or_else(|| {
            let settings = http::Settings {
                // The configuration was checked: the value is far below 4 GiB.
                stream_window: records::allocatable(config.enhanced_fan_out.stream_window.bytes()) as u32,
                trusted: trusted.clone(),
                sockets: sockets.clone(),
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
    // The streams in other regions are read with the same credentials; the table and the roles are in that of the
    // session.
    let others: Vec<String> =
        credentials::regions_of_arns(config).into_iter().filter(|other| *other != region).collect();
    let service = || -> Arc<dyn Service> {
        let records = subscriptions();
        let of = |session: &SdkConfig| -> Arc<dyn Service> { Arc::new(Aws::new(session, records.clone())) };
        if others.is_empty() {
            return of(&access);
        }
        let other = |region: &String| {
            let session = access.to_builder().region(Region::new(region.clone())).build();
            (region.clone(), of(&session))
        };
        Arc::new(Regions::new(of(&access), others.iter().map(other).collect()))
    };
    let store = store(config, overrides, &table_access, me, lives).await?;
    let threads = Arc::new(Threads::start(config.enhanced_fan_out.reader_threads, service)?);
    let connecting = Connecting { config, threads, store, region, time: outside.time, background: background.clone() };
    connecting.open().await
}

async fn store(
    config: &Config,
    overrides: &Overrides,
    access: &SdkConfig,
    me: &WorkerId,
    lives: &Lives,
) -> Result<Arc<dyn LeaseStore>, ConnectError> {
    // The configuration was checked: exactly one of the two stores is configured.
    if let Some(path) = config.checkpoint_file.as_deref() {
        return Ok(Arc::new(FileStore::open_on(path, &overrides.disk).await?));
    }
    let lease = config.lease_period.into();
    let heartbeat = heartbeat::heartbeat_timeout(lease, config.commit_period.into());
    let table = Table::open(access, &config.dynamodb, heartbeat).await?;
    Ok(Arc::new(DynamoDbStore::new(table, me.clone(), lives.next(), lease)))
}

/// A connect in progress, once the service and the store can be used.
pub(crate) struct Connecting<'a> {
    pub(crate) config: &'a Config,
    pub(crate) threads: Arc<Threads>,
    pub(crate) store: Arc<dyn LeaseStore>,
    pub(crate) region: String,
    pub(crate) time: SharedTimeSource,
    pub(crate) background: TaskTracker,
}

/// The result of the discovery of streams.
struct Discovered {
    streams: Vec<Stream>,
    health: Arc<Health>,
    /// The signal that makes the coordinator rebalance at once.
    rebalance_now: Arc<Notify>,
    found: Vec<Found>,
}

/// A stream that was found, with its consumer and shards.
struct Found {
    stream: Stream,
    /// The consumer, if the stream is read by enhanced fan-out.
    consumer: Option<Arc<Consumer>>,
    shards: Arc<StreamListing>,
    topology: Topology,
}

impl Connecting<'_> {
    /// Discovers the streams, wires the parts and starts them.
    pub(crate) async fn open(&self) -> Result<Session, ConnectError> {
        telemetry::describe_metrics();
        let discovered = self.discover().await?;
        let parts = self.wire(discovered).await?;
        Ok(parts.start(self.config.commit_period.into(), self.config.checkpoint_limit))
    }

    /// Finds the streams with their shards, checkpoints and consumers.
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

    /// Makes the parts of the input and connects them to each other. The first heartbeat is the last step that can
    /// fail, so no failed connect leaves a worker in the table.
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
        let (cap, leases) = (config.message_buffer_cap, Arc::clone(&validity));
        let outbox = match batch_policy(&config.batching) {
            Some(policy) => Outbox::gathering(cap, policy, &pool, leases),
            None => Arc::new(Outbox::new(cap, leases)),
        };
        let completion = Arc::new(Completion::new(Arc::clone(&outbox), stop.clone(), keep.clone()));
        let fatal = wiring::fatal(&completion);
        let checkpointer = Arc::new(Checkpointer::new(
            Arc::clone(&self.store),
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
        let encodings = Arc::new(match config.polling.encoding {
            PollEncoding::Auto => Encodings::new(true, true),
            PollEncoding::Json => Encodings::new(false, false),
            PollEncoding::Cbor => Encodings::new(true, false),
        });
        let round = Instant::now();
        let (mut factories, mut states) = (Vec::new(), Vec::new());
        for Found { stream, consumer, shards, topology } in found {
            let label = consumer.as_ref().map(|consumer| consumer.label());
            telemetry::connected(&stream, topology.len(), label);
            let retry_ceiling = fan_out.max_resubscribe_interval.into();
            let (pool, health, shards_of) = (pool.clone(), Arc::clone(&health), Arc::clone(&shards));
            let readers: Arc<dyn ReaderFactory> = match consumer {
                Some(consumer) => Arc::new(FanOut::new(subscription::StreamAccess {
                    consumer,
                    shards: shards_of,
                    pool,
                    health,
                    max_resubscribe_interval: retry_ceiling,
                })),
                None => Arc::new(Polling::new(polling::StreamAccess {
                    shards: shards_of,
                    pool,
                    health,
                    encodings: Arc::clone(&encodings),
                    period: config.poll_period.into(),
                    round,
                    retry_ceiling,
                })),
            };
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
        // A slice waits for its space in the pool as a whole, so it should be a small part of the pool.
        let slice = config.checkpoint_limit.min(config.enhanced_fan_out.max_pending_records.div_ceil(4));
        ReadSettings {
            checkpoint_limit: config.checkpoint_limit as u64,
            redelivery: redelivery(config),
            slice: slice.max(1),
            deaggregate: config.deaggregate == Deaggregate::Auto,
            out_of_range: config.kpl.out_of_range,
            rebalance_period: config.rebalance_period.into(),
            lease_period: config.lease_period.into(),
            handed_over_within: Duration::from(config.commit_period) + Duration::from(config.steal_grace_period),
            explicit: config.stream_entries().iter().any(|entry| !entry.shards.is_empty()),
        }
    }

    /// Returns the service for calls that belong to no shard.
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

    /// Reads the shards of a stream and prepares its consumer.
    async fn prepare(
        &self,
        entry: &StreamEntry,
        stream: &Stream,
        health: &Arc<Health>,
        rebalance_now: &Arc<Notify>,
        registering: &Semaphore,
    ) -> Result<Found, ConnectError> {
        let explicit: BTreeSet<ShardId> = entry.shards.iter().map(|shard| ShardId::written(shard)).collect();
        let explicit = (!explicit.is_empty()).then_some(explicit);
        let mut topology = Topology::new(explicit, self.fresh(stream).await?);
        self.store.adopt(stream, &entry.stream.to_string()).await?;
        let (rows, read_at) = (self.store.rows(stream).await?, Instant::now());
        // The shards are listed after the rows are read, so that a shard that the listing lacks is gone.
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
        let consumer = if self.config.enhanced_fan_out.enabled {
            let spec = self.consumer_spec(stream).await?;
            let activation = self.config.enhanced_fan_out.consumer_activation_timeout.into();
            Some(Arc::new(Consumer::open(self.service(), stream.clone(), spec, activation, registering).await?))
        } else {
            None
        };
        Ok(Found { stream: stream.clone(), consumer, shards, topology })
    }

    /// Returns where a shard without a checkpoint starts.
    async fn fresh(&self, stream: &Stream) -> Result<Fresh, ConnectError> {
        if let Some(time) = self.config.start_at_timestamp.as_ref() {
            return Ok(Fresh::At(millis(time.system_time())));
        }
        if self.config.start_from_oldest {
            return Ok(Fresh::Oldest);
        }
        // The time is that of the clock that sets arrival times. A local clock may be ahead of it, and the records that
        // arrive in between would be skipped.
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

/// The limits of a batch; `None` if there are none.
fn batch_policy(batching: &Batching) -> Option<BatchPolicy> {
    let period = batching.period.map_or(Duration::ZERO, Duration::from);
    BatchPolicy::new(batching.count, batching.byte_size.bytes(), period, batching.jitter)
}

fn failed(stream: String, doing: &'static str, fault: Fault) -> ConnectError {
    match retry::control(&fault) {
        Control::Retry | Control::InUse => ConnectError::Unreachable { stream, doing, fault },
        Control::Fatal | Control::NotFound => ConnectError::Refused { stream, doing, fault },
    }
}

/// Names the streams that are read, for people.
/// What becomes of nacked records.
fn redelivery(config: &Config) -> RedeliveryPolicy {
    let Redelivery { max_attempts, max_age, then, bisect, .. } = config.redelivery;
    if !config.auto_replay_nacks {
        return RedeliveryPolicy::ONCE;
    }
    let drops = then == GivenUp::Drop;
    RedeliveryPolicy {
        max_attempts: Some(max_attempts).filter(|most| drops && *most > 0),
        max_age: Some(max_age.into()).filter(|oldest: &Duration| drops && !oldest.is_zero()),
        bisects: bisect,
    }
}

fn target(streams: &[Stream]) -> String {
    streams.iter().map(Stream::name).collect::<Vec<_>>().join(", ")
}

/// Rejects two entries for the same stream: a name and an ARN may refer to the same stream, and each of its records
/// would be read twice.
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
