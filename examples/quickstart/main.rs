//! Reads a Kinesis stream from end to end, with nothing but this machine.
//!
//! This program starts a local Kinesis, creates a stream, puts records at full speed, splits a shard and merges two on
//! the way, reads everything by enhanced fan-out or by polling as `kinesis-input run` does, and checks every record.
//!
//! ```sh
//! cargo run --example quickstart
//! cargo run --example quickstart -- --records 200000 --kill
//! cargo run --example quickstart -- --kpl --kill
//! cargo run --example quickstart -- --poll
//! ```
//!
//! - `local`: the local Kinesis; `writer`: puts and reshards; `reader`: the pipeline; `check`: what arrived.

#![allow(clippy::print_stdout, clippy::print_stderr, reason = "a program for the terminal")]
#![allow(unreachable_pub, clippy::large_futures, reason = "its modules are used only here, and it runs once")]

mod check;
mod reader;
mod writer;

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use aws_sdk_kinesis::error::DisplayErrorContext;
use check::{Check, Tail};
use clap::Parser;
use ferrokinesis::store::StoreOptions;
use indicatif::{HumanCount, ProgressBar, ProgressStyle};
use kinesis_testkit::local_kinesis::LocalKinesis;
use reader::{Metrics, Numbers, Reader};
use tokio::sync::watch;
use writer::{REGION, STREAM, Writer};

type AnyError = Box<dyn std::error::Error + Send + Sync>;

/// How often the output is read.
const POLL_EVERY: Duration = Duration::from_millis(20);
/// How often progress is printed where there is no terminal.
const REPORT_EVERY: Duration = Duration::from_secs(2);
/// After this long without a new record the run ends, and missing records are lost.
const PATIENCE: Duration = Duration::from_mins(1);
/// The approximate size of an event of the service.
const EVENT_BYTES: usize = 1 << 20;

/// Reads a Kinesis stream from end to end, with nothing but this machine.
#[expect(clippy::struct_excessive_bools, reason = "each is a flag of the command line")]
#[derive(Debug, Parser)]
struct Arguments {
    /// The number of records.
    #[arg(long, default_value_t = 100_000, value_parser = clap::value_parser!(u64).range(1..))]
    records: u64,
    /// The size of each record.
    #[arg(long, default_value_t = 256, value_parser = clap::value_parser!(u32).range(24..=1_048_576))]
    record_bytes: u32,
    /// The number of shards of the stream at the start.
    #[arg(long, default_value_t = 4, value_parser = clap::value_parser!(i32).range(1..=500))]
    shards: i32,
    /// Where the records go: a file, or `drop` to discard them. The default is a file in a temporary folder.
    #[arg(long, value_name = "FILE|drop")]
    output: Option<PathBuf>,
    /// Pack records into aggregates, as the Kinesis Producer Library does.
    #[arg(long)]
    kpl: bool,
    /// Poll the shards instead of reading them by enhanced fan-out.
    #[arg(long)]
    poll: bool,
    /// Stop gracefully half-way, and continue from the checkpoint file.
    #[arg(long, conflicts_with = "kill")]
    restart: bool,
    /// Read in a child process, kill it half-way, and continue with another.
    #[arg(long)]
    kill: bool,
    /// `enhanced_fan_out.max_pending_records` of the pipeline.
    #[arg(long, default_value_t = 50_000)]
    max_pending_records: u64,
    /// Act as the child process that reads this pipeline.
    #[arg(long, hide = true)]
    read_as_child: Option<PathBuf>,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let logs = tracing_subscriber::fmt().with_max_level(tracing::Level::WARN).with_writer(std::io::stderr);
    logs.init();
    let done = tokio::runtime::Runtime::new().map_err(AnyError::from).and_then(|runtime| {
        let metrics = Metrics::install()?;
        match arguments.read_as_child.clone() {
            Some(pipeline) => runtime.block_on(reader::be_child(pipeline, metrics)).map(|()| true),
            None => runtime.block_on(quickstart(&arguments, metrics)),
        }
    });
    match done {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("error: {}", DisplayErrorContext(&*error));
            ExitCode::FAILURE
        }
    }
}

/// The paths and parts of one run.
struct Run<'a> {
    arguments: &'a Arguments,
    pipeline: PathBuf,
    /// What arrived, as far as it is known.
    check: Arc<Mutex<Check>>,
    /// The output, if it is a file.
    tail: Option<Tail>,
    put: watch::Receiver<u64>,
    bar: ProgressBar,
    reported: Instant,
}

async fn quickstart(arguments: &Arguments, metrics: Metrics) -> Result<bool, AnyError> {
    let folder = tempfile::tempdir()?;
    let record_bytes = arguments.record_bytes as usize;
    let output = arguments.output.clone().unwrap_or_else(|| folder.path().join("records"));
    let drops = output == Path::new("drop");
    if drops && arguments.kill {
        return Err("`--output drop` keeps nothing that could be checked after `--kill`".into());
    }
    if !drops && output.metadata().is_ok_and(|found| found.len() > 0) {
        return Err(format!("{} exists already", output.display()).into());
    }

    let options = StoreOptions {
        create_stream_ms: 0,
        update_stream_ms: 0,
        shard_limit: 2 * arguments.shards as u32 + 2,
        subscribe_to_shard_event_record_limit: (EVENT_BYTES / record_bytes).clamp(1, 10_000),
        aws_region: REGION.to_owned(),
        ..StoreOptions::default()
    };
    let server = LocalKinesis::start(options).await?;
    let pipeline = folder.path().join("pipeline.yaml");
    std::fs::write(&pipeline, yaml(arguments, &server.endpoint(), folder.path(), &output))?;
    let start = Instant::now();
    let writer = Writer::new(server.endpoint(), arguments.shards, record_bytes, arguments.kpl).await?;
    let mut run = Run {
        arguments,
        pipeline,
        check: Arc::new(Mutex::new(Check::new(arguments.records, record_bytes))),
        tail: (!drops).then(|| Tail::new(output)),
        put: writer.progress(),
        bar: progress_bar(arguments.records),
        reported: start,
    };
    let ((), numbers) = tokio::try_join!(writer.run(arguments.records), run.read())?;
    let numbers = numbers.and(&metrics.read());
    run.bar.finish_and_clear();
    Ok(report(&run, &numbers, start.elapsed()))
}

impl Run<'_> {
    /// Reads everything. Half-way the reader is stopped or killed, and another one continues.
    async fn read(&mut self) -> Result<Numbers, AnyError> {
        let mut before = Numbers::default();
        if self.arguments.restart || self.arguments.kill {
            let mut reader = self.reader()?;
            self.until(&mut reader, self.arguments.records / 2).await?;
            before = if self.arguments.kill { reader.kill().await? } else { reader.stop().await? };
            self.read_output()?;
            if let Some(tail) = &mut self.tail {
                tail.cut_incomplete_line()?;
            }
        }
        let mut reader = self.reader()?;
        self.until(&mut reader, self.arguments.records).await?;
        let after = reader.stop().await?;
        self.read_output()?;
        Ok(before.and(&after))
    }

    fn reader(&self) -> Result<Reader, AnyError> {
        if self.arguments.kill {
            return Reader::start_child(&self.pipeline);
        }
        let witness = self.tail.is_none().then(|| Arc::clone(&self.check));
        Reader::start(&self.pipeline, witness)
    }

    /// Waits until this many different records arrived, or nothing comes any more.
    async fn until(&mut self, reader: &mut Reader, count: u64) -> Result<(), AnyError> {
        let mut last = (self.read_output()?, Instant::now());
        loop {
            tokio::select! {
                error = reader.failed() => return Err(error),
                () = tokio::time::sleep(POLL_EVERY) => {}
            }
            let arrived = self.read_output()?;
            if arrived >= count {
                return Ok(());
            }
            let put = *self.put.borrow();
            if arrived > last.0 || put < self.arguments.records {
                last = (arrived, Instant::now());
            } else if last.1.elapsed() > PATIENCE {
                eprintln!("nothing came for {PATIENCE:?}");
                return Ok(());
            }
        }
    }

    /// Reads the output. Returns how many different records have arrived.
    fn read_output(&mut self) -> Result<u64, AnyError> {
        let mut check = self.check.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(tail) = &mut self.tail {
            tail.read_into(&mut check)?;
        }
        let put = *self.put.borrow();
        self.bar.set_position(check.distinct);
        self.bar.set_message(format!("{} put", HumanCount(put)));
        if self.bar.is_hidden() && self.reported.elapsed() >= REPORT_EVERY {
            self.reported = Instant::now();
            eprintln!("{put} put, {} read", check.distinct);
        }
        Ok(check.distinct)
    }
}

/// The pipeline, as its author would write it.
fn yaml(arguments: &Arguments, endpoint: &str, folder: &Path, output: &Path) -> String {
    let output = if output == Path::new("drop") {
        "drop".to_owned()
    } else {
        format!("\n  file: {{ path: {:?}, format: raw }}", output.display().to_string())
    };
    format!(
        "input:
  aws_kinesis:
    streams: [{STREAM}]
    region: {REGION}
    endpoint: {endpoint}
    credentials: {{ id: quickstart, secret: quickstart }}
    checkpoint_file: {:?}
    commit_period: 100ms
    enhanced_fan_out:
      enabled: {}
      max_pending_records: {}
output: {output}
",
        folder.join("checkpoints").display().to_string(),
        !arguments.poll,
        arguments.max_pending_records,
    )
}

fn progress_bar(records: u64) -> ProgressBar {
    let style = ProgressStyle::with_template("{bar:40} {human_pos} of {human_len} read, {msg} {elapsed}");
    ProgressBar::new(records).with_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()))
}

/// Prints the result. Returns whether every promise was kept.
fn report(run: &Run<'_>, numbers: &Numbers, took: Duration) -> bool {
    let check = run.check.lock().unwrap_or_else(PoisonError::into_inner);
    let put = *run.put.borrow();
    if check.broken > 0 {
        eprintln!("{} records arrived that were never put", check.broken);
    }
    let shards = numbers.shards.len() as u64;
    println!(
        "records_put={put} records_acked={} lost={} duplicated={} out_of_order={} shards_read={} resubscribes={} \
         peak_pending_records={} peak_pending_bytes={} seconds={:.1}",
        numbers.acked,
        check.lost(),
        check.duplicated,
        check.out_of_order,
        shards,
        numbers.subscriptions.saturating_sub(shards),
        numbers.peak_records,
        numbers.peak_bytes,
        took.as_secs_f64(),
    );
    let expected = run.arguments.kill || check.duplicated == 0;
    put == run.arguments.records && check.lost() == 0 && check.out_of_order == 0 && check.broken == 0 && expected
}
