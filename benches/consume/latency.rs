//! How long does an event take, from the server's write to `read_batch`?

use std::time::Duration;

use pipeline_plugin_api::{Demand, Verdicts};
use serde::{Deserialize, Serialize};
use serde_json::json;

use crate::client::Job;
use crate::process::Stage;
use crate::ways::Cost;
use crate::{AnyError, Arguments};
use kinesis_testkit::replay::stream::written_at;
use kinesis_testkit::replay::{Load, now_nanos};

/// The number of events to measure at each load.
const EVENTS: usize = 4000;

#[derive(Debug, Serialize, Deserialize)]
pub struct Latency {
    p50_micros: f64,
    p99_micros: f64,
    events: usize,
}

/// Prints the latency at shares of the most that the reader can take here.
pub fn measure(arguments: &Arguments) -> Result<(), AnyError> {
    let (stage, reading) = (Stage::new()?, arguments.reading);
    println!("| record bytes | event KiB | shards | load | MB/s | p50 ms | p99 ms |");
    println!("|---|---|---|---|---|---|---|");
    for record_bytes in &arguments.record_bytes {
        for shards in &arguments.shards {
            let mut load = Load { rising: true, ..arguments.load(*record_bytes, *shards) };
            let server = stage.serve(&load)?;
            let most: Cost = stage.read("ours", &server, &load, reading, arguments.megabytes << 20)?.said()?;
            drop(server);
            let most = most.bytes as f64 / most.seconds;
            for part in [0.1, 0.8] {
                load.rate = Some(most * part / *shards as f64);
                let server = stage.serve(&load)?;
                let latency: Latency = stage.read("latency", &server, &load, reading, 0)?.said()?;
                eprintln!("{}", json!({ "scene": "latency", "load": part, "latency": latency }));
                println!(
                    "| {record_bytes} | {} | {shards} | {:.0} % | {:.0} | {:.2} | {:.2} |",
                    arguments.event_bytes,
                    part * 100.0,
                    most * part / 1e6,
                    latency.p50_micros / 1e3,
                    latency.p99_micros / 1e3,
                );
            }
        }
    }
    Ok(())
}

/// Reads until enough events are measured.
pub async fn read(job: &Job) -> Result<Latency, AnyError> {
    let (input, _folder) = job.input().await?;
    let demand = Demand::new(usize::MAX, Duration::from_secs(10));
    let mut times = Vec::new();
    // Connections open during the first tenth.
    while times.len() < EVENTS + EVENTS / 10 {
        let (messages, receipt) = input.read_batch(demand).await?.into_parts();
        let now = now_nanos();
        times.extend(
            messages.iter().filter_map(|message| written_at(message.payload())).map(|at| now.saturating_sub(at)),
        );
        drop(messages);
        input.ack(receipt, Verdicts::ACK).await?;
    }
    input.close(Duration::ZERO).await?;
    let mut times = times.split_off(EVENTS / 10);
    times.sort_unstable();
    let at = |part: f64| times[(times.len() as f64 * part) as usize] as f64 / 1e3;
    Ok(Latency { p50_micros: at(0.5), p99_micros: at(0.99), events: times.len() })
}
