//! What does an event contain, whichever reader read it?

use kinesis_input::internals::wire::Event;
use kinesis_input::{SequenceNumber, ShardId};

/// An event in plain types, for comparison.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Said {
    pub records: Vec<Record>,
    /// `None` when absent, null or empty.
    pub continuation: Option<String>,
    pub millis_behind: Option<i64>,
    pub children: Vec<Child>,
}

#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Record {
    pub sequence: String,
    pub data: Vec<u8>,
    pub key: Option<String>,
    pub arrival_millis: Option<i64>,
}

#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Child {
    pub id: String,
    pub parents: Vec<String>,
}

impl From<&Event> for Said {
    fn from(event: &Event) -> Self {
        let record = |record: kinesis_input::internals::Record<'_>| {
            assert_eq!(record.data(), record.data_ref());
            Record {
                sequence: record.sequence().to_owned(),
                data: record.data_ref().to_vec(),
                key: record.partition_key().map(str::to_owned),
                arrival_millis: record.arrival_millis(),
            }
        };
        assert_eq!(event.rows.len(), event.rows.iter().count());
        let text = |id: &ShardId| id.as_str().to_owned();
        Self {
            records: event.rows.iter().map(record).collect(),
            continuation: event.continuation.as_ref().map(SequenceNumber::as_str).map(str::to_owned),
            millis_behind: event.millis_behind,
            children: event
                .children
                .iter()
                .map(|child| Child { id: text(&child.id), parents: child.parents.iter().map(text).collect() })
                .collect(),
        }
    }
}
