//! What becomes of positions whose stream does not exist any more?
//!
//! A stream that was deleted and made again has the same name, ARN and ids of shards. What was stored of the one before says
//! nothing of it: it is set aside, and the stream is read as a new one.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use super::Readers;
use crate::health::Health;
use crate::lease::{LeaseStore, Row, StoreError};
use crate::names::{ShardId, Stream};
use crate::shards::Shards;
use crate::telemetry;
use crate::topology::Topology;

impl Readers {
    /// Reads each stream anew of which it turned out that it was deleted and made again.
    pub(super) async fn begin_anew_where_made_again(&mut self) {
        for at in 0..self.streams.len() {
            if let Some(successor) = self.streams[at].shared.shards.take_successor() {
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
        let (service, wake) = (state.shared.shards.service(), Arc::clone(&tools.look));
        state.shared.shards = Arc::new(Shards::new(service, stream.clone(), wake, Arc::clone(&tools.health)));
        self.asked.retain(|(other, _), _| *other != before);
        self.unread.retain(|(other, _), _| *other != at);
        self.done.remove(&at);
        // Rows of other programs don't say of which stream they are: where its shards begin tells.
        if let Ok(listing) = state.shared.shards.list(Duration::ZERO).await {
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
        // A consumer vanishes with its stream.
        if let Err(error) = state.shared.consumer.refresh().await {
            telemetry::consumer_failed(&stream, &error);
        }
    }

    /// The rows without those of former streams, which are set aside.
    pub(super) async fn without_former(&mut self, at: usize, mut rows: Vec<Row>) -> Vec<Row> {
        let state = &self.streams[at];
        let former = state.topology.former(&rows, state.stream.created());
        if former.made_again {
            state.shared.shards.identity(tokio::time::Instant::now()).await;
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

/// Finds the rows of former streams before anything is read, and sets them aside; what is left.
pub(crate) async fn set_aside_former(
    store: &dyn LeaseStore,
    stream: &Stream,
    topology: &Topology,
    mut rows: Vec<Row>,
) -> Result<Vec<Row>, StoreError> {
    let former = topology.former(&rows, stream.created());
    if former.made_again {
        let cause = format!("stream {stream} was made again while it was being looked for");
        return Err(StoreError::Failed { what: "read the positions", cause });
    }
    if former.rows.is_empty() {
        return Ok(rows);
    }
    let shards = former.shards();
    set_aside_and_report(store, stream, former.rows).await?;
    rows.retain(|row| !shards.contains(&row.shard));
    Ok(rows)
}

/// Sets rows aside, and logs of which stream they were.
async fn set_aside_and_report(store: &dyn LeaseStore, stream: &Stream, rows: Vec<&Row>) -> Result<(), StoreError> {
    let before = rows.iter().find_map(|row| row.created);
    let count = set_aside(store, stream, rows).await?;
    telemetry::made_again(before, stream, count);
    Ok(())
}

/// Sets rows aside; how many. One that changed meanwhile is looked at again with the next look.
async fn set_aside(store: &dyn LeaseStore, stream: &Stream, rows: Vec<&Row>) -> Result<usize, StoreError> {
    let mut count = 0;
    for row in rows {
        count += usize::from(store.set_aside(stream, row).await?);
    }
    Ok(count)
}

/// Reports the rows that can't be understood. Their shards are left alone.
pub(crate) fn report_unreadable(health: &Health, stream: &Stream, rows: &[Row]) {
    let unreadable: BTreeMap<ShardId, String> = rows
        .iter()
        .filter_map(|row| {
            let what = row.unreadable.as_ref()?;
            Some((row.shard.clone(), format!("its row in the store can't be understood, so it is not read: {what}")))
        })
        .collect();
    health.unreadable_rows(stream, &unreadable);
}
