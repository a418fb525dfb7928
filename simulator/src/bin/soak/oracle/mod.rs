//! What was promised, and is it kept?
//!
//! The oracle knows every record that was put, sees every row of the table that is written, and is told what each host is given and
//! what it acknowledges. It knows nothing of how the input works.
//!
//! Here are its state and its entry points; each promise is checked in a file of its own.

mod balance;
mod book;
mod bounds;
mod checkpoints;
mod duplicates;
mod fencing;
mod liveness;
mod manners;
mod order;
mod redelivery;
mod release;
mod retention;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::time::Duration;

use kinesis_simulator::kinesis::{Number, shard_id};
use kinesis_simulator::{Item, RowWritten, Time, text};

use book::{Ack, Book, Heartbeat, Known, Put, Scope};

/// What is broken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Broken {
    /// A record is done in the table, and no host acknowledged it; or it expired though it could have been read.
    Lost,
    /// A record came before one that it must follow.
    OutOfOrder,
    /// A record came again that must not.
    Duplicated,
    /// More is out than may be.
    OverBound,
    /// Nothing comes, though it should.
    Stalled,
    /// The table was written without a lease, or set back.
    Unfenced,
    /// Something was done before its time.
    Hasty,
    /// Something is left over.
    Leaked,
    /// The input gave up, and there was no reason to.
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

/// Counts for the report.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Counts {
    pub(crate) records: u64,
    pub(crate) deliveries: u64,
    pub(crate) duplicates: u64,
    pub(crate) claims: u64,
    /// Of these, leases that another worker had.
    pub(crate) moves: u64,
    /// Records that no worker could read before they were past retention.
    pub(crate) expired: u64,
    /// How often the stream was made.
    pub(crate) streams: u64,
}

/// The limits that the workers are configured with.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Rules {
    pub(crate) oldest: bool,
    pub(crate) retention: Duration,
    /// How far records that are out may lie apart in a shard.
    pub(crate) checkpoint_limit: usize,
    /// How long acks are waited for before a shard is handed over.
    pub(crate) acks: Duration,
    /// How long a worker that asked for a shard waits for it before it takes the shard by force.
    pub(crate) handed_over_within: Duration,
    pub(crate) rebalance: Duration,
    /// The longest lease period of a worker.
    pub(crate) longest_lease: Duration,
}

/// What a look and a tick may add.
const SLACK: Duration = Duration::from_millis(200);
/// A worker is well when nothing has been wrong with it for so long: what was under way by then is over.
const WELL: Duration = Duration::from_secs(30);

/// Checks a run.
#[derive(Debug)]
pub(crate) struct Oracle {
    now: Time,
    scope: Scope,
    rules: Rules,
    /// When the stream of today was created: what is older is of a former one. `None` while there is none.
    created: Option<Time>,
    /// When it was deleted last, or made.
    changed: Time,
    books: BTreeMap<u32, Book>,
    /// The shards that are not past retention.
    known: BTreeSet<u32>,
    /// When a subscription of each shard was last granted, and which workers were refused since, for that was not long ago.
    grants: BTreeMap<u32, (Time, Vec<String>)>,
    workers: BTreeMap<String, Known>,
    /// Since when nothing has been wrong with any worker or the stream; `None` while something is.
    well_since: Option<Time>,
    /// When that was so before, if it was for long.
    well_before: Vec<(Time, Time)>,
    /// When a shard was last claimed, or given back.
    last_move: Time,
    /// How many acknowledgements there were.
    acks: u64,
    pub(crate) counts: Counts,
    pub(crate) violations: Vec<Violation>,
    /// No record may come any more.
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
            well_since: None,
            well_before: Vec::new(),
            last_move: Time::default(),
            acks: 0,
            counts: Counts::default(),
            violations: Vec::new(),
            all_done: false,
        }
    }

    pub(crate) fn violate(&mut self, broken: Broken, what: String) {
        let at = self.now;
        // The first ones tell; a thousand of their consequences don't.
        if self.violations.len() < 50 {
            self.violations.push(Violation { at, broken, what });
        }
    }

    pub(crate) fn advance(&mut self, now: Time) {
        self.now = self.now.max(now);
    }

    /// The stream was deleted, or made: nothing of a former one counts any more.
    pub(crate) fn made(&mut self, created: Option<Time>) {
        if self.created == created {
            return;
        }
        self.counts.streams += u64::from(created.is_some());
        (self.created, self.changed) = (created, self.now);
        self.books.clear();
        self.known.clear();
        self.grants.clear();
        self.well_before.clear();
    }

    /// Whether there is no stream, or was none some seconds ago.
    pub(crate) fn is_stream_missing(&self) -> bool {
        self.is_stream_young(Duration::from_secs(30))
    }

    /// Whether there is no stream, or it was made again so short a time ago.
    pub(crate) fn is_stream_young(&self, age: Duration) -> bool {
        self.created.is_none() || self.counts.streams > 1 && self.now.since(self.changed) < age
    }

    fn is_former(&self, number: &str) -> bool {
        Number::parse(number).is_some_and(|number| self.created.is_none_or(|created| number.time() < created))
    }

    /// Learns which shards there are, and what is past retention.
    pub(crate) fn learn(&mut self, parents: BTreeMap<u32, Vec<u32>>) {
        for id in self.books.keys().copied().collect::<Vec<_>>() {
            self.expire(id);
        }
        self.known = parents.keys().copied().collect();
        for (shard, parents) in parents {
            self.books.entry(shard).or_default().parents = parents;
        }
    }

    pub(crate) fn put(&mut self, shard: u32, number: Number, at: Time) {
        self.counts.records += 1;
        let put = Put { number, at, delivered: false, acked: false, expired: false, last_ack: None };
        self.books.entry(shard).or_default().puts.push(put);
    }

    fn is_expected(&self, put: &Put) -> bool {
        put.is_expected(self.scope)
    }

    /// A host was given a record. Returns the claim that it came under, which is to be named when it is settled.
    pub(crate) fn delivered(&mut self, now: Time, worker: &str, shard: &str, number: &str) -> u64 {
        self.advance(now);
        self.check_delivery(worker, shard, number);
        let id = Number::parse(number).map(Number::shard);
        let claim = id.and_then(|id| self.books.get(&id)?.claims.get(worker));
        claim.map_or(0, |claim| claim.number)
    }

    /// A worker has failed: what it has out is no worker's any more.
    pub(crate) fn failed(&mut self, worker: &str) {
        for book in self.books.values_mut() {
            if let Some(claim) = book.claims.get(worker) {
                book.out.remove(&claim.number);
            }
        }
    }

    /// A host has stored a record for good.
    pub(crate) fn acked(&mut self, now: Time, worker: &str, shard: &str, number: &str, claim: u64) {
        self.advance(now);
        let Some((id, at)) = self.find(shard, number) else { return };
        self.acks += 1;
        let (scope, order) = (self.scope, self.acks);
        if let Some(book) = self.books.get_mut(&id) {
            book.puts[at].acked = true;
            book.puts[at].last_ack = Some(Ack { by: worker.to_owned(), claim, at: now, order });
            if let Some(out) = book.out.get_mut(&claim) {
                out.records.remove(&at);
                out.refusals.remove(&at);
            }
            book.advance(scope);
        }
    }

    fn find(&self, shard: &str, number: &str) -> Option<(u32, usize)> {
        let number = Number::parse(number)?;
        let book = self.books.get(&number.shard()).filter(|_| shard == shard_id(number.shard()))?;
        let at = book.puts.binary_search_by_key(&number, |put| put.number).ok()?;
        Some((number.shard(), at))
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
        // A call that arrives twice shows nothing new. Neither does one that was overtaken: whoever looked before and after
        // may have seen the same heartbeat both times.
        let beat = |item: Option<&Item>| item.and_then(|item| text(item, "Beat")).map(ToOwned::to_owned);
        let (before, sent) = (worker.beat, row.sent.unwrap_or(now));
        let is_newest = before.is_none_or(|before| before.sent < sent);
        if row.by == name && is_newest && beat(row.before) != beat(row.after) {
            worker.beat = Some(Heartbeat { sent, written: now });
            if before.is_some_and(|before| now.since(before.written) > worker.lease) {
                worker.life = now;
            }
        }
    }

    /// The workers that hold shards that are not past retention.
    pub(crate) fn holders(&self) -> impl Iterator<Item = &str> {
        let known = self.books.iter().filter(|(id, _)| self.known.contains(id));
        known.filter_map(|(_, book)| book.holder.as_deref())
    }

    /// How many records are still to be acknowledged.
    pub(crate) fn unacked(&self) -> usize {
        self.books.values().map(Book::open).sum()
    }

    /// A worker begins, with leases of this length, and knows of nothing.
    pub(crate) fn started(&mut self, worker: &str, lease: Duration) {
        let now = self.now;
        let known = self.workers.entry(worker.to_owned()).or_default();
        (known.lease, known.life, known.started, known.ill) = (lease, now, now, now);
        (known.stopping, known.stopped, known.burst) = (None, false, None);
        for (_, refused) in self.grants.values_mut() {
            refused.retain(|other| other != worker);
        }
    }

    /// Something is wrong with a worker now: it stands still, or can't reach the services.
    pub(crate) fn ill(&mut self, worker: &str, now: Time) {
        if let Some(known) = self.workers.get_mut(worker) {
            known.ill = now;
        }
    }

    /// Whether nothing has been wrong with a worker for long, or since it was started.
    fn is_sound(&self, worker: &str) -> bool {
        let known = self.workers.get(worker);
        known.is_some_and(|known| known.ill <= known.started || self.now.since(known.ill) > WELL)
    }

    /// For how long nothing has been wrong with a worker.
    fn well_for(&self, worker: &str) -> Duration {
        self.workers.get(worker).map_or(Duration::ZERO, |known| self.now.since(known.ill))
    }
}

/// An attribute that is a time, in milliseconds since 1970.
fn time(item: &Item, name: &str) -> Option<Time> {
    let number = serde_json::to_value(item.get(name)?).ok()?;
    Some(Time::from_millis(number["N"].as_str()?.parse().ok()?))
}
