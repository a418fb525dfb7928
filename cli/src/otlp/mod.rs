//! How are metrics and traces exported to a collector of OpenTelemetry?
//!
//! - `settings`: what the environment says; `collector`: requests, and what the log says of them.
//! - `metrics`: the metrics of this process; `traces`: a span for each batch.
//!
//! A collector that is away or hangs delays nothing and holds no memory beyond the queue of spans.

mod collector;
mod metrics;
mod settings;
mod traces;

use std::sync::Arc;
use std::time::Duration;

use opentelemetry::{InstrumentationScope, KeyValue};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::resource::TelemetryResourceDetector;
use uuid::Uuid;

use crate::StopHandle;
use crate::metrics::Recorded;
use collector::Notices;
use metrics::MetricExport;
use traces::SpanExport;

pub(crate) use settings::Settings;
pub(crate) use traces::Traces;

const STOP_WITHIN: Duration = Duration::from_secs(3);
/// The name of the program as a service, unless the environment gives another.
const SERVICE: &str = "kinesis-input";

/// The exports of this process.
#[derive(Debug)]
pub(crate) struct Exports {
    metrics: Option<MetricExport>,
    spans: Option<Arc<SpanExport>>,
    /// Makes the spans, if they are exported.
    traces: Option<Traces>,
    /// How long a stop waits at most until what is left is exported.
    stop_within: Duration,
}

impl Exports {
    /// Starts to export. Must be called on a runtime.
    pub(crate) fn start(settings: &Settings, recorded: &Recorded) -> Result<Self, String> {
        let resource = resource(settings);
        let scope = InstrumentationScope::builder(SERVICE).with_version(env!("CARGO_PKG_VERSION")).build();
        let notices = Arc::<Notices>::default();
        let metrics = settings.metrics.as_ref().map(|settings| {
            MetricExport::start(settings, recorded.clone(), resource.clone(), scope.clone(), Arc::clone(&notices))
        });
        let metrics = metrics.transpose()?;
        let spans = settings.traces.as_ref().map(|settings| SpanExport::start(settings, resource, scope, notices));
        let (spans, traces) = spans.transpose()?.unzip();
        if metrics.is_none() && traces.is_none() {
            tracing::warn!("nothing is exported: OTEL_METRICS_EXPORTER and OTEL_TRACES_EXPORTER are `none`");
        }
        Ok(Self { metrics, spans: spans.map(Arc::new), traces, stop_within: STOP_WITHIN })
    }

    /// Returns what makes the spans of a run, if they are exported.
    pub(crate) fn traces(&self) -> Option<Traces> {
        self.traces.clone()
    }

    /// Exports what is left, unless the collector takes too long or the run is stopped at once.
    pub(crate) async fn end(mut self, stop: &StopHandle) {
        let within = self.stop_within;
        let ending = async {
            let spans = self.spans.clone().map(|spans| tokio::task::spawn_blocking(move || spans.end(within)));
            let spans = async {
                match spans {
                    Some(spans) => spans.await.unwrap_or_default(),
                    None => 0,
                }
            };
            let metrics = async {
                if let Some(metrics) = &mut self.metrics {
                    metrics.end(within).await;
                }
            };
            let (lost_spans, ()) = tokio::join!(spans, metrics);
            if lost_spans > 0 {
                tracing::warn!(lost_spans, "some spans did not reach the collector");
            }
        };
        tokio::select! {
            () = ending => {}
            () = stop.immediate_requested() => {}
        }
    }
}

impl Drop for Exports {
    fn drop(&mut self) {
        if let Some(spans) = &self.spans {
            // Otherwise the last part of the program that can make spans would wait for their export.
            spans.end(Duration::ZERO);
        }
    }
}

/// The attributes of this process. Without an instance, the metrics of two workers would be taken for one.
fn resource(settings: &Settings) -> Resource {
    let ours = [
        KeyValue::new("service.name", SERVICE),
        KeyValue::new("service.version", env!("CARGO_PKG_VERSION")),
        KeyValue::new("service.instance.id", Uuid::new_v4().to_string()),
    ];
    let set = settings.resource.iter().map(|(key, value)| KeyValue::new(key.clone(), value.clone()));
    Resource::builder_empty()
        .with_detector(Box::new(TelemetryResourceDetector))
        .with_attributes(ours.into_iter().chain(set))
        .build()
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use tokio::net::TcpListener as Listener;
    use tokio::runtime::Runtime;

    use super::*;
    use crate::metrics::recorded_alone;

    /// The bound on a stop is an hour here, and the requests have as long: only the second signal can end it.
    #[test]
    fn immediate_stop_does_not_wait_for_exports() {
        let runtime = Runtime::new().unwrap();
        runtime.block_on(async {
            let listener = TcpListener::bind("127.0.0.1:0").unwrap();
            listener.set_nonblocking(true).unwrap();
            let listener = Listener::from_std(listener).unwrap();
            let endpoint = format!("http://{}", listener.local_addr().unwrap());
            let settings =
                Settings::of([("OTEL_EXPORTER_OTLP_ENDPOINT", &*endpoint), ("OTEL_EXPORTER_OTLP_TIMEOUT", "3600000")]);
            let recorded = recorded_alone();
            recorded.count("read");
            let mut exports = Exports::start(&settings, &recorded).unwrap();
            exports.stop_within = Duration::from_hours(1);
            let stop = StopHandle::new();
            let second_signal = async {
                // The last export has begun, and is not answered.
                let connection = listener.accept().await.unwrap();
                stop.stop_immediately();
                connection
            };
            let ended = async { tokio::join!(second_signal, exports.end(&stop)) };
            assert!(tokio::time::timeout(Duration::from_mins(1), ended).await.is_ok());
        });
        runtime.shutdown_background();
    }
}
