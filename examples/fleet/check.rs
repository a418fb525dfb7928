//! Did every record arrive, those of a key in order, and none again that should not have?
//!
//! The rule for records that come again is at the top of `main.rs`.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use crate::workers::{COMMIT, LEASE};

/// The number of partition keys. Order is promised within a shard, and so within a partition key.
pub const KEYS: u64 = 197;
/// The outputs of two workers are read by two tasks here, which may be this far apart.
const SLACK: u32 = 250;
/// A record that was given to a worker is stored after this long, unless the worker was hurt: the worker writes once in
/// a commit period, and the machine may be busy.
const STORED_WITHIN: u32 = COMMIT.as_millis() as u32 + 1_000;
/// A worker may be behind for this long after it was hurt: it retries a failed write within a lease period, or has lost
/// the lease.
const RECOVERS_WITHIN: u32 = LEASE.as_millis() as u32;
/// A worker that was held up in the middle of its output may finish that within this time.
const FINISHES_WITHIN: u32 = 2_000;
/// The most findings of a kind that are shown.
const SHOWN: u64 = 10;
/// Records have numbers below this; a line with another number is not a record.
const MOST: u64 = 1 << 26;

/// The partition key of a record.
pub fn key(number: u64) -> u64 {
    number % KEYS
}

/// The interval in which a line was written, as far as it is known: not before, and not after.
pub type Written = (Instant, Instant);

/// The id of a process.
pub type WorkerId = u16;

/// A fault that may keep a worker from storing what it was given. A link to the stream that is cut is none of these,
/// and neither is a clock: nothing may come again because of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Hurt {
    /// SIGKILL.
    Killed,
    /// SIGSTOP.
    Stopped,
    /// The link to the table, or one connection to it.
    Table,
    /// The output is not read.
    Output,
    /// The machine let nothing run, and therefore no worker.
    Machine,
}

/// A fault that hurt a worker, and for how long. Without a worker it hurt all of them. Times are milliseconds of the
/// run.
#[derive(Debug, Clone, Copy)]
struct Interval {
    hurt: Hurt,
    worker: Option<WorkerId>,
    begin: u32,
    end: Option<u32>,
}

/// A line that a worker wrote: its position in that worker's output, and when.
#[derive(Debug, Clone, Copy)]
struct Delivery {
    worker: WorkerId,
    /// `None` if the knowledge of two deliveries has been combined.
    line: Option<std::num::NonZero<u32>>,
    after: u32,
    before: u32,
}

/// The records that arrived. Each takes 16 bytes, and 20 more each time that it comes again.
#[derive(Debug)]
pub struct Check {
    start: Instant,
    first: Vec<Option<Delivery>>,
    distinct: u64,
    again: Vec<(u32, Delivery)>,
    hurts: Vec<Interval>,
    names: Vec<String>,
    lines: Vec<u32>,
    unknown: u64,
    /// The worker that started when everything was read and stored: it must not be given anything.
    last: Option<WorkerId>,
}

/// The result of a check.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Findings {
    pub lost: u64,
    pub out_of_order: u64,
    pub duplicates_allowed: u64,
    pub duplicates_not_allowed: u64,
    /// Lines that are not a record, or one that was never put.
    pub unknown: u64,
    /// The longest time that a record that rightly came again had waited to be stored when its worker was hurt.
    pub longest_unstored: Duration,
}

impl Findings {
    /// Whether every promise was kept.
    pub fn is_ok(&self) -> bool {
        self.lost == 0 && self.out_of_order == 0 && self.duplicates_not_allowed == 0 && self.unknown == 0
    }
}

impl Check {
    pub fn new(start: Instant) -> Self {
        Self {
            start,
            first: Vec::new(),
            distinct: 0,
            again: Vec::new(),
            hurts: Vec::new(),
            names: Vec::new(),
            lines: Vec::new(),
            unknown: 0,
            last: None,
        }
    }

    fn millis(&self, at: Instant) -> u32 {
        at.saturating_duration_since(self.start).as_millis() as u32
    }

    /// Registers another process.
    pub fn worker(&mut self, name: &str) -> WorkerId {
        self.names.push(name.to_owned());
        self.lines.push(0);
        (self.names.len() - 1) as WorkerId
    }

    /// Registers a worker that starts when everything is read and stored, only to see whether anything comes.
    pub fn start_last_worker(&mut self, worker: WorkerId) {
        self.last = Some(worker);
    }

    /// Begins to hurt a worker, or all of them. Returns the id for `healed`.
    pub fn hurt(&mut self, hurt: Hurt, worker: Option<WorkerId>, at: Instant) -> usize {
        self.hurts.push(Interval { hurt, worker, begin: self.millis(at), end: None });
        self.hurts.len() - 1
    }

    /// Ends a fault.
    pub fn healed(&mut self, hurt: usize, at: Instant) {
        self.hurts[hurt].end = Some(self.millis(at));
    }

    /// Takes a line of a worker's output.
    pub fn take(&mut self, line: &str, (after, before): Written, worker: WorkerId) {
        let Some(number) = line.trim().parse::<u64>().ok().filter(|number| *number < MOST) else {
            self.unknown += 1;
            if self.unknown <= SHOWN {
                eprintln!("         {} wrote a line that is not a record: {line:?}", self.names[usize::from(worker)]);
            }
            return;
        };
        let count = &mut self.lines[usize::from(worker)];
        *count += 1;
        let line = std::num::NonZero::new(*count);
        let taken = Delivery { worker, line, after: self.millis(after), before: self.millis(before) };
        let at = number as usize;
        if self.first.len() <= at {
            self.first.resize(at + 1, None);
        }
        if self.first[at].is_some() {
            self.again.push((number as u32, taken));
        } else {
            self.first[at] = Some(taken);
            self.distinct += 1;
        }
    }

    pub fn distinct(&self) -> u64 {
        self.distinct
    }

    /// How often the machine stood still.
    pub fn stood_still(&self) -> usize {
        self.hurts.iter().filter(|hurt| hurt.hurt == Hurt::Machine).count()
    }

    /// The faults that have not ended.
    #[cfg(test)]
    pub fn hurting(&self) -> usize {
        self.hurts.iter().filter(|hurt| hurt.end.is_none()).count()
    }

    pub fn result(&self, put: u64) -> Findings {
        let mut findings = Findings { unknown: self.unknown, ..Findings::default() };
        for number in 0..put as usize {
            findings.lost += u64::from(self.first.get(number).copied().flatten().is_none());
        }
        findings.unknown += self.first.iter().skip(put as usize).flatten().count() as u64;
        self.judge_order(put, &mut findings);
        self.judge_duplicates(&mut findings);
        findings
    }

    /// A record is out of order when a later one of its key was written before it. The order of one worker's lines is
    /// known; for the lines of two workers, an uncertain time counts in their favor.
    fn judge_order(&self, put: u64, findings: &mut Findings) {
        // A line that came again may have been written before the one that was read first, because its output was not
        // read.
        let mut first = self.first.clone();
        for (number, again) in &self.again {
            if let Some(first) = &mut first[*number as usize]
                && again.after < first.after
            {
                *first = Delivery { after: again.after, line: None, ..*first };
            }
        }
        for key in 0..KEYS {
            // The delivery that was written last, and the last line of each worker.
            let mut latest: Option<(u64, Delivery)> = None;
            let mut lines: HashMap<WorkerId, (u64, u32)> = HashMap::new();
            for number in (key..put).step_by(KEYS as usize) {
                let Some(this) = first.get(number as usize).copied().flatten() else { continue };
                let in_line = this.line.and_then(|line| {
                    let (other, before) = *lines.get(&this.worker)?;
                    (line.get() < before).then_some(other)
                });
                let in_time = latest.and_then(|(other, latest)| (this.before + SLACK < latest.after).then_some(other));
                if let Some(other) = in_line.or(in_time) {
                    findings.out_of_order += 1;
                    if findings.out_of_order <= SHOWN {
                        eprintln!("         {} came after {other} of its key", self.shown(number, &this));
                    }
                }
                if latest.is_none_or(|(_, latest)| this.after > latest.after) {
                    latest = Some((number, this));
                }
                if let Some(line) = this.line
                    && lines.get(&this.worker).is_none_or(|(_, before)| line.get() > *before)
                {
                    lines.insert(this.worker, (number, line.get()));
                }
            }
        }
    }

    fn judge_duplicates(&self, findings: &mut Findings) {
        let mut hurts: HashMap<Option<WorkerId>, Vec<Interval>> = HashMap::new();
        for hurt in &self.hurts {
            hurts.entry(hurt.worker).or_default().push(*hurt);
        }
        let of = |worker: WorkerId| {
            let lists = [hurts.get(&Some(worker)), hurts.get(&None)];
            lists.into_iter().flatten().flatten()
        };
        // The least time that the record had not been stored when its worker was hurt.
        let unstored = |given: &Delivery| {
            let may_be = |hurt: &&Interval| {
                let end = hurt.end.unwrap_or(u32::MAX);
                given.before.saturating_add(STORED_WITHIN) >= hurt.begin
                    && end.saturating_add(RECOVERS_WITHIN) >= given.after
            };
            of(given.worker).filter(may_be).map(|hurt| hurt.begin.saturating_sub(given.before)).min()
        };
        // The worker had it already when it was held up, and the others could not know. A worker that can hardly reach
        // the table does not learn in time that its shard was taken by force, but its lease ends.
        let late = |given: &Delivery| {
            of(given.worker).any(|hurt| {
                let end = hurt.end.unwrap_or(u32::MAX);
                let until = match hurt.hurt {
                    Hurt::Killed => return false,
                    Hurt::Table => end.min(hurt.begin.saturating_add(RECOVERS_WITHIN)),
                    Hurt::Stopped | Hurt::Output | Hurt::Machine => end,
                };
                hurt.begin <= given.before && given.before <= until.saturating_add(FINISHES_WITHIN)
            })
        };
        let mut earlier: HashMap<u32, Vec<Delivery>> = HashMap::new();
        for (number, again) in &self.again {
            let earlier = earlier.entry(*number).or_insert_with(|| self.first[*number as usize].into_iter().collect());
            let settled = earlier.iter().find(|given| unstored(given).is_none());
            let wrong = self.last == Some(again.worker) || (settled.is_some() && !late(again));
            if wrong {
                findings.duplicates_not_allowed += 1;
                if findings.duplicates_not_allowed <= SHOWN {
                    let given = settled.or(earlier.last()).unwrap_or(again);
                    let (given, again) = (self.shown(u64::from(*number), given), self.shown(u64::from(*number), again));
                    eprintln!("         {given} should have been stored, and again {again}");
                }
            } else {
                findings.duplicates_allowed += 1;
                let longest = earlier.iter().filter_map(unstored).max().unwrap_or(0);
                let longest = Duration::from_millis(longest.into());
                findings.longest_unstored = findings.longest_unstored.max(longest);
            }
            earlier.push(*again);
        }
    }

    /// A delivery, with the last fault of its worker before it and the first one after.
    fn shown(&self, number: u64, given: &Delivery) -> String {
        let seconds = |millis: u32| format!("{:.3} s", f64::from(millis) / 1000.0);
        let interval = |hurt: &Interval| {
            let end = hurt.end.map_or_else(|| "the end".to_owned(), seconds);
            format!("{:?} {} to {end}", hurt.hurt, seconds(hurt.begin))
        };
        let hurts = || self.hurts.iter().filter(|hurt| hurt.worker.is_none_or(|worker| worker == given.worker));
        let before = hurts().filter(|hurt| hurt.begin <= given.before).max_by_key(|hurt| hurt.begin);
        let after = hurts().filter(|hurt| hurt.begin > given.before).min_by_key(|hurt| hurt.begin);
        format!(
            "{number} of {} at {} (hurt before: {}; after: {})",
            self.names[usize::from(given.worker)],
            seconds(given.before),
            before.map_or_else(|| "never".to_owned(), interval),
            after.map_or_else(|| "never".to_owned(), interval),
        )
    }
}

/// Notes the connections to a worker's table that are dead.
#[derive(Debug, Clone)]
pub struct Witness {
    pub check: Arc<Mutex<Check>>,
    pub worker: WorkerId,
}

impl Witness {
    /// A connection is dead. Returns the id for `end`.
    pub fn begin(&self) -> usize {
        self.lock().hurt(Hurt::Table, Some(self.worker), Instant::now())
    }

    /// The worker closed the connection.
    pub fn end(&self, hurt: usize) {
        self.lock().healed(hurt, Instant::now());
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Check> {
        self.check.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    /// A run of two workers in which the first worker writes ten records of each key, one second after the other.
    struct Run {
        check: Check,
        start: Instant,
        a: WorkerId,
        b: WorkerId,
    }

    impl Run {
        fn new() -> Self {
            let start = Instant::now();
            let mut check = Check::new(start);
            let (a, b) = (check.worker("a"), check.worker("b"));
            Self { check, start, a, b }
        }

        fn at(&self, seconds: f64) -> Instant {
            self.start + SECOND.mul_f64(seconds)
        }

        fn take(&mut self, number: u64, seconds: f64, worker: WorkerId) {
            let at = self.at(seconds);
            self.check.take(&number.to_string(), (at, at), worker);
        }

        /// Takes all records below `put`, in their order, one a millisecond from then on.
        fn take_all(&mut self, put: u64, seconds: f64, worker: WorkerId) {
            for number in 0..put {
                self.take(number, seconds + number as f64 / 1000.0, worker);
            }
        }

        fn hurt(&mut self, hurt: Hurt, worker: Option<WorkerId>, from: f64, to: f64) {
            let hurt = self.check.hurt(hurt, worker, self.at(from));
            let to = self.at(to);
            self.check.healed(hurt, to);
        }

        fn duplicates(&self, put: u64) -> (u64, u64) {
            let findings = self.check.result(put);
            (findings.duplicates_allowed, findings.duplicates_not_allowed)
        }
    }

    #[test]
    fn correct_run_has_no_findings() {
        let mut run = Run::new();
        run.take_all(1000, 1.0, run.a);
        assert_eq!(run.check.result(1000), Findings::default());
        assert_eq!(run.check.distinct(), 1000);
    }

    #[test]
    fn dropped_line_is_lost() {
        let mut run = Run::new();
        for number in (0..1000).filter(|number| *number != 500) {
            run.take(number, 1.0, run.a);
        }
        assert_eq!(run.check.result(1000).lost, 1);
        // The records that were put last are lost too.
        assert_eq!(run.check.result(1010).lost, 11);
    }

    #[test]
    fn line_that_was_never_put_is_found() {
        let mut run = Run::new();
        run.take_all(10, 1.0, run.a);
        run.take(10, 2.0, run.a);
        run.check.take("1 2", (run.start, run.start), run.a);
        run.check.take("18446744073709551615", (run.start, run.start), run.a);
        assert_eq!(run.check.result(10).unknown, 3);
    }

    #[test]
    fn two_swapped_lines_of_a_worker_are_out_of_order_however_close() {
        let mut run = Run::new();
        for number in [0, KEYS * 2, KEYS] {
            run.take(number, 1.0, run.a);
        }
        assert_eq!(run.check.result(KEYS * 2 + 1).out_of_order, 1);
        // There is no order between two keys.
        let mut run = Run::new();
        for number in [1, 0] {
            run.take(number, 1.0, run.a);
        }
        assert_eq!(run.check.result(2).out_of_order, 0);
    }

    #[test]
    fn record_that_another_worker_writes_too_late_is_out_of_order() {
        let mut run = Run::new();
        run.take(KEYS, 1.0, run.a);
        run.take(0, 1.2, run.b);
        assert_eq!(run.check.result(KEYS + 1).out_of_order, 0);
        let mut run = Run::new();
        run.take(KEYS, 1.0, run.a);
        run.take(0, 1.3, run.b);
        assert_eq!(run.check.result(KEYS + 1).out_of_order, 1);
    }

    #[test]
    fn line_in_a_pipe_may_have_been_written_before() {
        let mut run = Run::new();
        run.take(KEYS, 5.0, run.b);
        run.check.take("0", (run.at(1.0), run.at(9.0)), run.a);
        assert_eq!(run.check.result(KEYS + 1).out_of_order, 0);
    }

    #[test]
    fn line_that_comes_twice_of_a_healthy_worker_is_not_allowed() {
        let mut run = Run::new();
        run.take_all(10, 1.0, run.a);
        run.take(5, 1.5, run.a);
        // A fault of the worker that is given the record again is no excuse.
        run.take(6, 2.0, run.b);
        run.hurt(Hurt::Killed, Some(run.b), 2.0, 2.0);
        assert_eq!(run.duplicates(10), (0, 2));
    }

    #[test]
    fn only_unstored_records_come_again_after_a_kill() {
        let mut run = Run::new();
        run.take(0, 10.0, run.a);
        run.take(1, 17.9, run.a);
        run.take(2, 18.1, run.a);
        run.take(3, 20.0, run.a);
        run.hurt(Hurt::Killed, Some(run.a), 20.0, 20.0);
        for number in 0..4 {
            run.take(number, 28.0, run.b);
        }
        let findings = run.check.result(4);
        assert_eq!((findings.duplicates_allowed, findings.duplicates_not_allowed), (2, 2));
        assert_eq!(findings.longest_unstored, Duration::from_millis(1900));
    }

    #[test]
    fn records_stored_by_another_worker_do_not_come_again() {
        let mut run = Run::new();
        run.take(0, 19.0, run.a);
        run.hurt(Hurt::Killed, Some(run.a), 20.0, 20.0);
        run.take(0, 28.0, run.b);
        run.take(0, 40.0, run.b);
        assert_eq!(run.duplicates(1), (1, 1));
    }

    #[test]
    fn table_out_of_reach_excuses_its_worker_alone_and_until_it_recovered() {
        let mut run = Run::new();
        run.hurt(Hurt::Table, Some(run.a), 10.0, 30.0);
        for (number, seconds, worker) in
            [(0, 7.9, run.a), (1, 8.1, run.a), (2, 35.9, run.a), (3, 36.1, run.a), (4, 20.0, run.b)]
        {
            run.take(number, seconds, worker);
            run.take(number, 50.0, worker);
        }
        assert_eq!(run.duplicates(5), (2, 3));
    }

    #[test]
    fn paused_worker_finishes_its_line_and_no_more() {
        let mut run = Run::new();
        run.hurt(Hurt::Stopped, Some(run.a), 10.0, 30.0);
        for number in 0..2 {
            run.take(number, 17.0, run.b);
        }
        run.take(0, 30.5, run.a);
        run.take(1, 32.5, run.a);
        assert_eq!(run.duplicates(2), (1, 1));
    }

    #[test]
    fn worker_cut_off_from_the_table_reads_until_its_lease_ends_and_no_longer() {
        let mut run = Run::new();
        run.hurt(Hurt::Table, Some(run.a), 10.0, 30.0);
        for (number, seconds) in [(0, 15.0), (1, 19.0), (2, 29.0)] {
            run.take(number, seconds - 1.0, run.b);
            run.take(number, seconds, run.a);
        }
        assert_eq!(run.duplicates(3), (1, 2));
    }

    #[test]
    fn machine_that_stood_still_excuses_all() {
        let mut run = Run::new();
        run.hurt(Hurt::Machine, None, 10.0, 15.0);
        run.take(0, 9.0, run.a);
        run.take(0, 20.0, run.b);
        assert_eq!(run.duplicates(1), (1, 0));
    }

    #[test]
    fn any_record_for_the_last_worker_is_an_error() {
        let mut run = Run::new();
        run.take(0, 19.0, run.a);
        run.hurt(Hurt::Killed, Some(run.a), 20.0, 20.0);
        run.check.start_last_worker(run.b);
        run.take(0, 60.0, run.b);
        assert_eq!(run.duplicates(1), (0, 1));
    }
}
