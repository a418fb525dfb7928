//! How does a worker get shards, and begin to read them?

use std::collections::BTreeSet;
use std::sync::{Arc, Weak};
use std::time::Duration;

use futures::stream::{self, StreamExt};
use tokio::time::{Instant, sleep, sleep_until};

use super::coordinator::{LOOK_AGAIN, Readers};
use crate::delivery::progress::Progress;
use crate::lease::rebalance::{Asked, Step, What};
use crate::lease::validity::Term;
use crate::lease::{Claim, From, Lease, LeaseStore, Place, SharedStore, Write, Written};
use crate::model::{ShardId, ShardNames, StartPosition};
use crate::reading::ShardToRead;
use crate::shards::checkpointer::Leave;
use crate::shards::task::{Outcome, ShardTask};
use crate::telemetry::health::ObservedShard;
use crate::telemetry::{self, Claimed};

/// When many shards start at once, they spread over so long for each of them: the service admits a limited rate.
const START_SPREAD: Duration = Duration::from_millis(2);
/// Calls to the store on their way at once.
const CALLS_AT_ONCE: usize = 16;
/// How long a close waits for claims that are on their way.
const LATE_CLAIMS: Duration = Duration::from_secs(3);

/// A shard that is ours now.
pub(super) struct Got {
    stream: usize,
    lease: Lease,
    place: Place,
    /// When it was claimed. In another term it is not known whose it is.
    term: Term,
    /// Its holder before, who knows no requests, may store a place until then.
    settles: Option<Instant>,
}

impl Readers {
    pub(super) async fn ask(&mut self, store: &dyn SharedStore, asks: Vec<Step>) {
        let (streams, health) = (&self.streams, &self.tools.health);
        let asking = stream::iter(asks).map(|step| async move {
            let stream = &streams[step.stream].stream;
            let What::Ask { hold, instead_of } = step.what else { return None };
            match store.ask(stream, &step.shard, &hold, instead_of.as_ref()).await {
                Ok(true) => Some((stream.clone(), step.shard, hold)),
                // Somebody else was quicker.
                Ok(false) => None,
                Err(error) => {
                    health.look_failed(&error);
                    None
                }
            }
        });
        let asked: Vec<_> = asking.buffer_unordered(CALLS_AT_ONCE).filter_map(std::future::ready).collect().await;
        let mut holders = BTreeSet::new();
        let until = Instant::now() + self.tools.settings.handed_over_within;
        for (stream, shard, hold) in asked {
            telemetry::asked(&stream, &shard, &hold.worker);
            holders.insert(hold.worker.clone());
            self.asked.insert((stream, shard), Asked { hold, until });
        }
        for holder in holders {
            if let Err(error) = store.nudge(&holder).await {
                self.tools.health.look_failed(&error);
            }
        }
    }

    /// Claims what is to be claimed; what we got.
    ///
    /// Told to stop, it claims nothing more, but waits a while for claims that are on their way: what they get is given back
    /// with the rest. Nobody else would know that we have it.
    pub(super) async fn claim(&mut self, steps: Vec<Step>) -> Vec<Got> {
        let (streams, store, settings) = (&self.streams, &self.tools.store, &self.tools.settings);
        let (stop, tenure, health) = (&self.tools.stop, &self.tools.tenure, &self.tools.health);
        let claiming = stream::iter(steps).map(|step| async move {
            let term = tenure.term().filter(|_| !stop.is_cancelled())?;
            let stream = &streams[step.stream].stream;
            let (from, how, hold) = match &step.what {
                What::Claim => (From::Nobody, Claimed::Free, None),
                What::Resume(hold) => (From::Holder(hold), Claimed::PassedOn, Some(hold)),
                What::TakeOver(hold) => (From::Unchanged(hold), Claimed::LeftBehind, Some(hold)),
                What::Force(hold) => (From::Holder(hold), Claimed::Forced, Some(hold)),
                What::Steal(hold) => (From::Holder(hold), Claimed::Stolen, Some(hold)),
                What::Ask { .. } => return None,
            };
            match store.claim(stream, &step.shard, from).await {
                Ok(Claim::Owned(lease, place)) => {
                    telemetry::claimed(stream, &step.shard, how, hold.map(|hold| &hold.worker));
                    let settles =
                        matches!(step.what, What::Steal(_)).then(|| Instant::now() + settings.handed_over_within);
                    Some(Got { stream: step.stream, lease, place, settles, term })
                }
                Ok(Claim::HeldBy(holder)) => {
                    telemetry::held(stream, &step.shard, &holder);
                    None
                }
                Err(error) => {
                    health.look_failed(&error);
                    None
                }
            }
        });
        let mut claiming = std::pin::pin!(claiming.buffer_unordered(CALLS_AT_ONCE));
        let give_up = async {
            stop.cancelled().await;
            sleep(LATE_CLAIMS).await;
        };
        let mut give_up = std::pin::pin!(give_up);
        let mut got = Vec::new();
        loop {
            tokio::select! {
                biased;
                claimed = claiming.next() => match claimed {
                    Some(claimed) => got.extend(claimed),
                    None => break,
                },
                () = &mut give_up => break,
            }
        }
        for got in &got {
            self.asked.remove(&(got.lease.stream.clone(), got.lease.shard.clone()));
        }
        got
    }

    /// Claims what is free, of those that may be read: all, or just these.
    pub(super) async fn claim_free(&mut self, at: usize, only: Option<&[ShardId]>) {
        let readable = self.streams[at].topology.readable().into_iter();
        let readable = readable.filter(|shard| only.is_none_or(|only| only.contains(shard)));
        let steps = readable.map(|shard| Step { stream: at, shard, what: What::Claim }).collect();
        let got = self.claim(steps).await;
        self.start_all(got);
    }

    pub(super) fn start_all(&mut self, got: Vec<Got>) {
        let spread = START_SPREAD.saturating_mul(got.len() as u32);
        for got in got {
            self.start(got, spread);
        }
        self.tools.health.meter.reading_shards(self.tools.checkpointer.len());
    }

    fn start(&mut self, got: Got, spread: Duration) {
        let Got { stream: at, lease, place, term, settles } = got;
        let tools = &self.tools;
        let state = &mut self.streams[at];
        let id = lease.shard.clone();
        state.topology.claimed(&id);
        let ended = if let Place::End(last) = &place { Some(last.clone()) } else { None };
        let names = Arc::new(ShardNames { stream: state.stream.clone(), shard: id.clone() });
        let start = state.topology.start(&id, &place);
        let progress = Progress::new(names, tools.settings.checkpoint_limit, tools.settings.replay_nacks);
        let progress = Arc::new(progress);
        let stop = tools.stop.child_token();
        let epoch = lease.epoch;
        let settling = settles.map(|until| (until, Arc::clone(&tools.store), epoch));
        let key = (lease.stream.clone(), lease.shard.clone());
        tools.checkpointer.add(lease, Arc::clone(&progress), stop.clone());
        // From here on an end of the term stops it like all others. One that came before, we have to see.
        if ended.is_some() || tools.tenure.term() != Some(term) {
            tools.checkpointer.leave(&key, Leave::Over);
            if let Some(last) = ended {
                // Another worker finished it after we looked.
                state.topology.ended(&id, last);
            }
            return;
        }
        telemetry::resumed_at(&progress.names, &start);
        let observed: Weak<dyn ObservedShard> = Arc::downgrade(&(Arc::clone(&progress) as Arc<dyn ObservedShard>));
        tools.health.reads_shard(observed);
        let begin = Instant::now() + spread.mul_f64(fastrand::f64());
        let thread = tools.threads.next();
        let lane = tools.outbox.lane(&progress.names);
        let shard = ShardToRead {
            names: Arc::clone(&progress.names),
            meter: Arc::clone(&progress.meter),
            service: Arc::clone(&thread.service),
        };
        let task = ShardTask {
            reader: state.readers.reader(shard, start, begin),
            lane,
            progress,
            pool: tools.pool.clone(),
            health: Arc::clone(&tools.health),
            checkpointer: Arc::clone(&tools.checkpointer),
            slice: tools.settings.slice,
            deaggregate: tools.settings.deaggregate,
            seen_open: state.topology.seen_open(&id),
            stop,
        };
        match settling {
            None => self.running.start((at, id, key.0), task.run(), &thread.handle),
            Some(settling) => {
                self.running.start((at, id, key.0), after_the_last_commit(settling, task), &thread.handle);
            }
        }
    }
}

/// Waits until the holder before has stored its last place, and reads on from there.
async fn after_the_last_commit(settling: (Instant, Arc<dyn LeaseStore>, u64), mut task: ShardTask) -> Outcome {
    let (until, store, epoch) = settling;
    let wait = async {
        sleep_until(until).await;
        loop {
            let ShardNames { stream, shard } = &*task.progress.names;
            let renewal = Write { stream: stream.clone(), shard: shard.clone(), epoch, place: Place::Nowhere };
            match store.commit(vec![renewal]).await.pop() {
                Some(Ok(Written::Stored { place, .. })) => return Some(place),
                Some(Ok(Written::Lost { .. })) | None => return None,
                Some(Err(error)) => task.health.store_failed(&error),
            }
            sleep(LOOK_AGAIN).await;
        }
    };
    match task.stop.clone().run_until_cancelled(wait).await {
        Some(Some(place)) => {
            if let Place::After(place) = place {
                task.reader.start_at(StartPosition::After(place));
            }
            task.run().await
        }
        Some(None) | None => Outcome::Stopped,
    }
}
