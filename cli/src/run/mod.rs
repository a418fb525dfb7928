//! How does a pipeline run, from the first connection to the stored progress?
//!
//! The input is connected here and lent to an mq-bridge route, so that an input that can't run is distinguished from an
//! output that fails, and an output that reconnects doesn't disturb the input. At a graceful stop the route delivers
//! what it has taken and settles it. Only then is the input closed, which stores its progress.
//!
//! - [`meter`](Meter): what is counted; [`stop`](StopHandle): how a run is stopped; `ending`: how it ended.
//! - `route`: the mq-bridge route; `no_loss`: what keeps it from dropping messages that an output rejects.
//! - `stdout`: the output of that name.

mod ending;
mod meter;
mod no_loss;
mod route;
pub(crate) mod stdout;
mod stop;

use std::sync::Arc;
use std::time::Duration;

use pipeline_plugin_api::{Input, InputError, causes};
use tokio::time::Instant;

pub use ending::{Ending, RunError, RunReport};
pub use meter::{Meter, Reading};
pub use stop::StopHandle;

use crate::Pipeline;
use crate::otlp::Traces;
use meter::Metered;

/// The first and the longest backoff before the input is connected again. The backoff doubles between them.
const RECONNECT: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(1));
/// A failure that lasts is logged again after this long.
const LOGGED_EVERY: Duration = Duration::from_mins(1);
/// How much longer than its limit a close may take before it is given up.
const CLOSE_GRACE: Duration = Duration::from_secs(5);
/// How long an immediate stop waits until acknowledged progress is stored.
const HARD_CLOSE: Duration = Duration::from_secs(1);

/// The options that a caller can add to a run.
#[derive(Debug, Clone, Default)]
#[non_exhaustive]
pub struct RunOptions {
    /// Counts the work of the run, and can be read meanwhile.
    pub meter: Meter,
    /// Makes a span of each batch.
    pub(crate) traces: Option<Traces>,
}

impl RunOptions {
    /// Options with a meter of which the caller has kept a clone.
    #[must_use]
    pub fn meter(mut self, meter: Meter) -> Self {
        self.meter = meter;
        self
    }
}

/// Runs a pipeline until its input ends, a permanent failure occurs, or it is stopped.
///
/// # Errors
///
/// Fails with a [`RunError`]. Whatever the error, nothing that was not delivered counts as done.
///
/// # Cancel safety
///
/// Not cancel safe: dropping the future neither stops the route nor stores progress. Use [`StopHandle`].
pub async fn run(pipeline: Pipeline, options: RunOptions, stop: StopHandle) -> Result<RunReport, RunError> {
    let start = Instant::now();
    let shutdown_timeout = pipeline.shutdown_timeout;
    let input = Arc::new(Metered::new(Arc::clone(&pipeline.input), options.meter.clone(), options.traces));

    let mut driven = match connect(input.as_ref(), &stop).await {
        Ok(None) => route::drive(pipeline, Arc::clone(&input), &stop).await,
        Ok(Some(ending)) => Ok(ending),
        Err(error) => Err(error),
    };

    let left = stop.deadline(shutdown_timeout).saturating_duration_since(Instant::now());
    let closed = close(input.as_ref(), left, &stop).await;
    if stop.is_immediate() {
        driven = Err(RunError::ImmediateStop);
    }
    let ending = driven?;
    closed?;
    Ok(RunReport { ending, counted: options.meter.read(), elapsed: start.elapsed() })
}

/// Connects until it succeeds. Returns an ending if that comes first.
async fn connect(input: &dyn Input, stop: &StopHandle) -> Result<Option<Ending>, RunError> {
    let mut next = RECONNECT.0;
    let mut logged: Option<(String, Instant)> = None;
    loop {
        let error = tokio::select! {
            biased;
            () = stop.requested() => return Ok(Some(Ending::Stopped)),
            connected = input.connect() => match connected {
                Ok(()) => return Ok(None),
                Err(error) => error,
            },
        };
        let wait = match &error {
            InputError::EndOfInput => return Ok(Some(Ending::EndOfInput)),
            InputError::Fatal(_) => return Err(RunError::Input { reason: causes(&error) }),
            InputError::BackOff { after, .. } => *after,
            _ => {
                let wait = next;
                next = (wait * 2).min(RECONNECT.1);
                wait
            }
        };
        // The same failure is logged once a minute, however often the connect is retried.
        let error = causes(&error);
        if logged.as_ref().is_none_or(|(before, at)| *before != error || at.elapsed() >= LOGGED_EVERY) {
            tracing::warn!(error, ?wait, "the input can't connect yet");
            logged = Some((error, Instant::now()));
        } else {
            tracing::debug!(error, ?wait, "the input can't connect yet");
        }
        tokio::select! {
            () = stop.requested() => return Ok(Some(Ending::Stopped)),
            () = tokio::time::sleep(wait) => {}
        }
    }
}

/// Closes the input, whatever happened before.
async fn close(input: &dyn Input, within: Duration, stop: &StopHandle) -> Result<(), RunError> {
    let within = if stop.is_immediate() { Duration::ZERO } else { within };
    let immediate = async {
        stop.immediate_requested().await;
        tokio::time::sleep(HARD_CLOSE).await;
    };
    tokio::select! {
        closed = tokio::time::timeout(within + CLOSE_GRACE, input.close(within)) => match closed {
            Ok(Ok(())) => Ok(()),
            Ok(Err(error)) => Err(RunError::NotStored { reason: causes(&error) }),
            Err(_) => Err(RunError::NotStored { reason: format!("the input did not close within {within:?}") }),
        },
        () = immediate => Err(RunError::ImmediateStop),
    }
}
