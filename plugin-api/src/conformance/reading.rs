//! Does every message arrive, once, in order, however the input is read?

use std::pin::pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use tokio::task::JoinSet;
use tokio::time::Instant;

use super::bench::{Bench, Ledger, harness};
use super::{Failure, Rule, Support};
use crate::{Demand, Input, InputError, Message, Verdicts};

pub(super) async fn demands(mut bench: Bench<'_>) -> Result<Support, Failure> {
    let count = bench.messages();
    bench.put(count).await?;
    let input = bench.open().await?;
    let mut ledger = Ledger::default();
    // A read with no time to wait must eventually return the messages, because they are available.
    let until = Instant::now() + bench.options.patience;
    for max in [1, 2, 3, 1000].into_iter().cycle() {
        match bench.ask(&*input, Demand::new(max, Duration::ZERO)).await? {
            Ok(batch) if batch.is_empty() => tokio::time::sleep(Duration::from_millis(5)).await,
            Ok(batch) => {
                let (messages, receipt) = batch.into_parts();
                ledger.take(&messages)?;
                bench.settle(&*input, receipt, Verdicts::ACK).await?;
            }
            Err(error) => return Err(Rule::EmptyIsAnAnswer.broken(format!("read_batch says: {error}"))),
        }
        let Some(missing) = ledger.missing(&bench.all()) else { break };
        if Instant::now() > until {
            return Err(Rule::NothingLost.broken(missing));
        }
    }
    ledger.once(Rule::NothingTwice)?;
    bench.close(&*input).await?;
    Ok(Support::Done)
}

pub(super) async fn idle(mut bench: Bench<'_>) -> Result<Support, Failure> {
    let input = bench.open().await?;
    for wait in [Duration::ZERO, bench.options.silence] {
        match bench.ask(&*input, Demand::new(10, wait)).await? {
            Ok(batch) if batch.is_empty() => {}
            Ok(batch) => {
                return Err(Rule::PayloadsIntact.broken(format!("{} messages came that were never put", batch.len())));
            }
            Err(error) => return Err(Rule::EmptyIsAnAnswer.broken(format!("read_batch says: {error}"))),
        }
    }
    // A wait ends when a message arrives, not when its time is over.
    let (reader, long) = (Arc::clone(&input), bench.options.patience * 5);
    let mut waiting = JoinSet::new();
    waiting.spawn(async move { reader.read_batch(Demand::new(10, long)).await.map(|batch| batch.len()) });
    tokio::task::yield_now().await;
    bench.put(1).await?;
    match bench.returns("read_batch, when something had come,", waiting.join_next()).await? {
        Some(Ok(Ok(1..))) => {}
        answer => return Err(Rule::NothingLost.broken(format!("a message came, and read_batch said {answer:?}"))),
    }
    bench.close(&*input).await?;
    Ok(Support::Done)
}

pub(super) async fn sequential(mut bench: Bench<'_>) -> Result<Support, Failure> {
    let count = bench.messages();
    bench.put(count).await?;
    let input = bench.open().await?;
    let mut ledger = Ledger::default();
    bench.drain(&*input, &mut ledger, &bench.all(), Rule::NothingLost).await?;
    bench.silence(&*input, Rule::NothingTwice).await?;
    ledger.once(Rule::NothingTwice)?;
    ledger.in_order()?;
    bench.close(&*input).await?;
    Ok(Support::Done)
}

pub(super) async fn growing(mut bench: Bench<'_>) -> Result<Support, Failure> {
    let input = bench.open().await?;
    let mut ledger = Ledger::default();
    for _ in 0..bench.messages() / 4 {
        bench.put(4).await?;
        bench.drain(&*input, &mut ledger, &bench.all(), Rule::NothingLost).await?;
    }
    ledger.once(Rule::NothingTwice)?;
    ledger.in_order()?;
    bench.close(&*input).await?;
    Ok(Support::Done)
}

pub(super) async fn parallel(mut bench: Bench<'_>) -> Result<Support, Failure> {
    let count = bench.messages();
    bench.put(count).await?;
    let input = bench.open().await?;
    // Once a message has arrived, silence means that there are no more.
    let mut ledger = Ledger::default();
    let (messages, receipt) = bench.next(&*input, 1, Rule::NothingLost).await?.into_parts();
    ledger.take(&messages)?;
    bench.settle(&*input, receipt, Verdicts::ACK).await?;
    let mut readers = JoinSet::new();
    for _ in 0..4 {
        let (input, silence) = (Arc::clone(&input), bench.options.silence);
        readers.spawn(async move { read_alone(&input, silence).await });
    }
    while let Some(read) = readers.join_next().await {
        let messages = read.map_err(|error| Rule::NoErrors.broken(format!("a reader failed: {error}")))??;
        ledger.take(&messages)?;
    }
    // Messages that no reader received in time are not lost yet.
    bench.drain(&*input, &mut ledger, &bench.all(), Rule::NothingLost).await?;
    bench.silence(&*input, Rule::NothingTwice).await?;
    ledger.once(Rule::NothingTwice)?;
    bench.close(&*input).await?;
    Ok(Support::Done)
}

/// Reads until nothing comes for a while, and acks each batch in a task of its own.
async fn read_alone(input: &Arc<dyn Input>, silence: Duration) -> Result<Vec<Message>, Failure> {
    let mut came = Vec::new();
    let mut acks = JoinSet::new();
    loop {
        let batch = input
            .read_batch(Demand::new(3, silence))
            .await
            .map_err(|error| Rule::NoErrors.broken(format!("read_batch says: {error}")))?;
        if batch.is_empty() {
            break;
        }
        let (messages, receipt) = batch.into_parts();
        came.extend(messages);
        let input = Arc::clone(input);
        acks.spawn(async move { input.ack(receipt, Verdicts::ACK).await });
    }
    while let Some(ack) = acks.join_next().await {
        let failed = match ack {
            Ok(Ok(())) => continue,
            Ok(Err(error)) => error.to_string(),
            Err(error) => error.to_string(),
        };
        return Err(Rule::NoErrors.broken(format!("ack says: {failed}")));
    }
    Ok(came)
}

pub(super) async fn cancelled_reads(mut bench: Bench<'_>) -> Result<Support, Failure> {
    let count = bench.messages();
    let input = bench.open().await?;
    let mut ledger = Ledger::default();
    bench.put(count / 2).await?;
    let mut until = Instant::now() + bench.options.patience;
    for round in 0_u32.. {
        if round == 10 {
            // Some messages arrive while reads are dropped, too.
            bench.put(count - count / 2).await?;
        }
        // After this many wake-ups without a result the read is dropped.
        let mut polls = round % 6;
        let mut reading = pin!(input.read_batch(Demand::new(3, bench.options.patience)));
        let answer = std::future::poll_fn(|context| match reading.as_mut().poll(context) {
            Poll::Ready(answer) => Poll::Ready(Some(answer)),
            Poll::Pending if polls == 0 => Poll::Ready(None),
            Poll::Pending => {
                polls -= 1;
                Poll::Pending
            }
        });
        // The loop must not wait for wake-ups that never happen.
        let answer = tokio::time::timeout(Duration::from_millis(20), answer).await.ok().flatten();
        match answer {
            Some(Ok(batch)) if !batch.is_empty() => {
                let (messages, receipt) = batch.into_parts();
                ledger.take(&messages)?;
                bench.settle(&*input, receipt, Verdicts::ACK).await?;
                until = Instant::now() + bench.options.patience;
            }
            Some(Err(error)) => return Err(Rule::NoErrors.broken(format!("read_batch says: {error}"))),
            // This lets the input make progress.
            _ => tokio::time::sleep(Duration::from_millis(1)).await,
        }
        let missing = ledger.missing(&bench.all());
        if round > 30 && missing.is_none() {
            break;
        }
        if let Some(missing) = missing
            && Instant::now() > until
        {
            return Err(Rule::NothingLost.broken(format!("reads were dropped, and {missing}")));
        }
    }
    bench.silence(&*input, Rule::NothingTwice).await?;
    ledger.once(Rule::NothingTwice)?;
    ledger.in_order()?;
    bench.close(&*input).await?;
    Ok(Support::Done)
}

pub(super) async fn reconnect(mut bench: Bench<'_>) -> Result<Support, Failure> {
    let count = bench.messages();
    bench.put(count).await?;
    let input = bench.open().await?;
    let mut ledger = Ledger::default();
    let (messages, receipt) = bench.next(&*input, 3, Rule::NothingLost).await?.into_parts();
    let acked = ledger.take(&messages)?;
    bench.settle(&*input, receipt, Verdicts::ACK).await?;
    let out = bench.next(&*input, 3, Rule::NothingLost).await?;
    let out_ids = ledger.take(out.messages())?;
    if let Support::Unsupported(why) = bench.source.break_connection().await.map_err(harness)? {
        drop(out);
        bench.close(&*input).await?;
        return Ok(Support::Unsupported(why));
    }
    // A receipt from before the loss may be settled after it; the input decides whether it still counts.
    let (_, receipt) = out.into_parts();
    bench.settle(&*input, receipt, Verdicts::ACK).await?;
    let mut after = Ledger::default();
    // The batch in flight may have been acked in time.
    let mut newest = bench.all();
    newest.retain(|id| !acked.contains(id) && !out_ids.contains(id));
    let until = Instant::now() + bench.options.patience;
    while let Some(missing) = after.missing(&newest) {
        match bench.ask(&*input, Demand::new(7, Duration::from_millis(200))).await? {
            Ok(batch) if batch.is_empty() => tokio::time::sleep(Duration::from_millis(1)).await,
            Ok(batch) => {
                let (messages, receipt) = batch.into_parts();
                after.take(&messages)?;
                bench.settle(&*input, receipt, Verdicts::ACK).await?;
            }
            Err(InputError::NotConnected(_)) => {
                bench.connect(&*input).await.map_err(|failure| Rule::Reconnects.broken(failure.seen))?;
            }
            Err(InputError::BackOff { after, .. }) => tokio::time::sleep(after).await,
            Err(error) => return Err(Rule::Reconnects.broken(format!("read_batch says: {error}"))),
        }
        if Instant::now() > until {
            return Err(Rule::Reconnects.broken(missing));
        }
    }
    if let Some(again) = after.any_of(&acked) {
        return Err(Rule::NothingTwice.broken(format!("{again:?} was acked before the connection broke")));
    }
    after.once(Rule::NothingTwice)?;
    after.in_order()?;
    bench.close(&*input).await?;
    Ok(Support::Done)
}

pub(super) async fn end_of_input(mut bench: Bench<'_>) -> Result<Support, Failure> {
    let count = bench.messages();
    bench.put(count).await?;
    let input = bench.open().await?;
    if let Support::Unsupported(why) = bench.source.end().await.map_err(harness)? {
        bench.close(&*input).await?;
        return Ok(Support::Unsupported(why));
    }
    let mut ledger = Ledger::default();
    let mut held = Vec::new();
    while let Some(missing) = ledger.missing(&bench.all()) {
        let Some(batch) = bench.try_next(&*input, 7, bench.options.patience).await? else {
            return Err(Rule::NothingLost.broken(missing));
        };
        ledger.take(batch.messages())?;
        held.push(batch);
    }
    // Everything is read, and one batch isn't settled. It may have to be delivered again, so the input must not
    // end.
    let last = held.pop();
    for batch in held {
        let (_, receipt) = batch.into_parts();
        bench.settle(&*input, receipt, Verdicts::ACK).await?;
    }
    if let Err(error) = bench.ask(&*input, Demand::new(7, bench.options.silence)).await? {
        return Err(Rule::EndsOnceSettled.broken(format!("a batch was out, and read_batch said: {error}")));
    }
    drop(last);
    let mut again = Ledger::default();
    let until = Instant::now() + bench.options.patience;
    loop {
        match bench.ask(&*input, Demand::new(7, Duration::from_millis(200))).await? {
            Ok(batch) if batch.is_empty() => tokio::time::sleep(Duration::from_millis(1)).await,
            Ok(batch) => {
                let (messages, receipt) = batch.into_parts();
                again.take(&messages)?;
                bench.settle(&*input, receipt, Verdicts::ACK).await?;
            }
            Err(InputError::EndOfInput) => break,
            Err(error) => return Err(Rule::EndsOnceSettled.broken(format!("read_batch says: {error}"))),
        }
        if Instant::now() > until {
            return Err(Rule::EndsOnceSettled.broken("all is settled, and read_batch doesn't say EndOfInput"));
        }
    }
    if again.is_empty() {
        return Err(Rule::EndsOnceSettled.broken("it ended without delivering a nacked batch again"));
    }
    bench.close(&*input).await?;
    Ok(Support::Done)
}
