//! How is a run asked to stop?

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::Instant;

/// Stops a run, softly or hard. Clones stop the same run.
#[derive(Debug, Clone)]
pub struct StopHandle {
    asked: Arc<watch::Sender<Asked>>,
}

#[derive(Debug, Clone, Copy, Default)]
struct Asked {
    /// When the run was first asked to stop at all.
    since: Option<Instant>,
    hard: bool,
}

impl StopHandle {
    /// Nothing is asked yet.
    pub fn new() -> Self {
        Self { asked: Arc::new(watch::channel(Asked::default()).0) }
    }

    /// Asks for a soft stop: read no more, deliver what was taken, store progress. Asking again changes nothing.
    pub fn soft(&self) {
        self.asked.send_modify(|asked| {
            asked.since.get_or_insert_with(Instant::now);
        });
    }

    /// Asks for a hard stop: give up what is on its way, which will be read again.
    pub fn hard(&self) {
        self.asked.send_modify(|asked| {
            asked.since.get_or_insert_with(Instant::now);
            asked.hard = true;
        });
    }

    /// Whether any stop was asked for.
    pub fn is_requested(&self) -> bool {
        self.asked.borrow().since.is_some()
    }

    /// Whether a hard stop was asked for.
    pub fn is_hard(&self) -> bool {
        self.asked.borrow().hard
    }

    /// Waits until any stop is asked for. Cancel safe.
    pub async fn soft_or_hard(&self) {
        // The sender lives as long as `self`, so waiting can't fail.
        let _ = self.asked.subscribe().wait_for(|asked| asked.since.is_some()).await;
    }

    /// Waits until a hard stop is asked for. Cancel safe.
    pub async fn hard_requested(&self) {
        let _ = self.asked.subscribe().wait_for(|asked| asked.hard).await;
    }

    /// When a soft stop has to be over; counted from now if none was asked for.
    pub(super) fn deadline(&self, timeout: Duration) -> Instant {
        self.asked.borrow().since.unwrap_or_else(Instant::now) + timeout
    }
}

impl Default for StopHandle {
    fn default() -> Self {
        Self::new()
    }
}
