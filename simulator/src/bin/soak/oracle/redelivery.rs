//! What was refused comes again after its backoff, and not much later.

use std::time::Duration;

use kinesis_simulator::Time;

use super::{Broken, Oracle, WELL};

/// The backoff after the first refusal. It doubles with each further one.
const FIRST_BACKOFF: Duration = Duration::from_millis(1);
/// The longest backoff.
const LONGEST_BACKOFF: Duration = Duration::from_secs(1);
/// How much later it may come in a read that waits for it.
const LATE: Duration = Duration::from_millis(300);

impl Oracle {
    /// A host has not stored a record, and says so or loses the receipt: it comes again.
    pub(crate) fn refused(&mut self, now: Time, shard: &str, number: &str, claim: u64) {
        self.advance(now);
        let Some((id, at)) = self.find(shard, number) else { return };
        if let Some(out) = self.books.get_mut(&id).and_then(|book| book.out.get_mut(&claim)) {
            out.records.remove(&at);
            out.refused.insert(at);
            let refusals = out.refusals.entry(at).or_default();
            *refusals += 1;
            let backoff = FIRST_BACKOFF * (1 << (*refusals - 1).min(15));
            out.rests_until = out.rests_until.max(now + backoff.min(LONGEST_BACKOFF));
        }
    }

    /// Nothing of a shard comes before the backoff of what was refused of it.
    pub(super) fn check_rest(&mut self, worker: &str, shard: &str, id: u32, at: usize) {
        let Some(book) = self.books.get(&id) else { return };
        let claim = book.claims.get(worker).map_or(0, |claim| claim.number);
        let Some(until) = book.out.get(&claim).map(|out| out.rests_until).filter(|until| *until > self.now) else {
            return;
        };
        let early = until.since(self.now);
        let what = format!("{worker} was given {shard} {at} {early:?} before the backoff of a refused record was over");
        self.violate(Broken::Hasty, what);
    }

    /// A read that began then is over, with a batch or without: it did not pass over what was due.
    pub(crate) fn read_ended(&mut self, now: Time, worker: &str, began: Time) {
        self.advance(now);
        if self.well_for(worker) < WELL || self.workers.get(worker).is_some_and(|known| known.stopping.is_some()) {
            return;
        }
        let mut late = Vec::new();
        for (id, book) in &self.books {
            // A shard that is about to be handed over is not delivered any more.
            if book.holder.as_deref() != Some(worker) || book.wanted.is_some() {
                continue;
            }
            let Some(out) = book.claims.get(worker).and_then(|claim| book.out.get(&claim.number)) else { continue };
            let waited = now.since(began.max(out.rests_until));
            if let Some(first) = out.refused.first().filter(|_| waited > LATE) {
                late.push(format!("{worker} waited {waited:?} for shard {id} {first}, which was refused and is due"));
            }
        }
        for what in late {
            self.violate(Broken::Stalled, what);
        }
    }
}
