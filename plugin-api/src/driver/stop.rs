//! How is a driver stopped?

use std::time::Duration;

use tokio::sync::watch;
use tokio::time::Instant;

/// The stop that was requested of a driver.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum Stop {
    /// No stop was requested.
    #[default]
    No,
    /// The driver reads nothing more; batches in flight may be settled until this time.
    Graceful {
        /// The shutdown deadline.
        until: Instant,
    },
    /// The driver stops at once; batches in flight are nacked.
    Immediate,
}

impl Stop {
    /// Returns how long receipts in flight may still be settled, or `None` if no stop was requested.
    pub fn remaining(self) -> Option<Duration> {
        match self {
            Self::No => None,
            Self::Graceful { until } => Some(until.saturating_duration_since(Instant::now())),
            Self::Immediate => Some(Duration::ZERO),
        }
    }
}

/// A handle that stops a driver from any task or thread. Clones are cheap, and a requested stop can't be revoked.
#[derive(Debug, Clone, Default)]
pub struct StopHandle {
    asked: watch::Sender<Stop>,
}

impl StopHandle {
    /// Stops reading; batches in flight may be settled for this long. The first graceful stop sets the deadline.
    pub fn stop_gracefully(&self, within: Duration) {
        let until = crate::deadline(within);
        self.asked.send_if_modified(|stop| {
            let first = *stop == Stop::No;
            if first {
                *stop = Stop::Graceful { until };
            }
            first
        });
    }

    /// Stops at once, regardless of earlier requests.
    pub fn stop_immediately(&self) {
        self.asked.send_replace(Stop::Immediate);
    }

    /// Returns the stop that was requested so far.
    pub fn current(&self) -> Stop {
        *self.asked.borrow()
    }

    /// Waits until any stop is requested, and returns it. This method is cancel safe.
    pub async fn requested(&self) -> Stop {
        self.until(|stop| *stop != Stop::No).await
    }

    /// Waits until an immediate stop is requested. This method is cancel safe.
    pub async fn immediate_requested(&self) {
        self.until(|stop| *stop == Stop::Immediate).await;
    }

    async fn until(&self, wanted: impl FnMut(&Stop) -> bool) -> Stop {
        let mut asked = self.asked.subscribe();
        let reached = asked.wait_for(wanted).await;
        // The sender lives as long as `self`, so waiting can't fail.
        reached.map_or(Stop::Immediate, |stop| *stop)
    }
}
