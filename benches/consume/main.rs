//! What does reading cost? CPU seconds of the process against bytes of payload, beside what one would use otherwise.
//!
//! ```sh
//! cargo bench --bench consume                                  # the table
//! cargo bench --bench consume -- --record-bytes 1024 --shards 100
//! cargo bench --bench consume -- --blocked --shards 1000 --rounds 1
//! ```
//!
//! A server process replays event streams over TLS and HTTP/2; each way to read is a process of its own, measured alone;
//! all run in turns, several rounds, and the table has medians.

#![allow(clippy::print_stdout, clippy::print_stderr, reason = "a program for the terminal")]
#![allow(unreachable_pub, clippy::large_futures, reason = "its modules are nobody else's")]

mod client;
mod server;
mod stream;
#[path = "../../src/efo/wire/write.rs"]
#[allow(clippy::unwrap_used, reason = "lengths of frames that we make")]
mod write;

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader};
use std::path::PathBuf;
use std::process::{Command, Stdio};

use clap::{Parser, Subcommand};
use client::{Cost, Job};
use stream::Stream;

type AnyError = Box<dyn std::error::Error + Send + Sync>;

/// The ways to read, in the order of the table.
const PATHS: [&str; 4] = ["drain", "ours-decode", "ours", "sdk"];

#[derive(Debug, Parser)]
struct Arguments {
    #[command(subcommand)]
    role: Option<Role>,
    /// Sizes of records to try.
    #[arg(long, value_delimiter = ',', default_values_t = [200, 1024, 10_240])]
    record_bytes: Vec<usize>,
    #[arg(long, default_value_t = 4)]
    shards: usize,
    /// Payload of each run, in MiB.
    #[arg(long, default_value_t = 1024)]
    megabytes: u64,
    #[arg(long, default_value_t = 5)]
    rounds: usize,
    /// Only these ways to read.
    #[arg(long, value_delimiter = ',')]
    paths: Vec<String>,
    /// Window of a stream, in KiB, for all but `sdk`.
    #[arg(long, default_value_t = 512)]
    window: u32,
    /// Pool of the plugin, in MiB.
    #[arg(long, default_value_t = 256)]
    pool: u64,
    /// Instead of the table: the memory of a process whose output takes everything and acknowledges nothing.
    #[arg(long)]
    blocked: bool,
    /// Given by `cargo bench`.
    #[arg(long, hide = true)]
    bench: bool,
}

#[derive(Debug, Subcommand)]
enum Role {
    #[command(hide = true)]
    Serve {
        #[arg(long)]
        folder: PathBuf,
        #[arg(long)]
        shards: usize,
        #[arg(long)]
        record_bytes: usize,
        #[arg(long)]
        bytes_per_shard: u64,
    },
    #[command(hide = true)]
    Read {
        path: String,
        #[command(flatten)]
        job: Job,
        #[arg(long)]
        record_bytes: usize,
    },
}

fn main() -> Result<(), AnyError> {
    let arguments = Arguments::parse();
    let runtime = tokio::runtime::Runtime::new()?;
    match arguments.role {
        Some(Role::Serve { folder, shards, record_bytes, bytes_per_shard }) => {
            let load = server::Load { shards, stream: Stream::new(record_bytes), bytes_per_shard };
            let (certificate, key) = (std::fs::read(folder.join("cert"))?, std::fs::read(folder.join("key"))?);
            runtime.block_on(server::serve(load, &certificate, &key, |address| println!("{address}")))
        }
        Some(Role::Read { path, job, record_bytes }) => {
            let cost = match &*path {
                "drain" => {
                    let stream = Stream::new(record_bytes);
                    let ratio = stream.payload_bytes as f64 / stream.events[0].len() as f64;
                    runtime.block_on(client::drain(&job, ratio))?
                }
                "memory" => runtime.block_on(client::memory(&job, &Stream::new(record_bytes)))?,
                "ours-decode" => runtime.block_on(client::decode(&job))?,
                "ours" => runtime.block_on(client::ours(&job))?,
                "blocked" => runtime.block_on(client::blocked(&job))?,
                "sdk" => runtime.block_on(client::sdk_loop(&job))?,
                other => return Err(format!("no way to read is called {other}").into()),
            };
            println!("{}", serde_json::to_string(&cost)?);
            Ok(())
        }
        None => compare(&arguments),
    }
}

fn compare(arguments: &Arguments) -> Result<(), AnyError> {
    let folder = tempfile::tempdir()?;
    let key = rcgen::generate_simple_self_signed(["localhost".to_owned()])?;
    let certificate = folder.path().join("cert");
    std::fs::write(&certificate, key.cert.pem())?;
    std::fs::write(folder.path().join("key"), key.signing_key.serialize_pem())?;
    let program = std::env::current_exe()?;
    let chosen = |path: &&str| arguments.paths.is_empty() || arguments.paths.iter().any(|chosen| chosen == path);
    if arguments.blocked {
        println!("| record bytes | shards | pool MiB | pending MB | peak MiB | promised MiB |");
        println!("|---|---|---|---|---|---|");
    } else {
        println!("| record bytes | path | payload MB per CPU second | MB/s | peak MiB | against drain | against sdk |");
        println!("|---|---|---|---|---|---|---|");
    }
    let paths: Vec<_> = if arguments.blocked { vec!["blocked"] } else { PATHS.into_iter().filter(chosen).collect() };
    for record_bytes in &arguments.record_bytes {
        let bytes = arguments.megabytes << 20;
        // Somewhat more than is read, so that no shard runs dry before the last is done.
        let bytes_per_shard = bytes / arguments.shards as u64 * 2;
        let mut server = Command::new(&program)
            .arg("serve")
            .arg("--folder")
            .arg(folder.path())
            .args(["--shards", &arguments.shards.to_string()])
            .args(["--record-bytes", &record_bytes.to_string()])
            .args(["--bytes-per-shard", &bytes_per_shard.to_string()])
            .stdout(Stdio::piped())
            .spawn()?;
        let mut address = String::new();
        BufReader::new(server.stdout.take().ok_or("no pipe")?).read_line(&mut address)?;
        let port = address.trim().rsplit(':').next().ok_or("no port")?;
        let mut costs: BTreeMap<&str, Vec<Cost>> = BTreeMap::new();
        for _ in 0..arguments.rounds {
            for path in &paths {
                let output = Command::new(&program)
                    .args(["read", path, "--endpoint", &format!("https://localhost:{port}")])
                    .args(["--shards", &arguments.shards.to_string(), "--bytes", &bytes.to_string()])
                    .args(["--window", &(arguments.window << 10).to_string()])
                    .args(["--record-bytes", &record_bytes.to_string(), "--pool", &arguments.pool.to_string()])
                    .arg("--certificate")
                    .arg(&certificate)
                    .stderr(Stdio::inherit())
                    .output()?;
                let cost: Cost = serde_json::from_slice(&output.stdout)
                    .map_err(|_| format!("{path} failed: {}", String::from_utf8_lossy(&output.stdout)))?;
                eprintln!(
                    "{}",
                    serde_json::json!({ "path": path, "record_bytes": record_bytes, "shards": arguments.shards, "cost": cost })
                );
                costs.entry(path).or_default().push(cost);
            }
        }
        server.kill()?;
        server.wait()?;
        if let Some(costs) = costs.get("blocked") {
            // A constant, the pool, and a window for each stream.
            let promised =
                64.0 + arguments.pool as f64 + arguments.shards as f64 * f64::from(arguments.window) / 1024.0;
            println!(
                "| {record_bytes} | {} | {} | {:.0} | {:.0} | {promised:.0} |",
                arguments.shards,
                arguments.pool,
                median(costs, |cost| cost.bytes as f64 / 1e6),
                median(costs, |cost| cost.peak_kib as f64 / 1024.0),
            );
            continue;
        }
        let efficiency =
            |path: &str| costs.get(path).map(|costs| median(costs, |cost| cost.bytes as f64 / 1e6 / cost.cpu_seconds));
        for path in &paths {
            let ratio = |other: &str| match (efficiency(path), efficiency(other)) {
                (Some(this), Some(other)) => format!("{:.2}", this / other),
                _ => "-".to_owned(),
            };
            println!(
                "| {record_bytes} | {path} | {:.0} | {:.0} | {:.0} | {} | {} |",
                efficiency(path).unwrap_or_default(),
                median(&costs[path], |cost| cost.bytes as f64 / 1e6 / cost.seconds),
                median(&costs[path], |cost| cost.peak_kib as f64 / 1024.0),
                ratio("drain"),
                ratio("sdk"),
            );
        }
    }
    Ok(())
}

fn median(costs: &[Cost], of: impl Fn(&Cost) -> f64) -> f64 {
    let mut values: Vec<f64> = costs.iter().map(of).collect();
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}
