//! How is an input read across lost connections?

use std::fmt;
use std::sync::Arc;

use tokio::time::Instant;

use super::backoff::Backoff;
use super::event::{Event, Observer};
use crate::{Batch, Demand, Input, InputError};

/// A reader that reads an input and connects it whenever necessary.
///
/// The reader retries transient errors: after [`InputError::NotConnected`] it connects again, 100 ms to 1 s later;
/// after [`InputError::BackOff`] it makes the same call again after the given delay.
pub struct Reader {
    input: Arc<dyn Input>,
    observer: Observer,
    connected: bool,
    backoff: Backoff,
    /// The reader makes no call to the input before this time. It is stored here so that a dropped call doesn't
    /// shorten the wait.
    not_before: Option<Instant>,
    /// The number of failures since the last successful read.
    failures: u32,
}

impl Reader {
    /// Creates a reader of `input`, which may be connected or not.
    pub fn new(input: Arc<dyn Input>) -> Self {
        Self {
            input,
            observer: Arc::new(|_| {}),
            connected: false,
            backoff: Backoff::default(),
            not_before: None,
            failures: 0,
        }
    }

    /// Sets the observer of all events. It is called synchronously and must not block.
    #[must_use]
    pub fn observe(mut self, observer: impl Fn(&Event<'_>) + Send + Sync + 'static) -> Self {
        self.observer = Arc::new(observer);
        self
    }

    /// Returns the input.
    pub fn input(&self) -> &Arc<dyn Input> {
        &self.input
    }

    /// Returns `true` if the last call to the input failed with an error that is being retried. In that case an
    /// empty batch doesn't mean that there is nothing to read.
    pub fn is_retrying(&self) -> bool {
        self.failures > 0
    }

    /// Waits for messages as [`Input::read_batch`] does, connecting as needed. [`Demand::max_wait`] bounds the
    /// waits between attempts, but not the duration of a connect.
    ///
    /// # Errors
    ///
    /// Fails only with [`InputError::EndOfInput`] and [`InputError::Fatal`], which end the reading.
    ///
    /// # Cancel safety
    ///
    /// This method is cancel safe: a call that is dropped has taken no message, and it does not shorten a
    /// backoff.
    pub async fn read(&mut self, demand: Demand) -> Result<Batch, InputError> {
        let deadline = crate::deadline(demand.max_wait);
        loop {
            if let Some(at) = self.not_before {
                if at > deadline {
                    tokio::time::sleep_until(deadline).await;
                    return Ok(Batch::empty());
                }
                tokio::time::sleep_until(at).await;
                self.not_before = None;
            }
            let max_wait = deadline.saturating_duration_since(Instant::now());
            match self.attempt(Demand { max_wait, ..demand }).await {
                Ok(batch) => {
                    self.backoff.reset();
                    let failures = std::mem::take(&mut self.failures);
                    if failures > 0 {
                        self.report(&Event::Recovered { failures });
                    }
                    return Ok(batch);
                }
                Err(error) => self.failed(error)?,
            }
        }
    }

    async fn attempt(&mut self, demand: Demand) -> Result<Batch, InputError> {
        if !self.connected {
            self.input.connect().await?;
            self.connected = true;
            self.report(&Event::Connected);
        }
        self.input.read_batch(demand).await
    }

    /// Ends the reading, or schedules the next attempt.
    fn failed(&mut self, error: InputError) -> Result<(), InputError> {
        let after = match &error {
            InputError::EndOfInput => {
                self.report(&Event::Ended);
                return Err(error);
            }
            InputError::Fatal(_) => {
                self.report(&Event::Failed { error: &error });
                return Err(error);
            }
            // A delay of zero from an input that fails immediately would cause a busy loop.
            InputError::BackOff { after, .. } if !after.is_zero() => *after,
            InputError::BackOff { .. } => self.backoff.wait(),
            InputError::NotConnected(_) => {
                self.connected = false;
                self.backoff.wait()
            }
        };
        self.failures = self.failures.saturating_add(1);
        self.not_before = Some(crate::deadline(after));
        self.report(&Event::Retrying { error: &error, after, failures: self.failures });
        Ok(())
    }

    pub(super) fn report(&self, event: &Event<'_>) {
        (self.observer)(event);
    }

    pub(super) fn observer(&self) -> Observer {
        Arc::clone(&self.observer)
    }
}

impl fmt::Debug for Reader {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Reader")
            .field("connected", &self.connected)
            .field("failures", &self.failures)
            .finish_non_exhaustive()
    }
}
