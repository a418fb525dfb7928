//! The promises of `run`, with an input in memory.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use kinesis_input_cli::{Ending, Exit, Meter, Pipeline, RunError, RunOptions, StopHandle, run};
use mq_bridge::models::Endpoint;
use pipeline_plugin_api::{Batch, Demand, Input, InputError, Message, State, Status};
use pipeline_plugin_mq_bridge::memory::MemoryQueue;
use serde_json::json;
use tokio::time::Instant;

use crate::outputs::{Behaviour, Output};

fn filled(count: usize) -> MemoryQueue {
    let queue = MemoryQueue::new();
    queue.push((0..count).map(|number| Message::new(number.to_string())));
    queue
}

fn pipeline(queue: &MemoryQueue, output: Endpoint) -> Pipeline {
    let mut pipeline = Pipeline::new(Arc::new(queue.input()), output);
    pipeline.options.batch_size = 7;
    pipeline
}

fn file(path: &Path) -> Endpoint {
    serde_json::from_value(json!({ "file": { "path": path, "format": "raw" } })).unwrap()
}

fn written(path: &Path) -> Vec<String> {
    std::fs::read_to_string(path).unwrap_or_default().lines().map(str::to_owned).collect()
}

fn numbers(count: usize) -> Vec<String> {
    (0..count).map(|number| number.to_string()).collect()
}

#[tokio::test]
async fn end_of_the_input_ends_the_run_with_all_delivered_and_the_input_closed() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("out");
    let queue = filled(1000);
    queue.finish();
    let report = run(pipeline(&queue, file(&path)), RunOptions::default(), StopHandle::new()).await.unwrap();
    assert_eq!(report.ending, Ending::EndOfInput);
    assert_eq!((report.counted.read, report.counted.delivered, report.counted.returned), (1000, 1000, 0));
    assert!(written(&path) == numbers(1000), "complete and in order");
    assert_eq!(queue.counts().closed, 1);
}

#[tokio::test]
async fn graceful_stop_delivers_everything_taken_and_leaves_no_duplicates() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("out");
    let queue = filled(2000);
    let stop = StopHandle::new();
    let half = async {
        queue.until(|counts| counts.delivered > 300).await;
        stop.stop_gracefully();
    };
    let first = run(pipeline(&queue, file(&path)), RunOptions::default(), stop.clone());
    let (report, ()) = tokio::join!(first, half);
    let report = report.unwrap();
    assert_eq!(report.ending, Ending::Stopped);
    let counts = queue.counts();
    assert_eq!((counts.nacked, counts.open, counts.closed), (0, 0, 1));
    assert_eq!(counts.acked, counts.delivered, "every batch that was taken was settled");
    assert_eq!(written(&path).len(), counts.acked);

    queue.finish();
    run(pipeline(&queue, file(&path)), RunOptions::default(), StopHandle::new()).await.unwrap();
    assert!(written(&path) == numbers(2000), "each once, in order, over both runs");
}

#[tokio::test]
async fn graceful_stop_settles_commits_that_wait_for_a_file_sync() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("out");
    let queue = filled(20);
    let output =
        json!({ "file": { "path": path, "format": "raw", "fsync": "periodic", "fsync_interval_ms": 3_600_000 } });
    let stop = StopHandle::new();
    let taken = async {
        queue.until(|counts| counts.delivered == 20).await;
        stop.stop_gracefully();
    };
    let running = run(pipeline(&queue, serde_json::from_value(output).unwrap()), RunOptions::default(), stop.clone());
    let (report, ()) = tokio::join!(running, taken);
    assert_eq!(report.unwrap().counted.delivered, 20);
    assert_eq!(queue.counts().acked, 20);
}

/// An input that lets nothing more in before an ack, as with `checkpoint_limit: 1`, is not slowed down by the interval.
#[tokio::test(start_paused = true)]
async fn deferred_acks_come_as_soon_as_the_output_has_flushed() {
    let queue = filled(1);
    let (output, endpoint) = Output::register("defers", Behaviour::Defers);
    let one_after_the_other = async {
        let start = Instant::now();
        for acked in 1..=20 {
            queue.until(|counts| counts.acked == acked).await;
            assert!(*output.flushed.lock().unwrap() >= acked, "acknowledged before the flush");
            if acked < 20 {
                queue.push([Message::new(acked.to_string())]);
            }
        }
        assert!(start.elapsed() < Duration::from_millis(500), "{:?} for 20 messages", start.elapsed());
        // All that was written while a flush ran is acknowledged by the next.
        queue.push((20..1000).map(|number| Message::new(number.to_string())));
        queue.finish();
        queue.until(|counts| counts.acked == 1000).await;
        assert!(start.elapsed() < Duration::from_secs(2), "{:?} for 1000 messages", start.elapsed());
    };
    let running = run(pipeline(&queue, endpoint), RunOptions::default(), StopHandle::new());
    let (report, ()) = tokio::join!(running, one_after_the_other);
    assert_eq!(report.unwrap().ending, Ending::EndOfInput);
    assert_eq!(*output.taken.lock().unwrap(), numbers(1000));
    assert_eq!(queue.counts().nacked, 0);
}

#[tokio::test(start_paused = true)]
async fn passing_failure_of_the_output_loses_nothing_and_does_not_disturb_the_input() {
    let queue = filled(30);
    queue.finish();
    let (output, endpoint) = Output::register("fails_first", Behaviour::FailsFirst(3));
    let report = run(pipeline(&queue, endpoint), RunOptions::default(), StopHandle::new()).await.unwrap();
    assert_eq!(report.ending, Ending::EndOfInput);
    assert_eq!(*output.taken.lock().unwrap(), numbers(30));
    assert!(report.counted.returned > 0);
    let counts = queue.counts();
    assert_eq!((counts.acked, counts.closed, counts.refused), (30, 1, 0));
}

#[tokio::test(start_paused = true)]
async fn messages_that_an_output_rejects_are_not_acknowledged() {
    let queue = filled(30);
    queue.finish();
    let (output, endpoint) = Output::register("refuses", Behaviour::Refuses("16"));
    let error = run(pipeline(&queue, endpoint), RunOptions::default(), StopHandle::new()).await.unwrap_err();
    assert!(matches!(&error, RunError::Refused { reason } if reason.contains("`16` is too much")), "{error}");
    assert_eq!(error.exit(), Exit::Failed);
    assert_eq!(*output.taken.lock().unwrap(), numbers(14));
    let counts = queue.counts();
    assert_eq!((counts.acked, counts.closed), (14, 1));
}

#[tokio::test(start_paused = true)]
async fn graceful_stop_ends_within_its_timeout_even_if_the_output_hangs() {
    let queue = filled(30);
    let (output, endpoint) = Output::register("hangs_softly", Behaviour::Hangs);
    let stop = StopHandle::new();
    let mut pipeline = pipeline(&queue, endpoint);
    pipeline.shutdown_timeout = Duration::from_secs(7);
    let asked = async {
        output.called(1).await;
        stop.stop_gracefully();
        Instant::now()
    };
    let (ended, asked) = tokio::join!(run(pipeline, RunOptions::default(), stop.clone()), asked);
    assert_eq!(ended.unwrap_err(), RunError::StopTimedOut { timeout: Duration::from_secs(7) });
    assert!(asked.elapsed() < Duration::from_secs(8), "{:?}", asked.elapsed());
    assert_eq!((queue.counts().acked, queue.counts().closed), (0, 1));
}

#[tokio::test(start_paused = true)]
async fn immediate_stop_ends_at_once() {
    let queue = filled(30);
    let (output, endpoint) = Output::register("hangs_hard", Behaviour::Hangs);
    let stop = StopHandle::new();
    let asked = async {
        output.called(1).await;
        stop.stop_gracefully();
        stop.stop_immediately();
        Instant::now()
    };
    let (ended, asked) = tokio::join!(run(pipeline(&queue, endpoint), RunOptions::default(), stop.clone()), asked);
    assert_eq!(ended.unwrap_err(), RunError::ImmediateStop);
    assert!(asked.elapsed() <= Duration::from_secs(1));
}

/// An input that answers `connect` and then `read_batch` with these errors, once.
struct Broken {
    connect: fn() -> Result<(), InputError>,
    read: fn() -> InputError,
}

#[async_trait]
impl Input for Broken {
    async fn connect(&self) -> Result<(), InputError> {
        (self.connect)()
    }

    async fn read_batch(&self, _: Demand) -> Result<Batch, InputError> {
        Err((self.read)())
    }

    async fn close(&self, _: Duration) -> Result<(), InputError> {
        Ok(())
    }

    fn status(&self) -> Status {
        Status::new(State::Failed, "broken")
    }
}

fn no_stream() -> InputError {
    InputError::Fatal("there is no stream `orders` in eu-west-1".into())
}

async fn broken(connect: fn() -> Result<(), InputError>, read: fn() -> InputError) -> RunError {
    let output = serde_json::from_value(json!("null")).unwrap();
    let pipeline = Pipeline::new(Arc::new(Broken { connect, read }), output);
    run(pipeline, RunOptions::default(), StopHandle::new()).await.unwrap_err()
}

#[tokio::test(start_paused = true)]
async fn input_that_can_not_connect_ends_the_run_at_once_with_its_reason() {
    let start = Instant::now();
    let error = broken(|| Err(no_stream()), no_stream).await;
    assert_eq!(error.to_string(), "the input can't run: there is no stream `orders` in eu-west-1");
    assert_eq!(error.exit(), Exit::Input);
    assert_eq!(start.elapsed(), Duration::ZERO);
}

#[tokio::test(start_paused = true)]
async fn input_that_fails_permanently_ends_the_run_with_its_reason() {
    let start = Instant::now();
    let error = broken(|| Ok(()), no_stream).await;
    assert_eq!(error, RunError::Input { reason: "there is no stream `orders` in eu-west-1".to_owned() });
    assert!(start.elapsed() < Duration::from_secs(1), "{:?}", start.elapsed());
}

#[tokio::test(start_paused = true)]
async fn graceful_stop_ends_a_run_that_has_not_connected_yet() {
    let queue = filled(1);
    let holder = queue.input();
    holder.connect().await.unwrap();
    let stop = StopHandle::new();
    let output: Endpoint = serde_json::from_value(json!("null")).unwrap();
    let asked = async {
        queue.until(|counts| counts.refused >= 3).await;
        stop.stop_gracefully();
    };
    let (report, ()) = tokio::join!(run(pipeline(&queue, output), RunOptions::default(), stop.clone()), asked);
    assert_eq!(report.unwrap().ending, Ending::Stopped);
}

#[tokio::test]
async fn meter_shows_the_numbers_of_its_run() {
    let queue = filled(10);
    queue.finish();
    let meter = Meter::new();
    let output: Endpoint = serde_json::from_value(json!("null")).unwrap();
    let options = RunOptions::default().meter(meter.clone());
    let report = run(pipeline(&queue, output), options, StopHandle::new()).await.unwrap();
    assert_eq!(meter.read(), report.counted);
    assert_eq!((meter.read().delivered, meter.read().bytes), (10, 10));
}

#[test]
fn run_can_be_spawned_on_any_runtime() {
    fn sendable<T: Send>(_: &T) {}
    let output: Endpoint = serde_json::from_value(json!("null")).unwrap();
    sendable(&run(pipeline(&filled(0), output), RunOptions::default(), StopHandle::new()));
}
