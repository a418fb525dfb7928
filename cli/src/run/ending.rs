//! How did a run end?

use std::time::Duration;

use crate::Exit;
use crate::run::Reading;

/// A run that ended well.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct RunReport {
    /// What ended it.
    pub ending: Ending,
    /// What was counted until the end.
    pub counted: Reading,
    /// From the first attempt to connect until progress was stored.
    pub elapsed: Duration,
}

/// What ends a run well.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Ending {
    /// All there was to read has been read and delivered.
    EndOfInput,
    /// A soft stop: what had been taken from the input has been delivered, and progress is stored.
    Stopped,
}

/// Why a run ended otherwise.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum RunError {
    /// mq-bridge can't make a route of the pipeline.
    #[error("the pipeline can't run as it is configured: {reason}")]
    Configuration {
        /// What it says.
        reason: String,
    },
    /// The input can't run until somebody changes something.
    #[error("the input can't run: {reason}")]
    Input {
        /// What it says, with what can be done about it.
        reason: String,
    },
    /// The output could not be started, or the route failed for good.
    #[error("the pipeline failed: {reason}")]
    Route {
        /// What mq-bridge says.
        reason: String,
    },
    /// The output will never take some messages. They are not acknowledged: the next run reads them again.
    #[error(
        "the output refuses messages for good: {reason}. They are not acknowledged and will be read again; \
         add a `dlq` middleware to the output to set such messages aside"
    )]
    Refused {
        /// What the output says of the first of them.
        reason: String,
    },
    /// A soft stop took too long.
    #[error(
        "the output did not take all messages within the shutdown timeout ({timeout:?}); what it has not taken will be \
         read again. A longer `shutdown_timeout` gives it more time"
    )]
    StopTimedOut {
        /// How long that is.
        timeout: Duration,
    },
    /// Some of what was acknowledged will be read again.
    #[error("progress could not be stored: {reason}. Messages delivered since the last time will be read again")]
    NotStored {
        /// Why.
        reason: String,
    },
    /// It was stopped hard.
    #[error("stopped hard; messages that were on their way will be read again")]
    HardStop,
}

impl RunError {
    /// What the program's exit code says of it.
    pub fn exit(&self) -> Exit {
        match self {
            Self::Configuration { .. } => Exit::Configuration,
            Self::Input { .. } => Exit::Input,
            Self::Route { .. } | Self::Refused { .. } | Self::StopTimedOut { .. } | Self::NotStored { .. } => {
                Exit::Failed
            }
            Self::HardStop => Exit::HardStop,
        }
    }
}
