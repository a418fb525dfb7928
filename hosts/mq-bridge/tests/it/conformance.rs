use std::sync::Arc;

use async_trait::async_trait;
use mq_bridge::CanonicalMessage;
use pipeline_plugin_api::{BoxError, Message};
use pipeline_plugin_mq_bridge::conformance::{ConformanceOptions, Publish, run};
use pipeline_plugin_mq_bridge::memory::MemoryQueue;
use serde_json::json;

use crate::queue::registered;

struct Push(MemoryQueue);

#[async_trait]
impl Publish for Push {
    async fn publish(&self, message: CanonicalMessage) -> Result<(), BoxError> {
        self.0.push([Message::with_pairs(message.payload, message.metadata)]);
        Ok(())
    }
}

#[tokio::test]
async fn suite_of_mq_bridge_passes() {
    let queue = MemoryQueue::new();
    let options = ConformanceOptions::new("conformance", json!({ "topic": "t" }));
    let passed = run(registered("queue", &queue), Arc::new(Push(queue.clone())), options).await.unwrap();
    assert_eq!(passed, ["round_trip", "metadata_preserved", "nack_redelivers", "uncommitted_batch_redelivers"]);
}
