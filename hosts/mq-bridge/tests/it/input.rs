//! Does the input in memory keep the contract of all inputs?

use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use pipeline_plugin_api::conformance::{self, Harness, Options, Source, Support};
use pipeline_plugin_api::{BoxError, Input, Message};
use pipeline_plugin_mq_bridge::memory::MemoryQueue;

struct Queues;

#[async_trait]
impl Harness for Queues {
    async fn source(&self) -> Result<Box<dyn Source>, BoxError> {
        Ok(Box::new(Queue(MemoryQueue::new())))
    }
}

struct Queue(MemoryQueue);

#[async_trait]
impl Source for Queue {
    fn lanes(&self) -> usize {
        1
    }

    async fn input(&self) -> Result<Arc<dyn Input>, BoxError> {
        Ok(Arc::new(self.0.input()))
    }

    async fn put(&self, _lane: usize, payloads: Vec<Bytes>) -> Result<(), BoxError> {
        self.0.push(payloads.into_iter().map(Message::new));
        Ok(())
    }

    async fn break_connection(&self) -> Result<Support, BoxError> {
        Ok(Support::Unsupported("a queue in memory has no connection to lose"))
    }

    async fn end(&self) -> Result<Support, BoxError> {
        self.0.finish();
        Ok(Support::Done)
    }
}

#[tokio::test(start_paused = true)]
async fn input_in_memory_conforms() {
    let report = conformance::run(&Queues, &Options::default()).await;
    assert_eq!(report.skipped().len(), 1);
    report.unwrap();
}
