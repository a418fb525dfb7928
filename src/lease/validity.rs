//! Do our leases still count?

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::time::Instant;

/// Until when our leases are good. Shared with those who read, who ask before they hand anything on.
#[derive(Debug)]
pub(crate) struct LeaseValidity {
    start: Instant,
    /// Milliseconds after `start`.
    until: AtomicU64,
    /// How often the leases were past their time.
    expirations: AtomicU64,
}

/// An unbroken time in which the leases were valid. What was claimed in one is good for nothing in another.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Term(u64);

impl LeaseValidity {
    /// One that ends at a point in time, unless it is prolonged.
    pub(crate) fn until(end: Instant) -> Self {
        let start = Instant::now();
        let validity = Self { start, until: AtomicU64::new(0), expirations: AtomicU64::new(0) };
        validity.extend(end);
        validity
    }

    /// One that nobody can end.
    pub(crate) fn unlimited() -> Self {
        Self { start: Instant::now(), until: AtomicU64::new(u64::MAX), expirations: AtomicU64::new(0) }
    }

    /// The present term; `None` while the leases are past their time.
    pub(crate) fn term(&self) -> Option<Term> {
        // Read first: if they expire in between, the term is an old one.
        let term = Term(self.expirations.load(Ordering::Acquire));
        (!self.is_expired()).then_some(term)
    }

    /// The leases are past their time, and everything that was claimed under them stops.
    pub(super) fn expire(&self) {
        self.expirations.fetch_add(1, Ordering::AcqRel);
    }

    pub(crate) fn is_expired(&self) -> bool {
        let elapsed = u64::try_from(self.start.elapsed().as_millis()).unwrap_or(u64::MAX);
        elapsed >= self.until.load(Ordering::Acquire)
    }

    pub(super) fn extend(&self, end: Instant) {
        let until = u64::try_from(end.duration_since(self.start).as_millis()).unwrap_or(u64::MAX);
        self.until.store(until, Ordering::Release);
    }

    pub(super) fn end(&self) -> Instant {
        self.start + Duration::from_millis(self.until.load(Ordering::Acquire))
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::sleep;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_tenure_ends_unless_it_is_prolonged() {
        let validity = LeaseValidity::until(Instant::now() + Duration::from_secs(30));
        sleep(Duration::from_secs(29)).await;
        assert!(!validity.is_expired());
        validity.extend(Instant::now() + Duration::from_secs(30));
        sleep(Duration::from_secs(29)).await;
        assert!(!validity.is_expired());
        sleep(Duration::from_secs(1)).await;
        assert!(validity.is_expired());
        assert!(!LeaseValidity::unlimited().is_expired());
    }
}
