//! Does the store keep its promises when the table is busy, or its answers are lost?

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};

use aws_smithy_runtime_api::client::http::{
    HttpClient, HttpConnector, HttpConnectorFuture, HttpConnectorSettings, SharedHttpClient, SharedHttpConnector,
};
use aws_smithy_runtime_api::client::orchestrator::{HttpRequest, HttpResponse};
use aws_smithy_runtime_api::client::result::ConnectorError;
use aws_smithy_runtime_api::client::runtime_components::RuntimeComponents;
use aws_smithy_runtime_api::http::StatusCode;
use aws_smithy_types::body::SdkBody;

use pipeline_plugin_api::InputError;

use super::tests::{LEASE, Local, put, stream};
use super::*;
use crate::config::DynamoDb;
use crate::lease::{HeartbeatAnswer, Presence, Within};
use crate::model::SequenceNumber;

/// The faults of writes and reads.
#[derive(Debug, Default)]
struct Faults {
    /// This many answers to writes are lost after the write happened.
    lost: AtomicU32,
    /// This many writes of leases are refused because the table is busy.
    throttled: AtomicU32,
    writes: AtomicU32,
    /// This many transactions are canceled because another worker writes the same rows.
    conflicts: AtomicU32,
    /// Whether all reads are refused.
    forbidden: AtomicBool,
}

#[derive(Debug, Clone)]
struct Faulty {
    inner: SharedHttpClient,
    faults: Arc<Faults>,
}

#[derive(Debug)]
struct FaultyConnector {
    inner: SharedHttpConnector,
    faults: Arc<Faults>,
}

impl HttpClient for Faulty {
    fn http_connector(&self, settings: &HttpConnectorSettings, components: &RuntimeComponents) -> SharedHttpConnector {
        let inner = self.inner.http_connector(settings, components);
        SharedHttpConnector::new(FaultyConnector { inner, faults: Arc::clone(&self.faults) })
    }
}

/// Takes one, if there is one left.
fn one_of(left: &AtomicU32) -> bool {
    left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(1)).is_ok()
}

impl HttpConnector for FaultyConnector {
    fn call(&self, request: HttpRequest) -> HttpConnectorFuture {
        let faults = Arc::clone(&self.faults);
        let target = |name: &str| request.headers().get("x-amz-target").is_some_and(|target| target.ends_with(name));
        let refuse = |code: &str| {
            let body =
                format!(r#"{{"__type":"com.amazonaws.dynamodb.v20120810#{code}","message":"injected by the test"}}"#);
            HttpConnectorFuture::ready(Ok(HttpResponse::new(StatusCode::try_from(400).unwrap(), SdkBody::from(body))))
        };
        if target("TransactWriteItems") && one_of(&faults.conflicts) {
            return refuse("TransactionCanceledException");
        }
        if target("Query") && faults.forbidden.load(Ordering::Relaxed) {
            return refuse("AccessDeniedException");
        }
        let writes = target("UpdateItem");
        if !writes {
            return self.inner.call(request);
        }
        faults.writes.fetch_add(1, Ordering::Relaxed);
        let heartbeat = request.body().bytes().is_some_and(|body| String::from_utf8_lossy(body).contains(WORKERS));
        if !heartbeat && one_of(&faults.throttled) {
            return refuse("ProvisionedThroughputExceededException");
        }
        let answer = self.inner.call(request);
        HttpConnectorFuture::new(async move {
            let answer = answer.await;
            if one_of(&faults.lost) {
                return Err(ConnectorError::io("the connection broke".into()));
            }
            answer
        })
    }
}

impl Local {
    /// Makes a store whose answers can be lost.
    async fn faulty(&self, me: &str) -> (DynamoDbStore, Arc<Faults>) {
        let session = self.session();
        let faults = Arc::<Faults>::default();
        let http = Faulty { inner: session.http_client().unwrap(), faults: Arc::clone(&faults) };
        let session = session.into_builder().http_client(http).build();
        let table = Table::open(&session, &Self::config(), LEASE / 3).await.unwrap();
        (DynamoDbStore::new(table, me.into(), Lives::new().next(), LEASE), faults)
    }
}

#[expect(clippy::unnecessary_wraps, reason = "rows hold it so")]
fn at(number: &str) -> Option<Checkpoint> {
    Some(Checkpoint::After(SequenceNumber::new(number).unwrap()))
}

fn stored(checkpoint: Option<Checkpoint>) -> Vec<Result<CommitOutcome, StoreError>> {
    vec![Ok(CommitOutcome::Stored { checkpoint, requester: None })]
}

/// The write has happened, and its worker sends it again: the worker must recognize its own write.
#[tokio::test]
async fn lost_answers_change_nothing() {
    let local = Local::start().await;
    let (store, faults) = local.faulty("a").await;
    let (shard, lose) = (ShardId::from("s"), || faults.lost.store(1, Ordering::Relaxed));
    lose();
    let Claim::Owned(lease, _) = store.claim(&stream(), &shard, ClaimFrom::Nobody).await.unwrap() else {
        panic!("it lost a claim to itself")
    };
    lose();
    assert_eq!(store.commit(vec![Commit::new(&lease, at("5"))]).await, stored(at("5")));
    lose();
    assert_eq!(store.heartbeat(&Presence::default()).await, Ok(HeartbeatAnswer::Alive { wake_ups: 0 }));
    lose();
    assert_eq!(store.release(vec![Release::new(&lease, at("6"), None)]).await, stored(at("6")));

    let Claim::Owned(lease, checkpoint) = store.claim(&stream(), &shard, ClaimFrom::Nobody).await.unwrap() else {
        panic!()
    };
    assert_eq!(checkpoint, at("6"));
    let held = store.rows(&stream()).await.unwrap()[0].hold.clone().unwrap();
    assert_eq!(local.store("b").await.ask(&stream(), &shard, &held, None).await, Ok(true));
    lose();
    assert_eq!(store.release(vec![Release::new(&lease, at("7"), Some("b".into()))]).await, stored(at("7")));
    let rows = store.rows(&stream()).await.unwrap();
    assert_eq!((rows[0].hold.as_ref().unwrap().worker.as_str(), &rows[0].checkpoint), ("b", &at("7")));
    let hold = rows[0].hold.clone().unwrap();
    lose();
    assert_eq!(store.ask(&stream(), &shard, &hold, None).await, Ok(true));
    lose();
    assert_eq!(store.end(&stream(), &"ended".into()).await, Ok(true));
    assert_eq!(faults.lost.load(Ordering::Relaxed), 0, "none was lost");
}

/// A request that was given up may be carried out after the next one.
#[tokio::test]
async fn commit_that_arrives_late_does_not_set_the_checkpoint_back() {
    let local = Local::start().await;
    let (store, late) = (local.store("a").await, local.store("a").await);
    let Claim::Owned(lease, _) = store.claim(&stream(), &"s".into(), ClaimFrom::Nobody).await.unwrap() else {
        panic!()
    };
    for (number, earlier) in [("5", "4"), ("10", "9")] {
        assert_eq!(store.commit(vec![Commit::new(&lease, at(number))]).await, stored(at(number)));
        // Another store, which knows of no commit: the request is sent as it was then.
        assert_eq!(late.commit(vec![Commit::new(&lease, at(earlier))]).await, stored(at(number)));
        assert_eq!(store.rows(&stream()).await.unwrap()[0].checkpoint, at(number));
    }
    let end = Some(Checkpoint::ShardEnd(Some(SequenceNumber::new("10").unwrap())));
    assert_eq!(store.commit(vec![Commit::new(&lease, end.clone())]).await, stored(end.clone()));
    let late = local.store("a").await;
    assert_eq!(late.commit(vec![Commit::new(&lease, at("10"))]).await, stored(end.clone()));
    assert_eq!(store.rows(&stream()).await.unwrap()[0].checkpoint, end);
}

/// The same inside an aggregate, for every pair of positions.
#[tokio::test]
async fn commit_that_arrives_late_does_not_set_a_position_inside_an_aggregate_back() {
    let local = Local::start().await;
    let within = |after: Option<&str>, record: &str, sub| {
        let number = |text: &str| SequenceNumber::new(text).unwrap();
        Some(Checkpoint::Within(Within { after: after.map(number), record: number(record), sub }))
    };
    let positions = [
        within(None, "7", 0),
        within(None, "7", 9),
        within(None, "7", 10),
        at("7"),
        within(Some("7"), "8", 1),
        at("8"),
        at("9"),
        within(Some("9"), "10", 5),
        at("10"),
        within(Some("10"), "100", 0),
        at("100"),
    ];
    for (later, newer) in positions.iter().enumerate() {
        for older in &positions[..later] {
            let (store, late) = (local.store("a").await, local.store("a").await);
            let shard = ShardId::from(format!("{newer:?} {older:?}").as_str());
            let Claim::Owned(lease, _) = store.claim(&stream(), &shard, ClaimFrom::Nobody).await.unwrap() else {
                panic!()
            };
            store.commit(vec![Commit::new(&lease, newer.clone())]).await;
            let stored = late.commit(vec![Commit::new(&lease, older.clone())]).await;
            assert_eq!(stored, [Ok(CommitOutcome::Stored { checkpoint: newer.clone(), requester: None })], "{older:?}");
            let onward = late.commit(vec![Commit::new(&lease, at("1000"))]).await;
            assert_eq!(onward, [Ok(CommitOutcome::Stored { checkpoint: at("1000"), requester: None })]);
        }
    }
}

/// A request that was sent twice may be carried out for the second time after the next one.
#[tokio::test]
async fn heartbeat_that_arrives_late_does_not_hide_a_newer_one() {
    let local = Local::start().await;
    let store = local.store("a").await;
    let send = async |count| {
        store.heartbeats.store(count, Ordering::Relaxed);
        store.heartbeat(&Presence::default()).await.unwrap();
        store.workers().await.unwrap().remove(0).heartbeat
    };
    let mut seen = Vec::new();
    for (count, expected) in [(0, 0), (1, 1), (9, 9), (8, 9), (9, 9), (10, 10)] {
        let heartbeat = send(count).await;
        assert!(heartbeat.ends_with(&format!("/{expected}")), "{heartbeat} after {seen:?}");
        seen.push(heartbeat);
    }
}

/// The answer to the last commit was lost, so the store knows an earlier one only.
#[tokio::test]
async fn write_without_a_checkpoint_leaves_what_is_stored() {
    let local = Local::start().await;
    let (store, unanswered) = (local.store("a").await, local.store("a").await);
    let Claim::Owned(lease, _) = store.claim(&stream(), &"s".into(), ClaimFrom::Nobody).await.unwrap() else {
        panic!()
    };
    assert_eq!(store.commit(vec![Commit::new(&lease, at("5"))]).await, stored(at("5")));
    assert_eq!(unanswered.commit(vec![Commit::new(&lease, at("10"))]).await, stored(at("10")));
    assert_eq!(store.commit(vec![Commit::new(&lease, None)]).await, stored(at("10")));
    assert_eq!(unanswered.commit(vec![Commit::new(&lease, at("12"))]).await, stored(at("12")));
    assert_eq!(store.release(vec![Release::new(&lease, None, None)]).await, stored(at("12")));
    assert_eq!(store.rows(&stream()).await.unwrap()[0].checkpoint, at("12"));
}

#[tokio::test]
async fn busy_table_is_retried_and_heartbeats_do_not_wait() {
    let local = Local::start().await;
    let (store, faults) = local.faulty("a").await;
    let Claim::Owned(lease, _) = store.claim(&stream(), &"s".into(), ClaimFrom::Nobody).await.unwrap() else {
        panic!()
    };
    faults.throttled.store(u32::MAX, Ordering::Relaxed);
    let heartbeats = async {
        while faults.throttled.load(Ordering::Relaxed) == u32::MAX {
            tokio::task::yield_now().await;
        }
        let before = faults.writes.load(Ordering::Relaxed);
        assert_eq!(store.heartbeat(&Presence::default()).await, Ok(HeartbeatAnswer::Alive { wake_ups: 0 }));
        assert_eq!(faults.writes.load(Ordering::Relaxed), before + 1, "while the checkpoint waits");
        faults.throttled.store(0, Ordering::Relaxed);
    };
    let (written, ()) = tokio::join!(store.commit(vec![Commit::new(&lease, at("5"))]), heartbeats);
    assert_eq!(written, stored(at("5")));
}

#[tokio::test]
async fn rows_changed_during_a_move_are_moved_later() {
    let local = Local::start().await;
    let (store, faults) = local.faulty("a").await;
    let strays = async || {
        put(&store, &[("StreamID", stream().arn()), ("ShardID", "s"), ("SequenceNumber", "42")]).await;
    };
    put(&store, &[("StreamID", "orders"), ("ShardID", "other"), ("SequenceNumber", "1")]).await;
    strays().await;
    faults.conflicts.store(2, Ordering::Relaxed);
    store.adopt(&stream(), "orders").await.unwrap();
    assert_eq!(store.rows(&stream()).await.unwrap().len(), 2);
    assert!(store.table.query("look", stream().arn()).await.unwrap().is_empty());
    // If the move never succeeds, that is reported as an error.
    strays().await;
    faults.conflicts.store(u32::MAX, Ordering::Relaxed);
    let error = store.adopt(&stream(), "orders").await.unwrap_err();
    assert!(matches!(error, StoreError::Failed { .. }), "{error}");
}

#[tokio::test]
async fn missing_permission_is_an_error_without_a_retry() {
    let local = Local::start().await;
    let (store, faults) = local.faulty("a").await;
    faults.forbidden.store(true, Ordering::Relaxed);
    let error = store.rows(&stream()).await.unwrap_err();
    assert!(error.to_string().contains("check the credentials and their permissions"), "{error}");
    let error = InputError::from(crate::session::error::ConnectError::from(error));
    assert!(matches!(error, InputError::Fatal(_)), "{error:?}");
}

/// The states that the table reports, one after the other; the last one stays.
#[derive(Debug)]
struct States(Mutex<Vec<&'static str>>);

impl HttpConnector for States {
    fn call(&self, _: HttpRequest) -> HttpConnectorFuture {
        let mut states = lock(&self.0);
        let state = if states.len() > 1 { states.remove(0) } else { states[0] };
        let key = |name: &str, kind: &str| format!(r#"{{"AttributeName":"{name}","KeyType":"{kind}"}}"#);
        let of = |name: &str| format!(r#"{{"AttributeName":"{name}","AttributeType":"S"}}"#);
        let body = format!(
            r#"{{"Table":{{"TableName":"leases","TableArn":"arn:aws:dynamodb:eu-west-1:111122223333:table/leases","TableStatus":"{state}","KeySchema":[{},{}],"AttributeDefinitions":[{},{}]}}}}"#,
            key("StreamID", "HASH"),
            key("ShardID", "RANGE"),
            of("StreamID"),
            of("ShardID"),
        );
        HttpConnectorFuture::ready(Ok(HttpResponse::new(StatusCode::try_from(200).unwrap(), SdkBody::from(body))))
    }
}

async fn opened(name: &str, states: Vec<&'static str>) -> Result<Table, StoreError> {
    let connector = SharedHttpConnector::new(States(Mutex::new(states)));
    let http = aws_smithy_runtime_api::client::http::http_client_fn(move |_, _| connector.clone());
    let session = Local::start().await.session().into_builder().http_client(http).build();
    Table::open(&session, &DynamoDb { table: name.into(), ..DynamoDb::default() }, LEASE / 3).await
}

#[tokio::test(start_paused = true)]
async fn table_updating() {
    for states in [vec!["ACTIVE"], vec!["UPDATING"], vec!["CREATING", "CREATING", "UPDATING"]] {
        opened("leases", states.clone()).await.unwrap_or_else(|error| panic!("{states:?}: {error}"));
    }
    for state in ["INACCESSIBLE_ENCRYPTION_CREDENTIALS", "ARCHIVING", "ARCHIVED", "DELETING"] {
        let error = opened("leases", vec!["CREATING", state]).await.unwrap_err();
        assert!(matches!(error, StoreError::Table { .. }) && error.to_string().contains(state), "{error}");
    }
    let error = opened("leases", vec!["CREATING"]).await.unwrap_err();
    assert!(matches!(error, StoreError::Failed { .. }), "{error}");
}

#[tokio::test(start_paused = true)]
async fn table_by_arn() {
    let by_name =
        DynamoDbStore::new(opened("leases", vec!["ACTIVE"]).await.unwrap(), "me".into(), Lives::new().next(), LEASE);
    let arn = "arn:aws:dynamodb:eu-west-1:111122223333:table/leases";
    let by_arn =
        DynamoDbStore::new(opened(arn, vec!["ACTIVE"]).await.unwrap(), "me".into(), Lives::new().next(), LEASE);
    assert_eq!(by_arn.identity().await.unwrap(), by_name.identity().await.unwrap());
}
