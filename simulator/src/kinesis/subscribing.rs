//! Which consumer may subscribe to a shard, and when?

use super::number::shard_id;
use super::request::Request;
use super::shard::Position;
use super::stream::{Status, Stream};
use super::subscription::{Subscription, SubscriptionId};
use super::{Kinesis, ServiceError};
use crate::time::Time;

/// When the subscription of a consumer to a shard was requested and granted.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Calls {
    /// When a subscription was last requested.
    asked: Option<Time>,
    /// When a subscription was last granted.
    granted: Option<Time>,
}

impl Kinesis {
    pub(super) fn subscribe(&mut self, request: Request<'_>) -> Result<SubscriptionId, ServiceError> {
        let (now, takeover) = (self.now, self.settings.takeover);
        let arn = request.required("ConsumerARN")?;
        let shard = request.shard("ShardId")?;
        let start = request.object("StartingPosition").ok_or_else(|| ServiceError::validation("StartingPosition"))?;
        let position = start.position("Type", "SequenceNumber")?;
        let stream = self.streams.values().find(|stream| stream.consumer_by_arn(arn).is_some());
        let stream = stream.ok_or_else(|| ServiceError::not_found(format!("Consumer {arn} not found.")))?;
        let calls = self.calls.entry((arn.to_owned(), shard)).or_default();
        let before = *calls;
        calls.asked = Some(now);
        if before.asked.is_some_and(|asked| now.since(asked).as_millis() < 1000) {
            return Err(ServiceError::limit(format!("SubscribeToShard is called too often for {}.", shard_id(shard))));
        }
        if stream.consumer_by_arn(arn).is_none_or(|consumer| consumer.status != Status::Active) {
            return Err(ServiceError::in_use(format!("Consumer {arn} is not ACTIVE.")));
        }
        if !stream.shards.contains_key(&shard) {
            return Err(ServiceError::not_found(format!(
                "Shard {} in stream {} not found.",
                shard_id(shard),
                stream.name
            )));
        }
        check_position(stream, shard, position, now)?;
        stream.key.check()?;
        if before.granted.is_some_and(|granted| now.since(granted) < takeover) {
            return Err(ServiceError::in_use(format!("Another active subscription exists for this consumer: {arn}")));
        }
        let subscription = Subscription::new(stream, arn, shard, stream.resolve(position, shard, now), now);
        calls.granted = Some(now);
        let others = self.subscriptions.iter_mut().filter(|(_, one)| one.consumer == arn && one.shard == shard);
        for (id, other) in others.filter(|(_, one)| !one.has_ended() && one.age(now) >= takeover) {
            other.end_with(ServiceError::in_use("Another subscription took over."));
            self.touched.push(*id);
            self.counters.takeovers += 1;
        }
        self.next_subscription += 1;
        let id = SubscriptionId(self.next_subscription);
        self.subscriptions.insert(id, subscription);
        self.counters.subscriptions += 1;
        Ok(id)
    }
}

/// Checks that a position is in a shard, and not past retention.
pub(super) fn check_position(stream: &Stream, shard: u32, position: Position, now: Time) -> Result<(), ServiceError> {
    let (Position::At(number) | Position::After(number)) = position else { return Ok(()) };
    if number.shard() != shard {
        return Err(ServiceError::invalid(format!("SequenceNumber {number} is not of {}.", shard_id(shard))));
    }
    if number.time() < stream.oldest(now) {
        return Err(ServiceError::invalid(format!("SequenceNumber {number} is past the retention of the stream.")));
    }
    if number.time() > now {
        return Err(ServiceError::invalid(format!("SequenceNumber {number} was never given.")));
    }
    Ok(())
}
