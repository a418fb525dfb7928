//! What has a run read and delivered so far?

use std::fmt::Display;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use pipeline_plugin_api::{
    AckError, Batch, Demand, Input, InputError, Reason, Receipt, Status, Verdict, Verdicts, causes,
};

use crate::otlp::Traces;

/// Counts the work of a run. Clones show the same numbers.
#[derive(Debug, Clone, Default)]
pub struct Meter(Arc<Counters>);

#[derive(Debug, Default)]
struct Counters {
    read: AtomicU64,
    bytes: AtomicU64,
    delivered: AtomicU64,
    returned: AtomicU64,
}

/// The numbers of a [`Meter`] at one time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct Reading {
    /// Messages taken from the input, including redeliveries.
    pub read: u64,
    /// The bytes of their payloads.
    pub bytes: u64,
    /// Messages that the output took.
    pub delivered: u64,
    /// Messages that the output did not take, which are delivered again.
    pub returned: u64,
}

impl Meter {
    /// All zero.
    pub fn new() -> Self {
        Self::default()
    }

    /// The numbers now.
    pub fn read(&self) -> Reading {
        let now = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        Reading {
            read: now(&self.0.read),
            bytes: now(&self.0.bytes),
            delivered: now(&self.0.delivered),
            returned: now(&self.0.returned),
        }
    }

    fn took(&self, batch: &Batch) {
        let bytes = batch.messages().iter().map(|message| message.payload().len() as u64).sum();
        self.0.read.fetch_add(batch.len() as u64, Ordering::Relaxed);
        self.0.bytes.fetch_add(bytes, Ordering::Relaxed);
    }

    fn settled(&self, expected: usize, verdicts: &Verdicts) {
        let total = expected as u64;
        let acked = match verdicts {
            Verdicts::All(Verdict::Ack) => total,
            Verdicts::All(Verdict::Nack(_)) => 0,
            Verdicts::Each(each) => each.iter().filter(|verdict| verdict.is_ack()).count() as u64,
        };
        self.0.delivered.fetch_add(acked, Ordering::Relaxed);
        self.0.returned.fetch_add(total.saturating_sub(acked), Ordering::Relaxed);
    }
}

/// An input that is counted and traced, and that remembers why it can't run.
pub(super) struct Metered {
    input: Arc<dyn Input>,
    meter: Meter,
    fatal: OnceLock<String>,
    output: LastError,
    traces: Option<Traces>,
}

/// The last error of the output. mq-bridge gives no reason for a nack, and with one batch at a time this is it.
#[derive(Debug, Clone, Default)]
pub(super) struct LastError(Arc<Mutex<Option<Reason>>>);

impl LastError {
    pub(super) fn note(&self, error: impl Display) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(Reason::from(error.to_string()));
    }

    /// Adds the error to nacks without a reason.
    fn explain(&self, verdicts: Verdicts) -> Verdicts {
        let Some(reason) = self.0.lock().unwrap_or_else(PoisonError::into_inner).clone() else { return verdicts };
        let explain = |verdict| if verdict == Verdict::NACK { Verdict::Nack(Some(reason.clone())) } else { verdict };
        match verdicts {
            Verdicts::All(verdict) => Verdicts::All(explain(verdict)),
            Verdicts::Each(each) => Verdicts::Each(each.into_iter().map(explain).collect()),
        }
    }
}

impl Metered {
    pub(super) fn new(input: Arc<dyn Input>, meter: Meter, traces: Option<Traces>) -> Self {
        Self { input, meter, fatal: OnceLock::new(), output: LastError::default(), traces }
    }

    /// Where the errors of the output are noted.
    pub(super) fn last_error(&self) -> LastError {
        self.output.clone()
    }

    /// Why the input can't run, if it said so. mq-bridge passes on only text, and not its origin.
    pub(super) fn fatal(&self) -> Option<&str> {
        self.fatal.get().map(String::as_str)
    }

    fn watch(&self, error: InputError) -> InputError {
        if matches!(error, InputError::Fatal(_)) {
            // Only the first reason counts.
            let _ = self.fatal.set(causes(&error));
        }
        error
    }
}

#[async_trait]
impl Input for Metered {
    async fn connect(&self) -> Result<(), InputError> {
        self.input.connect().await.map_err(|error| self.watch(error))
    }

    async fn read_batch(&self, demand: Demand) -> Result<Batch, InputError> {
        let batch = self.input.read_batch(demand).await.map_err(|error| self.watch(error))?;
        self.meter.took(&batch);
        Ok(match &self.traces {
            Some(traces) => traces.watch(batch),
            None => batch,
        })
    }

    async fn ack(&self, receipt: Receipt, verdicts: Verdicts) -> Result<(), AckError> {
        self.meter.settled(receipt.expected(), &verdicts);
        self.input.ack(receipt, self.output.explain(verdicts)).await
    }

    async fn close(&self, within: Duration) -> Result<(), InputError> {
        self.input.close(within).await
    }

    fn drain(&self) -> bool {
        self.input.drain()
    }

    fn gives_up(&self) -> bool {
        self.input.gives_up()
    }

    fn status(&self) -> Status {
        self.input.status()
    }
}
