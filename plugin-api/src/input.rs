//! What is an input, as its host sees it?

use std::error::Error;
use std::time::Duration;

use async_trait::async_trait;

use crate::{Batch, Demand, Receipt, Verdicts};

/// Any error, as the cause of another.
pub type BoxError = Box<dyn Error + Send + Sync>;

/// A source of messages that are acknowledged one batch at a time.
///
/// Every method takes `&self`, so that a host can read in one task and settle receipts in any other.
/// The life of an input: `connect` (again and again until it succeeds), `read_batch` and `ack` (until an error
/// says otherwise), `close` (once).
#[async_trait]
pub trait Input: Send + Sync + 'static {
    /// Opens whatever the input reads from.
    ///
    /// A host calls it until it succeeds, waiting a little between the calls, and again whenever `read_batch` says
    /// [`InputError::NotConnected`]. Calling it while connected does nothing. A failed call leaves nothing behind
    /// that would hinder the next.
    ///
    /// # Errors
    ///
    /// [`InputError::BackOff`] and [`InputError::NotConnected`]: try again. [`InputError::Fatal`]: the
    /// configuration or the permissions have to change first. [`InputError::EndOfInput`]: there is nothing
    /// (more) to read.
    ///
    /// # Cancel safety
    ///
    /// A cancelled call counts as a failed one.
    async fn connect(&self) -> Result<(), InputError>;

    /// Waits for messages: at most [`Demand::max_messages`], for at most [`Demand::max_wait`].
    ///
    /// An empty batch is an answer: nothing came in that time.
    ///
    /// # Cancel safety
    ///
    /// Cancel safe: a call that is dropped before it returns has taken nothing.
    async fn read_batch(&self, demand: Demand) -> Result<Batch, InputError>;

    /// Says what became of the messages of one batch, in any order, from any task.
    ///
    /// It returns once the verdicts are counted; progress is stored in the background. The receipt is consumed,
    /// so a batch can't be settled twice.
    ///
    /// # Errors
    ///
    /// [`AckError::WrongCount`] when the verdicts don't match the batch; the whole batch then counts as nacked.
    ///
    /// # Cancel safety
    ///
    /// Cancel safe in that nothing is lost: if the call is dropped before it ran, the receipt is dropped with it,
    /// and that is a nack.
    async fn ack(&self, receipt: Receipt, verdicts: Verdicts) -> Result<(), AckError> {
        receipt.settle(verdicts)
    }

    /// Stops reading, waits at most `within` for receipts that are still out, stores progress and lets go of
    /// everything it holds.
    ///
    /// Messages that were read but not handed out are forgotten, not lost: they will be read again. Receipts that
    /// come later change nothing.
    ///
    /// # Errors
    ///
    /// When progress could not be stored: then some messages that were acknowledged will be read again.
    async fn close(&self, within: Duration) -> Result<(), InputError>;

    /// How the input is doing, for an operator. Cheap enough to be asked every second.
    fn status(&self) -> Status;
}

/// What went wrong, in terms of what the host has to do about it.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum InputError {
    /// There is no connection (yet, or any more): call `connect`.
    #[error("not connected: {0}")]
    NotConnected(#[source] BoxError),
    /// Everything there was to read has been read and settled: call `close`.
    #[error("end of input")]
    EndOfInput,
    /// It may work later: make the same call again after this time.
    #[error("{cause} (try again in {after:?})")]
    BackOff {
        /// How long to wait before the next call.
        after: Duration,
        /// What happened.
        #[source]
        cause: BoxError,
    },
    /// It can't work until somebody changes something: stop, and show the message.
    #[error("{0}")]
    Fatal(#[source] BoxError),
}

/// Why verdicts were not taken.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum AckError {
    /// One verdict for each message is needed, or one for all.
    #[error("{got} verdicts for a batch of {expected} messages; the batch counts as nacked")]
    WrongCount {
        /// Messages in the batch.
        expected: usize,
        /// Verdicts that came.
        got: usize,
    },
}

/// How an input is doing.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Status {
    /// Where it is in its life.
    pub state: State,
    /// What it reads, for a person: stream names, a path, a topic.
    pub target: String,
    /// Messages read and not yet finally acknowledged.
    pub pending_messages: u64,
    /// Bytes of memory that they hold, as far as the input counts them, with what is being read.
    pub pending_bytes: u64,
    /// The most messages that may be pending, where there is such a limit.
    pub capacity_messages: Option<u64>,
    /// Why it is not simply well, in a sentence.
    pub reason: Option<String>,
}

impl Status {
    /// A status with nothing pending and nothing to explain.
    pub fn new(state: State, target: impl Into<String>) -> Self {
        Self {
            state,
            target: target.into(),
            pending_messages: 0,
            pending_bytes: 0,
            capacity_messages: None,
            reason: None,
        }
    }
}

/// Where an input is in its life.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum State {
    /// `connect` has not succeeded yet, or has to be called again.
    Disconnected,
    /// All is well.
    Connected,
    /// Connected, but part of the input can't be read at the moment; it retries on its own.
    Degraded,
    /// Everything there was to read has been read.
    Ended,
    /// Something has to be changed by a person.
    Failed,
    /// `close` was called.
    Closed,
}
