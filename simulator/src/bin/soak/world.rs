//! A run: what happens to workers, streams and networks, and when.
//!
//! ```text
//! rough weather ─▶ calm: everybody up, all that was put has to be acknowledged ─▶ all stop softly ─▶ one more looks: nothing comes
//! ```
//!
//! Time goes in ticks. In each the world acts first, and then each worker's runtime runs up to its end, one after the other, in an
//! order that is drawn. So a run is one thread and one seed, and the same every time.

use std::time::Duration;

use bytes::Bytes;
use fastrand::Rng;
use kinesis_simulator::faults::{RoleCredentials, Weather};
use kinesis_simulator::kinesis::{Key, shard_id};
use kinesis_simulator::{Simulator, Time};
use serde_json::json;

use crate::log::Log;
use crate::oracle::{Broken, Counts, Oracle, Violation};
use crate::plan::{CONSUMER, Plan, STREAM};
use crate::worker::{Fleet, Mood, Shared, Worker};

/// How far everybody goes at a time.
const TICK: Duration = Duration::from_millis(20);
/// How long a record may wait in rough weather. Nothing that goes wrong lasts longer than three minutes.
const STALLED: Duration = Duration::from_mins(15);
/// How long it may take in calm weather until everything is acknowledged.
const CALM: Duration = Duration::from_mins(10);
/// How long everything is quiet before all stop.
const SETTLE: Duration = Duration::from_secs(30);
/// How long a soft stop may take.
const STOP: Duration = Duration::from_mins(2);

/// What came of a run.
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

/// Something that will be over, or will come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Later {
    Start(usize),
    Resume(usize),
    Heal(usize),
    HealTable,
    Calm(usize),
    Cheer(usize),
    Key,
    Consumer,
    Skew(usize),
    Stream,
    Credentials(usize),
    Table,
}

struct World {
    plan: Plan,
    rng: Rng,
    shared: Shared,
    start: Time,
    now: Time,
    fleet: Fleet,
    /// Workers that are stopping, beside those that took their place.
    leaving: Vec<Worker>,
    starts: u64,
    later: Vec<(Time, Later)>,
    next_event: Time,
    next_put: Time,
    serial: u64,
    /// Since when somebody has been there.
    up_since: Time,
    rough: bool,
    faults: u64,
    events: u64,
}

/// Runs a plan.
pub(crate) fn run(plan: Plan, log: Log) -> Result<Report, String> {
    // Whatever is drawn without saying from where, is drawn from here.
    fastrand::seed(plan.seed);
    let simulator = Simulator::new(plan.settings.clone()).map_err(|error| error.to_string())?;
    let oracle = std::sync::Arc::new(std::sync::Mutex::new(Oracle::new(
        plan.config.oldest,
        plan.config.lease,
        plan.settings.retention,
        plan.config.rules(),
    )));
    let shared = Shared { simulator, oracle, log };
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
    world.look_again()?;
    Ok(world.report())
}

impl World {
    /// Has the oracle and the log see what is written and asked.
    fn watch(&mut self) {
        let oracle = std::sync::Arc::clone(&self.shared.oracle);
        let log = self.shared.log.clone();
        self.shared.simulator.watch_table(Box::new(move |row| {
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

    /// Everything is well again; then nothing is put any more, and all that was has to be acknowledged.
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
            worker.link.set_credentials(RoleCredentials::Usable);
            worker.set_mood(Mood::Prompt);
            worker.set_skew(0);
        }
        for at in 0..self.plan.workers {
            if !self.fleet.contains_key(&at) {
                self.start_worker(at)?;
            }
        }
        let end = self.now + CALM;
        let mut settle = self.now + SETTLE;
        while self.now < end && (self.now < settle || self.unacked() > 0) {
            self.tick()?;
            // What they were given and did not store, somebody else has to read again.
            if self.is_held_by_the_dead() {
                settle = self.now + SETTLE;
            }
        }
        self.shared.oracle().finish();
        Ok(())
    }

    /// Whether somebody holds a shard who is not there any more.
    fn is_held_by_the_dead(&self) -> bool {
        let alive: Vec<&str> = self.fleet.values().chain(&self.leaving).map(|worker| worker.name.as_str()).collect();
        self.shared.oracle().holders().any(|holder| !alive.contains(&holder))
    }

    fn unacked(&self) -> usize {
        self.shared.oracle().unacked()
    }

    fn stop_all(&mut self) {
        self.say("all stop");
        for worker in self.fleet.values() {
            worker.stop();
        }
        let end = self.now + STOP;
        while self.now < end && !self.fleet.values().all(Worker::has_stopped) {
            self.step_all();
        }
        // What was told to end has a moment to do so.
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
        let open = self.shared.simulator.kinesis(|kinesis| kinesis.open_subscriptions());
        let mut oracle = self.shared.oracle();
        if open > 0 {
            oracle.violate(Broken::Leaked, format!("{open} subscriptions are open though everybody stopped"));
        }
        oracle.stopped();
    }

    /// One more worker, which has to find nothing.
    fn look_again(&mut self) -> Result<(), String> {
        if !self.shared.oracle().violations.is_empty() {
            return Ok(());
        }
        self.say("one more looks");
        self.start_worker(0)?;
        let end = self.now + Duration::from_mins(2);
        while self.now < end {
            self.step_all();
        }
        self.fleet.clear();
        Ok(())
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
            self.put();
        }
        self.step_all();
        if self.fleet.is_empty() {
            self.up_since = self.now;
        }
        if self.now.since(self.start).as_millis() % 10_000 < TICK.as_millis() {
            let mut oracle = self.shared.oracle();
            oracle.check_stalls(STALLED, self.up_since);
            for worker in self.fleet.values() {
                oracle.check_beat(&worker.name, worker.well_for(self.now));
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
        {
            let mut oracle = self.shared.oracle();
            oracle.advance(now);
            oracle.learn(parents);
        }
        let mut order: Vec<&Worker> = self.fleet.values().chain(&self.leaving).collect();
        self.rng.shuffle(&mut order);
        for worker in order {
            worker.step(until);
        }
        self.leaving.retain(|worker| !worker.has_stopped());
        self.now = until;
    }

    fn put(&mut self) {
        let gap = Duration::from_secs_f64(1.0 / self.plan.rate);
        while self.next_put <= self.now {
            self.next_put = self.next_put + Duration::from_millis(self.rng.u64(0..=2 * gap.as_millis() as u64).max(1));
            // Now and then many at once.
            let count = if self.rng.u32(0..200) == 0 { self.rng.usize(20..200) } else { 1 };
            for _ in 0..count {
                self.serial += 1;
                let key = format!("key-{}", self.rng.u32(0..1000));
                let mut data = self.serial.to_string().into_bytes();
                data.resize(data.len().max(self.plan.record_bytes), b'.');
                let (now, data) = (self.now, Bytes::from(data));
                let key = (!self.plan.auto || self.rng.bool()).then_some(key.as_str());
                let put = self.shared.simulator.kinesis(|kinesis| kinesis.put(STREAM, key, data, now));
                // Refused, for the shard or its key is over its limits: then it isn't there.
                if let Ok((shard, number)) = put {
                    self.shared.oracle().put(shard, number, number.time());
                }
            }
        }
    }

    fn start_worker(&mut self, at: usize) -> Result<(), String> {
        self.starts += 1;
        let name = if self.plan.config.stable_names { format!("w{at}") } else { format!("w{at}-{}", self.starts) };
        let seed = self.rng.u64(..);
        self.shared.oracle().started(&name);
        let worker = Worker::start(name, &self.plan.config, &self.plan.settings, seed, self.now, &self.shared)?;
        if self.rough {
            worker.link.set_weather(self.plan.climate);
        }
        self.fleet.insert(at, worker);
        Ok(())
    }

    /// A worker that is up and goes.
    fn some_worker(&mut self) -> Option<usize> {
        let up: Vec<usize> = self.fleet.iter().filter(|(_, worker)| !worker.is_paused()).map(|(at, _)| *at).collect();
        if up.is_empty() { None } else { Some(up[self.rng.usize(0..up.len())]) }
    }

    fn seconds(&mut self, longest: u64) -> Time {
        self.now + Duration::from_millis(self.rng.u64(200..longest * 1000))
    }

    /// Something happens, to a worker or to the world.
    fn event(&mut self) {
        let kind = self.rng.u32(0..44);
        match (kind, self.some_worker()) {
            (32.., _) | (_, None) => self.event_of_the_world(kind),
            (_, Some(at)) => self.event_of(at, kind),
        }
    }

    fn event_of(&mut self, at: usize, kind: u32) {
        let name = self.fleet[&at].name.clone();
        match kind / 2 {
            0 | 1 => {
                self.say(&format!("{name} is killed"));
                if let Some(worker) = self.fleet.remove(&at) {
                    self.faults += worker.link.faults();
                }
                let again = self.seconds(90);
                self.later.push((again, Later::Start(at)));
            }
            2 | 3 => {
                let until = self.seconds(120);
                self.say(&format!("{name} stands still"));
                let now = self.now;
                if let Some(worker) = self.fleet.get_mut(&at) {
                    worker.pause(now);
                }
                self.later.push((until, Later::Resume(at)));
            }
            4 | 5 => {
                self.say(&format!("{name} is stopped softly"));
                if let Some(worker) = self.fleet.remove(&at) {
                    self.faults += worker.link.faults();
                    worker.stop();
                    self.leaving.push(worker);
                }
                // The same name must not be there twice.
                let again = self.now + Duration::from_secs(self.rng.u64(60..120));
                self.later.push((again, Later::Start(at)));
            }
            6..=8 => {
                let until = self.seconds(60);
                self.say(&format!("{name} is cut off"));
                self.fleet[&at].link.cut(true);
                self.later.push((until, Later::Heal(at)));
            }
            9 => {
                let until = self.seconds(60);
                self.say(&format!("{name} is in a storm"));
                let storm = Weather { calls_per_mille: 300, streams_per_mille: 800, ..Weather::CALM };
                self.fleet[&at].link.set_weather(storm);
                self.later.push((until, Later::Calm(at)));
            }
            10..=13 => {
                let mood = match self.rng.u32(0..5) {
                    0 => Mood::Slow(Duration::from_millis(self.rng.u64(100..40_000))),
                    1 => Mood::Refusing(self.rng.u32(1..60)),
                    2 => Mood::Losing(self.rng.u32(1..60)),
                    3 => Mood::Holding,
                    _ => Mood::Blocked,
                };
                let until = self.seconds(150);
                self.say(&format!("{name} is {mood:?}"));
                self.fleet[&at].set_mood(mood);
                self.later.push((until, Later::Cheer(at)));
            }
            _ => {
                let until = self.seconds(180);
                let millis = self.rng.i64(-300_000..300_000);
                self.say(&format!("{name} has its clock wrong by {millis} ms"));
                self.fleet[&at].set_skew(millis);
                self.later.push((until, Later::Skew(at)));
            }
        }
    }

    fn event_of_the_world(&mut self, kind: u32) {
        match kind % 16 {
            0 | 1 => {
                let until = self.seconds(90);
                self.say("the table can't be reached");
                for worker in self.fleet.values() {
                    worker.link.cut_table(true);
                }
                self.later.push((until, Later::HealTable));
            }
            2 => {
                let until = self.seconds(60);
                let keys =
                    [Key::Disabled, Key::PendingDeletion, Key::Denied, Key::NotOptedIn, Key::Gone, Key::Throttled];
                let key = keys[self.rng.usize(0..keys.len())];
                self.say(&format!("the key is {key:?}"));
                self.set_key(key);
                self.later.push((until, Later::Key));
            }
            3 => {
                // It may be gone already.
                let arn = format!(
                    "arn:aws:kinesis:{}:{}:stream/{STREAM}",
                    self.plan.settings.region, self.plan.settings.account
                );
                let _ = self.call("DeregisterStreamConsumer", &json!({ "StreamARN": arn, "ConsumerName": CONSUMER }));
                let again = self.now + self.plan.settings.deletion + Duration::from_millis(self.rng.u64(100..20_000));
                self.later.push((again, Later::Consumer));
            }
            4 if !self.fleet.is_empty() => self.everybody_is_killed(),
            5 => {
                // A copy of it follows under its name, as when somebody deploys anew; always before anybody takes it for gone.
                if self.call("DeleteStream", &json!({ "StreamName": STREAM })).is_ok() {
                    self.shared.oracle().made(None);
                    let again =
                        self.now + self.plan.settings.deletion + Duration::from_millis(self.rng.u64(1..120_000));
                    self.later.push((again, Later::Stream));
                }
            }
            6 => self.credentials_go_bad(),
            7 => {
                let until = self.seconds(60);
                self.say("the table is UPDATING");
                self.shared.simulator.set_table_status(Some("UPDATING"));
                self.later.push((until, Later::Table));
            }
            _ => self.reshard(),
        }
    }

    /// Those of one worker, or of all.
    fn credentials_go_bad(&mut self) {
        let bad = [RoleCredentials::Denied, RoleCredentials::Throttled, RoleCredentials::Garbled];
        let (bad, all) = (bad[self.rng.usize(0..bad.len())], self.rng.bool());
        let chosen: Vec<usize> = self.fleet.keys().copied().filter(|_| all || self.rng.u32(0..3) == 0).collect();
        for at in chosen {
            let until = self.seconds(180);
            self.say(&format!("{} has credentials that are {bad:?}", self.fleet[&at].name));
            self.fleet[&at].link.set_credentials(bad);
            self.later.push((until, Later::Credentials(at)));
        }
    }

    /// All are gone for a while; for longer than records are kept, if that is not too long.
    fn everybody_is_killed(&mut self) {
        self.say("everybody is killed");
        let retention = self.plan.settings.retention;
        let away = if retention < STALLED * 2 && self.rng.bool() { retention } else { Duration::ZERO };
        for (at, worker) in std::mem::take(&mut self.fleet) {
            self.faults += worker.link.faults();
            let again = self.seconds(120) + away;
            self.later.push((again, Later::Start(at)));
        }
    }

    fn set_key(&self, key: Key) {
        // It went with its stream, if that is gone.
        let _ = self.shared.simulator.kinesis(|kinesis| kinesis.set_key(STREAM, key));
    }

    /// Splits, merges, or changes the number of shards; unless the stream is busy with that.
    fn reshard(&mut self) {
        let open = self.shared.simulator.kinesis(|kinesis| kinesis.open_shards(STREAM));
        if open.is_empty() {
            return;
        }
        let stream = json!({ "StreamName": STREAM });
        let (operation, mut input) = match self.rng.u32(0..5) {
            0 | 1 if open.len() < 12 => {
                ("SplitShard", json!({ "ShardToSplit": shard_id(open[self.rng.usize(0..open.len())]) }))
            }
            2 | 3 if open.len() > 1 => {
                let at = self.rng.usize(0..open.len());
                let pair =
                    (0..open.len()).map(|with| open[(at + with) % open.len()]).filter(|other| *other != open[at]);
                // Not every pair is adjacent; the first that is, merges.
                for other in pair {
                    let input = json!({ "StreamName": STREAM, "ShardToMerge": shard_id(open[at]), "AdjacentShardToMerge": shard_id(other) });
                    if self.call("MergeShards", &input).is_ok() {
                        break;
                    }
                }
                return;
            }
            _ => {
                let target = self.rng.usize(open.len().div_ceil(2)..=(open.len() * 2).min(12).max(open.len()));
                ("UpdateShardCount", json!({ "TargetShardCount": target, "ScalingType": "UNIFORM_SCALING" }))
            }
        };
        input["StreamName"] = stream["StreamName"].clone();
        let _ = self.call(operation, &input);
    }

    /// What was to come, or to be over.
    fn now_due(&mut self, later: Later) -> Result<(), String> {
        self.say(&format!("{later:?}"));
        let (now, climate) = (self.now, self.plan.climate);
        match later {
            Later::Start(at) => {
                if !self.fleet.contains_key(&at) {
                    self.start_worker(at)?;
                }
            }
            Later::Resume(at) => {
                if let Some(worker) = self.fleet.get_mut(&at) {
                    worker.resume(now);
                }
            }
            Later::Heal(at) => self.with(at, |worker| worker.link.cut(false)),
            Later::HealTable => self.fleet.values().for_each(|worker| worker.link.cut_table(false)),
            Later::Calm(at) => self.with(at, |worker| worker.link.set_weather(climate)),
            Later::Cheer(at) => self.with(at, |worker| worker.set_mood(Mood::Prompt)),
            Later::Skew(at) => self.with(at, |worker| worker.set_skew(0)),
            Later::Credentials(at) => self.with(at, |worker| worker.link.set_credentials(RoleCredentials::Usable)),
            Later::Table => self.shared.simulator.set_table_status(None),
            Later::Key => self.set_key(Key::Usable),
            // At the end of the weather it may be on its way out still.
            Later::Stream if self.shared.simulator.kinesis(|kinesis| kinesis.is_there(STREAM)) => {
                self.later.push((now + Duration::from_secs(1), Later::Stream));
            }
            Later::Stream => {
                let shards = self.rng.u32(1..7);
                self.make_stream(shards)?;
            }
            Later::Consumer => {
                let arn = format!(
                    "arn:aws:kinesis:{}:{}:stream/{STREAM}",
                    self.plan.settings.region, self.plan.settings.account
                );
                // A worker may have been quicker.
                let _ = self.call("RegisterStreamConsumer", &json!({ "StreamARN": arn, "ConsumerName": CONSUMER }));
            }
        }
        Ok(())
    }

    fn with(&self, at: usize, what: impl FnOnce(&Worker)) {
        if let Some(worker) = self.fleet.get(&at) {
            what(worker);
        }
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

    /// A run of some minutes, and what it wrote down.
    fn fingerprint(seed: u64) -> (Option<u64>, Vec<Violation>) {
        let folder = tempfile::tempdir().unwrap();
        let log = Log::to(&folder.path().join("log")).unwrap();
        let report = run(Plan::draw(seed, Duration::from_mins(3)), log).unwrap();
        (report.fingerprint, report.violations)
    }

    #[test]
    fn a_seed_is_the_same_run_every_time() {
        for seed in [7, 12] {
            let (first, violations) = fingerprint(seed);
            assert!(violations.is_empty(), "{violations:?}");
            assert_eq!(fingerprint(seed).0, first, "seed {seed}");
        }
        assert_ne!(fingerprint(7).0, fingerprint(12).0);
    }
}
