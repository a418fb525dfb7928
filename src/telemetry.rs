//! Every metric and every log event of the input, listed once.
//!
//! Nothing else in this crate calls `metrics` or `tracing`. A library installs neither a recorder nor a subscriber:
//! without them all this costs next to nothing. A healthy run logs nothing above `debug` but its start and its stop.

use std::fmt::Display;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use metrics::{Counter, Gauge, Unit, counter, describe_counter, describe_gauge, gauge};

use crate::checkpoint::Leave;
use crate::lease::Hold;
use crate::names::{ShardId, Stream, WorkerId};
use crate::pool::Pool;
use crate::record::ShardNames;
use crate::retry::Fault;
use crate::sync::{Mutex, lock};
use crate::topology::Start;

/// What fails for an hour is told every minute, and not every second.
const TOLD_EVERY: Duration = Duration::from_mins(1);

/// When was it told last?
struct Seldom(Mutex<Option<Instant>>);

impl Seldom {
    const fn new() -> Self {
        Self(Mutex::new(None))
    }

    fn is_due(&self, now: Instant) -> bool {
        let mut told = lock(&self.0);
        let due = told.is_none_or(|told| now.saturating_duration_since(told) >= TOLD_EVERY);
        if due {
            *told = Some(now);
        }
        due
    }
}

/// What a metric counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Measure {
    /// It only grows.
    Counter,
    /// It goes up and down.
    Gauge,
}

/// One metric.
#[derive(Debug, Clone, Copy)]
pub struct Metric {
    /// Its name.
    pub name: &'static str,
    /// Whether it only grows.
    pub measure: Measure,
    /// What its numbers are.
    pub unit: Unit,
    /// What it says.
    pub help: &'static str,
    /// Whether it is kept for each stream and shard; otherwise once for the input.
    pub by_shard: bool,
}

macro_rules! metrics {
    ($($(#[$meta:meta])* $name:ident = $text:literal, $measure:ident, $unit:ident, by_shard: $by_shard:literal, $help:literal;)*) => {
        $(const $name: &str = $text;)*
        /// All metrics.
        pub const METRICS: &[Metric] = &[$(Metric {
            name: $text, measure: Measure::$measure, unit: Unit::$unit, help: $help, by_shard: $by_shard,
        }),*];
    };
}

metrics! {
    READ_RECORDS = "kinesis_input_read_records_total", Counter, Count, by_shard: true,
        "Records read from the shard, again after a restart included.";
    READ_BYTES = "kinesis_input_read_bytes_total", Counter, Bytes, by_shard: true,
        "Bytes of their data.";
    DELIVERED = "kinesis_input_delivered_records_total", Counter, Count, by_shard: true,
        "Records handed to the host, those that came again included.";
    ACKED = "kinesis_input_acked_records_total", Counter, Count, by_shard: true,
        "Records the host acknowledged.";
    NACKED = "kinesis_input_nacked_records_total", Counter, Count, by_shard: true,
        "Records the host refused, or whose receipt it dropped.";
    DROPPED = "kinesis_input_dropped_records_total", Counter, Count, by_shard: true,
        "Refused records that were not delivered again, since auto_replay_nacks is false.";
    SKIPPED = "kinesis_input_skipped_records_total", Counter, Count, by_shard: true,
        "Records older than the timestamp to start from, which some servers send all the same.";
    AGGREGATED = "kinesis_input_aggregated_records_total", Counter, Count, by_shard: true,
        "Records that hold several records of a KPL producer. They are delivered whole: taking them apart is not built yet.";
    BEHIND = "kinesis_input_behind_latest_seconds", Gauge, Seconds, by_shard: true,
        "How far the reader is behind the tip of the shard, as the service last said.";
    SUBSCRIBED = "kinesis_input_subscriptions_total", Counter, Count, by_shard: true,
        "Subscriptions that were opened. About one in five minutes is healthy.";
    FAULTS = "kinesis_input_faults_total", Counter, Count, by_shard: true,
        "Subscriptions that failed to open or broke, by `code`. Their ordinary end after five minutes is not one.";
    YIELDED = "kinesis_input_yielded_subscriptions_total", Counter, Count, by_shard: true,
        "Subscriptions that were closed because nothing could be taken for 30 s: the output is slow.";
    EXPIRED = "kinesis_input_expired_checkpoints_total", Counter, Count, by_shard: true,
        "Checkpoints that were older than the stream's retention: records were lost before they could be read.";
    ENDED = "kinesis_input_ended_shards_total", Counter, Count, by_shard: true,
        "Shards that were read to their end, acknowledged and stored.";
    READING = "kinesis_input_reading_shards", Gauge, Count, by_shard: false,
        "Shards that are being read or drained.";
    PENDING_RECORDS = "kinesis_input_pending_records", Gauge, Count, by_shard: false,
        "Records between the socket and their final ack.";
    PENDING_BYTES = "kinesis_input_pending_bytes", Gauge, Bytes, by_shard: false,
        "Bytes that these records hold, and frames that are being read.";
    PENDING_RECORDS_PEAK = "kinesis_input_pending_records_peak", Gauge, Count, by_shard: false,
        "The most pending records since the start.";
    PENDING_BYTES_PEAK = "kinesis_input_pending_bytes_peak", Gauge, Bytes, by_shard: false,
        "The most pending bytes since the start.";
    POOL_WAITING = "kinesis_input_pool_waiting_shards", Gauge, Count, by_shard: false,
        "Reservations that wait for space in the pending pool.";
    STORED = "kinesis_input_stored_checkpoints_total", Counter, Count, by_shard: false,
        "Checkpoints that were stored.";
    STORE_FAILED = "kinesis_input_store_failures_total", Counter, Count, by_shard: false,
        "Attempts to store checkpoints that failed; they are made again.";
    CLAIMED = "kinesis_input_claimed_shards_total", Counter, Count, by_shard: false,
        "Shards that this worker claimed, by `how`: free, passed_on, left_behind, forced, stolen.";
    LOST = "kinesis_input_lost_leases_total", Counter, Count, by_shard: false,
        "Leases that were lost to others without having been asked for.";
    GIVEN_BACK = "kinesis_input_given_back_shards_total", Counter, Count, by_shard: false,
        "Shards that were given back before their end: handed over to others, or since their lease could not be renewed.";
    WORKERS = "kinesis_input_workers", Gauge, Count, by_shard: false,
        "Workers that share the table and are alive, as far as this one sees; itself included.";
    LEASES_GOOD = "kinesis_input_leases_good", Gauge, Count, by_shard: false,
        "1 while the leases of this worker are renewed in time, 0 while they are over and nothing is read.";
    BEAT_FAILED = "kinesis_input_beat_failures_total", Counter, Count, by_shard: false,
        "Attempts to show that this worker is alive that failed. Leases are over when none works for `lease_period`.";
    LOOK_FAILED = "kinesis_input_look_failures_total", Counter, Count, by_shard: false,
        "Attempts to look at the table, or to claim or ask for a shard, that failed.";
}

/// Tells an installed recorder what the metrics mean.
pub(crate) fn describe_metrics() {
    for metric in METRICS {
        match metric.measure {
            Measure::Counter => describe_counter!(metric.name, metric.unit, metric.help),
            Measure::Gauge => describe_gauge!(metric.name, metric.unit, metric.help),
        }
    }
}

/// The metrics of one shard. Looked up once, since that is the dear part.
#[derive(Debug)]
pub(crate) struct ShardMeter {
    names: Arc<ShardNames>,
    read_records: Counter,
    read_bytes: Counter,
    delivered: Counter,
    acked: Counter,
    nacked: Counter,
    behind: Gauge,
    subscribed: Counter,
    /// Whether the log has been told of aggregated records.
    told_aggregated: AtomicBool,
}

impl ShardMeter {
    pub(crate) fn new(names: &Arc<ShardNames>) -> Self {
        let of = |name| counter!(name, shard_labels(names));
        Self {
            names: Arc::clone(names),
            read_records: of(READ_RECORDS),
            read_bytes: of(READ_BYTES),
            delivered: of(DELIVERED),
            acked: of(ACKED),
            nacked: of(NACKED),
            behind: gauge!(BEHIND, shard_labels(names)),
            subscribed: of(SUBSCRIBED),
            told_aggregated: AtomicBool::new(false),
        }
    }

    pub(crate) fn read(&self, records: usize, bytes: usize) {
        self.read_records.increment(records as u64);
        self.read_bytes.increment(bytes as u64);
    }

    pub(crate) fn behind(&self, millis: i64) {
        self.behind.set(millis as f64 / 1000.0);
    }

    pub(crate) fn delivered(&self, records: usize) {
        self.delivered.increment(records as u64);
    }

    pub(crate) fn acked(&self, records: usize) {
        self.acked.increment(records as u64);
    }

    pub(crate) fn nacked(&self, records: usize) {
        self.nacked.increment(records as u64);
    }

    pub(crate) fn dropped(&self, names: &ShardNames, records: usize) {
        counter!(DROPPED, shard_labels(&self.names)).increment(records as u64);
        tracing::warn!(stream = %names.stream, shard = %names.shard, records, "dropped records that the output refused");
    }

    pub(crate) fn skipped(&self, records: usize) {
        counter!(SKIPPED, shard_labels(&self.names)).increment(records as u64);
    }

    /// Aggregated records were read, and would have to be taken apart.
    pub(crate) fn aggregated(&self, records: usize) {
        counter!(AGGREGATED, shard_labels(&self.names)).increment(records as u64);
        if !self.told_aggregated.swap(true, Ordering::Relaxed) {
            let ShardNames { stream, shard } = &*self.names;
            tracing::warn!(
                %stream, %shard,
                "KPL aggregated records are delivered whole: taking them apart is not built yet; `deaggregate: off` says that \
                 they are wanted so"
            );
        }
    }

    pub(crate) fn subscribed(&self) {
        self.subscribed.increment(1);
        let ShardNames { stream, shard } = &*self.names;
        tracing::debug!(%stream, %shard, "subscribed");
    }

    /// A subscription failed or broke; `wait` is how long until the next try.
    pub(crate) fn fault(&self, fault: &Fault, tries: u32, wait: Duration) {
        let ShardNames { stream, shard } = &*self.names;
        let mut labels = shard_labels(&self.names);
        labels.push(metrics::Label::new("code", fault.code.clone()));
        counter!(FAULTS, labels).increment(1);
        // One broken connection is life; a shard that doesn't come back is news, and not at every try.
        if tries == 4 || (tries > 4 && tries.is_multiple_of(20)) {
            tracing::warn!(%stream, %shard, %fault, tries, ?wait, "the shard can't be read; trying on");
        } else {
            tracing::debug!(%stream, %shard, %fault, tries, ?wait, "subscription lost; subscribing again");
        }
    }

    pub(crate) fn yielded(&self) {
        counter!(YIELDED, shard_labels(&self.names)).increment(1);
        let ShardNames { stream, shard } = &*self.names;
        tracing::debug!(%stream, %shard, "closed a subscription that nothing could be taken from");
    }

    pub(crate) fn unread_shard_end(&self, why: &str) {
        let ShardNames { stream, shard } = &*self.names;
        tracing::debug!(%stream, %shard, why, "not an end of the shard; subscribing again");
    }

    pub(crate) fn expired(&self, from: &str) {
        counter!(EXPIRED, shard_labels(&self.names)).increment(1);
        let ShardNames { stream, shard } = &*self.names;
        tracing::error!(
            %stream, %shard, from,
            "the stored place is older than the stream's retention; records were lost, reading from the oldest there is"
        );
    }

    pub(crate) fn vanished(&self) {
        counter!(EXPIRED, shard_labels(&self.names)).increment(1);
        let ShardNames { stream, shard } = &*self.names;
        tracing::error!(%stream, %shard, "the shard is gone from the stream before it was read to its end");
    }

    pub(crate) fn ended(&self, children: &[ShardId]) {
        counter!(ENDED, shard_labels(&self.names)).increment(1);
        self.behind.set(0.0);
        let ShardNames { stream, shard } = &*self.names;
        tracing::info!(%stream, %shard, ?children, "read the shard to its end");
    }
}

fn shard_labels(names: &ShardNames) -> Vec<metrics::Label> {
    vec![
        metrics::Label::new("stream", names.stream.name().to_owned()),
        metrics::Label::new("shard", names.shard.as_str().to_owned()),
    ]
}

/// Shows how full the pool is.
pub(crate) fn pool(pool: &Pool) {
    let (records, bytes) = (pool.records(), pool.bytes());
    gauge!(PENDING_RECORDS).set(records.used as f64);
    gauge!(PENDING_RECORDS_PEAK).set(records.peak as f64);
    gauge!(PENDING_BYTES).set(bytes.used as f64);
    gauge!(PENDING_BYTES_PEAK).set(bytes.peak as f64);
    gauge!(POOL_WAITING).set((records.waiting + bytes.waiting) as f64);
}

/// Shards wait for room, in the pool or under a limit of their own, and nothing was acknowledged for this long.
pub(crate) fn blocked(pool: &Pool, stuck_shards: usize, since: Duration) {
    let (records, bytes) = (pool.records(), pool.bytes());
    tracing::warn!(
        pending_records = records.used,
        max_pending_records = records.capacity,
        pending_bytes = bytes.used,
        max_pending_bytes = bytes.capacity,
        waiting = records.waiting + bytes.waiting,
        stuck_shards,
        for_seconds = since.as_secs(),
        "reading has stopped: as much is pending as may be, and the output acknowledges nothing"
    );
}

pub(crate) fn reading_shards(count: usize) {
    gauge!(READING).set(count as f64);
}

pub(crate) fn connected(stream: &Stream, shards: usize, consumer: &str) {
    tracing::info!(%stream, shards, consumer, "reading the stream");
}

pub(crate) fn closed(outstanding: bool) {
    if outstanding {
        tracing::warn!("closed before everything was acknowledged; the rest will be read again");
    } else {
        tracing::info!("closed; everything that was delivered is stored");
    }
}

pub(crate) fn stored(checkpoints: usize) {
    counter!(STORED).increment(checkpoints as u64);
}

pub(crate) fn store_failed(error: &dyn Display) {
    static SELDOM: Seldom = Seldom::new();
    counter!(STORE_FAILED).increment(1);
    if SELDOM.is_due(Instant::now()) {
        tracing::warn!(%error, "could not store checkpoints; trying again");
    } else {
        tracing::debug!(%error, "could not store checkpoints; trying again");
    }
}

/// A lease could not be given back yet.
pub(crate) fn release_failed(stream: &Stream, shard: &ShardId, error: &dyn Display) {
    counter!(STORE_FAILED).increment(1);
    tracing::debug!(%stream, %shard, %error, "could not give the lease back; trying again");
}

/// How a shard was got.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Claimed {
    /// Nobody had it.
    Free,
    /// It was handed over to us, or was ours in a life before.
    PassedOn,
    /// Its holder had not renewed it.
    LeftBehind,
    /// It was asked for, and not handed over in time.
    Forced,
    /// Another program had too many.
    Stolen,
}

pub(crate) fn claimed(stream: &Stream, shard: &ShardId, how: Claimed, from: Option<&Hold>) {
    let label = match how {
        Claimed::Free => "free",
        Claimed::PassedOn => "passed_on",
        Claimed::LeftBehind => "left_behind",
        Claimed::Forced => "forced",
        Claimed::Stolen => "stolen",
    };
    counter!(CLAIMED, "how" => label).increment(1);
    let from = from.map_or("nobody", |hold| hold.worker.as_str());
    match how {
        Claimed::Free | Claimed::PassedOn => tracing::debug!(%stream, %shard, how = label, from, "claimed the shard"),
        _ => tracing::info!(%stream, %shard, how = label, from, "took the shard over"),
    }
}

pub(crate) fn asked(stream: &Stream, shard: &ShardId, holder: &WorkerId) {
    tracing::debug!(%stream, %shard, %holder, "asked for the shard");
}

pub(crate) fn leaving(stream: &Stream, shard: &ShardId, why: &Leave) {
    match why {
        Leave::HandOver(taker) => tracing::debug!(%stream, %shard, %taker, "handing the shard over"),
        Leave::Over => tracing::debug!(%stream, %shard, "stopped reading the shard: its lease is over"),
    }
}

pub(crate) fn given_back(stream: &Stream, shard: &ShardId, to: Option<&WorkerId>) {
    counter!(GIVEN_BACK).increment(1);
    let to = to.map_or("nobody", WorkerId::as_str);
    tracing::debug!(%stream, %shard, to, "gave the shard back");
}

pub(crate) fn workers(alive: usize) {
    gauge!(WORKERS).set(alive as f64);
}

pub(crate) fn leases_good() {
    gauge!(LEASES_GOOD).set(1.0);
}

pub(crate) fn leases_over(lease_period: Duration) {
    gauge!(LEASES_GOOD).set(0.0);
    tracing::warn!(?lease_period, "leases could not be renewed in time; stopped reading, for others may read by now");
}

pub(crate) fn leases_again() {
    leases_good();
    tracing::warn!("leases can be renewed again; reading on with what is free");
}

pub(crate) fn beat_failed(error: &dyn Display, tries: u32) {
    counter!(BEAT_FAILED).increment(1);
    // One is life; that it goes on is news, and not at every try.
    if tries == 3 || tries.is_multiple_of(20) {
        tracing::warn!(%error, tries, "could not renew the leases; trying on");
    } else {
        tracing::debug!(%error, tries, "could not renew the leases; trying again");
    }
}

pub(crate) fn look_failed(error: &dyn Display) {
    static SELDOM: Seldom = Seldom::new();
    counter!(LOOK_FAILED).increment(1);
    if SELDOM.is_due(Instant::now()) {
        tracing::warn!(%error, "could not share shards with other workers; trying again");
    } else {
        tracing::debug!(%error, "could not share shards with other workers; trying again");
    }
}

pub(crate) fn table_made(table: &str) {
    tracing::info!(table, "made the lease table");
}

pub(crate) fn rows_moved(stream: &Stream, rows: usize, from: &str, to: &str) {
    tracing::info!(%stream, rows, from, to, "moved leases to the name that those of the stream are kept under");
}

pub(crate) fn lease_lost(stream: &Stream, shard: &ShardId, holder: &str) {
    counter!(LOST).increment(1);
    tracing::warn!(%stream, %shard, holder, "lost the lease; stopped reading the shard");
}

/// The connection itself failed; its subscriptions say so on their own.
pub(crate) fn connection_ended(error: &dyn Display) {
    tracing::debug!(%error, "a connection of subscriptions ended");
}

pub(crate) fn held(stream: &Stream, shard: &ShardId, holder: &str) {
    tracing::debug!(%stream, %shard, holder, "the shard is read by another worker");
}

pub(crate) fn listing_failed(stream: &Stream, fault: &Fault) {
    tracing::warn!(%stream, %fault, "could not list the shards; trying again");
}

pub(crate) fn registering(stream: &Stream, consumer: &str) {
    tracing::info!(%stream, consumer, "registering the consumer");
}

pub(crate) fn consumer_changed(stream: &Stream, arn: &str) {
    tracing::warn!(%stream, arn, "the consumer was made anew; going on with its new ARN");
}

pub(crate) fn deregister_failed(stream: &Stream, fault: &Fault) {
    tracing::warn!(%stream, %fault, "could not deregister the consumer");
}

/// A shard of which something was stored left the stream while nobody read it.
pub(crate) fn vanished_before_connect(stream: &Stream, shard: &ShardId) {
    ShardMeter::new(&Arc::new(ShardNames { stream: stream.clone(), shard: shard.clone() })).vanished();
}

pub(crate) fn resumed_at(names: &ShardNames, start: &Start) {
    let ShardNames { stream, shard } = names;
    tracing::debug!(%stream, %shard, ?start, "reading the shard");
}

pub(crate) fn failed(error: &dyn Display) {
    tracing::error!(%error, "the input failed");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn metric_names_follow_the_rules_and_are_unique() {
        let mut names: Vec<_> = METRICS.iter().map(|metric| metric.name).collect();
        for metric in METRICS {
            assert!(metric.name.starts_with("kinesis_input_"), "{}", metric.name);
            assert_eq!(metric.name.ends_with("_total"), metric.measure == Measure::Counter, "{}", metric.name);
            assert!(metric.help.ends_with('.'), "{}", metric.name);
        }
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), METRICS.len());
    }
}
