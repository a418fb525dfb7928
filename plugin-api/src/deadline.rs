//! When does a wait of a given length end?

use std::time::Duration;

use tokio::time::Instant;

/// This is longer than any intended wait.
const FAR: Duration = Duration::from_hours(24 * 365 * 30);

/// Returns the end of a wait that begins now. A wait that exceeds the range of the clock, such as
/// [`Duration::MAX`], ends in thirty years.
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
