//! How are numbers written for people?

use indicatif::{BinaryBytes, HumanCount};

/// A duration in its two largest units.
pub(crate) fn duration(seconds: u64) -> String {
    match seconds {
        0..60 => format!("{seconds}s"),
        60..3600 => format!("{}m {}s", seconds / 60, seconds % 60),
        3600..86_400 => format!("{}h {}m", seconds / 3600, seconds / 60 % 60),
        _ => format!("{}d {}h", seconds / 86_400, seconds / 3600 % 24),
    }
}

/// An age. Below ten seconds it has a decimal.
pub(crate) fn age(seconds: f64) -> String {
    if seconds > 0.0 && seconds < 10.0 { format!("{seconds:.1}s") } else { duration(seconds.max(0.0) as u64) }
}

/// A count, with separators.
pub(crate) fn count(count: u64) -> String {
    HumanCount(count).to_string()
}

/// A rate. Small ones have a decimal.
pub(crate) fn rate(rate: f64) -> String {
    if rate > 0.0 && rate < 10.0 { format!("{rate:.1}") } else { count(rate.round() as u64) }
}

/// A number, and what is counted.
pub(crate) fn some(number: u64, one: &str, more: &str) -> String {
    format!("{} {}", count(number), if number == 1 { one } else { more })
}

/// A value that may not be known.
pub(crate) fn known(value: Option<f64>, text: fn(f64) -> String) -> String {
    value.map_or("–".to_owned(), text)
}

/// A number of bytes.
pub(crate) fn bytes(bytes: f64) -> String {
    BinaryBytes(bytes.max(0.0).round() as u64).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_have_two_units() {
        let shown = [0, 59, 60, 3599, 3600, 86_399, 90_000].map(duration);
        assert_eq!(shown, ["0s", "59s", "1m 0s", "59m 59s", "1h 0m", "23h 59m", "1d 1h"]);
    }

    #[test]
    fn numbers_are_short_and_keep_what_matters() {
        assert_eq!([0.0, 0.25, 9.96, 61.0].map(age), ["0s", "0.2s", "10.0s", "1m 1s"]);
        assert_eq!([0.0, 0.5, 1234.4].map(rate), ["0", "0.5", "1,234"]);
        assert_eq!(bytes(1536.0), "1.50 KiB");
    }
}
