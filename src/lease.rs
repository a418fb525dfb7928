//! Who owns which shard, and how far has it got?
//!
//! A store keeps, for every shard, who may read it and up to where it is done. Every write asks for a [`Lease`]: the
//! proof that one owned the shard when one last looked. A store refuses a write whose lease has been lost, so that
//! nobody moves a place that has become someone else's.

mod file;
#[cfg(test)]
mod memory;

use std::fmt::Debug;
use std::path::PathBuf;

use async_trait::async_trait;

use crate::names::{SequenceNumber, ShardId, Stream};

pub(crate) use file::FileStore;
#[cfg(test)]
pub(crate) use memory::MemoryStore;

/// Where leases and checkpoints are kept.
#[async_trait]
pub(crate) trait LeaseStore: Debug + Send + Sync + 'static {
    /// A name that is the same for everyone who shares this store, and stays the same. Consumers are named after it.
    async fn identity(&self) -> Result<String, StoreError>;

    /// Everything known about the shards of a stream.
    async fn rows(&self, stream: &Stream) -> Result<Vec<Row>, StoreError>;

    /// The timestamp in milliseconds that "latest" means for this stream: `now` the first time it is asked, the same
    /// ever after.
    async fn pin_latest(&self, stream: &Stream, now: i64) -> Result<i64, StoreError>;

    /// Asks for a shard.
    async fn claim(&self, stream: &Stream, shard: &ShardId) -> Result<Claim, StoreError>;

    /// Stores places, all or none of them durably; the answers are in the order of the writes.
    async fn commit(&self, writes: Vec<Write>) -> Result<Vec<Written>, StoreError>;

    /// Gives shards back. What has been lost already is passed over.
    async fn release(&self, leases: Vec<Lease>) -> Result<(), StoreError>;
}

/// What is known about a shard.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Row {
    pub(crate) shard: ShardId,
    pub(crate) place: Place,
}

/// Up to where a shard is done.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) enum Place {
    /// It was owned, but nothing of it is done yet.
    #[default]
    Nowhere,
    /// Everything up to here.
    After(SequenceNumber),
    /// All of it. If anything of it was read, the last place.
    End(Option<SequenceNumber>),
}

/// The answer to a claim.
#[derive(Debug)]
pub(crate) enum Claim {
    /// It is ours, and this is how far it has got.
    Owned(Lease, Place),
    /// Somebody else's.
    HeldBy(String),
}

/// The proof of owning a shard. It can't be copied: whoever lets go of it, gives it to the store.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Lease {
    pub(crate) stream: Stream,
    pub(crate) shard: ShardId,
    /// Counts the claims of this shard, so that an older lease is told from the present one.
    pub(crate) epoch: u64,
}

/// A place to be stored.
#[derive(Debug)]
pub(crate) struct Write {
    pub(crate) stream: Stream,
    pub(crate) shard: ShardId,
    pub(crate) epoch: u64,
    pub(crate) place: Place,
}

#[cfg(test)]
impl Write {
    pub(crate) fn new(lease: &Lease, place: Place) -> Self {
        Self { stream: lease.stream.clone(), shard: lease.shard.clone(), epoch: lease.epoch, place }
    }
}

/// What became of a write.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Written {
    Stored,
    /// The lease is someone else's now.
    Lost {
        holder: String,
    },
}

/// Why a store could not do what it was asked.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StoreError {
    /// Another process has the file open.
    #[error("checkpoint_file {path}: in use by {holder}; each process needs a file of its own")]
    InUse {
        /// The file.
        path: PathBuf,
        /// Who has it, as they wrote down.
        holder: String,
    },
    /// The file can't be opened or made.
    #[error("checkpoint_file {path}: {cause}; {advice}")]
    Unusable {
        /// The file.
        path: PathBuf,
        /// What the system or the store says.
        cause: String,
        /// What the user can do.
        advice: &'static str,
    },
    /// It was written by something else, or by a version that this one does not know.
    #[error("checkpoint_file {path}: {what}")]
    Foreign {
        /// The file.
        path: PathBuf,
        /// What was found.
        what: String,
    },
    /// It did not work this time.
    #[error("could not {what}: {cause}")]
    Failed {
        /// What was being done.
        what: &'static str,
        /// What the store says.
        cause: String,
    },
}

/// A write must not move a place back, even if its lease is good: that would be a bug of ours, and would be paid for
/// with duplicates.
fn forward(stored: &Place, new: Place) -> Place {
    match (stored, &new) {
        (Place::After(before), Place::After(after)) if after < before => stored.clone(),
        (Place::End(_), _) | (Place::After(_), Place::Nowhere) => stored.clone(),
        _ => new,
    }
}

/// The tests that every store has to pass.
#[cfg(test)]
mod tests {
    use super::*;

    fn stream() -> Stream {
        Stream::new("orders", "arn:aws:kinesis:eu-west-1:123456789012:stream/orders")
    }

    fn at(number: &str) -> Place {
        Place::After(SequenceNumber::new(number).unwrap())
    }

    async fn claim(store: &dyn LeaseStore) -> (Lease, Place) {
        match store.claim(&stream(), &"shard-1".into()).await.unwrap() {
            Claim::Owned(lease, place) => (lease, place),
            Claim::HeldBy(holder) => panic!("held by {holder}"),
        }
    }

    async fn every_store_keeps_what_it_promises(store: &dyn LeaseStore) {
        // Its name and the meaning of "latest" don't change.
        assert_eq!(store.identity().await.unwrap(), store.identity().await.unwrap());
        assert_eq!(store.pin_latest(&stream(), 100).await.unwrap(), 100);
        assert_eq!(store.pin_latest(&stream(), 200).await.unwrap(), 100);

        let (lease, place) = claim(store).await;
        assert_eq!(place, Place::Nowhere);
        assert!(matches!(store.claim(&stream(), &"shard-1".into()).await.unwrap(), Claim::HeldBy(_)));

        // Places move on, and never back.
        for (write, stored) in [(at("10"), at("10")), (at("9"), at("10")), (at("12"), at("12"))] {
            assert_eq!(store.commit(vec![Write::new(&lease, write)]).await.unwrap(), [Written::Stored]);
            assert_eq!(store.rows(&stream()).await.unwrap(), [Row { shard: "shard-1".into(), place: stored }]);
        }
        assert_eq!(store.rows(&Stream::new("other", "arn:other")).await.unwrap(), []);

        // Who let go of a lease can't write with it any more.
        let late = Write::new(&lease, at("99"));
        let later = Write::new(&lease, Place::End(None));
        store.release(vec![lease]).await.unwrap();
        assert!(matches!(store.commit(vec![late]).await.unwrap()[..], [Written::Lost { .. }]));
        let (lease, place) = claim(store).await;
        assert_eq!(place, at("12"));
        assert!(matches!(store.commit(vec![later]).await.unwrap()[..], [Written::Lost { .. }]));

        // The end is final.
        let last = SequenceNumber::new("12").unwrap();
        store.commit(vec![Write::new(&lease, Place::End(Some(last.clone())))]).await.unwrap();
        store.commit(vec![Write::new(&lease, at("13"))]).await.unwrap();
        assert_eq!(store.rows(&stream()).await.unwrap()[0].place, Place::End(Some(last)));
    }

    #[tokio::test]
    async fn memory() {
        every_store_keeps_what_it_promises(&MemoryStore::default()).await;
    }

    #[tokio::test]
    async fn file() {
        let folder = tempfile::tempdir().unwrap();
        let store = FileStore::open(&folder.path().join("checkpoints")).await.unwrap();
        every_store_keeps_what_it_promises(&store).await;
    }
}
