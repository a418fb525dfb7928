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
    place: Option<Checkpoint>,
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
            place: None,
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
        self.pass(None);
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
            self.pass(checkpoint);
        } else {
            self.above.insert(start, Above { end, checkpoint });
        }
    }

    /// Keeps the positions behind what is acknowledged above gaps from now on. They can only be told from the events,
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
    fn pass(&mut self, kept: Option<Checkpoint>) {
        while let Some(mark) = self.marks.pop_front_if(|mark| mark.ordinals.end <= self.low) {
            self.place = Some(Checkpoint::After(mark.continuation));
        }
        // The position is taken now, while the event's records exist. If they are gone and no position was kept, it stays
        // an earlier one, from which some records would be read again.
        if let Some(mark) = self.marks.front()
            && let Some(last) = self.low.checked_sub(mark.ordinals.start + 1)
            && let Some(mut place) = mark.records.checkpoint(last as usize).or(kept)
        {
            if let Checkpoint::Within(within) = &mut place
                && within.after.is_none()
            {
                within.after = self.place.as_ref().and_then(Checkpoint::position).cloned();
            }
            self.place = Some(place);
        }
    }

    /// The position up to which everything is acknowledged, if any record has been since the start.
    pub(crate) fn checkpoint(&self) -> Option<Checkpoint> {
        self.place.clone()
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
    #[cfg(test)]
    pub(crate) fn pending(&self) -> u64 {
        let acked_above: u64 = self.above.iter().map(|(start, above)| above.end - start).sum();
        self.next - self.low - acked_above
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::lease::Within;

    /// An event whose records are numbered from a first number.
    struct From(u64);

    impl Sequences for From {
        fn checkpoint(&self, index: usize) -> Option<Checkpoint> {
            Some(Checkpoint::After(number(self.0 + index as u64)))
        }

        fn oldest(&self, index: usize) -> Oldest {
            Oldest { arrived: Some(self.0.cast_signed() + i64::try_from(index).unwrap()), tracked_at: Instant::now() }
        }
    }

    fn number(number: u64) -> SequenceNumber {
        SequenceNumber::new(&number.to_string()).unwrap()
    }

    fn position(watermark: &Watermark<From>) -> Option<SequenceNumber> {
        watermark.checkpoint().map(|checkpoint| match checkpoint {
            Checkpoint::After(position) => position,
            other => panic!("{other:?}"),
        })
    }

    /// An event that is one aggregate.
    struct Aggregate;

    impl Sequences for Aggregate {
        fn checkpoint(&self, index: usize) -> Option<Checkpoint> {
            let sub = u32::try_from(index).unwrap();
            Some(Checkpoint::Within(Within { after: None, record: number(70), sub }))
        }

        fn oldest(&self, _: usize) -> Oldest {
            Oldest { arrived: None, tracked_at: Instant::now() }
        }
    }

    #[test]
    fn position_inside_an_aggregate_keeps_the_record_before_it() {
        let within = |after: Option<u64>, sub| {
            Some(Checkpoint::Within(Within { after: after.map(number), record: number(70), sub }))
        };
        let mut watermark = Watermark::new(10);
        watermark.track(Aggregate, 3, number(75));
        watermark.ack(0..1);
        assert_eq!(watermark.checkpoint(), within(None, 0));
        watermark.track(Aggregate, 3, number(80));
        watermark.ack(2..3);
        assert_eq!(watermark.checkpoint(), within(None, 0));
        watermark.ack(1..5);
        assert_eq!(watermark.checkpoint(), within(Some(75), 1));
        watermark.ack(5..6);
        assert_eq!(watermark.checkpoint(), Some(Checkpoint::After(number(80))));
    }

    /// An event whose records are dropped.
    struct Dropped(std::rc::Rc<std::cell::Cell<bool>>);

    impl Sequences for Dropped {
        fn checkpoint(&self, index: usize) -> Option<Checkpoint> {
            (!self.0.get()).then(|| Checkpoint::After(number(2000 + index as u64)))
        }

        fn oldest(&self, _: usize) -> Oldest {
            Oldest { arrived: None, tracked_at: Instant::now() }
        }
    }

    #[test]
    fn ack_above_a_gap_counts_once_the_gap_closes_though_its_event_is_dropped() {
        for (early, late) in
            [(Some(3..5), None), (Some(3..4), Some(4..5)), (None, Some(3..5)), (Some(4..5), Some(3..4))]
        {
            let dropped = std::rc::Rc::new(std::cell::Cell::new(false));
            let mut watermark = Watermark::new(100);
            watermark.track(Dropped(dropped.clone()), 3, number(1500));
            watermark.track(Dropped(dropped.clone()), 9, number(2500));
            if let Some(ordinals) = early {
                watermark.ack(ordinals);
            }
            watermark.keep_positions();
            if let Some(ordinals) = late {
                watermark.ack(ordinals);
            }
            dropped.set(true);
            assert_eq!(watermark.checkpoint(), None);
            watermark.ack(0..3);
            assert_eq!(watermark.checkpoint(), Some(Checkpoint::After(number(2001))));
            assert_eq!((watermark.done(), watermark.pending()), (5, 7));
        }
    }

    /// Tracks an event. Events start at 1000, 2000, …; the continuation of an event is its last number plus 500.
    fn track(watermark: &mut Watermark<From>, event: u64, count: u64) -> Range<u64> {
        let first = event * 1000;
        watermark.track(From(first), count, number(first + count.max(1) - 1 + 500))
    }

    #[test]
    fn checkpoint_before_the_first_ack_is_none() {
        let mut watermark = Watermark::new(10);
        track(&mut watermark, 1, 3);
        assert_eq!(position(&watermark), None);
        watermark.ack(1..3);
        assert_eq!(position(&watermark), None);
    }

    #[test]
    fn acked_event_is_stored_by_its_continuation_and_a_part_of_it_by_its_last_record() {
        let mut watermark = Watermark::new(10);
        track(&mut watermark, 1, 3);
        watermark.ack(0..2);
        assert_eq!(position(&watermark), Some(number(1001)));
        assert!(!watermark.is_drained());
        watermark.ack(2..3);
        assert_eq!(position(&watermark), Some(number(1502)));
        assert!(watermark.is_drained());
    }

    #[test]
    fn event_without_records_moves_the_position_once_all_before_it_is_acked() {
        let mut watermark = Watermark::new(10);
        track(&mut watermark, 1, 1);
        track(&mut watermark, 2, 0);
        assert_eq!(position(&watermark), None);
        watermark.ack(0..1);
        assert_eq!(position(&watermark), Some(number(2500)));
    }

    #[test]
    fn checkpoint_limit_counts_from_the_oldest_unacked_record() {
        let mut watermark = Watermark::new(4);
        track(&mut watermark, 1, 6);
        assert!(watermark.room_for(4) && !watermark.room_for(5));
        watermark.ack(1..4);
        assert!(!watermark.room_for(5));
        watermark.ack(0..1);
        assert!(watermark.room_for(6));
    }

    /// Hosts ack from several threads while another thread reads the position. The position covers only acknowledged
    /// records and never moves back, in any order of these steps.
    #[test]
    fn concurrent_acks() {
        use shuttle::sync::{Arc, Mutex, atomic::AtomicBool, atomic::Ordering};
        shuttle::check_random(
            || {
                let mut watermark = Watermark::new(100);
                for event in 0..3 {
                    track(&mut watermark, event, 2);
                }
                let watermark = Arc::new(Mutex::new(watermark));
                let settled: Arc<Vec<AtomicBool>> = Arc::new((0..6).map(|_| AtomicBool::new(false)).collect());
                let hosts: Vec<_> = [vec![(0, 1), (3, 5)], vec![(5, 6), (1, 2)], vec![(2, 3)]]
                    .into_iter()
                    .map(|acks| {
                        let (watermark, settled) = (Arc::clone(&watermark), Arc::clone(&settled));
                        shuttle::thread::spawn(move || {
                            for (start, end) in acks {
                                for ordinal in start..end {
                                    settled[ordinal as usize].store(true, Ordering::SeqCst);
                                }
                                watermark.lock().unwrap().ack(start..end);
                            }
                        })
                    })
                    .collect();
                let mut before = None;
                let mut check = || {
                    let place = position(&watermark.lock().unwrap());
                    assert!(before <= place, "from {before:?} back to {place:?}");
                    for (ordinal, settled) in settled.iter().enumerate() {
                        // Each event has two records, numbered from its multiple of 1000.
                        let record = number((ordinal as u64 / 2) * 1000 + ordinal as u64 % 2);
                        let covered = place.as_ref().is_some_and(|place| record <= *place);
                        assert!(!covered || settled.load(Ordering::SeqCst), "{place:?} is past {record:?}");
                    }
                    before = place;
                };
                for _ in 0..4 {
                    check();
                    shuttle::thread::yield_now();
                }
                for host in hosts {
                    host.join().unwrap();
                }
                check();
                assert_eq!(before, Some(number(2501)));
            },
            2_000,
        );
    }

    proptest! {
        /// The watermark agrees with a model that keeps a flag for every record.
        #[test]
        fn out_of_order_acks(events in proptest::collection::vec(0_u64..5, 1..20),
                             acks in proptest::collection::vec((0_u64..60, 0_u64..8), 0..80)) {
            let mut watermark = Watermark::new(1000);
            let mut ends = Vec::new();
            for (event, count) in events.iter().enumerate() {
                let event = event as u64 + 1;
                ends.push((track(&mut watermark, event, *count), event * 1000));
            }
            let total = watermark.next;
            let mut acked = vec![false; total as usize];
            let mut last = None;
            for (start, len) in acks {
                watermark.ack(start..start + len);
                for ordinal in start..(start + len).min(total) {
                    acked[ordinal as usize] = true;
                }
                let low = acked.iter().take_while(|done| **done).count() as u64;
                prop_assert_eq!(watermark.done(), low);
                prop_assert_eq!(watermark.pending(), acked.iter().filter(|done| !**done).count() as u64);
                let mut expected = None;
                for (ordinals, first) in &ends {
                    let count = ordinals.end - ordinals.start;
                    if ordinals.end <= low {
                        expected = Some(number(first + count.max(1) - 1 + 500));
                    } else {
                        if ordinals.start < low {
                            expected = Some(number(first + low - 1 - ordinals.start));
                        }
                        break;
                    }
                }
                let now = position(&watermark);
                prop_assert_eq!(&now, &expected);
                prop_assert!(now >= last, "moved back");
                last = now;
            }
        }
    }
}
