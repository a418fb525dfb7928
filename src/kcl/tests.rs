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
        let (table, configured) = ("leases".to_owned(), "orders".to_owned());
        let migration = Migration { session, streams, kcl, table, stream, configured };
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
    assert!(Table::find(&bench.dynamodb.session(), "leases", CALL).await.unwrap().is_none());
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
