//! A worker that gives a shard back has waited for what is in flight, and has stored what was acknowledged; one that stopped
//! gracefully leaves nothing behind.

use std::time::Duration;

use kinesis_simulator::kinesis::Number;
use kinesis_simulator::{RowWritten, Time, text};

use super::book::Claim;
use super::{Broken, Oracle, SLACK, WELL};

/// How long a release may have been composed before it sets out, where calls do not fail.
const COMPOSED: Duration = Duration::from_millis(100);

impl Oracle {
    /// A worker gives a shard back, to another worker or to none.
    pub(super) fn check_release(&mut self, id: u32, row: &RowWritten<'_>, stored: Option<Number>) {
        self.check_waited(id, row.by);
        self.check_stores_all(id, row, stored);
    }

    /// A worker that hands a shard over waits for what is in flight, for a while.
    fn check_waited(&mut self, id: u32, by: &str) {
        let Some(book) = self.books.get(&id) else { return };
        let Some(out) = book.claims.get(by).and_then(|claim| book.out.get(&claim.number)) else { return };
        let waited = self.now.since(out.last);
        let known = self.workers.get(by);
        let is_alive =
            known.is_some_and(|known| known.beat.is_some_and(|beat| self.now.since(beat.written) < known.lease / 2));
        if is_alive && !out.records.is_empty() && waited + SLACK < self.rules.acks {
            let count = out.records.len();
            let what =
                format!("{by} gave shard {id} back {waited:?} after it was given {count} records that are out still");
            self.violate(Broken::Hasty, what);
        }
    }

    /// What a worker stores with its release covers all that was acknowledged without a gap when the release was composed. While
    /// calls fail, a release may set out again as it was composed before, so that only a worker counts that has been well.
    fn check_stores_all(&mut self, id: u32, row: &RowWritten<'_>, stored: Option<Number>) {
        let Some(book) = self.books.get(&id).filter(|_| self.well_for(row.by) > WELL) else { return };
        let Some(claim) = book.claims.get(row.by) else { return };
        // A process knows nothing of what was acknowledged in another one under its name, and leaves what is stored.
        if self.workers.get(row.by).is_some_and(|known| known.started > book.claimed) {
            return;
        }
        let waits = book.out.get(&claim.number).is_some_and(|out| !out.records.is_empty());
        let sent = row.sent.unwrap_or(self.now);
        let is_handed_over = row.after.is_some_and(|after| text(after, "ClientID").is_some());
        let until = match (is_handed_over, book.asked) {
            // It was composed when it set out.
            (true, _) => sent,
            // The worker that had asked for the shard did not want it any more, and the release was composed for that worker first.
            (false, Some(_)) => sent - COMPOSED,
            (false, None) if waits => sent - COMPOSED,
            (false, None) => self.now,
        };
        let acked = book.acked_without_a_gap(row.by, *claim, until, self.scope);
        if stored < acked {
            let what =
                format!("{} gave shard {id} back at {stored:?}, and all up to {acked:?} is acknowledged", row.by);
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

    /// A worker has stopped gracefully, and says that it could store everything.
    pub(crate) fn has_stopped(&mut self, worker: &str, now: Time) {
        self.advance(now);
        let Some(known) = self.workers.get_mut(worker) else { return };
        // Another process may have been started under its name since.
        let Some(stopping) = known.stopping else { return };
        known.stopped = true;
        let (shown, started) = (known.shown, known.started);
        // What goes wrong while it stops may keep it from taking things back; the others find out later.
        let was_ill = self.workers.get(worker).is_some_and(|known| known.ill > known.started);
        if was_ill && self.well_for(worker) < WELL + now.since(stopping) {
            return;
        }
        let mut left = Vec::new();
        if let Some(since) = shown {
            let time = now.since(since);
            left.push((Broken::Leaked, format!("{worker} has stopped, and still shows itself, since {time:?}")));
        }
        for (id, book) in self.books.iter().filter(|(id, _)| self.known.contains(id)) {
            if book.wanted.as_ref().is_some_and(|(by, _)| by == worker) {
                left.push((Broken::Leaked, format!("{worker} has stopped, and still wants shard {id}")));
            }
            if book.holder.as_deref() == Some(worker) {
                left.push((Broken::Leaked, format!("{worker} has stopped, and still holds shard {id}")));
            }
            // What was given back before, or handed over, counts by itself.
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

    /// A claim that was on its way when its worker was told to stop is waited for, and given back.
    pub(super) fn check_claim_after_stop(&mut self, id: u32, by: &str) {
        if self.workers.get(by).is_some_and(|known| known.stopped) {
            self.violate(Broken::Leaked, format!("{by} claimed shard {id} though it has stopped"));
        }
    }

    /// After a clean stop of all workers none of them holds anything, and everything is stored.
    pub(crate) fn stopped(&mut self) {
        let mut left = Vec::new();
        for (id, book) in self.books.iter().filter(|(id, _)| self.known.contains(id)) {
            if let Some(holder) = &book.holder {
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

    /// For how long no shard has been claimed or given back.
    pub(crate) fn unmoved_for(&self) -> Duration {
        self.now.since(self.last_move)
    }
}
