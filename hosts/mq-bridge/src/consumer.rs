//! How does mq-bridge read an input?

use std::any::Any;
use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use mq_bridge::anyhow;
use mq_bridge::errors::ConsumerError;
use mq_bridge::traits::{BoxFuture, EndpointStatus, MessageConsumer, ReceivedBatch};
use pipeline_plugin_api::driver::{Event, Reader};
use pipeline_plugin_api::{Batch, Demand, Input, InputError};

use crate::live::Live;
use crate::metadata::Metadata;
use crate::translate;

/// After this long without a message a route is given an empty batch.
const IDLE: Duration = Duration::from_secs(1);
/// A route that ends with the first empty batch gives an input this long for its first message: shards have to be
/// claimed and subscriptions opened before anything can come.
const FIRST_MESSAGE: Duration = Duration::from_secs(10);

/// An input as an mq-bridge consumer.
///
/// The consumer connects when it is first read, and again whenever the input asks for it. Failures that may pass by
/// themselves ([`InputError::NotConnected`], [`InputError::BackOff`]) are retried here and only logged.
/// [`InputError::Fatal`] ends the route as [`ConsumerError::Permanent`], [`InputError::EndOfInput`] as
/// [`ConsumerError::EndOfStream`].
pub struct InputConsumer {
    reader: Reader,
    metadata: Metadata,
    /// The share in the input; absent if the caller closes the input.
    share: Option<Share>,
    /// Whether the route ends with the first empty batch.
    drains: bool,
    /// Whether a message has come.
    started: bool,
}

impl InputConsumer {
    /// A consumer that has joined an input and that leaves it when it is dropped.
    pub(crate) fn sharing(live: Arc<Live>) -> Self {
        let mut consumer = Self::borrowing(Arc::clone(&live.input));
        consumer.share = Some(Share { live, left: AtomicBool::new(false) });
        consumer
    }

    /// A consumer of an input that its caller closes.
    pub fn borrowing(input: Arc<dyn Input>) -> Self {
        let trouble = Trouble::default();
        let reader = Reader::new(input).observe(move |event| trouble.log(event));
        Self { reader, metadata: Metadata::All, share: None, drains: false, started: false }
    }

    /// Passes on this part of the messages' metadata; all of it by default.
    #[must_use]
    pub fn passing(mut self, metadata: Metadata) -> Self {
        self.metadata = metadata;
        self
    }

    fn received(&mut self, batch: Batch) -> ReceivedBatch {
        self.started = true;
        let (messages, receipt) = batch.into_parts();
        ReceivedBatch {
            messages: messages.into_iter().map(|message| translate::message(message, &self.metadata)).collect(),
            commit: translate::commit(Arc::clone(self.reader.input()), receipt),
        }
    }
}

#[async_trait]
impl MessageConsumer for InputConsumer {
    /// Cancel safe: nothing is awaited between the read of a batch and its return.
    async fn receive_batch(&mut self, max_messages: usize) -> Result<ReceivedBatch, ConsumerError> {
        let mut patience = if self.drains && !self.started { FIRST_MESSAGE } else { IDLE };
        loop {
            let recovered = self.reader.is_retrying();
            match self.reader.read(Demand::new(max_messages, patience)).await {
                Ok(batch) if !batch.is_empty() => return Ok(self.received(batch)),
                // An empty batch would end a route that drains, so it must not be caused by an input that could not be
                // read, or that recovered only just now.
                Ok(_) if self.drains && (recovered || self.reader.is_retrying()) => patience = IDLE,
                Ok(_) => return Ok(ReceivedBatch::empty()),
                Err(InputError::EndOfInput) => return Err(ConsumerError::EndOfStream),
                Err(error) => return Err(ConsumerError::Permanent(translate::chain(&error))),
            }
        }
    }

    fn set_exit_on_empty(&mut self, exit_on_empty: bool) {
        self.drains = exit_on_empty;
    }

    /// Receipts may be settled in any order: the input keeps its own.
    fn commit_requires_order(&self) -> bool {
        false
    }

    /// Leaves the input; the last one to leave waits until it is closed.
    fn on_disconnect_hook(&self) -> Option<BoxFuture<'_, anyhow::Result<()>>> {
        let share = self.share.as_ref()?;
        Some(Box::pin(async move {
            share.leave();
            if share.live.is_closing() {
                share.live.closed().await;
            }
            Ok(())
        }))
    }

    async fn status(&self) -> EndpointStatus {
        translate::status(self.reader.input().status())
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}

impl fmt::Debug for InputConsumer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("InputConsumer").field("status", &self.reader.input().status()).finish_non_exhaustive()
    }
}

/// A consumer's part in an input that is closed when the last consumer leaves, even if that is only dropped.
struct Share {
    live: Arc<Live>,
    left: AtomicBool,
}

impl Share {
    fn leave(&self) {
        if !self.left.swap(true, Ordering::AcqRel) {
            self.live.leave();
        }
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        self.leave();
    }
}

/// Logs a failure that lasts only once, however often the call is retried.
#[derive(Default)]
struct Trouble {
    logged: Mutex<String>,
}

impl Trouble {
    fn log(&self, event: &Event<'_>) {
        let mut logged = self.logged.lock().unwrap_or_else(PoisonError::into_inner);
        match event {
            Event::Retrying { error, .. } => {
                let text = translate::chain(*error).to_string();
                if text != *logged {
                    tracing::warn!(error = %text, "the input can't be read at the moment; it will be tried again");
                    *logged = text;
                }
            }
            Event::Recovered { failures } => {
                tracing::info!(failures, "the input can be read again");
                logged.clear();
            }
            _ => {}
        }
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use std::collections::VecDeque;

    use pipeline_plugin_api::{Message, Receipt, Settle, State, Status, Verdicts};
    use tokio::time::Instant;

    use super::*;

    /// An input that gives the scripted answers and counts the calls. When the script ends it is idle.
    #[derive(Default)]
    pub(crate) struct Scripted {
        pub(crate) connects: Mutex<VecDeque<Result<(), InputError>>>,
        pub(crate) reads: Mutex<VecDeque<Result<Batch, InputError>>>,
        pub(crate) connected: Mutex<usize>,
    }

    #[async_trait]
    impl Input for Scripted {
        async fn connect(&self) -> Result<(), InputError> {
            *self.connected.lock().unwrap() += 1;
            self.connects.lock().unwrap().pop_front().unwrap_or(Ok(()))
        }

        async fn read_batch(&self, demand: Demand) -> Result<Batch, InputError> {
            let next = self.reads.lock().unwrap().pop_front();
            if let Some(answer) = next {
                return answer;
            }
            tokio::time::sleep(demand.max_wait).await;
            Ok(Batch::empty())
        }

        async fn close(&self, _: Duration) -> Result<(), InputError> {
            Ok(())
        }

        fn status(&self) -> Status {
            Status::new(State::Connected, "a script")
        }
    }

    struct Ignored;

    impl Settle for Ignored {
        fn settle(self: Box<Self>, _: Verdicts) {}
    }

    #[expect(clippy::unnecessary_wraps, reason = "a line of a script")]
    fn one(payload: &'static str) -> Result<Batch, InputError> {
        Ok(Batch::new(vec![Message::new(payload)], Receipt::new(1, Ignored)))
    }

    fn back_off(seconds: u64) -> InputError {
        InputError::BackOff { after: Duration::from_secs(seconds), cause: "throttled".into() }
    }

    fn consumer(script: &Arc<Scripted>) -> InputConsumer {
        InputConsumer::borrowing(Arc::clone(script) as Arc<dyn Input>)
    }

    #[tokio::test(start_paused = true)]
    async fn idle_input_yields_an_empty_batch_after_a_second() {
        let script = Arc::new(Scripted::default());
        let start = Instant::now();
        assert!(consumer(&script).receive_batch(10).await.unwrap().messages.is_empty());
        assert_eq!(start.elapsed(), IDLE);
    }

    #[tokio::test(start_paused = true)]
    async fn lost_connection_is_reopened_with_backoff() {
        let script = Arc::new(Scripted::default());
        let lost = || Err(InputError::NotConnected("gone".into()));
        script.connects.lock().unwrap().extend([lost(), lost(), Ok(()), Ok(())]);
        script.reads.lock().unwrap().extend([Err(InputError::NotConnected("gone".into())), one("a")]);
        let start = Instant::now();
        assert_eq!(consumer(&script).receive_batch(10).await.unwrap().messages.len(), 1);
        let full = Duration::from_millis(100 + 200 + 400);
        assert!(start.elapsed() <= full + Duration::from_millis(5) && start.elapsed() >= full * 3 / 4);
        assert_eq!(*script.connected.lock().unwrap(), 4);
    }

    #[tokio::test(start_paused = true)]
    async fn back_off_is_honored_across_calls() {
        let script = Arc::new(Scripted::default());
        script.reads.lock().unwrap().extend([Err(back_off(3)), one("a")]);
        let mut consumer = consumer(&script);
        let start = Instant::now();
        let mut empty = 0;
        while consumer.receive_batch(10).await.unwrap().messages.is_empty() {
            empty += 1;
        }
        assert_eq!((empty, start.elapsed()), (2, Duration::from_secs(3)));
        assert_eq!(*script.connected.lock().unwrap(), 1, "a back-off loses no connection");
    }

    #[tokio::test(start_paused = true)]
    async fn back_off_outlives_a_dropped_call() {
        let script = Arc::new(Scripted::default());
        script.reads.lock().unwrap().extend([Err(back_off(3)), one("a")]);
        let mut consumer = consumer(&script);
        let start = Instant::now();
        let dropped = tokio::time::timeout(Duration::from_millis(10), consumer.receive_batch(10)).await;
        assert!(dropped.is_err());
        while consumer.receive_batch(10).await.unwrap().messages.is_empty() {}
        assert_eq!(start.elapsed(), Duration::from_secs(3));
    }

    #[tokio::test(start_paused = true)]
    async fn draining_route_waits_out_a_back_off_instead_of_ending() {
        let script = Arc::new(Scripted::default());
        script.reads.lock().unwrap().extend([Err(back_off(60)), one("a")]);
        let mut consumer = consumer(&script);
        consumer.set_exit_on_empty(true);
        assert_eq!(consumer.receive_batch(10).await.unwrap().messages.len(), 1);
        let start = Instant::now();
        assert!(consumer.receive_batch(10).await.unwrap().messages.is_empty());
        assert_eq!(start.elapsed(), IDLE);
    }

    #[tokio::test(start_paused = true)]
    async fn fatal_error_ends_the_route_with_its_message() {
        let script = Arc::new(Scripted::default());
        script.connects.lock().unwrap().push_back(Err(InputError::Fatal("no such stream: orders".into())));
        let error = consumer(&script).receive_batch(10).await.unwrap_err();
        assert!(matches!(error, ConsumerError::Permanent(_)));
        assert_eq!(error.to_string(), "permanent consumer error: no such stream: orders");
    }

    #[tokio::test]
    async fn end_of_the_input_ends_the_route_cleanly() {
        let script = Arc::new(Scripted::default());
        script.reads.lock().unwrap().push_back(Err(InputError::EndOfInput));
        assert!(matches!(consumer(&script).receive_batch(10).await, Err(ConsumerError::EndOfStream)));
    }
}
