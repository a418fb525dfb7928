//! Does the example of `docs/hosting.md` do what the page says?

use std::sync::Mutex;

use pipeline_plugin_api::driver::Ending;
use pipeline_plugin_api::{Message, Verdicts};

use crate::example;
use crate::kinesis::{Bench, PATIENCE};

static TAKEN: Mutex<Vec<String>> = Mutex::new(Vec::new());

fn take(messages: &[Message]) -> Verdicts {
    let texts = messages.iter().map(|message| String::from_utf8(message.payload().to_vec()).unwrap());
    TAKEN.lock().unwrap().extend(texts);
    Verdicts::ACK
}

#[tokio::test]
async fn hosting_example_reads_a_shard_to_its_end() {
    let bench = Bench::start().await;
    bench.put(0..20).await;
    let middle = (u128::MAX / 2).to_string();
    let split = bench.client.split_shard().stream_name("orders").shard_to_split("shardId-000000000000");
    split.new_starting_hash_key(middle).send().await.unwrap();
    bench.until_active().await;

    // The shard is named: its end is the end of the input.
    let block = format!(
        "streams: [\"orders:0\"]\nregion: us-east-1\nendpoint: {}\ncredentials: {{ id: test, secret: test }}\n\
         checkpoint_file: \"{}\"\nenhanced_fan_out: {{ enabled: true }}\n",
        bench.server.endpoint(),
        bench.path("checkpoints"),
    );
    let file = bench.path("block.yaml");
    std::fs::write(&file, block).unwrap();
    let read = tokio::time::timeout(PATIENCE, example::host(&file, take)).await.unwrap();
    assert_eq!(read.unwrap(), Ending::EndOfInput);
    assert_eq!(*TAKEN.lock().unwrap(), (0..20).map(|number| number.to_string()).collect::<Vec<_>>());
    assert_eq!(example::host(&file, take).await.unwrap(), Ending::EndOfInput, "nothing is left to read");
    assert_eq!(TAKEN.lock().unwrap().len(), 20);
}

#[tokio::test]
async fn hosting_example_says_where_a_block_is_wrong() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("block.yaml").display().to_string();
    std::fs::write(&file, "stream: [orders]\n").unwrap();
    let error = example::host(&file, take).await.unwrap_err().to_string();
    assert!(error.contains("block.yaml:1:1") && error.contains("`streams`"), "{error}");
}
