//! Does an input open and close whenever a host requests it?

use std::time::Duration;

use super::bench::Bench;
use super::{Failure, Rule, Support};
use crate::{Demand, InputError, State, Verdicts};

pub(super) async fn open_and_close(mut bench: Bench<'_>) -> Result<Support, Failure> {
    let count = bench.messages();
    bench.put(count).await?;
    let input = bench.open().await?;
    let state = input.status().state;
    if !matches!(state, State::Connected | State::Degraded) {
        return Err(Rule::StatusIsTrue.broken(format!("after connect it says {state:?}")));
    }
    let (messages, receipt) = bench.next(&*input, 3, Rule::NothingLost).await?.into_parts();
    let mut ledger = super::bench::Ledger::default();
    ledger.take(&messages)?;
    // A second connect must neither fail nor start anything over.
    bench
        .returns("connect", input.connect())
        .await?
        .map_err(|error| Rule::ConnectIsIdempotent.broken(format!("the second connect says: {error}")))?;
    bench.settle(&*input, receipt, Verdicts::ACK).await?;
    bench.drain(&*input, &mut ledger, &bench.all(), Rule::ConnectIsIdempotent).await?;
    ledger.once(Rule::ConnectIsIdempotent)?;
    bench.close(&*input).await?;
    bench.close_within(&*input, Duration::ZERO, Rule::ClosesAtAnyTime).await?;
    let state = input.status().state;
    if state != State::Closed {
        return Err(Rule::StatusIsTrue.broken(format!("after close it says {state:?}")));
    }
    Ok(Support::Done)
}

pub(super) async fn close_before_connect(bench: Bench<'_>) -> Result<Support, Failure> {
    let input = bench.input().await?;
    bench.close(&*input).await?;
    Ok(Support::Done)
}

pub(super) async fn read_before_connect(mut bench: Bench<'_>) -> Result<Support, Failure> {
    bench.put(1).await?;
    let input = bench.input().await?;
    match bench.ask(&*input, Demand::new(1, Duration::ZERO)).await? {
        Err(InputError::NotConnected(_)) => {}
        answer => return Err(Rule::ReadNeedsConnect.broken(format!("the answer was {answer:?}"))),
    }
    // The early read must leave the input usable.
    bench.connect(&*input).await?;
    drop(bench.next(&*input, 1, Rule::NothingLost).await?);
    bench.close(&*input).await?;
    Ok(Support::Done)
}

pub(super) async fn read_after_close(mut bench: Bench<'_>) -> Result<Support, Failure> {
    bench.put(8).await?;
    let input = bench.open().await?;
    drop(bench.next(&*input, 1, Rule::NothingLost).await?);
    bench.close(&*input).await?;
    for _ in 0..3 {
        if let Ok(batch) = bench.ask(&*input, Demand::new(10, bench.options.silence)).await?
            && !batch.is_empty()
        {
            return Err(Rule::ClosedMeansClosed.broken(format!("{} messages came", batch.len())));
        }
    }
    Ok(Support::Done)
}
