//! What does a subscription send, and how does it end?

use std::sync::Arc;
use std::time::Duration;

use super::limits::Bucket;
use super::number::{Number, shard_id};
use super::shard::{Position, Record};
use super::stream::{Status, Stream, fan_out_rate};
use super::{ServiceError, Settings};
use crate::time::Time;

/// The id of a subscription.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SubscriptionId(pub(super) u64);

/// A child, as the last event of its parent names it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Child {
    /// The id of the child.
    pub id: String,
    /// The ids of its parents.
    pub parents: Vec<String>,
    /// The first and the last hash key of the child.
    pub hashes: (u128, u128),
}

/// An event of a subscription.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Event {
    /// The records, oldest first.
    pub records: Vec<Arc<Record>>,
    /// The position where the next subscription continues; `None` at the end of the shard.
    pub continuation: Option<Number>,
    /// The distance of the next record from the tip, in milliseconds.
    pub millis_behind: u64,
    /// The children, at the end of the shard.
    pub children: Vec<Child>,
}

/// The next step of a subscription.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Next {
    /// An event.
    Event(Event),
    /// An exception, followed by the end.
    Exception(ServiceError),
    /// A proper end.
    End,
    /// A broken connection, because nothing read from the subscription.
    Reset,
    /// Nothing before this time, unless something changes.
    Wait(Time),
}

/// A subscription that was granted.
#[derive(Debug)]
pub(super) struct Subscription {
    pub(super) stream: String,
    pub(super) consumer: String,
    pub(super) shard: u32,
    /// When the stream of the subscription was created: another stream may have its name since.
    created: Time,
    granted: Time,
    position: Position,
    sent: Time,
    /// When the last records were sent.
    sent_records: Time,
    /// When the reader has to ask again.
    awaited: Time,
    rate: Bucket,
    exception: Option<ServiceError>,
    ended: bool,
}

/// The most records of an event, and the most bytes of their data.
const EVENT_RECORDS: usize = 10_000;
const EVENT_BYTES: usize = 1 << 20;

impl Subscription {
    pub(super) fn new(stream: &Stream, consumer: &str, shard: u32, position: Position, now: Time) -> Self {
        Self {
            stream: stream.name.clone(),
            consumer: consumer.to_owned(),
            shard,
            created: stream.created,
            granted: now,
            position,
            sent: now,
            sent_records: Time::default(),
            awaited: now,
            rate: fan_out_rate(),
            exception: None,
            ended: false,
        }
    }

    /// Ends the subscription with an exception.
    pub(super) fn end_with(&mut self, error: ServiceError) {
        self.exception.get_or_insert(error);
    }

    pub(super) fn has_ended(&self) -> bool {
        self.ended || self.exception.is_some()
    }

    pub(super) fn next(&mut self, stream: Option<&Stream>, now: Time, settings: &Settings) -> Next {
        if self.ended {
            return Next::End;
        }
        if now.since(self.awaited) > settings.unread {
            self.ended = true;
            return Next::Reset;
        }
        let next = self.look(stream, now, settings);
        self.awaited = if let Next::Wait(until) = next { until } else { now };
        next
    }

    fn look(&mut self, stream: Option<&Stream>, now: Time, settings: &Settings) -> Next {
        if let Some(error) = self.exception.take() {
            self.ended = true;
            return Next::Exception(error);
        }
        let gone = || ServiceError::not_found(format!("Consumer {} not found.", self.consumer));
        let Some(stream) = stream.filter(|stream| stream.status != Status::Deleting && stream.created == self.created)
        else {
            self.ended = true;
            return Next::Exception(gone());
        };
        if stream.consumer_by_arn(&self.consumer).is_none_or(|consumer| consumer.status == Status::Deleting) {
            self.ended = true;
            return Next::Exception(gone());
        }
        if let Err(error) = stream.key.check() {
            self.ended = true;
            return Next::Exception(error);
        }
        let expires = self.granted + settings.subscription_lifetime;
        if now >= expires {
            self.ended = true;
            return Next::End;
        }
        let Some(shard) = stream.shards.get(&self.shard) else {
            // The shard passed its retention while it was read.
            self.ended = true;
            return Next::Exception(ServiceError::not_found(format!("Shard {} not found.", shard_id(self.shard))));
        };
        let first = shard.index(self.position);
        let visible = now - settings.propagation;
        let closed = shard.end.is_some_and(|end| end.time() <= visible);
        let mut due = (self.sent + settings.heartbeat).min(expires);
        let held_up = self.rate.clear_in(now);
        let there = shard.records.get(first).map(|record| record.arrived);
        if let Some(arrived) = there {
            let earliest =
                (arrived + settings.propagation).max(self.sent_records + settings.event_gap).max(now + held_up);
            if earliest > now {
                due = due.min(earliest);
            } else {
                return Next::Event(self.records(stream, first, closed, now, settings));
            }
        } else if closed {
            self.ended = true;
            return Next::Event(self.last_event(stream, Vec::new()));
        } else if let Some(end) = shard.end {
            due = due.min(end.time() + settings.propagation);
        }
        if now >= self.sent + settings.heartbeat {
            self.sent = now;
            let millis_behind = shard.behind(first, now);
            let continuation = match there {
                None => stream.continuation(self.shard, now),
                // A record is on its way; a number of the present would be behind it.
                Some(_) => first.checked_sub(1).map_or(shard.start, |before| shard.records[before].number),
            };
            self.position = Position::After(continuation);
            return Next::Event(Event { continuation: Some(continuation), millis_behind, ..Event::default() });
        }
        Next::Wait(due)
    }

    fn records(&mut self, stream: &Stream, first: usize, closed: bool, now: Time, settings: &Settings) -> Event {
        let mut event = Event::default();
        let Some(shard) = stream.shards.get(&self.shard) else { return event };
        let visible = now - settings.propagation;
        let mut bytes = 0;
        for record in shard.records.iter().skip(first).take(EVENT_RECORDS) {
            if record.arrived > visible || (bytes > 0 && bytes + record.data.len() > EVENT_BYTES) {
                break;
            }
            bytes += record.data.len();
            event.records.push(Arc::clone(record));
        }
        if let Some(last) = event.records.last() {
            self.position = Position::After(last.number);
            event.continuation = Some(last.number);
        }
        self.rate.owe(bytes as f64, now);
        self.sent = now;
        self.sent_records = now;
        let next = first + event.records.len();
        event.millis_behind = shard.behind(next, now);
        // The service sends both in one event if it can.
        if closed && next == shard.records.len() && settings.end_with_records {
            self.ended = true;
            return self.last_event(stream, event.records);
        }
        event
    }

    fn last_event(&self, stream: &Stream, records: Vec<Arc<Record>>) -> Event {
        let children = stream.children(self.shard).into_iter();
        let children = children.map(|child| Child {
            id: shard_id(child.id),
            parents: child.parents.iter().map(|parent| shard_id(*parent)).collect(),
            hashes: (*child.hashes.start(), *child.hashes.end()),
        });
        Event { records, continuation: None, millis_behind: 0, children: children.collect() }
    }

    /// The time since the subscription was granted.
    pub(super) fn age(&self, now: Time) -> Duration {
        now.since(self.granted)
    }
}
