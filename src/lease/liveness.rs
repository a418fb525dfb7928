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
    workers: HashMap<WorkerId, Known>,
    /// The leases, by stream and shard, as of the last read of the table.
    holds: HashMap<Stream, HashMap<ShardId, Seen>>,
    /// Whether the table has been read before. A change can be proven only from the second read on.
    observed_before: bool,
    /// When a worker was last seen for the first time. This worker itself counts as new at its first read of the table.
    /// A rebalance reads it before it requests shards.
    arrival: Option<Instant>,
}

#[derive(Debug)]
struct Known {
    /// The last heartbeat of the worker; `None` if only leases of it were seen.
    heartbeat: Option<String>,
    evidence: Evidence,
    /// The lease period of the worker.
    lease: Duration,
}

/// A lease, as it was last seen.
#[derive(Debug)]
struct Seen {
    hold: Hold,
    /// The last evidence that this lease is renewed.
    evidence: Evidence,
}

/// Evidence that a worker is alive, and when it was seen.
#[derive(Debug, Clone, Copy)]
struct Evidence {
    at: Instant,
    /// Whether a change was seen. A row that was there at the first read of the table may belong to a dead worker.
    proven: bool,
}

impl Liveness {
    /// Starts without knowledge, with the lease period of this worker.
    pub(crate) fn new(lease: Duration) -> Self {
        Self { lease, workers: HashMap::new(), holds: HashMap::new(), observed_before: false, arrival: None }
    }

    /// Records what the table shows now.
    pub(crate) fn observe<'a>(
        &mut self,
        now: Instant,
        workers: &[Worker],
        rows: impl IntoIterator<Item = (&'a Stream, &'a [Row])>,
    ) {
        let there = Evidence { at: now, proven: self.observed_before };
        let happened = Evidence { at: now, proven: true };
        let passed_on = Evidence { at: now, proven: false };
        if !self.observed_before || workers.iter().any(|worker| !self.workers.contains_key(&worker.id)) {
            self.arrival = Some(now);
        }
        for worker in workers {
            let known = self.workers.entry(worker.id.clone()).or_insert(Known {
                heartbeat: None,
                evidence: there,
                lease: self.lease,
            });
            known.lease = worker.presence.lease.unwrap_or(self.lease);
            if known.heartbeat.as_ref() != Some(&worker.heartbeat) {
                known.evidence = if known.heartbeat.is_some() { happened } else { there };
                known.heartbeat = Some(worker.heartbeat.clone());
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
                    None => Seen { hold: hold.clone(), evidence: there },
                    // The lease was renewed or claimed anew. Other programs hand nothing over.
                    Some(before) if before.hold.worker == hold.worker || hold.epoch.is_none() => {
                        Seen { hold: hold.clone(), evidence: happened }
                    }
                    // A lease that was handed over does not prove that its new owner is alive.
                    Some(_) => Seen { hold: hold.clone(), evidence: passed_on },
                };
                if hold.epoch.is_some() {
                    if !self.workers.contains_key(&hold.worker) {
                        let known = Known { heartbeat: None, evidence: seen.evidence, lease: self.lease };
                        self.workers.insert(hold.worker.clone(), known);
                    }
                    if seen.evidence.at == now
                        && seen.evidence.proven
                        && let Some(known) =
                            self.workers.get_mut(&hold.worker).filter(|known| known.heartbeat.is_none())
                    {
                        known.evidence = seen.evidence;
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
        self.workers.retain(|id, known| {
            if !shown.contains(id) {
                known.heartbeat = None;
            }
            shown.contains(id) || holders.contains(id)
        });
        self.observed_before = true;
    }

    /// Whether a worker appeared within the last `time`. Others may be about to.
    pub(crate) fn someone_came(&self, time: Duration, now: Instant) -> bool {
        self.arrival.is_some_and(|arrival| now.duration_since(arrival) < time)
    }

    /// Whether the worker was seen alive within its lease period.
    pub(crate) fn is_alive(&self, worker: &WorkerId, now: Instant) -> bool {
        self.workers.get(worker).is_some_and(|known| now < known.evidence.at + known.lease)
    }

    /// Whether the worker was seen alive at `at` or later.
    pub(crate) fn was_alive_since(&self, worker: &WorkerId, at: Instant) -> bool {
        self.workers.get(worker).is_some_and(|known| known.evidence.proven && known.evidence.at >= at)
    }

    /// Whether the lease has expired: its holder sends no heartbeats any more, or the row has not been renewed for too
    /// long.
    pub(crate) fn is_expired(&self, stream: &Stream, shard: &ShardId, hold: &Hold, now: Instant) -> bool {
        self.end(stream, shard, hold).is_some_and(|end| now >= end)
    }

    /// Whether the holder was seen alive. A lease that was there at the first read of the table may belong to a dead
    /// worker.
    pub(crate) fn is_proven(&self, stream: &Stream, shard: &ShardId, hold: &Hold, now: Instant) -> bool {
        let evidence = if hold.epoch.is_some() {
            self.workers.get(&hold.worker).map(|known| known.evidence)
        } else {
            self.seen(stream, shard, hold).map(|seen| seen.evidence)
        };
        evidence.is_some_and(|evidence| evidence.proven) && !self.is_expired(stream, shard, hold, now)
    }

    /// When the first lease will expire among those whose holder was not seen alive at the read at `now`. The table
    /// should be read again then.
    pub(crate) fn next_expiry(&self, now: Instant) -> Option<Instant> {
        let ends = self.holds.values().flat_map(HashMap::values).map(|seen| {
            let silent = self.workers.get(&seen.hold.worker).filter(|_| seen.hold.epoch.is_some());
            let silent = silent.filter(|known| known.evidence.at < now).map(|known| known.evidence.at + known.lease);
            let unrenewed = Some(self.unrenewed(seen)).filter(|_| seen.evidence.at < now);
            silent.into_iter().chain(unrenewed).min()
        });
        ends.flatten().filter(|end| *end > now).min()
    }

    /// When the lease expires if no further evidence of it or its holder is seen. A lease that was never seen does not
    /// expire.
    fn end(&self, stream: &Stream, shard: &ShardId, hold: &Hold) -> Option<Instant> {
        let unrenewed = self.seen(stream, shard, hold).map(|seen| self.unrenewed(seen));
        let silent = self.workers.get(&hold.worker).filter(|_| hold.epoch.is_some());
        unrenewed.into_iter().chain(silent.map(|known| known.evidence.at + known.lease)).min()
    }

    /// When a row becomes free if it is not renewed.
    fn unrenewed(&self, seen: &Seen) -> Instant {
        let known = self.workers.get(&seen.hold.worker).filter(|_| seen.hold.epoch.is_some());
        seen.evidence.at + known.map_or(self.lease, |known| known.lease) * UNRENEWED
    }

    fn seen(&self, stream: &Stream, shard: &ShardId, hold: &Hold) -> Option<&Seen> {
        let seen = self.holds.get(stream).and_then(|of_stream| of_stream.get(shard));
        seen.filter(|seen| seen.hold == *hold)
    }

    /// Returns the workers that still have a row and were silent for [`BURIED_AFTER`] lease periods.
    pub(crate) fn long_dead<'w>(&self, workers: &'w [Worker], now: Instant) -> Vec<&'w Worker> {
        let dead = |worker: &&Worker| {
            let known = self.workers.get(&worker.id);
            known.is_some_and(|known| {
                now.duration_since(known.evidence.at) >= known.lease.max(self.lease) * BURIED_AFTER
            })
        };
        workers.iter().filter(dead).collect()
    }
}

#[cfg(test)]
#[path = "liveness_tests.rs"]
mod tests;
