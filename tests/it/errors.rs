//! What does a user see if something is wrong at connect?

use std::sync::Arc;
use std::time::Duration;

use pipeline_plugin_api::{Input, InputError, State};

use crate::support::{Bench, Out, build, close, read_until};

async fn refused(input: &Arc<dyn Input>) -> String {
    match input.connect().await {
        Err(InputError::Fatal(error)) => error.to_string(),
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn stream_that_does_not_exist_is_named_with_its_region() {
    let bench = Bench::start().await;
    let error = refused(&bench.input("orders", "")).await;
    assert!(error.contains("orders") && error.contains("us-east-1") && error.contains("not found"), "{error}");
}

#[tokio::test]
async fn shard_that_does_not_exist_is_named() {
    let bench = Bench::start().await;
    bench.create("orders", 1).await;
    let error = refused(&bench.input("orders:7", "")).await;
    assert!(error.contains("shardId-000000000007"), "{error}");
}

#[tokio::test]
async fn one_stream_under_two_names_is_refused() {
    let bench = Bench::start().await;
    bench.create("orders", 1).await;
    let error = refused(&bench.input("orders,arn:aws:kinesis:us-east-1:000000000000:stream/orders", "")).await;
    assert!(error.contains("listed twice"), "{error}");
}

#[tokio::test]
async fn checkpoint_file_that_is_in_use_names_its_holder() {
    let bench = Bench::start().await;
    bench.create("orders", 1).await;
    let first = bench.input("orders", "");
    first.connect().await.unwrap();
    let error = refused(&bench.input("orders", "")).await;
    assert!(error.contains(&std::process::id().to_string()), "{error}");
    close(&*first).await;
    let second = bench.input("orders", "");
    second.connect().await.unwrap();
    close(&*second).await;
}

#[tokio::test]
async fn checkpoint_file_that_can_not_be_written_is_named() {
    let bench = Bench::start().await;
    bench.create("orders", 1).await;
    let path = bench.checkpoints();
    let yaml = bench.yaml("orders", "").replace(&path.display().to_string(), "/proc/nothing/checkpoints");
    let error = refused(&build(kinesis_input::KinesisInput::new(), &yaml)).await;
    assert!(error.contains("/proc/nothing/checkpoints"), "{error}");
}

#[tokio::test]
async fn first_connect_fails() {
    let bench = Bench::start().await;
    let input = bench.input("orders", "");
    refused(&input).await;
    assert_eq!(input.status().state, State::Disconnected);
    // Nothing is held that would prevent the next attempt.
    bench.create("orders", 1).await;
    bench.put("orders", 0, 10).await;
    input.connect().await.unwrap();
    input.connect().await.unwrap();
    let mut out = Out::default();
    read_until(&*input, &mut out, 10).await;
    close(&*input).await;
}

#[tokio::test]
async fn unreachable_endpoint_is_retried() {
    let bench = Bench::start().await;
    let yaml = bench.yaml("orders", "").replace(&bench.server.endpoint(), "http://127.0.0.1:1");
    let input = build(kinesis_input::KinesisInput::new(), &yaml);
    match input.connect().await {
        Err(InputError::BackOff { after, cause }) => {
            assert!(after <= Duration::from_secs(5));
            assert!(cause.to_string().contains("orders"), "{cause}");
        }
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn close_before_connect() {
    let bench = Bench::start().await;
    let input = bench.input("orders", "");
    close(&*input).await;
    close(&*input).await;
    assert_eq!(input.status().state, State::Closed);
    assert!(matches!(input.connect().await, Err(InputError::Fatal(_))));
    assert!(matches!(input.read_batch(crate::support::SOON).await, Err(InputError::NotConnected(_))));
}
