//! Several processes, one stream and one lease table.

use std::collections::BTreeSet;

use serde_json::Value;
use tokio::net::TcpListener;
use tokio::process::{Child, Command};
use tokio::task::JoinSet;

use crate::kinesis::{Bench, PATIENCE, stop_softly};

/// A stream, a table, and a pipeline for each worker.
pub(crate) struct Fleet {
    pub(crate) bench: Bench,
    pub(crate) table: String,
    _table: JoinSet<()>,
}

impl Fleet {
    pub(crate) async fn start(shards: i32) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let table = format!("http://{}", listener.local_addr().unwrap());
        let mut serving = JoinSet::new();
        serving.spawn(async move {
            dynoxide::server::serve_on(listener, dynoxide::Database::memory().unwrap()).await;
        });
        Self { bench: Bench::with_shards(shards).await, table, _table: serving }
    }

    pub(crate) fn worker(&self, name: &str) -> Child {
        self.worker_with(name, &[])
    }

    /// As [`Self::worker`], with more arguments.
    pub(crate) fn worker_with(&self, name: &str, arguments: &[&str]) -> Child {
        self.start_worker(name, "dynamodb: { table: leases", "enabled: true, consumer_name: many", arguments)
    }

    /// A worker of a namespace, with a consumer that is named after it.
    fn worker_in(&self, namespace: &str, name: &str) -> Child {
        self.start_worker(name, &format!("dynamodb: {{ table: leases, namespace: {namespace}"), "enabled: true", &[])
    }

    fn start_worker(&self, name: &str, table: &str, fan_out: &str, arguments: &[&str]) -> Child {
        let yaml = format!(
            "input:
  aws_kinesis:
    streams: [orders]
    region: us-east-1
    endpoint: {}
    credentials: {{ id: test, secret: test }}
    {table}, create: true, region: us-east-1, endpoint: \"{}\", credentials: {{ id: test, secret: test }} }}
    client_id: {name}
    commit_period: 200ms
    lease_period: 2s
    rebalance_period: 1s
    enhanced_fan_out: {{ {fan_out} }}
output:
  file: {{ path: \"{}\", format: raw }}
",
            self.bench.server.endpoint(),
            self.table,
            self.bench.path(name),
        );
        let path = self.bench.path(&format!("{name}.yaml"));
        std::fs::write(&path, yaml).unwrap();
        self.bench.program_with(&path, &[], arguments)
    }

    /// Runs `kinesis-input leases`. Returns its exit code and both outputs.
    async fn leases(&self, arguments: &[&str]) -> (i32, String) {
        self.run(&["leases"], arguments).await
    }

    /// Runs a command about the lease table. Returns its exit code and both outputs.
    pub(crate) async fn run(&self, command: &[&str], arguments: &[&str]) -> (i32, String) {
        let output = Command::new(env!("CARGO_BIN_EXE_kinesis-input"))
            .args(command)
            .args(["--table", "leases", "--region", "us-east-1"])
            .args(["--endpoint", &self.table, "--kinesis-endpoint", &self.bench.server.endpoint()])
            .args(arguments)
            .env_clear()
            .env("AWS_ACCESS_KEY_ID", "test")
            .env("AWS_SECRET_ACCESS_KEY", "test")
            .stdin(std::process::Stdio::null())
            .output();
        let output = tokio::time::timeout(PATIENCE, output).await.unwrap().unwrap();
        let mut said = String::from_utf8(output.stdout).unwrap();
        said += &String::from_utf8(output.stderr).unwrap();
        (output.status.code().unwrap(), said)
    }

    async fn json(&self) -> Value {
        let (code, said) = self.leases(&["--json"]).await;
        assert_eq!(code, 0, "{said}");
        serde_json::from_str(&said).unwrap()
    }

    /// Reads the table until a condition holds.
    async fn until(&self, what: &str, so: impl Fn(&Value) -> bool) -> Value {
        let mut last = String::new();
        let looking = async {
            loop {
                // The first worker creates the table.
                let (code, said) = self.leases(&["--json"]).await;
                if code == 0 {
                    let seen = serde_json::from_str(&said).unwrap();
                    if so(&seen) {
                        return seen;
                    }
                }
                last = said;
            }
        };
        let seen = tokio::time::timeout(PATIENCE, looking).await;
        seen.unwrap_or_else(|_| panic!("{what}: {last}"))
    }

    /// The records that all workers wrote, without duplicates.
    fn written(&self, workers: &[&str]) -> BTreeSet<u64> {
        workers.iter().flat_map(|worker| self.bench.written_to(worker)).collect()
    }

    pub(crate) async fn until_written(&self, workers: &[&str], numbers: std::ops::Range<u64>) {
        let writing = async {
            while !self.written(workers).is_superset(&numbers.clone().collect()) {
                // A file does not notify of its growth.
                tokio::time::sleep(std::time::Duration::from_millis(5)).await;
            }
        };
        let written = tokio::time::timeout(PATIENCE, writing).await;
        assert!(written.is_ok(), "{} of {numbers:?} were written", self.written(workers).len());
    }
}

fn owners(seen: &Value) -> Vec<&str> {
    seen["shards"].as_array().unwrap().iter().filter_map(|shard| shard["owner"].as_str()).collect()
}

fn number_of(seen: &Value, worker: &str) -> usize {
    owners(seen).into_iter().filter(|owner| *owner == worker).count()
}

#[tokio::test]
async fn pipelines_of_two_namespaces_read_one_stream_each_to_its_own_end() {
    let fleet = Fleet::start(2).await;
    let workers = [("files", "reader"), ("payments", "other-reader")];
    let running: Vec<Child> = workers.iter().map(|(namespace, name)| fleet.worker_in(namespace, name)).collect();
    fleet.bench.put(0..20).await;
    for (_, name) in workers {
        fleet.until_written(&[name], 0..20).await;
    }
    let seen = fleet.until("both are seen", |seen| owners(seen).len() == 4).await;
    for (namespace, name) in workers {
        let its = seen["shards"].as_array().unwrap().iter().filter(|shard| shard["namespace"] == namespace);
        assert_eq!(its.map(|shard| shard["owner"].as_str().unwrap()).collect::<Vec<_>>(), [name, name], "{seen}");
        let (_, said) = fleet.leases(&["--namespace", namespace, "--json"]).await;
        let alone: Value = serde_json::from_str(&said).unwrap();
        assert_eq!((owners(&alone), alone["workers"].as_array().unwrap().len()), (vec![name, name], 1));
    }
    let (_, table) = fleet.leases(&[]).await;
    assert!(table.starts_with("NAMESPACE  WORKER") && table.contains("payments   orders"), "{table}");
    // A worker is one of its namespace.
    let (code, said) = fleet.leases(&["--release", "reader", "--yes"]).await;
    assert!(code == 2 && said.contains("no worker reader"), "{code}: {said}");
    let (code, said) = fleet.leases(&["--release", "reader", "--yes", "--namespace", "files"]).await;
    assert!(code == 1 && said.contains("reader is alive"), "{code}: {said}");
    let summary = fleet.bench.client.describe_stream_summary().stream_name("orders").send().await.unwrap();
    let arn = summary.stream_description_summary().unwrap().stream_arn().to_owned();
    let consumers = fleet.bench.client.list_stream_consumers().stream_arn(arn).send().await.unwrap();
    let mut names: Vec<&str> =
        consumers.consumers().iter().map(aws_sdk_kinesis::types::Consumer::consumer_name).collect();
    names.sort_unstable();
    assert!(
        names.len() == 2
            && names[0].starts_with("kinesis-input-leases-files-")
            && names[1].starts_with("kinesis-input-leases-payments-"),
        "{names:?}"
    );
    for worker in running {
        stop_softly(worker).await;
    }
    for (_, name) in workers {
        assert_eq!(fleet.bench.written_to(name).len(), 20, "nothing comes twice");
    }
}

#[tokio::test]
async fn leases_are_shown_and_those_of_a_dead_worker_released() {
    let fleet = Fleet::start(2).await;
    let mut worker = fleet.worker("worker-1");
    fleet.bench.put(0..20).await;
    fleet.until_written(&["worker-1"], 0..20).await;
    let caught_up = |seen: &Value| {
        let shards = seen["shards"].as_array().unwrap();
        shards.len() == 2 && shards.iter().all(|shard| shard["behind_ms"] == 0 && shard["sequence_number"].is_string())
    };
    let seen = fleet.until("all is stored", caught_up).await;
    assert_eq!(owners(&seen), ["worker-1", "worker-1"]);
    assert_eq!(seen["workers"][0]["shards"], 2, "{seen}");
    let (_, table) = fleet.leases(&[]).await;
    for part in ["worker-1", "shardId-000000000001", "held", "2 shards: 2 held, 0 free, 0 ended", "; lag "] {
        assert!(table.contains(part), "`{part}` is missing in: {table}");
    }

    // A live worker keeps its shards, whatever is requested.
    let (code, said) = fleet.leases(&["--release", "worker-1", "--yes"]).await;
    assert!(code == 1 && said.contains("worker-1 is alive"), "{code}: {said}");
    let (code, said) = fleet.leases(&["--release", "worker-2", "--yes"]).await;
    assert!(code == 2 && said.contains("no worker worker-2"), "{code}: {said}");
    // There is no terminal to ask on.
    let (code, said) = fleet.leases(&["--release", "worker-1"]).await;
    assert!(code == 2 && said.contains("--yes"), "{code}: {said}");

    worker.kill().await.unwrap();
    fleet.bench.put(20..30).await;
    let behind = |shard: &Value| shard["behind_ms"].as_u64().is_some_and(|behind| behind > 0);
    let seen = fleet.until("behind", |seen| seen["shards"].as_array().unwrap().iter().any(behind)).await;
    assert_eq!(number_of(&seen, "worker-1"), 2);
    // Shards that no worker has read yet count as well, and one number is the lag of all.
    let split = fleet.bench.client.split_shard().stream_name("orders").shard_to_split("shardId-000000000000");
    split.new_starting_hash_key("1024").send().await.unwrap();
    fleet.bench.until_active().await;
    fleet.bench.put(30..40).await;
    let seen =
        fleet.until("a child is behind", |seen| seen["shards"].as_array().unwrap().iter().skip(2).any(behind)).await;
    let shards = seen["shards"].as_array().unwrap();
    assert_eq!((shards.len(), shards[3]["state"].as_str()), (4, Some("free")), "{seen}");
    assert_eq!(seen["lag_ms"].as_u64(), shards.iter().filter_map(|shard| shard["behind_ms"].as_u64()).max(), "{seen}");
    let (code, said) = fleet.leases(&["--release", "worker-1", "--yes", "--watch", "0"]).await;
    assert!(code == 0 && said.contains("released 2 shards"), "{code}: {said}");
    let seen = fleet.json().await;
    assert!(owners(&seen).is_empty() && seen["workers"].as_array().unwrap().is_empty(), "{seen}");
    assert!(seen["shards"][0]["sequence_number"].is_string(), "{seen}");
}

#[tokio::test]
async fn missing_table_is_named() {
    let fleet = Fleet::start(1).await;
    let (code, said) = fleet.leases(&[]).await;
    assert!(code == 4 && said.contains("dynamodb.table leases: it doesn't exist"), "{code}: {said}");
}

#[tokio::test]
async fn shards_of_a_killed_worker_are_taken_over() {
    let fleet = Fleet::start(4).await;
    let mut first = fleet.worker("worker-1");
    fleet.until("one has all", |seen| number_of(seen, "worker-1") == 4).await;
    let second = fleet.worker("worker-2");
    let shared = |seen: &Value| number_of(seen, "worker-1") == 2 && number_of(seen, "worker-2") == 2;
    fleet.until("each has half", shared).await;
    fleet.bench.put(0..100).await;
    fleet.until_written(&["worker-1", "worker-2"], 0..100).await;
    assert!(!fleet.written(&["worker-1"]).is_empty() && !fleet.written(&["worker-2"]).is_empty());

    first.kill().await.unwrap();
    fleet.bench.put(100..200).await;
    fleet.until_written(&["worker-1", "worker-2"], 0..200).await;
    assert!(stop_softly(second).await.success());
    let seen = fleet.json().await;
    assert!(owners(&seen).is_empty(), "a graceful stop releases everything: {seen}");
}

/// A new worker for each old one, one after the other: nothing is lost, and nothing comes twice.
#[tokio::test]
async fn rolling_restart() {
    let fleet = Fleet::start(4).await;
    let names: Vec<String> = (1..=6).map(|number| format!("worker-{number}")).collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    let mut running: Vec<Child> = names[..3].iter().map(|name| fleet.worker(name)).collect();
    let all_read = |now: Vec<String>| {
        move |seen: &Value| owners(seen).len() == 4 && now.iter().all(|worker| number_of(seen, worker) > 0)
    };
    let owned = |names: &[&str]| names.iter().map(ToString::to_string).collect::<Vec<_>>();
    fleet.until("three share four", all_read(owned(&names[..3]))).await;
    for (turn, new) in names[3..].iter().enumerate() {
        let from = turn as u64 * 100;
        fleet.bench.put(from..from + 50).await;
        assert!(stop_softly(running.remove(0)).await.success());
        running.push(fleet.worker(new));
        fleet.bench.put(from + 50..from + 100).await;
        fleet.until("each has some", all_read(owned(&names[turn + 1..turn + 4]))).await;
    }
    fleet.until_written(&names, 0..300).await;
    for worker in running {
        assert!(stop_softly(worker).await.success());
    }
    let lines: usize = names.iter().map(|name| fleet.bench.written_to(name).len()).sum();
    assert_eq!(lines, 300, "{} came twice", lines - 300);
}
