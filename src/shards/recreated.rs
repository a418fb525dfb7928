//! What happens to positions whose stream does not exist any more?
//!
//! A stream that was deleted and recreated has the same name, the same ARN and the same shard ids. The positions of the
//! former stream are invalid for the new one: they are set aside, and the stream is read as a new one.

use std::sync::Arc;
use std::time::Duration;

use super::coordinator::Coordinator;
use super::former_rows::{set_aside, set_aside_and_report};
use crate::lease::Row;
use crate::model::{ShardId, Stream};
use crate::reading::listing::StreamListing;
use crate::telemetry;

impl Coordinator {
    /// Restarts each stream that was found to be deleted and recreated.
    pub(super) async fn restart_recreated_streams(&mut self) {
        for at in 0..self.streams.len() {
            if let Some(successor) = self.streams[at].listing.take_successor() {
                self.restart_stream(at, successor).await;
            }
        }
    }

    /// Reads the stream that now has the name and the ARN as a new stream.
    pub(super) async fn restart_stream(&mut self, at: usize, stream: Stream) {
        let context = &self.context;
        let state = &mut self.streams[at];
        let before = std::mem::replace(&mut state.stream, stream.clone());
        // From here on nothing of the former stream is delivered or stored, and no end of its shards counts.
        context.checkpointer.abandon(&before);
        self.running.forget(at);
        state.topology = state.topology.anew();
        let (service, wake) = (state.listing.service(), Arc::clone(&context.rebalance_now));
        state.listing = Arc::new(StreamListing::new(service, stream.clone(), wake, Arc::clone(&context.health)));
        self.asked.retain(|(other, _), _| *other != before);
        self.unread.retain(|(other, _), _| *other != at);
        self.done.remove(&at);
        // Rows of other programs don't say which stream they belong to; the starting positions of the shards tell.
        if let Ok(listing) = state.listing.list(Duration::ZERO).await {
            state.topology.listed(&listing);
        }
        let set_aside = async {
            let rows = context.store.rows(&stream).await?;
            let former = state.topology.former(&rows, stream.created());
            set_aside(&*context.store, &stream, former.rows).await
        };
        let count = match set_aside.await {
            Ok(count) => count,
            Err(error) => {
                self.leftovers.insert(at);
                context.health.table_failed(&error);
                0
            }
        };
        telemetry::recreated(before.created(), &stream, count);
        state.readers.recreated(Arc::clone(&state.listing)).await;
    }

    /// Returns the rows without those of former streams, which are set aside.
    pub(super) async fn without_former(&mut self, at: usize, mut rows: Vec<Row>) -> Vec<Row> {
        let state = &self.streams[at];
        let former = state.topology.former(&rows, state.stream.created());
        if former.recreated {
            state.listing.identity(tokio::time::Instant::now()).await;
        }
        if former.rows.is_empty() {
            return rows;
        }
        let shards = former.shards();
        if let Err(error) = set_aside_and_report(&*self.context.store, &state.stream, former.rows).await {
            self.leftovers.insert(at);
            self.context.health.table_failed(&error);
        }
        rows.retain(|row| !shards.contains(&row.shard));
        rows
    }

    /// Sets aside the rows of former streams that could not be set aside before. A shared table is read in each round
    /// anyway; a store of one process is not.
    pub(super) async fn set_aside_leftovers(&mut self) {
        for at in std::mem::take(&mut self.leftovers) {
            match self.context.store.rows(&self.streams[at].stream).await {
                Ok(rows) => drop(self.without_former(at, rows).await),
                Err(error) => {
                    self.leftovers.insert(at);
                    self.context.health.table_failed(&error);
                }
            }
            if self.leftovers.is_empty() {
                self.context.health.table_read();
            }
        }
    }

    /// Sets aside the rows of shards that are open although their end is stored.
    pub(super) async fn set_aside(&mut self, at: usize, shards: &[ShardId]) {
        let (store, state) = (&self.context.store, &mut self.streams[at]);
        let done = async {
            let rows = store.rows(&state.stream).await?;
            let former = rows.iter().filter(|row| shards.contains(&row.shard) && row.created.is_none()).collect();
            set_aside_and_report(&**store, &state.stream, former).await
        };
        match done.await {
            Ok(()) => {
                for shard in shards {
                    state.topology.set_aside(shard);
                }
            }
            Err(error) => self.context.health.table_failed(&error),
        }
    }
}
