//! Which events does a driver report to its host?

use std::sync::Arc;
use std::time::Duration;

use crate::{AckError, InputError};

/// A change in a driver's state.
#[derive(Debug)]
#[non_exhaustive]
pub enum Event<'a> {
    /// `connect` succeeded.
    Connected,
    /// The input can't be connected or read at the moment; the driver retries.
    Retrying {
        /// The error: [`InputError::NotConnected`] or [`InputError::BackOff`].
        error: &'a InputError,
        /// The delay until the next attempt.
        after: Duration,
        /// The number of consecutive failures, including this one.
        failures: u32,
    },
    /// A read succeeded after failures.
    Recovered {
        /// The number of consecutive failures before this read.
        failures: u32,
    },
    /// Everything there was to read has been read and settled.
    Ended,
    /// The input can't continue; nothing more will be read.
    Failed {
        /// The error, which is [`InputError::Fatal`].
        error: &'a InputError,
    },
    /// The verdicts of a handler did not match its batch, which counts as nacked. This is a bug in the host.
    VerdictsRefused {
        /// The mismatch.
        error: &'a AckError,
    },
    /// Reading has stopped; the input is being closed.
    Closing {
        /// The time that closing may wait for receipts in flight.
        within: Duration,
    },
    /// The input is closed.
    Closed {
        /// The result, which is an error if some progress could not be stored.
        result: &'a Result<(), InputError>,
    },
}

/// The callback that receives events.
pub type Observer = Arc<dyn Fn(&Event<'_>) + Send + Sync>;
