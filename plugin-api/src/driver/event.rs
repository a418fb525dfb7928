//! What does a driver tell its host while it works?

use std::sync::Arc;
use std::time::Duration;

use crate::{AckError, InputError};

/// Something changed.
#[derive(Debug)]
#[non_exhaustive]
pub enum Event<'a> {
    /// `connect` succeeded.
    Connected,
    /// The input can't be connected or read at the moment; it is tried again by itself.
    Retrying {
        /// What it said: [`InputError::NotConnected`] or [`InputError::BackOff`].
        error: &'a InputError,
        /// How long until the next attempt.
        after: Duration,
        /// Failures in a row, this one included.
        failures: u32,
    },
    /// The first successful read after failures.
    Recovered {
        /// Failures there were in a row.
        failures: u32,
    },
    /// Everything there was to read has been read and settled.
    Ended,
    /// The input can't go on; nothing more will be read.
    Failed {
        /// [`InputError::Fatal`].
        error: &'a InputError,
    },
    /// The verdicts of a handler did not match its batch, which counts as nacked: a mistake in the host.
    VerdictsRefused {
        /// How they did not match.
        error: &'a AckError,
    },
    /// Reading has stopped; the input is being closed.
    Closing {
        /// How long it may wait for outstanding receipts.
        within: Duration,
    },
    /// The input is closed.
    Closed {
        /// Whether all progress was stored.
        result: &'a Result<(), InputError>,
    },
}

/// Whom to tell.
pub type Observer = Arc<dyn Fn(&Event<'_>) + Send + Sync>;
