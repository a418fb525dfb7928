//! How are rates limited?

use std::collections::BTreeMap;
use std::time::Duration;

use super::ServiceError;
use crate::time::Time;

/// A rate for each second, with a burst of one second's worth.
#[derive(Debug, Clone)]
pub(super) struct Bucket {
    per_second: f64,
    /// The largest amount that is saved up.
    burst: f64,
    left: f64,
    at: Time,
}

impl Bucket {
    pub(super) fn new(per_second: f64) -> Self {
        Self { per_second, burst: per_second, left: per_second, at: Time::default() }
    }

    /// Lowers the rate to this one.
    pub(super) fn admit_at_most(&mut self, per_second: f64) {
        self.per_second = self.per_second.min(per_second);
        self.burst = self.burst.min(per_second.max(1.0));
        self.left = self.left.min(self.burst);
    }

    fn fill(&mut self, now: Time) {
        let since = now.since(self.at).as_secs_f64();
        self.left = (self.left + since * self.per_second).min(self.burst);
        self.at = self.at.max(now);
    }

    /// Takes this amount, if all of it is available.
    pub(super) fn take(&mut self, amount: f64, now: Time) -> bool {
        self.fill(now);
        let there = self.left >= amount;
        if there {
            self.left -= amount;
        }
        there
    }

    /// Takes this amount if anything is available, and owes the rest.
    pub(super) fn owe(&mut self, amount: f64, now: Time) {
        self.fill(now);
        self.left -= amount;
    }

    /// The time until nothing is owed any more.
    pub(super) fn clear_in(&mut self, now: Time) -> Duration {
        self.fill(now);
        Duration::from_secs_f64((-self.left / self.per_second).max(0.0))
    }
}

/// Calls that are counted together: those of an operation on an account, a stream or a shard.
#[derive(Debug, Default)]
pub(super) struct Limits {
    buckets: BTreeMap<(&'static str, String), Bucket>,
}

impl Limits {
    /// Admits a call, if fewer than `per_second` were made within a second.
    pub(super) fn call(
        &mut self,
        operation: &'static str,
        of: &str,
        per_second: f64,
        now: Time,
    ) -> Result<(), ServiceError> {
        let bucket = self.buckets.entry((operation, of.to_owned())).or_insert_with(|| Bucket::new(per_second));
        if bucket.take(1.0, now) {
            return Ok(());
        }
        Err(ServiceError::limit(format!("Rate exceeded for {operation}: {per_second} transactions per second.")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bucket_is_refilled_within_a_second() {
        let mut limits = Limits::default();
        let start = Time::from_millis(1_000_000);
        for _ in 0..5 {
            limits.call("Register", "a", 5.0, start).unwrap();
        }
        assert_eq!(limits.call("Register", "a", 5.0, start).unwrap_err().code, "LimitExceededException");
        limits.call("Register", "b", 5.0, start).unwrap();
        limits.call("Register", "a", 5.0, start + Duration::from_millis(200)).unwrap();
        assert!(limits.call("Register", "a", 5.0, start + Duration::from_millis(300)).is_err());
    }

    #[test]
    fn debt_is_paid_off_with_time() {
        let mut bucket = Bucket::new(1000.0);
        let start = Time::from_millis(1_000_000);
        bucket.owe(3000.0, start);
        assert_eq!(bucket.clear_in(start), Duration::from_secs(2));
        assert_eq!(bucket.clear_in(start + Duration::from_secs(2)), Duration::ZERO);
    }
}
