//! What goes wrong, and when?

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use tokio::task::JoinSet;
use tokio::time::{sleep, sleep_until};

use crate::links::State;
use crate::workers::{Fleet, LEASE};
use crate::writer::Writer;
use crate::{AnyError, Kind};

/// A fault.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    Kill,
    Pause,
    Table,
    Link,
    Clock,
    Rolling,
    More,
    Fewer,
    Split,
    Merge,
    Block,
}

/// Draws faults until it is time to stop.
pub struct Faults {
    kinds: Vec<Fault>,
    random: fastrand::Rng,
    start: Instant,
    until: Instant,
    /// How long outputs are blocked and the table is away.
    long: Duration,
    /// The tasks that hold up links while other faults are made.
    going_on: JoinSet<()>,
    /// The number of faults of each kind.
    made: BTreeMap<&'static str, u32>,
}

/// How a link is held up, for how long, and the name of that for the stream's link and the table's.
type Trouble = (State, Duration, [&'static str; 2]);

impl Faults {
    pub fn new(kinds: &BTreeSet<Kind>, seed: u64, start: Instant, until: Instant, clocks: bool) -> Self {
        let all = kinds.contains(&Kind::All);
        let mut faults = Vec::new();
        for (kind, made) in [
            (Kind::Kill, &[Fault::Kill][..]),
            (Kind::Pause, &[Fault::Pause]),
            (Kind::Table, &[Fault::Table]),
            (Kind::Link, &[Fault::Link]),
            (Kind::Clock, if clocks { &[Fault::Clock] } else { &[] }),
            (Kind::Rolling, &[Fault::Rolling]),
            (Kind::Scale, &[Fault::More, Fault::Fewer]),
            (Kind::Reshard, &[Fault::Split, Fault::Merge]),
            (Kind::Block, &[Fault::Block]),
        ] {
            if all || kinds.contains(&kind) {
                faults.extend(made);
            }
        }
        // These last as long as in production if there is time: a minute, two minutes.
        let whole = until.duration_since(start);
        let long = Duration::from_mins(1).min(whole / 8);
        Self {
            kinds: faults,
            random: fastrand::Rng::with_seed(seed),
            start,
            until,
            long,
            going_on: JoinSet::new(),
            made: BTreeMap::new(),
        }
    }

    /// Makes one fault after the other, each kind once before any comes again. Returns how many of each there were.
    /// Links may be held up meanwhile, but not while a worker is stopped gracefully, because that has to end well.
    pub async fn run(&mut self, fleet: &mut Fleet, writer: &Writer) -> Result<BTreeMap<&'static str, u32>, AnyError> {
        let mut deck = Vec::new();
        // All workers should have started.
        sleep(Duration::from_secs(10)).await;
        while !self.kinds.is_empty() {
            if deck.is_empty() {
                deck.clone_from(&self.kinds);
                self.random.shuffle(&mut deck);
            }
            let Some(fault) = deck.pop() else { break };
            // A long fault has to end before the end of the run.
            let takes = match fault {
                Fault::Block => 2 * self.long,
                Fault::Table => self.long,
                Fault::Pause | Fault::Rolling | Fault::Link => 3 * LEASE,
                _ => Duration::ZERO,
            };
            if Instant::now() + takes >= self.until {
                break;
            }
            eprintln!("{:>5.1} s  {fault:?}", self.start.elapsed().as_secs_f64());
            if matches!(fault, Fault::Link | Fault::Table | Fault::Rolling | Fault::Fewer) {
                self.wait().await;
            }
            self.make(fault, fleet, writer).await?;
            sleep(Duration::from_millis(self.random.u64(500..4000))).await;
        }
        self.wait().await;
        sleep_until(self.until.into()).await;
        Ok(std::mem::take(&mut self.made))
    }

    /// Waits until no link is held up any more.
    async fn wait(&mut self) {
        while self.going_on.join_next().await.is_some() {}
    }

    fn count(&mut self, name: &'static str) {
        *self.made.entry(name).or_default() += 1;
    }

    async fn make(&mut self, fault: Fault, fleet: &mut Fleet, writer: &Writer) -> Result<(), AnyError> {
        let one = self.random.usize(..fleet.workers.len());
        if matches!(fault, Fault::Kill | Fault::Pause | Fault::Fewer | Fault::Block) {
            eprintln!("         of {}", fleet.workers[one].name);
        }
        match fault {
            Fault::Kill => {
                self.count("killed");
                fleet.kill(one).await?;
                fleet.add().await?;
            }
            Fault::Pause => {
                self.count("stopped");
                let length = LEASE.mul_f64(0.2 + 2.0 * self.random.f64());
                fleet.pause(one, length).await?;
            }
            Fault::Table => {
                self.count("table_closed");
                let mut held_up = JoinSet::new();
                for worker in &fleet.workers {
                    held_up.spawn(worker.hold_up_table(State::Closed, self.long));
                }
                held_up.join_all().await;
            }
            Fault::Link => self.hold_up_links(fleet),
            Fault::Clock => {
                self.count("clock_jumps");
                // The clock is off by up to an hour in either direction, by seconds only, or right again.
                let seconds = match self.random.u32(..4) {
                    0 => self.random.i64(-10..=10),
                    1 => 0,
                    _ => self.random.i64(-3600..=3600),
                };
                let worker = &fleet.workers[one];
                eprintln!("         the clock of {} is {seconds:+} s off from now on", worker.name);
                worker.set_clock(seconds)?;
            }
            Fault::Rolling => {
                self.count("rolling_restarts");
                for _ in 0..fleet.workers.len() {
                    fleet.stop(0).await?;
                    fleet.add().await?;
                    sleep(Duration::from_millis(500)).await;
                }
            }
            Fault::More => {
                self.count("workers_added");
                fleet.add().await?;
            }
            Fault::Fewer if fleet.workers.len() > 2 => {
                self.count("workers_stopped");
                fleet.stop(one).await?;
            }
            Fault::Fewer => {}
            Fault::Split => {
                self.count("splits");
                writer.split(&mut self.random).await?;
            }
            Fault::Merge => {
                self.count("merges");
                writer.merge(&mut self.random).await?;
            }
            Fault::Block => {
                self.count("outputs_blocked");
                fleet.block(one, 2 * self.long).await;
            }
        }
        Ok(())
    }

    /// Holds up what is drawn for each worker: its link to the stream, to the table, both or none, each in its own way.
    fn hold_up_links(&mut self, fleet: &Fleet) {
        let certain = self.random.usize(..fleet.workers.len());
        for (at, worker) in fleet.workers.iter().enumerate() {
            let (stream, table) = match self.random.u32(if at == certain { 0..3 } else { 0..6 }) {
                0 => (true, false),
                1 => (false, true),
                2 => (true, true),
                _ => (false, false),
            };
            if stream {
                let (state, length, name) = self.draw_trouble();
                eprintln!("         {} of {} for {length:.1?}: {state:?}", name[0], worker.name);
                self.count(name[0]);
                self.going_on.spawn(worker.hold_up_stream(state, length));
            }
            if table {
                let (state, length, name) = self.draw_trouble();
                eprintln!("         {} of {} for {length:.1?}: {state:?}", name[1], worker.name);
                self.count(name[1]);
                self.going_on.spawn(worker.hold_up_table(state, length));
            }
        }
    }

    fn draw_trouble(&mut self) -> Trouble {
        let length = LEASE.mul_f64(0.2 + 2.0 * self.random.f64());
        match self.random.u32(..3) {
            0 => (State::Stalled, length, ["stream_stalled", "table_stalled"]),
            1 => (State::Closed, Duration::from_millis(self.random.u64(100..1000)), ["stream_cut", "table_cut"]),
            _ => {
                let delay = Duration::from_millis(self.random.u64(20..1500));
                (State::Slow(delay), length, ["stream_slow", "table_slow"])
            }
        }
    }
}
