//! The calls of readers without enhanced fan-out.

use base64_simd::STANDARD;
use serde_json::{Value, json};

use super::number::{Number, shard_id};
use super::request::Request;
use super::shard::{Position, Record};
use super::subscribing::check_position;
use super::{Kinesis, ServiceError};
use crate::time::Time;

type Answer = Result<Value, ServiceError>;

/// The most records and the most bytes of a call.
const RECORDS: usize = 10_000;
const BYTES: usize = 10 << 20;

impl Kinesis {
    pub(super) fn get_shard_iterator(&mut self, request: Request<'_>) -> Answer {
        let stream = request.stream()?;
        let shard = request.shard("ShardId")?;
        let position = request.position("ShardIteratorType", "StartingSequenceNumber")?;
        self.call_limit("GetShardIterator", &format!("{stream}/{shard}"), 5.0)?;
        let now = self.now;
        let found = self.stream(stream)?;
        if !found.shards.contains_key(&shard) {
            return Err(ServiceError::not_found(format!("Shard {} in stream {stream} not found.", shard_id(shard))));
        }
        check_position(found, shard, position, now)?;
        let position = found.resolve(position, shard, now);
        Ok(json!({ "ShardIterator": iterator(stream, found.created, shard, position, now) }))
    }

    pub(super) fn get_records(&mut self, request: Request<'_>) -> Answer {
        let text = request.required("ShardIterator")?;
        let bad = || ServiceError::invalid("Invalid ShardIterator.");
        let Iterator { stream: name, created, shard: id, position, made } = Iterator::parse(text).ok_or_else(bad)?;
        let (now, life, propagation) = (self.now, self.settings.iterator_lifetime, self.settings.propagation);
        let reads = self.settings.reads;
        if now.since(made) > life {
            return Err(ServiceError::new(
                "ExpiredIteratorException",
                format!("Iterator expired: it was made {} ms ago.", now.since(made).as_millis()),
            ));
        }
        let limit = request.number("Limit").map_or(RECORDS, |limit| limit as usize);
        if !(1..=RECORDS).contains(&limit) {
            return Err(ServiceError::invalid(format!("Limit must be between 1 and {RECORDS}, not {limit}.")));
        }
        let stream = self.stream_mut(&name)?;
        // An iterator of a former stream of this name means nothing in this one.
        if stream.created != created {
            return Err(bad());
        }
        stream.key.check()?;
        let shard = stream.shards.get_mut(&id);
        let shard = shard.ok_or_else(|| ServiceError::not_found(format!("Shard {} not found.", shard_id(id))))?;
        shard.reads.0.admit_at_most(reads);
        if !shard.reads.0.take(1.0, now) || !shard.reads.1.clear_in(now).is_zero() {
            return Err(ServiceError::throughput(format!(
                "Rate exceeded for shard {} in stream {name}.",
                shard_id(id)
            )));
        }
        let first = shard.index(position);
        let visible = now - propagation;
        let (mut bytes, mut records) = (0, Vec::new());
        for record in shard.records.iter().skip(first).take(limit) {
            if record.arrived > visible || (bytes > 0 && bytes + record.data.len() > BYTES) {
                break;
            }
            bytes += record.data.len();
            records.push(record_json(record));
        }
        shard.reads.1.owe(bytes as f64, now);
        let next = first + records.len();
        let last = next.checked_sub(1).map(|last| shard.records[last].number);
        let mut answer = json!({ "Records": records, "MillisBehindLatest": shard.behind(next, now) });
        let ended = next == shard.records.len() && shard.end.is_some_and(|end| end.time() <= visible);
        if ended {
            let children = stream.children(id).into_iter().map(|child| {
                json!({
                    "ShardId": shard_id(child.id),
                    "ParentShards": child.parents.iter().map(|parent| shard_id(*parent)).collect::<Vec<_>>(),
                    "HashKeyRange": {
                        "StartingHashKey": child.hashes.start().to_string(),
                        "EndingHashKey": child.hashes.end().to_string(),
                    },
                })
            });
            answer["ChildShards"] = children.collect();
        } else {
            let position = last.map_or(position, Position::After);
            answer["NextShardIterator"] = json!(iterator(&name, created, id, position, now));
        }
        Ok(answer)
    }
}

/// A record as JSON, in the form that both kinds of readers get.
pub(super) fn record_json(record: &Record) -> Value {
    let mut answer = json!({
        "SequenceNumber": record.number.to_string(),
        "ApproximateArrivalTimestamp": record.arrived.seconds(),
        "Data": STANDARD.encode_to_string(&record.data),
    });
    if let Some(key) = &record.key {
        answer["PartitionKey"] = json!(key);
    }
    answer
}

/// The shard of an iterator.
pub fn shard_of_iterator(iterator: &str) -> Option<u32> {
    Iterator::parse(iterator).map(|iterator| iterator.shard)
}

/// An iterator, which contains all of its own state.
struct Iterator {
    stream: String,
    /// When the stream was created.
    created: Time,
    shard: u32,
    position: Position,
    made: Time,
}

fn iterator(stream: &str, created: Time, shard: u32, position: Position, now: Time) -> String {
    let position = match position {
        Position::Oldest => "oldest".to_owned(),
        Position::At(number) => format!("at:{number}"),
        Position::After(number) => format!("after:{number}"),
        Position::Since(time) => format!("since:{}", time.millis()),
    };
    STANDARD.encode_to_string(format!("{stream}/{shard}/{position}/{}/{}", now.millis(), created.millis()))
}

impl Iterator {
    fn parse(text: &str) -> Option<Self> {
        let text = String::from_utf8(STANDARD.decode_to_vec(text).ok()?).ok()?;
        let mut parts = text.split('/');
        let (stream, shard, position, made) = (parts.next()?, parts.next()?, parts.next()?, parts.next()?);
        let created = Time::from_millis(parts.next()?.parse().ok()?);
        let position = match position.split_once(':') {
            None => Position::Oldest,
            Some(("at", number)) => Position::At(Number::parse(number)?),
            Some(("after", number)) => Position::After(Number::parse(number)?),
            Some((_, time)) => Position::Since(Time::from_millis(time.parse().ok()?)),
        };
        Some(Self {
            stream: stream.to_owned(),
            created,
            shard: shard.parse().ok()?,
            position,
            made: Time::from_millis(made.parse().ok()?),
        })
    }
}
