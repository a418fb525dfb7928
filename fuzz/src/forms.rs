//! In which forms can an event be written?
//!
//! This module makes an event up and writes it in any form that JSON allows: fields in any order, with unknown ones
//! among them and earlier values that later ones replace, white space anywhere, characters escaped or not, numbers with
//! fractions and exponents, and empty values omitted, null or empty.

use std::fmt::Write;

use super::choices::Choices;
use super::said::{Child, Record, Said};

/// An event, and the text in which it is written.
#[derive(Debug)]
pub struct Made {
    pub said: Said,
    pub text: String,
    /// The unusual forms in the text.
    pub quirks: Vec<Quirk>,
    /// Whether a field comes twice.
    pub repeats: bool,
}

/// Forms that are valid but that some readers refuse.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Quirk {
    /// A whole number with a fraction or an exponent.
    WholeNumberAsFloat,
    /// An unknown value nested more than 128 deep.
    DeepUnknown,
}

/// Makes an event from choices.
pub fn make(choices: &mut Choices<'_>) -> Made {
    let mut writer = Writer { spaced: choices.once_in(3), quirks: Vec::new(), repeats: false, choices };
    let said = writer.make_event();
    let text = writer.event(&said);
    Made { said, text, quirks: writer.quirks, repeats: writer.repeats }
}

/// Changes a few bytes of a text: inserts, removes and replaces some.
pub fn spoil(text: &str, choices: &mut Choices<'_>) -> Vec<u8> {
    const TELLING: &[u8] = b"\"\\{}[],:nu0-+.eE \x00\x1f\x80\xff";
    let mut bytes = text.as_bytes().to_vec();
    for _ in 0..=choices.below(4) {
        let at = choices.below(bytes.len() + 1);
        let byte = if choices.once_in(3) { choices.byte() } else { choices.pick(TELLING) };
        match choices.below(4) {
            0 if at < bytes.len() => bytes[at] = byte,
            1 if at < bytes.len() => drop(bytes.remove(at)),
            2 => bytes.truncate(at),
            _ => bytes.insert(at, byte),
        }
    }
    bytes
}

struct Writer<'c, 'b> {
    choices: &'c mut Choices<'b>,
    /// Whether there is white space between the tokens.
    spaced: bool,
    quirks: Vec<Quirk>,
    repeats: bool,
}

/// A field in its written form: its name and its value.
type Field = (String, String);

impl Writer<'_, '_> {
    fn make_event(&mut self) -> Said {
        let records = match self.choices.below(16) {
            15 => self.choices.below(300),
            few => few % 5,
        };
        Said {
            records: (0..records).map(|_| self.make_record()).collect(),
            continuation: self.choices.once_in(2).then(|| self.make_sequence()),
            millis_behind: self.choices.once_in(2).then(|| self.make_millis_behind()),
            children: (0..self.choices.below(8) / 3).map(|_| self.make_child()).collect(),
        }
    }

    fn make_record(&mut self) -> Record {
        let data_len = if self.choices.once_in(32) { self.choices.below(5000) } else { self.choices.below(40) };
        let seed = self.choices.byte();
        Record {
            sequence: self.make_sequence(),
            // Every sextet occurs, including `+` and `/`.
            data: (0..data_len).map(|at| seed.wrapping_mul(at as u8 | 1).wrapping_add(at as u8)).collect(),
            key: self.choices.once_in(4).then(|| self.make_text()).or_else(|| Some("key".to_owned())),
            arrival_millis: self.choices.once_in(2).then(|| self.make_arrival()),
        }
        .without_key(self.choices.once_in(8))
    }

    fn make_sequence(&mut self) -> String {
        match self.choices.below(16) {
            14 => "\"\\/!~".repeat(1 + self.choices.below(8)),
            15 => "7".repeat(256),
            _ => {
                let number = u128::from(self.choices.number()) << 64 | u128::from(self.choices.byte());
                number.to_string()
            }
        }
    }

    fn make_millis_behind(&mut self) -> i64 {
        let any = self.choices.number().cast_signed();
        self.choices.pick(&[0, any % 1_000_000, any, i64::MAX, i64::MIN])
    }

    fn make_arrival(&mut self) -> i64 {
        const WITHIN_MILLIS: i64 = 4_000_000_000_000;
        let any = self.choices.number().cast_signed() % WITHIN_MILLIS;
        self.choices.pick(&[1_700_000_000_000, 1_700_000_000_123, any, any / 1000 * 1000, any % 2000])
    }

    fn make_child(&mut self) -> Child {
        let id = |writer: &mut Self| match writer.choices.below(4) {
            3 => writer.make_text(),
            number => format!("shardId-{number:012}"),
        };
        Child { id: id(self), parents: (0..self.choices.below(3)).map(|_| id(self)).collect() }
    }

    fn make_text(&mut self) -> String {
        const EDGES: &[char] = &[
            '"',
            '\\',
            '/',
            '\0',
            '\n',
            '\u{1f}',
            ' ',
            '\u{7f}',
            '\u{80}',
            'ü',
            '\u{7ff}',
            '\u{800}',
            '\u{d7ff}',
            '\u{e000}',
            '\u{feff}',
            '\u{ffff}',
            '\u{10000}',
            '😀',
            '\u{10ffff}',
            '\u{2028}',
        ];
        let len = if self.choices.once_in(16) { self.choices.below(1000) } else { self.choices.below(20) };
        let mut text = String::new();
        for _ in 0..len {
            text.push(match self.choices.below(4) {
                0 | 1 => char::from(b'a' + self.choices.below(26) as u8),
                2 => self.choices.pick(EDGES),
                _ => char::from_u32(self.choices.number() as u32 % 0x11_0000).unwrap_or('\u{fffd}'),
            });
        }
        text
    }

    fn event(&mut self, said: &Said) -> String {
        let mut fields = Vec::new();
        let records: Vec<_> = said.records.iter().map(|record| self.record(record)).collect();
        self.list(&mut fields, "Records", &records);
        let continuation = said.continuation.as_ref().map(|text| self.string(text));
        self.optional(&mut fields, "ContinuationSequenceNumber", continuation, Some("\"\""));
        let millis = said.millis_behind.map(|millis| self.integer(millis));
        self.optional(&mut fields, "MillisBehindLatest", millis, None);
        let children: Vec<_> = said.children.iter().map(|child| self.child(child)).collect();
        self.list(&mut fields, "ChildShards", &children);
        let object = self.object(fields);
        format!("{}{object}{}", self.space(), self.space())
    }

    fn record(&mut self, record: &Record) -> String {
        let mut fields = Vec::new();
        let sequence = self.string(&record.sequence);
        self.optional(&mut fields, "SequenceNumber", Some(sequence), None);
        let data = (!record.data.is_empty()).then(|| self.string(&base64(&record.data)));
        self.optional(&mut fields, "Data", data, Some("\"\""));
        let key = record.key.as_ref().map(|key| self.string(key));
        self.optional(&mut fields, "PartitionKey", key, None);
        let arrival = record.arrival_millis.map(|millis| self.timestamp(millis));
        self.optional(&mut fields, "ApproximateArrivalTimestamp", arrival, None);
        if self.choices.once_in(2) {
            let encryption = self.choices.pick(&["\"NONE\"", "\"KMS\"", "null", "\"Tomorrow\""]);
            fields.push(("EncryptionType".to_owned(), encryption.to_owned()));
        }
        self.object(fields)
    }

    fn child(&mut self, child: &Child) -> String {
        let mut fields = Vec::new();
        let id = self.string(&child.id);
        self.optional(&mut fields, "ShardId", Some(id), None);
        let parents: Vec<_> = child.parents.iter().map(|parent| self.string(parent)).collect();
        self.list(&mut fields, "ParentShards", &parents);
        if self.choices.once_in(2) {
            let range = r#"{"StartingHashKey":"0","EndingHashKey":"340282366920938463463374607431768211455"}"#;
            fields.push(("HashKeyRange".to_owned(), range.to_owned()));
        }
        self.object(fields)
    }

    /// A field with a list, which may be omitted or null if the list is empty.
    fn list(&mut self, fields: &mut Vec<Field>, name: &str, elements: &[String]) {
        let list = (!elements.is_empty()).then(|| self.elements('[', elements, ']'));
        self.optional(fields, name, list, Some("[]"));
    }

    /// A field with a value; without one it may be omitted, null, or `empty`.
    fn optional(&mut self, fields: &mut Vec<Field>, name: &str, value: Option<String>, empty: Option<&str>) {
        let value = value.or_else(|| match (self.choices.below(3), empty) {
            (0, _) => None,
            (1, Some(empty)) => Some(empty.to_owned()),
            _ => Some("null".to_owned()),
        });
        if let Some(value) = value {
            fields.push((name.to_owned(), value));
        }
    }

    /// An object of fields, in any order, with unknown ones among them.
    fn object(&mut self, mut fields: Vec<Field>) -> String {
        for last in (1..fields.len()).rev() {
            if self.choices.once_in(2) {
                let with = self.choices.below(last + 1);
                fields.swap(last, with);
            }
        }
        if self.choices.once_in(6) {
            self.repeat_one(&mut fields);
        }
        for _ in 0..self.choices.below(16) / 12 {
            let at = self.choices.below(fields.len() + 1);
            let unknown = (self.unknown_name(), self.unknown(0));
            fields.insert(at, unknown);
        }
        let fields: Vec<_> = fields
            .iter()
            .map(|(name, value)| {
                let name = self.string(name);
                format!("{name}{}:{}{value}", self.space(), self.space())
            })
            .collect();
        self.elements('{', &fields, '}')
    }

    /// Gives one of the fields another value before its own. The last value counts; but a null is the last value for
    /// some readers and ignored by others.
    fn repeat_one(&mut self, fields: &mut Vec<Field>) {
        if fields.is_empty() {
            return;
        }
        let at = self.choices.below(fields.len());
        let (name, value) = &fields[at];
        if value == "null" {
            return;
        }
        let earlier = match &name[..] {
            "Records" => r#"[{"SequenceNumber":"1","Data":"AAAA"}]"#,
            "ContinuationSequenceNumber" | "SequenceNumber" => "\"999\"",
            "MillisBehindLatest" | "ApproximateArrivalTimestamp" => "86400",
            "ChildShards" => r#"[{"ShardId":"shardId-9","ParentShards":["a","b","c"]}]"#,
            "Data" => "\"aGVsbG8=\"",
            "PartitionKey" | "ShardId" => r#""\u0000earlier""#,
            "ParentShards" => r#"["earlier"]"#,
            _ => return,
        };
        let earlier = if self.choices.once_in(4) { "null" } else { earlier };
        let field = (name.clone(), earlier.to_owned());
        let before = self.choices.below(at + 1);
        fields.insert(before, field);
        self.repeats = true;
    }

    fn unknown_name(&mut self) -> String {
        const NAMES: &[&str] =
            &["Encryption", "Unknown", "", "data", "Dat", "Data ", "Data\0", "Records\u{fe0f}", "\u{feff}Data"];
        if self.choices.once_in(4) {
            // A name that only begins like a known one.
            format!("Records.{}", self.make_text())
        } else {
            self.choices.pick(NAMES).to_owned()
        }
    }

    /// A value of an unknown field.
    fn unknown(&mut self, depth: usize) -> String {
        match self.choices.below(if depth < 4 { 9 } else { 6 }) {
            0 => "\"NONE\"".to_owned(),
            1 => {
                let text = self.make_text();
                self.string(&text)
            }
            2 => self.choices.pick(&["true", "false", "null"]).to_owned(),
            3 => self
                .choices
                .pick(&["0", "-0", "1", "-2.5e-3", "1E+400", "0.1e1", "123456789012345678901234"])
                .to_owned(),
            // Text that would mislead a reader that doesn't know where a string ends.
            4 => r#""]},{\"Data\":\"AAAA\"\\""#.to_owned(),
            5 if self.choices.once_in(16) => {
                let depth = 129 + self.choices.below(300);
                self.quirks.push(Quirk::DeepUnknown);
                let (open, close) = self.choices.pick(&[("[", "]"), ("{\"a\":", "}")]);
                format!("{}0{}", open.repeat(depth), close.repeat(depth))
            }
            5 | 6 => self.choices.pick(&["[]", "{}", "[[]]", r#"{"Records":[{"Data":"*"}]}"#]).to_owned(),
            7 => {
                let elements: Vec<_> = (0..self.choices.below(4)).map(|_| self.unknown(depth + 1)).collect();
                self.elements('[', &elements, ']')
            }
            _ => {
                let fields: Vec<_> = (0..self.choices.below(4))
                    .map(|_| {
                        let name = self.unknown_name();
                        format!("{}:{}", self.string(&name), self.unknown(depth + 1))
                    })
                    .collect();
                self.elements('{', &fields, '}')
            }
        }
    }

    fn elements(&mut self, open: char, elements: &[String], close: char) -> String {
        let mut text = String::from(open);
        for (at, element) in elements.iter().enumerate() {
            if at > 0 {
                text.push(',');
            }
            text += self.space();
            text += element;
            text += self.space();
        }
        text += self.space();
        text.push(close);
        text
    }

    fn space(&mut self) -> &'static str {
        if self.spaced { self.choices.pick(&["", " ", "\n", "\t", "\r\n", "    "]) } else { "" }
    }

    /// A string whose characters are escaped where they must be, where they may be, or all of them.
    fn string(&mut self, text: &str) -> String {
        let style = self.choices.below(8);
        let mut out = String::from('"');
        for character in text.chars() {
            let short = match character {
                '"' => Some('"'),
                '\\' => Some('\\'),
                '/' => Some('/'),
                '\u{8}' => Some('b'),
                '\u{c}' => Some('f'),
                '\n' => Some('n'),
                '\r' => Some('r'),
                '\t' => Some('t'),
                _ => None,
            };
            let must = character < ' ' || matches!(character, '"' | '\\');
            let form = match style {
                6 => self.choices.below(4),
                7 => 3,
                _ => 0,
            };
            match (form, short) {
                (0 | 2, _) if !must => out.push(character),
                (0 | 1, Some(letter)) => out.extend(['\\', letter]),
                _ => {
                    let upper = self.choices.once_in(2);
                    for unit in character.encode_utf16(&mut [0; 2]) {
                        let written = if upper { write!(out, "\\u{unit:04X}") } else { write!(out, "\\u{unit:04x}") };
                        debug_assert!(written.is_ok());
                    }
                }
            }
        }
        out.push('"');
        out
    }

    fn integer(&mut self, number: i64) -> String {
        // Beyond this, not every whole number can be represented as a float.
        const EXACT: u64 = 1 << 53;
        if number.unsigned_abs() > EXACT || !self.choices.once_in(3) {
            return if number == 0 && self.choices.once_in(4) { "-0".to_owned() } else { number.to_string() };
        }
        self.quirks.push(Quirk::WholeNumberAsFloat);
        match self.choices.below(5) {
            0 => format!("{number}.0"),
            1 => format!("{number}e0"),
            2 => format!("{number}0E-1"),
            3 => format!("{number}.000e+0"),
            _ => format!("{:e}", Decimal { digits: number, after_point: 0 }),
        }
    }

    fn timestamp(&mut self, millis: i64) -> String {
        let number = Decimal { digits: millis, after_point: 3 };
        match self.choices.below(6) {
            0 if millis % 1000 == 0 => (millis / 1000).to_string(),
            0 | 1 => number.to_string(),
            2 => format!("{number}000"),
            3 => format!("{number}e0"),
            4 => format!("{millis}e-3"),
            _ => format!("{number:e}"),
        }
    }
}

impl Record {
    fn without_key(mut self, without: bool) -> Self {
        if without {
            self.key = None;
        }
        self
    }
}

/// A decimal fraction that is written exactly.
struct Decimal {
    digits: i64,
    /// The number of digits after the point.
    after_point: usize,
}

impl std::fmt::Display for Decimal {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let sign = if self.digits < 0 { "-" } else { "" };
        let digits = format!("{:0width$}", self.digits.unsigned_abs(), width = self.after_point + 1);
        let (whole, fraction) = digits.split_at(digits.len() - self.after_point);
        write!(f, "{sign}{whole}.{fraction}")
    }
}

impl std::fmt::LowerExp for Decimal {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let sign = if self.digits < 0 { "-" } else { "" };
        let digits = self.digits.unsigned_abs().to_string();
        let exponent = (digits.len() - 1).cast_signed() - self.after_point.cast_signed();
        let (first, rest) = digits.split_at(1);
        let point = if rest.is_empty() { "" } else { "." };
        write!(f, "{sign}{first}{point}{rest}E{exponent}")
    }
}

/// Data in base64.
pub fn base64(data: &[u8]) -> String {
    const LETTERS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut out = String::new();
    for group in data.chunks(3) {
        let bits = group.iter().fold(0_u32, |bits, byte| bits << 8 | u32::from(*byte)) << (8 * (3 - group.len()));
        for at in 0..4 {
            let sextet = (bits >> (18 - 6 * at) & 63) as usize;
            out.push(if at <= group.len() { char::from(LETTERS[sextet]) } else { '=' });
        }
    }
    out
}
