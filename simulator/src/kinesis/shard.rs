//! What is in a shard, and where does it come from?

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
    /// Its place in the shard.
    pub number: Number,
    /// When it came.
    pub arrived: Time,
    /// The key that it was put under. Where records are distributed automatically, it may have none.
    pub key: Option<String>,
    /// What was put.
    pub data: Bytes,
}

/// A shard.
#[derive(Debug)]
pub(super) struct Shard {
    pub(super) id: u32,
    /// None, one after a split, two after a merge.
    pub(super) parents: Vec<u32>,
    pub(super) hashes: RangeInclusive<u128>,
    pub(super) start: Number,
    /// Set when it is closed.
    pub(super) end: Option<Number>,
    pub(super) records: VecDeque<Arc<Record>>,
    /// What writers may put.
    pub(super) writes: (Bucket, Bucket),
    /// What readers without enhanced fan-out may take, in calls and bytes.
    pub(super) reads: (Bucket, Bucket),
}

/// Where to read from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Place {
    /// Everything there is.
    Oldest,
    /// From this record on.
    At(Number),
    /// Behind this record.
    After(Number),
    /// What came at this time or later.
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

    /// Forgets what is older.
    pub(super) fn trim(&mut self, oldest: Time) {
        while self.records.front().is_some_and(|record| record.arrived < oldest) {
            self.records.pop_front();
        }
    }

    /// Closed, and everything in it forgotten.
    pub(super) fn is_past(&self, oldest: Time) -> bool {
        self.end.is_some_and(|end| end.time() < oldest)
    }

    /// The index of the first record from a place on.
    pub(super) fn index(&self, place: Place) -> usize {
        match place {
            Place::Oldest => 0,
            Place::At(number) => self.records.partition_point(|record| record.number < number),
            Place::After(number) => self.records.partition_point(|record| record.number <= number),
            Place::Since(time) => self.records.partition_point(|record| record.arrived < time),
        }
    }

    /// How many milliseconds ago the record at an index came; 0 if there is none.
    pub(super) fn behind(&self, index: usize, now: Time) -> u64 {
        self.records.get(index).map_or(0, |record| now.since(record.arrived).as_millis() as u64)
    }
}
