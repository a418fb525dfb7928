//! What does the server send? Events encoded once, replayed for ever.

use std::fmt::Write;

use bytes::Bytes;

use crate::write;

/// About so much payload goes into one event.
const EVENT_BYTES: usize = 256 << 10;

/// The event stream of one subscription.
#[derive(Clone)]
pub struct Stream {
    /// The first frame.
    pub initial: Bytes,
    /// The frames that are replayed.
    pub events: Vec<Bytes>,
    /// Payload bytes in each.
    pub payload_bytes: usize,
    /// An event without records, as an idle shard sends.
    pub idle: Bytes,
}

impl Stream {
    pub fn new(record_bytes: usize) -> Self {
        let records = (EVENT_BYTES / record_bytes).max(1);
        let events = (0..4).map(|at| event(records, record_bytes, at)).collect();
        let initial = write::frame(&[(":message-type", "event"), (":event-type", "initial-response")], b"{}").into();
        Self { initial, events, payload_bytes: records * record_bytes, idle: event(0, 0, 0) }
    }
}

/// Writing to a string can't fail.
fn event(records: usize, record_bytes: usize, at: u64) -> Bytes {
    let mut json = String::from(r#"{"Records":["#);
    for record in 0..records {
        if record > 0 {
            json.push(',');
        }
        let mut random = fastrand::Rng::with_seed(at * 1_000_000 + record as u64);
        let data: Vec<u8> = std::iter::repeat_with(|| random.u8(..)).take(record_bytes).collect();
        let _ = write!(
            json,
            r#"{{"SequenceNumber":"{}","ApproximateArrivalTimestamp":1.7000000{record:05}E9,"Data":"{}","PartitionKey":"key-{record}"}}"#,
            sequence(at * records as u64 + record as u64),
            base64_simd::STANDARD.encode_to_string(&data),
        );
    }
    let next = sequence((at + 1) * records as u64);
    let _ = write!(json, r#"],"ContinuationSequenceNumber":"{next}","MillisBehindLatest":0,"ChildShards":[]}}"#);
    write::event(&json).into()
}

fn sequence(number: u64) -> String {
    format!("496{number:053}")
}
