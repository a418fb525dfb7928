//! How much memory does a message hold that a host keeps, long after everything is acked?

use std::time::Duration;

use pipeline_plugin_api::{Demand, Verdicts};
use serde::{Deserialize, Serialize};

use crate::client::Job;
use crate::process::{Stage, Taken};
use crate::{AnyError, Arguments};

/// The result of a run.
#[derive(Debug, Serialize, Deserialize)]
pub struct Kept {
    messages: u64,
    /// The resident size before the first message was kept, and at the end.
    before_kib: u64,
    after_kib: u64,
}

/// Prints the memory behind each message that is kept: one of every event.
pub fn measure(arguments: &Arguments) -> Result<(), AnyError> {
    let (stage, reading) = (Stage::new()?, arguments.reading);
    println!("| record bytes | event KiB | messages kept | KiB of memory for each |");
    println!("|---|---|---|---|");
    for record_bytes in &arguments.record_bytes {
        let load = arguments.load(*record_bytes, arguments.shards[0]);
        let server = stage.serve(&load)?;
        let kept: Kept = stage.read("kept", &server, &load, reading, arguments.megabytes << 20)?.said()?;
        let each = kept.after_kib.saturating_sub(kept.before_kib) as f64 / kept.messages as f64;
        println!("| {record_bytes} | {} | {} | {each:.0} |", arguments.event_bytes, kept.messages);
    }
    Ok(())
}

/// Keeps the first message of each event, and acks all.
pub async fn keep(job: &Job) -> Result<Kept, AnyError> {
    let (input, _folder) = job.input().await?;
    let demand = Demand::new(usize::MAX, Duration::from_secs(10));
    let (mut bytes, mut kept, mut before) = (0, Vec::new(), None);
    while bytes < job.bytes {
        let (messages, receipt) = input.read_batch(demand).await?.into_parts();
        bytes += messages.iter().map(|message| message.payload().len() as u64).sum::<u64>();
        // During the first tenth, buffers reach their size.
        if bytes > job.bytes / 10 {
            before.get_or_insert_with(|| Taken::here().resident_kib);
            kept.extend(messages.into_iter().next());
        }
        input.ack(receipt, Verdicts::ACK).await?;
    }
    let after_kib = Taken::here().resident_kib;
    let before_kib = before.ok_or("nothing was read")?;
    input.close(Duration::ZERO).await?;
    Ok(Kept { messages: kept.len() as u64, before_kib, after_kib })
}
