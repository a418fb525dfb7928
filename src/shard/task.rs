//! The task that reads one shard and hands on what it reads.
//!
//! ```text
//! reader.next() ─▶ track ─▶ for each slice: room under checkpoint_limit ─▶ records from the pool ─▶ outbox
//!       ▲                                        │ 30 s
//!       └──────────── reader.pause() ◀───────────┘
//! ```
//!
//! After the end of the shard it drains: waits until everything is acked, and stores the end.

use std::ops::Range;
use std::sync::Arc;

use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use crate::checkpoint::{Checkpointer, EndStored};
use crate::delivery::{Delivery, Progress};
use crate::efo::subscription::PATIENCE;
use crate::efo::wire::ChildShard;
use crate::health::Health;
use crate::kpl;
use crate::names::SequenceNumber;
use crate::outbox::{Closed, OpenLane};
use crate::pool::Pool;
use crate::reader::{ReadError, ReadEvent, ShardReader, Step};
use crate::record::RecordTable;

/// Everything the task works with.
#[derive(Debug)]
pub(crate) struct ShardTask {
    pub(crate) reader: Box<dyn ShardReader>,
    pub(crate) progress: Arc<Progress>,
    pub(crate) lane: OpenLane,
    pub(crate) pool: Pool,
    pub(crate) health: Arc<Health>,
    pub(crate) checkpointer: Arc<Checkpointer>,
    /// The most records delivered at once; at least one.
    pub(crate) slice: usize,
    /// Aggregated records are to be taken apart.
    pub(crate) deaggregate: bool,
    /// It was open when it was first seen, so its children are newer than our start.
    pub(crate) seen_open: bool,
    /// Says that the shard is not to be read any more.
    pub(crate) stop: CancellationToken,
}

/// How it came to an end.
#[derive(Debug)]
pub(crate) enum Outcome {
    /// The shard is done, and that is stored.
    Ended { children: Vec<ChildShard>, last: Option<SequenceNumber> },
    /// It was told to stop.
    Stopped,
    /// The shard can't be read.
    Failed(ReadError),
}

impl ShardTask {
    /// Reads until the end of the shard, or until it is told to stop. What it holds is gone when this returns.
    pub(crate) async fn run(mut self) -> Outcome {
        let stop = self.stop.clone();
        // Whatever it waits for, it may be told to stop; being dropped there leaks nothing.
        match stop.run_until_cancelled(self.read()).await {
            Some(Ok(outcome)) => outcome,
            Some(Err(Closed)) | None => Outcome::Stopped,
        }
    }

    async fn read(&mut self) -> Result<Outcome, Closed> {
        loop {
            match self.reader.next().await {
                Ok(Step::Event(event)) => self.deliver_or_pause(event).await?,
                Ok(Step::End(children)) => return Ok(self.drain(children).await),
                Err(error) => return Ok(Outcome::Failed(error)),
            }
        }
    }

    /// Delivers an event. If it can't be delivered for long, the connection isn't kept waiting with us.
    async fn deliver_or_pause(&mut self, event: ReadEvent) -> Result<(), Closed> {
        if self.deaggregate {
            let rows = &event.rows;
            let aggregated = (0..rows.len()).filter(|row| kpl::looks_aggregated(rows.data_ref(*row))).count();
            if aggregated > 0 {
                self.progress.meter.aggregated(aggregated);
            }
        }
        let delivering = deliver(&self.progress, &mut self.lane, &self.pool, self.slice, event);
        let mut delivering = std::pin::pin!(delivering);
        if let Ok(delivered) = timeout(PATIENCE, &mut delivering).await {
            delivered
        } else {
            self.reader.pause();
            let _stuck = self.health.stuck();
            delivering.await
        }
    }

    async fn drain(&mut self, children: Vec<ChildShard>) -> Outcome {
        // Nothing more is read; a connection would only be held for nothing.
        self.reader.pause();
        self.progress.drained().await;
        let (place, done) = self.progress.checkpoint();
        let last = place.filter(|_| done > 0 || self.seen_open);
        match self.checkpointer.store_end(&self.progress, last.clone()).await {
            EndStored::Stored => {
                let ids: Vec<_> = children.iter().map(|child| child.id.clone()).collect();
                self.progress.meter.ended(&ids);
                Outcome::Ended { children, last }
            }
            EndStored::Lost => Outcome::Stopped,
        }
    }
}

/// Hands the records of an event to the outbox, slice by slice.
async fn deliver(
    progress: &Arc<Progress>,
    lane: &mut OpenLane,
    pool: &Pool,
    slice: usize,
    event: ReadEvent,
) -> Result<(), Closed> {
    let ReadEvent { rows, continuation, permit, not_before } = event;
    let table = Arc::new(RecordTable::new(Arc::clone(&progress.names), rows));
    let count = table.rows().len();
    let base = progress.track(&table, continuation);
    if count == 0 {
        return Ok(());
    }
    progress.meter.read(count, (0..count).map(|row| table.rows().data_len(row)).sum());
    let bytes = Arc::new(permit);
    let ordinals = |rows: &Range<usize>| base + rows.start as u64..base + rows.end as u64;
    for (wanted, run) in runs(count, |row| is_wanted(&table, row, not_before)) {
        if !wanted {
            progress.meter.skipped(run.len());
            progress.ack(ordinals(&run));
            continue;
        }
        let mut start = run.start;
        while start < run.end {
            let part = start..run.end.min(start + slice);
            start = part.end;
            progress.room_for(base + part.end as u64).await;
            let records = pool.admit(part.len() as u64).await;
            lane.push(Delivery::new(progress, &table, part, base, records, &bytes)).await?;
        }
    }
    Ok(())
}

fn is_wanted(table: &RecordTable, row: usize, not_before: Option<i64>) -> bool {
    match (not_before, table.rows().arrival_millis(row)) {
        (Some(time), Some(arrival)) => arrival >= time,
        _ => true,
    }
}

/// Cuts `0..count` into runs of which the predicate says the same.
fn runs(count: usize, holds: impl Fn(usize) -> bool) -> Vec<(bool, Range<usize>)> {
    let mut runs: Vec<(bool, Range<usize>)> = Vec::new();
    for row in 0..count {
        let now = holds(row);
        match runs.last_mut() {
            Some((before, run)) if *before == now => run.end = row + 1,
            _ => runs.push((now, row..row + 1)),
        }
    }
    runs
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn runs_cover_everything_in_order() {
        assert_eq!(runs(0, |_| true), []);
        assert_eq!(runs(5, |row| row >= 2), [(false, 0..2), (true, 2..5)]);
        assert_eq!(runs(3, |row| row == 1), [(false, 0..1), (true, 1..2), (false, 2..3)]);
    }
}
