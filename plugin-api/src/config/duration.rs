//! How is a duration written in a configuration? The parser is written by hand, because it has to accept exactly
//! what Go's `time.ParseDuration` accepts; the crates for durations accept other units, other spellings and no
//! fractions.

use std::borrow::Cow;
use std::fmt;
use std::ops::Deref;
use std::str::FromStr;
use std::time::Duration as StdDuration;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

/// A duration in Go's notation: `300ms`, `5s`, `1m30s`, `1.5h`, `0s`.
///
/// Units are `ns`, `us` (or `µs`), `ms`, `s`, `m` and `h`; a number without a unit is only allowed for `0`. The
/// longest duration is 2^63 - 1 nanoseconds, about 292 years. The type dereferences to [`std::time::Duration`].
#[derive(Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Duration(StdDuration);

/// The reason why a text is not a duration.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum DurationError {
    /// The text is empty.
    #[error("a duration is needed, such as `300ms`, `5s` or `1m30s`")]
    Empty,
    /// The text starts with a minus sign.
    #[error("a duration can't be negative")]
    Negative,
    /// A number was expected.
    #[error("not a duration: expected a number with a unit, such as `300ms`, `5s` or `1m30s`")]
    Number,
    /// A number has no unit.
    #[error("a unit is missing: write `ns`, `us`, `ms`, `s`, `m` or `h` after every number")]
    MissingUnit,
    /// A unit is unknown.
    #[error("unknown unit: use `ns`, `us`, `ms`, `s`, `m` or `h` (a day is `24h`)")]
    UnknownUnit,
    /// The duration is too long to be counted in nanoseconds.
    #[error("the duration is too long: at most about 292 years")]
    TooLong,
}

const UNITS: [(&str, u64); 8] = [
    ("ns", 1),
    ("us", 1_000),
    ("\u{b5}s", 1_000),
    ("\u{3bc}s", 1_000),
    ("ms", 1_000_000),
    ("s", 1_000_000_000),
    ("m", 60_000_000_000),
    ("h", 3_600_000_000_000),
];

impl Duration {
    /// The accepted texts, as a regular expression of JSON Schema.
    pub const PATTERN: &'static str = r"^\+?(0|(([0-9]+(\.[0-9]*)?|\.[0-9]+)(ns|us|µs|μs|ms|s|m|h))+)$";

    /// The duration of zero.
    pub const ZERO: Self = Self(StdDuration::ZERO);

    /// Creates a duration of this many milliseconds.
    pub const fn from_millis(millis: u64) -> Self {
        Self(StdDuration::from_millis(millis))
    }

    /// Creates a duration of this many seconds.
    pub const fn from_secs(secs: u64) -> Self {
        Self(StdDuration::from_secs(secs))
    }

    /// Converts the duration to a [`std::time::Duration`].
    pub const fn get(self) -> StdDuration {
        self.0
    }
}

impl Deref for Duration {
    type Target = StdDuration;

    fn deref(&self) -> &StdDuration {
        &self.0
    }
}

impl From<Duration> for StdDuration {
    fn from(duration: Duration) -> Self {
        duration.0
    }
}

impl From<StdDuration> for Duration {
    fn from(duration: StdDuration) -> Self {
        Self(duration)
    }
}

impl FromStr for Duration {
    type Err = DurationError;

    fn from_str(text: &str) -> Result<Self, DurationError> {
        if text.is_empty() {
            return Err(DurationError::Empty);
        }
        // Go allows `-0`, which has no use here.
        if text.starts_with('-') {
            return Err(DurationError::Negative);
        }
        let mut rest = text.strip_prefix('+').unwrap_or(text);
        if rest == "0" {
            return Ok(Self::ZERO);
        }
        if rest.is_empty() {
            return Err(DurationError::Number);
        }
        let mut total: u64 = 0;
        while !rest.is_empty() {
            let whole = digits(rest);
            rest = &rest[whole.len()..];
            let fraction = rest.strip_prefix('.').map(digits);
            if let Some(fraction) = fraction {
                rest = &rest[1 + fraction.len()..];
            }
            if whole.is_empty() && fraction.is_none_or(str::is_empty) {
                return Err(DurationError::Number);
            }
            let unit_len = rest.find(|c: char| c == '.' || c.is_ascii_digit()).unwrap_or(rest.len());
            let (unit, after) = rest.split_at(unit_len);
            rest = after;
            if unit.is_empty() {
                return Err(DurationError::MissingUnit);
            }
            let Some((_, scale)) = UNITS.iter().find(|(name, _)| *name == unit) else {
                return Err(DurationError::UnknownUnit);
            };
            let part = nanos(whole, fraction.unwrap_or(""), *scale).ok_or(DurationError::TooLong)?;
            total = total.checked_add(part).filter(|total| *total <= LONGEST).ok_or(DurationError::TooLong)?;
        }
        Ok(Self(StdDuration::from_nanos(total)))
    }
}

/// The limit is that of Go: a duration is a signed 64-bit number of nanoseconds.
const LONGEST: u64 = i64::MAX as u64;

fn digits(text: &str) -> &str {
    let end = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    &text[..end]
}

/// Returns `whole.fraction` times `scale` in nanoseconds, rounded down.
fn nanos(whole: &str, fraction: &str, scale: u64) -> Option<u64> {
    let whole: u64 = if whole.is_empty() { 0 } else { whole.parse().ok()? };
    // An hour has 3.6 * 10^12 ns: digits from the 14th on are less than a nanosecond.
    let fraction = &fraction[..fraction.len().min(15)];
    let below: u128 = if fraction.is_empty() { 0 } else { fraction.parse().ok()? };
    let below = below * u128::from(scale) / 10_u128.pow(u32::try_from(fraction.len()).ok()?);
    whole.checked_mul(scale)?.checked_add(u64::try_from(below).ok()?)
}

impl fmt::Display for Duration {
    /// Formats the shortest form with whole numbers: `1m30s`, `1500us`, `0s`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut rest = u64::try_from(self.0.as_nanos()).unwrap_or(u64::MAX);
        if rest == 0 {
            return f.write_str("0s");
        }
        for (unit, scale) in [("h", 3_600_000_000_000), ("m", 60_000_000_000), ("s", 1_000_000_000)] {
            if rest >= scale {
                write!(f, "{}{unit}", rest / scale)?;
                rest %= scale;
            }
        }
        for (unit, scale) in [("ms", 1_000_000), ("us", 1_000), ("ns", 1)] {
            if rest > 0 && rest.is_multiple_of(scale) {
                return write!(f, "{}{unit}", rest / scale);
            }
        }
        Ok(())
    }
}

impl fmt::Debug for Duration {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl Serialize for Duration {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Duration {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Visitor;

        impl de::Visitor<'_> for Visitor {
            type Value = Duration;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a duration such as `5s`")
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<Duration, E> {
                text.parse().map_err(E::custom)
            }
        }

        deserializer.deserialize_str(Visitor)
    }
}

impl JsonSchema for Duration {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> Cow<'static, str> {
        "Duration".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "type": "string", "pattern": Self::PATTERN, "x-type": "duration" })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn durations_are_read_as_go_reads_them() {
        for (text, nanos) in [
            ("0", 0),
            ("0s", 0),
            ("+5s", 5_000_000_000),
            ("300ms", 300_000_000),
            ("1m30s", 90_000_000_000),
            ("1.5h", 5_400_000_000_000),
            ("1h2m3.5s", 3_723_500_000_000),
            (".5s", 500_000_000),
            ("1.s", 1_000_000_000),
            ("5us", 5_000),
            ("5\u{b5}s", 5_000),
            ("5\u{3bc}s", 5_000),
            ("7ns", 7),
            ("0.1ns", 0),
            ("30s1m", 90_000_000_000),
            ("0.3333333333333333333h", 1_199_999_999_999),
            ("9223372036854775807ns", i64::MAX.unsigned_abs()),
        ] {
            assert_eq!(text.parse::<Duration>().map(|it| it.as_nanos()), Ok(u128::from(nanos)), "{text}");
        }
    }

    #[test]
    fn text_that_go_refuses_is_refused() {
        use DurationError as E;
        for (text, error) in [
            ("", E::Empty),
            ("-5s", E::Negative),
            ("-0s", E::Negative),
            ("5", E::MissingUnit),
            ("1m30", E::MissingUnit),
            ("00", E::MissingUnit),
            ("s", E::Number),
            (".s", E::Number),
            ("+", E::Number),
            ("five", E::Number),
            (" 5s", E::Number),
            ("5s ", E::UnknownUnit),
            ("5 s", E::UnknownUnit),
            ("5d", E::UnknownUnit),
            ("5S", E::UnknownUnit),
            ("1e3s", E::UnknownUnit),
            ("9223372036854775808ns", E::TooLong),
            ("99999999999999999999h", E::TooLong),
            ("2562048h", E::TooLong),
        ] {
            assert_eq!(text.parse::<Duration>(), Err(error), "{text:?}");
        }
    }

    proptest! {
        #[test]
        fn shown_value_is_read_back(nanos in 0..=i64::MAX.unsigned_abs()) {
            let duration = Duration::from(StdDuration::from_nanos(nanos));
            prop_assert_eq!(duration.to_string().parse::<Duration>(), Ok(duration));
        }

        #[test]
        fn parser_never_panics_and_agrees_with_the_schema(text in "([0-9]{0,22}|[.+-]|ns|us|\u{b5}s|ms|s|m|h|d| |.){0,5}") {
            let pattern = serde_json::json!({ "pattern": Duration::PATTERN });
            let fits = jsonschema::is_valid(&pattern, &text.as_str().into());
            match text.parse::<Duration>() {
                Ok(_) => prop_assert!(fits, "{:?}", text),
                Err(DurationError::TooLong) => {}
                Err(_) => prop_assert!(!fits, "{:?}", text),
            }
        }
    }
}
