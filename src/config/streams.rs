//! Which streams, and which of their shards, does a configuration name?

use std::borrow::Cow;
use std::fmt;
use std::str::FromStr;

use pipeline_plugin_api::config::schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::Deserialize;
use serde::de::{self, DeserializeSeed, Deserializer, SeqAccess};

use super::values::is_plain_name;

/// The value of the field `streams`: at least one stream, each once; all balanced or all with explicit shards.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Streams(Vec<StreamEntry>);

/// One stream to read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StreamEntry {
    /// Which one.
    pub stream: StreamRef,
    /// The shards to read, as they were written and each once; none if its shards are balanced.
    pub shards: Vec<String>,
}

/// The name or ARN of a stream. A name and an ARN may mean the same stream; only the service can tell.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum StreamRef {
    /// By name: in the region and account of the session.
    Name(String),
    /// By ARN.
    Arn(StreamArn),
}

/// The error of an entry. The entry itself is not repeated, because it may come from the environment.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, thiserror::Error)]
#[non_exhaustive]
pub enum StreamsError {
    /// There are no entries.
    #[error("list at least one stream")]
    None,
    /// Nothing stands between two commas, or in an element.
    #[error("an entry is empty: write a stream's name or ARN between commas")]
    EmptyEntry,
    /// More than one colon after the name.
    #[error("one shard at most after the name: list the stream once for each shard, as in `orders:0,orders:1`")]
    TwoColons,
    /// A colon, and nothing after it.
    #[error("a shard is missing after the colon: add it, or leave out the colon to balance all shards")]
    EmptyShard,
    /// The shard isn't an id.
    #[error("the id of a shard has at most 128 letters, digits, `_`, `.` and `-`")]
    Shard,
    /// The name isn't one.
    #[error("the name of a stream has at most 128 letters, digits, `_`, `.` and `-`")]
    Name,
    /// It looks like an ARN and isn't one of a stream.
    #[error("not the ARN of a stream: expected `arn:aws:kinesis:REGION:ACCOUNT:stream/NAME`")]
    Arn,
    /// Some streams come with shards, some without.
    #[error("streams with and without explicit shards can't be mixed in one input: use two inputs")]
    Mixed,
    /// A stream, or a shard of it, is listed twice.
    #[error("this stream, or this shard of it, is listed already")]
    Duplicate,
}

impl Streams {
    /// Parses elements, each of which may hold several entries.
    ///
    /// # Errors
    ///
    /// The first error of the elements is returned.
    pub fn parse<I>(elements: I) -> Result<Self, StreamsError>
    where
        I: IntoIterator,
        I::Item: AsRef<str>,
    {
        let mut streams = Self(Vec::new());
        for element in elements {
            streams.add(element.as_ref())?;
        }
        if streams.0.is_empty() { Err(StreamsError::None) } else { Ok(streams) }
    }

    /// The streams, in the order in which they were first written.
    pub fn entries(&self) -> &[StreamEntry] {
        &self.0
    }

    /// Returns whether exactly these shards are read, instead of all shards in balance with other workers.
    pub fn are_explicit(&self) -> bool {
        self.0.iter().any(|entry| !entry.shards.is_empty())
    }

    fn add(&mut self, element: &str) -> Result<(), StreamsError> {
        element.split(',').try_for_each(|entry| self.add_entry(entry.trim()))
    }

    fn add_entry(&mut self, text: &str) -> Result<(), StreamsError> {
        let (stream, shard) = parse_entry(text)?;
        if !self.0.is_empty() && self.are_explicit() != shard.is_some() {
            return Err(StreamsError::Mixed);
        }
        match (self.0.iter_mut().find(|entry| entry.stream == stream), shard) {
            (Some(_), None) => Err(StreamsError::Duplicate),
            (Some(entry), Some(shard)) if entry.shards.iter().any(|known| known == shard) => {
                Err(StreamsError::Duplicate)
            }
            (Some(entry), Some(shard)) => {
                entry.shards.push(shard.to_owned());
                Ok(())
            }
            (None, shard) => {
                self.0.push(StreamEntry { stream, shards: shard.into_iter().map(str::to_owned).collect() });
                Ok(())
            }
        }
    }
}

/// Parses `name`, `name:shard`, `arn` or `arn:shard`.
fn parse_entry(text: &str) -> Result<(StreamRef, Option<&str>), StreamsError> {
    if text.is_empty() {
        return Err(StreamsError::EmptyEntry);
    }
    // The colons of an ARN all come before the last slash.
    let (prefix, rest) = match text.rfind('/') {
        Some(slash) => (Some(&text[..slash]), &text[slash + 1..]),
        None => (None, text),
    };
    let mut parts = rest.split(':').map(str::trim);
    let (name, shard) = (parts.next().unwrap_or_default(), parts.next());
    if parts.next().is_some() {
        return Err(if text.starts_with("arn:") { StreamsError::Arn } else { StreamsError::TwoColons });
    }
    let stream = match prefix {
        Some(prefix) => StreamRef::Arn(StreamArn::from_parts(prefix, name)?),
        None if is_id(name) => StreamRef::Name(name.to_owned()),
        None => return Err(StreamsError::Name),
    };
    match shard {
        Some("") => Err(StreamsError::EmptyShard),
        Some(shard) if !is_id(shard) => Err(StreamsError::Shard),
        shard => Ok((stream, shard)),
    }
}

/// Returns whether this can be the name of a stream or the id of a shard; both have the same characters.
fn is_id(text: &str) -> bool {
    is_plain_name(text, 1..=128)
}

impl StreamRef {
    /// The name of the stream, without its ARN.
    pub fn name(&self) -> &str {
        match self {
            Self::Name(name) => name,
            Self::Arn(arn) => &arn.name,
        }
    }
}

impl fmt::Display for StreamRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Name(name) => f.write_str(name),
            Self::Arn(arn) => arn.fmt(f),
        }
    }
}

impl fmt::Display for Streams {
    /// Writes one entry after the other, as one element of the field.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut comma = "";
        for StreamEntry { stream, shards } in &self.0 {
            if shards.is_empty() {
                write!(f, "{comma}{stream}")?;
                comma = ",";
            }
            for shard in shards {
                write!(f, "{comma}{stream}:{shard}")?;
                comma = ",";
            }
        }
        Ok(())
    }
}

impl<'de> Deserialize<'de> for Streams {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Visitor;

        impl<'de> de::Visitor<'de> for Visitor {
            type Value = Streams;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a list of streams")
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut elements: A) -> Result<Streams, A::Error> {
                let mut streams = Streams(Vec::new());
                while elements.next_element_seed(Element(&mut streams))?.is_some() {}
                if streams.0.is_empty() { Err(de::Error::custom(StreamsError::None)) } else { Ok(streams) }
            }
        }

        deserializer.deserialize_seq(Visitor)
    }
}

/// Adds one element while it is read, so that an error names its element.
struct Element<'a>(&'a mut Streams);

impl<'de> DeserializeSeed<'de> for Element<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        let text = Cow::<str>::deserialize(deserializer)?;
        self.0.add(&text).map_err(de::Error::custom)
    }
}

/// The pattern of one element of the field. A pattern can't express that streams must not be mixed or repeated.
const PATTERN: &str = concat!(
    r"^\s*((arn:aws[a-z0-9-]*:kinesis:([a-z0-9-]+|\*):[0-9]{12}:stream/)?[A-Za-z0-9_.-]{1,128}(\s*:\s*[A-Za-z0-9_.-]{1,128})?\s*,\s*)*",
    r"(arn:aws[a-z0-9-]*:kinesis:([a-z0-9-]+|\*):[0-9]{12}:stream/)?[A-Za-z0-9_.-]{1,128}(\s*:\s*[A-Za-z0-9_.-]{1,128})?\s*$",
);

impl JsonSchema for Streams {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> Cow<'static, str> {
        "Streams".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "type": "array", "minItems": 1, "items": { "type": "string", "pattern": PATTERN } })
    }
}

/// The ARN of a stream: `arn:aws:kinesis:eu-west-1:111122223333:stream/orders`.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub struct StreamArn {
    /// `aws`, `aws-cn`, `aws-us-gov` and the like.
    pub partition: String,
    /// The region, or `*` for that of the session.
    pub region: String,
    /// Twelve digits.
    pub account: String,
    /// The name of the stream.
    pub name: String,
}

impl StreamArn {
    /// Creates an ARN; `prefix` is the part before the slash.
    fn from_parts(prefix: &str, name: &str) -> Result<Self, StreamsError> {
        let parts: Vec<&str> = prefix.split(':').collect();
        let ["arn", partition, "kinesis", region, account, "stream"] = parts[..] else {
            return Err(StreamsError::Arn);
        };
        let lower =
            |text: &str| text.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-');
        let well_formed = partition.starts_with("aws")
            && lower(partition)
            && (region == "*" || (!region.is_empty() && lower(region)))
            && account.len() == 12
            && account.bytes().all(|byte| byte.is_ascii_digit());
        match well_formed {
            false => Err(StreamsError::Arn),
            true if !is_id(name) => Err(StreamsError::Name),
            true => Ok(Self {
                partition: partition.to_owned(),
                region: region.to_owned(),
                account: account.to_owned(),
                name: name.to_owned(),
            }),
        }
    }
}

impl FromStr for StreamArn {
    type Err = StreamsError;

    fn from_str(text: &str) -> Result<Self, StreamsError> {
        let (prefix, name) = text.rsplit_once('/').ok_or(StreamsError::Arn)?;
        Self::from_parts(prefix, name)
    }
}

impl fmt::Display for StreamArn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { partition, region, account, name } = self;
        write!(f, "arn:{partition}:kinesis:{region}:{account}:stream/{name}")
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const ARN: &str = "arn:aws:kinesis:eu-west-1:111122223333:stream/orders";

    fn shown(elements: &[&str]) -> Result<Vec<String>, StreamsError> {
        let streams = Streams::parse(elements)?;
        Ok(streams.entries().iter().map(|entry| format!("{} {}", entry.stream, entry.shards.join("+"))).collect())
    }

    #[test]
    fn names_and_arns_are_balanced_without_shards() {
        assert_eq!(shown(&["foo", "bar , baz"]).unwrap(), ["foo ", "bar ", "baz "]);
        assert_eq!(shown(&[ARN]).unwrap(), [format!("{ARN} ")]);
        assert!(!Streams::parse(["foo"]).unwrap().are_explicit());
    }

    #[test]
    fn shards_of_one_stream_are_gathered() {
        assert_eq!(shown(&["foo:0, bar:7", " foo : 1 "]).unwrap(), ["foo 0+1", "bar 7"]);
        let explicit = format!("{ARN}:shardId-000000000003");
        assert_eq!(shown(&[&explicit]).unwrap(), [format!("{ARN} shardId-000000000003")]);
        assert!(Streams::parse(["foo:0"]).unwrap().are_explicit());
    }

    #[test]
    fn arn_is_split_into_its_parts() {
        let arn: StreamArn = "arn:aws-cn:kinesis:cn-north-1:111122223333:stream/a.b".parse().unwrap();
        assert_eq!(
            (arn.partition.as_str(), arn.region.as_str(), arn.account.as_str(), arn.name.as_str()),
            ("aws-cn", "cn-north-1", "111122223333", "a.b")
        );
        assert_eq!(Streams::parse([ARN]).unwrap().entries()[0].stream.name(), "orders");
        assert!("arn:aws:kinesis:*:111122223333:stream/my-stream".parse::<StreamArn>().is_ok());
    }

    #[test]
    fn invalid_streams_are_named() {
        use StreamsError as E;
        let arn_twice = format!("{ARN}:0:1");
        for (elements, error) in [
            (&[][..], E::None),
            (&[""], E::EmptyEntry),
            (&["foo,,bar"], E::EmptyEntry),
            (&["foo,"], E::EmptyEntry),
            (&["foo", "  "], E::EmptyEntry),
            (&["foo:0:1"], E::TwoColons),
            (&["foo:"], E::EmptyShard),
            (&["foo: "], E::EmptyShard),
            (&[":0"], E::Name),
            (&["fo o"], E::Name),
            (&["foo:a b"], E::Shard),
            (&["foo", "bar:0"], E::Mixed),
            (&["bar:0,foo"], E::Mixed),
            (&["foo,foo"], E::Duplicate),
            (&["foo:0", "foo:0"], E::Duplicate),
            (&["arn:aws:kinesis:eu-west-1:111122223333:orders"], E::Arn),
            (&["arn:aws:sqs:eu-west-1:111122223333:stream/orders"], E::Arn),
            (&["arn:aws:kinesis:eu-west-1:1111:stream/orders"], E::Arn),
            (&["arn:aws:kinesis::111122223333:stream/orders"], E::Arn),
            (&["arn:aws:kinesis:eu-west-1:111122223333:stream/"], E::Name),
            (&["a/b"], E::Arn),
            (&[arn_twice.as_str()], E::Arn),
        ] {
            assert_eq!(Streams::parse(elements), Err(error), "{elements:?}");
        }
    }

    fn id() -> impl Strategy<Value = String> {
        "[A-Za-z0-9_.-]{1,20}"
    }

    fn stream() -> impl Strategy<Value = String> {
        prop_oneof![id(), id().prop_map(|name| format!("arn:aws:kinesis:us-east-1:000000000000:stream/{name}"))]
    }

    proptest! {
        #[test]
        fn no_text_causes_a_panic(elements in prop::collection::vec("([a-c:/, *]|arn:aws:kinesis:|stream/|é|.){0,30}", 0..4)) {
            let _ = Streams::parse(&elements);
        }

        #[test]
        fn displayed_value_is_read_back(
            balanced in prop::collection::btree_set(stream(), 1..5),
            shards in prop::collection::btree_set((stream(), id()), 1..6),
        ) {
            let explicit = shards.iter().map(|(stream, shard)| format!("{stream}:{shard}")).collect::<Vec<_>>();
            for elements in [balanced.into_iter().collect(), explicit] {
                let streams = Streams::parse(&elements).unwrap();
                prop_assert_eq!(Streams::parse([streams.to_string()]), Ok(streams));
            }
        }

        #[test]
        fn schema_accepts_what_the_parser_accepts(element in "([a-b:/,* ]|arn:aws:kinesis:|us-1:000000000000:|stream/){0,8}") {
            let schema = serde_json::json!({ "pattern": PATTERN });
            let valid = jsonschema::is_valid(&schema, &serde_json::json!(element));
            let parsed = Streams::parse([&element]);
            // A pattern can't express which entries may be combined.
            let alone = matches!(parsed, Ok(_) | Err(StreamsError::Mixed | StreamsError::Duplicate));
            prop_assert!(alone == valid || (valid && parsed.is_err() && element.contains(',')), "{:?} {:?} {}", element, parsed, valid);
        }
    }
}
