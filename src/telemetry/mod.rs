//! Which metrics and log events does the input have?
//!
//! Every metric and every log event is listed here once. Nothing else in this crate calls `metrics` or `tracing`. A
//! library installs neither a recorder nor a subscriber: without them all this costs next to nothing. A healthy run
//! logs nothing above `debug` but its start and its stop.

pub(crate) mod health;
pub mod report;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Display;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering};
use std::time::Duration;

use metrics::{Counter, Label, Unit, counter, describe_counter, describe_gauge, gauge};
use pipeline_plugin_api::Reason;
use tokio::time::Instant;

use crate::model::{ShardId, ShardNames, StartPosition, Stream, WorkerId};
use crate::pool::Pool;
use crate::records::{Found, Record};
use crate::retry::Fault;
use crate::sync::{Mutex, lock};
use health::{Aspect, Part};
use report::{ChangeKind, Changes, ShardReport};

/// A repeated failure is logged at most this often.
const LOG_EVERY: Duration = Duration::from_mins(1);

/// A limiter of the rate of a log line.
#[derive(Debug)]
struct RateLimited(Mutex<Option<Instant>>);

impl RateLimited {
    const fn new() -> Self {
        Self(Mutex::new(None))
    }

    fn is_due(&self, now: Instant) -> bool {
        let mut logged = lock(&self.0);
        let due = logged.is_none_or(|logged| now.saturating_duration_since(logged) >= LOG_EVERY);
        if due {
            *logged = Some(now);
        }
        due
    }
}

/// The kind of a metric.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Measure {
    /// The value only grows.
    Counter,
    /// The value goes up and down.
    Gauge,
}

/// One metric.
#[derive(Debug, Clone, Copy)]
#[non_exhaustive]
pub struct Metric {
    /// The name of the metric.
    pub name: &'static str,
    /// The kind of the metric.
    pub measure: Measure,
    /// The unit of its values.
    pub unit: Unit,
    /// The meaning of the metric.
    pub help: &'static str,
    /// Whether the metric is kept for each stream and shard; otherwise it is kept once for the input.
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
        "Records read from the shard, including those read again after a restart.";
    READ_BYTES = "kinesis_input_read_bytes_total", Counter, Bytes, by_shard: true,
        "Bytes of their data.";
    DELIVERED = "kinesis_input_delivered_records_total", Counter, Count, by_shard: true,
        "Records handed to the host, including redeliveries.";
    ACKED = "kinesis_input_acked_records_total", Counter, Count, by_shard: true,
        "Records the host acknowledged.";
    NACKED = "kinesis_input_nacked_records_total", Counter, Count, by_shard: true,
        "Records that the host nacked, or whose receipt it dropped.";
    DROPPED = "kinesis_input_dropped_records_total", Counter, Count, by_shard: true,
        "Nacked records that were dropped, because auto_replay_nacks is false or redelivery gave them up.";
    SKIPPED = "kinesis_input_skipped_records_total", Counter, Count, by_shard: true,
        "Records older than the timestamp to start from, which some servers send all the same.";
    AGGREGATED = "kinesis_input_aggregated_records_total", Counter, Count, by_shard: true,
        "Kinesis records that were aggregates of user records.";
    MALFORMED_AGGREGATES = "kinesis_input_malformed_aggregates_total", Counter, Count, by_shard: true,
        "Aggregates that contradict themselves; they were delivered as they are stored.";
    OUT_OF_RANGE = "kinesis_input_kpl_out_of_range_records_total", Counter, Count, by_shard: true,
        "User records of aggregates that were dropped because their hash key belongs to another shard.";
    BEHIND = "kinesis_input_behind_latest_seconds", Gauge, Seconds, by_shard: true,
        "The age of the oldest record of the shard that is not acknowledged, or not read. It grows while the shard can't be read.";
    SUBSCRIBED = "kinesis_input_subscriptions_total", Counter, Count, by_shard: true,
        "Subscriptions that were opened. About one in five minutes is healthy.";
    POLLS = "kinesis_input_polls_total", Counter, Count, by_shard: true,
        "Calls of GetRecords that were answered. At most five in a second are possible, over all that poll the shard.";
    FAULTS = "kinesis_input_faults_total", Counter, Count, by_shard: true,
        "Subscriptions that failed to open or broke, and polls that failed, by `code`. The ordinary end of a subscription after five minutes is not one.";
    CLOSED_FOR_BACKPRESSURE = "kinesis_input_closed_for_backpressure_total", Counter, Count, by_shard: true,
        "Subscriptions that were closed because nothing could be delivered for 30 s: the output is slow.";
    EXPIRED = "kinesis_input_expired_checkpoints_total", Counter, Count, by_shard: true,
        "Checkpoints that were older than the stream's retention: records were lost before they could be read.";
    ENDED = "kinesis_input_ended_shards_total", Counter, Count, by_shard: true,
        "Shards that were read to their end, acknowledged and stored.";
    LAG = "kinesis_input_lag_seconds", Gauge, Seconds, by_shard: false,
        "The greatest lag of all shards of all streams that this worker reads, or that no worker reads.";
    DEGRADED = "kinesis_input_degraded_parts", Gauge, Count, by_shard: false,
        "Parts of the input that can't be read, delivered or stored at the moment; the log says which, and why.";
    PANICS = "kinesis_input_panics_total", Counter, Count, by_shard: false,
        "Background tasks that panicked, by `task`. Each is a bug: please report it.";
    RECREATED = "kinesis_input_recreated_streams_total", Counter, Count, by_shard: false,
        "Streams that were found to have been deleted and recreated.";
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
        "Failed attempts to store checkpoints; they are retried.";
    CLAIMED = "kinesis_input_claimed_shards_total", Counter, Count, by_shard: false,
        "Shards that this worker claimed, by `how`: free, handed_over, taken_over, forced, stolen.";
    LOST = "kinesis_input_lost_leases_total", Counter, Count, by_shard: false,
        "Leases that other workers took without a request.";
    RELEASED = "kinesis_input_released_shards_total", Counter, Count, by_shard: false,
        "Shards that were released before their end: handed over to other workers, or because their lease could not be renewed.";
    WORKERS = "kinesis_input_workers", Gauge, Count, by_shard: false,
        "Live workers that share the table, including this one.";
    LEASES_VALID = "kinesis_input_leases_valid", Gauge, Count, by_shard: false,
        "1 while the leases of this worker are valid, 0 while they have expired and nothing is read.";
    HEARTBEAT_FAILED = "kinesis_input_heartbeat_failures_total", Counter, Count, by_shard: false,
        "Heartbeats that failed. The leases expire when none succeeds for `lease_period`.";
    TABLE_FAILED = "kinesis_input_lease_table_failures_total", Counter, Count, by_shard: false,
        "Failed attempts to read the lease table, or to claim or request a shard.";
}

/// Describes the metrics to an installed recorder.
pub(crate) fn describe_metrics() {
    for metric in METRICS {
        match metric.measure {
            Measure::Counter => describe_counter!(metric.name, metric.unit, metric.help),
            Measure::Gauge => describe_gauge!(metric.name, metric.unit, metric.help),
        }
    }
}

/// A wait at connect. Its reason is logged after some seconds, and then every minute.
#[derive(Debug)]
pub(crate) struct Waiting {
    since: Instant,
    next: Instant,
}

/// A wait that is shorter than this is not logged.
const WAITS_QUIETLY: Duration = Duration::from_secs(4);

impl Waiting {
    pub(crate) fn new() -> Self {
        let since = Instant::now();
        Self { since, next: since + WAITS_QUIETLY }
    }

    /// How long the wait has lasted.
    pub(crate) fn lasts(&self) -> Duration {
        self.since.elapsed()
    }

    /// Logs the reason of the wait, if that is due.
    pub(crate) fn log(&mut self, what: &str, name: &str, state: &str) {
        let now = Instant::now();
        if now >= self.next {
            self.next = now + LOG_EVERY;
            tracing::info!(
                what,
                name,
                state,
                for_seconds = self.lasts().as_secs(),
                "waiting before anything can be read"
            );
        }
    }
}

/// The names of the inputs of this process, so that the gauges of each have a separate label.
static INPUTS: Mutex<BTreeSet<String>> = Mutex::new(BTreeSet::new());

/// The gauges of one input, and the log lines that it writes at most once a minute.
#[derive(Debug)]
pub(crate) struct InputMeter {
    input: String,
    store_failed: RateLimited,
    table_failed: RateLimited,
    listing_failed: RateLimited,
    reading: AtomicU64,
    workers: AtomicU64,
    /// The validity of the leases: 0 or 1; 2 where there are no leases to renew.
    leases_valid: AtomicU64,
    /// What changed lately, for reports.
    pub(crate) changes: Changes,
}

impl Drop for InputMeter {
    fn drop(&mut self) {
        lock(&INPUTS).remove(&self.input);
    }
}

impl InputMeter {
    /// Creates the meter of an input that reads `target`. A second input of the same name in the process gets a
    /// number.
    pub(crate) fn new(target: &str) -> Self {
        let mut inputs = lock(&INPUTS);
        let mut input = target.to_owned();
        let mut number = 1;
        while !inputs.insert(input.clone()) {
            number += 1;
            input = format!("{target}#{number}");
        }
        Self {
            input,
            store_failed: RateLimited::new(),
            table_failed: RateLimited::new(),
            listing_failed: RateLimited::new(),
            reading: AtomicU64::new(0),
            workers: AtomicU64::new(0),
            leases_valid: AtomicU64::new(2),
            changes: Changes::default(),
        }
    }

    /// Whether the leases are valid, and how many workers share the table; `None` where there are no leases to renew.
    pub(crate) fn leases(&self) -> Option<(bool, u64)> {
        let leases_valid = self.leases_valid.load(Ordering::Relaxed);
        (leases_valid < 2).then(|| (leases_valid == 1, self.workers.load(Ordering::Relaxed)))
    }

    fn set(&self, name: &'static str, value: f64) {
        gauge!(name, "input" => self.input.clone()).set(value);
    }

    /// Sets all gauges except those of shards. Called every second, so that a recorder may forget gauges that are not
    /// set any more.
    pub(crate) fn report(&self, pool: &Pool, lag: Duration, degraded: usize) {
        let (records, bytes) = (pool.records(), pool.bytes());
        self.set(PENDING_RECORDS, records.used as f64);
        self.set(PENDING_RECORDS_PEAK, records.peak as f64);
        self.set(PENDING_BYTES, bytes.used as f64);
        self.set(PENDING_BYTES_PEAK, bytes.peak as f64);
        self.set(POOL_WAITING, (records.waiting + bytes.waiting) as f64);
        self.set(LAG, lag.as_secs_f64());
        self.set(DEGRADED, degraded as f64);
        self.set(READING, self.reading.load(Ordering::Relaxed) as f64);
        let leases_valid = self.leases_valid.load(Ordering::Relaxed);
        if leases_valid < 2 {
            self.set(LEASES_VALID, leases_valid as f64);
            self.set(WORKERS, self.workers.load(Ordering::Relaxed) as f64);
        }
    }

    /// Sets the lag of one shard.
    pub(crate) fn lag(&self, names: &ShardNames, lag: Duration) {
        let mut labels = shard_labels(names);
        labels.push(Label::new("input", self.input.clone()));
        gauge!(BEHIND, labels).set(lag.as_secs_f64());
    }

    pub(crate) fn reading_shards(&self, count: usize) {
        self.reading.store(count as u64, Ordering::Relaxed);
        self.set(READING, count as f64);
    }

    pub(crate) fn workers(&self, alive: usize) {
        self.workers.store(alive as u64, Ordering::Relaxed);
        self.set(WORKERS, alive as f64);
    }

    pub(crate) fn leases_valid(&self) {
        self.leases_valid.store(1, Ordering::Relaxed);
        self.set(LEASES_VALID, 1.0);
    }

    pub(crate) fn leases_expired(&self, lease_period: Duration) {
        self.leases_valid.store(0, Ordering::Relaxed);
        self.set(LEASES_VALID, 0.0);
        self.changes.note(ChangeKind::LeasesExpired, None, None, None);
        tracing::warn!(
            ?lease_period,
            "the leases have expired; stopped reading, because other workers may read the shards by now"
        );
    }

    pub(crate) fn leases_recovered(&self) {
        self.leases_valid();
        self.changes.note(ChangeKind::LeasesRenewed, None, None, None);
        tracing::warn!("the leases are valid again; claiming free shards");
    }

    pub(crate) fn store_failed(&self, error: &dyn Display) {
        counter!(STORE_FAILED).increment(1);
        if self.store_failed.is_due(Instant::now()) {
            tracing::warn!(%error, "could not store checkpoints; retrying");
        } else {
            tracing::debug!(%error, "could not store checkpoints; retrying");
        }
    }

    pub(crate) fn table_failed(&self, error: &dyn Display) {
        counter!(TABLE_FAILED).increment(1);
        if self.table_failed.is_due(Instant::now()) {
            tracing::warn!(%error, "could not share shards with other workers; retrying");
        } else {
            tracing::debug!(%error, "could not share shards with other workers; retrying");
        }
    }

    pub(crate) fn listing_failed(&self, stream: &Stream, fault: &Fault) {
        if self.listing_failed.is_due(Instant::now()) {
            tracing::warn!(%stream, %fault, "could not list the shards; retrying");
        } else {
            tracing::debug!(%stream, %fault, "could not list the shards; retrying");
        }
    }

    pub(crate) fn claimed(&self, stream: &Stream, shard: &ShardId, how: Claimed, from: Option<&WorkerId>) {
        let label = match how {
            Claimed::Free => "free",
            Claimed::HandedOver => "handed_over",
            Claimed::TakenOver => "taken_over",
            Claimed::Forced => "forced",
            Claimed::Stolen => "stolen",
        };
        let kind = match how {
            Claimed::Free | Claimed::HandedOver => ChangeKind::Claimed,
            Claimed::TakenOver | Claimed::Forced | Claimed::Stolen => ChangeKind::TookOver,
        };
        self.changes.of_shard(kind, stream, shard, from.map(ToString::to_string));
        counter!(CLAIMED, "how" => label).increment(1);
        let from = from.map_or("nobody", WorkerId::as_str);
        match how {
            Claimed::Free | Claimed::HandedOver => {
                tracing::debug!(%stream, %shard, how = label, from, "claimed the shard");
            }
            _ => tracing::info!(%stream, %shard, how = label, from, "took the shard over"),
        }
    }

    pub(crate) fn released(&self, stream: &Stream, shard: &ShardId, to: Option<&WorkerId>) {
        self.changes.of_shard(ChangeKind::Released, stream, shard, to.map(ToString::to_string));
        counter!(RELEASED).increment(1);
        let to = to.map_or("nobody", WorkerId::as_str);
        tracing::debug!(%stream, %shard, to, "released the shard");
    }

    pub(crate) fn lease_lost(&self, stream: &Stream, shard: &ShardId, holder: &str) {
        self.changes.of_shard(ChangeKind::Lost, stream, shard, Some(holder.to_owned()));
        counter!(LOST).increment(1);
        tracing::warn!(%stream, %shard, holder, "lost the lease; stopped reading the shard");
    }

    /// Notes that a shard was read to its end.
    pub(crate) fn shard_ended(&self, names: &ShardNames) {
        self.changes.of_shard(ChangeKind::Ended, &names.stream, &names.shard, None);
    }

    /// Logs that a part has been degraded for this long.
    pub(crate) fn degraded(&self, part: &Part, reason: &str, lasts: Duration) {
        if let Part::Shard(stream, shard, Aspect::Reading) = part {
            let for_seconds = lasts.as_secs();
            tracing::warn!(%stream, %shard, fault = reason, for_seconds, "the shard can't be read; retrying");
            return;
        }
        tracing::warn!(
            input = self.input,
            stream = part.stream().map(display),
            shard = part.shard().map(display),
            reason,
            for_seconds = lasts.as_secs(),
            "a part of the input is not read, delivered or stored"
        );
    }

    /// Logs that a part that was logged as degraded has recovered, after this long.
    pub(crate) fn recovered(&self, part: &Part, lasted: Duration) {
        if *part != Part::Leases {
            self.changes.note(ChangeKind::Recovered, part.stream().cloned(), part.shard().cloned(), None);
        }
        tracing::info!(
            input = self.input,
            stream = part.stream().map(display),
            shard = part.shard().map(display),
            after_seconds = lasted.as_secs(),
            "a part of the input recovered"
        );
    }
}

/// The metrics of one shard. They are looked up once, because the lookup is expensive.
///
/// The meter holds every counter that it has counted with until it is dropped, so that a recorder can tell the counters
/// of the shards that are read here from those of shards that are gone.
#[derive(Debug)]
pub(crate) struct ShardMeter {
    names: Arc<ShardNames>,
    read_records: Counted,
    read_bytes: Counted,
    delivered: Counted,
    acked: Counted,
    nacked: Counted,
    subscribed: Counter,
    polled: Counter,
    /// The counters that most shards never need, by their name and their `code`.
    seldom: Mutex<BTreeMap<(&'static str, String), Counter>>,
    /// Whether an aggregate that contradicts itself has been logged, and user records that were dropped.
    logged_malformed: AtomicBool,
    logged_out_of_range: AtomicBool,
    /// When a nack with a reason was logged last.
    logged_nacked: RateLimited,
    unread: Unread,
    /// The last subscription or poll that failed, for reports.
    last_fault: Mutex<Option<(Instant, String)>>,
}

/// A counter whose total can be read.
#[derive(Debug)]
struct Counted {
    counter: Counter,
    total: AtomicU64,
}

impl Counted {
    fn new(counter: Counter) -> Self {
        Self { counter, total: AtomicU64::new(0) }
    }

    fn increment(&self, value: u64) {
        self.counter.increment(value);
        self.total.fetch_add(value, Ordering::Relaxed);
    }

    fn total(&self) -> u64 {
        self.total.load(Ordering::Relaxed)
    }
}

/// How far the reader is behind the tip of the shard.
#[derive(Debug)]
struct Unread {
    /// When reading began.
    start: Instant,
    /// The last lag that the service reported, in milliseconds.
    behind: AtomicI64,
    /// When the service reported it, in milliseconds after `start`.
    said_at: AtomicU64,
}

/// An idle shard sends an event about every five seconds, and a subscription that is silent for 35 s is replaced. If
/// nothing arrived for longer than this, the records that were written to the shard since then are not read.
const SILENT_AFTER: Duration = Duration::from_secs(40);

impl ShardMeter {
    pub(crate) fn new(names: &Arc<ShardNames>) -> Self {
        let of = |name| counter!(name, shard_labels(names));
        Self {
            names: Arc::clone(names),
            read_records: Counted::new(of(READ_RECORDS)),
            read_bytes: Counted::new(of(READ_BYTES)),
            delivered: Counted::new(of(DELIVERED)),
            acked: Counted::new(of(ACKED)),
            nacked: Counted::new(of(NACKED)),
            subscribed: of(SUBSCRIBED),
            polled: of(POLLS),
            seldom: Mutex::default(),
            logged_malformed: AtomicBool::new(false),
            logged_out_of_range: AtomicBool::new(false),
            logged_nacked: RateLimited::new(),
            unread: Unread { start: Instant::now(), behind: AtomicI64::new(0), said_at: AtomicU64::new(0) },
            last_fault: Mutex::default(),
        }
    }

    /// Reports what was counted of the shard, and its last fault.
    pub(crate) fn report(&self, now: Instant) -> ShardReport {
        let last_fault = lock(&self.last_fault).clone();
        // What came back is read first, so that the difference is never negative.
        let (acked, nacked) = (self.acked.total(), self.nacked.total());
        ShardReport {
            held_for: now.saturating_duration_since(self.unread.start),
            read_records: self.read_records.total(),
            read_bytes: self.read_bytes.total(),
            acked_records: acked,
            nacked_records: nacked,
            in_flight_records: self.delivered.total().saturating_sub(acked + nacked),
            last_error: last_fault.map(|(at, fault)| (fault, now.saturating_duration_since(at))),
            ..ShardReport::new(&self.names)
        }
    }

    fn count(&self, name: &'static str, value: usize) {
        self.count_by_code(name, "", value);
    }

    fn count_by_code(&self, name: &'static str, code: &str, value: usize) {
        let mut seldom = lock(&self.seldom);
        let counter = seldom.entry((name, code.to_owned())).or_insert_with(|| {
            let code = Some(code).filter(|code| !code.is_empty()).map(|code| Label::new("code", code.to_owned()));
            counter!(name, shard_labels(&self.names).into_iter().chain(code).collect::<Vec<_>>())
        });
        counter.increment(value as u64);
    }

    /// How long ago the oldest unread record arrived, as far as can be told.
    pub(crate) fn unread(&self, now: Instant) -> Duration {
        let behind = Duration::from_millis(self.unread.behind.load(Ordering::Relaxed).max(0).unsigned_abs());
        let said_at = self.unread.start + Duration::from_millis(self.unread.said_at.load(Ordering::Relaxed));
        let since = now.saturating_duration_since(said_at);
        if behind.is_zero() && since < SILENT_AFTER { Duration::ZERO } else { behind + since }
    }

    pub(crate) fn read(&self, records: usize, bytes: usize) {
        self.read_records.increment(records as u64);
        self.read_bytes.increment(bytes as u64);
    }

    /// Stores the service's report of how far the reader is behind the tip of the shard.
    pub(crate) fn behind(&self, millis: i64) {
        self.unread.behind.store(millis, Ordering::Relaxed);
        self.unread.said_at.store(self.unread.start.elapsed().as_millis() as u64, Ordering::Relaxed);
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

    /// Counts nacked records that are dropped, and logs which they are, after how many nacks, and the reason that the host
    /// gave.
    pub(crate) fn dropped(
        &self,
        records: usize,
        ends: Option<(Record<'_>, Record<'_>)>,
        nacks: u32,
        reason: Option<&Reason>,
    ) {
        self.count(DROPPED, records);
        let ShardNames { stream, shard } = &*self.names;
        let (first, last) = ends.unzip();
        tracing::warn!(
            %stream, %shard, records, nacks,
            sequence_number = first.as_ref().map(|record| display(record.sequence())),
            sub_sequence_number = first.as_ref().and_then(Record::sub_sequence_number),
            last_sequence_number = last.as_ref().filter(|_| records > 1).map(|record| display(record.sequence())),
            reason = reason.map(display),
            "dropped records that the output nacked"
        );
    }

    /// Logs that nacked records will be delivered again. A host that gives a reason wants an operator to see it.
    pub(crate) fn redelivers(&self, records: usize, reason: Option<&Reason>) {
        let ShardNames { stream, shard } = &*self.names;
        if let Some(reason) = reason
            && self.logged_nacked.is_due(Instant::now())
        {
            tracing::warn!(%stream, %shard, records, %reason, "the output nacked records; delivering them again");
        } else {
            tracing::debug!(
                %stream, %shard, records, reason = reason.map(display),
                "the output nacked records; delivering them again"
            );
        }
    }

    pub(crate) fn skipped(&self, records: usize) {
        self.count(SKIPPED, records);
    }

    /// Counts aggregates, and logs the first one that contradicts itself.
    pub(crate) fn aggregated(&self, found: &Found) {
        self.count(AGGREGATED, found.aggregates);
        let Some(reason) = found.reason else { return };
        self.count(MALFORMED_AGGREGATES, found.malformed);
        if !self.logged_malformed.swap(true, Ordering::Relaxed) {
            let ShardNames { stream, shard } = &*self.names;
            tracing::warn!(%stream, %shard, reason, "an aggregate contradicts itself; delivered as it is stored");
        }
    }

    /// Counts user records of aggregates that were dropped because they belong to another shard, and logs the first.
    pub(crate) fn out_of_range(&self, records: usize) {
        self.count(OUT_OF_RANGE, records);
        if !self.logged_out_of_range.swap(true, Ordering::Relaxed) {
            let ShardNames { stream, shard } = &*self.names;
            tracing::warn!(
                %stream, %shard,
                "dropped user records of an aggregate that belong to another shard; the KPL sends them again, other \
                 producers do not: see kpl.out_of_range"
            );
        }
    }

    pub(crate) fn subscribed(&self) {
        self.subscribed.increment(1);
        let ShardNames { stream, shard } = &*self.names;
        tracing::debug!(%stream, %shard, "subscribed");
    }

    /// Counts a call of GetRecords that was answered.
    pub(crate) fn polled(&self) {
        self.polled.increment(1);
    }

    /// Counts a subscription or a poll that failed; `wait` is the time until the next retry.
    pub(crate) fn fault(&self, fault: &Fault, tries: u32, wait: Duration) {
        let ShardNames { stream, shard } = &*self.names;
        self.count_by_code(FAULTS, &fault.code, 1);
        *lock(&self.last_fault) = Some((Instant::now(), fault.to_string()));
        // One broken connection is normal. The health reports a shard that does not recover.
        tracing::debug!(%stream, %shard, %fault, tries, ?wait, "could not read the shard; trying again");
    }

    pub(crate) fn closed_for_backpressure(&self) {
        self.count(CLOSED_FOR_BACKPRESSURE, 1);
        let ShardNames { stream, shard } = &*self.names;
        tracing::debug!(%stream, %shard, "closed the subscription for backpressure");
    }

    pub(crate) fn unread_shard_end(&self, why: &str) {
        let ShardNames { stream, shard } = &*self.names;
        tracing::debug!(%stream, %shard, why, "not an end of the shard; reading on");
    }

    pub(crate) fn expired(&self, from: &str) {
        self.count(EXPIRED, 1);
        let ShardNames { stream, shard } = &*self.names;
        tracing::error!(
            %stream, %shard, from,
            "the checkpoint is older than the stream's retention, so records were lost; reading from the oldest record"
        );
    }

    pub(crate) fn vanished(&self) {
        self.count(EXPIRED, 1);
        let ShardNames { stream, shard } = &*self.names;
        tracing::error!(%stream, %shard, "the shard is gone from the stream before it was read to its end");
    }

    pub(crate) fn ended(&self, children: &[ShardId]) {
        self.count(ENDED, 1);
        let ShardNames { stream, shard } = &*self.names;
        tracing::info!(%stream, %shard, ?children, "read the shard to its end");
    }
}

fn shard_labels(names: &ShardNames) -> Vec<Label> {
    vec![Label::new("stream", names.stream.name().to_owned()), Label::new("shard", names.shard.as_str().to_owned())]
}

/// Logs that shards wait for space, in the pool or under a limit of their own, and that none of their records were
/// acknowledged for this long.
pub(crate) fn stalled(pool: &Pool, stream: &Stream, shard: &ShardId, shards: usize, since: Duration) {
    let (records, bytes) = (pool.records(), pool.bytes());
    tracing::warn!(
        %stream,
        %shard,
        stalled_shards = shards,
        pending_records = records.used,
        max_pending_records = records.capacity,
        pending_bytes = bytes.used,
        max_pending_bytes = bytes.capacity,
        waiting = records.waiting + bytes.waiting,
        for_seconds = since.as_secs(),
        "reading has stalled: the pending limit is reached, and the output acknowledges nothing"
    );
}

/// Logs that a shard waited for nothing but `checkpoint_limit` for most of a minute.
pub(crate) fn held_by_limit(stream: &Stream, shard: &ShardId, checkpoint_limit: usize) {
    tracing::warn!(
        %stream,
        %shard,
        checkpoint_limit,
        "checkpoint_limit holds the shard up: the output asks for more records before it acknowledges those it has"
    );
}

/// Logs that a stream is read from now on, with a consumer or, without one, by polling.
pub(crate) fn connected(stream: &Stream, shards: usize, consumer: Option<&str>) {
    let by = if consumer.is_some() { "enhanced fan-out" } else { "polling" };
    tracing::info!(%stream, shards, by, consumer, "reading the stream");
}

pub(crate) fn no_cbor(stream: &Stream) {
    tracing::info!(%stream, "the endpoint does not answer in CBOR; polling in JSON from now on");
}

/// Logs how an input was closed.
pub(crate) fn closed(outstanding: bool, stored: Result<(), &dyn Display>) {
    if let Err(error) = stored {
        tracing::error!(%error, "closed, but the last checkpoints could not be stored; the records after the stored ones will be read again");
    } else if outstanding {
        tracing::warn!("closed before everything was acknowledged; the rest will be read again");
    } else {
        tracing::info!("closed; everything that was delivered is stored");
    }
}

pub(crate) fn stored(checkpoints: usize) {
    counter!(STORED).increment(checkpoints as u64);
}

/// Logs that a lease could not be released yet.
pub(crate) fn release_failed(stream: &Stream, shard: &ShardId, error: &dyn Display) {
    counter!(STORE_FAILED).increment(1);
    tracing::debug!(%stream, %shard, %error, "could not release the lease; retrying");
}

/// The way a shard was claimed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Claimed {
    /// No worker held the shard.
    Free,
    /// The shard was handed over, or was held by this worker before a restart.
    HandedOver,
    /// The lease had expired, because its owner had not renewed it.
    TakenOver,
    /// The shard was requested, and not handed over in time.
    Forced,
    /// Another program held too many shards.
    Stolen,
}

pub(crate) fn requested(stream: &Stream, shard: &ShardId, holder: &WorkerId) {
    tracing::debug!(%stream, %shard, %holder, "requested the shard");
}

pub(crate) fn handing_over(stream: &Stream, shard: &ShardId, requester: &WorkerId) {
    tracing::debug!(%stream, %shard, %requester, "handing the shard over");
}

pub(crate) fn lease_expired(stream: &Stream, shard: &ShardId) {
    tracing::debug!(%stream, %shard, "stopped reading the shard: its lease has expired");
}

pub(crate) fn heartbeat_failed(error: &dyn Display, tries: u32) {
    counter!(HEARTBEAT_FAILED).increment(1);
    // One failure is normal; repeated failures are logged, but not each one.
    if tries == 3 || tries.is_multiple_of(20) {
        tracing::warn!(%error, tries, "could not renew the leases; retrying");
    } else {
        tracing::debug!(%error, tries, "could not renew the leases; retrying");
    }
}

pub(crate) fn table_made(table: &str) {
    tracing::info!(table, "made the lease table");
}

pub(crate) fn rows_moved(stream: &Stream, rows: usize, from: &str, to: &str) {
    tracing::info!(%stream, rows, from, to, "moved leases to the name under which the stream's leases are kept");
}

/// Logs that a shard was to enter a phase that lies behind it. This is a defect of the input, and nothing follows from it.
pub(crate) fn illegal_transition(stream: &Stream, shard: &ShardId, illegal: &dyn Display) {
    tracing::error!(%stream, %shard, %illegal, "a shard was asked to go back to an earlier phase; ignored");
}

/// Logs that the connection itself failed; its subscriptions report their own faults.
pub(crate) fn connection_ended(error: &dyn Display) {
    tracing::debug!(%error, "a connection of subscriptions ended");
}

pub(crate) fn held(stream: &Stream, shard: &ShardId, holder: &str) {
    tracing::debug!(%stream, %shard, holder, "the shard is read by another worker");
}

pub(crate) fn registering(stream: &Stream, consumer: &str) {
    tracing::info!(%stream, consumer, "registering the consumer");
}

pub(crate) fn consumer_changed(stream: &Stream, arn: &str) {
    tracing::warn!(%stream, arn, "the consumer was recreated; continuing with its new ARN");
}

/// Logs that the consumer of a recreated stream is not available yet; its shards retry.
pub(crate) fn consumer_failed(stream: &Stream, error: &dyn Display) {
    tracing::debug!(%stream, %error, "could not find or register the consumer; retrying");
}

pub(crate) fn deregister_failed(stream: &Stream, fault: &Fault) {
    tracing::warn!(%stream, %fault, "could not deregister the consumer");
}

/// Counts a shard with a stored position that left the stream while no worker read it.
pub(crate) fn vanished_before_connect(stream: &Stream, shard: &ShardId) {
    ShardMeter::new(&Arc::new(ShardNames { stream: stream.clone(), shard: shard.clone() })).vanished();
}

/// Logs that a stream has the name and ARN of a stream that was read before.
pub(crate) fn recreated(before: Option<i64>, stream: &Stream, rows: usize) {
    counter!(RECREATED).increment(1);
    let created = |millis: Option<i64>| {
        let time = millis.and_then(|millis| jiff::Timestamp::from_millisecond(millis).ok());
        time.map_or_else(|| "unknown".to_owned(), |time| time.to_string())
    };
    tracing::warn!(
        %stream,
        created_before = created(before),
        created_now = created(stream.created()),
        positions = rows,
        "the stream was deleted and recreated; its former checkpoints are set aside, and it is read from the start that is \
         configured for a new stream"
    );
}

/// Logs that a task panicked, or ended although it should have continued.
pub(crate) fn task_ended(task: &'static str, cause: &str, restarted: bool) {
    counter!(PANICS, "task" => task).increment(1);
    if restarted {
        tracing::error!(task, cause, "a background task ended unexpectedly and was restarted; please report this");
    } else {
        tracing::error!(task, cause, "a background task ended unexpectedly, so the input stops; please report this");
    }
}

/// Logs that a one-time task panicked.
pub(crate) fn gave_up(task: &'static str, cause: &str) {
    counter!(PANICS, "task" => task).increment(1);
    tracing::error!(task, cause, "a part of the input panicked; please report this");
}

pub(crate) fn resumed_at(names: &ShardNames, start: &StartPosition) {
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
