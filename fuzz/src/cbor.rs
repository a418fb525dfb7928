//! Is an answer in CBOR read the same however it is cut, within the memory that was announced, and to its end?

use kinesis_input::internals::bytes_needed;
use kinesis_input::internals::wire::{CborReader, Event, EventError};

/// Checks an answer.
pub fn check(answer: &[u8]) {
    let whole = read(answer, answer.len().max(1));
    for len in [1, 5, 64, answer.len() / 2 + 1] {
        let cut = read(answer, len);
        // Only a field that is cut in two may be too long.
        let too_long = answer.len() > 64 << 10 && cut.is_err();
        assert!(too_long || cut.as_ref().ok() == whole.as_ref().ok(), "in pieces of {len}: {cut:?}, not {whole:?}");
    }
    let Ok(event) = whole else { return };
    let held = event.rows.kept_bytes() as u64;
    let needed = bytes_needed(answer.len());
    assert!(held <= needed, "{held} bytes are held where {needed} were announced");
    let children: usize = event.children.iter().map(|child| 1 + child.parents.len()).sum();
    assert!(children <= answer.len(), "{children} shards in {} bytes", answer.len());
    for len in [0, 1, answer.len() / 2, answer.len() - 1] {
        assert!(len >= answer.len() || read(&answer[..len], len.max(1)).is_err(), "taken with {len} bytes only");
    }
    assert!(read(&[answer, &[0]].concat(), answer.len() + 1).is_err(), "taken with another value behind it");
}

/// Reads an answer in pieces of this length.
fn read(answer: &[u8], len: usize) -> Result<Event, EventError> {
    let mut reader = CborReader::default();
    reader.begin(answer.len());
    answer.chunks(len).try_for_each(|piece| reader.feed(piece))?;
    reader.finish()
}
