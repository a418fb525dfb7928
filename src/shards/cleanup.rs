//! What in the table is of no use any more?

use std::time::Duration;

use tokio::time::Instant;

use super::coordinator::{Coordinator, TableView};
use crate::lease::{Row, SharedStore};

impl Coordinator {
    /// Removes rows that nobody needs any more. One worker does it for all.
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
            // Of those that read this stream: the others don't know which shards it has.
            let arn = self.streams[at].stream.arn();
            let readers = alive.iter().filter(|worker| worker.presence.streams.contains(arn));
            if readers.map(|worker| &worker.id).min() != Some(store.me()) {
                continue;
            }
            if self.garbage(at, rows, *asked_at).is_empty() {
                continue;
            }
            // Some may be in use by now that the last listing doesn't know yet.
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

    /// The same where no other worker looks: what is stored of shards that are past retention would pile up.
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

    /// Rows that nothing depends on and nobody holds.
    fn garbage<'r>(&self, at: usize, rows: &'r [Row], asked_at: Instant) -> Vec<&'r Row> {
        let state = &self.streams[at];
        let is_held = |row: &Row| {
            let hold = row.hold.as_ref();
            hold.is_some_and(|hold| !self.liveness.is_expired(&state.stream, &row.shard, hold, asked_at))
        };
        state.topology.garbage(rows).into_iter().filter(|row| !is_held(row)).collect()
    }
}
