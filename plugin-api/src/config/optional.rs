//! How is a value omitted in a configuration that lists every field?

use std::borrow::Cow;
use std::fmt;
use std::ops::Deref;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::de::value::BorrowedStrDeserializer;
use serde::de::{self, IntoDeserializer};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// A value that is written as text, or `""` for none.
///
/// Full examples write `period: ""` where there is no period, so an empty text has the same meaning as a missing
/// field. The type dereferences to an [`Option`].
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Optional<T>(Option<T>);

impl<T> Optional<T> {
    /// No value.
    pub const NONE: Self = Self(None);

    /// Creates a present value.
    pub const fn some(value: T) -> Self {
        Self(Some(value))
    }

    /// Returns the value, if there is one.
    pub fn into_option(self) -> Option<T> {
        self.0
    }
}

impl<T> Default for Optional<T> {
    fn default() -> Self {
        Self::NONE
    }
}

impl<T> From<Option<T>> for Optional<T> {
    fn from(value: Option<T>) -> Self {
        Self(value)
    }
}

impl<T> Deref for Optional<T> {
    type Target = Option<T>;

    fn deref(&self) -> &Option<T> {
        &self.0
    }
}

impl<T: fmt::Debug> fmt::Debug for Optional<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl<T: Serialize> Serialize for Optional<T> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match &self.0 {
            Some(value) => value.serialize(serializer),
            None => serializer.serialize_str(""),
        }
    }
}

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Optional<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Visitor<T>(std::marker::PhantomData<T>);

        impl<'de, T: Deserialize<'de>> de::Visitor<'de> for Visitor<T> {
            type Value = Optional<T>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("text (`\"\"` for none)")
            }

            fn visit_unit<E: de::Error>(self) -> Result<Self::Value, E> {
                Ok(Optional::NONE)
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<Self::Value, E> {
                if text.is_empty() {
                    return Ok(Optional::NONE);
                }
                T::deserialize(text.to_owned().into_deserializer()).map(Optional::some)
            }

            fn visit_borrowed_str<E: de::Error>(self, text: &'de str) -> Result<Self::Value, E> {
                if text.is_empty() {
                    return Ok(Optional::NONE);
                }
                T::deserialize(BorrowedStrDeserializer::new(text)).map(Optional::some)
            }
        }

        deserializer.deserialize_str(Visitor(std::marker::PhantomData))
    }
}

impl<T: JsonSchema> JsonSchema for Optional<T> {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> Cow<'static, str> {
        format!("Optional{}", T::schema_name()).into()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        let inner = generator.subschema_for::<T>();
        // Plain text may be empty in any case.
        if inner.as_value() == &serde_json::json!({ "type": "string" }) {
            return inner;
        }
        let kind = inner.get("x-type").cloned();
        let mut schema = json_schema!({ "type": "string", "anyOf": [{ "const": "" }, inner] });
        if let Some(kind) = kind {
            schema.insert("x-type".to_owned(), kind);
        }
        schema
    }
}

#[cfg(test)]
mod tests {
    use super::super::Duration;
    use super::*;

    #[test]
    fn empty_text_is_no_value() {
        assert_eq!(*serde_json::from_str::<Optional<Duration>>("\"\"").unwrap(), None);
        assert_eq!(*serde_json::from_str::<Optional<Duration>>("\"5s\"").unwrap(), Some(Duration::from_secs(5)));
        assert!(serde_json::from_str::<Optional<Duration>>("\"x\"").is_err());
        assert_eq!(serde_json::to_value(Optional::<Duration>::NONE).unwrap(), "");
    }
}
