//! What is demanded of an input, and how is a failure told?

use std::fmt;

use super::{Check, Support};

/// What an input must do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Rule {
    /// Not the input's fault: its harness failed.
    HarnessWorks,
    /// No call hangs.
    EveryCallReturns,
    /// `connect` succeeds on a source that is there.
    Opens,
    /// `connect` while connected does nothing.
    ConnectIsIdempotent,
    /// `read_batch` before `connect` says `NotConnected`.
    ReadNeedsConnect,
    /// `close` before `connect`, and `close` again, return without an error.
    ClosesAtAnyTime,
    /// Nothing is handed out after `close`.
    ClosedMeansClosed,
    /// `status` says whether the input is connected or closed.
    StatusIsTrue,
    /// A batch holds at most `max_messages`.
    WithinDemand,
    /// `read_batch` answers within `max_wait`.
    WithinMaxWait,
    /// When nothing came, the answer is an empty batch, not an error.
    EmptyIsAnAnswer,
    /// No error without cause.
    NoErrors,
    /// Every message is delivered until it is acked.
    NothingLost,
    /// No message is delivered again without a reason.
    NothingTwice,
    /// Messages of a lane come in the order in which they were put.
    LanesInOrder,
    /// Payloads arrive as they were put.
    PayloadsIntact,
    /// A nacked message comes again before anything newer of its lane that was not delivered yet.
    NackedComesFirst,
    /// A dropped receipt is a nack.
    DroppedIsNacked,
    /// Too many or too few verdicts are refused, and the batch counts as nacked.
    WrongCountIsRefused,
    /// After a lost connection, `connect` opens another.
    Reconnects,
    /// The end is said when everything has been read and settled, and not before.
    EndsOnceSettled,
    /// `close` waits for outstanding receipts, and what is acked meanwhile counts.
    CloseWaits,
    /// `close` waits no longer than it was told.
    CloseWithinDeadline,
    /// What was acked before a clean close doesn't come again.
    AckedIsDone,
    /// What was not acked comes again after a restart, even if newer messages were acked.
    UnackedComesAgain,
    /// An ack after `close` changes nothing.
    LateAckIsHarmless,
}

impl Rule {
    /// A sentence that says it.
    pub fn text(self) -> &'static str {
        match self {
            Self::HarnessWorks => "the harness has to work",
            Self::EveryCallReturns => "every call has to return",
            Self::Opens => "connect has to succeed on a source that is there",
            Self::ConnectIsIdempotent => "connect while connected does nothing",
            Self::ReadNeedsConnect => "read_batch before connect says NotConnected",
            Self::ClosesAtAnyTime => "close returns without an error before connect, and again after close",
            Self::ClosedMeansClosed => "nothing is handed out after close",
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
            Self::EndsOnceSettled => "the end is said once everything is settled, and not before",
            Self::CloseWaits => "close waits for outstanding receipts, and acks that come meanwhile count",
            Self::CloseWithinDeadline => "close waits no longer than it was told",
            Self::AckedIsDone => "what was acked before a clean close doesn't come again",
            Self::UnackedComesAgain => "what was not acked comes again after a restart",
            Self::LateAckIsHarmless => "an ack after close changes nothing",
        }
    }

    pub(super) fn broken(self, seen: impl Into<String>) -> Failure {
        Failure { rule: self, seen: seen.into() }
    }
}

/// A rule was broken.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{}: {seen}", rule.text())]
#[non_exhaustive]
pub struct Failure {
    /// Which one.
    pub rule: Rule,
    /// What was seen.
    pub seen: String,
}

/// What came of a run.
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

    /// Checks that passed.
    pub fn passed(&self) -> &[Check] {
        &self.passed
    }

    /// Checks that were left out, and why.
    pub fn skipped(&self) -> &[(Check, &'static str)] {
        &self.skipped
    }

    /// Checks that failed, and how.
    pub fn failed(&self) -> &[(Check, Failure)] {
        &self.failed
    }

    /// The failures as an error, if there are any.
    ///
    /// # Errors
    ///
    /// All failures.
    pub fn into_result(self) -> Result<(), Failures> {
        if self.failed.is_empty() { Ok(()) } else { Err(Failures(self.failed)) }
    }

    /// For tests: nothing if all is well.
    ///
    /// # Panics
    ///
    /// With all failures, one a line, if there are any.
    #[allow(clippy::panic, reason = "it is what a test wants")]
    #[track_caller]
    pub fn unwrap(self) {
        if let Err(failures) = self.into_result() {
            panic!("{failures}");
        }
    }
}

/// The checks that failed, and how.
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
