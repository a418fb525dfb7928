//! How is a point in time written?

use std::borrow::Cow;
use std::fmt;
use std::str::FromStr;
use std::time::SystemTime;

use pipeline_plugin_api::config::schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

/// A point in time, written in RFC 3339: `2026-11-01T00:00:00Z`, `2026-11-01T01:00:00.5+01:00`.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Timestamp(jiff::Timestamp);

/// The error of a text that is not an RFC 3339 time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("expected a time in RFC 3339, such as `2026-11-01T00:00:00Z` or `2026-11-01T01:00:00+01:00`")]
pub struct NotATimestamp;

const PATTERN: &str =
    r"^[0-9]{4}-[0-9]{2}-[0-9]{2}[Tt][0-9]{2}:[0-9]{2}:[0-9]{2}(\.[0-9]{1,9})?([Zz]|[+-][0-9]{2}:[0-9]{2})$";

impl Timestamp {
    /// The same time as a `SystemTime`.
    pub fn system_time(self) -> SystemTime {
        self.0.into()
    }
}

impl FromStr for Timestamp {
    type Err = NotATimestamp;

    fn from_str(text: &str) -> Result<Self, NotATimestamp> {
        if !has_the_shape(text) {
            return Err(NotATimestamp);
        }
        text.parse().map(Self).map_err(|_| NotATimestamp)
    }
}

/// Checks the form. The parser accepts more than RFC 3339: spaces, missing seconds, names of zones. Other tools would
/// not.
fn has_the_shape(text: &str) -> bool {
    let Some((date_time, rest)) = text.split_at_checked(19) else { return false };
    let fits = |text: &str, shape: &str| {
        text.len() == shape.len()
            && text.bytes().zip(shape.bytes()).all(|(byte, shape)| match shape {
                b'0' => byte.is_ascii_digit(),
                b'T' => byte == b'T' || byte == b't',
                other => byte == other,
            })
    };
    let zone = match rest.strip_prefix('.') {
        Some(fraction) => {
            let digits = fraction.bytes().take_while(u8::is_ascii_digit).count();
            if !(1..=9).contains(&digits) {
                return false;
            }
            &fraction[digits..]
        }
        None => rest,
    };
    let known_zone = matches!(zone, "Z" | "z") || fits(zone, "+00:00") || fits(zone, "-00:00");
    fits(date_time, "0000-00-00T00:00:00") && known_zone
}

impl fmt::Display for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl fmt::Debug for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl Serialize for Timestamp {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Timestamp {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Cow::<str>::deserialize(deserializer)?.parse().map_err(de::Error::custom)
    }
}

impl JsonSchema for Timestamp {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> Cow<'static, str> {
        "Timestamp".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "type": "string", "format": "date-time", "pattern": PATTERN, "x-type": "time" })
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, UNIX_EPOCH};

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn rfc_3339_is_read_with_its_zone() {
        for text in ["2023-11-14T22:13:20.5Z", "2023-11-14T23:13:20.5+01:00", "2023-11-14t17:13:20.500-05:00"] {
            let time: Timestamp = text.parse().unwrap();
            assert_eq!(time.system_time(), UNIX_EPOCH + Duration::from_millis(1_700_000_000_500), "{text}");
        }
    }

    #[test]
    fn other_forms_of_time_are_refused() {
        for text in [
            "",
            "2023-11-14",
            "2023-11-14T22:13Z",
            "2023-11-14T22:13:20",
            "2023-11-14 22:13:20Z",
            "2023-13-14T22:13:20Z",
            "2023-11-14T22:13:20+0100",
            "2023-11-14T22:13:20Z[Europe/Paris]",
            "2023-11-14T22:13:20.Z",
            "1700000000",
            "now",
        ] {
            assert_eq!(text.parse::<Timestamp>(), Err(NotATimestamp), "{text}");
        }
    }

    proptest! {
        #[test]
        fn no_text_causes_a_panic(text in ".{0,40}") {
            let _ = text.parse::<Timestamp>();
        }

        #[test]
        fn displayed_value_is_read_back(seconds in 0_i64..4_000_000_000, nanos in 0_i32..1_000_000_000) {
            let time = Timestamp(jiff::Timestamp::new(seconds, nanos).unwrap());
            prop_assert_eq!(time.to_string().parse::<Timestamp>(), Ok(time));
        }
    }
}
