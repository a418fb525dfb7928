//! Reads a Kinesis stream with a fleet of processes under every fault that it can inject, and checks every record.
//!
//! This program starts a local Kinesis, a local DynamoDB and the workers as processes of their own; each worker is
//! `kinesis-input run`. It puts records, splits and merges shards, kills and pauses workers, closes the table's port,
//! lets connections to the stream and to the table fall silent, break or become slow, lets clocks jump, restarts all
//! workers one after the other, and blocks outputs.
//!
//! ```sh
//! cargo run --example fleet -- --workers 5 --minutes 2 --faults all --seed 1
//! cargo run --example fleet -- --faults rolling,scale,reshard
//! cargo run --example fleet -- --minutes 60 --other-binary ../before/target/release/kinesis-input
//! ```
//!
//! # What is judged
//!
//! The judge knows which records were put, which lines each worker wrote and when, and what was done to the workers. It
//! asks the workers nothing, and does not rely on what they say.
//!
//! - A record is *lost* if no worker wrote it within 90 s after the last new one.
//! - A record is *out of order* if it came for the first time after a later one of its key: by the order of the lines
//!   if one worker wrote both, and by time if two did.
//! - A record that comes again is *allowed* if each worker that was given it before may have had no chance to store it:
//!   if the worker was killed or paused, its link to the table held up, or its output not read, at any moment from one
//!   `lease_period` before the worker was given the record until `commit_period` + 1 s after that. A link to the table
//!   counts as held up until the worker has closed every connection that lost bytes, because a write may wait on it. If
//!   all programs of the machine stood still for a second or more, that counts for all workers.
//! - It is allowed too if the worker that writes it again was paused, or its output not read, and that ended less than
//!   2 s before: the line was already on its way. The same holds within a `lease_period` from when the link to its table
//!   was held up: another worker may take a shard by force, and this one learns it late, but its lease ends.
//! - Every other record that comes again is *not allowed*. So nothing may come again because a worker was stopped
//!   gracefully, restarted, added or asked for a shard, because a link to the stream was held up, or because a clock
//!   jumped, nor because something happened to the worker that is given the record again.
//! - When everything has arrived, the fleet is left alone for a while, and all workers stop gracefully. Then one more
//!   worker starts: nothing that it writes is allowed.
//!
//! It is not judged beyond that what a worker should have stored after it recovered.
//!
//! The run fails if any record is lost, out of order or came again though not allowed, if a line is not a record, if a
//! worker did not end well or left a lease, or if a stored position went back. A record takes 16 bytes, and the local
//! Kinesis keeps all of them, so a long run puts fewer records in a second: at most two million in all.
//!
//! - `servers`: the local services; `links`: the links to them; `workers`: the processes; `clocks`: their clocks;
//!   `writer`: puts and reshards; `faults`: what goes wrong; `check`: what arrived.

#![allow(clippy::print_stdout, clippy::print_stderr, reason = "a program for the terminal")]
#![allow(unreachable_pub, clippy::large_futures, reason = "its modules are for this program alone, and it runs once")]

mod check;
mod clocks;
mod faults;
mod links;
mod servers;
mod workers;
mod writer;

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use check::{Check, Hurt};
use clap::{Parser, ValueEnum};
use clocks::Clocks;
use faults::Faults;
use servers::{Server, Table};
use tokio::time::sleep;
use workers::{Fleet, LEASE, Setup};
use writer::Writer;

type AnyError = Box<dyn std::error::Error + Send + Sync>;

/// After this long without a new record, missing ones are lost.
const PATIENCE: Duration = Duration::from_secs(90);
/// The most records of a run: the local Kinesis keeps them in memory.
const MOST_RECORDS: u64 = 2_000_000;
/// The time that the machine may take to let a task run before it counts as standing still.
const STANDS_STILL: Duration = Duration::from_secs(1);

/// Reads a Kinesis stream with a fleet of processes, under every fault that can be injected.
#[derive(Debug, Parser)]
struct Arguments {
    /// The number of workers.
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=50))]
    workers: u32,
    /// How long records are put and faults injected.
    #[arg(long, default_value_t = 2)]
    minutes: u32,
    /// The faults: `all`, `none`, or some of them, separated by commas.
    #[arg(long, default_value = "all", value_delimiter = ',')]
    faults: Vec<Kind>,
    /// The seed of the faults.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Records put in a second; fewer in a run so long that it would put more than two million.
    #[arg(long, default_value_t = 1000)]
    rate: u64,
    /// The number of shards of the stream at the start.
    #[arg(long, default_value_t = 8)]
    shards: i32,
    /// Another build of `kinesis-input`, which every second worker uses.
    #[arg(long)]
    other_binary: Option<PathBuf>,
    /// `libfaketimeMT.so.1`, which makes clocks jump, if it is not where it is usually installed.
    #[arg(long)]
    faketime: Option<PathBuf>,
    /// Act as one of the other processes.
    #[arg(long, hide = true)]
    role: Option<Role>,
    #[arg(long, hide = true)]
    pipeline: Option<PathBuf>,
}

/// The kinds of faults.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, ValueEnum)]
enum Kind {
    All,
    None,
    /// SIGKILL, and a new process.
    Kill,
    /// SIGSTOP for longer than the lease.
    Pause,
    /// The table's port is closed for all.
    Table,
    /// Connections of single workers to the stream, the table or both are cut, slow, or fall silent.
    Link,
    /// The wall clock of a worker jumps, and their monotonic clocks are far apart.
    Clock,
    /// All workers are restarted gracefully, one after the other.
    Rolling,
    /// One worker is added, and one is stopped.
    Scale,
    /// Shards are split and merged.
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
    let clocks = if kinds.contains(&Kind::All) || kinds.contains(&Kind::Clock) {
        Clocks::find(arguments.faketime.as_deref()).await?
    } else {
        Clocks::default()
    };
    let (can_jump, apart) = (clocks.can_jump(), clocks.apart);
    let clocks_wanted = kinds.contains(&Kind::All) || kinds.contains(&Kind::Clock);
    if clocks_wanted && !can_jump {
        eprintln!("clock jumps: not available here (no libfaketime)");
    }
    if clocks_wanted && !apart {
        eprintln!("monotonic clocks of their own: not available here (no time namespaces)");
    }
    let start = Instant::now();
    let folder = tempfile::tempdir()?;
    let kinesis = Server::start("kinesis").await?;
    let dynamodb = Server::start("dynamodb").await?;
    let seconds = 60 * u64::from(arguments.minutes);
    let rate = arguments.rate.min(MOST_RECORDS / seconds.max(1));
    let writer = Writer::new(format!("http://{}", kinesis.address), arguments.shards, rate).await?;
    let check = Arc::new(Mutex::new(Check::new(start)));
    let other = arguments.other_binary.as_ref().map(std::fs::canonicalize).transpose()?;
    let setup =
        Setup { folder: folder.path().to_owned(), kinesis: kinesis.address, table: dynamodb.address, other, clocks };
    let mut fleet = Fleet::new(setup, Arc::clone(&check), arguments.seed);
    for _ in 0..arguments.workers {
        fleet.add().await?;
    }
    let table = Table::new(&dynamodb.address.to_string());
    let moves = table.clone();
    let until = start + Duration::from_secs(seconds);
    let mut faults = Faults::new(&kinds, arguments.seed, start, until, can_jump);
    let working = async {
        let (put, made) = tokio::try_join!(writer.run(until), faults.run(&mut fleet, &writer))?;
        all_arrived(&check, put, start).await;
        // Workers that were hurt have time to recover, so that the stop has no excuse.
        sleep(3 * LEASE).await;
        fleet.stop_all().await?;
        let unclean = fleet.start_last_worker(3 * LEASE).await?;
        Ok::<_, AnyError>((put, made, unclean))
    };
    let (put, made, unclean) = tokio::select! {
        done = working => done?,
        () = async { moves.count_moves().await } => return Err("nothing counts moves".into()),
        () = watch_the_machine(&check) => return Err("nothing watches the machine".into()),
    };
    let held = table.held().await?;
    let check = check.lock().unwrap_or_else(PoisonError::into_inner);
    let result = check.result(put);
    let mut kinds: Vec<String> = made.iter().map(|(kind, count)| format!("{kind}={count}")).collect();
    if clocks_wanted && !can_jump {
        kinds.push("clock_jumps=not_available_here".to_owned());
    }
    let kinds = kinds.join(" ");
    println!(
        "records_put={put} records_read={} lost={} out_of_order={} duplicates_allowed={} duplicates_not_allowed={} \
         unknown_lines={} longest_unstored={:.1}s unclean_stops={unclean} leases_left={held} steps_back={} moves={} \
         workers={} shards={} faults={} {kinds} clocks_apart={apart} machine_stood_still={} seed={} seconds={:.0}",
        check.distinct(),
        result.lost,
        result.out_of_order,
        result.duplicates_allowed,
        result.duplicates_not_allowed,
        result.unknown,
        result.longest_unstored.as_secs_f64(),
        table.steps_back(),
        table.moves(),
        arguments.workers,
        table.shards(),
        made.values().sum::<u32>(),
        check.stood_still(),
        arguments.seed,
        start.elapsed().as_secs_f64(),
    );
    Ok(result.is_ok() && held == 0 && table.steps_back() == 0 && unclean == 0)
}

/// Notifies the judge when the machine does not run this program, and therefore not the workers.
async fn watch_the_machine(check: &Mutex<Check>) {
    let mut last = Instant::now();
    loop {
        sleep(Duration::from_millis(100)).await;
        let now = Instant::now();
        if now.duration_since(last) > STANDS_STILL {
            let mut check = check.lock().unwrap_or_else(PoisonError::into_inner);
            let hurt = check.hurt(Hurt::Machine, None, last);
            check.healed(hurt, now);
        }
        last = now;
    }
}

/// Waits until everything that was put has arrived, or nothing new comes any more.
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
