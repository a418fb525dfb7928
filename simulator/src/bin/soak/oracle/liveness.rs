//! Nothing waits indefinitely: records come, workers write heartbeats, and everything is acknowledged in calm weather.

use std::time::Duration;

use kinesis_simulator::Time;

use super::{Broken, Oracle};

impl Oracle {
    /// Checks that no record waits for longer than this, since a worker has been present.
    pub(crate) fn check_stalls(&mut self, longest: Duration, since: Time) {
        let now = self.now;
        let stalled: Vec<String> = (self.books.iter())
            .filter_map(|(id, book)| {
                let put = book.puts.get(book.frontier)?;
                let waits = now.since(put.at.max(since));
                (waits > longest && (self.scope.oldest || self.scope.pinned.is_some()))
                    .then(|| format!("shard {id}: {} waits for {waits:?}, held by {:?}", put.number, book.holder))
            })
            .collect();
        for what in stalled {
            self.violate(Broken::Stalled, what);
        }
    }

    /// Checks that a worker writes heartbeats, whatever its host does.
    pub(crate) fn check_heartbeat(&mut self, worker: &str) {
        let Some(known) = self.workers.get(worker) else { return };
        let Some(heartbeat) = known.heartbeat else { return };
        let silent = self.now.since(heartbeat.written);
        // A worker that stops keeps its leases until everything in flight is settled.
        let holds = self.books.values().any(|book| book.holder.as_deref() == Some(worker));
        if known.stopping.is_some() && holds && silent > known.lease * 2 / 3 && self.is_sound(worker) {
            let what = format!("{worker} is stopping, and has shown no heartbeat for {silent:?} while it holds shards");
            self.violate(Broken::Stalled, what);
        } else if heartbeat.written >= known.alive_since
            && silent > known.lease
            && self.healthy_for(worker) > known.lease * 2
            // An input can't be restarted then.
            && !self.is_stream_missing_to(worker)
        {
            let what = format!("{worker} has shown no heartbeat for {silent:?}, and nothing is wrong with it");
            self.violate(Broken::Stalled, what);
        }
    }

    /// Checks that everything is acknowledged, after the end of all writes and a long wait.
    pub(crate) fn finish(&mut self) {
        let mut open = Vec::new();
        for (id, book) in &self.books {
            let missing = book.puts.get(book.unacked);
            if let Some(put) = missing {
                let done = book.ended || book.stored.is_some_and(|stored| put.number <= stored);
                let broken = if done { Broken::Lost } else { Broken::Stalled };
                open.push((
                    broken,
                    format!(
                        "shard {id}: {} of {} records are not acknowledged, {} first; held by {:?}",
                        book.open(),
                        book.puts.len(),
                        put.number,
                        book.holder
                    ),
                ));
            }
        }
        for (broken, what) in open {
            self.violate(broken, what);
        }
    }
}
