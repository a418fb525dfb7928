//! Did every record arrive, and those of a key in order?

use std::collections::HashMap;
use std::time::{Duration, Instant};

/// Order is promised within a shard, and so within a partition key: there are so many.
pub const KEYS: u64 = 197;
/// Two workers' outputs are read by two tasks here, which may be so far apart.
const SLACK: Duration = Duration::from_millis(250);

/// The partition key of a record.
pub fn key(number: u64) -> u64 {
    number % KEYS
}

/// What arrived, and when first.
#[derive(Debug, Default)]
pub struct Check {
    first: HashMap<u64, Instant>,
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
    /// Takes a line of an output, which was written at that time or a moment before.
    pub fn take(&mut self, line: &str, at: Instant) {
        let Ok(number) = line.trim().parse() else { return };
        match self.first.get_mut(&number) {
            None => {
                self.first.insert(number, at);
            }
            Some(first) => {
                *first = at.min(*first);
                self.duplicated += 1;
            }
        }
    }

    pub fn distinct(&self) -> u64 {
        self.first.len() as u64
    }

    /// A record is out of order when a later one of its key arrived clearly before it.
    pub fn result(&self, put: u64) -> Findings {
        let lost = (0..put).filter(|number| !self.first.contains_key(number)).count() as u64;
        let mut out_of_order = 0;
        for key in 0..KEYS {
            let mut latest: Option<Instant> = None;
            for at in (key..put).step_by(KEYS as usize).filter_map(|number| self.first.get(&number)) {
                out_of_order += u64::from(latest.is_some_and(|latest| *at + SLACK < latest));
                latest = latest.max(Some(*at));
            }
        }
        Findings { lost, out_of_order, duplicated: self.duplicated }
    }
}
