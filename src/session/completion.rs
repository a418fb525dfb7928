//! Has the input come to an end of its own, and why?

use std::sync::Arc;

use tokio_util::sync::CancellationToken;

use crate::delivery::outbox::Outbox;
use crate::sync::{Mutex, lock};
use crate::telemetry;

/// Why nothing more will come.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum End {
    /// All there was to read has been read and acknowledged.
    AllRead,
    /// Something has to be changed by a person.
    Failed(String),
}

/// The end of an input, once it has come. It closes the outbox, so that the host hears of it.
#[derive(Debug)]
pub(crate) struct Completion {
    end: Mutex<Option<End>>,
    outbox: Arc<Outbox>,
    stop: CancellationToken,
    /// Who keeps leases; nobody else gets them as long as they are kept.
    keep: CancellationToken,
}

impl Completion {
    pub(crate) fn new(outbox: Arc<Outbox>, stop: CancellationToken, keep: CancellationToken) -> Self {
        Self { end: Mutex::default(), outbox, stop, keep }
    }

    /// All streams have been read to the end of what was asked of them.
    pub(crate) fn all_read(&self) {
        lock(&self.end).get_or_insert(End::AllRead);
        self.outbox.close();
    }

    /// Something broke for good: reading stops, and the host is told.
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
