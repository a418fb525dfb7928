//! Which types do all folders share: ids, positions and shards? This module imports nothing of the input.

pub(crate) mod ids;
mod position;
mod shard;

pub(crate) use ids::ShardNames;
pub use ids::{NotASequenceNumber, SequenceNumber, ShardId, Stream, WorkerId};
pub(crate) use position::{StartPosition, millis};
pub use shard::ChildShard;
pub(crate) use shard::{HashRange, ListedShard, ShardListing, ShardState, hash_key};
