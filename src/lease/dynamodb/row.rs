//! What is in a row of the table?
//!
//! This module is pure. Redpanda Connect writes whole items, so attributes that it doesn't know may be missing in any
//! row.

use std::collections::{BTreeSet, HashMap};
use std::time::{Duration, SystemTime};

use aws_sdk_dynamodb::types::AttributeValue;
use jiff::Timestamp;

use crate::lease::{Checkpoint, Hold, Presence, Row, Worker};
use crate::model::{SequenceNumber, StartPosition, Stream, WorkerId};

/// The attribute that says when the stream of the row was created, in milliseconds since 1970.
pub(super) const STREAM_CREATED: &str = "StreamCreated";

/// The attribute that names a record that is an aggregate, and the last of its user records that is processed. It
/// counts only where it lies behind `SequenceNumber`.
pub(super) const WITHIN: &str = "AggregatePosition";
/// The digits of the index in [`WITHIN`].
pub(super) const SUB_DIGITS: usize = 10;

/// The attribute that says where a shard begins that has no checkpoint: a time in milliseconds since 1970, with 0 for the
/// oldest record, or the sequence number of the first record as text.
pub(super) const START_AT: &str = "StartAt";

pub(super) type Item = HashMap<String, AttributeValue>;

pub(super) fn text(text: &str) -> AttributeValue {
    AttributeValue::S(text.to_owned())
}

/// Formats a point in time as Connect writes it: RFC 3339 with nanoseconds.
pub(super) fn time(at: SystemTime) -> AttributeValue {
    // A clock that is so wrong that it has no date is good enough for how other programs use the time.
    let at = Timestamp::try_from(at).unwrap_or(Timestamp::UNIX_EPOCH);
    AttributeValue::S(format!("{at:.9}"))
}

/// The id of a lease, which tells it from earlier ones. It contains the holder's name, because another program that
/// takes the shard changes only the holder.
pub(super) fn lease_id(holder: &WorkerId, epoch: u64) -> AttributeValue {
    AttributeValue::S(format!("{holder}/{epoch:016x}"))
}

fn epoch(holder: &str, lease_id: &str) -> Option<u64> {
    let epoch = lease_id.strip_prefix(holder)?.strip_prefix('/')?;
    u64::from_str_radix(epoch, 16).ok()
}

/// The creation time of a stream, as its rows store it.
pub(super) fn created(stream: &Stream) -> Option<AttributeValue> {
    stream.created().map(|created| AttributeValue::N(created.to_string()))
}

/// Reads a text attribute; an empty one counts as missing.
pub(super) fn string<'i>(item: &'i Item, name: &str) -> Option<&'i str> {
    item.get(name)?.as_s().ok().map(String::as_str).filter(|text| !text.is_empty())
}

pub(super) fn number(item: &Item, name: &str) -> Option<i64> {
    item.get(name)?.as_n().ok()?.parse().ok()
}

/// Reads a duration; zero counts as missing.
fn millis(item: &Item, name: &str) -> Option<Duration> {
    number(item, name)
        .and_then(|millis| u64::try_from(millis).ok())
        .filter(|millis| *millis > 0)
        .map(Duration::from_millis)
}

fn flag(item: &Item, name: &str) -> bool {
    item.get(name).is_some_and(|value| value.as_bool() == Ok(&true))
}

/// The range key, for messages.
pub(super) fn range(item: &Item) -> &str {
    string(item, "ShardID").unwrap_or("?")
}

/// Reads the lease in a row. An error in its position, and what to do about it, is part of the result.
pub(super) fn lease(item: &Item) -> Row {
    let (checkpoint, unreadable) = match position(item) {
        Ok(checkpoint) => (checkpoint, None),
        Err(what) => (None, Some(what)),
    };
    let id = string(item, "LeaseID");
    let hold = string(item, "ClientID").map(|holder| Hold {
        worker: holder.into(),
        epoch: id.and_then(|id| epoch(holder, id)),
        stamp: string(item, "LeaseTimeout").unwrap_or_default().to_owned(),
    });
    let requester = string(item, "WantedBy").map(WorkerId::from);
    let (foreign, created) = (id.is_none(), number(item, STREAM_CREATED));
    let begins = begins(item).unwrap_or_default();
    Row { shard: range(item).into(), checkpoint, begins, hold, requester, foreign, created, unreadable }
}

/// Reads the position in a row, or says what is wrong with it and what to do.
fn position(item: &Item) -> Result<Option<Checkpoint>, String> {
    const ADVICE: &str = "correct it, or remove the row to begin anew";
    let after = match item.get("SequenceNumber") {
        None => None,
        Some(AttributeValue::S(number)) if number.is_empty() => None,
        Some(AttributeValue::S(number)) => {
            Some(SequenceNumber::stored(number).map_err(|error| format!("its SequenceNumber is {error}; {ADVICE}"))?)
        }
        Some(_) => return Err(format!("its SequenceNumber is no text; {ADVICE}")),
    };
    let ended = match item.get("Ended") {
        None | Some(AttributeValue::Null(_)) => false,
        Some(AttributeValue::Bool(ended)) => *ended,
        Some(_) => return Err(format!("its Ended is neither true nor false; {ADVICE}")),
    };
    if item.contains_key(STREAM_CREATED) && number(item, STREAM_CREATED).is_none() {
        return Err(format!("its {STREAM_CREATED} is no whole number; {ADVICE}"));
    }
    begins(item).map_err(|what| format!("its {START_AT} is {what}; {ADVICE}"))?;
    let within = match item.get(WITHIN) {
        None | Some(AttributeValue::Null(_)) => None,
        Some(AttributeValue::S(text)) => match within(text) {
            Some(within) => Some(within),
            None => return Err(format!("its {WITHIN} is not of the form NUMBER/INDEX: {text:?}; {ADVICE}")),
        },
        Some(_) => return Err(format!("its {WITHIN} is no text; {ADVICE}")),
    };
    Ok(Checkpoint::stored(ended, after, within))
}

/// Reads where a shard begins that has no checkpoint, or says what is wrong with it.
fn begins(item: &Item) -> Result<Option<StartPosition>, String> {
    match item.get(START_AT) {
        None => Ok(None),
        Some(AttributeValue::S(record)) => {
            let record = SequenceNumber::stored(record).map_err(|error| error.to_string())?;
            Ok(Some(StartPosition::AtRecord(record)))
        }
        Some(_) => match number(item, START_AT) {
            Some(0) => Ok(Some(StartPosition::Oldest)),
            Some(time @ 1..) => Ok(Some(StartPosition::At(time))),
            _ => Err("no time in milliseconds".to_owned()),
        },
    }
}

/// Formats where a shard begins that has no checkpoint. A position behind a record would be a checkpoint.
pub(super) fn begins_value(begins: &StartPosition) -> Option<AttributeValue> {
    match begins {
        StartPosition::Oldest => Some(AttributeValue::N("0".to_owned())),
        StartPosition::At(time) => Some(AttributeValue::N(time.to_string())),
        StartPosition::AtRecord(record) => Some(text(record.as_str())),
        StartPosition::After(_) => None,
    }
}

fn within(text: &str) -> Option<(SequenceNumber, u32)> {
    let (record, sub) = text.split_once('/')?;
    Some((SequenceNumber::stored(record).ok()?, sub.parse().ok()?))
}

/// Formats a position inside an aggregate. Among positions of the same length the later text is the later position, so
/// that conditions can compare them.
pub(super) fn within_text(record: &SequenceNumber, sub: u32) -> String {
    format!("{record}/{sub:0SUB_DIGITS$}")
}

/// Reads the worker in a row.
pub(super) fn worker(item: &Item) -> Option<Worker> {
    let streams: BTreeSet<String> =
        item.get("Streams").and_then(|streams| streams.as_ss().ok()).into_iter().flatten().cloned().collect();
    Some(Worker {
        id: string(item, "ShardID")?.into(),
        heartbeat: string(item, "Beat")?.to_owned(),
        presence: Presence {
            streams,
            explicit: flag(item, "Explicit"),
            lease: millis(item, "LeaseMillis"),
            heartbeat_period: millis(item, "BeatMillis"),
        },
    })
}

/// Makes the part of a consumer's name that stands for the table: the table's name, and a hash that tells it from
/// tables of the same name in other regions and accounts, whose fleets may read the same stream, and from other
/// namespaces of the table. The result is at most as long as the service allows, and has only characters that the
/// service allows.
pub(super) fn consumer_part(name: &str, arn: &str, namespace: Option<&str>) -> String {
    const LONGEST: usize = 128 - "kinesis-input-".len();
    let namespace = namespace.map_or_else(String::new, |namespace| format!("-{namespace}"));
    let hash = arn
        .bytes()
        .chain(namespace.bytes())
        .fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3));
    // The configuration may give the table's ARN.
    let name = name.rsplit_once(":table/").map_or(name, |(_, name)| name);
    let allowed = |c: char| if c.is_ascii_alphanumeric() || "_.-".contains(c) { c } else { '-' };
    let start: String = name.chars().map(allowed).take((LONGEST - 17).saturating_sub(namespace.len())).collect();
    format!("{start}{namespace}-{hash:016x}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lease::Within;

    fn item(attributes: &[(&str, &str)]) -> Item {
        attributes.iter().map(|(name, value)| ((*name).to_owned(), text(value))).collect()
    }

    #[test]
    fn row_that_connect_writes_is_read() {
        let row = lease(&item(&[
            ("StreamID", "orders"),
            ("ShardID", "shardId-000000000001"),
            ("SequenceNumber", "49590338271490256608559692538361571095921575989136588898"),
            ("ClientID", "2f0bb2b2-7c3b-4f0e-9f0b-3a3a9b9a1f11"),
            ("LeaseTimeout", "2026-11-24T10:11:12.123456789+01:00"),
        ]));
        assert!(matches!(row.checkpoint, Some(Checkpoint::After(_))) && row.foreign);
        let hold = row.hold.unwrap();
        assert_eq!((hold.worker.as_str(), hold.epoch), ("2f0bb2b2-7c3b-4f0e-9f0b-3a3a9b9a1f11", None));
        assert_eq!(hold.stamp, "2026-11-24T10:11:12.123456789+01:00");
    }

    #[test]
    fn shard_that_connect_took_belongs_to_connect() {
        // Connect changes the holder and keeps the attributes of this input.
        let row = lease(&item(&[("ShardID", "s"), ("ClientID", "theirs"), ("LeaseID", "ours/00000000000000ff")]));
        assert_eq!(row.hold.unwrap().epoch, None);
        let ours = lease(&item(&[("ShardID", "s"), ("ClientID", "ours"), ("LeaseID", "ours/00000000000000ff")]));
        assert_eq!(ours.hold.unwrap().epoch, Some(255));
    }

    #[test]
    fn hand_made_positions_are_refused_by_name() {
        let words = ["TRIM_HORIZON", "LATEST", "AT_TIMESTAMP", "SHARD_END", "latest", "None", "null"];
        let odd = ["0", "000", "-1", " 49", "49 ", "4.5", "1e10", "0x1f", "\"49\"", "no number\n", "٤٩"];
        for text in words.into_iter().chain(odd) {
            let row = lease(&item(&[("ShardID", "s"), ("SequenceNumber", text)]));
            let what = row.unreadable.unwrap_or_else(|| panic!("{text:?} was taken"));
            assert!(what.contains(&format!("{text:?}")) && what.contains("remove the row"), "{what}");
            assert_eq!(row.shard, "s".into());
        }
        assert_eq!(lease(&item(&[("ShardID", "s"), ("SequenceNumber", "")])).unreadable, None);
    }

    #[test]
    fn position_inside_an_aggregate_counts_only_behind_the_last_whole_record() {
        let checkpoint = |attributes: &[(&str, &str)]| lease(&item(attributes)).checkpoint;
        let number = |text: &str| SequenceNumber::new(text).unwrap();
        let text = within_text(&number("50"), 7);
        assert_eq!(text, "50/0000000007");
        let row = |place: &'static str| [("ShardID", "s"), ("SequenceNumber", place), (WITHIN, "50/0000000007")];
        let within = |after: Option<&str>| {
            Some(Checkpoint::Within(Within { after: after.map(number), record: number("50"), sub: 7 }))
        };
        assert_eq!(checkpoint(&row("49")), within(Some("49")));
        assert_eq!(checkpoint(&row("")), within(None));
        // Another program has moved the checkpoint.
        for place in ["50", "100"] {
            assert_eq!(checkpoint(&row(place)), Some(Checkpoint::After(number(place))));
        }
        for odd in ["50", "50/", "/7", "50/-1", "50/x", "LATEST/7", "50/4294967296"] {
            let what = lease(&item(&[("ShardID", "s"), (WITHIN, odd)])).unreadable.unwrap();
            assert!(what.contains(WITHIN) && what.contains("remove the row"), "{what}");
        }
    }

    #[test]
    fn attributes_of_another_type_are_refused() {
        for name in ["SequenceNumber", "StreamCreated", "StartAt", "Ended"] {
            let mut wrong = item(&[("ShardID", "s")]);
            let value = match name {
                "SequenceNumber" => AttributeValue::N("5".into()),
                "StartAt" => AttributeValue::Bool(true),
                _ => text("5"),
            };
            wrong.insert(name.into(), value);
            let what = lease(&wrong).unreadable.unwrap();
            assert!(what.contains(name), "{what}");
        }
    }

    #[test]
    fn beginning_of_a_shard_is_a_time_or_a_record() {
        let record = StartPosition::AtRecord(SequenceNumber::new("5").unwrap());
        for begins in [StartPosition::Oldest, StartPosition::At(1_700_000_000_123), record] {
            let mut row = item(&[("ShardID", "s")]);
            row.insert(START_AT.into(), begins_value(&begins).unwrap());
            assert_eq!(lease(&row).begins, Some(begins));
        }
        for odd in [text("oldest"), text(" 5"), AttributeValue::N("-1".into()), AttributeValue::N("1.5".into())] {
            let mut row = item(&[("ShardID", "s")]);
            row.insert(START_AT.into(), odd.clone());
            let row = lease(&row);
            assert!(row.unreadable.is_some_and(|what| what.contains(START_AT)) && row.begins.is_none(), "{odd:?}");
        }
    }

    #[test]
    fn times_are_written_with_nanoseconds() {
        let at = SystemTime::UNIX_EPOCH + Duration::from_micros(1_700_000_000_123_456);
        assert_eq!(time(at), text("2023-11-14T22:13:20.123456000Z"));
    }

    #[test]
    fn fleets_of_other_tables_have_consumers_of_their_own() {
        let arn = |region: &str, name: &str| format!("arn:aws:dynamodb:{region}:111122223333:table/{name}");
        let part = |region: &str, name: &str| consumer_part(name, &arn(region, name), None);
        let within = |namespace: &str, name: &str| consumer_part(name, &arn("eu-west-1", name), Some(namespace));
        let long = |last: char| format!("{}{last}", "t".repeat(250));
        let names = [
            part("eu-west-1", "leases"),
            part("us-east-1", "leases"),
            consumer_part("leases", "arn:aws:dynamodb:eu-west-1:999922223333:table/leases", None),
            part("eu-west-1", &long('a')),
            part("eu-west-1", &long('b')),
            within("orders", "leases"),
            within("payments", "leases"),
            within(&"n".repeat(64), &long('a')),
            within(&"n".repeat(63), &long('a')),
        ];
        assert!(within("orders", "leases").starts_with("leases-orders-"));
        for (at, name) in names.iter().enumerate() {
            assert!(!names[..at].contains(name), "{name}");
            let whole = format!("kinesis-input-{name}");
            let is_allowed = |c: char| c.is_ascii_alphanumeric() || "_.-".contains(c);
            assert!(whole.len() <= 128 && whole.chars().all(is_allowed), "{whole}");
        }
        // The name and the ARN refer to the same table.
        let by_arn = arn("eu-west-1", "leases");
        assert_eq!(consumer_part(&by_arn, &by_arn, None), part("eu-west-1", "leases"));
    }
}
