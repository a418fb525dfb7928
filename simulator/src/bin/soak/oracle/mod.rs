//! Which promises does a run have to keep, and does it?
//!
//! The oracle knows every record that was put, sees every row of the table that is written, and is notified of what
//! each host is given and what it acknowledges. It knows nothing of how the input works.
//!
//! This file has its state and its entry points; each promise is checked in a file of its own.

mod balance;
mod book;
mod bounds;
mod checkpoints;
mod duplicates;
mod fencing;
mod file;
mod liveness;
mod manners;
mod order;
mod position;
mod redelivery;
mod release;
mod retention;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::time::Duration;

use kinesis_simulator::kinesis::shard_id;
use kinesis_simulator::{Item, RowWritten, Time, text};

pub(crate) use book::Limits;
use book::{Ack, Book, Heartbeat, Known, Put, Scope};
pub(crate) use position::Position;

/// The kinds of violations.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Broken {
    /// A record is stored as done, and no host acknowledged it; or it expired though it could have been read.
    Lost,
    /// A record came before one that it must follow.
    OutOfOrder,
    /// A record came again that must not.
    Duplicated,
    /// More is in flight than the bounds allow.
    OverBound,
    /// Nothing comes, though it should.
    Stalled,
    /// The table was written without a lease, or a position was set back.
    Unfenced,
    /// Something was done before its time.
    Hasty,
    /// Something is left over after a stop.
    Leaked,
    /// The input failed without a reason.
    Failed,
    /// The workers do not share the shards as they should.
    Unbalanced,
}

/// A promise that was not kept.
#[derive(Debug, Clone)]
pub(crate) struct Violation {
    pub(crate) at: Time,
    pub(crate) broken: Broken,
    pub(crate) what: String,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?} at {}: {}", self.broken, self.at.millis(), self.what)
    }
}

/// The counts for the report.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Counts {
    pub(crate) records: u64,
    pub(crate) deliveries: u64,
    pub(crate) duplicates: u64,
    pub(crate) claims: u64,
    /// Of these, claims of shards that another worker had held.
    pub(crate) moves: u64,
    /// Records that passed their retention before any worker could read them.
    pub(crate) expired: u64,
    /// How often the stream was created.
    pub(crate) streams: u64,
}

/// The limits that the workers are configured with.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Rules {
    pub(crate) oldest: bool,
    pub(crate) retention: Duration,
    /// How long a requester waits for a shard before it takes the shard by force.
    pub(crate) handed_over_within: Duration,
    pub(crate) rebalance: Duration,
    /// The longest lease period of a worker.
    pub(crate) longest_lease: Duration,
    /// Whether the one worker has a checkpoint file.
    pub(crate) file: bool,
}

/// The time that a rebalance and a tick may add.
const SLACK: Duration = Duration::from_millis(200);
/// A worker is healthy when it had no fault for this long: what was under way at its last fault is complete by then.
const HEALTHY: Duration = Duration::from_secs(30);
/// How old the answer may be by which a worker takes a stream for missing.
const NEWS: Duration = Duration::from_secs(30);

/// Checks a run.
#[derive(Debug)]
pub(crate) struct Oracle {
    now: Time,
    scope: Scope,
    rules: Rules,
    /// When the present stream was created: what is older belongs to a former one. `None` while there is no stream.
    created: Option<Time>,
    /// When the stream was last deleted or created.
    changed: Time,
    books: BTreeMap<u32, Book>,
    /// The shards that are not past retention.
    known: BTreeSet<u32>,
    /// When a subscription to each shard was last granted, and which workers have been refused since because that was
    /// only a moment ago.
    grants: BTreeMap<u32, (Time, Vec<String>)>,
    workers: BTreeMap<String, Known>,
    /// Since when no worker and no stream has had a fault; `None` while one has.
    healthy_since: Option<Time>,
    /// The earlier spans without faults, if they were long.
    healthy_before: Vec<(Time, Time)>,
    /// When a shard was last claimed or released.
    last_move: Time,
    pub(crate) counts: Counts,
    pub(crate) violations: Vec<Violation>,
    /// Whether no record may come any more.
    all_done: bool,
}

impl Oracle {
    pub(crate) fn new(rules: Rules) -> Self {
        Self {
            now: Time::default(),
            scope: Scope { oldest: rules.oldest, pinned: None },
            rules,
            created: None,
            changed: Time::default(),
            books: BTreeMap::new(),
            known: BTreeSet::new(),
            grants: BTreeMap::new(),
            workers: BTreeMap::new(),
            healthy_since: None,
            healthy_before: Vec::new(),
            last_move: Time::default(),
            counts: Counts::default(),
            violations: Vec::new(),
            all_done: false,
        }
    }

    pub(crate) fn violate(&mut self, broken: Broken, what: String) {
        let at = self.now;
        // The first violations are informative; a thousand of their consequences are not.
        if self.violations.len() < 50 {
            self.violations.push(Violation { at, broken, what });
        }
    }

    pub(crate) fn advance(&mut self, now: Time) {
        self.now = self.now.max(now);
    }

    /// The stream was deleted or created: nothing of a former one counts any more.
    pub(crate) fn made(&mut self, created: Option<Time>) {
        if self.created == created {
            return;
        }
        self.counts.streams += u64::from(created.is_some());
        (self.created, self.changed) = (created, self.now);
        self.books.clear();
        self.known.clear();
        self.grants.clear();
        self.healthy_before.clear();
    }

    /// Whether there is no stream, or was none some seconds ago.
    pub(crate) fn is_stream_missing(&self) -> bool {
        self.is_stream_young(NEWS)
    }

    /// Whether a worker may still believe that there is no stream: there is none, or was none some seconds ago or
    /// before the worker was paused.
    pub(crate) fn is_stream_missing_to(&self, worker: &str) -> bool {
        let known = self.workers.get(worker).filter(|known| self.now.since(known.last_fault) < NEWS);
        let paused = known.map_or(Duration::ZERO, |known| self.now.since(known.fault_since));
        self.is_stream_young(NEWS + paused)
    }

    /// Whether there is no stream, or it was recreated less than this long ago.
    pub(crate) fn is_stream_young(&self, age: Duration) -> bool {
        self.created.is_none() || self.counts.streams > 1 && self.now.since(self.changed) < age
    }

    fn is_former(&self, number: &str) -> bool {
        Position::parse(number).is_some_and(|number| self.created.is_none_or(|created| number.number.time() < created))
    }

    /// Learns which shards exist, and which records are past retention.
    pub(crate) fn learn(&mut self, parents: BTreeMap<u32, Vec<u32>>) {
        for id in self.books.keys().copied().collect::<Vec<_>>() {
            self.expire(id);
        }
        self.known = parents.keys().copied().collect();
        for (shard, parents) in parents {
            self.books.entry(shard).or_default().parents = parents;
        }
    }

    pub(crate) fn put(&mut self, shard: u32, number: Position, at: Time) {
        self.counts.records += 1;
        let put = Put { number, at, delivered: false, acked: false, expired: false, last_ack: None };
        self.books.entry(shard).or_default().puts.push(put);
    }

    fn is_expected(&self, put: &Put) -> bool {
        put.is_expected(self.scope)
    }

    /// A host was given a record. Returns the claim that it came under, which has to be named when it is settled.
    pub(crate) fn delivered(&mut self, now: Time, worker: &str, shard: &str, number: &str) -> u64 {
        self.advance(now);
        if self.rules.file {
            self.claim_in_file(worker, number);
        }
        self.check_delivery(worker, shard, number);
        let id = Position::parse(number).map(|position| position.number.shard());
        let claim = id.and_then(|id| self.books.get(&id)?.claims.get(worker));
        claim.map_or(0, |claim| claim.number)
    }

    /// A worker has failed: its records in flight belong to no worker any more.
    pub(crate) fn failed(&mut self, worker: &str) {
        if let Some(known) = self.workers.get_mut(worker) {
            known.next_poll.clear();
        }
        if self.rules.file {
            self.started_on_file();
        }
        for book in self.books.values_mut() {
            if let Some(claim) = book.claims.get(worker) {
                book.in_flight.remove(&claim.number);
            }
        }
    }

    /// A host has stored a record for good.
    pub(crate) fn acked(&mut self, now: Time, worker: &str, shard: &str, number: &str, claim: u64) {
        self.advance(now);
        let Some((id, at)) = self.find(shard, number) else { return };
        let scope = self.scope;
        if let Some(book) = self.books.get_mut(&id) {
            book.puts[at].acked = true;
            book.puts[at].last_ack = Some(Ack { by: worker.to_owned(), claim, at: now });
            if let Some(in_flight) = book.in_flight.get_mut(&claim) {
                in_flight.records.remove(&at);
                in_flight.nacks.remove(&at);
            }
            book.advance(scope);
        }
    }

    fn find(&self, shard: &str, number: &str) -> Option<(u32, usize)> {
        let number = Position::parse(number)?;
        let id = number.number.shard();
        let book = self.books.get(&id).filter(|_| shard == shard_id(id))?;
        let at = book.puts.binary_search_by_key(&number, |put| put.number).ok()?;
        Some((id, at))
    }

    /// A row of the table was written.
    pub(crate) fn row(&mut self, row: &RowWritten<'_>) {
        let Some(item) = row.after.or(row.before) else { return };
        let (hash, range) = (text(item, "StreamID").unwrap_or_default(), text(item, "ShardID").unwrap_or_default());
        match hash {
            "kinesis-input/workers" => self.worker_row(row, range),
            "kinesis-input/streams" => self.pin(item),
            "kinesis-input/former" => {}
            _ => self.lease_row(row, range),
        }
    }

    fn worker_row(&mut self, row: &RowWritten<'_>, name: &str) {
        let now = self.now;
        let worker = self.workers.entry(name.to_owned()).or_default();
        if row.after.is_none() {
            worker.shown = None;
            return;
        }
        worker.shown = worker.shown.or(Some(now));
        worker.came = worker.came.or(Some(now));
        // A call that arrives twice shows nothing new. Neither does one that was overtaken: a worker that read the
        // table before and after may have seen the same heartbeat both times.
        let heartbeat = |item: Option<&Item>| item.and_then(|item| text(item, "Beat")).map(ToOwned::to_owned);
        let (before, sent) = (worker.heartbeat, row.sent.unwrap_or(now));
        let is_newest = before.is_none_or(|before| before.sent < sent);
        if row.by == name && is_newest && heartbeat(row.before) != heartbeat(row.after) {
            worker.heartbeat = Some(Heartbeat { sent, written: now });
            if before.is_some_and(|before| now.since(before.written) > worker.lease) {
                worker.alive_since = now;
            }
        }
    }

    /// The workers that hold shards that are not past retention.
    pub(crate) fn holders(&self) -> impl Iterator<Item = &str> {
        let known = self.books.iter().filter(|(id, _)| self.known.contains(id));
        known.filter_map(|(_, book)| book.holder.as_deref())
    }

    /// How many records are not acknowledged yet.
    pub(crate) fn unacked(&self) -> usize {
        self.books.values().map(Book::open).sum()
    }

    /// A worker starts, with leases of this length and without any knowledge.
    pub(crate) fn started(&mut self, worker: &str, lease: Duration, limits: Limits) {
        let now = self.now;
        let known = self.workers.entry(worker.to_owned()).or_default();
        known.limits = limits;
        (known.lease, known.alive_since, known.started) = (lease, now, now);
        (known.last_fault, known.fault_since) = (now, now);
        (known.stopping, known.stopped, known.burst) = (None, false, None);
        known.next_poll.clear();
        if self.rules.file {
            self.started_on_file();
        }
        for (_, refused) in self.grants.values_mut() {
            refused.retain(|other| other != worker);
        }
    }

    /// A worker has a fault now: it is paused, or can't reach the services.
    pub(crate) fn note_fault(&mut self, worker: &str, now: Time) {
        if let Some(known) = self.workers.get_mut(worker) {
            if now.since(known.last_fault) > NEWS {
                known.fault_since = now;
            }
            known.last_fault = now;
        }
    }

    /// Whether a worker had no fault for a long time, or since it was started.
    fn is_sound(&self, worker: &str) -> bool {
        let known = self.workers.get(worker);
        known.is_some_and(|known| known.last_fault <= known.started || self.now.since(known.last_fault) > HEALTHY)
    }

    /// For how long a worker had no fault.
    fn healthy_for(&self, worker: &str) -> Duration {
        self.workers.get(worker).map_or(Duration::ZERO, |known| self.now.since(known.last_fault))
    }
}

/// An attribute that is a time in milliseconds since 1970.
fn time(item: &Item, name: &str) -> Option<Time> {
    let number = serde_json::to_value(item.get(name)?).ok()?;
    Some(Time::from_millis(number["N"].as_str()?.parse().ok()?))
}
