//! Has the input ended by itself, and why?

use std::sync::Arc;

use tokio_util::sync::CancellationToken;

use crate::delivery::outbox::Outbox;
use crate::sync::{Mutex, lock};
use crate::telemetry;

/// The reason why no more records will come.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum End {
    /// All records that were to be read have been read and acknowledged.
    AllRead,
    /// The input failed in a way that requires a person to intervene.
    Failed(String),
}

/// The end of an input, once it has come. Setting it closes the outbox, so that the host learns of it.
#[derive(Debug)]
pub(crate) struct Completion {
    end: Mutex<Option<End>>,
    outbox: Arc<Outbox>,
    /// The token that stops everything that reads.
    stop: CancellationToken,
    /// The token that stops the heartbeat and the checkpointer. Other workers can't take over the shards until then.
    keep: CancellationToken,
}

impl Completion {
    pub(crate) fn new(outbox: Arc<Outbox>, stop: CancellationToken, keep: CancellationToken) -> Self {
        Self { end: Mutex::default(), outbox, stop, keep }
    }

    /// Ends the input because all streams have been read as far as they were to be read.
    pub(crate) fn all_read(&self) {
        lock(&self.end).get_or_insert(End::AllRead);
        self.outbox.close();
    }

    /// Ends the input because of a permanent failure: reading stops, and the host learns the cause.
    pub(crate) fn fail(&self, cause: String) {
        telemetry::failed(&cause);
        {
            let mut end = lock(&self.end);
            if !matches!(*end, Some(End::Failed(_))) {
                *end = Some(End::Failed(cause));
            }
        }
        self.outbox.close();
        self.stop.cancel();
        self.keep.cancel();
    }

    /// The end, if it has come.
    pub(crate) fn end(&self) -> Option<End> {
        lock(&self.end).clone()
    }
}
