//! Records of a shard come in order, after those of its parents, and nacked records come before newer ones.

use super::{Broken, Oracle};

impl Oracle {
    pub(super) fn check_delivery(&mut self, worker: &str, shard: &str, number: &str) {
        self.counts.deliveries += 1;
        // The record is of a stream that is gone: it may be delivered, and is not missed.
        if self.is_former(number) {
            return;
        }
        let Some((id, at)) = self.find(shard, number) else {
            self.violate(Broken::OutOfOrder, format!("{worker} was given {shard} {number}, which no writer put"));
            return;
        };
        if self.all_done {
            self.violate(Broken::Duplicated, format!("{worker} was given {shard} {number} after a clean stop"));
        }
        // The run does not wait for records that have just expired.
        self.expire(id);
        self.check_lease(worker, shard);
        self.check_holder(worker, shard, id);
        self.check_limit(worker, shard, id, at);
        self.check_backoff(worker, shard, id, at);
        self.note_delivery(worker, shard, id, at);
        self.check_parents(worker, shard, id, number);
        let Some(book) = self.books.get(&id) else { return };
        let put = &book.puts[at];
        if put.delivered {
            self.check_again(worker, shard, id, at);
            return;
        }
        if self.is_expected(put) && at != book.frontier {
            let missing = book.puts[book.frontier].number;
            self.violate(Broken::OutOfOrder, format!("{worker} was given {shard} {number} before {missing}"));
        }
        let scope = self.scope;
        if let Some(book) = self.books.get_mut(&id) {
            book.puts[at].delivered = true;
            book.advance(scope);
        }
    }

    fn check_parents(&mut self, worker: &str, shard: &str, id: u32, number: &str) {
        for parent in self.books[&id].parents.clone() {
            let Some(book) = self.books.get(&parent).filter(|_| self.known.contains(&parent)) else { continue };
            if !book.ended || book.unacked < book.puts.len() {
                let what = format!("{worker} was given {shard} {number} before parent {parent} was done");
                self.violate(Broken::OutOfOrder, what);
            }
        }
    }

    /// A record is in flight now; a nacked record has to come before it.
    fn note_delivery(&mut self, worker: &str, shard: &str, id: u32, at: usize) {
        let now = self.now;
        let Some(book) = self.books.get_mut(&id) else { return };
        let claim = book.claims.get(worker).map_or(0, |claim| claim.number);
        let in_flight = book.in_flight.entry(claim).or_default();
        let before = in_flight.nacked.first().copied().filter(|nacked| *nacked < at);
        in_flight.nacked.remove(&at);
        in_flight.records.insert(at);
        in_flight.last = now;
        if let Some(nacked) = before {
            let what = format!("{worker} was given {shard} {at} before {nacked}, which was nacked");
            self.violate(Broken::OutOfOrder, what);
        }
    }
}
