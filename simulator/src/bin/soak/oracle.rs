//! What was promised, and is it kept?
//!
//! The oracle knows every record that was put, sees every row of the table that is written, and is told what each host is given and
//! what it acknowledges. It knows nothing of how the input works.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::time::Duration;

use kinesis_simulator::kinesis::{Number, parse_shard_id, shard_id};
use kinesis_simulator::{Call, RowWritten, Time, flag, text};

/// What is broken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Broken {
    /// A record is done in the table, and nobody acknowledged it.
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
    /// The service was asked again at once, though it had said why it refuses.
    Hasty,
    /// Something is left over.
    Leaked,
    /// The input gave up, and there was no reason to.
    Failed,
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

/// A record that was put.
#[derive(Debug)]
struct Put {
    number: Number,
    at: Time,
    delivered: bool,
    acked: bool,
    /// It was past retention before it was acknowledged: there is no getting it any more.
    expired: bool,
    /// By whom, and under which of his leases.
    acked_under: Option<(String, u64)>,
}

/// What is known of a shard.
#[derive(Debug, Default)]
struct Book {
    parents: Vec<u32>,
    puts: Vec<Put>,
    /// The first record that was not delivered yet and should be.
    frontier: usize,
    /// The first record that was not acknowledged yet and should be.
    unacked: usize,
    stored: Option<Number>,
    ended: bool,
    /// Who holds it, as the table says.
    holder: Option<String>,
    /// When its holder took it.
    claimed: Time,
    /// Where each worker began that holds it or held it: up to where it was stored then, and which of its claims it was.
    claims: BTreeMap<String, (Option<Number>, u64)>,
    /// What each of the claims has out: which records, and of these those that were refused.
    out: BTreeMap<u64, Out>,
}

/// What was handed out under a claim and is not settled, or was refused.
#[derive(Debug, Default)]
struct Out {
    records: BTreeSet<usize>,
    /// They come again before anything that is newer.
    refused: BTreeSet<usize>,
    /// When something was handed out last.
    last: Time,
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
    /// Records that nobody could read before they were past retention.
    pub(crate) expired: u64,
    /// How often the stream was made.
    pub(crate) streams: u64,
}

/// The limits that the workers are configured with.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Rules {
    /// How far records that are out may lie apart in a shard.
    pub(crate) checkpoint_limit: usize,
    /// How long acks are waited for before a shard is passed on.
    pub(crate) acks: Duration,
}

/// How long a worker that lost a shard may go on until it looks into the table.
const UNAWARE: Duration = Duration::from_mins(2);

/// Checks a run.
#[derive(Debug)]
pub(crate) struct Oracle {
    now: Time,
    /// All records are to be read, whenever they came.
    oldest: bool,
    /// From when on records are to be read, if not all.
    pinned: Option<Time>,
    lease: Duration,
    retention: Duration,
    rules: Rules,
    /// When the stream of today was created: what is older is of a former one. `None` while there is none.
    created: Option<Time>,
    /// When it was deleted last, or made.
    changed: Time,
    books: BTreeMap<u32, Book>,
    /// The shards that are not past retention.
    known: BTreeSet<u32>,
    /// When a subscription of each shard was last granted, and who was refused since, for that was not long ago.
    grants: BTreeMap<u32, (Time, Vec<String>)>,
    /// When each worker was last seen alive in the table.
    beats: BTreeMap<String, Time>,
    /// When each worker was last started, or came back after a silence in which its leases ran out.
    lives: BTreeMap<String, Time>,
    pub(crate) counts: Counts,
    pub(crate) violations: Vec<Violation>,
    /// No record may come any more.
    all_done: bool,
}

impl Oracle {
    pub(crate) fn new(oldest: bool, lease: Duration, retention: Duration, rules: Rules) -> Self {
        Self {
            now: Time::default(),
            oldest,
            pinned: None,
            lease,
            retention,
            rules,
            created: None,
            changed: Time::default(),
            books: BTreeMap::new(),
            known: BTreeSet::new(),
            grants: BTreeMap::new(),
            beats: BTreeMap::new(),
            lives: BTreeMap::new(),
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
    }

    /// Whether there is no stream, or was none some seconds ago.
    pub(crate) fn is_stream_missing(&self) -> bool {
        self.created.is_none() || self.counts.streams > 1 && self.now.since(self.changed) < Duration::from_secs(30)
    }

    fn is_former(&self, number: &str) -> bool {
        Number::parse(number).is_some_and(|number| self.created.is_none_or(|created| number.time() < created))
    }

    /// Learns which shards there are, and what is past retention.
    pub(crate) fn learn(&mut self, parents: BTreeMap<u32, Vec<u32>>) {
        let oldest = self.now - self.retention;
        for book in self.books.values_mut() {
            self.counts.expired += book.expire(oldest, self.oldest, self.pinned);
        }
        self.known = parents.keys().copied().collect();
        for (shard, parents) in parents {
            self.books.entry(shard).or_default().parents = parents;
        }
    }

    /// Strikes off what is past retention.
    fn expire(&mut self, shard: u32) {
        if let Some(book) = self.books.get_mut(&shard) {
            self.counts.expired += book.expire(self.now - self.retention, self.oldest, self.pinned);
        }
    }

    pub(crate) fn put(&mut self, shard: u32, number: Number, at: Time) {
        self.counts.records += 1;
        let put = Put { number, at, delivered: false, acked: false, expired: false, acked_under: None };
        self.books.entry(shard).or_default().puts.push(put);
    }

    fn is_expected(&self, put: &Put) -> bool {
        put.is_expected(self.oldest, self.pinned)
    }

    /// A host was given a record. Under which of its worker's leases, is to be said when it is acknowledged.
    pub(crate) fn delivered(&mut self, now: Time, worker: &str, shard: &str, number: &str) -> u64 {
        self.check_delivery(now, worker, shard, number);
        let id = Number::parse(number).map(Number::shard);
        let claim = id.and_then(|id| self.books.get(&id)?.claims.get(worker));
        claim.map_or(0, |claim| claim.1)
    }

    fn check_delivery(&mut self, now: Time, worker: &str, shard: &str, number: &str) {
        self.advance(now);
        self.counts.deliveries += 1;
        // Of a stream that is gone: it may be delivered, and is not missed.
        if self.is_former(number) {
            return;
        }
        let Some((id, at)) = self.find(shard, number) else {
            self.violate(Broken::OutOfOrder, format!("{worker} was given {shard} {number}, which nobody put"));
            return;
        };
        if self.all_done {
            self.violate(Broken::Duplicated, format!("{worker} was given {shard} {number} after a clean stop"));
        }
        self.check_lease(worker, shard);
        self.check_out(worker, shard, id, at);
        self.expire(id);
        for parent in self.books[&id].parents.clone() {
            let Some(book) = self.books.get(&parent).filter(|_| self.known.contains(&parent)) else { continue };
            if !book.ended || book.unacked < book.puts.len() {
                self.violate(
                    Broken::OutOfOrder,
                    format!("{worker} was given {shard} {number} before parent {parent} was done"),
                );
            }
        }
        let Some(book) = self.books.get(&id) else { return };
        let put = &book.puts[at];
        if put.delivered {
            self.counts.duplicates += u64::from(put.acked);
            let (stored, claim) = book.claims.get(worker).copied().unwrap_or_default();
            if stored.is_some_and(|stored| put.number <= stored) {
                let what = format!("{worker} was given {shard} {number} again, which was stored as done when it began");
                self.violate(Broken::Duplicated, what);
            } else if put.acked_under.as_ref().is_some_and(|(by, under)| by == worker && *under == claim) {
                let what =
                    format!("{worker} was given {shard} {number} again, which it acknowledged under the same lease");
                self.violate(Broken::Duplicated, what);
            }
            return;
        }
        if self.is_expected(put) && at != book.frontier {
            let missing = book.puts[book.frontier].number;
            self.violate(Broken::OutOfOrder, format!("{worker} was given {shard} {number} before {missing}"));
        }
        let (oldest, pinned) = (self.oldest, self.pinned);
        if let Some(book) = self.books.get_mut(&id) {
            book.puts[at].delivered = true;
            book.advance(oldest, pinned);
        }
    }

    /// What is out is bounded, comes from who holds the shard, and what was refused comes before what is newer.
    fn check_out(&mut self, worker: &str, shard: &str, id: u32, at: usize) {
        let (now, limit) = (self.now, self.rules.checkpoint_limit);
        let mut broken = Vec::new();
        if let Some(book) = self.books.get_mut(&id) {
            let since = now.since(book.claimed);
            if book.holder.as_deref().is_some_and(|holder| holder != worker) && since > UNAWARE {
                let what =
                    format!("{worker} was given a record of {shard}, which {:?} took {since:?} ago", book.holder);
                broken.push((Broken::Unfenced, what));
            }
            let apart = (at + 1).saturating_sub(book.unacked);
            if apart > limit {
                let what =
                    format!("{worker} was given {shard} {at}, {apart} behind the first that is open, of {limit}");
                broken.push((Broken::OverBound, what));
            }
            let claim = book.claims.get(worker).map_or(0, |claim| claim.1);
            let out = book.out.entry(claim).or_default();
            if let Some(refused) = out.refused.first().filter(|refused| **refused < at) {
                broken.push((
                    Broken::OutOfOrder,
                    format!("{worker} was given {shard} {at} before {refused}, which was refused"),
                ));
            }
            out.refused.remove(&at);
            out.records.insert(at);
            out.last = now;
        }
        for (broken, what) in broken {
            self.violate(broken, what);
        }
    }

    /// A host has not stored a record, and says so or loses the receipt: it comes again.
    pub(crate) fn refused(&mut self, shard: &str, number: &str, claim: u64) {
        let Some((id, at)) = self.find(shard, number) else { return };
        if let Some(out) = self.books.get_mut(&id).and_then(|book| book.out.get_mut(&claim)) {
            out.records.remove(&at);
            out.refused.insert(at);
        }
    }

    /// A worker has failed: what it has out is nobody's any more.
    pub(crate) fn failed(&mut self, worker: &str) {
        for book in self.books.values_mut() {
            if let Some((_, claim)) = book.claims.get(worker) {
                book.out.remove(claim);
            }
        }
    }

    /// Whoever passes a shard on waits for what is out, for a while.
    fn check_passing_on(&mut self, id: u32, by: &str) {
        let Some(book) = self.books.get(&id) else { return };
        let Some(out) = book.claims.get(by).and_then(|(_, claim)| book.out.get(claim)) else { return };
        let waited = self.now.since(out.last);
        let is_alive = self.beats.get(by).is_some_and(|beat| self.now.since(*beat) < self.lease / 2);
        if is_alive && !out.records.is_empty() && waited + Duration::from_millis(200) < self.rules.acks {
            let count = out.records.len();
            self.violate(
                Broken::Hasty,
                format!("{by} gave shard {id} back {waited:?} after it was given {count} records that are out still"),
            );
        }
    }

    /// Whoever was not seen alive for a lease period must have stopped.
    fn check_lease(&mut self, worker: &str, shard: &str) {
        // What a look and a tick may add.
        let slack = Duration::from_millis(200);
        let Some(beat) = self.beats.get(worker).copied() else { return };
        if self.now.since(beat) > self.lease + slack {
            let silent = self.now.since(beat);
            self.violate(
                Broken::Unfenced,
                format!("{worker} was given a record of {shard}, {silent:?} after its last beat"),
            );
        }
    }

    /// A host has stored a record for good.
    pub(crate) fn acked(&mut self, now: Time, worker: &str, shard: &str, number: &str, claim: u64) {
        self.advance(now);
        let Some((id, at)) = self.find(shard, number) else { return };
        let (oldest, pinned) = (self.oldest, self.pinned);
        if let Some(book) = self.books.get_mut(&id) {
            book.puts[at].acked = true;
            book.puts[at].acked_under = Some((worker.to_owned(), claim));
            if let Some(out) = book.out.get_mut(&claim) {
                out.records.remove(&at);
            }
            book.advance(oldest, pinned);
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
            "kinesis-input/workers" => {
                if row.after.is_some() && row.by == range {
                    let before = self.beats.insert(range.to_owned(), self.now);
                    if before.is_some_and(|before| self.now.since(before) > self.lease) {
                        self.lives.insert(range.to_owned(), self.now);
                    }
                }
            }
            "kinesis-input/streams" => self.pin(item),
            "kinesis-input/former" => {}
            _ => self.lease_row(row, range),
        }
    }

    fn pin(&mut self, item: &kinesis_simulator::Item) {
        let Some(pinned) = time(item, "Latest") else { return };
        if let Some(before) = self.pinned.filter(|before| *before != pinned) {
            self.violate(Broken::Lost, format!("the time to begin at was moved from {before:?} to {pinned:?}"));
        }
        self.pinned = Some(pinned);
        for book in self.books.values_mut() {
            book.advance(self.oldest, self.pinned);
        }
    }

    fn lease_row(&mut self, row: &RowWritten<'_>, shard: &str) {
        let Some(id) = parse_shard_id(shard) else { return };
        // The answer has seconds with a fraction, and may lose a millisecond on the way.
        let is_of_today = |item: &&kinesis_simulator::Item| {
            let (Some(said), Some(created)) = (time(item, "StreamCreated"), self.created) else { return false };
            said.millis().abs_diff(created.millis()) <= 1
        };
        let before = row.before.filter(is_of_today);
        if row.after.is_some_and(|after| !is_of_today(&after)) {
            if before.is_some() {
                self.violate(Broken::Unfenced, format!("{} wrote {shard} of a former stream over today's", row.by));
            }
            return;
        }
        if row.after.is_none() && before.is_none() {
            return;
        }
        let row = &RowWritten { by: row.by, before, after: row.after };
        let holder = |item: &kinesis_simulator::Item| text(item, "ClientID").map(ToOwned::to_owned);
        let place = |item: &kinesis_simulator::Item| text(item, "SequenceNumber").and_then(Number::parse);
        let before_holder = row.before.and_then(holder);
        let before_place = row.before.and_then(place);
        let Some(after) = row.after else {
            if self.known.contains(&id) {
                self.violate(Broken::Lost, format!("{} removed the row of {shard}", row.by));
            }
            return;
        };
        let (after_holder, after_place) = (holder(after), place(after));
        let ended = flag(after, "Ended");
        let was_ended = row.before.is_some_and(|before| flag(before, "Ended"));
        let progress = after_place != before_place || ended != was_ended;
        if progress && before_holder.as_deref() != Some(row.by) {
            self.violate(
                Broken::Unfenced,
                format!("{} stored a place of {shard}, which {before_holder:?} held", row.by),
            );
        }
        if after_place < before_place || (was_ended && !ended) {
            self.violate(
                Broken::Unfenced,
                format!("{} set {shard} back from {before_place:?} to {after_place:?}", row.by),
            );
        }
        if let Some(place) = after_place.filter(|_| after_place != before_place) {
            self.check_covered(id, Some(place), row.by);
        }
        if ended && !was_ended {
            self.check_covered(id, None, row.by);
        }
        let lease =
            |item: Option<&kinesis_simulator::Item>| item.and_then(|item| text(item, "LeaseID")).map(ToOwned::to_owned);
        let claimed = after_holder.as_deref() == Some(row.by) && lease(row.before) != lease(Some(after));
        if claimed && let Some(from) = before_holder.as_deref().filter(|from| *from != row.by) {
            let asked = row.before.and_then(|before| text(before, "WantedBy")) == Some(row.by);
            self.check_taking(id, row.by, from, asked);
        }
        if before_holder.as_deref() == Some(row.by) && after_holder != before_holder && !ended {
            self.check_passing_on(id, row.by);
        }
        let now = self.now;
        let book = self.books.entry(id).or_default();
        book.stored = after_place;
        book.ended = ended;
        if claimed {
            self.counts.claims += 1;
            self.counts.moves += u64::from(before_holder.is_some() && before_holder != after_holder);
            let number = self.counts.claims;
            book.claims.insert(row.by.to_owned(), (after_place, number));
            book.claimed = now;
        }
        book.holder = after_holder;
    }

    /// Whoever lives is asked first. What it took before it was started anew, or fell silent, it does not hold any more.
    fn check_taking(&mut self, shard: u32, by: &str, from: &str, asked: bool) {
        let claimed = self.books.get(&shard).map_or_else(Time::default, |book| book.claimed);
        let Some(beat) = self.beats.get(from).copied() else { return };
        let former = self.lives.get(from).is_some_and(|life| *life > claimed);
        let silent = self.now.since(beat);
        if !asked && !former && silent < self.lease {
            self.violate(
                Broken::Unfenced,
                format!("{by} took shard {shard} from {from} without asking, {silent:?} after its last beat"),
            );
        }
    }

    /// Everything up to a place, or all of it, has to be acknowledged.
    fn check_covered(&mut self, id: u32, place: Option<Number>, by: &str) {
        self.expire(id);
        let Some(book) = self.books.get(&id) else { return };
        let covered = place.map_or(book.puts.len(), |place| book.puts.partition_point(|put| put.number <= place));
        let missing = book.puts[..covered].iter().find(|put| !put.acked && self.is_expected(put));
        if let Some(missing) = missing.map(|put| put.number) {
            let place = place.map_or_else(|| "its end".to_owned(), |place| place.to_string());
            self.violate(Broken::Lost, format!("{by} stored {place} of shard {id}, and {missing} is not acknowledged"));
        }
    }

    /// Who holds shards that are not past retention.
    pub(crate) fn holders(&self) -> impl Iterator<Item = &str> {
        let known = self.books.iter().filter(|(id, _)| self.known.contains(id));
        known.filter_map(|(_, book)| book.holder.as_deref())
    }

    /// How many records are still to be acknowledged.
    pub(crate) fn unacked(&self) -> usize {
        self.books.values().map(Book::open).sum()
    }

    /// A worker begins, and knows of nothing.
    pub(crate) fn started(&mut self, worker: &str) {
        self.lives.insert(worker.to_owned(), self.now);
        for (_, refused) in self.grants.values_mut() {
            refused.retain(|other| other != worker);
        }
    }

    /// Somebody asked for something. Whoever is told that a shard was just subscribed to, waits until that may be done again.
    pub(crate) fn called(&mut self, call: &Call<'_>, takeover: Duration) {
        self.advance(call.at);
        if call.operation != "SubscribeToShard" {
            return;
        }
        let shard = call.asked["ShardId"].as_str().unwrap_or_default();
        let Some(id) = parse_shard_id(shard) else { return };
        let Some(error) = call.error else {
            self.grants.insert(id, (call.at, Vec::new()));
            return;
        };
        let Some((granted, refused)) = self.grants.get_mut(&id) else { return };
        if error.code != "ResourceInUseException" || !call.answered || call.at.since(*granted) >= takeover {
            return;
        }
        if refused.iter().any(|other| other == call.by) {
            let after = call.at.since(*granted);
            self.violate(
                Broken::Hasty,
                format!("{} asks for {shard} again {after:?} after somebody was granted it, and was told so", call.by),
            );
        } else {
            refused.push(call.by.to_owned());
        }
    }

    /// Checks that no record waits for longer than this, since somebody was there.
    pub(crate) fn check_stalls(&mut self, longest: Duration, since: Time) {
        let now = self.now;
        let stalled: Vec<String> = (self.books.iter())
            .filter_map(|(id, book)| {
                let put = book.puts.get(book.frontier)?;
                let waits = now.since(put.at.max(since));
                (waits > longest && (self.oldest || self.pinned.is_some()))
                    .then(|| format!("shard {id}: {} waits for {waits:?}, held by {:?}", put.number, book.holder))
            })
            .collect();
        for what in stalled {
            self.violate(Broken::Stalled, what);
        }
    }

    /// Checks that a worker shows itself, whatever its host does.
    pub(crate) fn check_beat(&mut self, worker: &str, well_for: Duration) {
        let (Some(beat), Some(life)) = (self.beats.get(worker), self.lives.get(worker)) else { return };
        let silent = self.now.since(*beat);
        if beat >= life && silent > self.lease && well_for > self.lease * 2 {
            self.violate(
                Broken::Stalled,
                format!("{worker} has not beaten for {silent:?}, and nothing is wrong with it"),
            );
        }
    }

    /// Nothing is put any more, and all that was has been waited for.
    pub(crate) fn finish(&mut self) {
        let mut open = Vec::new();
        for (id, book) in &self.books {
            let missing = book.puts.get(book.unacked);
            if let Some(put) = missing {
                let done = book.ended || book.stored.is_some_and(|stored| put.number <= stored);
                let broken = if done { Broken::Lost } else { Broken::Stalled };
                open.push((
                    broken,
                    format!(
                        "shard {id}: {} of {} records are not acknowledged, {} first; held by {:?}",
                        book.open(),
                        book.puts.len(),
                        put.number,
                        book.holder
                    ),
                ));
            }
        }
        for (broken, what) in open {
            self.violate(broken, what);
        }
    }

    /// After a clean stop nobody holds anything, and everything is stored.
    pub(crate) fn stopped(&mut self) {
        let mut left = Vec::new();
        for (id, book) in self.books.iter().filter(|(id, _)| self.known.contains(id)) {
            if let Some(holder) = &book.holder {
                left.push((Broken::Leaked, format!("shard {id} is still held by {holder}")));
            }
            let last = book.puts.iter().rev().find(|put| self.is_expected(put));
            if let Some(put) = last
                && !book.ended
                && book.stored.is_none_or(|stored| stored < put.number)
            {
                left.push((
                    Broken::Duplicated,
                    format!("shard {id} is stored up to {:?} after a clean stop, not {}", book.stored, put.number),
                ));
            }
        }
        for (broken, what) in left {
            self.violate(broken, what);
        }
        self.all_done = true;
    }
}

/// An attribute that is a time, in milliseconds since 1970.
fn time(item: &kinesis_simulator::Item, name: &str) -> Option<Time> {
    let number = serde_json::to_value(item.get(name)?).ok()?;
    Some(Time::from_millis(number["N"].as_str()?.parse().ok()?))
}

impl Put {
    fn is_expected(&self, oldest: bool, pinned: Option<Time>) -> bool {
        !self.expired && (oldest || pinned.is_some_and(|pinned| self.at >= pinned))
    }
}

impl Book {
    /// Strikes off what came before, and says how much that was.
    fn expire(&mut self, before: Time, oldest: bool, pinned: Option<Time>) -> u64 {
        let mut expired = 0;
        while let Some(put) = self.puts.get_mut(self.unacked).filter(|put| put.at < before) {
            put.expired = true;
            expired += 1;
            self.advance(oldest, pinned);
        }
        expired
    }

    fn advance(&mut self, oldest: bool, pinned: Option<Time>) {
        while self.puts.get(self.frontier).is_some_and(|put| put.delivered || !put.is_expected(oldest, pinned)) {
            self.frontier += 1;
        }
        while self.puts.get(self.unacked).is_some_and(|put| put.acked || !put.is_expected(oldest, pinned)) {
            self.unacked += 1;
        }
    }

    fn open(&self) -> usize {
        self.puts[self.unacked..].iter().filter(|put| !put.acked).count()
    }
}
