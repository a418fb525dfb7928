//! Which metrics are shown to Prometheus, and until when?
//!
//! Shards come and go with every reshard and rebalance, so what is known of them must not be kept indefinitely. The
//! exporter forgets what did not change for a while, which is right for gauges: the input sets all of them every
//! second. A counter of a quiet shard does not change, and forgetting it would set it back to zero. So the counters
//! are kept here, and shown to the exporter as changed every second for as long as they are in use.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};
use std::time::Duration;

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

/// Installs the recorder of this process, and keeps it up to date. Must be called on a runtime. Returns what renders the
/// metrics.
#[expect(clippy::disallowed_methods, reason = "metrics are kept until the process ends")]
pub(crate) fn install() -> Result<PrometheusHandle, String> {
    let counters = Arc::new(Counters::new(exporter(IDLE).build_recorder()));
    metrics::set_global_recorder(Arc::clone(&counters)).map_err(|error| error.to_string())?;
    let handle = counters.handle.clone();
    tokio::spawn(async move {
        let mut ticks = tokio::time::interval(SHOWN_EVERY);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            counters.show();
        }
    });
    Ok(handle)
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
}

/// One counter.
struct Entry {
    counter: Arc<Total>,
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

impl Counters {
    fn new(exporter: PrometheusRecorder) -> Self {
        let handle = exporter.handle();
        let kept = Kept { counters: HashMap::new(), rendered: Instant::now() };
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
                let is_forgotten = entry.unused_since.is_some_and(|since| now.duration_since(since) >= KEPT);
                entry.renderings += u8::from(is_forgotten);
                entry.renderings < 2
            });
        }
    }
}

impl Recorder for Counters {
    fn describe_counter(&self, key: KeyName, unit: Option<Unit>, description: SharedString) {
        self.exporter.describe_counter(key, unit, description);
    }

    fn describe_gauge(&self, key: KeyName, unit: Option<Unit>, description: SharedString) {
        self.exporter.describe_gauge(key, unit, description);
    }

    fn describe_histogram(&self, key: KeyName, unit: Option<Unit>, description: SharedString) {
        self.exporter.describe_histogram(key, unit, description);
    }

    fn register_counter(&self, key: &Key, metadata: &Metadata<'_>) -> Counter {
        let mut kept = self.kept();
        let entry = kept.counters.entry(key.clone()).or_insert_with(|| {
            let exported = RwLock::new(self.exporter.register_counter(key, metadata));
            Entry { counter: Arc::new(Total { total: AtomicU64::new(0), exported }), unused_since: None, renderings: 0 }
        });
        Counter::from_arc(Arc::clone(&entry.counter))
    }

    fn register_gauge(&self, key: &Key, metadata: &Metadata<'_>) -> Gauge {
        self.exporter.register_gauge(key, metadata)
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
}
