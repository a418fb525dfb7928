//! Which tokens are in a JSON text of which more may follow?
//!
//! The reader of tokens copies nothing. It is built for events that are almost entirely base64 strings: finding the
//! end of a string is one vector search. It takes any valid JSON. It refuses invalid JSON that would make it read
//! wrongly, and checks skipped values no more than it has to.

use std::borrow::Cow;

/// The reason why a token can't be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Stop {
    /// The text ends within the token; more has to come.
    More,
    /// The bytes are not a token.
    Bad(&'static str),
}

pub(super) type Look<T> = Result<T, Stop>;

/// A cursor in a piece of a JSON text.
#[derive(Debug)]
pub(super) struct Cursor<'a> {
    text: &'a [u8],
    pub(super) at: usize,
}

/// A string as it stands between its quotes.
#[derive(Debug, Clone, Copy)]
pub(super) struct Raw<'a> {
    /// The bytes between the quotes.
    bytes: &'a [u8],
    /// Whether there are escapes among the bytes.
    escaped: bool,
}

impl<'a> Cursor<'a> {
    pub(super) fn new(text: &'a [u8]) -> Self {
        Self { text, at: 0 }
    }

    /// The part of the piece that is not read yet.
    pub(super) fn rest(&self) -> &'a [u8] {
        // `at` never passes the end.
        self.text.get(self.at..).unwrap_or_default()
    }

    /// Skips white space.
    pub(super) fn pass_space(&mut self) {
        while let Some(b' ' | b'\n' | b'\r' | b'\t') = self.text.get(self.at) {
            self.at += 1;
        }
    }

    /// Skips white space and returns the next byte without reading it.
    pub(super) fn peek(&mut self) -> Look<u8> {
        self.pass_space();
        self.text.get(self.at).copied().ok_or(Stop::More)
    }

    /// Skips the next byte, whatever it is.
    pub(super) fn pass(&mut self) {
        self.at = (self.at + 1).min(self.text.len());
    }

    pub(super) fn expect(&mut self, byte: u8, what: &'static str) -> Look<()> {
        if self.peek()? != byte {
            return Err(Stop::Bad(what));
        }
        self.at += 1;
        Ok(())
    }

    /// Reads the next value if it is `null`, and returns whether it was.
    pub(super) fn null(&mut self) -> Look<bool> {
        if self.peek()? != b'n' {
            return Ok(false);
        }
        self.literal(b"null")?;
        Ok(true)
    }

    pub(super) fn literal(&mut self, word: &[u8]) -> Look<()> {
        let rest = self.rest();
        if !rest.starts_with(word) {
            return Err(if word.starts_with(rest) { Stop::More } else { Stop::Bad("not a JSON value") });
        }
        self.at += word.len();
        Ok(())
    }

    /// Reads a string.
    pub(super) fn string(&mut self) -> Look<Raw<'a>> {
        self.expect(b'"', "expected a string")?;
        let start = self.at;
        let mut escaped = false;
        loop {
            let rest = self.rest();
            let found = memchr::memchr2(b'"', b'\\', rest).ok_or(Stop::More)?;
            if rest[found] == b'"' {
                let end = self.at + found;
                self.at = end + 1;
                return Ok(Raw { bytes: &self.text[start..end], escaped });
            }
            // The byte after a backslash can't end the string. If the text ends here, the search reports it.
            escaped = true;
            self.at = (self.at + found + 2).min(self.text.len());
        }
    }

    /// Reads a string or `null`.
    pub(super) fn optional_string(&mut self) -> Look<Option<Raw<'a>>> {
        if self.null()? { Ok(None) } else { self.string().map(Some) }
    }

    /// Reads a number, as text. Something has to follow it, because a number does not mark its own end.
    pub(super) fn number(&mut self) -> Look<&'a [u8]> {
        self.peek()?;
        let rest = self.rest();
        let ends = |byte: &u8| !matches!(byte, b'0'..=b'9' | b'+' | b'-' | b'.' | b'e' | b'E');
        let len = rest.iter().position(ends).ok_or(Stop::More)?;
        if len == 0 {
            return Err(Stop::Bad("expected a number"));
        }
        self.at += len;
        Ok(&rest[..len])
    }
}

/// Reads a whole number.
pub(super) fn integer(number: &[u8]) -> Look<i64> {
    const BAD: Stop = Stop::Bad("not a number");
    let text = std::str::from_utf8(number).map_err(|_| BAD)?;
    match text.parse::<i64>() {
        Ok(number) => Ok(number),
        // `1e3` and `12.0` are whole numbers too.
        Err(_) => text.parse::<f64>().map(|number| number as i64).map_err(|_| BAD),
    }
}

/// Reads seconds with a fraction as milliseconds; half a millisecond is rounded away from zero.
pub(super) fn millis(number: &[u8]) -> Look<i64> {
    if let Some(millis) = plain_millis(number) {
        return Ok(millis);
    }
    let text = std::str::from_utf8(number).unwrap_or_default();
    let seconds: f64 = text.parse().map_err(|_| Stop::Bad("not a number"))?;
    // A cast saturates.
    Ok((seconds * 1000.0).round() as i64)
}

/// Reads the forms that services write: digits, a point, an exponent of one digit. The result is exact, in integers.
fn plain_millis(number: &[u8]) -> Option<i64> {
    let mut digits: u64 = 0;
    let mut count = 0;
    let mut point = None;
    let mut exponent = 0;
    for (at, byte) in number.iter().enumerate() {
        match byte {
            // Eighteen digits can't overflow.
            b'0'..=b'9' if count < 18 => {
                digits = digits * 10 + u64::from(byte - b'0');
                count += 1;
            }
            b'.' if point.is_none() && count > 0 => point = Some(count),
            b'e' | b'E' => {
                let [digit @ b'0'..=b'9'] = number.get(at + 1..)? else { return None };
                exponent = usize::from(digit - b'0');
                break;
            }
            _ => return None,
        }
    }
    if count == 0 || point == Some(count) {
        return None;
    }
    let fraction = count - point.unwrap_or(count);
    let power = |of: usize| 10_u64.checked_pow(of as u32);
    let shift = 3 + exponent;
    let millis = if shift >= fraction {
        digits.checked_mul(power(shift - fraction)?)?
    } else {
        let unit = power(fraction - shift)?;
        (digits + unit / 2) / unit
    };
    i64::try_from(millis).ok()
}

impl<'a> Raw<'a> {
    /// Returns whether the string is `name`.
    pub(super) fn is(&self, name: &str) -> bool {
        if self.escaped {
            self.unescape().is_ok_and(|text| *text == *name.as_bytes())
        } else {
            self.bytes == name.as_bytes()
        }
    }

    /// Decodes the string into bytes.
    pub(super) fn unescape(&self) -> Look<Cow<'a, [u8]>> {
        if !self.escaped {
            return Ok(Cow::Borrowed(self.bytes));
        }
        let mut out = Vec::with_capacity(self.bytes.len());
        let mut rest = self.bytes;
        while let Some(found) = memchr::memchr(b'\\', rest) {
            out.extend_from_slice(&rest[..found]);
            let unfinished = |stop| if stop == Stop::More { Stop::Bad("an unfinished escape") } else { stop };
            let (character, len) = escape(&rest[found..]).map_err(unfinished)?;
            out.extend_from_slice(character.encode_utf8(&mut [0; 4]).as_bytes());
            rest = &rest[found + len..];
        }
        out.extend_from_slice(rest);
        Ok(Cow::Owned(out))
    }

    /// Decodes the string into text.
    pub(super) fn text(&self) -> Look<Cow<'a, str>> {
        const NOT_TEXT: Stop = Stop::Bad("text that is not UTF-8");
        match self.unescape()? {
            Cow::Borrowed(bytes) => std::str::from_utf8(bytes).map(Cow::Borrowed).map_err(|_| NOT_TEXT),
            Cow::Owned(bytes) => String::from_utf8(bytes).map(Cow::Owned).map_err(|_| NOT_TEXT),
        }
    }
}

/// Reads an escape, from its backslash on; returns its character and its length.
pub(super) fn escape(text: &[u8]) -> Look<(char, usize)> {
    let letter = text.get(1).ok_or(Stop::More)?;
    let character = match letter {
        b'"' | b'\\' | b'/' => char::from(*letter),
        b'b' => '\u{8}',
        b'f' => '\u{c}',
        b'n' => '\n',
        b'r' => '\r',
        b't' => '\t',
        b'u' => return unicode(text),
        _ => return Err(Stop::Bad("an unknown escape")),
    };
    Ok((character, 2))
}

fn unicode(text: &[u8]) -> Look<(char, usize)> {
    const HALF: Stop = Stop::Bad("half a surrogate pair");
    let first = hex4(text.get(2..).unwrap_or_default())?;
    if !(0xD800..0xDC00).contains(&first) {
        return char::from_u32(first).map(|character| (character, 6)).ok_or(HALF);
    }
    // This is the first half of a surrogate pair: the second half has to follow.
    for (at, byte) in [(6, b'\\'), (7, b'u')] {
        if *text.get(at).ok_or(Stop::More)? != byte {
            return Err(HALF);
        }
    }
    let second = hex4(text.get(8..).unwrap_or_default())?;
    if !(0xDC00..0xE000).contains(&second) {
        return Err(HALF);
    }
    let code = 0x1_0000 + ((first - 0xD800) << 10) + (second - 0xDC00);
    char::from_u32(code).map(|character| (character, 12)).ok_or(HALF)
}

fn hex4(text: &[u8]) -> Look<u32> {
    let mut code = 0;
    for at in 0..4 {
        let digit = text.get(at).ok_or(Stop::More)?;
        code = code * 16 + char::from(*digit).to_digit(16).ok_or(Stop::Bad("a bad \\u escape"))?;
    }
    Ok(code)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Decodes the string at the start of a JSON text.
    fn text(json: &str) -> Look<String> {
        Cursor::new(json.as_bytes()).string()?.text().map(Cow::into_owned)
    }

    #[test]
    fn escapes_stand_for_their_characters() {
        for (json, expected) in [
            (r#""""#, ""),
            (r#" "plain" "#, "plain"),
            (r#""\"\\\/\b\f\n\r\t.""#, "\"\\/\u{8}\u{c}\n\r\t."),
            (r#""a\u0000\u00e9\uD7ff\ue000\uFFFFz""#, "a\0\u{e9}\u{d7ff}\u{e000}\u{ffff}z"),
            (r#""\ud800\udc00\uD83D\uDE00\udbff\udfff""#, "\u{10000}\u{1f600}\u{10ffff}"),
        ] {
            assert_eq!(text(json).as_deref(), Ok(expected), "{json}");
        }
        for json in [
            r#""\x""#,
            r#""\u12""#,
            r#""\u12g4""#,
            r#""\udc00""#,
            r#""\ud800""#,
            r#""\ud800x""#,
            r#""\ud800\n""#,
            r#""\ud800\udbff""#,
            r#""\ud800\ue000""#,
            r#""\ud800\u""#,
        ] {
            assert!(matches!(text(json), Err(Stop::Bad(_))), "{json}: {:?}", text(json));
        }
    }

    #[test]
    fn names_are_the_same_however_they_are_escaped() {
        let is = |json: &str, name: &str| Cursor::new(json.as_bytes()).string().unwrap().is(name);
        assert!(is(r#""Data""#, "Data") && is(r#""D\u0061ta""#, "Data"));
        assert!(!is(r#""Date""#, "Data") && !is(r#""D\u0062ta""#, "Data") && !is(r#""\x""#, "x"));
    }

    #[test]
    fn cut_token_needs_more_input_and_a_wrong_one_does_not() {
        let more = |stopped: bool, json: &str| assert!(stopped, "{json}");
        for json in ["", " ", "\"", "\"a", "\"a\\", "\"a\\\""] {
            more(Cursor::new(json.as_bytes()).string().err() == Some(Stop::More), json);
        }
        for json in ["", "t", "tru"] {
            more(Cursor::new(json.as_bytes()).literal(b"true") == Err(Stop::More), json);
        }
        for json in ["", " ", "1", "-1.5e3"] {
            more(Cursor::new(json.as_bytes()).number() == Err(Stop::More), json);
        }
        for json in ["", "n", "nul"] {
            more(Cursor::new(json.as_bytes()).null() == Err(Stop::More), json);
        }
        assert!(matches!(Cursor::new(b"1").string(), Err(Stop::Bad(_))));
        assert!(matches!(Cursor::new(b"trx").literal(b"true"), Err(Stop::Bad(_))));
        assert!(matches!(Cursor::new(b"x").number(), Err(Stop::Bad(_))));
        assert_eq!(Cursor::new(b"1").null(), Ok(false));
    }

    #[test]
    fn skip_ends_behind_the_token() {
        let mut cursor = Cursor::new(b" \n\r\t\"a\\\"b\" , null 12}");
        assert_eq!(cursor.string().unwrap().text().unwrap(), "a\"b");
        assert_eq!(cursor.rest(), b" , null 12}");
        cursor.expect(b',', "a comma").unwrap();
        assert!(cursor.expect(b',', "a comma").is_err());
        assert!(cursor.optional_string().unwrap().is_none());
        assert_eq!(cursor.number(), Ok(&b"12"[..]));
        assert_eq!(cursor.peek(), Ok(b'}'));
        cursor.pass();
        cursor.pass();
        assert_eq!((cursor.at, cursor.rest()), (cursor.text.len(), &b""[..]));
    }

    #[test]
    fn whole_numbers_are_read_in_every_form() {
        for (number, expected) in
            [("0", 0), ("-12", -12), ("12.0", 12), ("1e3", 1000), ("9223372036854775807", i64::MAX)]
        {
            assert_eq!(integer(number.as_bytes()), Ok(expected), "{number}");
        }
        for number in ["", "-", "1.2.3", "e"] {
            assert!(integer(number.as_bytes()).is_err(), "{number}");
        }
    }

    #[test]
    fn times_are_read_in_every_form_of_a_number() {
        for (text, expected) in [
            ("1700000000.123", 1_700_000_000_123),
            ("1.700000000123E9", 1_700_000_000_123),
            ("1.7e9", 1_700_000_000_000),
            ("17e8", 1_700_000_000_000),
            ("17e+8", 1_700_000_000_000),
            ("1700000000000e-3", 1_700_000_000_000),
            ("1700000000", 1_700_000_000_000),
            ("1700000000.1234567", 1_700_000_000_123),
            ("1700000000.1235", 1_700_000_000_124),
            ("1700000000.1234", 1_700_000_000_123),
            ("0.0005", 1),
            ("0.00049", 0),
            ("1.7E9", 1_700_000_000_000),
            ("1.5e0", 1500),
            ("9223372036854775.807", i64::MAX),
            ("0", 0),
            ("-1.5", -1500),
            ("-0.0", 0),
            ("1e300", i64::MAX),
            ("99999999999999999999", i64::MAX),
            ("1700000000.12345678901234567890", 1_700_000_000_123),
        ] {
            assert_eq!(millis(text.as_bytes()), Ok(expected), "{text}");
        }
        for text in ["1.", ".", "e5", "1e", "1.2.3", "--1", "1e9e9"] {
            let expected = text.parse::<f64>().map(|seconds| (seconds * 1000.0).round() as i64).ok();
            assert_eq!(millis(text.as_bytes()).ok(), expected, "{text}");
        }
    }

    proptest! {
        #[test]
        fn times_are_read_as_floating_point_reads_them(millis in 0..4_000_000_000_000_i64) {
            let seconds = millis as f64 / 1000.0;
            for text in [format!("{seconds}"), format!("{seconds:e}"), format!("{seconds:.3}"), format!("{seconds:.6}")] {
                prop_assert_eq!(super::millis(text.as_bytes()), Ok(millis), "{}", text);
            }
        }
    }
}
