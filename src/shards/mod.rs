//! Which shards does this worker read now, and what happens to each?

pub(crate) mod checkpointer;
mod claiming;
mod cleanup;
pub(crate) mod coordinator;
pub(crate) mod former_rows;
pub(crate) mod owned;
mod recreated;
pub(crate) mod task;
pub(crate) mod topology;
