//! Which metadata belongs to a record?

use std::ops::Range;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use pipeline_plugin_api::{Message, MetadataTable, Value};

use super::page::{Page, Record, Rows};
use crate::model::{SequenceNumber, ShardId, ShardNames, Stream};

/// Metadata: the stream's name.
pub(crate) const STREAM: &str = "kinesis_stream";
/// Metadata: the stream's ARN.
pub(crate) const STREAM_ARN: &str = "kinesis_stream_arn";
/// Metadata: the shard's id.
pub(crate) const SHARD: &str = "kinesis_shard";
/// Metadata: the record's partition key. Absent where the producer gave none.
pub(crate) const PARTITION_KEY: &str = "kinesis_partition_key";
/// Metadata: the record's sequence number.
pub(crate) const SEQUENCE_NUMBER: &str = "kinesis_sequence_number";
/// Metadata: the index of a user record in the aggregate that it was packed into.
pub(crate) const SUB_SEQUENCE_NUMBER: &str = "kinesis_sub_sequence_number";
/// Metadata: the explicit hash key that the producer gave a user record of an aggregate.
pub(crate) const EXPLICIT_HASH_KEY: &str = "kinesis_explicit_hash_key";
/// Metadata: how often the record was delivered, this time included, since this worker has read it.
pub(crate) const DELIVERY_ATTEMPT: &str = "kinesis_delivery_attempt";
/// Metadata: when the record arrived at the stream, approximately.
pub(crate) const ARRIVAL_TIMESTAMP: &str = "kinesis_arrival_timestamp";

/// The records of one event.
#[derive(Debug)]
pub(crate) struct RecordTable {
    pages: Vec<Arc<RecordPage>>,
    /// The number of records in each page and all pages before it.
    ends: Vec<usize>,
}

/// Some records of an event and the shard that they came from. Messages point into it, and keep no more than this
/// alive.
#[derive(Debug)]
pub(crate) struct RecordPage {
    names: Arc<ShardNames>,
    page: Page,
}

/// The records of a page when they are delivered again.
#[derive(Debug)]
struct RedeliveredPage {
    page: Arc<RecordPage>,
    attempt: u32,
}

const KEYS: [&str; 9] = [
    STREAM,
    STREAM_ARN,
    SHARD,
    PARTITION_KEY,
    SEQUENCE_NUMBER,
    ARRIVAL_TIMESTAMP,
    SUB_SEQUENCE_NUMBER,
    EXPLICIT_HASH_KEY,
    DELIVERY_ATTEMPT,
];

impl RecordTable {
    pub(crate) fn new(names: &Arc<ShardNames>, rows: Rows) -> Self {
        let pages = rows.into_pages().into_iter();
        let pages: Vec<_> = pages.map(|page| Arc::new(RecordPage { names: Arc::clone(names), page })).collect();
        let mut end = 0;
        let ends = pages.iter().map(|page| {
            end += page.page.len();
            end
        });
        Self { ends: ends.collect(), pages }
    }

    /// The number of records.
    pub(crate) fn len(&self) -> usize {
        self.ends.last().copied().unwrap_or(0)
    }

    /// Returns the size of the payload of each of some records.
    pub(crate) fn payload_sizes(&self, rows: Range<usize>) -> impl ExactSizeIterator<Item = usize> {
        rows.map(|row| self.record(row).map_or(0, |record| record.data_ref().len()))
    }

    /// Adds the messages of some records, which are delivered for the `attempt`th time.
    pub(crate) fn add_messages(&self, rows: Range<usize>, attempt: u32, messages: &mut Vec<Message>) {
        let mut start = 0;
        for (page, end) in self.pages.iter().zip(&self.ends) {
            let here = rows.start.max(start)..rows.end.min(*end);
            let table = if attempt > 1 && !here.is_empty() {
                Arc::new(RedeliveredPage { page: Arc::clone(page), attempt }) as Arc<dyn MetadataTable>
            } else {
                Arc::clone(page) as Arc<dyn MetadataTable>
            };
            for row in here {
                let at = row - start;
                if let Some(record) = page.page.record(at) {
                    // A page has far fewer records than a `u32` can count, because its bytes are counted by a `u32`
                    // too.
                    messages.push(Message::with_row(record.data(), Arc::clone(&table), at as u32));
                }
            }
            start = *end;
        }
    }

    /// The approximate arrival time of a record at the stream, in milliseconds since 1970.
    pub(crate) fn arrival_millis(&self, row: usize) -> Option<i64> {
        self.record(row)?.arrival_millis()
    }

    /// The record of this index.
    pub(crate) fn record(&self, row: usize) -> Option<Record<'_>> {
        let at = self.ends.partition_point(|end| *end <= row);
        let start = at.checked_sub(1).map_or(0, |before| self.ends[before]);
        self.pages.get(at)?.page.record(row - start)
    }
}

fn arrival(record: Record<'_>) -> Option<SystemTime> {
    let millis = record.arrival_millis()?;
    let from_epoch = Duration::from_millis(millis.unsigned_abs());
    if millis < 0 { UNIX_EPOCH.checked_sub(from_epoch) } else { UNIX_EPOCH.checked_add(from_epoch) }
}

impl MetadataTable for RecordPage {
    fn get(&self, row: u32, key: &str) -> Option<Value<'_>> {
        let record = self.page.record(row as usize)?;
        match key {
            STREAM => Some(Value::Text(self.names.stream.name())),
            STREAM_ARN => Some(Value::Text(self.names.stream.arn())),
            SHARD => Some(Value::Text(self.names.shard.as_str())),
            PARTITION_KEY => record.partition_key().map(Value::Text),
            SEQUENCE_NUMBER => Some(Value::Text(record.sequence())),
            ARRIVAL_TIMESTAMP => arrival(record).map(Value::Time),
            SUB_SEQUENCE_NUMBER => record.sub_sequence_number().map(|sub| Value::Integer(sub.into())),
            EXPLICIT_HASH_KEY => record.explicit_hash_key().map(Value::Text),
            DELIVERY_ATTEMPT => Some(Value::Integer(1)),
            _ => None,
        }
    }

    fn ordering_key(&self, _row: u32) -> Option<&str> {
        Some(self.names.shard.as_str())
    }

    fn for_each<'a>(&'a self, row: u32, each: &mut dyn FnMut(&'a str, Value<'a>)) {
        for key in KEYS {
            if let Some(value) = self.get(row, key) {
                each(key, value);
            }
        }
    }
}

impl MetadataTable for RedeliveredPage {
    fn get(&self, row: u32, key: &str) -> Option<Value<'_>> {
        match key {
            DELIVERY_ATTEMPT => Some(Value::Integer(self.attempt.into())),
            _ => self.page.get(row, key),
        }
    }

    fn ordering_key(&self, row: u32) -> Option<&str> {
        self.page.ordering_key(row)
    }

    fn for_each<'a>(&'a self, row: u32, each: &mut dyn FnMut(&'a str, Value<'a>)) {
        for key in KEYS {
            if let Some(value) = self.get(row, key) {
                each(key, value);
            }
        }
    }
}

/// Typed access to the metadata of a message that came from Kinesis.
///
/// ```
/// # let message = pipeline_plugin_api::Message::new("not from Kinesis");
/// if let Some(record) = kinesis_input::KinesisRecord::of(&message) {
///     println!("{} {}", record.shard(), record.sequence_number());
/// }
/// ```
#[derive(Debug, Clone, Copy)]
pub struct KinesisRecord<'a> {
    names: &'a ShardNames,
    record: Record<'a>,
    attempt: u32,
}

impl<'a> KinesisRecord<'a> {
    /// Returns the record behind a message, if the message came from this input.
    pub fn of(message: &'a Message) -> Option<Self> {
        let (page, row, attempt) = match message.table::<RecordPage>() {
            Some((page, row)) => (page, row, 1),
            None => message.table::<RedeliveredPage>().map(|(again, row)| (&*again.page, row, again.attempt))?,
        };
        Some(Self { names: &page.names, record: page.page.record(row as usize)?, attempt })
    }

    /// The stream that the record was read from.
    pub fn stream(&self) -> &'a Stream {
        &self.names.stream
    }

    /// The shard that the record was read from.
    pub fn shard(&self) -> &'a ShardId {
        &self.names.shard
    }

    /// The sequence number of the record.
    pub fn sequence_number(&self) -> SequenceNumber {
        SequenceNumber::read(self.record.sequence())
    }

    /// The partition key of the record, if the producer gave one.
    pub fn partition_key(&self) -> Option<&'a str> {
        self.record.partition_key()
    }

    /// The index of the record in the aggregate that a producer packed it into; `None` of a record of its own. The
    /// records of one aggregate have the same sequence number.
    pub fn sub_sequence_number(&self) -> Option<u32> {
        self.record.sub_sequence_number()
    }

    /// The explicit hash key that the producer gave a record of an aggregate.
    pub fn explicit_hash_key(&self) -> Option<&'a str> {
        self.record.explicit_hash_key()
    }

    /// How often the record was delivered, this time included, since this worker has read it.
    pub fn delivery_attempt(&self) -> u32 {
        self.attempt
    }

    /// The approximate arrival time of the record at the stream.
    pub fn arrival(&self) -> Option<SystemTime> {
        arrival(self.record)
    }
}
