//! What is in a shard, and where did it come from?

use std::collections::VecDeque;
use std::ops::RangeInclusive;
use std::sync::Arc;

use bytes::Bytes;

use super::limits::Bucket;
use super::number::Number;
use crate::time::Time;

/// A record that was put.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    /// The sequence number of the record.
    pub number: Number,
    /// When the record arrived.
    pub arrived: Time,
    /// The partition key. Where records are distributed automatically, a record may have none.
    pub key: Option<String>,
    /// The payload.
    pub data: Bytes,
}

/// A shard.
#[derive(Debug)]
pub(super) struct Shard {
    pub(super) id: u32,
    /// The parents: none, one after a split, two after a merge.
    pub(super) parents: Vec<u32>,
    pub(super) hashes: RangeInclusive<u128>,
    pub(super) start: Number,
    /// The end, once the shard is closed.
    pub(super) end: Option<Number>,
    pub(super) records: VecDeque<Arc<Record>>,
    /// The limits of writers, in records and bytes.
    pub(super) writes: (Bucket, Bucket),
    /// The limits of readers without enhanced fan-out, in calls and bytes.
    pub(super) reads: (Bucket, Bucket),
}

/// A position to read from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Position {
    /// The oldest record.
    Oldest,
    /// This record.
    At(Number),
    /// The record after this one.
    After(Number),
    /// The first record that arrived at this time or later.
    Since(Time),
}

impl Shard {
    pub(super) fn new(id: u32, parents: Vec<u32>, hashes: RangeInclusive<u128>, start: Number) -> Self {
        Self {
            id,
            parents,
            hashes,
            start,
            end: None,
            records: VecDeque::new(),
            writes: (Bucket::new(1000.0), Bucket::new(1024.0 * 1024.0)),
            reads: (Bucket::new(5.0), Bucket::new(2.0 * 1024.0 * 1024.0)),
        }
    }

    pub(super) fn is_open(&self) -> bool {
        self.end.is_none()
    }

    /// Removes the records that are older.
    pub(super) fn trim(&mut self, oldest: Time) {
        while self.records.front().is_some_and(|record| record.arrived < oldest) {
            self.records.pop_front();
        }
    }

    /// Whether the shard is closed and all its records are removed.
    pub(super) fn is_past(&self, oldest: Time) -> bool {
        self.end.is_some_and(|end| end.time() < oldest)
    }

    /// The index of the first record from a position on.
    pub(super) fn index(&self, position: Position) -> usize {
        match position {
            Position::Oldest => 0,
            Position::At(number) => self.records.partition_point(|record| record.number < number),
            Position::After(number) => self.records.partition_point(|record| record.number <= number),
            Position::Since(time) => self.records.partition_point(|record| record.arrived < time),
        }
    }

    /// The age of the record at an index in milliseconds; 0 if there is none.
    pub(super) fn behind(&self, index: usize, now: Time) -> u64 {
        self.records.get(index).map_or(0, |record| now.since(record.arrived).as_millis() as u64)
    }
}
