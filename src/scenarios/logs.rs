//! What does an operator see in metrics and in the log?

use std::collections::HashMap;
use std::fmt::{Debug, Write};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, LazyLock};
use std::time::Duration;

use metrics::{Counter, Gauge, Histogram, Key, KeyName, LocalRecorderGuard, Metadata, SharedString, Unit};
use pipeline_plugin_api::{Demand, Verdict, Verdicts};
use tracing::field::{Field, Visit};
use tracing::span::{Attributes, Id, Record};
use tracing::subscriber::DefaultGuard;
use tracing::{Dispatch, Event, Level};

use super::bench::{Bench, close, is_quiet, numbers, take};
use super::script::{Answer, Piece, Script, body, event, exception, fault, records};
use crate::model::{ShardNames, Stream};
use crate::sync::{Mutex, lock};
use crate::telemetry::ShardMeter;

const MINUTE: Duration = Duration::from_mins(1);

/// A recorder that keeps the counts.
#[derive(Debug, Default)]
pub(super) struct Counts(Mutex<HashMap<Key, Arc<AtomicU64>>>);

impl Counts {
    /// The sum of a counter, over the label values that hold `label`.
    pub(super) fn of(&self, name: &str, label: &str) -> u64 {
        let counts = lock(&self.0);
        let named = counts.iter().filter(|(key, _)| key.name() == name);
        let labelled = named.filter(|(key, _)| label.is_empty() || key.labels().any(|pair| pair.value() == label));
        labelled.map(|(_, count)| count.load(Ordering::Relaxed)).sum()
    }

    /// The value of the gauge whose label values hold `label`; `None` if there is none.
    pub(super) fn gauge(&self, name: &str, label: &str) -> Option<f64> {
        let counts = lock(&self.0);
        let mut named = counts.iter().filter(|(key, _)| key.name() == name);
        let found = named.find(|(key, _)| label.is_empty() || key.labels().any(|pair| pair.value() == label));
        found.map(|(_, value)| f64::from_bits(value.load(Ordering::Relaxed)))
    }

    /// The number of handles of a counter that are held.
    fn handles(&self, name: &str) -> usize {
        let counts = lock(&self.0);
        let named = counts.iter().filter(|(key, _)| key.name() == name);
        named.map(|(_, count)| Arc::strong_count(count) - 1).sum()
    }

    pub(super) fn record(&self) -> LocalRecorderGuard<'_> {
        metrics::set_default_local_recorder(self)
    }
}

impl metrics::Recorder for Counts {
    fn describe_counter(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}
    fn describe_gauge(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}
    fn describe_histogram(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}

    fn register_counter(&self, key: &Key, _: &Metadata<'_>) -> Counter {
        Counter::from_arc(Arc::clone(lock(&self.0).entry(key.clone()).or_default()))
    }

    fn register_gauge(&self, key: &Key, _: &Metadata<'_>) -> Gauge {
        Gauge::from_arc(Arc::clone(lock(&self.0).entry(key.clone()).or_default()))
    }

    fn register_histogram(&self, _: &Key, _: &Metadata<'_>) -> Histogram {
        Histogram::noop()
    }
}

/// A second subscriber, beside that of the test. While there is only one, a call site that logs for the first time asks
/// the subscriber of its own thread, and stays silent if another test has none there.
static SECOND: LazyLock<Dispatch> = LazyLock::new(|| Dispatch::new(Log::default()));

/// A subscriber that keeps the events above debug.
#[derive(Debug, Clone, Default)]
pub(super) struct Log(Arc<Mutex<Vec<(Level, String)>>>);

impl Log {
    pub(super) fn listen(&self) -> DefaultGuard {
        LazyLock::force(&SECOND);
        tracing::subscriber::set_default(self.clone())
    }

    pub(super) fn at(&self, level: Level) -> Vec<String> {
        lock(&self.0).iter().filter(|(at, _)| *at == level).map(|(_, text)| text.clone()).collect()
    }
}

/// The message and the fields of a log event, as one line.
struct Line(String);

impl Visit for Line {
    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        write!(self.0, "{field}={value:?} ").unwrap();
    }
}

impl tracing::Subscriber for Log {
    fn enabled(&self, metadata: &tracing::Metadata<'_>) -> bool {
        metadata.target().starts_with("kinesis_input") && *metadata.level() <= Level::INFO
    }

    fn new_span(&self, _: &Attributes<'_>) -> Id {
        Id::from_u64(1)
    }

    fn record(&self, _: &Id, _: &Record<'_>) {}

    fn record_follows_from(&self, _: &Id, _: &Id) {}

    fn event(&self, event: &Event<'_>) {
        let mut line = Line(String::new());
        event.record(&mut line);
        lock(&self.0).push((*event.metadata().level(), line.0));
    }

    fn enter(&self, _: &Id) {}

    fn exit(&self, _: &Id) {}
}

/// `kinesis-input run` serves the counters of a shard for as long as a handle of them is held.
#[test]
fn meter_holds_every_counter_of_its_shard_until_it_is_dropped() {
    let counts = Counts::default();
    let _recording = counts.record();
    let stream = Stream::new("orders", "arn:orders");
    let meter = ShardMeter::new(&Arc::new(ShardNames { stream, shard: "s".into() }));
    meter.skipped(2);
    meter.skipped(3);
    meter.expired("7");
    let seldom = ["kinesis_input_skipped_records_total", "kinesis_input_expired_checkpoints_total"];
    let all = [seldom[0], seldom[1], "kinesis_input_acked_records_total"];
    assert_eq!(all.map(|name| counts.handles(name)), [1, 1, 1]);
    drop(meter);
    assert_eq!(all.map(|name| counts.handles(name)), [0, 0, 0]);
    assert_eq!(seldom.map(|name| counts.of(name, "s")), [5, 1]);
}

#[tokio::test(start_paused = true)]
async fn healthy_run_logs_its_start_and_its_stop() {
    let (counts, log) = (Counts::default(), Log::default());
    let (_recording, _listening) = (counts.record(), log.listen());
    let script = Script::new(["s"]);
    // An hour of subscriptions that expire after five minutes.
    script.answer(
        "s",
        (0..12).map(|round| {
            let heartbeats = (1..60)
                .flat_map(move |heartbeat| [Piece::Wait(Duration::from_secs(5)), records([round * 100 + heartbeat])]);
            body(heartbeats.chain([Piece::Wait(Duration::from_secs(5))]))
        }),
    );
    let bench = Bench::new(script, "");
    let session = bench.open().await;
    assert_eq!(numbers(&session, 12 * 59).await.len(), 12 * 59);
    close(&session).await;
    assert_eq!(log.at(Level::ERROR), [""; 0]);
    assert_eq!(log.at(Level::WARN), [""; 0]);
    let said = log.at(Level::INFO);
    assert_eq!(said.len(), 2, "{said:?}");
    assert!(said[0].contains("reading the stream") && said[1].contains("closed"), "{said:?}");
    assert_eq!(counts.of("kinesis_input_faults_total", ""), 0);
    assert_eq!(counts.of("kinesis_input_subscriptions_total", "s"), 12);
    for counted in ["read", "delivered", "acked"] {
        assert_eq!(counts.of(&format!("kinesis_input_{counted}_records_total"), "s"), 12 * 59, "{counted}");
    }
}

#[tokio::test(start_paused = true)]
async fn stored_sequence_that_expired_is_an_error_and_is_counted() {
    let (counts, log) = (Counts::default(), Log::default());
    let (_recording, _listening) = (counts.record(), log.listen());
    let bench = Bench::new(Script::new(["s"]), "");
    bench.script.answer("s", [body([records(1..=3), Piece::Hang])]);
    let session = bench.open().await;
    numbers(&session, 3).await;
    close(&session).await;
    assert_eq!(counts.of("kinesis_input_expired_checkpoints_total", ""), 0);
    let refused = Answer::Refused(fault("InvalidArgumentException"));
    bench.script.answer("s", [refused, body([records(50..=52), Piece::Hang])]);
    let session = bench.open().await;
    numbers(&session, 3).await;
    close(&session).await;
    assert_eq!(counts.of("kinesis_input_expired_checkpoints_total", "s"), 1);
    let errors = log.at(Level::ERROR);
    assert_eq!(errors.len(), 1, "{errors:?}");
    assert!(errors[0].contains("retention") && errors[0].contains("from=\"3\""), "{errors:?}");
}

#[tokio::test(start_paused = true)]
async fn nack_with_a_reason_is_logged_once_a_minute_and_one_without_is_not() {
    let log = Log::default();
    let _listening = log.listen();
    let script = Script::new(["s"]);
    script.answer("s", [body([records(1..=3), Piece::Hang])]);
    let bench = Bench::new(script, "");
    let session = bench.open().await;
    take(&session).await.2.settle_in_test(Verdicts::NACK).unwrap();
    assert_eq!(log.at(Level::WARN), [""; 0]);
    for _ in 0..2 {
        let each = vec![Verdict::Ack, Verdict::NACK, Verdict::nack("disk full")];
        let (_, came, receipt) = take(&session).await;
        let verdicts = if came.len() == 3 { Verdicts::Each(each) } else { Verdicts::nack("still full") };
        receipt.settle_in_test(verdicts).unwrap();
    }
    let warnings = log.at(Level::WARN);
    assert_eq!(warnings.len(), 1, "{warnings:?}");
    for part in ["the output nacked records", "shard=s ", "records=2 ", "reason=disk full"] {
        assert!(warnings[0].contains(part), "{part}: {warnings:?}");
    }
    assert_eq!(numbers(&session, 2).await, [2, 3]);
    close(&session).await;
}

#[tokio::test(start_paused = true)]
async fn nack_that_is_not_redelivered_is_logged_with_its_reason() {
    let log = Log::default();
    let _listening = log.listen();
    let script = Script::new(["s"]);
    script.answer("s", [body([records(1..=3), Piece::Hang])]);
    let bench = Bench::new(script, "auto_replay_nacks: false");
    let session = bench.open().await;
    take(&session).await.2.settle_in_test(Verdicts::nack("disk full")).unwrap();
    let warnings = log.at(Level::WARN);
    assert!(
        warnings.len() == 1 && warnings[0].contains("dropped records") && warnings[0].contains("disk full"),
        "{warnings:?}"
    );
    close(&session).await;
}

/// In both cases nothing more is read: the pool is full, or one shard has as many records in flight as it may.
#[tokio::test(start_paused = true)]
async fn missing_acks_are_one_warning_a_minute() {
    for limit in ["enhanced_fan_out: {enabled: true, max_pending_records: 20}", "checkpoint_limit: 20"] {
        let log = Log::default();
        let _listening = log.listen();
        let script = Script::new(["s"]);
        let events = |from: u64, to: u64| (from..to).map(|at| records(at * 10 + 1..=at * 10 + 10)).chain([Piece::Hang]);
        // The first subscription is closed after 30 s, with the third event read and not delivered.
        script.answer("s", [body(events(0, 10)), body(events(3, 10))]);
        let bench = Bench::new(script, limit);
        let session = bench.open().await;
        let mut receipts = Vec::new();
        let mut count = 0;
        while count < 20 {
            let (_, numbers, receipt) = take(&session).await;
            count += numbers.len();
            receipts.push(receipt);
        }
        assert!(is_quiet(&session, 10 * MINUTE).await);
        // A silent subscription is a warning too, but another one.
        let blocked = || log.at(Level::WARN).iter().filter(|line| line.contains("acknowledges nothing")).count();
        assert!((8..=10).contains(&blocked()), "{limit}: {} in ten minutes", blocked());
        for receipt in receipts {
            receipt.settle_in_test(Verdicts::ACK).unwrap();
        }
        // Once delivery continues, nothing more is logged.
        numbers(&session, 80).await;
        let before = blocked();
        assert!(is_quiet(&session, 10 * MINUTE).await);
        assert_eq!(blocked(), before, "{limit}");
        close(&session).await;
    }
}

#[tokio::test(start_paused = true)]
async fn unreadable_shard_is_an_occasional_warning() {
    let (counts, log) = (Counts::default(), Log::default());
    let (_recording, _listening) = (counts.record(), log.listen());
    let script = Script::new(["s"]);
    script.refuse_all(Some(fault("InternalFailureException")));
    let bench = Bench::new(script, "");
    let session = bench.open().await;
    assert!(is_quiet(&session, 10 * MINUTE).await);
    let tries = bench.script.calls().len() as u64;
    close(&session).await;
    assert_eq!(counts.of("kinesis_input_faults_total", "InternalFailureException"), tries);
    let warnings = log.at(Level::WARN);
    assert!(!warnings.is_empty() && warnings.len() as u64 <= 1 + tries / 20, "{} of {tries}", warnings.len());
    assert!(warnings[0].contains("shard=s ") && warnings[0].contains("InternalFailureException"), "{warnings:?}");
}

#[tokio::test(start_paused = true)]
async fn occasional_broken_connection_is_counted_and_not_logged() {
    let (counts, log) = (Counts::default(), Log::default());
    let (_recording, _listening) = (counts.record(), log.listen());
    let script = Script::new(["s"]);
    script.answer("s", (0..10).map(|round| body([records([round + 1]), exception("InternalFailureException")])));
    script.answer("s", (0..10).map(|round| body([records([round + 11]), Piece::Broken])));
    script.answer("s", [body([event([], Some(21), &[]), Piece::Hang])]);
    let bench = Bench::new(script, "");
    let session = bench.open().await;
    assert_eq!(numbers(&session, 20).await, (1..=20).collect::<Vec<_>>());
    close(&session).await;
    assert_eq!(counts.of("kinesis_input_faults_total", "InternalFailureException"), 10);
    assert_eq!(counts.of("kinesis_input_faults_total", "Connection"), 10);
    assert_eq!(log.at(Level::WARN), [""; 0]);
}

/// A host that asks for more before it acknowledges is held up by `checkpoint_limit`, and one line says so. A host that
/// asks for nothing meanwhile is slow by itself, and a full pool is another bound.
#[tokio::test(start_paused = true)]
async fn shard_held_by_its_checkpoint_limit_is_logged_once() {
    for (more, asks, logged) in [
        ("checkpoint_limit: 10", true, 1),
        ("checkpoint_limit: 10", false, 0),
        ("checkpoint_limit: 1000\nenhanced_fan_out: {enabled: true, max_pending_records: 10}", true, 0),
    ] {
        let script = Script::new(["s"]);
        script.answer("s", [body((0..200).map(|at| records(at * 10 + 1..=at * 10 + 10)).chain([Piece::Hang]))]);
        let bench = Bench::new(script, more);
        let log = Log::default();
        let _listening = log.listen();
        let session = bench.open().await;
        for _ in 0..180 {
            let (_, _, receipt) = take(&session).await;
            if asks {
                let early = session.read(Demand::new(1000, Duration::from_secs(1))).await.unwrap();
                assert!(early.len() <= 10);
            } else {
                tokio::time::sleep(Duration::from_secs(1)).await;
            }
            receipt.settle_in_test(Verdicts::ACK).unwrap();
        }
        let warnings = log.at(Level::WARN);
        let held = warnings.iter().filter(|line| line.contains("checkpoint_limit holds the shard up"));
        assert_eq!(held.count(), logged, "{more}, asks: {asks}: {warnings:?}");
        close(&session).await;
    }
}
