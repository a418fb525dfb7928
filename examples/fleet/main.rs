//! Reads a Kinesis stream with a fleet of processes, while everything goes wrong that can, and checks every record.
//!
//! Starts a local Kinesis, a local DynamoDB and the workers as processes of their own; each worker is `kinesis-input run`.
//! Puts records, splits and merges shards, kills and pauses workers, closes the table's port, restarts all of them one
//! after the other, and blocks outputs.
//!
//! ```sh
//! cargo run --release --example fleet -- --workers 5 --minutes 2 --faults all --seed 1
//! cargo run --release --example fleet -- --faults rolling,scale,reshard
//! ```
//!
//! - `servers`: the local services; `workers`: the processes; `writer`: puts and reshards; `faults`: what goes wrong;
//!   `check`: what arrived.

#![allow(clippy::print_stdout, clippy::print_stderr, reason = "a program for the terminal")]
#![allow(unreachable_pub, clippy::large_futures, reason = "its modules are nobody else's, and it runs once")]

mod check;
mod faults;
mod servers;
mod workers;
mod writer;

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use check::Check;
use clap::{Parser, ValueEnum};
use faults::{Fault, Faults};
use servers::{Proxy, Server, Table};
use tokio::time::sleep;
use workers::{Fleet, Place};
use writer::Writer;

type AnyError = Box<dyn std::error::Error + Send + Sync>;

/// Without a new record for so long, what is missing is lost.
const PATIENCE: Duration = Duration::from_secs(90);

/// Reads a Kinesis stream with a fleet of processes, while everything goes wrong that can.
#[derive(Debug, Parser)]
struct Arguments {
    /// How many workers.
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=50))]
    workers: u32,
    /// How long records are put and faults made.
    #[arg(long, default_value_t = 2)]
    minutes: u32,
    /// What goes wrong: `all`, `none`, or some of them, separated by commas.
    #[arg(long, default_value = "all", value_delimiter = ',')]
    faults: Vec<Kind>,
    /// Draws what happens when.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Records put in a second.
    #[arg(long, default_value_t = 1000)]
    rate: u64,
    /// With how many shards the stream begins.
    #[arg(long, default_value_t = 8)]
    shards: i32,
    /// Be one of the other processes.
    #[arg(long, hide = true)]
    role: Option<Role>,
    #[arg(long, hide = true)]
    pipeline: Option<PathBuf>,
}

/// What may be asked to go wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, ValueEnum)]
enum Kind {
    All,
    None,
    /// SIGKILL, and a new process.
    Kill,
    /// SIGSTOP for longer than the lease.
    Pause,
    /// The table's port is closed.
    Table,
    /// All workers are restarted softly, one after the other.
    Rolling,
    /// One worker more, and one fewer.
    Scale,
    /// Splits and merges.
    Reshard,
    /// An output takes nothing.
    Block,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Role {
    Kinesis,
    Dynamodb,
    Worker,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    if let (Some(Role::Worker), Some(pipeline)) = (arguments.role, &arguments.pipeline) {
        let arguments = ["kinesis-input", "run", "--log-level", "warn"].map(std::ffi::OsString::from);
        return kinesis_input_cli::command::main_with(arguments.into_iter().chain([pipeline.clone().into_os_string()]))
            .into();
    }
    let done = tokio::runtime::Runtime::new().map_err(AnyError::from).and_then(|runtime| {
        runtime.block_on(async {
            match arguments.role {
                Some(Role::Kinesis) => servers::be_kinesis().await,
                Some(Role::Dynamodb) => servers::be_dynamodb().await,
                _ => run(&arguments).await,
            }
        })
    });
    match done {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("error: {}", aws_sdk_kinesis::error::DisplayErrorContext(&*error));
            ExitCode::FAILURE
        }
    }
}

async fn run(arguments: &Arguments) -> Result<bool, AnyError> {
    let kinds: BTreeSet<Kind> = arguments.faults.iter().copied().collect();
    let start = Instant::now();
    let folder = tempfile::tempdir()?;
    let kinesis = Server::start("kinesis").await?;
    let dynamodb = Server::start("dynamodb").await?;
    let proxy = Proxy::start(dynamodb.address).await?;
    let writer = Writer::new(format!("http://{}", kinesis.address), arguments.shards, arguments.rate).await?;
    let check = Arc::new(Mutex::new(Check::default()));
    let place = Place {
        folder: folder.path().to_owned(),
        kinesis: format!("http://{}", kinesis.address),
        table: format!("http://{}", proxy.address),
    };
    let mut fleet = Fleet::new(place, Arc::clone(&check));
    for _ in 0..arguments.workers {
        fleet.add()?;
    }
    let table = Table::new(&dynamodb.address.to_string());
    let moves = table.clone();
    let counting = async move { moves.count_moves().await };
    let until = start + Duration::from_secs(60 * u64::from(arguments.minutes));
    let mut faults = Faults::new(&kinds, arguments.seed, start, until);
    let working = async {
        let (put, made) = tokio::try_join!(writer.run(until), faults.run(&mut fleet, &proxy, &writer))?;
        all_arrived(&check, put, start).await;
        Ok::<_, AnyError>((put, made))
    };
    let (put, made) = tokio::select! {
        done = working => done?,
        () = counting => return Err("nobody counts moves".into()),
    };
    let unclean = fleet.stop_all().await?;
    let held = table.held().await?;
    let check = check.lock().unwrap_or_else(PoisonError::into_inner);
    let result = check.result(put);
    let gentle = [Fault::Rolling, Fault::More, Fault::Fewer, Fault::Split, Fault::Merge];
    let duplicates_allowed = made.iter().any(|fault| !gentle.contains(fault));
    println!(
        "records_put={put} lost={} out_of_order={} duplicated={} faults={} moves={} workers={} shards={} leases_left={} \
         steps_back={} unclean_stops={unclean} seed={} seconds={:.0}",
        result.lost,
        result.out_of_order,
        result.duplicated,
        made.len(),
        table.moves(),
        arguments.workers,
        table.shards(),
        held,
        table.steps_back(),
        arguments.seed,
        start.elapsed().as_secs_f64(),
    );
    let duplicates = duplicates_allowed || result.duplicated == 0;
    Ok(result.lost == 0
        && result.out_of_order == 0
        && held == 0
        && table.steps_back() == 0
        && unclean == 0
        && duplicates)
}

/// Waits until all that was put has arrived, or nothing new comes any more.
async fn all_arrived(check: &Mutex<Check>, put: u64, start: Instant) {
    let mut last = (0, Instant::now());
    loop {
        let distinct = check.lock().unwrap_or_else(PoisonError::into_inner).distinct();
        if distinct >= put {
            return;
        }
        if distinct > last.0 {
            last = (distinct, Instant::now());
        } else if last.1.elapsed() > PATIENCE {
            eprintln!("{:>5.1} s  nothing new came for {PATIENCE:?}", start.elapsed().as_secs_f64());
            return;
        }
        sleep(Duration::from_millis(200)).await;
    }
}
