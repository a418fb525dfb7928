//! What goes wrong, and when?

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use tokio::time::{sleep, sleep_until};

use crate::servers::Proxy;
use crate::workers::{Fleet, LEASE};
use crate::writer::Writer;
use crate::{AnyError, Kind};

/// Something that goes wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    Kill,
    Pause,
    Table,
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
}

impl Faults {
    pub fn new(kinds: &BTreeSet<Kind>, seed: u64, start: Instant, until: Instant) -> Self {
        let all = kinds.contains(&Kind::All);
        let mut faults = Vec::new();
        for (kind, made) in [
            (Kind::Kill, &[Fault::Kill][..]),
            (Kind::Pause, &[Fault::Pause]),
            (Kind::Table, &[Fault::Table]),
            (Kind::Rolling, &[Fault::Rolling]),
            (Kind::Scale, &[Fault::More, Fault::Fewer]),
            (Kind::Reshard, &[Fault::Split, Fault::Merge]),
            (Kind::Block, &[Fault::Block]),
        ] {
            if all || kinds.contains(&kind) {
                faults.extend(made);
            }
        }
        // As long as they are in life where there is time: a minute, two minutes.
        let whole = until.duration_since(start);
        let long = Duration::from_mins(1).min(whole / 8);
        Self { kinds: faults, random: fastrand::Rng::with_seed(seed), start, until, long }
    }

    /// Makes one after the other, each kind once before any comes again; returns those that were made.
    pub async fn run(&mut self, fleet: &mut Fleet, proxy: &Proxy, writer: &Writer) -> Result<Vec<Fault>, AnyError> {
        let mut made = Vec::new();
        let mut deck = Vec::new();
        // All should have begun.
        sleep(Duration::from_secs(10)).await;
        while !self.kinds.is_empty() {
            if deck.is_empty() {
                deck.clone_from(&self.kinds);
                self.random.shuffle(&mut deck);
            }
            let Some(fault) = deck.pop() else { break };
            // What takes long has to be over before the end.
            let takes = match fault {
                Fault::Block => 2 * self.long,
                Fault::Table => self.long,
                Fault::Pause | Fault::Rolling => 2 * LEASE,
                _ => Duration::ZERO,
            };
            if Instant::now() + takes >= self.until {
                break;
            }
            eprintln!("{:>5.1} s  {fault:?}", self.start.elapsed().as_secs_f64());
            self.make(fault, fleet, proxy, writer).await?;
            made.push(fault);
            sleep(Duration::from_millis(self.random.u64(500..4000))).await;
        }
        sleep_until(self.until.into()).await;
        Ok(made)
    }

    async fn make(&mut self, fault: Fault, fleet: &mut Fleet, proxy: &Proxy, writer: &Writer) -> Result<(), AnyError> {
        let one = self.random.usize(..fleet.workers.len());
        match fault {
            Fault::Kill => {
                fleet.kill(one).await?;
                fleet.add()?;
            }
            Fault::Pause => {
                fleet.workers[one].signal("STOP").await?;
                sleep(LEASE.mul_f64(1.2 + self.random.f64())).await;
                fleet.workers[one].signal("CONT").await?;
            }
            Fault::Table => {
                proxy.set_open(false);
                sleep(self.long).await;
                proxy.set_open(true);
            }
            Fault::Rolling => {
                for _ in 0..fleet.workers.len() {
                    fleet.stop(0).await?;
                    fleet.add()?;
                    sleep(Duration::from_millis(500)).await;
                }
            }
            Fault::More => fleet.add()?,
            Fault::Fewer if fleet.workers.len() > 2 => fleet.stop(one).await?,
            Fault::Fewer => {}
            Fault::Split => writer.split(&mut self.random).await?,
            Fault::Merge => writer.merge(&mut self.random).await?,
            Fault::Block => {
                fleet.workers[one].block(true);
                sleep(2 * self.long).await;
                fleet.workers[one].block(false);
            }
        }
        Ok(())
    }
}
