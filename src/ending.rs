//! Has the input come to an end of its own, and why?

use std::sync::Arc;

use tokio_util::sync::CancellationToken;

use crate::outbox::Outbox;
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

/// Collects the ends of the parts and makes one end of them.
#[derive(Debug)]
pub(crate) struct Ending {
    core: Mutex<Core>,
    outbox: Arc<Outbox>,
    stop: CancellationToken,
    /// Who keeps leases; nobody else gets them as long as they are kept.
    keep: CancellationToken,
}

#[derive(Debug)]
struct Core {
    streams_left: usize,
    end: Option<End>,
}

impl Ending {
    pub(crate) fn new(streams: usize, outbox: Arc<Outbox>, stop: CancellationToken, keep: CancellationToken) -> Self {
        Self { core: Mutex::new(Core { streams_left: streams, end: None }), outbox, stop, keep }
    }

    /// A stream has been read to the end of all that was asked of it.
    pub(crate) fn stream_is_read(&self) {
        let all_read = {
            let mut core = lock(&self.core);
            core.streams_left = core.streams_left.saturating_sub(1);
            let all_read = core.streams_left == 0 && core.end.is_none();
            if all_read {
                core.end = Some(End::AllRead);
            }
            all_read
        };
        if all_read {
            self.outbox.close();
        }
    }

    /// Something broke for good: reading stops, and the host is told.
    pub(crate) fn fail(&self, cause: String) {
        telemetry::failed(&cause);
        {
            let mut core = lock(&self.core);
            if !matches!(core.end, Some(End::Failed(_))) {
                core.end = Some(End::Failed(cause));
            }
        }
        self.outbox.close();
        self.stop.cancel();
        self.keep.cancel();
    }

    /// The end, if it has come.
    pub(crate) fn end(&self) -> Option<End> {
        lock(&self.core).end.clone()
    }
}
