//! What are the tokens of CBOR (RFC 8949)?
//!
//! Amazon's Java clients speak CBOR to Kinesis (`application/x-amz-cbor-1.1`), where data is bytes instead of base64.
//! The cursor copies nothing, and can stop anywhere in a text of which more may follow. It reads strings of definite
//! and indefinite length, and passes over tags.

use std::borrow::Cow;

/// The content type of calls and answers.
pub(crate) const CONTENT_TYPE: &str = "application/x-amz-cbor-1.1";

/// The reason why a token can't be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Stop {
    /// The bytes end within the token; more has to come.
    More,
    /// The bytes are not what is expected here.
    Bad(&'static str),
}

pub(crate) type Look<T> = Result<T, Stop>;

impl From<&'static str> for Stop {
    fn from(what: &'static str) -> Self {
        Self::Bad(what)
    }
}

/// How many elements are still to come, or fields of a map.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Left {
    Count(u64),
    /// They end with a break.
    UntilBreak,
}

/// The string of a record's data.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Data {
    /// The bytes of the string, or of its current part, that are still to come.
    pub(crate) left: u64,
    /// Whether the string consists of parts that end with a break.
    pub(crate) in_parts: bool,
}

pub(crate) const UNSIGNED: u8 = 0;
pub(crate) const NEGATIVE: u8 = 1;
pub(crate) const BYTES: u8 = 2;
pub(crate) const TEXT: u8 = 3;
pub(crate) const ARRAY: u8 = 4;
pub(crate) const MAP: u8 = 5;
pub(crate) const TAG: u8 = 6;
pub(crate) const SIMPLE: u8 = 7;

/// The byte that ends a string, array or map of indefinite length.
pub(crate) const BREAK: u8 = 0xff;

/// The head of a value.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Head {
    pub(crate) major: u8,
    pub(crate) value: u64,
    /// The length of the value that follows the first byte, which tells floating-point numbers apart.
    width: usize,
    /// Whether the length is indefinite.
    pub(crate) is_open: bool,
}

/// The least whole number that is milliseconds: a day in 1973, and as seconds one in the year 5138.
const FIRST_MILLIS: i64 = 100_000_000_000;

/// A number as it stands.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Number {
    Whole(i64),
    Float(f64),
}

impl Number {
    pub(crate) fn whole(self) -> i64 {
        match self {
            Self::Whole(number) => number,
            // A cast saturates.
            Self::Float(number) => number as i64,
        }
    }

    /// Milliseconds since 1970. Amazon's services write them as whole numbers; as the tag's standard wants, a
    /// floating-point number is seconds. Local servers write whole seconds, which as milliseconds would be a time decades
    /// before Kinesis, so that a pipeline that starts at a time would take every record for an older one.
    pub(crate) fn time(self) -> i64 {
        match self {
            Self::Whole(seconds) if seconds < FIRST_MILLIS => seconds.saturating_mul(1000),
            Self::Whole(millis) => millis,
            Self::Float(seconds) => (seconds * 1000.0).round() as i64,
        }
    }
}

/// A cursor in a piece of an answer.
#[derive(Debug)]
pub(crate) struct Cursor<'a> {
    bytes: &'a [u8],
    pub(crate) at: usize,
}

impl<'a> Cursor<'a> {
    pub(crate) fn new(bytes: &'a [u8]) -> Self {
        Self { bytes, at: 0 }
    }

    pub(crate) fn rest(&self) -> &'a [u8] {
        self.bytes.get(self.at..).unwrap_or_default()
    }

    pub(crate) fn peek(&self) -> Look<u8> {
        self.bytes.get(self.at).copied().ok_or(Stop::More)
    }

    pub(crate) fn take(&mut self, len: usize) -> Look<&'a [u8]> {
        let taken = self.rest().get(..len).ok_or(Stop::More)?;
        self.at += len;
        Ok(taken)
    }

    /// Reads the head of a value, with the tags before it. Only points in time have one, and only as numbers.
    pub(crate) fn head(&mut self) -> Look<Head> {
        loop {
            let first = self.peek()?;
            self.at += 1;
            let (major, low) = (first >> 5, first & 0x1f);
            let width = match low {
                0..=23 => 0,
                24 => 1,
                25 => 2,
                26 => 4,
                27 => 8,
                31 if matches!(major, BYTES | TEXT | ARRAY | MAP | SIMPLE) => {
                    return Ok(Head { major, value: 0, width: 0, is_open: true });
                }
                _ => return Err(Stop::Bad("not a CBOR value")),
            };
            let value = match width {
                0 => u64::from(low),
                _ => self.take(width)?.iter().fold(0, |value, byte| value << 8 | u64::from(*byte)),
            };
            if major != TAG {
                return Ok(Head { major, value, width, is_open: false });
            }
        }
    }

    /// Whether a container has ended. A break is read.
    pub(crate) fn is_end(&mut self, left: Left) -> Look<bool> {
        match left {
            Left::Count(left) => Ok(left == 0),
            Left::UntilBreak => self.is_break(),
        }
    }

    /// Reads a break, if it comes next.
    pub(crate) fn is_break(&mut self) -> Look<bool> {
        let is_break = self.peek()? == BREAK;
        self.at += usize::from(is_break);
        Ok(is_break)
    }

    /// Reads the next value if it is null or undefined, and returns whether it was.
    pub(crate) fn null(&mut self) -> Look<bool> {
        let is_null = matches!(self.peek()?, 0xf6 | 0xf7);
        self.at += usize::from(is_null);
        Ok(is_null)
    }

    /// Reads the head of an array or a map.
    pub(crate) fn container(&mut self, major: u8, what: &'static str) -> Look<Left> {
        let head = self.head()?;
        match head.major == major {
            true if head.is_open => Ok(Left::UntilBreak),
            true => Ok(Left::Count(head.value)),
            false => Err(Stop::Bad(what)),
        }
    }

    /// Reads the head of an array; null is an empty one.
    pub(crate) fn list(&mut self) -> Look<Left> {
        if self.null()? { Ok(Left::Count(0)) } else { self.container(ARRAY, "expected an array") }
    }

    /// Reads the head of a string of bytes.
    pub(crate) fn data(&mut self) -> Look<Data> {
        let head = self.head()?;
        if head.major != BYTES {
            return Err(Stop::Bad("data that is no string of bytes"));
        }
        Ok(Data { left: head.value, in_parts: head.is_open })
    }

    /// Reads a text. Whether it is UTF-8 is not checked.
    pub(crate) fn text(&mut self) -> Look<Cow<'a, [u8]>> {
        const NOT_TEXT: Stop = Stop::Bad("expected a text");
        let head = self.head()?;
        if head.major != TEXT {
            return Err(NOT_TEXT);
        }
        let len = |head: Head| usize::try_from(head.value).unwrap_or(usize::MAX);
        if !head.is_open {
            return self.take(len(head)).map(Cow::Borrowed);
        }
        let mut whole = Vec::new();
        while !self.is_break()? {
            let part = self.head()?;
            if part.major != TEXT || part.is_open {
                return Err(NOT_TEXT);
            }
            whole.extend_from_slice(self.take(len(part))?);
        }
        Ok(Cow::Owned(whole))
    }

    pub(crate) fn optional_text(&mut self) -> Look<Option<Cow<'a, [u8]>>> {
        if self.null()? { Ok(None) } else { self.text().map(Some) }
    }

    pub(crate) fn optional_number(&mut self) -> Look<Option<Number>> {
        if self.null()? { Ok(None) } else { self.number().map(Some) }
    }

    pub(crate) fn number(&mut self) -> Look<Number> {
        let head = self.head()?;
        let whole = i64::try_from(head.value).unwrap_or(i64::MAX);
        match (head.major, head.width) {
            (UNSIGNED, _) => Ok(Number::Whole(whole)),
            (NEGATIVE, _) => Ok(Number::Whole(-1 - whole)),
            (SIMPLE, 2) => Ok(Number::Float(half(head.value as u16))),
            (SIMPLE, 4) => Ok(Number::Float(f32::from_bits(head.value as u32).into())),
            (SIMPLE, 8) => Ok(Number::Float(f64::from_bits(head.value))),
            _ => Err(Stop::Bad("expected a number")),
        }
    }
}

/// Reads a floating-point number of 16 bits.
pub(crate) fn half(bits: u16) -> f64 {
    let (exponent, fraction) = (i32::from(bits >> 10 & 0x1f), f64::from(bits & 0x3ff));
    let size = match exponent {
        0 => fraction * 2f64.powi(-24),
        31 if fraction == 0.0 => f64::INFINITY,
        31 => f64::NAN,
        _ => (1024.0 + fraction) * 2f64.powi(exponent - 25),
    };
    if bits & 0x8000 == 0 { size } else { -size }
}

/// Reads the type and the message of an error in CBOR.
pub(crate) fn error(body: &[u8]) -> Option<(String, String)> {
    let mut bytes = Cursor::new(body);
    let mut left = bytes.container(MAP, "").ok()?;
    let (mut kind, mut message) = (None, String::new());
    while !bytes.is_end(left).ok()? {
        let name = bytes.text().ok()?;
        let value = bytes.optional_text().ok()?;
        let value = String::from_utf8_lossy(&value.unwrap_or_default()).into_owned();
        match &*name {
            // A service may write its namespace before the name.
            b"__type" => kind = Some(value.rsplit('#').next().unwrap_or_default().to_owned()),
            b"message" | b"Message" => message = value,
            _ => {}
        }
        if let Left::Count(left) = &mut left {
            *left -= 1;
        }
    }
    kind.map(|kind| (kind, message))
}

/// Writes a call of GetRecords.
pub(crate) fn call(stream_arn: &str, iterator: &str, limit: u32) -> Vec<u8> {
    let mut out = vec![0xa3];
    for text in ["StreamARN", stream_arn, "ShardIterator", iterator, "Limit"] {
        write_head(&mut out, TEXT, text.len() as u64);
        out.extend_from_slice(text.as_bytes());
    }
    write_head(&mut out, UNSIGNED, limit.into());
    out
}

pub(crate) fn write_head(out: &mut Vec<u8>, major: u8, value: u64) {
    let (low, width) = match value {
        0..=23 => (value as u8, 0),
        24..=0xff => (24, 1),
        0x100..=0xffff => (25, 2),
        0x1_0000..=0xffff_ffff => (26, 4),
        _ => (27, 8),
    };
    out.push(major << 5 | low);
    out.extend_from_slice(&value.to_be_bytes()[8 - width..]);
}

#[cfg(test)]
mod tests {
    use ciborium::Value;

    use super::*;

    #[test]
    fn floating_point_numbers_of_all_sizes_are_read() {
        for (bits, expected) in
            [(0x3c00, 1.0), (0xc000, -2.0), (0x0001, 2f64.powi(-24)), (0x7bff, 65504.0), (0x8000, 0.0)]
        {
            assert!((half(bits) - expected).abs() < f64::EPSILON, "{bits:x}: {}", half(bits));
        }
        assert!(half(0x7c00).is_infinite() && half(0x7e00).is_nan());
        for (number, expected) in [
            (vec![0xf9, 0x3c, 0x00], 1),
            (vec![0xfa, 0x42, 0xc8, 0x00, 0x00], 100),
            (vec![0xfb, 0x40, 0x59, 0, 0, 0, 0, 0, 0], 100),
            (vec![0x38, 0x63], -100),
            (vec![0x1b, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff], i64::MAX),
        ] {
            assert_eq!(Cursor::new(&number).number().unwrap().whole(), expected, "{number:02x?}");
        }
    }

    #[test]
    fn call_and_error_are_in_cbor() {
        let map = |fields: &[(&str, Value)]| {
            Value::Map(fields.iter().map(|(name, value)| (Value::from(*name), value.clone())).collect())
        };
        let call = call("arn:orders", &"i".repeat(300), 10_000);
        let read: Value = ciborium::from_reader(&*call).unwrap();
        let iterator = Value::from("i".repeat(300));
        let expected =
            map(&[("StreamARN", "arn:orders".into()), ("ShardIterator", iterator), ("Limit", 10_000.into())]);
        assert_eq!(read, expected);
        let failed = map(&[("message", "too late".into()), ("__type", "com.amazon#ExpiredIteratorException".into())]);
        let mut bytes = Vec::new();
        ciborium::into_writer(&failed, &mut bytes).unwrap();
        let read = error(&bytes);
        assert_eq!(read, Some(("ExpiredIteratorException".to_owned(), "too late".to_owned())));
        assert_eq!(error(b"{}"), None);
    }
}
