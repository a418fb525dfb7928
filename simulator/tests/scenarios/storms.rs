//! What could be requested too often, or given up too early?

use std::time::Duration;

use kinesis_simulator::Settings;
use kinesis_simulator::faults::{CallFault, StreamFault};
use kinesis_simulator::kinesis::Key;
use pipeline_plugin_api::State;
use tokio::time::sleep;

use crate::bench::{Bench, Call, Host, MINUTE, Worker, secs};

fn gaps(calls: &[Call]) -> Vec<Duration> {
    calls.windows(2).map(|pair| pair[1].at.since(pair[0].at)).collect()
}

#[tokio::test(start_paused = true)]
async fn resource_in_use_inside_five_seconds() {
    let bench = Bench::new(1).await;
    bench.put(0, 1..=3);
    let worker = bench.worker("a");
    worker.link.next_stream(StreamFault::Reset);
    worker.input.connect().await.unwrap();
    assert_eq!(worker.numbers(3).await, [1, 2, 3]);
    // This keeps the first retry from being too early for the limit of one call a second.
    sleep(secs(1)).await;
    bench.put(0, 4..=6);
    assert_eq!(worker.numbers(3).await, [4, 5, 6]);
    let calls = bench.subscribes(0);
    let said: Vec<_> = calls.iter().map(|call| call.said.split([':', '(']).next().unwrap()).collect();
    assert_eq!(said, ["SubscriptionId", "ResourceInUseException", "SubscriptionId"], "one retry");
    let waited = calls[2].at.since(calls[0].at);
    assert!(waited >= secs(5) && waited < secs(6), "{waited:?}");
    bench.close([worker]).await;
}

#[tokio::test(start_paused = true)]
async fn limit_exceeded_on_mass_subscribe() {
    const SHARDS: u32 = 500;
    let mut settings = Settings::default();
    settings.subscribes = Some(50.0);
    let bench = Bench::with(SHARDS, settings).await;
    for shard in 0..SHARDS {
        bench.put(shard, u64::from(shard) + 1..=u64::from(shard) + 1);
    }
    let worker = bench.connect("a").await;
    let connected = bench.now();
    let mut numbers = worker.numbers(SHARDS as usize).await;
    numbers.sort_unstable();
    assert_eq!(numbers, (1..=u64::from(SHARDS)).collect::<Vec<_>>());
    // Ten seconds at least; the backoff may cost three times that, and no more.
    let waited = bench.now().since(connected);
    assert!(waited < secs(40), "{waited:?}");
    let calls = bench.calls_of("SubscribeToShard");
    let refused = calls.iter().filter(|call| !call.is_granted()).count();
    assert!(refused > 0 && calls.len() < 5 * SHARDS as usize, "{refused} of {} calls are refused", calls.len());
    bench.close([worker]).await;
}

#[tokio::test(start_paused = true)]
async fn success_without_events() {
    let bench = Bench::new(1).await;
    bench.put(0, 1..=3);
    let worker = bench.worker("a");
    for _ in 0..20 {
        worker.link.next_stream(StreamFault::Empty);
    }
    worker.input.connect().await.unwrap();
    assert_eq!(worker.numbers(3).await, [1, 2, 3]);
    let calls = bench.subscribes(0);
    let granted: Vec<_> = calls.iter().filter(|call| call.is_granted()).cloned().collect();
    assert_eq!(granted.len(), 21);
    assert!(gaps(&granted).iter().all(|gap| *gap < secs(16)), "{:?}", gaps(&granted));
    let late = &gaps(&calls)[6..];
    assert!(late.iter().all(|gap| *gap >= Duration::from_millis(2400)), "it does not back off: {late:?}");
    bench.close([worker]).await;
}

/// Reads a subscription whose second event is malformed in this way.
async fn malformed_end(shape: StreamFault) {
    let bench = Bench::new(1).await;
    bench.put(0, 1..=3);
    let worker = bench.worker("a");
    worker.link.next_stream(shape.clone());
    worker.input.connect().await.unwrap();
    assert_eq!(worker.numbers(3).await, [1, 2, 3]);
    sleep(secs(1)).await;
    bench.put(0, 4..=6);
    assert_eq!(worker.numbers(3).await, [4, 5, 6]);
    bench.put(0, 7..=9);
    let before = bench.now();
    assert_eq!(worker.numbers(3).await, [7, 8, 9], "{shape:?}");
    assert!(bench.now().since(before) < secs(10), "it waited for the connection to fall silent");
    assert_eq!(bench.ended_at(0), None, "{shape:?} is taken for the end");
    bench.close([worker]).await;
}

#[tokio::test(start_paused = true)]
async fn malformed_shard_end() {
    let shapes = [StreamFault::EndWithoutChildren, StreamFault::ChildWithoutParents, StreamFault::ChildrenWhileOpen];
    for shape in shapes {
        malformed_end(shape).await;
    }
}

#[tokio::test(start_paused = true)]
async fn subscription_expires_after_five_minutes() {
    let bench = Bench::new(1).await;
    let worker = bench.connect("a").await;
    let host = Host::of(&worker);
    for number in 1..=1200 {
        bench.put(0, number..=number);
        sleep(secs(1)).await;
        assert_eq!(worker.status().state, State::Connected, "{:?}", worker.status().reason);
    }
    sleep(secs(10)).await;
    assert_eq!(host.read(), (1..=1200).collect::<Vec<_>>(), "a gap, or a duplicate");
    let calls = bench.subscribes(0);
    assert!(calls.iter().all(Call::is_granted), "{calls:?}");
    assert!(gaps(&calls).iter().all(|gap| *gap >= 5 * MINUTE && *gap < 5 * MINUTE + secs(1)), "{:?}", gaps(&calls));
    bench.close([worker]).await;
}

/// The worker reads 1 to 3, can't continue until the fault is fixed, reports it, and continues. `4..=6` are put
/// meanwhile.
async fn recovers_when_granted(code: &str) {
    let bench = Bench::new(1).await;
    let worker = bench.connect("a").await;
    bench.put(0, 1..=3);
    assert_eq!(worker.numbers(3).await, [1, 2, 3]);
    for _ in 0..8 {
        worker.link.next_call("SubscribeToShard", CallFault::Error { code: code.to_owned(), status: 400 });
    }
    // The existing subscription lives until its five minutes have passed.
    sleep(4 * MINUTE).await;
    assert_eq!(worker.status().state, State::Connected);
    sleep(2 * MINUTE).await;
    bench.put(0, 4..=6);
    says_why(&worker, code);
    let refused = bench.now();
    assert_eq!(worker.numbers(3).await, [4, 5, 6]);
    assert_eq!(worker.link.faults(), 8);
    let waited = bench.now().since(refused);
    assert!(waited >= 2 * MINUTE && waited <= 8 * MINUTE, "eight slow retries took {waited:?}");
    assert_eq!(worker.status().state, State::Connected);
    bench.close([worker]).await;
}

fn says_why(worker: &Worker, code: &str) {
    let status = worker.status();
    assert_eq!(status.state, State::Degraded);
    let reason = status.reason.unwrap_or_default();
    assert!(reason.contains(code) && reason.contains("shardId-000000000000"), "{reason}");
}

#[tokio::test(start_paused = true)]
async fn credentials_rotate() {
    recovers_when_granted("ExpiredTokenException").await;
}

#[tokio::test(start_paused = true)]
async fn access_denied() {
    recovers_when_granted("AccessDeniedException").await;
}

#[tokio::test(start_paused = true)]
async fn kms_denied() {
    let bench = Bench::new(1).await;
    let worker = bench.connect("a").await;
    bench.put(0, 1..=3);
    assert_eq!(worker.numbers(3).await, [1, 2, 3]);
    bench.put(0, 4..=6);
    // The key is denied before these records can be sent; the open subscription reports it, and so does each that is
    // tried.
    bench.set_key(Key::Denied);
    assert!(worker.is_quiet(10 * MINUTE).await);
    says_why(&worker, "KMSAccessDeniedException");
    let tries = bench.subscribes(0).len();
    assert!((5..40).contains(&tries), "{tries} tries in ten minutes");
    bench.set_key(Key::Usable);
    let granted = bench.now();
    assert_eq!(worker.numbers(3).await, [4, 5, 6]);
    assert!(bench.now().since(granted) <= secs(62));
    assert_eq!(worker.status().state, State::Connected);
    bench.close([worker]).await;
}

#[tokio::test(start_paused = true)]
async fn consumer_deleted_and_recreated() {
    let bench = Bench::new(1).await;
    let worker = bench.connect("a").await;
    bench.put(0, 1..=3);
    assert_eq!(worker.numbers(3).await, [1, 2, 3]);
    bench.remove_consumer().await;
    bench.put(0, 4..=6);
    assert_eq!(worker.numbers(3).await, [4, 5, 6]);
    let calls = bench.subscribes(0);
    let arn = |call: &Call| call.asked()["ConsumerARN"].clone();
    assert_ne!(arn(&calls[0]), arn(calls.last().unwrap()));
    assert!(worker.is_quiet(MINUTE).await, "a duplicate");
    bench.close([worker]).await;
}
