//! Are the leases of this worker still valid?

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::time::Instant;

/// The time until which the leases of this worker are valid. It is shared with the readers, which check it before they
/// deliver anything.
#[derive(Debug)]
pub(crate) struct LeaseValidity {
    /// The moment from which `until` counts.
    start: Instant,
    /// The end of the validity, in milliseconds after `start`. Every successful heartbeat moves it on; the outbox and
    /// the coordinator check it.
    until: AtomicU64,
    /// How often the leases have expired. The heartbeat counts it, and every [`Term`] is made from it.
    expirations: AtomicU64,
}

/// An unbroken time in which the leases were valid. A shard that was claimed in one term must not be started in
/// another.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Term(u64);

impl LeaseValidity {
    /// Makes a validity that ends at a point in time, unless it is extended.
    pub(crate) fn until(end: Instant) -> Self {
        let start = Instant::now();
        let validity = Self { start, until: AtomicU64::new(0), expirations: AtomicU64::new(0) };
        validity.extend(end);
        validity
    }

    /// Makes a validity that never ends.
    pub(crate) fn unlimited() -> Self {
        Self { start: Instant::now(), until: AtomicU64::new(u64::MAX), expirations: AtomicU64::new(0) }
    }

    /// The present term; `None` while the leases are expired.
    pub(crate) fn term(&self) -> Option<Term> {
        // The counter is read first: if the leases expire in between, the term is an old one.
        let term = Term(self.expirations.load(Ordering::Acquire));
        (!self.is_expired()).then_some(term)
    }

    /// Ends the present term: the leases have expired, and everything that was claimed under them stops.
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
    async fn validity_ends_unless_it_is_extended() {
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
