//! Where in a shard is a record, and up to where is a shard stored?

use std::fmt;

use kinesis_simulator::kinesis::Number;

/// The position of a record of a shard: a Kinesis record, or a user record of an aggregate.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Position {
    pub(crate) number: Number,
    /// The index in the aggregate. A whole record is behind all user records that it may hold.
    sub: u32,
}

impl Position {
    /// The position of a whole record.
    pub(crate) fn whole(number: Number) -> Self {
        Self { number, sub: u32::MAX }
    }

    /// The position of a user record.
    pub(crate) fn within(number: Number, sub: u32) -> Self {
        Self { number, sub }
    }

    /// Reads a sequence number, with the index of a user record behind a slash.
    pub(super) fn parse(text: &str) -> Option<Self> {
        match text.split_once('/') {
            Some((number, sub)) => Some(Self::within(Number::parse(number)?, sub.parse().ok()?)),
            None => Number::parse(text).map(Self::whole),
        }
    }

    /// Reads what a row stores: the last whole record, and a position in an aggregate, which counts if it is behind.
    pub(super) fn stored(whole: Option<&str>, within: Option<&str>) -> Option<Self> {
        whole.and_then(Self::parse).max(within.and_then(Self::parse))
    }
}

impl fmt::Display for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.sub {
            u32::MAX => write!(f, "{}", self.number),
            sub => write!(f, "{}/{sub}", self.number),
        }
    }
}
