//! Enhanced fan-out: a consumer of its own for the stream, a subscription of its own for each shard.

pub(crate) mod body;
pub(crate) mod consumer;
#[cfg(test)]
mod consumer_tests;
pub(crate) mod subscription;
pub mod wire;

pub use body::Frames;
