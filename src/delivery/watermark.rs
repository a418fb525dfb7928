//! Up to which position may a shard be stored as processed?
//!
//! Acks come in any order; the longest prefix of acknowledged records without a gap may be stored. Every record of a
//! shard gets an ordinal, counting from zero in the order of delivery. This module is pure: it has no clock and no
//! lock.
//!
//! ```text
//! ordinals   0 1 2 3 4 5 6 7 8 9 …
//! acked      ■ ■ ■ ■ □ ■ ■ □ □
//!                    ▲         ▲
//!                    low       next      stored: the position after ordinal 3
//! ```

use std::collections::{BTreeMap, VecDeque};
use std::ops::Range;

use tokio::time::Instant;

use crate::lease::Checkpoint;
use crate::model::SequenceNumber;

/// Gives access to the records of one event, as long as one of them is not settled.
///
/// It does not keep the records in memory: records that are acknowledged behind a gap have returned their space in the
/// pool, so they must be freed.
pub(crate) trait Sequences {
    /// Returns the checkpoint behind the record at this index of the event; `None` once the event is gone. Inside an
    /// aggregate it may lack the record before, if that belongs to an earlier event.
    fn checkpoint(&self, index: usize) -> Option<Checkpoint>;

    /// Returns the age of the record at this index.
    fn oldest(&self, index: usize) -> Oldest;
}

/// The age of the oldest record that is not acknowledged.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Oldest {
    /// When the record arrived at the stream, in milliseconds since 1970; `None` if the service does not say.
    pub(crate) arrived: Option<i64>,
    /// When the record was read.
    pub(crate) tracked_at: Instant,
}

/// The watermark of one shard.
#[derive(Debug)]
pub(crate) struct Watermark<S> {
    /// The largest number of records from the oldest unacknowledged record to the newest delivered one.
    limit: u64,
    /// The ordinal that the next record will get.
    next: u64,
    /// The first ordinal that is not acknowledged: all ordinals below are.
    low: u64,
    /// The acknowledged ordinals above `low`, as disjoint ranges, by their start.
    above: BTreeMap<u64, Above>,
    /// Whether the ranges above know their positions.
    keeps_positions: bool,
    /// The events with records at or above `low`, oldest first.
    marks: VecDeque<Mark<S>>,
    /// The position after the last record below `low`.
    checkpoint: Option<Checkpoint>,
}

/// A range of acknowledged ordinals above a gap.
#[derive(Debug)]
struct Above {
    end: u64,
    /// The checkpoint behind the last of them, if positions are kept.
    checkpoint: Option<Checkpoint>,
}

#[derive(Debug)]
struct Mark<S> {
    ordinals: Range<u64>,
    records: S,
    /// The position after the event.
    continuation: SequenceNumber,
}

impl<S: Sequences> Watermark<S> {
    /// Makes a watermark with this limit, which counts as at least 1.
    pub(crate) fn new(limit: u64) -> Self {
        Self {
            limit: limit.max(1),
            next: 0,
            low: 0,
            above: BTreeMap::new(),
            keeps_positions: false,
            marks: VecDeque::new(),
            checkpoint: None,
        }
    }

    /// Takes an event of `count` records and returns their ordinals. It does not check the limit:
    /// [`room_for`](Self::room_for) must hold before the records are delivered.
    pub(crate) fn track(&mut self, records: S, count: u64, continuation: SequenceNumber) -> Range<u64> {
        let ordinals = self.next..self.next + count;
        self.next = ordinals.end;
        // An event without records only moves the position behind the earlier records.
        if count == 0
            && let Some(last) = self.marks.back_mut()
        {
            last.continuation = continuation;
            return ordinals;
        }
        self.marks.push_back(Mark { ordinals: ordinals.clone(), records, continuation });
        self.advance(None);
        ordinals
    }

    /// Whether the record before `end` may be delivered.
    pub(crate) fn room_for(&self, end: u64) -> bool {
        end.saturating_sub(self.low) <= self.limit
    }

    /// Counts records as acknowledged. A repeated ack changes nothing.
    pub(crate) fn ack(&mut self, ordinals: Range<u64>) {
        let mut start = ordinals.start.max(self.low);
        let mut end = ordinals.end.min(self.next);
        if start >= end {
            return;
        }
        // The range is merged with its neighbors, and its checkpoint is that of whichever ends last.
        let before = self.above.range(..=start).next_back().filter(|(_, above)| above.end >= start);
        start = before.map_or(start, |(before, _)| *before);
        let mut kept = None;
        while let Some(near) = self.above.range(start..=end).next().map(|(near, _)| *near) {
            if let Some(near) = self.above.remove(&near)
                && near.end >= end
            {
                (end, kept) = (near.end, Some(near.checkpoint));
            }
        }
        let checkpoint = match kept {
            Some(kept) => kept,
            None if self.keeps_positions => self.checkpoint_before(end),
            None => None,
        };
        if start == self.low {
            self.low = end;
            self.advance(checkpoint);
        } else {
            self.above.insert(start, Above { end, checkpoint });
        }
    }

    /// Keeps the positions behind what is acknowledged above gaps from now on. They are known only from the events,
    /// and events in which something was not delivered are about to be dropped, because reading stops. Without this, what
    /// is acknowledged above a gap would come again although the gap closes.
    pub(crate) fn keep_positions(&mut self) {
        self.keeps_positions = true;
        let ends: Vec<(u64, u64)> = self.above.iter().map(|(start, above)| (*start, above.end)).collect();
        for (start, end) in ends {
            let checkpoint = self.checkpoint_before(end);
            if let Some(above) = self.above.get_mut(&start) {
                above.checkpoint = checkpoint;
            }
        }
    }

    /// The checkpoint behind the record before this ordinal, if its event exists.
    fn checkpoint_before(&self, end: u64) -> Option<Checkpoint> {
        let last = end.checked_sub(1)?;
        let mark = self.marks.get(self.marks.partition_point(|mark| mark.ordinals.end <= last))?;
        mark.records.checkpoint(last.checked_sub(mark.ordinals.start)? as usize)
    }

    /// Moves the position behind `low`, and drops the events that are acknowledged completely. `kept` is the checkpoint
    /// behind `low`, if it was kept.
    fn advance(&mut self, kept: Option<Checkpoint>) {
        while let Some(mark) = self.marks.pop_front_if(|mark| mark.ordinals.end <= self.low) {
            self.checkpoint = Some(Checkpoint::After(mark.continuation));
        }
        // The position is taken now, while the event's records exist. If they are gone and no position was kept, it stays
        // an earlier one, from which some records would be read again.
        if let Some(mark) = self.marks.front()
            && let Some(last) = self.low.checked_sub(mark.ordinals.start + 1)
            && let Some(mut checkpoint) = mark.records.checkpoint(last as usize).or(kept)
        {
            if let Checkpoint::Within(within) = &mut checkpoint
                && within.after.is_none()
            {
                within.after = self.checkpoint.as_ref().and_then(Checkpoint::position).cloned();
            }
            self.checkpoint = Some(checkpoint);
        }
    }

    /// The position up to which everything is acknowledged, if any record has been since the start.
    pub(crate) fn checkpoint(&self) -> Option<Checkpoint> {
        self.checkpoint.clone()
    }

    /// The number of records that are acknowledged without a gap since the start.
    pub(crate) fn done(&self) -> u64 {
        self.low
    }

    /// The oldest record that is not acknowledged; `None` if there is none.
    pub(crate) fn oldest(&self) -> Option<Oldest> {
        let mark = self.marks.front().filter(|mark| mark.ordinals.end > self.low)?;
        Some(mark.records.oldest(self.low.saturating_sub(mark.ordinals.start) as usize))
    }

    /// Whether all tracked records are acknowledged.
    pub(crate) fn is_drained(&self) -> bool {
        self.low == self.next
    }

    /// The number of records that are not acknowledged.
    pub(crate) fn pending(&self) -> u64 {
        let acked_above: u64 = self.above.iter().map(|(start, above)| above.end - start).sum();
        self.next - self.low - acked_above
    }
}

#[cfg(test)]
#[path = "watermark_tests.rs"]
mod tests;
