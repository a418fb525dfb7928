//! Which span does a batch become?
//!
//! One from the moment at which the program has the batch until its verdicts are given. It is made only then, so a batch
//! on its way holds no more than its start and a few names. Spans wait for their export in a queue of limited length.
//! When that is full, they are dropped and counted: a collector that is slow or away delays no batch.

use std::collections::BTreeSet;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, SystemTime};

use opentelemetry::trace::{Span as _, SpanBuilder, SpanKind, Status, Tracer as _, TracerProvider as _};
use opentelemetry::{Array, Context, InstrumentationScope, KeyValue, StringValue, Value};
use opentelemetry_otlp::{Protocol, WithExportConfig, WithHttpConfig};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::error::OTelSdkResult;
use opentelemetry_sdk::trace::{
    BatchConfigBuilder, BatchSpanProcessor, SdkTracer, SdkTracerProvider, Span, SpanData, SpanExporter, SpanProcessor,
};
use pipeline_plugin_api::{Batch, Message, Reason, Verdict, Verdicts};

use super::collector::{Collector, Notices};
use super::settings::TraceSettings;

/// A span names at most this many shards.
const SHARDS: usize = 64;
const SIGNAL: &str = "traces";
/// What stands for a reason that no part of the program gave.
const NO_REASON: &str = "refused without a reason, or dropped without a verdict";

/// Makes the spans of a run. Clones make them for the same export.
#[derive(Debug, Clone)]
pub(crate) struct Traces(SdkTracer);

impl Traces {
    /// Returns the batch, whose span ends when it is settled or dropped.
    pub(crate) fn watch(&self, batch: Batch) -> Batch {
        if batch.is_empty() {
            return batch;
        }
        let start = SystemTime::now();
        let about = About::of(batch.messages());
        let tracer = self.0.clone();
        let (messages, receipt) = batch.into_parts();
        let receipt = receipt.on_settle(move |verdicts| about.end_span(&tracer, start, verdicts));
        Batch::new(messages, receipt)
    }
}

/// What a span says of a batch, except for its outcome.
#[derive(Debug, PartialEq, Eq)]
struct About {
    messages: usize,
    /// The stream, if all messages are of one.
    stream: Option<String>,
    /// The first shards, in their order; those of several streams with their streams.
    shards: Vec<String>,
    /// The number of all shards.
    shard_count: usize,
}

impl About {
    fn of(messages: &[Message]) -> Self {
        let mut shards = BTreeSet::new();
        let mut before = None;
        for message in messages {
            // Messages of a shard mostly follow each other, and their key is cheaper to get than their metadata. Shards
            // of two streams may have the same, but then the table of their metadata differs.
            let key = message.ordering_key().map(|key| (key.as_ptr(), key.len()));
            if key.is_some() && key == before {
                continue;
            }
            before = key;
            let text = |key| message.get(key).map(|value| value.to_text().into_owned());
            shards.insert((text("kinesis_stream"), text("kinesis_shard")));
        }
        let streams: BTreeSet<_> = shards.iter().map(|(stream, _)| stream.clone()).collect();
        let is_one_stream = streams.len() == 1;
        let named = shards.iter().filter_map(|(stream, shard)| match (stream, shard) {
            (Some(stream), Some(shard)) if !is_one_stream => Some(format!("{stream}/{shard}")),
            (_, shard) => shard.clone(),
        });
        Self {
            messages: messages.len(),
            stream: streams.into_iter().next().flatten().filter(|_| is_one_stream),
            shard_count: shards.iter().filter(|(_, shard)| shard.is_some()).count(),
            shards: named.take(SHARDS).collect(),
        }
    }

    fn end_span(self, tracer: &SdkTracer, start: SystemTime, verdicts: &Verdicts) {
        let (refused, reason) = refused(verdicts, self.messages);
        let name = self.stream.as_ref().map_or_else(|| "process".to_owned(), |stream| format!("process {stream}"));
        let mut attributes = self.attributes();
        attributes.push(KeyValue::new("kinesis_input.refused_messages", integer(refused)));
        if refused > 0 {
            attributes.push(KeyValue::new("error.type", "refused"));
        }
        let builder = SpanBuilder::from_name(name).with_kind(SpanKind::Consumer);
        let builder = builder.with_start_time(start).with_attributes(attributes);
        // Each batch begins a trace of its own, whatever else is traced in this process.
        let mut span = tracer.build_with_context(builder, &Context::new());
        if refused > 0 {
            span.set_status(Status::error(reason.map_or_else(|| NO_REASON.to_owned(), ToString::to_string)));
        }
        span.end();
    }

    fn attributes(self) -> Vec<KeyValue> {
        let mut attributes = vec![
            KeyValue::new("messaging.system", "aws_kinesis"),
            KeyValue::new("messaging.operation.type", "process"),
            KeyValue::new("messaging.operation.name", "process"),
            KeyValue::new("messaging.batch.message_count", integer(self.messages)),
        ];
        if let Some(stream) = self.stream {
            attributes.push(KeyValue::new("messaging.destination.name", stream));
        }
        if let [shard] = &self.shards[..] {
            attributes.push(KeyValue::new("messaging.destination.partition.id", shard.clone()));
        }
        if !self.shards.is_empty() {
            let shards = self.shards.into_iter().map(StringValue::from).collect();
            attributes.push(KeyValue::new("kinesis_input.shards", Value::Array(Array::String(shards))));
            attributes.push(KeyValue::new("kinesis_input.shard_count", integer(self.shard_count)));
        }
        attributes
    }
}

/// How many messages were refused, and the first reason that was given.
fn refused(verdicts: &Verdicts, messages: usize) -> (usize, Option<&Reason>) {
    let reason = |verdict: &'_ Verdict| matches!(verdict, Verdict::Nack(Some(_)));
    match verdicts {
        Verdicts::All(Verdict::Ack) => (0, None),
        Verdicts::All(Verdict::Nack(reason)) => (messages, reason.as_ref()),
        Verdicts::Each(each) => {
            let refused = each.iter().filter(|verdict| !verdict.is_ack()).count();
            let first = each.iter().find(|verdict| reason(verdict));
            (
                refused,
                first.and_then(|verdict| if let Verdict::Nack(reason) = verdict { reason.as_ref() } else { None }),
            )
        }
    }
}

fn integer(count: usize) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX)
}

/// Exports the spans.
#[derive(Debug)]
pub(super) struct SpanExport {
    provider: SdkTracerProvider,
    queue: Arc<Queue>,
}

impl SpanExport {
    pub(super) fn start(
        settings: &TraceSettings,
        resource: Resource,
        scope: InstrumentationScope,
        notices: Arc<Notices>,
    ) -> Result<(Self, Traces), String> {
        let collector = Collector::new(&settings.target)?;
        tracing::info!("exporting traces to {}", collector.address());
        let exporter = opentelemetry_otlp::SpanExporter::builder()
            .with_http()
            .with_http_client(collector.clone())
            .with_protocol(Protocol::HttpBinary)
            .with_endpoint(settings.target.endpoint.to_string())
            .with_timeout(settings.target.timeout)
            .build();
        let exporter = exporter.map_err(|error| error.to_string())?;
        let queue = Arc::new(Queue { spans: AtomicUsize::new(0), capacity: settings.queue, lost: AtomicU64::new(0) });
        let exporter = Observed { exporter, collector, queue: Arc::clone(&queue), notices };
        let config = BatchConfigBuilder::default()
            .with_max_queue_size(settings.queue)
            .with_max_export_batch_size(settings.at_once)
            .with_scheduled_delay(settings.delay);
        let batches = BatchSpanProcessor::new(exporter, config.build());
        let bounded = Bounded { batches, queue: Arc::clone(&queue) };
        let provider = SdkTracerProvider::builder().with_resource(resource).with_span_processor(bounded).build();
        let traces = Traces(provider.tracer_with_scope(scope));
        Ok((Self { provider, queue }, traces))
    }

    /// Exports what waits, for at most this long, and ends the export. Returns how many spans were lost since the start.
    /// Blocks its thread.
    pub(super) fn end(&self, within: Duration) -> u64 {
        // What an error would say is what the queue says.
        let _ = self.provider.shutdown_with_timeout(within);
        self.queue.lost.load(Ordering::Relaxed) + self.queue.spans.load(Ordering::Relaxed) as u64
    }
}

/// The spans that wait for their export or are being exported.
#[derive(Debug)]
struct Queue {
    spans: AtomicUsize,
    capacity: usize,
    /// The spans that were dropped because the queue was full, or that could not be exported.
    lost: AtomicU64,
}

impl Queue {
    fn enter(&self) -> bool {
        let is_free = self.spans.fetch_add(1, Ordering::AcqRel) < self.capacity;
        if !is_free {
            self.spans.fetch_sub(1, Ordering::AcqRel);
            self.lost.fetch_add(1, Ordering::Relaxed);
        }
        is_free
    }
}

/// The SDK's processor behind a queue that is counted: it does not tell what it drops.
#[derive(Debug)]
struct Bounded {
    batches: BatchSpanProcessor,
    queue: Arc<Queue>,
}

impl SpanProcessor for Bounded {
    fn on_start(&self, span: &mut Span, context: &Context) {
        self.batches.on_start(span, context);
    }

    fn on_end(&self, span: SpanData) {
        if self.queue.enter() {
            self.batches.on_end(span);
        }
    }

    fn force_flush(&self) -> OTelSdkResult {
        self.batches.force_flush()
    }

    fn shutdown_with_timeout(&self, timeout: Duration) -> OTelSdkResult {
        self.batches.shutdown_with_timeout(timeout)
    }

    fn set_resource(&mut self, resource: &Resource) {
        self.batches.set_resource(resource);
    }
}

/// The SDK's exporter, and what becomes of its exports.
struct Observed {
    exporter: opentelemetry_otlp::SpanExporter,
    collector: Collector,
    queue: Arc<Queue>,
    notices: Arc<Notices>,
}

impl SpanExporter for Observed {
    async fn export(&self, spans: Vec<SpanData>) -> OTelSdkResult {
        let count = spans.len();
        let exported = self.exporter.export(spans).await;
        self.queue.spans.fetch_sub(count, Ordering::AcqRel);
        let failure = self.collector.take_failure().or_else(|| exported.as_ref().err().map(ToString::to_string));
        match failure {
            None => self.notices.succeeded(SIGNAL),
            Some(cause) => {
                let lost = self.queue.lost.fetch_add(count as u64, Ordering::Relaxed) + count as u64;
                self.notices.failed(SIGNAL, &self.collector, &cause, lost);
            }
        }
        exported
    }

    fn shutdown_with_timeout(&self, timeout: Duration) -> OTelSdkResult {
        self.exporter.shutdown_with_timeout(timeout)
    }

    fn force_flush(&self) -> OTelSdkResult {
        self.exporter.force_flush()
    }

    fn set_resource(&mut self, resource: &Resource) {
        self.exporter.set_resource(resource);
    }
}

impl fmt::Debug for Observed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // The SDK's exporter has the headers.
        f.write_str("Observed")
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Mutex, mpsc};

    use pipeline_plugin_api::Receipt;

    use super::*;

    /// Keeps the spans that end.
    #[derive(Debug, Clone, Default)]
    struct Ended(Arc<Mutex<Vec<SpanData>>>);

    impl SpanProcessor for Ended {
        fn on_start(&self, _: &mut Span, _: &Context) {}

        fn on_end(&self, span: SpanData) {
            self.0.lock().unwrap().push(span);
        }

        fn force_flush(&self) -> OTelSdkResult {
            Ok(())
        }

        fn shutdown_with_timeout(&self, _: Duration) -> OTelSdkResult {
            Ok(())
        }
    }

    fn message(stream: &str, shard: &str) -> Message {
        Message::with_pairs("secret", [("kinesis_stream", stream), ("kinesis_shard", shard)])
    }

    /// The span of a batch whose receipt has this fate.
    fn span(messages: Vec<Message>, fate: impl FnOnce(Receipt)) -> SpanData {
        let ended = Ended::default();
        let provider = SdkTracerProvider::builder().with_span_processor(ended.clone()).build();
        let traces = Traces(provider.tracer("test"));
        let receipt = Receipt::new(messages.len(), Nothing);
        let (_, receipt) = traces.watch(Batch::new(messages, receipt)).into_parts();
        assert!(ended.0.lock().unwrap().is_empty(), "the batch is on its way");
        fate(receipt);
        let mut spans = std::mem::take(&mut *ended.0.lock().unwrap());
        assert_eq!(spans.len(), 1);
        spans.remove(0)
    }

    struct Nothing;

    impl pipeline_plugin_api::Settle for Nothing {
        fn settle(self: Box<Self>, _: Verdicts) {}
    }

    fn value(span: &SpanData, key: &str) -> Option<String> {
        let found = span.attributes.iter().find(|attribute| attribute.key.as_str() == key)?;
        Some(found.value.to_string())
    }

    #[test]
    fn batch_dropped_without_a_verdict_ends_its_span_with_an_error() {
        let span = span(vec![message("orders", "a"), message("orders", "a")], drop);
        assert_eq!(span.status, Status::error(NO_REASON));
        assert_eq!(value(&span, "kinesis_input.refused_messages").as_deref(), Some("2"));
        assert_eq!(value(&span, "messaging.destination.partition.id").as_deref(), Some("a"));
        assert!(!format!("{span:?}").contains("secret"), "{span:?}");
    }

    #[test]
    fn part_of_a_batch_that_is_refused_is_counted_with_the_first_reason() {
        let each = vec![Verdict::Ack, Verdict::NACK, Verdict::nack("disk full"), Verdict::nack("too large")];
        let messages = ["a", "b", "c", "d"].map(|shard| message("orders", shard)).into();
        let span = span(messages, |receipt| receipt.settle_in_test(Verdicts::Each(each)).unwrap());
        assert_eq!(span.status, Status::error("disk full"));
        assert_eq!(value(&span, "kinesis_input.refused_messages").as_deref(), Some("3"));
        assert_eq!(value(&span, "kinesis_input.shards").as_deref(), Some(r#"["a","b","c","d"]"#));
        assert_eq!(value(&span, "messaging.destination.partition.id"), None);
    }

    #[test]
    fn batch_of_several_streams_names_them_with_their_shards() {
        let messages =
            [("orders", "a"), ("refunds", "a"), ("orders", "a")].map(|(stream, shard)| message(stream, shard));
        let span = span(messages.into(), |receipt| receipt.settle_in_test(Verdicts::ACK).unwrap());
        assert_eq!((&*span.name, &span.status), ("process", &Status::Unset));
        assert_eq!(value(&span, "messaging.destination.name"), None);
        assert_eq!(value(&span, "kinesis_input.shards").as_deref(), Some(r#"["orders/a","refunds/a"]"#));
    }

    #[test]
    fn shards_of_a_span_are_limited_and_counted() {
        let messages: Vec<_> = (0..1000).map(|shard| message("orders", &format!("{shard:04}"))).collect();
        let about = About::of(&messages);
        assert_eq!((about.messages, about.shard_count, about.shards.len()), (1000, 1000, SHARDS));
    }

    #[test]
    fn batch_of_another_input_has_a_span_without_stream_and_shard() {
        let span = span(vec![Message::new("secret")], |receipt| receipt.settle_in_test(Verdicts::ACK).unwrap());
        assert_eq!(span.name, "process");
        assert_eq!(value(&span, "messaging.batch.message_count").as_deref(), Some("1"));
        assert_eq!(value(&span, "kinesis_input.shards"), None);
    }

    #[test]
    fn attributes_are_documented() {
        let span = span(vec![message("orders", "a")], drop);
        let page = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/operations.md")).unwrap();
        assert!(span.attributes.len() >= 9, "{:?}", span.attributes);
        for attribute in &span.attributes {
            assert!(page.contains(&format!("`{}`", attribute.key)), "{}", attribute.key);
        }
    }

    /// Holds up its first export until it is released, and counts the spans of all.
    #[derive(Debug)]
    struct Slow {
        exported: Arc<AtomicUsize>,
        begun: mpsc::Sender<()>,
        let_go: Mutex<mpsc::Receiver<()>>,
    }

    impl SpanExporter for Slow {
        async fn export(&self, spans: Vec<SpanData>) -> OTelSdkResult {
            self.exported.fetch_add(spans.len(), Ordering::Relaxed);
            // The test may have gone.
            let _ = self.begun.send(());
            let _ = self.let_go.lock().unwrap().recv();
            Ok(())
        }
    }

    #[test]
    fn spans_beyond_the_queue_are_dropped_and_counted() {
        let queue = Arc::new(Queue { spans: AtomicUsize::new(0), capacity: 3, lost: AtomicU64::new(0) });
        let (exported, (begun, begins), (lets_go, let_go)) = (Arc::default(), mpsc::channel(), mpsc::channel());
        let exporter = Slow { exported: Arc::clone(&exported), begun, let_go: Mutex::new(let_go) };
        let config = BatchConfigBuilder::default().with_max_queue_size(3).with_max_export_batch_size(1).build();
        let bounded = Bounded { batches: BatchSpanProcessor::new(exporter, config), queue: Arc::clone(&queue) };
        let provider = SdkTracerProvider::builder().with_span_processor(bounded).build();
        let tracer = provider.tracer("test");
        let end_span = || tracer.start_with_context("span", &Context::new()).end();
        end_span();
        begins.recv().unwrap();
        (0..9).for_each(|_| end_span());
        assert_eq!(queue.lost.load(Ordering::Relaxed), 7);
        let export = SpanExport { provider, queue };
        assert_eq!(export.end(Duration::ZERO), 10, "those that wait or are being exported are lost, too");
        drop(lets_go);
        // The last sender goes with the thread of the exports.
        while begins.recv().is_ok() {}
        assert_eq!(exported.load(Ordering::Relaxed), 3);
    }
}
