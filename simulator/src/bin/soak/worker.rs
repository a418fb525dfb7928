//! A worker: the whole plugin and a host, on a runtime and a clock of its own.
//!
//! Its runtime only runs while it is stepped. A worker that is not stepped is a paused process; one whose runtime is
//! dropped was killed.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use kinesis_input::KinesisInput;
use kinesis_simulator::faults::{PANIC, RoleCredentials};
use kinesis_simulator::{Clock, InProcess, Link, Settings, Simulator, Time};
use pipeline_plugin_api::config::{Document, Environment};
use pipeline_plugin_api::registry::Registry;
use pipeline_plugin_api::{Batch, Demand, Input, InputError, Receipt, Verdict, Verdicts};
use tokio::runtime::{Builder, Runtime};
use tokio::task::JoinSet;
use tokio::time::{advance, sleep};

use crate::disk::{Content, Disk};
use crate::log::Log;
use crate::oracle::{Broken, Oracle};
use crate::plan::{Batches, Config};
use crate::signal::Signal;

/// The most time that a healthy worker takes to deliver what it has gathered, to a host that acknowledges at once: more
/// than the longest rest of a record that was nacked often.
const DRAIN: Duration = Duration::from_secs(5);
/// The most bytes of data in an event.
const LARGEST_EVENT: u64 = 1 << 20;

/// How a host treats its deliveries.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Mood {
    /// Acknowledges at once, or as fast as it usually does.
    Prompt,
    /// Takes some time, and holds several batches meanwhile.
    Slow(Duration),
    /// Nacks this many messages in a hundred.
    Refusing(u32),
    /// Loses this many receipts in a hundred.
    Losing(u32),
    /// Settles nothing, and in the end takes nothing.
    Blocked,
    /// Keeps its first batch, and acknowledges all others at once.
    Holding,
}

/// The parts of the world that everything shares.
#[derive(Debug, Clone)]
pub(crate) struct Shared {
    pub(crate) simulator: Simulator,
    pub(crate) oracle: Arc<Mutex<Oracle>>,
    pub(crate) log: Log,
    /// The disk of the checkpoint file, if the worker has one.
    pub(crate) disk: Option<Disk>,
    /// What the file last said.
    pub(crate) content: Arc<Mutex<Content>>,
}

impl Shared {
    pub(crate) fn oracle(&self) -> MutexGuard<'_, Oracle> {
        self.oracle.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Shows the oracle what a worker has stored in its file.
    pub(crate) fn read_file(&self, worker: &str) {
        let Some(disk) = &self.disk else { return };
        let mut content = self.content.lock().unwrap_or_else(PoisonError::into_inner);
        match disk.read() {
            Ok(None) => {}
            Ok(Some(now)) => {
                self.oracle().file(worker, &content.rows, &now.rows, &now.pins);
                *content = now;
            }
            Err(error) => self.oracle().violate(Broken::Lost, error),
        }
    }
}

/// The state of a host.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    Running,
    /// The host has been told to stop gracefully.
    Stopping,
    Stopped,
}

/// A worker, running or paused.
#[derive(Debug)]
pub(crate) struct Worker {
    pub(crate) name: String,
    pub(crate) link: Link,
    runtime: Runtime,
    clock: Clock,
    mood: Signal<Mood>,
    stage: Signal<Stage>,
    /// Since when the worker is paused.
    paused: Option<Time>,
}

impl Worker {
    /// Starts the worker that has the number `at` in the fleet.
    #[expect(clippy::too_many_arguments, reason = "each is something else")]
    pub(crate) fn start(
        at: usize,
        name: String,
        config: &Config,
        lease: Duration,
        settings: &Settings,
        seed: u64,
        now: Time,
        shared: &Shared,
    ) -> Result<Self, String> {
        let runtime =
            Builder::new_current_thread().enable_time().start_paused(true).build().map_err(|e| e.to_string())?;
        let clock = runtime.block_on(async { Clock::tokio(now) });
        let link = Link::new(&name, seed);
        let (mood, stage) = (Signal::new(Mood::Prompt), Signal::new(Stage::Running));
        let mut plugin = KinesisInput::new()
            .http_client(InProcess::new(shared.simulator.clone(), link.clone(), clock.clone()))
            .time_source(clock.clone());
        if let Some(disk) = shared.disk.clone() {
            plugin = plugin.simulated_disk(move |path, create| disk.open(path, create));
        }
        let host = Host {
            name: name.clone(),
            yaml: config.yaml(at, &name, lease, settings),
            plugin,
            clock: clock.clone(),
            shared: shared.clone(),
            mood: mood.clone(),
            stage: stage.clone(),
            in_flight: Arc::default(),
            most: (config.max_records, config.max_bytes),
            rng: fastrand::Rng::with_seed(seed ^ 0x05e1),
            impatient: config.impatient,
            closes_first: config.closes_first,
            drains: config.drains,
            usual: config.usual,
            batches: config.batches(),
            link: link.clone(),
            holds_one: false,
        };
        runtime.spawn(host.run());
        shared.log.line(now, &name, "starts");
        Ok(Self { name, link, runtime, clock, mood, stage, paused: None })
    }

    pub(crate) fn set_mood(&self, mood: Mood) {
        self.mood.set(mood);
    }

    pub(crate) fn set_skew(&self, millis: i64) {
        self.clock.set_skew(millis);
    }

    pub(crate) fn is_paused(&self) -> bool {
        self.paused.is_some()
    }

    pub(crate) fn pause(&mut self, now: Time) {
        self.paused.get_or_insert(now);
    }

    /// Continues after a pause, in which the clock of the worker continued.
    pub(crate) fn resume(&mut self, now: Time) {
        if let Some(since) = self.paused.take() {
            self.runtime.block_on(advance(now.since(since)));
        }
    }

    /// Stops gracefully: takes nothing more, settles what is in flight, and closes.
    pub(crate) fn stop(&self, now: Time, oracle: &mut Oracle) {
        if self.stage.get() == Stage::Running {
            oracle.stopping(&self.name, now);
            self.stage.set(Stage::Stopping);
        }
    }

    pub(crate) fn has_stopped(&self) -> bool {
        self.stage.get() == Stage::Stopped
    }

    /// Runs until this time, unless the worker is paused.
    pub(crate) fn step(&self, until: Time) {
        if self.paused.is_none() {
            // Only on its runtime is the clock that of the runtime.
            self.runtime.block_on(async { sleep(until.since(self.clock.now())).await });
        }
    }

    /// Whether the worker runs and reaches the services.
    pub(crate) fn is_healthy(&self) -> bool {
        self.paused.is_none() && self.link.is_healthy()
    }

    /// Whether the host acknowledges everything as fast as it can.
    pub(crate) fn is_prompt(&self) -> bool {
        self.mood.get() == Mood::Prompt
    }

    /// The number of live tasks.
    pub(crate) fn tasks(&self) -> usize {
        self.runtime.metrics().num_alive_tasks()
    }
}

/// What is in flight: messages and bytes.
type InFlight = Arc<Mutex<(u64, u64)>>;

#[expect(clippy::struct_excessive_bools, reason = "each is drawn for itself")]
struct Host {
    name: String,
    yaml: String,
    plugin: KinesisInput,
    clock: Clock,
    shared: Shared,
    mood: Signal<Mood>,
    stage: Signal<Stage>,
    in_flight: InFlight,
    most: (u64, u64),
    rng: fastrand::Rng,
    /// Whether the host cancels reads.
    impatient: bool,
    closes_first: bool,
    drains: bool,
    usual: Duration,
    batches: Batches,
    link: Link,
    holds_one: bool,
}

/// A message, as the oracle knows it.
#[derive(Debug, Clone)]
struct Seen {
    shard: String,
    number: String,
    /// The claim that it came under.
    claim: u64,
}

/// A batch that is not settled yet.
struct Held {
    receipt: Receipt,
    seen: Vec<Seen>,
    bytes: u64,
}

impl Host {
    async fn run(mut self) {
        loop {
            let input = match self.build() {
                Ok(input) => input,
                Err(error) => return self.fail(&error),
            };
            let Some(reason) = self.host(&input).await else {
                self.shared.log.line(self.clock.now(), &self.name, "has stopped");
                self.stage.set(Stage::Stopped);
                return;
            };
            // The program is started again, as an operator would do.
            self.fail(&reason);
            drop(input);
            // Nothing of the new input is in flight.
            self.in_flight = Arc::default();
            sleep(Duration::from_secs(10)).await;
        }
    }

    fn build(&self) -> Result<Arc<dyn Input>, String> {
        let mut registry = Registry::new();
        registry.register(self.plugin.clone()).map_err(|error| error.to_string())?;
        let document =
            Document::from_yaml("soak.yaml", &self.yaml, &Environment::empty()).map_err(|error| error.to_string())?;
        let plugin = registry.get("aws_kinesis").ok_or("no such plugin")?;
        plugin.build(&document, &[]).map(|built| built.input).map_err(|error| error.to_string())
    }

    fn fail(&self, reason: &str) {
        let mut oracle = self.shared.oracle();
        oracle.advance(self.clock.now());
        oracle.failed(&self.name);
        // A program that is started while there is no stream, with credentials that can't be used or on a disk that is
        // read-only, fails with that reason. And an input in which a task panics that can't be restarted fails, rather than
        // look healthy and do nothing.
        let is_read_only = self.shared.disk.as_ref().is_some_and(Disk::is_read_only);
        if reason.contains(PANIC)
            || is_read_only
            || oracle.is_stream_missing_to(&self.name)
            || self.link.credentials() == RoleCredentials::Garbled
        {
            self.shared.log.line(self.clock.now(), &self.name, &format!("fails: {reason}"));
            return;
        }
        oracle.violate(Broken::Failed, format!("{}: {reason}", self.name));
    }

    /// Reads until the host is told to stop. Returns a reason if the input failed by itself.
    async fn host(&mut self, input: &Arc<dyn Input>) -> Option<String> {
        let mut settling = JoinSet::new();
        let mut connected = false;
        loop {
            while settling.try_join_next().is_some() {}
            if self.stage.get() != Stage::Running {
                break;
            }
            let mood = self.mood.get();
            let most = match mood {
                Mood::Prompt if self.usual.is_zero() => 1,
                Mood::Prompt => 4,
                Mood::Slow(_) | Mood::Refusing(_) | Mood::Losing(_) => 8,
                Mood::Blocked | Mood::Holding => 64,
            };
            if settling.len() >= most {
                tokio::select! {
                    biased;
                    _ = settling.join_next() => {}
                    () = self.mood.is_not(mood) => {}
                    () = self.stage.is_not(Stage::Running) => {}
                }
                continue;
            }
            let (stage, impatient) = (self.stage.clone(), self.impatient);
            let began = self.clock.now();
            let step = async {
                if connected {
                    let demand = self.demand();
                    if impatient {
                        // The slower call is canceled, wherever it is.
                        let wait = Duration::from_millis(self.rng.u64(0..3000));
                        tokio::select! {
                            biased;
                            one = input.read_batch(demand) => one.map(Some),
                            other = input.read_batch(demand) => other.map(Some),
                            () = sleep(wait) => Ok(Some(Batch::empty())),
                        }
                    } else {
                        input.read_batch(demand).await.map(Some)
                    }
                } else {
                    input.connect().await.map(|()| None)
                }
            };
            let step = tokio::select! {
                biased;
                () = stage.is_not(Stage::Running) => break,
                step = step => step,
            };
            if connected && step.is_ok() {
                self.shared.oracle().read_ended(self.clock.now(), &self.name, began);
            }
            match step {
                Ok(None) => {
                    connected = true;
                    self.shared.log.line(self.clock.now(), &self.name, "is connected");
                }
                Ok(Some(batch)) if batch.is_empty() => {}
                Ok(Some(batch)) => {
                    let held = self.take(batch, input);
                    settling.spawn(self.settle(held, mood, Arc::clone(input)));
                }
                Err(InputError::NotConnected(_)) => connected = false,
                Err(InputError::BackOff { after, cause }) => {
                    self.shared.log.line(self.clock.now(), &self.name, &format!("backs off: {cause}"));
                    sleep(after).await;
                }
                Err(error) => return Some(error.to_string()),
            }
        }
        if self.drains && connected && input.drain() {
            self.drain(input, &mut settling).await;
        }
        let settle = async { while settling.join_next().await.is_some() {} };
        let close = if self.closes_first {
            let (close, ()) = tokio::join!(self.close(input, connected), settle);
            close
        } else {
            settle.await;
            self.close(input, connected).await
        };
        if let Err(error) = close {
            self.shared.log.line(self.clock.now(), &self.name, &format!("could not store all: {error}"));
        }
        let status = input.status();
        let (messages, bytes) = (status.pending_messages, status.pending_bytes);
        if messages > 0 || bytes > 0 {
            let mut oracle = self.shared.oracle();
            let what = format!("{}: {messages} messages and {bytes} bytes are pending after close", self.name);
            oracle.violate(Broken::Leaked, what);
        }
        None
    }

    fn demand(&mut self) -> Demand {
        let most = self.rng.usize(1..=self.batches.max_messages);
        let mut demand = Demand::new(most, Duration::from_millis(self.rng.u64(0..2000)));
        demand.max_bytes = self.batches.max_bytes;
        demand
    }

    /// Reads what is left of an input that reads nothing more.
    async fn drain(&mut self, input: &Arc<dyn Input>, settling: &mut JoinSet<()>) {
        self.shared.log.line(self.clock.now(), &self.name, "takes what was gathered");
        let began = self.clock.now();
        loop {
            while settling.try_join_next().is_some() {}
            match input.read_batch(self.demand()).await {
                Ok(batch) if batch.is_empty() => {}
                Ok(batch) => {
                    let held = self.take(batch, input);
                    settling.spawn(self.settle(held, Mood::Prompt, Arc::clone(input)));
                }
                Err(InputError::BackOff { after, .. }) => sleep(after).await,
                Err(_) => break,
            }
            let now = self.clock.now();
            if now.since(began) > DRAIN && self.shared.oracle().drain_hangs(&self.name, now, began) {
                break;
            }
        }
    }

    /// Closes the input. One that has not connected since it was built knows nothing of what an input before it has
    /// left.
    async fn close(&self, input: &Arc<dyn Input>, connected: bool) -> Result<(), InputError> {
        let close = input.close(Duration::from_secs(30)).await;
        let now = self.clock.now();
        self.shared.read_file(&self.name);
        if close.is_ok() && connected && self.stage.get() == Stage::Stopping {
            self.shared.oracle().has_stopped(&self.name, now);
        }
        close
    }

    fn take(&self, batch: Batch, input: &Arc<dyn Input>) -> Held {
        let now = self.clock.now();
        let (messages, receipt) = batch.into_parts();
        let text = |message: &pipeline_plugin_api::Message, key: &str| {
            message.get(key).map(|value| value.to_text().into_owned()).unwrap_or_default()
        };
        self.shared.read_file(&self.name);
        let mut oracle = self.shared.oracle();
        let mut seen = Vec::with_capacity(messages.len());
        let mut bytes = 0;
        for message in &messages {
            let (shard, mut number) = (text(message, "kinesis_shard"), text(message, "kinesis_sequence_number"));
            if message.get("kinesis_sub_sequence_number").is_some() {
                number = format!("{number}/{}", text(message, "kinesis_sub_sequence_number"));
            }
            let claim = oracle.delivered(now, &self.name, &shard, &number);
            let one = Seen { shard, number, claim };
            bytes += message.payload().len() as u64;
            seen.push(one);
        }
        for run in seen.chunk_by(|one: &Seen, next| one.shard == next.shard) {
            let (first, last) = (&run[0], &run[run.len() - 1]);
            self.shared.log.line(
                now,
                &self.name,
                &format!("is given {} of {}: {} to {}", run.len(), first.shard, first.number, last.number),
            );
        }
        self.check_demand(&mut oracle, &messages, bytes);
        let in_flight = {
            let mut in_flight = self.in_flight.lock().unwrap_or_else(PoisonError::into_inner);
            in_flight.0 += seen.len() as u64;
            in_flight.1 += bytes;
            *in_flight
        };
        let status = input.status();
        let (pending, held) = (status.pending_messages, status.pending_bytes);
        // An event that is larger than the pool is admitted alone.
        if in_flight.0.max(pending) > self.most.0 || in_flight.1 > self.most.1.max(LARGEST_EVENT) {
            oracle.violate(
                Broken::OverBound,
                format!("{}: {in_flight:?} in flight, and {pending} pending, of {:?}", self.name, self.most),
            );
        }
        // What is in flight is held, and the input says so.
        if in_flight.1 > held || in_flight.0 > pending {
            oracle.violate(
                Broken::OverBound,
                format!(
                    "{}: {in_flight:?} in flight, and the input counts {pending} messages and {held} bytes",
                    self.name
                ),
            );
        }
        Held { receipt, seen, bytes }
    }

    /// A batch is no larger than what the host asks for at most.
    fn check_demand(&self, oracle: &mut Oracle, messages: &[pipeline_plugin_api::Message], bytes: u64) {
        let Batches { max_messages, max_bytes, .. } = self.batches;
        let too_large = max_bytes.is_some_and(|most| bytes > most && messages.len() > 1);
        if messages.len() > max_messages || too_large {
            let what = format!("{} was given {} messages of {bytes} bytes at once", self.name, messages.len());
            oracle.violate(Broken::OverBound, what);
        }
    }

    /// Settles a batch, as the mood of the host says.
    fn settle(&mut self, held: Held, mood: Mood, input: Arc<dyn Input>) -> impl Future<Output = ()> + Send + 'static {
        let verdicts = self.verdicts(&held, mood);
        // The first of several moods.
        let mood = match mood {
            Mood::Holding if self.holds_one => Mood::Prompt,
            other => other,
        };
        self.holds_one = self.mood.get() == Mood::Holding;
        let wait = match mood {
            Mood::Slow(longest) => Duration::from_millis(self.rng.u64(0..longest.as_millis().max(1) as u64)),
            Mood::Refusing(_) | Mood::Losing(_) => Duration::from_millis(self.rng.u64(0..500)),
            Mood::Prompt if !self.usual.is_zero() => {
                Duration::from_millis(self.rng.u64(0..self.usual.as_millis() as u64))
            }
            Mood::Prompt | Mood::Blocked | Mood::Holding => Duration::ZERO,
        };
        // A host that closes first acknowledges the rest while the close waits for that.
        let hurries = self.closes_first.then(|| {
            let longest = if self.rng.u32(0..3) == 0 { 25_000 } else { 5_000 };
            Duration::from_millis(self.rng.u64(0..longest))
        });
        let (moods, stage) = (self.mood.clone(), self.stage.clone());
        let (shared, clock, name, in_flight) =
            (self.shared.clone(), self.clock.clone(), self.name.clone(), Arc::clone(&self.in_flight));
        async move {
            match hurries {
                None => sleep(wait).await,
                Some(hurries) => tokio::select! {
                    biased;
                    () = sleep(wait) => {}
                    () = async { stage.is_not(Stage::Running).await; sleep(hurries).await } => {}
                },
            }
            if matches!(mood, Mood::Blocked | Mood::Holding) {
                tokio::select! {
                    biased;
                    () = moods.is_not(mood) => {}
                    () = async { stage.is_not(Stage::Running).await; sleep(hurries.unwrap_or_default()).await } => {}
                }
            }
            let Held { receipt, seen, bytes } = held;
            let count = seen.len() as u64;
            let now = clock.now();
            match verdicts {
                None => {
                    for one in &seen {
                        shared.oracle().nacked(now, &one.shard, &one.number, one.claim);
                    }
                    drop(receipt);
                }
                Some(verdicts) => {
                    let acked = seen.iter().enumerate().filter(|(at, _)| is_ack(&verdicts, *at));
                    acked.for_each(|(_, one)| {
                        shared.oracle().acked(now, &name, &one.shard, &one.number, one.claim);
                        shared.log.line(now, &name, &format!("acknowledges {} of {}", one.number, one.shard));
                    });
                    let nacked = seen.iter().enumerate().filter(|(at, _)| !is_ack(&verdicts, *at));
                    nacked.for_each(|(_, one)| shared.oracle().nacked(now, &one.shard, &one.number, one.claim));
                    // There are as many verdicts as messages.
                    let _ = input.ack(receipt, verdicts).await;
                }
            }
            let mut in_flight = in_flight.lock().unwrap_or_else(PoisonError::into_inner);
            in_flight.0 -= count;
            in_flight.1 -= bytes;
        }
    }

    /// The verdicts; `None` if the receipt is lost.
    fn verdicts(&mut self, held: &Held, mood: Mood) -> Option<Verdicts> {
        match mood {
            Mood::Refusing(of_hundred) => {
                let each = held
                    .seen
                    .iter()
                    .map(|_| if self.rng.u32(0..100) < of_hundred { Verdict::NACK } else { Verdict::Ack });
                Some(Verdicts::Each(each.collect()))
            }
            Mood::Losing(of_hundred) if self.rng.u32(0..100) < of_hundred => None,
            _ => Some(Verdicts::ACK),
        }
    }
}

fn is_ack(verdicts: &Verdicts, at: usize) -> bool {
    match verdicts {
        Verdicts::All(verdict) => verdict.is_ack(),
        Verdicts::Each(each) => each[at].is_ack(),
    }
}

/// The workers, by their index in the fleet.
pub(crate) type Fleet = BTreeMap<usize, Worker>;
