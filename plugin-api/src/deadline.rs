//! When is a wait over whose length the host chose?

use std::time::Duration;

use tokio::time::Instant;

/// As long as no wait is meant to last.
const FAR: Duration = Duration::from_hours(24 * 365 * 30);

/// The end of a wait that begins now. A wait that is longer than the clock can say, such as [`Duration::MAX`], ends in thirty
/// years.
pub fn deadline(wait: Duration) -> Instant {
    let now = Instant::now();
    now.checked_add(wait).unwrap_or_else(|| now + FAR)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn longest_wait_has_an_end() {
        assert!(deadline(Duration::MAX) > Instant::now() + FAR / 2);
        assert!(deadline(Duration::ZERO) <= Instant::now());
    }
}
