//! What stands where in a JSON text?
//!
//! A reader that walks once over the text and copies nothing. It is made for events that are almost entirely base64
//! strings: finding the end of a string is one vector search. It takes any valid JSON; of invalid JSON it refuses
//! what would make it read wrongly, and does not look into what it passes over more than it has to.

use std::borrow::Cow;

use super::event::EventError;

/// How deep unknown values may be nested. They are passed over without recursion; this only refuses nonsense.
const MAX_DEPTH: u32 = 512;

/// A place in a JSON text.
#[derive(Debug)]
pub(super) struct Cursor<'a> {
    text: &'a [u8],
    at: usize,
}

/// A string as it stands between its quotes.
#[derive(Debug, Clone, Copy)]
pub(super) struct Raw<'a> {
    /// The bytes between the quotes.
    bytes: &'a [u8],
    /// Whether there are escapes among them.
    escaped: bool,
    /// Where they begin, for error messages.
    at: usize,
}

type Result<T> = std::result::Result<T, EventError>;

impl<'a> Cursor<'a> {
    pub(super) fn new(text: &'a [u8]) -> Self {
        Self { text, at: 0 }
    }

    pub(super) fn error(&self, what: &'static str) -> EventError {
        EventError { at: self.at, what }
    }

    /// Passes white space and tells the next byte.
    fn peek(&mut self) -> Option<u8> {
        while let Some(byte) = self.text.get(self.at) {
            if !matches!(byte, b' ' | b'\n' | b'\r' | b'\t') {
                return Some(*byte);
            }
            self.at += 1;
        }
        None
    }

    fn expect(&mut self, byte: u8, what: &'static str) -> Result<()> {
        if self.peek() != Some(byte) {
            return Err(self.error(what));
        }
        self.at += 1;
        Ok(())
    }

    /// Nothing but white space may be left.
    pub(super) fn end(&mut self) -> Result<()> {
        if self.peek().is_some() { Err(self.error("more text after the event")) } else { Ok(()) }
    }

    /// If the next value is `null`, passes it.
    pub(super) fn null(&mut self) -> Result<bool> {
        if self.peek() != Some(b'n') {
            return Ok(false);
        }
        self.literal(b"null")?;
        Ok(true)
    }

    fn literal(&mut self, word: &[u8]) -> Result<()> {
        if !self.text[self.at..].starts_with(word) {
            return Err(self.error("not a JSON value"));
        }
        self.at += word.len();
        Ok(())
    }

    /// Reads a string.
    pub(super) fn string(&mut self) -> Result<Raw<'a>> {
        self.expect(b'"', "expected a string")?;
        let start = self.at;
        let mut escaped = false;
        loop {
            let rest = &self.text[self.at..];
            let Some(found) = memchr::memchr2(b'"', b'\\', rest) else {
                return Err(self.error("a string without an end"));
            };
            self.at += found + 1;
            if rest[found] == b'"' {
                return Ok(Raw { bytes: &self.text[start..self.at - 1], escaped, at: start });
            }
            // Whatever follows a backslash can't end the string. The text may end here; the search says so then.
            escaped = true;
            self.at = (self.at + 1).min(self.text.len());
        }
    }

    /// Reads a string or `null`.
    pub(super) fn optional_string(&mut self) -> Result<Option<Raw<'a>>> {
        if self.null()? { Ok(None) } else { self.string().map(Some) }
    }

    /// Reads a number, as text.
    pub(super) fn number(&mut self) -> Result<&'a str> {
        self.peek();
        let rest = &self.text[self.at..];
        let len = rest
            .iter()
            .position(|byte| !matches!(byte, b'0'..=b'9' | b'+' | b'-' | b'.' | b'e' | b'E'))
            .unwrap_or(rest.len());
        let number = std::str::from_utf8(&rest[..len]).unwrap_or_default();
        if number.is_empty() {
            return Err(self.error("expected a number"));
        }
        self.at += len;
        Ok(number)
    }

    /// Reads an object, or `null` as an empty one; `field` reads each value.
    pub(super) fn object(&mut self, mut field: impl FnMut(&mut Self, Raw<'a>) -> Result<()>) -> Result<()> {
        if self.null()? {
            return Ok(());
        }
        self.expect(b'{', "expected an object")?;
        if self.peek() == Some(b'}') {
            self.at += 1;
            return Ok(());
        }
        loop {
            self.peek();
            let name = self.string()?;
            self.expect(b':', "expected a colon")?;
            field(self, name)?;
            if !self.more(b'}')? {
                return Ok(());
            }
        }
    }

    /// Reads an array, or `null` as an empty one; `element` reads each value.
    pub(super) fn array(&mut self, mut element: impl FnMut(&mut Self) -> Result<()>) -> Result<()> {
        if self.null()? {
            return Ok(());
        }
        self.expect(b'[', "expected an array")?;
        if self.peek() == Some(b']') {
            self.at += 1;
            return Ok(());
        }
        loop {
            element(self)?;
            if !self.more(b']')? {
                return Ok(());
            }
        }
    }

    /// After a value: does another one follow, or does `close` come?
    fn more(&mut self, close: u8) -> Result<bool> {
        match self.peek() {
            Some(b',') => {
                self.at += 1;
                Ok(true)
            }
            Some(byte) if byte == close => {
                self.at += 1;
                Ok(false)
            }
            _ => Err(self.error("expected a comma or an end")),
        }
    }

    /// Passes over a value of any kind, without recursion.
    pub(super) fn skip(&mut self) -> Result<()> {
        let mut depth = 0_u32;
        loop {
            match self.peek() {
                Some(b'"') => {
                    self.string()?;
                }
                Some(b'{' | b'[') => {
                    self.at += 1;
                    depth += 1;
                    if depth > MAX_DEPTH {
                        return Err(self.error("nested too deeply"));
                    }
                    continue;
                }
                Some(b'}' | b']') if depth > 0 => {
                    self.at += 1;
                    depth -= 1;
                }
                Some(b',' | b':') if depth > 0 => {
                    self.at += 1;
                    continue;
                }
                Some(b't') => self.literal(b"true")?,
                Some(b'f') => self.literal(b"false")?,
                Some(b'n') => self.literal(b"null")?,
                Some(b'-' | b'0'..=b'9') => {
                    self.number()?;
                }
                _ => return Err(self.error("not a JSON value")),
            }
            if depth == 0 {
                return Ok(());
            }
        }
    }
}

impl<'a> Raw<'a> {
    /// Whether the string is `name`.
    pub(super) fn is(&self, name: &str) -> bool {
        if self.escaped {
            self.unescape().is_ok_and(|text| *text == *name.as_bytes())
        } else {
            self.bytes == name.as_bytes()
        }
    }

    /// The bytes the string stands for.
    pub(super) fn unescape(&self) -> Result<Cow<'a, [u8]>> {
        if !self.escaped {
            return Ok(Cow::Borrowed(self.bytes));
        }
        let mut out = Vec::with_capacity(self.bytes.len());
        let mut rest = self.bytes;
        while let Some(found) = memchr::memchr(b'\\', rest) {
            out.extend_from_slice(&rest[..found]);
            rest = self.escape(&rest[found + 1..], &mut out)?;
        }
        out.extend_from_slice(rest);
        Ok(Cow::Owned(out))
    }

    /// The text the string stands for.
    pub(super) fn text(&self) -> Result<Cow<'a, str>> {
        let error = EventError { at: self.at, what: "text that is not UTF-8" };
        match self.unescape()? {
            Cow::Borrowed(bytes) => std::str::from_utf8(bytes).map(Cow::Borrowed).map_err(|_| error),
            Cow::Owned(bytes) => String::from_utf8(bytes).map(Cow::Owned).map_err(|_| error),
        }
    }

    /// Reads what follows a backslash; returns what comes after it.
    fn escape<'b>(&self, text: &'b [u8], out: &mut Vec<u8>) -> Result<&'b [u8]> {
        let error = |what| EventError { at: self.at, what };
        let (letter, rest) = text.split_first().ok_or(error("an unfinished escape"))?;
        let byte = match letter {
            b'"' | b'\\' | b'/' => *letter,
            b'b' => 8,
            b'f' => 12,
            b'n' => b'\n',
            b'r' => b'\r',
            b't' => b'\t',
            b'u' => {
                let (first, mut rest) = hex4(rest).ok_or(error("a bad \\u escape"))?;
                let code = if (0xD800..0xDC00).contains(&first) {
                    // The first half of a pair: the second has to follow.
                    let (second, after) = rest
                        .strip_prefix(b"\\u")
                        .and_then(hex4)
                        .filter(|(second, _)| (0xDC00..0xE000).contains(second))
                        .ok_or(error("half a surrogate pair"))?;
                    rest = after;
                    0x1_0000 + ((first - 0xD800) << 10) + (second - 0xDC00)
                } else {
                    first
                };
                let character = char::from_u32(code).ok_or(error("half a surrogate pair"))?;
                out.extend_from_slice(character.encode_utf8(&mut [0; 4]).as_bytes());
                return Ok(rest);
            }
            _ => return Err(error("an unknown escape")),
        };
        out.push(byte);
        Ok(rest)
    }
}

fn hex4(text: &[u8]) -> Option<(u32, &[u8])> {
    let (digits, rest) = text.split_at_checked(4)?;
    let mut code = 0;
    for digit in digits {
        code = code * 16 + char::from(*digit).to_digit(16)?;
    }
    Some((code, rest))
}
