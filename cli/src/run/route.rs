//! How do messages get from a connected input to the output?

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use mq_bridge::Route;
use mq_bridge::route::{RouteHandle, RouteOutcome};
use pipeline_plugin_api::Input;
use pipeline_plugin_mq_bridge::attach;

use super::meter::Metered;
use super::no_loss::NoLoss;
use super::{Ending, RunError, StopHandle};
use crate::Pipeline;

/// The name of the route in mq-bridge's logs.
const NAME: &str = "pipeline";
/// How often a route is asked whether it has ended, because it does not notify.
const ASK: Duration = Duration::from_millis(20);

/// Runs the route until it ends. Does not close the input.
pub(super) async fn drive(pipeline: Pipeline, input: Arc<Metered>, stop: &StopHandle) -> Result<Ending, RunError> {
    static RUNS: AtomicU64 = AtomicU64::new(0);
    // mq-bridge's names are global to the process, and a process may run several pipelines.
    let run = RUNS.fetch_add(1, Ordering::Relaxed);
    let configuration = |reason: String| RunError::Configuration { reason };
    let attached =
        attach(format!("kinesis-input.input.{run}"), Arc::clone(&input) as Arc<dyn Input>, pipeline.metadata)
            .map_err(|error| configuration(error.to_string()))?;
    let no_loss = NoLoss::install(format!("kinesis-input.no_loss.{run}"), input.last_error()).map_err(configuration)?;

    let mut output = pipeline.output;
    // The last middleware is the outermost: it sees what all others let through.
    output.middlewares.push(no_loss.middleware());
    let route = Route::new(attached.endpoint(), output).with_options(pipeline.options);
    route.check(NAME, None).map_err(|error| configuration(format!("{error:#}")))?;

    let handle = tokio::select! {
        started = route.run(NAME) => started.map_err(|error| failed(&input, &format!("{error:#}")))?,
        () = stop.immediate_requested() => return Err(RunError::ImmediateStop),
    };
    let refused = tokio::select! {
        outcome = ended(&handle) => return conclude(outcome, &handle, &input),
        refused = no_loss.refused(), if !input.gives_up() => Some(refused),
        () = stop.requested() => None,
    };
    // What was gathered for a batch is delivered rather than read again.
    let timeout = pipeline.shutdown_timeout;
    let drained = refused.is_none() && input.drain();
    if drained {
        // A route that takes too long is told to stop like any other.
        let _ = ended_in_time(&handle, stop, timeout).await?;
    }
    handle.stop().await;
    let outcome = ended_in_time(&handle, stop, timeout).await?.ok_or(RunError::StopTimedOut { timeout })?;
    match refused.or_else(|| no_loss.seen().filter(|_| !input.gives_up())) {
        Some(reason) => Err(RunError::Refused { reason }),
        None if drained && outcome == RouteOutcome::Completed => Ok(Ending::Stopped),
        None => conclude(outcome, &handle, &input),
    }
}

/// Waits until the route ends; `None` if it does not before the deadline of the stop.
async fn ended_in_time(
    handle: &RouteHandle,
    stop: &StopHandle,
    timeout: Duration,
) -> Result<Option<RouteOutcome>, RunError> {
    tokio::select! {
        outcome = ended(handle) => Ok(Some(outcome)),
        () = stop.immediate_requested() => Err(RunError::ImmediateStop),
        () = tokio::time::sleep_until(stop.deadline(timeout)) => Ok(None),
    }
}

async fn ended(handle: &RouteHandle) -> RouteOutcome {
    loop {
        if let Some(outcome) = handle.outcome() {
            return outcome;
        }
        tokio::time::sleep(ASK).await;
    }
}

fn conclude(outcome: RouteOutcome, handle: &RouteHandle, input: &Metered) -> Result<Ending, RunError> {
    match outcome {
        RouteOutcome::Completed => Ok(Ending::EndOfInput),
        RouteOutcome::Stopped => Ok(Ending::Stopped),
        RouteOutcome::Failed => {
            let reason = handle.status().error.unwrap_or_else(|| "mq-bridge gives no reason".to_owned());
            Err(failed(input, &reason))
        }
    }
}

/// The error of a failed route, attributed to the input or the output.
fn failed(input: &Metered, reason: &str) -> RunError {
    match input.fatal() {
        Some(fatal) => RunError::Input { reason: fatal.to_owned() },
        None => RunError::Route { reason: reason.to_owned() },
    }
}
