//! Which parts of the input can't read, deliver or store at the moment, since when, and why?
//!
//! Each part of the input reports the reason that keeps it from its work, and its recovery. A condition that needs a
//! person shows at once; a condition that usually passes by itself shows when it has lasted for [`GRACE`]. The
//! status, the metrics and the log all come from this file, so they agree.

use std::collections::{BTreeMap, HashMap};
use std::fmt::{self, Display};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Weak};
use std::time::{Duration, UNIX_EPOCH};

use aws_smithy_async::time::SharedTimeSource;
use tokio::time::Instant;

use crate::model::{ShardId, ShardNames, Stream};
use crate::pool::Pool;
use crate::retry::Fault;
use crate::sync::{Mutex, lock};
use crate::telemetry::report::{ChangeKind, ConditionReport, ShardReport};
use crate::telemetry::{self, InputMeter};

/// A condition that usually passes by itself is shown only if it lasts this long.
const GRACE: Duration = Duration::from_secs(30);
/// A shard has stalled if it waits for space and none of its records were acknowledged for this long.
const STALLED_AFTER: Duration = Duration::from_secs(25);
/// How often a lasting condition is logged again: a stall of delivery, and every other condition.
const STALL_LOGGED_EVERY: Duration = Duration::from_mins(1);
const LOGGED_EVERY: Duration = Duration::from_mins(5);
/// A shard is held by `checkpoint_limit` if that is what it waits for in this many of a number of looks, one a second.
const HELD_LOOKS: u32 = 45;
const LOOKS: u32 = 60;

/// A part of the input that can be degraded.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Part {
    /// The leases of all shards.
    Leases,
    /// The storing of positions.
    Checkpoints,
    /// The reading of the lease table.
    LeaseTable,
    /// The listing of a stream, or the stream itself.
    Stream(Stream),
    /// One aspect of a shard.
    Shard(Stream, ShardId, Aspect),
}

/// An aspect of a shard that can be degraded.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Aspect {
    /// Its records can't be read.
    Reading,
    /// Its records can't be delivered, because none of them are acknowledged.
    Delivery,
    /// Its row in the store can't be read.
    Row,
    /// Its shard end can't be stored, so its children wait.
    End,
    /// Another reader uses the same consumer.
    Consumer,
}

#[derive(Debug)]
struct Condition {
    since: Instant,
    reason: String,
    /// The time from which the condition is shown.
    shown_from: Instant,
    logged: Option<Instant>,
    /// When a subscription was granted after the last failure. If no failure follows it, the part has recovered.
    granted: Option<Instant>,
}

/// A shard that waits for space, with its number of acknowledged records when that last changed.
#[derive(Debug)]
struct Waiting {
    done: u64,
    moved_at: Instant,
}

/// A shard that is being read, with the parts that its health needs.
pub(crate) trait ObservedShard: fmt::Debug + Send + Sync {
    /// Returns the names of the shard.
    fn names(&self) -> &ShardNames;

    /// Returns how many of its records have been acknowledged without a gap.
    fn acked_through(&self) -> u64;

    /// Returns whether a record that was read waits for `checkpoint_limit`.
    fn is_held_by_limit(&self) -> bool;

    /// Returns whether its lease is still held by this worker.
    fn is_live(&self) -> bool;

    /// Returns the age of its oldest record that is not acknowledged, or not read. `wall` is the time of day in
    /// milliseconds since 1970, by the clock of arrival times.
    fn lag(&self, now: Instant, wall: i64) -> Duration;

    /// Reports on the shard, with its lag.
    fn report(&self, now: Instant, wall: i64) -> ShardReport;
}

/// The health of one input.
#[derive(Debug)]
pub(crate) struct Health {
    /// The gauges of the input, and its log lines that are limited in rate.
    pub(crate) meter: InputMeter,
    time: SharedTimeSource,
    /// The number of conditions, so that healthy shards, which report at every event, take no lock.
    count: AtomicUsize,
    conditions: Mutex<BTreeMap<Part, Condition>>,
    waiting: Mutex<BTreeMap<(Stream, ShardId), Waiting>>,
    /// The shards that are being read; each is added when its reading begins.
    reading: Mutex<Vec<Weak<dyn ObservedShard>>>,
    /// The time since which there has been a shard that no worker reads.
    unread_since: Mutex<Option<Instant>>,
    /// What `checkpoint_limit` holds up; `None` once that was logged.
    limit: Mutex<Option<LimitWatch>>,
}

/// The shards that wait for `checkpoint_limit`, over some looks.
#[derive(Debug, Default)]
struct LimitWatch {
    looks: u32,
    /// How often each shard was found waiting, and what was acknowledged of it at the first look.
    held: HashMap<(Stream, ShardId), (u32, u64)>,
}

/// A shard that waits for space. Dropping this value reports that the wait has ended.
#[derive(Debug)]
pub(crate) struct WaitingForSpace<'a> {
    health: &'a Health,
    key: (Stream, ShardId),
}

impl Drop for WaitingForSpace<'_> {
    fn drop(&mut self) {
        lock(&self.health.waiting).remove(&self.key);
        self.health.recovered(&Part::Shard(self.key.0.clone(), self.key.1.clone(), Aspect::Delivery));
    }
}

impl Health {
    /// Creates the health of an input that reads `target`, with this clock.
    pub(crate) fn new(target: &str, time: SharedTimeSource) -> Self {
        Self {
            meter: InputMeter::new(target),
            time,
            count: AtomicUsize::new(0),
            conditions: Mutex::default(),
            waiting: Mutex::default(),
            reading: Mutex::default(),
            unread_since: Mutex::default(),
            limit: Mutex::new(Some(LimitWatch::default())),
        }
    }

    /// Reports that a part is degraded by a condition that only a person can change.
    pub(crate) fn degraded(&self, part: Part, reason: &dyn Display) {
        self.raise(part, reason, Duration::ZERO);
    }

    /// Reports that a part failed and retries.
    pub(crate) fn failing(&self, part: Part, reason: &dyn Display) {
        self.raise(part, reason, GRACE);
    }

    fn raise(&self, part: Part, reason: &dyn Display, grace: Duration) {
        let now = Instant::now();
        let mut conditions = lock(&self.conditions);
        let condition = conditions.entry(part).or_insert_with(|| Condition {
            since: now,
            reason: String::new(),
            shown_from: now + grace,
            logged: None,
            granted: None,
        });
        condition.granted = None;
        condition.reason = reason.to_string();
        condition.shown_from = condition.shown_from.min(now + grace);
        self.count.store(conditions.len(), Ordering::Release);
    }

    /// Reports that a part works again, or that its work is no longer needed.
    pub(crate) fn recovered(&self, part: &Part) {
        if self.count.load(Ordering::Acquire) == 0 {
            return;
        }
        let mut conditions = lock(&self.conditions);
        if let Some(condition) = conditions.remove(part) {
            self.log_recovered(part, &condition);
        }
        self.count.store(conditions.len(), Ordering::Release);
    }

    fn retain(&self, keep: impl Fn(&Part, &Condition) -> bool) {
        let mut conditions = lock(&self.conditions);
        conditions.retain(|part, condition| {
            let keeps = keep(part, condition);
            if !keeps {
                self.log_recovered(part, condition);
            }
            keeps
        });
        self.count.store(conditions.len(), Ordering::Release);
    }

    /// Logs the recovery, unless the condition was never logged as degraded.
    fn log_recovered(&self, part: &Part, condition: &Condition) {
        if condition.logged.is_some() {
            self.meter.recovered(part, condition.since.elapsed());
        }
    }

    /// Reports that the shard can't be read, and that a retry alone does not help.
    pub(crate) fn unreadable(&self, names: &ShardNames, cause: &dyn Display) {
        self.degraded(Part::of(names, Aspect::Reading), cause);
    }

    /// Reports that a subscription failed or broke.
    pub(crate) fn read_failed(&self, names: &ShardNames, cause: &dyn Display) {
        self.failing(Part::of(names, Aspect::Reading), cause);
    }

    /// Reports that another reader reads the shard with the same consumer.
    pub(crate) fn shared_consumer(&self, names: &ShardNames, consumer: &str) {
        let reason = format_args!(
            "its subscription is taken over again and again: another fleet reads with the consumer {consumer}; give each fleet \
             its own enhanced_fan_out.consumer_name"
        );
        self.degraded(Part::of(names, Aspect::Consumer), &reason);
    }

    /// Reports that no other reader reads the shard with the same consumer any more.
    pub(crate) fn own_consumer(&self, names: &ShardNames) {
        self.recovered(&Part::of(names, Aspect::Consumer));
    }

    /// Reports that a subscription of the shard was granted. Its events will show whether the shard can be read.
    pub(crate) fn granted(&self, names: &ShardNames) {
        if self.count.load(Ordering::Acquire) > 0
            && let Some(condition) = lock(&self.conditions).get_mut(&Part::of(names, Aspect::Reading))
        {
            condition.granted = Some(Instant::now());
        }
    }

    /// Reports that the shard is being read.
    pub(crate) fn reads(&self, names: &ShardNames) {
        if self.count.load(Ordering::Acquire) > 0 {
            self.recovered(&Part::of(names, Aspect::Reading));
        }
    }

    /// Removes the conditions of a shard that has ended or is not held by this worker any more: no work is left for
    /// it here.
    pub(crate) fn forget(&self, names: &ShardNames) {
        if self.count.load(Ordering::Acquire) > 0 {
            self.retain(|part, _| {
                !matches!(part, Part::Shard(stream, shard, aspect)
                    if *stream == names.stream && *shard == names.shard && *aspect != Aspect::Row)
            });
        }
    }

    /// Reports the rows of a stream that can't be read, each with its error. The conditions of all other rows are
    /// removed.
    pub(crate) fn unreadable_rows(&self, stream: &Stream, rows: &BTreeMap<ShardId, String>) {
        if rows.is_empty() && self.count.load(Ordering::Acquire) == 0 {
            return;
        }
        self.retain(|part, _| {
            !matches!(part, Part::Shard(other, shard, Aspect::Row) if other == stream && !rows.contains_key(shard))
        });
        for (shard, what) in rows {
            self.degraded(Part::Shard(stream.clone(), shard.clone(), Aspect::Row), what);
        }
    }

    /// Reports that positions could not be stored.
    pub(crate) fn store_failed(&self, error: &dyn Display) {
        self.meter.store_failed(error);
        self.failing(Part::Checkpoints, &format_args!("checkpoints can't be stored: {error}"));
    }

    /// Reports that positions are stored again.
    pub(crate) fn stored(&self) {
        self.recovered(&Part::Checkpoints);
    }

    /// Reports that the end of a shard could not be stored.
    pub(crate) fn end_failed(&self, names: &ShardNames, error: &dyn Display) {
        self.meter.store_failed(error);
        let part = Part::of(names, Aspect::End);
        self.failing(part, &format_args!("its end can't be stored, so its children wait: {error}"));
    }

    /// Reports that the table could not be read, or that shards could not be claimed or requested.
    pub(crate) fn table_failed(&self, error: &dyn Display) {
        self.meter.table_failed(error);
        self.failing(Part::LeaseTable, &format_args!("the lease table can't be used: {error}"));
    }

    /// Reports that the table was read.
    pub(crate) fn table_read(&self) {
        self.recovered(&Part::LeaseTable);
    }

    /// Reports that the leases have expired.
    pub(crate) fn leases_expired(&self, lease_period: Duration) {
        self.meter.leases_expired(lease_period);
        let reason = format_args!(
            "the leases have expired: they could not be renewed for {lease_period:?}, so no shard is read"
        );
        self.degraded(Part::Leases, &reason);
    }

    /// Reports that the leases are renewed again.
    pub(crate) fn leases_renewed(&self) {
        self.meter.leases_recovered();
        self.recovered(&Part::Leases);
    }

    /// Reports that the shards of a stream could not be listed.
    pub(crate) fn listing_failed(&self, stream: &Stream, fault: &Fault) {
        self.meter.listing_failed(stream, fault);
        self.failing(Part::Stream(stream.clone()), &format_args!("its shards can't be listed: {fault}"));
    }

    /// Reports that the shards of a stream were listed.
    pub(crate) fn listed(&self, stream: &Stream) {
        if self.count.load(Ordering::Acquire) > 0 {
            self.recovered(&Part::Stream(stream.clone()));
        }
    }

    /// Reports that a shard waits for space and can't deliver; the wait ends when the result is dropped.
    pub(crate) fn waits_for_space(&self, names: &ShardNames) -> WaitingForSpace<'_> {
        let key = (names.stream.clone(), names.shard.clone());
        let waiting = Waiting { done: self.acked_through(&key), moved_at: Instant::now() };
        lock(&self.waiting).insert(key.clone(), waiting);
        WaitingForSpace { health: self, key }
    }

    /// The number of acknowledged records of a shard that is being read.
    fn acked_through(&self, (stream, shard): &(Stream, ShardId)) -> u64 {
        let reading = lock(&self.reading);
        let mut live = reading.iter().rev().filter_map(Weak::upgrade);
        let found = live.find(|one| one.names().shard == *shard && one.names().stream == *stream);
        found.map_or(0, |one| one.acked_through())
    }

    /// Adds a shard that is being read. Its lag counts until it is dropped or its lease is lost.
    pub(crate) fn reads_shard(&self, shard: Weak<dyn ObservedShard>) {
        lock(&self.reading).push(shard);
    }

    /// Sets the time since which there has been a shard that no worker reads; `None` if every shard has a worker.
    pub(crate) fn unread_since(&self, since: Option<Instant>) {
        *lock(&self.unread_since) = since;
    }

    /// Brings metrics and log up to date. The input calls this every second.
    pub(crate) fn report(&self, pool: &Pool) {
        let now = Instant::now();
        self.look_for_stalls(now);
        if self.count.load(Ordering::Acquire) > 0 {
            self.retain(|_, condition| condition.granted.is_none_or(|at| now.duration_since(at) < GRACE));
        }
        let lag = self.report_lags(now);
        self.note_degraded(now);
        self.meter.report(pool, lag, lock(&self.conditions).values().filter(|one| one.shown_from <= now).count());
        let mut stalled = Vec::new();
        for (part, condition) in &mut *lock(&self.conditions) {
            let is_stall = matches!(part, Part::Shard(_, _, Aspect::Delivery));
            let every = if is_stall { STALL_LOGGED_EVERY } else { LOGGED_EVERY };
            let is_due = condition.logged.is_none_or(|logged| now.duration_since(logged) >= every);
            if condition.shown_from > now || !is_due {
                continue;
            }
            condition.logged = Some(now);
            // A full pool stalls all shards at once, and is logged as one line.
            if let Part::Shard(stream, shard, Aspect::Delivery) = part {
                stalled.push((stream.clone(), shard.clone(), condition.since));
            } else {
                self.meter.degraded(part, &condition.reason, now.duration_since(condition.since));
            }
        }
        if let Some((stream, shard, since)) = stalled.iter().min_by_key(|(_, _, since)| *since) {
            telemetry::stalled(pool, stream, shard, stalled.len(), now.duration_since(*since) + STALLED_AFTER);
        }
    }

    /// Looks which shards wait for `checkpoint_limit` alone: a host asks for more, and the pool has space. The first that
    /// does for most of a minute is logged, if it moves on; one that does not has stalled. The input calls this every
    /// second.
    pub(crate) fn look_for_limit(&self, checkpoint_limit: usize, is_only_limit: bool) {
        let mut limit = lock(&self.limit);
        // With a limit of 1, messages are meant to come one after the other.
        let Some(watch) = limit.as_mut().filter(|_| checkpoint_limit > 1) else { return };
        watch.looks += 1;
        let reading: Vec<_> =
            if is_only_limit { lock(&self.reading).iter().filter_map(Weak::upgrade).collect() } else { Vec::new() };
        for shard in reading.iter().filter(|shard| shard.is_live() && shard.is_held_by_limit()) {
            let (names, done) = (shard.names(), shard.acked_through());
            let (held, before) = watch.held.entry((names.stream.clone(), names.shard.clone())).or_insert((0, done));
            *held += 1;
            if *held >= HELD_LOOKS && done > *before {
                telemetry::held_by_limit(&names.stream, &names.shard, checkpoint_limit);
                *limit = None;
                return;
            }
        }
        if watch.looks >= LOOKS {
            *watch = LimitWatch::default();
        }
    }

    fn look_for_stalls(&self, now: Instant) {
        let mut stalled = Vec::new();
        for (key, waiting) in &mut *lock(&self.waiting) {
            let done = self.acked_through(key);
            if done != waiting.done {
                (waiting.done, waiting.moved_at) = (done, now);
            }
            let part = Part::Shard(key.0.clone(), key.1.clone(), Aspect::Delivery);
            stalled.push((part, now.duration_since(waiting.moved_at) >= STALLED_AFTER));
        }
        for (part, is_stalled) in stalled {
            if is_stalled {
                self.degraded(part, &"reading has stalled: the output acknowledges none of its records");
            } else {
                self.recovered(&part);
            }
        }
    }

    /// Sets the lag of each shard; returns the greatest, which includes shards that no worker reads.
    fn report_lags(&self, now: Instant) -> Duration {
        let wall = self.wall();
        let mut greatest = Duration::ZERO;
        let mut reading = lock(&self.reading);
        reading.retain(|shard| {
            let Some(shard) = shard.upgrade().filter(|shard| shard.is_live()) else { return false };
            let lag = shard.lag(now, wall);
            greatest = greatest.max(lag);
            self.meter.lag(shard.names(), lag);
            true
        });
        drop(reading);
        greatest.max(self.unread_for(now).unwrap_or_default())
    }

    /// The time of day in milliseconds since 1970.
    fn wall(&self) -> i64 {
        let wall = self.time.now().duration_since(UNIX_EPOCH).unwrap_or_default();
        i64::try_from(wall.as_millis()).unwrap_or(i64::MAX)
    }

    /// How long there has been a shard that no worker reads, or that this worker can't read because its leases have
    /// expired.
    pub(crate) fn unread_for(&self, now: Instant) -> Option<Duration> {
        let unread = *lock(&self.unread_since);
        let expired = lock(&self.conditions).get(&Part::Leases).map(|condition| condition.since);
        let since = unread.into_iter().chain(expired).min()?;
        Some(now.saturating_duration_since(since))
    }

    /// The greatest lag of the shards that this worker reads, or that no worker reads.
    pub(crate) fn lag(&self) -> Duration {
        let (now, wall) = (Instant::now(), self.wall());
        let lags = self.observed().into_iter().map(|shard| shard.lag(now, wall)).max();
        lags.unwrap_or_default().max(self.unread_for(now).unwrap_or_default())
    }

    /// Reports on each shard that is read.
    pub(crate) fn shards(&self, now: Instant) -> Vec<ShardReport> {
        let wall = self.wall();
        self.observed().into_iter().map(|shard| shard.report(now, wall)).collect()
    }

    fn observed(&self) -> Vec<Arc<dyn ObservedShard>> {
        lock(&self.reading).iter().filter_map(Weak::upgrade).filter(|shard| shard.is_live()).collect()
    }

    /// The conditions that are shown, the longest first.
    pub(crate) fn conditions(&self, now: Instant) -> Vec<ConditionReport> {
        let conditions = lock(&self.conditions);
        let mut shown: Vec<_> = conditions.iter().filter(|(_, condition)| condition.shown_from <= now).collect();
        shown.sort_by_key(|(_, condition)| condition.since);
        let shown = shown.into_iter().map(|(part, condition)| ConditionReport {
            stream: part.stream().cloned(),
            shard: part.shard().cloned(),
            reason: condition.reason.clone(),
            lasts: now.saturating_duration_since(condition.since),
        });
        shown.collect()
    }

    /// Notes each condition among the changes when it is shown first.
    fn note_degraded(&self, now: Instant) {
        for (part, condition) in &*lock(&self.conditions) {
            // The leases have changes of their own.
            if condition.shown_from <= now && condition.logged.is_none() && *part != Part::Leases {
                let (stream, shard) = (part.stream().cloned(), part.shard().cloned());
                self.meter.changes.note(ChangeKind::Degraded, stream, shard, Some(condition.reason.clone()));
            }
        }
    }

    /// The reason why the input is degraded, in a sentence.
    pub(crate) fn reason(&self) -> Option<String> {
        if self.count.load(Ordering::Acquire) == 0 {
            return None;
        }
        let now = Instant::now();
        let conditions = lock(&self.conditions);
        let shown: Vec<_> = conditions.iter().filter(|(_, condition)| condition.shown_from <= now).collect();
        let (part, condition) = shown.first()?;
        let first = format!("{part}{}", condition.reason);
        let all_unread = shown.iter().all(|(part, _)| matches!(part, Part::Shard(_, _, Aspect::Reading)));
        Some(match shown.len() {
            1 => first,
            count if all_unread => format!("{count} shards can't be read; {first}"),
            count => format!("{first} (and {} more)", count - 1),
        })
    }
}

impl Part {
    /// An aspect of the shard with these names.
    pub(crate) fn of(names: &ShardNames, aspect: Aspect) -> Self {
        Self::Shard(names.stream.clone(), names.shard.clone(), aspect)
    }

    /// The stream that the part belongs to.
    pub(crate) fn stream(&self) -> Option<&Stream> {
        match self {
            Self::Stream(stream) | Self::Shard(stream, ..) => Some(stream),
            Self::Leases | Self::Checkpoints | Self::LeaseTable => None,
        }
    }

    /// The shard that the part belongs to.
    pub(crate) fn shard(&self) -> Option<&ShardId> {
        if let Self::Shard(_, shard, _) = self { Some(shard) } else { None }
    }
}

/// The prefix of a reason.
impl Display for Part {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Leases | Self::Checkpoints | Self::LeaseTable => Ok(()),
            Self::Stream(stream) => write!(f, "{stream}: "),
            Self::Shard(stream, shard, _) => write!(f, "{stream} {shard}: "),
        }
    }
}

#[cfg(test)]
impl Default for Health {
    fn default() -> Self {
        Self::new("test", SharedTimeSource::new(aws_smithy_async::time::SystemTimeSource::new()))
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::advance;

    use super::*;

    fn names(shard: &str) -> ShardNames {
        ShardNames { stream: Stream::new("orders", "arn:orders"), shard: shard.into() }
    }

    #[test]
    fn reason_lasts_as_long_as_a_shard_can_not_be_read() {
        let health = Health::default();
        assert_eq!(health.reason(), None);
        health.unreadable(&names("a"), &"AccessDeniedException");
        health.unreadable(&names("b"), &"AccessDeniedException");
        assert_eq!(health.reason().as_deref(), Some("2 shards can't be read; orders a: AccessDeniedException"));
        health.reads(&names("a"));
        assert_eq!(health.reason().as_deref(), Some("orders b: AccessDeniedException"));
        health.forget(&names("b"));
        assert_eq!(health.reason(), None);
    }

    #[tokio::test(start_paused = true)]
    async fn passing_fault_is_not_shown_and_lasting_one_is() {
        let health = Health::default();
        health.store_failed(&"the disk is full");
        assert_eq!(health.reason(), None);
        advance(GRACE / 2).await;
        health.store_failed(&"the disk is full");
        advance(GRACE / 2).await;
        assert_eq!(health.reason().as_deref(), Some("checkpoints can't be stored: the disk is full"));
        health.stored();
        assert_eq!(health.reason(), None);
        health.store_failed(&"the disk is full");
        assert_eq!(health.reason(), None, "it counts from the last success");
    }

    #[test]
    fn rows_are_shown_until_they_are_corrected() {
        let health = Health::default();
        let stream = Stream::new("orders", "arn:orders");
        let rows: BTreeMap<ShardId, String> = [("a".into(), "its SequenceNumber is LATEST".to_owned())].into();
        health.unreadable_rows(&stream, &rows);
        health.forget(&names("a"));
        assert_eq!(health.reason().as_deref(), Some("orders a: its SequenceNumber is LATEST"));
        health.unreadable_rows(&stream, &BTreeMap::new());
        assert_eq!(health.reason(), None);
    }
}
