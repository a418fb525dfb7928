//! Does every pipeline that is documented run: those of the documents, of `create`, and of Redpanda Connect and Bento?
//!
//! Each runs twice against a Kinesis, a DynamoDB and an STS on this machine. Of its text only what names the world
//! around it is replaced. The first run has to deliver all records, and the second those that came since, and no others.

use std::collections::{BTreeMap, BTreeSet};
use std::process::Stdio;
use std::time::Duration;

use aws_sdk_dynamodb::types::{AttributeDefinition, BillingMode, KeySchemaElement, KeyType, ScalarAttributeType};
use aws_sdk_kinesis::primitives::Blob;
use kinesis_input::Config;
use pipeline_plugin_api::config::{Document, Environment};
use serde_json::Value;
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{Child, ChildStderr, Command};
use tokio::task::JoinSet;

use crate::compatible_blocks::blocks;
use crate::credentials::Aws;
use crate::documents::pipelines;
use crate::kcl::dynamodb;
use crate::kinesis::{PATIENCE, stop_softly};
use crate::many::Fleet;

/// How many records are put into each stream before a run is stopped. Half of them are in each shard, which is a
/// multiple of the `batching.count` of each pipeline that holds what does not fill a batch for longer than the test has.
const COUNT: u64 = 40;
/// How many pipelines of a test run at a time.
const AT_ONCE: usize = 4;
/// Hash keys of both shards.
const HASH_KEYS: [&str; 2] = ["0", "340282366920938463463374607431768211455"];
/// What pipelines take from the environment.
const VARIABLES: [(&str, &str); 3] = [("SECRET", "secret"), ("TOKEN", "token"), ("POD_NAME", "orders-0")];
/// The profiles that pipelines name.
const PROFILES: &str = "[dev]\naws_access_key_id = DEV\naws_secret_access_key = test\n";
/// The output of a pipeline that has none.
const OUTPUT: &str = "output:\n  file: { path: out, format: raw }\n";

/// A pipeline, and all that it needs.
struct Trial {
    name: String,
    yaml: String,
    config: Config,
    fleet: Fleet,
    sts: Aws,
    /// The numbers that were put into shards that the pipeline reads, by stream and shard.
    put: BTreeMap<String, Vec<u64>>,
}

/// The program while it runs.
struct Running {
    program: Child,
    log: BufReader<ChildStderr>,
    said: String,
}

impl Trial {
    async fn new(name: &str, yaml: &str) -> Self {
        let (fleet, sts) = (Fleet::start(2).await, Aws::start().await);
        let folder = fleet.bench.path("");
        let mut yaml = yaml.to_owned();
        for (there, here) in [
            // The endpoint of a block serves its roles too, and the Kinesis of this machine does not: the environment names
            // one for each.
            ("https://kinesis.example.com", "\"\""),
            ("http://localhost:8000", &fleet.table),
            (":eu-west-1:111122223333:stream", ":us-east-1:000000000000:stream"),
            (":111122223333:stream", ":000000000000:stream"),
            ("/var/data/", &folder),
            ("/var/lib/pipeline/", &folder),
        ] {
            yaml = yaml.replace(there, here);
        }
        if !yaml.contains("output:") {
            yaml += OUTPUT;
        }
        let document = Document::from_yaml(name, &yaml, &Environment::from_pairs(VARIABLES)).unwrap();
        let parsed = document.parse(&["input", "aws_kinesis"]);
        let config: Config = parsed.unwrap_or_else(|error| panic!("{name}: {error}")).config;
        std::fs::write(fleet.bench.path("pipeline.yaml"), &yaml).unwrap();
        std::fs::write(fleet.bench.path("profiles"), PROFILES).unwrap();
        let trial = Self { name: name.to_owned(), yaml, config, fleet, sts, put: BTreeMap::new() };
        for stream in trial.streams().into_iter().filter(|stream| *stream != "orders") {
            trial.fleet.bench.create_stream(stream, 2).await;
        }
        if !trial.config.dynamodb.table.is_empty() && !trial.config.dynamodb.create {
            trial.create_table().await;
        }
        trial
    }

    fn streams(&self) -> BTreeSet<&str> {
        self.config.stream_entries().iter().map(|entry| entry.stream.name()).collect()
    }

    /// Creates the table that the pipeline expects to exist.
    async fn create_table(&self) {
        let client = dynamodb(&self.fleet);
        let mut create = client.create_table().table_name(&self.config.dynamodb.table);
        for (name, kind) in [("StreamID", KeyType::Hash), ("ShardID", KeyType::Range)] {
            let attribute = AttributeDefinition::builder().attribute_name(name);
            create = create
                .attribute_definitions(attribute.attribute_type(ScalarAttributeType::S).build().unwrap())
                .key_schema(KeySchemaElement::builder().attribute_name(name).key_type(kind).build().unwrap());
        }
        create.billing_mode(BillingMode::PayPerRequest).send().await.unwrap();
    }

    /// Puts records into both shards of every stream.
    async fn put(&mut self) {
        let streams: Vec<String> = self.streams().into_iter().map(str::to_owned).collect();
        let first = self.put.values().flatten().max().map_or(0, |last| last + 1);
        for (stream, from) in streams.iter().zip((first..).step_by(usize::try_from(COUNT).unwrap())) {
            for number in from..from + COUNT {
                let put = self.fleet.bench.client.put_record().stream_name(stream).partition_key("key");
                let put = put.explicit_hash_key(HASH_KEYS[usize::try_from(number % 2).unwrap()]);
                let put = put.data(Blob::new(format!("{{\"number\":{number}}}"))).send().await.unwrap();
                if self.reads(stream, &put.shard_id) {
                    self.put.entry(format!("{stream}/{}", put.shard_id)).or_default().push(number);
                }
            }
        }
    }

    /// Whether the pipeline reads this shard, which a configuration may name by its number.
    fn reads(&self, stream: &str, shard: &str) -> bool {
        let mut entries = self.config.stream_entries().iter().filter(|entry| entry.stream.name() == stream);
        let is = |named: &String| named == shard || shard == format!("shardId-{named:0>12}");
        entries.any(|entry| entry.shards.is_empty() || entry.shards.iter().any(is))
    }

    /// Starts the program, in an environment that says that AWS is here, and waits until it reads every stream.
    async fn start(&self) -> Running {
        let bench = &self.fleet.bench;
        let printed = std::fs::File::options().create(true).append(true).open(bench.path("printed")).unwrap();
        let mut program = Command::new(env!("CARGO_BIN_EXE_kinesis-input"))
            .args(["run", &bench.path("pipeline.yaml")])
            .env_clear()
            .env("HOME", bench.path(""))
            .env("AWS_ACCESS_KEY_ID", "test")
            .env("AWS_SECRET_ACCESS_KEY", "test")
            .env("AWS_SHARED_CREDENTIALS_FILE", bench.path("profiles"))
            .env("AWS_REGION", "us-east-1")
            .env("AWS_ENDPOINT_URL_KINESIS", bench.server.endpoint())
            .env("AWS_ENDPOINT_URL_DYNAMODB", &self.fleet.table)
            .env("AWS_ENDPOINT_URL_STS", &self.sts.endpoint)
            .env("AWS_EC2_METADATA_DISABLED", "true")
            .envs(VARIABLES)
            .current_dir(bench.path(""))
            .stdin(Stdio::null())
            .stdout(printed)
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        let log = BufReader::new(program.stderr.take().unwrap());
        let mut running = Running { program, log, said: String::new() };
        let streams = self.streams().len();
        let reading = async {
            while running.said.matches("reading the stream").count() < streams {
                let read = running.log.read_line(&mut running.said).await.unwrap();
                assert!(read > 0, "{} does not start:\n{}\n{}", self.name, running.said, self.yaml);
            }
        };
        let reads = tokio::time::timeout(PATIENCE, reading).await;
        assert!(reads.is_ok(), "{} does not read:\n{}\n{}", self.name, running.said, self.yaml);
        running
    }

    /// The numbers that the output has.
    fn written(&self) -> Vec<u64> {
        let pipeline: Value = serde_saphyr::from_str(&self.yaml).unwrap();
        let output = &pipeline["output"];
        let file = if *output == "stdout" { "printed" } else { output["file"]["path"].as_str().unwrap() };
        // The path of a file is relative to the folder, or in it.
        let text = std::fs::read_to_string(std::path::Path::new(&self.fleet.bench.path("")).join(file));
        let text = text.unwrap_or_default();
        // The last line may be incomplete, and the first of CSV has no number.
        let lines = text.split_inclusive('\n').filter_map(|line| line.strip_suffix('\n'));
        let digits = |line: &str| line.chars().filter(char::is_ascii_digit).collect::<String>();
        lines.filter_map(|line| digits(line).parse().ok()).collect()
    }

    /// Waits until all is written, and stops the program.
    async fn finish(&self, mut running: Running) {
        let expected: BTreeSet<u64> = self.put.values().flatten().copied().collect();
        let missing = || expected.difference(&self.written().into_iter().collect()).copied().collect::<Vec<_>>();
        let writing = async {
            while !missing().is_empty() {
                let ended = running.program.try_wait().unwrap();
                assert!(ended.is_none(), "{} ended with {ended:?}:\n{}", self.name, self.yaml);
                // A file does not notify of its growth.
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        let written = tokio::time::timeout(PATIENCE, writing).await;
        assert!(written.is_ok(), "{}: {:?} do not arrive:\n{}\n{}", self.name, missing(), running.said, self.yaml);
        assert!(stop_softly(running.program).await.success(), "{}", self.name);
    }
}

/// Runs a pipeline twice.
async fn runs(name: &str, yaml: &str) {
    let mut trial = Trial::new(name, yaml).await;
    if trial.config.start_from_oldest {
        trial.put().await;
    }
    let first = trial.start().await;
    if !trial.config.start_from_oldest {
        trial.fleet.bench.until_next_second().await;
        trial.put().await;
    }
    trial.finish(first).await;
    trial.put().await;
    let second = trial.start().await;
    trial.finish(second).await;

    let written = trial.written();
    for (shard, put) in &trial.put {
        let of_shard: Vec<u64> = written.iter().filter(|number| put.contains(number)).copied().collect();
        assert_eq!(of_shard, *put, "{name}: each record of {shard} once and in order\n{yaml}");
    }
    assert_eq!(written.len(), trial.put.values().map(Vec::len).sum::<usize>(), "{name}: no others\n{yaml}");
    let assumed = trial.sts.asked().iter().any(|asked| asked.what == "AssumeRole");
    assert_eq!(assumed, trial.config.credentials.role.is_some(), "{name}: the role");
}

/// Runs pipelines, some at a time, because each mostly waits.
async fn all_run(pipelines: impl IntoIterator<Item = (String, String)>) {
    let mut running = JoinSet::new();
    for (name, pipeline) in pipelines {
        if running.len() == AT_ONCE {
            running.join_next().await.unwrap().unwrap();
        }
        running.spawn(async move { runs(&name, &pipeline).await });
    }
    while let Some(ended) = running.join_next().await {
        ended.unwrap();
    }
}

#[tokio::test]
async fn every_block_of_connect_and_bento_runs() {
    all_run(blocks().into_iter().map(|(name, block)| (name.to_owned(), block))).await;
}

#[tokio::test]
async fn every_pipeline_that_create_prints_runs() {
    for arguments in [&["create"][..], &["create", "--small"]] {
        let created = Command::new(env!("CARGO_BIN_EXE_kinesis-input")).args(arguments).output().await.unwrap();
        runs(&arguments.join(" "), &String::from_utf8(created.stdout).unwrap()).await;
    }
}

#[tokio::test]
async fn every_pipeline_of_the_documents_runs() {
    let pipelines = pipelines();
    assert!(pipelines.len() >= 10, "only {} are documented", pipelines.len());
    all_run(pipelines).await;
}
