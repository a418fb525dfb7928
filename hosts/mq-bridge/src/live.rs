//! Which consumer closes an input that several share, and when?
//!
//! mq-bridge creates a consumer for every pass of a route and drops it afterwards, sometimes without notice. An input
//! may hold exclusive resources (such as a lock on its checkpoint file). Consumers of the same route therefore share
//! one input, and the last one to leave closes it. A consumer that is created while it closes waits and gets a new one.

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use pipeline_plugin_api::Input;
use tokio::runtime::Handle;
use tokio::sync::watch;

/// How long closing waits for receipts that are still in flight. A route has committed all of its own by then.
const CLOSE_WITHIN: Duration = Duration::from_secs(10);

/// An input and the consumers that read it.
pub(crate) struct Live {
    pub(crate) input: Arc<dyn Input>,
    /// The number of consumers that haven't left; `None` once closing has begun.
    holders: Mutex<Option<usize>>,
    closed: watch::Sender<bool>,
    /// The runtime on which closing runs if the last consumer is dropped where nothing can be awaited.
    runtime: Handle,
}

impl Live {
    /// An input with one consumer. This must be called on a runtime, as all of mq-bridge's calls are.
    pub(crate) fn new(input: Arc<dyn Input>) -> Arc<Self> {
        let (closed, _) = watch::channel(false);
        Arc::new(Self { input, holders: Mutex::new(Some(1)), closed, runtime: Handle::current() })
    }

    /// Adds a consumer, unless closing has begun.
    pub(crate) fn join(&self) -> bool {
        let mut holders = self.holders.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(holders) = holders.as_mut() {
            *holders += 1;
        }
        holders.is_some()
    }

    /// Removes a consumer. The last one starts the closing, which can't be canceled.
    pub(crate) fn leave(self: &Arc<Self>) {
        let mut holders = self.holders.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(left) = holders.as_mut() else { return };
        *left -= 1;
        if *left > 0 {
            return;
        }
        *holders = None;
        // This is made before the task, so that `closed` becomes true even if the runtime never runs it.
        let done = Done(Arc::clone(self));
        self.runtime.spawn(async move {
            if let Err(error) = done.0.input.close(CLOSE_WITHIN).await {
                tracing::warn!(%error, "closing the input failed; some acknowledged messages may be read again");
            }
        });
    }

    /// Whether the last consumer has left.
    pub(crate) fn is_closing(&self) -> bool {
        self.holders.lock().unwrap_or_else(PoisonError::into_inner).is_none()
    }

    /// Whether the input is closed.
    pub(crate) fn is_closed(&self) -> bool {
        *self.closed.borrow()
    }

    /// Waits until the input is closed.
    pub(crate) async fn closed(&self) {
        // The sender lives as long as `self`, so the only way out is `true`.
        let _ = self.closed.subscribe().wait_for(|closed| *closed).await;
    }
}

/// Notifies the waiting consumers when it is dropped, however closing ended.
struct Done(Arc<Live>);

impl Drop for Done {
    fn drop(&mut self) {
        self.0.closed.send_replace(true);
    }
}

impl fmt::Debug for Live {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Live").field("closing", &self.is_closing()).finish_non_exhaustive()
    }
}
