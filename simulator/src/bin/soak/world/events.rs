//! What goes wrong, and when does it end?

use std::time::Duration;

use kinesis_simulator::Time;
use kinesis_simulator::faults::{RoleCredentials, Weather};
use kinesis_simulator::kinesis::{Key, shard_id};
use serde_json::json;

use super::{STALLED, World};
use crate::plan::{CONSUMER, STREAM};
use crate::worker::{Mood, Worker};

/// The end of a fault, or a fault to come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Later {
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
    /// The table is as fast as before for a worker.
    Hurry(usize),
    /// The table is cut off from a worker, for this many seconds.
    CutTable(usize, u64),
    /// The table can be reached again by a worker.
    FindTable(usize),
    /// A worker stops gracefully.
    Stop(usize),
    /// A shard is split, and then this many more, each as soon as the one before.
    Cascade(u32),
    /// The resolver of a worker answers again.
    Resolve(usize),
    /// The disk is sound again.
    Disk,
}

impl World {
    /// A worker that is up and not paused.
    pub(super) fn some_worker(&mut self) -> Option<usize> {
        let up: Vec<usize> = self.fleet.iter().filter(|(_, worker)| !worker.is_paused()).map(|(at, _)| *at).collect();
        if up.is_empty() { None } else { Some(up[self.rng.usize(0..up.len())]) }
    }

    pub(super) fn seconds(&mut self, longest: u64) -> Time {
        self.now + Duration::from_millis(self.rng.u64(200..longest * 1000))
    }

    /// Lets something happen, to a worker or to the world.
    pub(super) fn event(&mut self) {
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
                self.kill(at);
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
                self.stop_worker(at);
                // Two workers must not run under the same name.
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
                // The consumer may be gone already.
                let arn = format!(
                    "arn:aws:kinesis:{}:{}:stream/{STREAM}",
                    self.plan.settings.region, self.plan.settings.account
                );
                let _ = self.call("DeregisterStreamConsumer", &json!({ "StreamARN": arn, "ConsumerName": CONSUMER }));
                let again = self.now + self.plan.settings.deletion + Duration::from_millis(self.rng.u64(100..20_000));
                self.later.push((again, Later::Consumer));
            }
            4 if !self.fleet.is_empty() => self.kill_all(),
            5 => {
                // A copy of the stream follows under its name, as when an operator deploys it anew; always before any
                // worker considers it gone.
                if self.call("DeleteStream", &json!({ "StreamName": STREAM })).is_ok() {
                    self.shared.oracle().made(None);
                    let again =
                        self.now + self.plan.settings.deletion + Duration::from_millis(self.rng.u64(1..120_000));
                    self.later.push((again, Later::Stream));
                }
            }
            6 => self.break_credentials(),
            7 => {
                let until = self.seconds(60);
                self.say("the table is UPDATING");
                self.shared.simulator.set_table_status(Some("UPDATING"));
                self.later.push((until, Later::Table));
            }
            _ => self.reshard(),
        }
    }

    /// Makes the credentials of one worker, or of all, fail.
    fn break_credentials(&mut self) {
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

    /// Kills all workers for a while; for longer than records are kept, if that is not too long.
    fn kill_all(&mut self) {
        self.say("all workers are killed");
        let retention = self.plan.settings.retention;
        let away = if retention < STALLED * 2 && self.rng.bool() { retention } else { Duration::ZERO };
        for at in self.fleet.keys().copied().collect::<Vec<_>>() {
            self.kill(at);
            let again = self.seconds(120) + away;
            self.later.push((again, Later::Start(at)));
        }
    }

    fn set_key(&self, key: Key) {
        // The key went with its stream, if that is gone.
        let _ = self.shared.simulator.kinesis(|kinesis| kinesis.set_key(STREAM, key));
    }

    /// Splits or merges shards, or changes their number, unless the stream is being changed.
    pub(super) fn reshard(&mut self) {
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

    /// Carries out what is due.
    pub(super) fn now_due(&mut self, later: Later) -> Result<(), String> {
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
            Later::Resolve(at) => self.with(at, |worker| worker.link.hang(false)),
            Later::Disk => self.shared.disk.iter().for_each(|disk| disk.set_trouble(None)),
            Later::Table => self.shared.simulator.set_table_status(None),
            Later::Hurry(at) => self.with(at, |worker| worker.link.slow_table(None)),
            Later::CutTable(at, seconds) if self.rough => {
                self.with(at, |worker| worker.link.cut_table(true));
                self.later.push((now + Duration::from_secs(seconds), Later::FindTable(at)));
            }
            Later::CutTable(at, _) | Later::FindTable(at) => self.with(at, |worker| {
                worker.link.cut_table(false);
                worker.link.slow_table(None);
            }),
            Later::Stop(at) if self.rough && self.fleet.get(&at).is_some_and(|worker| !worker.is_paused()) => {
                self.stop_worker(at);
                let again = now + Duration::from_secs(self.second.u64(60..120));
                self.later.push((again, Later::Start(at)));
            }
            Later::Stop(_) => {}
            Later::Cascade(left) => self.cascade(left),
            Later::Key => self.set_key(Key::Usable),
            // At the end of the faults it may still be in deletion.
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
                // A worker may have been faster.
                let _ = self.call("RegisterStreamConsumer", &json!({ "StreamARN": arn, "ConsumerName": CONSUMER }));
            }
        }
        Ok(())
    }

    /// Stops a worker gracefully. It is stepped beside the others until it has stopped.
    fn stop_worker(&mut self, at: usize) {
        let Some(worker) = self.fleet.remove(&at) else { return };
        self.say(&format!("{} is stopped gracefully", worker.name));
        self.faults += worker.link.faults();
        worker.stop(self.now, &mut self.shared.oracle());
        self.leaving.push(worker);
    }

    pub(super) fn with(&self, at: usize, what: impl FnOnce(&Worker)) {
        if let Some(worker) = self.fleet.get(&at) {
            what(worker);
        }
    }
}
