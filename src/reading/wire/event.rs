//! What does an event say, and which records are in it?
//!
//! An event is read as its bytes arrive, piece by piece: each piece is decoded while it is still in the cache, and no
//! event has to be assembled first. Data is decoded straight into the [page](crate::records::Page) that its messages will
//! share. Only short tokens that a piece cuts in two are copied: data is decoded up to the cut.
//!
//! There are two paths through a record. The fast path takes a whole record in the form that the service writes. The
//! general path takes anything that JSON allows, one token after the other, and can stop anywhere; the fast path
//! leaves everything else to it.

use super::assembly::{Assembly, Event, EventError};
use super::base64::{NOT_BASE64, Quads};
use super::fast_path;
use super::json::{self, Cursor, Look, Stop};
use super::pieces::{self, Resume};
use super::skipping::Skipping;
use crate::model::{SequenceNumber, ShardId};

impl Event {
    /// Reads an event from the payload of its frame.
    ///
    /// # Errors
    ///
    /// An error is returned when the payload isn't JSON, or lacks a required field (a record's sequence number).
    pub fn parse(payload: &[u8]) -> Result<Self, EventError> {
        let mut reader = EventReader::default();
        reader.begin(payload.len());
        reader.feed(payload)?;
        reader.finish()
    }
}

/// Reads events, each in the pieces that it arrives in.
#[derive(Debug, Default)]
pub struct EventReader {
    state: State,
    /// The part of a token at the end of the last piece, which continues in the next one.
    cut: Vec<u8>,
    /// The number of payload bytes that are read.
    passed: usize,
    /// The number of bytes of the payload.
    len: usize,
    quads: Quads,
    assembly: Assembly,
}

/// The position of the reader within the event.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
enum State {
    /// Before the event.
    #[default]
    Start,
    /// After the brace that opens an object.
    Open(Object),
    /// After a field of an object.
    Next(Object),
    /// After the bracket that opens an array.
    OpenArray(Array),
    /// After an element of an array.
    NextArray(Array),
    /// Within the string of a record's data.
    Data,
    /// Within a field that is skipped.
    Skip { skipping: Skipping, then: Object },
    /// Behind the event.
    End,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Object {
    Event,
    Record,
    Child,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Array {
    Records,
    Children,
    Parents,
}

impl EventReader {
    /// Begins the next event, whose payload has `len` bytes. An incomplete event before it is discarded.
    pub fn begin(&mut self, len: usize) {
        self.state = State::Start;
        self.cut.clear();
        self.passed = 0;
        self.len = len;
        self.assembly.clear();
    }

    /// Takes the next piece of the payload.
    ///
    /// # Errors
    ///
    /// An error is returned when the event can't be read. The rest of the event can't be read then either.
    pub fn feed(&mut self, piece: &[u8]) -> Result<(), EventError> {
        // Data takes three quarters of its base64.
        self.assembly.filling.expect(self.len.saturating_sub(self.passed) / 4 * 3 + 3);
        pieces::feed(self, piece)
    }

    /// Ends the event: no more pieces follow.
    ///
    /// # Errors
    ///
    /// An error is returned when the event isn't complete.
    pub fn finish(&mut self) -> Result<Event, EventError> {
        if self.state != State::End || !self.cut.is_empty() {
            return Err(self.error("the text ends within the event"));
        }
        self.assembly.finish().map_err(|what| self.error(what))
    }
}

impl Resume for EventReader {
    fn cut(&mut self) -> &mut Vec<u8> {
        &mut self.cut
    }

    fn error(&self, what: &'static str) -> EventError {
        EventError { at: self.passed, what }
    }

    fn run(&mut self, text: &[u8]) -> Result<usize, EventError> {
        let mut cursor = Cursor::new(text);
        loop {
            // Within data a space is an error, and within skipped text it may belong to a string.
            let within = matches!(self.state, State::Data | State::Skip { .. });
            if !within {
                cursor.pass_space();
            }
            let before = cursor.at;
            match self.step(&mut cursor) {
                Ok(()) => {}
                Err(Stop::More) => {
                    // All but the last few bytes of a string are done.
                    if !within {
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

impl EventReader {
    /// Takes one step: a field with its short value, or the opening or end of an object or array.
    fn step(&mut self, text: &mut Cursor<'_>) -> Look<()> {
        match self.state {
            State::Start => {
                self.state = if text.null()? {
                    State::End
                } else {
                    text.expect(b'{', "expected an object")?;
                    State::Open(Object::Event)
                };
                Ok(())
            }
            State::Open(object) => {
                if text.peek()? == b'}' {
                    text.pass();
                    return self.end(object);
                }
                self.field(object, text)
            }
            State::Next(object) => match text.peek()? {
                b',' => {
                    text.pass();
                    self.field(object, text)
                }
                b'}' => {
                    text.pass();
                    self.end(object)
                }
                _ => Err(Stop::Bad("expected a comma or an end")),
            },
            State::OpenArray(array) => {
                if text.peek()? == b']' {
                    text.pass();
                    self.state = State::Next(array.holder());
                    return Ok(());
                }
                self.element(array, text)
            }
            State::NextArray(array) => match text.peek()? {
                b',' => {
                    text.pass();
                    text.peek()?;
                    self.element(array, text)
                }
                b']' => {
                    text.pass();
                    self.state = State::Next(array.holder());
                    Ok(())
                }
                _ => Err(Stop::Bad("expected a comma or an end")),
            },
            State::Data => self.data(text),
            State::Skip { skipping, then } => self.skip(text, skipping, then),
            State::End => {
                text.peek()?;
                Err(Stop::Bad("more text after the event"))
            }
        }
    }

    /// Reads a name, its colon, and its value if that is short.
    fn field(&mut self, object: Object, text: &mut Cursor<'_>) -> Look<()> {
        let name = text.string()?;
        text.expect(b':', "expected a colon")?;
        let known = |names: &[&'static str]| names.iter().copied().find(|known| name.is(known));
        let names: &[&str] = match object {
            Object::Event => {
                &["Records", "ContinuationSequenceNumber", "MillisBehindLatest", "ChildShards", "NextShardIterator"]
            }
            Object::Record => &["Data", "SequenceNumber", "PartitionKey", "ApproximateArrivalTimestamp"],
            Object::Child => &["ShardId", "ParentShards"],
        };
        let next = match known(names).unwrap_or_default() {
            "Records" => return self.array(Array::Records, text),
            "ChildShards" => return self.array(Array::Children, text),
            "ParentShards" => return self.array(Array::Parents, text),
            "Data" => {
                let null = text.null()?;
                if !null {
                    text.expect(b'"', "expected a string")?;
                }
                self.assembly.filling.forget_data();
                self.quads = Quads::default();
                if null { State::Next(object) } else { State::Data }
            }
            "SequenceNumber" => {
                let number = text.optional_string()?;
                self.assembly.record.sequence.clear();
                if let Some(raw) = number {
                    self.assembly.record.sequence.extend_from_slice(&raw.unescape()?);
                }
                State::Next(object)
            }
            "PartitionKey" => {
                self.assembly.record.key = match text.optional_string()? {
                    Some(raw) => Some(raw.unescape()?.into_owned()),
                    None => None,
                };
                State::Next(object)
            }
            "ApproximateArrivalTimestamp" => {
                self.assembly.record.arrival_millis =
                    if text.null()? { None } else { Some(json::millis(text.number()?)?) };
                State::Next(object)
            }
            "ContinuationSequenceNumber" => {
                self.assembly.event.continuation = match text.optional_string()? {
                    // Some clients write an empty string for an absent one.
                    Some(raw) => {
                        Some(raw.text()?).filter(|text| !text.is_empty()).map(|text| sequence(&text)).transpose()?
                    }
                    None => None,
                };
                State::Next(object)
            }
            "NextShardIterator" => {
                self.assembly.event.next_iterator = match text.optional_string()? {
                    Some(raw) => Some(raw.text()?.into_owned()).filter(|iterator| !iterator.is_empty()),
                    None => None,
                };
                State::Next(object)
            }
            "MillisBehindLatest" => {
                self.assembly.event.millis_behind =
                    if text.null()? { None } else { Some(json::integer(text.number()?)?) };
                State::Next(object)
            }
            "ShardId" => {
                self.assembly.child = match text.optional_string()? {
                    Some(raw) => Some(ShardId::from(&*raw.text()?)),
                    None => None,
                };
                State::Next(object)
            }
            _ => State::Skip { skipping: Skipping::default(), then: object },
        };
        self.state = next;
        Ok(())
    }

    /// Reads the opening of an array, or `null`.
    fn array(&mut self, array: Array, text: &mut Cursor<'_>) -> Look<()> {
        let null = text.null()?;
        if !null {
            text.expect(b'[', "expected an array")?;
        }
        match array {
            Array::Records => self.assembly.filling.clear(),
            Array::Children => self.assembly.event.children.clear(),
            Array::Parents => self.assembly.parents.clear(),
        }
        self.state = if null { State::Next(array.holder()) } else { State::OpenArray(array) };
        Ok(())
    }

    fn element(&mut self, array: Array, text: &mut Cursor<'_>) -> Look<()> {
        match array {
            Array::Records => {
                if let Some(len) = fast_path::record(text.rest(), &mut self.assembly.filling) {
                    text.at += len;
                    self.state = State::NextArray(array);
                    return Ok(());
                }
                text.expect(b'{', "a record that is no object")?;
                self.assembly.begin_record().map_err(Stop::Bad)?;
                self.state = State::Open(Object::Record);
            }
            Array::Children => {
                text.expect(b'{', "a child shard that is no object")?;
                self.assembly.begin_child().map_err(Stop::Bad)?;
                self.state = State::Open(Object::Child);
            }
            Array::Parents => {
                let parent = ShardId::from(&*text.string()?.text()?);
                self.assembly.add_parent(parent).map_err(Stop::Bad)?;
                self.state = State::NextArray(array);
            }
        }
        Ok(())
    }

    /// Completes an object.
    fn end(&mut self, object: Object) -> Look<()> {
        match object {
            Object::Event => self.state = State::End,
            Object::Record => {
                self.assembly.end_record().map_err(Stop::Bad)?;
                self.state = State::NextArray(Array::Records);
            }
            Object::Child => {
                self.assembly.end_child().map_err(Stop::Bad)?;
                self.state = State::NextArray(Array::Children);
            }
        }
        Ok(())
    }

    /// Decodes data up to its end, or as far as it has arrived.
    fn data(&mut self, text: &mut Cursor<'_>) -> Look<()> {
        loop {
            let rest = text.rest();
            let len = memchr::memchr2(b'"', b'\\', rest).unwrap_or(rest.len());
            let (run, after) = rest.split_at(len);
            self.quads.decode(run, &mut self.assembly.filling)?;
            text.at += len;
            match after {
                [] => return Err(Stop::More),
                [b'"', ..] => {
                    self.quads.end()?;
                    text.pass();
                    self.state = State::Next(Object::Record);
                    return Ok(());
                }
                _ => {
                    let (character, len) = json::escape(after)?;
                    let byte = u8::try_from(character).map_err(|_| NOT_BASE64)?;
                    self.quads.decode(&[byte], &mut self.assembly.filling)?;
                    text.at += len;
                }
            }
        }
    }

    /// Skips a value of any kind, up to its end or as far as it has arrived.
    fn skip(&mut self, text: &mut Cursor<'_>, mut skipping: Skipping, then: Object) -> Look<()> {
        let skipped = skipping.run(text);
        self.state = State::Skip { skipping, then };
        skipped?;
        self.state = State::Next(then);
        Ok(())
    }
}

impl Array {
    /// The object that the field belongs to.
    fn holder(self) -> Object {
        match self {
            Self::Records | Self::Children => Object::Event,
            Self::Parents => Object::Child,
        }
    }
}

fn sequence(text: &str) -> Look<SequenceNumber> {
    SequenceNumber::new(text).map_err(|_| Stop::Bad("not a sequence number"))
}

#[cfg(test)]
#[path = "event_tests.rs"]
mod tests;
