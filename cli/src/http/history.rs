//! How have rates and lag developed in the last half hour?
//!
//! A sample is taken every few seconds and kept in a ring, so the memory is bounded. Of each shard only the last counts
//! are kept, and they go with the shard.

use std::collections::{HashMap, VecDeque};
use std::time::Duration;

use tokio::time::Instant;

use super::status::{PerSecond, Shard, Status};

/// How often a sample is taken.
pub(crate) const SAMPLE_EVERY: Duration = Duration::from_secs(5);
/// How long samples are kept.
pub(crate) const KEPT: Duration = Duration::from_mins(30);
/// The number of samples that are kept.
const SAMPLES: usize = (KEPT.as_secs() / SAMPLE_EVERY.as_secs()) as usize;

/// One sample.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Sample {
    pub(crate) at: Instant,
    /// The lag in seconds; `None` while nothing was connected.
    pub(crate) lag: Option<f64>,
    /// What was read and acknowledged since the sample before.
    pub(crate) rates: PerSecond,
}

/// The name of a stream, and the id of a shard.
type Key = (String, String);

/// The rates between the last two samples.
#[derive(Debug, Clone, Default)]
pub(crate) struct Rates {
    all: PerSecond,
    by_shard: HashMap<Key, PerSecond>,
}

impl Rates {
    /// Adds the rates to a status.
    pub(crate) fn add_to(&self, mut status: Status) -> Status {
        for input in &mut status.inputs {
            for shard in &mut input.shards {
                shard.rates = self.of(&shard.stream, &shard.shard);
            }
            input.rates = self.of_all();
        }
        status
    }

    /// The rates of one shard, as far as they are known.
    fn of(&self, stream: &str, shard: &str) -> PerSecond {
        self.by_shard.get(&(stream.to_owned(), shard.to_owned())).copied().unwrap_or_default()
    }

    /// The sums over all shards; known once two samples were taken.
    fn of_all(&self) -> PerSecond {
        self.all
    }
}

/// The counts of one shard at a sample.
#[derive(Debug, Clone, Copy, Default)]
struct Counts {
    read_records: u64,
    read_bytes: u64,
    acked_records: u64,
}

/// The samples of the last half hour.
#[derive(Debug, Default)]
pub(crate) struct History {
    samples: VecDeque<Sample>,
    rates: Rates,
    /// When the counts were taken.
    counted_at: Option<Instant>,
    counts: HashMap<Key, Counts>,
}

impl History {
    /// Takes a sample.
    pub(crate) fn sample(&mut self, now: Instant, status: &Status) {
        let elapsed = self.counted_at.map(|before| now.saturating_duration_since(before).as_secs_f64());
        let shards: Vec<&Shard> = status.inputs.iter().flat_map(|input| &input.shards).collect();
        let key = |shard: &Shard| (shard.stream.clone(), shard.shard.clone());
        self.rates = Rates::default();
        if let Some(elapsed) = elapsed {
            let by_shard = shards.iter().map(|shard| (key(shard), self.since(shard, elapsed)));
            self.rates.by_shard = by_shard.collect();
            let sum = |of: fn(&PerSecond) -> Option<f64>| Some(self.rates.by_shard.values().filter_map(of).sum());
            self.rates.all = PerSecond {
                read_records: sum(|one| one.read_records),
                read_bytes: sum(|one| one.read_bytes),
                acked_records: sum(|one| one.acked_records),
            };
            if self.samples.len() >= SAMPLES {
                self.samples.pop_front();
            }
            self.samples.push_back(Sample { at: now, lag: status.lag_seconds, rates: self.rates.all });
        }
        let counts = |shard: &Shard| Counts {
            read_records: shard.read_records,
            read_bytes: shard.read_bytes,
            acked_records: shard.acked_records,
        };
        (self.counts, self.counted_at) = (shards.iter().map(|shard| (key(shard), counts(shard))).collect(), Some(now));
    }

    /// The rates of a shard since the last sample, `elapsed` seconds ago.
    fn since(&self, shard: &Shard, elapsed: f64) -> PerSecond {
        let before = self.counts.get(&(shard.stream.clone(), shard.shard.clone())).copied();
        // A shard that was claimed since then counts from zero.
        let before = before.filter(|_| shard.held_seconds >= elapsed).unwrap_or_default();
        // A shard that was claimed a moment ago has no rate to speak of.
        let seconds = elapsed.min(shard.held_seconds).max(1.0);
        let per_second = |new: u64, old: u64| Some(new.saturating_sub(old) as f64 / seconds);
        PerSecond {
            read_records: per_second(shard.read_records, before.read_records),
            read_bytes: per_second(shard.read_bytes, before.read_bytes),
            acked_records: per_second(shard.acked_records, before.acked_records),
        }
    }

    /// The rates between the last two samples.
    pub(crate) fn rates(&self) -> &Rates {
        &self.rates
    }

    /// The samples of the last half hour, the oldest first.
    pub(crate) fn samples(&self) -> Vec<Sample> {
        self.samples.iter().copied().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http::sample;

    #[test]
    fn rates_are_those_since_the_last_sample() {
        let (mut history, start) = (History::default(), Instant::now());
        let mut status = sample::status(2);
        history.sample(start, &status);
        assert_eq!(
            (history.rates().of_all(), history.samples().len()),
            (PerSecond::default(), 0),
            "nothing to compare with"
        );
        let shards = &mut status.inputs[0].shards;
        (shards[0].read_records, shards[0].read_bytes, shards[0].acked_records) = (57, 1700, 16);
        // This one was released and claimed again, and counts from zero.
        (shards[1].read_records, shards[1].held_seconds) = (30, 3.0);
        history.sample(start + SAMPLE_EVERY, &status);
        let of = |number: usize| history.rates().of("orders", &format!("shardId-{number:012}"));
        let first = PerSecond { read_records: Some(10.0), read_bytes: Some(200.0), acked_records: Some(2.0) };
        assert_eq!(of(0), first);
        assert_eq!(of(1).read_records, Some(10.0));
        assert_eq!(history.rates().of_all().read_records, Some(20.0));
        assert_eq!(history.samples()[0].lag, Some(2.5));
    }

    #[test]
    fn memory_is_bounded_and_that_of_a_shard_goes_with_it() {
        let (mut history, mut now) = (History::default(), Instant::now());
        for round in 0..2 * SAMPLES {
            let mut status = sample::status(0);
            status.inputs[0].shards = vec![sample::shard(round)];
            history.sample(now, &status);
            now += SAMPLE_EVERY;
        }
        assert_eq!(history.samples().len(), SAMPLES);
        assert_eq!((history.counts.len(), history.rates.by_shard.len()), (1, 1));
    }
}
