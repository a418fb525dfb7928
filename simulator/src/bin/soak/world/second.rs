//! The second kind of events: those that are drawn by a generator of their own, and those that strike a worker at the
//! moment in which it wrote a row that matters.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use fastrand::Rng;
use kinesis_simulator::kinesis::shard_id;
use kinesis_simulator::{RowWritten, flag, text};
use serde_json::json;

use super::World;
use super::events::Later;
use crate::plan::STREAM;
use crate::worker::Mood;

/// The kind of row that a worker wrote.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Wrote {
    FirstHeartbeat,
    Claim,
    Request,
    Release,
    End,
}

/// The rows that matter and the names of the workers that wrote them, since the world last looked.
pub(super) type Written = Arc<Mutex<Vec<(String, Wrote)>>>;

/// The least time between two events that a row triggers.
const TRIGGER_GAP: Duration = Duration::from_secs(20);

/// Records with a retention below this expire while all workers are away.
const SHORT_RETENTION: Duration = Duration::from_mins(5);

/// The kind of the row, if it matters.
pub(super) fn kind_of(row: &RowWritten<'_>) -> Option<Wrote> {
    let after = row.after?;
    match text(after, "StreamID")? {
        "kinesis-input/workers" => {
            return (row.before.is_none() && text(after, "ShardID") == Some(row.by)).then_some(Wrote::FirstHeartbeat);
        }
        "kinesis-input/streams" | "kinesis-input/former" => return None,
        _ => {}
    }
    let before = |name: &str| row.before.and_then(|before| text(before, name));
    let now = |name: &str| text(after, name);
    if flag(after, "Ended") && !row.before.is_some_and(|before| flag(before, "Ended")) {
        Some(Wrote::End)
    } else if now("WantedBy") == Some(row.by) && before("WantedBy") != Some(row.by) {
        Some(Wrote::Request)
    } else if now("ClientID") == Some(row.by) && now("LeaseID") != before("LeaseID") {
        Some(Wrote::Claim)
    } else {
        (before("ClientID") == Some(row.by) && now("ClientID") != Some(row.by)).then_some(Wrote::Release)
    }
}

impl World {
    /// Notes a row that matters for [`triggers`](Self::triggers).
    pub(super) fn note(written: &Written, row: &RowWritten<'_>) {
        if let Some(kind) = kind_of(row) {
            written.lock().unwrap_or_else(PoisonError::into_inner).push((row.by.to_owned(), kind));
        }
    }

    fn draw(&mut self, to: Duration) -> Duration {
        Duration::from_millis(self.second.u64(0..to.as_millis().max(1) as u64))
    }

    /// Lets an event of the second kind happen, if one is due.
    pub(super) fn second_event(&mut self) {
        let Some(gap) = self.plan.second_gap else { return };
        if self.now < self.next_second {
            return;
        }
        self.next_second = self.now + gap / 4 + self.draw(gap * 7 / 4);
        self.events += 1;
        let up: Vec<usize> = self.fleet.iter().filter(|(_, worker)| !worker.is_paused()).map(|(at, _)| *at).collect();
        let Some(at) = self.second.choice(&up).copied() else { return };
        let name = self.fleet[&at].name.clone();
        match self.second.u32(0..9) {
            0 | 1 => {
                let until = self.now + Duration::from_secs(10) + self.draw(Duration::from_secs(80));
                self.slow_table(at);
                self.later.push((until, Later::Hurry(at)));
            }
            2 | 3 => {
                // A heartbeat is answered late, and no further one gets through until the leases have expired.
                self.slow_table(at);
                let cut = self.now + Duration::from_secs(5) + self.draw(Duration::from_secs(15));
                let seconds = self.plan.config.lease_of(at).as_secs() + self.second.u64(5..30);
                self.later.push((cut, Later::CutTable(at, seconds)));
            }
            4 => {
                let mood = Mood::Refusing(self.second.u32(50..101));
                let until = self.now + Duration::from_secs(2) + self.draw(Duration::from_secs(20));
                self.say(&format!("{name} is {mood:?}"));
                self.fleet[&at].set_mood(mood);
                self.later.push((until, Later::Cheer(at)));
            }
            5 => self.recreate_stream_unseen(at),
            6 => self.later.push((self.now, Later::Cascade(3))),
            7 if self.plan.settings.retention < SHORT_RETENTION => self.stop_all_for_long(),
            _ => {
                // A slow host is told to stop.
                let longest = Duration::from_millis(self.second.u64(300..8_000));
                self.say(&format!("{name} is slow, and will be stopped"));
                self.fleet[&at].set_mood(Mood::Slow(longest));
                let stop = self.now + Duration::from_secs(2) + self.draw(Duration::from_secs(10));
                self.later.push((stop, Later::Stop(at)));
            }
        }
    }

    /// Kills all workers for longer than records are kept.
    fn stop_all_for_long(&mut self) {
        self.say("all workers are away");
        let until = self.now + self.plan.settings.retention;
        for at in self.fleet.keys().copied().collect::<Vec<_>>() {
            self.kill(at);
            let again = until + self.draw(Duration::from_secs(30));
            self.later.push((again, Later::Start(at)));
        }
    }

    fn slow_table(&mut self, at: usize) {
        let seed = self.second.u64(..);
        let Some(worker) = self.fleet.get(&at) else { return };
        self.say(&format!("{} has a slow table", worker.name));
        worker.link.slow_table(Some(seed));
    }

    /// Deletes and recreates the stream while a worker is cut off, paused or running.
    fn recreate_stream_unseen(&mut self, at: usize) {
        if self.call("DeleteStream", &json!({ "StreamName": STREAM })).is_err() {
            return;
        }
        self.shared.oracle().made(None);
        let settings = &self.plan.settings;
        let again = self.now + settings.deletion + Duration::from_millis(self.second.u64(1..3_000));
        let seen_by_others = again + settings.creation + Duration::from_secs(5);
        self.later.push((again, Later::Stream));
        let back = seen_by_others + self.draw(Duration::from_secs(40));
        let now = self.now;
        let Some(worker) = self.fleet.get_mut(&at) else { return };
        match self.second.u32(0..3) {
            0 => {
                worker.link.cut(true);
                self.later.push((back, Later::Heal(at)));
            }
            1 => {
                worker.pause(now);
                self.later.push((back, Later::Resume(at)));
            }
            _ => {}
        }
    }

    /// Splits the youngest shard, so that a listing that lags knows the child of a shard that it does not show.
    pub(super) fn cascade(&mut self, left: u32) {
        let open = self.shared.simulator.kinesis(|kinesis| kinesis.open_shards(STREAM));
        let Some(youngest) = open.iter().max().filter(|_| open.len() < 14) else { return };
        let split = json!({ "StreamName": STREAM, "ShardToSplit": shard_id(*youngest) });
        // If the stream is being changed, the split is tried again.
        let left = if self.call("SplitShard", &split).is_ok() { left - 1 } else { left };
        if left > 0 && self.rough {
            self.later.push((self.now + Duration::from_secs(1), Later::Cascade(left)));
        }
    }

    /// Strikes workers that wrote a row that matters.
    pub(super) fn triggers(&mut self) {
        let written = std::mem::take(&mut *self.written.lock().unwrap_or_else(PoisonError::into_inner));
        let per_cent = self.plan.triggers_per_cent;
        if per_cent == 0 || !self.rough {
            return;
        }
        for (name, wrote) in written {
            if self.now < self.next_trigger || self.second.u32(0..100) >= per_cent {
                continue;
            }
            let Some(at) = self.fleet.iter().find(|(_, worker)| worker.name == name).map(|(at, _)| *at) else {
                continue;
            };
            self.next_trigger = self.now + TRIGGER_GAP;
            self.events += 1;
            self.say(&format!("{name} is struck: it wrote {wrote:?}"));
            self.strike(at, wrote);
        }
    }

    fn strike(&mut self, at: usize, wrote: Wrote) {
        let now = self.now;
        let until = now + Duration::from_millis(500) + self.draw(Duration::from_mins(1));
        match (wrote, self.second.u32(0..6)) {
            // Another worker claims what was released, and is stopped meanwhile.
            (Wrote::Release, 0..=3) => {
                let others: Vec<usize> = self.fleet.keys().copied().filter(|other| *other != at).collect();
                if let Some(other) = self.second.choice(&others).copied() {
                    self.slow_table(other);
                    let stop = now + self.draw(Duration::from_secs(6));
                    self.later.push((stop, Later::Stop(other)));
                }
            }
            // A worker that has just started is stopped while it claims.
            (Wrote::FirstHeartbeat, 0..=3) => {
                self.slow_table(at);
                let stop = now + self.draw(Duration::from_secs(5));
                self.later.push((stop, Later::Stop(at)));
            }
            (Wrote::End | Wrote::Claim, 0) => self.recreate_stream_unseen(at),
            (_, 0..=2) => self.later.push((now, Later::Stop(at))),
            (_, 3) => {
                self.kill(at);
                self.later.push((until, Later::Start(at)));
            }
            (_, 4) => {
                if let Some(worker) = self.fleet.get_mut(&at) {
                    worker.pause(now);
                }
                self.later.push((until, Later::Resume(at)));
            }
            _ => {
                if let Some(worker) = self.fleet.get(&at) {
                    worker.link.cut(true);
                }
                self.later.push((until, Later::Heal(at)));
            }
        }
    }

    /// The generator of this file's faults.
    pub(super) fn second_generator(seed: u64) -> Rng {
        Rng::with_seed(seed ^ 0x0073_6563_6f6e_6400)
    }
}
