//! What becomes of our positions in the KCL's table, or why nothing does?
//!
//! This module is pure. The KCL resumes at the record of a position, and skips its user records up to the sub-sequence
//! number.

use std::collections::BTreeMap;

use super::plan::{Action, Family, Line, Planned, RecordAt, shown, unusable};
use super::row::{KclLease, KclPosition};
use crate::lease::{Checkpoint, Row};
use crate::model::{ListedShard, SequenceNumber, ShardId, StartPosition, Stream};

/// What is known when an export is planned.
#[derive(Debug)]
pub(crate) struct Known<'a> {
    pub(crate) stream: &'a Stream,
    pub(crate) listing: &'a [ListedShard],
    pub(crate) leases: &'a [KclLease],
    pub(crate) ours: &'a [Row],
    /// What is at the records behind which our checkpoints are.
    pub(crate) records: &'a BTreeMap<ShardId, RecordAt>,
    /// Whether rows are made of shards that the KCL has none of.
    pub(crate) create: bool,
}

/// A row to write to the KCL's table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Write {
    pub(crate) shard: ListedShard,
    pub(crate) position: KclPosition,
    pub(crate) children: Vec<ShardId>,
    /// The lease that is changed. It must not have been renewed; without one a row is made.
    pub(crate) lease: Option<KclLease>,
}

/// The record that our row names, which has to be asked for.
pub(crate) fn record(row: &Row) -> Option<&SequenceNumber> {
    match &row.checkpoint {
        Some(Checkpoint::After(number)) => Some(number),
        _ => None,
    }
}

/// Plans an export.
pub(crate) fn export(known: &Known<'_>) -> Planned<Write> {
    let mut planned = Planned::new();
    planned.refusals.extend(unusable(known.stream, known.ours));
    let leases: BTreeMap<&ShardId, &KclLease> = known.leases.iter().map(|lease| (&lease.shard, lease)).collect();
    let ours: BTreeMap<&ShardId, &Row> = known.ours.iter().map(|row| (&row.shard, row)).collect();
    let family = Family::new(known.listing);
    if known.ours.is_empty() {
        planned.refusals.push("our table has no position of this stream".to_owned());
    }
    let mut shards: Vec<&ListedShard> = known.listing.iter().collect();
    shards.sort_by(|a, b| a.id.cmp(&b.id));
    for shard in shards {
        let (row, lease) = (ours.get(&shard.id).copied(), leases.get(&shard.id).copied());
        let follows = family.ancestors(&shard.id).iter().any(|id| ours.contains_key(id));
        let (action, position, why) = one(row, lease, known.records.get(&shard.id).copied(), follows, known.create);
        planned.lines.push(Line {
            shard: shard.id.to_string(),
            kcl: match (action, &position, lease) {
                (Action::Write, Some(position), _) => position.to_string(),
                (_, _, Some(lease)) => lease.position.to_string(),
                _ => "-".to_owned(),
            },
            ours: row.map_or_else(|| "-".to_owned(), shown),
            action,
            why,
        });
        if let (Action::Write, Some(position)) = (action, position) {
            planned.writes.push(Write {
                shard: shard.clone(),
                position,
                children: family.children(&shard.id).iter().map(|id| (*id).clone()).collect(),
                lease: lease.cloned(),
            });
        }
    }
    planned.or_nothing()
}

/// What happens to one shard.
fn one(
    row: Option<&Row>,
    lease: Option<&KclLease>,
    record: Option<RecordAt>,
    follows: bool,
    create: bool,
) -> (Action, Option<KclPosition>, String) {
    let say = |action, position, why: &str| (action, position, why.to_owned());
    let begins_oldest = row.is_some_and(|row| row.begins == Some(StartPosition::Oldest)) || follows;
    let Some(position) = row.and_then(|row| row.checkpoint.as_ref()).map(|checkpoint| position(checkpoint, record))
    else {
        return match lease {
            Some(_) => say(Action::Keep, None, "nothing of it was processed here"),
            None if begins_oldest && create => {
                say(Action::Write, Some(KclPosition::TrimHorizon), "not begun: the KCL reads it from its oldest record")
            }
            None if begins_oldest => say(
                Action::Refuse,
                None,
                "the KCL has no row of it, and might begin at its latest record; `--create` makes one",
            ),
            None => say(Action::Skip, None, "nothing of it was processed: it begins as the KCL's configuration says"),
        };
    };
    if record == Some(RecordAt::Foreign) {
        return say(
            Action::Refuse,
            None,
            "the stream knows no such position in the shard, so the KCL can't resume at it",
        );
    }
    match lease {
        Some(lease) if lease.position == position => say(Action::Keep, None, "is there already"),
        Some(lease) if lease.position.is_beyond(&position) => say(Action::Keep, None, "the KCL's is further"),
        Some(_) => say(Action::Write, Some(position), "replaces what is there"),
        None if create => say(Action::Write, Some(position), "the KCL has no row of it"),
        None if position == KclPosition::ShardEnd => say(
            Action::Skip,
            None,
            "ended, and the KCL has no row of it, as it has of no ended shard whose children are read",
        ),
        None => say(Action::Refuse, None, "the KCL has no row of it, and would begin anew; `--create` makes one"),
    }
}

/// Translates a checkpoint. Where the number of user records is unknown, those of the last record are read again.
fn position(checkpoint: &Checkpoint, record: Option<RecordAt>) -> KclPosition {
    match checkpoint {
        Checkpoint::ShardEnd(_) => KclPosition::ShardEnd,
        Checkpoint::Within(within) => KclPosition::Record { number: within.record.clone(), sub: u64::from(within.sub) },
        Checkpoint::After(number) => {
            let sub = match record {
                Some(RecordAt::Aggregate(count)) => u64::from(count.saturating_sub(1)),
                _ => 0,
            };
            KclPosition::Record { number: number.clone(), sub }
        }
    }
}
