//! The test bench: a stream, its writer, workers, and access to the table.

use std::collections::BTreeMap;
use std::ops::RangeInclusive;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use kinesis_input::KinesisInput;
use kinesis_simulator::kinesis::{Number, Reply, ServiceError, shard_id};
use kinesis_simulator::{Clock, InProcess, Item, Link, Settings, Simulator, Time, flag, text};
use pipeline_plugin_api::config::{Document, Environment};
use pipeline_plugin_api::registry::Registry;
use pipeline_plugin_api::{Demand, Input, InputError, Receipt, Status, Verdicts};
use serde_json::{Value, json};
use tokio::runtime::Handle;
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

pub(crate) const MINUTE: Duration = Duration::from_mins(1);
/// The default of `lease_period`.
pub(crate) const LEASE: Duration = Duration::from_secs(30);

const STREAM: &str = "orders";
const CONSUMER: &str = "scenarios";
pub(crate) const TABLE: &str = "leases";

pub(crate) fn secs(secs: u64) -> Duration {
    Duration::from_secs(secs)
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A call that was made over a link.
#[derive(Debug, Clone)]
pub(crate) struct Call {
    pub(crate) at: Time,
    operation: String,
    asked: String,
    pub(crate) said: String,
}

impl Call {
    /// Whether a call for a subscription was granted.
    pub(crate) fn is_granted(&self) -> bool {
        self.said.starts_with("SubscriptionId")
    }

    /// The input of the call, as JSON.
    pub(crate) fn asked(&self) -> Value {
        serde_json::from_str(&self.asked).unwrap_or_default()
    }
}

/// A lease that was written.
#[derive(Debug, Clone)]
pub(crate) struct Written {
    pub(crate) at: Time,
    pub(crate) by: String,
    pub(crate) shard: String,
    before: Option<Item>,
    after: Option<Item>,
}

impl Written {
    pub(crate) fn holders(&self) -> [Option<&str>; 2] {
        [&self.before, &self.after].map(|row| row.as_ref().and_then(|row| text(row, "ClientID")))
    }

    /// Whether the row stores a position.
    pub(crate) fn stores_position(&self) -> bool {
        let position = |row: &Option<Item>| {
            row.as_ref().map(|row| (text(row, "SequenceNumber").map(ToOwned::to_owned), flag(row, "Ended")))
        };
        self.after.is_some() && position(&self.before).unwrap_or_default() != position(&self.after).unwrap_or_default()
    }

    pub(crate) fn is_end(&self) -> bool {
        self.after.as_ref().is_some_and(|row| flag(row, "Ended"))
    }
}

/// The lease of a shard, as it is in the table.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Row {
    /// The stored position, whether it is a record's or not.
    pub(crate) position: Option<Number>,
    /// The last record that is stored as done; 0 before the first.
    pub(crate) stored: u64,
    pub(crate) ended: bool,
    pub(crate) holder: Option<String>,
    /// The id of the lease, which differs between two leases of one worker.
    pub(crate) lease: Option<String>,
    pub(crate) requester: Option<String>,
}

/// An account with one stream. The records that are put are numbers, so that a test can say what it expects.
pub(crate) struct Bench {
    pub(crate) simulator: Simulator,
    clock: Clock,
    lines: &'static str,
    fan_out: &'static str,
    puts: Mutex<BTreeMap<u64, Number>>,
    calls: Arc<Mutex<Vec<Call>>>,
    written: Arc<Mutex<Vec<Written>>>,
}

impl Bench {
    /// A bench with this number of shards.
    pub(crate) async fn new(shards: u32) -> Self {
        Self::with(shards, Settings::default()).await
    }

    pub(crate) async fn with(shards: u32, settings: Settings) -> Self {
        // The jitter of retries is the same in every run.
        fastrand::seed(7);
        let creation = settings.creation;
        let simulator = Simulator::new(settings).unwrap();
        let clock = Clock::tokio(Time::from_millis(1_767_225_600_000));
        let (calls, written) = (Arc::<Mutex<Vec<Call>>>::default(), Arc::<Mutex<Vec<Written>>>::default());
        let log = Arc::clone(&calls);
        simulator.log_calls(Box::new(move |at, _, operation, asked, said| {
            let (operation, asked, said) = (operation.to_owned(), asked.to_owned(), said.to_owned());
            lock(&log).push(Call { at, operation, asked, said });
        }));
        let (log, time) = (Arc::clone(&written), clock.clone());
        simulator.watch_table(Box::new(move |row| {
            let Some(item) = row.after.or(row.before).filter(|item| text(item, "StreamID") == Some(STREAM)) else {
                return;
            };
            let shard = text(item, "ShardID").unwrap_or_default().to_owned();
            let (before, after) = (row.before.cloned(), row.after.cloned());
            lock(&log).push(Written { at: time.now(), by: row.by.to_owned(), shard, before, after });
        }));
        let puts = Mutex::default();
        let bench = Self { simulator, clock, lines: "", fan_out: "", puts, calls, written };
        bench.call("CreateStream", json!({ "ShardCount": shards })).unwrap();
        sleep(creation).await;
        bench
    }

    /// Adds these lines to the configuration of the workers.
    pub(crate) fn lines(mut self, lines: &'static str) -> Self {
        self.lines = lines;
        self
    }

    /// Adds these fields to `enhanced_fan_out` of the workers.
    pub(crate) fn fan_out(mut self, fan_out: &'static str) -> Self {
        self.fan_out = fan_out;
        self
    }

    pub(crate) fn now(&self) -> Time {
        self.clock.now()
    }

    // The stream.

    /// Calls Kinesis about the stream, over a link of its own.
    pub(crate) fn call(&self, operation: &str, mut input: Value) -> Result<Value, ServiceError> {
        input["StreamName"] = json!(STREAM);
        let now = self.now();
        match self.simulator.kinesis(|kinesis| kinesis.call(operation, &input, now))? {
            Reply::Json(answer) => Ok(answer),
            other @ Reply::Subscription(_) => panic!("{other:?}"),
        }
    }

    /// Puts these numbers into a shard.
    pub(crate) fn put(&self, shard: u32, numbers: RangeInclusive<u64>) {
        self.put_large(shard, numbers, 0);
    }

    /// Puts these numbers, each in a record of this many bytes.
    pub(crate) fn put_large(&self, shard: u32, numbers: RangeInclusive<u64>, bytes: usize) {
        let listed = self.call("ListShards", json!({})).unwrap();
        let listed = listed["Shards"].as_array().unwrap().iter().find(|one| one["ShardId"] == shard_id(shard)).unwrap();
        let hash = listed["HashKeyRange"]["StartingHashKey"].clone();
        for number in numbers {
            let mut data = format!("{number}.").into_bytes();
            data.resize(data.len().max(bytes), b'.');
            let data = base64_simd::STANDARD.encode_to_string(data);
            let record = json!({ "PartitionKey": "key", "ExplicitHashKey": hash, "Data": data });
            let answer = self.call("PutRecord", record).unwrap();
            assert_eq!(answer["ShardId"], shard_id(shard));
            let placed = answer["SequenceNumber"].as_str().and_then(Number::parse).unwrap();
            lock(&self.puts).insert(number, placed);
        }
    }

    /// Splits a shard in half, and waits until the split is done.
    pub(crate) async fn split(&self, shard: u32) {
        self.call("SplitShard", json!({ "ShardToSplit": shard_id(shard) })).unwrap();
        self.resharded().await;
    }

    pub(crate) async fn merge(&self, shard: u32, with: u32) {
        let input = json!({ "ShardToMerge": shard_id(shard), "AdjacentShardToMerge": shard_id(with) });
        self.call("MergeShards", input).unwrap();
        self.resharded().await;
    }

    async fn resharded(&self) {
        sleep(self.simulator.kinesis(|kinesis| kinesis.settings().reshard)).await;
        let now = self.now();
        self.simulator.kinesis(|kinesis| kinesis.advance(now));
    }

    pub(crate) fn set_key(&self, key: kinesis_simulator::kinesis::Key) {
        self.simulator.kinesis(|kinesis| kinesis.set_key(STREAM, key)).unwrap();
    }

    /// Removes the consumer that the workers use.
    pub(crate) async fn remove_consumer(&self) {
        let settings = self.simulator.kinesis(|kinesis| kinesis.settings().clone());
        let arn = format!("arn:aws:kinesis:{}:{}:stream/{STREAM}", settings.region, settings.account);
        self.call("DeregisterStreamConsumer", json!({ "StreamARN": arn, "ConsumerName": CONSUMER })).unwrap();
        sleep(settings.deletion).await;
    }

    /// The calls for subscriptions to a shard, in order, without those that did not reach the service.
    pub(crate) fn subscribes(&self, shard: u32) -> Vec<Call> {
        let mut calls = self.calls_of("SubscribeToShard");
        calls.retain(|call| call.asked()["ShardId"] == shard_id(shard));
        calls
    }

    pub(crate) fn calls_of(&self, operation: &str) -> Vec<Call> {
        lock(&self.calls).iter().filter(|call| call.operation == operation).cloned().collect()
    }

    // The table.

    /// The lease of a shard; an empty one if nothing is stored.
    pub(crate) fn row(&self, shard: u32) -> Row {
        let key = json!({ "StreamID": { "S": STREAM }, "ShardID": { "S": shard_id(shard) } });
        let get = json!({ "TableName": TABLE, "Key": key, "ConsistentRead": true });
        let (_, answer) = self.simulator.table("GetItem", &get);
        let answer: Value = serde_json::from_str(&answer).unwrap();
        let item = &answer["Item"];
        let said = |name: &str| item[name]["S"].as_str().filter(|said| !said.is_empty()).map(ToOwned::to_owned);
        let position = said("SequenceNumber").and_then(|number| Number::parse(&number));
        let is_done = |put: &Number| put.shard() == shard && position.is_some_and(|position| *put <= position);
        let stored = lock(&self.puts).iter().rfind(|(_, put)| is_done(put)).map_or(0, |(number, _)| *number);
        let ended = item["Ended"]["BOOL"] == true;
        Row { position, stored, ended, holder: said("ClientID"), lease: said("LeaseID"), requester: said("WantedBy") }
    }

    pub(crate) fn holder(&self, shard: u32) -> Option<String> {
        self.row(shard).holder
    }

    /// Every lease that was written, in order.
    pub(crate) fn written(&self) -> Vec<Written> {
        lock(&self.written).clone()
    }

    /// When the end of a shard was stored.
    pub(crate) fn ended_at(&self, shard: u32) -> Option<Time> {
        let ends = self.written().into_iter().find(|written| written.shard == shard_id(shard) && written.is_end());
        ends.map(|written| written.at)
    }

    // Workers.

    /// A worker that is not connected yet.
    pub(crate) fn worker(&self, name: &str) -> Worker {
        self.worker_at(name, self.now())
    }

    /// A worker on another runtime, whose clock differs from the clock of this one.
    pub(crate) fn worker_at(&self, name: &str, now: Time) -> Worker {
        self.build(name, &format!("dynamodb: {{table: {TABLE}, create: true}}"), "", now)
    }

    /// A worker that assumes a role, and keeps its checkpoints in this store.
    pub(crate) fn worker_with_role(&self, name: &str, store: &str) -> Worker {
        self.build(name, store, ", role: \"arn:aws:iam::111122223333:role/reader\"", self.now())
    }

    fn build(&self, name: &str, store: &str, role: &str, now: Time) -> Worker {
        let clock = Clock::tokio(now);
        let link = Link::new(name, 7);
        let client = InProcess::new(self.simulator.clone(), link.clone(), clock.clone());
        let streams = if self.lines.contains("streams:") { "" } else { "streams: [orders]\n" };
        let yaml = format!(
            "{streams}{store}\n\
             region: eu-west-1\n\
             client_id: {name}\n\
             credentials: {{id: simulated, secret: simulated{role}}}\n\
             commit_period: 1s\n\
             enhanced_fan_out: {{enabled: true, consumer_name: {CONSUMER}, reader_threads: 0, {}}}\n{}\n",
            self.fan_out, self.lines
        );
        let plugin = KinesisInput::new().http_client(client).time_source(clock.clone());
        let mut registry = Registry::new();
        registry.register(plugin).unwrap();
        let document = Document::from_yaml("test.yaml", &yaml, &Environment::empty()).unwrap();
        let built = registry.get("aws_kinesis").unwrap().build(&document, &[]);
        let input = built.unwrap_or_else(|error| panic!("{error}\n{yaml}")).input;
        Worker { name: name.to_owned(), input, link, clock }
    }

    /// A worker that is connected.
    pub(crate) async fn connect(&self, name: &str) -> Worker {
        let worker = self.worker(name);
        worker.input.connect().await.unwrap();
        worker
    }

    /// Waits until a condition holds.
    pub(crate) async fn until(&self, what: &str, mut is: impl FnMut() -> bool) {
        let wait = async {
            while !is() {
                sleep(Duration::from_millis(50)).await;
            }
        };
        timeout(10 * MINUTE, wait).await.unwrap_or_else(|_| panic!("{what}: not after ten minutes"));
    }

    pub(crate) async fn until_held(&self, shard: u32, by: &str) {
        self.until(&format!("shard {shard} is held by {by}"), || self.holder(shard).as_deref() == Some(by)).await;
    }

    pub(crate) async fn until_stored(&self, shard: u32, number: u64) {
        self.until(&format!("{number} of shard {shard} is stored"), || self.row(shard).stored == number).await;
    }

    pub(crate) async fn until_ended(&self, shard: u32) {
        self.until(&format!("shard {shard} is ended"), || self.row(shard).ended).await;
    }

    /// Waits until two workers have one of two shards each; which shard the second has.
    pub(crate) async fn until_shared(&self, first: &str, second: &str) -> u32 {
        let mut of_second = None;
        let is_shared = || {
            let holders = [0, 1].map(|shard| self.holder(shard).unwrap_or_default());
            of_second = (0..2).find(|shard| holders[*shard] == second && holders[1 - shard] == first);
            of_second.is_some()
        };
        self.until("each has a shard", is_shared).await;
        of_second.unwrap_or_default() as u32
    }

    /// Closes these workers, and checks that nothing is left of any worker, and that no position was stored without its
    /// lease.
    pub(crate) async fn close<const N: usize>(&self, workers: [Worker; N]) {
        for input in self.close_with_some_in_flight(workers).await {
            assert_is_empty(&*input);
        }
    }

    /// The same for hosts that keep what they were given.
    pub(crate) async fn close_with_some_in_flight<const N: usize>(&self, workers: [Worker; N]) -> [Arc<dyn Input>; N] {
        let inputs = workers.each_ref().map(|worker| Arc::clone(&worker.input));
        for worker in workers {
            worker.input.close(secs(10)).await.unwrap();
        }
        // Tasks that were told to end have a moment to do so.
        sleep(Duration::from_millis(50)).await;
        assert_eq!(self.simulator.kinesis(|kinesis| kinesis.open_subscriptions()), 0, "subscriptions are open");
        assert_eq!(Handle::current().metrics().num_alive_tasks(), 0, "tasks are left");
        for shard in self.simulator.kinesis(|kinesis| kinesis.parents(STREAM)).into_keys() {
            assert_eq!(self.holder(shard), None, "the lease of shard {shard}");
        }
        for written in self.written().iter().filter(|written| written.stores_position()) {
            assert_eq!(written.holders()[0], Some(&*written.by), "{written:?}");
        }
        inputs
    }
}

/// Checks that nothing is in flight and that nothing is counted as pending.
pub(crate) fn assert_is_empty(input: &dyn Input) {
    let status = input.status();
    assert_eq!((status.pending_messages, status.pending_bytes), (0, 0), "{status:?}");
}

/// A worker: the input, and the faults that a test can cause.
pub(crate) struct Worker {
    name: String,
    pub(crate) input: Arc<dyn Input>,
    pub(crate) link: Link,
    pub(crate) clock: Clock,
}

/// A batch that was read and is not settled.
pub(crate) struct Taken {
    pub(crate) numbers: Vec<u64>,
    receipt: Receipt,
}

impl Worker {
    /// Waits for the next batch.
    pub(crate) async fn take(&self) -> Taken {
        self.take_at_most(1000).await
    }

    pub(crate) async fn take_at_most(&self, most: usize) -> Taken {
        let taken = self.read(Demand::new(most, Duration::from_hours(1))).await.unwrap();
        taken.unwrap_or_else(|| panic!("nothing came to {} for an hour", self.name))
    }

    async fn read(&self, demand: Demand) -> Result<Option<Taken>, InputError> {
        let batch = self.input.read_batch(demand).await?;
        if batch.is_empty() {
            return Ok(None);
        }
        let (messages, receipt) = batch.into_parts();
        let number = |payload: &[u8]| std::str::from_utf8(payload).unwrap().split('.').next().unwrap().parse().unwrap();
        let numbers = messages.iter().map(|message| number(message.payload())).collect();
        Ok(Some(Taken { numbers, receipt }))
    }

    /// Takes this many records, and holds on to them.
    pub(crate) async fn hold(&self, count: usize) -> Vec<Taken> {
        let mut all = Vec::new();
        let mut held = 0;
        while held < count {
            let taken = self.take().await;
            held += taken.numbers.len();
            all.push(taken);
        }
        assert_eq!(held, count);
        all
    }

    pub(crate) async fn ack(&self, taken: Taken) {
        self.input.ack(taken.receipt, Verdicts::ACK).await.unwrap();
    }

    pub(crate) async fn nack(&self, taken: Taken) {
        self.input.ack(taken.receipt, Verdicts::NACK).await.unwrap();
    }

    /// Takes and acks until this many records came, and returns them in order.
    pub(crate) async fn numbers(&self, count: usize) -> Vec<u64> {
        let mut all = Vec::new();
        while all.len() < count {
            let taken = self.take().await;
            all.extend(&taken.numbers);
            self.ack(taken).await;
        }
        all
    }

    /// Whether nothing comes for this long.
    pub(crate) async fn is_quiet(&self, time: Duration) -> bool {
        self.read(Demand::new(1000, time)).await.unwrap().is_none()
    }

    pub(crate) fn status(&self) -> Status {
        self.input.status()
    }

    pub(crate) async fn close(self) {
        self.input.close(secs(10)).await.unwrap();
        assert_is_empty(&*self.input);
    }

    /// Ends the worker as a crash does: nothing that it sends arrives any more, and then it is dropped.
    pub(crate) fn kill(self) {
        self.link.cut(true);
    }
}

/// A host that takes and acks everything from a worker, until it is dropped.
pub(crate) struct Host {
    read: Arc<Mutex<Vec<u64>>>,
    _task: JoinSet<()>,
}

impl Host {
    pub(crate) fn of(worker: &Worker) -> Self {
        let read = Arc::<Mutex<Vec<u64>>>::default();
        let mut task = JoinSet::new();
        let Worker { name, input, link, clock } = worker;
        let worker = Worker { name: name.clone(), input: Arc::clone(input), link: link.clone(), clock: clock.clone() };
        let log = Arc::clone(&read);
        task.spawn(async move {
            // The input is closed or at its end: either way nothing more comes.
            while let Ok(taken) = worker.read(Demand::new(1000, MINUTE)).await {
                if let Some(taken) = taken {
                    lock(&log).extend(&taken.numbers);
                    worker.ack(taken).await;
                }
            }
        });
        Self { read, _task: task }
    }

    /// The records so far, in order.
    pub(crate) fn read(&self) -> Vec<u64> {
        lock(&self.read).clone()
    }
}

/// The records of several hosts, sorted.
pub(crate) fn all_read(hosts: &[&Host]) -> Vec<u64> {
    let mut all: Vec<u64> = hosts.iter().flat_map(|host| host.read()).collect();
    all.sort_unstable();
    all
}
