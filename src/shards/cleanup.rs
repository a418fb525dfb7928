//! What in the table is of no use any more?

use std::time::Duration;

use tokio::time::Instant;

use super::coordinator::{Looked, Readers};
use crate::lease::{Row, SharedStore};

impl Readers {
    /// Removes rows that nobody needs any more. One worker does it for all.
    pub(super) async fn tidy(&mut self, store: &dyn SharedStore, looked: &Looked) {
        let Looked { asked_at, workers, rows } = looked;
        let alive: Vec<_> = workers.iter().filter(|worker| self.watch.is_alive(&worker.id, *asked_at)).collect();
        if alive.iter().map(|worker| &worker.id).min() == Some(store.me()) {
            for worker in self.watch.long_dead(workers, *asked_at) {
                if let Err(error) = store.bury(worker).await {
                    self.tools.health.meter.look_failed(&error);
                }
            }
        }
        for (at, rows) in rows.iter().enumerate() {
            // Of those that read this stream: the others don't know which shards it has.
            let arn = self.streams[at].stream.arn();
            let readers = alive.iter().filter(|worker| worker.presence.streams.contains(arn));
            if readers.map(|worker| &worker.id).min() != Some(store.me()) {
                continue;
            }
            if self.forgettable(at, rows, *asked_at).is_empty() {
                continue;
            }
            // Some may be in use by now that the last listing doesn't know yet.
            let listing = self.streams[at].listing.list(Duration::ZERO).await;
            if !self.listed(at, listing).await {
                continue;
            }
            for row in self.forgettable(at, rows, *asked_at) {
                if let Err(error) = store.forget(&self.streams[at].stream, row).await {
                    self.tools.health.meter.look_failed(&error);
                }
            }
        }
    }

    /// The same where no other worker looks: what is stored of shards that are past retention would pile up.
    pub(super) async fn forget_what_is_gone(&mut self) {
        for state in &mut self.streams {
            if !state.topology.has_leftovers() {
                continue;
            }
            match self.tools.store.rows(&state.stream).await {
                Ok(rows) => {
                    for row in state.topology.forgettable(&rows).into_iter().cloned().collect::<Vec<_>>() {
                        match self.tools.store.forget(&state.stream, &row).await {
                            Ok(()) => state.topology.forgotten(&row.shard),
                            Err(error) => self.tools.health.store_failed(&error),
                        }
                    }
                }
                Err(error) => self.tools.health.store_failed(&error),
            }
        }
    }

    /// Rows that nothing depends on and nobody holds.
    fn forgettable<'r>(&self, at: usize, rows: &'r [Row], asked_at: Instant) -> Vec<&'r Row> {
        let state = &self.streams[at];
        let is_held = |row: &Row| {
            let hold = row.hold.as_ref();
            hold.is_some_and(|hold| !self.watch.is_over(&state.stream, &row.shard, hold, asked_at))
        };
        state.topology.forgettable(rows).into_iter().filter(|row| !is_held(row)).collect()
    }
}
