//! Do both tables get what was planned, and nothing else?

use aws_sdk_dynamodb::types::{AttributeDefinition, AttributeValue, KeySchemaElement, KeyType, ScalarAttributeType};
use aws_sdk_kinesis::primitives::Blob;
use ferrokinesis::store::StoreOptions;
use kinesis_testkit::aggregate::aggregate;
use kinesis_testkit::local_kinesis::LocalKinesis;

use super::row::rows::{kcl_2, kcl_3_5, other, several, with};
use super::row::{COUNTER, Item, KEY};
use super::*;
use crate::lease::Within;
use crate::lease::dynamodb_tests::Local;
use plan::Action;

/// Both services, a stream of one shard, and the numbers of the records in it.
struct Bench {
    dynamodb: Local,
    _kinesis: LocalKinesis,
    records: aws_sdk_kinesis::Client,
    migration: Migration,
    shard: String,
}

impl Bench {
    async fn start() -> Self {
        let dynamodb = Local::start().await;
        let options = StoreOptions { create_stream_ms: 0, ..StoreOptions::default() };
        let kinesis = LocalKinesis::start(options).await.unwrap();
        let session = dynamodb.session();
        let of_streams = session.clone().into_builder().endpoint_url(kinesis.endpoint()).build();
        let records = aws_sdk_kinesis::Client::new(&of_streams);
        records.create_stream().stream_name("orders").shard_count(1).send().await.unwrap();
        let shard = loop {
            let listed = records.list_shards().stream_name("orders").send().await;
            if let Some(shard) = listed.ok().and_then(|listed| listed.shards?.pop()) {
                break shard.shard_id;
            }
            tokio::task::yield_now().await;
        };
        let streams = Aws::new(&of_streams, of_streams.http_client().unwrap());
        let stream = loop {
            if let Ok(stream) = streams.describe_stream("orders").await {
                break stream;
            }
        };
        let kcl = KclTable::new(&session, "orders-app");
        let ours = DynamoDb { table: "leases".into(), ..DynamoDb::default() };
        let migration = Migration { session, streams, kcl, ours, stream, configured: "orders".to_owned() };
        Self { dynamodb, _kinesis: kinesis, records, migration, shard }
    }

    fn client(&self) -> aws_sdk_dynamodb::Client {
        aws_sdk_dynamodb::Client::new(&self.dynamodb.session())
    }

    /// Puts a record into the stream, and returns its number.
    async fn put(&self, data: impl Into<Vec<u8>>) -> SequenceNumber {
        let put = self.records.put_record().stream_name("orders").partition_key("k").data(Blob::new(data));
        SequenceNumber::new(put.send().await.unwrap().sequence_number()).unwrap()
    }

    /// Makes the KCL's table with these rows.
    async fn kcl_has(&self, items: Vec<Item>) {
        self.migration.kcl.create().await.unwrap();
        for item in items {
            self.client().put_item().table_name("orders-app").set_item(Some(item)).send().await.unwrap();
        }
    }

    async fn kcl_row(&self) -> Item {
        let scan = self.client().scan().table_name("orders-app").send().await.unwrap();
        let key = AttributeValue::S(self.shard.clone());
        scan.items.unwrap().into_iter().find(|item| item[KEY] == key).unwrap()
    }

    async fn import(&self) -> Result<Done, KclError> {
        let options = ImportOptions { failover: Duration::ZERO, create: true, ..ImportOptions::default() };
        let plan = self.migration.plan_import(&options).await?;
        self.migration.carry_out(plan).await
    }

    async fn export(&self, create: bool) -> Result<Done, KclError> {
        let plan = self.migration.plan_export(&ExportOptions { failover: Duration::ZERO, create }).await?;
        self.migration.carry_out(plan).await
    }

    /// The row of ours.
    async fn ours(&self) -> Row {
        let (id, mut rows) = self.migration.rows(false).await.unwrap();
        assert_eq!((id.as_str(), rows.len()), ("orders", 1));
        rows.remove(0)
    }
}

#[tokio::test]
async fn position_goes_from_the_kcl_to_ours_and_back() {
    let aggregated = || aggregate([("k", "one"), ("k", "two"), ("k", "three")]);
    // (is the record an aggregate, the sub-sequence number, is it processed in part)
    for (is_aggregate, sub, is_within) in [(false, 0, false), (true, 0, true), (true, 1, true), (true, 2, false)] {
        let bench = Bench::start().await;
        let number = if is_aggregate { bench.put(aggregated()).await } else { bench.put("plain").await };
        let before = kcl_3_5(&bench.shard, number.as_str(), sub);
        bench.kcl_has(vec![before.clone(), other("leader", "LEADER")]).await;
        assert_eq!(bench.import().await.unwrap(), Done { written: 1, changed: Vec::new() });
        assert_eq!(bench.kcl_row().await, before, "an import changes nothing of the KCL's");
        let row = bench.ours().await;
        let expected = if is_within {
            Checkpoint::Within(Within { after: None, record: number.clone(), sub: sub as u32 })
        } else {
            Checkpoint::After(number.clone())
        };
        assert_eq!(row.checkpoint, Some(expected));
        assert!(!row.foreign && row.hold.is_none() && row.created == bench.migration.stream.created());
        assert_eq!(bench.import().await.unwrap().written, 0, "an import that is repeated changes nothing");
        // Back, into the row that is there and into a table that is made.
        let older = kcl_3_5(&bench.shard, "TRIM_HORIZON", 0);
        bench.client().put_item().table_name("orders-app").set_item(Some(older)).send().await.unwrap();
        assert_eq!(bench.export(false).await.unwrap().written, 1);
        let back = bench.kcl_row().await;
        assert_eq!(back["checkpoint"], AttributeValue::S(number.to_string()));
        assert_eq!(back["checkpointSubSequenceNumber"], AttributeValue::N(sub.to_string()));
        assert_eq!(back[COUNTER], AttributeValue::N("18".into()));
        for gone in ["leaseOwner", "pendingCheckpoint", "checkpointOwner"] {
            assert!(!back.contains_key(gone), "{gone}");
        }
        bench.client().delete_table().table_name("orders-app").send().await.unwrap();
        assert!(bench.export(false).await.unwrap_err().to_string().contains("--create"));
        assert_eq!(bench.export(true).await.unwrap().written, 1);
        let made = bench.kcl_row().await;
        assert_eq!(made["checkpoint"], AttributeValue::S(number.to_string()));
        assert_eq!((&made[COUNTER], made.contains_key("leaseOwner")), (&AttributeValue::N("0".into()), false));
        assert_eq!(made["startingHashKey"], AttributeValue::S("0".into()));
    }
}

#[tokio::test]
async fn position_goes_into_a_namespace_and_back() {
    let mut bench = Bench::start().await;
    let number = bench.put(aggregate([("k", "one"), ("k", "two"), ("k", "three")])).await;
    bench.kcl_has(vec![kcl_2(&bench.shard, number.as_str(), 1)]).await;
    bench.migration.ours.namespace = Some("files".to_owned()).into();
    assert_eq!(bench.import().await.unwrap().written, 1);
    let row = bench.ours().await;
    let inside = Checkpoint::Within(Within { after: None, record: number.clone(), sub: 1 });
    assert_eq!(row.checkpoint, Some(inside));
    let scan = bench.client().scan().table_name("leases").send().await.unwrap();
    let keys: Vec<_> = scan.items().iter().map(|item| item["StreamID"].clone()).collect();
    assert_eq!(keys, [AttributeValue::S("files/orders".into())]);
    let older = kcl_2(&bench.shard, "TRIM_HORIZON", 0);
    bench.client().put_item().table_name("orders-app").set_item(Some(older)).send().await.unwrap();
    assert_eq!(bench.export(false).await.unwrap().written, 1);
    assert_eq!(bench.kcl_row().await["checkpointSubSequenceNumber"], AttributeValue::N("1".into()));
    // The rows that are shared with Connect are others.
    bench.migration.ours.namespace = None.into();
    assert!(bench.export(false).await.unwrap_err().to_string().contains("no position of this stream"));
}

#[tokio::test]
async fn start_of_a_shard_is_stored_with_the_shard() {
    for (word, oldest) in [("TRIM_HORIZON", true), ("LATEST", false)] {
        let bench = Bench::start().await;
        bench.kcl_has(vec![kcl_2(&bench.shard, word, 0)]).await;
        assert_eq!(bench.import().await.unwrap().written, 1);
        let row = bench.ours().await;
        assert_eq!((row.checkpoint, row.begins == Some(StartPosition::Oldest)), (None, oldest));
        assert!(row.begins.is_some());
        assert_eq!(bench.import().await.unwrap().written, 0);
    }
}

#[tokio::test]
async fn lease_in_a_table_of_several_streams_is_found_by_the_life_of_its_stream() {
    let bench = Bench::start().await;
    let number = bench.put("plain").await;
    let created = bench.migration.stream.created().unwrap().div_euclid(1000);
    let account = bench.migration.stream.arn().split(':').nth(4).unwrap().to_owned();
    let row = |created: i64| several(&format!("{account}:orders:{created}"), &bench.shard, number.as_str(), 0);
    bench.kcl_has(vec![row(created - 1000)]).await;
    let refused = bench.import().await.unwrap_err().to_string();
    assert!(refused.contains("created again"), "{refused}");
    bench.client().put_item().table_name("orders-app").set_item(Some(row(created))).send().await.unwrap();
    assert_eq!(bench.import().await.unwrap().written, 1);
    assert_eq!(bench.ours().await.checkpoint, Some(Checkpoint::After(number)));
}

#[tokio::test]
async fn kcl_that_is_started_after_the_plan_stops_the_import() {
    let bench = Bench::start().await;
    let number = bench.put("plain").await;
    let row = kcl_2(&bench.shard, number.as_str(), 0);
    bench.kcl_has(vec![row.clone()]).await;
    let options = ImportOptions { failover: Duration::ZERO, create: true, ..ImportOptions::default() };
    let plan = bench.migration.plan_import(&options).await.unwrap();
    assert_eq!(plan.writes(), 1);
    let renewed = with(row, COUNTER, AttributeValue::N("18".into()));
    bench.client().put_item().table_name("orders-app").set_item(Some(renewed)).send().await.unwrap();
    let refused = bench.migration.carry_out(plan).await.unwrap_err();
    assert!(matches!(&refused, KclError::Running(owner) if owner == "worker-of-the-kcl"), "{refused}");
    assert!(Table::find(&bench.dynamodb.session(), &bench.migration.ours, CALL).await.unwrap().is_none());
}

#[tokio::test]
async fn row_of_ours_that_appears_after_the_plan_is_not_touched() {
    let bench = Bench::start().await;
    let number = bench.put("plain").await;
    bench.kcl_has(vec![kcl_2(&bench.shard, number.as_str(), 0)]).await;
    let options = ImportOptions { failover: Duration::ZERO, create: true, ..ImportOptions::default() };
    let plan = bench.migration.plan_import(&options).await.unwrap();
    let again = plan.clone();
    assert_eq!(bench.migration.carry_out(plan).await.unwrap().written, 1);
    let done = bench.migration.carry_out(again).await.unwrap();
    assert_eq!(done, Done { written: 0, changed: vec![bench.shard.clone()] });
}

#[tokio::test]
async fn row_of_ours_is_replaced_only_while_it_is_as_it_was_planned() {
    let bench = Bench::start().await;
    let (first, second) = (bench.put("one").await, bench.put("two").await);
    let row = |number: &SequenceNumber| kcl_2(&bench.shard, number.as_str(), 0);
    bench.kcl_has(vec![row(&first)]).await;
    assert_eq!(bench.import().await.unwrap().written, 1);
    bench.client().put_item().table_name("orders-app").set_item(Some(row(&second))).send().await.unwrap();
    assert_eq!(bench.import().await.unwrap().written, 0, "it is replaced only if that is asked for");
    let options = ImportOptions { failover: Duration::ZERO, overwrite: true, ..ImportOptions::default() };
    let plan = bench.migration.plan_import(&options).await.unwrap();
    let (again, held) = (plan.clone(), plan.clone());
    // A worker claims the shard in between.
    let ours = |set: &str| {
        let update = bench.client().update_item().table_name("leases").update_expression(set.to_owned());
        let key = |text: &str| AttributeValue::S(text.to_owned());
        update.key("StreamID", key("orders")).key("ShardID", key(&bench.shard))
    };
    let worker = AttributeValue::S("w".into());
    ours("SET ClientID = :w").expression_attribute_values(":w", worker).send().await.unwrap();
    assert_eq!(bench.migration.carry_out(held).await.unwrap().written, 0);
    ours("REMOVE ClientID").send().await.unwrap();
    assert_eq!(bench.migration.carry_out(plan).await.unwrap().written, 1);
    assert_eq!(bench.ours().await.checkpoint, Some(Checkpoint::After(second)));
    assert_eq!(bench.migration.carry_out(again).await.unwrap().written, 0);
}

#[tokio::test]
async fn lease_that_was_renewed_since_it_was_read_is_not_written() {
    let bench = Bench::start().await;
    let (first, second) = (bench.put("one").await, bench.put("two").await);
    bench.kcl_has(vec![kcl_2(&bench.shard, second.as_str(), 0)]).await;
    assert_eq!(bench.import().await.unwrap().written, 1);
    let older = kcl_2(&bench.shard, first.as_str(), 0);
    bench.client().put_item().table_name("orders-app").set_item(Some(older)).send().await.unwrap();
    let options = ExportOptions { failover: Duration::ZERO, create: false };
    let plan = bench.migration.plan_export(&options).await.unwrap();
    let Work::Export { writes, form, .. } = &plan.work else { panic!("{plan:?}") };
    assert!(bench.migration.kcl.write(&writes[0], form).await.unwrap());
    assert!(!bench.migration.kcl.write(&writes[0], form).await.unwrap(), "its counter has moved");
    let made = export::Write { lease: None, ..writes[0].clone() };
    assert!(!bench.migration.kcl.write(&made, form).await.unwrap(), "there is a row already");
}

#[tokio::test]
async fn table_of_another_key_is_not_taken_for_one_of_the_kcl() {
    let bench = Bench::start().await;
    let attribute = AttributeDefinition::builder().attribute_name("id").attribute_type(ScalarAttributeType::S);
    let key = KeySchemaElement::builder().attribute_name("id").key_type(KeyType::Hash);
    let create = bench.client().create_table().table_name("orders-app");
    let create = create.attribute_definitions(attribute.build().unwrap()).key_schema(key.build().unwrap());
    create.billing_mode(aws_sdk_dynamodb::types::BillingMode::PayPerRequest).send().await.unwrap();
    assert!(bench.import().await.unwrap_err().to_string().contains("its key is id"));
}

#[test]
fn time_has_the_form_of_the_configuration() {
    assert_eq!(time("1970-01-01T00:00:01.5Z").unwrap(), SystemTime::UNIX_EPOCH + Duration::from_millis(1500));
    for text in ["2026-11-01 00:00:00Z", "2026-11-01T00:00Z", "2026-11-01", "1969-12-31T23:59:59Z"] {
        assert!(time(text).is_err(), "{text}");
    }
}

/// Tables as versions of the KCL left them, and rows as its serializer writes them (`fixtures/README.md`).
const FIXTURES: [(&str, &str); 7] = [
    ("2.7.2-one", include_str!("fixtures/2.7.2-one.json")),
    ("2.7.2-several", include_str!("fixtures/2.7.2-several.json")),
    ("3.4.0-one", include_str!("fixtures/3.4.0-one.json")),
    ("3.4.0-several", include_str!("fixtures/3.4.0-several.json")),
    ("3.5.1-one", include_str!("fixtures/3.5.1-one.json")),
    ("3.5.1-several", include_str!("fixtures/3.5.1-several.json")),
    ("by-the-serializer", include_str!("fixtures/by-the-serializer.json")),
];

/// What becomes of the tables that the KCL left, as the documentation has it: a line for each shard.
const LEFT: [&str; 5] = [
    "| `SHARD_END` | ended | read to its end |",
    "| `N/6` | in N, after 6 | 7 of 10 user records are processed |",
    "| `TRIM_HORIZON` | oldest | nothing was processed |",
    "| `N/0` | after N | the record is processed |",
    "| `N/9` | after N | all user records of the aggregate are processed |",
];
/// What becomes of the rows of the serializer.
const SERIALIZED: [&str; 4] = [
    "| `LATEST` | from 2026-11-28T17:00:00Z | the KCL has stored no position and would begin at the latest record; the latest \
     is now |",
    "| `AT_TIMESTAMP` | from 2026-11-01T00:00:00Z | the time is that of `--timestamp` |",
    "| `N/2` | in N, after 2 | 3 of 10 user records are processed |",
    "| `N/0` | after N | the record is processed |",
];

/// Reads rows in the form of DynamoDB's protocol.
fn items(json: &str) -> Vec<Item> {
    let rows: Vec<serde_json::Map<String, serde_json::Value>> = serde_json::from_str(json).unwrap();
    rows.iter().map(|row| row.iter().map(|(name, value)| (name.clone(), attribute(value))).collect()).collect()
}

fn attribute(value: &serde_json::Value) -> AttributeValue {
    let text = |value: &serde_json::Value| value.as_str().unwrap().to_owned();
    let (kind, value) = value.as_object().unwrap().iter().next().unwrap();
    match kind.as_str() {
        "S" => AttributeValue::S(text(value)),
        "N" => AttributeValue::N(text(value)),
        "B" => AttributeValue::B(Blob::new(text(value))),
        "SS" => AttributeValue::Ss(value.as_array().unwrap().iter().map(text).collect()),
        "L" => AttributeValue::L(value.as_array().unwrap().iter().map(attribute).collect()),
        "M" => {
            let fields = value.as_object().unwrap().iter();
            AttributeValue::M(fields.map(|(name, value)| (name.clone(), attribute(value))).collect())
        }
        other => panic!("{other}"),
    }
}

#[tokio::test]
async fn rows_that_the_kcl_wrote_become_what_the_documentation_says() {
    let documentation = include_str!("../../docs/migrating-from-kcl.md");
    let dynamodb = Local::start().await;
    let client = aws_sdk_dynamodb::Client::new(&dynamodb.session());
    for (fixture, json) in FIXTURES {
        let table = KclTable::new(&dynamodb.session(), fixture);
        table.create().await.unwrap();
        for item in items(json) {
            client.put_item().table_name(fixture).set_item(Some(item)).send().await.unwrap();
        }
        let rows: Vec<_> = table.scan().await.unwrap().into_iter().map(|(_, row, _)| row).collect();
        let key = rows.iter().find_map(|row| match row {
            Ok(KclRow::Lease(lease)) => lease.stream.clone(),
            _ => None,
        });
        assert_eq!(key.is_some(), fixture.ends_with("several"), "{fixture}");
        let name = key.as_ref().map_or("orders", |key| &key.name);
        let arn = format!("arn:aws:kinesis:eu-west-1:123456789012:stream/{name}");
        let stream = Stream::new(name, arn).created_at(key.as_ref().map(|key| key.created * 1000 + 999));
        let (leases, remarks) = plan::of_stream(&rows, &stream).unwrap();
        assert_eq!(remarks, [""; 0], "{fixture}");
        let listing: Vec<ListedShard> = leases
            .iter()
            .map(|lease| ListedShard {
                id: lease.shard.clone(),
                parents: lease.parents.clone(),
                closed: lease.position == row::KclPosition::ShardEnd,
                begin: None,
                hash_range: lease.hash_range,
            })
            .collect();
        // What was at the positions in the run.
        let records = leases.iter().filter_map(|lease| match &lease.position {
            row::KclPosition::Record { sub: 0, .. } => Some((lease.shard.clone(), RecordAt::Plain)),
            row::KclPosition::Record { .. } => Some((lease.shard.clone(), RecordAt::Aggregate(10))),
            _ => None,
        });
        let planned = plan::import(&plan::Known {
            stream: &stream,
            listing: &listing,
            leases: &leases,
            ours: &[],
            records: &records.collect(),
            now: 1_795_885_200_000,
            timestamp: Some(1_793_491_200_000),
            overwrite: false,
        });
        assert_eq!(planned.refusals, [""; 0], "{fixture}");
        assert!(planned.lines.iter().all(|line| line.action == Action::Write), "{fixture}");
        let numbers = leases.iter().filter_map(plan::record);
        let became = planned.lines.iter().map(|line| {
            let line = format!("| `{}` | {} | {} |", line.kcl, line.ours, line.why);
            numbers.clone().fold(line, |line, number| line.replace(number.as_str(), "N"))
        });
        let expected: &[&str] = if fixture == "by-the-serializer" { &SERIALIZED } else { &LEFT };
        assert_eq!(became.collect::<Vec<_>>(), expected, "{fixture}");
        for line in expected {
            assert!(documentation.contains(line), "{line}");
        }
    }
}
