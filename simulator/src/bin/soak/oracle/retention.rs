//! A record expires only if no worker could have read it in time.

use std::time::Duration;

use kinesis_simulator::Time;

use super::{Broken, Oracle};

/// How long a reader may still wait in vain after the last fault: it retries with a long backoff what only a person can
/// fix, and looks for a shard that it does not find until it is sure.
const AFTERMATH: Duration = Duration::from_secs(75);

impl Oracle {
    /// Notes whether there is no fault now: workers are up, and they, their hosts, the table and the stream have no
    /// faults.
    pub(crate) fn weather(&mut self, is_healthy: bool) {
        let enough = self.long_enough();
        match self.healthy_since {
            None if is_healthy => self.healthy_since = Some(self.now),
            Some(since) if !is_healthy => {
                if self.now.since(since) > enough {
                    self.healthy_before.push((since, self.now));
                }
                self.healthy_since = None;
            }
            _ => {}
        }
    }

    /// How long there must be no fault until every record is read: the leases of dead workers have to expire, the
    /// others have to notice and claim the shards, and a hand-over may come in between.
    fn long_enough(&self) -> Duration {
        self.rules.longest_lease * 2 + self.rules.rebalance + self.rules.handed_over_within + AFTERMATH
    }

    /// Removes the records of a shard that are past retention.
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
            let spells = self.healthy_before.iter().copied().chain(self.healthy_since.map(|since| (since, self.now)));
            spells.map(|(since, until)| until.since(since.max(put))).find(|well| *well > enough)
        };
        let lost = expired.iter().find_map(|(put, number)| Some((*number, could_be_read(*put)?)));
        if let Some((number, well)) = lost {
            let what =
                format!("shard {shard}: {number} expired though there was no fault for {well:?}; held by {holder:?}");
            self.violate(Broken::Lost, what);
        }
    }
}
