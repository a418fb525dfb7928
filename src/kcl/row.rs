//! What does a row of the KCL's lease table say?
//!
//! This module is pure. It reads the rows of KCL 2 and 3: tables of one stream and of several, and the single table of
//! KCL 3.5, which holds more than leases.
//!
//! Source: `DynamoDBLeaseSerializer` and `DynamoDBMultiStreamLeaseSerializer` of KCL 2.x to 3.5.

use std::collections::HashMap;
use std::fmt;

use aws_sdk_dynamodb::types::AttributeValue;

use crate::model::{HashRange, SequenceNumber, ShardId};

pub(super) const KEY: &str = "leaseKey";
pub(super) const OWNER: &str = "leaseOwner";
pub(super) const COUNTER: &str = "leaseCounter";
pub(super) const CHECKPOINT: &str = "checkpoint";
pub(super) const SUB: &str = "checkpointSubSequenceNumber";
pub(super) const PARENTS: &str = "parentShardId";
pub(super) const CHILDREN: &str = "childShardIds";
pub(super) const FIRST_HASH: &str = "startingHashKey";
pub(super) const LAST_HASH: &str = "endingHashKey";
pub(super) const ENTITY: &str = "entityType";
pub(super) const LEASE: &str = "LEASE";
pub(super) const STREAM: &str = "streamName";
pub(super) const SHARD: &str = "shardId";
pub(super) const SWITCHES: &str = "ownerSwitchesSinceCheckpoint";

pub(super) type Item = HashMap<String, AttributeValue>;

/// A lease of the KCL.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct KclLease {
    /// The `leaseKey`.
    pub(crate) key: String,
    pub(crate) shard: ShardId,
    /// The stream, if the table is of several.
    pub(crate) stream: Option<StreamKey>,
    /// The owner, dead or alive.
    pub(crate) owner: Option<String>,
    /// The heartbeat: every renewal adds one.
    pub(crate) counter: i64,
    pub(crate) position: KclPosition,
    pub(crate) parents: Vec<ShardId>,
    pub(crate) hash_range: Option<HashRange>,
}

/// A stream in a table of several. A recreated stream has another creation time.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct StreamKey {
    pub(crate) account: String,
    pub(crate) name: String,
    /// The creation time in seconds since 1970.
    pub(crate) created: i64,
}

/// How far the KCL has processed a shard.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum KclPosition {
    /// Nothing is processed; the KCL begins at the oldest record.
    TrimHorizon,
    /// Nothing is processed; the KCL begins at the latest record, as it is whenever the KCL begins.
    Latest,
    /// Nothing is processed; the KCL begins at a time of its configuration.
    AtTimestamp,
    /// The user records of this record are processed up to and including the one of this index, and everything before.
    /// The KCL resumes at the record, so index 0 is a whole record, or the first of an aggregate.
    Record { number: SequenceNumber, sub: u64 },
    /// The whole shard is processed.
    ShardEnd,
}

/// A row of the table.
#[derive(Debug, Clone, PartialEq, Eq)]
#[expect(clippy::large_enum_variant, reason = "nearly all rows are leases")]
pub(crate) enum KclRow {
    Lease(KclLease),
    /// A row of the single table of KCL 3.5 that is no lease.
    Other,
}

impl KclPosition {
    /// Whether this is further than the other. A position that is a word is before every record.
    pub(crate) fn is_beyond(&self, other: &Self) -> bool {
        self.rank() > other.rank()
    }

    fn rank(&self) -> (u8, Option<(&SequenceNumber, u64)>) {
        match self {
            Self::TrimHorizon | Self::Latest | Self::AtTimestamp => (0, None),
            Self::Record { number, sub } => (1, Some((number, *sub))),
            Self::ShardEnd => (2, None),
        }
    }

    /// The text of `checkpoint`.
    pub(crate) fn text(&self) -> &str {
        match self {
            Self::TrimHorizon => "TRIM_HORIZON",
            Self::Latest => "LATEST",
            Self::AtTimestamp => "AT_TIMESTAMP",
            Self::ShardEnd => "SHARD_END",
            Self::Record { number, .. } => number.as_str(),
        }
    }

    /// The value of `checkpointSubSequenceNumber`.
    pub(crate) fn sub(&self) -> u64 {
        match self {
            Self::Record { sub, .. } => *sub,
            _ => 0,
        }
    }
}

impl fmt::Display for KclPosition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Record { number, sub } => write!(f, "{number}/{sub}"),
            word => f.write_str(word.text()),
        }
    }
}

impl fmt::Display for StreamKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}:{}", self.account, self.name, self.created)
    }
}

/// The `leaseKey` of a row, for messages.
pub(super) fn key(item: &Item) -> &str {
    string(item, KEY).unwrap_or("?")
}

fn string<'i>(item: &'i Item, name: &str) -> Option<&'i str> {
    item.get(name)?.as_s().ok().map(String::as_str).filter(|text| !text.is_empty())
}

/// Reads a row, or says which row can't be understood and why.
pub(crate) fn read(item: &Item) -> Result<KclRow, String> {
    let key = string(item, KEY).ok_or_else(|| format!("a row has no {KEY}; is this a lease table of the KCL?"))?;
    read_lease(key, item).map_err(|what| format!("the row {key}: {what}"))
}

fn read_lease(key: &str, item: &Item) -> Result<KclRow, String> {
    match item.get(ENTITY) {
        None => {}
        Some(AttributeValue::S(entity)) if entity == LEASE => {}
        Some(AttributeValue::S(_)) => return Ok(KclRow::Other),
        Some(_) => return Err(format!("its {ENTITY} is no text")),
    }
    let (stream, shard) = if key.contains(':') {
        let (stream, shard) = of_several(key)?;
        (Some(stream), shard)
    } else {
        (None, key)
    };
    if let Some(other) = string(item, SHARD).filter(|other| *other != shard) {
        return Err(format!("its {SHARD} is {other}, which is not the shard of its key"));
    }
    let owner = match item.get(OWNER) {
        None | Some(AttributeValue::Null(_)) => None,
        Some(AttributeValue::S(owner)) => Some(owner.clone()).filter(|owner| !owner.is_empty()),
        Some(_) => return Err(format!("its {OWNER} is no text")),
    };
    let counter = whole(item, COUNTER)?.ok_or_else(|| format!("it has no {COUNTER}"))?;
    let hash_range = match (string(item, FIRST_HASH), string(item, LAST_HASH)) {
        (None, None) => None,
        (Some(first), Some(last)) => {
            Some(HashRange::new(first, last).ok_or_else(|| format!("{first:?} to {last:?} is no range of hash keys"))?)
        }
        _ => return Err(format!("it has only one of {FIRST_HASH} and {LAST_HASH}")),
    };
    Ok(KclRow::Lease(KclLease {
        key: key.to_owned(),
        shard: shard.into(),
        stream,
        owner,
        counter,
        position: position(item)?,
        parents: parents(item)?,
        hash_range,
    }))
}

/// Reads a key of a table of several streams: `account:stream:creationEpoch:shardId`.
fn of_several(key: &str) -> Result<(StreamKey, &str), String> {
    let wrong = || "its key is neither a shard's id nor `account:stream:creationEpoch:shardId`".to_owned();
    let parts: Vec<&str> = key.split(':').collect();
    let [account, name, created, shard] = parts[..] else { return Err(wrong()) };
    if account.is_empty() || name.is_empty() || shard.is_empty() {
        return Err(wrong());
    }
    let created = created.parse().map_err(|_| wrong())?;
    Ok((StreamKey { account: account.to_owned(), name: name.to_owned(), created }, shard))
}

fn position(item: &Item) -> Result<KclPosition, String> {
    let text = match item.get(CHECKPOINT) {
        None => return Err(format!("it has no {CHECKPOINT}")),
        Some(AttributeValue::S(text)) => text.as_str(),
        Some(_) => return Err(format!("its {CHECKPOINT} is no text")),
    };
    Ok(match text {
        "TRIM_HORIZON" => KclPosition::TrimHorizon,
        "LATEST" => KclPosition::Latest,
        "AT_TIMESTAMP" => KclPosition::AtTimestamp,
        "SHARD_END" => KclPosition::ShardEnd,
        number => {
            let number = SequenceNumber::stored(number).map_err(|error| format!("its {CHECKPOINT} is {error}"))?;
            // The KCL takes a missing index as 0.
            let sub = whole(item, SUB)?.unwrap_or_default();
            let sub = u64::try_from(sub).map_err(|_| format!("its {SUB} is negative: {sub}"))?;
            KclPosition::Record { number, sub }
        }
    })
}

/// Reads a whole number.
fn whole(item: &Item, name: &str) -> Result<Option<i64>, String> {
    match item.get(name) {
        None | Some(AttributeValue::Null(_)) => Ok(None),
        Some(AttributeValue::N(text)) => {
            text.parse().map(Some).map_err(|_| format!("its {name} is no whole number: {text:?}"))
        }
        Some(_) => Err(format!("its {name} is no number")),
    }
}

fn parents(item: &Item) -> Result<Vec<ShardId>, String> {
    match item.get(PARENTS) {
        None | Some(AttributeValue::Null(_)) => Ok(Vec::new()),
        Some(AttributeValue::Ss(parents)) => Ok(parents.iter().map(|parent| parent.as_str().into()).collect()),
        Some(_) => Err(format!("its {PARENTS} is no set of texts")),
    }
}

/// Rows as the KCL writes them, for the tests of this folder.
#[cfg(test)]
pub(super) mod rows {
    use super::*;

    fn text(text: &str) -> AttributeValue {
        AttributeValue::S(text.to_owned())
    }

    fn number(number: &str) -> AttributeValue {
        AttributeValue::N(number.to_owned())
    }

    /// A lease of KCL 2 in a table of one stream.
    pub(crate) fn kcl_2(shard: &str, checkpoint: &str, sub: u64) -> Item {
        [
            (KEY, text(shard)),
            (OWNER, text("worker-of-the-kcl")),
            (COUNTER, number("17")),
            (SWITCHES, number("3")),
            (CHECKPOINT, text(checkpoint)),
            (SUB, number(&sub.to_string())),
        ]
        .into_iter()
        .map(|(name, value)| (name.to_owned(), value))
        .collect()
    }

    /// A lease of KCL 3 in a table of one stream, with a pending checkpoint.
    pub(crate) fn kcl_3(shard: &str, checkpoint: &str, sub: u64) -> Item {
        let mut item = kcl_2(shard, checkpoint, sub);
        item.insert(FIRST_HASH.into(), text("0"));
        item.insert(LAST_HASH.into(), text("340282366920938463463374607431768211455"));
        item.insert("throughputKBps".into(), number("12.5"));
        item.insert("pendingCheckpoint".into(), text("99999"));
        item.insert("pendingCheckpointSubSequenceNumber".into(), number("9"));
        item.insert("checkpointOwner".into(), text("worker-before"));
        item
    }

    /// A lease in the single table of KCL 3.5.
    pub(crate) fn kcl_3_5(shard: &str, checkpoint: &str, sub: u64) -> Item {
        let mut item = kcl_3(shard, checkpoint, sub);
        item.insert(ENTITY.into(), text(LEASE));
        item
    }

    /// A lease in a table of several streams.
    pub(crate) fn several(stream: &str, shard: &str, checkpoint: &str, sub: u64) -> Item {
        let mut item = kcl_2(&format!("{stream}:{shard}"), checkpoint, sub);
        item.insert(STREAM.into(), text(stream));
        item.insert(SHARD.into(), text(shard));
        item
    }

    /// A row of the single table that is no lease.
    pub(crate) fn other(key: &str, entity: &str) -> Item {
        [(KEY, key), (ENTITY, entity)].into_iter().map(|(name, value)| (name.to_owned(), text(value))).collect()
    }

    pub(crate) fn with(mut item: Item, name: &str, value: AttributeValue) -> Item {
        item.insert(name.to_owned(), value);
        item
    }

    pub(crate) fn without(mut item: Item, name: &str) -> Item {
        item.remove(name);
        item
    }

    pub(crate) fn lease(item: &Item) -> KclLease {
        match read(item) {
            Ok(KclRow::Lease(lease)) => lease,
            other => panic!("{other:?}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::rows::{kcl_2, kcl_3, kcl_3_5, lease, other, several, with, without};
    use super::*;

    const SHARD_ID: &str = "shardId-000000000001";
    const NUMBER: &str = "49590338271490256608559692538361571095921575989136588898";

    fn record(sub: u64) -> KclPosition {
        KclPosition::Record { number: SequenceNumber::new(NUMBER).unwrap(), sub }
    }

    #[test]
    fn leases_of_every_version_of_the_kcl_are_read() {
        for item in [kcl_2(SHARD_ID, NUMBER, 7), kcl_3(SHARD_ID, NUMBER, 7), kcl_3_5(SHARD_ID, NUMBER, 7)] {
            let lease = lease(&item);
            assert_eq!((lease.shard.as_str(), &lease.position), (SHARD_ID, &record(7)));
            assert_eq!((lease.owner.as_deref(), lease.counter, lease.stream), (Some("worker-of-the-kcl"), 17, None));
        }
        assert!(lease(&kcl_3(SHARD_ID, NUMBER, 0)).hash_range.unwrap().is_whole());
    }

    #[test]
    fn leases_of_several_streams_are_read() {
        let lease = lease(&several("111122223333:orders:1700000000", SHARD_ID, NUMBER, 0));
        let stream = lease.stream.unwrap();
        assert_eq!((stream.account.as_str(), stream.name.as_str()), ("111122223333", "orders"));
        assert_eq!((stream.created, lease.shard.as_str()), (1_700_000_000, SHARD_ID));
    }

    #[test]
    fn words_are_positions_without_a_record() {
        let words = [
            ("TRIM_HORIZON", KclPosition::TrimHorizon),
            ("LATEST", KclPosition::Latest),
            ("AT_TIMESTAMP", KclPosition::AtTimestamp),
            ("SHARD_END", KclPosition::ShardEnd),
        ];
        for (word, position) in words {
            assert_eq!(lease(&kcl_2(SHARD_ID, word, 0)).position, position);
            assert_eq!(position.to_string(), word);
        }
    }

    #[test]
    fn rows_of_the_single_table_that_are_no_leases_are_left_out() {
        for entity in ["STREAM", "LEADER", "CLIENT_VERSION_MIGRATION", "TABLE_MIGRATION", "WORKER_METRIC_STATS", "NEW"]
        {
            assert_eq!(read(&other("x", entity)), Ok(KclRow::Other), "{entity}");
        }
    }

    #[test]
    fn attributes_that_may_be_missing_are_not_needed() {
        let free = without(without(without(kcl_2(SHARD_ID, NUMBER, 4), OWNER), SUB), SWITCHES);
        let lease = lease(&free);
        assert_eq!((lease.owner, lease.position, lease.parents), (None, record(0), Vec::new()));
    }

    #[test]
    fn row_that_makes_no_sense_is_named() {
        let text = |text: &str| AttributeValue::S(text.to_owned());
        let number = |text: &str| AttributeValue::N(text.to_owned());
        let whole = kcl_3(SHARD_ID, NUMBER, 0);
        let wrong = [
            (without(whole.clone(), CHECKPOINT), "has no checkpoint"),
            (with(whole.clone(), CHECKPOINT, number("5")), "checkpoint is no text"),
            (with(whole.clone(), CHECKPOINT, text("")), "not a sequence number"),
            (with(whole.clone(), CHECKPOINT, text("trim_horizon")), "not a sequence number"),
            (with(whole.clone(), CHECKPOINT, text("0")), "not a sequence number"),
            (with(whole.clone(), SUB, number("-1")), "negative"),
            (with(whole.clone(), SUB, number("1.5")), "no whole number"),
            (with(whole.clone(), SUB, text("1")), "is no number"),
            (without(whole.clone(), COUNTER), "no leaseCounter"),
            (with(whole.clone(), OWNER, number("1")), "leaseOwner is no text"),
            (with(whole.clone(), PARENTS, text("p")), "no set of texts"),
            (without(whole.clone(), LAST_HASH), "only one of"),
            (with(whole.clone(), FIRST_HASH, text("x")), "no range"),
            (with(whole.clone(), ENTITY, number("1")), "entityType is no text"),
            (with(whole.clone(), SHARD, text("another")), "not the shard of its key"),
        ];
        for (item, part) in wrong {
            let what = read(&item).unwrap_err();
            assert!(what.starts_with("the row shardId-000000000001: ") && what.contains(part), "{what}");
        }
        for key in ["a:b", "a:b:c:d", ":b:1:d", "a:b:1:", "a:b:1:d:e"] {
            let what = read(&kcl_2(key, NUMBER, 0)).unwrap_err();
            assert!(what.contains(key) && what.contains("neither"), "{what}");
        }
        assert!(read(&Item::new()).unwrap_err().contains("no leaseKey"));
    }

    #[test]
    fn positions_are_ordered() {
        let at = |number: &str, sub| KclPosition::Record { number: SequenceNumber::new(number).unwrap(), sub };
        let order = [KclPosition::TrimHorizon, at("9", 5), at("10", 0), at("10", 1), KclPosition::ShardEnd];
        for (index, position) in order.iter().enumerate() {
            assert!(order[..index].iter().all(|before| position.is_beyond(before) && !before.is_beyond(position)));
        }
        assert!(!KclPosition::Latest.is_beyond(&KclPosition::TrimHorizon));
    }
}
