//! Nacked records come again after their backoff, and not much later.

use std::time::Duration;

use kinesis_simulator::Time;

use super::{Broken, HEALTHY, Oracle};

/// The backoff after the first nack. It doubles with each further one.
const FIRST_BACKOFF: Duration = Duration::from_millis(1);
/// The longest backoff.
const LONGEST_BACKOFF: Duration = Duration::from_secs(1);
/// How much later a record may come in a read that waits for it.
const LATE: Duration = Duration::from_millis(300);

impl Oracle {
    /// A host has not stored a record, and nacks it or loses the receipt: the record has to come again.
    pub(crate) fn nacked(&mut self, now: Time, shard: &str, number: &str, claim: u64) {
        self.advance(now);
        let Some((id, at)) = self.find(shard, number) else { return };
        if let Some(in_flight) = self.books.get_mut(&id).and_then(|book| book.in_flight.get_mut(&claim)) {
            in_flight.records.remove(&at);
            in_flight.nacked.insert(at);
            let nacks = in_flight.nacks.entry(at).or_default();
            *nacks += 1;
            let backoff = FIRST_BACKOFF * (1 << (*nacks - 1).min(15));
            in_flight.retry_at = in_flight.retry_at.max(now + backoff.min(LONGEST_BACKOFF));
        }
    }

    /// Checks that nothing of a shard comes before the backoff of its nacked records has passed.
    pub(super) fn check_backoff(&mut self, worker: &str, shard: &str, id: u32, at: usize) {
        let Some(book) = self.books.get(&id) else { return };
        let claim = book.claims.get(worker).map_or(0, |claim| claim.number);
        let Some(until) =
            book.in_flight.get(&claim).map(|in_flight| in_flight.retry_at).filter(|until| *until > self.now)
        else {
            return;
        };
        let early = until.since(self.now);
        let what =
            format!("{worker} was given {shard} {at} {early:?} before the backoff of a nacked record had passed");
        self.violate(Broken::Hasty, what);
    }

    /// A read that began at `began` has ended, with a batch or without: it must not have passed over a redelivery that
    /// was due.
    pub(crate) fn read_ended(&mut self, now: Time, worker: &str, began: Time) {
        self.advance(now);
        if self.healthy_for(worker) < HEALTHY || self.workers.get(worker).is_some_and(|known| known.stopping.is_some())
        {
            return;
        }
        let mut late = Vec::new();
        for (id, book) in &self.books {
            // A shard that is about to be handed over is not delivered any more.
            if book.holder.as_deref() != Some(worker) || book.requester.is_some() {
                continue;
            }
            // A process does not know what was nacked in another one of its name, and waits for the leases of that.
            if self.workers.get(worker).is_some_and(|known| known.started > book.claimed) {
                continue;
            }
            let Some(in_flight) = book.claims.get(worker).and_then(|claim| book.in_flight.get(&claim.number)) else {
                continue;
            };
            let waited = now.since(began.max(in_flight.retry_at));
            if let Some(first) = in_flight.nacked.first().filter(|_| waited > LATE) {
                late.push(format!("{worker} waited {waited:?} for shard {id} {first}, which was nacked and is due"));
            }
        }
        for what in late {
            self.violate(Broken::Stalled, what);
        }
    }
}
