//! Whole routes into files.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use mq_bridge::Route;
use mq_bridge::models::Endpoint;
use mq_bridge::route::{RouteHandle, RouteOutcome};
use pipeline_plugin_api::registry::Registry;
use pipeline_plugin_api::{Batch, Demand, Input, InputError, State, Status};
use pipeline_plugin_mq_bridge::memory::MemoryQueue;
use pipeline_plugin_mq_bridge::{Metadata, RegisterError, attach, register};
use serde_json::json;

use crate::queue::{Plugin, numbers};

fn file(path: &Path) -> Endpoint {
    serde_json::from_value(json!({ "file": { "path": path, "format": "raw" } })).unwrap()
}

fn lines(path: &Path) -> Vec<String> {
    std::fs::read_to_string(path).unwrap().lines().map(str::to_owned).collect()
}

async fn outcome(handle: RouteHandle) -> Option<RouteOutcome> {
    while handle.outcome().is_none() {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    handle.outcome()
}

#[tokio::test]
async fn registered_input_is_named_in_a_route_and_ends_with_its_queue() {
    let queue = MemoryQueue::new();
    queue.push(numbers(1000));
    queue.finish();
    let mut registry = Registry::new();
    registry.register(Plugin { name: "queue_by_name", queue: queue.clone() }).unwrap();
    register(&registry).unwrap();
    assert!(matches!(register(&registry), Err(RegisterError::Refused { name, .. }) if name == "queue_by_name"));

    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("out");
    let input: Endpoint = serde_json::from_value(json!({ "queue_by_name": { "topic": "t" } })).unwrap();
    let handle = Route::new(input, file(&path)).with_batch_size(64).run("by_name").await.unwrap();
    assert_eq!(outcome(handle).await, Some(RouteOutcome::Completed));
    let expected: Vec<_> = (0..1000).map(|number| format!("message {number}")).collect();
    assert!(lines(&path) == expected, "in order and complete");
    let counts = queue.counts();
    assert_eq!((counts.acked, counts.nacked, counts.open, counts.closed), (1000, 0, 0, 1));
}

#[tokio::test]
async fn stopped_route_has_settled_all_that_it_took() {
    let queue = MemoryQueue::new();
    queue.push(numbers(500));
    let attached = attach("queue_stopped", Arc::new(queue.input()), Metadata::All).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("out");
    let handle = Route::new(attached.endpoint(), file(&path)).with_batch_size(7).run("stopped").await.unwrap();
    queue.until(|counts| counts.delivered > 50).await;
    handle.stop().await;
    handle.join().await.unwrap();
    let counts = queue.counts();
    assert_eq!(counts.nacked, 0);
    assert_eq!(counts.acked, counts.delivered);
    assert_eq!(lines(&path).len(), counts.acked);
    assert_eq!((counts.open, counts.closed), (1, 0), "an attached input is its owner's to close");
}

/// An input that can't be connected until a person changes something.
struct Hopeless;

#[async_trait]
impl Input for Hopeless {
    async fn connect(&self) -> Result<(), InputError> {
        Err(InputError::Fatal("the stream `orders` does not exist in eu-west-1".into()))
    }

    async fn read_batch(&self, _: Demand) -> Result<Batch, InputError> {
        Err(InputError::NotConnected("connect never succeeded".into()))
    }

    async fn close(&self, _: Duration) -> Result<(), InputError> {
        Ok(())
    }

    fn status(&self) -> Status {
        Status::new(State::Failed, "orders")
    }
}

#[tokio::test]
async fn input_that_can_not_work_fails_the_route_with_its_message_instead_of_being_retried() {
    let attached = attach("hopeless", Arc::new(Hopeless), Metadata::All).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let route = Route::new(attached.endpoint(), file(&folder.path().join("out")));
    let handle = route.run("hopeless").await.unwrap();
    while handle.outcome().is_none() {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    assert_eq!(handle.outcome(), Some(RouteOutcome::Failed));
    let error = handle.status().error.unwrap_or_default();
    assert!(error.contains("the stream `orders` does not exist in eu-west-1"), "{error}");
}
