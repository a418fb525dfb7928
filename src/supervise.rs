//! What happens when a background task ends by itself?
//!
//! Every task that should run until the input closes is supervised. A task that panics, or returns too early, is
//! restarted where a fresh start is as good, and otherwise fails the input, because an input that looks connected and
//! does nothing would be the worst outcome.

use std::any::Any;
use std::fmt;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt;
use tokio::time::sleep;

use crate::telemetry;

/// How long a task waits before it is restarted after a panic.
const START_AGAIN: Duration = Duration::from_secs(1);

/// Fails the input when an error is final. It is cheap to clone.
#[derive(Clone)]
pub(crate) struct FatalHandler(Arc<dyn Fn(String) + Send + Sync>);

impl FatalHandler {
    /// Creates a handler that calls `fail` with the cause. `fail` is called outside all locks, and may be called more
    /// than once.
    pub(crate) fn new(fail: impl Fn(String) + Send + Sync + 'static) -> Self {
        Self(Arc::new(fail))
    }

    /// Reports that the input can't continue, with the cause.
    pub(crate) fn report(&self, cause: String) {
        (self.0)(cause);
    }
}

impl fmt::Debug for FatalHandler {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("FatalHandler")
    }
}

/// Runs a task that must not panic, and must not return unless `may_end` says so. If it does, the input fails.
pub(crate) async fn essential(
    task: &'static str,
    fatal: FatalHandler,
    may_end: impl Fn() -> bool,
    work: impl Future<Output = ()>,
) {
    // The shared state of tasks is locked in a way that survives a panic, and the input closes without this task.
    let cause = match caught(work).await {
        Ok(()) if may_end() => return,
        Ok(()) => "it returned".to_owned(),
        Err(cause) => cause,
    };
    telemetry::task_ended(task, &cause, false);
    fatal.report(format!("the background task `{task}` ended unexpectedly ({cause}); this is a bug, please report it"));
}

/// Runs a task that keeps no state between its iterations: after a panic, or if it returns, it is restarted.
pub(crate) async fn restarted<F: Future<Output = ()>>(task: &'static str, mut work: impl FnMut() -> F) {
    loop {
        let cause = caught(work()).await.err().unwrap_or_else(|| "it returned".to_owned());
        telemetry::task_ended(task, &cause, true);
        sleep(START_AGAIN).await;
    }
}

/// Runs a one-time task. A panic is reported, and its message is returned as the error.
pub(crate) async fn once<T>(task: &'static str, work: impl Future<Output = T>) -> Result<T, String> {
    caught(work).await.inspect_err(|cause| telemetry::gave_up(task, cause))
}

/// Runs a future, and returns its panic message as the error if it panicked.
pub(crate) async fn caught<T>(work: impl Future<Output = T>) -> Result<T, String> {
    AssertUnwindSafe(work).catch_unwind().await.map_err(|panic| message(&*panic))
}

/// The message of a panic.
pub(crate) fn message(panic: &(dyn Any + Send)) -> String {
    let said = panic.downcast_ref::<&str>().copied().or_else(|| panic.downcast_ref::<String>().map(String::as_str));
    format!("it panicked: {}", said.unwrap_or("no message"))
}
