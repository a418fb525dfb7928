//! Where are the records of an event in memory?
//!
//! Records are kept in pages. A page holds the data of some records in one buffer that their messages share, their
//! sequence numbers and partition keys in one text, and a row for each. A record therefore needs no allocation of its
//! own, and a message that is kept for long keeps one page alive, not the whole event: at most 64 KiB of other
//! records' data and as much of their text, or only the record itself if it is larger than that.

use std::ops::Range;

use bytes::Bytes;

use super::kpl::{Aggregate, UserRecord};
use crate::model::SequenceNumber;

/// The most data of several records in one page, in bytes.
pub(crate) const PAGE: usize = 64 << 10;

/// The records of one event, oldest first.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Rows {
    pages: Vec<Page>,
    len: usize,
}

/// Some consecutive records of an event, which share their memory.
#[derive(Debug, Clone, Default)]
pub struct Page {
    data: Bytes,
    text: String,
    rows: Vec<Row>,
    /// The rows that are aggregates, in order. Their user records stand in their place.
    unpacked: Box<[Unpacked]>,
    /// The bytes of memory that the page holds.
    kept: usize,
}

/// A row that is an aggregate.
#[derive(Debug, Clone)]
pub(super) struct Unpacked {
    /// The index of the row.
    pub(super) row: u32,
    /// The index of its first user record in the page. The page sets it.
    pub(super) first: u32,
    pub(super) aggregate: Aggregate,
}

/// The position of one record in its page.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Row {
    data_start: u32,
    data_len: u32,
    text_start: u32,
    sequence_len: u16,
    /// The length of the partition key; `NO_KEY` when the record has none.
    key_len: u16,
    arrival_millis: i64,
}

const NO_KEY: u16 = u16::MAX;
const NO_ARRIVAL: i64 = i64::MIN;

/// One record of an event.
#[derive(Debug, Clone, Copy)]
pub struct Record<'a> {
    page: &'a Page,
    row: &'a Row,
    part: Option<Part<'a>>,
}

/// The part of an aggregate that is one user record.
#[derive(Debug, Clone, Copy)]
struct Part<'a> {
    aggregate: &'a Aggregate,
    user: UserRecord,
    sub: u32,
}

impl Rows {
    /// The number of records.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there are no records.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// All records, oldest first.
    pub fn iter(&self) -> impl Iterator<Item = Record<'_>> {
        self.pages.iter().flat_map(Page::iter)
    }

    /// The newest record.
    pub fn last(&self) -> Option<Record<'_>> {
        let last = |page: &'_ Page| page.len().checked_sub(1);
        self.pages.iter().rev().find_map(|page| page.record(last(page)?))
    }

    /// The bytes of their data. That of aggregates counts whole.
    pub fn data_bytes(&self) -> u64 {
        self.pages.iter().map(|page| page.data.len() as u64).sum()
    }

    /// The bytes of memory that the records hold.
    pub fn kept_bytes(&self) -> usize {
        self.pages.iter().map(Page::kept_bytes).sum::<usize>() + self.pages.capacity() * size_of::<Page>()
    }

    /// Puts the user records of aggregates into the place of the records that hold them.
    pub(super) fn unpack_each(&mut self, mut unpacked: impl FnMut(&Page) -> Vec<Unpacked>) {
        self.len = 0;
        for page in &mut self.pages {
            let aggregates = unpacked(page);
            if !aggregates.is_empty() {
                page.unpack(aggregates);
            }
            self.len += page.len();
        }
    }

    /// The pages. None of them is empty, unless its records are aggregates without user records.
    pub fn into_pages(self) -> Vec<Page> {
        self.pages
    }
}

impl Page {
    /// The number of records; at least one in the pages of an event as it was read. An aggregate counts as its user
    /// records, which may be none.
    pub fn len(&self) -> usize {
        match self.unpacked.last() {
            None => self.rows.len(),
            Some(last) => last.end() + self.rows.len() - (last.row as usize + 1),
        }
    }

    /// Whether there are no records.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// A record by its index in the page.
    pub fn record(&self, at: usize) -> Option<Record<'_>> {
        if self.unpacked.is_empty() {
            return self.whole(at);
        }
        let behind = self.unpacked.partition_point(|unpacked| unpacked.first as usize <= at);
        let Some(unpacked) = behind.checked_sub(1).map(|last| &self.unpacked[last]) else { return self.whole(at) };
        if let Some(rest) = at.checked_sub(unpacked.end()) {
            return self.whole(unpacked.row as usize + 1 + rest);
        }
        let sub = at as u32 - unpacked.first;
        let whole = self.whole(unpacked.row as usize)?;
        let user = unpacked.aggregate.record(whole.data_ref(), sub)?;
        Some(Record { part: Some(Part { aggregate: &unpacked.aggregate, user, sub }), ..whole })
    }

    /// A row as it was read, whether it is an aggregate or not.
    fn whole(&self, row: usize) -> Option<Record<'_>> {
        self.rows.get(row).map(|row| Record { page: self, row, part: None })
    }

    /// The records of the page, oldest first.
    pub fn iter(&self) -> impl Iterator<Item = Record<'_>> {
        (0..self.len()).filter_map(|at| self.record(at))
    }

    /// Puts the user records of aggregates, in the order of their rows, into the place of these rows.
    pub(super) fn unpack(&mut self, mut unpacked: Vec<Unpacked>) {
        let (mut first, mut row) = (0, 0);
        for part in &mut unpacked {
            first += part.row - row;
            part.first = first;
            (first, row) = (first + part.aggregate.len(), part.row + 1);
            self.kept += part.aggregate.kept_bytes();
        }
        self.unpacked = unpacked.into_boxed_slice();
        self.kept += size_of_val(&*self.unpacked);
    }

    /// The bytes of memory that the page holds.
    pub fn kept_bytes(&self) -> usize {
        self.kept
    }
}

/// Pages are equal when their records are equal, whatever memory they hold.
impl PartialEq for Page {
    fn eq(&self, other: &Self) -> bool {
        self.data == other.data && self.text == other.text && self.rows == other.rows
    }
}

impl Eq for Page {}

impl Unpacked {
    /// The index behind its last user record.
    fn end(&self) -> usize {
        (self.first + self.aggregate.len()) as usize
    }
}

impl<'a> Record<'a> {
    fn range(&self) -> Range<usize> {
        let start = self.row.data_start as usize;
        match &self.part {
            None => start..start + self.row.data_len as usize,
            Some(part) => {
                let start = start + part.user.start as usize;
                start..start + part.user.len as usize
            }
        }
    }

    /// The data of the record; it shares the page's buffer.
    pub fn data(&self) -> Bytes {
        self.page.data.slice(self.range())
    }

    /// The data of the record, borrowed.
    pub fn data_ref(&self) -> &'a [u8] {
        &self.page.data[self.range()]
    }

    /// The data of the Kinesis record, which may be an aggregate of several records.
    fn whole_data(&self) -> &'a [u8] {
        &self.page.data[self.row.data_start as usize..][..self.row.data_len as usize]
    }

    /// The index of the record in its aggregate, if it is a user record of one.
    pub fn sub_sequence_number(&self) -> Option<u32> {
        self.part.map(|part| part.sub)
    }

    /// Whether no record follows that has the same sequence number.
    pub(crate) fn is_last_of_its_number(&self) -> bool {
        self.part.is_none_or(|part| part.sub + 1 == part.aggregate.len())
    }

    /// The explicit hash key that the producer gave a user record of an aggregate.
    pub fn explicit_hash_key(&self) -> Option<&'a str> {
        let part = self.part?;
        part.aggregate.explicit_hash_key(self.whole_data(), &part.user)
    }

    /// Whether this is a user record that belongs to another shard, by its hash key.
    pub(crate) fn is_outside(&self) -> bool {
        self.part.is_some_and(|part| part.aggregate.is_outside(&part.user))
    }

    /// The sequence number of the record, as text.
    pub fn sequence(&self) -> &'a str {
        &self.page.text[text_range(self.row.text_start, self.row.sequence_len)]
    }

    /// The partition key of the record. Streams that distribute records automatically may have none.
    pub fn partition_key(&self) -> Option<&'a str> {
        if let Some(part) = self.part {
            return part.aggregate.partition_key(self.whole_data(), &part.user);
        }
        let start = self.row.text_start + u32::from(self.row.sequence_len);
        (self.row.key_len != NO_KEY).then(|| &self.page.text[text_range(start, self.row.key_len)])
    }

    /// The approximate arrival time of the record at the stream, in milliseconds since 1970.
    pub fn arrival_millis(&self) -> Option<i64> {
        (self.row.arrival_millis != NO_ARRIVAL).then_some(self.row.arrival_millis)
    }
}

fn text_range(start: u32, len: u16) -> Range<usize> {
    let start = start as usize;
    start..start + usize::from(len)
}

/// The bytes of memory that reading an event from a frame of this length may need at once.
///
/// The frame itself is not kept. Data takes three quarters of its base64; text takes as much as in the frame, and a
/// row takes little more than the JSON of the smallest record. Buffers have up to an eighth to spare when they are
/// kept; the page that is being filled may have a page's worth of data and as much of text to spare.
pub fn bytes_needed(frame_len: usize) -> u64 {
    let frame_len = frame_len as u64;
    frame_len + frame_len / 2 + 2 * frame_len.min(PAGE as u64) + 1024
}

/// Fills the pages of an event.
#[derive(Debug, Default)]
pub(crate) struct Filling {
    pages: Vec<Page>,
    len: usize,
    data: Vec<u8>,
    text: Vec<u8>,
    rows: Vec<Row>,
    /// The offset at which the data of the current record begins.
    start: usize,
    /// The most data that can still arrive, in bytes.
    left: usize,
    /// The sizes of text and rows of a full page, from the last full page.
    usual: (usize, usize),
}

impl Filling {
    /// Sets how many bytes of data can still come, which bounds the allocations.
    pub(crate) fn expect(&mut self, data: usize) {
        self.left = data;
    }

    /// Discards all records.
    pub(crate) fn clear(&mut self) {
        self.pages.clear();
        self.len = 0;
        self.data.clear();
        self.text.clear();
        self.rows.clear();
        self.start = 0;
    }

    /// Begins a record. The data of an unfinished record before it is discarded.
    pub(crate) fn begin(&mut self) -> Result<(), &'static str> {
        self.data.truncate(self.start);
        if self.start + self.text.len() + self.rows.len() * size_of::<Row>() >= PAGE {
            self.end_page()?;
        }
        Ok(())
    }

    /// The buffer for the record's data, with space for at least `more` bytes of it.
    pub(crate) fn data(&mut self, more: usize) -> Result<&mut Vec<u8>, &'static str> {
        if self.data.len() + more > PAGE && !self.rows.is_empty() {
            let moved = self.data.split_off(self.start);
            self.end_page()?;
            self.grow(moved.len() + more);
            self.data.extend_from_slice(&moved);
        } else if self.data.capacity() - self.data.len() < more {
            self.grow(more);
        }
        Ok(&mut self.data)
    }

    fn grow(&mut self, more: usize) {
        let have = self.data.capacity();
        // The buffer is one page at first; a large record then doubles it, but never beyond the data that the frame
        // can bring.
        let wanted = if have == 0 { self.left.min(PAGE) } else { (2 * have).min(self.data.len() + self.left) };
        self.data.reserve_exact(wanted.saturating_sub(self.data.len()).max(more));
    }

    /// Discards the data of the current record.
    pub(crate) fn forget_data(&mut self) {
        self.data.truncate(self.start);
    }

    /// Ends the record. `sequence` and `key` are text as it arrived; whether it is UTF-8 is checked when the page
    /// ends.
    pub(crate) fn end(
        &mut self,
        sequence: &[u8],
        key: Option<&[u8]>,
        arrival_millis: Option<i64>,
    ) -> Result<(), &'static str> {
        const TOO_LONG: &str = "an event beyond all limits";
        if self.rows.is_empty() {
            let (text, rows) = self.usual;
            // A record takes at least two dozen bytes in a frame.
            self.text.reserve_exact(text.min(self.left).max(sequence.len()));
            self.rows.reserve_exact(rows.min(self.left / 24).max(1));
        }
        if !SequenceNumber::is_valid(sequence) {
            return Err("not a sequence number");
        }
        let key_len = match key {
            None => NO_KEY,
            Some(key) => {
                u16::try_from(key.len()).ok().filter(|len| *len != NO_KEY).ok_or("a partition key beyond all limits")?
            }
        };
        self.rows.push(Row {
            data_start: u32::try_from(self.start).map_err(|_| TOO_LONG)?,
            data_len: u32::try_from(self.data.len() - self.start).map_err(|_| TOO_LONG)?,
            text_start: u32::try_from(self.text.len()).map_err(|_| TOO_LONG)?,
            sequence_len: u16::try_from(sequence.len()).map_err(|_| TOO_LONG)?,
            key_len,
            // The lowest value means "none".
            arrival_millis: arrival_millis.map_or(NO_ARRIVAL, |millis| millis.max(NO_ARRIVAL + 1)),
        });
        self.text.extend_from_slice(sequence);
        self.text.extend_from_slice(key.unwrap_or_default());
        self.start = self.data.len();
        Ok(())
    }

    fn end_page(&mut self) -> Result<(), &'static str> {
        self.data.truncate(self.start);
        self.start = 0;
        if self.rows.is_empty() {
            return Ok(());
        }
        let (mut data, mut text, mut rows) =
            (std::mem::take(&mut self.data), std::mem::take(&mut self.text), std::mem::take(&mut self.rows));
        self.usual = (text.len(), rows.len());
        self.len += rows.len();
        trim(&mut data);
        trim(&mut text);
        trim(&mut rows);
        let kept = data.capacity() + text.capacity() + rows.capacity() * size_of::<Row>();
        // Sequence numbers are ASCII and stand between the keys, so two invalid keys can't form valid text together.
        let text = String::from_utf8(text).map_err(|_| "text that is not UTF-8")?;
        self.pages.push(Page { data: Bytes::from(data), text, rows, unpacked: Box::default(), kept });
        Ok(())
    }

    /// Returns all records that were read.
    pub(crate) fn finish(&mut self) -> Result<Rows, &'static str> {
        self.end_page()?;
        Ok(Rows { pages: std::mem::take(&mut self.pages), len: std::mem::take(&mut self.len) })
    }
}

/// Frees the spare capacity of a buffer, if that is worth the call.
fn trim<T>(buffer: &mut Vec<T>) {
    if buffer.capacity() - buffer.len() > buffer.len() / 8 {
        buffer.shrink_to_fit();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::reading::wire::Event;

    fn record(filling: &mut Filling, sequence: &str, data: &[u8]) {
        filling.begin().unwrap();
        filling.data(data.len()).unwrap().extend_from_slice(data);
        filling.end(sequence.as_bytes(), Some(b"key"), None).unwrap();
    }

    #[test]
    fn allocation_is_bounded_by_the_frame() {
        let mut filling = Filling::default();
        filling.expect(303);
        filling.begin().unwrap();
        assert_eq!(filling.data(30).unwrap().capacity(), 303);
        // The capacity is a page at first, is doubled for a large record, and is no more than all of its data at the
        // end.
        let mut filling = Filling::default();
        filling.expect(180_003);
        filling.begin().unwrap();
        let mut capacities = Vec::new();
        for _ in 0..18 {
            let data = filling.data(10_000).unwrap();
            data.extend_from_slice(&[0; 10_000]);
            let (len, capacity) = (data.len(), data.capacity());
            filling.expect(180_003 - len);
            capacities.push(capacity);
        }
        capacities.dedup();
        assert_eq!(capacities, [PAGE, 2 * PAGE, 180_003]);
    }

    #[test]
    fn spare_capacity_above_an_eighth_is_freed() {
        for (capacity, kept) in [(90, 90), (91, 80), (800, 80)] {
            let mut buffer = Vec::with_capacity(capacity);
            buffer.extend_from_slice(&[0_u8; 80]);
            trim(&mut buffer);
            assert_eq!(buffer.capacity(), kept);
        }
    }

    #[test]
    fn memory_of_a_page_is_that_of_its_data_its_text_and_its_rows() {
        let mut filling = Filling::default();
        filling.expect(1000);
        record(&mut filling, "1", &[0; 300]);
        record(&mut filling, "2", &[0; 300]);
        let rows = filling.finish().unwrap();
        let least = 600 + "1key2key".len() + 2 * size_of::<Row>();
        let kept: usize = rows.pages.iter().map(Page::kept_bytes).sum();
        assert!((least..least + least / 4).contains(&kept), "{kept} for {least}");
        assert_eq!(rows.kept_bytes(), kept + rows.pages.capacity() * size_of::<Page>());
    }

    #[test]
    fn memory_of_an_event_is_bounded_by_its_frame() {
        for (frame, needed) in [(0, 1024), (1000, 4524), (1 << 20, (3 << 19) + (128 << 10) + 1024)] {
            assert_eq!(bytes_needed(frame), needed);
        }
    }

    #[test]
    fn page_is_full_of_data_or_of_text_and_rows() {
        let filled = |data: usize, count: usize| {
            let mut filling = Filling::default();
            filling.expect(10 << 20);
            for at in 0..count {
                record(&mut filling, &(1000 + at).to_string(), &vec![0; data]);
            }
            filling.finish().unwrap().pages.iter().map(Page::len).collect::<Vec<_>>()
        };
        // Each record has seven bytes of text and a row.
        let in_page = PAGE.div_ceil(size_of::<Row>() + 7);
        assert_eq!(filled(0, 2 * in_page + 1), [in_page, in_page, 1]);
        assert_eq!(filled(PAGE / 2 - 100, 5), [2, 2, 1]);
        assert_eq!(filled(PAGE / 2, 3), [2, 1]);
        assert_eq!(filled(PAGE / 2 + 1, 3), [1, 1, 1]);
        assert_eq!(filled(3 * PAGE, 2), [1, 1]);
    }

    #[test]
    fn events_are_the_same_if_all_of_their_records_are() {
        let event = |data: &str, key: &str, seconds: u32| {
            let json = format!(
                r#"{{"Records":[{{"SequenceNumber":"1","Data":"{data}","PartitionKey":"{key}","ApproximateArrivalTimestamp":{seconds}}}]}}"#
            );
            Event::parse(json.as_bytes()).unwrap()
        };
        assert_eq!(event("YWJj", "k", 1), event("YWJj", "k", 1));
        for other in [event("YWJk", "k", 1), event("YWJj", "l", 1), event("YWJj", "k", 2)] {
            assert_ne!(event("YWJj", "k", 1), other);
        }
    }

    #[test]
    fn records_are_found_by_their_index() {
        let mut filling = Filling::default();
        filling.expect(1000);
        assert!(filling.finish().unwrap().is_empty());
        record(&mut filling, "1", b"one");
        record(&mut filling, "2", b"two");
        let rows = filling.finish().unwrap();
        assert!(!rows.is_empty());
        assert_eq!(rows.last().unwrap().sequence(), "2");
        let [page] = &rows.into_pages()[..] else { panic!("more than one page") };
        assert_eq!((page.len(), page.is_empty()), (2, false));
        assert_eq!(page.record(1).unwrap().data(), b"two"[..]);
        assert!(page.record(2).is_none());
        assert!(Page::default().is_empty() && Rows::default().last().is_none());
    }
}
