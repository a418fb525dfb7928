//! A worker that releases a shard has waited for what is in flight, and has stored what was acknowledged; one that
//! stopped gracefully leaves nothing behind.

use std::time::Duration;

use kinesis_simulator::{RowWritten, Time, text};

use super::book::Claim;
use super::{Broken, HEALTHY, Oracle, Position, SLACK};

/// How long before it is sent a release may have been composed, where calls do not fail.
const COMPOSED: Duration = Duration::from_millis(100);

impl Oracle {
    /// Checks that a worker may release a shard, to another worker or to none.
    pub(super) fn check_release(&mut self, id: u32, row: &RowWritten<'_>, stored: Option<Position>) {
        self.check_waited(id, row.by);
        self.check_stores_all(id, row, stored);
    }

    /// Checks that a worker that hands a shard over waits for what is in flight, for a while.
    fn check_waited(&mut self, id: u32, by: &str) {
        let Some(book) = self.books.get(&id) else { return };
        let Some(in_flight) = book.claims.get(by).and_then(|claim| book.in_flight.get(&claim.number)) else { return };
        let waited = self.now.since(in_flight.last);
        let known = self.workers.get(by);
        let is_alive = known.is_some_and(|known| {
            known.heartbeat.is_some_and(|heartbeat| self.now.since(heartbeat.written) < known.lease / 2)
        });
        let acks = known.map_or(Duration::ZERO, |known| known.limits.acks);
        if is_alive && !in_flight.records.is_empty() && waited + SLACK < acks {
            let count = in_flight.records.len();
            let what = format!(
                "{by} released shard {id} {waited:?} after it was given {count} records that are still in flight"
            );
            self.violate(Broken::Hasty, what);
        }
    }

    /// Checks that the position that a worker stores with its release covers everything that was acknowledged without a
    /// gap when the release was composed. While calls fail, a release may be sent again as it was composed before, so
    /// only a worker without faults counts.
    fn check_stores_all(&mut self, id: u32, row: &RowWritten<'_>, stored: Option<Position>) {
        let Some(book) = self.books.get(&id).filter(|_| self.healthy_for(row.by) > HEALTHY) else { return };
        let Some(claim) = book.claims.get(row.by) else { return };
        // A process knows nothing of what was acknowledged in another process of its name, and leaves what is stored.
        if self.workers.get(row.by).is_some_and(|known| known.started > book.claimed) {
            return;
        }
        let waits = book.in_flight.get(&claim.number).is_some_and(|in_flight| !in_flight.records.is_empty());
        let sent = row.sent.unwrap_or(self.now);
        let is_handed_over = row.after.is_some_and(|after| text(after, "ClientID").is_some());
        let until = match (is_handed_over, book.asked) {
            // The release was composed when it was sent.
            (true, _) => sent,
            // The requester had withdrawn its request, and the release was composed for that requester first.
            (false, Some(_)) => sent - COMPOSED,
            (false, None) if waits => sent - COMPOSED,
            (false, None) => self.now,
        };
        let acked = book.acked_without_a_gap(row.by, *claim, until, self.scope);
        if stored < acked {
            let what =
                format!("{} released shard {id} at {stored:?}, and everything up to {acked:?} is acknowledged", row.by);
            self.violate(Broken::Duplicated, what);
        }
    }

    /// A worker is told to stop gracefully.
    pub(crate) fn stopping(&mut self, worker: &str, now: Time) {
        self.advance(now);
        if let Some(known) = self.workers.get_mut(worker) {
            known.stopping = Some(now);
        }
    }

    /// A worker has been delivering what it gathered since it was told to stop, for too long. Returns whether nothing was
    /// wrong with it meanwhile.
    pub(crate) fn drain_hangs(&mut self, worker: &str, now: Time, since: Time) -> bool {
        self.advance(now);
        let time = now.since(since);
        let hangs = self.healthy_for(worker) > time;
        if hangs {
            self.violate(Broken::Stalled, format!("{worker} has not delivered what it gathered after {time:?}"));
        }
        hangs
    }

    /// A worker has stopped gracefully, and reports that everything was stored.
    pub(crate) fn has_stopped(&mut self, worker: &str, now: Time) {
        self.advance(now);
        let Some(known) = self.workers.get_mut(worker) else { return };
        // Another process may have been started under its name since.
        let Some(stopping) = known.stopping else { return };
        known.stopped = true;
        let (shown, started) = (known.shown, known.started);
        // Faults during the stop may keep it from withdrawing its requests; the other workers find out later.
        let had_fault = self.workers.get(worker).is_some_and(|known| known.last_fault > known.started);
        if had_fault && self.healthy_for(worker) < HEALTHY + now.since(stopping) {
            return;
        }
        let mut left = Vec::new();
        if let Some(since) = shown {
            let time = now.since(since);
            left.push((
                Broken::Leaked,
                format!("{worker} has stopped, and its row is still in the table, since {time:?}"),
            ));
        }
        for (id, book) in self.books.iter().filter(|(id, _)| self.known.contains(id)) {
            if book.requester.as_ref().is_some_and(|(by, _)| by == worker) {
                left.push((Broken::Leaked, format!("{worker} has stopped, and still requests shard {id}")));
            }
            // One with a file holds what it read until its process ends.
            if book.holder.as_deref() == Some(worker) && !self.rules.file {
                left.push((Broken::Leaked, format!("{worker} has stopped, and still holds shard {id}")));
            }
            // What was released before, or handed over, counts by itself.
            let claim = book.claims.get(worker).filter(|claim| claim.released.is_none_or(|at| at >= stopping));
            let claim = claim.filter(|claim| !claim.asked && book.claimed >= started);
            let lost_it = |claim: &&Claim| claim.released.is_none() && book.holder.as_deref() != Some(worker);
            let Some(claim) = claim.filter(|claim| !lost_it(claim)) else { continue };
            let acked = book.acked_without_a_gap(worker, *claim, now, self.scope);
            if book.stored < acked && !book.ended {
                let what = format!(
                    "{worker} has stopped with shard {id} stored up to {:?}, and all up to {acked:?} is acknowledged",
                    book.stored
                );
                left.push((Broken::Duplicated, what));
            }
        }
        for (broken, what) in left {
            self.violate(broken, what);
        }
    }

    /// A worker that is told to stop waits for the claims in progress, and releases them.
    pub(super) fn check_claim_after_stop(&mut self, id: u32, by: &str) {
        if self.workers.get(by).is_some_and(|known| known.stopped) {
            self.violate(Broken::Leaked, format!("{by} claimed shard {id} though it has stopped"));
        }
    }

    /// After a clean stop of all workers none of them holds anything, and everything is stored.
    pub(crate) fn stopped(&mut self) {
        let mut left = Vec::new();
        for (id, book) in self.books.iter().filter(|(id, _)| self.known.contains(id)) {
            if let Some(holder) = &book.holder
                && !self.rules.file
            {
                left.push((Broken::Leaked, format!("shard {id} is still held by {holder}")));
            }
            let last = book.puts.iter().rev().find(|put| self.is_expected(put));
            if let Some(put) = last
                && !book.ended
                && book.stored.is_none_or(|stored| stored < put.number)
            {
                let what =
                    format!("shard {id} is stored up to {:?} after a clean stop, not {}", book.stored, put.number);
                left.push((Broken::Duplicated, what));
            }
        }
        for (broken, what) in left {
            self.violate(broken, what);
        }
        self.all_done = true;
    }

    /// For how long no shard has been claimed or released.
    pub(crate) fn unmoved_for(&self) -> Duration {
        self.now.since(self.last_move)
    }
}
