//! A shard has one reader at a time: the worker that holds its lease, as long as that lasts.

use std::time::Duration;

use kinesis_simulator::Time;

use super::{Broken, Oracle, SLACK};

/// How long a worker that lost a shard may go on until it looks into the table.
const UNAWARE: Duration = Duration::from_mins(2);

impl Oracle {
    /// A worker counts its lease from before its heartbeat set out, and delivers nothing after that. The other workers count from
    /// when they saw the heartbeat, which is later: whatever its answer took, they wait for longer.
    pub(super) fn check_lease(&mut self, worker: &str, shard: &str) {
        let Some(known) = self.workers.get(worker) else { return };
        let Some(beat) = known.beat else { return };
        let silent = self.now.since(beat.sent);
        if silent > known.lease + SLACK {
            let what = format!("{worker} was given a record of {shard}, {silent:?} after its last heartbeat set out");
            self.violate(Broken::Unfenced, what);
        }
    }

    /// A worker delivers what it has claimed, and not for long what another worker has taken since.
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

    /// A worker that lives is asked first, and is given time to hand over. What it took before it was started anew, or fell
    /// silent, it does not hold any more.
    pub(super) fn check_taking(&mut self, shard: u32, by: &str, from: &str) {
        let Some(book) = self.books.get(&shard) else { return };
        let Some(known) = self.workers.get(from) else { return };
        let Some(beat) = known.beat else { return };
        // A worker whose row is gone has left, whatever it was handed over in that moment.
        if known.shown.is_none() {
            return;
        }
        let former = known.life > book.claimed;
        let silent = self.now.since(beat.written);
        if former || silent >= known.lease {
            return;
        }
        match book.wanted.as_ref().filter(|(asker, _)| asker == by) {
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
