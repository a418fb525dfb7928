//! What does a stream consist of, and how do its shards change?

use std::collections::BTreeMap;
use std::time::Duration;

use super::limits::Bucket;
use super::number::{Number, hash_of, shard_id};
use super::shard::{Position, Record, Shard};
use super::{ServiceError, Settings};
use crate::time::Time;

/// The status of a stream or a consumer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Status {
    Creating,
    Active,
    /// The stream is being resharded.
    Updating,
    Deleting,
}

impl Status {
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Creating => "CREATING",
            Self::Active => "ACTIVE",
            Self::Updating => "UPDATING",
            Self::Deleting => "DELETING",
        }
    }
}

/// A consumer of a stream.
#[derive(Debug, Clone)]
pub(super) struct Consumer {
    pub(super) name: String,
    pub(super) arn: String,
    pub(super) created: Time,
    pub(super) status: Status,
    /// When the status changes.
    pub(super) until: Time,
}

/// What decides into which shard a record goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Distribution {
    /// The partition key that the writer gives.
    ByKey,
    /// The service, evenly. A key is not needed, and kept if there is one.
    Auto,
}

impl Distribution {
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::ByKey => "USER_PARTITION_KEY",
            Self::Auto => "AUTO",
        }
    }
}

/// The state of the key that a stream is encrypted with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Key {
    /// The key may be used, or there is none.
    Usable,
    /// The key is disabled.
    Disabled,
    /// The key waits to be deleted.
    PendingDeletion,
    /// The readers may not use the key.
    Denied,
    /// The account is not signed up for keys.
    NotOptedIn,
    /// The key is gone.
    Gone,
    /// The key is used too often.
    Throttled,
}

impl Key {
    pub(super) fn check(self) -> Result<(), ServiceError> {
        let code = match self {
            Self::Usable => return Ok(()),
            Self::Disabled => "KMSDisabledException",
            Self::PendingDeletion => "KMSInvalidStateException",
            Self::Denied => "KMSAccessDeniedException",
            Self::NotOptedIn => "KMSOptInRequired",
            Self::Gone => "KMSNotFoundException",
            Self::Throttled => "KMSThrottlingException",
        };
        Err(ServiceError::new(code, "The key of the stream can't be used."))
    }
}

/// A planned change of shards.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Reshard {
    Split { shard: u32, at: u128 },
    Merge { shard: u32, with: u32 },
}

/// A stream.
#[derive(Debug)]
pub(super) struct Stream {
    pub(super) name: String,
    pub(super) arn: String,
    pub(super) created: Time,
    pub(super) status: Status,
    pub(super) retention: Duration,
    pub(super) key: Key,
    /// Whether the service determines the number of shards.
    pub(super) on_demand: bool,
    pub(super) distribution: Distribution,
    pub(super) shards: BTreeMap<u32, Shard>,
    pub(super) consumers: BTreeMap<String, Consumer>,
    /// The planned changes of shards, and when the next of them is due.
    pub(super) reshards: Vec<(Time, Reshard)>,
    /// When a temporary status ends.
    pub(super) until: Time,
    serial: u64,
    next_shard: u32,
}

impl Stream {
    pub(super) fn new(name: &str, arn: String, shards: u32, now: Time, settings: &Settings) -> Self {
        let mut stream = Self {
            name: name.to_owned(),
            arn,
            created: now,
            status: Status::Creating,
            retention: settings.retention,
            key: Key::Usable,
            on_demand: false,
            distribution: Distribution::ByKey,
            shards: BTreeMap::new(),
            consumers: BTreeMap::new(),
            reshards: Vec::new(),
            until: now + settings.creation,
            serial: 0,
            next_shard: 0,
        };
        let width = u128::MAX / u128::from(shards.max(1));
        for at in 0..u128::from(shards) {
            let last = if at + 1 == u128::from(shards) { u128::MAX } else { (at + 1) * width - 1 };
            stream.open(Vec::new(), at * width..=last, now);
        }
        stream
    }

    fn open(&mut self, parents: Vec<u32>, hashes: std::ops::RangeInclusive<u128>, now: Time) -> u32 {
        let id = self.next_shard;
        self.next_shard += 1;
        let start = self.number(id, now);
        self.shards.insert(id, Shard::new(id, parents, hashes, start));
        id
    }

    fn number(&mut self, shard: u32, now: Time) -> Number {
        self.serial += 1;
        Number::new(now, self.serial, shard)
    }

    /// A number behind everything that exists, and before everything that will come.
    pub(super) fn continuation(&self, shard: u32, now: Time) -> Number {
        Number::new(now, self.serial, shard)
    }

    /// Resolves a position. `Latest` is resolved to the tip at the time of the call.
    pub(super) fn resolve(&self, position: Position, shard: u32, now: Time) -> Position {
        match position {
            Position::Since(time) if time > now => Position::After(self.continuation(shard, now)),
            other => other,
        }
    }

    /// The age limit: older records are gone.
    pub(super) fn oldest(&self, now: Time) -> Time {
        now - self.retention
    }

    /// Removes what is past retention, and carries out changes that are due. Returns the shards whose readers should be
    /// woken.
    pub(super) fn advance(&mut self, now: Time, settings: &Settings) -> Vec<u32> {
        if self.status == Status::Creating && self.until <= now {
            self.status = Status::Active;
        }
        for consumer in self.consumers.values_mut() {
            if consumer.status == Status::Creating && consumer.until <= now {
                consumer.status = Status::Active;
            }
        }
        self.consumers.retain(|_, consumer| consumer.status != Status::Deleting || consumer.until > now);
        let oldest = self.oldest(now);
        for shard in self.shards.values_mut() {
            shard.trim(oldest);
        }
        self.shards.retain(|_, shard| !shard.is_past(oldest));
        let mut touched = Vec::new();
        while self.status == Status::Updating
            && let Some((due, reshard)) = self.reshards.first().copied()
            && due <= now
        {
            self.reshards.remove(0);
            // Nothing has happened since the change was due, because every access carries it out first.
            touched.extend(self.apply(reshard, due));
            let next = due + settings.reshard;
            if let Some((due, _)) = self.reshards.first_mut() {
                *due = (*due).max(next);
            }
        }
        if self.status == Status::Updating && self.reshards.is_empty() {
            self.status = Status::Active;
        }
        touched
    }

    fn apply(&mut self, reshard: Reshard, now: Time) -> Vec<u32> {
        let (parents, children) = match reshard {
            Reshard::Split { shard, at } => {
                let Some(parent) = self.shards.get(&shard).filter(|shard| shard.is_open()) else { return Vec::new() };
                let (low, high) = (*parent.hashes.start(), *parent.hashes.end());
                (vec![shard], vec![low..=at - 1, at..=high])
            }
            Reshard::Merge { shard, with } => {
                let (Some(one), Some(other)) = (self.shards.get(&shard), self.shards.get(&with)) else {
                    return Vec::new();
                };
                let low = *one.hashes.start().min(other.hashes.start());
                let high = *one.hashes.end().max(other.hashes.end());
                (vec![shard, with], vec![low..=high])
            }
        };
        for parent in &parents {
            let end = self.number(*parent, now);
            if let Some(shard) = self.shards.get_mut(parent) {
                shard.end = Some(end);
            }
        }
        for hashes in children {
            self.open(parents.clone(), hashes, now);
        }
        parents
    }

    /// Puts a record into the shard of its key, or into any. Returns the shard and the number.
    pub(super) fn put(
        &mut self,
        key: Option<&str>,
        hash: Option<u128>,
        data: bytes::Bytes,
        now: Time,
    ) -> Result<(u32, Number), ServiceError> {
        if self.status == Status::Deleting {
            return Err(ServiceError::not_found(format!("Stream {} is {}.", self.name, self.status.name())));
        }
        self.key.check()?;
        let hash = match (self.distribution, key) {
            (Distribution::Auto, _) => hash_of(&self.serial.to_string()),
            (Distribution::ByKey, Some(key)) => hash.unwrap_or_else(|| hash_of(key)),
            (Distribution::ByKey, None) => return Err(ServiceError::missing("PartitionKey")),
        };
        let open = self.shards.values().find(|shard| shard.is_open() && shard.hashes.contains(&hash));
        let id = open.map(|shard| shard.id).ok_or_else(ServiceError::internal)?;
        let number = self.number(id, now);
        let Some(shard) = self.shards.get_mut(&id) else { return Err(ServiceError::internal()) };
        let bytes = (data.len() + key.map_or(0, str::len)) as f64;
        if !shard.writes.0.take(1.0, now) || !shard.writes.1.take(bytes.min(1024.0 * 1024.0), now) {
            return Err(ServiceError::throughput(format!(
                "Rate exceeded for shard {} in stream {}.",
                shard_id(id),
                self.name
            )));
        }
        let key = key.map(ToOwned::to_owned);
        shard.records.push_back(std::sync::Arc::new(Record { number, arrived: now, key, data }));
        Ok((id, number))
    }

    pub(super) fn children(&self, of: u32) -> Vec<&Shard> {
        self.shards.values().filter(|shard| shard.parents.contains(&of)).collect()
    }

    pub(super) fn open_shards(&self) -> impl Iterator<Item = &Shard> {
        self.shards.values().filter(|shard| shard.is_open())
    }

    pub(super) fn consumer_by_arn(&self, arn: &str) -> Option<&Consumer> {
        self.consumers.values().find(|consumer| consumer.arn == arn)
    }

    /// Plans splits and merges that lead to a number of shards.
    pub(super) fn plan(&self, target: usize) -> Vec<Reshard> {
        let mut ranges: Vec<(u32, u128, u128)> =
            self.open_shards().map(|shard| (shard.id, *shard.hashes.start(), *shard.hashes.end())).collect();
        ranges.sort_by_key(|range| range.1);
        let mut next = self.next_shard;
        let mut plan = Vec::new();
        while ranges.len() < target {
            let Some(widest) = (0..ranges.len()).max_by_key(|at| ranges[*at].2 - ranges[*at].1) else { break };
            let (shard, low, high) = ranges[widest];
            let at = low + (high - low) / 2 + 1;
            plan.push(Reshard::Split { shard, at });
            ranges.splice(widest..=widest, [(next, low, at - 1), (next + 1, at, high)]);
            next += 2;
        }
        while ranges.len() > target.max(1) {
            let Some(least) = (0..ranges.len() - 1).min_by_key(|at| ranges[at + 1].2 - ranges[*at].1) else { break };
            let (one, other) = (ranges[least], ranges[least + 1]);
            plan.push(Reshard::Merge { shard: one.0, with: other.0 });
            ranges.splice(least..=least + 1, [(next, one.1, other.2)]);
            next += 1;
        }
        plan
    }
}

/// The limit of the bytes that a consumer may be sent from one shard: 2 MB a second.
pub(super) fn fan_out_rate() -> Bucket {
    Bucket::new(2.0 * 1024.0 * 1024.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stream(shards: u32) -> Stream {
        Stream::new("orders", "arn".into(), shards, Time::from_millis(1), &Settings::default())
    }

    #[test]
    fn shards_cover_all_hashes() {
        for shards in [1, 2, 3, 7] {
            let stream = stream(shards);
            let mut next = 0_u128;
            for shard in stream.open_shards() {
                assert_eq!(*shard.hashes.start(), next);
                next = shard.hashes.end().wrapping_add(1);
            }
            assert_eq!(next, 0, "{shards}");
        }
    }

    #[test]
    fn plan_leads_to_the_number_of_shards() {
        for (from, to) in [(1, 4), (3, 6), (6, 3), (5, 1), (2, 2)] {
            let mut stream = stream(from);
            for reshard in stream.plan(to) {
                assert!(!stream.apply(reshard, Time::from_millis(2)).is_empty());
            }
            assert_eq!(stream.open_shards().count(), to, "{from} to {to}");
        }
    }
}
