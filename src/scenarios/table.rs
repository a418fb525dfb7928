//! A lease table in memory, and the workers that use it beside those under test.

use std::sync::Arc;
use std::time::Duration;

use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

use super::script::{Answer, Piece, body, event, records};
use crate::lease::memory::{MemoryStore, MemoryTable};
use crate::lease::{Checkpoint, Hold, Presence, Row, SharedStore};
use crate::model::{SequenceNumber, ShardId, Stream, WorkerId};
use crate::sync::lock;

pub(super) const LEASE: Duration = Duration::from_secs(30);
pub(super) const PERIOD: Duration = Duration::from_secs(30);
pub(super) const MINUTE: Duration = Duration::from_mins(1);

pub(super) fn secs(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

pub(super) fn checkpoint(number: u64) -> SequenceNumber {
    SequenceNumber::new(&number.to_string()).unwrap()
}

pub(super) fn stream() -> Stream {
    Stream::new("orders", "arn:orders")
}

/// These records, and then the events of an idle shard for an hour.
pub(super) fn then_idle(numbers: std::ops::RangeInclusive<u64>) -> Answer {
    let last = *numbers.end();
    let idle = (0..720).flat_map(move |_| [Piece::Wait(secs(5)), event([], Some(last), &[])]);
    body(std::iter::once(records(numbers)).chain(idle))
}

/// A table, and workers by name.
pub(super) struct Table(pub(super) Arc<MemoryTable>);

impl Table {
    pub(super) fn new() -> Self {
        Self(Arc::default())
    }

    pub(super) fn worker(&self, name: &str) -> Arc<MemoryStore> {
        Arc::new(MemoryStore::new(&self.0, name))
    }

    pub(super) fn row(&self, shard: &str) -> Option<Row> {
        lock(&self.0.core).rows.get(&(stream(), shard.into())).cloned()
    }

    pub(super) fn holder(&self, shard: &str) -> Option<WorkerId> {
        self.row(shard).and_then(|row| row.hold).map(|hold| hold.worker)
    }

    pub(super) fn checkpoint(&self, shard: &str) -> Option<Checkpoint> {
        self.row(shard).map(|row| row.checkpoint).unwrap_or_default()
    }

    /// Makes a worker rebalance at once.
    pub(super) async fn wake(&self, worker: &str) {
        self.worker("other").wake(&worker.into()).await.unwrap();
    }

    /// The first of these shards that another worker requests.
    pub(super) fn requested<'s>(&self, shards: &[&'s str]) -> Option<&'s str> {
        shards.iter().copied().find(|shard| self.row(shard).is_some_and(|row| row.requester.is_some()))
    }

    /// Waits until one of these shards is requested.
    pub(super) async fn until_requested<'s>(&self, shards: &[&'s str]) -> &'s str {
        let asked = async {
            loop {
                match self.requested(shards) {
                    Some(shard) => return shard,
                    None => sleep(Duration::from_millis(10)).await,
                }
            }
        };
        timeout(PERIOD, asked).await.expect("no worker requests the shard")
    }

    /// How many calls of a kind there were.
    pub(super) fn calls(&self, kind: &str) -> u64 {
        lock(&self.0.core).by_call.get(kind).copied().unwrap_or_default()
    }

    pub(super) fn close(&self, closed: bool) {
        lock(&self.0.core).closed = closed;
    }

    /// Waits until a row is as it should be.
    pub(super) async fn until(&self, shard: &str, what: &str, mut is: impl FnMut(&Row) -> bool) {
        let wait = async {
            while !self.row(shard).is_some_and(|row| is(&row)) {
                sleep(Duration::from_millis(50)).await;
            }
        };
        timeout(10 * MINUTE, wait).await.unwrap_or_else(|_| panic!("{what}: {:?}", self.row(shard)));
    }

    pub(super) async fn until_held(&self, shard: &str, by: &str) {
        self.until(shard, by, |row| row.hold.as_ref().is_some_and(|hold| hold.worker.as_str() == by)).await;
    }

    /// Waits until each of these workers has this many shards.
    pub(super) async fn until_counts(&self, workers: &[&str], counts: &[usize]) {
        let wait = async {
            while self.counts(workers) != counts {
                sleep(Duration::from_millis(50)).await;
            }
        };
        timeout(10 * MINUTE, wait).await.unwrap_or_else(|_| panic!("{:?}", self.counts(workers)));
    }

    /// The number of shards of each of these workers.
    pub(super) fn counts(&self, workers: &[&str]) -> Vec<usize> {
        let core = lock(&self.0.core);
        let holds = |worker: &str| {
            core.rows
                .values()
                .filter(|row| row.hold.as_ref().is_some_and(|hold| hold.worker.as_str() == worker))
                .count()
        };
        workers.iter().map(|worker| holds(worker)).collect()
    }
}

/// Another program that holds a shard, and renews it as Connect does: every commit period, by the whole row.
pub(super) async fn connect_renews(table: &Table, shard: &str, mut number: u64) {
    let key = (stream(), ShardId::from(shard));
    loop {
        {
            let mut core = lock(&table.0.core);
            let row = core.rows.get_mut(&key).unwrap();
            if row.hold.as_ref().is_none_or(|hold| hold.worker.as_str() != "theirs") {
                // It yields: it writes the last position, and nothing else.
                row.checkpoint = Some(Checkpoint::After(checkpoint(number)));
                return;
            }
            number += 1;
            row.checkpoint = Some(Checkpoint::After(checkpoint(number)));
            row.hold = Some(Hold { worker: "theirs".into(), epoch: None, stamp: number.to_string() });
        }
        sleep(secs(1)).await;
    }
}

pub(super) fn connect_row(shard: &str, number: u64) -> Row {
    let hold = Hold { worker: "theirs".into(), epoch: None, stamp: "0".into() };
    Row { hold: Some(hold), foreign: true, ..Row::new(shard, Some(Checkpoint::After(checkpoint(number)))) }
}

/// A worker that sends heartbeats and does nothing else, until this is dropped.
pub(super) fn sends_heartbeats(store: Arc<MemoryStore>, presence: Presence) -> JoinSet<()> {
    let mut beating = JoinSet::new();
    beating.spawn(async move {
        loop {
            store.heartbeat(&presence).await.unwrap();
            sleep(secs(1)).await;
        }
    });
    beating
}

/// The presence of a worker that shares the shards of a stream.
pub(super) fn reads(arn: &str) -> Presence {
    Presence { streams: [arn.to_owned()].into(), ..Presence::default() }
}
