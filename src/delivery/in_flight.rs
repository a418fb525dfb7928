//! Which deliveries does the host have, and what follows when it settles them?

use std::sync::Arc;

use pipeline_plugin_api::{Batch, Demand, Reason, Receipt, Settle, Verdict, Verdicts};

use super::Delivery;
use super::outbox::{Closed, Outbox};
use super::progress::Progress;

/// Waits for the next delivery and hands it to the host. Returns an empty batch if none comes in time.
///
/// # Cancel safety
///
/// A dropped call has taken nothing, because there is no wait between the outbox and the batch.
pub(crate) async fn next_batch(outbox: &Arc<Outbox>, demand: Demand) -> Result<Batch, Closed> {
    Ok(outbox.next(demand).await?.map_or_else(Batch::empty, |delivery| hand_out(delivery, outbox)))
}

/// Hands a delivery from the outbox to the host.
fn hand_out(delivery: Delivery, outbox: &Arc<Outbox>) -> Batch {
    let messages = delivery.table.messages(delivery.rows.clone());
    let progress = Arc::clone(&delivery.progress);
    progress.meter.delivered(messages.len());
    let in_flight = InFlight { delivery: Some(delivery), progress, outbox: Arc::clone(outbox) };
    let receipt = Receipt::new(messages.len(), in_flight);
    Batch::new(messages, receipt)
}

/// A delivery that the host has and has not settled.
#[derive(Debug)]
struct InFlight {
    /// The delivery; `None` once it is settled.
    delivery: Option<Delivery>,
    progress: Arc<Progress>,
    outbox: Arc<Outbox>,
}

impl Settle for InFlight {
    fn settle(mut self: Box<Self>, verdicts: Verdicts) {
        let Some(delivery) = self.delivery.take() else { return };
        match verdicts {
            Verdicts::All(Verdict::Ack) => acked(delivery),
            Verdicts::All(Verdict::Nack(reason)) => nacked(delivery, &self.outbox, reason.as_ref()),
            Verdicts::Each(each) => settle_each(delivery, &each, &self.outbox),
        }
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        self.progress.settled();
        self.outbox.returned();
    }
}

/// Settles runs of the same verdict together. Nacks with different reasons are one run, so that what comes again is not cut up;
/// its first reason stands for it.
fn settle_each(mut delivery: Delivery, verdicts: &[Verdict], outbox: &Outbox) {
    for run in verdicts.chunk_by(|one, next| one.is_ack() == next.is_ack()) {
        let part = delivery.split_first(run.len());
        if run[0].is_ack() {
            acked(part);
        } else {
            nacked(part, outbox, run.iter().find_map(reason));
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

/// Returns the delivery to the outbox, or drops its records if nacks are not redelivered.
fn nacked(mut delivery: Delivery, outbox: &Outbox, reason: Option<&Reason>) {
    let (progress, count) = (Arc::clone(&delivery.progress), delivery.rows.len());
    progress.meter.nacked(count);
    if !progress.redeliver_nacks {
        progress.meter.dropped(count, reason);
        progress.ack(delivery.ordinals());
    } else if progress.is_live() {
        progress.meter.redelivers(count, reason);
        delivery.nacks += 1;
        outbox.redeliver(delivery);
    }
}
