//! Where in a shard does reading begin?

use std::time::{SystemTime, UNIX_EPOCH};

use super::ids::SequenceNumber;

/// The position at which reading a shard begins.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum StartPosition {
    /// At the oldest record of the shard.
    Oldest,
    /// At the first record that arrived at this time or later; milliseconds since 1970.
    At(i64),
    /// Behind this position.
    After(SequenceNumber),
    /// At the record of this number.
    AtRecord(SequenceNumber),
}

/// Converts a time to milliseconds since 1970.
pub(crate) fn millis(time: SystemTime) -> i64 {
    let (after, sign) = match time.duration_since(UNIX_EPOCH) {
        Ok(after) => (after, 1),
        Err(before) => (before.duration(), -1),
    };
    i64::try_from(after.as_millis()).unwrap_or(i64::MAX) * sign
}
