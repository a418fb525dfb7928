//! Which consumer closes an input, and when?

use mq_bridge::traits::{CustomEndpointFactory, MessageConsumer};
use pipeline_plugin_mq_bridge::InputFactory;
use pipeline_plugin_mq_bridge::memory::MemoryQueue;
use serde_json::json;

use crate::queue::{numbers, registered};

async fn consumer(factory: &InputFactory) -> Box<dyn MessageConsumer> {
    factory.create_consumer("route", &json!({ "topic": "t" })).await.unwrap()
}

fn setting() -> (MemoryQueue, InputFactory) {
    let queue = MemoryQueue::new();
    queue.push(numbers(1));
    let factory = InputFactory::new(registered("queue", &queue));
    (queue, factory)
}

#[tokio::test]
async fn second_consumer_of_a_route_reads_the_input_of_the_first() {
    let (queue, factory) = setting();
    let mut first = consumer(&factory).await;
    let mut second = consumer(&factory).await;
    assert_eq!(first.receive_batch(1).await.unwrap().messages.len(), 1);
    assert_eq!(second.receive_batch(1).await.unwrap().messages.len(), 1, "the first batch was dropped: a nack");
    drop(first);
    queue.push(numbers(1));
    assert_eq!(second.receive_batch(1).await.unwrap().messages.len(), 1);
    let counts = queue.counts();
    assert_eq!((counts.open, counts.refused, counts.closed), (1, 0, 0));
}

#[tokio::test]
async fn dropped_consumer_closes_the_input() {
    let (queue, factory) = setting();
    let mut first = consumer(&factory).await;
    first.receive_batch(1).await.unwrap();
    drop(first);
    queue.until(|counts| counts.closed == 1).await;
}

#[tokio::test]
async fn disconnecting_waits_until_the_input_is_closed() {
    let (queue, factory) = setting();
    let mut first = consumer(&factory).await;
    first.receive_batch(1).await.unwrap();
    first.on_disconnect_hook().unwrap().await.unwrap();
    assert_eq!(queue.counts().closed, 1);
    drop(first);
    assert_eq!(queue.counts().closed, 1, "it is closed once");
}

#[tokio::test]
async fn consumer_created_while_the_input_closes_gets_a_new_one() {
    let (queue, factory) = setting();
    let mut first = consumer(&factory).await;
    let batch = first.receive_batch(1).await.unwrap();
    // The receipt is in flight, and closing waits for it.
    drop(first);
    let settle = async {
        tokio::task::yield_now().await;
        drop(batch);
    };
    let (mut second, ()) = tokio::join!(consumer(&factory), settle);
    assert_eq!(second.receive_batch(1).await.unwrap().messages.len(), 1);
    let counts = queue.counts();
    assert_eq!((counts.open, counts.refused, counts.closed), (1, 0, 1));
}

#[tokio::test]
async fn wrong_configuration_stops_a_route_instead_of_being_retried() {
    let (_, factory) = setting();
    let Err(error) = factory.create_consumer("route", &json!({ "topik": "t" })).await else {
        panic!("it was accepted")
    };
    assert!(error.is::<mq_bridge::errors::InvalidConfig>());
    assert!(error.to_string().contains("topik"), "{error}");
}
