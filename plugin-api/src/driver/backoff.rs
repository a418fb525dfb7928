//! How long does a reader wait before it connects again?

use std::hash::{BuildHasher, RandomState};
use std::time::Duration;

const FIRST: Duration = Duration::from_millis(100);
const LONGEST: Duration = Duration::from_secs(1);

/// Waits that double from 100 ms to 1 s. Each is shortened by a random part of up to a quarter, so that many inputs
/// that lost the same server don't reconnect in step.
#[derive(Debug)]
pub(super) struct Backoff {
    next: Duration,
}

impl Default for Backoff {
    fn default() -> Self {
        Self { next: FIRST }
    }
}

impl Backoff {
    /// Returns the wait before the next attempt.
    pub(super) fn wait(&mut self) -> Duration {
        let wait = self.next;
        self.next = (wait * 2).min(LONGEST);
        // The keys of a new hasher are random, which is enough for jitter and needs no dependency.
        let chance = RandomState::new().hash_one(()) % 1024;
        wait.saturating_sub(wait / 4 * chance as u32 / 1024)
    }

    /// Resets the wait after a success.
    pub(super) fn reset(&mut self) {
        self.next = FIRST;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_double_to_a_second_within_their_jitter_and_start_over() {
        for _ in 0..100 {
            let mut backoff = Backoff::default();
            for full in [100, 200, 400, 800, 1000, 1000] {
                let wait = backoff.wait();
                let full = Duration::from_millis(full);
                assert!(wait <= full && wait >= full * 3 / 4, "{wait:?} of {full:?}");
            }
            backoff.reset();
            assert!(backoff.wait() <= FIRST);
        }
    }

    #[test]
    fn waits_differ() {
        let waits: std::collections::HashSet<_> = (0..100).map(|_| Backoff::default().wait()).collect();
        assert!(waits.len() > 10);
    }
}
