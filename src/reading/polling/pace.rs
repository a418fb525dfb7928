//! When may a shard be asked for records again, and for how many?
//!
//! This module is pure. The service admits five calls a second and 2 MiB a second on a shard, over all that poll it:
//! what is read faster than that is answered with an error, and costs the other pollers of the shard their turn.

use std::time::Duration;

use tokio::time::Instant;

use crate::retry::backoff::Backoff;

/// The shortest time between two calls on a shard.
const GAP: Duration = Duration::from_millis(200);
/// The bytes that may be read from a shard in a second.
const BYTES_PER_SECOND: u64 = 2 << 20;
/// The time between two calls while there is nothing new.
const GAP_AT_TIP: Duration = Duration::from_secs(1);
/// Shards without anything new are asked in rounds this far apart: calls that are made together share the work of sending
/// them and of waking up.
const ROUND: Duration = Duration::from_millis(50);
/// The delays after the service said that the shard is read too fast.
const THROTTLED: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(10));

/// The most records of a call.
const MOST_RECORDS: u32 = 10_000;
/// The number of records of the first call: their size is not known yet, and an answer of 10 MiB keeps the shard from
/// being read for five seconds.
const FIRST_RECORDS: u32 = 100;
/// How many bytes an answer is expected to have at first, at least, and at most. Larger answers save no time: at 2 MiB
/// a second they only come less often.
const FIRST_BYTES: usize = 512 << 10;
const LEAST_BYTES: usize = 64 << 10;
const MOST_BYTES: usize = 4 << 20;
/// What is left of the largest mean size after each answer.
const FADES: f64 = 0.9;

/// The pace of the calls on one shard.
#[derive(Debug)]
pub(super) struct Pace {
    /// The shortest time between two calls that the configuration wants.
    period: Duration,
    next: Instant,
    throttled: Backoff,
    /// When one of the rounds is. All shards have the same rounds.
    round: Instant,
}

/// The result of a call, as far as the pace depends on it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Answered {
    /// When the answer began to arrive. The service admitted the call before that.
    pub(super) at: Instant,
    /// The bytes that the service counts: those of the records' data.
    pub(super) bytes: u64,
    /// Whether there was nothing, and nothing is left.
    pub(super) is_at_tip: bool,
}

impl Pace {
    /// Makes no call before `begin`. Whoever read the shard until now, which may have been this worker, may have called a
    /// moment ago. `round` is the time of any round.
    pub(super) fn new(period: Duration, begin: Instant, round: Instant) -> Self {
        Self { period, next: begin + GAP, throttled: Backoff::new(THROTTLED.0, THROTTLED.1), round }
    }

    /// The earliest time of the next call.
    pub(super) fn next(&self) -> Instant {
        self.next
    }

    /// Notes an answer.
    pub(super) fn answered(&mut self, Answered { at, bytes, is_at_tip }: Answered) {
        self.throttled.reset();
        let by_bytes = Duration::from_micros(bytes.saturating_mul(1_000_000) / BYTES_PER_SECOND);
        let gap = if is_at_tip { GAP_AT_TIP } else { GAP };
        let next = at + gap.max(by_bytes).max(self.period);
        self.wait_until(if is_at_tip { self.next_round(next) } else { next });
    }

    /// The first round at this time or after it.
    fn next_round(&self, time: Instant) -> Instant {
        let since = time.saturating_duration_since(self.round).as_nanos();
        let late = since % ROUND.as_nanos();
        // The remainder is less than a round.
        if late == 0 { time } else { time + ROUND - Duration::from_nanos(late as u64) }
    }

    /// Notes that the shard is read too fast. Returns how long to wait; `random` is from 0 to 1.
    pub(super) fn throttled(&mut self, now: Instant, random: f64) -> Duration {
        let delay = self.throttled.next_delay(random);
        self.wait_until(now + delay);
        delay
    }

    /// Notes that a call failed, and that the next one is made after `delay`. The service may have admitted the one that
    /// failed.
    pub(super) fn failed(&mut self, now: Instant, delay: Duration) {
        self.wait_until(now + delay.max(GAP));
    }

    /// Makes no call before this time.
    pub(super) fn wait_until(&mut self, time: Instant) {
        self.next = self.next.max(time);
    }
}

/// How much a call asks for.
#[derive(Debug)]
pub(super) struct Portion {
    /// How many bytes of an answer there is space for.
    bytes: usize,
    /// The most bytes of an ordinary answer. A single record may be larger.
    most: usize,
    /// The mean size of a record in an answer; `None` before any record was read.
    mean: Option<f64>,
    /// The largest mean of an answer, which fades with each answer.
    largest: f64,
    /// How many records to ask for, after an answer did not fit.
    limit: Option<u32>,
}

impl Portion {
    /// Starts small. No ordinary answer takes more than `most` bytes.
    pub(super) fn new(most: usize) -> Self {
        let most = most.clamp(1, MOST_BYTES);
        Self { bytes: FIRST_BYTES.min(most), most, mean: None, largest: 0.0, limit: None }
    }

    /// How many bytes the next answer may have.
    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    /// How many records to ask for, so that they probably fit.
    pub(super) fn limit(&self) -> u32 {
        match (self.limit, self.mean) {
            // Only a single record may be larger than an ordinary answer.
            _ if self.bytes > self.most => 1,
            (Some(limit), _) => limit,
            (None, None) => FIRST_RECORDS,
            // Sizes vary: a ninth is left for that. A cast saturates.
            (None, Some(mean)) => ((self.bytes as f64 * 0.9 / mean) as u32).clamp(1, MOST_RECORDS),
        }
    }

    /// Notes an answer of `bytes` with this many records. `is_behind` says whether more are waiting.
    pub(super) fn answered(&mut self, bytes: usize, records: usize, is_behind: bool) {
        self.limit = None;
        if records > 0 {
            let mean = bytes as f64 / records as f64;
            self.mean = Some(self.mean.map_or(mean, |before| before.midpoint(mean)));
            self.largest = mean.max(self.largest * FADES);
        }
        let bytes = if is_behind && records > 0 {
            2 * self.bytes
        } else {
            // What is reserved is missing elsewhere. The size falls by half at most, because the next answer may be
            // larger again.
            (self.bytes / 2).max(2 * bytes).max(LEAST_BYTES)
        };
        // A record of about the largest size always fits, or every second call would be in vain where sizes vary.
        let usual = (self.largest * 1.25) as usize;
        self.bytes = bytes.min(self.most).max(usual);
    }

    /// Notes that an answer did not fit; `len` is its length, if that is known. The same records are asked for again.
    pub(super) fn did_not_fit(&mut self, len: Option<u64>) {
        let limit = self.limit();
        match len.and_then(|len| usize::try_from(len).ok()) {
            // Records that arrive in the meantime find space too, if the limit lets them in.
            Some(len) if limit == 1 => self.bytes = len.max(self.bytes + 1),
            Some(len) if len <= self.most => self.bytes = (len + len / 8).min(self.most),
            // The records are larger than it seemed.
            _ if limit > 1 => {
                self.bytes = self.most;
                self.limit = Some((limit / 8).max(1));
            }
            _ => self.bytes *= 4,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    /// The gap after an answer, in milliseconds.
    fn gap(period: Duration, bytes: u64, is_at_tip: bool) -> u128 {
        let start = Instant::now();
        let mut pace = Pace::new(period, start, start);
        assert_eq!(pace.next(), start + GAP, "after the last call of the reader before");
        pace.answered(Answered { at: start, bytes, is_at_tip });
        (pace.next() - start).as_millis()
    }

    /// Calls on idle shards meet in rounds, however their shards began; none comes too early.
    #[test]
    fn idle_shards_are_asked_together() {
        let round = Instant::now();
        let next = |millis: u32, is_at_tip| {
            let at = round + millis * MS;
            let mut pace = Pace::new(Duration::ZERO, round, round);
            pace.answered(Answered { at, bytes: 0, is_at_tip });
            (pace.next() - round).as_millis()
        };
        assert_eq!([0, 1, 49, 50, 51].map(|millis| next(millis, true)), [1000, 1050, 1050, 1050, 1100]);
        assert_eq!([0, 1, 49, 50, 51].map(|millis| next(millis, false)), [200, 201, 249, 250, 251]);
    }

    #[test]
    fn poll_pace() {
        assert_eq!(gap(Duration::ZERO, 0, false), 200, "five calls a second, also in a gap");
        assert_eq!(gap(Duration::ZERO, 1 << 20, false), 500, "2 MiB a second");
        assert_eq!(gap(Duration::ZERO, 10 << 20, false), 5000);
        assert_eq!(gap(Duration::ZERO, 0, true), 1000, "nothing new");
        assert_eq!(gap(700 * MS, 0, false), 700);
        assert_eq!(gap(700 * MS, 0, true), 1000);
        assert_eq!(gap(3000 * MS, 0, true), 3000);
        assert_eq!(gap(3000 * MS, 10 << 20, false), 5000);
    }

    #[test]
    fn throttled_reader_waits_longer_each_time() {
        let start = Instant::now();
        let mut pace = Pace::new(Duration::ZERO, start, start);
        let delays: Vec<_> = (0..5).map(|_| pace.throttled(start, 1.0).as_secs()).collect();
        assert_eq!(delays, [1, 2, 4, 8, 10]);
        assert_eq!(pace.next(), start + 10_000 * MS);
        pace.answered(Answered { at: start + 10_000 * MS, bytes: 0, is_at_tip: false });
        assert_eq!(pace.throttled(start, 1.0).as_secs(), 1);
    }

    #[test]
    fn failed_call_may_have_been_admitted() {
        let start = Instant::now();
        let mut pace = Pace::new(Duration::ZERO, start, start);
        pace.failed(start + 1000 * MS, 150 * MS);
        assert_eq!(pace.next(), start + 1200 * MS);
        pace.failed(start + 2000 * MS, 300 * MS);
        assert_eq!(pace.next(), start + 2300 * MS);
    }

    #[test]
    fn portion_grows_while_there_is_more_and_shrinks_at_the_tip() {
        let mut portion = Portion::new(usize::MAX);
        assert_eq!((portion.bytes(), portion.limit()), (FIRST_BYTES, FIRST_RECORDS));
        for _ in 0..5 {
            portion.answered(100_000, 100, true);
        }
        assert_eq!((portion.bytes(), portion.limit()), (MOST_BYTES, 3774), "records of 1,000 bytes");
        for _ in 0..10 {
            portion.answered(1000, 1, false);
        }
        assert_eq!(portion.bytes(), LEAST_BYTES);
        portion.answered(0, 0, true);
        assert_eq!(portion.bytes(), LEAST_BYTES, "a gap brings nothing, however long it is");
        assert_eq!(Portion::new(1000).bytes(), 1000, "a small pool");
    }

    #[test]
    fn only_one_record_may_be_larger_than_an_ordinary_answer() {
        let mut portion = Portion::new(1000);
        portion.answered(100, 10, true);
        assert_eq!((portion.bytes(), portion.limit()), (1000, 90));
        for len in [None, None, Some(5000)] {
            portion.did_not_fit(len);
        }
        assert_eq!((portion.bytes(), portion.limit()), (5000, 1), "not 450 records");
    }

    #[test]
    fn few_calls_are_in_vain_where_sizes_vary() {
        let mut portion = Portion::new(1000);
        let mut in_vain = 0;
        for size in [800, 5000, 800, 4000, 900, 5000, 700, 700, 5000, 800].repeat(10) {
            while portion.bytes() < size {
                assert_eq!(portion.limit(), 1);
                portion.did_not_fit(Some(size as u64));
                in_vain += 1;
            }
            portion.answered(size, 1, true);
        }
        assert!(in_vain <= 21, "{in_vain} of 100");
    }

    #[test]
    fn answer_that_did_not_fit_is_asked_for_again_with_space_for_it() {
        let mut portion = Portion::new(usize::MAX);
        portion.did_not_fit(Some(2 << 20));
        assert_eq!((portion.bytes(), portion.limit()), ((2 << 20) / 8 * 9, FIRST_RECORDS));
        // 100 records of 10 MiB in all: fewer fit.
        portion.did_not_fit(Some(10 << 20));
        assert_eq!((portion.bytes(), portion.limit()), (MOST_BYTES, 12));
        portion.did_not_fit(Some(10 << 20));
        assert_eq!(portion.limit(), 1);
        portion.did_not_fit(Some(10 << 20));
        assert_eq!((portion.bytes(), portion.limit()), (10 << 20, 1), "one record takes all of it");
        portion.answered(10 << 20, 1, true);
        assert_eq!((portion.bytes(), portion.limit()), (10 * (5 << 18), 1), "the next one may be as large");
        for _ in 0..12 {
            portion.answered(1000, 1, true);
        }
        assert_eq!(portion.bytes(), MOST_BYTES);
        // The length of an answer need not be known.
        let mut portion = Portion::new(1000);
        for _ in 0..4 {
            portion.did_not_fit(None);
        }
        assert_eq!((portion.bytes(), portion.limit()), (16_000, 1));
    }
}
