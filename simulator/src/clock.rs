//! Where does time come from?

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::SystemTime;

use aws_smithy_async::time::TimeSource;
use tokio::time::Instant;

use crate::time::Time;

/// A clock: the system's, or one that follows that of a tokio runtime.
#[derive(Clone)]
pub struct Clock {
    source: Source,
    /// The number of milliseconds by which [`TimeSource`] is ahead of the true time.
    skew: Arc<AtomicI64>,
}

#[derive(Clone, Copy)]
enum Source {
    System,
    Tokio { start: Instant, at: Time },
}

impl Clock {
    /// The system's clock.
    pub fn system() -> Self {
        Self { source: Source::System, skew: Arc::default() }
    }

    /// A clock that says `at` now and follows tokio's clock: it stands still while that is paused. It has to be made on
    /// the runtime that it is for.
    pub fn tokio(at: Time) -> Self {
        Self { source: Source::Tokio { start: Instant::now(), at }, skew: Arc::default() }
    }

    /// The true time.
    pub fn now(&self) -> Time {
        match self.source {
            Source::System => SystemTime::now().into(),
            Source::Tokio { start, at } => at + start.elapsed(),
        }
    }

    /// Sets the number of milliseconds by which the clock is ahead of the true time for a client that asks it. The
    /// simulator itself stays on the true time.
    pub fn set_skew(&self, millis: i64) {
        self.skew.store(millis, Ordering::Relaxed);
    }
}

impl TimeSource for Clock {
    fn now(&self) -> SystemTime {
        let millis = Self::now(self).millis().saturating_add_signed(self.skew.load(Ordering::Relaxed));
        Time::from_millis(millis).system_time()
    }
}

impl fmt::Debug for Clock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Clock").field(&self.now()).finish()
    }
}
