//! Did every record arrive, and those of a key in order?

use std::collections::HashMap;
use std::time::{Duration, Instant};

/// Order is promised within a shard, and so within a partition key: there are so many.
pub const KEYS: u64 = 197;
/// Two workers' outputs are read by two tasks here, which may be so far apart.
const SLACK: Duration = Duration::from_millis(250);
/// So many records out of order are shown.
const SHOWN: u64 = 10;

/// The partition key of a record.
pub fn key(number: u64) -> u64 {
    number % KEYS
}

/// When a line was written, as far as is known: not before, and not after.
pub type Written = (Instant, Instant);

/// What arrived, and when first.
#[derive(Debug, Default)]
pub struct Check {
    first: HashMap<u64, (Written, String)>,
    duplicated: u64,
}

/// What came of it.
#[derive(Debug)]
pub struct Findings {
    pub lost: u64,
    pub out_of_order: u64,
    pub duplicated: u64,
}

impl Check {
    /// Takes a line of a worker's output.
    pub fn take(&mut self, line: &str, (after, before): Written, worker: &str) {
        let Ok(number) = line.trim().parse() else { return };
        match self.first.get_mut(&number) {
            None => {
                self.first.insert(number, ((after, before), worker.to_owned()));
            }
            Some((first, _)) => {
                *first = (after.min(first.0), before.min(first.1));
                self.duplicated += 1;
            }
        }
    }

    pub fn distinct(&self) -> u64 {
        self.first.len() as u64
    }

    /// A record is out of order when a later one of its key was written before it, whatever is not known of the times.
    pub fn result(&self, put: u64) -> Findings {
        let lost = (0..put).filter(|number| !self.first.contains_key(number)).count() as u64;
        let mut out_of_order = 0;
        for key in 0..KEYS {
            let mut latest: Option<(Instant, u64, &str)> = None;
            for number in (key..put).step_by(KEYS as usize) {
                let Some(((after, before), worker)) = self.first.get(&number) else { continue };
                if let Some((earlier, other, from)) = latest
                    && *before + SLACK < earlier
                {
                    out_of_order += 1;
                    if out_of_order <= SHOWN {
                        let by = earlier.duration_since(*before);
                        eprintln!("         {number} of {worker} came {by:?} before {other} of {from}");
                    }
                }
                if latest.is_none_or(|(earlier, ..)| *after > earlier) {
                    latest = Some((*after, number, worker));
                }
            }
        }
        Findings { lost, out_of_order, duplicated: self.duplicated }
    }
}
