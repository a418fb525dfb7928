//! What becomes of records that the output nacks?
//!
//! They are delivered again, until the output accepts them or the policy gives them up. An output that can't tell which
//! record of a batch it refuses is given smaller and smaller parts of the batch, so that the others get through.

use std::time::Duration;

use super::Delivery;

/// When nacked records are dropped instead of being delivered again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct RedeliveryPolicy {
    /// How often a record may be refused; `None` for any number of times.
    pub(crate) max_attempts: Option<u32>,
    /// How long after its first delivery a record is dropped if it is refused then; `None` for never.
    pub(crate) max_age: Option<Duration>,
    /// Whether a batch that is refused as a whole comes again in halves. What is refused together with others does not
    /// count as refused then.
    pub(crate) bisects: bool,
}

impl RedeliveryPolicy {
    /// Delivers again until the output accepts.
    pub(crate) const UNTIL_ACCEPTED: Self = Self { max_attempts: None, max_age: None, bisects: false };
    /// Delivers once.
    pub(crate) const ONCE: Self = Self { max_attempts: Some(1), ..Self::UNTIL_ACCEPTED };

    /// Whether records are dropped that were refused this many times, and first delivered this long ago.
    fn gives_up(&self, refusals: u32, age: Duration) -> bool {
        refusals > 0
            && (self.max_attempts.is_some_and(|most| refusals >= most)
                || self.max_age.is_some_and(|oldest| age >= oldest))
    }
}

/// What a nack says about the records of a delivery.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Refusal {
    /// The output refuses each of them.
    Each,
    /// The output refuses the batch with all its records, which are several.
    Batch,
}

impl Delivery {
    /// Counts a nack. Returns whether the records are given up.
    pub(super) fn refused(&mut self, refusal: Refusal) -> bool {
        let policy = self.progress.redelivery;
        self.nacks += 1;
        if refusal == Refusal::Each || !policy.bisects {
            self.refusals += 1;
        }
        let age = self.delivered_at.map(|at| at.elapsed()).unwrap_or_default();
        policy.gives_up(self.refusals, age)
    }
}

/// Cuts a batch that comes again into two batches of about the same number of records. The parts are in order.
pub(super) fn halve(batch: Vec<Delivery>) -> Vec<Delivery> {
    let mut left = batch.iter().map(Delivery::len).sum::<usize>() / 2;
    let mut halves = Vec::with_capacity(batch.len() + 1);
    for mut delivery in batch {
        if left > 0 && left < delivery.len() {
            let mut first = delivery.split_first(left);
            (first.ends_batch, left) = (true, 0);
            halves.push(first);
        } else if left > 0 {
            left -= delivery.len();
            delivery.ends_batch |= left == 0;
        }
        halves.push(delivery);
    }
    halves
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_are_given_up_as_the_policy_says() {
        let second = Duration::from_secs(1);
        assert!(!RedeliveryPolicy::UNTIL_ACCEPTED.gives_up(u32::MAX, Duration::MAX));
        assert!(RedeliveryPolicy::ONCE.gives_up(1, Duration::ZERO));
        let policy = RedeliveryPolicy { max_attempts: Some(3), max_age: Some(10 * second), bisects: true };
        assert!(!policy.gives_up(2, 9 * second));
        assert!(policy.gives_up(3, Duration::ZERO));
        assert!(policy.gives_up(1, 10 * second));
        assert!(!policy.gives_up(0, 10 * second), "it was only refused together with others");
    }
}
