//! Does the watermark follow exactly the acknowledged prefix?

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
    for (early, late) in [(Some(3..5), None), (Some(3..4), Some(4..5)), (None, Some(3..5)), (Some(4..5), Some(3..4))] {
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
