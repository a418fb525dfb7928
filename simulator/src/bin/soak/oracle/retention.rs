//! A record expires only if no worker could have read it in time.

use std::time::Duration;

use kinesis_simulator::Time;

use super::{Broken, Oracle};

/// What a reader may wait in vain after everything is well again: it asks slowly for what only a person can mend, and looks for a
/// shard that it does not find until that is sure.
const AFTERMATH: Duration = Duration::from_secs(75);

impl Oracle {
    /// Whether all is well now: workers are up, nothing is wrong with them, their hosts, the table or the stream.
    pub(crate) fn weather(&mut self, is_well: bool) {
        let enough = self.long_enough();
        match self.well_since {
            None if is_well => self.well_since = Some(self.now),
            Some(since) if !is_well => {
                if self.now.since(since) > enough {
                    self.well_before.push((since, self.now));
                }
                self.well_since = None;
            }
            _ => {}
        }
    }

    /// For how long everything has to be well until every record is read: the leases of dead workers have to expire, which the
    /// others have to notice, and have to be claimed; a hand-over may come in between.
    fn long_enough(&self) -> Duration {
        self.rules.longest_lease * 2 + self.rules.rebalance + self.rules.handed_over_within + AFTERMATH
    }

    /// Strikes off the records of a shard that are past retention.
    pub(super) fn expire(&mut self, shard: u32) {
        let (oldest, scope) = (self.now - self.rules.retention, self.scope);
        let Some(book) = self.books.get_mut(&shard) else { return };
        let expired = book.expire(oldest, scope);
        let holder = book.holder.clone();
        self.counts.expired += expired.len() as u64;
        if expired.is_empty() {
            return;
        }
        let enough = self.long_enough();
        let could_be_read = |put: Time| {
            let spells = self.well_before.iter().copied().chain(self.well_since.map(|since| (since, self.now)));
            spells.map(|(since, until)| until.since(since.max(put))).find(|well| *well > enough)
        };
        let lost = expired.iter().find_map(|(put, number)| Some((*number, could_be_read(*put)?)));
        if let Some((number, well)) = lost {
            let what = format!("shard {shard}: {number} expired though all was well for {well:?}; held by {holder:?}");
            self.violate(Broken::Lost, what);
        }
    }
}
