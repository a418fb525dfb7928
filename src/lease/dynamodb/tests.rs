//! Does the table keep what stores promise, and what Redpanda Connect expects of it?

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use aws_credential_types::Credentials;
use aws_sdk_dynamodb::config::Region;
use aws_types::SdkConfig;
use tokio::net::TcpListener;
use tokio::task::JoinSet;

use super::*;
use crate::config::DynamoDb;
use crate::lease::store_tests::{
    a_race_has_one_winner, every_shared_store_keeps_what_it_promises, every_store_keeps_what_it_promises,
};
use crate::lease::{HeartbeatAnswer, Presence, Within};
use crate::model::SequenceNumber;

pub(super) const LEASE: Duration = Duration::from_secs(30);
const ARN: &str = "arn:aws:kinesis:eu-west-1:123456789012:stream/orders";

/// A DynamoDB of another project, on a socket. It stops when this is dropped.
pub(crate) struct Local {
    endpoint: String,
    _server: JoinSet<()>,
}

impl Local {
    pub(crate) async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let endpoint = format!("http://{}", listener.local_addr().unwrap());
        let mut server = JoinSet::new();
        server.spawn(async move {
            dynoxide::server::serve_on(listener, dynoxide::Database::memory().unwrap()).await;
        });
        Self { endpoint, _server: server }
    }

    pub(crate) fn session(&self) -> SdkConfig {
        let http = aws_smithy_http_client::Builder::new()
            .tls_provider(aws_smithy_http_client::tls::Provider::Rustls(
                aws_smithy_http_client::tls::rustls_provider::CryptoMode::AwsLc,
            ))
            .build_https();
        SdkConfig::builder()
            .behavior_version(aws_config::BehaviorVersion::latest())
            .region(Region::new("eu-west-1"))
            .endpoint_url(&self.endpoint)
            .credentials_provider(aws_credential_types::provider::SharedCredentialsProvider::new(Credentials::new(
                "id", "secret", None, None, "test",
            )))
            .http_client(http)
            .sleep_impl(aws_smithy_async::rt::sleep::SharedAsyncSleep::new(
                aws_smithy_async::rt::sleep::TokioSleep::new(),
            ))
            .time_source(aws_smithy_async::time::SystemTimeSource::new())
            .build()
    }

    pub(super) fn config() -> DynamoDb {
        DynamoDb { table: "leases".into(), create: true, ..DynamoDb::default() }
    }

    /// A worker's view of the rows in a namespace.
    async fn store_in(&self, namespace: Option<&str>, me: &str) -> DynamoDbStore {
        let config = DynamoDb { namespace: namespace.map(str::to_owned).into(), ..Self::config() };
        let table = Table::open(&self.session(), &config, LEASE / 3).await.unwrap();
        DynamoDbStore::new(table, me.into(), Lives::new().next(), LEASE)
    }

    async fn table(&self) -> Table {
        Table::open(&self.session(), &Self::config(), LEASE / 3).await.unwrap_or_else(|error| panic!("{error}"))
    }

    pub(super) async fn store(&self, me: &str) -> DynamoDbStore {
        DynamoDbStore::new(self.table().await, me.into(), Lives::new().next(), LEASE)
    }
}

pub(super) fn stream() -> Stream {
    Stream::new("orders", ARN)
}

/// Writes a row as Connect does: the whole item.
pub(super) async fn put(store: &DynamoDbStore, attributes: &[(&str, &str)]) {
    let put = store.client().put_item().table_name("leases");
    let item = attributes.iter().map(|(name, value)| ((*name).to_owned(), text(value))).collect();
    put.set_item(Some(item)).send().await.unwrap();
}

async fn get(store: &DynamoDbStore, id: &str, shard: &str) -> Option<Item> {
    let get = store.client().get_item().table_name("leases").consistent_read(true);
    get.key("StreamID", text(id)).key("ShardID", text(shard)).send().await.unwrap().item
}

#[tokio::test]
async fn dynamodb_store_keeps_the_contract_of_all_stores() {
    let local = Local::start().await;
    every_store_keeps_what_it_promises(&local.store("a").await).await;
    let (a, b) = (local.store("b").await, local.store("c").await);
    every_shared_store_keeps_what_it_promises(&a, &b).await;
}

#[tokio::test]
async fn store_in_a_namespace_keeps_the_contract_of_all_stores() {
    let local = Local::start().await;
    // Other rows of the same streams and workers change nothing.
    for namespace in [None, Some("other"), Some("orders")] {
        every_store_keeps_what_it_promises(&local.store_in(namespace, "a").await).await;
        let (a, b) = (local.store_in(namespace, "b").await, local.store_in(namespace, "c").await);
        every_shared_store_keeps_what_it_promises(&a, &b).await;
    }
}

/// Writes a row of each kind: a lease, a heartbeat, what a stream is called, what latest means, and a row set aside.
async fn every_kind_of_row(store: &DynamoDbStore) {
    let former = stream().created_at(Some(1));
    store.adopt(&former, "orders").await.unwrap();
    store.pin_latest(&stream(), 7).await.unwrap();
    store.heartbeat(&Presence::default()).await.unwrap();
    for shard in ["kept", "former"] {
        let claimed = store.claim(&former, &shard.into(), ClaimFrom::Nobody).await.unwrap();
        let Claim::Owned(lease, _) = claimed else { panic!("{claimed:?}") };
        store.commit(vec![Commit::new(&lease, at("5"))]).await.remove(0).unwrap();
    }
    let rows = store.rows(&former).await.unwrap();
    let row = rows.iter().find(|row| row.shard.as_str() == "former").unwrap();
    assert!(store.set_aside(&former, row).await.unwrap());
    store.table.import("orders", &stream(), &"imported".into(), at("3").as_ref(), None, None).await.unwrap();
}

/// All rows of the table by their key, without what is random or a time.
async fn all_rows(store: &DynamoDbStore) -> BTreeMap<(String, String), Item> {
    let mut items = scan_table(store.client(), "leases").await.unwrap();
    for item in &mut items {
        for name in ["LeaseID", "LeaseTimeout", "ClaimedAt", "Beat", "Life", "SeenAt", "Since"] {
            item.remove(name);
        }
    }
    let key = |item: &mut Item| {
        let [hash, range] = ["StreamID", "ShardID"].map(|name| item.remove(name).unwrap().as_s().unwrap().clone());
        (hash, range)
    };
    items.into_iter().map(|mut item| (key(&mut item), item)).collect()
}

#[tokio::test]
async fn namespaces_of_one_table_differ_in_the_keys_of_their_rows_alone() {
    let local = Local::start().await;
    let plain = local.store_in(None, "w").await;
    every_kind_of_row(&plain).await;
    let shared = all_rows(&plain).await;
    let former = format!("{ARN}/former");
    let keys = [
        (FORMER, former.as_str()),
        (STREAMS, ARN),
        (STREAMS, "orders"),
        (WORKERS, "w"),
        ("orders", "imported"),
        ("orders", "kept"),
    ];
    let found: Vec<_> = shared.keys().map(|(hash, range)| (hash.as_str(), range.as_str())).collect();
    assert_eq!(found, keys, "the rows that are shared with Connect");
    assert_eq!((WORKERS, STREAMS, FORMER), ("kinesis-input/workers", "kinesis-input/streams", "kinesis-input/former"));
    let store = local.store_in(Some("files"), "w").await;
    every_kind_of_row(&store).await;
    let mut all = all_rows(&store).await;
    for (key, row) in &shared {
        assert_eq!(all.remove(key).as_ref(), Some(row), "{key:?} is changed by another namespace");
        let (hash, range) = key;
        assert_eq!(all.remove(&(format!("files/{hash}"), range.clone())).as_ref(), Some(row), "{key:?}");
    }
    assert_eq!(all, BTreeMap::new());
}

#[tokio::test]
async fn namespaces_of_one_table_do_not_see_each_other() {
    let local = Local::start().await;
    let (plain, files) = (local.store_in(None, "w").await, local.store_in(Some("files"), "w").await);
    let other = local.store_in(Some("other"), "x").await;
    for store in [&plain, &files] {
        every_kind_of_row(store).await;
    }
    other.adopt(&stream(), "orders").await.unwrap();
    assert_eq!(other.rows(&stream()).await.unwrap(), []);
    assert_eq!(other.workers().await.unwrap(), []);
    assert_eq!(other.pin_latest(&stream(), 9).await.unwrap(), 9);
    // Garbage is removed, a dead worker forgotten, and a lease released in one namespace alone.
    let row = files.rows(&stream()).await.unwrap().remove(0);
    files.forget(&stream(), &row).await.unwrap();
    files.remove_dead_worker(&files.workers().await.unwrap()[0]).await.unwrap();
    assert_eq!((files.rows(&stream()).await.unwrap().len(), plain.rows(&stream()).await.unwrap().len()), (1, 2));
    assert_eq!((files.workers().await.unwrap().len(), plain.workers().await.unwrap().len()), (0, 1));
    // Each has a consumer of its own.
    let identities = [&plain, &files, &other].map(LeaseStore::identity);
    let identities: BTreeSet<String> = futures::future::try_join_all(identities).await.unwrap().into_iter().collect();
    assert_eq!(identities.len(), 3);
    assert!(identities.iter().any(|identity| identity.starts_with("leases-files-")), "{identities:?}");
}

#[tokio::test]
async fn overview_shows_each_row_with_its_namespace() {
    let local = Local::start().await;
    let (plain, files) = (local.store_in(None, "w").await, local.store_in(Some("files"), "w").await);
    for store in [&plain, &files] {
        every_kind_of_row(store).await;
    }
    let namespaces = |seen: &Overview| -> Vec<_> {
        let shards = seen.shards.iter().map(|shard| (shard.namespace.clone(), shard.stream.clone()));
        shards.chain(seen.workers.iter().map(|worker| (worker.namespace.clone(), worker.worker.clone()))).collect()
    };
    let of =
        |namespace: Option<&str>| ["orders", "orders", "w"].map(|name| (namespace.map(str::to_owned), name.to_owned()));
    let all = plain.table.overview(None).await.unwrap();
    let (shared, own) = (of(None), of(Some("files")));
    assert_eq!(namespaces(&all), [&shared[..2], &own[..2], &shared[2..], &own[2..]].concat());
    assert_eq!(all.workers.iter().map(|worker| worker.shards).collect::<Vec<_>>(), [1, 1]);
    assert_eq!(all.latest.len(), 2);
    for stream in [None, Some("orders")] {
        assert_eq!(namespaces(&files.table.overview(stream).await.unwrap()), of(Some("files")));
    }
    assert_eq!(namespaces(&plain.table.overview(Some("orders")).await.unwrap()), of(None));
    // What is done to a worker concerns its namespace.
    assert_eq!(
        (all.of("w", None).0.len(), all.of("w", Some("files")).0.len(), all.of("w", Some("x")).0.len()),
        (1, 1, 0)
    );
    let held = all.of("w", Some("files")).0[0];
    assert!(files.table.free(held).await.unwrap());
    assert_eq!(plain.table.overview(None).await.unwrap().of("w", None).0.len(), 1);
    // A bad name never reaches the table.
    let config = DynamoDb { namespace: Some("a/b".to_owned()).into(), ..Local::config() };
    let refused = Table::open(&local.session(), &config, LEASE).await.unwrap_err().to_string();
    assert!(refused.contains("a namespace has"), "{refused}");
}

#[tokio::test]
async fn claims_raced_by_fifty_workers_have_one_winner() {
    let local = Local::start().await;
    let table = local.table().await;
    let store = |at: usize| {
        Arc::new(DynamoDbStore::new(table.clone(), format!("w{at}").as_str().into(), Lives::new().next(), LEASE))
    };
    a_race_has_one_winner((0..50).map(|at| store(at) as Arc<dyn SharedStore>).collect()).await;
}

#[tokio::test]
async fn row_is_what_connect_expects() {
    let local = Local::start().await;
    let store = local.store("ours").await;
    store.adopt(&stream(), "orders").await.unwrap();
    let Claim::Owned(lease, _) = store.claim(&stream(), &"s".into(), ClaimFrom::Nobody).await.unwrap() else {
        panic!()
    };
    let checkpoint = Some(Checkpoint::After(SequenceNumber::new("42").unwrap()));
    store.commit(vec![Commit::new(&lease, checkpoint.clone())]).await.remove(0).unwrap();
    let item = get(&store, "orders", "s").await.unwrap();
    for (name, value) in [("StreamID", "orders"), ("ShardID", "s"), ("SequenceNumber", "42"), ("ClientID", "ours")] {
        assert_eq!(item[name], text(value));
    }
    let timeout: jiff::Timestamp = item["LeaseTimeout"].as_s().unwrap().parse().unwrap();
    let left = timeout.duration_since(jiff::Timestamp::now());
    assert!(left.as_secs() > 20 && left.as_secs() <= 30, "{left:?}");
    // A released lease has no owner, which tells Connect that it may take the shard.
    store.release(vec![Release::new(&lease, checkpoint, None)]).await.remove(0).unwrap();
    let item = get(&store, "orders", "s").await.unwrap();
    assert!(!item.contains_key("ClientID") && !item.contains_key("LeaseTimeout"), "{item:?}");
    assert_eq!(item["SequenceNumber"], text("42"));
}

#[tokio::test]
async fn row_that_connect_wrote_is_continued_and_fenced() {
    let local = Local::start().await;
    let store = local.store("ours").await;
    let row = [("StreamID", "orders"), ("ShardID", "s"), ("SequenceNumber", "42")];
    put(&store, &[&row[..], &[("ClientID", "theirs"), ("LeaseTimeout", "2026-11-24T00:00:00Z")]].concat()).await;
    store.adopt(&stream(), "orders").await.unwrap();
    let rows = store.rows(&stream()).await.unwrap();
    let hold = rows[0].hold.clone().unwrap();
    assert!(matches!(store.claim(&stream(), &"s".into(), ClaimFrom::Nobody).await.unwrap(), Claim::HeldBy(_)));
    let Claim::Owned(lease, checkpoint) =
        store.claim(&stream(), &"s".into(), ClaimFrom::Unchanged(&hold)).await.unwrap()
    else {
        panic!("not ours")
    };
    assert_eq!(checkpoint, Some(Checkpoint::After(SequenceNumber::new("42").unwrap())));
    // Connect takes the shard back as it does in practice: it changes the owner, and the attributes of this input stay.
    store
        .table
        .update("orders", "s")
        .update_expression("SET ClientID = :new, LeaseTimeout = :t")
        .condition_expression("ClientID = :old")
        .expression_attribute_values(":new", text("theirs"))
        .expression_attribute_values(":old", text("ours"))
        .expression_attribute_values(":t", text("2026-11-24T00:01:00Z"))
        .send()
        .await
        .unwrap();
    let write = Commit::new(&lease, Some(Checkpoint::After(SequenceNumber::new("43").unwrap())));
    assert_eq!(store.commit(vec![write]).await, [Ok(CommitOutcome::Lost { holder: "theirs".into() })]);
    assert_eq!(get(&store, "orders", "s").await.unwrap()["SequenceNumber"], text("42"));
    let hold = store.rows(&stream()).await.unwrap()[0].hold.clone().unwrap();
    assert_eq!((hold.worker.as_str(), hold.epoch), ("theirs", None));
}

/// Connect resumes behind the last whole record, and knows nothing of the attribute that names a part of one.
#[tokio::test]
async fn handed_to_connect_inside_an_aggregate() {
    let local = Local::start().await;
    let store = local.store("ours").await;
    let number = |text: &str| SequenceNumber::new(text).unwrap();
    let within = Some(Checkpoint::Within(Within { after: Some(number("99")), record: number("100"), sub: 3 }));
    for (theirs, expected) in [
        // It stored nothing: the part that is processed stays so.
        (None, within.clone()),
        (Some("100"), Some(Checkpoint::After(number("100")))),
        (Some("250"), Some(Checkpoint::After(number("250")))),
    ] {
        let shard = ShardId::from(theirs.unwrap_or("nothing"));
        let Claim::Owned(lease, _) = store.claim(&stream(), &shard, ClaimFrom::Nobody).await.unwrap() else { panic!() };
        store.release(vec![Release::new(&lease, within.clone(), None)]).await.remove(0).unwrap();
        let row = get(&store, "orders", shard.as_str()).await.unwrap();
        assert_eq!((&row["SequenceNumber"], row.contains_key("ClientID")), (&text("99"), false));
        if let Some(position) = theirs {
            let update = store.table.update("orders", shard.as_str()).update_expression("SET SequenceNumber = :theirs");
            update.expression_attribute_values(":theirs", text(position)).send().await.unwrap();
        }
        let Claim::Owned(_, checkpoint) = store.claim(&stream(), &shard, ClaimFrom::Nobody).await.unwrap() else {
            panic!()
        };
        assert_eq!(checkpoint, expected, "{theirs:?}");
    }
}

#[tokio::test]
async fn renamed_stream_entry() {
    let local = Local::start().await;
    let before = local.store("a").await;
    before.adopt(&stream(), "orders").await.unwrap();
    let Claim::Owned(lease, _) = before.claim(&stream(), &"s".into(), ClaimFrom::Nobody).await.unwrap() else {
        panic!()
    };
    let checkpoint = Some(Checkpoint::After(SequenceNumber::new("42").unwrap()));
    before.release(vec![Release::new(&lease, checkpoint.clone(), None)]).await.remove(0).unwrap();
    let after = local.store("b").await;
    after.adopt(&stream(), ARN).await.unwrap();
    assert_eq!(after.rows(&stream()).await.unwrap()[0].checkpoint, checkpoint);
    // Both see the same leases meanwhile.
    let Claim::Owned(..) = after.claim(&stream(), &"s".into(), ClaimFrom::Nobody).await.unwrap() else { panic!() };
    assert!(matches!(before.claim(&stream(), &"s".into(), ClaimFrom::Nobody).await.unwrap(), Claim::HeldBy(_)));
}

#[tokio::test]
async fn rows_that_connect_kept_under_the_arn_are_continued_under_the_arn() {
    let local = Local::start().await;
    let store = local.store("ours").await;
    put(&store, &[("StreamID", ARN), ("ShardID", "s"), ("SequenceNumber", "42")]).await;
    store.adopt(&stream(), "orders").await.unwrap();
    assert!(matches!(store.rows(&stream()).await.unwrap()[0].checkpoint, Some(Checkpoint::After(_))));
    let Claim::Owned(..) = store.claim(&stream(), &"s".into(), ClaimFrom::Nobody).await.unwrap() else { panic!() };
    assert_eq!(get(&store, ARN, "s").await.unwrap()["ClientID"], text("ours"));
}

#[tokio::test]
async fn rows_under_the_other_name_are_moved() {
    let local = Local::start().await;
    let store = local.store("ours").await;
    put(&store, &[("StreamID", "orders"), ("ShardID", "both"), ("SequenceNumber", "5")]).await;
    put(&store, &[("StreamID", "orders"), ("ShardID", "behind"), ("SequenceNumber", "9")]).await;
    put(&store, &[("StreamID", ARN), ("ShardID", "both"), ("SequenceNumber", "10")]).await;
    put(&store, &[("StreamID", ARN), ("ShardID", "behind"), ("SequenceNumber", "8")]).await;
    put(&store, &[("StreamID", ARN), ("ShardID", "alone"), ("SequenceNumber", "7"), ("ClientID", "x")]).await;
    store.adopt(&stream(), "orders").await.unwrap();
    let rows = store.rows(&stream()).await.unwrap();
    let checkpoints: Vec<_> = rows.iter().map(|row| (row.shard.as_str(), row.checkpoint.clone())).collect();
    let at = |number| Some(Checkpoint::After(SequenceNumber::new(number).unwrap()));
    assert_eq!(checkpoints, [("alone", at("7")), ("behind", at("9")), ("both", at("10"))]);
    assert_eq!(rows[0].hold.as_ref().unwrap().worker.as_str(), "x", "its holder is known still");
    assert!(store.table.query("look", ARN).await.unwrap().is_empty());
}

#[tokio::test]
async fn missing_table_or_one_with_other_keys_is_an_error() {
    let local = Local::start().await;
    let mut config = Local::config();
    config.create = false;
    let missing = Table::open(&local.session(), &config, LEASE).await.unwrap_err().to_string();
    assert!(missing.contains("doesn't exist") && missing.contains("dynamodb.create: true"), "{missing}");
    local.table().await;
    Table::open(&local.session(), &config, LEASE).await.unwrap();

    let client = local.table().await.client;
    let attribute = aws_sdk_dynamodb::types::AttributeDefinition::builder()
        .attribute_name("leaseKey")
        .attribute_type(aws_sdk_dynamodb::types::ScalarAttributeType::S);
    let key = aws_sdk_dynamodb::types::KeySchemaElement::builder()
        .attribute_name("leaseKey")
        .key_type(aws_sdk_dynamodb::types::KeyType::Hash);
    let create = client.create_table().table_name("kcl").attribute_definitions(attribute.build().unwrap());
    let create = create.key_schema(key.build().unwrap());
    create.billing_mode(aws_sdk_dynamodb::types::BillingMode::PayPerRequest).send().await.unwrap();
    config.table = "kcl".into();
    let other = Table::open(&local.session(), &config, LEASE).await.unwrap_err().to_string();
    assert!(other.contains("HASH leaseKey (S)") && other.contains("RANGE ShardID (S)"), "{other}");
}

#[expect(clippy::unnecessary_wraps, reason = "rows hold it so")]
fn at(number: &str) -> Option<Checkpoint> {
    Some(Checkpoint::After(SequenceNumber::new(number).unwrap()))
}

#[tokio::test]
async fn invalid_row_is_read_beside_the_others() {
    let local = Local::start().await;
    let store = local.store("ours").await;
    put(&store, &[("StreamID", "orders"), ("ShardID", "a"), ("SequenceNumber", "LATEST")]).await;
    put(&store, &[("StreamID", "orders"), ("ShardID", "b"), ("SequenceNumber", "5")]).await;
    let rows = store.rows(&stream()).await.unwrap();
    assert!(rows[0].unreadable.as_deref().is_some_and(|what| what.contains("LATEST")), "{rows:?}");
    assert_eq!((rows[1].unreadable.as_deref(), &rows[1].checkpoint), (None, &at("5")));
    // An edit between a read and a claim is reported with the row's name.
    let error = store.claim(&stream(), &"a".into(), ClaimFrom::Nobody).await.unwrap_err().to_string();
    assert!(error.contains("orders a") && error.contains("remove the row"), "{error}");
}

#[tokio::test]
async fn row_of_a_former_stream_is_set_aside_and_claims_keep_to_their_stream() {
    let local = Local::start().await;
    let (old, new) = (stream().created_at(Some(1)), stream().created_at(Some(2)));
    let (stale, store) = (local.store("stale").await, local.store("ours").await);
    let Claim::Owned(lease, _) = stale.claim(&old, &"s".into(), ClaimFrom::Nobody).await.unwrap() else { panic!() };
    stale.commit(vec![Commit::new(&lease, at("5"))]).await.pop().unwrap().unwrap();
    let row = store.rows(&new).await.unwrap().pop().unwrap();
    assert_eq!((row.created, &row.checkpoint), (Some(1), &at("5")));
    // A row that has changed since is not set aside.
    stale.commit(vec![Commit::new(&lease, at("6"))]).await.pop().unwrap().unwrap();
    assert!(!store.set_aside(&new, &row).await.unwrap());
    let row = store.rows(&new).await.unwrap().pop().unwrap();
    assert!(store.set_aside(&new, &row).await.unwrap());
    assert_eq!(store.rows(&new).await.unwrap(), []);
    let Claim::Owned(_, checkpoint) = store.claim(&new, &"s".into(), ClaimFrom::Nobody).await.unwrap() else {
        panic!()
    };
    assert_eq!(checkpoint, None);
    // The stale worker moves nothing of the new stream, neither by its lease nor by a claim.
    let late = stale.commit(vec![Commit::new(&lease, at("7"))]).await.pop().unwrap().unwrap();
    assert_eq!(late, CommitOutcome::Lost { holder: "ours".into() });
    let hold = store.rows(&new).await.unwrap().pop().unwrap().hold.unwrap();
    assert!(matches!(stale.claim(&old, &"s".into(), ClaimFrom::Holder(&hold)).await.unwrap(), Claim::HeldBy(_)));
    // A row that was set aside is kept.
    let kept = store.table.query("", FORMER).await.unwrap();
    assert_eq!(kept.len(), 1);
    assert_eq!(row::string(&kept[0], "SequenceNumber"), Some("6"));
}

#[tokio::test]
async fn later_process_of_a_name_takes_precedence() {
    let local = Local::start().await;
    let (before, after) = (local.store("a").await, local.store("a").await);
    let presence = Presence::default();
    assert!(matches!(before.heartbeat(&presence).await.unwrap(), HeartbeatAnswer::Alive { .. }));
    assert!(matches!(after.heartbeat(&presence).await.unwrap(), HeartbeatAnswer::Alive { .. }));
    assert_eq!(before.heartbeat(&presence).await.unwrap(), HeartbeatAnswer::Replaced);
    before.leave().await.unwrap();
    assert_eq!(after.workers().await.unwrap().len(), 1);
}

/// A connect that is given up while a slow table carries out its first heartbeat is followed by the next connect.
#[tokio::test]
async fn late_heartbeat_of_an_earlier_connect_is_no_other_process() {
    let local = Local::start().await;
    let lives = Lives::new();
    let (earlier, later, other) = (lives.next(), lives.next(), Lives::new().next());
    let table = local.table().await;
    let store = |life| DynamoDbStore::new(table.clone(), "a".into(), life, LEASE);
    let (earlier, later, other) = (store(earlier), store(later), store(other));
    let presence = Presence::default();
    for late in [&later, &earlier, &later, &later] {
        assert!(matches!(late.heartbeat(&presence).await.unwrap(), HeartbeatAnswer::Alive { .. }));
    }
    assert!(matches!(other.heartbeat(&presence).await.unwrap(), HeartbeatAnswer::Alive { .. }));
    assert_eq!(later.heartbeat(&presence).await.unwrap(), HeartbeatAnswer::Replaced);
}

#[tokio::test]
async fn end_is_never_replaced_by_a_row_under_the_other_name() {
    let local = Local::start().await;
    let store = local.store("ours").await;
    for id in ["orders", ARN] {
        put(&store, &[("StreamID", id), ("ShardID", "here"), ("SequenceNumber", "5")]).await;
        put(&store, &[("StreamID", id), ("ShardID", "there"), ("SequenceNumber", "5")]).await;
    }
    for (id, shard, further) in [("orders", "here", ARN), (ARN, "there", "orders")] {
        let end = store.table.update(id, shard).update_expression("SET Ended = :true");
        end.expression_attribute_values(":true", AttributeValue::Bool(true)).send().await.unwrap();
        put(&store, &[("StreamID", further), ("ShardID", shard), ("SequenceNumber", "9")]).await;
    }
    store.adopt(&stream(), "orders").await.unwrap();
    let rows = store.rows(&stream()).await.unwrap();
    let ended: Vec<_> =
        rows.iter().map(|row| (row.shard.as_str(), matches!(row.checkpoint, Some(Checkpoint::ShardEnd(_))))).collect();
    assert_eq!(ended, [("here", true), ("there", true)]);
    assert!(store.table.query("look", ARN).await.unwrap().is_empty());
}

#[tokio::test]
async fn two_streams_of_one_name_keep_to_themselves() {
    let local = Local::start().await;
    let store = local.store("ours").await;
    let other = Stream::new("orders", "arn:aws:kinesis:us-east-1:123456789012:stream/orders");
    put(&store, &[("StreamID", "orders"), ("ShardID", "s"), ("SequenceNumber", "42")]).await;
    store.adopt(&stream(), "orders").await.unwrap();
    for configured in ["orders", other.arn()] {
        store.adopt(&other, configured).await.unwrap();
        assert_eq!(store.rows(&other).await.unwrap(), []);
    }
    let Claim::Owned(..) = store.claim(&other, &"s".into(), ClaimFrom::Nobody).await.unwrap() else { panic!() };
    assert_eq!(store.rows(&stream()).await.unwrap()[0].hold, None);
    assert_eq!(store.rows(&stream()).await.unwrap().len(), 1);
    // The decision is the same after a restart, in any order.
    let again = local.store("again").await;
    again.adopt(&other, "orders").await.unwrap();
    assert!(again.rows(&other).await.unwrap()[0].hold.is_some());
    again.adopt(&stream(), ARN).await.unwrap();
    assert_eq!(again.rows(&stream()).await.unwrap()[0].hold, None);
}
