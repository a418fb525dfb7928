//! What does the oracle know of a shard and of a worker?

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use kinesis_simulator::Time;

use super::Position;

/// The records that have to be read.
#[derive(Debug, Clone, Copy)]
pub(super) struct Scope {
    /// Whether all records have to be read, whenever they arrived.
    pub(super) oldest: bool,
    /// The time from which on records have to be read, if not all.
    pub(super) pinned: Option<Time>,
}

/// A record that was put.
#[derive(Debug)]
pub(super) struct Put {
    pub(super) number: Position,
    pub(super) at: Time,
    pub(super) delivered: bool,
    pub(super) acked: bool,
    /// Whether the record passed its retention before it was acknowledged: it can't be read any more.
    pub(super) expired: bool,
    /// The last acknowledgement.
    pub(super) last_ack: Option<Ack>,
}

/// An acknowledgement: by which worker, under which of its claims, and when.
#[derive(Debug)]
pub(super) struct Ack {
    pub(super) by: String,
    pub(super) claim: u64,
    pub(super) at: Time,
}

/// A worker's claim of a shard.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Claim {
    /// The position that was stored at the time of the claim.
    pub(super) start: Option<Position>,
    /// The ordinal of this claim among all.
    pub(super) number: u64,
    /// When the worker released the shard by itself.
    pub(super) released: Option<Time>,
    /// Whether another worker had requested the shard by then.
    pub(super) asked: bool,
}

/// The records that were delivered under a claim and are not settled, or were nacked.
#[derive(Debug, Default)]
pub(super) struct InFlight {
    pub(super) records: BTreeSet<usize>,
    /// The nacked records. They come again before anything newer.
    pub(super) nacked: BTreeSet<usize>,
    /// The number of nacks of each record that is not acknowledged.
    pub(super) nacks: BTreeMap<usize, u32>,
    /// The time before which nothing of the shard may come, because of a nack.
    pub(super) retry_at: Time,
    /// When something was last delivered.
    pub(super) last: Time,
}

/// The state of a shard.
#[derive(Debug, Default)]
pub(super) struct Book {
    pub(super) parents: Vec<u32>,
    pub(super) puts: Vec<Put>,
    /// The first record that was not delivered yet and should be.
    pub(super) frontier: usize,
    /// The first record that was not acknowledged yet and should be.
    pub(super) unacked: usize,
    pub(super) stored: Option<Position>,
    pub(super) ended: bool,
    /// The worker that stored the end of the shard, and when.
    pub(super) ended_by: Option<(String, Time)>,
    /// The worker that holds the shard, according to the table.
    pub(super) holder: Option<String>,
    /// The worker that requested the shard from its holder, according to the table, and when.
    pub(super) requester: Option<(String, Time)>,
    /// When another worker last requested the shard from its holder, even if the request was withdrawn since.
    pub(super) asked: Option<Time>,
    /// When the holder claimed the shard.
    pub(super) claimed: Time,
    /// The last claim of each worker that holds the shard or held it.
    pub(super) claims: BTreeMap<String, Claim>,
    /// The records in flight under each claim.
    pub(super) in_flight: BTreeMap<u64, InFlight>,
}

/// The state of a worker.
#[derive(Debug, Default)]
pub(super) struct Known {
    /// The lease period of the worker.
    pub(super) lease: Duration,
    /// What else the worker is configured with.
    pub(super) limits: Limits,
    /// The last heartbeat of the worker that was written.
    pub(super) heartbeat: Option<Heartbeat>,
    /// When the worker was last started, or came back after a silence in which its leases expired.
    pub(super) alive_since: Time,
    /// When the process of the worker was last started.
    pub(super) started: Time,
    /// When the worker last was paused, or could not reach the services.
    pub(super) last_fault: Time,
    /// When that began.
    pub(super) fault_since: Time,
    /// Since when the row of the worker has been in the table.
    pub(super) shown: Option<Time>,
    /// When the row of the worker first came into the table.
    pub(super) came: Option<Time>,
    /// When the graceful stop of the worker began.
    pub(super) stopping: Option<Time>,
    /// Whether the graceful stop of the worker is complete, and everything was stored.
    pub(super) stopped: bool,
    /// The worker's last claims of free shards: when the first of them was made, how many shards were free then, and
    /// how many the worker claimed.
    pub(super) burst: Option<(Time, usize, usize)>,
    /// The earliest time of the next poll of each shard.
    pub(super) next_poll: BTreeMap<u32, Time>,
}

/// The limits that each worker is configured with by itself.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Limits {
    /// The largest distance between records of a shard that are in flight. A gathered batch that is larger than
    /// `checkpoint_limit` is let in by itself.
    pub(crate) apart: usize,
    /// How long the worker waits for acks before it hands a shard over.
    pub(crate) acks: Duration,
}

/// A heartbeat in the table.
#[derive(Debug, Clone, Copy)]
pub(super) struct Heartbeat {
    /// When the request was sent.
    pub(super) sent: Time,
    pub(super) written: Time,
}

impl Put {
    pub(super) fn is_expected(&self, scope: Scope) -> bool {
        !self.expired && (scope.oldest || scope.pinned.is_some_and(|pinned| self.at >= pinned))
    }
}

impl Book {
    /// Removes the records that arrived earlier. Returns the arrival and the number of each.
    pub(super) fn expire(&mut self, before: Time, scope: Scope) -> Vec<(Time, Position)> {
        let mut expired = Vec::new();
        while let Some(put) = self.puts.get_mut(self.unacked).filter(|put| put.at < before) {
            put.expired = true;
            expired.push((put.at, put.number));
            self.advance(scope);
        }
        expired
    }

    pub(super) fn advance(&mut self, scope: Scope) {
        while self.puts.get(self.frontier).is_some_and(|put| put.delivered || !put.is_expected(scope)) {
            self.frontier += 1;
        }
        while self.puts.get(self.unacked).is_some_and(|put| put.acked || !put.is_expected(scope)) {
            self.unacked += 1;
        }
    }

    pub(super) fn open(&self) -> usize {
        self.puts[self.unacked..].iter().filter(|put| !put.acked).count()
    }

    /// The last record up to which a worker had acknowledged everything under its claim by this time.
    pub(super) fn acked_without_a_gap(
        &self,
        worker: &str,
        claim: Claim,
        until: Time,
        scope: Scope,
    ) -> Option<Position> {
        let begin = claim.start.map_or(0, |start| self.puts.partition_point(|put| put.number <= start));
        let mut position = None;
        for put in &self.puts[begin..] {
            let ack = put.last_ack.as_ref();
            let ack = ack.filter(|ack| ack.by == worker && ack.claim == claim.number && ack.at <= until);
            match ack {
                Some(_) => position = Some(put.number),
                None if put.is_expected(scope) => break,
                None => {}
            }
        }
        position
    }
}
