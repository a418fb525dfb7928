//! How much memory does a process hold whose output takes nothing, or takes it late? Measured from outside.

use std::collections::VecDeque;
use std::thread::sleep;
use std::time::Duration;

use pipeline_plugin_api::{Demand, Verdicts};
use serde_json::json;
use tokio::time::{Instant, timeout_at};

use crate::client::{Job, Reading};
use crate::process::Stage;
use crate::{AnyError, Arguments};

/// Nothing came for this long: everything stands still.
const QUIET: Duration = Duration::from_secs(5);

/// Prints the peak resident size, beside what is promised.
pub fn watch(arguments: &Arguments) -> Result<(), AnyError> {
    let (stage, reading) = (Stage::new()?, arguments.reading);
    println!("| record bytes | shards | acks | pool MiB | minutes | most resident MiB | promised MiB |");
    println!("|---|---|---|---|---|---|---|");
    for record_bytes in &arguments.record_bytes {
        for shards in &arguments.shards {
            let load = arguments.load(*record_bytes, *shards);
            let server = stage.serve(&load)?;
            let mut reader = stage.read("blocked", &server, &load, reading, u64::MAX)?;
            let acks = if reading.late == 0 {
                // The reader reports when nothing moves any more.
                reader.line()?;
                "never".to_owned()
            } else {
                format!("{} s late", reading.late)
            };
            let mut most = 0;
            for _ in 0..arguments.minutes * 60 {
                sleep(Duration::from_secs(1));
                most = most.max(reader.takes().resident_kib);
            }
            let most = most.max(reader.takes().peak_kib) as f64 / 1024.0;
            let promised = promised_mib(&reading, *shards);
            eprintln!(
                "{}",
                json!({ "scene": "blocked", "record_bytes": record_bytes, "shards": shards, "most_mib": most })
            );
            println!(
                "| {record_bytes} | {shards} | {acks} | {} | {} | {most:.0} | {promised:.0} |",
                reading.pool, arguments.minutes,
            );
        }
    }
    Ok(())
}

/// Prints the peak resident size while all shards send as fast as they are read, beside what is promised.
pub fn flood(arguments: &Arguments) -> Result<(), AnyError> {
    let (stage, reading) = (Stage::new()?, arguments.reading);
    println!("| record bytes | shards | pool MiB | window KiB | minutes | most resident MiB | promised MiB |");
    println!("|---|---|---|---|---|---|---|");
    for record_bytes in &arguments.record_bytes {
        for shards in &arguments.shards {
            let load = arguments.load(*record_bytes, *shards);
            let server = stage.serve(&load)?;
            let reader = stage.read("flood", &server, &load, reading, u64::MAX)?;
            sleep(Duration::from_secs(60 * arguments.minutes));
            let most = reader.takes().peak_kib as f64 / 1024.0;
            let promised = promised_mib(&reading, *shards);
            println!(
                "| {record_bytes} | {shards} | {} | {} | {} | {most:.0} | {promised:.0} |",
                reading.pool, reading.window, arguments.minutes,
            );
        }
    }
    Ok(())
}

/// The bound of a process: a constant, the pool, and a window for each subscription.
fn promised_mib(reading: &Reading, shards: usize) -> f64 {
    // What is polled has its space before it is asked for.
    let windows = if reading.poll.is_some() { 0.0 } else { shards as f64 * f64::from(reading.window) / 1024.0 };
    64.0 + reading.pool as f64 + windows
}

/// Reads and acks everything, indefinitely.
pub async fn take_all(job: &Job) -> Result<(), AnyError> {
    let (input, _folder) = job.input().await?;
    let demand = Demand::new(usize::MAX, Duration::from_secs(1));
    loop {
        let (messages, receipt) = input.read_batch(demand).await?.into_parts();
        drop(messages);
        input.ack(receipt, Verdicts::ACK).await?;
    }
}

/// Reads everything, and acks it late, or never.
pub async fn hold(job: &Job) -> Result<(), AnyError> {
    let (input, _folder) = job.input().await?;
    let late = Duration::from_secs(job.reading.late);
    let mut held = VecDeque::new();
    let mut reported = false;
    loop {
        let wait = match held.front() {
            Some((due, _, _)) if !late.is_zero() => *due,
            _ => Instant::now() + QUIET,
        };
        let demand = Demand::new(usize::MAX, Duration::from_hours(1));
        match timeout_at(wait, input.read_batch(demand)).await {
            Ok(batch) => {
                let (messages, receipt) = batch?.into_parts();
                // A queue in front of a blocked output holds them in the same way.
                held.push_back((Instant::now() + late, messages, receipt));
            }
            Err(_) if late.is_zero() => {
                if !reported {
                    println!("\"blocked\"");
                    reported = true;
                }
            }
            Err(_) => {
                if let Some((_, messages, receipt)) = held.pop_front() {
                    drop(messages);
                    input.ack(receipt, Verdicts::ACK).await?;
                }
            }
        }
    }
}
