//! How does Kinesis behave?
//!
//! This is a model of one account in one region, with the rules of the real service: how long subscriptions live and
//! which one may take over, which rates are limited, how shards split and merge, what expires. It is pure: it is given
//! the time, does no I/O, and answers at once. [`Simulator`](crate::Simulator) puts it behind HTTP.

mod consumers;
mod error;
mod limits;
mod number;
mod reading;
mod request;
mod shard;
mod stream;
mod streams;
mod subscribing;
mod subscription;
#[cfg(test)]
mod tests;
mod writing;

use std::collections::BTreeMap;
use std::time::Duration;

use serde_json::Value;

use self::limits::Limits;
use self::request::Request;
use self::stream::{Reshard, Status, Stream};
use self::subscription::Subscription;
use crate::time::Time;

pub use error::ServiceError;
pub use number::{Number, parse_shard_id, shard_id};
pub use reading::shard_of_iterator;
pub use shard::Record;
pub use stream::Key;
pub use subscription::{Child, Event, Next, SubscriptionId};

/// The rules that differ between accounts, or that a test changes.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Settings {
    /// The account that everything belongs to.
    pub account: String,
    /// The region, as it appears in ARNs.
    pub region: String,
    /// How long records are kept.
    pub retention: Duration,
    /// How long the creation of a stream takes.
    pub creation: Duration,
    /// How long a split or a merge takes.
    pub reshard: Duration,
    /// How long the creation of a consumer takes.
    pub activation: Duration,
    /// How long the removal of a consumer takes.
    pub deletion: Duration,
    /// The most consumers of a stream.
    pub consumers: usize,
    /// How long a subscription lives.
    pub subscription_lifetime: Duration,
    /// The age of a subscription from which a second one takes over.
    pub takeover: Duration,
    /// The interval of events on an idle subscription.
    pub heartbeat: Duration,
    /// The time until readers see a record.
    pub propagation: Duration,
    /// The time after which a subscription that is not read is broken off.
    pub unread: Duration,
    /// The least time between two events with records.
    pub event_gap: Duration,
    /// Whether the last records of a shard come in the same event as its end, and not before it.
    pub end_with_records: bool,
    /// How long an iterator is valid.
    pub iterator_lifetime: Duration,
    /// The largest number of entries in a page of a listing.
    pub page: usize,
    /// How far a read of the table lags behind if it does not ask for consistency.
    pub table_lag: Duration,
    /// How long the credentials of a role are valid.
    pub role_lifetime: Duration,
    /// How far listings of shards lag behind.
    pub listing_lag: Duration,
    /// The additional lag of some pages of a listing, so that the pages of one listing contradict each other.
    pub page_lag: Duration,
    /// The number of subscriptions that are admitted in a second over all shards, if there is such a limit.
    pub subscribes: Option<f64>,
    /// The calls of GetRecords that are admitted on a shard in a second. Fewer than five are left where other
    /// applications poll the shard.
    pub reads: f64,
    /// What the service makes of calls in CBOR.
    pub cbor: CborSupport,
}

/// What a service makes of calls in CBOR.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum CborSupport {
    /// It answers them in CBOR.
    #[default]
    Full,
    /// It refuses them with a `SerializationException`.
    SerializationException,
    /// It refuses them with an `UnknownOperationException`.
    UnknownOperationException,
    /// It refuses them with the status 415.
    UnsupportedMediaType,
    /// It answers them in JSON.
    AnswersInJson,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            account: "123456789012".into(),
            region: "eu-west-1".into(),
            retention: Duration::from_hours(24),
            creation: Duration::from_secs(2),
            reshard: Duration::from_secs(5),
            activation: Duration::from_secs(5),
            deletion: Duration::from_secs(5),
            consumers: 20,
            subscription_lifetime: Duration::from_mins(5),
            takeover: Duration::from_secs(5),
            heartbeat: Duration::from_secs(5),
            propagation: Duration::from_millis(70),
            unread: Duration::from_mins(2),
            event_gap: Duration::from_millis(200),
            end_with_records: false,
            iterator_lifetime: Duration::from_mins(5),
            page: 1000,
            table_lag: Duration::from_millis(500),
            role_lifetime: Duration::from_hours(1),
            listing_lag: Duration::ZERO,
            page_lag: Duration::ZERO,
            subscribes: None,
            reads: 5.0,
            cbor: CborSupport::Full,
        }
    }
}

/// The result of a call.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reply {
    /// An answer.
    Json(Value),
    /// A subscription, which is then asked for its events.
    Subscription(SubscriptionId),
}

/// Counts of what has happened so far.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct Counters {
    /// Records that were put.
    pub records: u64,
    /// Subscriptions that were granted.
    pub subscriptions: u64,
    /// Of these, subscriptions that ended another one.
    pub takeovers: u64,
    /// Splits and merges.
    pub reshards: u64,
    /// Calls that a limit refused.
    pub throttled: u64,
    /// Subscriptions that were broken off because they were not read.
    pub unread: u64,
}

/// Kinesis, of one account in one region.
#[derive(Debug)]
pub struct Kinesis {
    settings: Settings,
    now: Time,
    streams: BTreeMap<String, Stream>,
    subscriptions: BTreeMap<SubscriptionId, Subscription>,
    /// When each consumer's subscription to each shard was last requested, and last granted.
    calls: BTreeMap<(String, u32), subscribing::Calls>,
    limits: Limits,
    /// The number of pages of listings that were requested.
    listings: u64,
    next_subscription: u64,
    /// Subscriptions that should be asked for their next event.
    touched: Vec<SubscriptionId>,
    counters: Counters,
}

impl Kinesis {
    /// An account without streams.
    pub fn new(settings: Settings) -> Self {
        Self {
            settings,
            now: Time::default(),
            streams: BTreeMap::new(),
            subscriptions: BTreeMap::new(),
            calls: BTreeMap::new(),
            limits: Limits::default(),
            listings: 0,
            next_subscription: 0,
            touched: Vec::new(),
            counters: Counters::default(),
        }
    }

    /// The rules of this account.
    pub fn settings(&self) -> &Settings {
        &self.settings
    }

    /// The counts so far.
    pub fn counters(&self) -> Counters {
        self.counters
    }

    /// Lets time pass. It never goes back.
    pub fn advance(&mut self, now: Time) {
        self.now = self.now.max(now);
        let now = self.now;
        let mut touched = Vec::new();
        for stream in self.streams.values_mut() {
            let shards = stream.advance(now, &self.settings);
            self.counters.reshards += u64::from(!shards.is_empty());
            touched.extend(shards.into_iter().map(|shard| (stream.name.clone(), shard)));
        }
        for (name, _) in
            self.streams.extract_if(.., |_, stream| stream.status == Status::Deleting && stream.until <= now)
        {
            let of_it = self.subscriptions.iter().filter(|(_, one)| one.stream == name);
            self.touched.extend(of_it.map(|(id, _)| *id));
        }
        for (stream, shard) in touched {
            self.touch(&stream, Some(shard));
        }
    }

    /// Answers a call as JSON. `operation` is its name without a prefix.
    ///
    /// # Errors
    ///
    /// Returns the error that the service would answer with.
    pub fn call(&mut self, operation: &str, input: &Value, now: Time) -> Result<Reply, ServiceError> {
        self.advance(now);
        let request = Request(input);
        let reply = match operation {
            "CreateStream" => self.create_stream(request),
            "DeleteStream" => self.delete_stream(request),
            "DescribeLimits" => self.describe_limits(),
            "DescribeStream" => self.describe_stream(request),
            "DescribeStreamSummary" => self.describe_stream_summary(request),
            "ListStreams" => self.list_streams(request),
            "ListShards" => self.list_shards(request),
            "IncreaseStreamRetentionPeriod" | "DecreaseStreamRetentionPeriod" => self.change_retention(request),
            "SplitShard" => self.split_shard(request),
            "MergeShards" => self.merge_shards(request),
            "UpdateShardCount" => self.update_shard_count(request),
            "UpdateStreamRecordDistributionStrategy" => self.update_distribution(request),
            "PutRecord" => self.put_record(request),
            "PutRecords" => self.put_records(request),
            "GetShardIterator" => self.get_shard_iterator(request),
            "GetRecords" => self.get_records(request),
            "RegisterStreamConsumer" => self.register_consumer(request),
            "DescribeStreamConsumer" => self.describe_consumer(request),
            "ListStreamConsumers" => self.list_consumers(request),
            "DeregisterStreamConsumer" => self.deregister_consumer(request),
            "SubscribeToShard" => {
                let limited =
                    self.settings.subscribes.map_or(Ok(()), |most| self.call_limit("SubscribeToShard", "", most));
                return limited
                    .and_then(|()| self.subscribe(request))
                    .inspect_err(|error| self.counters.count(error))
                    .map(Reply::Subscription);
            }
            _ => Err(ServiceError::new("UnknownOperationException", "")),
        };
        reply.map(Reply::Json).inspect_err(|error| self.counters.count(error))
    }

    /// The next event of a subscription.
    pub fn next(&mut self, id: SubscriptionId, now: Time) -> Next {
        self.advance(now);
        let Some(subscription) = self.subscriptions.get_mut(&id) else { return Next::End };
        let stream = self.streams.get(&subscription.stream);
        let next = subscription.next(stream, self.now, &self.settings);
        self.counters.unread += u64::from(next == Next::Reset);
        next
    }

    /// Ends a subscription whose reader has gone.
    pub fn close(&mut self, id: SubscriptionId) {
        self.subscriptions.remove(&id);
    }

    /// The number of open subscriptions.
    pub fn open_subscriptions(&self) -> usize {
        self.subscriptions.values().filter(|subscription| !subscription.has_ended()).count()
    }

    /// The subscriptions that changed since the last call of this method.
    pub fn take_touched(&mut self) -> Vec<SubscriptionId> {
        std::mem::take(&mut self.touched)
    }

    /// Puts a record, as a writer does. Returns its shard and its sequence number.
    ///
    /// # Errors
    ///
    /// Returns the error that the service would answer with.
    pub fn put<'a>(
        &mut self,
        stream: &str,
        key: impl Into<Option<&'a str>>,
        data: bytes::Bytes,
        now: Time,
    ) -> Result<(u32, Number), ServiceError> {
        self.advance(now);
        let now = self.now;
        let placed = self.stream_mut(stream)?.put(key.into(), None, data, now)?;
        self.counters.records += 1;
        self.touch(stream, Some(placed.0));
        Ok(placed)
    }

    /// Changes the state of the key of a stream.
    ///
    /// # Errors
    ///
    /// Fails if there is no such stream.
    pub fn set_key(&mut self, stream: &str, key: Key) -> Result<(), ServiceError> {
        self.stream_mut(stream)?.key = key;
        self.touch(stream, None);
        Ok(())
    }

    /// The open shards of a stream.
    pub fn open_shards(&self, stream: &str) -> Vec<u32> {
        self.streams.get(stream).into_iter().flat_map(Stream::open_shards).map(|shard| shard.id).collect()
    }

    /// The parents of each known shard, by its number.
    pub fn parents(&self, stream: &str) -> BTreeMap<u32, Vec<u32>> {
        let shards = self.streams.get(stream).into_iter().flat_map(|stream| stream.shards.values());
        shards.map(|shard| (shard.id, shard.parents.clone())).collect()
    }

    /// When a stream was created; `None` if there is none, or if it is being deleted.
    pub fn created(&self, stream: &str) -> Option<Time> {
        self.streams.get(stream).filter(|stream| stream.status != Status::Deleting).map(|stream| stream.created)
    }

    /// Whether a stream of this name exists, even if it is being deleted.
    pub fn is_there(&self, stream: &str) -> bool {
        self.streams.contains_key(stream)
    }

    /// Whether a stream is being changed.
    pub fn is_updating(&self, stream: &str) -> bool {
        self.streams.get(stream).is_some_and(|stream| stream.status != Status::Active)
    }

    fn stream(&self, name: &str) -> Result<&Stream, ServiceError> {
        self.streams.get(name).ok_or_else(|| no_stream(name, &self.settings))
    }

    fn stream_mut(&mut self, name: &str) -> Result<&mut Stream, ServiceError> {
        let settings = &self.settings;
        self.streams.get_mut(name).ok_or_else(|| no_stream(name, settings))
    }

    /// Marks the subscriptions of a shard, or of all shards, as changed.
    fn touch(&mut self, stream: &str, shard: Option<u32>) {
        let of = self.subscriptions.iter();
        let of = of.filter(|(_, one)| one.stream == stream && shard.is_none_or(|shard| shard == one.shard));
        self.touched.extend(of.map(|(id, _)| *id));
    }

    fn call_limit(&mut self, operation: &'static str, of: &str, per_second: f64) -> Result<(), ServiceError> {
        let now = self.now;
        self.limits.call(operation, of, per_second, now)
    }
}

impl Counters {
    fn count(&mut self, error: &ServiceError) {
        let throttled = matches!(error.code, "LimitExceededException" | "ProvisionedThroughputExceededException");
        self.throttled += u64::from(throttled);
    }
}

fn no_stream(name: &str, settings: &Settings) -> ServiceError {
    ServiceError::not_found(format!("Stream {name} under account {} not found.", settings.account))
}
