//! How are the metrics of this process exported?
//!
//! They are read as `/metrics` shows them, so a series that is not shown any more is not exported any more. The SDK of
//! OpenTelemetry would export the last value of a gauge indefinitely, so requests are made here.

use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use metrics::{Key, Unit};
use opentelemetry::InstrumentationScope;
use opentelemetry_proto::tonic::collector::metrics::v1::ExportMetricsServiceRequest;
use opentelemetry_proto::tonic::common::v1::any_value::Value;
use opentelemetry_proto::tonic::common::v1::{AnyValue, KeyValue};
use opentelemetry_proto::tonic::metrics::v1::metric::Data;
use opentelemetry_proto::tonic::metrics::v1::{
    AggregationTemporality, Gauge, Metric, NumberDataPoint, ResourceMetrics, ScopeMetrics, Sum, number_data_point,
};
use opentelemetry_proto::transform::common::tonic::ResourceAttributesWithSchema;
use opentelemetry_sdk::Resource;
use prost::Message;
use tokio::task::JoinSet;
use tokio::time::{Instant, MissedTickBehavior, interval_at, timeout};

use super::collector::{Collector, Notices};
use super::settings::MetricSettings;
use crate::metrics::{Recorded, Series, Values};

const SIGNAL: &str = "metrics";

/// Exports the metrics now and then.
#[derive(Debug)]
pub(super) struct MetricExport {
    sender: Arc<Sender>,
    periodic: JoinSet<()>,
}

impl MetricExport {
    pub(super) fn start(
        settings: &MetricSettings,
        recorded: Recorded,
        resource: Resource,
        scope: InstrumentationScope,
        notices: Arc<Notices>,
    ) -> Result<Self, String> {
        let collector = Collector::new(&settings.target)?;
        tracing::info!("exporting metrics to {}", collector.address());
        let sender = Arc::new(Sender { collector, recorded, resource, scope, notices });
        let mut periodic = JoinSet::new();
        let (every, sends) = (settings.interval, Arc::clone(&sender));
        periodic.spawn(async move {
            let mut ticks = interval_at(Instant::now() + every, every);
            ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
            loop {
                ticks.tick().await;
                sends.export().await;
            }
        });
        Ok(Self { sender, periodic })
    }

    /// Exports the last values, for at most this long.
    pub(super) async fn end(&mut self, within: Duration) {
        // An export that hangs is given up: the last one has all that it would have brought.
        self.periodic.abort_all();
        // The log has the failure of an export; one that takes too long here is none.
        let _ = timeout(within, self.sender.export()).await;
    }
}

#[derive(Debug)]
struct Sender {
    collector: Collector,
    recorded: Recorded,
    resource: Resource,
    scope: InstrumentationScope,
    notices: Arc<Notices>,
}

impl Sender {
    /// A failed export is not repeated before the next, which brings the totals of all counters.
    async fn export(&self) {
        let metrics: Vec<_> =
            self.recorded.series().into_iter().map(|series| metric(series, SystemTime::now())).collect();
        if metrics.is_empty() {
            return;
        }
        let resource = ResourceAttributesWithSchema::from(&self.resource).attributes.0;
        let scope = ScopeMetrics { scope: Some((&self.scope, None).into()), metrics, schema_url: String::new() };
        let of_resource = ResourceMetrics {
            resource: Some(opentelemetry_proto::tonic::resource::v1::Resource {
                attributes: resource,
                ..Default::default()
            }),
            scope_metrics: vec![scope],
            schema_url: String::new(),
        };
        let request = ExportMetricsServiceRequest { resource_metrics: vec![of_resource] };
        match self.collector.post(request.encode_to_vec()).await {
            Ok(()) => self.notices.succeeded(SIGNAL),
            Err(cause) => self.notices.failed(SIGNAL, &self.collector, &cause, 0),
        }
    }
}

fn metric(series: Series, now: SystemTime) -> Metric {
    let data = match series.values {
        Values::Counters(counters) => Data::Sum(Sum {
            data_points: counters
                .into_iter()
                .map(|(key, total, since)| {
                    let total = number_data_point::Value::AsInt(i64::try_from(total).unwrap_or(i64::MAX));
                    point(&key, total, nanos(since), now)
                })
                .collect(),
            aggregation_temporality: AggregationTemporality::Cumulative.into(),
            is_monotonic: true,
        }),
        Values::Gauges(gauges) => Data::Gauge(Gauge {
            data_points: gauges
                .into_iter()
                .map(|(key, value)| point(&key, number_data_point::Value::AsDouble(value), 0, now))
                .collect(),
        }),
    };
    Metric {
        name: series.name,
        description: series.help,
        unit: unit(series.unit),
        metadata: Vec::new(),
        data: Some(data),
    }
}

fn point(key: &Key, value: number_data_point::Value, start: u64, now: SystemTime) -> NumberDataPoint {
    NumberDataPoint {
        attributes: key.labels().map(|label| attribute(label.key(), label.value())).collect(),
        start_time_unix_nano: start,
        time_unix_nano: nanos(now),
        value: Some(value),
        ..NumberDataPoint::default()
    }
}

fn attribute(key: &str, value: &str) -> KeyValue {
    let value = Some(AnyValue { value: Some(Value::StringValue(value.to_owned())) });
    KeyValue { key: key.to_owned(), value, ..KeyValue::default() }
}

/// The unit as UCUM writes it. What is counted has an annotation and not `1`: from that, servers that make metrics for
/// Prometheus would make names that end in `_ratio`.
fn unit(unit: Option<Unit>) -> String {
    match unit {
        None => String::new(),
        Some(Unit::Count) => "{count}".to_owned(),
        Some(Unit::Seconds) => "s".to_owned(),
        Some(Unit::Bytes) => "By".to_owned(),
        Some(other) => other.as_canonical_label().to_owned(),
    }
}

fn nanos(time: SystemTime) -> u64 {
    time.duration_since(UNIX_EPOCH).map_or(0, |since| u64::try_from(since.as_nanos()).unwrap_or(u64::MAX))
}
