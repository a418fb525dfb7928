//! How is a run stopped?

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::Instant;

/// Stops a run, gracefully or at once. Clones stop the same run.
#[derive(Debug, Clone)]
pub struct StopHandle {
    asked: Arc<watch::Sender<Asked>>,
}

#[derive(Debug, Clone, Copy, Default)]
struct Asked {
    /// When a stop was first requested.
    since: Option<Instant>,
    immediate: bool,
}

impl StopHandle {
    /// A handle without a request.
    pub fn new() -> Self {
        Self { asked: Arc::new(watch::channel(Asked::default()).0) }
    }

    /// Requests a graceful stop: read no more, deliver what was taken, store progress. A repeated request has no
    /// effect.
    pub fn stop_gracefully(&self) {
        self.asked.send_modify(|asked| {
            asked.since.get_or_insert_with(Instant::now);
        });
    }

    /// Requests an immediate stop: abandon what is in flight, which will be read again.
    pub fn stop_immediately(&self) {
        self.asked.send_modify(|asked| {
            asked.since.get_or_insert_with(Instant::now);
            asked.immediate = true;
        });
    }

    /// Whether any stop was requested.
    pub fn is_requested(&self) -> bool {
        self.asked.borrow().since.is_some()
    }

    /// Whether an immediate stop was requested.
    pub fn is_immediate(&self) -> bool {
        self.asked.borrow().immediate
    }

    /// Waits until any stop is requested. Cancel safe.
    pub async fn requested(&self) {
        // The sender lives as long as `self`, so waiting can't fail.
        let _ = self.asked.subscribe().wait_for(|asked| asked.since.is_some()).await;
    }

    /// Waits until an immediate stop is requested. Cancel safe.
    pub async fn immediate_requested(&self) {
        let _ = self.asked.subscribe().wait_for(|asked| asked.immediate).await;
    }

    /// The deadline of a graceful stop, counted from now if none was requested.
    pub(super) fn deadline(&self, timeout: Duration) -> Instant {
        self.asked.borrow().since.unwrap_or_else(Instant::now) + timeout
    }
}

impl Default for StopHandle {
    fn default() -> Self {
        Self::new()
    }
}
