//! How much slower are the other shards when one shard stands still?

use std::collections::HashMap;
use std::time::{Duration, Instant};

use kinesis_input::KinesisRecord;
use pipeline_plugin_api::{Demand, Verdicts};
use serde::{Deserialize, Serialize};
use serde_json::json;

use crate::client::Job;
use crate::process::{Stage, median};
use crate::{AnyError, Arguments};
use kinesis_testkit::replay::Load;

/// The result of a run.
#[derive(Debug, Serialize, Deserialize)]
pub struct Speed {
    /// The payload of all shards but the first, in a second.
    others_per_second: f64,
    /// The payload of the first shard.
    first_bytes: u64,
}

/// Prints how fast the others are read beside a shard that is never acknowledged, and beside one that is.
pub fn measure(arguments: &Arguments) -> Result<(), AnyError> {
    let (stage, reading) = (Stage::new()?, arguments.reading);
    println!("| record bytes | shards | MB/s of each other shard | beside one that stands still | ratio |");
    println!("|---|---|---|---|---|");
    for record_bytes in &arguments.record_bytes {
        for shards in &arguments.shards {
            // This is the most that a shard can carry, so that the others gain nothing from one that stands still.
            let load = Load { rate: Some(2e6), ..arguments.load(*record_bytes, *shards) };
            let server = stage.serve(&load)?;
            let mut speeds: HashMap<&str, Vec<f64>> = HashMap::new();
            for _ in 0..arguments.rounds {
                for way in ["all", "slow"] {
                    let bytes = arguments.megabytes << 20;
                    let speed: Speed = stage.read(way, &server, &load, reading, bytes)?.said()?;
                    eprintln!("{}", json!({ "scene": "slow", "way": way, "shards": shards, "speed": speed }));
                    speeds.entry(way).or_default().push(speed.others_per_second / (*shards - 1) as f64 / 1e6);
                }
            }
            let of = |way: &str| median(speeds.get(way).into_iter().flatten().copied());
            println!(
                "| {record_bytes} | {shards} | {:.2} | {:.2} | {:.2} |",
                of("all"),
                of("slow"),
                of("slow") / of("all")
            );
        }
    }
    Ok(())
}

/// Reads this many bytes of the other shards; records of the first shard are acknowledged, or kept and never
/// acknowledged.
pub async fn read(job: &Job, stands_still: bool) -> Result<Speed, AnyError> {
    let (input, _folder) = job.input().await?;
    let demand = Demand::new(usize::MAX, Duration::from_secs(10));
    let (mut others, mut first_bytes, mut kept) = (0, 0, Vec::new());
    let mut start = None;
    while others < job.bytes {
        let (messages, receipt) = input.read_batch(demand).await?.into_parts();
        let bytes = messages.iter().map(|message| message.payload().len() as u64).sum::<u64>();
        let first = messages
            .first()
            .and_then(KinesisRecord::of)
            .is_some_and(|record| record.shard().as_str().ends_with("-000000000000"));
        if first {
            first_bytes += bytes;
        } else {
            others += bytes;
        }
        if first && stands_still {
            kept.push((messages, receipt));
        } else {
            drop(messages);
            input.ack(receipt, Verdicts::ACK).await?;
        }
        if others >= job.bytes / 10 {
            start.get_or_insert_with(|| (others, Instant::now()));
        }
    }
    let (before, start) = start.ok_or("nothing was read")?;
    let speed = Speed { others_per_second: (others - before) as f64 / start.elapsed().as_secs_f64(), first_bytes };
    drop(kept);
    input.close(Duration::ZERO).await?;
    Ok(speed)
}
