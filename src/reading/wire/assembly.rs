//! What has an event brought so far?
//!
//! This is the same for every encoding: the readers of JSON and of CBOR find the fields, and put them here.

use crate::model::{ChildShard, SequenceNumber, ShardId};
use crate::records::{Filling, Rows};

/// The most shards, children and parents, that an event may name. A shard ends with one or two children; the memory
/// that is kept for them isn't counted by the pool.
const MAX_SHARDS: usize = 1000;

/// A `SubscribeToShardEvent`, or an answer of `GetRecords`.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Event {
    /// The records, oldest first.
    pub rows: Rows,
    /// The position to continue at after this event. `None` when it is absent, null or empty, and in answers of
    /// `GetRecords`.
    pub continuation: Option<SequenceNumber>,
    /// The iterator to continue with after this answer. `None` when it is absent, null or empty, and in events of
    /// subscriptions.
    pub next_iterator: Option<String>,
    /// How far the reader is behind the tip of the shard.
    pub millis_behind: Option<i64>,
    /// The children of this shard, when it ends.
    pub children: Vec<ChildShard>,
}

/// The reason why an event can't be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("malformed event: {what} at byte {at}")]
pub struct EventError {
    /// The offset in the payload.
    pub at: usize,
    /// The error at that offset.
    pub what: &'static str,
}

/// An event in the making.
#[derive(Debug, Default)]
pub(super) struct Assembly {
    pub(super) filling: Filling,
    pub(super) record: Fields,
    pub(super) event: Event,
    pub(super) child: Option<ShardId>,
    pub(super) parents: Vec<ShardId>,
    /// The number of shards that were named so far.
    shards: usize,
}

/// The fields of a record that were read, except its data.
#[derive(Debug, Default)]
pub(super) struct Fields {
    pub(super) sequence: Vec<u8>,
    pub(super) key: Option<Vec<u8>>,
    pub(super) arrival_millis: Option<i64>,
}

impl Assembly {
    /// Discards everything.
    pub(super) fn clear(&mut self) {
        self.filling.clear();
        self.event = Event::default();
        self.shards = 0;
    }

    pub(super) fn begin_record(&mut self) -> Result<(), &'static str> {
        self.filling.begin()?;
        self.record.sequence.clear();
        self.record.key = None;
        self.record.arrival_millis = None;
        Ok(())
    }

    pub(super) fn end_record(&mut self) -> Result<(), &'static str> {
        let Fields { sequence, key, arrival_millis } = &self.record;
        if sequence.is_empty() {
            return Err("a record without a sequence number");
        }
        self.filling.end(sequence, key.as_deref(), *arrival_millis)
    }

    pub(super) fn begin_child(&mut self) -> Result<(), &'static str> {
        self.child = None;
        self.parents.clear();
        self.name_shard()
    }

    pub(super) fn add_parent(&mut self, parent: ShardId) -> Result<(), &'static str> {
        self.parents.push(parent);
        self.name_shard()
    }

    pub(super) fn end_child(&mut self) -> Result<(), &'static str> {
        let id = self.child.take().ok_or("a child shard without an id")?;
        self.event.children.push(ChildShard { id, parents: std::mem::take(&mut self.parents) });
        Ok(())
    }

    fn name_shard(&mut self) -> Result<(), &'static str> {
        self.shards += 1;
        if self.shards > MAX_SHARDS { Err("more child shards than a shard can have") } else { Ok(()) }
    }

    /// Returns the event.
    pub(super) fn finish(&mut self) -> Result<Event, &'static str> {
        let rows = self.filling.finish()?;
        Ok(Event { rows, ..std::mem::take(&mut self.event) })
    }
}
