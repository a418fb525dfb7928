//! Which stored rows can't be used, and what happens to them?

use std::collections::BTreeMap;

use super::topology::Topology;
use crate::lease::{LeaseStore, Row, StoreError};
use crate::model::{ShardId, Stream};
use crate::telemetry;
use crate::telemetry::health::Health;

/// Finds the rows of former streams before anything is read, and sets them aside. Returns the other rows.
pub(crate) async fn set_aside_former(
    store: &dyn LeaseStore,
    stream: &Stream,
    topology: &Topology,
    mut rows: Vec<Row>,
) -> Result<Vec<Row>, StoreError> {
    let former = topology.former(&rows, stream.created());
    if former.recreated {
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

/// Sets rows aside, and logs which stream they belonged to.
pub(super) async fn set_aside_and_report(
    store: &dyn LeaseStore,
    stream: &Stream,
    rows: Vec<&Row>,
) -> Result<(), StoreError> {
    let before = rows.iter().find_map(|row| row.created);
    let count = set_aside(store, stream, rows).await?;
    telemetry::recreated(before, stream, count);
    Ok(())
}

/// Sets rows aside. Returns how many; a row that changed meanwhile is checked again at the next rebalance.
pub(super) async fn set_aside(store: &dyn LeaseStore, stream: &Stream, rows: Vec<&Row>) -> Result<usize, StoreError> {
    let mut count = 0;
    for row in rows {
        count += usize::from(store.set_aside(stream, row).await?);
    }
    Ok(count)
}

/// Reports the rows that can't be understood. Their shards are not read.
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
