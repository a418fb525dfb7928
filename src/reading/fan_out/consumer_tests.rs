//! Tests of how a consumer is found, registered, waited for and removed.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use aws_smithy_types::body::SdkBody;
use tokio::sync::Semaphore;
use tokio::time::{Instant, sleep};

use super::consumer::{Consumer, ConsumerError, ConsumerSpec};
use crate::aws::{ConsumerDescription, ConsumerStatus, Encoding, RecordsAnswer, Service};
use crate::model::{ListedShard, ShardId, StartPosition, Stream};
use crate::retry::{Fault, Origin};
use crate::sync::{Mutex, lock};

const MINUTE: Duration = Duration::from_mins(1);

type Answer = Result<ConsumerDescription, Fault>;

/// A service that answers from lists, repeats the last answer indefinitely, and counts the calls.
#[derive(Debug, Default)]
struct Registry {
    described: Answers,
    registered: Answers,
    deregistered: Mutex<Vec<String>>,
    /// Registrations in progress: the number now, and the highest number at once.
    registering: Mutex<(usize, usize)>,
}

#[derive(Debug, Default)]
struct Answers {
    left: Mutex<VecDeque<Answer>>,
    calls: Mutex<usize>,
}

impl Answers {
    fn will_be(&self, answers: impl IntoIterator<Item = Answer>) {
        *lock(&self.left) = answers.into_iter().collect();
    }

    fn next(&self) -> Answer {
        *lock(&self.calls) += 1;
        let mut left = lock(&self.left);
        let last = left.len() == 1;
        let front = left.front().cloned().expect("unexpected call");
        if !last {
            left.pop_front();
        }
        front
    }

    fn calls(&self) -> usize {
        *lock(&self.calls)
    }
}

#[async_trait]
impl Service for Registry {
    async fn describe_stream(&self, _: &str) -> Result<Stream, Fault> {
        Ok(stream())
    }

    async fn list_shards(&self, _: &Stream) -> Result<Vec<ListedShard>, Fault> {
        Ok(Vec::new())
    }

    async fn describe_consumer(&self, _: &Stream, name: &str) -> Answer {
        assert_eq!(name, "us");
        // An answer takes time, so that other callers can ask meanwhile.
        sleep(Duration::from_millis(10)).await;
        self.described.next()
    }

    async fn describe_consumer_arn(&self, arn: &str) -> Answer {
        assert_eq!(arn, "arn:orders/consumer/theirs");
        self.described.next()
    }

    async fn register_consumer(&self, _: &Stream, _: &str) -> Answer {
        {
            let mut registering = lock(&self.registering);
            registering.0 += 1;
            registering.1 = registering.1.max(registering.0);
        }
        sleep(Duration::from_millis(100)).await;
        lock(&self.registering).0 -= 1;
        self.registered.next()
    }

    async fn deregister_consumer(&self, arn: &str) -> Result<(), Fault> {
        lock(&self.deregistered).push(arn.into());
        Ok(())
    }

    async fn subscribe(&self, _: &str, _: &ShardId, _: &StartPosition) -> Result<SdkBody, Fault> {
        Err(fault("UnknownOperationException"))
    }

    async fn shard_iterator(&self, _: &Stream, _: &ShardId, _: &StartPosition) -> Result<String, Fault> {
        unreachable!("no shard is read")
    }

    async fn get_records(&self, _: &Stream, _: &str, _: u32, _: Encoding) -> Result<RecordsAnswer, Fault> {
        unreachable!("no shard is read")
    }
}

fn stream() -> Stream {
    Stream::new("orders", "arn:orders")
}

fn fault(code: &str) -> Fault {
    Fault { origin: Origin::Call, code: code.into(), message: "injected by the test".into() }
}

fn refused(code: &str) -> Answer {
    Err(fault(code))
}

#[allow(clippy::unnecessary_wraps, reason = "it stands among answers that are errors")]
fn is(status: ConsumerStatus) -> Answer {
    Ok(ConsumerDescription { arn: "arn:orders/consumer/us".into(), status })
}

fn not_there() -> Answer {
    refused("ResourceNotFoundException")
}

async fn open(registry: &Arc<Registry>, spec: ConsumerSpec) -> Result<Consumer, ConsumerError> {
    Consumer::open(Arc::clone(registry) as _, stream(), spec, MINUTE, &Semaphore::new(5)).await
}

fn named() -> ConsumerSpec {
    ConsumerSpec::Named("us".into())
}

#[tokio::test(start_paused = true)]
async fn existing_consumer_is_used_and_never_removed() {
    let registry = Arc::new(Registry::default());
    registry.described.will_be([is(ConsumerStatus::Active)]);
    let consumer = open(&registry, named()).await.unwrap();
    assert_eq!((consumer.arn().as_str(), consumer.label()), ("arn:orders/consumer/us", "us"));
    assert_eq!((registry.described.calls(), registry.registered.calls()), (1, 0));
    consumer.deregister().await;
    assert!(lock(&registry.deregistered).is_empty(), "the consumer was not registered here");
}

#[tokio::test(start_paused = true)]
async fn missing_consumer_is_registered_awaited_and_removed() {
    let registry = Arc::new(Registry::default());
    registry.described.will_be([not_there(), is(ConsumerStatus::Creating), is(ConsumerStatus::Active)]);
    registry.registered.will_be([is(ConsumerStatus::Creating)]);
    let consumer = open(&registry, named()).await.unwrap();
    assert_eq!((registry.described.calls(), registry.registered.calls()), (3, 1));
    consumer.deregister().await;
    assert_eq!(*lock(&registry.deregistered), ["arn:orders/consumer/us"]);
}

#[tokio::test(start_paused = true)]
async fn consumer_in_deletion_is_registered_again_once_it_is_gone() {
    let registry = Arc::new(Registry::default());
    registry.described.will_be([is(ConsumerStatus::Deleting), not_there(), is(ConsumerStatus::Active)]);
    registry.registered.will_be([is(ConsumerStatus::Creating)]);
    open(&registry, named()).await.unwrap();
    assert_eq!(registry.registered.calls(), 1);
}

#[tokio::test(start_paused = true)]
async fn consumer_registered_by_a_faster_process_is_used() {
    let registry = Arc::new(Registry::default());
    registry.described.will_be([not_there(), is(ConsumerStatus::Creating), is(ConsumerStatus::Active)]);
    registry.registered.will_be([refused("ResourceInUseException")]);
    let consumer = open(&registry, named()).await.unwrap();
    consumer.deregister().await;
    assert!(lock(&registry.deregistered).is_empty(), "the other one made it");
}

#[tokio::test(start_paused = true)]
async fn too_many_registrations_at_once_are_retried() {
    let registry = Arc::new(Registry::default());
    registry.described.will_be([not_there(), not_there(), not_there(), is(ConsumerStatus::Active)]);
    registry.registered.will_be([
        refused("LimitExceededException"),
        refused("LimitExceededException"),
        is(ConsumerStatus::Creating),
    ]);
    let start = Instant::now();
    open(&registry, named()).await.unwrap();
    assert_eq!(registry.registered.calls(), 3);
    assert!(start.elapsed() >= Duration::from_millis(500), "without a pause: {:?}", start.elapsed());
}

#[tokio::test(start_paused = true)]
async fn consumer_that_never_becomes_active_is_an_error_with_its_last_status() {
    for (answer, seen) in [(is(ConsumerStatus::Creating), "Creating"), (refused("InternalFailure"), "InternalFailure")]
    {
        let registry = Arc::new(Registry::default());
        registry.described.will_be([answer]);
        let start = Instant::now();
        let error = open(&registry, named()).await.unwrap_err();
        assert!(matches!(error, ConsumerError::NotActive { .. }), "{error}");
        let text = error.to_string();
        assert!(["orders", "us", "60s", seen].iter().all(|part| text.contains(part)), "{text}");
        assert_eq!(start.elapsed(), MINUTE);
        assert!(registry.described.calls() < 30, "{} looks in a minute", registry.described.calls());
    }
}

#[tokio::test(start_paused = true)]
async fn refused_registration_is_an_error_that_says_what_to_do() {
    let registry = Arc::new(Registry::default());
    registry.described.will_be([refused("AccessDeniedException")]);
    let start = Instant::now();
    let error = open(&registry, named()).await.unwrap_err().to_string();
    assert!(error.contains("AccessDeniedException") && error.contains("permissions"), "{error}");
    registry.described.will_be([not_there()]);
    registry.registered.will_be([refused("AccessDeniedException")]);
    let error = open(&registry, named()).await.unwrap_err().to_string();
    assert!(error.contains("kinesis:RegisterStreamConsumer"), "{error}");
    // A consumer that is configured by its ARN is never registered.
    let error = open(&registry, ConsumerSpec::Arn("arn:orders/consumer/theirs".into())).await.unwrap_err().to_string();
    assert!(error.contains("enhanced_fan_out.consumer_name"), "{error}");
    assert_eq!(registry.registered.calls(), 1);
    assert!(start.elapsed() < Duration::from_secs(1), "{:?}", start.elapsed());
}

#[tokio::test(start_paused = true)]
async fn consumer_deleted_and_recreated() {
    let registry = Arc::new(Registry::default());
    registry.described.will_be([is(ConsumerStatus::Active)]);
    let consumer = Arc::new(open(&registry, named()).await.unwrap());
    sleep(MINUTE).await;
    let anew = ConsumerDescription { arn: "arn:orders/consumer/us:2".into(), status: ConsumerStatus::Active };
    registry.described.will_be([Ok(anew)]);
    // A thousand shards notice at once, and one of them asks the service.
    let before = registry.described.calls();
    let mut asking = tokio::task::JoinSet::new();
    for _ in 0..1000 {
        let consumer = Arc::clone(&consumer);
        asking.spawn(async move { consumer.refresh().await });
    }
    while let Some(asked) = asking.join_next().await {
        asked.unwrap().unwrap();
    }
    assert_eq!(registry.described.calls() - before, 1);
    assert_eq!(consumer.arn(), "arn:orders/consumer/us:2");
}

#[tokio::test(start_paused = true)]
async fn at_most_five_consumers_are_registered_at_once() {
    let registry = Arc::new(Registry::default());
    registry.described.will_be((0..12).map(|_| not_there()).chain([is(ConsumerStatus::Active)]));
    registry.registered.will_be([is(ConsumerStatus::Creating)]);
    let registering = Semaphore::new(5);
    let opening = (0..12).map(|_| Consumer::open(Arc::clone(&registry) as _, stream(), named(), MINUTE, &registering));
    futures::future::try_join_all(opening).await.unwrap();
    assert_eq!(lock(&registry.registering).1, 5);
}
