//! The soak: the whole plugin in the simulated world, seed after seed, with every promise checked.
//!
//! `cargo run --release -p kinesis-simulator --bin soak -- --seeds 1000 --minutes-virtual 60`. A seed that fails is
//! named with the command that replays it and writes down everything that happened.
#![allow(clippy::print_stdout, clippy::print_stderr)]

mod disk;
mod log;
mod oracle;
mod plan;
mod signal;
mod worker;
mod world;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, mpsc};
use std::time::{Duration, Instant};

use kinesis_simulator::faults::PANIC;

use crate::log::Log;
use crate::oracle::Broken;
use crate::plan::Plan;
use crate::world::Report;

const HELP: &str = "soak: the Kinesis input in a simulated world, and an oracle that checks its promises

  --seeds N             how many seeds (default 20)
  --from SEED           the first one (default: by the time of day)
  --minutes-virtual M   how long each goes wrong, in virtual minutes (default 60)
  --threads N           how many run at a time (default: as many as there are cores)
  --hangs-after S       real seconds after which a seed counts as hanging (default: 5 for each virtual
                        minute, 300 at least)
  --until-broken        stop at the first seed that fails
  --seed SEED           replay one, and write down everything that happened
  --log FILE            where to (default soak-SEED.log)
  --trace               with the plugin's own log lines on standard error";

/// The interval of progress reports.
const PROGRESS: Duration = Duration::from_mins(1);

/// The options of the command line.
struct Asked {
    seeds: u64,
    from: Option<u64>,
    minutes: u64,
    threads: usize,
    hangs_after: Option<Duration>,
    until_broken: bool,
    seed: Option<u64>,
    log: Option<PathBuf>,
    trace: bool,
}

fn asked() -> Result<Option<Asked>, String> {
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let mut asked = Asked {
        seeds: 20,
        from: None,
        minutes: 60,
        threads: cores,
        hangs_after: None,
        until_broken: false,
        seed: None,
        log: None,
        trace: false,
    };
    let mut words = std::env::args().skip(1);
    while let Some(word) = words.next() {
        let mut value = || words.next().ok_or_else(|| format!("{word} needs a value"));
        let number = |text: String| text.parse::<u64>().map_err(|_| format!("{text} is no number"));
        match word.as_str() {
            "--seeds" => asked.seeds = number(value()?)?,
            "--from" => asked.from = Some(number(value()?)?),
            "--minutes-virtual" => asked.minutes = number(value()?)?,
            "--threads" => asked.threads = number(value()?)?.max(1) as usize,
            "--hangs-after" => asked.hangs_after = Some(Duration::from_secs(number(value()?)?)),
            "--until-broken" => asked.until_broken = true,
            "--seed" => asked.seed = Some(number(value()?)?),
            "--log" => asked.log = Some(value()?.into()),
            "--trace" => asked.trace = true,
            "--help" | "-h" => return Ok(None),
            other => return Err(format!("{other} is no option")),
        }
    }
    Ok(Some(asked))
}

fn main() -> ExitCode {
    quiet_panics();
    match asked() {
        Ok(None) => {
            println!("{HELP}");
            ExitCode::SUCCESS
        }
        Ok(Some(asked)) => match asked.seed {
            Some(seed) => replay(seed, &asked),
            None => soak(&asked),
        },
        Err(error) => {
            eprintln!("{error}\n\n{HELP}");
            ExitCode::from(2)
        }
    }
}

/// Silences the panics that faults cause.
fn quiet_panics() {
    let usual = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        let asked_for = panic.payload().downcast_ref::<String>().is_some_and(|said| said == PANIC);
        if !asked_for {
            usual(panic);
        }
    }));
}

fn length(asked: &Asked) -> Duration {
    Duration::from_secs(60 * asked.minutes)
}

/// Runs one seed and writes down what happened.
fn replay(seed: u64, asked: &Asked) -> ExitCode {
    if asked.trace {
        tracing_subscriber::fmt()
            .with_writer(std::io::stderr)
            .with_max_level(tracing::Level::DEBUG)
            .without_time()
            .init();
    }
    let path = asked.log.clone().unwrap_or_else(|| format!("soak-{seed}.log").into());
    let plan = Plan::draw(seed, length(asked));
    println!("{plan:#?}");
    let report = Log::to(&path).map_err(|error| error.to_string()).and_then(|log| world::run(plan, log));
    match report {
        Ok(report) => {
            let fingerprint = report.fingerprint.unwrap_or_default();
            println!("{} written, fingerprint {fingerprint:016x}", path.display());
            let mut total = Total::default();
            total.add(&report, asked.minutes);
            println!("{}", total.line(1));
            ExitCode::from(u8::from(!report.violations.is_empty()))
        }
        Err(error) => {
            eprintln!("{error}");
            ExitCode::from(2)
        }
    }
}

/// A message from a thread that runs seeds.
enum Message {
    Begins(u64),
    Ends(u64, Result<Report, String>),
}

/// Runs seed after seed on all threads.
fn soak(asked: &Asked) -> ExitCode {
    let by_time =
        || std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).map_or(1, |time| time.as_secs());
    let first = asked.from.unwrap_or_else(by_time);
    println!("seeds {first} to {}, {} virtual minutes each", first + asked.seeds.saturating_sub(1), asked.minutes);
    let begun = Instant::now();
    let next = Arc::new(AtomicU64::new(0));
    let (sender, messages) = mpsc::channel();
    for _ in 0..asked.threads {
        let (next, sender, seeds, length) = (Arc::clone(&next), sender.clone(), asked.seeds, length(asked));
        std::thread::spawn(move || {
            loop {
                let at = next.fetch_add(1, Ordering::Relaxed);
                // Nothing receives messages any more once a seed hangs.
                if at >= seeds || sender.send(Message::Begins(first + at)).is_err() {
                    return;
                }
                let report = world::run(Plan::draw(first + at, length), Log::default());
                if sender.send(Message::Ends(first + at, report)).is_err() {
                    return;
                }
            }
        });
    }
    drop(sender);
    let hangs_after = asked.hangs_after.unwrap_or_else(|| Duration::from_secs((5 * asked.minutes).max(300)));
    let (mut total, mut running) = (Total::default(), BTreeMap::new());
    let mut shown = begun;
    loop {
        match messages.recv_timeout(Duration::from_secs(1)) {
            Ok(Message::Begins(seed)) => {
                running.insert(seed, Instant::now());
            }
            Ok(Message::Ends(seed, report)) => {
                running.remove(&seed);
                match report {
                    Ok(report) => total.add(&report, asked.minutes),
                    Err(error) => {
                        println!("seed {seed}: {error}");
                        total.broken_seeds.push(seed);
                    }
                }
            }
            Err(mpsc::RecvTimeoutError::Timeout) => {}
            Err(mpsc::RecvTimeoutError::Disconnected) => break,
        }
        // A seed makes no progress in virtual time. Its thread can't be stopped, but the program ends.
        if let Some((seed, _)) = running.iter().find(|(_, begun)| begun.elapsed() > hangs_after) {
            total.broken_seeds.push(*seed);
            println!("seed {seed} is broken 1 times. Hangs at 0: no end after {hangs_after:?}");
            break;
        }
        if shown.elapsed() >= PROGRESS {
            shown = Instant::now();
            eprintln!("{} of {} seeds after {} s", total.seeds, asked.seeds, begun.elapsed().as_secs());
        }
        if asked.until_broken && total.is_broken() {
            break;
        }
    }
    println!("in {} s", begun.elapsed().as_secs());
    println!("{}", total.line(total.seeds));
    ExitCode::from(u8::from(total.is_broken()))
}

/// The sum of all runs.
#[derive(Debug, Default)]
struct Total {
    seeds: u64,
    elapsed: Duration,
    records: u64,
    duplicated: u64,
    faults: u64,
    reshards: u64,
    takeovers: u64,
    moves: u64,
    unread: u64,
    expired: u64,
    streams: u64,
    broken_seeds: Vec<u64>,
    broken: BTreeMap<Broken, u64>,
}

impl Total {
    fn add(&mut self, report: &Report, minutes: u64) {
        self.seeds += 1;
        self.elapsed += report.elapsed;
        self.records += report.counts.records;
        self.duplicated += report.counts.duplicates;
        self.faults += report.faults + report.events;
        self.reshards += report.reshards;
        self.takeovers += report.takeovers;
        self.moves += report.counts.moves;
        self.unread += report.unread;
        self.expired += report.counts.expired;
        self.streams += report.counts.streams;
        for violation in &report.violations {
            *self.broken.entry(violation.broken).or_default() += 1;
        }
        if let Some(first) = report.violations.first() {
            self.broken_seeds.push(report.seed);
            println!("seed {} is broken {} times. {first}", report.seed, report.violations.len());
            println!(
                "  cargo run --release -p kinesis-simulator --bin soak -- --seed {} --minutes-virtual {minutes}",
                report.seed
            );
        }
    }

    fn is_broken(&self) -> bool {
        !self.broken_seeds.is_empty()
    }

    /// The last line may be all that is kept of a run.
    fn seeds_that_failed(&self) -> String {
        let seeds = self.broken_seeds.iter().map(u64::to_string).collect::<Vec<_>>().join(",");
        if seeds.is_empty() { seeds } else { format!(" broken_seeds={seeds}") }
    }

    fn line(&self, seeds: u64) -> String {
        let broken = |what: Broken| self.broken.get(&what).copied().unwrap_or_default();
        format!(
            "seeds={seeds} virtual_hours={:.1} records={} faults={} reshards={} takeovers={} moves={} unread={} expired={} streams={} duplicated={} lost={} \
             out_of_order={} wrong_duplicates={} over_bound={} unfenced={} failed={} stalled={} hasty={} leaked={} unbalanced={}{}",
            self.elapsed.as_secs_f64() / 3600.0,
            self.records,
            self.faults,
            self.reshards,
            self.takeovers,
            self.moves,
            self.unread,
            self.expired,
            self.streams,
            self.duplicated,
            broken(Broken::Lost),
            broken(Broken::OutOfOrder),
            broken(Broken::Duplicated),
            broken(Broken::OverBound),
            broken(Broken::Unfenced),
            broken(Broken::Failed),
            broken(Broken::Stalled),
            broken(Broken::Hasty),
            broken(Broken::Leaked),
            broken(Broken::Unbalanced),
            self.seeds_that_failed(),
        )
    }
}
