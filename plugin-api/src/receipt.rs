//! How does a host report the outcome of a batch?

use std::fmt;

use crate::{AckError, Reason};

/// The outcome of one message.
///
/// Two nacks with different reasons are not equal; [`is_ack`](Self::is_ack) compares the verdict alone.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Verdict {
    /// The message is processed and need not be delivered again.
    Ack,
    /// The message is not processed and must be delivered again. The reason only appears in the log of the
    /// input.
    Nack(Option<Reason>),
}

impl Verdict {
    /// A nack without a reason.
    pub const NACK: Self = Self::Nack(None);

    /// Creates a nack with a reason.
    pub fn nack(reason: impl Into<Reason>) -> Self {
        Self::Nack(Some(reason.into()))
    }

    /// Returns `true` if the message is acknowledged.
    pub fn is_ack(&self) -> bool {
        matches!(self, Self::Ack)
    }
}

/// The outcome of the messages of a batch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdicts {
    /// The same verdict applies to all messages.
    All(Verdict),
    /// There is one verdict for each message, in the order of the batch.
    Each(Vec<Verdict>),
}

impl Verdicts {
    /// All messages are acknowledged.
    pub const ACK: Self = Self::All(Verdict::Ack);
    /// All messages are nacked.
    pub const NACK: Self = Self::All(Verdict::NACK);

    /// Creates a nack of all messages with this reason.
    pub fn nack(reason: impl Into<Reason>) -> Self {
        Self::All(Verdict::nack(reason))
    }
}

/// The action of an input when a batch is settled. Inputs implement it, and a [`Receipt`] calls it once.
pub trait Settle: Send + Sync + 'static {
    /// Receives the verdicts; [`Verdicts::Each`] holds exactly one for each message. This method must neither
    /// block nor fail.
    fn settle(self: Box<Self>, verdicts: Verdicts);
}

/// A settlement that reports the verdicts to a wrapper.
struct OnSettle<F> {
    observer: F,
    receipt: Receipt,
}

impl<F: FnOnce(&Verdicts) + Send + Sync + 'static> Settle for OnSettle<F> {
    fn settle(self: Box<Self>, verdicts: Verdicts) {
        (self.observer)(&verdicts);
        // The number of verdicts was verified before this call.
        let _ = self.receipt.settle(verdicts);
    }
}

/// The right, and the duty, to settle a batch.
///
/// A receipt can't be copied, and settling consumes it, so a batch is settled once. Dropping an unused receipt
/// nacks the batch: a host that loses a batch because of an error, a panic or a canceled task loses no message.
#[must_use = "a receipt that is dropped is a nack"]
pub struct Receipt {
    settle: Option<Box<dyn Settle>>,
    expected: usize,
}

impl Receipt {
    /// Creates a receipt for a batch of `expected` messages.
    pub fn new(expected: usize, settle: impl Settle) -> Self {
        Self { settle: Some(Box::new(settle)), expected }
    }

    /// Creates the receipt of an empty batch; settling it does nothing.
    pub fn empty() -> Self {
        Self { settle: None, expected: 0 }
    }

    /// Adds an observer, for a wrapper of an input that needs the outcome of a batch: `observer` is called once,
    /// with the verdicts of all messages, before they are counted. A dropped receipt is reported as a nack.
    pub fn on_settle(self, observer: impl FnOnce(&Verdicts) + Send + Sync + 'static) -> Self {
        let expected = self.expected;
        Self { settle: Some(Box::new(OnSettle { observer, receipt: self })), expected }
    }

    /// Settles the batch without an input, for tests of how an input processes verdicts.
    ///
    /// # Errors
    ///
    /// Fails under the same conditions as [`Input::ack`](crate::Input::ack).
    #[cfg(feature = "conformance")]
    pub fn settle_in_test(self, verdicts: Verdicts) -> Result<(), AckError> {
        self.settle(verdicts)
    }

    /// Returns the number of messages that this receipt settles.
    pub fn expected(&self) -> usize {
        self.expected
    }

    /// Settles the batch. [`Input::ack`](crate::Input::ack) is the only public way here, so that wrappers of an
    /// input see every verdict.
    ///
    /// # Errors
    ///
    /// Fails with [`AckError::WrongCount`] if the number of verdicts differs from the number of messages; the
    /// batch is then nacked.
    pub(crate) fn settle(mut self, verdicts: Verdicts) -> Result<(), AckError> {
        let Some(settle) = self.settle.take() else { return Ok(()) };
        if let Verdicts::Each(each) = &verdicts
            && each.len() != self.expected
        {
            let got = each.len();
            settle.settle(Verdicts::NACK);
            return Err(AckError::WrongCount { expected: self.expected, got });
        }
        settle.settle(verdicts);
        Ok(())
    }
}

impl Drop for Receipt {
    fn drop(&mut self) {
        if let Some(settle) = self.settle.take() {
            settle.settle(Verdicts::NACK);
        }
    }
}

impl fmt::Debug for Receipt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Receipt").field("expected", &self.expected).field("settled", &self.settle.is_none()).finish()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use super::*;

    #[test]
    fn wrapper_receives_verdicts_once_and_forwards_them() {
        let (input, wrapper) = (Recorder::default(), Recorder::default());
        let observer = wrapper.clone();
        let receipt =
            Receipt::new(1, input.clone()).on_settle(move |verdicts| Box::new(observer).settle(verdicts.clone()));
        receipt.settle(Verdicts::ACK).unwrap();
        let observer = wrapper.clone();
        drop(Receipt::new(1, input.clone()).on_settle(move |verdicts| Box::new(observer).settle(verdicts.clone())));
        let observer = wrapper.clone();
        let receipt =
            Receipt::new(1, input.clone()).on_settle(move |verdicts| Box::new(observer).settle(verdicts.clone()));
        receipt.settle(Verdicts::nack("disk full")).unwrap();
        for all in [input, wrapper] {
            assert_eq!(*all.0.lock().unwrap(), [Verdicts::ACK, Verdicts::NACK, Verdicts::nack("disk full")]);
        }
    }

    #[test]
    fn nacks_with_and_without_a_reason_are_both_no_acks() {
        assert!(Verdict::Ack.is_ack());
        assert!(!Verdict::NACK.is_ack() && !Verdict::nack("disk full").is_ack());
        assert_ne!(Verdict::NACK, Verdict::nack("disk full"));
    }

    #[derive(Clone, Default)]
    struct Recorder(Arc<Mutex<Vec<Verdicts>>>);

    impl Settle for Recorder {
        fn settle(self: Box<Self>, verdicts: Verdicts) {
            self.0.lock().unwrap().push(verdicts);
        }
    }

    #[test]
    fn receipt_dropped_by_the_host() {
        let input = Recorder::default();
        drop(Receipt::new(2, input.clone()));
        assert_eq!(*input.0.lock().unwrap(), [Verdicts::NACK]);
    }

    #[test]
    fn settled_receipt_is_not_nacked_when_dropped() {
        let input = Recorder::default();
        Receipt::new(2, input.clone()).settle(Verdicts::ACK).unwrap();
        assert_eq!(*input.0.lock().unwrap(), [Verdicts::ACK]);
    }

    #[test]
    fn verdicts_that_do_not_match_the_batch_are_refused_and_nack_it() {
        let input = Recorder::default();
        let refused = Receipt::new(2, input.clone()).settle(Verdicts::Each(vec![Verdict::Ack]));
        assert_eq!(refused, Err(AckError::WrongCount { expected: 2, got: 1 }));
        assert_eq!(*input.0.lock().unwrap(), [Verdicts::NACK]);
    }
}
