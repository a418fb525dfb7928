//! The driver on virtual time, over an input that does as its script says.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use futures::StreamExt;
use tokio::sync::{Notify, oneshot};
use tokio::time::Instant;

use super::*;
use crate::{Batch, InputError, Message, Receipt, Settle, State, Status, Verdict};

const SECOND: Duration = Duration::from_secs(1);

/// The calls to the input, and the outcome of its batches, in order.
#[derive(Debug, Clone, PartialEq)]
enum Call {
    Connect,
    Settled(usize, Verdicts),
    Close(Duration),
}

type Log = Arc<Mutex<Vec<Call>>>;

/// An input that gives the scripted answers and is idle afterward. Its batches are numbered from 0.
#[derive(Default)]
struct Scripted {
    connects: Mutex<VecDeque<Result<(), InputError>>>,
    reads: Mutex<VecDeque<Result<usize, InputError>>>,
    calls: Log,
    batches: Mutex<usize>,
    settled: Arc<Notify>,
    close_fails: bool,
}

impl Scripted {
    fn new(reads: impl IntoIterator<Item = Result<usize, InputError>>) -> Self {
        Self { reads: Mutex::new(reads.into_iter().collect()), ..Self::default() }
    }

    fn connecting(self, connects: impl IntoIterator<Item = Result<(), InputError>>) -> Self {
        self.connects.lock().unwrap().extend(connects);
        self
    }

    fn calls(&self) -> Vec<Call> {
        self.calls.lock().unwrap().clone()
    }

    fn record(&self, call: Call) {
        self.calls.lock().unwrap().push(call);
    }

    fn outstanding(&self) -> usize {
        let settled = self.calls().iter().filter(|call| matches!(call, Call::Settled(..))).count();
        *self.batches.lock().unwrap() - settled
    }
}

struct Note(usize, Log, Arc<Notify>);

impl Settle for Note {
    fn settle(self: Box<Self>, verdicts: Verdicts) {
        self.1.lock().unwrap().push(Call::Settled(self.0, verdicts));
        self.2.notify_waiters();
    }
}

#[async_trait]
impl Input for Scripted {
    async fn connect(&self) -> Result<(), InputError> {
        self.record(Call::Connect);
        self.connects.lock().unwrap().pop_front().unwrap_or(Ok(()))
    }

    async fn read_batch(&self, demand: Demand) -> Result<Batch, InputError> {
        let next = self.reads.lock().unwrap().pop_front();
        let Some(answer) = next else {
            tokio::time::sleep(demand.max_wait).await;
            return Ok(Batch::empty());
        };
        let count = answer?;
        let mut batches = self.batches.lock().unwrap();
        let note = Note(*batches, Arc::clone(&self.calls), Arc::clone(&self.settled));
        *batches += 1;
        let messages = (0..count).map(|number| Message::new(number.to_string())).collect();
        Ok(Batch::new(messages, Receipt::new(count, note)))
    }

    async fn close(&self, within: Duration) -> Result<(), InputError> {
        self.record(Call::Close(within));
        let until = Instant::now() + within;
        loop {
            let settled = self.settled.notified();
            if self.outstanding() == 0 || tokio::time::timeout_at(until, settled).await.is_err() {
                break;
            }
        }
        if self.close_fails { Err(InputError::NotConnected("no disk".into())) } else { Ok(()) }
    }

    fn status(&self) -> Status {
        Status::new(State::Connected, "a script")
    }
}

fn lost() -> InputError {
    InputError::NotConnected("gone".into())
}

fn back_off(after: Duration) -> InputError {
    InputError::BackOff { after, cause: "throttled".into() }
}

fn driver(input: &Arc<Scripted>, in_flight: usize) -> Driver {
    let in_flight = NonZeroUsize::new(in_flight).unwrap();
    Driver::new(Arc::clone(input) as Arc<dyn Input>, DriverOptions { in_flight, ..DriverOptions::default() })
}

/// Records each event of an observer as one word.
fn words(driver: Driver) -> (Driver, Arc<Mutex<Vec<String>>>) {
    let words = Arc::new(Mutex::new(Vec::new()));
    let recorded = Arc::clone(&words);
    let driver = driver.observe(move |event| {
        let text = format!("{event:?}");
        let word = text.split([' ', '(']).next().unwrap().to_owned();
        recorded.lock().unwrap().push(word);
    });
    (driver, words)
}

#[tokio::test(start_paused = true)]
async fn failed_connect_is_retried_with_growing_jittered_waits() {
    let input = Arc::new(Scripted::new([Ok(1)]).connecting([Err(lost()), Err(lost()), Err(lost())]));
    let (mut driver, words) = words(driver(&input, 1));
    let start = Instant::now();
    assert!(driver.next().await.unwrap().is_some());
    let full = Duration::from_millis(100 + 200 + 400);
    assert!(
        start.elapsed() <= full + Duration::from_millis(5) && start.elapsed() >= full * 3 / 4,
        "{:?}",
        start.elapsed()
    );
    assert_eq!(*words.lock().unwrap(), ["Retrying", "Retrying", "Retrying", "Connected", "Recovered"]);
}

#[tokio::test(start_paused = true)]
async fn back_off_waits_exactly_and_keeps_the_connection() {
    let input = Arc::new(Scripted::new([Err(back_off(SECOND * 7)), Ok(1)]));
    let mut driver = driver(&input, 1);
    let start = Instant::now();
    assert!(driver.next().await.unwrap().is_some());
    assert_eq!(start.elapsed(), SECOND * 7);
    assert_eq!(input.calls()[0], Call::Connect);
    assert!(!input.calls()[1..].contains(&Call::Connect), "a back-off loses no connection");
}

#[tokio::test(start_paused = true)]
async fn back_off_of_zero_causes_no_busy_loop() {
    let input = Arc::new(Scripted::new((0..20).map(|_| Err(back_off(Duration::ZERO))).chain([Ok(1)])));
    let start = Instant::now();
    assert!(driver(&input, 1).next().await.unwrap().is_some());
    assert!(start.elapsed() > SECOND * 10);
}

#[tokio::test(start_paused = true)]
async fn dropped_call_takes_nothing_and_does_not_shorten_a_wait() {
    let input = Arc::new(Scripted::new([Err(back_off(SECOND * 7)), Ok(1)]));
    let mut driver = driver(&input, 1);
    let start = Instant::now();
    for _ in 0..30 {
        assert!(tokio::time::timeout(Duration::from_millis(150), driver.next()).await.is_err());
    }
    assert!(driver.next().await.unwrap().is_some());
    // Timers round up to a millisecond.
    assert!(start.elapsed() >= SECOND * 7 && start.elapsed() < SECOND * 7 + Duration::from_millis(5));
}

#[tokio::test(start_paused = true)]
async fn lost_connection_is_reopened() {
    let input = Arc::new(Scripted::new([Ok(1), Err(lost()), Ok(1)]));
    let (mut driver, words) = words(driver(&input, 2));
    let first = driver.next().await.unwrap().unwrap();
    driver.next().await.unwrap().unwrap().settle(Verdicts::ACK).await.unwrap();
    first.settle(Verdicts::ACK).await.unwrap();
    assert_eq!(*words.lock().unwrap(), ["Connected", "Retrying", "Connected", "Recovered"]);
    assert_eq!(input.calls().iter().filter(|call| **call == Call::Connect).count(), 2);
}

#[tokio::test(start_paused = true)]
async fn connection_lost_on_every_read_is_not_reopened_in_a_busy_loop() {
    let input = Arc::new(Scripted::new((0..10).map(|_| Err(lost())).chain([Ok(1)])));
    let start = Instant::now();
    assert!(driver(&input, 1).next().await.unwrap().is_some());
    assert!(start.elapsed() > SECOND * 5);
}

#[tokio::test(start_paused = true)]
async fn batches_in_flight_never_exceed_the_limit() {
    let input = Arc::new(Scripted::new([Ok(1), Ok(1), Ok(1)]));
    let mut driver = driver(&input, 2);
    let first = driver.next().await.unwrap().unwrap();
    let _second = driver.next().await.unwrap().unwrap();
    assert!(tokio::time::timeout(SECOND * 60, driver.next()).await.is_err());
    let (third, ()) = tokio::join!(driver.next(), async {
        tokio::task::yield_now().await;
        drop(first);
    });
    assert!(third.unwrap().is_some());
    assert_eq!(input.calls()[1], Call::Settled(0, Verdicts::NACK), "a dropped delivery is a nack");
}

#[tokio::test(start_paused = true)]
async fn batches_are_settled_in_any_order_from_any_task() {
    let input = Arc::new(Scripted::new([Ok(2), Ok(2)]));
    let mut driver = driver(&input, 2);
    let first = driver.next().await.unwrap().unwrap();
    let (messages, second) = driver.next().await.unwrap().unwrap().into_parts();
    assert_eq!(messages.len(), 2);
    let each = Verdicts::Each(vec![Verdict::Ack, Verdict::nack("disk full")]);
    JoinSet::from_iter([second.settle(each.clone())]).join_all().await.remove(0).unwrap();
    first.settle(Verdicts::ACK).await.unwrap();
    assert_eq!(input.calls()[1..], [Call::Settled(1, each), Call::Settled(0, Verdicts::ACK)]);
}

#[tokio::test(start_paused = true)]
async fn fatal_error_ends_the_driver() {
    let input = Arc::new(Scripted::new([]).connecting([Err(InputError::Fatal("no such stream".into()))]));
    let (mut driver, words) = words(driver(&input, 1));
    assert_eq!(driver.next().await.unwrap_err().to_string(), "no such stream");
    assert!(driver.next().await.unwrap().is_none(), "it is over");
    driver.close().await.unwrap();
    assert_eq!(input.calls(), [Call::Connect, Call::Close(SECOND * 20)]);
    assert_eq!(*words.lock().unwrap(), ["Failed", "Closing", "Closed"]);
}

#[tokio::test(start_paused = true)]
async fn stop_interrupts_every_wait() {
    let waits = [vec![], vec![Err(back_off(SECOND * 1000))], vec![Ok(1)]];
    for reads in waits {
        let input = Arc::new(Scripted::new(reads));
        let mut driver = driver(&input, 1);
        let stop = driver.stop_handle();
        let start = Instant::now();
        let (last, ()) = tokio::join!(
            async {
                let mut held = Vec::new();
                while let Some(delivery) = driver.next().await.unwrap() {
                    held.push(delivery);
                }
                held
            },
            async {
                tokio::time::sleep(SECOND * 5).await;
                stop.stop_gracefully(SECOND * 3);
            }
        );
        assert_eq!(start.elapsed(), SECOND * 5);
        drop(last);
        driver.close().await.unwrap();
        assert_eq!(input.calls().last(), Some(&Call::Close(SECOND * 3)));
    }
}

#[tokio::test(start_paused = true)]
async fn stop_before_the_first_read_does_not_connect() {
    let input = Arc::new(Scripted::new([Ok(1)]));
    let mut driver = driver(&input, 1);
    driver.stop_handle().stop_gracefully(SECOND);
    assert!(driver.next().await.unwrap().is_none());
    driver.close().await.unwrap();
    assert_eq!(input.calls(), [Call::Close(SECOND)]);
}

#[tokio::test(start_paused = true)]
async fn immediate_stop_nacks_deliveries_of_other_tasks_and_ignores_later_verdicts() {
    let input = Arc::new(Scripted::new([Ok(1)]));
    let mut driver = driver(&input, 1);
    let held = driver.next().await.unwrap().unwrap();
    driver.stop_handle().stop_immediately();
    driver.close().await.unwrap();
    held.settle(Verdicts::ACK).await.unwrap();
    assert_eq!(input.calls()[1..], [Call::Settled(0, Verdicts::NACK), Call::Close(Duration::ZERO)]);
}

#[tokio::test(start_paused = true)]
async fn immediate_stop_overrides_a_graceful_stop() {
    let input = Arc::new(Scripted::new([Ok(1)]));
    let mut driver = driver(&input, 1);
    let stop = driver.stop_handle();
    let held = driver.next().await.unwrap().unwrap();
    stop.stop_gracefully(SECOND * 100);
    let start = Instant::now();
    let (closed, ()) = tokio::join!(driver.close(), async {
        tokio::time::sleep(SECOND * 2).await;
        stop.stop_gracefully(SECOND * 1000);
        stop.stop_immediately();
    });
    closed.unwrap();
    assert_eq!(start.elapsed(), SECOND * 2);
    assert_eq!(input.calls().last(), Some(&Call::Settled(0, Verdicts::NACK)));
    drop(held);
}

#[tokio::test(start_paused = true)]
async fn handlers_run_concurrently_up_to_the_limit() {
    let reads = (0..6).map(|_| Ok(1)).chain([Err(InputError::EndOfInput)]);
    let input = Arc::new(Scripted::new(reads));
    let start = Instant::now();
    let run = driver(&input, 3).run(|_| async {
        tokio::time::sleep(SECOND).await;
        Verdicts::ACK
    });
    assert_eq!(run.await.unwrap(), Ending::EndOfInput);
    assert_eq!(start.elapsed(), SECOND * 2, "six batches, three at a time");
    let acked = input.calls().iter().filter(|call| matches!(call, Call::Settled(_, Verdicts::ACK))).count();
    assert_eq!(acked, 6);
}

#[tokio::test(start_paused = true)]
async fn one_in_flight_keeps_the_order() {
    let input = Arc::new(Scripted::new((0..5).map(|_| Ok(1)).chain([Err(InputError::EndOfInput)])));
    let longest_first = Arc::new(Mutex::new(SECOND * 10));
    let run = driver(&input, 1).run(move |_| {
        let mut left = longest_first.lock().unwrap();
        *left -= SECOND;
        let wait = *left;
        async move {
            tokio::time::sleep(wait).await;
            Verdicts::ACK
        }
    });
    run.await.unwrap();
    let settled = (0..5).map(|number| Call::Settled(number, Verdicts::ACK));
    assert_eq!(input.calls()[1..6], settled.collect::<Vec<_>>());
}

#[tokio::test(start_paused = true)]
async fn graceful_stop_lets_handlers_finish() {
    let input = Arc::new(Scripted::new([Ok(1)]));
    let driver = driver(&input, 1);
    let stop = driver.stop_handle();
    let run = driver.run(move |_| {
        stop.stop_gracefully(SECOND * 10);
        async {
            tokio::time::sleep(SECOND * 4).await;
            Verdicts::ACK
        }
    });
    let start = Instant::now();
    assert_eq!(run.await.unwrap(), Ending::Stopped);
    assert_eq!(start.elapsed(), SECOND * 4);
    assert_eq!(input.calls()[1..], [Call::Close(SECOND * 10), Call::Settled(0, Verdicts::ACK)]);
}

#[tokio::test(start_paused = true)]
async fn handlers_past_the_deadline_are_canceled_and_nacked() {
    let input = Arc::new(Scripted::new([Ok(1)]));
    let driver = driver(&input, 1);
    let stop = driver.stop_handle();
    let (alive, gone) = oneshot::channel::<()>();
    let alive = Mutex::new(Some(alive));
    let run = driver.run(move |_| {
        stop.stop_gracefully(SECOND * 10);
        let alive = alive.lock().unwrap().take();
        async move {
            std::future::pending::<()>().await;
            drop(alive);
            Verdicts::ACK
        }
    });
    let start = Instant::now();
    assert_eq!(run.await.unwrap(), Ending::Stopped);
    assert!(start.elapsed() < SECOND * 11);
    assert!(gone.await.is_err(), "the handler is gone");
    assert_eq!(input.calls()[1..], [Call::Close(SECOND * 10), Call::Settled(0, Verdicts::NACK)]);
}

#[tokio::test(start_paused = true)]
async fn fatal_error_lets_handlers_finish_and_closes() {
    let input = Arc::new(Scripted::new([Ok(1), Err(InputError::Fatal("access denied".into()))]));
    let run = driver(&input, 2).run(|_| async {
        tokio::time::sleep(SECOND).await;
        Verdicts::ACK
    });
    let error = run.await.unwrap_err();
    assert!(matches!(&error, DriverError::Input(InputError::Fatal(_))) && error.to_string() == "access denied");
    assert_eq!(input.calls()[1..], [Call::Close(SECOND * 20), Call::Settled(0, Verdicts::ACK)]);
}

#[tokio::test(start_paused = true)]
async fn failed_close_is_reported() {
    let input = Arc::new(Scripted { close_fails: true, ..Scripted::new([Err(InputError::EndOfInput)]) });
    let error = driver(&input, 1).run(|_| async { Verdicts::ACK }).await.unwrap_err();
    assert!(matches!(error, DriverError::Close(_)));
}

#[tokio::test(start_paused = true)]
async fn wrong_verdict_count_is_reported_and_nacks() {
    let input = Arc::new(Scripted::new([Ok(2), Err(InputError::EndOfInput)]));
    let (driver, words) = words(driver(&input, 1));
    driver.run(|_| async { Verdicts::Each(vec![Verdict::Ack]) }).await.unwrap();
    assert_eq!(*words.lock().unwrap(), ["Connected", "VerdictsRefused", "Ended", "Closing", "Closed"]);
    assert_eq!(input.calls()[1], Call::Settled(0, Verdicts::NACK));
}

#[tokio::test(start_paused = true)]
async fn panic_of_a_handler_nacks_closes_and_resumes_in_the_caller() {
    let input = Arc::new(Scripted::new([Ok(1)]));
    let run = driver(&input, 1).run(|_| async { panic!("a bug") });
    let mut caller = JoinSet::new();
    caller.spawn(run);
    assert!(caller.join_next().await.unwrap().unwrap_err().is_panic());
    assert_eq!(input.calls()[1..], [Call::Settled(0, Verdicts::NACK), Call::Close(Duration::ZERO)]);
}

#[tokio::test(start_paused = true)]
async fn dropped_run_cancels_its_handlers() {
    let input = Arc::new(Scripted::new([Ok(1)]));
    let run = driver(&input, 1).run(|_| std::future::pending());
    assert!(tokio::time::timeout(SECOND, run).await.is_err());
    tokio::task::yield_now().await;
    assert_eq!(input.calls()[1..], [Call::Settled(0, Verdicts::NACK)]);
    let only = Arc::strong_count(&input);
    assert_eq!(only, 1, "nothing of the driver is left");
}

/// The function of this name in `docs/hosting.md`, word for word.
mod shown {
    use std::num::NonZeroUsize;
    use std::sync::Arc;

    use futures::TryStreamExt;

    use crate::driver::{Driver, DriverOptions};
    use crate::{BoxError, Input, Message, Verdicts};

    pub(super) async fn consume(input: Arc<dyn Input>) -> Result<(), BoxError> {
        let options = DriverOptions { in_flight: NonZeroUsize::MIN.saturating_add(7), ..DriverOptions::default() };
        let deliveries = Driver::new(input, options).into_stream().map_err(BoxError::from);
        deliveries
            .try_for_each_concurrent(None, |delivery| async move {
                let verdicts = match write(delivery.messages()).await {
                    Ok(()) => Verdicts::ACK,
                    Err(error) => Verdicts::nack(error.to_string()),
                };
                Ok(delivery.settle(verdicts).await?)
            })
            .await
    }

    /// Takes a second, and refuses batches of two.
    async fn write(messages: &[Message]) -> Result<(), BoxError> {
        tokio::time::sleep(super::SECOND).await;
        if messages.len() == 2 { Err("disk full".into()) } else { Ok(()) }
    }
}

#[test]
fn stream_example_of_the_docs_is_the_one_that_is_tested() {
    let (_, function) = include_str!("tests.rs").split_once("pub(super) async fn consume").unwrap();
    let (function, _) = function.split_once("\n    }\n").unwrap();
    let function = format!("async fn consume{}\n}}\n", function.replace("\n    ", "\n"));
    let page = include_str!("../../../docs/hosting.md");
    assert!(page.contains(&function), "docs/hosting.md does not show:\n{function}");
}

#[tokio::test(start_paused = true)]
async fn stream_of_an_input_that_ends_settles_concurrently_and_closes_it() {
    let reads = [Ok(1), Ok(2), Ok(1), Err(InputError::EndOfInput)];
    let input = Arc::new(Scripted::new(reads));
    let start = Instant::now();
    shown::consume(Arc::clone(&input) as Arc<dyn Input>).await.unwrap();
    assert_eq!(start.elapsed(), SECOND, "all at a time, and closing waits for them");
    let settled = [Verdicts::ACK, Verdicts::nack("disk full"), Verdicts::ACK].into_iter().enumerate();
    let settled = settled.map(|(number, verdicts)| Call::Settled(number, verdicts));
    let calls = input.calls();
    assert_eq!(calls[..2], [Call::Connect, Call::Close(SECOND * 20)]);
    assert_eq!(calls[2..], settled.collect::<Vec<_>>());
}

#[tokio::test(start_paused = true)]
async fn error_ends_a_stream_once_the_input_is_closed() {
    let failing = Scripted::new([Ok(1), Err(InputError::Fatal("access denied".into()))]);
    let unclosed = Scripted { close_fails: true, ..Scripted::new([Ok(1), Err(InputError::EndOfInput)]) };
    for (input, text) in [(failing, "access denied"), (unclosed, "no disk")] {
        let input = Arc::new(input);
        let mut stream = driver(&input, 2).into_stream();
        stream.next().await.unwrap().unwrap().settle(Verdicts::ACK).await.unwrap();
        let error = stream.next().await.unwrap().unwrap_err();
        assert!(error.to_string().contains(text), "{error}");
        assert_eq!(input.calls().last(), Some(&Call::Close(SECOND * 20)));
        assert!(stream.next().await.is_none() && stream.next().await.is_none());
    }
}

#[tokio::test(start_paused = true)]
async fn stop_ends_a_stream_and_dropped_calls_take_nothing() {
    let input = Arc::new(Scripted::new([Err(back_off(SECOND * 7)), Ok(1)]));
    let driver = driver(&input, 1);
    let stop = driver.stop_handle();
    let mut stream = driver.into_stream();
    let start = Instant::now();
    for _ in 0..3 {
        assert!(tokio::time::timeout(SECOND, stream.next()).await.is_err());
    }
    let delivery = stream.next().await.unwrap().unwrap();
    assert_eq!(start.elapsed(), SECOND * 7);
    stop.stop_gracefully(SECOND * 3);
    let (ended, settled) = tokio::join!(stream.next(), delivery.settle(Verdicts::ACK));
    assert!(ended.is_none() && settled.is_ok());
    assert_eq!(input.calls()[1..], [Call::Close(SECOND * 3), Call::Settled(0, Verdicts::ACK)]);
}

#[tokio::test(start_paused = true)]
async fn dropped_stream_leaves_its_deliveries_to_be_settled_and_does_not_close() {
    let input = Arc::new(Scripted::new([Ok(1)]));
    let mut stream = driver(&input, 1).into_stream();
    let delivery = stream.next().await.unwrap().unwrap();
    drop(stream);
    delivery.settle(Verdicts::ACK).await.unwrap();
    assert_eq!(input.calls(), [Call::Connect, Call::Settled(0, Verdicts::ACK)]);
}
