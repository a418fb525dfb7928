//! Is an answer in CBOR read as the service means it, however it is cut?

use std::cell::Cell;

use ciborium::Value;
use proptest::prelude::*;

use super::*;
use crate::aws::cbor::{BREAK, TAG, write_head};
use crate::records::bytes_needed;

fn text(text: &str) -> Value {
    Value::Text(text.to_owned())
}

fn map(fields: impl IntoIterator<Item = (&'static str, Value)>) -> Value {
    Value::Map(fields.into_iter().map(|(name, value)| (text(name), value)).collect())
}

/// Writes a value. Each string, array and map has an indefinite length if `is_open` says so of the next one.
fn write(value: &Value, is_open: &dyn Fn() -> bool) -> Vec<u8> {
    let mut out = Vec::new();
    let string = |out: &mut Vec<u8>, major: u8, bytes: &[u8]| {
        if is_open() {
            out.push(major << 5 | 31);
            for part in bytes.chunks(3) {
                write_head(out, major, part.len() as u64);
                out.extend_from_slice(part);
            }
            out.push(BREAK);
        } else {
            write_head(out, major, bytes.len() as u64);
            out.extend_from_slice(bytes);
        }
    };
    let container = |out: &mut Vec<u8>, major: u8, len: usize, parts: Vec<&Value>| {
        let ends_with_break = is_open();
        if ends_with_break {
            out.push(major << 5 | 31);
        } else {
            write_head(out, major, len as u64);
        }
        for part in parts {
            out.extend(write(part, is_open));
        }
        if ends_with_break {
            out.push(BREAK);
        }
    };
    match value {
        Value::Bytes(bytes) => string(&mut out, BYTES, bytes),
        Value::Text(text) => string(&mut out, TEXT, text.as_bytes()),
        Value::Array(values) => container(&mut out, ARRAY, values.len(), values.iter().collect()),
        Value::Map(pairs) => {
            container(&mut out, MAP, pairs.len(), pairs.iter().flat_map(|(key, value)| [key, value]).collect());
        }
        Value::Tag(tag, value) => {
            write_head(&mut out, TAG, *tag);
            out.extend(write(value, is_open));
        }
        other => ciborium::into_writer(other, &mut out).unwrap(),
    }
    out
}

fn definite(value: &Value) -> Vec<u8> {
    write(value, &|| false)
}

/// Reads an answer in pieces of this length.
fn in_pieces(answer: &[u8], len: usize) -> Result<Event, EventError> {
    let mut reader = CborReader::default();
    reader.begin(answer.len());
    for piece in answer.chunks(len) {
        reader.feed(piece)?;
    }
    reader.finish()
}

fn read(answer: &[u8]) -> Result<Event, EventError> {
    in_pieces(answer, answer.len().max(1))
}

fn answer() -> Value {
    let time = |value| Value::Tag(1, Box::new(value));
    let whole = |number: i64| Value::Integer(number.into());
    let records = vec![
        map([
            ("SequenceNumber", text("495")),
            ("Data", Value::Bytes(b"hello".to_vec())),
            ("PartitionKey", text("kü😀")),
            ("ApproximateArrivalTimestamp", time(whole(1_700_000_000_123))),
            ("EncryptionType", text("NONE")),
        ]),
        map([
            ("Data", Value::Bytes(Vec::new())),
            ("SequenceNumber", text("496")),
            ("PartitionKey", Value::Null),
            ("ApproximateArrivalTimestamp", time(Value::Float(1_700_000_000.123))),
        ]),
        map([("SequenceNumber", text("497"))]),
    ];
    let child = map([
        ("HashKeyRange", map([("StartingHashKey", text("0"))])),
        ("ParentShards", Value::Array(vec![text("shardId-000000000000")])),
        ("ShardId", text("shardId-000000000001")),
    ]);
    map([
        ("MillisBehindLatest", whole(1000)),
        ("Unknown", map([("a", Value::Array(vec![Value::Null, Value::Bool(true), Value::Float(1.5), map([])]))])),
        ("Records", Value::Array(records)),
        ("NextShardIterator", text("AAAA")),
        ("ChildShards", Value::Array(vec![child])),
    ])
}

#[test]
fn time_of_arrival_is_read_in_whole_seconds_as_local_servers_write_it() {
    let time = Value::Tag(1, Box::new(Value::Integer(1_700_000_000.into())));
    let record = map([("SequenceNumber", text("495")), ("ApproximateArrivalTimestamp", time)]);
    let event = read(&write(&map([("Records", Value::Array(vec![record]))]), &|| false)).unwrap();
    assert_eq!(event.rows.iter().next().unwrap().arrival_millis(), Some(1_700_000_000_000));
}

#[test]
fn answer_is_read_whatever_the_order_and_form_of_its_fields() {
    for is_open in [false, true] {
        let event = read(&write(&answer(), &|| is_open)).unwrap();
        let records: Vec<_> = event.rows.iter().collect();
        assert_eq!(records.len(), 3);
        assert_eq!((records[0].data_ref(), records[0].sequence()), (&b"hello"[..], "495"));
        assert_eq!(records[0].partition_key(), Some("kü😀"));
        assert_eq!(records[0].arrival_millis(), Some(1_700_000_000_123));
        assert_eq!((records[1].data_ref(), records[1].partition_key()), (&b""[..], None));
        assert_eq!(records[1].arrival_millis(), Some(1_700_000_000_123));
        assert_eq!((records[2].sequence(), records[2].arrival_millis()), ("497", None));
        assert_eq!((event.next_iterator.as_deref(), event.millis_behind), (Some("AAAA"), Some(1000)));
        assert_eq!(event.children[0].id, ShardId::from("shardId-000000000001"));
        assert_eq!(event.children[0].parents, [ShardId::from("shardId-000000000000")]);
    }
}

#[test]
fn answer_may_be_cut_anywhere() {
    for is_open in [false, true] {
        let answer = write(&answer(), &|| is_open);
        let whole = read(&answer).unwrap();
        for len in 1..answer.len() {
            assert_eq!(in_pieces(&answer, len).as_ref(), Ok(&whole), "pieces of {len} bytes");
        }
        for end in 0..answer.len() {
            assert!(read(&answer[..end]).is_err(), "only {end} bytes");
        }
    }
}

#[test]
fn null_stands_for_an_absent_value() {
    for name in ["Records", "ChildShards", "NextShardIterator", "MillisBehindLatest"] {
        assert_eq!(read(&definite(&map([(name, Value::Null)]))), Ok(Event::default()), "{name}");
    }
    assert_eq!(read(&[0xf6]), Ok(Event::default()));
}

#[test]
fn malformed_answer_is_an_error() {
    let record = |fields: Vec<(&'static str, Value)>| definite(&map([("Records", Value::Array(vec![map(fields)]))]));
    for (answer, what) in [
        (vec![0x80], "expected a map"),
        (vec![0xa1, 0x01], "expected a text"),
        (vec![0xa0, 0x00], "more bytes after the answer"),
        (vec![0xa1, 0x61, b'x', 0xff], "a break outside of a container"),
        (vec![0xa1, 0x61, b'x', 0x1c], "not a CBOR value"),
        (definite(&map([("Records", text("none"))])), "expected an array"),
        (definite(&map([("Records", Value::Array(vec![text("one")]))])), "a record that is no map"),
        (record(vec![]), "a record without a sequence number"),
        (record(vec![("SequenceNumber", text("a b"))]), "not a sequence number"),
        (record(vec![("Data", text("aGVsbG8="))]), "data that is no string of bytes"),
        (record(vec![("ApproximateArrivalTimestamp", text("now"))]), "expected a number"),
        ([vec![0xa1, 0x61, b'x'], vec![0x81; MAX_DEPTH + 1], vec![0]].concat(), "a value that is nested too deep"),
    ] {
        assert_eq!(read(&answer).map_err(|error| error.what), Err(what), "{answer:02x?}");
    }
    let children = Value::Array(vec![map([("ShardId", text("s"))]); 1001]);
    let error = read(&definite(&map([("ChildShards", children)]))).unwrap_err();
    assert_eq!(error.what, "more child shards than a shard can have");
}

/// A string that claims to be long takes no more memory than arrives.
#[test]
fn claimed_lengths_allocate_nothing() {
    let mut reader = CborReader::default();
    reader.begin(100);
    let mut answer = vec![0xa1, 0x67];
    answer.extend(b"Records");
    answer.extend([0x81, 0xa1, 0x64]);
    answer.extend(b"Data");
    answer.extend([0x5b, 0x7f, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 1, 2, 3]);
    reader.feed(&answer).unwrap();
    assert!(reader.finish().is_err());
    assert!(reader.assembly.filling.data(0).unwrap().capacity() <= 100);
}

proptest! {
    /// Records of every size are read as they were written, cut anywhere and in every form, and what they take in
    /// memory was reserved.
    #[test]
    fn every_record_is_read_as_it_was_written(
        records in prop::collection::vec(
            (prop::collection::vec(any::<u8>(), 0..5000), "[a-z]{0,20}", 100_000_000_000..i64::MAX / 2),
            0..40,
        ),
        piece in 1..3000_usize,
        forms in prop::collection::vec(any::<bool>(), 1..7),
    ) {
        let written = records.iter().enumerate().map(|(at, (data, key, arrival))| {
            map([
                ("Data", Value::Bytes(data.clone())),
                ("PartitionKey", text(key)),
                ("SequenceNumber", text(&format!("{}", at + 1))),
                ("ApproximateArrivalTimestamp", Value::Tag(1, Box::new(Value::Integer((*arrival).into())))),
            ])
        });
        let next = Cell::new(0);
        let is_open = || forms[next.replace(next.get() + 1) % forms.len()];
        let answer = write(&map([("Records", Value::Array(written.collect()))]), &is_open);
        let event = in_pieces(&answer, piece).unwrap();
        prop_assert_eq!(event.rows.len(), records.len());
        for (at, (row, (data, key, arrival))) in event.rows.iter().zip(&records).enumerate() {
            prop_assert_eq!(row.data_ref(), &**data);
            prop_assert_eq!(row.partition_key(), Some(key.as_str()));
            prop_assert_eq!(row.arrival_millis(), Some(*arrival));
            prop_assert_eq!(row.sequence(), (at + 1).to_string());
        }
        prop_assert!(event.rows.kept_bytes() as u64 <= bytes_needed(answer.len()));
    }

    #[test]
    fn any_bytes_are_read_or_refused_the_same_in_pieces(
        bytes in prop::collection::vec(any::<u8>(), 0..200),
        piece in 1..9_usize,
    ) {
        prop_assert_eq!(read(&bytes).ok(), in_pieces(&bytes, piece).ok());
    }
}
