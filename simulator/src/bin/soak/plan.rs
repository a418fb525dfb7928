//! What is the world of a seed like?

use std::path::PathBuf;
use std::time::Duration;

use fastrand::Rng;
use kinesis_simulator::Settings;
use kinesis_simulator::faults::Weather;
use kinesis_simulator::kinesis::CborSupport;

use crate::oracle::{Limits, Rules};

/// Everything about a run that is drawn before it begins.
#[expect(clippy::struct_excessive_bools, reason = "each is drawn for itself")]
#[derive(Debug)]
pub(crate) struct Plan {
    pub(crate) seed: u64,
    /// How long faults are injected, in virtual time.
    pub(crate) length: Duration,
    pub(crate) settings: Settings,
    pub(crate) workers: usize,
    pub(crate) shards: u32,
    pub(crate) config: Config,
    /// Whether the service decides into which shard a record goes.
    pub(crate) auto: bool,
    /// The number of records put in a second, over all shards.
    pub(crate) rate: f64,
    pub(crate) record_bytes: usize,
    /// How many of a hundred records are aggregates.
    pub(crate) aggregates_per_cent: u32,
    /// Whether an aggregate holds records of any key.
    pub(crate) mixes_keys: bool,
    /// The mean time between two events of the world.
    pub(crate) gap: Duration,
    /// The faults that are possible all the time.
    pub(crate) climate: Weather,
    /// The mean time between two events of the second kind, if there are any.
    pub(crate) second_gap: Option<Duration>,
    /// In how many of a hundred cases a worker is struck at the moment in which it wrote a row that matters.
    pub(crate) triggers_per_cent: u32,
    /// Whether the resolvers of workers hang now and then.
    pub(crate) resolvers_hang: bool,
    /// Whether the one worker has a checkpoint file, on a disk that fails now and then.
    pub(crate) file: bool,
    /// The least time without faults at the end, so that the workers balance the shards for good.
    pub(crate) balance_time: Option<Duration>,
}

/// The part of a worker's configuration that is drawn.
#[expect(clippy::struct_excessive_bools, reason = "each is drawn for itself")]
#[derive(Debug, Clone)]
pub(crate) struct Config {
    pub(crate) commit: Duration,
    pub(crate) lease: Duration,
    /// The lease period of every second worker, if it differs.
    other_lease: Option<Duration>,
    rebalance: Duration,
    grace: Duration,
    checkpoint_limit: usize,
    buffer: usize,
    pub(crate) max_records: u64,
    pub(crate) max_bytes: u64,
    pub(crate) oldest: bool,
    by_arn: bool,
    /// Whether a worker keeps its name across restarts.
    pub(crate) stable_names: bool,
    /// Whether a worker assumes a role, so that its credentials have to be renewed.
    role: bool,
    /// Whether a host reads with two calls at a time, of which one is canceled.
    pub(crate) impatient: bool,
    /// Whether a host closes the input while it has batches in flight, and acknowledges them after that.
    pub(crate) closes_first: bool,
    /// Whether a host that is told to stop first takes what was gathered for batches.
    pub(crate) drains: bool,
    /// The longest time that a host usually takes to acknowledge a batch.
    pub(crate) usual: Duration,
    /// Whether user records of other shards are delivered.
    pub(crate) delivers_outside: bool,
    /// Whether what is refused as a whole comes again in halves.
    pub(crate) bisects: bool,
    /// The checkpoint file of the one worker, if it does not share a table with others.
    pub(crate) file: Option<PathBuf>,
    polls: Polls,
    /// `polling.encoding`.
    encoding: &'static str,
    poll_period: Duration,
    /// How the workers gather batches, and what their hosts ask for. The workers take them in turn.
    batches: Vec<Batches>,
}

/// How a worker gathers batches, and what its host asks for.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Batches {
    /// The block `batching`; none without any limit.
    batching: Batching,
    /// The most messages and bytes that the host asks for.
    pub(crate) max_messages: usize,
    pub(crate) max_bytes: Option<u64>,
}

#[derive(Debug, Clone, Copy, Default)]
struct Batching {
    count: usize,
    byte_size: u64,
    period: Duration,
    jitter: f64,
}

impl Batching {
    fn is_on(&self) -> bool {
        self.count > 0 || self.byte_size > 0 || !self.period.is_zero()
    }
}

/// Which workers poll.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Polls {
    None,
    EverySecond,
    All,
}

pub(crate) const STREAM: &str = "orders";
pub(crate) const CONSUMER: &str = "soak";
pub(crate) const TABLE: &str = "leases";

fn pick<T: Copy>(rng: &mut Rng, of: &[T]) -> T {
    of[rng.usize(0..of.len())]
}

impl Plan {
    pub(crate) fn draw(seed: u64, length: Duration) -> Self {
        let rng = &mut Rng::with_seed(seed);
        let secs = Duration::from_secs;
        let mut settings = Settings::default();
        settings.end_with_records = rng.bool();
        settings.page = pick(rng, &[2, 5, 1000]);
        settings.event_gap = Duration::from_millis(pick(rng, &[50, 200, 1000]));
        settings.reshard = secs(rng.u64(1..20));
        settings.activation = secs(rng.u64(1..20));
        settings.table_lag = Duration::from_millis(100 * (seed % 30));
        settings.unread = secs(pick(rng, &[40, 120, 300]));
        // The retention is longer than any record may be kept waiting, unless all workers are down.
        settings.retention = pick(rng, &[Duration::from_hours(24), Duration::from_hours(24), Duration::from_mins(17)]);
        let config = Config {
            commit: pick(rng, &[secs(1), secs(5), secs(5), secs(10)]),
            lease: pick(rng, &[secs(15), secs(30), secs(30), secs(60)]),
            rebalance: pick(rng, &[secs(10), secs(30), secs(30), secs(60)]),
            grace: pick(rng, &[Duration::from_millis(500), secs(2), secs(2), secs(10)]),
            checkpoint_limit: pick(rng, &[1, 10, 100, 1024]),
            buffer: pick(rng, &[0, 1, 64]),
            max_records: pick(rng, &[1, 20, 200, 50_000]),
            max_bytes: pick(rng, &[64 << 10, 1 << 20, 256 << 20]),
            oldest: rng.u32(0..4) > 0,
            by_arn: rng.bool(),
            stable_names: rng.bool(),
            role: false,
            impatient: false,
            other_lease: None,
            closes_first: false,
            drains: false,
            usual: Duration::ZERO,
            delivers_outside: false,
            bisects: false,
            file: None,
            polls: Polls::None,
            encoding: "auto",
            poll_period: Duration::ZERO,
            batches: vec![Batches { batching: Batching::default(), max_messages: 200, max_bytes: None }],
        };
        let climate = Weather {
            calls_per_mille: pick(rng, &[0, 0, 2, 10, 30]),
            streams_per_mille: pick(rng, &[0, 50, 200, 500]),
            ..Weather::CALM
        };
        let mut plan = Self {
            seed,
            length,
            settings,
            workers: pick(rng, &[1, 2, 2, 3, 3, 4]),
            shards: rng.u32(1..7),
            auto: rng.u32(0..4) == 0,
            config,
            rate: pick(rng, &[0.5, 2.0, 5.0, 10.0]),
            record_bytes: pick(rng, &[16, 16, 200, 2000]),
            gap: secs(rng.u64(20..120)),
            climate,
            second_gap: None,
            triggers_per_cent: 0,
            resolvers_hang: false,
            file: false,
            balance_time: None,
            aggregates_per_cent: 0,
            mixes_keys: false,
        };
        plan.draw_more(&mut Rng::with_seed(seed ^ 0x006d_6f72_6500));
        plan.draw_yet_more(&mut Rng::with_seed(seed ^ 0x0079_6574_0000));
        plan.draw_aggregates(&mut Rng::with_seed(seed ^ 0x006b_706c_0000));
        plan.draw_polling(&mut Rng::with_seed(seed ^ 0x706f_6c6c_0000));
        plan.draw_batches(&mut Rng::with_seed(seed ^ 0x0062_6174_6368));
        plan.draw_file(&mut Rng::with_seed(seed ^ 0x6669_6c65_0000));
        plan.resolvers_hang = Rng::with_seed(seed ^ 0x7265_736f_6c76).u32(0..4) == 0;
        plan.config.bisects = Rng::with_seed(seed ^ 0x6269_7365_6374).u32(0..3) == 0;
        plan.config.drains = Rng::with_seed(seed ^ 0x6472_6169_6e00).bool();
        plan
    }

    /// Draws the first extension by itself, so that the rest of a seed stays the same.
    fn draw_more(&mut self, rng: &mut Rng) {
        let secs = Duration::from_secs;
        self.settings.listing_lag = pick(rng, &[Duration::ZERO, secs(1), secs(3), secs(6)]);
        self.settings.role_lifetime = pick(rng, &[secs(60), secs(120), secs(900)]);
        self.config.role = rng.u32(0..3) == 0;
        self.config.impatient = rng.u32(0..3) == 0;
        self.climate.panics_per_mille = pick(rng, &[0, 0, 0, 1, 5]);
        // Some events are larger than the pool.
        if rng.u32(0..6) == 0 {
            (self.record_bytes, self.rate) = (60_000, 0.5);
            (self.config.max_bytes, self.config.max_records) = (64 << 10, 50_000);
        }
        // Some positions expire while a shard can't be read.
        if rng.u32(0..8) == 0 {
            self.settings.retention = Duration::from_mins(4);
        }
    }

    /// Draws how writers pack their records. In half of the seeds they pack none.
    fn draw_aggregates(&mut self, rng: &mut Rng) {
        self.aggregates_per_cent = pick(rng, &[0, 0, 20, 100]);
        // Writers other than the KPL put records of any key into one aggregate, so every shard gets some of others.
        self.mixes_keys = rng.bool();
        self.config.delivers_outside = self.mixes_keys;
        // An aggregate is some records at once: a host that is slow with one at a time does not keep up with them.
        if self.aggregates_per_cent > 0 && (self.config.checkpoint_limit < 100 || self.config.max_records < 200) {
            self.config.usual = Duration::ZERO;
        }
    }

    /// Draws which workers poll, and what the service makes of it. In half of the seeds none does.
    fn draw_polling(&mut self, rng: &mut Rng) {
        self.config.polls = pick(rng, &[Polls::None, Polls::None, Polls::EverySecond, Polls::All]);
        self.config.encoding = pick(rng, &["auto", "auto", "json"]);
        self.config.poll_period = Duration::from_millis(pick(rng, &[0, 0, 0, 700, 3000]));
        self.settings.reads = pick(rng, &[5.0, 5.0, 2.0]);
        // A tiny pool that is filled once in some seconds does not keep up with the writer.
        let is_tiny = self.config.max_bytes < 1 << 20 || self.aggregates_per_cent > 0 && self.config.max_records <= 200;
        if is_tiny {
            (self.config.poll_period, self.settings.reads) = (Duration::ZERO, 5.0);
            // A few records fill half of it, and one aggregate may, so that every call brings few or one.
            let is_large = self.record_bytes >= 2000 || self.aggregates_per_cent > 0;
            if self.config.polls != Polls::None && is_large {
                self.rate = self.rate.min(2.0);
            }
        }
        // Where one record fills the pool, a call brings one: the shard's five calls a second are no more than the writer's.
        if self.config.polls != Polls::None && self.config.max_records == 1 {
            self.rate = self.rate.min(2.0);
        }
        self.settings.cbor = pick(
            rng,
            &[
                CborSupport::Full,
                CborSupport::Full,
                CborSupport::SerializationException,
                CborSupport::UnknownOperationException,
                CborSupport::UnsupportedMediaType,
                CborSupport::AnswersInJson,
            ],
        );
    }

    /// Draws how each worker gathers batches, and what its host asks for. In a third of the seeds nothing is gathered, and
    /// hosts ask for as much as they always did.
    fn draw_batches(&mut self, rng: &mut Rng) {
        if rng.u32(0..3) == 0 {
            return;
        }
        let worker = |rng: &mut Rng| Batches {
            batching: Batching {
                count: pick(rng, &[0, 1, 10, 100, 2000]),
                byte_size: pick(rng, &[0, 0, 300, 10_000]),
                // Without a period the last records of a shard would wait indefinitely.
                period: Duration::from_millis(pick(rng, &[50, 500, 2000, 5000])),
                jitter: pick(rng, &[0.0, 0.5]),
            },
            max_messages: pick(rng, &[1, 20, 200, 5000]),
            max_bytes: pick(rng, &[None, None, Some(1), Some(2000)]),
        };
        self.config.batches = (0..self.workers).map(|_| worker(rng)).collect();
        for batches in self.config.batches.iter_mut().filter(|_| rng.bool()) {
            batches.batching = Batching::default();
        }
        // One that takes a single record at a time does not keep up with aggregates.
        if self.aggregates_per_cent > 0 {
            for batches in &mut self.config.batches {
                (batches.max_messages, batches.max_bytes) = (batches.max_messages.max(20), None);
                if batches.batching.is_on() {
                    batches.batching = Batching { count: 100, byte_size: 0, ..batches.batching };
                }
            }
        }
        // A host that is slow with a few records at a time does not keep up with the writer.
        let is_small = |batches: &Batches| {
            batches.max_messages < 100 || batches.max_bytes.is_some() || (1..100).contains(&batches.batching.count)
        };
        if self.config.batches.iter().any(is_small) {
            let most = if self.aggregates_per_cent > 0 { Duration::ZERO } else { Duration::from_millis(100) };
            self.config.usual = self.config.usual.min(most);
        }
    }

    /// Draws whether there is a file in place of the table. A file has one worker, and nothing to balance.
    fn draw_file(&mut self, rng: &mut Rng) {
        self.file = rng.u32(0..8) == 0;
        if self.file {
            (self.workers, self.balance_time) = (1, None);
        }
    }

    /// Draws the second extension, by itself again. In half of the seeds the world is the same as without it.
    fn draw_yet_more(&mut self, rng: &mut Rng) {
        let secs = Duration::from_secs;
        let balances = rng.u32(0..3) == 0;
        let new = rng.bool();
        let longest = self.config.longest_lease();
        self.balance_time = balances.then(|| self.config.rebalance * 3 + longest * 2 + secs(60));
        if !new {
            return;
        }
        self.second_gap = Some(secs(rng.u64(20..90)));
        self.triggers_per_cent = pick(rng, &[0, 10, 30]);
        self.config.closes_first = rng.bool();
        self.config.usual = pick(rng, &[Duration::ZERO, Duration::ZERO, Duration::from_millis(400), secs(3)]);
        // A host that is slow with one record at a time does not keep up with the writer.
        if self.config.checkpoint_limit < 100 || self.config.max_records < 200 {
            self.config.usual = self.config.usual.min(Duration::from_millis(100));
        }
        self.config.other_lease = pick(rng, &[None, Some(secs(15)), Some(secs(60))]);
        // A listing must not lag for longer than a worker waits until it believes the listing.
        self.settings.page_lag = pick(rng, &[Duration::ZERO, secs(9).saturating_sub(self.settings.listing_lag)]);
        if rng.u32(0..4) == 0 {
            self.settings.retention = Duration::from_mins(4);
        }
        // Calls that fail hide what happens between them.
        if rng.bool() {
            (self.climate.calls_per_mille, self.climate.panics_per_mille) = (0, 0);
        }
    }
}

impl Config {
    /// The rules that the oracle applies to a worker.
    pub(crate) fn rules(&self, retention: Duration) -> Rules {
        Rules {
            file: self.file.is_some(),
            oldest: self.oldest,
            retention,
            handed_over_within: self.commit + self.grace,
            rebalance: self.rebalance,
            longest_lease: self.longest_lease(),
        }
    }

    /// The configuration of a worker.
    pub(crate) fn of(&self, worker: usize) -> Self {
        let batches = self.batches[worker % self.batches.len()];
        Self { batches: vec![batches], ..self.clone() }
    }

    /// How this worker gathers batches.
    pub(crate) fn batches(&self) -> Batches {
        self.batches[0]
    }

    /// The limits of this worker.
    pub(crate) fn limits(&self) -> Limits {
        // A quarter of the grace period is for storing the last position.
        let acks = self.grace.mul_f64(0.75);
        match self.batches().batching {
            batching if !batching.is_on() => Limits { apart: self.checkpoint_limit, acks },
            // A batch that is larger than the limit is let in by itself. What was gathered is delivered in the first half of
            // the wait for acks.
            Batching { count: 0, .. } => Limits { apart: usize::MAX, acks: acks / 2 },
            Batching { count, .. } => Limits { apart: self.checkpoint_limit.max(count), acks: acks / 2 },
        }
    }

    /// The lease period of a worker.
    pub(crate) fn lease_of(&self, worker: usize) -> Duration {
        self.other_lease.filter(|_| worker % 2 == 1).unwrap_or(self.lease)
    }

    fn longest_lease(&self) -> Duration {
        self.lease.max(self.other_lease.unwrap_or_default())
    }

    /// The configuration of a worker.
    pub(crate) fn yaml(&self, worker: usize, client_id: &str, lease: Duration, settings: &Settings) -> String {
        let polls = match self.polls {
            Polls::None => false,
            Polls::EverySecond => worker % 2 == 1,
            Polls::All => true,
        };
        let stream = if self.by_arn {
            format!("arn:aws:kinesis:{}:{}:stream/{STREAM}", settings.region, settings.account)
        } else {
            STREAM.to_owned()
        };
        let batching = self.batches().batching;
        let millis = |time: Duration| format!("{}ms", time.as_millis());
        format!(
            "streams: ['{stream}']\n\
             {store}\n\
             region: {region}\n\
             client_id: {client_id}\n\
             credentials: {{id: simulated, secret: simulated{role}}}\n\
             commit_period: {commit}\n\
             rebalance_period: {rebalance}\n\
             start_from_oldest: {oldest}\n\
             kpl: {{out_of_range: {outside}}}\n\
             redelivery: {{bisect: {bisects}}}\n\
             checkpoint_limit: {limit}\n\
             message_buffer_cap: {buffer}\n\
             {polling}\
             batching: {{count: {count}, byte_size: {byte_size}, period: {period}, jitter: {jitter}}}\n\
             enhanced_fan_out:\n  enabled: {fan_out}\n  consumer_name: {CONSUMER}\n  reader_threads: 0\n  \
             max_pending_records: {records}\n  max_pending_bytes: {bytes}\n",
            region = settings.region,
            store = match &self.file {
                Some(file) => format!("checkpoint_file: '{}'", file.display()),
                None => format!(
                    "dynamodb: {{table: {TABLE}, create: true}}\nlease_period: {}\nsteal_grace_period: {}",
                    millis(lease),
                    millis(self.grace)
                ),
            },
            role =
                if self.role { ", role: 'arn:aws:iam::123456789012:role/reader', role_external_id: soak" } else { "" },
            commit = millis(self.commit),
            rebalance = millis(self.rebalance),
            oldest = self.oldest,
            outside = if self.delivers_outside { "deliver" } else { "auto" },
            bisects = self.bisects,
            limit = self.checkpoint_limit,
            buffer = self.buffer,
            count = batching.count,
            byte_size = batching.byte_size,
            period = millis(batching.period),
            // Without a period there is nothing to add it to.
            jitter = if batching.period.is_zero() { 0.0 } else { batching.jitter },
            records = self.max_records,
            bytes = self.max_bytes,
            fan_out = !polls,
            polling = if polls {
                format!("polling: {{encoding: {}}}\npoll_period: {}\n", self.encoding, millis(self.poll_period))
            } else {
                String::new()
            },
        )
    }
}
