//! A pipeline goes on where an application of the KCL stopped, and gives its positions back.

use aws_sdk_dynamodb::types::{
    AttributeDefinition, AttributeValue, BillingMode, KeySchemaElement, KeyType, ScalarAttributeType,
};
use aws_sdk_kinesis::primitives::Blob;
use kinesis_input_cli::Exit;
use kinesis_testkit::aggregate::aggregate;

use crate::kinesis::stop_softly;
use crate::many::Fleet;

/// Runs `kinesis-input kcl`. Returns its exit code and both outputs.
async fn kcl(fleet: &Fleet, command: &str, arguments: &[&str]) -> (u8, String) {
    let command = ["kcl", command, "--app", "orders-app", "--stream", "orders", "--failover", "0"];
    let (code, said) = fleet.run(&command, arguments).await;
    (u8::try_from(code).unwrap(), said)
}

pub(crate) fn dynamodb(fleet: &Fleet) -> aws_sdk_dynamodb::Client {
    let config = aws_sdk_dynamodb::Config::builder()
        .behavior_version(aws_sdk_dynamodb::config::BehaviorVersion::latest())
        .region(aws_sdk_dynamodb::config::Region::new("us-east-1"))
        .credentials_provider(aws_sdk_dynamodb::config::Credentials::new("test", "test", None, None, "test"))
        .http_client(aws_smithy_http_client::Builder::new().build_http())
        .endpoint_url(&fleet.table)
        .build();
    aws_sdk_dynamodb::Client::from_conf(config)
}

async fn put(fleet: &Fleet, data: impl Into<Vec<u8>>) -> String {
    let put = fleet.bench.client.put_record().stream_name("orders").partition_key("k").data(Blob::new(data));
    put.send().await.unwrap().sequence_number
}

/// Writes the row of the only shard as the KCL does.
async fn kcl_stores(client: &aws_sdk_dynamodb::Client, checkpoint: &str, sub: u64) {
    let put = client
        .put_item()
        .table_name("orders-app")
        .item("leaseKey", AttributeValue::S("shardId-000000000000".into()))
        .item("leaseOwner", AttributeValue::S("worker-of-the-kcl".into()))
        .item("leaseCounter", AttributeValue::N("17".into()))
        .item("ownerSwitchesSinceCheckpoint", AttributeValue::N("0".into()))
        .item("checkpoint", AttributeValue::S(checkpoint.into()))
        .item("checkpointSubSequenceNumber", AttributeValue::N(sub.to_string()));
    put.send().await.unwrap();
}

#[tokio::test]
async fn pipeline_goes_on_inside_the_aggregate_at_which_the_kcl_stopped_and_gives_its_position_back() {
    let fleet = Fleet::start(1).await;
    let client = dynamodb(&fleet);
    let attribute = AttributeDefinition::builder().attribute_name("leaseKey").attribute_type(ScalarAttributeType::S);
    let key = KeySchemaElement::builder().attribute_name("leaseKey").key_type(KeyType::Hash);
    let create = client.create_table().table_name("orders-app").billing_mode(BillingMode::PayPerRequest);
    let create = create.attribute_definitions(attribute.build().unwrap()).key_schema(key.build().unwrap());
    create.send().await.unwrap();
    put(&fleet, "1").await;
    let packed = put(&fleet, aggregate([("k", "10"), ("k", "11"), ("k", "12")])).await;
    put(&fleet, "20").await;

    kcl_stores(&client, "AT_TIMESTAMP", 0).await;
    let (code, said) = kcl(&fleet, "import", &["--create", "--yes"]).await;
    assert!(code == Exit::Failed.code() && said.contains("--timestamp"), "{code}: {said}");

    kcl_stores(&client, &packed, 1).await;
    let (code, said) = kcl(&fleet, "import", &["--create"]).await;
    assert!(code == Exit::Usage.code() && said.contains("--yes"), "{code}: {said}");
    let (code, said) = kcl(&fleet, "import", &["--create", "--dry-run"]).await;
    assert!(code == Exit::Done.code() && said.contains("2 of 3 user records are processed"), "{code}: {said}");
    assert_eq!(client.list_tables().send().await.unwrap().table_names(), ["orders-app"], "a dry run makes nothing");
    let (code, said) = kcl(&fleet, "import", &["--dry-run"]).await;
    assert!(code == Exit::Input.code() && said.contains("doesn't exist"), "{code}: {said}");
    let (code, said) = kcl(&fleet, "import", &["--create", "--yes"]).await;
    assert!(code == Exit::Done.code() && said.contains("1 positions were written"), "{code}: {said}");
    let (code, said) = kcl(&fleet, "import", &["--create", "--yes"]).await;
    assert!(code == Exit::Done.code() && said.contains("is there already"), "{code}: {said}");

    let worker = fleet.worker("worker-1");
    fleet.until_written(&["worker-1"], 20..21).await;
    let last = put(&fleet, "21").await;
    fleet.until_written(&["worker-1"], 20..22).await;
    let (code, said) = kcl(&fleet, "export", &["--yes"]).await;
    assert!(code == Exit::Failed.code() && said.contains("read already, by worker-1"), "{code}: {said}");
    stop_softly(worker).await;
    assert_eq!(fleet.bench.written_to("worker-1"), [12, 20, 21], "no record twice, and none left out");

    let (code, said) = kcl(&fleet, "export", &["--yes", "--json"]).await;
    assert_eq!(code, Exit::Done.code(), "{said}");
    let plan: serde_json::Value = serde_json::from_str(&said).unwrap();
    assert_eq!(plan["lines"][0]["action"], "write");
    let row = client.scan().table_name("orders-app").send().await.unwrap().items.unwrap().remove(0);
    // On an idle shard the position is the one that a subscription gave for continuing behind the last record.
    let checkpoint = row["checkpoint"].as_s().unwrap();
    assert!((checkpoint.len(), checkpoint) >= (last.len(), &last), "{checkpoint} is before {last}");
    assert_eq!(row["leaseCounter"], AttributeValue::N("18".into()));
    assert!(!row.contains_key("leaseOwner"));
}
