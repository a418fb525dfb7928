//! How does a host drive an input: connect, read, settle, stop?
//!
//! This module contains the code that every host would otherwise write, at four levels:
//!
//! - [`Reader`] reads one input and connects it whenever necessary. It suits hosts with a pull loop of their own.
//! - [`Driver::next`] adds a bound on batches in flight and a stop that other tasks can request.
//! - [`Driver::into_stream`] offers the same as a stream, which closes the input when it ends.
//! - [`Driver::run`] does all of it; the host provides an async handler from messages to verdicts.
//!
//! ```
//! # use std::sync::Arc;
//! # use pipeline_plugin_api::driver::{Driver, DriverError, DriverOptions, Ending};
//! # use pipeline_plugin_api::{Input, Verdicts};
//! # async fn all(input: Arc<dyn Input>) -> Result<Ending, DriverError> {
//! let driver = Driver::new(input, DriverOptions::default());
//! let stop = driver.stop_handle(); // stop.stop_gracefully(within) from a signal handler
//! driver.run(|messages| async move {
//!     println!("{} messages", messages.len());
//!     Verdicts::ACK
//! }).await
//! # }
//! ```
//!
//! No level logs; changes are reported to an observer as an [`Event`]. No level spawns a task that outlives it:
//! `Reader`, `next` and the stream spawn none, and the tasks of `run` end before it returns or when it is dropped.

mod backoff;
mod delivery;
mod event;
mod reader;
mod stop;
mod stream;
#[cfg(test)]
mod tests;

use std::fmt;
use std::num::NonZeroUsize;
use std::sync::Arc;
use std::time::Duration;

use tokio::task::JoinSet;

use crate::{Demand, Input, InputError, Message, Verdicts};

pub use delivery::{Delivery, Settlement};
pub use event::{Event, Observer};
pub use reader::Reader;
pub use stop::{Stop, StopHandle};
pub use stream::Deliveries;

use delivery::InFlight;

/// The options that control how a [`Driver`] reads and stops.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DriverOptions {
    /// The demand of each read. Its `max_wait` only sets how often the driver checks its state; no message is
    /// delayed by it.
    pub demand: Demand,
    /// The number of batches that may be in flight. With one, batches are processed strictly in order.
    pub in_flight: NonZeroUsize,
    /// The time that receipts in flight are given when the input ends or fails without a stop request.
    pub close_within: Duration,
}

impl Default for DriverOptions {
    /// Sets at most 1000 messages a batch, one batch at a time, and 20 seconds to close.
    fn default() -> Self {
        Self {
            demand: Demand::new(1000, Duration::from_secs(1)),
            in_flight: NonZeroUsize::MIN,
            close_within: Duration::from_secs(20),
        }
    }
}

/// The reason why a driver ended without an error.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Ending {
    /// Everything there was to read has been read and settled.
    EndOfInput,
    /// A stop was requested.
    Stopped,
}

/// The error that ended a driver.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DriverError {
    /// The input can't continue; it has been closed.
    #[error("{0}")]
    Input(#[source] InputError),
    /// Closing failed; some messages that were acknowledged will be read again.
    #[error("closing the input failed, so some acknowledged messages may be read again: {0}")]
    Close(#[source] InputError),
}

/// Drives one input from its first connect to its close.
pub struct Driver {
    reader: Reader,
    options: DriverOptions,
    in_flight: Arc<InFlight>,
    stop: StopHandle,
    /// The reason why nothing more will be read, once that is decided.
    over: Option<Ending>,
}

impl Driver {
    /// Creates a driver of `input`. No other code should connect, read or close this input.
    pub fn new(input: Arc<dyn Input>, options: DriverOptions) -> Self {
        Self { reader: Reader::new(input), options, in_flight: Arc::default(), stop: StopHandle::default(), over: None }
    }

    /// Sets the observer of all events. It is called synchronously and must not block.
    #[must_use]
    pub fn observe(mut self, observer: impl Fn(&Event<'_>) + Send + Sync + 'static) -> Self {
        self.reader = self.reader.observe(observer);
        self
    }

    /// Returns a handle that stops the driver from another task. Handles may be cloned and may outlive the
    /// driver.
    pub fn stop_handle(&self) -> StopHandle {
        self.stop.clone()
    }

    /// Returns the input, for example to query its status.
    pub fn input(&self) -> &Arc<dyn Input> {
        self.reader.input()
    }

    /// Waits for the next batch with messages. The driver connects as needed, and at the limit of batches in
    /// flight it first waits until one is settled. The result is `None` once the input has ended or a stop was
    /// requested; the host then calls [`close`](Self::close).
    ///
    /// # Errors
    ///
    /// Fails with [`InputError::Fatal`] if the input can't continue. The host then calls `close`; this method
    /// returns `None` from then on.
    ///
    /// # Cancel safety
    ///
    /// This method is cancel safe: a call that is dropped has taken no message, and it does not shorten a
    /// backoff.
    pub async fn next(&mut self) -> Result<Option<Delivery>, InputError> {
        while self.over.is_none() {
            let step = tokio::select! {
                biased;
                _ = self.stop.requested() => {
                    self.over = Some(Ending::Stopped);
                    break;
                }
                step = async {
                    self.in_flight.below(self.options.in_flight.get()).await;
                    self.reader.read(self.options.demand).await
                } => step,
            };
            match step {
                Ok(batch) if batch.is_empty() => {}
                Ok(batch) => return Ok(Some(Delivery::new(self.input(), &self.in_flight, batch))),
                Err(InputError::EndOfInput) => self.over = Some(Ending::EndOfInput),
                Err(error) => {
                    // The error holds the cause; from now on only the fact that the input ended
                    // matters.
                    self.over = Some(Ending::Stopped);
                    return Err(error);
                }
            }
        }
        Ok(None)
    }

    /// Stops reading, waits for deliveries in flight to be settled and closes the input.
    ///
    /// The deadline is that of the requested stop, or else [`DriverOptions::close_within`] from now. An immediate
    /// stop, even one during this call, nacks all batches in flight at once; the input then only stores its
    /// progress, and bounds the time for that itself.
    ///
    /// # Errors
    ///
    /// Fails with the error of the input; some messages that were acknowledged will then be read again.
    ///
    /// # Cancel safety
    ///
    /// This method is not cancel safe: if the call is dropped before it returns, the input's own drop does the
    /// rest.
    pub async fn close(self) -> Result<(), InputError> {
        let within = self.stop.current().remaining().unwrap_or(self.options.close_within);
        self.reader.report(&Event::Closing { within });
        if self.stop.current() == Stop::Immediate {
            self.in_flight.nack_all();
        }
        let closing = self.reader.input().close(within);
        tokio::pin!(closing);
        let result = tokio::select! {
            result = &mut closing => result,
            () = self.stop.immediate_requested() => {
                self.in_flight.nack_all();
                closing.await
            }
        };
        self.in_flight.nack_all();
        self.reader.report(&Event::Closed { result: &result });
        result
    }

    /// Turns the driver into a stream of its deliveries, for the combinators of the `futures` crate. The stream
    /// closes the input when it ends: see [`Deliveries`]. A [`stop_handle`](Self::stop_handle) that was created
    /// before this call stops the stream.
    pub fn into_stream(self) -> Deliveries {
        Deliveries::new(self)
    }

    /// Passes every batch to `handler`, settles it with the returned verdicts, and finally closes the input.
    ///
    /// At most [`DriverOptions::in_flight`] handlers run at a time, each in a task of its own. After a graceful
    /// stop, running handlers may finish until the deadline. After an immediate stop, or past the deadline, they are
    /// canceled at their next await, and their batches are nacked.
    ///
    /// # Errors
    ///
    /// Fails with [`DriverError::Input`] if the input can't continue, and with [`DriverError::Close`] if only
    /// closing failed.
    ///
    /// # Panics
    ///
    /// If a handler panics, its batch is nacked, the driver stops immediately, and the panic resumes here once the
    /// input is closed.
    ///
    /// # Cancel safety
    ///
    /// Dropping the call is an immediate stop without `close`: all handlers are canceled and their batches nacked.
    pub async fn run<H, F>(mut self, handler: H) -> Result<Ending, DriverError>
    where
        H: Fn(Vec<Message>) -> F + Send + Sync + 'static,
        F: Future<Output = Verdicts> + Send + 'static,
    {
        let handler = Arc::new(handler);
        let observer = self.reader.observer();
        let mut handlers = JoinSet::new();
        let mut panicked = None;
        let read = loop {
            let next = tokio::select! {
                biased;
                Some(done) = handlers.join_next() => {
                    if let Err(error) = done && let Ok(panic) = error.try_into_panic() {
                        panicked = Some(panic);
                        self.stop.stop_immediately();
                    }
                    continue;
                }
                next = self.next() => next,
            };
            let delivery = match next {
                Ok(Some(delivery)) => delivery,
                Ok(None) => break Ok(self.over.unwrap_or(Ending::Stopped)),
                Err(error) => break Err(error),
            };
            let (handler, observer) = (Arc::clone(&handler), Arc::clone(&observer));
            handlers.spawn(async move {
                let (messages, settlement) = delivery.into_parts();
                let verdicts = handler(messages).await;
                if let Err(error) = settlement.settle(verdicts).await {
                    observer(&Event::VerdictsRefused { error: &error });
                }
            });
        };
        let closed = self.close().await;
        handlers.abort_all();
        while let Some(done) = handlers.join_next().await {
            if let Err(error) = done
                && let Ok(panic) = error.try_into_panic()
            {
                panicked = Some(panic);
            }
        }
        if let Some(panic) = panicked {
            std::panic::resume_unwind(panic);
        }
        let ending = read.map_err(DriverError::Input)?;
        closed.map_err(DriverError::Close)?;
        Ok(ending)
    }
}

impl fmt::Debug for Driver {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Driver")
            .field("reader", &self.reader)
            .field("in_flight", &self.in_flight.len())
            .field("stop", &self.stop.current())
            .finish_non_exhaustive()
    }
}
