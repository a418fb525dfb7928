//! When is a batch of one shard complete?
//!
//! This module is pure. The limits are those of Redpanda Connect's `batching`. After each message they are tested in this
//! order: the count, the bytes, the period. A batch therefore exceeds the bytes by less than one message. The period
//! counts from the last flush; while nothing is gathered, it begins anew each time it has passed.

use std::time::Duration;

use tokio::time::Instant;

/// The limits of a batch. At least one of them is set.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct BatchPolicy {
    /// The number of messages that completes a batch; zero for no such limit.
    count: usize,
    /// The bytes of payload that complete a batch; zero for no such limit.
    byte_size: u64,
    /// The time from one flush to the next; zero for no such limit.
    period: Duration,
    /// The largest random part that is added to a period, as a factor.
    jitter: f64,
}

impl BatchPolicy {
    /// Makes a policy; `None` if there is no limit.
    pub(crate) fn new(count: usize, byte_size: u64, period: Duration, jitter: f64) -> Option<Self> {
        let any = count > 0 || byte_size > 0 || !period.is_zero();
        any.then_some(Self { count, byte_size, period, jitter: jitter.max(0.0) })
    }

    /// Whether messages have to be weighed.
    pub(super) fn weighs(&self) -> bool {
        self.byte_size > 0
    }

    fn is_complete(&self, count: usize, bytes: u64) -> bool {
        self.count > 0 && count >= self.count || self.byte_size > 0 && bytes >= self.byte_size
    }

    /// The end of a period that begins with the last flush, and includes `now`. `chance` is at least 0 and below 1.
    fn period_end(&self, flushed_at: Instant, now: Instant, chance: f64) -> Option<Instant> {
        if self.period.is_zero() {
            return None;
        }
        let passed = now.saturating_duration_since(flushed_at).as_nanos() % self.period.as_nanos();
        let left = self.period.saturating_sub(Duration::from_nanos(u64::try_from(passed).unwrap_or(0)));
        // A time that is too far away for the clock never comes.
        let jitter = Duration::try_from_secs_f64(self.period.as_secs_f64() * self.jitter * chance).ok()?;
        now.checked_add(left)?.checked_add(jitter)
    }
}

/// What is gathered of the next batch of a shard.
#[derive(Debug)]
pub(super) struct Gathering {
    count: usize,
    bytes: u64,
    /// The ordinal of the first record.
    first: Option<u64>,
    /// When the last batch was flushed.
    flushed_at: Instant,
    /// When what is gathered is flushed, however little it is.
    flush_at: Option<Instant>,
}

impl Gathering {
    /// Begins to gather.
    pub(super) fn new(now: Instant) -> Self {
        Self { count: 0, bytes: 0, first: None, flushed_at: now, flush_at: None }
    }

    /// Whether nothing is gathered.
    pub(super) fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// When what is gathered is flushed, however little it is; `None` if it waits for other limits.
    pub(super) fn flush_at(&self) -> Option<Instant> {
        self.flush_at
    }

    /// Returns how many of the messages with these sizes belong to the batch: all, or up to the one that completes it.
    pub(super) fn room(&self, policy: &BatchPolicy, sizes: impl Iterator<Item = u64>) -> usize {
        let (mut taken, mut bytes) = (0, self.bytes);
        for size in sizes {
            taken += 1;
            bytes += size;
            if policy.is_complete(self.count + taken, bytes) {
                break;
            }
        }
        taken
    }

    /// The ordinal of the first record that is gathered, if any is.
    pub(super) fn first(&self) -> Option<u64> {
        self.first
    }

    /// Adds the messages of a delivery, no more than there is [`room`](Self::room) for. Returns whether they complete the
    /// batch.
    pub(super) fn add(&mut self, policy: &BatchPolicy, added: Added, now: Instant, chance: f64) -> bool {
        if self.is_empty() {
            self.first = Some(added.first);
            self.flush_at = policy.period_end(self.flushed_at, now, chance);
        }
        self.count += added.count;
        self.bytes += added.bytes;
        let complete = policy.is_complete(self.count, self.bytes);
        if complete {
            self.flushed(now);
        }
        complete
    }

    /// Begins the next batch.
    pub(super) fn flushed(&mut self, now: Instant) {
        *self = Self::new(now);
    }
}

/// The messages of a delivery that is added.
#[derive(Debug, Clone, Copy)]
pub(super) struct Added {
    /// The ordinal of the first record.
    pub(super) first: u64,
    pub(super) count: usize,
    pub(super) bytes: u64,
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn policy(count: usize, byte_size: u64, period: Duration) -> BatchPolicy {
        BatchPolicy::new(count, byte_size, period, 0.0).unwrap()
    }

    fn added(count: usize) -> Added {
        Added { first: 7, count, bytes: 10 }
    }

    #[test]
    fn no_limit_is_no_policy() {
        assert_eq!(BatchPolicy::new(0, 0, Duration::ZERO, 0.5), None);
    }

    #[test]
    fn message_that_reaches_a_limit_is_the_last_of_its_batch() {
        let gathering = Gathering::new(Instant::now());
        assert_eq!(gathering.room(&policy(3, 0, Duration::ZERO), [1; 10].into_iter()), 3);
        // It may exceed the bytes by one message.
        assert_eq!(gathering.room(&policy(0, 100, Duration::ZERO), [60, 60, 60].into_iter()), 2);
        assert_eq!(gathering.room(&policy(0, 100, Duration::ZERO), [500, 1].into_iter()), 1);
        assert_eq!(gathering.room(&policy(3, 100, Duration::ZERO), [50, 50, 1].into_iter()), 2);
        assert_eq!(gathering.room(&policy(3, 100, Duration::ZERO), [1, 1].into_iter()), 2);
    }

    #[test]
    fn limits_count_over_several_additions() {
        let (policy, now) = (policy(5, 1000, Duration::ZERO), Instant::now());
        let mut gathering = Gathering::new(now);
        assert!(!gathering.add(&policy, added(3), now, 0.0));
        assert_eq!(gathering.room(&policy, [1; 10].into_iter()), 2);
        assert!(gathering.add(&policy, added(2), now, 0.0));
        assert_eq!(gathering.room(&policy, [1; 10].into_iter()), 5, "the next batch begins");
    }

    #[test]
    fn period_counts_from_the_last_flush() {
        let (policy, start) = (policy(2, 0, SECOND), Instant::now());
        let mut gathering = Gathering::new(start);
        gathering.add(&policy, added(1), start + SECOND * 3 / 4, 0.0);
        assert_eq!(gathering.flush_at(), Some(start + SECOND));
        // A batch that was completed by its count begins a period.
        let full = start + SECOND * 9 / 10;
        assert!(gathering.add(&policy, added(1), full, 0.0));
        gathering.add(&policy, added(1), full + SECOND / 2, 0.0);
        assert_eq!(gathering.flush_at(), Some(full + SECOND));
        // While nothing is gathered, the periods go on.
        gathering.flushed(start);
        gathering.add(&policy, added(1), start + SECOND * 7 / 2, 0.0);
        assert_eq!(gathering.flush_at(), Some(start + SECOND * 4));
    }

    #[test]
    fn jitter_lengthens_the_period_by_at_most_its_part() {
        let (policy, now) = (BatchPolicy::new(0, 0, SECOND, 0.5).unwrap(), Instant::now());
        for (chance, period) in [(0.0, SECOND), (0.5, SECOND * 5 / 4), (1.0, SECOND * 3 / 2)] {
            let mut gathering = Gathering::new(now);
            gathering.add(&policy, added(1), now, chance);
            assert_eq!(gathering.flush_at(), Some(now + period));
        }
    }

    #[test]
    fn absurd_period_never_ends_and_does_not_panic() {
        let (policy, now) = (BatchPolicy::new(0, 0, Duration::MAX, f64::MAX).unwrap(), Instant::now());
        let mut gathering = Gathering::new(now);
        assert!(!gathering.add(&policy, added(1), now, 0.9));
        assert_eq!(gathering.flush_at(), None);
    }
}
