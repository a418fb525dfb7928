//! A person looks at the records of a stream.

use aws_sdk_kinesis::primitives::Blob;
use kinesis_input_cli::Exit;
use kinesis_testkit::aggregate::aggregate;
use serde_json::Value;
use tokio::process::Command;

use crate::kinesis::{Bench, PATIENCE};

/// Runs `kinesis-input peek`. Returns its exit code and both outputs.
async fn peek(bench: &Bench, arguments: &[&str]) -> (i32, String, String) {
    let output = Command::new(env!("CARGO_BIN_EXE_kinesis-input"))
        .args(["peek", "--stream", "orders", "--region", "us-east-1", "--endpoint", &bench.server.endpoint()])
        .args(arguments)
        .env_clear()
        .envs([("AWS_ACCESS_KEY_ID", "test"), ("AWS_SECRET_ACCESS_KEY", "test")])
        .output();
    let output = tokio::time::timeout(PATIENCE, output).await.unwrap().unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (output.status.code().unwrap(), text(output.stdout), text(output.stderr))
}

#[tokio::test]
async fn records_are_shown_for_people_and_for_programs() {
    let bench = Bench::start().await;
    let mut numbers = Vec::new();
    for data in [b"{\"number\": 1}".to_vec(), vec![0, 159, 146, 150], aggregate([("k1", "10"), ("k2", "11")])] {
        let put = bench.client.put_record().stream_name("orders").partition_key("a key").data(Blob::new(data));
        numbers.push(put.send().await.unwrap().sequence_number);
    }
    let (code, out, error) = peek(&bench, &[]).await;
    assert_eq!(code, 0, "{error}");
    for part in [
        "shardId-000000000000",
        numbers[0].as_str(),
        "key \"a key\" 13 bytes\n  {\"number\": 1}\n",
        "00 9f 92 96",
        &format!("{}/0 ", numbers[2]),
        "key \"k2\" 2 bytes\n  11\n",
    ] {
        assert!(out.contains(part), "{part} is missing:\n{out}");
    }
    assert!(error.contains("4 records in ") && error.contains("five in a second"), "{error}");

    let (_, out, error) = peek(&bench, &["--count", "2", "--json", "--shard", "shardId-000000000000"]).await;
    let records: Vec<Value> = out.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(
        (records.len(), &records[0]["data"], &records[1]["data_hex"]),
        (2, &"{\"number\": 1}".into(), &"009f9296".into()),
        "{error}"
    );
    assert_eq!(records[0]["sequence_number"], numbers[0].as_str());

    let (_, out, _) = peek(&bench, &["--from", &numbers[1], "--shard", "shardId-000000000000", "--count", "1"]).await;
    assert!(out.contains(&numbers[1]) && !out.contains(&numbers[0]), "{out}");
    for (arguments, exit, says) in [
        (vec!["--from", &numbers[1]], Exit::Usage, "one shard"),
        (vec!["--shard", "shardId-000000000007"], Exit::Input, "no shard shardId-000000000007"),
        (vec!["--stream", "returns"], Exit::Usage, "--stream"),
    ] {
        let (code, _, error) = peek(&bench, &arguments).await;
        assert!(code == i32::from(exit.code()) && error.contains(says), "{arguments:?}: {code}: {error}");
    }
}
