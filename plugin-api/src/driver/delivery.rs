//! Which part of a driver holds the receipt of a batch in flight?

use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;

use crate::{AckError, Batch, Input, Message, Receipt, Verdicts};

/// The receipts of all batches in flight. They are stored here, not in the deliveries, so that an immediate stop can nack
/// a batch that another task still holds.
#[derive(Debug, Default)]
pub(super) struct InFlight {
    receipts: Mutex<Receipts>,
    fewer: Notify,
}

#[derive(Debug, Default)]
struct Receipts {
    by_number: HashMap<u64, Receipt>,
    next: u64,
}

impl InFlight {
    fn lock(&self) -> MutexGuard<'_, Receipts> {
        self.receipts.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn put(&self, receipt: Receipt) -> u64 {
        let mut receipts = self.lock();
        let number = receipts.next;
        receipts.next += 1;
        receipts.by_number.insert(number, receipt);
        number
    }

    fn take(&self, number: u64) -> Option<Receipt> {
        let receipt = self.lock().by_number.remove(&number);
        self.fewer.notify_waiters();
        receipt
    }

    pub(super) fn len(&self) -> usize {
        self.lock().by_number.len()
    }

    /// Waits until fewer than `limit` batches are in flight.
    pub(super) async fn below(&self, limit: usize) {
        loop {
            let fewer = self.fewer.notified();
            tokio::pin!(fewer);
            fewer.as_mut().enable();
            if self.len() < limit {
                return;
            }
            fewer.await;
        }
    }

    /// Nacks every batch in flight.
    pub(super) fn nack_all(&self) {
        // The receipts are dropped outside the lock, because a receipt calls into the input.
        let dropped = std::mem::take(&mut self.lock().by_number);
        drop(dropped);
        self.fewer.notify_waiters();
    }
}

/// A batch in flight at the host. Dropping it nacks the batch.
#[derive(Debug)]
#[must_use = "a delivery that is dropped is nacked"]
pub struct Delivery {
    messages: Vec<Message>,
    settlement: Settlement,
}

impl Delivery {
    pub(super) fn new(input: &Arc<dyn Input>, in_flight: &Arc<InFlight>, batch: Batch) -> Self {
        let (messages, receipt) = batch.into_parts();
        let number = in_flight.put(receipt);
        let settlement = Settlement { input: Arc::clone(input), in_flight: Arc::clone(in_flight), number };
        Self { messages, settlement }
    }

    /// Returns the messages, oldest first.
    pub fn messages(&self) -> &[Message] {
        &self.messages
    }

    /// Splits the delivery into the messages to process and the settlement for them.
    pub fn into_parts(self) -> (Vec<Message>, Settlement) {
        (self.messages, self.settlement)
    }

    /// Reports the outcome of the messages. See [`Settlement::settle`].
    ///
    /// # Errors
    ///
    /// Fails with [`AckError::WrongCount`] if the number of verdicts differs from the number of messages.
    pub async fn settle(self, verdicts: Verdicts) -> Result<(), AckError> {
        self.settlement.settle(verdicts).await
    }
}

/// The right, and the duty, to settle a delivery. Dropping it nacks the batch.
#[must_use = "a settlement that is dropped is a nack"]
pub struct Settlement {
    input: Arc<dyn Input>,
    in_flight: Arc<InFlight>,
    number: u64,
}

impl Settlement {
    /// Reports the outcome of the messages. Deliveries may be settled in any order and from any task. After a
    /// immediate stop, or once the driver is closed, the call has no effect.
    ///
    /// # Errors
    ///
    /// Fails with [`AckError::WrongCount`] if the number of verdicts differs from the number of messages; the
    /// batch then counts as nacked.
    ///
    /// # Cancel safety
    ///
    /// No message is lost on cancellation: a call that is dropped before it runs nacks the batch.
    pub async fn settle(self, verdicts: Verdicts) -> Result<(), AckError> {
        let Some(receipt) = self.in_flight.take(self.number) else { return Ok(()) };
        self.input.ack(receipt, verdicts).await
    }
}

impl Drop for Settlement {
    fn drop(&mut self) {
        drop(self.in_flight.take(self.number));
    }
}

impl fmt::Debug for Settlement {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Settlement").field("number", &self.number).finish_non_exhaustive()
    }
}
