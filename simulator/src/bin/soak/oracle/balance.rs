//! The workers share the shards: each gets the same number or one more, claims its part step by step, and requests
//! nothing while workers still start.

use std::collections::BTreeMap;
use std::time::Duration;

use kinesis_simulator::{RowWritten, Time};

use super::{Broken, Oracle};

/// The longest time after a worker's start during which no shard may be requested.
const SETTLE: Duration = Duration::from_secs(10);
/// Claims of one worker within this time belong to at most two rebalances.
const BURST: Duration = Duration::from_millis(300);
/// The fewest free shards of which two rebalances leave some.
const ENOUGH_FOR_TWO_REBALANCES: usize = 4;
/// The largest age of the table that a worker acts on.
const OLDEST_READ: Duration = Duration::from_secs(2);

impl Oracle {
    /// Whether any worker may claim a shard.
    fn is_free(&self, id: u32) -> bool {
        self.books.get(&id).is_some_and(|book| {
            let is_done = |parent: &u32| {
                !self.known.contains(parent) || self.books.get(parent).is_some_and(|parent| parent.ended)
            };
            self.known.contains(&id) && book.holder.is_none() && !book.ended && book.parents.iter().all(is_done)
        })
    }

    /// Whether a parent of the shard ended within the last rebalance period.
    pub(super) fn follows_an_end(&self, id: u32) -> bool {
        let ended_at = |parent: &u32| self.books.get(parent)?.ended_by.as_ref().map(|(_, at)| *at);
        let parents = self.books.get(&id).map(|book| &*book.parents).unwrap_or_default();
        parents.iter().filter_map(ended_at).any(|at| self.now.since(at) < self.rules.rebalance)
    }

    /// A rebalance claims half of the free shards, so that workers that start at the same time get their part. The
    /// children of a shard that the worker itself has read are an exception.
    pub(super) fn check_share_of_free(&mut self, id: u32, by: &str) {
        // The calls of a worker with a slow table arrive together, whichever rebalance they belong to.
        if !self.is_sound(by) {
            return;
        }
        let Some(book) = self.books.get(&id) else { return };
        let own = |parent: &u32| {
            let ended_by = self.books.get(parent).and_then(|parent| parent.ended_by.as_ref());
            ended_by.is_some_and(|(worker, _)| worker == by)
        };
        if book.parents.iter().any(own) {
            return;
        }
        let free = self.books.keys().filter(|id| self.is_free(**id)).count();
        let now = self.now;
        let Some(known) = self.workers.get_mut(by) else { return };
        let (begin, free, claimed) = match known.burst {
            Some((begin, free, claimed)) if now.since(begin) < BURST => (begin, free, claimed + 1),
            _ => (now, free, 1),
        };
        known.burst = Some((begin, free, claimed));
        if claimed >= free && free >= ENOUGH_FOR_TWO_REBALANCES {
            let what = format!("{by} claimed all {free} shards that were free within {:?}", now.since(begin));
            self.violate(Broken::Unbalanced, what);
        }
    }

    /// Notes that a worker requests a shard.
    pub(super) fn note_request(&mut self, id: u32, row: &RowWritten<'_>, requester: Option<&str>) {
        let Some(requester) = requester else { return };
        let now = self.now;
        let book = self.books.entry(id).or_default();
        if book.requester.as_ref().is_some_and(|(by, _)| by == requester) {
            return;
        }
        book.requester = Some((requester.to_owned(), now));
        book.asked = Some(now);
        if requester == row.by {
            self.check_settled(id, requester, row.sent.unwrap_or(now));
        }
    }

    /// Nothing is requested shortly after a worker started, the requester included: another one may be about to start.
    fn check_settled(&mut self, id: u32, by: &str, sent: Time) {
        if !self.is_sound(by) {
            return;
        }
        let settle = SETTLE.min(self.rules.rebalance / 3);
        // A worker that was present before may not have been missed, and one that holds something is not new.
        let came = self.workers.iter().find_map(|(name, known)| {
            let after = sent.since(known.came.filter(|came| *came <= sent && known.shown.is_some())?);
            let holds = self.books.values().any(|book| book.holder.as_deref() == Some(name));
            (after < settle && after > OLDEST_READ && !holds).then(|| (name.clone(), after))
        });
        if let Some((name, after)) = came {
            self.violate(Broken::Unbalanced, format!("{by} asked for shard {id} {after:?} after {name} came"));
        }
    }

    /// After a long calm every shard is held by a live worker, each of these has the same number or one more, and no
    /// shard moves any more.
    pub(crate) fn check_spread(&mut self, alive: &[&str], calm: Duration) {
        let mut counts: BTreeMap<&str, usize> = alive.iter().map(|name| (*name, 0)).collect();
        let mut unheld = Vec::new();
        for (id, book) in self.books.iter().filter(|(id, book)| self.known.contains(id) && !book.ended) {
            match book.holder.as_deref().and_then(|holder| counts.get_mut(holder)) {
                Some(count) => *count += 1,
                None => unheld.push((*id, book.holder.clone())),
            }
        }
        let (least, most) = (counts.values().min().copied(), counts.values().max().copied());
        let is_even = most.zip(least).is_none_or(|(most, least)| most - least <= 1);
        let what = format!("after {calm:?} of calm the shards are spread as {counts:?}, {unheld:?} are held by none");
        if !is_even || !unheld.is_empty() {
            self.violate(Broken::Unbalanced, what);
        }
        let quiet = self.unmoved_for();
        if quiet < self.rules.rebalance {
            self.violate(Broken::Unbalanced, format!("after {calm:?} of calm a shard moved {quiet:?} ago"));
        }
    }
}
