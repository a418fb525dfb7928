//! Who is alive, as far as we saw?
//!
//! Pure. Clocks of different machines differ, so nothing that another one wrote about time is believed. What counts is
//! when we saw something change, on our own clock: a worker whose beat did not change for a lease period is gone.
//!
//! The owner counts its lease from before its last beat was written, and we count from after we saw it. So it knows
//! that its lease is over before we do.

use std::collections::{HashMap, HashSet};
use std::time::Duration;

use tokio::time::Instant;

use super::{Hold, Row, Worker};
use crate::names::{ShardId, Stream, WorkerId};

/// After so many lease periods without a sign of life a worker's row is removed.
const BURIED_AFTER: u32 = 10;

/// What we have seen.
#[derive(Debug)]
pub(crate) struct Watch {
    /// A lease that was not renewed for so long is over.
    lease: Duration,
    workers: HashMap<WorkerId, Life>,
    holds: HashMap<Stream, HashMap<ShardId, Seen>>,
    looked_before: bool,
    /// When a worker was seen for the first time, the last time; we ourselves are new at our first look.
    arrival: Option<Instant>,
}

#[derive(Debug)]
struct Life {
    /// Its last beat; `None` if only leases of it were seen.
    beat: Option<String>,
    sign: Sign,
}

/// A lease, as it was last seen.
#[derive(Debug)]
struct Seen {
    hold: Hold,
    /// The last sign of life of this very lease. Counts for other programs, who show no beats.
    sign: Sign,
}

/// A sign of life.
#[derive(Debug, Clone, Copy)]
struct Sign {
    at: Instant,
    /// Seen to happen, not just there when we first looked: that may have been left behind long ago.
    proven: bool,
}

impl Watch {
    /// Watches leases of this length.
    pub(crate) fn new(lease: Duration) -> Self {
        Self { lease, workers: HashMap::new(), holds: HashMap::new(), looked_before: false, arrival: None }
    }

    /// Learns what is there now.
    pub(crate) fn look<'a>(
        &mut self,
        now: Instant,
        workers: &[Worker],
        rows: impl IntoIterator<Item = (&'a Stream, &'a [Row])>,
    ) {
        let there = Sign { at: now, proven: self.looked_before };
        let happened = Sign { at: now, proven: true };
        if !self.looked_before || workers.iter().any(|worker| !self.workers.contains_key(&worker.id)) {
            self.arrival = Some(now);
        }
        for worker in workers {
            let life = self.workers.entry(worker.id.clone()).or_insert(Life { beat: None, sign: there });
            if life.beat.as_ref() != Some(&worker.beat) {
                life.sign = if life.beat.is_some() { happened } else { there };
                life.beat = Some(worker.beat.clone());
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
                    // Renewed, or claimed anew. A lease that was passed on says nothing of the one who got it.
                    Some(before) if before.hold.worker == hold.worker => Seen { hold: hold.clone(), sign: happened },
                    _ => Seen { hold: hold.clone(), sign: there },
                };
                if hold.epoch.is_some() {
                    if !self.workers.contains_key(&hold.worker) {
                        self.workers.insert(hold.worker.clone(), Life { beat: None, sign: there });
                    }
                    if seen.sign.at == now
                        && seen.sign.proven
                        && let Some(life) = self.workers.get_mut(&hold.worker).filter(|life| life.beat.is_none())
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
                life.beat = None;
            }
            shown.contains(id) || holders.contains(id)
        });
        self.looked_before = true;
    }

    /// Whether a worker came within the last `time`. Others may be about to.
    pub(crate) fn someone_came(&self, time: Duration, now: Instant) -> bool {
        self.arrival.is_some_and(|arrival| now.duration_since(arrival) < time)
    }

    /// Whether the worker gave a sign of life within a lease period.
    pub(crate) fn is_alive(&self, worker: &WorkerId, now: Instant) -> bool {
        self.workers.get(worker).is_some_and(|life| self.is_fresh(life.sign, now))
    }

    /// Whether the lease is over: nobody has renewed it for a lease period.
    pub(crate) fn is_over(&self, stream: &Stream, shard: &ShardId, hold: &Hold, now: Instant) -> bool {
        !self.is_fresh(self.sign(stream, shard, hold, now), now)
    }

    /// Whether its holder was seen alive: it isn't just a lease that was left behind before we first looked.
    pub(crate) fn is_proven(&self, stream: &Stream, shard: &ShardId, hold: &Hold, now: Instant) -> bool {
        let sign = self.sign(stream, shard, hold, now);
        sign.proven && self.is_fresh(sign, now)
    }

    /// When a lease will be over whose holder gave no sign of life when we looked now; the first of them. It is worth
    /// looking then.
    pub(crate) fn next_over(&self, now: Instant) -> Option<Instant> {
        let signs = self.holds.values().flat_map(HashMap::values).map(|seen| match seen.hold.epoch {
            Some(_) => self.workers.get(&seen.hold.worker).map_or(seen.sign, |life| life.sign),
            None => seen.sign,
        });
        signs.filter(|sign| sign.at < now && self.is_fresh(*sign, now)).map(|sign| sign.at + self.lease).min()
    }

    fn is_fresh(&self, sign: Sign, now: Instant) -> bool {
        now.duration_since(sign.at) < self.lease
    }

    /// The last sign of life of whoever holds the shard so. What was never seen counts from now.
    fn sign(&self, stream: &Stream, shard: &ShardId, hold: &Hold, now: Instant) -> Sign {
        let sign = if hold.epoch.is_some() {
            self.workers.get(&hold.worker).map(|life| life.sign)
        } else {
            let seen = self.holds.get(stream).and_then(|of_stream| of_stream.get(shard));
            seen.filter(|seen| seen.hold == *hold).map(|seen| seen.sign)
        };
        sign.unwrap_or(Sign { at: now, proven: false })
    }

    /// Workers that show themselves and have been silent for many lease periods.
    pub(crate) fn long_dead<'w>(&self, workers: &'w [Worker], now: Instant) -> Vec<&'w Worker> {
        let dead = |worker: &&Worker| {
            let life = self.workers.get(&worker.id);
            life.is_some_and(|life| now.duration_since(life.sign.at) >= self.lease * BURIED_AFTER)
        };
        workers.iter().filter(dead).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lease::{Place, Presence};

    const SECOND: Duration = Duration::from_secs(1);
    const LEASE: Duration = Duration::from_secs(30);

    fn stream() -> Stream {
        Stream::new("orders", "arn:orders")
    }

    fn worker(id: &str, beat: u64) -> Worker {
        Worker { id: id.into(), beat: beat.to_string(), presence: Presence::default() }
    }

    fn hold(worker: &str, epoch: Option<u64>, stamp: &str) -> Hold {
        Hold { worker: worker.into(), epoch, stamp: stamp.into() }
    }

    fn row(hold: &Hold) -> Row {
        let hold = Some(hold.clone());
        Row { shard: "s".into(), place: Place::Nowhere, hold, wanted_by: None, foreign: false }
    }

    fn look(watch: &mut Watch, now: Instant, workers: &[Worker], rows: &[Row]) {
        watch.look(now, workers, [(&stream(), rows)]);
    }

    #[test]
    fn a_worker_is_alive_as_long_as_its_beat_changes() {
        let (mut watch, start) = (Watch::new(LEASE), Instant::now());
        let held = hold("a", Some(1), "x");
        for second in [0, 10, 20, 30, 40] {
            look(&mut watch, start + second * SECOND, &[worker("a", u64::from(second))], &[row(&held)]);
        }
        let last = start + 40 * SECOND;
        assert!(!watch.is_over(&stream(), &"s".into(), &held, last + 29 * SECOND));
        look(&mut watch, last + 29 * SECOND, &[worker("a", 40)], &[row(&held)]);
        assert!(watch.is_over(&stream(), &"s".into(), &held, last + LEASE));
    }

    #[test]
    fn what_was_there_at_the_first_look_is_given_a_whole_lease() {
        let (mut watch, start) = (Watch::new(LEASE), Instant::now());
        // Whatever its stamp says of time.
        let held = hold("a", Some(1), "1970-01-01T00:00:00Z");
        look(&mut watch, start, &[worker("a", 1)], &[row(&held)]);
        assert!(!watch.is_over(&stream(), &"s".into(), &held, start + 29 * SECOND));
        assert!(!watch.is_proven(&stream(), &"s".into(), &held, start));
        assert!(watch.is_over(&stream(), &"s".into(), &held, start + LEASE));
    }

    #[test]
    fn a_holder_that_beats_is_proven() {
        let (mut watch, start) = (Watch::new(LEASE), Instant::now());
        let held = hold("a", Some(1), "x");
        look(&mut watch, start, &[worker("a", 1)], &[row(&held)]);
        look(&mut watch, start + SECOND, &[worker("a", 2)], &[row(&held)]);
        assert!(watch.is_proven(&stream(), &"s".into(), &held, start + SECOND));
    }

    #[test]
    fn the_leases_of_other_programs_stand_for_themselves() {
        let (mut watch, start) = (Watch::new(LEASE), Instant::now());
        look(&mut watch, start, &[], &[row(&hold("theirs", None, "1"))]);
        let renewed = hold("theirs", None, "2");
        look(&mut watch, start + 20 * SECOND, &[], &[row(&renewed)]);
        assert!(watch.is_proven(&stream(), &"s".into(), &renewed, start + 20 * SECOND));
        assert!(!watch.is_over(&stream(), &"s".into(), &renewed, start + 49 * SECOND));
        assert!(watch.is_over(&stream(), &"s".into(), &renewed, start + 50 * SECOND));
    }

    #[test]
    fn a_worker_whose_row_was_removed_is_given_a_lease_from_the_last_sign_of_life() {
        let (mut watch, start) = (Watch::new(LEASE), Instant::now());
        let held = hold("a", Some(1), "x");
        look(&mut watch, start, &[worker("a", 1)], &[row(&held)]);
        look(&mut watch, start + 20 * SECOND, &[worker("a", 2)], &[row(&held)]);
        look(&mut watch, start + 25 * SECOND, &[], &[row(&held)]);
        assert!(!watch.is_over(&stream(), &"s".into(), &held, start + 49 * SECOND));
        assert!(watch.is_over(&stream(), &"s".into(), &held, start + 50 * SECOND));
        // It shows itself again.
        look(&mut watch, start + 51 * SECOND, &[worker("a", 2)], &[row(&held)]);
        assert!(!watch.is_over(&stream(), &"s".into(), &held, start + 51 * SECOND));
    }

    #[test]
    fn it_tells_when_the_lease_of_a_silent_one_will_be_over() {
        let (mut watch, start) = (Watch::new(LEASE), Instant::now());
        let rows = [row(&hold("a", Some(1), "x"))];
        look(&mut watch, start, &[worker("a", 1)], &rows);
        assert_eq!(watch.next_over(start), None);
        look(&mut watch, start + 27 * SECOND, &[worker("a", 1)], &rows);
        assert_eq!(watch.next_over(start + 27 * SECOND), Some(start + LEASE));
        look(&mut watch, start + 30 * SECOND, &[worker("a", 1)], &rows);
        assert_eq!(watch.next_over(start + LEASE), None);
    }

    #[test]
    fn who_comes_while_we_watch_is_alive_and_who_is_silent_for_long_is_buried() {
        let (mut watch, start) = (Watch::new(LEASE), Instant::now());
        look(&mut watch, start, &[], &[]);
        look(&mut watch, start + SECOND, &[worker("b", 1)], &[]);
        let b: WorkerId = "b".into();
        assert!(watch.is_alive(&b, start + SECOND));
        assert!(!watch.is_alive(&b, start + 31 * SECOND));
        let workers = [worker("b", 1)];
        assert!(watch.long_dead(&workers, start + 300 * SECOND).is_empty());
        assert_eq!(watch.long_dead(&workers, start + 301 * SECOND).len(), 1);
    }
}
