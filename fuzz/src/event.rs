//! Is an event read as it should be, whatever its bytes are?

use kinesis_input::internals::bytes_needed;
use kinesis_input::internals::wire::{Event, EventError, EventReader};

use super::choices::Choices;
use super::forms;
use super::reference::{self, Verdict};
use super::said::Said;

/// The first byte of an input that decides the content of an event. A text begins with neither this nor `SPOILED`.
const MADE: u8 = 0;
/// The first byte of an input that decides the content of an event, and the errors in it.
const SPOILED: u8 = 1;

/// Checks an input of the fuzzer: a text, or bytes that decide the content of one.
pub fn check_input(input: &[u8]) {
    match input.split_first() {
        Some((&MADE, rest)) => {
            let made = forms::make(&mut Choices::new(rest));
            match Event::parse(made.text.as_bytes()) {
                Ok(event) => assert_eq!(Said::from(&event), made.said, "{}", made.text),
                Err(error) => panic!("{error}: {}", made.text),
            }
            check(made.text.as_bytes());
        }
        Some((&SPOILED, rest)) => {
            let mut choices = Choices::new(rest);
            let made = forms::make(&mut choices);
            check(&forms::spoil(&made.text, &mut choices));
        }
        _ => check(input),
    }
}

/// Checks the result for a payload.
pub fn check(payload: &[u8]) {
    let read = Event::parse(payload);
    check_cuts(payload, &read);
    if let Ok(event) = &read {
        check_memory(payload, event);
        check_ends(payload, event);
    }
    match (reference::read(payload), &read) {
        (Verdict::Open, _) | (Verdict::Refused(_), Err(_)) => {}
        (Verdict::Refused(why), Ok(event)) => panic!("taken in spite of {why}: {event:?}"),
        (Verdict::Says(said, _), Err(error)) => panic!("{error}, instead of {said:?}"),
        (Verdict::Says(mut said, slack), Ok(event)) => {
            let ours = Said::from(event);
            settle(&mut said.millis_behind, ours.millis_behind, slack.millis_behind);
            for ((record, our), slack) in said.records.iter_mut().zip(&ours.records).zip(slack.arrivals) {
                settle(&mut record.arrival_millis, our.arrival_millis, slack);
            }
            assert_eq!(ours, *said);
        }
    }
}

/// Replaces the other number by ours if the difference is within the tolerance.
fn settle(other: &mut Option<i64>, ours: Option<i64>, slack: u64) {
    if let (Some(number), Some(our)) = (*other, ours)
        && number.abs_diff(our) <= slack
    {
        *other = ours;
    }
}

/// Checks that the result does not depend on the pieces in which an event comes.
fn check_cuts(payload: &[u8], whole: &Result<Event, EventError>) {
    for len in [1, 5, 64, payload.len() / 2 + 1] {
        let mut reader = EventReader::default();
        reader.begin(payload.len());
        let pieces = payload.chunks(len).try_for_each(|piece| reader.feed(piece));
        let cut = pieces.and_then(|()| reader.finish());
        // Only a field that is cut in two may be too long.
        let too_long = payload.len() > 64 << 10 && cut.is_err();
        assert!(too_long || cut.as_ref().ok() == whole.as_ref().ok(), "in pieces of {len}: {cut:?}, not {whole:?}");
    }
}

/// Checks that the memory in use is what was announced, and that what is kept of each record can be read.
fn check_memory(payload: &[u8], event: &Event) {
    let rows = &event.rows;
    let needed = bytes_needed(payload.len());
    let held = rows.kept_bytes() as u64;
    assert!(held <= needed, "{held} bytes are held where {needed} were announced");
    let said: usize = rows
        .iter()
        .map(|record| record.data().len() + record.sequence().len() + record.partition_key().map_or(0, str::len))
        .sum();
    assert!(said <= rows.kept_bytes(), "{said} bytes are in {} bytes", rows.kept_bytes());
    let children: usize = event.children.iter().map(|child| 1 + child.parents.len()).sum();
    assert!(2 * children <= payload.len(), "{children} shards in {} bytes", payload.len());
}

/// Checks that an event ends where its text ends: it can't be read without its last byte, nor with another one behind
/// it.
fn check_ends(payload: &[u8], event: &Event) {
    let text = payload.trim_ascii_end();
    for len in [0, 1, text.len() / 3, text.len() / 2, text.len() - 1] {
        assert!(len >= text.len() || Event::parse(&text[..len]).is_err(), "taken with {len} bytes only");
    }
    for more in ["x", "}", ",", "\"", "0", "null", "\0"] {
        let longer = [payload, more.as_bytes()].concat();
        assert!(Event::parse(&longer).is_err(), "taken with {more:?} behind it");
    }
    let spaced = [b" \r\n\t", payload, b"\t\n\r "].concat();
    assert_eq!(Event::parse(&spaced).as_ref(), Ok(event));
}
