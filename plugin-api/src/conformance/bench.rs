//! Which tools does a check have?

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::time::Instant;

use super::{Failure, Options, Rule, Source};
use crate::{Batch, BoxError, Demand, Input, InputError, Message, Receipt, Verdicts};

/// A message, by its lane and its number in the lane.
pub(super) type Id = (usize, u64);

/// A source with the messages that were added to it.
pub(super) struct Bench<'a> {
    pub(super) source: Box<dyn Source>,
    pub(super) options: &'a Options,
    put: u64,
}

/// Reports a failure of the harness, not of the input.
#[allow(clippy::needless_pass_by_value, reason = "it is given to `map_err`")]
pub(super) fn harness(error: BoxError) -> Failure {
    Rule::HarnessWorks.broken(error.to_string())
}

impl<'a> Bench<'a> {
    pub(super) fn new(source: Box<dyn Source>, options: &'a Options) -> Self {
        Self { source, options, put: 0 }
    }

    /// Returns the number of messages per lane that a check uses.
    pub(super) fn messages(&self) -> u64 {
        self.options.messages.max(8) as u64
    }

    /// Adds this many more messages to every lane.
    pub(super) async fn put(&mut self, count: u64) -> Result<(), Failure> {
        for lane in 0..self.source.lanes() {
            let payloads = (self.put..self.put + count).map(|number| payload((lane, number))).collect();
            self.source.put(lane, payloads).await.map_err(harness)?;
        }
        self.put += count;
        Ok(())
    }

    /// Returns all messages that were added.
    pub(super) fn all(&self) -> BTreeSet<Id> {
        (0..self.source.lanes()).flat_map(|lane| (0..self.put).map(move |number| (lane, number))).collect()
    }

    /// Creates an input that isn't connected.
    pub(super) async fn input(&self) -> Result<Arc<dyn Input>, Failure> {
        self.source.input().await.map_err(harness)
    }

    /// Creates an input that is connected.
    pub(super) async fn open(&self) -> Result<Arc<dyn Input>, Failure> {
        let input = self.input().await?;
        self.connect(&*input).await?;
        Ok(input)
    }

    /// Connects as a host does, with retries for a while.
    pub(super) async fn connect(&self, input: &dyn Input) -> Result<(), Failure> {
        let until = Instant::now() + self.options.patience;
        loop {
            let Err(error) = self.returns("connect", input.connect()).await? else { return Ok(()) };
            let retry = matches!(error, InputError::NotConnected(_) | InputError::BackOff { .. });
            if !retry || Instant::now() >= until {
                return Err(Rule::Opens.broken(format!("connect says: {error}")));
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// Returns the result of a call, which must not hang.
    pub(super) async fn returns<T>(&self, call: &str, future: impl Future<Output = T>) -> Result<T, Failure> {
        let patience = self.options.patience;
        tokio::time::timeout(patience, future)
            .await
            .map_err(|_| Rule::EveryCallReturns.broken(format!("{call} had not returned after {patience:?}")))
    }

    /// Reads once with a demand, whose limits are verified.
    pub(super) async fn ask(&self, input: &dyn Input, demand: Demand) -> Result<Result<Batch, InputError>, Failure> {
        let limit = demand.max_wait + self.options.patience;
        let Ok(answer) = tokio::time::timeout(limit, input.read_batch(demand)).await else {
            let seen = format!("read_batch with max_wait {:?} had not returned after {limit:?}", demand.max_wait);
            return Err(Rule::WithinMaxWait.broken(seen));
        };
        if let Ok(batch) = &answer
            && batch.len() > demand.max_messages.get()
        {
            let seen = format!("{} messages came, {} were asked for", batch.len(), demand.max_messages);
            return Err(Rule::WithinDemand.broken(seen));
        }
        Ok(answer)
    }

    /// Returns the next batch with messages within the patience, or `None`. Any error is a failure.
    pub(super) async fn try_next(
        &self,
        input: &dyn Input,
        max: usize,
        wait: Duration,
    ) -> Result<Option<Batch>, Failure> {
        let until = Instant::now() + wait;
        loop {
            let max_wait = until.saturating_duration_since(Instant::now()).min(Duration::from_millis(200));
            match self.ask(input, Demand::new(max, max_wait)).await? {
                Ok(batch) if !batch.is_empty() => return Ok(Some(batch)),
                // An empty batch may come early; a pause keeps that from being a busy loop.
                Ok(_) => tokio::time::sleep(Duration::from_millis(1)).await,
                Err(error) => return Err(Rule::NoErrors.broken(format!("read_batch says: {error}"))),
            }
            if Instant::now() >= until {
                return Ok(None);
            }
        }
    }

    /// Returns the next batch with messages; if there is none, `rule` is broken.
    pub(super) async fn next(&self, input: &dyn Input, max: usize, rule: Rule) -> Result<Batch, Failure> {
        let patience = self.options.patience;
        let next = self.try_next(input, max, patience).await?;
        next.ok_or_else(|| rule.broken(format!("nothing came within {patience:?}, and something had to")))
    }

    /// Settles a batch, which has to succeed.
    pub(super) async fn settle(&self, input: &dyn Input, receipt: Receipt, verdicts: Verdicts) -> Result<(), Failure> {
        let result = self.returns("ack", input.ack(receipt, verdicts)).await?;
        result.map_err(|error| Rule::NoErrors.broken(format!("ack says: {error}")))
    }

    /// Reads and acks until all of `wanted` arrived, allowing repetitions; `rule` is broken if that never
    /// happens.
    pub(super) async fn drain(
        &self,
        input: &dyn Input,
        ledger: &mut Ledger,
        wanted: &BTreeSet<Id>,
        rule: Rule,
    ) -> Result<(), Failure> {
        while let Some(missing) = ledger.missing(wanted) {
            let Some(batch) = self.try_next(input, 7, self.options.patience).await? else {
                return Err(rule.broken(format!("{missing} and nothing more comes")));
            };
            let (messages, receipt) = batch.into_parts();
            ledger.take(&messages)?;
            self.settle(input, receipt, Verdicts::ACK).await?;
        }
        Ok(())
    }

    /// Fails if any further message arrives.
    pub(super) async fn silence(&self, input: &dyn Input, rule: Rule) -> Result<(), Failure> {
        match self.try_next(input, 100, self.options.silence).await? {
            None => Ok(()),
            Some(batch) => {
                let first = batch.messages().first().map(id).transpose()?;
                Err(rule.broken(format!("{} messages came that should not, the first is {first:?}", batch.len())))
            }
        }
    }

    /// Closes the input, which has to succeed, with the suite's patience for receipts.
    pub(super) async fn close(&self, input: &dyn Input) -> Result<(), Failure> {
        self.close_within(input, self.options.patience, Rule::ClosesAtAnyTime).await
    }

    pub(super) async fn close_within(&self, input: &dyn Input, within: Duration, rule: Rule) -> Result<(), Failure> {
        let limit = within + self.options.patience;
        match tokio::time::timeout(limit, input.close(within)).await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(error)) => Err(rule.broken(format!("close says: {error}"))),
            Err(_) => {
                let seen = format!("close within {within:?} had not returned after {limit:?}");
                Err(Rule::CloseWithinDeadline.broken(seen))
            }
        }
    }
}

/// The messages that arrived, in the order of arrival.
#[derive(Debug, Default)]
pub(super) struct Ledger {
    came: Vec<Id>,
}

impl Ledger {
    pub(super) fn take(&mut self, messages: &[Message]) -> Result<Vec<Id>, Failure> {
        let ids = messages.iter().map(id).collect::<Result<Vec<_>, _>>()?;
        self.came.extend(&ids);
        Ok(ids)
    }

    /// Describes the messages of `wanted` that have not arrived.
    pub(super) fn missing(&self, wanted: &BTreeSet<Id>) -> Option<String> {
        let came: BTreeSet<_> = self.came.iter().copied().collect();
        let mut missing = wanted.difference(&came);
        let first = missing.next()?;
        Some(format!("{} of {} messages are missing, the first is {first:?}", missing.count() + 1, wanted.len()))
    }

    pub(super) fn is_empty(&self) -> bool {
        self.came.is_empty()
    }

    /// Returns the first of these messages that arrived, if any did.
    pub(super) fn any_of(&self, ids: &[Id]) -> Option<Id> {
        self.came.iter().copied().find(|id| ids.contains(id))
    }

    /// Verifies that no message arrived twice; `rule` is broken otherwise.
    pub(super) fn once(&self, rule: Rule) -> Result<(), Failure> {
        let mut seen = BTreeSet::new();
        match self.came.iter().find(|id| !seen.insert(**id)) {
            Some(id) => Err(rule.broken(format!("{id:?} came twice"))),
            None => Ok(()),
        }
    }

    /// Verifies that the numbers of each lane only increase.
    pub(super) fn in_order(&self) -> Result<(), Failure> {
        let mut last = std::collections::BTreeMap::new();
        for &(lane, number) in &self.came {
            if let Some(before) = last.insert(lane, number)
                && before > number
            {
                return Err(Rule::LanesInOrder.broken(format!("{number} came after {before} in lane {lane}")));
            }
        }
        Ok(())
    }
}

fn payload((lane, number): Id) -> Bytes {
    format!("lane {lane} message {number}").into()
}

/// Returns the id of a message.
pub(super) fn id(message: &Message) -> Result<Id, Failure> {
    let text = String::from_utf8_lossy(message.payload());
    let mut words = text.split(' ');
    let (lane, number) = (words.nth(1).and_then(|word| word.parse().ok()), words.nth(1).and_then(|w| w.parse().ok()));
    match (lane, number) {
        (Some(lane), Some(number)) if *message.payload() == payload((lane, number)) => Ok((lane, number)),
        _ => {
            let seen = format!("a payload of {} bytes came that was never put", message.payload().len());
            Err(Rule::PayloadsIntact.broken(seen))
        }
    }
}
