//! How is a number of bytes written in a configuration? The parser is written by hand, because the `bytesize` crate
//! turns a size that is too large into the largest one instead of an error, and accepts more spellings than the
//! pattern in the schema.

use std::borrow::Cow;
use std::fmt;
use std::str::FromStr;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

/// A number of bytes: `268435456`, `256MiB` (times 1024 × 1024), `256MB` (times 1,000,000).
///
/// Units are `B`, `kB`, `MB`, `GB`, `TB`, `PB` (powers of 1000) and `KiB`, `MiB`, `GiB`, `TiB`, `PiB` (powers of
/// 1024), in any case, with or without a space before them; a fraction needs a unit (`1.5GiB`).
#[derive(Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ByteSize(u64);

/// The reason why a text is not a size.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ByteSizeError {
    /// The text isn't a number with a unit.
    #[error("not a size: expected a number of bytes with or without a unit, such as `1048576`, `256MiB` or `1.5GB`")]
    Syntax,
    /// The unit is unknown.
    #[error("unknown unit: use `B`, `kB`, `MB`, `GB`, `TB`, `PB`, or `KiB`, `MiB`, `GiB`, `TiB`, `PiB`")]
    UnknownUnit,
    /// The number has a minus sign.
    #[error("a size can't be negative")]
    Negative,
    /// The size doesn't fit in 64 bits.
    #[error("the size is too large: at most 16383 PiB")]
    TooLarge,
}

/// The texts that [`ByteSize`] accepts, as a regular expression of JSON Schema.
const PATTERN: &str = r"^([0-9]+|[0-9]+(\.[0-9]+)? ?([bB]|[kKmMgGtTpP][iI]?[bB]))$";

const UNITS: [(&str, u64); 11] = [
    ("b", 1),
    ("kb", 1_000),
    ("mb", 1_000_000),
    ("gb", 1_000_000_000),
    ("tb", 1_000_000_000_000),
    ("pb", 1_000_000_000_000_000),
    ("kib", 1 << 10),
    ("mib", 1 << 20),
    ("gib", 1 << 30),
    ("tib", 1 << 40),
    ("pib", 1 << 50),
];

impl ByteSize {
    /// Creates a size of this many bytes.
    pub const fn from_bytes(bytes: u64) -> Self {
        Self(bytes)
    }

    /// Creates a size of this many mebibytes (1024 × 1024 bytes), capped at the largest size.
    pub const fn from_mib(mib: u64) -> Self {
        Self(mib.saturating_mul(1 << 20))
    }

    /// Returns the number of bytes.
    pub const fn bytes(self) -> u64 {
        self.0
    }
}

impl From<ByteSize> for u64 {
    fn from(size: ByteSize) -> Self {
        size.0
    }
}

impl FromStr for ByteSize {
    type Err = ByteSizeError;

    fn from_str(text: &str) -> Result<Self, ByteSizeError> {
        if text.starts_with('-') {
            return Err(ByteSizeError::Negative);
        }
        let number_len = text.find(|c: char| c != '.' && !c.is_ascii_digit()).unwrap_or(text.len());
        let (number, unit) = text.split_at(number_len);
        let (whole, fraction) = match number.split_once('.') {
            Some((whole, fraction)) if !fraction.is_empty() && !fraction.contains('.') => (whole, fraction),
            Some(_) => return Err(ByteSizeError::Syntax),
            None => (number, ""),
        };
        if whole.is_empty() || (unit.is_empty() && !fraction.is_empty()) {
            return Err(ByteSizeError::Syntax);
        }
        let unit = unit.strip_prefix(' ').unwrap_or(unit).to_ascii_lowercase();
        let scale = match UNITS.iter().find(|(name, _)| *name == unit) {
            Some((_, scale)) => *scale,
            None if number.len() == text.len() => 1,
            None if unit.chars().all(char::is_alphabetic) && !unit.is_empty() => {
                return Err(ByteSizeError::UnknownUnit);
            }
            None => return Err(ByteSizeError::Syntax),
        };
        let whole: u64 = whole.parse().map_err(|_| ByteSizeError::TooLarge)?;
        // 2^50 has 16 digits; further digits are less than a byte. 18 digits times 2^50 fit in 128 bits.
        let fraction = &fraction[..fraction.len().min(18)];
        let below: u128 = if fraction.is_empty() { 0 } else { fraction.parse().map_err(|_| ByteSizeError::Syntax)? };
        let below = below * u128::from(scale) / 10_u128.pow(u32::try_from(fraction.len()).unwrap_or(0));
        let below = u64::try_from(below).map_err(|_| ByteSizeError::TooLarge)?;
        whole.checked_mul(scale).and_then(|bytes| bytes.checked_add(below)).map(Self).ok_or(ByteSizeError::TooLarge)
    }
}

impl fmt::Display for ByteSize {
    /// Formats the size with the largest unit of 1024s that leaves a whole number: `256MiB`; otherwise as a
    /// bare number of bytes.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (unit, shift) in [("PiB", 50), ("TiB", 40), ("GiB", 30), ("MiB", 20), ("KiB", 10)] {
            let scale = 1_u64 << shift;
            if self.0 >= scale && self.0.is_multiple_of(scale) {
                return write!(f, "{}{unit}", self.0 / scale);
            }
        }
        write!(f, "{}", self.0)
    }
}

impl fmt::Debug for ByteSize {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl Serialize for ByteSize {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        // A size for which a unit would add nothing is a number, so that a default of 0 is shown as 0.
        if self.0 < 1024 { serializer.serialize_u64(self.0) } else { serializer.collect_str(self) }
    }
}

impl<'de> Deserialize<'de> for ByteSize {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Visitor;

        impl de::Visitor<'_> for Visitor {
            type Value = ByteSize;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a number of bytes such as `1048576` or `256MiB`")
            }

            fn visit_u64<E: de::Error>(self, bytes: u64) -> Result<ByteSize, E> {
                Ok(ByteSize(bytes))
            }

            fn visit_i64<E: de::Error>(self, bytes: i64) -> Result<ByteSize, E> {
                u64::try_from(bytes).map(ByteSize).map_err(|_| E::custom(ByteSizeError::Negative))
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<ByteSize, E> {
                text.parse().map_err(E::custom)
            }
        }

        deserializer.deserialize_any(Visitor)
    }
}

impl JsonSchema for ByteSize {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> Cow<'static, str> {
        "ByteSize".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "type": ["integer", "string"],
            "minimum": 0,
            "maximum": u64::MAX,
            "pattern": PATTERN,
            "x-type": "size",
        })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn sizes_are_read_with_and_without_units() {
        for (text, bytes) in [
            ("0", 0),
            ("1048576", 1 << 20),
            ("256MiB", 256 << 20),
            ("256mib", 256 << 20),
            ("256 MiB", 256 << 20),
            ("256MB", 256_000_000),
            ("5kB", 5000),
            ("5KB", 5000),
            ("5B", 5),
            ("1.5GiB", 3 << 29),
            ("0.5kB", 500),
            ("1.9B", 1),
            ("16383PiB", 16383 << 50),
            ("18446744073709551615", u64::MAX),
        ] {
            assert_eq!(text.parse::<ByteSize>().map(ByteSize::bytes), Ok(bytes), "{text}");
        }
    }

    #[test]
    fn anything_else_is_refused() {
        use ByteSizeError as E;
        for (text, error) in [
            ("", E::Syntax),
            ("-1", E::Negative),
            ("MiB", E::Syntax),
            ("1.5", E::Syntax),
            ("1.MiB", E::Syntax),
            (".5MiB", E::Syntax),
            ("1.2.3MiB", E::Syntax),
            ("5 ", E::Syntax),
            ("5  MiB", E::Syntax),
            ("5MiB ", E::Syntax),
            ("1e3", E::Syntax),
            ("5M", E::UnknownUnit),
            ("5EiB", E::UnknownUnit),
            ("16384PiB", E::TooLarge),
            ("18446744073709551616", E::TooLarge),
            ("99999999999999999999999B", E::TooLarge),
        ] {
            assert_eq!(text.parse::<ByteSize>(), Err(error), "{text:?}");
        }
    }

    #[test]
    fn numbers_and_texts_are_both_taken() {
        assert_eq!(serde_json::from_str::<ByteSize>("5").unwrap().bytes(), 5);
        assert_eq!(serde_json::from_str::<ByteSize>("\"5KiB\"").unwrap().bytes(), 5120);
        assert!(serde_json::from_str::<ByteSize>("-5").is_err());
        assert!(serde_json::from_str::<ByteSize>("1.5").is_err());
        assert_eq!(serde_json::to_string(&ByteSize::from_mib(256)).unwrap(), "\"256MiB\"");
        assert_eq!(serde_json::to_string(&ByteSize::default()).unwrap(), "0");
    }

    proptest! {
        #[test]
        fn shown_value_is_read_back(bytes in prop_oneof![any::<u64>(), (0_u64..1024, 0_u32..54).prop_map(|(n, shift)| n << shift)]) {
            let size = ByteSize::from_bytes(bytes);
            prop_assert_eq!(size.to_string().parse::<ByteSize>(), Ok(size));
        }

        #[test]
        fn parser_never_panics_and_agrees_with_the_schema(text in "[0-9]{0,22}([.][0-9]{0,25})?([ -]|[kMGTPE]i?B?|B|.){0,2}") {
            let pattern = serde_json::json!({ "pattern": PATTERN });
            let fits = jsonschema::is_valid(&pattern, &text.as_str().into());
            match text.parse::<ByteSize>() {
                Ok(_) => prop_assert!(fits, "{:?}", text),
                Err(ByteSizeError::TooLarge) => {}
                Err(_) => prop_assert!(!fits, "{:?}", text),
            }
        }
    }
}
