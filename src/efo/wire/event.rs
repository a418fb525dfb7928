//! What does an event say, and which records are in it?
//!
//! The JSON is walked once. The data of all records goes, decoded, into one buffer that their messages share; their
//! sequence numbers and partition keys go into one text. What is kept of an event is thus three allocations, however
//! many records it has.

use std::ops::Range;

use base64_simd::STANDARD as BASE64;
use bytes::Bytes;

use super::json::{Cursor, Raw};
use crate::names::{SequenceNumber, ShardId};

/// Why an event can't be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("malformed event: {what} at byte {at}")]
pub struct EventError {
    /// Where in the payload.
    pub at: usize,
    /// What is wrong there.
    pub what: &'static str,
}

/// A `SubscribeToShardEvent`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Event {
    /// The records, oldest first.
    pub rows: Rows,
    /// Where to go on after this event. `None` when it is absent, null or empty.
    pub continuation: Option<SequenceNumber>,
    /// How far behind the tip of the shard the reader is.
    pub millis_behind: Option<i64>,
    /// The shards that come after this one, when it ends.
    pub children: Vec<ChildShard>,
}

/// A shard that comes after the one that is read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ChildShard {
    /// Its id.
    pub id: ShardId,
    /// The shards it comes after: one after a split, two after a merge.
    pub parents: Vec<ShardId>,
}

/// The records of one event, held in common.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Rows {
    data: Bytes,
    text: String,
    places: Vec<Row>,
}

/// Where one record is in [`Rows`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Row {
    data_start: u32,
    data_len: u32,
    text_start: u32,
    sequence_len: u16,
    /// `NO_KEY` when the record has none.
    key_len: u16,
    arrival_millis: i64,
}

const NO_KEY: u16 = u16::MAX;
const NO_ARRIVAL: i64 = i64::MIN;

impl Rows {
    /// How many records.
    pub fn len(&self) -> usize {
        self.places.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.places.is_empty()
    }

    /// The data of a record; shares the event's buffer.
    pub fn data(&self, row: usize) -> Bytes {
        let at = &self.places[row];
        let start = at.data_start as usize;
        self.data.slice(start..start + at.data_len as usize)
    }

    /// The bytes of a record's data, to be looked at.
    pub fn data_ref(&self, row: usize) -> &[u8] {
        let at = &self.places[row];
        &self.data[at.data_start as usize..][..at.data_len as usize]
    }

    /// Bytes of a record's data.
    pub fn data_len(&self, row: usize) -> usize {
        self.places[row].data_len as usize
    }

    /// The sequence number of a record, as text.
    pub fn sequence(&self, row: usize) -> &str {
        let at = &self.places[row];
        &self.text[text_range(at.text_start, at.sequence_len)]
    }

    /// The partition key. Streams that distribute records automatically may have none.
    pub fn partition_key(&self, row: usize) -> Option<&str> {
        let at = &self.places[row];
        let start = at.text_start + u32::from(at.sequence_len);
        (at.key_len != NO_KEY).then(|| &self.text[text_range(start, at.key_len)])
    }

    /// When the record arrived at the stream, approximately, in milliseconds since 1970.
    pub fn arrival_millis(&self, row: usize) -> Option<i64> {
        let millis = self.places[row].arrival_millis;
        (millis != NO_ARRIVAL).then_some(millis)
    }

    /// Bytes of memory that the records hold.
    pub fn kept_bytes(&self) -> usize {
        self.data.len() + self.text.capacity() + self.places.capacity() * size_of::<Row>()
    }
}

fn text_range(start: u32, len: u16) -> Range<usize> {
    let start = start as usize;
    start..start + usize::from(len)
}

/// Bytes that reading a frame of this length may need at once: the frame itself, the data decoded from it, the text
/// and the rows.
///
/// Data takes three quarters of its base64; a record that is all text gives up as much as it takes. A row is smaller
/// than the JSON of the smallest record.
pub fn bytes_needed(frame_len: usize) -> u64 {
    let frame_len = frame_len as u64;
    2 * frame_len + frame_len / 4 + 1024
}

/// Records while they are read.
struct Building {
    data: Vec<u8>,
    text: String,
    rows: Vec<Row>,
}

impl Event {
    /// Reads an event from the payload of its frame.
    ///
    /// # Errors
    ///
    /// When it isn't JSON, or lacks what can't be done without (a record's sequence number).
    pub fn parse(payload: &[u8]) -> Result<Self, EventError> {
        let mut building = Building { data: Vec::new(), text: String::new(), rows: Vec::new() };
        let mut continuation = None;
        let mut millis_behind = None;
        let mut children = Vec::new();
        let mut json = Cursor::new(payload);
        json.object(|json, name| {
            if name.is("Records") {
                building.clear(payload.len());
                json.array(|json| building.record(json))
            } else if name.is("ContinuationSequenceNumber") {
                continuation = match json.optional_string()? {
                    Some(text) => continuation_of(json, text)?,
                    None => None,
                };
                Ok(())
            } else if name.is("MillisBehindLatest") {
                millis_behind = if json.null()? { None } else { Some(integer(json)?) };
                Ok(())
            } else if name.is("ChildShards") {
                children.clear();
                json.array(|json| {
                    children.push(child(json)?);
                    Ok(())
                })
            } else {
                json.skip()
            }
        })?;
        json.end()?;
        Ok(Self { rows: building.finish(), continuation, millis_behind, children })
    }
}

impl Building {
    fn clear(&mut self, payload_len: usize) {
        self.text.clear();
        self.rows.clear();
        self.data.clear();
        // Never more than the whole payload decoded, so that one allocation serves, and never less is used by much:
        // what is over is given back at the end.
        self.data.reserve_exact(payload_len / 4 * 3);
    }

    fn finish(mut self) -> Rows {
        self.text.shrink_to_fit();
        self.rows.shrink_to_fit();
        // A full vector becomes `Bytes` without a copy; it has to be full for that, and to hold no more than it says.
        self.data.shrink_to_fit();
        Rows { data: Bytes::from(self.data), text: self.text, places: self.rows }
    }

    fn record(&mut self, json: &mut Cursor<'_>) -> Result<(), EventError> {
        let data_start = self.data.len();
        let mut sequence_text = None;
        let mut key = None;
        let mut arrival_millis = NO_ARRIVAL;
        json.object(|json, name| {
            if name.is("Data") {
                self.data.truncate(data_start);
                if let Some(raw) = json.optional_string()? {
                    let base64 = raw.unescape()?;
                    BASE64
                        .decode_append(&*base64, &mut self.data)
                        .map_err(|_| json.error("data that is not base64"))?;
                }
            } else if name.is("SequenceNumber") {
                sequence_text = json.optional_string()?;
            } else if name.is("PartitionKey") {
                key = json.optional_string()?;
            } else if name.is("ApproximateArrivalTimestamp") {
                arrival_millis = if json.null()? { NO_ARRIVAL } else { timestamp_millis(json)? };
            } else {
                json.skip()?;
            }
            Ok(())
        })?;
        let text_start = self.text.len();
        let sequence = sequence_text.ok_or_else(|| json.error("a record without a sequence number"))?.text()?;
        if !SequenceNumber::is_valid(&sequence) {
            return Err(json.error("not a sequence number"));
        }
        self.text.push_str(&sequence);
        let key_len = match key {
            None => NO_KEY,
            Some(raw) => {
                let key = raw.text()?;
                self.text.push_str(&key);
                u16::try_from(key.len())
                    .ok()
                    .filter(|len| *len != NO_KEY)
                    .ok_or_else(|| json.error("a partition key beyond all limits"))?
            }
        };
        let too_long = |_| json.error("an event beyond all limits");
        self.rows.push(Row {
            data_start: u32::try_from(data_start).map_err(too_long)?,
            data_len: u32::try_from(self.data.len() - data_start).map_err(too_long)?,
            text_start: u32::try_from(text_start).map_err(too_long)?,
            // A sequence number has at most 256 bytes.
            sequence_len: sequence.len() as u16,
            key_len,
            arrival_millis,
        });
        Ok(())
    }
}

/// A continuation; `None` for an empty string, which some clients make of an absent one.
fn continuation_of(json: &Cursor<'_>, raw: Raw<'_>) -> Result<Option<SequenceNumber>, EventError> {
    let text = raw.text()?;
    if text.is_empty() {
        return Ok(None);
    }
    SequenceNumber::new(&text).map(Some).map_err(|_| json.error("not a sequence number"))
}

fn integer(json: &mut Cursor<'_>) -> Result<i64, EventError> {
    let text = json.number()?;
    match text.parse::<i64>() {
        Ok(number) => Ok(number),
        // `1e3` and `12.0` are whole numbers too.
        Err(_) => text.parse::<f64>().map(|number| number as i64).map_err(|_| json.error("not a number")),
    }
}

/// Epoch seconds with a fraction, as milliseconds.
fn timestamp_millis(json: &mut Cursor<'_>) -> Result<i64, EventError> {
    let seconds: f64 = json.number()?.parse().map_err(|_| json.error("not a number"))?;
    // A cast saturates; the lowest value means "none".
    Ok(((seconds * 1000.0).round() as i64).max(NO_ARRIVAL + 1))
}

fn child(json: &mut Cursor<'_>) -> Result<ChildShard, EventError> {
    let mut id = None;
    let mut parents = Vec::new();
    json.object(|json, name| {
        if name.is("ShardId") {
            id = match json.optional_string()? {
                Some(raw) => Some(ShardId::from(&*raw.text()?)),
                None => None,
            };
            Ok(())
        } else if name.is("ParentShards") {
            parents.clear();
            json.array(|json| {
                parents.push(ShardId::from(&*json.string()?.text()?));
                Ok(())
            })
        } else {
            json.skip()
        }
    })?;
    Ok(ChildShard { id: id.ok_or_else(|| json.error("a child shard without an id"))?, parents })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const EVENT: &str = r#" { "MillisBehindLatest" : 1e3, "Unknown": [{"a": [1, "]", null, true]}, -2.5e-3],
        "Records": [
          {"SequenceNumber": "495", "Data": "aGVsbG8=", "PartitionKey": "k\u00fc\ud83d\ude00\"",
           "ApproximateArrivalTimestamp": 1700000000.123, "EncryptionType": "NONE"},
          {"Data": "YWI\/\u0059Q==", "SequenceNumber": "496", "PartitionKey": null, "ApproximateArrivalTimestamp": 1.7E9},
          {"SequenceNumber": "497"}
        ],
        "ContinuationSequenceNumber": "499",
        "ChildShards": [{"HashKeyRange": {"StartingHashKey": "0", "EndingHashKey": "1"},
                         "ParentShards": ["shardId-000000000000"], "ShardId": "shardId-000000000001"}] } "#;

    #[test]
    fn an_event_is_read_whatever_the_order_and_form_of_its_fields() {
        let event = Event::parse(EVENT.as_bytes()).unwrap();
        let rows = &event.rows;
        assert_eq!(rows.len(), 3);
        assert_eq!((&rows.data(0)[..], rows.sequence(0)), (&b"hello"[..], "495"));
        assert_eq!(rows.partition_key(0), Some("kü😀\""));
        assert_eq!(rows.arrival_millis(0), Some(1_700_000_000_123));
        assert_eq!(&rows.data(1)[..], b"ab?a");
        assert_eq!((rows.partition_key(1), rows.arrival_millis(1)), (None, Some(1_700_000_000_000)));
        assert_eq!((&rows.data(2)[..], rows.arrival_millis(2)), (&b""[..], None));
        assert_eq!(event.continuation.as_ref().map(SequenceNumber::as_str), Some("499"));
        assert_eq!(event.millis_behind, Some(1000));
        assert_eq!(event.children[0].parents, [ShardId::from("shardId-000000000000")]);
    }

    #[test]
    fn absent_null_and_empty_are_the_same() {
        for text in [
            "{}",
            "null",
            r#"{"ContinuationSequenceNumber":null,"ChildShards":null,"Records":null}"#,
            r#"{"ContinuationSequenceNumber":"","Records":[],"MillisBehindLatest":null}"#,
        ] {
            let event = Event::parse(text.as_bytes()).unwrap();
            assert_eq!((event.continuation, event.millis_behind, event.children.len()), (None, None, 0), "{text}");
            assert!(event.rows.is_empty());
        }
    }

    #[test]
    fn what_can_not_be_read_is_refused() {
        for text in [
            "",
            "[]",
            "{",
            r#"{"Records":[{}]}"#,
            r#"{"Records":[{"SequenceNumber":"1","Data":"*"}]}"#,
            r#"{"Records":[{"SequenceNumber":"1","Data":"aGVsbG8"}]}"#,
            r#"{"ContinuationSequenceNumber":"\u12"}"#,
            r#"{"ContinuationSequenceNumber":"\ud800"}"#,
            r#"{"x":tru}"#,
            "{} x",
            r#"{"x" 1}"#,
            r#"{"x":1 "y":2}"#,
        ] {
            assert!(Event::parse(text.as_bytes()).is_err(), "{text}");
        }
        let deep = format!("{{\"x\":{}", "[".repeat(100_000));
        assert!(Event::parse(deep.as_bytes()).is_err());
    }

    #[test]
    fn every_shortened_event_is_refused_without_a_panic() {
        let text = EVENT.trim_end().as_bytes();
        for len in 0..text.len() {
            assert!(Event::parse(&text[..len]).is_err(), "{len} bytes");
        }
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_panic(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            let _ = Event::parse(&bytes);
        }

        #[test]
        fn no_change_of_a_good_event_makes_it_panic(at in 0..EVENT.len(), byte in any::<u8>()) {
            let mut bytes = EVENT.as_bytes().to_vec();
            bytes[at] = byte;
            let _ = Event::parse(&bytes);
        }

        #[test]
        fn records_come_out_as_they_went_in(records in proptest::collection::vec((any::<Vec<u8>>(), ".*", 0..4_000_000_000_000_i64), 0..20)) {
            let rows: Vec<_> = records.iter().enumerate().map(|(at, (data, key, millis))| serde_json::json!({
                "Data": BASE64.encode_to_string(data), "PartitionKey": key, "SequenceNumber": (1000 + at).to_string(),
                "ApproximateArrivalTimestamp": *millis as f64 / 1000.0,
            })).collect();
            let text = serde_json::json!({"Records": rows, "MillisBehindLatest": 7}).to_string();
            let event = Event::parse(text.as_bytes()).unwrap();
            prop_assert_eq!(event.rows.len(), records.len());
            for (at, (data, key, millis)) in records.iter().enumerate() {
                prop_assert_eq!(&event.rows.data(at)[..], &data[..]);
                prop_assert_eq!(event.rows.partition_key(at), Some(&key[..]));
                prop_assert_eq!(event.rows.arrival_millis(at), Some(*millis));
            }
            prop_assert!(event.rows.kept_bytes() as u64 <= bytes_needed(text.len()));
        }
    }
}
