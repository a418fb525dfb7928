//! The distance between the records of a shard that are in flight is bounded.

use super::{Broken, Oracle};

impl Oracle {
    pub(super) fn check_limit(&mut self, worker: &str, shard: &str, id: u32, at: usize) {
        let limit = self.workers.get(worker).map_or(0, |known| known.limits.apart);
        let apart = self.books.get(&id).map_or(0, |book| (at + 1).saturating_sub(book.unacked));
        if apart > limit {
            let what = format!("{worker} was given {shard} {at}, {apart} behind the first that is open, of {limit}");
            self.violate(Broken::OverBound, what);
        }
    }
}
