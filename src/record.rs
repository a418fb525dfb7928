//! What is known about a record, beside its data?

use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use pipeline_plugin_api::{Message, MetadataTable, Value};

use crate::ack::Sequences;
use crate::efo::wire::Rows;
use crate::names::{SequenceNumber, ShardId, Stream};

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
/// Metadata: when the record arrived at the stream, approximately.
pub(crate) const ARRIVAL_TIMESTAMP: &str = "kinesis_arrival_timestamp";

/// A shard of a stream: what its records have in common.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct ShardNames {
    /// The stream.
    pub stream: Stream,
    /// The shard.
    pub shard: ShardId,
}

/// The records of one event and the shard they came from. Messages point into it.
#[derive(Debug)]
pub(crate) struct RecordTable {
    names: Arc<ShardNames>,
    rows: Rows,
}

impl RecordTable {
    pub(crate) fn new(names: Arc<ShardNames>, rows: Rows) -> Self {
        Self { names, rows }
    }

    pub(crate) fn rows(&self) -> &Rows {
        &self.rows
    }

    /// The message of one record.
    pub(crate) fn message(self: &Arc<Self>, row: usize) -> Message {
        // An event has far fewer records than a `u32` counts: its bytes are counted by one.
        Message::with_row(self.rows.data(row), Arc::clone(self) as Arc<dyn MetadataTable>, row as u32)
    }

    fn arrival(&self, row: usize) -> Option<SystemTime> {
        let millis = self.rows.arrival_millis(row)?;
        let from_epoch = Duration::from_millis(millis.unsigned_abs());
        if millis < 0 { UNIX_EPOCH.checked_sub(from_epoch) } else { UNIX_EPOCH.checked_add(from_epoch) }
    }
}

impl Sequences for Arc<RecordTable> {
    fn sequence(&self, index: usize) -> SequenceNumber {
        SequenceNumber::read(self.rows.sequence(index))
    }
}

impl MetadataTable for RecordTable {
    fn get(&self, row: u32, key: &str) -> Option<Value<'_>> {
        let at = row as usize;
        match key {
            STREAM => Some(Value::Text(self.names.stream.name())),
            STREAM_ARN => Some(Value::Text(self.names.stream.arn())),
            SHARD => Some(Value::Text(self.names.shard.as_str())),
            PARTITION_KEY => self.rows.partition_key(at).map(Value::Text),
            SEQUENCE_NUMBER => Some(Value::Text(self.rows.sequence(at))),
            ARRIVAL_TIMESTAMP => self.arrival(at).map(Value::Time),
            _ => None,
        }
    }

    fn for_each<'a>(&'a self, row: u32, each: &mut dyn FnMut(&'a str, Value<'a>)) {
        for key in [STREAM, STREAM_ARN, SHARD, PARTITION_KEY, SEQUENCE_NUMBER, ARRIVAL_TIMESTAMP] {
            if let Some(value) = self.get(row, key) {
                each(key, value);
            }
        }
    }
}

/// The typed way to the metadata of a message that came from Kinesis.
///
/// ```
/// # let message = pipeline_plugin_api::Message::new("not from Kinesis");
/// if let Some(record) = kinesis_input::KinesisRecord::of(&message) {
///     println!("{} {}", record.shard(), record.sequence_number());
/// }
/// ```
#[derive(Debug, Clone, Copy)]
pub struct KinesisRecord<'a> {
    table: &'a RecordTable,
    row: usize,
}

impl<'a> KinesisRecord<'a> {
    /// The record behind a message, if it came from this input.
    pub fn of(message: &'a Message) -> Option<Self> {
        message.table().map(|(table, row)| Self { table, row: row as usize })
    }

    /// The stream it was read from.
    pub fn stream(&self) -> &'a Stream {
        &self.table.names.stream
    }

    /// The shard it was read from.
    pub fn shard(&self) -> &'a ShardId {
        &self.table.names.shard
    }

    /// Its sequence number.
    pub fn sequence_number(&self) -> SequenceNumber {
        SequenceNumber::read(self.table.rows.sequence(self.row))
    }

    /// Its partition key, if the producer gave one.
    pub fn partition_key(&self) -> Option<&'a str> {
        self.table.rows.partition_key(self.row)
    }

    /// When it arrived at the stream, approximately.
    pub fn arrival(&self) -> Option<SystemTime> {
        self.table.arrival(self.row)
    }
}
