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
use pipeline_plugin_api::InputError;
use tokio::sync::{Notify, Semaphore};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::access::{self, AccessError, Outside};
use crate::aws::Aws;
use crate::checkpoint::Checkpointer;
use crate::config::{Config, Deaggregate, StreamEntry};
use crate::efo::consumer::{Consumer, ConsumerError, ConsumerSpec};
use crate::efo::subscription::Shared;
use crate::ending::Ending;
use crate::health::Health;
use crate::input::Given;
use crate::lease::keeper::{self, Keeper, Tenure};
use crate::lease::{DynamoDbStore, FileStore, LeaseStore, Presence, StoreError, Table};
use crate::names::{ShardId, Stream, WorkerId};
use crate::outbox::Outbox;
use crate::pool::Pool;
use crate::readers::{Readers, Settings, StreamState, Tools, report_unreadable, set_aside_former};
use crate::retry::{self, Control, Fault, Origin};
use crate::service::Service;
use crate::session::Session;
use crate::shards::Shards;
use crate::sync::Mutex;
use crate::threads::Threads;
use crate::topology::{Fresh, Topology};
use crate::transport::{ControlClient, SubscriptionClient};
use crate::{region, resident, supervise, telemetry, transport, unbuilt};

/// How long a host should wait before it tries again what did not work this time.
const TRY_AGAIN: Duration = Duration::from_secs(1);
/// The part of `steal_grace_period` in which acks are waited for. The rest is for storing the last place: who asked for
/// the shard takes it when the whole of it is over.
const GRACE_FOR_ACKS: f64 = 0.75;
/// Consumers that may be made at once: the service's own limit for an account.
const REGISTERING_AT_ONCE: usize = 5;

/// Why the input can't be connected.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ConnectError {
    /// The configuration asks for something that this version does not do.
    #[error("{field}: {what}")]
    NotBuilt {
        /// The field.
        field: &'static str,
        /// What is missing, and what to do meanwhile.
        what: &'static str,
    },
    /// No region, or no credentials.
    #[error(transparent)]
    Access(#[from] AccessError),
    /// The checkpoint store can't be used.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// There is no such stream.
    #[error("stream {stream}: not found in region {region}; check the name, the region and the account")]
    NoSuchStream {
        /// As it was configured.
        stream: String,
        /// Where it was looked for.
        region: String,
    },
    /// The region is mistyped.
    #[error("region {region}: no AWS region of this name is known, and its endpoint can't be found; check `region`")]
    NoSuchRegion {
        /// As it was configured.
        region: String,
    },
    /// Two entries mean the same stream.
    #[error("stream {stream}: listed twice, as {first} and as {second}; leave one")]
    SameStream {
        /// Its name.
        stream: String,
        /// One entry.
        first: String,
        /// The other.
        second: String,
    },
    /// Shards were asked for by name that aren't there.
    #[error("stream {stream}: no shard {shards}; see them all with `aws kinesis list-shards`")]
    NoSuchShard {
        /// The stream.
        stream: String,
        /// The shards.
        shards: String,
    },
    /// The service refused a call, and would refuse it again.
    #[error("stream {stream}: {doing}: {fault}; check the credentials, their permissions and the region")]
    Refused {
        /// The stream, as it was configured.
        stream: String,
        /// What we were doing.
        doing: &'static str,
        /// What came back.
        fault: Fault,
    },
    /// The service could not be reached, or was busy.
    #[error("stream {stream}: {doing}: {fault}")]
    Unreachable {
        /// The stream, as it was configured.
        stream: String,
        /// What we were doing.
        doing: &'static str,
        /// What came back.
        fault: Fault,
    },
    /// The threads that are to read can't be started.
    #[error("enhanced_fan_out.reader_threads: {0}")]
    Threads(#[from] std::io::Error),
    /// The consumer can't be used.
    #[error(transparent)]
    Consumer(#[from] ConsumerError),
    /// Connecting panicked.
    #[error("connecting failed ({0}); this is a bug, please report it")]
    Panicked(String),
    /// The consumer belongs to another stream.
    #[error("enhanced_fan_out.consumer_arn: {arn} is no consumer of stream {stream}")]
    ForeignConsumer {
        /// The consumer.
        arn: String,
        /// The stream.
        stream: String,
    },
}

impl From<ConnectError> for InputError {
    fn from(error: ConnectError) -> Self {
        let passing = matches!(
            error,
            ConnectError::Unreachable { .. }
                | ConnectError::Threads(_)
                | ConnectError::Panicked(_)
                | ConnectError::Access(AccessError::CredentialsUnavailable(_))
                | ConnectError::Store(StoreError::Failed { .. })
                | ConnectError::Consumer(ConsumerError::NotActive { .. })
        );
        if passing { Self::BackOff { after: TRY_AGAIN, cause: error.into() } } else { Self::Fatal(error.into()) }
    }
}

/// Opens everything and starts reading.
///
/// `background` takes what outlives a connect that is given up, for moments.
pub(crate) async fn connect(
    config: &Config,
    given: &Given,
    me: &WorkerId,
    background: &TaskTracker,
) -> Result<Session, ConnectError> {
    unbuilt::refuse(config)?;
    let mut trusted = given.trusted.clone();
    let settings = access::Settings::load(config.credentials.profile.as_deref()).await?;
    // The table may have a profile of its own.
    let of_table = match &config.dynamodb.credentials.profile {
        same if *same == config.credentials.profile => None,
        own => Some(access::Settings::load(own.as_deref()).await?),
    };
    let mut machine = Vec::new();
    for settings in std::iter::once(&settings).chain(&of_table) {
        trusted.extend(settings.certificates().await?);
        machine.extend(settings.machine_addresses());
    }
    let control = given.client.clone().unwrap_or_else(|| ControlClient::new(&trusted, machine).into_shared());
    // Connections of its own for each who asks.
    let subscriptions = || {
        given.client.clone().unwrap_or_else(|| {
            let settings = transport::Settings {
                // Checked to be far below 4 GiB.
                stream_window: resident::allocatable(config.enhanced_fan_out.stream_window.bytes()) as u32,
                trusted: trusted.clone(),
                ..transport::Settings::default()
            };
            SubscriptionClient::new(settings).into_shared()
        })
    };
    let mut outside = Outside::new(control);
    if let Some(time) = &given.time {
        outside.time = time.clone();
    }
    let access = access::kinesis(config, &settings, &outside).await?;
    let of_table = of_table.as_ref().unwrap_or(&settings);
    let table_access = access::dynamodb(config, &access, &settings, of_table, &outside).await?;
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
    let beat = keeper::beat_timeout(lease, config.commit_period.into());
    let table = Table::open(access, &config.dynamodb, beat).await?;
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

/// What the parts of an input have in common from the beginning.
struct Common {
    health: Arc<Health>,
    /// Has the coordinator look at once.
    look: Arc<Notify>,
}

/// A stream that was found, with what is known of it.
struct Found {
    stream: Stream,
    consumer: Arc<Consumer>,
    shards: Arc<Shards>,
    topology: Topology,
}

impl Connecting<'_> {
    pub(crate) async fn open(&self) -> Result<Session, ConnectError> {
        telemetry::describe_metrics();
        let config = self.config;
        let streams = try_join_all(config.stream_entries().iter().map(|entry| self.find(entry))).await?;
        each_once(config.stream_entries(), &streams)?;
        let target = streams.iter().map(Stream::name).collect::<Vec<_>>().join(", ");
        let common =
            Common { health: Arc::new(Health::new(&target, self.time.clone())), look: Arc::new(Notify::new()) };
        let registering = Semaphore::new(REGISTERING_AT_ONCE);
        let found = config.stream_entries().iter().zip(&streams);
        let found =
            try_join_all(found.map(|(entry, stream)| self.prepare(entry, stream, &common, &registering))).await?;

        let fan_out = &config.enhanced_fan_out;
        let pool = Pool::new(fan_out.max_pending_records as u64, fan_out.max_pending_bytes.bytes());
        let (stop, keep) = (CancellationToken::new(), CancellationToken::new());
        let Common { health, look } = common;
        let lease: Duration = config.lease_period.into();
        let grace: Duration = config.steal_grace_period.into();
        let settings = self.settings();
        let every = keeper::beat_period(lease, config.commit_period.into());
        // The last thing that can fail: what was shown is not left behind.
        let presence = Presence {
            streams: streams.iter().map(|stream| stream.arn().to_owned()).collect(),
            explicit: settings.explicit,
            lease: Some(lease),
            beats_every: Some(every),
        };
        let (tenure, nudges) = if self.store.shared().is_some() {
            keeper::begin(&self.store, presence.clone(), lease, &self.background).await?
        } else {
            (Tenure::forever(), 0)
        };
        let tenure = Arc::new(tenure);
        let outbox = Arc::new(Outbox::new(config.message_buffer_cap, Arc::clone(&tenure)));
        let ending = Arc::new(Ending::new(found.len(), Arc::clone(&outbox), stop.clone(), keep.clone()));
        let checkpointer = Arc::new(Checkpointer::new(
            Arc::clone(&self.store),
            Arc::clone(&outbox),
            Arc::clone(&health),
            Arc::clone(&ending),
            lease,
            grace.mul_f64(GRACE_FOR_ACKS),
        ));
        let keeper = self.store.shared().is_some().then(|| Keeper {
            store: Arc::clone(&self.store),
            presence,
            lease,
            every,
            tenure: Arc::clone(&tenure),
            checkpointer: Arc::clone(&checkpointer),
            ending: Arc::clone(&ending),
            health: Arc::clone(&health),
            look: Arc::clone(&look),
            nudges,
        });
        let tasks = TaskTracker::new();
        let (mut consumers, mut states) = (Vec::new(), Vec::new());
        for Found { stream, consumer, shards, topology } in found {
            telemetry::connected(&stream, topology.len(), consumer.label());
            consumers.push(Arc::clone(&consumer));
            let shared = Shared {
                consumer,
                shards,
                pool: pool.clone(),
                health: Arc::clone(&health),
                max_resubscribe_interval: fan_out.max_resubscribe_interval.into(),
            };
            states.push(StreamState { stream, topology, shared });
        }
        let tools = Tools {
            threads: Arc::clone(&self.threads),
            store: Arc::clone(&self.store),
            tenure,
            checkpointer: Arc::clone(&checkpointer),
            outbox: Arc::clone(&outbox),
            ending: Arc::clone(&ending),
            health: Arc::clone(&health),
            settings,
            look,
            stop: stop.clone(),
        };
        let (is_over, stopped) = (Arc::clone(&ending), stop.clone());
        tasks.spawn(supervise::essential(
            "coordinator",
            Arc::clone(&ending),
            move || stopped.is_cancelled() || is_over.end().is_some(),
            Readers::new(states, tools).run(),
        ));
        let session = Session {
            _closing: checkpointer.closing(),
            target,
            pool,
            outbox,
            health,
            checkpointer,
            ending,
            consumers: if fan_out.deregister_on_close { consumers } else { Vec::new() },
            streams,
            tasks,
            threads: Arc::clone(&self.threads),
            stop: stop.drop_guard(),
            keeper: Mutex::new(keeper),
            store: Arc::clone(&self.store),
            keep: keep.drop_guard(),
        };
        session.start(config.commit_period.into());
        Ok(session)
    }

    fn settings(&self) -> Settings {
        let config = self.config;
        // A slice waits for its place in the pool as one, so it is to be a small part of it.
        let slice = config.checkpoint_limit.min(config.enhanced_fan_out.max_pending_records.div_ceil(4));
        Settings {
            checkpoint_limit: config.checkpoint_limit as u64,
            replay_nacks: config.auto_replay_nacks,
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
            Control::Retry if self.is_mistyped_region(&fault) => {
                ConnectError::NoSuchRegion { region: self.region.clone() }
            }
            _ => failed(configured, "looking for it", fault),
        })
    }

    /// Whether there is no such host, and no such region either.
    fn is_mistyped_region(&self, fault: &Fault) -> bool {
        let no_such_host = fault.origin == Origin::Wire && fault.message.contains("dns error");
        no_such_host && self.config.endpoint.is_none() && !region::is_known(&self.region)
    }

    /// Learns the shards of a stream and has its consumer ready.
    async fn prepare(
        &self,
        entry: &StreamEntry,
        stream: &Stream,
        common: &Common,
        registering: &Semaphore,
    ) -> Result<Found, ConnectError> {
        let explicit: BTreeSet<ShardId> = entry.shards.iter().map(|shard| shard_id(shard)).collect();
        let explicit = (!explicit.is_empty()).then_some(explicit);
        let mut topology = Topology::new(explicit, self.fresh(stream).await?);
        self.store.adopt(stream, &entry.stream.to_string()).await?;
        let (rows, read_at) = (self.store.rows(stream).await?, Instant::now());
        // After what is stored, so that what is not in it is gone.
        let (health, look) = (Arc::clone(&common.health), Arc::clone(&common.look));
        let shards = Arc::new(Shards::new(self.service(), stream.clone(), look, health));
        let listing = shards.list(Duration::ZERO).await;
        let listing = listing.map_err(|fault| failed(stream.to_string(), "listing its shards", fault))?;
        let mut begins = topology.anew();
        begins.listed(&listing);
        let rows = set_aside_former(&*self.store, stream, &begins, rows).await?;
        report_unreadable(&common.health, stream, &rows);
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
