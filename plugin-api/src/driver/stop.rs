//! How is a driver asked to stop?

use std::time::Duration;

use tokio::sync::watch;
use tokio::time::Instant;

/// Whether and how a driver has to stop.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum Stop {
    /// Not at all.
    #[default]
    No,
    /// Read nothing more; what is outstanding may be settled until this time.
    Soft {
        /// When patience ends.
        until: Instant,
    },
    /// At once: what is outstanding is nacked.
    Hard,
}

impl Stop {
    /// How long outstanding receipts are still waited for; `None` when no stop was asked for.
    pub fn remaining(self) -> Option<Duration> {
        match self {
            Self::No => None,
            Self::Soft { until } => Some(until.saturating_duration_since(Instant::now())),
            Self::Hard => Some(Duration::ZERO),
        }
    }
}

/// Asks a driver to stop, from any task or thread. Cheap to clone; what is asked stays asked.
#[derive(Debug, Clone, Default)]
pub struct StopHandle {
    asked: watch::Sender<Stop>,
}

impl StopHandle {
    /// Stops reading; what is outstanding may be settled for this long. The first soft stop sets the deadline.
    pub fn soft(&self, within: Duration) {
        let until = crate::deadline(within);
        self.asked.send_if_modified(|stop| {
            let first = *stop == Stop::No;
            if first {
                *stop = Stop::Soft { until };
            }
            first
        });
    }

    /// Stops at once, whatever was asked before.
    pub fn hard(&self) {
        self.asked.send_replace(Stop::Hard);
    }

    /// What has been asked so far.
    pub fn current(&self) -> Stop {
        *self.asked.borrow()
    }

    /// Waits until any stop is asked for, and says which. Cancel safe.
    pub async fn requested(&self) -> Stop {
        self.until(|stop| *stop != Stop::No).await
    }

    /// Waits until a hard stop is asked for. Cancel safe.
    pub async fn hardened(&self) {
        self.until(|stop| *stop == Stop::Hard).await;
    }

    async fn until(&self, wanted: impl FnMut(&Stop) -> bool) -> Stop {
        let mut asked = self.asked.subscribe();
        let reached = asked.wait_for(wanted).await;
        // The sender lives as long as `self`, so waiting can't fail.
        reached.map_or(Stop::Hard, |stop| *stop)
    }
}
