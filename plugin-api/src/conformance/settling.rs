//! Do verdicts have the effect that they promise?

use std::collections::BTreeSet;

use super::bench::{Bench, Id, Ledger};
use super::{Failure, Rule, Support};
use crate::{AckError, Batch, Input, Verdict, Verdicts};

/// The reason of nacks that have one. A reason has no effect on a nack.
const REASON: &str = "refused by the conformance suite";

pub(super) async fn out_of_order_acks(mut bench: Bench<'_>) -> Result<Support, Failure> {
    bench.put(8).await?;
    let input = bench.open().await?;
    let mut ledger = Ledger::default();
    let mut held = Vec::new();
    while let Some(missing) = ledger.missing(&bench.all()) {
        let Some(batch) = bench.try_next(&*input, 3, bench.options.patience).await? else {
            return Err(Rule::NothingLost.broken(format!("while {} batches were out, {missing}", held.len())));
        };
        ledger.take(batch.messages())?;
        held.push(batch);
    }
    for batch in held.into_iter().rev() {
        let (_, receipt) = batch.into_parts();
        bench.settle(&*input, receipt, Verdicts::ACK).await?;
    }
    bench.silence(&*input, Rule::NothingTwice).await?;
    ledger.once(Rule::NothingTwice)?;
    ledger.in_order()?;
    bench.close(&*input).await?;
    drop(input);
    let input = bench.open().await?;
    bench.silence(&*input, Rule::AckedIsDone).await?;
    bench.close(&*input).await?;
    Ok(Support::Done)
}

pub(super) async fn nacks(bench: Bench<'_>) -> Result<Support, Failure> {
    let mut with_reason = false;
    again_first(bench, Rule::NackedComesFirst, async |bench, input, batch| {
        let (_, receipt) = batch.into_parts();
        with_reason = !with_reason;
        let verdicts = if with_reason { Verdicts::nack(REASON) } else { Verdicts::NACK };
        bench.settle(input, receipt, verdicts).await
    })
    .await
}

pub(super) async fn dropped_receipts(bench: Bench<'_>) -> Result<Support, Failure> {
    again_first(bench, Rule::DroppedIsNacked, async |_, _, batch| {
        drop(batch);
        Ok(())
    })
    .await
}

pub(super) async fn wrong_count(bench: Bench<'_>) -> Result<Support, Failure> {
    let mut too_many = false;
    again_first(bench, Rule::WrongCountIsRefused, async |bench, input, batch| {
        let (messages, receipt) = batch.into_parts();
        too_many = !too_many;
        let got = if too_many { messages.len() + 1 } else { messages.len() - 1 };
        let verdicts = Verdicts::Each(vec![Verdict::Ack; got]);
        match bench.returns("ack", input.ack(receipt, verdicts)).await? {
            Err(AckError::WrongCount { .. }) => Ok(()),
            Ok(()) => {
                let seen = format!("{got} verdicts were taken for {} messages", messages.len());
                Err(Rule::WrongCountIsRefused.broken(seen))
            }
        }
    })
    .await
}

/// Refuses two batches by `refuse` and verifies that they are delivered again, before anything newer of their
/// lanes.
async fn again_first(
    mut bench: Bench<'_>,
    rule: Rule,
    mut refuse: impl AsyncFnMut(&Bench<'_>, &dyn Input, Batch) -> Result<(), Failure>,
) -> Result<Support, Failure> {
    let count = bench.messages();
    bench.put(count).await?;
    let input = bench.open().await?;
    let mut done = Ledger::default();
    for _ in 0..2 {
        let (messages, receipt) = bench.next(&*input, 2, Rule::NothingLost).await?.into_parts();
        done.take(&messages)?;
        bench.settle(&*input, receipt, Verdicts::ACK).await?;
        let refused = bench.next(&*input, 3, Rule::NothingLost).await?;
        let owed = Ledger::default().take(refused.messages())?;
        refuse(&bench, &*input, refused).await?;
        come_first(&bench, &*input, &mut done, owed, rule).await?;
    }
    bench.drain(&*input, &mut done, &bench.all(), Rule::NothingLost).await?;
    bench.silence(&*input, Rule::NothingTwice).await?;
    done.once(Rule::NothingTwice)?;
    done.in_order()?;
    bench.close(&*input).await?;
    Ok(Support::Done)
}

/// Reads and acks until all owed messages arrived; in the lane of an owed message nothing newer may arrive before
/// it.
async fn come_first(
    bench: &Bench<'_>,
    input: &dyn Input,
    done: &mut Ledger,
    owed: Vec<Id>,
    rule: Rule,
) -> Result<(), Failure> {
    let mut owed: BTreeSet<Id> = owed.into_iter().collect();
    while let Some(&first) = owed.first() {
        let Some(batch) = bench.try_next(input, 3, bench.options.patience).await? else {
            return Err(rule.broken(format!("{first:?} was not acked and doesn't come again")));
        };
        let (messages, receipt) = batch.into_parts();
        for (lane, number) in done.take(&messages)? {
            owed.remove(&(lane, number));
            if let Some(passed) = owed.iter().find(|(owed_lane, before)| *owed_lane == lane && *before < number) {
                return Err(rule.broken(format!("({lane}, {number}) came before {passed:?}, which was not acked")));
            }
        }
        bench.settle(input, receipt, Verdicts::ACK).await?;
    }
    Ok(())
}

pub(super) async fn partial_nacks(mut bench: Bench<'_>) -> Result<Support, Failure> {
    let count = bench.messages();
    bench.put(count).await?;
    let input = bench.open().await?;
    let mut done = Ledger::default();
    let mut wanted = bench.all();
    for _ in 0..3 {
        let batch = bench.next(&*input, 4, Rule::NothingLost).await?;
        let ids = Ledger::default().take(batch.messages())?;
        let (messages, receipt) = batch.into_parts();
        // This nacks every other message, starting with the first, so that an acked message follows one that
        // was not; some nacks have a reason.
        let verdicts = (0..messages.len()).map(|at| match at % 4 {
            0 => Verdict::NACK,
            2 => Verdict::nack(REASON),
            _ => Verdict::Ack,
        });
        bench.settle(&*input, receipt, Verdicts::Each(verdicts.collect())).await?;
        let acked: Vec<_> = ids.iter().skip(1).step_by(2).collect();
        wanted.retain(|id| !acked.contains(&id));
        let owed = ids.iter().copied().step_by(2).collect();
        come_first(&bench, &*input, &mut done, owed, Rule::NackedComesFirst).await?;
    }
    // Acked messages need not be delivered again, but may be: an input may go back to the first nacked one.
    bench.drain(&*input, &mut done, &wanted, Rule::NothingLost).await?;
    bench.silence(&*input, Rule::NothingTwice).await?;
    bench.close(&*input).await?;
    Ok(Support::Done)
}
