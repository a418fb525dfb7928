//! The program and its engine with a Kinesis on this machine.

use std::path::Path;
use std::process::{ExitStatus, Stdio};
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use aws_sdk_kinesis::Client;
use aws_sdk_kinesis::config::{BehaviorVersion, Credentials, Region};
use aws_sdk_kinesis::primitives::Blob;
use aws_sdk_kinesis::types::{PutRecordsRequestEntry, ShardIteratorType};
use ferrokinesis::store::StoreOptions;
use kinesis_input_cli::{Ending, Exit, Pipeline, RunOptions, StopHandle, registry, run};
use mq_bridge::CanonicalMessage;
use pipeline_plugin_api::BoxError;
use pipeline_plugin_mq_bridge::conformance::{self, ConformanceOptions, Publish};
use serde_json::json;
use tokio::io::AsyncReadExt;
use tokio::process::{Child, Command};

use kinesis_testkit::local_kinesis::{LocalKinesis, Plain, Wire};

use crate::outputs::{Behaviour, Output};

/// The longest wait for an event. No test waits until it has passed.
pub(crate) const PATIENCE: Duration = Duration::from_mins(1);

/// A stream, and a folder for the output.
pub(crate) struct Bench {
    pub(crate) server: LocalKinesis,
    pub(crate) client: Client,
    folder: tempfile::TempDir,
}

impl Bench {
    pub(crate) async fn start() -> Self {
        Self::with_shards(1).await
    }

    pub(crate) async fn with_shards(shards: i32) -> Self {
        Self::on(Wire::new(Plain), shards).await
    }

    /// A server that behaves so on the wire.
    pub(crate) async fn on(wire: Wire<Plain>, shards: i32) -> Self {
        let options =
            StoreOptions { create_stream_ms: 0, update_stream_ms: 0, shard_limit: 10, ..StoreOptions::default() };
        let server = LocalKinesis::start_with(options, wire).await.unwrap();
        let config = aws_sdk_kinesis::Config::builder()
            .behavior_version(BehaviorVersion::latest())
            .region(Region::new("us-east-1"))
            .credentials_provider(Credentials::new("test", "test", None, None, "test"))
            .http_client(aws_smithy_http_client::Builder::new().build_http())
            .endpoint_url(server.endpoint())
            .build();
        let client = Client::from_conf(config);
        let bench = Self { server, client, folder: tempfile::tempdir().unwrap() };
        bench.create_stream("orders", shards).await;
        bench
    }

    /// Creates a stream, and waits until it can be used.
    pub(crate) async fn create_stream(&self, name: &str, shards: i32) {
        self.client.create_stream().stream_name(name).shard_count(shards).send().await.unwrap();
        self.until_stream_is_active(name).await;
    }

    pub(crate) async fn until_active(&self) {
        self.until_stream_is_active("orders").await;
    }

    /// The server changes streams in a task of its own; each call here waits for that task.
    async fn until_stream_is_active(&self, name: &str) {
        loop {
            let answer = self.client.describe_stream_summary().stream_name(name).send().await.unwrap();
            if answer.stream_description_summary().unwrap().stream_status().as_str() == "ACTIVE" {
                return;
            }
            tokio::task::yield_now().await;
        }
    }

    /// Waits until records arrive in a later second than now: the server counts their arrivals in whole seconds, so what
    /// arrives in the second of a start seems to have arrived before it. A stream of its own shows the time.
    pub(crate) async fn until_next_second(&self) {
        self.create_stream("clock", 1).await;
        let call = self.client.get_shard_iterator().stream_name("clock").shard_id("shardId-000000000000");
        let mut iterator =
            call.shard_iterator_type(ShardIteratorType::TrimHorizon).send().await.unwrap().shard_iterator;
        let mut first = None;
        loop {
            let tick = self.client.put_record().stream_name("clock").partition_key("a").data(Blob::new("tick"));
            tick.send().await.unwrap();
            let answer = self.client.get_records().set_shard_iterator(iterator).send().await.unwrap();
            for record in answer.records() {
                let arrived = record.approximate_arrival_timestamp().unwrap().secs();
                if arrived > *first.get_or_insert(arrived) {
                    return;
                }
            }
            iterator = answer.next_shard_iterator;
        }
    }

    pub(crate) async fn put(&self, numbers: std::ops::Range<u64>) {
        for number in numbers {
            put(&self.client, number.to_string()).await;
        }
    }

    pub(crate) fn path(&self, name: &str) -> String {
        self.folder.path().join(name).display().to_string()
    }

    /// A pipeline into a file; `change` alters its text.
    pub(crate) fn pipeline(&self, change: impl FnOnce(String) -> String) -> String {
        let yaml = format!(
            "input:
  aws_kinesis:
    streams: [orders]
    region: us-east-1
    endpoint: {}
    credentials: {{ id: test, secret: test }}
    checkpoint_file: \"{}\"
    enhanced_fan_out: {{ enabled: true }}
output:
  file: {{ path: \"{}\", format: raw }}
",
            self.server.endpoint(),
            self.path("checkpoints"),
            self.path("out"),
        );
        let path = self.path("pipeline.yaml");
        std::fs::write(&path, change(yaml)).unwrap();
        path
    }

    fn written(&self) -> Vec<u64> {
        self.written_to("out")
    }

    pub(crate) fn written_to(&self, name: &str) -> Vec<u64> {
        let text = std::fs::read_to_string(self.path(name)).unwrap_or_default();
        // The last line may be incomplete.
        text.split_inclusive('\n')
            .filter_map(|line| line.strip_suffix('\n'))
            .map(|line| line.parse().unwrap())
            .collect()
    }

    /// The program, in an environment that knows nothing of AWS.
    pub(crate) fn program(&self, pipeline: &str) -> Child {
        self.program_with(pipeline, &[], &[])
    }

    /// As [`Self::program`], with more in its environment and among its arguments.
    pub(crate) fn program_with(&self, pipeline: &str, environment: &[(&str, &str)], arguments: &[&str]) -> Child {
        Command::new(env!("CARGO_BIN_EXE_kinesis-input"))
            .args(["run", pipeline])
            .args(arguments)
            .env_clear()
            .env("HOME", self.folder.path())
            .env("AWS_EC2_METADATA_DISABLED", "true")
            .envs(environment.iter().copied())
            .stdin(Stdio::null())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .unwrap()
    }

    /// Runs a pipeline until it ends by itself.
    async fn ends(&self, pipeline: &str) -> (Exit, String) {
        let output = self.program(pipeline).wait_with_output();
        let output = tokio::time::timeout(PATIENCE, output).await.unwrap().unwrap();
        let code = output.status.code().unwrap();
        let exit = Exit::ALL.into_iter().find(|exit| i32::from(exit.code()) == code).unwrap();
        (exit, String::from_utf8(output.stderr).unwrap())
    }
}

async fn put(client: &Client, data: impl Into<Vec<u8>>) {
    let data = data.into();
    // The keys spread the records over all shards.
    let key = format!("{:x}", crc32fast::hash(&data));
    client.put_record().stream_name("orders").partition_key(key).data(Blob::new(data)).send().await.unwrap();
}

/// Waits until the program has written a record.
pub(crate) async fn until_written(bench: &Bench, program: &mut Child, record: u64) {
    let written = async {
        while !bench.written().contains(&record) {
            if let Some(status) = program.try_wait().unwrap() {
                let mut said = String::new();
                program.stderr.take().unwrap().read_to_string(&mut said).await.unwrap();
                panic!("the program ended with {status}: {said}");
            }
            // A file does not notify of its growth.
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    let written = tokio::time::timeout(PATIENCE, written).await;
    assert!(written.is_ok(), "record {record} was not written; only {:?}", bench.written());
}

pub(crate) async fn stop_softly(program: Child) -> ExitStatus {
    stop_by("-TERM", program).await
}

async fn stop_by(signal: &str, mut program: Child) -> ExitStatus {
    let id = program.id().unwrap().to_string();
    assert!(Command::new("kill").args([signal, &id]).status().await.unwrap().success());
    tokio::time::timeout(PATIENCE, program.wait()).await.unwrap().unwrap()
}

#[tokio::test]
async fn stopped_pipeline_continues_without_duplicates() {
    let bench = Bench::start().await;
    bench.put(0..50).await;
    let pipeline = bench.pipeline(|yaml| yaml);
    let mut first = bench.program(&pipeline);
    until_written(&bench, &mut first, 49).await;
    assert!(stop_softly(first).await.success());

    bench.put(50..80).await;
    let mut second = bench.program(&pipeline);
    until_written(&bench, &mut second, 79).await;
    assert!(stop_softly(second).await.success());
    assert_eq!(bench.written(), (0..80).collect::<Vec<_>>());
}

#[tokio::test]
async fn endpoint_without_tls_needs_no_certificates() {
    let bench = Bench::start().await;
    bench.put(0..5).await;
    std::fs::write(bench.path("none.pem"), "").unwrap();
    let (file, folder) = (bench.path("none.pem"), bench.path("nowhere"));
    let environment = [("SSL_CERT_FILE", &*file), ("SSL_CERT_DIR", &*folder)];
    let mut program = bench.program_with(&bench.pipeline(|yaml| yaml), &environment, &[]);
    until_written(&bench, &mut program, 4).await;
    assert!(stop_softly(program).await.success());
}

#[tokio::test]
async fn graceful_stop_delivers_what_fills_no_batch() {
    let bench = Bench::start().await;
    // One answer has them all, so what is behind two batches is gathered by the time that they are written.
    let batches =
        |yaml: String| yaml.replace("enhanced_fan_out: { enabled: true }", "batching: { count: 20, period: 1h }");
    for (first, until) in [(0, 50), (50, 95)] {
        bench.put(first..until).await;
        let mut program = bench.program(&bench.pipeline(batches));
        until_written(&bench, &mut program, first + 39).await;
        assert!(stop_softly(program).await.success());
        assert_eq!(bench.written(), (0..until).collect::<Vec<_>>());
    }
}

#[tokio::test]
async fn hangup_and_interrupt_stop_gracefully() {
    let bench = Bench::start().await;
    for (round, signal) in ["-HUP", "-INT"].into_iter().enumerate() {
        bench.put(round as u64 * 10..round as u64 * 10 + 10).await;
        let mut program = bench.program(&bench.pipeline(|yaml| yaml));
        until_written(&bench, &mut program, round as u64 * 10 + 9).await;
        assert!(stop_by(signal, program).await.success(), "{signal}");
    }
    assert_eq!(bench.written(), (0..20).collect::<Vec<_>>());
}

#[tokio::test]
async fn label_that_connect_writes_is_accepted() {
    let bench = Bench::start().await;
    bench.put(0..5).await;
    let labels = |yaml: String| {
        yaml.replace("  aws_kinesis:", "  label: \"in\"\n  aws_kinesis:").replace("  file:", "  label: \"\"\n  file:")
    };
    let mut program = bench.program(&bench.pipeline(labels));
    until_written(&bench, &mut program, 4).await;
    assert!(stop_softly(program).await.success());
    let two = |yaml: String| yaml.replace("  aws_kinesis:", "  stdin: {}\n  processors: []\n  aws_kinesis:");
    says(two, Exit::Configuration, &["exactly one input", "`stdin`", "`processors`", "`aws_kinesis`"]).await;
}

/// The pipeline of `docs/cli.md`.
#[tokio::test]
async fn one_bad_record_among_100_000_is_set_aside() {
    const COUNT: u64 = 100_000;
    const BAD: u64 = 43_210;
    let bench = Bench::start().await;
    let all: Vec<u64> = (0..COUNT).collect();
    for numbers in all.chunks(500) {
        let entry = |number: &u64| {
            let data = if *number == BAD { "no JSON".to_owned() } else { format!("{{\"number\":{number}}}") };
            PutRecordsRequestEntry::builder().data(Blob::new(data)).partition_key("a").build().unwrap()
        };
        let put =
            bench.client.put_records().stream_name("orders").set_records(Some(numbers.iter().map(entry).collect()));
        assert_eq!(put.send().await.unwrap().failed_record_count(), Some(0));
    }
    let with_dlq = |yaml: String| {
        let file = yaml.replace("format: raw", "format: csv");
        format!(
            "{file}  middlewares:\n    - dlq: {{ endpoint: {{ file: {{ path: \"{}\", format: json }} }} }}\n",
            bench.path("refused")
        )
    };
    let mut program = bench.program(&bench.pipeline(with_dlq));
    let last = format!("{}\n", COUNT - 1);
    let written = async {
        while !std::fs::read_to_string(bench.path("out")).is_ok_and(|text| text.ends_with(&last)) {
            assert!(program.try_wait().unwrap().is_none(), "the program ended");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    tokio::time::timeout(PATIENCE, written).await.unwrap();
    assert!(stop_softly(program).await.success());
    let text = std::fs::read_to_string(bench.path("out")).unwrap();
    let lines: Vec<&str> = text.lines().collect();
    let expected: Vec<String> = all.iter().filter(|number| **number != BAD).map(u64::to_string).collect();
    assert!(lines[0] == "number" && lines[1..] == expected, "each once, in order; {} lines", lines.len());
    let refused = std::fs::read_to_string(bench.path("refused")).unwrap();
    assert_eq!(refused.lines().count(), 1, "{refused}");
    for part in ["mq_bridge.dlq.error", "kinesis_sequence_number", "kinesis_delivery_attempt"] {
        assert!(refused.contains(part), "{refused}");
    }
}

#[tokio::test]
async fn record_that_the_output_refuses_is_dropped_and_the_run_goes_on() {
    let bench = Bench::start().await;
    bench.put(0..300).await;
    let path = bench.pipeline(|yaml| {
        let drops = "redelivery: { max_attempts: 2, then: drop, bisect: true }\n    enhanced_fan_out";
        yaml.replace("enhanced_fan_out", drops)
    });
    let mut pipeline = Pipeline::load(Path::new(&path), &registry().unwrap()).unwrap();
    let (output, endpoint) = Output::register("refuses 123", Behaviour::Refuses("123"));
    pipeline.output = endpoint;
    let stop = StopHandle::new();
    let all_but_one = async {
        output.took(299).await;
        stop.stop_gracefully();
    };
    let (report, ()) = tokio::join!(run(pipeline, RunOptions::default(), stop.clone()), all_but_one);
    assert_eq!(report.unwrap().ending, Ending::Stopped);
    let expected: Vec<String> = (0..300).filter(|number| *number != 123).map(|number| number.to_string()).collect();
    assert_eq!(*output.taken.lock().unwrap(), expected, "each once, in order");
}

#[tokio::test]
async fn kill_9() {
    let bench = Bench::start().await;
    bench.put(0..300).await;
    // Checkpoints are stored often and the output is slow, so that much is read and not yet written at the moment of
    // the stop.
    let slow = |yaml: String| {
        let often = yaml.replace("enhanced_fan_out", "commit_period: 10ms\n    enhanced_fan_out");
        often.replace("format: raw", "format: raw, fsync: periodic, fsync_interval_ms: 50")
            + "pipeline: { batch_size: 3 }\n"
    };
    let mut first = bench.program(&bench.pipeline(slow));
    until_written(&bench, &mut first, 20).await;
    first.kill().await.unwrap();
    assert!(bench.written().len() < 300, "it was too late to kill it");

    let mut second = bench.program(&bench.pipeline(|yaml| yaml));
    until_written(&bench, &mut second, 299).await;
    assert!(stop_softly(second).await.success());
    let mut written = bench.written();
    written.sort_unstable();
    written.dedup();
    assert_eq!(written, (0..300).collect::<Vec<_>>());
}

/// Whatever is wrong, there is one message, within seconds, that says what to do, and this exit code.
async fn says(change: impl FnOnce(String) -> String, exit: Exit, parts: &[&str]) {
    let bench = Bench::start().await;
    let (ended, said) = bench.ends(&bench.pipeline(change)).await;
    for part in parts {
        assert!(said.contains(part), "`{part}` is missing in: {said}");
    }
    // The message consists of words, not of the debug output of a type.
    assert!(!said.contains(" { ") && !said.contains("source:"), "{said}");
    assert_eq!(ended, exit, "{said}");
}

#[tokio::test]
async fn missing_credentials_are_named() {
    let without = |yaml: String| yaml.replace("    credentials: { id: test, secret: test }\n", "");
    says(without, Exit::Input, &["no AWS credentials", "AWS_ACCESS_KEY_ID", "`credentials`"]).await;
}

#[tokio::test]
async fn missing_region_is_named() {
    let without = |yaml: String| yaml.replace("    region: us-east-1\n", "");
    says(without, Exit::Input, &["no AWS region", "`region`", "AWS_REGION"]).await;
}

#[tokio::test]
async fn missing_stream_is_named() {
    let other = |yaml: String| yaml.replace("[orders]", "[returns]");
    says(other, Exit::Input, &["returns", "not found", "us-east-1", "check the name"]).await;
}

#[tokio::test]
async fn two_checkpoint_stores_are_refused() {
    let both =
        |yaml: String| yaml.replace("    enhanced_fan_out", "    dynamodb: { table: leases }\n    enhanced_fan_out");
    says(
        both,
        Exit::Configuration,
        &["dynamodb.table", "checkpoint_file", "pipeline.yaml:7:", "keep `dynamodb.table`"],
    )
    .await;
}

#[tokio::test]
async fn unwritable_checkpoint_file_is_named() {
    let elsewhere = |yaml: String| {
        let lines = yaml.lines().map(|line| match line.split_once("checkpoint_file:") {
            Some((indent, _)) => format!("{indent}checkpoint_file: /proc/nothing/checkpoints\n"),
            None => format!("{line}\n"),
        });
        lines.collect()
    };
    says(elsewhere, Exit::Input, &["/proc/nothing/checkpoints", "choose a path in a folder that exists"]).await;
}

#[tokio::test]
async fn checkpoint_file_of_another_process_is_named_with_its_holder() {
    let bench = Bench::start().await;
    bench.put(0..1).await;
    let pipeline = bench.pipeline(|yaml| yaml);
    let mut first = bench.program(&pipeline);
    until_written(&bench, &mut first, 0).await;
    let (exit, said) = bench.ends(&pipeline).await;
    assert_eq!(exit, Exit::Input, "{said}");
    for part in [&format!("process {}", first.id().unwrap()), &bench.path("checkpoints"), "a file of its own"] {
        assert!(said.contains(part), "`{part}` is missing in: {said}");
    }
    assert!(stop_softly(first).await.success());
}

struct Put(Client);

#[async_trait]
impl Publish for Put {
    async fn publish(&self, message: CanonicalMessage) -> Result<(), BoxError> {
        put(&self.0, message.payload.to_vec()).await;
        Ok(())
    }
}

#[tokio::test]
async fn suite_of_mq_bridge_passes() {
    let bench = Bench::start().await;
    let registry = registry().unwrap();
    let config = json!({
        "streams": ["orders"],
        "region": "us-east-1",
        "endpoint": bench.server.endpoint(),
        "credentials": { "id": "test", "secret": "test" },
        "checkpoint_file": Path::new(&bench.path("checkpoints")),
        "enhanced_fan_out": { "enabled": true },
    });
    let mut options = ConformanceOptions::new("kinesis", config);
    // A record of Kinesis does not carry metadata.
    options.expect_metadata = false;
    let input = registry.get("aws_kinesis").unwrap().clone();
    let passed = conformance::run(input, Arc::new(Put(bench.client.clone())), options).await.unwrap();
    assert!(passed.contains(&"nack_redelivers") && passed.contains(&"uncommitted_batch_redelivers"), "{passed:?}");
}

#[tokio::test]
async fn proxy_of_the_environment_is_used_for_control_calls() {
    let bench = Bench::start().await;
    let proxy = tokio::net::TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
    let address = format!("http://{}", proxy.local_addr().unwrap());
    // A name that only a proxy could resolve.
    let pipeline = bench.pipeline(|yaml| yaml.replace(&bench.server.endpoint(), "https://kinesis.invalid"));
    let _program = bench.program_with(&pipeline, &[("HTTPS_PROXY", &address)], &[]);
    let (mut socket, _) = tokio::time::timeout(PATIENCE, proxy.accept()).await.unwrap().unwrap();
    let mut request = [0; 32];
    socket.read_exact(&mut request).await.unwrap();
    let request = String::from_utf8_lossy(&request).into_owned();
    assert!(request.starts_with("CONNECT kinesis.invalid:443"), "{request}");
}
