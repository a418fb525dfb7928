//! Which deliveries does the host have, and what follows when it settles them?

use std::sync::Arc;

use pipeline_plugin_api::{Batch, Demand, Reason, Receipt, Settle, Verdict, Verdicts};
use tokio::time::Instant;

use super::outbox::{Closed, Outbox};
use super::progress::Progress;
use super::redelivery::{Refusal, halve};
use super::{Deliveries, Delivery};

/// A batch that is refused as a whole is cut into halves from this nack on.
const BISECTED_AFTER_NACKS: u32 = 2;

/// Waits for a delivery, and hands as many to the host as are ready then. Returns an empty batch if none comes in time.
///
/// # Cancel safety
///
/// A dropped call has taken nothing, because there is no wait between the outbox and the batch.
pub(crate) async fn next_batch(outbox: &Arc<Outbox>, demand: Demand) -> Result<Batch, Closed> {
    Ok(outbox.next(demand).await?.map_or_else(Batch::empty, |deliveries| hand_out(deliveries, outbox)))
}

/// Hands deliveries from the outbox to the host, as one batch with one receipt.
fn hand_out(mut deliveries: Deliveries, outbox: &Arc<Outbox>) -> Batch {
    let now = Instant::now();
    let mut messages = Vec::with_capacity(deliveries.iter().map(Delivery::len).sum());
    for delivery in deliveries.iter_mut() {
        delivery.delivered_at.get_or_insert(now);
        delivery.table.add_messages(delivery.rows.clone(), delivery.attempt(), &mut messages);
        delivery.progress.meter.delivered(delivery.len());
    }
    let Deliveries { first, more } = deliveries;
    let first = InFlight::new(first, outbox);
    let more = more.into_iter().map(|delivery| InFlight::new(delivery, outbox)).collect();
    let receipt = Receipt::new(messages.len(), BatchInFlight { first, more, messages: messages.len() });
    Batch::new(messages, receipt)
}

/// The deliveries of a batch that the host has and has not settled. A batch of one needs no list.
#[derive(Debug)]
struct BatchInFlight {
    first: InFlight,
    more: Vec<InFlight>,
    /// How many messages it has.
    messages: usize,
}

impl BatchInFlight {
    /// Whether the deliveries come again together: only the last of them ends a batch.
    fn is_one_batch(&self) -> bool {
        let all = std::iter::once(&self.first).chain(&self.more);
        let before_last = all.take(self.more.len());
        before_last.filter_map(|in_flight| in_flight.delivery.as_ref()).all(|delivery| !delivery.ends_batch)
    }
}

/// A delivery that the host has and has not settled.
#[derive(Debug)]
struct InFlight {
    /// The delivery; `None` once it is settled.
    delivery: Option<Delivery>,
    progress: Arc<Progress>,
    outbox: Arc<Outbox>,
}

impl InFlight {
    fn new(delivery: Delivery, outbox: &Arc<Outbox>) -> Self {
        let progress = Arc::clone(&delivery.progress);
        Self { delivery: Some(delivery), progress, outbox: Arc::clone(outbox) }
    }
}

impl Settle for BatchInFlight {
    fn settle(mut self: Box<Self>, verdicts: Verdicts) {
        let (policy, refusal) = (self.first.progress.redelivery, refusal(&verdicts, self.messages));
        let is_one_batch = self.is_one_batch();
        let mut again = Vec::new();
        let mut start = 0;
        for in_flight in std::iter::once(&mut self.first).chain(&mut self.more) {
            let Some(delivery) = in_flight.delivery.take() else { continue };
            let end = start + delivery.len();
            match &verdicts {
                Verdicts::All(Verdict::Ack) => acked(delivery),
                Verdicts::All(Verdict::Nack(reason)) => again.extend(nacked(delivery, refusal, reason.as_ref())),
                Verdicts::Each(each) => settle_each(delivery, &each[start..end], refusal, &mut again),
            }
            start = end;
        }
        // An output that fails altogether refuses a batch as well, so the first nack changes nothing.
        if policy.bisects
            && refusal == Refusal::Batch
            && is_one_batch
            && again.first().is_some_and(|delivery: &Delivery| delivery.nacks() >= BISECTED_AFTER_NACKS)
        {
            again = halve(again);
        }
        // All at once: newer records of a shard must not come between two parts that come again.
        self.first.outbox.redeliver(again);
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        self.progress.settled();
        self.outbox.returned();
    }
}

/// Settles runs of the same verdict together. Nacks with different reasons are one run, so that what comes again is not cut up;
/// its first reason stands for it. Adds what comes again to `again`.
fn settle_each(mut delivery: Delivery, verdicts: &[Verdict], refusal: Refusal, again: &mut Vec<Delivery>) {
    for run in verdicts.chunk_by(|one, next| one.is_ack() == next.is_ack()) {
        let part = delivery.split_first(run.len());
        if run[0].is_ack() {
            acked(part);
        } else {
            again.extend(nacked(part, refusal, run.iter().find_map(reason)));
        }
    }
}

fn reason(verdict: &Verdict) -> Option<&Reason> {
    match verdict {
        Verdict::Ack => None,
        Verdict::Nack(reason) => reason.as_ref(),
    }
}

/// Counts all records of the delivery as acknowledged.
fn acked(delivery: Delivery) {
    delivery.progress.meter.acked(delivery.rows.len());
    delivery.progress.ack(delivery.ordinals());
    // Its space in the pool is free from here on.
    drop(delivery);
}

/// Returns the delivery if it is to come again. Its records are dropped if they are given up, or if its shard is not read
/// any more.
fn nacked(mut delivery: Delivery, refusal: Refusal, reason: Option<&Reason>) -> Option<Delivery> {
    let (progress, count) = (Arc::clone(&delivery.progress), delivery.len());
    progress.meter.nacked(count);
    if delivery.refused(refusal) {
        let (first, last) = (delivery.table.record(delivery.rows.start), delivery.table.record(delivery.rows.end - 1));
        progress.meter.dropped(count, first.zip(last), delivery.nacks(), reason);
        progress.ack(delivery.ordinals());
        return None;
    }
    if !progress.is_live() {
        return None;
    }
    progress.meter.redelivers(count, reason);
    Some(delivery)
}

/// What nacks among the verdicts say. A batch of one message is refused as that message.
fn refusal(verdicts: &Verdicts, messages: usize) -> Refusal {
    let is_whole = match verdicts {
        Verdicts::All(verdict) => !verdict.is_ack(),
        Verdicts::Each(each) => each.iter().all(|verdict| !verdict.is_ack()),
    };
    if is_whole && messages > 1 { Refusal::Batch } else { Refusal::Each }
}
