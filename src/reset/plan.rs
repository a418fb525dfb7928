//! Which rows change when a stream, or some of its shards, is read again from another position?
//!
//! This module is pure. A shard that goes back takes its descendants along: their records come after its own, and would
//! otherwise not be delivered again behind them.

use std::collections::{BTreeMap, BTreeSet};

use serde::Serialize;

use crate::lease::{Checkpoint, Row};
use crate::model::{ListedShard, SequenceNumber, ShardId, StartPosition};

/// Where shards are read from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Target {
    /// The oldest record that the stream still has.
    Oldest,
    /// What is written from this time on; in milliseconds since 1970.
    Latest(i64),
    /// The first record that arrived at this time or later; in milliseconds since 1970.
    Time(i64),
    /// This record of one shard.
    Record(SequenceNumber),
}

/// What happens to one shard.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct Line {
    /// The shard.
    pub shard: String,
    /// Where it is read from now.
    pub before: String,
    /// Where it will be read from; the same as before if nothing is written.
    pub after: String,
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
    /// The row stays as it is.
    Keep,
    /// The row can't be changed, so nothing is.
    Refuse,
}

/// A row to write.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Write {
    pub(crate) shard: ShardId,
    pub(crate) checkpoint: Option<Checkpoint>,
    pub(crate) begins: Option<StartPosition>,
    /// The row that is replaced; `None` if there must be none.
    pub(crate) instead_of: Option<Row>,
}

/// What is known when a reset is planned.
#[derive(Debug)]
pub(crate) struct Known<'a> {
    pub(crate) listing: &'a [ListedShard],
    pub(crate) rows: &'a [Row],
    pub(crate) target: &'a Target,
    /// The shards to reset; empty for all of the stream.
    pub(crate) shards: &'a BTreeSet<ShardId>,
}

/// What happens, and the rows to write, descendants before their ancestors: if writing stops halfway, no shard was reset
/// whose descendants were not.
pub(crate) fn plan(known: &Known<'_>) -> (Vec<Line>, Vec<Write>) {
    let rows: BTreeMap<&ShardId, &Row> = known.rows.iter().map(|row| (&row.shard, row)).collect();
    let (mut lines, mut writes) = (Vec::new(), Vec::new());
    for shard in known.shards {
        if !known.listing.iter().any(|listed| listed.id == *shard) {
            let why = "the stream has no such shard; its records are past retention, or it never existed".to_owned();
            let row = rows.get(shard).copied();
            lines.push(Line {
                shard: shard.to_string(),
                before: shown(row),
                after: "-".into(),
                action: Action::Refuse,
                why,
            });
        }
    }
    let mut behind: BTreeMap<ShardId, ShardId> = BTreeMap::new();
    for listed in parents_first(known.listing) {
        let row = rows.get(&listed.id).copied();
        let is_meant = known.shards.is_empty() || known.shards.contains(&listed.id);
        let follows = listed.parents.iter().find(|parent| behind.contains_key(*parent));
        let (checkpoint, begins, why) = if is_meant {
            let (checkpoint, begins) = position(known.target, listed);
            (checkpoint, begins, String::new())
        } else if let Some(parent) = follows.filter(|_| row.is_some_and(is_begun)) {
            (None, Some(StartPosition::Oldest), format!("it follows {parent}, which is read again"))
        } else {
            if let Some(parent) = follows {
                // Its own children may have been read nevertheless.
                behind.insert(listed.id.clone(), parent.clone());
            }
            continue;
        };
        if goes_back(row, checkpoint.as_ref(), begins.as_ref()) {
            behind.insert(listed.id.clone(), listed.id.clone());
        }
        let after = words(checkpoint.as_ref(), begins.as_ref());
        let (action, why) = match row.map(refusal) {
            Some(Some(why)) => (Action::Refuse, why),
            _ if shown(row) == after => (Action::Keep, "it is there already".to_owned()),
            _ => (Action::Write, why),
        };
        lines.push(Line { shard: listed.id.to_string(), before: shown(row), after, action, why });
        if action == Action::Write {
            writes.push(Write { shard: listed.id.clone(), checkpoint, begins, instead_of: row.cloned() });
        }
    }
    writes.reverse();
    (lines, writes)
}

/// The shards, each after its parents.
fn parents_first(listing: &[ListedShard]) -> Vec<&ListedShard> {
    let mut left: Vec<&ListedShard> = listing.iter().collect();
    let mut done: BTreeSet<&ShardId> = BTreeSet::new();
    let mut ordered = Vec::with_capacity(left.len());
    while !left.is_empty() {
        let listed: BTreeSet<&ShardId> = left.iter().map(|shard| &shard.id).collect();
        let waits =
            |shard: &&ListedShard| shard.parents.iter().any(|parent| !done.contains(parent) && listed.contains(parent));
        let (rest, free): (Vec<_>, Vec<_>) = left.into_iter().partition(waits);
        if free.is_empty() {
            // Shards that are each other's parents do not exist; whatever a listing says, this ends.
            ordered.extend(rest);
            break;
        }
        done.extend(free.iter().map(|shard| &shard.id));
        ordered.extend(free);
        left = rest;
    }
    ordered
}

fn position(target: &Target, shard: &ListedShard) -> (Option<Checkpoint>, Option<StartPosition>) {
    match target {
        Target::Oldest => (None, Some(StartPosition::Oldest)),
        // Nothing more will be written to a closed shard.
        Target::Latest(_) if shard.closed => (Some(Checkpoint::ShardEnd(None)), None),
        Target::Latest(time) | Target::Time(time) => (None, Some(StartPosition::At(*time))),
        Target::Record(record) => (None, Some(StartPosition::AtRecord(record.clone()))),
    }
}

/// Whether anything of a shard was processed.
fn is_begun(row: &Row) -> bool {
    row.checkpoint.is_some()
}

/// Whether records of the shard that were processed may come again.
fn goes_back(row: Option<&Row>, checkpoint: Option<&Checkpoint>, begins: Option<&StartPosition>) -> bool {
    let Some(before) = row.and_then(|row| row.checkpoint.as_ref()) else { return false };
    match (checkpoint, begins) {
        (Some(_), _) => false,
        (None, Some(StartPosition::AtRecord(record))) => {
            matches!(before, Checkpoint::ShardEnd(_)) || before.reached().is_none_or(|reached| record <= reached)
        }
        (None, _) => true,
    }
}

/// The reason why a row must not be changed.
fn refusal(row: &Row) -> Option<String> {
    if let Some(what) = &row.unreadable {
        return Some(format!("the row can't be read: {what}"));
    }
    let hold = row.hold.as_ref()?;
    let worker = &hold.worker;
    Some(format!(
        "{worker} holds it; stop the pipelines that read the stream, and release what a worker left behind with \
         `kinesis-input leases --release {worker}`"
    ))
}

fn shown(row: Option<&Row>) -> String {
    match row {
        None => "-".to_owned(),
        Some(row) if row.unreadable.is_some() => "?".to_owned(),
        Some(row) => words(row.checkpoint.as_ref(), row.begins.as_ref()),
    }
}

/// A position, for people.
fn words(checkpoint: Option<&Checkpoint>, begins: Option<&StartPosition>) -> String {
    match (checkpoint, begins) {
        (Some(Checkpoint::ShardEnd(_)), _) => "ended".to_owned(),
        (Some(Checkpoint::After(record)), _) => format!("after {record}"),
        (Some(Checkpoint::Within(within)), _) => format!("inside {}, after its record {}", within.record, within.sub),
        (None, Some(StartPosition::Oldest)) => "oldest".to_owned(),
        (None, Some(StartPosition::At(time))) => match jiff::Timestamp::from_millisecond(*time) {
            Ok(time) => format!("time {time:.3}"),
            Err(_) => format!("time {time}"),
        },
        (None, Some(StartPosition::AtRecord(record))) => format!("at {record}"),
        (None, _) => "-".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lease::Hold;

    fn number(text: &str) -> SequenceNumber {
        SequenceNumber::new(text).unwrap()
    }

    fn shard(id: &str, parents: &[&str], closed: bool) -> ListedShard {
        let parents = parents.iter().map(|parent| (*parent).into()).collect();
        ListedShard { id: id.into(), parents, closed, begin: None, hash_range: None }
    }

    /// `a` was split into `b` and `c`, and `c` into `d` and `e`. `x` is beside them.
    fn listing() -> Vec<ListedShard> {
        vec![
            shard("e", &["c"], false),
            shard("d", &["c"], false),
            shard("b", &["a"], false),
            shard("c", &["a"], true),
            shard("a", &[], true),
            shard("x", &[], false),
        ]
    }

    fn ended(id: &str) -> Row {
        Row::new(id, Some(Checkpoint::ShardEnd(None)))
    }

    fn after(id: &str, record: &str) -> Row {
        Row::new(id, Some(Checkpoint::After(number(record))))
    }

    /// The rows after everything of `a` and `c` was read, and parts of the others. Nothing of `e` was.
    fn rows() -> Vec<Row> {
        vec![ended("a"), after("b", "20"), ended("c"), after("d", "30"), after("x", "40"), Row::new("e", None)]
    }

    /// The shards that are written, in order, with their new positions.
    fn written(target: &Target, shards: &[&str], rows: &[Row]) -> Vec<(String, String)> {
        let (listing, shards) = (listing(), shards.iter().map(|shard| (*shard).into()).collect());
        let (lines, writes) = plan(&Known { listing: &listing, rows, target, shards: &shards });
        let actions = lines.iter().filter(|line| line.action == Action::Write).count();
        assert_eq!(actions, writes.len());
        writes
            .iter()
            .map(|write| (write.shard.to_string(), words(write.checkpoint.as_ref(), write.begins.as_ref())))
            .collect()
    }

    fn pairs(expected: &[(&str, &str)]) -> Vec<(String, String)> {
        expected.iter().map(|(shard, at)| ((*shard).to_owned(), (*at).to_owned())).collect()
    }

    #[test]
    fn whole_stream_is_read_again_descendants_first() {
        let found = written(&Target::Oldest, &[], &rows());
        let order: Vec<&str> = found.iter().map(|(shard, _)| shard.as_str()).collect();
        assert_eq!(found.len(), 6);
        assert!(found.iter().all(|(_, at)| at == "oldest"));
        let at = |shard: &str| order.iter().position(|other| *other == shard).unwrap();
        assert!(at("d") < at("c") && at("e") < at("c") && at("c") < at("a") && at("b") < at("a"), "{order:?}");
    }

    #[test]
    fn latest_ends_what_is_closed() {
        let found = written(&Target::Latest(1_700_000_000_000), &[], &rows());
        let time = "time 2023-11-14T22:13:20.000Z";
        // What has ended stays so.
        assert_eq!(found, pairs(&[("d", time), ("e", time), ("b", time), ("x", time)]));
        let found = written(&Target::Latest(1_700_000_000_000), &["a"], &[after("a", "5")]);
        assert_eq!(found, pairs(&[("a", "ended")]), "its children are not touched");
    }

    #[test]
    fn shard_that_goes_back_takes_its_descendants_along() {
        let found = written(&Target::Record(number("10")), &["a"], &rows());
        // Nothing of `e` was processed, so it begins at its oldest record anyway.
        assert_eq!(found, pairs(&[("d", "oldest"), ("c", "oldest"), ("b", "oldest"), ("a", "at 10")]));
        let found = written(&Target::Record(number("25")), &["b"], &rows());
        assert_eq!(found, pairs(&[("b", "at 25")]), "forward, and without children");
        let (listing, shards) = (listing(), BTreeSet::from(["a".into()]));
        let target = Target::Oldest;
        let (lines, _) = plan(&Known { listing: &listing, rows: &rows(), target: &target, shards: &shards });
        let why = |shard: &str| lines.iter().find(|line| line.shard == shard).unwrap().why.clone();
        assert_eq!(why("d"), "it follows c, which is read again");
    }

    #[test]
    fn nothing_changes_where_it_is_so_already() {
        let row = Row { begins: Some(StartPosition::Oldest), ..Row::new("x", None) };
        assert_eq!(written(&Target::Oldest, &["x"], &[row]), []);
    }

    #[test]
    fn held_unreadable_and_unknown_shards_are_refused() {
        let hold = Hold { worker: "w".into(), epoch: Some(1), stamp: "1".into() };
        let held = Row { hold: Some(hold), ..after("x", "40") };
        let odd = Row { unreadable: Some("its SequenceNumber is odd".into()), ..Row::new("b", None) };
        for (rows, shard, why) in
            [(vec![held], "x", "w holds it"), (vec![odd], "b", "can't be read"), (vec![], "y", "no such shard")]
        {
            let (listing, shards) = (listing(), BTreeSet::from([shard.into()]));
            let (lines, writes) =
                plan(&Known { listing: &listing, rows: &rows, target: &Target::Oldest, shards: &shards });
            assert_eq!((lines.len(), lines[0].action), (1, Action::Refuse), "{shard}");
            assert!(lines[0].why.contains(why), "{}", lines[0].why);
            assert_eq!(writes, []);
        }
    }
}
