//! How does a host say what became of a batch?

use std::fmt;

use crate::{AckError, Reason};

/// What became of one message.
///
/// Two nacks with different reasons are not equal: [`is_ack`](Self::is_ack) asks for the verdict alone.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Verdict {
    /// The message is safe where it was meant to go; it need not be delivered again.
    Ack,
    /// The message is not safe, and is to be delivered again. The reason is for the log of the input and changes nothing else.
    Nack(Option<Reason>),
}

impl Verdict {
    /// A nack without a reason.
    pub const NACK: Self = Self::Nack(None);

    /// A nack with a reason.
    pub fn nack(reason: impl Into<Reason>) -> Self {
        Self::Nack(Some(reason.into()))
    }

    /// Whether the message is acknowledged.
    pub fn is_ack(&self) -> bool {
        matches!(self, Self::Ack)
    }
}

/// What became of the messages of a batch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdicts {
    /// The same for all.
    All(Verdict),
    /// One for each message, in the order of the batch.
    Each(Vec<Verdict>),
}

impl Verdicts {
    /// All messages are done.
    pub const ACK: Self = Self::All(Verdict::Ack);
    /// No message is done.
    pub const NACK: Self = Self::All(Verdict::NACK);

    /// No message is done, for this reason.
    pub fn nack(reason: impl Into<Reason>) -> Self {
        Self::All(Verdict::nack(reason))
    }
}

/// What an input does when a batch is settled. Implemented by inputs, called once by a [`Receipt`].
pub trait Settle: Send + Sync + 'static {
    /// Takes the verdicts; [`Verdicts::Each`] holds exactly one for each message. Must neither block nor fail.
    fn settle(self: Box<Self>, verdicts: Verdicts);
}

/// A receipt whose verdicts a wrapper hears.
struct OnSettle<F> {
    hear: F,
    receipt: Receipt,
}

impl<F: FnOnce(&Verdicts) + Send + Sync + 'static> Settle for OnSettle<F> {
    fn settle(self: Box<Self>, verdicts: Verdicts) {
        (self.hear)(&verdicts);
        // The number of verdicts was compared before they came here.
        let _ = self.receipt.settle(verdicts);
    }
}

/// The right, and the duty, to say what became of a batch.
///
/// It is owned and can't be copied, and settling consumes it, so a batch is settled once. One that is dropped
/// unused is a nack: a host that loses a batch by an error, a panic or a cancelled task loses no message.
#[must_use = "a receipt that is dropped is a nack"]
pub struct Receipt {
    settle: Option<Box<dyn Settle>>,
    expected: usize,
}

impl Receipt {
    /// A receipt for a batch of `expected` messages.
    pub fn new(expected: usize, settle: impl Settle) -> Self {
        Self { settle: Some(Box::new(settle)), expected }
    }

    /// The receipt of an empty batch: settling it does nothing.
    pub fn empty() -> Self {
        Self { settle: None, expected: 0 }
    }

    /// The same receipt, for a wrapper of an input that has to know what became of a batch: `hear` is called once, with the
    /// verdicts of all messages, before they are counted. A receipt that is dropped counts as a nack here, too.
    pub fn on_settle(self, hear: impl FnOnce(&Verdicts) + Send + Sync + 'static) -> Self {
        let expected = self.expected;
        Self { settle: Some(Box::new(OnSettle { hear, receipt: self })), expected }
    }

    /// Settles the batch without an input, for tests of what an input does with verdicts.
    ///
    /// # Errors
    ///
    /// As [`Input::ack`](crate::Input::ack).
    #[cfg(feature = "conformance")]
    pub fn settle_in_test(self, verdicts: Verdicts) -> Result<(), AckError> {
        self.settle(verdicts)
    }

    /// How many messages this receipt stands for.
    pub fn expected(&self) -> usize {
        self.expected
    }

    /// Settles the batch, for [`Input::ack`](crate::Input::ack), which is the one public way: wrappers of an input see every verdict.
    ///
    /// # Errors
    ///
    /// [`AckError::WrongCount`] when there are not as many verdicts as messages; the batch is then nacked.
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
    fn wrapper_hears_verdicts_once_and_they_go_on() {
        let (heard, wrapper) = (Heard::default(), Heard::default());
        let hear = wrapper.clone();
        let receipt = Receipt::new(1, heard.clone()).on_settle(move |verdicts| Box::new(hear).settle(verdicts.clone()));
        receipt.settle(Verdicts::ACK).unwrap();
        let hear = wrapper.clone();
        drop(Receipt::new(1, heard.clone()).on_settle(move |verdicts| Box::new(hear).settle(verdicts.clone())));
        let hear = wrapper.clone();
        let receipt = Receipt::new(1, heard.clone()).on_settle(move |verdicts| Box::new(hear).settle(verdicts.clone()));
        receipt.settle(Verdicts::nack("disk full")).unwrap();
        for all in [heard, wrapper] {
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
    struct Heard(Arc<Mutex<Vec<Verdicts>>>);

    impl Settle for Heard {
        fn settle(self: Box<Self>, verdicts: Verdicts) {
            self.0.lock().unwrap().push(verdicts);
        }
    }

    #[test]
    fn receipt_dropped_by_the_host() {
        let heard = Heard::default();
        drop(Receipt::new(2, heard.clone()));
        assert_eq!(*heard.0.lock().unwrap(), [Verdicts::NACK]);
    }

    #[test]
    fn a_settled_receipt_is_not_nacked_when_it_goes() {
        let heard = Heard::default();
        Receipt::new(2, heard.clone()).settle(Verdicts::ACK).unwrap();
        assert_eq!(*heard.0.lock().unwrap(), [Verdicts::ACK]);
    }

    #[test]
    fn verdicts_that_do_not_match_the_batch_are_refused_and_nack_it() {
        let heard = Heard::default();
        let refused = Receipt::new(2, heard.clone()).settle(Verdicts::Each(vec![Verdict::Ack]));
        assert_eq!(refused, Err(AckError::WrongCount { expected: 2, got: 1 }));
        assert_eq!(*heard.0.lock().unwrap(), [Verdicts::NACK]);
    }
}
