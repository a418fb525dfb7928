//! What does a message consist of?

use std::any::Any;
use std::borrow::Cow;
use std::fmt;
use std::sync::{Arc, OnceLock};
use std::time::{SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use jiff::Timestamp;

/// A message: a payload and its metadata.
///
/// Cloning a message copies neither payload nor metadata: both are shared.
#[derive(Clone)]
pub struct Message {
    payload: Bytes,
    table: Arc<dyn MetadataTable>,
    row: u32,
}

/// The metadata of many messages, with one row per message.
///
/// Values that a whole batch has in common (a stream, a shard, a topic) are stored once; values that differ are
/// found by the row. A message therefore carries only a pointer and a number, regardless of the amount of metadata.
pub trait MetadataTable: Any + Send + Sync + 'static {
    /// Returns the value of `key` in `row`, if it has one.
    fn get(&self, row: u32, key: &str) -> Option<Value<'_>>;

    /// Calls `each` with every key that has a value in `row`, in a fixed order.
    fn for_each<'a>(&'a self, row: u32, each: &mut dyn FnMut(&'a str, Value<'a>));

    /// Returns the key within which the order of messages matters, if there is one: see
    /// [`Message::ordering_key`].
    fn ordering_key(&self, row: u32) -> Option<&str> {
        let _ = row;
        None
    }
}

/// A metadata value.
#[derive(Debug, Clone, Copy, PartialEq)]
#[non_exhaustive]
pub enum Value<'a> {
    /// A text.
    Text(&'a str),
    /// A whole number.
    Integer(i64),
    /// A point in time.
    Time(SystemTime),
}

impl<'a> Value<'a> {
    /// Returns the value as text: numbers in decimal, times as RFC 3339 with milliseconds, in UTC
    /// (`2023-11-14T22:13:20.007Z`). A time before 1970 is shown as 1970, and a time after the year 9999 as the
    /// end of that year.
    pub fn to_text(self) -> Cow<'a, str> {
        match self {
            Self::Text(text) => Cow::Borrowed(text),
            Self::Integer(number) => Cow::Owned(number.to_string()),
            Self::Time(time) => {
                let time = Timestamp::try_from(time.max(UNIX_EPOCH)).unwrap_or(Timestamp::MAX);
                Cow::Owned(format!("{time:.3}"))
            }
        }
    }
}

impl fmt::Display for Value<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.to_text())
    }
}

impl Message {
    /// Creates a message without metadata.
    pub fn new(payload: impl Into<Bytes>) -> Self {
        static NONE: OnceLock<Arc<Pairs>> = OnceLock::new();
        let none = Arc::clone(NONE.get_or_init(|| Arc::new(Pairs(Vec::new()))));
        Self { payload: payload.into(), table: none, row: 0 }
    }

    /// Creates a message whose metadata is a row of `table`.
    pub fn with_row(payload: Bytes, table: Arc<dyn MetadataTable>, row: u32) -> Self {
        Self { payload, table, row }
    }

    /// Creates a message with text metadata of its own, for tests and for inputs with a low message rate.
    pub fn with_pairs<K, V>(payload: impl Into<Bytes>, pairs: impl IntoIterator<Item = (K, V)>) -> Self
    where
        K: Into<String>,
        V: Into<String>,
    {
        let pairs = pairs.into_iter().map(|(key, value)| (key.into(), value.into())).collect();
        Self { payload: payload.into(), table: Arc::new(Pairs(pairs)), row: 0 }
    }

    /// Replaces the payload and keeps the metadata, so that a middleware can transform a message.
    #[must_use]
    pub fn with_payload(self, payload: impl Into<Bytes>) -> Self {
        Self { payload: payload.into(), ..self }
    }

    /// Adds a metadata value, or replaces the value of the same key. The other metadata stays shared, and
    /// [`table`](Self::table) still finds it.
    #[must_use]
    pub fn with_metadata(self, key: impl Into<String>, value: impl Into<String>) -> Self {
        let layer = Layer { key: key.into(), value: value.into(), below: self.table, row: self.row };
        Self { payload: self.payload, table: Arc::new(layer), row: 0 }
    }

    /// Returns the ordering key of the message. Messages of the same key must be processed in the order in
    /// which they were read; messages of different keys may be processed in parallel. The key is shared with
    /// the other messages of its batch, not copied. The result is `None` if the input has no order, or one
    /// order for all messages.
    pub fn ordering_key(&self) -> Option<&str> {
        self.table.ordering_key(self.row)
    }

    /// Returns the payload.
    pub fn payload(&self) -> &Bytes {
        &self.payload
    }

    /// Converts the message into its payload.
    pub fn into_payload(self) -> Bytes {
        self.payload
    }

    /// Returns the metadata value of `key`, if there is one.
    pub fn get(&self, key: &str) -> Option<Value<'_>> {
        self.table.get(self.row, key)
    }

    /// Calls `each` with every key and value of the metadata, in a fixed order.
    pub fn for_each_metadata<'a>(&'a self, mut each: impl FnMut(&'a str, Value<'a>)) {
        self.table.for_each(self.row, &mut each);
    }

    /// Returns the table and the row that hold the metadata, if the table is a `T`. This is the typed access to
    /// the metadata of an input.
    pub fn table<T: MetadataTable>(&self) -> Option<(&T, u32)> {
        let (mut table, mut row): (&dyn Any, u32) = (self.table.as_ref(), self.row);
        loop {
            if let Some(found) = table.downcast_ref::<T>() {
                return Some((found, row));
            }
            let layer = table.downcast_ref::<Layer>()?;
            (table, row) = (layer.below.as_ref(), layer.row);
        }
    }
}

impl fmt::Debug for Message {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Payloads may be secret or megabytes long; the length is enough to follow a message.
        let mut out = f.debug_struct("Message");
        out.field("payload_bytes", &self.payload.len());
        self.for_each_metadata(|key, value| {
            out.field(key, &value);
        });
        out.finish_non_exhaustive()
    }
}

/// The text metadata of one message.
struct Pairs(Vec<(String, String)>);

impl MetadataTable for Pairs {
    fn get(&self, _row: u32, key: &str) -> Option<Value<'_>> {
        self.0.iter().find(|(name, _)| name == key).map(|(_, value)| Value::Text(value))
    }

    fn for_each<'a>(&'a self, _row: u32, each: &mut dyn FnMut(&'a str, Value<'a>)) {
        for (key, value) in &self.0 {
            each(key, Value::Text(value));
        }
    }
}

/// A metadata value on top of the metadata of a message.
struct Layer {
    key: String,
    value: String,
    below: Arc<dyn MetadataTable>,
    row: u32,
}

impl MetadataTable for Layer {
    fn get(&self, _row: u32, key: &str) -> Option<Value<'_>> {
        if key == self.key { Some(Value::Text(&self.value)) } else { self.below.get(self.row, key) }
    }

    fn for_each<'a>(&'a self, _row: u32, each: &mut dyn FnMut(&'a str, Value<'a>)) {
        self.below.for_each(self.row, &mut |key, value| {
            if key != self.key {
                each(key, value);
            }
        });
        each(&self.key, Value::Text(&self.value));
    }

    fn ordering_key(&self, _row: u32) -> Option<&str> {
        self.below.ordering_key(self.row)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn pairs_are_found_by_key_and_listed_in_order() {
        let message = Message::with_pairs("hello", [("b", "2"), ("a", "1")]);
        assert_eq!(message.get("a"), Some(Value::Text("1")));
        assert_eq!(message.get("c"), None);
        let mut seen = Vec::new();
        message.for_each_metadata(|key, value| seen.push(format!("{key}={value}")));
        assert_eq!(seen, ["b=2", "a=1"]);
    }

    #[test]
    fn typed_access_requires_the_right_table() {
        struct Numbers;
        impl MetadataTable for Numbers {
            fn get(&self, row: u32, key: &str) -> Option<Value<'_>> {
                (key == "n").then_some(Value::Integer(i64::from(row)))
            }
            fn for_each<'a>(&'a self, row: u32, each: &mut dyn FnMut(&'a str, Value<'a>)) {
                each("n", Value::Integer(i64::from(row)));
            }
        }
        let message = Message::with_row(Bytes::new(), Arc::new(Numbers), 7);
        assert_eq!(message.table::<Numbers>().map(|(_, row)| row), Some(7));
        assert!(Message::new("").table::<Numbers>().is_none());
        assert_eq!(message.get("n").map(|value| value.to_text().into_owned()).as_deref(), Some("7"));
    }

    #[test]
    fn changed_message_keeps_its_metadata() {
        struct Keyed;
        impl MetadataTable for Keyed {
            fn get(&self, row: u32, key: &str) -> Option<Value<'_>> {
                (key == "n").then_some(Value::Integer(i64::from(row)))
            }
            fn for_each<'a>(&'a self, row: u32, each: &mut dyn FnMut(&'a str, Value<'a>)) {
                each("n", Value::Integer(i64::from(row)));
            }
            fn ordering_key(&self, _row: u32) -> Option<&str> {
                Some("shard")
            }
        }
        let message = Message::with_row(Bytes::from("a"), Arc::new(Keyed), 7);
        let changed = message.with_metadata("m", "1").with_metadata("n", "2").with_payload("b");
        assert_eq!((&changed.payload()[..], changed.ordering_key()), (&b"b"[..], Some("shard")));
        assert_eq!((changed.get("n"), changed.get("m")), (Some(Value::Text("2")), Some(Value::Text("1"))));
        assert_eq!(changed.table::<Keyed>().map(|(_, row)| row), Some(7));
        let mut seen = Vec::new();
        changed.for_each_metadata(|key, value| seen.push(format!("{key}={value}")));
        assert_eq!(seen, ["m=1", "n=2"]);
        assert_eq!(Message::new("").ordering_key(), None);
    }

    #[test]
    fn times_are_rfc_3339_in_utc() {
        let time = UNIX_EPOCH + Duration::from_millis(1_700_000_000_007);
        assert_eq!(Value::Time(time).to_text(), "2023-11-14T22:13:20.007Z");
        assert_eq!(Value::Time(UNIX_EPOCH - Duration::from_millis(1500)).to_text(), "1970-01-01T00:00:00.000Z");
        assert_eq!(Value::Time(UNIX_EPOCH + Duration::from_nanos(1_999_999)).to_text(), "1970-01-01T00:00:00.001Z");
        let far = UNIX_EPOCH + Duration::from_secs(1 << 40);
        assert_eq!(Value::Time(far).to_text(), "9999-12-30T22:00:00.999Z");
    }

    #[test]
    fn debug_shows_no_payload() {
        assert!(!format!("{:?}", Message::new("secret")).contains("secret"));
    }
}
