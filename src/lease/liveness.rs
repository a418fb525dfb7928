//! Which workers are alive, as far as this worker has seen?
//!
//! This module is pure. The clocks of different machines differ, so times that other workers write are ignored.
//! Liveness is judged by when this worker saw a change, on its own clock: a worker whose heartbeat did not change for a
//! lease period is dead.
//!
//! The owner counts its lease from before its last heartbeat was written, and other workers count from after they saw
//! the heartbeat. The owner therefore knows before they do that its lease has expired.
//!
//! Every holder renews its rows too, whether it sends heartbeats or is another program: this input at least every one
//! and a half lease periods, and Redpanda Connect takes rows that were not renewed for three. So a row that was not
//! renewed for three lease periods counts as free, even if a worker with the holder's name is alive: that worker may
//! have been restarted and know nothing of the lease.

use std::collections::{HashMap, HashSet};
use std::time::Duration;

use tokio::time::Instant;

use super::{Hold, Row, Worker};
use crate::model::{ShardId, Stream, WorkerId};

/// A row that was not renewed for this many lease periods is free.
const UNRENEWED: u32 = 3;
/// The row of a worker is removed after this many lease periods without a heartbeat.
const BURIED_AFTER: u32 = 10;

/// The workers and leases that this worker has seen, and when each last changed.
#[derive(Debug)]
pub(crate) struct Liveness {
    /// The lease period of this worker, which also stands for workers that do not publish theirs.
    lease: Duration,
    /// The workers that have a row or hold a shard, as of the last read of the table.
    workers: HashMap<WorkerId, Life>,
    /// The leases, by stream and shard, as of the last read of the table.
    holds: HashMap<Stream, HashMap<ShardId, Seen>>,
    /// Whether the table has been read before. A change can be proven only from the second read on.
    looked_before: bool,
    /// When a worker was last seen for the first time. This worker itself counts as new at its first read of the table.
    /// A rebalance reads it before it requests shards.
    arrival: Option<Instant>,
}

#[derive(Debug)]
struct Life {
    /// The last heartbeat of the worker; `None` if only leases of it were seen.
    heartbeat: Option<String>,
    sign: Sign,
    /// The lease period of the worker.
    lease: Duration,
}

/// A lease, as it was last seen.
#[derive(Debug)]
struct Seen {
    hold: Hold,
    /// The last sign of life of this lease.
    sign: Sign,
}

/// A sign of life, and when it was seen.
#[derive(Debug, Clone, Copy)]
struct Sign {
    at: Instant,
    /// Whether a change was seen. A row that was there at the first read of the table may belong to a dead worker.
    proven: bool,
}

impl Liveness {
    /// Starts without knowledge, with the lease period of this worker.
    pub(crate) fn new(lease: Duration) -> Self {
        Self { lease, workers: HashMap::new(), holds: HashMap::new(), looked_before: false, arrival: None }
    }

    /// Records what the table shows now.
    pub(crate) fn look<'a>(
        &mut self,
        now: Instant,
        workers: &[Worker],
        rows: impl IntoIterator<Item = (&'a Stream, &'a [Row])>,
    ) {
        let there = Sign { at: now, proven: self.looked_before };
        let happened = Sign { at: now, proven: true };
        let passed_on = Sign { at: now, proven: false };
        if !self.looked_before || workers.iter().any(|worker| !self.workers.contains_key(&worker.id)) {
            self.arrival = Some(now);
        }
        for worker in workers {
            let life = self.workers.entry(worker.id.clone()).or_insert(Life {
                heartbeat: None,
                sign: there,
                lease: self.lease,
            });
            life.lease = worker.presence.lease.unwrap_or(self.lease);
            if life.heartbeat.as_ref() != Some(&worker.heartbeat) {
                life.sign = if life.heartbeat.is_some() { happened } else { there };
                life.heartbeat = Some(worker.heartbeat.clone());
            }
        }
        let mut holds = HashMap::new();
        for (stream, rows) in rows {
            let mut before = self.holds.remove(stream).unwrap_or_default();
            let mut seen_now = HashMap::with_capacity(rows.len());
            for row in rows {
                let Some(hold) = &row.hold else { continue };
                let seen = match before.remove(&row.shard) {
                    Some(seen) if seen.hold == *hold => seen,
                    None => Seen { hold: hold.clone(), sign: there },
                    // The lease was renewed or claimed anew. Other programs hand nothing over.
                    Some(before) if before.hold.worker == hold.worker || hold.epoch.is_none() => {
                        Seen { hold: hold.clone(), sign: happened }
                    }
                    // A lease that was handed over does not prove that its new owner is alive.
                    Some(_) => Seen { hold: hold.clone(), sign: passed_on },
                };
                if hold.epoch.is_some() {
                    if !self.workers.contains_key(&hold.worker) {
                        let life = Life { heartbeat: None, sign: seen.sign, lease: self.lease };
                        self.workers.insert(hold.worker.clone(), life);
                    }
                    if seen.sign.at == now
                        && seen.sign.proven
                        && let Some(life) = self.workers.get_mut(&hold.worker).filter(|life| life.heartbeat.is_none())
                    {
                        life.sign = seen.sign;
                    }
                }
                seen_now.insert(row.shard.clone(), seen);
            }
            holds.insert(stream.clone(), seen_now);
        }
        self.holds = holds;
        let shown: HashSet<&WorkerId> = workers.iter().map(|worker| &worker.id).collect();
        let held = self.holds.values().flat_map(HashMap::values);
        let holders: HashSet<&WorkerId> = held.map(|seen| &seen.hold.worker).collect();
        self.workers.retain(|id, life| {
            if !shown.contains(id) {
                life.heartbeat = None;
            }
            shown.contains(id) || holders.contains(id)
        });
        self.looked_before = true;
    }

    /// Whether a worker appeared within the last `time`. Others may be about to.
    pub(crate) fn someone_came(&self, time: Duration, now: Instant) -> bool {
        self.arrival.is_some_and(|arrival| now.duration_since(arrival) < time)
    }

    /// Whether the worker gave a sign of life within its lease period.
    pub(crate) fn is_alive(&self, worker: &WorkerId, now: Instant) -> bool {
        self.workers.get(worker).is_some_and(|life| now < life.sign.at + life.lease)
    }

    /// Whether a sign of life of the worker was seen at `at` or later.
    pub(crate) fn was_alive_since(&self, worker: &WorkerId, at: Instant) -> bool {
        self.workers.get(worker).is_some_and(|life| life.sign.proven && life.sign.at >= at)
    }

    /// Whether the lease has expired: its holder sends no heartbeats any more, or the row has not been renewed for too
    /// long.
    pub(crate) fn is_expired(&self, stream: &Stream, shard: &ShardId, hold: &Hold, now: Instant) -> bool {
        self.end(stream, shard, hold).is_some_and(|end| now >= end)
    }

    /// Whether the holder was seen alive. A lease that was there at the first read of the table may belong to a dead
    /// worker.
    pub(crate) fn is_proven(&self, stream: &Stream, shard: &ShardId, hold: &Hold, now: Instant) -> bool {
        let sign = if hold.epoch.is_some() {
            self.workers.get(&hold.worker).map(|life| life.sign)
        } else {
            self.seen(stream, shard, hold).map(|seen| seen.sign)
        };
        sign.is_some_and(|sign| sign.proven) && !self.is_expired(stream, shard, hold, now)
    }

    /// When the first lease will expire among those whose holder gave no sign of life at the read at `now`. The table
    /// should be read again then.
    pub(crate) fn next_expiry(&self, now: Instant) -> Option<Instant> {
        let ends = self.holds.values().flat_map(HashMap::values).map(|seen| {
            let silent = self.workers.get(&seen.hold.worker).filter(|_| seen.hold.epoch.is_some());
            let silent = silent.filter(|life| life.sign.at < now).map(|life| life.sign.at + life.lease);
            let unrenewed = Some(self.unrenewed(seen)).filter(|_| seen.sign.at < now);
            silent.into_iter().chain(unrenewed).min()
        });
        ends.flatten().filter(|end| *end > now).min()
    }

    /// When the lease expires if no further sign of it or its holder is seen. A lease that was never seen does not
    /// expire.
    fn end(&self, stream: &Stream, shard: &ShardId, hold: &Hold) -> Option<Instant> {
        let unrenewed = self.seen(stream, shard, hold).map(|seen| self.unrenewed(seen));
        let silent = self.workers.get(&hold.worker).filter(|_| hold.epoch.is_some());
        unrenewed.into_iter().chain(silent.map(|life| life.sign.at + life.lease)).min()
    }

    /// When a row becomes free if it is not renewed.
    fn unrenewed(&self, seen: &Seen) -> Instant {
        let life = self.workers.get(&seen.hold.worker).filter(|_| seen.hold.epoch.is_some());
        seen.sign.at + life.map_or(self.lease, |life| life.lease) * UNRENEWED
    }

    fn seen(&self, stream: &Stream, shard: &ShardId, hold: &Hold) -> Option<&Seen> {
        let seen = self.holds.get(stream).and_then(|of_stream| of_stream.get(shard));
        seen.filter(|seen| seen.hold == *hold)
    }

    /// Returns the workers that still have a row and were silent for [`BURIED_AFTER`] lease periods.
    pub(crate) fn long_dead<'w>(&self, workers: &'w [Worker], now: Instant) -> Vec<&'w Worker> {
        let dead = |worker: &&Worker| {
            let life = self.workers.get(&worker.id);
            life.is_some_and(|life| now.duration_since(life.sign.at) >= life.lease.max(self.lease) * BURIED_AFTER)
        };
        workers.iter().filter(dead).collect()
    }
}

#[cfg(test)]
#[path = "liveness_tests.rs"]
mod tests;
