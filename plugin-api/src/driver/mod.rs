//! How does a host drive an input: connect, read, settle, stop?
//!
//! What every host would otherwise write. Four ways in, to be entered where it suits the host:
//!
//! - [`Reader`]: reads one input and connects it whenever that is needed. For hosts with a pull loop of their own.
//! - [`Driver::next`]: the same, with bounded batches in flight and a stop that others can ask for.
//! - [`Driver::into_stream`]: the same as a stream, which closes the input when it ends.
//! - [`Driver::run`]: all of it; the host gives an async handler from messages to verdicts.
//!
//! ```
//! # use std::sync::Arc;
//! # use pipeline_plugin_api::driver::{Driver, DriverError, DriverOptions, Ending};
//! # use pipeline_plugin_api::{Input, Verdicts};
//! # async fn all(input: Arc<dyn Input>) -> Result<Ending, DriverError> {
//! let driver = Driver::new(input, DriverOptions::default());
//! let stop = driver.stop_handle(); // stop.soft(within) from a signal handler
//! driver.run(|messages| async move {
//!     println!("{} messages", messages.len());
//!     Verdicts::ACK
//! }).await
//! # }
//! ```
//!
//! No layer logs; what changes is told to an observer as an [`Event`]. No layer spawns a task that outlives it:
//! `Reader`, `next` and the stream spawn none, and those of `run` end before it returns or when it is dropped.

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

/// How a [`Driver`] reads and stops.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DriverOptions {
    /// What each read asks for. Its `max_wait` only sets how often the driver looks up; nobody waits for it to pass.
    pub demand: Demand,
    /// How many batches may be handed out and not yet settled. With one, batches are processed strictly in order.
    pub in_flight: NonZeroUsize,
    /// How long the end may take when the input ends or fails by itself: outstanding receipts are waited for so long.
    pub close_within: Duration,
}

impl Default for DriverOptions {
    /// Up to 1000 messages a batch, one batch at a time, 20 seconds to end.
    fn default() -> Self {
        Self {
            demand: Demand::new(1000, Duration::from_secs(1)),
            in_flight: NonZeroUsize::MIN,
            close_within: Duration::from_secs(20),
        }
    }
}

/// Why a driver came to its end, when nothing went wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Ending {
    /// Everything there was to read has been read and settled.
    EndOfInput,
    /// Somebody asked it to stop.
    Stopped,
}

/// What ended a driver.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DriverError {
    /// The input can't go on; it has been closed.
    #[error("{0}")]
    Input(#[source] InputError),
    /// Closing failed: some messages that were acknowledged will be read again.
    #[error("closing the input failed, so some acknowledged messages may be read again: {0}")]
    Close(#[source] InputError),
}

/// Drives one input from its first connect to its close.
pub struct Driver {
    reader: Reader,
    options: DriverOptions,
    in_flight: Arc<InFlight>,
    stop: StopHandle,
    /// Set once nothing more will be read, and why.
    over: Option<Ending>,
}

impl Driver {
    /// A driver of `input`, which nobody else should connect, read or close.
    pub fn new(input: Arc<dyn Input>, options: DriverOptions) -> Self {
        Self { reader: Reader::new(input), options, in_flight: Arc::default(), stop: StopHandle::default(), over: None }
    }

    /// Tells `observer` of everything that changes. It is called in the middle of things and must not block.
    #[must_use]
    pub fn observe(mut self, observer: impl Fn(&Event<'_>) + Send + Sync + 'static) -> Self {
        self.reader = self.reader.observe(observer);
        self
    }

    /// Stops the driver from elsewhere. Handles may be cloned and outlive it.
    pub fn stop_handle(&self) -> StopHandle {
        self.stop.clone()
    }

    /// The input, to ask for its status.
    pub fn input(&self) -> &Arc<dyn Input> {
        self.reader.input()
    }

    /// Waits for the next batch with messages, connecting as needed, and for one of those in flight to be settled
    /// where too many are. `None` once the input has ended or a stop was asked for; then call [`close`](Self::close).
    ///
    /// # Errors
    ///
    /// [`InputError::Fatal`]: the input can't go on. Call `close`; this returns `None` from then on.
    ///
    /// # Cancel safety
    ///
    /// Cancel safe: a call that is dropped has taken nothing, and its waits aren't shortened.
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
                    // Why it ended is in the error; that it ended is what counts from now on.
                    self.over = Some(Ending::Stopped);
                    return Err(error);
                }
            }
        }
        Ok(None)
    }

    /// Stops reading, waits for outstanding deliveries to be settled and closes the input.
    ///
    /// The deadline is that of the stop that was asked for, or else [`DriverOptions::close_within`] from now. A hard
    /// stop, even one that comes while this waits, nacks what is outstanding at once; what is left to do then is
    /// storing progress, which is the input's to bound.
    ///
    /// # Errors
    ///
    /// What the input says: some messages that were acknowledged will be read again.
    ///
    /// # Cancel safety
    ///
    /// Not cancel safe: dropped before it returns, it leaves the rest to the input's own drop.
    pub async fn close(self) -> Result<(), InputError> {
        let within = self.stop.current().remaining().unwrap_or(self.options.close_within);
        self.reader.tell(&Event::Closing { within });
        if self.stop.current() == Stop::Hard {
            self.in_flight.nack_all();
        }
        let closing = self.reader.input().close(within);
        tokio::pin!(closing);
        let result = tokio::select! {
            result = &mut closing => result,
            () = self.stop.hardened() => {
                self.in_flight.nack_all();
                closing.await
            }
        };
        self.in_flight.nack_all();
        self.reader.tell(&Event::Closed { result: &result });
        result
    }

    /// Turns the driver into a stream of its deliveries, for the combinators of the `futures` crate. The stream closes the input
    /// when it ends: see [`Deliveries`]. A [`stop_handle`](Self::stop_handle) that was taken before stops it.
    pub fn into_stream(self) -> Deliveries {
        Deliveries::new(self)
    }

    /// Hands every batch to `handler`, settles it with the verdicts that come back, and closes the input in the end.
    ///
    /// Up to [`DriverOptions::in_flight`] handlers run at a time, each in a task of its own. After a soft stop running
    /// handlers may finish until the deadline; after a hard one, or past the deadline, they are cancelled where they
    /// wait, and their batches are nacked.
    ///
    /// # Errors
    ///
    /// [`DriverError::Input`] when the input can't go on, [`DriverError::Close`] when only closing failed.
    ///
    /// # Panics
    ///
    /// A panic of a handler nacks its batch, stops the driver hard, and goes on here once the input is closed.
    ///
    /// # Cancel safety
    ///
    /// Dropping it is a hard stop without `close`: all handlers are cancelled and their batches nacked.
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
                        self.stop.hard();
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
