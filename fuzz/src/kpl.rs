//! Are aggregates read as they should be, whatever stands behind a checksum that fits?

use base64_simd::STANDARD;
use kinesis_input::internals::{Record, Rows, deaggregate, wire::Event};
use kinesis_testkit::aggregate::sealed;

use super::choices::Choices;

/// Checks an input of the fuzzer: whether to seal it as an aggregate, and the bytes.
pub fn check_input(input: &[u8]) {
    let mut choices = Choices::new(input);
    let is_sealed = choices.byte() & 1 != 0;
    let body = choices.rest();
    if is_sealed { check(&sealed(body)) } else { check(body) }
}

/// The records that come out of a record with this data.
pub fn rows(data: &[u8]) -> Rows {
    let data = STANDARD.encode_to_string(data);
    let event = format!(r#"{{"Records":[{{"SequenceNumber":"7","Data":"{data}","PartitionKey":"outer"}}]}}"#);
    Event::parse(event.as_bytes()).unwrap_or_default().rows
}

/// Checks what comes out of a record with this data.
pub fn check(data: &[u8]) {
    let mut rows = rows(data);
    let whole = rows.kept_bytes();
    deaggregate(&mut rows, Some(("0", "170141183460469231731687303715884105727")));
    let all: Vec<Record<'_>> = rows.iter().collect();
    assert_eq!(all.len(), rows.len(), "a record can't be reached");
    // What the space for the frame holds: a frame is more than four thirds of its data.
    assert!(rows.kept_bytes() <= whole + data.len() * 15 / 16 + 512, "{} of {}", rows.kept_bytes(), data.len());
    if all.first().is_some_and(|record| record.sub_sequence_number().is_none()) {
        assert_eq!((all.len(), all[0].data_ref()), (1, data));
        return;
    }
    for (at, record) in all.iter().enumerate() {
        assert_eq!(record.sub_sequence_number(), u32::try_from(at).ok());
        assert_eq!(record.sequence(), "7");
        assert!(record.partition_key().is_some(), "a key is missing");
        let _ = record.explicit_hash_key();
    }
    let payload: usize = all.iter().map(|record| record.data_ref().len()).sum();
    assert!(payload <= data.len(), "more comes out than went in");
}
