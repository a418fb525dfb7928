//! Leases in memory: for tests and for trying out.

use std::collections::BTreeMap;

use async_trait::async_trait;

use super::{Claim, Lease, LeaseStore, Place, Row, StoreError, Write, Written, forward};
use crate::names::{ShardId, Stream};
use crate::sync::{Mutex, lock};

/// A store that forgets everything when it is dropped.
#[derive(Debug, Default)]
pub(crate) struct MemoryStore {
    core: Mutex<Core>,
}

#[derive(Debug, Default)]
struct Core {
    leases: BTreeMap<(Stream, ShardId), Held>,
    pins: BTreeMap<Stream, i64>,
}

#[derive(Debug, Default)]
struct Held {
    place: Place,
    epoch: u64,
    owned: bool,
}

#[async_trait]
impl LeaseStore for MemoryStore {
    async fn identity(&self) -> Result<String, StoreError> {
        Ok("memory".into())
    }

    async fn rows(&self, stream: &Stream) -> Result<Vec<Row>, StoreError> {
        let core = lock(&self.core);
        let of_stream = core.leases.iter().filter(|((other, _), _)| other == stream);
        Ok(of_stream.map(|((_, shard), held)| Row { shard: shard.clone(), place: held.place.clone() }).collect())
    }

    async fn pin_latest(&self, stream: &Stream, now: i64) -> Result<i64, StoreError> {
        Ok(*lock(&self.core).pins.entry(stream.clone()).or_insert(now))
    }

    async fn claim(&self, stream: &Stream, shard: &ShardId) -> Result<Claim, StoreError> {
        let mut core = lock(&self.core);
        let held = core.leases.entry((stream.clone(), shard.clone())).or_default();
        if held.owned {
            return Ok(Claim::HeldBy("this process".into()));
        }
        held.owned = true;
        held.epoch += 1;
        let lease = Lease { stream: stream.clone(), shard: shard.clone(), epoch: held.epoch };
        Ok(Claim::Owned(lease, held.place.clone()))
    }

    async fn commit(&self, writes: Vec<Write>) -> Result<Vec<Written>, StoreError> {
        let mut core = lock(&self.core);
        let mut written = Vec::with_capacity(writes.len());
        for write in writes {
            written.push(match core.leases.get_mut(&(write.stream, write.shard)) {
                Some(held) if held.owned && held.epoch == write.epoch => {
                    held.place = forward(&held.place, write.place);
                    Written::Stored
                }
                _ => Written::Lost { holder: "this process".into() },
            });
        }
        Ok(written)
    }

    async fn release(&self, leases: Vec<Lease>) -> Result<(), StoreError> {
        let mut core = lock(&self.core);
        for lease in leases {
            if let Some(held) = core.leases.get_mut(&(lease.stream, lease.shard))
                && held.epoch == lease.epoch
            {
                held.owned = false;
            }
        }
        Ok(())
    }
}
