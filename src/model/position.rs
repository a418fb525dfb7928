//! Where in a shard does reading begin?

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
