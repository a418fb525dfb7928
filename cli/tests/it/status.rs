//! What a run says of itself over HTTP.

use serde_json::Value;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader, Lines};
use tokio::net::TcpStream;
use tokio::process::{Child, ChildStderr};

use crate::kinesis::{PATIENCE, stop_softly};
use crate::many::Fleet;

/// The rest of a program's log. It is short, and the program can write for as long as this exists.
type Log = Lines<BufReader<ChildStderr>>;

/// Reads the log until it says where the status is served.
async fn address(worker: &mut Child) -> (String, Log) {
    let mut log = BufReader::new(worker.stderr.take().unwrap()).lines();
    let reading = async {
        while let Some(line) = log.next_line().await.unwrap() {
            if let Some((_, url)) = line.split_once("serving status and metrics at http://") {
                return url.trim_end_matches('/').to_owned();
            }
        }
        panic!("the log ends")
    };
    let address = tokio::time::timeout(PATIENCE, reading).await.unwrap();
    (address, log)
}

/// The code and the body of an answer.
pub(crate) async fn get(address: &str, path: &str) -> (u16, String) {
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream.write_all(format!("GET {path} HTTP/1.1\r\nHost: {address}\r\n\r\n").as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    (head.split(' ').nth(1).unwrap().parse().unwrap(), body.to_owned())
}

async fn json(address: &str, path: &str) -> Value {
    serde_json::from_str(&get(address, path).await.1).unwrap()
}

/// Asks for the status until a condition holds.
async fn until(address: &str, what: &str, so: impl Fn(&Value) -> bool) -> Value {
    let mut last = Value::Null;
    let asking = async {
        loop {
            last = json(address, "/status").await;
            if so(&last) {
                return last.clone();
            }
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        }
    };
    let seen = tokio::time::timeout(PATIENCE, asking).await;
    seen.unwrap_or_else(|_| panic!("{what}: {last}"))
}

#[tokio::test]
async fn run_says_what_it_does_and_what_the_others_have() {
    let fleet = Fleet::start(2).await;
    let mut first = fleet.worker_with("worker-1", &["--metrics", ":0"]);
    let (here, _log) = address(&mut first).await;
    assert!(here.starts_with("127.0.0.1:"), "{here}");
    let shards = |seen: &Value| seen["inputs"][0]["shards"].as_array().map_or(0, Vec::len);
    until(&here, "both shards are read", |seen| shards(seen) == 2).await;
    fleet.bench.put(0..20).await;
    let acked = |seen: &Value| {
        let shards = seen["inputs"][0]["shards"].as_array().unwrap();
        shards.iter().filter_map(|shard| shard["acked_records"].as_u64()).sum::<u64>()
    };
    let seen = until(&here, "all is acknowledged", |seen| acked(seen) == 20).await;
    assert_eq!((&seen["version"], &seen["ready"]), (&1.into(), &true.into()), "{seen}");
    assert!(seen["lag_seconds"].is_number() && seen["inputs"][0]["leases_valid"] == true, "{seen}");
    assert_eq!(get(&here, "/ready").await, (200, "ready\n".to_owned()));
    assert_eq!(get(&here, "/health").await.0, 200);
    let (_, metrics) = get(&here, "/metrics").await;
    assert!(metrics.contains("kinesis_input_acked_records_total{"), "{metrics}");

    let mut second = fleet.worker_with("worker-2", &["--http", "0"]);
    let (there, _other_log) = address(&mut second).await;
    until(&here, "each has one", |seen| shards(seen) == 1 && seen["inputs"][0]["changes"][0]["kind"] == "released")
        .await;
    until(&there, "each has one", |seen| shards(seen) == 1).await;
    let table = json(&here, "/fleet").await;
    let held: Vec<_> = table["shards"].as_array().unwrap().iter().map(|shard| shard["owner"].as_str()).collect();
    assert!(held.contains(&Some("worker-1")) && held.contains(&Some("worker-2")), "{table}");
    let (_, page) = get(&here, "/").await;
    for said in ["Reading 1 shard", "worker-2", "shardId-000000000001", "released 1 shard"] {
        assert!(page.contains(said), "`{said}` is missing in {page}");
    }
    for worker in [first, second] {
        assert!(stop_softly(worker).await.success());
    }
}

#[tokio::test]
async fn run_that_can_not_connect_says_why() {
    let fleet = Fleet::start(1).await;
    fleet.bench.client.delete_stream().stream_name("orders").send().await.unwrap();
    let yaml = "input:
  aws_kinesis:
    streams: [orders]
    region: us-east-1
    endpoint: http://127.0.0.1:9
    credentials: { id: test, secret: test }
    checkpoint_file: /nowhere/at/all
output: drop
";
    let path = fleet.bench.path("unreachable.yaml");
    std::fs::write(&path, yaml.replace("/nowhere/at/all", &fleet.bench.path("checkpoints"))).unwrap();
    let mut worker = fleet.bench.program_with(&path, &[], &["--http", "0"]);
    let (here, _log) = address(&mut worker).await;
    let seen = until(&here, "it says why", |seen| seen["inputs"][0]["reason"].is_string()).await;
    assert_eq!((&seen["ready"], &seen["inputs"][0]["state"]), (&false.into(), &"disconnected".into()), "{seen}");
    let (code, reason) = get(&here, "/ready").await;
    assert!(code == 503 && reason.starts_with("not connected: ") && reason.contains("orders"), "{code} {reason}");
    worker.kill().await.unwrap();
}

#[tokio::test]
async fn address_that_is_taken_ends_the_program_with_an_error() {
    let fleet = Fleet::start(1).await;
    let taken = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let worker = fleet.worker_with("worker-1", &["--http", &address]);
    let output = tokio::time::timeout(PATIENCE, worker.wait_with_output()).await.unwrap().unwrap();
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(output.status.code() == Some(1) && said.contains(&format!("nothing can be served at {address}")), "{said}");
}
