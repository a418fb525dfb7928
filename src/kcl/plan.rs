//! What becomes of the KCL's positions in our table, or why nothing does?
//!
//! This module is pure. No position is invented, and none moves forward: where it can't be known whether a record is
//! processed, it is read again.

use std::collections::{BTreeMap, BTreeSet};

use serde::Serialize;

use super::row::{KclLease, KclPosition, KclRow, StreamKey};
use crate::lease::{Checkpoint, Row, Within};
use crate::model::{ListedShard, SequenceNumber, ShardId, StartPosition, Stream};

/// What happens to one shard.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct Line {
    /// The shard.
    pub shard: String,
    /// The position in the KCL's table, as it stands there: a sequence number and a sub-sequence number, or a word. `-`
    /// if the table has no row of the shard.
    pub kcl: String,
    /// The position in our table, before the migration for an export, and after it for an import.
    pub ours: String,
    /// What happens.
    pub action: Action,
    /// Why.
    pub why: String,
}

/// What happens to a shard.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
pub enum Action {
    /// The position is written.
    Write,
    /// The row that is there stays.
    Keep,
    /// There is nothing to write.
    Skip,
    /// The position can't be taken over, so nothing of the plan is carried out.
    Refuse,
}

/// What is at the record that a position names.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum RecordAt {
    /// One record.
    Plain,
    /// An aggregate of this many user records.
    Aggregate(u32),
    /// An aggregate that contradicts itself. It is delivered whole.
    Malformed,
    /// Nothing: it is past retention, or no record ever had the number.
    Gone,
    /// The stream did not say.
    Unknown,
    /// The stream says that the number is not one of the shard.
    Foreign,
}

/// What is stored in our table for a shard.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Target {
    /// A checkpoint.
    Checkpoint(Checkpoint),
    /// Nothing is processed, and the shard begins here.
    Begins(StartPosition),
}

/// A row to write to our table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Write {
    pub(crate) shard: ShardId,
    pub(crate) target: Target,
    /// The row that is replaced. It must not have changed.
    pub(crate) instead_of: Option<Row>,
}

/// What is known when an import is planned.
#[derive(Debug)]
pub(crate) struct Known<'a> {
    pub(crate) stream: &'a Stream,
    pub(crate) listing: &'a [ListedShard],
    /// The leases of the stream in the KCL's table.
    pub(crate) leases: &'a [KclLease],
    pub(crate) ours: &'a [Row],
    /// What is at the records that the leases name.
    pub(crate) records: &'a BTreeMap<ShardId, RecordAt>,
    /// The time that is the latest, in milliseconds since 1970.
    pub(crate) now: i64,
    /// The time that `AT_TIMESTAMP` means, in milliseconds since 1970.
    pub(crate) timestamp: Option<i64>,
    /// Whether a row of ours is replaced that has no owner and is not further.
    pub(crate) overwrite: bool,
}

/// A plan: what is done for each shard, what has to be said, and why nothing is done, if there is a reason.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Planned<W> {
    pub(crate) lines: Vec<Line>,
    pub(crate) remarks: Vec<String>,
    pub(crate) refusals: Vec<String>,
    pub(crate) writes: Vec<W>,
}

impl<W> Planned<W> {
    pub(super) fn new() -> Self {
        Self { lines: Vec::new(), remarks: Vec::new(), refusals: Vec::new(), writes: Vec::new() }
    }

    /// Nothing is written if there is a reason.
    pub(super) fn or_nothing(mut self) -> Self {
        for line in self.lines.iter().filter(|line| line.action == Action::Refuse) {
            self.refusals.push(format!("{}: {}", line.shard, line.why));
        }
        if !self.refusals.is_empty() {
            self.writes.clear();
        }
        self
    }
}

/// Which leases of a table belong to the stream, and what has to be said about the others.
pub(crate) fn of_stream(
    rows: &[Result<KclRow, String>],
    stream: &Stream,
) -> Result<(Vec<KclLease>, Vec<String>), Vec<String>> {
    let wrong: Vec<String> = rows.iter().filter_map(|row| row.as_ref().err().cloned()).collect();
    if !wrong.is_empty() {
        return Err(wrong);
    }
    let leases = rows.iter().filter_map(|row| match row {
        Ok(KclRow::Lease(lease)) => Some(lease),
        _ => None,
    });
    let is_ours = |key: &StreamKey| {
        key.name == stream.name() && stream.arn().split(':').nth(4).is_none_or(|account| account == key.account)
    };
    let (mine, others): (Vec<&KclLease>, Vec<&KclLease>) =
        leases.partition(|lease| lease.stream.as_ref().is_none_or(is_ours));
    if mine.is_empty() {
        let names: BTreeSet<String> =
            others.iter().filter_map(|lease| Some(lease.stream.as_ref()?.to_string())).collect();
        let names: Vec<String> = names.into_iter().collect();
        return Err(vec![if names.is_empty() {
            "the table of the KCL has no lease".to_owned()
        } else {
            format!("the table of the KCL has no lease of this stream; it has leases of {}", names.join(", "))
        }]);
    }
    if mine.iter().any(|lease| lease.stream.is_none()) && mine.iter().any(|lease| lease.stream.is_some()) {
        return Err(vec![
            "the table has leases of one stream and of several, and it is not clear which of them count".to_owned(),
        ]);
    }
    // Streams of the same name that were deleted and created again.
    let lives: BTreeSet<i64> = mine.iter().filter_map(|lease| Some(lease.stream.as_ref()?.created)).collect();
    let life = match stream.created().map(|created| created.div_euclid(1000)) {
        Some(created) if lives.is_empty() || lives.contains(&created) => Some(created),
        Some(created) => {
            let theirs: Vec<String> = lives.iter().map(ToString::to_string).collect();
            return Err(vec![format!(
                "the stream was created again at {created}, and the leases are of one that was created at {}; their \
                 positions mean nothing in the new stream",
                theirs.join(" and ")
            )]);
        }
        None if lives.len() > 1 => {
            return Err(vec![
                "the leases are of streams of several creation times, and this one's is unknown".to_owned(),
            ]);
        }
        None => lives.first().copied(),
    };
    let (mine, former): (Vec<&KclLease>, Vec<&KclLease>) =
        mine.into_iter().partition(|lease| lease.stream.as_ref().is_none_or(|key| Some(key.created) == life));
    let mut remarks = Vec::new();
    if !former.is_empty() {
        remarks.push(format!("{} leases are of a former stream of this name, and left out", former.len()));
    }
    Ok((mine.into_iter().cloned().collect(), remarks))
}

/// Plans an import.
pub(crate) fn import(known: &Known<'_>) -> Planned<Write> {
    let mut planned = Planned::new();
    let leases: BTreeMap<&ShardId, &KclLease> = known.leases.iter().map(|lease| (&lease.shard, lease)).collect();
    let ours: BTreeMap<&ShardId, &Row> = known.ours.iter().map(|row| (&row.shard, row)).collect();
    let family = Family::new(known.listing);
    planned.refusals.extend(unusable(known.stream, known.ours));
    if !known.listing.iter().any(|shard| leases.contains_key(&shard.id)) {
        planned.refusals.push(
            "the stream has none of the shards that the KCL has leases of; it is another stream, or was created again"
                .to_owned(),
        );
    }
    let listed: BTreeSet<&ShardId> = known.listing.iter().map(|shard| &shard.id).collect();
    for lease in leases.values().filter(|lease| !listed.contains(&lease.shard)) {
        planned.lines.push(Line {
            shard: lease.shard.to_string(),
            kcl: lease.position.to_string(),
            ours: "-".into(),
            action: Action::Skip,
            why: "the stream has the shard no longer: all of its records are past retention".into(),
        });
    }
    let mut shards: Vec<&ListedShard> = known.listing.iter().collect();
    shards.sort_by(|a, b| a.id.cmp(&b.id));
    for shard in shards {
        let lease = leases.get(&shard.id).copied();
        let wanted = match lease {
            Some(lease) => taken(lease, shard, known),
            None => without_lease(shard, &family, &leases),
        };
        let kcl = lease.map_or_else(|| "-".to_owned(), |lease| lease.position.to_string());
        let line = |ours: String, action, why: String| Line {
            shard: shard.id.to_string(),
            kcl: kcl.clone(),
            ours,
            action,
            why,
        };
        let (target, why) = match wanted {
            Wanted::Store(target, why) => (target, why),
            Wanted::Nothing(why) => {
                let ours = ours.get(&shard.id).map_or_else(|| "-".into(), |row| shown(row));
                planned.lines.push(line(ours, Action::Skip, why));
                continue;
            }
            Wanted::Refused(why) => {
                planned.lines.push(line("-".into(), Action::Refuse, why));
                continue;
            }
        };
        let latest = lease.is_some_and(|lease| lease.position == KclPosition::Latest);
        let row = ours.get(&shard.id).copied();
        let (action, why) = match row {
            None => (Action::Write, why),
            Some(row) if is_there(row, &target, latest) => (Action::Keep, "is there already".to_owned()),
            Some(row) if is_further(row, &target) => (Action::Keep, "ours is further".to_owned()),
            Some(_) if known.overwrite => (Action::Write, format!("{why}; replaces what is there")),
            Some(_) => (Action::Keep, format!("a row is there; `--overwrite` replaces it by {}", target_text(&target))),
        };
        let ours = match (action, row) {
            (Action::Keep, Some(row)) => shown(row),
            _ => target_text(&target),
        };
        planned.lines.push(line(ours, action, why));
        if action == Action::Write {
            planned.writes.push(Write { shard: shard.id.clone(), target, instead_of: row.cloned() });
        }
    }
    planned.or_nothing()
}

/// Why rows of ours forbid a migration.
pub(super) fn unusable(stream: &Stream, ours: &[Row]) -> Vec<String> {
    let mut found = Vec::new();
    for row in ours {
        if let Some(hold) = &row.hold {
            found.push(format!(
                "{}: our table is read already, by {}; stop the pipelines of the table first, or release the leases of a \
                 worker that is gone (`kinesis-input leases --release`)",
                row.shard, hold.worker
            ));
        }
        if let Some(what) = &row.unreadable {
            found.push(format!("{}: our row can't be understood: {what}", row.shard));
        }
        if stream.is_other_life(row.created) {
            found.push(format!(
                "{}: our row is of another stream of this name, which was deleted; remove the row, or let a pipeline set it \
                 aside",
                row.shard
            ));
        }
    }
    found
}

/// What should be stored for a shard.
enum Wanted {
    Store(Target, String),
    Nothing(String),
    Refused(String),
}

/// What should be stored for a shard that the KCL has a lease of.
fn taken(lease: &KclLease, shard: &ListedShard, known: &Known<'_>) -> Wanted {
    const OTHER: &str = "the stream was created again since, or it is another stream";
    if let (Some(theirs), Some(range)) = (lease.hash_range, shard.hash_range)
        && theirs != range
    {
        return Wanted::Refused(format!("the KCL's row says other hash keys than the stream: {OTHER}"));
    }
    let store = |target, why: &str| Wanted::Store(target, why.to_owned());
    let (number, sub) = match &lease.position {
        KclPosition::ShardEnd if !shard.closed => {
            return Wanted::Refused(format!("the KCL has read the shard to its end, and it is open: {OTHER}"));
        }
        KclPosition::ShardEnd => {
            return store(Target::Checkpoint(Checkpoint::ShardEnd(None)), "read to its end");
        }
        KclPosition::TrimHorizon => return store(Target::Begins(StartPosition::Oldest), "nothing was processed"),
        KclPosition::Latest => {
            let why = "the KCL has stored no position and would begin at the latest record; the latest is now";
            return store(Target::Begins(StartPosition::At(known.now)), why);
        }
        KclPosition::AtTimestamp => {
            return match known.timestamp {
                Some(0) => store(Target::Begins(StartPosition::Oldest), "the time is that of `--timestamp`"),
                Some(time) => store(Target::Begins(StartPosition::At(time)), "the time is that of `--timestamp`"),
                None => Wanted::Refused(
                    "the time at which the KCL begins is not in its table: say it with `--timestamp`".to_owned(),
                ),
            };
        }
        KclPosition::Record { number, sub } => (number, *sub),
    };
    if shard.begin.as_ref().is_some_and(|begin| number < begin) {
        return Wanted::Refused(format!("the position lies before the start of the shard: {OTHER}"));
    }
    let after = || Target::Checkpoint(Checkpoint::After(number.clone()));
    let within = || {
        let sub = u32::try_from(sub).unwrap_or(u32::MAX);
        Target::Checkpoint(Checkpoint::Within(Within { after: None, record: number.clone(), sub }))
    };
    match known.records.get(&shard.id).copied().unwrap_or(RecordAt::Unknown) {
        RecordAt::Plain => store(after(), "the record is processed"),
        RecordAt::Aggregate(count) if sub.saturating_add(1) >= u64::from(count) => {
            store(after(), "all user records of the aggregate are processed")
        }
        RecordAt::Aggregate(count) => {
            Wanted::Store(within(), format!("{} of {count} user records are processed", sub + 1))
        }
        RecordAt::Gone => {
            store(after(), "the record is past retention: reading begins with the oldest record behind it")
        }
        RecordAt::Malformed => store(within(), "the record is a broken aggregate, which is read again whole"),
        RecordAt::Unknown => {
            store(within(), "the stream did not show the record, so it is read again if it is no aggregate")
        }
        RecordAt::Foreign => Wanted::Refused(format!("the stream knows no such position in the shard: {OTHER}")),
    }
}

/// What should be stored for a shard that the KCL has no lease of.
fn without_lease(shard: &ListedShard, family: &Family<'_>, leases: &BTreeMap<&ShardId, &KclLease>) -> Wanted {
    if family.descendants(&shard.id).iter().any(|id| leases.contains_key(id)) {
        let why = "the KCL has gone on with its children";
        return Wanted::Store(Target::Checkpoint(Checkpoint::ShardEnd(None)), why.to_owned());
    }
    if family.ancestors(&shard.id).iter().any(|id| leases.contains_key(id)) {
        let why = "not begun: it is read from its oldest record, after its parents";
        return Wanted::Store(Target::Begins(StartPosition::Oldest), why.to_owned());
    }
    Wanted::Nothing("the KCL knows nothing of it: it begins as the pipeline's configuration says".to_owned())
}

/// Which shards came of which.
pub(super) struct Family<'a> {
    parents: BTreeMap<&'a ShardId, &'a [ShardId]>,
    children: BTreeMap<&'a ShardId, Vec<&'a ShardId>>,
}

impl<'a> Family<'a> {
    pub(super) fn new(listing: &'a [ListedShard]) -> Self {
        let parents = listing.iter().map(|shard| (&shard.id, &*shard.parents)).collect();
        let mut children: BTreeMap<&ShardId, Vec<&ShardId>> = BTreeMap::new();
        for shard in listing {
            for parent in &shard.parents {
                children.entry(parent).or_default().push(&shard.id);
            }
        }
        Self { parents, children }
    }

    pub(super) fn children(&self, id: &ShardId) -> &[&'a ShardId] {
        self.children.get(id).map_or(&[], Vec::as_slice)
    }

    fn descendants(&self, id: &ShardId) -> BTreeSet<&'a ShardId> {
        reachable(self.children(id).to_vec(), |id| self.children(id).to_vec())
    }

    /// The parents of a shard, their parents and so on, also those that the listing lacks.
    pub(super) fn ancestors(&self, id: &ShardId) -> BTreeSet<&'a ShardId> {
        let parents = |id: &ShardId| self.parents.get(id).map_or_else(Vec::new, |parents| parents.iter().collect());
        reachable(parents(id), parents)
    }
}

fn reachable<'a>(from: Vec<&'a ShardId>, next: impl Fn(&ShardId) -> Vec<&'a ShardId>) -> BTreeSet<&'a ShardId> {
    let (mut found, mut open) = (BTreeSet::new(), from);
    while let Some(id) = open.pop() {
        if found.insert(id) {
            open.extend(next(id));
        }
    }
    found
}

/// Whether a row says the same already. The time that is the latest is the one of the first import.
fn is_there(row: &Row, target: &Target, is_latest: bool) -> bool {
    match (target, &row.checkpoint) {
        (Target::Checkpoint(Checkpoint::Within(new)), Some(Checkpoint::Within(there))) => {
            (&new.record, new.sub) == (&there.record, there.sub)
        }
        (Target::Checkpoint(Checkpoint::ShardEnd(_)), Some(Checkpoint::ShardEnd(_))) => true,
        (Target::Checkpoint(new), Some(there)) => new == there,
        (Target::Begins(new), None) => match (new, &row.begins) {
            (StartPosition::At(_), Some(StartPosition::At(_))) if is_latest => true,
            (new, there) => there.as_ref() == Some(new),
        },
        _ => false,
    }
}

/// Whether a row of ours is further than what would be stored.
fn is_further(row: &Row, target: &Target) -> bool {
    match (target, &row.checkpoint) {
        (_, None) => false,
        (Target::Begins(_), Some(_)) => true,
        (Target::Checkpoint(new), Some(there)) => there.is_beyond(new),
    }
}

/// The position of a row of ours, for people.
pub(super) fn shown(row: &Row) -> String {
    match (&row.checkpoint, &row.begins) {
        (Some(checkpoint), _) => target_text(&Target::Checkpoint(checkpoint.clone())),
        (None, Some(begins)) => target_text(&Target::Begins(begins.clone())),
        (None, None) => "no position".to_owned(),
    }
}

fn target_text(target: &Target) -> String {
    match target {
        Target::Checkpoint(Checkpoint::After(number)) => format!("after {number}"),
        Target::Checkpoint(Checkpoint::Within(Within { record, sub, .. })) => format!("in {record}, after {sub}"),
        Target::Checkpoint(Checkpoint::ShardEnd(_)) => "ended".to_owned(),
        Target::Begins(StartPosition::At(time)) => match jiff::Timestamp::from_millisecond(*time) {
            Ok(time) => format!("from {time}"),
            Err(_) => format!("from {time} ms"),
        },
        Target::Begins(_) => "oldest".to_owned(),
    }
}

/// The record that a lease names, which has to be asked for.
pub(crate) fn record(lease: &KclLease) -> Option<&SequenceNumber> {
    match &lease.position {
        KclPosition::Record { number, .. } => Some(number),
        _ => None,
    }
}

/// Which owners have renewed leases between two reads. Where no row names an owner, the rows that changed show that the
/// KCL runs.
pub(crate) fn alive(
    before: &[(String, Result<KclRow, String>, super::row::Item)],
    after: &[(String, Result<KclRow, String>, super::row::Item)],
) -> BTreeSet<String> {
    let seen: BTreeMap<&str, _> = before.iter().map(|(key, row, item)| (key.as_str(), (row, item))).collect();
    let still: BTreeSet<&str> = after.iter().map(|(key, _, _)| key.as_str()).collect();
    let (mut owners, mut rows) = (BTreeSet::new(), BTreeSet::new());
    rows.extend(before.iter().filter(|(key, ..)| !still.contains(key.as_str())).map(|(key, ..)| key));
    for (key, row, item) in after {
        match seen.get(key.as_str()) {
            Some((_, old)) if *old == item => {}
            _ => match row {
                Ok(KclRow::Lease(KclLease { owner: Some(owner), .. })) => {
                    owners.insert(owner.clone());
                }
                _ => {
                    rows.insert(key);
                }
            },
        }
    }
    if owners.is_empty() {
        owners.extend(rows.into_iter().map(|row| format!("some worker (in the row {row})")));
    }
    owners
}

#[cfg(test)]
#[path = "plan_tests.rs"]
mod tests;
