//! What a run exports to a collector of OpenTelemetry, and what it does without one.

use kinesis_input_cli::Exit;

use crate::kinesis::{Bench, PATIENCE};

/// Runs the program until it ends by itself. Returns its exit code and its log.
async fn ends(environment: &[(&str, &str)]) -> (i32, String) {
    let bench = Bench::start().await;
    let program = bench.program_with(&bench.pipeline(|yaml| yaml), environment, &["--otlp"]);
    let output = tokio::time::timeout(PATIENCE, program.wait_with_output()).await.unwrap().unwrap();
    (output.status.code().unwrap(), String::from_utf8(output.stderr).unwrap())
}

#[cfg(not(feature = "otlp"))]
#[tokio::test]
async fn flag_without_the_feature_is_refused_by_its_name() {
    let (code, said) = ends(&[]).await;
    assert!(said.contains("`--otlp`") && said.contains("feature `otlp`"), "{said}");
    assert_eq!(code, i32::from(Exit::Usage.code()));
}

#[cfg(feature = "otlp")]
#[tokio::test]
async fn setting_that_can_not_be_followed_ends_the_start_without_its_value() {
    for (name, value, part) in [
        ("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc", "`grpc`"),
        ("OTEL_EXPORTER_OTLP_HEADERS", "x-key=s3cret%0A", "`x-key`"),
        ("OTEL_EXPORTER_OTLP_ENDPOINT", "s3cret", "`http://` or `https://`"),
    ] {
        let (code, said) = ends(&[(name, value)]).await;
        assert!(said.contains(&format!("error: the environment variable `{name}`")) && said.contains(part), "{said}");
        assert!(!said.contains("s3cret"), "{said}");
        assert_eq!(code, i32::from(Exit::Configuration.code()));
    }
}

#[cfg(feature = "otlp")]
mod exported {
    use std::collections::BTreeSet;
    use std::convert::Infallible;
    use std::sync::Arc;

    use bytes::Bytes;
    use http_body_util::{BodyExt, Full};
    use hyper::body::Incoming;
    use hyper::server::conn::http1;
    use hyper::service::service_fn;
    use hyper::{HeaderMap, Request, Response, StatusCode};
    use hyper_util::rt::TokioIo;
    use kinesis_input::telemetry::{METRICS, Measure};
    use opentelemetry_proto::tonic::collector::metrics::v1::ExportMetricsServiceRequest;
    use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
    use opentelemetry_proto::tonic::common::v1::any_value::Value;
    use opentelemetry_proto::tonic::common::v1::{AnyValue, KeyValue};
    use opentelemetry_proto::tonic::metrics::v1::metric::Data;
    use opentelemetry_proto::tonic::metrics::v1::{AggregationTemporality, Metric, NumberDataPoint};
    use opentelemetry_proto::tonic::trace::v1::Span;
    use opentelemetry_proto::tonic::trace::v1::span::SpanKind;
    use opentelemetry_proto::tonic::trace::v1::status::StatusCode as SpanStatus;
    use prost::Message;
    use tokio::io::{AsyncBufReadExt, AsyncRead, AsyncWrite, BufReader};
    use tokio::net::TcpListener;
    use tokio::process::{Child, Command};
    use tokio::sync::watch;
    use tokio::task::JoinSet;
    use tokio::time::timeout;
    use tokio_rustls::TlsAcceptor;
    use tokio_rustls::rustls::ServerConfig;
    use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};

    use crate::kinesis::{Bench, PATIENCE, until_written};
    use crate::status::get;

    /// Exports are frequent, so that tests need not wait for them.
    const OFTEN: [(&str, &str); 2] = [("OTEL_METRIC_EXPORT_INTERVAL", "50"), ("OTEL_BSP_SCHEDULE_DELAY", "50")];

    #[derive(Debug, Clone, Copy, PartialEq, Eq)]
    enum Behavior {
        Takes,
        Answers(StatusCode),
        /// Takes a request and never answers.
        Hangs,
        /// Answers well, and rejects something.
        Rejects,
    }

    /// What a collector has seen.
    #[derive(Debug, Default)]
    struct Seen {
        requests: Vec<(String, HeaderMap)>,
        metrics: Vec<ExportMetricsServiceRequest>,
        traces: Vec<ExportTraceServiceRequest>,
    }

    /// A collector on loopback.
    struct Collector {
        port: u16,
        behavior: Arc<watch::Sender<Behavior>>,
        seen: Arc<watch::Sender<Seen>>,
        _serving: JoinSet<()>,
    }

    impl Collector {
        async fn start(behavior: Behavior) -> Self {
            Self::start_with(behavior, None).await
        }

        async fn start_with(behavior: Behavior, tls: Option<TlsAcceptor>) -> Self {
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            let port = listener.local_addr().unwrap().port();
            let (behavior, seen) = (Arc::new(watch::channel(behavior).0), Arc::new(watch::channel(Seen::default()).0));
            let (serving_behavior, serving_seen) = (Arc::clone(&behavior), Arc::clone(&seen));
            let mut serving = JoinSet::new();
            serving.spawn(async move {
                let mut connections = JoinSet::new();
                while let Ok((socket, _)) = listener.accept().await {
                    let (behavior, seen) = (Arc::clone(&serving_behavior), Arc::clone(&serving_seen));
                    let tls = tls.clone();
                    connections.spawn(async move {
                        match tls {
                            Some(tls) => {
                                let Ok(stream) = tls.accept(socket).await else { return };
                                serve(stream, &behavior, &seen).await;
                            }
                            None => serve(socket, &behavior, &seen).await,
                        }
                    });
                }
            });
            Self { port, behavior, seen, _serving: serving }
        }

        fn url(&self) -> String {
            format!("http://127.0.0.1:{}", self.port)
        }

        /// Waits until what was seen is so.
        async fn until(&self, what: &str, so: impl FnMut(&Seen) -> bool) {
            let mut seen = self.seen.subscribe();
            let waited = timeout(PATIENCE, seen.wait_for(so)).await;
            assert!(waited.is_ok(), "{what}");
        }

        fn spans(&self) -> Vec<Span> {
            self.seen.borrow().spans()
        }
    }

    impl Seen {
        fn spans(&self) -> Vec<Span> {
            let scopes = self.traces.iter().flat_map(|request| &request.resource_spans).flat_map(|of| &of.scope_spans);
            scopes.flat_map(|scope| scope.spans.clone()).collect()
        }

        /// The messages of all batches whose span has arrived.
        fn messages(&self) -> i64 {
            self.spans().iter().map(|span| integer(&span.attributes, "messaging.batch.message_count")).sum()
        }

        /// The metrics of the last export.
        fn last_metrics(&self) -> Vec<Metric> {
            let last = self.metrics.iter().rev().take(1).flat_map(|request| &request.resource_metrics);
            last.flat_map(|of| &of.scope_metrics).flat_map(|scope| scope.metrics.clone()).collect()
        }

        /// The sum of the points of a metric in the last export.
        fn total(&self, name: &str) -> i64 {
            let metrics = self.last_metrics();
            let points = metrics.iter().filter(|metric| metric.name == name).flat_map(points);
            points.map(|point| value(point) as i64).sum()
        }
    }

    async fn serve(
        socket: impl AsyncRead + AsyncWrite + Unpin,
        behavior: &watch::Sender<Behavior>,
        seen: &watch::Sender<Seen>,
    ) {
        let service = service_fn(|request: Request<Incoming>| async move {
            let (head, body) = request.into_parts();
            let body = body.collect().await.map(http_body_util::Collected::to_bytes).unwrap_or_default();
            let behavior = *behavior.borrow();
            seen.send_modify(|seen| {
                seen.requests.push((head.uri.path().to_owned(), head.headers));
                if behavior == Behavior::Takes {
                    match head.uri.path() {
                        "/v1/metrics" => seen.metrics.push(ExportMetricsServiceRequest::decode(body).unwrap()),
                        "/v1/traces" => seen.traces.push(ExportTraceServiceRequest::decode(body).unwrap()),
                        other => panic!("{other}"),
                    }
                }
            });
            let mut answer = Response::new(Full::<Bytes>::default());
            match behavior {
                Behavior::Takes => {}
                Behavior::Answers(status) => *answer.status_mut() = status,
                Behavior::Hangs => std::future::pending().await,
                // `partial_success` with 2 rejected and the message `full`.
                Behavior::Rejects => *answer.body_mut() = Bytes::from_static(b"\x0a\x08\x08\x02\x12\x04full").into(),
            }
            Ok::<_, Infallible>(answer)
        });
        // A client that disconnects is not an error.
        let _ = http1::Builder::new().serve_connection(TokioIo::new(socket), service).await;
    }

    /// The names of the metrics that are served.
    async fn served(address: &str) -> BTreeSet<String> {
        let (_, page) = get(address, "/metrics").await;
        let lines = page.lines().filter_map(|line| line.strip_prefix("# TYPE "));
        lines.map(|line| line.split(' ').next().unwrap().to_owned()).collect()
    }

    fn attribute<'a>(attributes: &'a [KeyValue], key: &str) -> Option<&'a Value> {
        let found = attributes.iter().find(|attribute| attribute.key == key)?;
        found.value.as_ref()?.value.as_ref()
    }

    fn text<'a>(attributes: &'a [KeyValue], key: &str) -> Option<&'a str> {
        attribute(attributes, key).map(|value| match value {
            Value::StringValue(text) => text.as_str(),
            other => panic!("{key}: {other:?}"),
        })
    }

    fn integer(attributes: &[KeyValue], key: &str) -> i64 {
        match attribute(attributes, key) {
            Some(Value::IntValue(number)) => *number,
            other => panic!("{key}: {other:?}"),
        }
    }

    fn texts(attributes: &[KeyValue], key: &str) -> Vec<String> {
        let Some(Value::ArrayValue(array)) = attribute(attributes, key) else { panic!("{key}: {attributes:?}") };
        let text = |value: &AnyValue| match &value.value {
            Some(Value::StringValue(text)) => text.clone(),
            other => panic!("{key}: {other:?}"),
        };
        array.values.iter().map(text).collect()
    }

    fn points(metric: &Metric) -> &[NumberDataPoint] {
        match metric.data.as_ref().unwrap() {
            Data::Sum(sum) => &sum.data_points,
            Data::Gauge(gauge) => &gauge.data_points,
            other => panic!("{other:?}"),
        }
    }

    fn value(point: &NumberDataPoint) -> f64 {
        use opentelemetry_proto::tonic::metrics::v1::number_data_point::Value;
        match point.value.unwrap() {
            Value::AsInt(value) => value as f64,
            Value::AsDouble(value) => value,
        }
    }

    /// A program that exports, and its log.
    struct Program {
        child: Child,
        log: watch::Receiver<String>,
        reading: JoinSet<()>,
    }

    impl Program {
        fn start(bench: &Bench, pipeline: &str, environment: &[(&str, &str)], arguments: &[&str]) -> Self {
            let environment = [&OFTEN, environment].concat();
            let mut child = bench.program_with(pipeline, &environment, &[&["--otlp"], arguments].concat());
            let mut lines = BufReader::new(child.stderr.take().unwrap()).lines();
            let (log, receiver) = watch::channel(String::new());
            let mut reading = JoinSet::new();
            reading.spawn(async move {
                while let Ok(Some(line)) = lines.next_line().await {
                    log.send_modify(|log| *log += &(line + "\n"));
                }
            });
            Self { child, log: receiver, reading }
        }

        /// Waits until the log has this, and returns the rest of the line.
        async fn said(&mut self, part: &str) -> String {
            let waited = timeout(PATIENCE, self.log.wait_for(|log| log.contains(part))).await;
            let log = waited.unwrap_or_else(|_| panic!("`{part}` is missing in the log")).unwrap().clone();
            log.split_once(part).unwrap().1.lines().next().unwrap().to_owned()
        }

        /// Stops the program gracefully, which ends well, and returns the log.
        async fn stop(mut self) -> String {
            let id = self.child.id().unwrap().to_string();
            assert!(Command::new("kill").args(["-TERM", &id]).status().await.unwrap().success());
            let ended = timeout(PATIENCE, self.child.wait()).await.unwrap().unwrap();
            self.reading.join_next().await.unwrap().unwrap();
            let log = self.log.borrow().clone();
            assert!(ended.success(), "{log}");
            log
        }
    }

    fn lines(log: &str, part: &str) -> usize {
        log.lines().filter(|line| line.contains(part)).count()
    }

    #[tokio::test]
    async fn metrics_and_a_span_for_each_batch_arrive_beside_what_is_served() {
        let bench = Bench::with_shards(2).await;
        let collector = Collector::start(Behavior::Takes).await;
        let environment = [
            ("OTEL_EXPORTER_OTLP_ENDPOINT", &*format!("{}?key=s3cret", collector.url())),
            ("OTEL_EXPORTER_OTLP_HEADERS", "authorization=Bearer%20s3cret"),
            ("OTEL_SERVICE_NAME", "orders-reader"),
            ("OTEL_RESOURCE_ATTRIBUTES", "team=data"),
        ];
        let arguments = ["--http", "0", "--log-level", "trace"];
        let mut program = Program::start(&bench, &bench.pipeline(|yaml| yaml), &environment, &arguments);
        // Without the query, in which there may be a key.
        assert!(program.said("exporting traces to ").await.ends_with("/v1/traces"));
        let address = program.said("serving status and metrics at http://").await;
        let address = address.trim_end_matches('/').to_owned();
        bench.put(0..200).await;
        let acked = |seen: &Seen| seen.total("kinesis_input_acked_records_total");
        collector.until("all is exported", |seen| seen.messages() == 200 && acked(seen) == 200).await;

        // The metrics are those that are served, and say what the list says. More may come at any time.
        let before = served(&address).await;
        let names = |metrics: &[Metric]| metrics.iter().map(|metric| metric.name.clone()).collect::<BTreeSet<_>>();
        collector.until("all is exported", |seen| names(&seen.last_metrics()).is_superset(&before)).await;
        let metrics = collector.seen.borrow().last_metrics();
        let after = served(&address).await;
        assert!(names(&metrics).is_subset(&after), "{:?} beside {after:?}", names(&metrics));
        for metric in &metrics {
            let listed = METRICS.iter().find(|listed| listed.name == metric.name).unwrap();
            assert_eq!(metric.description, listed.help, "{metric:?}");
            let unit = format!("{:?}", listed.unit).to_lowercase();
            let expected = ["bytes By", "count {count}", "seconds s"];
            assert!(expected.contains(&&*format!("{unit} {}", metric.unit)), "{metric:?}");
            match (listed.measure, metric.data.as_ref().unwrap()) {
                (Measure::Counter, Data::Sum(sum)) => {
                    assert!(sum.is_monotonic, "{metric:?}");
                    assert_eq!(sum.aggregation_temporality(), AggregationTemporality::Cumulative);
                    assert!(sum.data_points.iter().all(|point| point.start_time_unix_nano > 0), "{metric:?}");
                }
                (Measure::Gauge, Data::Gauge(_)) => {}
                (measure, data) => panic!("{measure:?}: {data:?}"),
            }
            let labels = if listed.by_shard { ["stream", "shard"].as_slice() } else { &[] };
            for point in points(metric) {
                assert!(labels.iter().all(|label| text(&point.attributes, label).is_some()), "{metric:?}");
                assert!(point.time_unix_nano > 0, "{metric:?}");
            }
        }
        let read = metrics.iter().find(|metric| metric.name == "kinesis_input_read_records_total").unwrap();
        let shards: BTreeSet<_> = points(read).iter().map(|point| text(&point.attributes, "shard").unwrap()).collect();
        assert_eq!(shards, ["shardId-000000000000", "shardId-000000000001"].into());

        let spans = collector.spans();
        let mut of_spans = BTreeSet::new();
        for span in &spans {
            assert_eq!((&*span.name, span.kind()), ("process orders", SpanKind::Consumer));
            assert!(span.parent_span_id.is_empty() && span.status.as_ref().is_none_or(|status| status.code == 0));
            assert!(span.start_time_unix_nano > 0 && span.start_time_unix_nano < span.end_time_unix_nano, "{span:?}");
            let of = &span.attributes;
            assert_eq!(text(of, "messaging.system"), Some("aws_kinesis"));
            assert_eq!(text(of, "messaging.destination.name"), Some("orders"));
            assert_eq!(text(of, "messaging.operation.type"), Some("process"));
            assert_eq!(integer(of, "kinesis_input.refused_messages"), 0);
            assert_eq!(text(of, "error.type"), None);
            let named = texts(of, "kinesis_input.shards");
            assert_eq!(integer(of, "kinesis_input.shard_count"), i64::try_from(named.len()).unwrap());
            assert_eq!(text(of, "messaging.destination.partition.id").is_some(), named.len() == 1, "{span:?}");
            of_spans.extend(named);
        }
        assert_eq!(of_spans, shards.iter().map(ToString::to_string).collect::<BTreeSet<_>>());

        // Both say whose they are, in the same words.
        let of_metrics = collector.seen.borrow().metrics[0].resource_metrics[0].resource.clone().unwrap().attributes;
        let of_traces = collector.seen.borrow().traces[0].resource_spans[0].resource.clone().unwrap().attributes;
        assert_eq!(
            (text(&of_metrics, "service.name"), text(&of_metrics, "team")),
            (Some("orders-reader"), Some("data"))
        );
        assert_eq!(text(&of_metrics, "service.instance.id").unwrap().len(), 36);
        for key in ["service.name", "service.version", "service.instance.id", "team", "telemetry.sdk.language"] {
            assert_eq!(text(&of_metrics, key), text(&of_traces, key), "{key}");
        }
        assert!(
            collector.seen.borrow().requests.iter().all(|(_, headers)| headers["authorization"] == "Bearer s3cret")
        );
        let log = program.stop().await;
        assert!(log.contains("DEBUG") || log.contains("TRACE"), "the log has all levels");
        assert!(!log.contains("s3cret"), "{}", log.lines().find(|line| line.contains("s3cret")).unwrap());
    }

    #[tokio::test]
    async fn what_is_left_at_a_stop_is_exported() {
        let bench = Bench::start().await;
        let collector = Collector::start(Behavior::Takes).await;
        let hour = "3600000";
        let url = collector.url();
        let environment = [
            ("OTEL_EXPORTER_OTLP_ENDPOINT", &*url),
            ("OTEL_METRIC_EXPORT_INTERVAL", hour),
            ("OTEL_BSP_SCHEDULE_DELAY", hour),
        ];
        let mut program = Program::start(&bench, &bench.pipeline(|yaml| yaml), &environment, &[]);
        bench.put(0..50).await;
        until_written(&bench, &mut program.child, 49).await;
        program.stop().await;
        let seen = collector.seen.borrow();
        assert_eq!((seen.messages(), seen.total("kinesis_input_acked_records_total")), (50, 50));
    }

    #[tokio::test]
    async fn batch_that_the_output_refuses_has_a_span_with_the_reason() {
        let bench = Bench::start().await;
        let collector = Collector::start(Behavior::Takes).await;
        for number in 0..20 {
            let data = if number == 11 { "no JSON".to_owned() } else { format!("{{\"number\":{number}}}") };
            let put = bench.client.put_record().stream_name("orders").partition_key("a");
            put.data(aws_sdk_kinesis::primitives::Blob::new(data)).send().await.unwrap();
        }
        let path = bench.pipeline(|yaml| {
            let drops = "redelivery: { max_attempts: 2, then: drop, bisect: true }\n    enhanced_fan_out";
            yaml.replace("enhanced_fan_out", drops).replace("format: raw", "format: csv")
        });
        let url = collector.url();
        let program = Program::start(&bench, &path, &[("OTEL_EXPORTER_OTLP_ENDPOINT", &url)], &[]);
        let count = |span: &Span, key: &str| integer(&span.attributes, key);
        let (all, refused) = ("messaging.batch.message_count", "kinesis_input.refused_messages");
        collector
            .until("the others are taken", |seen| {
                seen.spans().iter().map(|span| count(span, all) - count(span, refused)).sum::<i64>() == 19
                    && seen.total("kinesis_input_dropped_records_total") == 1
            })
            .await;
        let log = program.stop().await;
        let failed: Vec<_> = collector.spans().into_iter().filter(|span| count(span, refused) > 0).collect();
        assert!(!failed.is_empty());
        for span in failed {
            let status = span.status.as_ref().unwrap();
            assert_eq!((status.code(), text(&span.attributes, "error.type")), (SpanStatus::Error, Some("refused")));
            assert!(status.message.to_lowercase().contains("csv"), "{status:?}: {log}");
        }
        for span in collector.spans().into_iter().filter(|span| count(span, refused) == 0) {
            assert!(span.status.is_none_or(|status| status.code() == SpanStatus::Unset));
        }
    }

    #[tokio::test]
    async fn collector_that_is_away_delays_nothing_and_is_told_about_once() {
        let bench = Bench::start().await;
        // No server is behind this port, at which one has listened.
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        drop(listener);
        let environment =
            [("OTEL_EXPORTER_OTLP_ENDPOINT", &*url), ("OTEL_EXPORTER_OTLP_HEADERS", "x-key=s3cret, y-key=s3cret")];
        let mut program = Program::start(&bench, &bench.pipeline(|yaml| yaml), &environment, &["--log-level", "trace"]);
        bench.put(0..300).await;
        until_written(&bench, &mut program.child, 299).await;
        for signal in ["metrics", "traces"] {
            // This is what each further failure says, at a level of its own.
            program.said(&format!("the collector does not take {signal}")).await;
        }
        let log = program.stop().await;
        assert_eq!(lines(&log, "the pipeline goes on"), 1, "{log}");
        let line = log.lines().find(|line| line.contains("the pipeline goes on")).unwrap();
        assert!(line.contains("WARN") && line.contains("refused") && line.contains("/v1/"), "{line}");
        assert_eq!(lines(&log, "some spans did not reach the collector"), 1);
        assert!(!log.contains("s3cret"), "{log}");
    }

    #[tokio::test]
    async fn collector_that_hangs_delays_neither_delivery_nor_the_stop() {
        let bench = Bench::start().await;
        let collector = Collector::start(Behavior::Hangs).await;
        let url = collector.url();
        let environment = [("OTEL_EXPORTER_OTLP_ENDPOINT", &*url), ("OTEL_EXPORTER_OTLP_TIMEOUT", "3600000")];
        let mut program = Program::start(&bench, &bench.pipeline(|yaml| yaml), &environment, &[]);
        bench.put(0..10).await;
        let paths = |seen: &Seen| seen.requests.iter().map(|(path, _)| path.clone()).collect::<BTreeSet<_>>().len();
        collector.until("both signals hang", |seen| paths(seen) == 2).await;
        bench.put(10..300).await;
        until_written(&bench, &mut program.child, 299).await;
        // Nothing else may end it: the requests have an hour, and this waits a minute.
        let log = program.stop().await;
        assert_eq!(lines(&log, "some spans did not reach the collector"), 1, "{log}");
    }

    #[tokio::test]
    async fn request_without_an_answer_fails_in_its_time() {
        let bench = Bench::start().await;
        let collector = Collector::start(Behavior::Hangs).await;
        let url = collector.url();
        let environment = [("OTEL_EXPORTER_OTLP_ENDPOINT", &*url), ("OTEL_EXPORTER_OTLP_TIMEOUT", "50")];
        let mut program = Program::start(&bench, &bench.pipeline(|yaml| yaml), &environment, &[]);
        program.said("it did not answer within 50ms").await;
        program.stop().await;
    }

    #[tokio::test]
    async fn collector_that_refuses_is_named_with_its_status_and_tried_again() {
        let bench = Bench::start().await;
        let collector = Collector::start(Behavior::Answers(StatusCode::SERVICE_UNAVAILABLE)).await;
        let url = collector.url();
        let environment = [("OTEL_EXPORTER_OTLP_ENDPOINT", &*url), ("OTEL_TRACES_EXPORTER", "none")];
        let mut program = Program::start(&bench, &bench.pipeline(|yaml| yaml), &environment, &[]);
        let cause = program.said("the collector does not take metrics").await;
        assert!(cause.contains("it answered 503 Service Unavailable"), "{cause}");
        collector.behavior.send_replace(Behavior::Takes);
        program.said("the collector takes metrics again").await;
        bench.put(0..5).await;
        collector.until("the totals", |seen| seen.total("kinesis_input_acked_records_total") == 5).await;
        program.stop().await;
        let seen = collector.seen.borrow();
        assert!(seen.requests.iter().all(|(path, _)| path == "/v1/metrics"), "traces are off");
    }

    #[tokio::test]
    async fn what_a_collector_rejects_is_told() {
        let bench = Bench::start().await;
        let collector = Collector::start(Behavior::Rejects).await;
        let url = collector.url();
        for off in ["OTEL_TRACES_EXPORTER", "OTEL_METRICS_EXPORTER"] {
            let environment = [("OTEL_EXPORTER_OTLP_ENDPOINT", &*url), (off, "none")];
            let mut program = Program::start(&bench, &bench.pipeline(|yaml| yaml), &environment, &[]);
            bench.put(0..5).await;
            let cause = program.said("the collector does not take").await;
            assert!(cause.contains("it rejected 2 of them: full"), "{cause}");
            program.stop().await;
        }
    }

    #[tokio::test]
    async fn exports_go_through_the_proxy_of_the_environment() {
        let bench = Bench::start().await;
        let proxy = Collector::start(Behavior::Takes).await;
        let url = proxy.url();
        // A name that only a proxy could resolve.
        let environment = [
            ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://collector.invalid:4318"),
            ("HTTP_PROXY", &*url),
            ("NO_PROXY", "127.0.0.1"),
        ];
        let program = Program::start(&bench, &bench.pipeline(|yaml| yaml), &environment, &[]);
        bench.put(0..5).await;
        proxy.until("metrics and traces", |seen| !seen.metrics.is_empty() && seen.messages() == 5).await;
        assert!(proxy.seen.borrow().requests.iter().all(|(_, headers)| headers["host"] == "collector.invalid:4318"));
        program.stop().await;
    }

    #[tokio::test]
    async fn certificates_of_the_environment_are_trusted_and_others_are_not() {
        let bench = Bench::start().await;
        let rcgen::CertifiedKey { cert, signing_key } =
            rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
        std::fs::write(bench.path("trusted.pem"), cert.pem()).unwrap();
        let key = PrivateKeyDer::try_from(signing_key.serialize_der()).unwrap();
        let config = ServerConfig::builder().with_no_client_auth();
        let config = config.with_single_cert(vec![CertificateDer::from(cert)], key).unwrap();
        let collector = Collector::start_with(Behavior::Takes, Some(TlsAcceptor::from(Arc::new(config)))).await;
        let url = format!("https://localhost:{}", collector.port);
        let (endpoint, trusted) = (("OTEL_EXPORTER_OTLP_ENDPOINT", &*url), bench.path("trusted.pem"));

        let mut program = Program::start(&bench, &bench.pipeline(|yaml| yaml), &[endpoint], &[]);
        let cause = program.said("the collector does not take metrics").await;
        assert!(cause.to_lowercase().contains("certificate"), "{cause}");
        program.stop().await;

        let environment = [endpoint, ("SSL_CERT_FILE", &*trusted)];
        let program = Program::start(&bench, &bench.pipeline(|yaml| yaml), &environment, &[]);
        collector.until("metrics", |seen| !seen.metrics.is_empty()).await;
        program.stop().await;
    }

    #[tokio::test]
    async fn sampler_of_the_environment_decides_about_spans() {
        let bench = Bench::start().await;
        let collector = Collector::start(Behavior::Takes).await;
        let url = collector.url();
        let environment = [("OTEL_EXPORTER_OTLP_ENDPOINT", &*url), ("OTEL_TRACES_SAMPLER", "always_off")];
        let mut program = Program::start(&bench, &bench.pipeline(|yaml| yaml), &environment, &[]);
        bench.put(0..5).await;
        until_written(&bench, &mut program.child, 4).await;
        program.stop().await;
        let seen = collector.seen.borrow();
        assert!(!seen.metrics.is_empty() && seen.traces.is_empty());
    }

    #[tokio::test]
    async fn disabled_sdk_exports_nothing() {
        let bench = Bench::start().await;
        let collector = Collector::start(Behavior::Takes).await;
        let url = collector.url();
        let environment = [("OTEL_EXPORTER_OTLP_ENDPOINT", &*url), ("OTEL_SDK_DISABLED", "true")];
        let mut program = Program::start(&bench, &bench.pipeline(|yaml| yaml), &environment, &[]);
        bench.put(0..5).await;
        until_written(&bench, &mut program.child, 4).await;
        let log = program.stop().await;
        assert!(log.contains("OTEL_SDK_DISABLED"), "{log}");
        assert!(collector.seen.borrow().requests.is_empty());
    }
}
