//! Is progress neither lost nor overstated when one input stops and another starts?

use std::time::Duration;

use tokio::time::Instant;

use super::bench::{Bench, Ledger};
use super::{Failure, Rule, Support};
use crate::Verdicts;

pub(super) async fn close_waits(mut bench: Bench<'_>) -> Result<Support, Failure> {
    bench.put(8).await?;
    let input = bench.open().await?;
    let (messages, receipt) = bench.next(&*input, 3, Rule::NothingLost).await?.into_parts();
    let mut ledger = Ledger::default();
    let acked = ledger.take(&messages)?;
    let pause = bench.options.silence;
    let (closed, settled) =
        tokio::join!(bench.close_within(&*input, bench.options.patience, Rule::CloseWaits), async {
            tokio::time::sleep(pause).await;
            bench.settle(&*input, receipt, Verdicts::ACK).await
        });
    closed?;
    settled?;
    drop(input);
    let input = bench.open().await?;
    let mut after = Ledger::default();
    let mut wanted = bench.all();
    wanted.retain(|id| !acked.contains(id));
    bench.drain(&*input, &mut after, &wanted, Rule::UnackedComesAgain).await?;
    if let Some(again) = after.any_of(&acked) {
        return Err(Rule::CloseWaits.broken(format!("{again:?} was acked while close waited, and came again")));
    }
    bench.close(&*input).await?;
    Ok(Support::Done)
}

pub(super) async fn close_deadline(mut bench: Bench<'_>) -> Result<Support, Failure> {
    bench.put(8).await?;
    for within in [Duration::ZERO, bench.options.silence] {
        let input = bench.open().await?;
        let out = bench.next(&*input, 3, Rule::NothingLost).await?;
        let start = Instant::now();
        bench.close_within(&*input, within, Rule::ClosesAtAnyTime).await?;
        if start.elapsed() < within {
            let seen = format!("a receipt was out, and close within {within:?} took {:?}", start.elapsed());
            return Err(Rule::CloseWaits.broken(seen));
        }
        drop(out);
    }
    let input = bench.open().await?;
    let mut ledger = Ledger::default();
    bench.drain(&*input, &mut ledger, &bench.all(), Rule::UnackedComesAgain).await?;
    bench.close(&*input).await?;
    Ok(Support::Done)
}

pub(super) async fn late_acks(mut bench: Bench<'_>) -> Result<Support, Failure> {
    bench.put(8).await?;
    let input = bench.open().await?;
    let first = bench.next(&*input, 3, Rule::NothingLost).await?;
    let second = bench.next(&*input, 3, Rule::NothingLost).await?;
    bench.close_within(&*input, Duration::ZERO, Rule::ClosesAtAnyTime).await?;
    let (_, receipt) = second.into_parts();
    bench.settle(&*input, receipt, Verdicts::ACK).await?;
    let closed = input;
    let input = bench.open().await?;
    // This includes an ack that arrives when the next input has delivered the same messages and nacks them.
    let mut ledger = Ledger::default();
    let mut held = Vec::new();
    while let Some(missing) = ledger.missing(&bench.all()) {
        let Some(batch) = bench.try_next(&*input, 3, bench.options.patience).await? else {
            return Err(Rule::LateAckIsHarmless.broken(missing));
        };
        ledger.take(batch.messages())?;
        held.push(batch);
    }
    let (_, receipt) = first.into_parts();
    bench.settle(&*closed, receipt, Verdicts::ACK).await?;
    drop(held);
    let mut ledger = Ledger::default();
    bench.drain(&*input, &mut ledger, &bench.all(), Rule::LateAckIsHarmless).await?;
    bench.silence(&*input, Rule::LateAckIsHarmless).await?;
    ledger.once(Rule::LateAckIsHarmless)?;
    bench.close(&*input).await?;
    Ok(Support::Done)
}

pub(super) async fn restart(mut bench: Bench<'_>) -> Result<Support, Failure> {
    let mut ledger = Ledger::default();
    for _ in 0..3 {
        bench.put(4).await?;
        let input = bench.open().await?;
        for _ in 0..2 {
            let (messages, receipt) = bench.next(&*input, 3, Rule::UnackedComesAgain).await?.into_parts();
            ledger.take(&messages)?;
            bench.settle(&*input, receipt, Verdicts::ACK).await?;
        }
        bench.close(&*input).await?;
    }
    let input = bench.open().await?;
    bench.drain(&*input, &mut ledger, &bench.all(), Rule::UnackedComesAgain).await?;
    bench.silence(&*input, Rule::AckedIsDone).await?;
    ledger.once(Rule::AckedIsDone)?;
    ledger.in_order()?;
    bench.close(&*input).await?;
    Ok(Support::Done)
}

pub(super) async fn restart_with_gap(mut bench: Bench<'_>) -> Result<Support, Failure> {
    bench.put(8).await?;
    let input = bench.open().await?;
    let oldest = bench.next(&*input, 3, Rule::NothingLost).await?;
    let owed = Ledger::default().take(oldest.messages())?.into_iter().collect();
    for _ in 0..2 {
        let (_, receipt) = bench.next(&*input, 3, Rule::NothingLost).await?.into_parts();
        bench.settle(&*input, receipt, Verdicts::ACK).await?;
    }
    bench.close_within(&*input, Duration::ZERO, Rule::ClosesAtAnyTime).await?;
    drop((oldest, input));
    let input = bench.open().await?;
    let mut ledger = Ledger::default();
    bench.drain(&*input, &mut ledger, &owed, Rule::UnackedComesAgain).await?;
    bench.close(&*input).await?;
    Ok(Support::Done)
}

pub(super) async fn crash(mut bench: Bench<'_>) -> Result<Support, Failure> {
    bench.put(8).await?;
    let input = bench.open().await?;
    let mut ledger = Ledger::default();
    let (messages, receipt) = bench.next(&*input, 3, Rule::NothingLost).await?.into_parts();
    ledger.take(&messages)?;
    bench.settle(&*input, receipt, Verdicts::ACK).await?;
    let out = bench.next(&*input, 3, Rule::NothingLost).await?;
    drop(input);
    drop(out);
    let input = bench.open().await?;
    bench.drain(&*input, &mut ledger, &bench.all(), Rule::UnackedComesAgain).await?;
    bench.close(&*input).await?;
    Ok(Support::Done)
}
