//! What does an answer of GetRecords in CBOR say, and which records are in it?
//!
//! CBOR (RFC 8949) brings data as bytes, so nothing is decoded: data is copied once, straight into the
//! [page](crate::records::Page) that its messages share. As with JSON, an answer is read piece by piece as it arrives,
//! and only short tokens that a piece cuts in two are copied. Strings of definite and indefinite length are read, tags
//! are passed over, fields may come in any order, and unknown ones are skipped.

use std::borrow::Cow;

use super::assembly::{Assembly, Event, EventError};
use super::pieces::{self, Resume};
use crate::aws::cbor::{ARRAY, BYTES, Cursor, Data, Left, Look, MAP, NEGATIVE, Number, SIMPLE, Stop, TEXT, UNSIGNED};
use crate::model::ShardId;

/// How deep a skipped value may be nested.
const MAX_DEPTH: usize = 64;

/// Reads answers, each in the pieces that it arrives in.
#[derive(Debug, Default)]
pub struct CborReader {
    /// Whether the answer has begun.
    has_begun: bool,
    /// The containers that are open, the outermost first.
    open: Vec<Container>,
    /// The data that is being read.
    data: Option<Data>,
    /// The containers of a value that is being skipped, and how much of each is still to come.
    skipped: Vec<Left>,
    /// The bytes of a string that are still to be skipped.
    skipped_bytes: u64,
    /// The part of a token at the end of the last piece, which continues in the next one.
    cut: Vec<u8>,
    /// The number of bytes that are read.
    passed: usize,
    /// The number of bytes of the answer, as far as it is known.
    len: usize,
    assembly: Assembly,
}

/// An array or a map.
#[derive(Debug, Clone, Copy)]
struct Container {
    kind: Kind,
    left: Left,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Answer,
    Records,
    Record,
    Children,
    Child,
    Parents,
}

impl CborReader {
    /// Begins the next answer. `len` is the number of its bytes, or the most that it may have. An incomplete answer
    /// before it is discarded.
    pub fn begin(&mut self, len: usize) {
        self.has_begun = false;
        self.open.clear();
        self.data = None;
        self.skipped.clear();
        self.skipped_bytes = 0;
        self.cut.clear();
        self.passed = 0;
        self.len = len;
        self.assembly.clear();
    }

    /// Takes the next piece of the answer.
    ///
    /// # Errors
    ///
    /// An error is returned when the answer can't be read. The rest of it can't be read then either.
    pub fn feed(&mut self, piece: &[u8]) -> Result<(), EventError> {
        self.assembly.filling.expect(self.len.saturating_sub(self.passed).max(piece.len() + self.cut.len()));
        pieces::feed(self, piece)
    }

    /// Ends the answer: no more pieces follow.
    ///
    /// # Errors
    ///
    /// An error is returned when the answer isn't complete.
    pub fn finish(&mut self) -> Result<Event, EventError> {
        let is_whole = self.has_begun && self.open.is_empty() && self.skipped.is_empty() && self.skipped_bytes == 0;
        if !is_whole || self.data.is_some() || !self.cut.is_empty() {
            return Err(self.error("the bytes end within the answer"));
        }
        self.assembly.finish().map_err(|what| self.error(what))
    }

    /// Takes one step: a field with its short value, a part of data, or the opening or end of a container.
    fn step(&mut self, bytes: &mut Cursor<'_>) -> Look<()> {
        if self.data.is_some() {
            return self.data(bytes);
        }
        if self.skipped_bytes > 0 || !self.skipped.is_empty() {
            return self.skip(bytes);
        }
        let Some(Container { kind, left }) = self.open.last().copied() else {
            if self.has_begun {
                bytes.peek()?;
                return Err(Stop::Bad("more bytes after the answer"));
            }
            if !bytes.null()? {
                let left = bytes.container(MAP, "expected a map")?;
                self.open.push(Container { kind: Kind::Answer, left });
            }
            self.has_begun = true;
            return Ok(());
        };
        if bytes.is_end(left)? {
            return self.end(kind);
        }
        match kind {
            Kind::Answer | Kind::Record | Kind::Child => self.field(kind, bytes)?,
            Kind::Records | Kind::Children | Kind::Parents => self.element(kind, bytes)?,
        }
        Ok(())
    }

    /// Counts one element or field of the container that is `depth` containers below the innermost one.
    fn count(&mut self, depth: usize) {
        let at = self.open.len().checked_sub(1 + depth);
        if let Some(Container { left: Left::Count(left), .. }) = at.and_then(|at| self.open.get_mut(at)) {
            *left -= 1;
        }
    }

    fn open(&mut self, kind: Kind, left: Left) {
        self.count(0);
        self.open.push(Container { kind, left });
    }

    /// Reads a name, and its value if that is short. Nothing is changed before all of it has arrived.
    fn field(&mut self, kind: Kind, bytes: &mut Cursor<'_>) -> Look<()> {
        let name = bytes.text()?;
        let assembly = &mut self.assembly;
        match (kind, &*name) {
            (Kind::Answer, b"Records") => {
                let left = bytes.list()?;
                assembly.filling.clear();
                self.open(Kind::Records, left);
                return Ok(());
            }
            (Kind::Answer, b"ChildShards") => {
                let left = bytes.list()?;
                assembly.event.children.clear();
                self.open(Kind::Children, left);
                return Ok(());
            }
            (Kind::Child, b"ParentShards") => {
                let left = bytes.list()?;
                assembly.parents.clear();
                self.open(Kind::Parents, left);
                return Ok(());
            }
            (Kind::Answer, b"NextShardIterator") => {
                assembly.event.next_iterator = match bytes.optional_text()? {
                    Some(text) => Some(utf8(text)?).filter(|iterator| !iterator.is_empty()),
                    None => None,
                };
            }
            (Kind::Answer, b"MillisBehindLatest") => {
                assembly.event.millis_behind = bytes.optional_number()?.map(Number::whole);
            }
            (Kind::Record, b"Data") => {
                let data = if bytes.null()? { None } else { Some(bytes.data()?) };
                assembly.filling.forget_data();
                self.data = data;
            }
            (Kind::Record, b"SequenceNumber") => {
                let text = bytes.optional_text()?;
                assembly.record.sequence.clear();
                assembly.record.sequence.extend_from_slice(&text.unwrap_or_default());
            }
            (Kind::Record, b"PartitionKey") => {
                assembly.record.key = bytes.optional_text()?.map(Cow::into_owned);
            }
            (Kind::Record, b"ApproximateArrivalTimestamp") => {
                assembly.record.arrival_millis = bytes.optional_number()?.map(Number::time);
            }
            (Kind::Child, b"ShardId") => {
                assembly.child = match bytes.optional_text()? {
                    Some(text) => Some(ShardId::from(&*utf8(text)?)),
                    None => None,
                };
            }
            _ => self.begin_skipping(bytes)?,
        }
        self.count(0);
        Ok(())
    }

    fn element(&mut self, kind: Kind, bytes: &mut Cursor<'_>) -> Look<()> {
        match kind {
            Kind::Records => {
                let left = bytes.container(MAP, "a record that is no map")?;
                self.assembly.begin_record()?;
                self.open(Kind::Record, left);
            }
            Kind::Children => {
                let left = bytes.container(MAP, "a child shard that is no map")?;
                self.assembly.begin_child()?;
                self.open(Kind::Child, left);
            }
            _ => {
                let parent = ShardId::from(&*utf8(bytes.text()?)?);
                self.assembly.add_parent(parent)?;
                self.count(0);
            }
        }
        Ok(())
    }

    /// Completes a container.
    fn end(&mut self, kind: Kind) -> Look<()> {
        self.open.pop();
        match kind {
            Kind::Record => self.assembly.end_record()?,
            Kind::Child => self.assembly.end_child()?,
            Kind::Answer | Kind::Records | Kind::Children | Kind::Parents => {}
        }
        Ok(())
    }

    /// Copies data up to its end, or as far as it has arrived.
    fn data(&mut self, bytes: &mut Cursor<'_>) -> Look<()> {
        while let Some(Data { left, in_parts }) = self.data {
            if left > 0 {
                let rest = bytes.rest();
                if rest.is_empty() {
                    return Err(Stop::More);
                }
                let expected = self.len.saturating_sub(self.passed + bytes.at).max(rest.len());
                let room = usize::try_from(left).unwrap_or(usize::MAX).min(expected);
                let here = &rest[..rest.len().min(room)];
                self.assembly.filling.data(room)?.extend_from_slice(here);
                bytes.at += here.len();
                self.data = Some(Data { left: left - here.len() as u64, in_parts });
            } else if in_parts && !bytes.is_break()? {
                let before = bytes.at;
                let part = match bytes.data() {
                    // Everything before the head is read already.
                    Err(Stop::More) => {
                        bytes.at = before;
                        return Err(Stop::More);
                    }
                    part => part?,
                };
                if part.in_parts {
                    return Err(Stop::Bad("a string within a part of a string"));
                }
                self.data = Some(Data { in_parts, ..part });
            } else {
                self.data = None;
            }
        }
        Ok(())
    }

    fn begin_skipping(&mut self, bytes: &mut Cursor<'_>) -> Look<()> {
        let head = bytes.head()?;
        match head.major {
            UNSIGNED | NEGATIVE | SIMPLE if !head.is_open => {}
            BYTES | TEXT if !head.is_open => self.skipped_bytes = head.value,
            BYTES | TEXT => self.skipped.push(Left::UntilBreak),
            ARRAY | MAP => {
                if self.skipped.len() >= MAX_DEPTH {
                    return Err(Stop::Bad("a value that is nested too deep"));
                }
                // A map has twice as many elements as fields.
                let factor = if head.major == MAP { 2 } else { 1 };
                let count = head.value.checked_mul(factor).ok_or(Stop::Bad("a map beyond all limits"))?;
                self.skipped.push(if head.is_open { Left::UntilBreak } else { Left::Count(count) });
            }
            _ => return Err(Stop::Bad("a break outside of a container")),
        }
        Ok(())
    }

    /// Skips a part of a value.
    fn skip(&mut self, bytes: &mut Cursor<'_>) -> Look<()> {
        if self.skipped_bytes > 0 {
            let rest = bytes.rest();
            if rest.is_empty() {
                return Err(Stop::More);
            }
            let here = usize::try_from(self.skipped_bytes).unwrap_or(usize::MAX).min(rest.len());
            bytes.at += here;
            self.skipped_bytes -= here as u64;
            return Ok(());
        }
        let Some(left) = self.skipped.last().copied() else { return Ok(()) };
        if bytes.is_end(left)? {
            self.skipped.pop();
            return Ok(());
        }
        let depth = self.skipped.len();
        self.begin_skipping(bytes)?;
        if let Left::Count(left) = &mut self.skipped[depth - 1] {
            *left -= 1;
        }
        Ok(())
    }
}

impl Resume for CborReader {
    fn cut(&mut self) -> &mut Vec<u8> {
        &mut self.cut
    }

    fn error(&self, what: &'static str) -> EventError {
        EventError { at: self.passed, what }
    }

    fn run(&mut self, bytes: &[u8]) -> Result<usize, EventError> {
        let mut cursor = Cursor::new(bytes);
        loop {
            let before = cursor.at;
            match self.step(&mut cursor) {
                Ok(()) => {}
                Err(Stop::More) => {
                    // Data and skipped strings are read as far as they have arrived; a token is read again.
                    if self.data.is_none() {
                        cursor.at = before;
                    }
                    self.passed += cursor.at;
                    return Ok(cursor.at);
                }
                Err(Stop::Bad(what)) => {
                    self.passed += cursor.at;
                    return Err(self.error(what));
                }
            }
        }
    }
}

fn utf8(text: Cow<'_, [u8]>) -> Look<String> {
    String::from_utf8(text.into_owned()).map_err(|_| Stop::Bad("text that is not UTF-8"))
}

#[cfg(test)]
#[path = "cbor_tests.rs"]
mod tests;
