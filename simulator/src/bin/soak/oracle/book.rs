//! What the oracle knows of a shard and of a worker.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use kinesis_simulator::Time;
use kinesis_simulator::kinesis::Number;

/// Which records are to be read.
#[derive(Debug, Clone, Copy)]
pub(super) struct Scope {
    /// All records are to be read, whenever they came.
    pub(super) oldest: bool,
    /// From when on records are to be read, if not all.
    pub(super) pinned: Option<Time>,
}

/// A record that was put.
#[derive(Debug)]
pub(super) struct Put {
    pub(super) number: Number,
    pub(super) at: Time,
    pub(super) delivered: bool,
    pub(super) acked: bool,
    /// It was past retention before it was acknowledged: there is no getting it any more.
    pub(super) expired: bool,
    /// The last acknowledgement.
    pub(super) last_ack: Option<Ack>,
}

/// An acknowledgement: by which worker, under which of its claims, and when.
#[derive(Debug)]
pub(super) struct Ack {
    pub(super) by: String,
    pub(super) claim: u64,
    pub(super) at: Time,
    /// Which of all acknowledgements it was.
    pub(super) order: u64,
}

/// A worker's claim of a shard.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Claim {
    /// The position that was stored when it was made.
    pub(super) start: Option<Number>,
    /// Which of all claims it is.
    pub(super) number: u64,
    /// When the worker gave it back by itself.
    pub(super) released: Option<Time>,
    /// Another worker had asked for the shard by then.
    pub(super) asked: bool,
}

/// What was handed out under a claim and is not settled, or was refused.
#[derive(Debug, Default)]
pub(super) struct Out {
    pub(super) records: BTreeSet<usize>,
    /// They come again before anything that is newer.
    pub(super) refused: BTreeSet<usize>,
    /// How often each record was refused that is not acknowledged.
    pub(super) refusals: BTreeMap<usize, u32>,
    /// Nothing of the shard may come before, because something was refused.
    pub(super) rests_until: Time,
    /// When something was handed out last.
    pub(super) last: Time,
}

/// What is known of a shard.
#[derive(Debug, Default)]
pub(super) struct Book {
    pub(super) parents: Vec<u32>,
    pub(super) puts: Vec<Put>,
    /// The first record that was not delivered yet and should be.
    pub(super) frontier: usize,
    /// The first record that was not acknowledged yet and should be.
    pub(super) unacked: usize,
    pub(super) stored: Option<Number>,
    pub(super) ended: bool,
    /// Which worker stored its end, and when.
    pub(super) ended_by: Option<(String, Time)>,
    /// Which worker holds it, as the table says.
    pub(super) holder: Option<String>,
    /// Which worker asked the holder for it, as the table says, and when.
    pub(super) wanted: Option<(String, Time)>,
    /// When another worker last asked its holder for it, even if the wish was taken back since.
    pub(super) asked: Option<Time>,
    /// When its holder took it.
    pub(super) claimed: Time,
    /// The last claim of each worker that holds it or held it.
    pub(super) claims: BTreeMap<String, Claim>,
    /// What each of the claims has out.
    pub(super) out: BTreeMap<u64, Out>,
}

/// What is known of a worker.
#[derive(Debug, Default)]
pub(super) struct Known {
    /// How long its leases are.
    pub(super) lease: Duration,
    /// Its last heartbeat that was written.
    pub(super) beat: Option<Heartbeat>,
    /// When it was last started, or came back after a silence in which its leases expired.
    pub(super) life: Time,
    /// When its process was last started.
    pub(super) started: Time,
    /// When it last stood still, or could not reach the services.
    pub(super) ill: Time,
    /// Since when its row has been in the table.
    pub(super) shown: Option<Time>,
    /// When its row came into the table for the first time.
    pub(super) came: Option<Time>,
    /// When its graceful stop began.
    pub(super) stopping: Option<Time>,
    /// Its graceful stop is over, and all was stored.
    pub(super) stopped: bool,
    /// When it claimed free shards last: the first of them, how many there were to claim then, and how many it claimed.
    pub(super) burst: Option<(Time, usize, usize)>,
}

/// A heartbeat in the table.
#[derive(Debug, Clone, Copy)]
pub(super) struct Heartbeat {
    /// When the request set out.
    pub(super) sent: Time,
    pub(super) written: Time,
}

impl Put {
    pub(super) fn is_expected(&self, scope: Scope) -> bool {
        !self.expired && (scope.oldest || scope.pinned.is_some_and(|pinned| self.at >= pinned))
    }
}

impl Book {
    /// Strikes off the records that came before, and returns when each of them came and its number.
    pub(super) fn expire(&mut self, before: Time, scope: Scope) -> Vec<(Time, Number)> {
        let mut expired = Vec::new();
        while let Some(put) = self.puts.get_mut(self.unacked).filter(|put| put.at < before) {
            put.expired = true;
            expired.push((put.at, put.number));
            self.advance(scope);
        }
        expired
    }

    pub(super) fn advance(&mut self, scope: Scope) {
        while self.puts.get(self.frontier).is_some_and(|put| put.delivered || !put.is_expected(scope)) {
            self.frontier += 1;
        }
        while self.puts.get(self.unacked).is_some_and(|put| put.acked || !put.is_expected(scope)) {
            self.unacked += 1;
        }
    }

    pub(super) fn open(&self) -> usize {
        self.puts[self.unacked..].iter().filter(|put| !put.acked).count()
    }

    /// The last record up to which a worker acknowledged everything under its claim by this time, and that was acknowledged after all
    /// before it.
    ///
    /// The second part makes allowance for a fault of the input: when a gap closes, it can't name the position behind what was
    /// acknowledged above the gap if that is only a part of an event and the rest of the event is not in memory any more, which
    /// is so at a stop and a hand-over. Then these records come again, though they must not.
    pub(super) fn acked_without_a_gap(&self, worker: &str, claim: Claim, until: Time, scope: Scope) -> Option<Number> {
        let begin = claim.start.map_or(0, |start| self.puts.partition_point(|put| put.number <= start));
        let (mut last, mut position) = (0, None);
        for put in &self.puts[begin..] {
            let ack = put.last_ack.as_ref();
            let ack = ack.filter(|ack| ack.by == worker && ack.claim == claim.number && ack.at <= until);
            match ack {
                Some(ack) if ack.order > last => (last, position) = (ack.order, Some(put.number)),
                None if put.is_expected(scope) => break,
                Some(_) | None => {}
            }
        }
        position
    }
}
