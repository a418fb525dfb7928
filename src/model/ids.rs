//! Which types name streams, shards, positions in a shard, and workers?

use std::cmp::Ordering;
use std::fmt;
use std::sync::Arc;

/// The id of a shard, as the service spells it (`shardId-000000000003`). It is cheap to clone.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ShardId(Arc<str>);

impl ShardId {
    /// The id as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The id of a shard that a configuration names, which may be written as a bare number.
    pub(crate) fn written(text: &str) -> Self {
        match text.parse::<u64>() {
            Ok(number) => format!("shardId-{number:012}").as_str().into(),
            Err(_) => text.into(),
        }
    }
}

impl From<&str> for ShardId {
    fn from(id: &str) -> Self {
        Self(id.into())
    }
}

impl fmt::Display for ShardId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The name of a worker, which holds leases under it. It is cheap to clone.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct WorkerId(Arc<str>);

impl WorkerId {
    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Creates a unique name.
    pub(crate) fn random() -> Self {
        Self(format!("worker-{:016x}{:08x}", fastrand::u64(..), fastrand::u32(..)).into())
    }
}

impl From<&str> for WorkerId {
    fn from(id: &str) -> Self {
        Self(id.into())
    }
}

impl fmt::Display for WorkerId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A stream that was found at the service. It is cheap to clone.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Stream(Arc<StreamNames>);

#[derive(Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
struct StreamNames {
    arn: String,
    name: String,
    /// The creation time in milliseconds since 1970; `None` where the service does not say.
    created: Option<i64>,
    distribution: Distribution,
}

/// How the service assigns records to shards. It is no part of a stream's identity: it may change at any time.
#[derive(Debug, Clone, Copy, Default)]
struct Distribution {
    is_automatic: bool,
}

impl PartialEq for Distribution {
    fn eq(&self, _: &Self) -> bool {
        true
    }
}

impl Eq for Distribution {}

impl PartialOrd for Distribution {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Distribution {
    fn cmp(&self, _: &Self) -> Ordering {
        Ordering::Equal
    }
}

impl std::hash::Hash for Distribution {
    fn hash<H: std::hash::Hasher>(&self, _: &mut H) {}
}

impl Stream {
    /// Creates a stream of this name and ARN.
    pub fn new(name: impl Into<String>, arn: impl Into<String>) -> Self {
        let (arn, name, distribution) = (arn.into(), name.into(), Distribution::default());
        Self(Arc::new(StreamNames { arn, name, created: None, distribution }))
    }

    /// Returns the same stream with this creation time (milliseconds since 1970). A recreated stream has the same
    /// name and ARN, but is another stream.
    #[must_use]
    pub fn created_at(&self, created: Option<i64>) -> Self {
        let StreamNames { arn, name, distribution, .. } = &*self.0;
        let (arn, name) = (arn.clone(), name.clone());
        Self(Arc::new(StreamNames { arn, name, created, distribution: *distribution }))
    }

    /// Returns the same stream, which the service is known to distribute automatically or by the records' hash keys.
    #[must_use]
    pub(crate) fn distributed(&self, is_automatic: bool) -> Self {
        let StreamNames { arn, name, created, .. } = &*self.0;
        let (arn, name, distribution) = (arn.clone(), name.clone(), Distribution { is_automatic });
        Self(Arc::new(StreamNames { arn, name, created: *created, distribution }))
    }

    /// Whether the hash key of a record decides its shard.
    pub(crate) fn distributes_by_key(&self) -> bool {
        !self.0.distribution.is_automatic
    }

    /// Returns whether the creation time belongs to another stream of the same name and ARN; false if either time is
    /// unknown.
    pub(crate) fn is_other_life(&self, created: Option<i64>) -> bool {
        self.0.created.zip(created).is_some_and(|(ours, theirs)| ours != theirs)
    }

    /// The creation time in milliseconds since 1970. `None` where the service does not say.
    pub fn created(&self) -> Option<i64> {
        self.0.created
    }

    /// The name alone.
    pub fn name(&self) -> &str {
        &self.0.name
    }

    /// The ARN. Together with the creation time it identifies the stream, however it was configured.
    pub fn arn(&self) -> &str {
        &self.0.arn
    }
}

impl fmt::Display for Stream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// A shard and its stream, which all records of the shard share.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct ShardNames {
    /// The stream.
    pub stream: Stream,
    /// The shard.
    pub shard: ShardId,
}

/// A position in a shard: the sequence number of a record, or a continuation that the service returned.
///
/// Sequence numbers have up to 129 decimal digits, so they are kept as text and compared as numbers.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct SequenceNumber(Arc<str>);

/// The error of a text that the service never uses as a sequence number.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("not a sequence number: {0:?}")]
pub struct NotASequenceNumber(String);

impl SequenceNumber {
    /// Creates a sequence number from its text.
    ///
    /// # Errors
    ///
    /// An error is returned when the text is empty, longer than 256 bytes, or has characters other than printable
    /// ASCII. (Local servers use more than digits.)
    pub fn new(text: &str) -> Result<Self, NotASequenceNumber> {
        if !Self::is_valid(text.as_bytes()) {
            let shown = text.chars().take(64).collect();
            return Err(NotASequenceNumber(shown));
        }
        Ok(Self(text.into()))
    }

    /// Creates a sequence number from text that was checked when it was read from the wire.
    pub(crate) fn read(checked: &str) -> Self {
        debug_assert!(Self::is_valid(checked.as_bytes()));
        Self(checked.into())
    }

    /// Creates a sequence number from a stored position, which may have been edited by hand.
    ///
    /// # Errors
    ///
    /// An error is returned when the text is not a decimal number above zero. Words such as `LATEST` or
    /// `TRIM_HORIZON` have a meaning in other programs, and the service would answer them as it answers an expired
    /// number.
    pub fn stored(text: &str) -> Result<Self, NotASequenceNumber> {
        let is_number = text.bytes().all(|byte| byte.is_ascii_digit()) && text.bytes().any(|byte| byte != b'0');
        if is_number { Self::new(text) } else { Err(NotASequenceNumber(text.chars().take(64).collect())) }
    }

    pub(crate) fn is_valid(text: &[u8]) -> bool {
        // The loop has no early end, so that it compiles to vector code.
        (1..=256).contains(&text.len()) && text.iter().fold(true, |valid, byte| valid & byte.is_ascii_graphic())
    }

    /// The number as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl Ord for SequenceNumber {
    fn cmp(&self, other: &Self) -> Ordering {
        let (a, b) = (self.0.trim_start_matches('0'), other.0.trim_start_matches('0'));
        a.len().cmp(&b.len()).then_with(|| a.cmp(b)).then_with(|| self.0.len().cmp(&other.0.len()))
    }
}

impl PartialOrd for SequenceNumber {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl fmt::Debug for SequenceNumber {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Display for SequenceNumber {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sequence_numbers_compare_as_numbers() {
        let of = |text: &str| SequenceNumber::new(text).unwrap();
        assert!(of("9") < of("10"));
        assert!(of("49546986683135544286507457936321625675700192471156785154") > of("99"));
        assert!(of("0012") > of("11"));
        assert_eq!(of("12").cmp(&of("12")), Ordering::Equal);
    }

    #[test]
    fn shard_may_be_written_as_a_number() {
        assert_eq!(ShardId::written("3"), ShardId::from("shardId-000000000003"));
        assert_eq!(ShardId::written("shardId-000000000003"), ShardId::from("shardId-000000000003"));
    }

    #[test]
    fn names_are_shown_as_they_were_given() {
        let (shard, worker, number) = (ShardId::from("s"), WorkerId::from("w"), SequenceNumber::new("1").unwrap());
        assert_eq!([shard.as_str(), worker.as_str(), number.as_str()], ["s", "w", "1"]);
        assert_eq!(format!("{shard} {worker} {number} {number:?}"), "s w 1 1");
        let stream = Stream::new("orders", "arn:orders");
        assert_eq!([stream.name(), stream.arn(), &stream.to_string()], ["orders", "arn:orders", "orders"]);
        assert_ne!(WorkerId::random(), WorkerId::random());
    }

    #[test]
    fn numbers_that_differ_in_zeros_only_are_not_the_same() {
        let of = |text: &str| SequenceNumber::new(text).unwrap();
        assert!(of("12") < of("012") && of("012") < of("13"));
    }

    #[test]
    fn ids_that_no_service_sends_are_refused() {
        assert!(SequenceNumber::new(&"9".repeat(256)).is_ok());
        for text in ["", "1 2", "1\n", "ü"] {
            assert!(SequenceNumber::new(text).is_err(), "{text:?}");
        }
        assert!(SequenceNumber::new(&"9".repeat(257)).is_err());
    }
}
