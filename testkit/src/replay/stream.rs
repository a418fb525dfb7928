//! What does the server send? Events that are encoded once and replayed indefinitely.

use std::fmt::Write;

use bytes::Bytes;
use ciborium::Value;
use serde::{Deserialize, Serialize};

use crate::aggregate::aggregate;
use crate::frame as write;

/// The mark of a record whose data begins with the time at which the server wrote it.
const STAMP: [u8; 4] = *b"\0at\0";
/// The number of base64 characters that hold the mark and the time.
const STAMP_CHARS: usize = 16;
/// The number of digits of a sequence number that count; those before are always the same.
const COUNTED: usize = 20;

/// What a user record of some hundred bytes takes in an aggregate beside its data.
const USER_RECORD_OVERHEAD: usize = 8;

/// The composition of the events of a stream.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub struct Shape {
    pub record_bytes: usize,
    /// The approximate payload of an event.
    pub event_bytes: usize,
    /// The size of the user records that each record holds, if it is an aggregate.
    pub user_record_bytes: Option<usize>,
}

/// The event stream of one subscription.
#[derive(Clone)]
pub struct Stream {
    /// The first frame.
    pub initial: Bytes,
    /// The events that are replayed in turn.
    pub events: Vec<Event>,
    /// The number of records in each event.
    pub records: usize,
    /// The payload bytes in each event.
    pub payload_bytes: usize,
    /// An event without records, as an idle shard sends it.
    pub idle: Bytes,
    /// The answer of GetRecords with the records of an event, but without its end.
    pub polled: Polled,
    /// The same without records.
    pub polled_idle: Polled,
}

/// An answer of GetRecords that is encoded except for its end: the iterator follows.
#[derive(Clone)]
pub struct Polled {
    json: Encoded,
    cbor: Encoded,
}

/// Encoded records, and the positions of the counted digits of their sequence numbers.
#[derive(Clone)]
struct Encoded {
    bytes: Bytes,
    digits: Vec<usize>,
}

impl Encoded {
    fn new(bytes: Vec<u8>, records: &[Record]) -> Self {
        let mut end = 0;
        let digits = records.iter().filter_map(|record| {
            let sequence = record.sequence.as_bytes();
            end += bytes[end..].windows(sequence.len()).position(|window| window == sequence)? + sequence.len();
            Some(end - COUNTED)
        });
        let digits = digits.collect();
        Self { bytes: bytes.into(), digits }
    }

    /// The records, with sequence numbers from `first` on if it is given.
    fn from(&self, first: Option<u64>) -> Bytes {
        let Some(first) = first else { return self.bytes.clone() };
        let mut bytes = self.bytes.to_vec();
        count(&mut bytes, first, &self.digits);
        bytes.into()
    }
}

/// Writes sequence numbers from `first` on to these positions.
fn count(bytes: &mut [u8], first: u64, digits: &[usize]) {
    for (number, at) in (first..).zip(digits) {
        let mut left = number;
        for digit in bytes[*at..at + COUNTED].iter_mut().rev() {
            *digit = b'0' + (left % 10) as u8;
            left /= 10;
        }
    }
}

impl Polled {
    fn new(records: &[Record], behind: u64) -> Self {
        let mut json = format!(r#"{{"MillisBehindLatest":{behind},"Records":["#);
        for (at, record) in records.iter().enumerate() {
            if at > 0 {
                json.push(',');
            }
            record.write(&mut json);
        }
        json.push_str(r#"],"NextShardIterator":"#);
        let text = |text: &str| Value::from(text);
        let record = |record: &Record| {
            Value::Map(vec![
                (text("SequenceNumber"), text(&record.sequence)),
                (text("ApproximateArrivalTimestamp"), Value::Tag(1, Box::new(1_700_000_000_000_u64.into()))),
                (text("Data"), Value::Bytes(record.data.clone())),
                (text("PartitionKey"), text(&record.key)),
            ])
        };
        // A map of three fields, of which the last value is missing.
        let mut cbor = vec![0xa3];
        for value in [
            text("MillisBehindLatest"),
            behind.into(),
            text("Records"),
            Value::Array(records.iter().map(record).collect()),
            text("NextShardIterator"),
        ] {
            // Writing to memory does not fail.
            let _ = ciborium::into_writer(&value, &mut cbor);
        }
        Self { json: Encoded::new(json.into_bytes(), records), cbor: Encoded::new(cbor, records) }
    }

    /// The answer with its iterator, in two pieces. Its sequence numbers begin with `first`, if that is given.
    pub fn with_iterator(&self, iterator: &str, in_cbor: bool, first: Option<u64>) -> [Bytes; 2] {
        if in_cbor {
            let mut end = Vec::new();
            let _ = ciborium::into_writer(&Value::from(iterator), &mut end);
            [self.cbor.from(first), end.into()]
        } else {
            [self.json.from(first), format!(r#""{iterator}"}}"#).into()]
        }
    }
}

/// A record in the making.
struct Record {
    sequence: String,
    key: String,
    data: Vec<u8>,
    at: usize,
}

impl Record {
    fn write(&self, json: &mut String) {
        let _ = write!(
            json,
            r#"{{"SequenceNumber":"{}","ApproximateArrivalTimestamp":1.7000000{:05}E9,"Data":"{}","PartitionKey":"{}"}}"#,
            self.sequence,
            self.at,
            base64_simd::STANDARD.encode_to_string(&self.data),
            self.key
        );
    }
}

/// An event, and the positions in it of the parts that change.
#[derive(Clone)]
pub struct Event {
    pub frame: Bytes,
    /// The positions of the counted digits of each sequence number; those of the continuation come last.
    digits: Vec<usize>,
    /// The position of the data of the first record.
    data: Option<usize>,
}

impl Stream {
    pub fn new(Shape { record_bytes, event_bytes, user_record_bytes }: Shape) -> Self {
        let records = (event_bytes / record_bytes.max(1)).max(1);
        let events = (0..4).map(|at| event(records, record_bytes, user_record_bytes, at)).collect();
        let initial = write::frame(&[(":message-type", "event"), (":event-type", "initial-response")], b"{}").into();
        let polled = Polled::new(&records_of(records, record_bytes, user_record_bytes, 0), 1000);
        Self {
            initial,
            events,
            records,
            payload_bytes: records * record_bytes,
            idle: event(0, 0, None, 0).frame,
            polled,
            polled_idle: Polled::new(&[], 0),
        }
    }
}

impl Event {
    /// The event with sequence numbers from `first` on. If its records are large enough, the first contains the time.
    pub fn from(&self, first: u64, now_nanos: u64) -> Bytes {
        let mut frame = self.frame.to_vec();
        count(&mut frame, first, &self.digits);
        if let Some(at) = self.data {
            let mut stamp = STAMP.to_vec();
            stamp.extend(now_nanos.to_le_bytes());
            frame[at..at + STAMP_CHARS].copy_from_slice(base64_simd::STANDARD.encode_to_string(&stamp).as_bytes());
        }
        let end = frame.len() - 4;
        let sum = crc32fast::hash(&frame[..end]);
        frame[end..].copy_from_slice(&sum.to_be_bytes());
        frame.into()
    }
}

/// The time at which the server wrote this record, if it contains one.
pub fn written_at(data: &[u8]) -> Option<u64> {
    let time = data.strip_prefix(&STAMP)?.first_chunk()?;
    Some(u64::from_le_bytes(*time))
}

/// The count in a sequence number, if this server wrote it.
pub fn counted(sequence: &str) -> Option<u64> {
    sequence.get(sequence.len().checked_sub(COUNTED)?..)?.parse().ok()
}

/// The records of an event.
fn records_of(records: usize, record_bytes: usize, user_record_bytes: Option<usize>, at: u64) -> Vec<Record> {
    let record = |record: usize| {
        let mut random = fastrand::Rng::with_seed(at * 1_000_000 + record as u64);
        let mut bytes = |len: usize| -> Vec<u8> { std::iter::repeat_with(|| random.u8(..)).take(len).collect() };
        let data = match user_record_bytes {
            None => bytes(record_bytes),
            Some(len) => {
                let count = (record_bytes / (len + USER_RECORD_OVERHEAD)).max(1);
                aggregate((0..count).map(|_| (format!("key-{record}"), bytes(len))))
            }
        };
        let sequence = format!("496{:053}", at * records as u64 + record as u64);
        Record { sequence, key: format!("key-{record}"), data, at: record }
    };
    (0..records).map(record).collect()
}

/// An event of these records. Writing to a string can't fail.
fn event(records: usize, record_bytes: usize, user_record_bytes: Option<usize>, at: u64) -> Event {
    const BEFORE_SEQUENCE: usize = r#"{"SequenceNumber":""#.len();
    const BEFORE_DATA: usize = r#"","ApproximateArrivalTimestamp":1.700000000000E9,"Data":""#.len();
    let mut json = String::from(r#"{"Records":["#);
    let mut digits = Vec::new();
    let mut first_data = None;
    for record in &records_of(records, record_bytes, user_record_bytes, at) {
        if record.at > 0 {
            json.push(',');
        }
        let sequence_end = json.len() + BEFORE_SEQUENCE + record.sequence.len();
        digits.push(sequence_end - COUNTED);
        // A time in an aggregate would not fit its checksum.
        if record.at == 0 && record_bytes >= STAMP_CHARS && user_record_bytes.is_none() {
            first_data = Some(sequence_end + BEFORE_DATA);
        }
        record.write(&mut json);
    }
    let _ = write!(
        json,
        r#"],"ContinuationSequenceNumber":"496{:053}"#,
        (at + 1) * records as u64 - u64::from(records > 0)
    );
    digits.push(json.len() - COUNTED);
    json.push_str(r#"","MillisBehindLatest":0,"ChildShards":[]}"#);
    let frame = Bytes::from(write::event(&json));
    // Only the checksum follows the payload.
    let start = frame.len() - 4 - json.len();
    for at in &mut digits {
        *at += start;
    }
    Event { frame, digits, data: first_data.map(|at| at + start) }
}
