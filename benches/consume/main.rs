//! What does reading cost? CPU seconds of the process against bytes of payload, beside the alternatives.
//!
//! ```sh
//! cargo bench --bench consume                                  # the table
//! cargo bench --bench consume -- --record-bytes 1024 --shards 10,100,1000
//! cargo bench --bench consume -- --record-bytes 10240 --aggregated 200 --paths ours
//! cargo bench --bench consume -- --shards 100 --paths ours,poll-json,poll-cbor,sdk-poll
//! cargo bench --bench consume -- --measure idle --shards 1000 --poll cbor
//! cargo bench --bench consume -- --program target/release/kinesis-input --paths ours,program-drop,program-file
//! cargo bench --bench consume -- --peers                       # and consumers in other languages
//! cargo bench --bench consume -- --measure blocked --shards 1000
//! cargo bench --bench consume -- --measure flood --shards 1000
//! cargo bench --bench consume -- --measure idle --shards 1,1000
//! cargo bench --bench consume -- --measure latency
//! cargo bench --bench consume -- --measure kept --event-bytes 1024
//! cargo bench --bench consume -- --measure slow --shards 20
//! ```
//!
//! A server process replays event streams over TLS and HTTP/2; each reader is a process of its own, measured alone.

#![allow(clippy::print_stdout, clippy::print_stderr, reason = "a program for the terminal")]
#![allow(clippy::disallowed_methods, reason = "a blocking wait on a thread needs no runtime")]
#![allow(unreachable_pub, clippy::large_futures, reason = "its modules are used only here")]

mod blocked;
mod client;
mod idle;
mod kept;
mod latency;
mod peers;
mod process;
mod program;
mod slow;
mod throughput;
mod ways;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;

use clap::{Parser, Subcommand};
use client::{Encoding, Job, Reading};
use kinesis_testkit::replay::Load;
use kinesis_testkit::replay::stream::Shape;
use process::Ports;
use tokio::net::TcpListener;

type AnyError = Box<dyn std::error::Error + Send + Sync>;

#[derive(Debug, Parser)]
struct Arguments {
    #[command(subcommand)]
    role: Option<Role>,
    /// Sizes of records to try.
    #[arg(long, value_delimiter = ',', default_values_t = [200, 1024, 10_240])]
    record_bytes: Vec<usize>,
    /// Payload of an event, in KiB.
    #[arg(long, default_value_t = 256)]
    event_bytes: usize,
    /// Each record is a KPL aggregate of user records of this size.
    #[arg(long)]
    aggregated: Option<usize>,
    /// Numbers of shards to try.
    #[arg(long, value_delimiter = ',', default_values_t = [4])]
    shards: Vec<usize>,
    /// Payload of each run, in MiB.
    #[arg(long, default_value_t = 1024)]
    megabytes: u64,
    #[arg(long, default_value_t = 5)]
    rounds: usize,
    /// Only these ways of reading.
    #[arg(long, value_delimiter = ',')]
    paths: Vec<String>,
    #[command(flatten)]
    reading: Reading,
    /// How long to watch, in the measurements that run for minutes.
    #[arg(long, default_value_t = 1)]
    minutes: u64,
    /// Add readers in other languages to the table, built with `go` and `mvn` where these are installed.
    #[arg(long)]
    peers: bool,
    /// The program, built beforehand: `--paths` then knows `program-drop`, `program-poll` and `program-file`.
    #[arg(long)]
    program: Option<PathBuf>,
    /// What to measure.
    #[arg(long, value_enum, default_value_t = Measure::Throughput)]
    measure: Measure,
    /// Passed by `cargo bench`.
    #[arg(long, hide = true)]
    bench: bool,
}

#[derive(Debug, Clone, Copy, clap::ValueEnum)]
enum Measure {
    /// Payload per CPU second of each way of reading.
    Throughput,
    /// Memory of a process whose output takes everything and acknowledges nothing, or late.
    Blocked,
    /// Memory of a process whose shards send as fast as they are read, and whose output takes everything.
    Flood,
    /// The cost of idle shards.
    Idle,
    /// The time that an event takes, from the server's write to `read_batch`.
    Latency,
    /// Memory behind a message that is kept for long.
    Kept,
    /// The effect of a shard that stands still on the others.
    Slow,
}

#[derive(Debug, Subcommand)]
enum Role {
    #[command(hide = true)]
    Serve { folder: PathBuf, load: String },
    #[command(hide = true)]
    Read { way: String, job: String },
}

impl Arguments {
    /// Shards that send as fast as the windows allow, indefinitely.
    fn load(&self, record_bytes: usize, shards: usize) -> Load {
        let (event_bytes, user_record_bytes) = (self.event_bytes << 10, self.aggregated);
        let shape = Shape { record_bytes, event_bytes, user_record_bytes };
        Load { shape, shards, bytes_per_shard: u64::MAX, rate: None, rising: false }
    }
}

fn main() -> Result<(), AnyError> {
    let mut arguments = Arguments::parse();
    match arguments.role.take() {
        Some(Role::Serve { folder, load }) => runtime()?.block_on(serve(folder, &load)),
        Some(Role::Read { way, job }) => {
            let job: Job = serde_json::from_str(&job)?;
            // The reader runs on a thread of the runtime, as in an engine, not on the one that waits for it.
            let said = runtime()?.block_on(async { tokio::spawn(async move { read(&way, &job).await }).await })??;
            println!("{said}");
            // The measuring process looks at this one from outside before it ends.
            std::io::stdin().read_line(&mut String::new())?;
            Ok(())
        }
        None => match arguments.measure {
            Measure::Throughput => throughput::compare(&arguments),
            Measure::Blocked => blocked::watch(&arguments),
            Measure::Flood => blocked::flood(&arguments),
            Measure::Idle => idle::watch(&arguments),
            Measure::Latency => latency::measure(&arguments),
            Measure::Kept => kept::measure(&arguments),
            Measure::Slow => slow::measure(&arguments),
        },
    }
}

fn runtime() -> std::io::Result<tokio::runtime::Runtime> {
    tokio::runtime::Runtime::new()
}

async fn serve(folder: PathBuf, load: &str) -> Result<(), AnyError> {
    let (certificate, key) = (std::fs::read(folder.join("cert"))?, std::fs::read(folder.join("key"))?);
    // Leases are lost with the process: each run finds none.
    let table = TcpListener::bind(("127.0.0.1", 0)).await?;
    let table_port = table.local_addr()?.port();
    tokio::spawn(dynoxide::server::serve_on(table, dynoxide::Database::memory()?));
    let report = |address: SocketAddr| -> Result<(), AnyError> {
        println!("{}", serde_json::to_string(&Ports { port: address.port(), table_port })?);
        Ok(())
    };
    kinesis_testkit::replay::serve(serde_json::from_str(load)?, &certificate, &key, report, Arc::default()).await
}

/// Reads in one way. Returns the result as text.
async fn read(way: &str, job: &Job) -> Result<String, AnyError> {
    let cost = match way {
        "drain" => ways::drain(job).await?,
        "memory" => ways::memory(job).await?,
        "ours-decode" => ways::decode(job).await?,
        "ours" => ways::ours(job).await?,
        "sdk" => ways::sdk_loop(job).await?,
        "poll-json" => ways::ours(&job.polling(Encoding::Json)).await?,
        "poll-cbor" => ways::ours(&job.polling(Encoding::Cbor)).await?,
        "sdk-poll" => ways::sdk_poll(job).await?,
        "kept" => return Ok(serde_json::to_string(&kept::keep(job).await?)?),
        "latency" => return Ok(serde_json::to_string(&latency::read(job).await?)?),
        "all" | "slow" => return Ok(serde_json::to_string(&slow::read(job, way == "slow").await?)?),
        // These run until they are killed.
        "blocked" => return blocked::hold(job).await.map(|()| String::new()),
        "flood" => return blocked::take_all(job).await.map(|()| String::new()),
        "idle-ours" => return idle::ours(job).await.map(|()| String::new()),
        "idle-sdk" => return idle::sdk(job).await.map(|()| String::new()),
        other => return Err(format!("no way to read is called {other}").into()),
    };
    Ok(serde_json::to_string(&cost)?)
}
