//! How does a worker get shards and start to read them?

use std::collections::BTreeSet;
use std::sync::{Arc, Weak};
use std::time::Duration;

use futures::stream::{self, StreamExt};
use tokio::time::{Instant, sleep, sleep_until};

use super::coordinator::{Coordinator, RETRY_AFTER};
use super::owned::OwnedShard;
use crate::config::OutOfRange;
use crate::delivery::progress::Progress;
use crate::lease::rebalance::{Action, ActionKind, Asked};
use crate::lease::validity::Term;
use crate::lease::{Checkpoint, Claim, ClaimFrom, CommitOutcome, Lease, LeaseStore, SharedStore};
use crate::model::{ShardId, ShardNames};
use crate::reading::{Deaggregation, ShardToRead};
use crate::shards::checkpointer::{Checkpointer, ReleaseReason};
use crate::shards::task::{Outcome, ShardTask};
use crate::telemetry::health::ObservedShard;
use crate::telemetry::{self, Claimed};

/// The time per shard over which the starts of several shards are spread, because the service admits a limited rate.
const START_SPREAD: Duration = Duration::from_millis(2);
/// How many calls to the store may be in progress at once.
const CALLS_AT_ONCE: usize = 16;
/// How long a close waits for claims in progress.
const LATE_CLAIMS: Duration = Duration::from_secs(3);

/// A shard that this worker has claimed.
pub(super) struct ClaimedShard {
    stream: usize,
    lease: Lease,
    checkpoint: Option<Checkpoint>,
    /// The term in which the shard was claimed. In another term its owner is unknown.
    term: Term,
    /// The time until which the former holder, a program that knows no requests, may store a checkpoint; `None` if
    /// there is no such holder.
    settles: Option<Instant>,
}

impl Coordinator {
    pub(super) async fn ask(&mut self, store: &dyn SharedStore, asks: Vec<Action>) {
        let (streams, health) = (&self.streams, &self.context.health);
        let asking = stream::iter(asks).map(|action| async move {
            let stream = &streams[action.stream].stream;
            let ActionKind::Ask { hold, instead_of } = action.kind else { return None };
            match store.ask(stream, &action.shard, &hold, instead_of.as_ref()).await {
                Ok(true) => Some((stream.clone(), action.shard, hold)),
                // Another worker made its request first.
                Ok(false) => None,
                Err(error) => {
                    health.table_failed(&error);
                    None
                }
            }
        });
        let asked: Vec<_> = asking.buffer_unordered(CALLS_AT_ONCE).filter_map(std::future::ready).collect().await;
        let mut holders = BTreeSet::new();
        let until = Instant::now() + self.context.settings.handed_over_within;
        for (stream, shard, hold) in asked {
            telemetry::requested(&stream, &shard, &hold.worker);
            holders.insert(hold.worker.clone());
            self.asked.insert((stream, shard), Asked { hold, until });
        }
        for holder in holders {
            if let Err(error) = store.wake(&holder).await {
                self.context.health.table_failed(&error);
            }
        }
    }

    /// Claims shards, and returns those that this worker got.
    ///
    /// After a stop it claims nothing more, but waits a while for claims in progress: their shards are released with
    /// the rest. No other part knows that this worker has them.
    pub(super) async fn claim(&mut self, actions: Vec<Action>) -> Vec<ClaimedShard> {
        let (streams, store, settings) = (&self.streams, &self.context.store, &self.context.settings);
        let (stop, validity, health) = (&self.context.stop, &self.context.validity, &self.context.health);
        let claiming = stream::iter(actions).map(|action| async move {
            let term = validity.term().filter(|_| !stop.is_cancelled())?;
            let stream = &streams[action.stream].stream;
            let (from, how, hold) = match &action.kind {
                ActionKind::Claim => (ClaimFrom::Nobody, Claimed::Free, None),
                ActionKind::Resume(hold) => (ClaimFrom::Holder(hold), Claimed::HandedOver, Some(hold)),
                ActionKind::TakeOver(hold) => (ClaimFrom::Unchanged(hold), Claimed::TakenOver, Some(hold)),
                ActionKind::Force(hold) => (ClaimFrom::Holder(hold), Claimed::Forced, Some(hold)),
                ActionKind::Steal(hold) => (ClaimFrom::Holder(hold), Claimed::Stolen, Some(hold)),
                ActionKind::Ask { .. } => return None,
            };
            match store.claim(stream, &action.shard, from).await {
                Ok(Claim::Owned(lease, checkpoint)) => {
                    health.meter.claimed(stream, &action.shard, how, hold.map(|hold| &hold.worker));
                    let settles = matches!(action.kind, ActionKind::Steal(_))
                        .then(|| Instant::now() + settings.handed_over_within);
                    Some(ClaimedShard { stream: action.stream, lease, checkpoint, settles, term })
                }
                Ok(Claim::HeldBy(holder)) => {
                    telemetry::held(stream, &action.shard, &holder);
                    None
                }
                Err(error) => {
                    health.table_failed(&error);
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

    /// Claims the free shards that may be read: all of them, or only these.
    pub(super) async fn claim_free(&mut self, at: usize, only: Option<&[ShardId]>) {
        let readable = self.streams[at].topology.readable().into_iter();
        let readable = readable.filter(|shard| only.is_none_or(|only| only.contains(shard)));
        let actions = readable.map(|shard| Action { stream: at, shard, kind: ActionKind::Claim }).collect();
        let got = self.claim(actions).await;
        self.start_all(got);
    }

    pub(super) fn start_all(&mut self, got: Vec<ClaimedShard>) {
        let spread = START_SPREAD.saturating_mul(got.len() as u32);
        for got in got {
            self.start(got, spread);
        }
        self.context.health.meter.reading_shards(self.context.checkpointer.len());
    }

    fn start(&mut self, got: ClaimedShard, spread: Duration) {
        let ClaimedShard { stream: at, lease, checkpoint, term, settles } = got;
        let context = &self.context;
        let state = &mut self.streams[at];
        let id = lease.shard.clone();
        state.topology.claimed(&id);
        let ended = if let Some(Checkpoint::ShardEnd(last)) = &checkpoint { Some(last.clone()) } else { None };
        let names = Arc::new(ShardNames { stream: state.stream.clone(), shard: id.clone() });
        let start = state.topology.start(&id, checkpoint.as_ref());
        let progress = Progress::new(names, context.settings.checkpoint_limit, context.settings.redelivery);
        let progress = Arc::new(progress);
        let stop = context.stop.child_token();
        let settling = settles.map(|until| (until, Arc::clone(&context.store), Arc::clone(&context.checkpointer)));
        let owned = OwnedShard::new(lease, Arc::clone(&progress), stop.clone(), Arc::clone(&context.outbox));
        let key = owned.key();
        context.checkpointer.add(owned);
        // From here on the end of the term stops this shard like all others. An end that came before must be noticed
        // here.
        if ended.is_some() || context.validity.term() != Some(term) {
            context.checkpointer.begin_release(&key, ReleaseReason::Expired);
            if let Some(last) = ended {
                // Another worker finished the shard after the table was read.
                state.topology.ended(&id, last);
            }
            return;
        }
        telemetry::resumed_at(&progress.names, &start);
        let observed: Weak<dyn ObservedShard> = Arc::downgrade(&(Arc::clone(&progress) as Arc<dyn ObservedShard>));
        context.health.reads_shard(observed);
        let begin = Instant::now() + spread.mul_f64(fastrand::f64());
        let thread = context.threads.next();
        let lane = context.outbox.lane(&progress.names);
        let drops_outside = match context.settings.out_of_range {
            OutOfRange::Drop => true,
            OutOfRange::Deliver => false,
            // Where the service distributes the records, the hash keys say nothing about the shard.
            OutOfRange::Auto => state.stream.distributes_by_key(),
        };
        let range = state.topology.hash_range(&id).filter(|_| drops_outside);
        let deaggregation = context.settings.deaggregate.then_some(Deaggregation { range });
        let shard = ShardToRead {
            names: Arc::clone(&progress.names),
            meter: Arc::clone(&progress.meter),
            service: Arc::clone(&thread.service),
            deaggregation,
        };
        let task = ShardTask {
            reader: state.readers.reader(shard, start, begin),
            lane,
            progress,
            pool: context.pool.clone(),
            health: Arc::clone(&context.health),
            checkpointer: Arc::clone(&context.checkpointer),
            slice: context.settings.slice,
            drops_outside,
            resumes_within: checkpoint.as_ref().and_then(Checkpoint::within).cloned(),
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

/// Waits until the former holder has stored its last checkpoint, and reads on from there.
async fn after_the_last_commit(
    settling: (Instant, Arc<dyn LeaseStore>, Arc<Checkpointer>),
    mut task: ShardTask,
) -> Outcome {
    let (until, store, checkpointer) = settling;
    let wait = async {
        sleep_until(until).await;
        loop {
            let renewal = checkpointer.renewal(&task.progress)?;
            match store.commit(vec![renewal]).await.pop() {
                Some(Ok(CommitOutcome::Stored { checkpoint, .. })) => return Some(checkpoint),
                Some(Ok(CommitOutcome::Lost { .. })) | None => return None,
                Some(Err(error)) => task.health.store_failed(&error),
            }
            sleep(RETRY_AFTER).await;
        }
    };
    match task.stop.clone().run_until_cancelled(wait).await {
        Some(Some(checkpoint)) => {
            if let Some(start) = checkpoint.as_ref().and_then(Checkpoint::start) {
                task.reader.start_at(start);
                task.resumes_within = checkpoint.as_ref().and_then(Checkpoint::within).cloned();
            }
            task.run().await
        }
        Some(None) | None => Outcome::Stopped,
    }
}
