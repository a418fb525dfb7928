//! Which rules apply to an input, and how is a failure shown?

use std::fmt;

use super::{Check, Support};

/// A rule that an input must keep.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Rule {
    /// The harness works. A failure of this rule is not the fault of the input.
    HarnessWorks,
    /// Every call returns.
    EveryCallReturns,
    /// `connect` succeeds on a source that exists.
    Opens,
    /// `connect` while connected does nothing.
    ConnectIsIdempotent,
    /// `read_batch` before `connect` returns `NotConnected`.
    ReadNeedsConnect,
    /// `close` before `connect`, and `close` again, return without an error.
    ClosesAtAnyTime,
    /// Nothing is delivered after `close`.
    ClosedMeansClosed,
    /// `status` shows whether the input is connected or closed.
    StatusIsTrue,
    /// A batch holds at most `max_messages`.
    WithinDemand,
    /// `read_batch` returns within `max_wait`.
    WithinMaxWait,
    /// `read_batch` returns an empty batch, not an error, if no message arrived.
    EmptyIsAnAnswer,
    /// No error occurs without a cause.
    NoErrors,
    /// Every message is delivered until it is acked.
    NothingLost,
    /// No message is delivered again without a reason.
    NothingTwice,
    /// Messages of a lane arrive in the order in which they were published.
    LanesInOrder,
    /// Payloads arrive unchanged.
    PayloadsIntact,
    /// A nacked message is delivered again before any newer message of its lane that was not delivered yet.
    NackedComesFirst,
    /// A dropped receipt is a nack.
    DroppedIsNacked,
    /// Too many or too few verdicts are refused, and the batch counts as nacked.
    WrongCountIsRefused,
    /// `connect` opens a new connection after the connection was lost.
    Reconnects,
    /// The input ends when everything has been read and settled, and not before.
    EndsOnceSettled,
    /// `close` waits for receipts in flight, and acks during that wait count.
    CloseWaits,
    /// `close` waits no longer than its limit.
    CloseWithinDeadline,
    /// A message that was acked before a clean close is not delivered again.
    AckedIsDone,
    /// A message that was not acked is delivered again after a restart, even if newer messages were acked.
    UnackedComesAgain,
    /// An ack after `close` has no effect.
    LateAckIsHarmless,
}

impl Rule {
    /// Returns the rule as a sentence.
    pub fn text(self) -> &'static str {
        match self {
            Self::HarnessWorks => "the harness has to work",
            Self::EveryCallReturns => "every call has to return",
            Self::Opens => "connect has to succeed on a source that is there",
            Self::ConnectIsIdempotent => "connect while connected does nothing",
            Self::ReadNeedsConnect => "read_batch before connect returns NotConnected",
            Self::ClosesAtAnyTime => "close returns without an error before connect, and again after close",
            Self::ClosedMeansClosed => "nothing is delivered after close",
            Self::StatusIsTrue => "status says whether the input is connected or closed",
            Self::WithinDemand => "a batch holds at most max_messages",
            Self::WithinMaxWait => "read_batch answers within max_wait",
            Self::EmptyIsAnAnswer => "when nothing came, the answer is an empty batch",
            Self::NoErrors => "no error comes without a cause",
            Self::NothingLost => "every message is delivered until it is acked",
            Self::NothingTwice => "no message is delivered again without a reason",
            Self::LanesInOrder => "messages of a lane come in their order",
            Self::PayloadsIntact => "payloads arrive as they were put",
            Self::NackedComesFirst => "a nacked message comes again before anything newer of its lane",
            Self::DroppedIsNacked => "a dropped receipt is a nack",
            Self::WrongCountIsRefused => "a wrong number of verdicts is refused and nacks the batch",
            Self::Reconnects => "after a lost connection, connect opens another",
            Self::EndsOnceSettled => "the input ends once everything is settled, and not before",
            Self::CloseWaits => "close waits for receipts in flight, and acks during that wait count",
            Self::CloseWithinDeadline => "close waits no longer than its limit",
            Self::AckedIsDone => "what was acked before a clean close doesn't come again",
            Self::UnackedComesAgain => "what was not acked comes again after a restart",
            Self::LateAckIsHarmless => "an ack after close changes nothing",
        }
    }

    pub(super) fn broken(self, seen: impl Into<String>) -> Failure {
        Failure { rule: self, seen: seen.into() }
    }
}

/// The failure of a check: a rule was broken.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{}: {seen}", rule.text())]
#[non_exhaustive]
pub struct Failure {
    /// The rule that was broken.
    pub rule: Rule,
    /// The observation that shows it.
    pub seen: String,
}

/// The results of a run.
#[derive(Debug, Default)]
#[must_use = "a report may hold failures"]
pub struct Report {
    passed: Vec<Check>,
    skipped: Vec<(Check, &'static str)>,
    failed: Vec<(Check, Failure)>,
}

impl Report {
    pub(super) fn add(&mut self, check: Check, result: Result<Support, Failure>) {
        match result {
            Ok(Support::Done) => self.passed.push(check),
            Ok(Support::Unsupported(why)) => self.skipped.push((check, why)),
            Err(failure) => self.failed.push((check, failure)),
        }
    }

    /// Returns the checks that passed.
    pub fn passed(&self) -> &[Check] {
        &self.passed
    }

    /// Returns the checks that were skipped, with the reasons.
    pub fn skipped(&self) -> &[(Check, &'static str)] {
        &self.skipped
    }

    /// Returns the checks that failed, with the failures.
    pub fn failed(&self) -> &[(Check, Failure)] {
        &self.failed
    }

    /// Converts the report into an error if a check failed.
    ///
    /// # Errors
    ///
    /// Fails with all failures.
    pub fn into_result(self) -> Result<(), Failures> {
        if self.failed.is_empty() { Ok(()) } else { Err(Failures(self.failed)) }
    }

    /// Panics if a check failed; for tests.
    ///
    /// # Panics
    ///
    /// Panics with all failures, one a line, if there are any.
    #[allow(clippy::panic, reason = "it is what a test wants")]
    #[track_caller]
    pub fn unwrap(self) {
        if let Err(failures) = self.into_result() {
            panic!("{failures}");
        }
    }
}

/// The checks that failed, with their failures.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failures(Vec<(Check, Failure)>);

impl fmt::Display for Failures {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the input does not conform:")?;
        for (check, failure) in &self.0 {
            write!(f, "\n  {check}: {failure}")?;
        }
        Ok(())
    }
}

impl std::error::Error for Failures {}
