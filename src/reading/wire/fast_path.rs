//! How is a record read that has the form that the service writes?
//!
//! The fast path takes a whole record without space between its tokens, with the known fields and without escapes, in
//! any order. Everything else is left to the general path, which reads the record again from its start: the fast path
//! exists only for speed.

use base64_simd::STANDARD as BASE64;

use super::json;
use crate::records::Filling;

/// Digits of the sequence numbers that the service assigns.
const USUAL_SEQUENCE: usize = 56;

/// Reads the record at the start of the text and returns its length. The result is `None`, and nothing was read, if
/// the record is not in the usual form.
pub(super) fn record(text: &[u8], into: &mut Filling) -> Option<usize> {
    let (mut data, mut sequence, mut key, mut arrival) = (None, None, None, None);
    let mut rest = text.strip_prefix(b"{")?;
    loop {
        // A field that occurs twice is left to the general path.
        rest = if let Some(value) = rest.strip_prefix(b"\"Data\":\"") {
            take(&mut data, string(value, b'"')?)?
        } else if let Some(value) = rest.strip_prefix(b"\"SequenceNumber\":\"") {
            take(&mut sequence, digits(value)?)?
        } else if let Some(value) = rest.strip_prefix(b"\"PartitionKey\":\"") {
            take(&mut key, string(value, b'\\')?)?
        } else if let Some(value) = rest.strip_prefix(b"\"ApproximateArrivalTimestamp\":") {
            take(&mut arrival, number(value)?)?
        } else {
            let value = rest.strip_prefix(b"\"EncryptionType\":\"")?;
            string(value, b'\\')?.1
        };
        let (next, after) = rest.split_first()?;
        rest = after;
        match next {
            b',' => {}
            b'}' => break,
            _ => return None,
        }
    }
    let (data, sequence) = (data?, sequence?);
    let arrival = match arrival {
        Some(number) => Some(json::millis(number).ok()?),
        None => None,
    };
    into.begin().ok()?;
    let decoded = into.data(data.len() / 4 * 3).ok()?;
    // The decoded data of an abandoned record is discarded when the next record begins.
    BASE64.decode_append(data, decoded).ok()?;
    into.end(sequence, key, arrival).ok()?;
    Some(text.len() - rest.len())
}

fn take<'a>(slot: &mut Option<&'a [u8]>, (value, rest): (&'a [u8], &'a [u8])) -> Option<&'a [u8]> {
    slot.replace(value).is_none().then_some(rest)
}

/// Takes the text up to the quote if `other` does not come before it; the rest begins behind the quote.
fn string(text: &[u8], other: u8) -> Option<(&[u8], &[u8])> {
    // Data is not searched for backslashes: a backslash is not base64.
    let end = if other == b'"' { memchr::memchr(b'"', text) } else { memchr::memchr2(b'"', other, text) }?;
    let (value, rest) = text.split_at(end);
    Some((value, rest.strip_prefix(b"\"")?))
}

/// Takes a string of digits. It is checked to be a sequence number when it is stored.
fn digits(text: &[u8]) -> Option<(&[u8], &[u8])> {
    if let Some((value, [b'"', rest @ ..])) = text.split_at_checked(USUAL_SEQUENCE)
        && value.iter().fold(true, |digits, byte| digits & byte.is_ascii_digit())
    {
        return Some((value, rest));
    }
    string(text, b'\\')
}

fn number(text: &[u8]) -> Option<(&[u8], &[u8])> {
    let end = text.iter().position(|byte| matches!(byte, b',' | b'}'))?;
    Some(text.split_at(end))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The length of the text that was read as a record, and the number, data and key of that record.
    fn read(text: &str) -> Option<(usize, String, Vec<u8>, Option<String>)> {
        let mut filling = Filling::default();
        filling.expect(text.len());
        let len = record(text.as_bytes(), &mut filling)?;
        let rows = filling.finish().unwrap();
        let record = rows.last().unwrap();
        Some((len, record.sequence().into(), record.data_ref().into(), record.partition_key().map(Into::into)))
    }

    #[test]
    fn form_of_the_service_takes_the_fast_path() {
        let usual = "4".repeat(USUAL_SEQUENCE);
        for sequence in ["495", &usual] {
            let fields = [
                format!(r#""SequenceNumber":"{sequence}""#),
                r#""Data":"aGVsbG8=""#.into(),
                r#""PartitionKey":"k""#.into(),
                r#""ApproximateArrivalTimestamp":1.7E9"#.into(),
                r#""EncryptionType":"KMS""#.into(),
            ];
            for first in 0..fields.len() {
                let in_any_order: Vec<_> = fields.iter().cycle().skip(first).take(fields.len()).cloned().collect();
                let text = format!("{{{}}}", in_any_order.join(","));
                let expected = Some((text.len(), sequence.into(), b"hello".to_vec(), Some("k".into())));
                assert_eq!(read(&text), expected, "{text}");
                assert_eq!(read(&format!("{text},{text}")), expected, "the next one is not read");
            }
        }
        assert!(read(r#"{"SequenceNumber":"1","Data":""}"#).is_some());
    }

    #[test]
    fn other_forms_are_left_to_the_general_path() {
        for text in [
            r#" {"SequenceNumber":"1","Data":""}"#,
            r#"{"SequenceNumber": "1","Data":""}"#,
            r#"{"SequenceNumber":"1","Data":"" }"#,
            r#"{"SequenceNumber":"1","Data":"";"PartitionKey":"k"}"#,
            r#"{"SequenceNumber":"1","Data":"","Data":""}"#,
            r#"{"SequenceNumber":"1","SequenceNumber":"1","Data":""}"#,
            r#"{"SequenceNumber":"1"}"#,
            r#"{"Data":""}"#,
            r#"{"SequenceNumber":"1","Data":"YQ\u003d="}"#,
            r#"{"SequenceNumber":"1","Data":"YQ="}"#,
            r#"{"SequenceNumber":"1\u0031","Data":""}"#,
            r#"{"SequenceNumber":"1","Data":"","PartitionKey":"\""}"#,
            r#"{"SequenceNumber":"1","Data":"","PartitionKey":null}"#,
            r#"{"SequenceNumber":"1","Data":"","EncryptionType":"\""}"#,
            r#"{"SequenceNumber":"1","Data":"","ApproximateArrivalTimestamp":x}"#,
            r#"{"SequenceNumber":"1","Data":"","Unknown":"x"}"#,
        ] {
            assert_eq!(read(text), None, "{text}");
        }
        let whole = r#"{"SequenceNumber":"1","Data":"YQ==","PartitionKey":"k","ApproximateArrivalTimestamp":1}"#;
        for len in 0..whole.len() {
            assert_eq!(read(&whole[..len]), None, "{len} bytes");
        }
    }

    #[test]
    fn short_sequence_number_ends_at_its_own_quote() {
        for len in 0..2 * USUAL_SEQUENCE {
            for sequence in ["1", "12"] {
                let key = "k".repeat(len);
                let text = format!(r#"{{"SequenceNumber":"{sequence}","Data":"","PartitionKey":"{key}"}}"#);
                assert_eq!(read(&text), Some((text.len(), sequence.into(), vec![], Some(key))));
            }
        }
    }
}
