//! How does a run end?

use std::time::Duration;

use crate::Exit;
use crate::run::Reading;

/// A run that ended without an error.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct RunReport {
    /// The event that ended the run.
    pub ending: Ending,
    /// The counts at the end.
    pub counted: Reading,
    /// The time from the first attempt to connect until progress was stored.
    pub elapsed: Duration,
}

/// The event that ended a run without an error.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Ending {
    /// Everything has been read and delivered.
    EndOfInput,
    /// A graceful stop: everything that had been taken from the input has been delivered, and progress is stored.
    Stopped,
}

/// The reason why a run failed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum RunError {
    /// mq-bridge can't make a route of the pipeline.
    #[error("the pipeline can't run as it is configured: {reason}")]
    Configuration {
        /// The error of mq-bridge.
        reason: String,
    },
    /// The input can't run until a person changes something.
    #[error("the input can't run: {reason}")]
    Input {
        /// The error of the input, with what can be done about it.
        reason: String,
    },
    /// The output could not be started, or the route failed for good.
    #[error("the pipeline failed: {reason}")]
    Route {
        /// The error of mq-bridge.
        reason: String,
    },
    /// The output will never take some messages. They are not acknowledged: the next run reads them again.
    #[error(
        "the output refuses messages for good: {reason}. They are not acknowledged and will be read again; \
         add a `dlq` middleware to the output to set such messages aside"
    )]
    Refused {
        /// The output's error for the first of them.
        reason: String,
    },
    /// A graceful stop took too long.
    #[error(
        "the output did not take all messages within the shutdown timeout ({timeout:?}); what it has not taken will be \
         read again. A longer `shutdown_timeout` gives it more time"
    )]
    StopTimedOut {
        /// The longest time that was allowed.
        timeout: Duration,
    },
    /// Some of what was acknowledged will be read again.
    #[error("progress could not be stored: {reason}. Messages delivered since the last time will be read again")]
    NotStored {
        /// The cause.
        reason: String,
    },
    /// The run was stopped at once.
    #[error("stopped at once; messages that were in flight will be read again")]
    ImmediateStop,
}

impl RunError {
    /// The exit code of the program for this error.
    pub fn exit(&self) -> Exit {
        match self {
            Self::Configuration { .. } => Exit::Configuration,
            Self::Input { .. } => Exit::Input,
            Self::Route { .. } | Self::Refused { .. } | Self::StopTimedOut { .. } | Self::NotStored { .. } => {
                Exit::Failed
            }
            Self::ImmediateStop => Exit::ImmediateStop,
        }
    }
}
