//! Outputs that behave as a test wants.

use std::any::Any;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use mq_bridge::extensions::register_endpoint_factory;
use mq_bridge::models::{Endpoint, EndpointType};
use mq_bridge::traits::{CustomEndpointFactory, MessagePublisher, PublisherError};
use mq_bridge::{CanonicalMessage, SentBatch, anyhow};
use serde_json::Value;
use tokio::sync::watch;

/// The treatment of a batch by an output.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Behaviour {
    /// Fails this many times, as a connection does, then takes everything.
    FailsFirst(usize),
    /// Never takes a message that contains this.
    Refuses(&'static str),
    /// Takes a batch and never answers.
    Hangs,
    /// Takes everything, and keeps it for good only with a flush, which the route may call once an hour.
    Defers,
}

/// The record of an output's calls.
#[derive(Debug, Clone)]
pub(crate) struct Output {
    behaviour: Behaviour,
    calls: Arc<watch::Sender<usize>>,
    pub(crate) taken: Arc<Mutex<Vec<String>>>,
    /// How many of the taken messages were flushed.
    pub(crate) flushed: Arc<Mutex<usize>>,
}

impl Output {
    /// An output under a name of its own, which only one test uses.
    pub(crate) fn register(name: &str, behaviour: Behaviour) -> (Self, Endpoint) {
        let output =
            Self { behaviour, calls: Arc::new(watch::channel(0).0), taken: Arc::default(), flushed: Arc::default() };
        register_endpoint_factory(name, Arc::new(output.clone())).unwrap();
        (output, Endpoint::new(EndpointType::Custom { name: name.to_owned(), config: Value::Null }))
    }

    /// Waits until this many messages were taken.
    pub(crate) async fn took(&self, count: usize) {
        self.calls.subscribe().wait_for(|_| self.taken.lock().unwrap().len() >= count).await.unwrap();
    }

    /// Waits until this many batches have come.
    pub(crate) async fn called(&self, times: usize) {
        self.calls.subscribe().wait_for(|calls| *calls >= times).await.unwrap();
    }
}

#[async_trait]
impl CustomEndpointFactory for Output {
    async fn create_publisher(&self, _: &str, _: &Value) -> anyhow::Result<Box<dyn MessagePublisher>> {
        Ok(Box::new(self.clone()))
    }
}

#[async_trait]
impl MessagePublisher for Output {
    async fn send_batch(&self, messages: Vec<CanonicalMessage>) -> Result<SentBatch, PublisherError> {
        let call = *self.calls.borrow();
        self.calls.send_modify(|calls| *calls += 1);
        match self.behaviour {
            Behaviour::FailsFirst(times) if call < times => {
                return Err(PublisherError::Connection(anyhow::anyhow!("the other side is unreachable")));
            }
            Behaviour::Refuses(what) => {
                if messages.iter().any(|message| message.get_payload_str() == what) {
                    return Err(PublisherError::NonRetryable(anyhow::anyhow!("`{what}` is too much")));
                }
            }
            Behaviour::Hangs => std::future::pending().await,
            Behaviour::FailsFirst(_) | Behaviour::Defers => {}
        }
        self.taken.lock().unwrap().extend(messages.iter().map(|message| message.get_payload_str().into_owned()));
        self.calls.send_modify(|_| {});
        Ok(SentBatch::Ack)
    }

    async fn flush(&self) -> anyhow::Result<()> {
        let taken = self.taken.lock().unwrap().len();
        // It takes its time, in which more is written.
        tokio::time::sleep(Duration::from_millis(5)).await;
        *self.flushed.lock().unwrap() = taken;
        Ok(())
    }

    fn deferred_commit_interval(&self) -> Option<Duration> {
        matches!(self.behaviour, Behaviour::Defers).then_some(Duration::from_hours(1))
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}
