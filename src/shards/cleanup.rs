//! Which rows of the table are no longer needed?

use std::time::Duration;

use tokio::time::Instant;

use super::coordinator::{Coordinator, TableView};
use crate::lease::{Row, SharedStore};

impl Coordinator {
    /// Removes rows that no worker needs any more. One worker does it for all.
    pub(super) async fn remove_garbage(&mut self, store: &dyn SharedStore, seen: &TableView) {
        let TableView { asked_at, workers, rows } = seen;
        let alive: Vec<_> = workers.iter().filter(|worker| self.liveness.is_alive(&worker.id, *asked_at)).collect();
        if alive.iter().map(|worker| &worker.id).min() == Some(store.me()) {
            for worker in self.liveness.long_dead(workers, *asked_at) {
                if let Err(error) = store.remove_dead_worker(worker).await {
                    self.context.health.meter.table_failed(&error);
                }
            }
        }
        for (at, rows) in rows.iter().enumerate() {
            // Only workers that read this stream count: the others don't know which shards it has.
            let arn = self.streams[at].stream.arn();
            let readers = alive.iter().filter(|worker| worker.presence.streams.contains(arn));
            if readers.map(|worker| &worker.id).min() != Some(store.me()) {
                continue;
            }
            if self.garbage(at, rows, *asked_at).is_empty() {
                continue;
            }
            // A shard that the last listing does not show may be in use by now.
            let listing = self.streams[at].listing.list(Duration::ZERO).await;
            if !self.listed(at, listing).await {
                continue;
            }
            for row in self.garbage(at, rows, *asked_at) {
                if let Err(error) = store.forget(&self.streams[at].stream, row).await {
                    self.context.health.meter.table_failed(&error);
                }
            }
        }
    }

    /// Removes the rows of shards past retention from a store that serves only one worker. Otherwise they would
    /// accumulate.
    pub(super) async fn remove_vanished_rows(&mut self) {
        for state in &mut self.streams {
            if !state.topology.has_leftovers() {
                continue;
            }
            match self.context.store.rows(&state.stream).await {
                Ok(rows) => {
                    for row in state.topology.garbage(&rows).into_iter().cloned().collect::<Vec<_>>() {
                        match self.context.store.forget(&state.stream, &row).await {
                            Ok(()) => state.topology.forgotten(&row.shard),
                            Err(error) => self.context.health.store_failed(&error),
                        }
                    }
                }
                Err(error) => self.context.health.store_failed(&error),
            }
        }
    }

    /// Returns the rows that nothing depends on and that no worker holds.
    fn garbage<'r>(&self, at: usize, rows: &'r [Row], asked_at: Instant) -> Vec<&'r Row> {
        let state = &self.streams[at];
        let is_held = |row: &Row| {
            let hold = row.hold.as_ref();
            hold.is_some_and(|hold| !self.liveness.is_expired(&state.stream, &row.shard, hold, asked_at))
        };
        state.topology.garbage(rows).into_iter().filter(|row| !is_held(row)).collect()
    }
}
