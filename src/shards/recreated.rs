//! What becomes of positions whose stream does not exist any more?
//!
//! A stream that was deleted and made again has the same name, ARN and ids of shards. What was stored of the one before says
//! nothing of it: it is set aside, and the stream is read as a new one.

use std::sync::Arc;
use std::time::Duration;

use super::coordinator::Readers;
use super::former_rows::{set_aside, set_aside_and_report};
use crate::lease::Row;
use crate::model::{ShardId, Stream};
use crate::reading::listing::Shards;
use crate::telemetry;

impl Readers {
    /// Reads each stream anew of which it turned out that it was deleted and made again.
    pub(super) async fn begin_anew_where_made_again(&mut self) {
        for at in 0..self.streams.len() {
            if let Some(successor) = self.streams[at].listing.take_successor() {
                self.begin_anew(at, successor).await;
            }
        }
    }

    /// Reads what has the name and ARN of a stream now as a new one.
    pub(super) async fn begin_anew(&mut self, at: usize, stream: Stream) {
        let tools = &self.tools;
        let state = &mut self.streams[at];
        let before = std::mem::replace(&mut state.stream, stream.clone());
        // Nothing of the old one is delivered or stored from here on.
        tools.checkpointer.abandon(&before);
        state.topology = state.topology.anew();
        let (service, wake) = (state.listing.service(), Arc::clone(&tools.look));
        state.listing = Arc::new(Shards::new(service, stream.clone(), wake, Arc::clone(&tools.health)));
        self.asked.retain(|(other, _), _| *other != before);
        self.unread.retain(|(other, _), _| *other != at);
        self.done.remove(&at);
        // Rows of other programs don't say of which stream they are: where its shards begin tells.
        if let Ok(listing) = state.listing.list(Duration::ZERO).await {
            state.topology.listed(&listing);
        }
        let set_aside = async {
            let rows = tools.store.rows(&stream).await?;
            let former = state.topology.former(&rows, stream.created());
            set_aside(&*tools.store, &stream, former.rows).await
        };
        let count = match set_aside.await {
            Ok(count) => count,
            Err(error) => {
                // They are found again with the next look.
                tools.health.look_failed(&error);
                0
            }
        };
        telemetry::made_again(before.created(), &stream, count);
        state.readers.recreated(Arc::clone(&state.listing)).await;
    }

    /// The rows without those of former streams, which are set aside.
    pub(super) async fn without_former(&mut self, at: usize, mut rows: Vec<Row>) -> Vec<Row> {
        let state = &self.streams[at];
        let former = state.topology.former(&rows, state.stream.created());
        if former.made_again {
            state.listing.identity(tokio::time::Instant::now()).await;
        }
        if former.rows.is_empty() {
            return rows;
        }
        let shards = former.shards();
        if let Err(error) = set_aside_and_report(&*self.tools.store, &state.stream, former.rows).await {
            self.tools.health.look_failed(&error);
        }
        rows.retain(|row| !shards.contains(&row.shard));
        rows
    }

    /// Sets aside what is stored of shards that are open though their end is stored.
    pub(super) async fn set_aside(&mut self, at: usize, shards: &[ShardId]) {
        let (store, state) = (&self.tools.store, &mut self.streams[at]);
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
            Err(error) => self.tools.health.look_failed(&error),
        }
    }
}
