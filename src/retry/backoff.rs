//! How long is the wait before the next retry?

use std::time::Duration;

/// Delays that double from a first one up to a ceiling, each with jitter. The type is pure: the caller provides
/// randomness.
#[derive(Debug, Clone)]
pub(crate) struct Backoff {
    first: Duration,
    ceiling: Duration,
    tries: u32,
}

impl Backoff {
    /// Creates delays from `first` to `ceiling`. A ceiling below the first delay is raised to the first delay.
    pub(crate) fn new(first: Duration, ceiling: Duration) -> Self {
        Self { first: first.min(ceiling), ceiling, tries: 0 }
    }

    /// Returns the next delay: between half of the step and all of it, as `random` (from 0 to 1) says. Readers that
    /// failed together therefore don't retry together.
    pub(crate) fn next_delay(&mut self, random: f64) -> Duration {
        let factor = 2_u32.saturating_pow(self.tries);
        let step = self.first.saturating_mul(factor).min(self.ceiling);
        self.tries = self.tries.saturating_add(1);
        step.mul_f64(0.5 + 0.5 * random.clamp(0.0, 1.0))
    }

    /// The number of delays that were returned since the start or the last reset.
    pub(crate) fn tries(&self) -> u32 {
        self.tries
    }

    /// Starts again from the first delay, after a success.
    pub(crate) fn reset(&mut self) {
        self.tries = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    #[test]
    fn delays_double_up_to_the_ceiling_until_reset() {
        let mut backoff = Backoff::new(300 * MS, 5000 * MS);
        let delays: Vec<_> = (0..6).map(|_| backoff.next_delay(1.0)).collect();
        assert_eq!(delays, [300 * MS, 600 * MS, 1200 * MS, 2400 * MS, 4800 * MS, 5000 * MS]);
        assert_eq!(backoff.tries(), 6);
        backoff.reset();
        assert_eq!(backoff.tries(), 0);
        assert_eq!(backoff.next_delay(0.0), 150 * MS);
    }

    #[test]
    fn ceiling_below_the_first_delay_is_kept() {
        let mut backoff = Backoff::new(300 * MS, 100 * MS);
        assert_eq!([backoff.next_delay(1.0), backoff.next_delay(1.0)], [100 * MS; 2]);
    }

    #[test]
    fn backoff_never_overflows() {
        let mut backoff = Backoff::new(300 * MS, Duration::MAX);
        for _ in 0..200 {
            backoff.next_delay(1.0);
        }
        assert!(backoff.next_delay(1.0) > Duration::from_secs(1000));
    }
}
