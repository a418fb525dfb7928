//! How is one shard read to its end?
//!
//! ```text
//! reader.next() ─▶ track ─▶ for each slice: room under checkpoint_limit ─▶ records from the pool ─▶ outbox
//!       ▲                                        │ blocked for 30 s
//!       └──────────── reader.pause() ◀───────────┘
//! ```
//!
//! After the shard end the task drains: it waits until everything is acknowledged, and stores the shard end.

use std::ops::Range;
use std::sync::Arc;

use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use crate::delivery::Delivery;
use crate::delivery::outbox::{Closed, LaneHandle};
use crate::delivery::progress::Progress;
use crate::lease::Within;
use crate::model::{ChildShard, SequenceNumber};
use crate::pool::{Permit, Pool};
use crate::reading::{ReadError, ReadEvent, STALL_TIMEOUT, ShardReader, Step};
use crate::records::{Record, RecordTable};
use crate::shards::checkpointer::{Checkpointer, EndStored};
use crate::telemetry::health::Health;

/// The task of one shard, with everything that it works with.
#[derive(Debug)]
pub(crate) struct ShardTask {
    pub(crate) reader: Box<dyn ShardReader>,
    pub(crate) progress: Arc<Progress>,
    pub(crate) lane: LaneHandle,
    pub(crate) pool: Pool,
    pub(crate) health: Arc<Health>,
    pub(crate) checkpointer: Arc<Checkpointer>,
    /// The most records in one delivery; at least one.
    pub(crate) slice: usize,
    /// Whether user records of aggregates that belong to another shard are dropped.
    pub(crate) drops_outside: bool,
    /// The aggregate that was processed in part, if reading starts inside one.
    pub(crate) resumes_within: Option<Within>,
    /// Whether the shard was open when it was first seen. The records of its children are then newer than the start of
    /// this input.
    pub(crate) seen_open: bool,
    /// The token that stops the task when the shard must not be read any more.
    pub(crate) stop: CancellationToken,
}

/// The way in which a shard task ended.
#[derive(Debug)]
pub(crate) enum Outcome {
    /// The shard has been read to its end, and the shard end is stored.
    Ended { children: Vec<ChildShard>, last: Option<SequenceNumber> },
    /// The task was told to stop.
    Stopped,
    /// The shard can't be read.
    Failed(ReadError),
}

impl ShardTask {
    /// Reads until the end of the shard, or until it is told to stop. Everything that the task holds is dropped when
    /// this returns.
    pub(crate) async fn run(mut self) -> Outcome {
        let stop = self.stop.clone();
        // A stop may come during any wait; a future that is dropped there leaks nothing.
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

    /// Delivers an event. If that takes long, the connection is closed meanwhile instead of being kept waiting.
    async fn deliver_or_pause(&mut self, event: ReadEvent) -> Result<(), Closed> {
        let fate = self.fates(&event);
        let delivering = deliver(&self.progress, &mut self.lane, &self.pool, self.slice, event, fate);
        let mut delivering = std::pin::pin!(delivering);
        if let Ok(delivered) = timeout(STALL_TIMEOUT, &mut delivering).await {
            delivered
        } else {
            self.reader.pause();
            let _waiting = self.health.waits_for_space(&self.progress.names);
            delivering.await
        }
    }

    /// Decides which of the records are delivered.
    fn fates(&mut self, event: &ReadEvent) -> Vec<(Fate, Range<usize>)> {
        let resumes = self.resumes_within.as_ref();
        let fate = |record: Record<'_>| {
            let sub = record.sub_sequence_number();
            let is_done = resumes
                .zip(sub)
                .is_some_and(|(within, sub)| sub <= within.sub && record.sequence() == within.record.as_str());
            match (event.not_before, record.arrival_millis()) {
                _ if is_done => Fate::Done,
                (Some(time), Some(arrival)) if arrival < time => Fate::Early,
                _ if self.drops_outside && record.is_outside() => Fate::Outside,
                _ => Fate::Deliver,
            }
        };
        let fates = runs(event.rows.iter().map(fate));
        if !event.rows.is_empty() {
            // The aggregate is in the first records, or it is not there any more.
            self.resumes_within = None;
        }
        fates
    }

    async fn drain(&mut self, children: Vec<ChildShard>) -> Outcome {
        // Nothing more is read, so a connection would be kept for no purpose.
        self.reader.pause();
        self.lane.flush();
        self.progress.drained().await;
        let (checkpoint, done) = self.progress.checkpoint();
        let last = checkpoint.and_then(|checkpoint| checkpoint.position().cloned());
        let last = last.filter(|_| done > 0 || self.seen_open);
        match self.checkpointer.store_end(&self.progress, last.clone()).await {
            EndStored::Stored => {
                let ids: Vec<_> = children.iter().map(|child| child.id.clone()).collect();
                self.progress.meter.ended(&ids);
                self.health.meter.shard_ended(&self.progress.names);
                Outcome::Ended { children, last }
            }
            EndStored::Lost => Outcome::Stopped,
        }
    }
}

/// Adds the records of an event to the outbox, slice by slice.
async fn deliver(
    progress: &Arc<Progress>,
    lane: &mut LaneHandle,
    pool: &Pool,
    slice: usize,
    event: ReadEvent,
    fates: Vec<(Fate, Range<usize>)>,
) -> Result<(), Closed> {
    let ReadEvent { rows, continuation, permit, .. } = event;
    let count = rows.len();
    let bytes_read = rows.iter().map(|record| record.data_ref().len()).sum();
    let table = Arc::new(RecordTable::new(&progress.names, rows));
    let base = progress.track(&table, continuation);
    if count == 0 {
        return Ok(());
    }
    progress.meter.read(count, bytes_read);
    let bytes = Arc::new(permit);
    let ordinals = |rows: &Range<usize>| base + rows.start as u64..base + rows.end as u64;
    for (fate, run) in fates {
        match fate {
            Fate::Deliver | Fate::Done => {}
            Fate::Early => progress.meter.skipped(run.len()),
            Fate::Outside => progress.meter.out_of_range(run.len()),
        }
        if fate != Fate::Deliver {
            progress.ack(ordinals(&run));
            continue;
        }
        let mut start = run.start;
        while start < run.end {
            let most = start..run.end.min(start + slice);
            let part = start..start + lane.room(&table, most);
            start = part.end;
            let records = admitted(progress, lane, pool, ordinals(&part)).await;
            lane.push(Delivery::new(progress, &table, part, base, records, &bytes)).await?;
        }
    }
    Ok(())
}

/// Waits until records may be delivered, under `checkpoint_limit` and by the pool.
async fn admitted(progress: &Progress, lane: &LaneHandle, pool: &Pool, ordinals: Range<u64>) -> Permit {
    let count = ordinals.end - ordinals.start;
    if !lane.gathers() {
        progress.room_for(ordinals.end).await;
        return pool.reserve_records(count).await;
    }
    // A batch that is larger than the limit is let in once everything before it is acknowledged.
    let starts = || lane.gathered_from().unwrap_or(ordinals.start);
    loop {
        progress.room_for_batch(ordinals.end, starts).await;
        let records = pool.reserve_records(count).await;
        // A wait for the pool flushes what was gathered, so that these records begin a batch.
        if progress.has_room_for_batch(ordinals.end, starts) {
            return records;
        }
    }
}

/// What becomes of a record that was read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fate {
    /// It is delivered to the host.
    Deliver,
    /// It arrived before the time from which on records are wanted.
    Early,
    /// It is a user record that belongs to another shard.
    Outside,
    /// It is a user record that was processed before reading was resumed inside its aggregate.
    Done,
}

/// Splits a sequence into runs of equal elements.
fn runs<T: PartialEq>(said: impl Iterator<Item = T>) -> Vec<(T, Range<usize>)> {
    let mut runs: Vec<(T, Range<usize>)> = Vec::new();
    for (row, now) in said.enumerate() {
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
    fn runs_cover_all_records_in_order() {
        assert_eq!(runs([false; 0].into_iter()), []);
        assert_eq!(runs([false, false, true, true, true].into_iter()), [(false, 0..2), (true, 2..5)]);
        assert_eq!(runs([false, true, false].into_iter()), [(false, 0..1), (true, 1..2), (false, 2..3)]);
    }
}
