//! Does a record hold several user records that a producer packed into one, and where are they?
//!
//! The Kinesis Producer Library (KPL) and the aggregation libraries pack user records into one Kinesis record:
//!
//! ```text
//! F3 89 9A C2 | protobuf AggregatedRecord | MD5 of the protobuf, 16 bytes
//!
//! AggregatedRecord   1 repeated string partition_key_table   2 repeated string explicit_hash_key_table   3 repeated Record
//! Record             1 required uint64 partition_key_index   2 optional uint64 explicit_hash_key_index
//!                    3 required bytes data                   4 repeated Tag
//! ```
//!
//! Source: `aggregation-format.md` of amazon-kinesis-producer. This module is pure, and copies no data: it notes the
//! offsets of the fields. The reader is written by hand because a protobuf library would copy every key and payload,
//! and because keys that are not UTF-8 must not lose an aggregate. Its memory is at most half of the record's size.

use std::borrow::Cow;
use std::ops::Range;

use md5::{Digest, Md5};

use crate::model::{HashRange, hash_key};

/// The magic bytes of an aggregate.
const MAGIC: [u8; 4] = [0xF3, 0x89, 0x9A, 0xC2];
/// The length of the MD5 sum at the end of an aggregate.
const SUM_LEN: usize = 16;
/// One offset is kept for this many consecutive fields, where one for each would take too much memory.
const SPARSE: u32 = 16;
/// The deepest nesting of unknown groups.
const MAX_DEPTH: u32 = 32;

const KEYS: u64 = 1;
const HASH_KEYS: u64 = 2;
const RECORDS: u64 = 3;

/// What the data of a record is.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// Not an aggregate.
    Plain,
    /// An aggregate that contradicts itself, with the reason. It is delivered whole, so that nothing is lost.
    Malformed(&'static str),
    /// An aggregate.
    Aggregate(Aggregate),
}

/// The fields of an aggregate, as offsets into the data of its record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Aggregate {
    keys: Fields,
    hash_keys: Fields,
    records: Fields,
    /// The keys that are not UTF-8, with U+FFFD for what can't be read.
    replaced: Box<[(u32, Box<str>)]>,
    /// Which keys and explicit hash keys lie outside the shard's range; empty if none does.
    outside: Outside,
}

/// Flags by the index in the key table and in the table of explicit hash keys.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
struct Outside {
    keys: Box<[u64]>,
    hash_keys: Box<[u64]>,
}

/// The fields of one number.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
struct Fields {
    count: u32,
    /// One offset is kept for this many fields, which follow each other without others in between.
    stride: u32,
    offsets: Box<[u32]>,
}

/// One user record of an aggregate.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct UserRecord {
    /// Where the data is in the data of the aggregate.
    pub(crate) start: u32,
    pub(crate) len: u32,
    key: u32,
    hash_key: Option<u32>,
}

/// Returns whether the data has the form of an aggregate.
fn looks_aggregated(data: &[u8]) -> bool {
    data.starts_with(&MAGIC) && data.len() > MAGIC.len() + SUM_LEN
}

/// Reads an aggregate. User records outside `range` are noted; without a range none is.
pub(crate) fn read(data: &[u8], range: Option<HashRange>) -> Kind {
    let end = data.len().saturating_sub(SUM_LEN);
    if !looks_aggregated(data) || Md5::digest(&data[MAGIC.len()..end])[..] != data[end..] {
        return Kind::Plain;
    }
    let body = MAGIC.len()..end;
    let Some(survey) = Survey::of(data, body.clone()) else { return Kind::Plain };
    match survey.index(data, body) {
        Ok(mut aggregate) => match range.filter(|range| !range.is_whole()) {
            Some(range) => {
                aggregate.outside = aggregate.find_outside(data, range);
                Kind::Aggregate(aggregate)
            }
            None => Kind::Aggregate(aggregate),
        },
        Err(what) => Kind::Malformed(what),
    }
}

/// What the first pass over an aggregate finds.
#[derive(Debug, Default)]
struct Survey {
    /// The numbers of keys, explicit hash keys and user records.
    counts: [u32; 3],
    /// Whether the fields of each number follow each other without others in between.
    scattered: [bool; 3],
    /// The highest index into each table that a user record has.
    highest: [Option<u64>; 2],
}

impl Survey {
    /// Reads the whole body; `None` if it is not the protobuf of an aggregate.
    fn of(data: &[u8], body: Range<usize>) -> Option<Self> {
        let mut survey = Self::default();
        let mut last = 0;
        let mut cursor = Cursor { data, at: body.start, end: body.end };
        while let Some((number, value)) = cursor.field().ok()? {
            let (at @ KEYS..=RECORDS, Field::Bytes(content)) = (number, value) else {
                last = 0;
                continue;
            };
            let kind = at as usize - 1;
            survey.scattered[kind] |= survey.counts[kind] > 0 && last != at;
            survey.counts[kind] = survey.counts[kind].checked_add(1)?;
            last = at;
            if at == RECORDS {
                let (key, hash_key, _) = record(data, content)?;
                survey.highest[0] = survey.highest[0].max(Some(key));
                survey.highest[1] = survey.highest[1].max(hash_key);
            }
        }
        Some(survey)
    }

    /// Notes where the fields are.
    fn index(&self, data: &[u8], body: Range<usize>) -> Result<Aggregate, &'static str> {
        for (highest, count) in self.highest.iter().zip(self.counts) {
            if highest.is_some_and(|highest| highest >= u64::from(count)) {
                return Err("an index lies outside its table");
            }
        }
        let allowed = data.len() / 2;
        let mut strides = [1; 3];
        let len = |strides: &[u32; 3]| {
            let entries = self.counts.iter().zip(strides).map(|(count, stride)| count.div_ceil(*stride) as usize);
            entries.sum::<usize>() * size_of::<u32>()
        };
        if len(&strides) > allowed {
            strides = self.scattered.map(|scattered| if scattered { 1 } else { SPARSE });
        }
        if len(&strides) > allowed {
            return Err("its tables are scattered over more fields than data");
        }
        let mut offsets: [Vec<u32>; 3] =
            [0, 1, 2].map(|kind: usize| Vec::with_capacity(self.counts[kind].div_ceil(strides[kind]) as usize));
        let mut seen = [0_u32; 3];
        let mut replaced = Vec::new();
        let mut replaced_len = 0;
        let mut cursor = Cursor { data, at: body.start, end: body.end };
        loop {
            let tag_at = cursor.at;
            let Ok(Some((number, value))) = cursor.field() else { break };
            let (at @ KEYS..=RECORDS, Field::Bytes(content)) = (number, value) else { continue };
            let kind = at as usize - 1;
            if seen[kind].is_multiple_of(strides[kind]) {
                offsets[kind].push(u32::try_from(tag_at).map_err(|_| "it is beyond all limits")?);
            }
            match at {
                HASH_KEYS if hash_key(&data[content.clone()]).is_none() => {
                    return Err("an explicit hash key is not a number below 2^128");
                }
                KEYS => {
                    if let Cow::Owned(text) = String::from_utf8_lossy(&data[content]) {
                        replaced_len += text.len() + size_of::<(u32, Box<str>)>();
                        if replaced_len > data.len() / 4 + 64 {
                            return Err("too many of its keys are not UTF-8");
                        }
                        replaced.push((seen[kind], text.into_boxed_str()));
                    }
                }
                _ => {}
            }
            seen[kind] += 1;
        }
        let [keys, hash_keys, records] = [0, 1, 2].map(|kind: usize| Fields {
            count: self.counts[kind],
            stride: strides[kind],
            offsets: std::mem::take(&mut offsets[kind]).into_boxed_slice(),
        });
        Ok(Aggregate { keys, hash_keys, records, replaced: replaced.into_boxed_slice(), outside: Outside::default() })
    }
}

impl Aggregate {
    /// The number of user records.
    pub(crate) fn len(&self) -> u32 {
        self.records.count
    }

    /// The bytes of memory that the aggregate takes beside the data of its record.
    pub(crate) fn kept_bytes(&self) -> usize {
        let fields = [&self.keys, &self.hash_keys, &self.records].map(|fields| size_of_val(&*fields.offsets));
        let replaced: usize = self.replaced.iter().map(|(_, text)| text.len()).sum();
        let outside = size_of_val(&*self.outside.keys) + size_of_val(&*self.outside.hash_keys);
        fields.iter().sum::<usize>() + replaced + size_of_val(&*self.replaced) + outside
    }

    /// The user record of this index. `data` is the data of the aggregate's record.
    pub(crate) fn record(&self, data: &[u8], sub: u32) -> Option<UserRecord> {
        let (key, hash_key, data) = record(data, self.records.find(data, sub)?)?;
        let hash_key = hash_key.map(u32::try_from).transpose().ok()?;
        let (start, len) = (u32::try_from(data.start).ok()?, u32::try_from(data.len()).ok()?);
        Some(UserRecord { start, len, key: u32::try_from(key).ok()?, hash_key })
    }

    /// The partition key of a user record.
    pub(crate) fn partition_key<'a>(&'a self, data: &'a [u8], record: &UserRecord) -> Option<&'a str> {
        if let Ok(at) = self.replaced.binary_search_by_key(&record.key, |(key, _)| *key) {
            return Some(&self.replaced[at].1);
        }
        std::str::from_utf8(data.get(self.keys.find(data, record.key)?)?).ok()
    }

    /// The explicit hash key of a user record, if its producer gave one.
    pub(crate) fn explicit_hash_key<'a>(&self, data: &'a [u8], record: &UserRecord) -> Option<&'a str> {
        std::str::from_utf8(data.get(self.hash_keys.find(data, record.hash_key?)?)?).ok()
    }

    /// Whether the hash of a user record lies outside the shard's range. The explicit hash key decides, if there is one.
    pub(crate) fn is_outside(&self, record: &UserRecord) -> bool {
        match record.hash_key {
            Some(at) => is_set(&self.outside.hash_keys, at),
            None => is_set(&self.outside.keys, record.key),
        }
    }

    fn find_outside(&self, data: &[u8], range: HashRange) -> Outside {
        let flags = |fields: &Fields, hash: fn(&[u8]) -> Option<u128>| -> Box<[u64]> {
            let mut flags = Vec::new();
            for at in 0..fields.count {
                let content = fields.find(data, at).and_then(|content| data.get(content)).unwrap_or_default();
                if hash(content).is_some_and(|hash| !range.contains(hash)) {
                    if flags.is_empty() {
                        flags.resize(fields.count.div_ceil(u64::BITS) as usize, 0);
                    }
                    flags[(at / u64::BITS) as usize] |= 1 << (at % u64::BITS);
                }
            }
            flags.into_boxed_slice()
        };
        Outside {
            keys: flags(&self.keys, |key| Some(u128::from_be_bytes(Md5::digest(key).into()))),
            hash_keys: flags(&self.hash_keys, hash_key),
        }
    }
}

fn is_set(flags: &[u64], at: u32) -> bool {
    flags.get((at / u64::BITS) as usize).is_some_and(|word| word >> (at % u64::BITS) & 1 == 1)
}

impl Fields {
    /// The content of the field of this index.
    fn find(&self, data: &[u8], index: u32) -> Option<Range<usize>> {
        if index >= self.count {
            return None;
        }
        let at = *self.offsets.get((index / self.stride) as usize)? as usize;
        let mut cursor = Cursor { data, at, end: data.len().checked_sub(SUM_LEN)? };
        for _ in 0..index % self.stride {
            cursor.field().ok()??;
        }
        match cursor.field().ok()?? {
            (_, Field::Bytes(content)) => Some(content),
            _ => None,
        }
    }
}

/// Reads a user record: its index in the key table, that of its explicit hash key, and its data. Of a repeated field
/// the last one counts, as in every protobuf.
fn record(data: &[u8], content: Range<usize>) -> Option<(u64, Option<u64>, Range<usize>)> {
    let (mut key, mut hash_key, mut payload) = (None, None, None);
    let mut cursor = Cursor { data, at: content.start, end: content.end };
    while let Some((number, value)) = cursor.field().ok()? {
        match (number, value) {
            (1, Field::Number(index)) => key = Some(index),
            (2, Field::Number(index)) => hash_key = Some(index),
            (3, Field::Bytes(range)) => payload = Some(range),
            _ => {}
        }
    }
    Some((key?, hash_key, payload?))
}

/// The value of a protobuf field.
#[derive(Debug, PartialEq, Eq)]
enum Field {
    Number(u64),
    /// The range of the content.
    Bytes(Range<usize>),
    /// A value of a type that no field of an aggregate has.
    Other,
}

/// The error of bytes that are not protobuf.
#[derive(Debug)]
struct NotProtobuf;

/// Reads protobuf fields.
#[derive(Debug)]
struct Cursor<'a> {
    data: &'a [u8],
    at: usize,
    end: usize,
}

impl Cursor<'_> {
    /// Reads the next field; `None` at the end.
    fn field(&mut self) -> Result<Option<(u64, Field)>, NotProtobuf> {
        if self.at >= self.end {
            return Ok(None);
        }
        let (number, wire) = self.tag().ok_or(NotProtobuf)?;
        let value = self.value(number, wire, 0).ok_or(NotProtobuf)?;
        Ok(Some((number, value)))
    }

    fn tag(&mut self) -> Option<(u64, u64)> {
        let tag = self.varint()?;
        let number = tag >> 3;
        (1..1 << 29).contains(&number).then_some((number, tag & 7))
    }

    fn value(&mut self, number: u64, wire: u64, depth: u32) -> Option<Field> {
        match wire {
            0 => self.varint().map(Field::Number),
            1 => self.skip(8),
            2 => {
                let len = usize::try_from(self.varint()?).ok()?;
                let start = self.at;
                self.skip(len)?;
                Some(Field::Bytes(start..self.at))
            }
            3 if depth < MAX_DEPTH => loop {
                let (inner, wire) = self.tag()?;
                if wire == 4 {
                    break (inner == number).then_some(Field::Other);
                }
                self.value(inner, wire, depth + 1)?;
            },
            5 => self.skip(4),
            _ => None,
        }
    }

    fn skip(&mut self, len: usize) -> Option<Field> {
        self.at = self.at.checked_add(len).filter(|at| *at <= self.end)?;
        Some(Field::Other)
    }

    fn varint(&mut self) -> Option<u64> {
        let mut value = 0;
        for shift in (0..70).step_by(7) {
            let byte = *self.data.get(self.at).filter(|_| self.at < self.end)?;
            self.at += 1;
            // What exceeds 64 bits is dropped, as every protobuf reader does.
            value |= u64::from(byte & 0x7F) << shift;
            if byte < 0x80 {
                return Some(value);
            }
        }
        None
    }
}
