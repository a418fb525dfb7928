//! Which metrics are shown to Prometheus and exported, and until when?
//!
//! Shards come and go with every reshard and rebalance, so what is known of them must not be kept indefinitely. The
//! exporter forgets what did not change for a while, which is right for gauges: the input sets all of them every
//! second. A counter of a quiet shard does not change, and forgetting it would set it back to zero. So the counters
//! are kept here, and shown to the exporter as changed every second for as long as they are in use. Exports to a collector
//! read the same metrics from here.

#[cfg(feature = "otlp")]
use std::collections::BTreeMap;
use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};
use std::time::Duration;
#[cfg(feature = "otlp")]
use std::time::SystemTime;

#[cfg(feature = "otlp")]
use metrics::GaugeFn;
use metrics::{Counter, CounterFn, Gauge, Histogram, Key, KeyName, Level, Metadata, Recorder, SharedString, Unit};
use metrics_exporter_prometheus::{PrometheusBuilder, PrometheusHandle, PrometheusRecorder};
use metrics_util::MetricKindMask;
use tokio::time::{Instant, MissedTickBehavior};

/// A gauge or counter that did not change for this long is not served anymore.
const IDLE: Duration = Duration::from_secs(15);
/// A counter of a shard is served for this long after the shard's reader and its last receipt are gone.
const KEPT: Duration = Duration::from_mins(5);
/// How often the counters are shown as changed.
const SHOWN_EVERY: Duration = Duration::from_secs(1);
/// The exporter forgets a counter in the second of two renderings that are further apart than `IDLE`.
const RENDERED_EVERY: Duration = IDLE.saturating_mul(2);
/// The label of the counters that go with their shard.
const SHARD: &str = "shard";

/// The metrics of this process. Clones are of the same.
#[derive(Clone)]
pub(crate) struct Recorded(Arc<Counters>);

impl Recorded {
    /// Returns what renders the metrics.
    pub(crate) fn handle(&self) -> PrometheusHandle {
        self.0.handle.clone()
    }

    /// Returns the metrics that are shown at the moment.
    #[cfg(feature = "otlp")]
    pub(crate) fn series(&self) -> Vec<Series> {
        self.0.series()
    }
}

/// Metrics of a test, which are recorded for it alone.
#[cfg(all(test, feature = "otlp"))]
pub(crate) fn recorded_alone() -> Recorded {
    Recorded(Arc::new(Counters::new(exporter(IDLE).build_recorder())))
}

#[cfg(all(test, feature = "otlp"))]
impl Recorded {
    pub(crate) fn count(&self, name: &'static str) {
        metrics::with_local_recorder(&self.0, || metrics::counter!(name).increment(1));
    }
}

impl std::fmt::Debug for Recorded {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Recorded")
    }
}

/// The values of one metric.
#[cfg(feature = "otlp")]
#[derive(Debug)]
pub(crate) struct Series {
    pub(crate) name: String,
    pub(crate) unit: Option<Unit>,
    pub(crate) help: String,
    pub(crate) values: Values,
}

#[cfg(feature = "otlp")]
#[derive(Debug)]
pub(crate) enum Values {
    /// Totals, and since when they are counted.
    Counters(Vec<(Key, u64, SystemTime)>),
    Gauges(Vec<(Key, f64)>),
}

/// Installs the recorder of this process, and keeps it up to date. Must be called on a runtime.
#[expect(clippy::disallowed_methods, reason = "metrics are kept until the process ends")]
pub(crate) fn install() -> Result<Recorded, String> {
    let counters = Arc::new(Counters::new(exporter(IDLE).build_recorder()));
    metrics::set_global_recorder(Arc::clone(&counters)).map_err(|error| error.to_string())?;
    let recorded = Recorded(Arc::clone(&counters));
    tokio::spawn(async move {
        let mut ticks = tokio::time::interval(SHOWN_EVERY);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            counters.show();
        }
    });
    Ok(recorded)
}

/// Histograms are left out: the input has none, and one can't be shown as changed without a value.
fn exporter(idle: Duration) -> PrometheusBuilder {
    PrometheusBuilder::new().idle_timeout(MetricKindMask::GAUGE | MetricKindMask::COUNTER, Some(idle))
}

/// The counters in front of the exporter.
struct Counters {
    exporter: PrometheusRecorder,
    handle: PrometheusHandle,
    kept: Mutex<Kept>,
}

struct Kept {
    counters: HashMap<Key, Entry>,
    /// When this program rendered the metrics last so that the exporter forgets counters.
    rendered: Instant,
    /// The gauges for exports: the exporter for Prometheus does not return values.
    #[cfg(feature = "otlp")]
    gauges: HashMap<Key, Arc<LastSet>>,
    /// The units and meanings of metrics, by their names.
    #[cfg(feature = "otlp")]
    described: HashMap<KeyName, (Option<Unit>, SharedString)>,
}

/// One counter.
struct Entry {
    counter: Arc<Total>,
    /// Since when it counts.
    #[cfg(feature = "otlp")]
    since: SystemTime,
    /// Since when no part of the program holds the counter; `None` while one does.
    unused_since: Option<Instant>,
    /// How often the metrics were rendered after the counter was last shown as changed. With the second time the
    /// exporter has forgotten it.
    renderings: u8,
}

/// The value of a counter. The exporter's is brought to it, so that a counter that the exporter forgot too early, as it
/// may after the process was paused, comes back with its value.
struct Total {
    total: AtomicU64,
    exported: RwLock<Counter>,
}

impl Total {
    fn show(&self, exported: Counter) {
        // An increment between the two lines is shown by its own call, on the new counter.
        *self.exported.write().unwrap_or_else(PoisonError::into_inner) = exported;
        self.publish(self.total.load(Ordering::Acquire));
    }

    fn publish(&self, total: u64) {
        self.exported.read().unwrap_or_else(PoisonError::into_inner).absolute(total);
    }
}

impl CounterFn for Total {
    fn increment(&self, value: u64) {
        self.publish(self.total.fetch_add(value, Ordering::AcqRel).wrapping_add(value));
    }

    fn absolute(&self, value: u64) {
        self.publish(self.total.fetch_max(value, Ordering::AcqRel).max(value));
    }
}

/// The value of a gauge, and when it was last set.
#[cfg(feature = "otlp")]
#[derive(Debug)]
struct LastSet(Mutex<(f64, Instant)>);

#[cfg(feature = "otlp")]
impl LastSet {
    fn new() -> Self {
        Self(Mutex::new((0.0, Instant::now())))
    }

    fn change(&self, change: impl FnOnce(f64) -> f64) {
        let mut level = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        *level = (change(level.0), Instant::now());
    }

    /// The value, if it was set lately.
    fn shown(&self, now: Instant) -> Option<f64> {
        let (value, set) = *self.0.lock().unwrap_or_else(PoisonError::into_inner);
        (now.duration_since(set) < IDLE).then_some(value)
    }
}

/// A gauge for exports and for Prometheus.
#[cfg(feature = "otlp")]
struct Both {
    level: Arc<LastSet>,
    exported: Gauge,
}

#[cfg(feature = "otlp")]
impl GaugeFn for Both {
    fn increment(&self, value: f64) {
        self.level.change(|level| level + value);
        self.exported.increment(value);
    }

    fn decrement(&self, value: f64) {
        self.level.change(|level| level - value);
        self.exported.decrement(value);
    }

    fn set(&self, value: f64) {
        self.level.change(|_| value);
        self.exported.set(value);
    }
}

impl Entry {
    fn new(exported: Counter) -> Self {
        let counter = Arc::new(Total { total: AtomicU64::new(0), exported: RwLock::new(exported) });
        Self {
            counter,
            #[cfg(feature = "otlp")]
            since: SystemTime::now(),
            unused_since: None,
            renderings: 0,
        }
    }

    fn is_gone(&self, now: Instant) -> bool {
        self.unused_since.is_some_and(|since| now.duration_since(since) >= KEPT)
    }
}

impl Counters {
    fn new(exporter: PrometheusRecorder) -> Self {
        let handle = exporter.handle();
        let kept = Kept {
            counters: HashMap::new(),
            rendered: Instant::now(),
            #[cfg(feature = "otlp")]
            gauges: HashMap::new(),
            #[cfg(feature = "otlp")]
            described: HashMap::new(),
        };
        Self { exporter, handle, kept: Mutex::new(kept) }
    }

    fn kept(&self) -> MutexGuard<'_, Kept> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn exported(&self, key: &Key) -> Counter {
        self.exporter.register_counter(key, &Metadata::new(module_path!(), Level::INFO, None))
    }

    /// Shows the counters in use as changed, and has the exporter forget those of shards that have been gone for long.
    fn show(&self) {
        let now = Instant::now();
        let mut kept = self.kept();
        let mut forgets = false;
        for (key, entry) in &mut kept.counters {
            let is_used = Arc::strong_count(&entry.counter) > 1 || key.labels().all(|label| label.key() != SHARD);
            if is_used {
                entry.unused_since = None;
            } else if now.duration_since(*entry.unused_since.get_or_insert(now)) >= KEPT {
                forgets = true;
                continue;
            }
            entry.renderings = 0;
            entry.counter.show(self.exported(key));
        }
        // The metrics may not be read for days, and the exporter forgets only when it renders them.
        if forgets && now.duration_since(kept.rendered) >= RENDERED_EVERY {
            kept.rendered = now;
            self.handle.render();
            kept.counters.retain(|_, entry| {
                let is_forgotten = entry.is_gone(now);
                entry.renderings += u8::from(is_forgotten);
                entry.renderings < 2
            });
        }
        #[cfg(feature = "otlp")]
        kept.gauges.retain(|_, level| level.shown(now).is_some());
    }

    #[cfg(feature = "otlp")]
    fn series(&self) -> Vec<Series> {
        let now = Instant::now();
        let kept = self.kept();
        let mut by_name: BTreeMap<&str, Values> = BTreeMap::new();
        for (key, entry) in kept.counters.iter().filter(|(_, entry)| !entry.is_gone(now)) {
            let total = (key.clone(), entry.counter.total.load(Ordering::Acquire), entry.since);
            if let Values::Counters(all) = by_name.entry(key.name()).or_insert(Values::Counters(Vec::new())) {
                all.push(total);
            }
        }
        for (key, level) in &kept.gauges {
            let Some(value) = level.shown(now) else { continue };
            if let Values::Gauges(all) = by_name.entry(key.name()).or_insert(Values::Gauges(Vec::new())) {
                all.push((key.clone(), value));
            }
        }
        let series = by_name.into_iter().map(|(name, values)| {
            let (unit, help) =
                kept.described.get(name).map(|(unit, help)| (*unit, help.to_string())).unwrap_or_default();
            Series { name: name.to_owned(), unit, help, values }
        });
        series.collect()
    }

    #[cfg(feature = "otlp")]
    fn describe(&self, key: &KeyName, unit: Option<Unit>, description: &SharedString) {
        self.kept().described.insert(key.clone(), (unit, description.clone()));
    }
}

impl Recorder for Counters {
    fn describe_counter(&self, key: KeyName, unit: Option<Unit>, description: SharedString) {
        #[cfg(feature = "otlp")]
        self.describe(&key, unit, &description);
        self.exporter.describe_counter(key, unit, description);
    }

    fn describe_gauge(&self, key: KeyName, unit: Option<Unit>, description: SharedString) {
        #[cfg(feature = "otlp")]
        self.describe(&key, unit, &description);
        self.exporter.describe_gauge(key, unit, description);
    }

    fn describe_histogram(&self, key: KeyName, unit: Option<Unit>, description: SharedString) {
        self.exporter.describe_histogram(key, unit, description);
    }

    fn register_counter(&self, key: &Key, metadata: &Metadata<'_>) -> Counter {
        let mut kept = self.kept();
        let entry = kept.counters.entry(key.clone());
        let entry = entry.or_insert_with(|| Entry::new(self.exporter.register_counter(key, metadata)));
        Counter::from_arc(Arc::clone(&entry.counter))
    }

    fn register_gauge(&self, key: &Key, metadata: &Metadata<'_>) -> Gauge {
        let exported = self.exporter.register_gauge(key, metadata);
        #[cfg(feature = "otlp")]
        let exported = {
            let mut kept = self.kept();
            let level = kept.gauges.entry(key.clone()).or_insert_with(|| Arc::new(LastSet::new()));
            Gauge::from_arc(Arc::new(Both { level: Arc::clone(level), exported }))
        };
        exported
    }

    fn register_histogram(&self, key: &Key, metadata: &Metadata<'_>) -> Histogram {
        self.exporter.register_histogram(key, metadata)
    }
}

#[cfg(test)]
mod tests {
    use metrics::{counter, gauge, with_local_recorder};
    use tokio::time::advance;

    use super::*;

    /// The time is that of tokio, which is paused. The exporter has a clock of its own that can't be replaced, so it
    /// forgets at once what did not change between two renderings.
    fn counters() -> Counters {
        Counters::new(exporter(Duration::ZERO).build_recorder())
    }

    async fn seconds(counters: &Counters, seconds: u64) {
        for _ in 0..seconds {
            advance(SHOWN_EVERY).await;
            counters.show();
        }
    }

    #[tokio::test(start_paused = true)]
    async fn counter_of_a_gone_shard_goes_and_those_in_use_stay() {
        let counters = counters();
        let of = |shard: &'static str| with_local_recorder(&counters, || counter!("read", "shard" => shard));
        let (quiet, gone) = (of("quiet"), of("gone"));
        quiet.increment(3);
        gone.increment(4);
        with_local_recorder(&counters, || counter!("stored").increment(5));
        drop(gone);
        seconds(&counters, KEPT.as_secs() - 1).await;
        let served = counters.handle.render();
        assert!(served.contains("read{shard=\"gone\"} 4"), "{served}");
        seconds(&counters, 1000).await;
        for _ in 0..2 {
            let served = counters.handle.render();
            assert!(!served.contains("gone"), "{served}");
            assert!(served.contains("read{shard=\"quiet\"} 3") && served.contains("stored 5"), "{served}");
            counters.show();
        }
        assert_eq!(counters.kept().counters.len(), 2, "the memory of what is gone is free");
        // A shard that comes back much later counts anew, and from its first record.
        let back = of("gone");
        back.increment(1);
        assert!(counters.handle.render().contains("read{shard=\"gone\"} 1"));
    }

    #[tokio::test(start_paused = true)]
    async fn shard_that_comes_back_soon_counts_on() {
        let counters = counters();
        let of = || with_local_recorder(&counters, || counter!("read", "shard" => "moves"));
        of().increment(4);
        // The exporter does not know it anymore, and this program does.
        seconds(&counters, KEPT.as_secs() + 1).await;
        for _ in 0..2 {
            counters.handle.render();
        }
        let back = of();
        back.increment(1);
        seconds(&counters, 1).await;
        let served = counters.handle.render();
        assert!(served.contains("read{shard=\"moves\"} 5"), "{served}");
    }

    #[tokio::test(start_paused = true)]
    async fn counter_that_the_exporter_forgot_during_a_pause_comes_back_with_its_value() {
        let counters = counters();
        let counter = with_local_recorder(&counters, || counter!("read", "shard" => "a"));
        counter.increment(4);
        // Nothing is shown as changed between these.
        while counters.handle.render().contains("read") {}
        counter.increment(1);
        seconds(&counters, 1).await;
        assert!(counters.handle.render().contains("read{shard=\"a\"} 5"));
    }

    #[tokio::test(start_paused = true)]
    async fn gauge_that_is_not_set_goes() {
        let counters = counters();
        with_local_recorder(&counters, || gauge!("lag", "shard" => "a").set(1.0));
        assert!(counters.handle.render().contains("lag"));
        while counters.handle.render().contains("lag") {}
    }

    #[cfg(feature = "otlp")]
    fn exported(counters: &Counters) -> Vec<String> {
        let labels = |key: &Key| key.labels().map(|label| label.value().to_owned()).collect::<Vec<_>>().join(",");
        let lines = counters.series().into_iter().flat_map(|series| match series.values {
            Values::Counters(all) => {
                all.iter().map(|(key, total, _)| format!("{} {} {total}", series.name, labels(key))).collect::<Vec<_>>()
            }
            Values::Gauges(all) => {
                all.iter().map(|(key, value)| format!("{} {} {value}", series.name, labels(key))).collect()
            }
        });
        let mut lines: Vec<_> = lines.collect();
        lines.sort();
        lines
    }

    #[cfg(feature = "otlp")]
    #[tokio::test(start_paused = true)]
    async fn otlp_exports_have_what_is_shown_and_no_more() {
        let counters = counters();
        let read = with_local_recorder(&counters, || counter!("read", "shard" => "a"));
        read.increment(3);
        with_local_recorder(&counters, || {
            metrics::describe_gauge!("lag", Unit::Seconds, "How late.");
            gauge!("lag", "shard" => "a").set(1.5);
            gauge!("level").increment(2.0);
        });
        assert_eq!(exported(&counters), ["lag a 1.5", "level  2", "read a 3"]);
        let lag = counters.series().into_iter().find(|series| series.name == "lag").unwrap();
        assert_eq!((lag.unit, &*lag.help), (Some(Unit::Seconds), "How late."));

        // The gauges go first, and are not held in memory.
        drop(read);
        seconds(&counters, IDLE.as_secs()).await;
        assert_eq!(exported(&counters), ["read a 3"]);
        assert!(counters.kept().gauges.is_empty());
        seconds(&counters, KEPT.as_secs()).await;
        assert!(exported(&counters).is_empty(), "{:?}", exported(&counters));
        // What comes back starts anew.
        seconds(&counters, 60).await;
        let before = SystemTime::now();
        with_local_recorder(&counters, || counter!("read", "shard" => "a").increment(1));
        let again = counters.series().remove(0);
        let Values::Counters(totals) = again.values else { panic!("{again:?}") };
        assert!(totals.len() == 1 && totals[0].1 == 1 && totals[0].2 >= before, "{totals:?}");
    }
}
