//! A stream is read again from another position, in a lease table and in a checkpoint file.

use kinesis_input_cli::Exit;
use serde_json::Value;
use tokio::process::Command;

use crate::kinesis::{Bench, PATIENCE, stop_softly, until_written};
use crate::many::Fleet;

/// Runs `kinesis-input reset`. Returns its exit code and both outputs.
async fn reset(fleet: &Fleet, arguments: &[&str]) -> (u8, String) {
    let (code, said) = fleet.run(&["reset", "--stream", "orders"], arguments).await;
    (u8::try_from(code).unwrap(), said)
}

#[tokio::test]
async fn stream_in_a_table_is_read_again_once_no_worker_holds_it() {
    let fleet = Fleet::start(1).await;
    fleet.bench.put(0..5).await;
    let sequence_number = {
        let put = fleet.bench.client.put_record().stream_name("orders").partition_key("a");
        put.data(aws_sdk_kinesis::primitives::Blob::new("5")).send().await.unwrap().sequence_number
    };
    fleet.bench.put(6..8).await;
    let worker = fleet.worker("worker-1");
    fleet.until_written(&["worker-1"], 0..8).await;

    let (code, said) = reset(&fleet, &["--to", "oldest", "--yes"]).await;
    assert!(code == Exit::Failed.code() && said.contains("worker-1 holds it"), "{code}: {said}");
    assert!(stop_softly(worker).await.success());

    for (arguments, code, says) in [
        (vec!["--to", "oldest"], Exit::Usage, "--yes"),
        (vec!["--to", "yesterday", "--yes"], Exit::Usage, "RFC 3339"),
        (vec!["--to", "17", "--yes"], Exit::Usage, "one shard"),
        (vec!["--to", "oldest", "--shard", "shardId-000000000009", "--yes"], Exit::Failed, "no such shard"),
        (vec!["--to", "oldest", "--dry-run"], Exit::Done, "1 positions to write"),
    ] {
        let (found, said) = reset(&fleet, &arguments).await;
        assert!(found == code.code() && said.contains(says), "{arguments:?}: {found}: {said}");
    }

    let shard = "shardId-000000000000";
    let (code, said) = reset(&fleet, &["--to", &sequence_number, "--shard", shard, "--yes", "--json"]).await;
    assert_eq!(code, Exit::Done.code(), "{said}");
    let plan: Value = serde_json::from_str(&said).unwrap();
    assert_eq!(
        (&plan["lines"][0]["action"], &plan["lines"][0]["after"]),
        (&"write".into(), &format!("at {sequence_number}").into())
    );
    let again = fleet.worker("worker-2");
    fleet.until_written(&["worker-2"], 5..8).await;
    assert!(stop_softly(again).await.success());
    assert_eq!(
        fleet.bench.written_to("worker-2"),
        [5, 6, 7],
        "from that record on, and not from the one before or behind"
    );

    let (code, said) = reset(&fleet, &["--to", "oldest", "--yes"]).await;
    assert!(code == Exit::Done.code() && said.contains("1 positions were written"), "{code}: {said}");
    let (code, said) = reset(&fleet, &["--to", "oldest", "--yes"]).await;
    assert!(code == Exit::Done.code() && said.contains("it is there already"), "{code}: {said}");
    let again = fleet.worker("worker-3");
    fleet.until_written(&["worker-3"], 0..8).await;
    assert!(stop_softly(again).await.success());
    assert_eq!(fleet.bench.written_to("worker-3"), (0..8).collect::<Vec<_>>());
}

#[tokio::test]
async fn stream_in_a_file_is_read_again_once_no_process_uses_it() {
    let bench = Bench::start().await;
    bench.put(0..5).await;
    let pipeline = bench.pipeline(|yaml| yaml);
    let mut program = bench.program(&pipeline);
    until_written(&bench, &mut program, 4).await;
    let run = async |to: &str| {
        let output = Command::new(env!("CARGO_BIN_EXE_kinesis-input"))
            .args(["reset", "--stream", "orders", "--to", to, "--yes", "--region", "us-east-1"])
            .args(["--endpoint", &bench.server.endpoint(), "--checkpoint-file", &bench.path("checkpoints")])
            .env_clear()
            .envs([("AWS_ACCESS_KEY_ID", "test"), ("AWS_SECRET_ACCESS_KEY", "test")])
            .output();
        let output = tokio::time::timeout(PATIENCE, output).await.unwrap().unwrap();
        let said = String::from_utf8(output.stdout).unwrap() + &String::from_utf8(output.stderr).unwrap();
        (output.status.code().unwrap(), said)
    };
    let (code, said) = run("oldest").await;
    assert!(code == i32::from(Exit::Input.code()) && said.contains("in use by process"), "{code}: {said}");
    assert!(stop_softly(program).await.success());

    let (code, said) = run("oldest").await;
    assert!(code == 0 && said.contains("1 positions were written"), "{code}: {said}");
    std::fs::remove_file(bench.path("out")).unwrap();
    let mut program = bench.program(&pipeline);
    until_written(&bench, &mut program, 4).await;
    assert!(stop_softly(program).await.success());
    assert_eq!(bench.written_to("out"), [0, 1, 2, 3, 4]);

    // The local server counts arrivals in whole seconds, so there is no time between two records.
    let (code, said) = run("2020-01-01T00:00:00Z").await;
    assert!(code == 0 && said.contains("time 2020-01-01T00:00:00.000Z"), "{code}: {said}");
    std::fs::remove_file(bench.path("out")).unwrap();
    let mut program = bench.program(&pipeline);
    until_written(&bench, &mut program, 4).await;
    assert!(stop_softly(program).await.success());
    assert_eq!(bench.written_to("out"), [0, 1, 2, 3, 4]);
}
