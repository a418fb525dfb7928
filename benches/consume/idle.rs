//! What do idle shards cost, and how long does it take until all of them are read?

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread::sleep;
use std::time::{Duration, Instant};

use kinesis_input::KinesisRecord;
use pipeline_plugin_api::{Demand, Verdicts};
use serde::{Deserialize, Serialize};
use serde_json::json;
use tokio::task::JoinSet;

use crate::client::Job;
use crate::process::Stage;
use crate::{AnyError, Arguments};
use kinesis_testkit::replay::Load;
use kinesis_testkit::replay::stream::Shape;

/// The time until memory that the start needed is freed, and everything is quiet.
const SETTLE: Duration = Duration::from_secs(10);

#[derive(Debug, Serialize, Deserialize)]
struct Started {
    /// The time from the first call until a record of every shard was read.
    seconds: f64,
}

/// Prints CPU time and memory of readers of shards that each send one record and then nothing.
pub fn watch(arguments: &Arguments) -> Result<(), AnyError> {
    let (stage, reading) = (Stage::new()?, arguments.reading);
    println!("| shards | path | all read after s | CPU, % of a core | resident MiB | KiB for each shard |");
    println!("|---|---|---|---|---|---|");
    for path in ["ours", "sdk"]
        .into_iter()
        .filter(|path| arguments.paths.is_empty() || arguments.paths.iter().any(|asked| asked == path))
    {
        let mut least = None;
        for shards in &arguments.shards {
            let load = Load {
                shape: Shape { record_bytes: 16, event_bytes: 16, user_record_bytes: None },
                shards: *shards,
                bytes_per_shard: 1,
                rate: None,
                rising: false,
            };
            let server = stage.serve(&load)?;
            let mut reader = stage.read(&format!("idle-{path}"), &server, &load, reading, 0)?;
            let started: Started = reader.said()?;
            sleep(SETTLE);
            let (before, begin) = (reader.takes(), Instant::now());
            sleep(Duration::from_mins(arguments.minutes));
            let (after, seconds) = (reader.takes(), begin.elapsed().as_secs_f64());
            let cpu = (after.cpu_seconds - before.cpu_seconds) / seconds * 100.0;
            // The difference to the first row: what the process takes anyway is not caused by the shards.
            let (fewer, base) = *least.get_or_insert((*shards, after.resident_kib));
            let each = (after.resident_kib as f64 - base as f64) / (*shards as f64 - fewer as f64);
            eprintln!(
                "{}",
                json!({ "scene": "idle", "path": path, "shards": shards, "cpu_percent": cpu, "resident_kib": after.resident_kib })
            );
            println!(
                "| {shards} | {path} | {:.1} | {cpu:.2} | {:.0} | {} |",
                started.seconds,
                after.resident_kib as f64 / 1024.0,
                if *shards == fewer { "-".to_owned() } else { format!("{each:.1}") },
            );
        }
    }
    Ok(())
}

/// The plugin.
pub async fn ours(job: &Job) -> Result<(), AnyError> {
    let begin = Instant::now();
    let (input, _folder) = job.input().await?;
    let demand = Demand::new(usize::MAX, Duration::from_mins(1));
    let mut seen = HashSet::new();
    loop {
        let (messages, receipt) = input.read_batch(demand).await?.into_parts();
        for message in &messages {
            seen.insert(KinesisRecord::of(message).ok_or("a record of another input")?.shard().to_string());
        }
        let all = seen.len() == job.load.shards && !messages.is_empty();
        drop(messages);
        input.ack(receipt, Verdicts::ACK).await?;
        if all {
            report(begin)?;
        }
    }
}

/// The loop that a user would write.
pub async fn sdk(job: &Job) -> Result<(), AnyError> {
    let begin = Instant::now();
    let client = job.sdk(job.sdk_http()?);
    let seen = Arc::new(AtomicUsize::new(0));
    let mut shards = JoinSet::new();
    for shard in 0..job.load.shards {
        let (client, seen, all) = (client.clone(), Arc::clone(&seen), job.load.shards);
        shards.spawn(async move {
            let mut answer = crate::ways::subscribe(&client, shard)?.send().await?;
            while let Some(event) = answer.event_stream.recv().await? {
                if event.as_subscribe_to_shard_event().is_ok_and(|event| !event.records().is_empty())
                    && seen.fetch_add(1, Ordering::Relaxed) + 1 == all
                {
                    report(begin)?;
                }
            }
            Ok::<_, AnyError>(())
        });
    }
    while let Some(ended) = shards.join_next().await {
        ended??;
    }
    Ok(())
}

fn report(begin: Instant) -> Result<(), AnyError> {
    println!("{}", serde_json::to_string(&Started { seconds: begin.elapsed().as_secs_f64() })?);
    Ok(())
}
