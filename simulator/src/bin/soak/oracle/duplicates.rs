//! A record that comes again was not stored as done when its worker began, nor acknowledged under the same claim.

use super::{Broken, Oracle};

impl Oracle {
    pub(super) fn check_again(&mut self, worker: &str, shard: &str, id: u32, at: usize) {
        let Some(book) = self.books.get(&id) else { return };
        let put = &book.puts[at];
        let number = put.number;
        self.counts.duplicates += u64::from(put.acked);
        let claim = book.claims.get(worker).copied().unwrap_or_default();
        let same = |ack: &super::Ack| ack.by == worker && ack.claim == claim.number;
        if claim.start.is_some_and(|start| number <= start) {
            let what = format!("{worker} was given {shard} {number} again, which was stored as done when it began");
            self.violate(Broken::Duplicated, what);
        } else if self.rules.file && put.last_ack.as_ref().is_some_and(|ack| self.may_be_unaware(ack.at)) {
            // The reader of a former stream had read on: nothing of that was stored for the new one, and unlike in a
            // table no claim shows when the worker noticed.
        } else if put.last_ack.as_ref().is_some_and(same) {
            let what = format!("{worker} was given {shard} {number} again, which it acknowledged under the same lease");
            self.violate(Broken::Duplicated, what);
        }
    }
}
