//! What keeps parts of the input from being read at the moment?

use std::collections::BTreeMap;
use std::fmt::Display;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use crate::names::{ShardId, Stream};
use crate::record::ShardNames;
use crate::sync::{Mutex, lock};

/// The shards that wait for somebody to mend something, and why, and those that nothing is taken from.
#[derive(Debug, Default)]
pub(crate) struct Health {
    /// How many ail, so that the healthy, who report at every event, need no lock.
    count: AtomicUsize,
    ailing: Mutex<BTreeMap<(Stream, ShardId), String>>,
    stuck: AtomicUsize,
}

/// A shard whose records nobody has taken for long. Dropped when it goes on.
#[derive(Debug)]
pub(crate) struct Stuck<'a>(&'a AtomicUsize);

impl Drop for Stuck<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::AcqRel);
    }
}

impl Health {
    /// The shard can't be read, and a retry alone won't help.
    pub(crate) fn ailing(&self, names: &ShardNames, cause: &dyn Display) {
        let mut ailing = lock(&self.ailing);
        ailing.insert((names.stream.clone(), names.shard.clone()), cause.to_string());
        self.count.store(ailing.len(), Ordering::Release);
    }

    /// The shard is being read, or need not be any more.
    pub(crate) fn well(&self, names: &Arc<ShardNames>) {
        if self.count.load(Ordering::Acquire) == 0 {
            return;
        }
        let mut ailing = lock(&self.ailing);
        ailing.remove(&(names.stream.clone(), names.shard.clone()));
        self.count.store(ailing.len(), Ordering::Release);
    }

    /// Nothing can be handed on from a shard: it counts as stuck until the answer is dropped.
    pub(crate) fn stuck(&self) -> Stuck<'_> {
        self.stuck.fetch_add(1, Ordering::AcqRel);
        Stuck(&self.stuck)
    }

    /// How many shards are stuck.
    pub(crate) fn stuck_shards(&self) -> usize {
        self.stuck.load(Ordering::Acquire)
    }

    /// Why not all is well, in a sentence.
    pub(crate) fn reason(&self) -> Option<String> {
        let ailing = lock(&self.ailing);
        let ((stream, shard), cause) = ailing.first_key_value()?;
        Some(match ailing.len() {
            1 => format!("{stream} {shard}: {cause}"),
            count => format!("{count} shards can't be read; {stream} {shard}: {cause}"),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_reason_is_there_as_long_as_a_shard_ails() {
        let health = Health::default();
        let names =
            |shard: &str| Arc::new(ShardNames { stream: Stream::new("orders", "arn:orders"), shard: shard.into() });
        assert_eq!(health.reason(), None);
        health.ailing(&names("a"), &"AccessDeniedException");
        health.ailing(&names("b"), &"AccessDeniedException");
        assert_eq!(health.reason().as_deref(), Some("2 shards can't be read; orders a: AccessDeniedException"));
        health.well(&names("a"));
        health.well(&names("b"));
        assert_eq!(health.reason(), None);
    }
}
