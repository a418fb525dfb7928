//! What is an input, as its host sees it?

use std::error::Error;
use std::time::Duration;

use async_trait::async_trait;

use crate::{Batch, Demand, Receipt, Verdicts};

/// Any error, used as the cause of another error.
pub type BoxError = Box<dyn Error + Send + Sync>;

/// A source of messages that are acknowledged one batch at a time.
///
/// Every method takes `&self`, so that a host can read in one task and settle receipts in any other.
/// A host calls `connect` repeatedly until it succeeds, then `read_batch` and `ack` until an error says otherwise,
/// and finally `close` once.
#[async_trait]
pub trait Input: Send + Sync + 'static {
    /// Opens whatever the input reads from.
    ///
    /// The host calls this method until it succeeds, waiting a little between the calls, and again whenever
    /// `read_batch` returns [`InputError::NotConnected`]. A call while the input is connected does nothing. A
    /// failed call leaves nothing behind that would prevent the next one from succeeding.
    ///
    /// # Errors
    ///
    /// Fails with [`InputError::BackOff`] or [`InputError::NotConnected`] if the host should try again, with
    /// [`InputError::Fatal`] if the configuration or the permissions have to change first, and with
    /// [`InputError::EndOfInput`] if there is nothing more to read.
    ///
    /// # Cancel safety
    ///
    /// A canceled call counts as a failed one.
    async fn connect(&self) -> Result<(), InputError>;

    /// Waits for at most [`Demand::max_wait`] and returns at most [`Demand::max_messages`] messages.
    ///
    /// An empty batch is a valid result: no message arrived in that time.
    ///
    /// # Cancel safety
    ///
    /// This method is cancel safe: a call that is dropped before it returns has taken no message.
    async fn read_batch(&self, demand: Demand) -> Result<Batch, InputError>;

    /// Reports the outcome of each message of one batch. Batches may be settled in any order and from any task.
    ///
    /// The call returns once the verdicts are counted; progress is stored in the background. The receipt is
    /// consumed, so a batch can't be settled twice.
    ///
    /// # Errors
    ///
    /// Fails with [`AckError::WrongCount`] if the number of verdicts doesn't match the batch; the whole batch
    /// then counts as nacked.
    ///
    /// # Cancel safety
    ///
    /// No message is lost on cancellation: if the call is dropped before it runs, the receipt is dropped with
    /// it, which nacks the batch.
    async fn ack(&self, receipt: Receipt, verdicts: Verdicts) -> Result<(), AckError> {
        receipt.settle(verdicts)
    }

    /// Stops reading, waits at most `within` for receipts that are still in flight, stores progress and
    /// releases all resources.
    ///
    /// Messages that were read but not delivered are discarded, not lost: they will be read again. Receipts
    /// that are settled later have no effect.
    ///
    /// # Errors
    ///
    /// Fails if progress could not be stored; some messages that were acknowledged will then be read again.
    async fn close(&self, within: Duration) -> Result<(), InputError>;

    /// Reads nothing more, and makes ready what was read for a batch that is not complete, as before a graceful stop.
    ///
    /// Returns whether there is anything. The host then reads on: `read_batch` returns what is left, and after that
    /// [`InputError::EndOfInput`]. An input that gathers no batches has nothing to make ready. It is read again, like
    /// everything that was not delivered, if a host closes the input without this.
    fn drain(&self) -> bool {
        false
    }

    /// Whether the input gives up a message that is nacked again and again.
    ///
    /// A host that knows that it can never process a message then nacks it like any other, and the input drops it, counts
    /// it and logs it in time. An input that does not would deliver the message indefinitely, so the host has to stop or
    /// to put the message aside.
    fn gives_up(&self) -> bool {
        false
    }

    /// Returns the status of the input, for an operator. The call is cheap enough to be made every second.
    fn status(&self) -> Status;
}

/// An error of an input, classified by what the host has to do about it.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum InputError {
    /// There is no connection, either not yet or no longer. The host should call `connect`.
    #[error("not connected: {0}")]
    NotConnected(#[source] BoxError),
    /// Everything there was to read has been read and settled. The host should call `close`.
    #[error("end of input")]
    EndOfInput,
    /// The call may succeed later. The host should make the same call again after this delay.
    #[error("{cause} (try again in {after:?})")]
    BackOff {
        /// The delay before the next call.
        after: Duration,
        /// The error that occurred.
        #[source]
        cause: BoxError,
    },
    /// The input can't work until its configuration or environment changes. The host should stop and show the
    /// message.
    #[error("{0}")]
    Fatal(#[source] BoxError),
}

/// The error of a settlement whose verdicts were refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum AckError {
    /// The number of verdicts was wrong: a settlement needs one verdict for each message, or one for all.
    #[error("{got} verdicts for a batch of {expected} messages; the batch counts as nacked")]
    WrongCount {
        /// The number of messages in the batch.
        expected: usize,
        /// The number of verdicts that were given.
        got: usize,
    },
}

/// The status of an input.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Status {
    /// The state of the input.
    pub state: State,
    /// A readable description of the source, such as stream names, a path or a topic.
    pub target: String,
    /// The number of messages that were read and not yet finally acknowledged.
    pub pending_messages: u64,
    /// The bytes of memory that pending messages and reads in progress hold, as far as the input counts them.
    pub pending_bytes: u64,
    /// The limit on pending messages, if there is one.
    pub capacity_messages: Option<u64>,
    /// The age of the oldest message that is not finally acknowledged, whether it was read or not; zero if there is none.
    /// `None` if the input can't tell. Where several workers share the source, it includes what no worker reads, so that the
    /// maximum over all workers is the lag of the source.
    pub pending_age: Option<Duration>,
    /// A sentence that explains why the input is not healthy.
    pub reason: Option<String>,
}

impl Status {
    /// Creates a status with nothing pending and nothing to explain.
    pub fn new(state: State, target: impl Into<String>) -> Self {
        Self {
            state,
            target: target.into(),
            pending_messages: 0,
            pending_bytes: 0,
            capacity_messages: None,
            pending_age: None,
            reason: None,
        }
    }
}

/// The state of an input.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum State {
    /// `connect` has not succeeded yet, or has to be called again.
    Disconnected,
    /// The input is healthy.
    Connected,
    /// The input is connected, but part of it can't be read at the moment. It retries on its own.
    Degraded,
    /// Everything there was to read has been read.
    Ended,
    /// The input can't continue until an operator changes something.
    Failed,
    /// `close` was called.
    Closed,
}
