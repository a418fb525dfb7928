//! A shard has one reader at a time: the worker that holds its lease, as long as the lease is valid.

use std::time::Duration;

use kinesis_simulator::Time;

use super::{Broken, Oracle, SLACK};

/// How long a worker that lost a shard may continue until it reads the table.
const UNAWARE: Duration = Duration::from_mins(2);

impl Oracle {
    /// A worker counts its lease from before its heartbeat was sent, and delivers nothing after that. The other workers
    /// count from when they saw the heartbeat, which is later: however long the answer took, they wait longer.
    pub(super) fn check_lease(&mut self, worker: &str, shard: &str) {
        let Some(known) = self.workers.get(worker) else { return };
        let Some(heartbeat) = known.heartbeat else { return };
        let silent = self.now.since(heartbeat.sent);
        if silent > known.lease + SLACK {
            let what = format!("{worker} was given a record of {shard}, {silent:?} after its last heartbeat was sent");
            self.violate(Broken::Unfenced, what);
        }
    }

    /// A worker delivers the shards that it has claimed, and continues only briefly after another worker has taken one.
    pub(super) fn check_holder(&mut self, worker: &str, shard: &str, id: u32) {
        let Some(book) = self.books.get(&id) else { return };
        let since = self.now.since(book.claimed);
        // A reader of a former stream may be given records of the new one until its worker notices that.
        let may_know = !self.is_stream_young(UNAWARE);
        if !book.claims.contains_key(worker) && may_know {
            let what = format!("{worker} was given a record of {shard}, which it never claimed");
            self.violate(Broken::Unfenced, what);
        } else if book.holder.as_deref().is_some_and(|holder| holder != worker) && since > UNAWARE {
            let what = format!("{worker} was given a record of {shard}, which {:?} took {since:?} ago", book.holder);
            self.violate(Broken::Unfenced, what);
        }
    }

    /// Whether a worker may not have known at this time that the stream was recreated.
    pub(super) fn may_be_unaware(&self, at: Time) -> bool {
        self.counts.streams > 1 && at.since(self.changed) < UNAWARE
    }

    /// A live worker is asked first, and is given time to hand over. A shard that it claimed before it was restarted,
    /// or before it fell silent, is not its own any more.
    pub(super) fn check_taking(&mut self, shard: u32, by: &str, from: &str) {
        let Some(book) = self.books.get(&shard) else { return };
        let Some(known) = self.workers.get(from) else { return };
        let Some(heartbeat) = known.heartbeat else { return };
        // A worker whose row is gone has left, even if a shard was handed over to it at that moment.
        if known.shown.is_none() {
            return;
        }
        let former = known.alive_since > book.claimed;
        let silent = self.now.since(heartbeat.written);
        if former || silent >= known.lease {
            return;
        }
        match book.requester.as_ref().filter(|(asker, _)| asker == by) {
            None => {
                let what =
                    format!("{by} took shard {shard} from {from} without asking, {silent:?} after its last heartbeat");
                self.violate(Broken::Unfenced, what);
            }
            Some((_, asked)) => self.check_patience(shard, by, from, *asked),
        }
    }

    fn check_patience(&mut self, shard: u32, by: &str, from: &str, asked: Time) {
        let waited = self.now.since(asked);
        if waited < self.rules.handed_over_within {
            let what = format!("{by} took shard {shard} from {from} by force {waited:?} after it had asked for it");
            self.violate(Broken::Hasty, what);
        }
    }
}
