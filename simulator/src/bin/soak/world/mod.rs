//! A run: what happens to workers, streams and networks, and when?
//!
//! ```text
//! rough weather ─▶ calm: everybody up, all that was put has to be acknowledged ─▶ all stop gracefully ─▶ one more looks: nothing comes
//! ```
//!
//! Time advances in ticks. In each tick the world acts first, and then each worker's runtime runs to the end of the
//! tick, one after the other, in an order that is drawn. A run is therefore one thread and one seed, and the same every
//! time.

mod disk;
mod events;
mod resolver;
mod second;

use std::time::Duration;

use bytes::Bytes;
use fastrand::Rng;
use kinesis_simulator::faults::{RoleCredentials, Weather};
use kinesis_simulator::{Simulator, Time};
use kinesis_testkit::aggregate::aggregate;
use serde_json::json;

use events::Later;
use second::Written;

use crate::disk::Disk;
use crate::log::Log;
use crate::oracle::{Broken, Counts, Oracle, Position, Violation};
use crate::plan::{Plan, STREAM};
use crate::worker::{Fleet, Mood, Shared, Worker};

/// The length of a tick.
const TICK: Duration = Duration::from_millis(20);
/// How long a record may wait while there are faults. No fault lasts longer than three minutes.
const STALLED: Duration = Duration::from_mins(15);
/// How long it may take without faults until everything is acknowledged.
const CALM: Duration = Duration::from_mins(10);
/// How long everything is quiet before all workers stop.
const SETTLE: Duration = Duration::from_secs(30);
/// How long a graceful stop may take.
const STOP: Duration = Duration::from_mins(2);
/// How long a worker that has stopped is stepped for its calls that have not arrived yet.
const GONE: Duration = Duration::from_secs(5);

/// The result of a run.
#[derive(Debug)]
pub(crate) struct Report {
    pub(crate) seed: u64,
    pub(crate) elapsed: Duration,
    pub(crate) counts: Counts,
    pub(crate) faults: u64,
    pub(crate) events: u64,
    pub(crate) reshards: u64,
    pub(crate) takeovers: u64,
    pub(crate) unread: u64,
    pub(crate) violations: Vec<Violation>,
    pub(crate) fingerprint: Option<u64>,
}

struct World {
    plan: Plan,
    rng: Rng,
    shared: Shared,
    start: Time,
    now: Time,
    fleet: Fleet,
    /// Workers that are stopping, beside those that replaced them.
    leaving: Vec<Worker>,
    starts: u64,
    later: Vec<(Time, Later)>,
    next_event: Time,
    /// The generator of the events of the second kind.
    second: Rng,
    next_second: Time,
    next_trigger: Time,
    /// The generator of the troubles of the disk.
    disk: Rng,
    next_disk: Time,
    /// The generator of what happens to resolvers.
    resolver: Rng,
    next_hang: Time,
    written: Written,
    /// Workers that have stopped, and when: their calls to the table may not have arrived yet.
    gone: Vec<(Time, Worker)>,
    next_put: Time,
    serial: u64,
    /// Since when at least one worker has been up.
    up_since: Time,
    rough: bool,
    faults: u64,
    events: u64,
}

/// Runs a plan.
pub(crate) fn run(mut plan: Plan, log: Log) -> Result<Report, String> {
    // Code that draws without a generator uses this one.
    fastrand::seed(plan.seed);
    let folder = tempfile::tempdir().map_err(|error| error.to_string())?;
    let disk = plan.file.then(|| Disk::new(plan.seed));
    plan.config.file = plan.file.then(|| folder.path().join("checkpoints"));
    let simulator = Simulator::new(plan.settings.clone()).map_err(|error| error.to_string())?;
    let oracle = std::sync::Arc::new(std::sync::Mutex::new(Oracle::new(plan.config.rules(plan.settings.retention))));
    let shared = Shared { simulator, oracle, log, disk, content: std::sync::Arc::default() };
    let start = Time::from_millis(1_767_225_600_000);
    let mut world = World {
        rng: Rng::with_seed(plan.seed ^ 0x0077_0071),
        shared,
        start,
        now: start,
        fleet: Fleet::new(),
        leaving: Vec::new(),
        starts: 0,
        later: Vec::new(),
        next_event: start,
        second: World::second_generator(plan.seed),
        next_second: start,
        resolver: World::resolver_generator(plan.seed),
        next_hang: start + Duration::from_secs(40),
        disk: World::disk_generator(plan.seed),
        next_disk: start + Duration::from_mins(1),
        next_trigger: start,
        written: Written::default(),
        gone: Vec::new(),
        next_put: start,
        serial: 0,
        up_since: start,
        rough: true,
        faults: 0,
        events: 0,
        plan,
    };
    world.watch();
    world.open()?;
    world.rough_weather()?;
    world.calm_weather()?;
    world.stop_all();
    world.start_last_worker()?;
    world.check_owners();
    Ok(world.report())
}

impl World {
    /// Shows the oracle and the log what is written and called.
    fn watch(&mut self) {
        let oracle = std::sync::Arc::clone(&self.shared.oracle);
        let log = self.shared.log.clone();
        let written = Written::clone(&self.written);
        self.shared.simulator.watch_table(Box::new(move |row| {
            Self::note(&written, row);
            let mut oracle = oracle.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
            oracle.row(row);
        }));
        let oracle = std::sync::Arc::clone(&self.shared.oracle);
        let takeover = self.plan.settings.takeover;
        self.shared.simulator.watch_calls(Box::new(move |call| {
            oracle.lock().unwrap_or_else(std::sync::PoisonError::into_inner).called(call, takeover);
        }));
        if log.is_on() {
            self.shared.simulator.log_calls(Box::new(move |at, by, operation, asked, said| {
                let short = |text: &str| text.chars().take(600).collect::<String>();
                log.detailed(at, by, operation, &format!("{} => {}", short(asked), short(said)));
            }));
        }
    }

    fn say(&self, what: &str) {
        self.shared.log.line(self.now, "world", what);
    }

    fn open(&mut self) -> Result<(), String> {
        self.make_stream(self.plan.shards)?;
        self.now = self.now + self.plan.settings.creation + Duration::from_secs(1);
        self.next_put = self.now;
        self.next_event = self.now + self.plan.gap;
        self.next_second = self.now + Duration::from_secs(20);
        for at in 0..self.plan.workers {
            let after = Duration::from_millis(self.rng.u64(0..20_000));
            self.later.push((self.now + after, Later::Start(at)));
        }
        Ok(())
    }

    fn make_stream(&self, shards: u32) -> Result<(), String> {
        let (mode, how) = if self.plan.auto { ("ON_DEMAND", "AUTO") } else { ("PROVISIONED", "USER_PARTITION_KEY") };
        self.call(
            "CreateStream",
            &json!({
                "StreamName": STREAM, "ShardCount": shards, "StreamModeDetails": { "StreamMode": mode },
                "RecordDistributionStrategy": how,
            }),
        )?;
        let created = self.shared.simulator.kinesis(|kinesis| kinesis.created(STREAM));
        self.shared.oracle().made(created);
        Ok(())
    }

    fn call(&self, operation: &str, input: &serde_json::Value) -> Result<serde_json::Value, String> {
        self.say(&format!("{operation} {input}"));
        let reply = self.shared.simulator.kinesis(|kinesis| kinesis.call(operation, input, self.now));
        match reply {
            Ok(kinesis_simulator::kinesis::Reply::Json(answer)) => Ok(answer),
            Ok(other) => Err(format!("{other:?}")),
            Err(error) => Err(error.to_string()),
        }
    }

    fn rough_weather(&mut self) -> Result<(), String> {
        let end = self.now + self.plan.length;
        while self.now < end {
            self.tick()?;
        }
        Ok(())
    }

    /// Ends all faults; then nothing is put any more, and all records have to be acknowledged.
    fn calm_weather(&mut self) -> Result<(), String> {
        self.rough = false;
        self.say("calm weather");
        let pending: Vec<Later> = self.later.drain(..).map(|(_, later)| later).collect();
        for later in pending {
            self.now_due(later)?;
        }
        for worker in self.fleet.values() {
            worker.link.set_weather(Weather::CALM);
            worker.link.cut(false);
            worker.link.cut_table(false);
            worker.link.hang(false);
            worker.link.slow_table(None);
            worker.link.set_credentials(RoleCredentials::Usable);
            worker.set_mood(Mood::Prompt);
            worker.set_skew(0);
        }
        for at in 0..self.plan.workers {
            if !self.fleet.contains_key(&at) {
                self.start_worker(at)?;
            }
        }
        let calm = self.now;
        let end = self.now + CALM;
        let mut settle = self.now + SETTLE;
        while self.now < end && (self.now < settle || self.unacked() > 0) {
            self.tick()?;
            // Another worker has to read again what dead workers were given and did not store.
            if self.is_held_by_stopped_worker() {
                settle = self.now + SETTLE;
            }
        }
        self.shared.oracle().finish();
        if let Some(balance_time) = self.plan.balance_time {
            self.balance(calm, balance_time)?;
        }
        Ok(())
    }

    /// Lets the workers balance the shards for good.
    fn balance(&mut self, calm: Time, balance_time: Duration) -> Result<(), String> {
        let end = calm + balance_time;
        while self.now < end {
            self.tick()?;
        }
        let alive: Vec<&str> = self.fleet.values().map(|worker| worker.name.as_str()).collect();
        self.shared.oracle().check_spread(&alive, self.now.since(calm));
        Ok(())
    }

    /// Whether a shard is held by a worker that does not run any more.
    fn is_held_by_stopped_worker(&self) -> bool {
        let alive: Vec<&str> = self.fleet.values().chain(&self.leaving).map(|worker| worker.name.as_str()).collect();
        self.shared.oracle().holders().any(|holder| !alive.contains(&holder))
    }

    fn unacked(&self) -> usize {
        self.shared.oracle().unacked()
    }

    fn stop_all(&mut self) {
        self.say("all stop");
        for worker in self.fleet.values() {
            worker.stop(self.now, &mut self.shared.oracle());
        }
        let end = self.now + STOP;
        while self.now < end && !self.fleet.values().all(Worker::has_stopped) {
            self.step_all();
        }
        // Tasks that were told to end have a moment to do so.
        for _ in 0..50 {
            self.step_all();
        }
        let mut oracle = self.shared.oracle();
        for worker in self.fleet.values().chain(&self.leaving) {
            if !worker.has_stopped() {
                oracle.violate(Broken::Stalled, format!("{} does not stop", worker.name));
            } else if worker.tasks() > 0 {
                oracle.violate(Broken::Leaked, format!("{} left {} tasks", worker.name, worker.tasks()));
            }
        }
        drop(oracle);
        for worker in self.fleet.values() {
            self.faults += worker.link.faults();
        }
        self.fleet.clear();
        self.leaving.clear();
        self.gone.clear();
        let open = self.shared.simulator.kinesis(|kinesis| kinesis.open_subscriptions());
        let mut oracle = self.shared.oracle();
        if open > 0 {
            oracle.violate(Broken::Leaked, format!("{open} subscriptions are open though all workers stopped"));
        }
        oracle.stopped();
    }

    /// Starts one more worker, which must not be given anything.
    fn start_last_worker(&mut self) -> Result<(), String> {
        if !self.shared.oracle().violations.is_empty() {
            return Ok(());
        }
        self.say("one more worker starts");
        self.start_worker(0)?;
        let end = self.now + Duration::from_mins(2);
        while self.now < end {
            self.step_all();
        }
        self.fleet.clear();
        Ok(())
    }

    /// Checks that nothing of any worker is left: each of its clients owns the world.
    fn check_owners(&self) {
        let left = self.shared.simulator.owners() - 1;
        let mut oracle = self.shared.oracle();
        if left > 0 && oracle.violations.is_empty() {
            oracle.violate(Broken::Leaked, format!("{left} parts of workers that are gone were never freed"));
        }
    }

    fn tick(&mut self) -> Result<(), String> {
        while let Some(at) = self.later.iter().position(|(due, _)| *due <= self.now) {
            let (_, later) = self.later.remove(at);
            self.now_due(later)?;
        }
        if self.rough {
            if self.now >= self.next_event {
                self.events += 1;
                self.event();
                let gap = self.plan.gap.as_millis() as u64;
                self.next_event = self.now + Duration::from_millis(self.rng.u64(gap / 4..gap * 2));
            }
            self.second_event();
            self.disk_event();
            self.resolver_event();
            self.put();
        }
        self.step_all();
        self.triggers();
        if self.fleet.is_empty() {
            self.up_since = self.now;
        }
        if self.now.since(self.start).as_millis() % 10_000 < TICK.as_millis() {
            let mut oracle = self.shared.oracle();
            // A host that takes a moment for each record has a backlog to work through, shard after shard.
            let backlog = self.plan.config.usual * oracle.unacked() as u32;
            oracle.check_stalls(STALLED + backlog, self.up_since);
            for worker in self.fleet.values().chain(&self.leaving) {
                oracle.check_heartbeat(&worker.name);
            }
        }
        Ok(())
    }

    fn step_all(&mut self) {
        let until = self.now + TICK;
        let now = self.now;
        let parents = self.shared.simulator.kinesis(|kinesis| {
            kinesis.advance(now);
            kinesis.parents(STREAM)
        });
        let has_bad_disk = self.shared.disk.as_ref().is_some_and(|disk| !disk.is_healthy());
        {
            let mut oracle = self.shared.oracle();
            oracle.advance(now);
            oracle.learn(parents);
            for worker in self.fleet.values().chain(&self.leaving).filter(|worker| !worker.is_healthy() || has_bad_disk)
            {
                oracle.note_fault(&worker.name, until);
            }
            let is_healthy = self.is_healthy() && !oracle.is_stream_missing();
            oracle.weather(is_healthy);
        }
        let mut order: Vec<&Worker> = self.fleet.values().chain(&self.leaving).collect();
        self.rng.shuffle(&mut order);
        for worker in order {
            worker.step(until);
        }
        for (_, worker) in &self.gone {
            worker.step(until);
        }
        for worker in self.fleet.values().chain(&self.leaving) {
            self.shared.read_file(&worker.name);
        }
        self.gone.retain(|(since, _)| until.since(*since) < GONE);
        let (stopped, leaving) = std::mem::take(&mut self.leaving).into_iter().partition(Worker::has_stopped);
        self.leaving = leaving;
        if self.plan.second_gap.is_some() {
            self.gone.extend(stopped.into_iter().map(|worker: Worker| (until, worker)));
        }
        self.now = until;
    }

    /// Whether there is no fault: every fault has an event that will end it.
    fn is_healthy(&self) -> bool {
        let comes_by_itself = |later: &Later| matches!(later, Later::Start(_) | Later::Skew(_) | Later::Stop(_));
        self.leaving.is_empty()
            && !self.fleet.is_empty()
            && self.later.iter().all(|(_, later)| comes_by_itself(later))
            && self.shared.disk.as_ref().is_none_or(Disk::is_healthy)
            && self.fleet.values().all(|worker| worker.is_healthy() && worker.is_prompt())
    }

    fn put(&mut self) {
        let gap = Duration::from_secs_f64(1.0 / self.plan.rate);
        while self.next_put <= self.now {
            self.next_put = self.next_put + Duration::from_millis(self.rng.u64(0..=2 * gap.as_millis() as u64).max(1));
            // Now and then many records are put at once.
            let count = if self.rng.u32(0..200) == 0 { self.rng.usize(20..200) } else { 1 };
            for _ in 0..count {
                self.serial += 1;
                let key = format!("key-{}", self.rng.u32(0..1000));
                let mut data = self.serial.to_string().into_bytes();
                data.resize(data.len().max(self.plan.record_bytes), b'.');
                let is_aggregate =
                    self.plan.aggregates_per_cent > 0 && self.rng.u32(0..100) < self.plan.aggregates_per_cent;
                // Some aggregates hold nothing.
                let user_records = is_aggregate.then(|| self.rng.u32(0..12));
                if let Some(count) = user_records {
                    let key_of = |sub: u32| if self.plan.mixes_keys { format!("key-{sub}") } else { key.clone() };
                    data = aggregate((0..count).map(|sub| (key_of(sub), &data)));
                }
                let (now, data) = (self.now, Bytes::from(data));
                let key = (!self.plan.auto || self.rng.bool()).then_some(key.as_str());
                let put = self.shared.simulator.kinesis(|kinesis| kinesis.put(STREAM, key, data, now));
                // If the put is refused, because the shard or its key is over its limits, the record does not exist.
                if let Ok((shard, number)) = put {
                    let mut oracle = self.shared.oracle();
                    match user_records {
                        None => oracle.put(shard, Position::whole(number), number.time()),
                        Some(count) => {
                            for sub in 0..count {
                                oracle.put(shard, Position::within(number, sub), number.time());
                            }
                        }
                    }
                }
            }
        }
    }

    fn start_worker(&mut self, at: usize) -> Result<(), String> {
        self.starts += 1;
        let name = if self.plan.config.stable_names { format!("w{at}") } else { format!("w{at}-{}", self.starts) };
        let seed = self.rng.u64(..);
        let lease = self.plan.config.lease_of(at);
        let (config, settings) = (self.plan.config.of(at), &self.plan.settings);
        self.shared.oracle().started(&name, lease, config.limits());
        let worker = Worker::start(at, name, &config, lease, settings, seed, self.now, &self.shared)?;
        if self.rough {
            worker.link.set_weather(self.plan.climate);
        }
        self.fleet.insert(at, worker);
        Ok(())
    }

    fn report(self) -> Report {
        let counters = self.shared.simulator.kinesis(|kinesis| kinesis.counters());
        let oracle = self.shared.oracle();
        for violation in &oracle.violations {
            self.shared.log.line(violation.at, "oracle", &format!("{:?}: {}", violation.broken, violation.what));
        }
        Report {
            seed: self.plan.seed,
            elapsed: self.now.since(self.start),
            counts: oracle.counts,
            faults: self.faults,
            events: self.events,
            reshards: counters.reshards,
            takeovers: counters.takeovers,
            unread: counters.unread,
            violations: oracle.violations.clone(),
            fingerprint: self.shared.log.fingerprint(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A run of some minutes, and the hash of its log.
    fn fingerprint(seed: u64) -> (Option<u64>, Vec<Violation>) {
        let folder = tempfile::tempdir().unwrap();
        let log = Log::to(&folder.path().join("log")).unwrap();
        let report = run(Plan::draw(seed, Duration::from_mins(3)), log).unwrap();
        (report.fingerprint, report.violations)
    }

    #[test]
    fn seed_is_the_same_run_every_time() {
        for seed in [7, 12] {
            let (first, violations) = fingerprint(seed);
            assert!(violations.is_empty(), "{violations:?}");
            assert_eq!(fingerprint(seed).0, first, "seed {seed}");
        }
        assert_ne!(fingerprint(7).0, fingerprint(12).0);
    }
}
