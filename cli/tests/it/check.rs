//! Does `kinesis-input check` find what is broken, and leave everything as it is?
//!
//! Kinesis, STS and the lease table are on this machine. Each answers a call as a test says, or as it does otherwise.

use std::collections::HashMap;
use std::convert::Infallible;
use std::io;
use std::path::Path;
use std::process::Stdio;
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use dynoxide::Database;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::header::{CONTENT_TYPE, DATE};
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use kinesis_input_cli::Exit;
use kinesis_testkit::local_kinesis::{Accept, AnyBody, AnyError, LocalKinesis, Plain, Tamper, Wire};
use serde_json::{Value, json};
use tokio::net::{TcpListener, TcpStream};
use tokio::process::Command;
use tokio::task::JoinSet;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::ServerConfig;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio_rustls::server::TlsStream;

use crate::kinesis::{Bench, PATIENCE, stop_softly, until_written};

const ACCOUNT: &str = "000000000000";
const STREAM: &str = "arn:aws:kinesis:us-east-1:000000000000:stream/orders";
const SECRET: &str = "secretofthetest";
const IDENTITY: &str = "<GetCallerIdentityResponse xmlns=\"https://sts.amazonaws.com/doc/2011-06-15/\"><GetCallerIdentityResult>\
    <Arn>arn:aws:iam::000000000000:user/tester</Arn><UserId>u</UserId><Account>000000000000</Account>\
    </GetCallerIdentityResult></GetCallerIdentityResponse>";

/// What the servers answer in place of their own answers, and what they were asked.
#[derive(Debug, Default)]
struct Plan {
    /// By operation: a status and a body.
    answers: HashMap<String, (u16, String)>,
    date: Option<&'static str>,
    /// The status that the table seems to have.
    table: Option<&'static str>,
    asked: Vec<String>,
}

type Shared = Arc<Mutex<Plan>>;

fn tamper(plan: &Shared) -> Tamper {
    let plan = Arc::clone(plan);
    Arc::new(move |operation, own| {
        let mut plan = plan.lock().unwrap();
        // A subscription that begins would end that of a running pipeline.
        let granted = if operation == "SubscribeToShard" && own.status() == 200 { ", granted" } else { "" };
        plan.asked.push(format!("{}{granted}", if operation.is_empty() { "GetCallerIdentity" } else { operation }));
        let planned = plan.answers.get(operation).cloned();
        let planned = planned.or_else(|| operation.is_empty().then(|| (200, IDENTITY.to_owned())));
        let mut answer = planned.map_or(own, |(status, body)| answer(status, body));
        if let Some(date) = plan.date {
            answer.headers_mut().insert(DATE, date.parse().unwrap());
        }
        answer
    })
}

fn answer(status: u16, body: String) -> Response<AnyBody> {
    let mut answer = Response::new(Full::from(body).map_err(AnyError::from).boxed_unsync());
    *answer.status_mut() = status.try_into().unwrap();
    answer.headers_mut().insert(CONTENT_TYPE, "application/x-amz-json-1.1".parse().unwrap());
    answer
}

/// Answers a call to the table.
async fn table(
    request: Request<Incoming>,
    database: Arc<Database>,
    plan: Shared,
) -> Result<Response<Full<Bytes>>, Infallible> {
    let target = request.headers().get("x-amz-target").map(|target| target.to_str().unwrap().to_owned());
    // STS has no such header.
    let operation =
        target.as_deref().map_or("GetCallerIdentity", |target| target.rsplit('.').next().unwrap()).to_owned();
    let body = request.into_body().collect().await.unwrap().to_bytes();
    let mut plan = plan.lock().unwrap();
    plan.asked.push(operation.clone());
    let (status, body) = match plan.answers.get(&operation).cloned() {
        Some(planned) => planned,
        None => call(&database, &operation, &body),
    };
    let body = match plan.table {
        Some(status) if operation == "DescribeTable" => body.replace("\"ACTIVE\"", &format!("\"{status}\"")),
        _ => body,
    };
    let mut answer = Response::new(Full::from(body));
    *answer.status_mut() = status.try_into().unwrap();
    Ok(answer)
}

fn call(database: &Database, operation: &str, body: &[u8]) -> (u16, String) {
    fn with<Q: serde::de::DeserializeOwned, A: serde::Serialize>(
        body: &[u8],
        call: impl FnOnce(Q) -> dynoxide::Result<A>,
    ) -> (u16, String) {
        match call(serde_json::from_slice(body).unwrap()) {
            Ok(answer) => (200, serde_json::to_string(&answer).unwrap()),
            Err(error) => (error.status_code(), error.to_json()),
        }
    }
    match operation {
        "CreateTable" => with(body, |request| database.create_table(request)),
        "DescribeTable" => with(body, |request| database.describe_table(request)),
        "GetItem" => with(body, |request| database.get_item(request)),
        "Query" => with(body, |request| database.query(request)),
        "Scan" => with(body, |request| database.scan(request)),
        "UpdateItem" => with(body, |request| database.update_item(request)),
        "PutItem" => with(body, |request| database.put_item(request)),
        "DeleteItem" => with(body, |request| database.delete_item(request)),
        "GetCallerIdentity" => (200, IDENTITY.to_owned()),
        other => panic!("{other} is no call of a check"),
    }
}

/// A stream `orders` with the consumer `reader`, a lease table, and a pipeline.
struct Stack {
    bench: Bench,
    plan: Shared,
    database: Arc<Database>,
    endpoint: String,
    _table: JoinSet<()>,
}

/// What a check has said.
#[derive(Debug)]
struct Said {
    code: u8,
    document: Value,
    errors: String,
}

impl Said {
    fn findings(&self) -> &Vec<Value> {
        self.document["findings"].as_array().unwrap()
    }

    /// The findings with this verdict: their subject and name, and what was found.
    fn with(&self, verdict: &str) -> Vec<(String, String)> {
        let of = |one: &Value, field: &str| one[field].as_str().unwrap().to_owned();
        let these = self.findings().iter().filter(|one| one["verdict"] == verdict);
        these.map(|one| (format!("{} {}", of(one, "subject"), of(one, "name")), of(one, "what"))).collect()
    }

    /// The one finding about this with a verdict.
    fn one(&self, verdict: &str, about: &str) -> &Value {
        let is_it = |one: &&Value| {
            let about_it = format!("{} {}", one["subject"].as_str().unwrap(), one["name"].as_str().unwrap());
            one["verdict"] == verdict && about_it.starts_with(about)
        };
        self.findings().iter().find(is_it).unwrap_or_else(|| panic!("no {verdict} about {about}: {self:#?}"))
    }
}

impl Stack {
    async fn start() -> Self {
        let plan = Shared::default();
        let bench = Bench::on(Wire { tamper: tamper(&plan), ..Wire::new(Plain) }, 1).await;
        let database = Arc::new(Database::memory().unwrap());
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let endpoint = format!("http://{}", listener.local_addr().unwrap());
        let mut serving = JoinSet::new();
        let served = (Arc::clone(&database), Arc::clone(&plan));
        serving.spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((socket, _)) = listener.accept().await {
                let (database, plan) = served.clone();
                let service = service_fn(move |request| table(request, Arc::clone(&database), Arc::clone(&plan)));
                connections.spawn(async move {
                    // A client that disconnects is not an error.
                    let _ = hyper::server::conn::http1::Builder::new()
                        .serve_connection(TokioIo::new(socket), service)
                        .await;
                });
            }
        });
        let stack = Self { bench, plan, database, endpoint, _table: serving };
        stack.register("reader").await;
        stack.make_table("StreamID", "ShardID");
        stack.plan.lock().unwrap().asked.clear();
        stack
    }

    async fn register(&self, consumer: &str) {
        let register = self.bench.client.register_stream_consumer().stream_arn(STREAM).consumer_name(consumer);
        register.send().await.unwrap();
        loop {
            let describe = self.bench.client.describe_stream_consumer().stream_arn(STREAM).consumer_name(consumer);
            if describe.send().await.unwrap().consumer_description().unwrap().consumer_status().as_str() == "ACTIVE" {
                return;
            }
            tokio::task::yield_now().await;
        }
    }

    fn make_table(&self, hash: &str, range: &str) {
        let make = json!({
            "TableName": "leases", "BillingMode": "PAY_PER_REQUEST",
            "KeySchema": [{ "AttributeName": hash, "KeyType": "HASH" }, { "AttributeName": range, "KeyType": "RANGE" }],
            "AttributeDefinitions": [{ "AttributeName": hash, "AttributeType": "S" }, { "AttributeName": range, "AttributeType": "S" }],
        });
        let (status, said) = call(&self.database, "CreateTable", make.to_string().as_bytes());
        assert_eq!(status, 200, "{said}");
    }

    fn rows(&self) -> u64 {
        let (_, said) = call(&self.database, "Scan", json!({ "TableName": "leases" }).to_string().as_bytes());
        serde_json::from_str::<Value>(&said).unwrap()["Count"].as_u64().unwrap()
    }

    /// Answers this operation so, until the plan is cleared.
    fn answers(&self, operation: &str, status: u16, body: &Value) {
        self.plan.lock().unwrap().answers.insert(operation.into(), (status, body.to_string()));
    }

    fn refuses(&self, operation: &str, code: &str) {
        self.answers(operation, 400, &json!({ "__type": code, "message": "said by the test" }));
    }

    /// Answers as at the start. Returns what was asked.
    fn clear(&self) -> Vec<String> {
        let mut asked = std::mem::take(&mut *self.plan.lock().unwrap()).asked;
        asked.sort();
        asked.dedup();
        asked
    }

    /// A pipeline with a table.
    fn pipeline(&self, more: &str) -> String {
        self.pipeline_with(&format!(
            "dynamodb: {{ table: leases, region: us-east-1, endpoint: \"{}\", credentials: {{ id: AKIDTABLE, secret: {SECRET} }}{more} }}",
            self.endpoint
        ))
    }

    fn pipeline_with(&self, store: &str) -> String {
        let own = format!("checkpoint_file: \"{}\"", self.bench.path("checkpoints"));
        self.bench.pipeline(|yaml| {
            yaml.replace(&own, store)
                .replace("id: test, secret: test", &format!("id: AKIDSTREAM, secret: {SECRET}"))
                .replace("enabled: true", "enabled: true, consumer_name: reader")
        })
    }

    async fn check(&self, pipeline: &str) -> Said {
        check(pipeline, &[]).await
    }
}

fn command(pipeline: &str, environment: &[(&str, String)]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_kinesis-input"));
    command.args(["check", pipeline]).env_clear().env("AWS_EC2_METADATA_DISABLED", "true");
    command
        .envs(environment.iter().map(|(name, value)| (*name, value.as_str())))
        .stdin(Stdio::null())
        .kill_on_drop(true);
    command
}

async fn check(pipeline: &str, environment: &[(&str, String)]) -> Said {
    ended(command(pipeline, environment).arg("--json")).await
}

async fn ended(command: &mut Command) -> Said {
    let output = tokio::time::timeout(PATIENCE, command.output()).await.unwrap().unwrap();
    let (out, errors) = (String::from_utf8(output.stdout).unwrap(), String::from_utf8(output.stderr).unwrap());
    assert!(!out.contains(SECRET) && !out.contains("AKID") && !errors.contains(SECRET), "{out}{errors}");
    let document = serde_json::from_str(&out).unwrap_or_else(|error| panic!("{error}: {out}{errors}"));
    Said { code: output.status.code().unwrap().try_into().unwrap(), document, errors }
}

#[tokio::test]
async fn healthy_pipeline_is_all_ok_and_nothing_changes() {
    let stack = Stack::start().await;
    let said = stack.check(&stack.pipeline("")).await;
    assert_eq!(
        (said.code, &said.document["verdict"], &said.document["version"]),
        (0, &"ok".into(), &1.into()),
        "{said:#?}"
    );
    let asked = stack.clear();
    assert_eq!(
        asked,
        [
            "DeleteItem",
            "DescribeStreamConsumer",
            "DescribeStreamSummary",
            "DescribeTable",
            "GetCallerIdentity",
            "GetItem",
            "ListShards",
            "PutItem",
            "Query",
            "Scan",
            "SubscribeToShard",
            "UpdateItem",
        ]
    );
    assert_eq!(stack.rows(), 0);
    let consumers = stack.bench.client.list_stream_consumers().stream_arn(STREAM).send().await.unwrap();
    assert_eq!(consumers.consumers().len(), 1);
    assert!(!Path::new(&stack.bench.path("out")).exists());
    let identity = said.one("ok", "identity streams");
    assert_eq!(identity["what"], "account 000000000000, arn:aws:iam::000000000000:user/tester");
    for about in
        ["credentials table", "host http://127.0.0.1", "clock", "table arn:aws:dynamodb:", "stream arn:aws:kinesis:"]
    {
        said.one("ok", about);
    }

    // The same for people: a line each, and a line with the sum.
    let output = command(&stack.pipeline(""), &[]).output().await.unwrap();
    let lines = String::from_utf8(output.stdout).unwrap();
    assert_eq!(lines.lines().count(), said.findings().len() + 1, "{lines}");
    assert!(lines.lines().all(|line| line.starts_with("ok  ") || line.ends_with(" ok")), "{lines}");
    assert!(lines.contains("ok         permission       kinesis:ListShards on orders: allowed\n"), "{lines}");
}

#[tokio::test]
async fn healthy_poller_costs_one_read() {
    let stack = Stack::start().await;
    let pipeline = stack.pipeline_with(&format!("checkpoint_file: \"{}\"", stack.bench.path("checkpoints")));
    let yaml = std::fs::read_to_string(&pipeline).unwrap();
    std::fs::write(&pipeline, yaml.replace("    enhanced_fan_out: { enabled: true, consumer_name: reader }\n", ""))
        .unwrap();
    let said = stack.check(&pipeline).await;
    assert_eq!((said.code, &said.document["verdict"]), (0, &"ok".into()), "{said:#?}");
    assert_eq!(
        stack.clear(),
        ["DescribeStreamSummary", "GetCallerIdentity", "GetRecords", "GetShardIterator", "ListShards"]
    );
    let read = said.one("ok", "permission kinesis:GetRecords");
    assert!(read["what"].as_str().unwrap().contains("one of the five reads"), "{read}");
    assert!(!Path::new(&stack.bench.path("checkpoints")).exists());
    for action in ["GetShardIterator", "GetRecords", "ListShards"] {
        stack.refuses(action, "AccessDeniedException");
        let said = stack.check(&pipeline).await;
        assert_eq!(said.code, Exit::Input.code(), "{said:#?}");
        said.one("failure", &format!("permission kinesis:{action}"));
        stack.clear();
    }
    stack.refuses("GetRecords", "KMSAccessDeniedException");
    let said = stack.check(&pipeline).await;
    said.one("ok", "permission kinesis:GetRecords");
    let key = said.one("failure", "encryption_key orders");
    assert!(key["remedy"].as_str().unwrap().contains("kms:Decrypt"), "{key}");
}

#[tokio::test]
async fn permission_that_is_missing_is_named_with_its_statement() {
    let stack = Stack::start().await;
    let pipeline = stack.pipeline("");
    let policy = Command::new(env!("CARGO_BIN_EXE_kinesis-input"))
        .args(["policy", &pipeline, "--account", ACCOUNT])
        .output()
        .await
        .unwrap();
    let policy: Value = serde_json::from_slice(&policy.stdout).unwrap();
    let statements = policy["Statement"].as_array().unwrap();
    let mut tried = 0;
    for action in statements.iter().flat_map(|statement| statement["Action"].as_array().unwrap()) {
        let action = action.as_str().unwrap();
        let (service, operation) = action.split_once(':').unwrap();
        if operation == "RegisterStreamConsumer" {
            continue;
        }
        tried += 1;
        stack.refuses(operation, "AccessDeniedException");
        let said = stack.check(&pipeline).await;
        assert_eq!(said.code, Exit::Input.code(), "{action}: {said:#?}");
        let on = if service == "kinesis" { "orders" } else { "leases" };
        let found = said.one("failure", &format!("permission {action} on {on}"));
        assert!(found["what"].as_str().unwrap().contains("said by the test"), "{found}");
        let of_policy =
            statements.iter().find(|one| one["Action"].as_array().unwrap().contains(&action.into())).unwrap();
        let missing = &found["statement"];
        assert_eq!(missing["Action"], json!([action]));
        assert_eq!((&missing["Sid"], &missing["Resource"]), (&of_policy["Sid"], &of_policy["Resource"]), "{action}");
        // Nothing else failed.
        assert_eq!(said.with("failure").len(), 1, "{action}: {said:#?}");
        stack.clear();
    }
    assert_eq!(tried, 10);

    // Workers can do without a scan.
    stack.refuses("Scan", "AccessDeniedException");
    let said = stack.check(&pipeline).await;
    let note = said.one("note", "permission dynamodb:Scan");
    assert_eq!((said.code, &note["statement"]["Action"]), (0, &json!(["dynamodb:Scan"])), "{note}");
    assert_eq!(stack.rows(), 0);
}

#[tokio::test]
async fn credentials_that_are_wrong_or_missing_are_told_once() {
    let stack = Stack::start().await;
    let pipeline = stack.pipeline("");
    for (code, says) in [
        ("UnrecognizedClientException", "still exists"),
        ("ExpiredTokenException", "renew"),
        ("InvalidSignatureException", "clock"),
    ] {
        stack.refuses("DescribeStreamSummary", code);
        let said = stack.check(&pipeline).await;
        let found = said.one("failure", "credentials streams");
        assert!(found["remedy"].as_str().unwrap().contains(says) && said.code == 4, "{found}");
        said.one("not_tried", "stream orders");
        assert_eq!(said.with("failure").len(), 1, "{said:#?}");
        assert!(!stack.clear().contains(&"ListShards".to_owned()));
    }
    stack.refuses("DescribeTable", "UnrecognizedClientException");
    let said = stack.check(&pipeline).await;
    said.one("failure", "credentials table");
    said.one("not_tried", "permission dynamodb:PutItem");
    said.one("ok", "stream arn:");
    stack.clear();

    let yaml = std::fs::read_to_string(&pipeline).unwrap();
    let without = yaml.replace(&format!("    credentials: {{ id: AKIDSTREAM, secret: {SECRET} }}\n"), "");
    assert_ne!(yaml, without);
    std::fs::write(&pipeline, without).unwrap();
    let said = stack.check(&pipeline).await;
    let found = said.one("failure", "credentials streams");
    assert!(found["what"].as_str().unwrap().contains("no AWS credentials") && said.code == 4, "{found}");
    said.one("not_tried", "stream orders");
    said.one("not_tried", "table leases");
    said.one("ok", "output");
    assert_eq!(stack.clear(), [""; 0]);
}

#[tokio::test]
async fn host_that_is_not_reached_is_named() {
    let stack = Stack::start().await;
    // A port that nothing listens on any more.
    let closed = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    let pipeline = stack.pipeline("");
    let yaml = std::fs::read_to_string(&pipeline).unwrap();
    std::fs::write(&pipeline, yaml.replace(&stack.endpoint, &format!("http://{closed}"))).unwrap();
    let said = stack.check(&pipeline).await;
    let found = said.one("failure", &format!("host http://{closed}"));
    assert!(found["what"].as_str().unwrap().contains("refused") && said.code == 4, "{found}");
    said.one("not_tried", "table leases");
    said.one("ok", "stream arn:");

    std::fs::write(&pipeline, yaml.replace(&stack.bench.server.endpoint(), &format!("http://{closed}"))).unwrap();
    let said = stack.check(&pipeline).await;
    said.one("failure", &format!("host http://{closed}"));
    said.one("not_tried", "stream orders");
    said.one("ok", "table arn:");
}

struct Tls(TlsAcceptor);

impl Accept for Tls {
    type Io = TokioIo<TlsStream<TcpStream>>;
    const SCHEME: &'static str = "https";

    async fn accept(&self, socket: TcpStream) -> io::Result<Self::Io> {
        Ok(TokioIo::new(self.0.accept(socket).await?))
    }
}

#[tokio::test]
async fn certificate_that_is_not_trusted_is_named() {
    for (host, trusted, verdict, says) in [
        ("127.0.0.1", false, "failure", "AWS_CA_BUNDLE"),
        ("example.com", true, "failure", "another host"),
        ("127.0.0.1", true, "ok", "trusted"),
    ] {
        let stack = Stack::start().await;
        let rcgen::CertifiedKey { cert, signing_key } = rcgen::generate_simple_self_signed([host.to_owned()]).unwrap();
        let bundle = stack.bench.path("bundle.pem");
        std::fs::write(&bundle, cert.pem()).unwrap();
        let key = PrivateKeyDer::try_from(signing_key.serialize_der()).unwrap();
        let config = ServerConfig::builder().with_no_client_auth();
        let mut config = config.with_single_cert(vec![CertificateDer::from(cert)], key).unwrap();
        config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        let wire = Wire::new(Tls(TlsAcceptor::from(Arc::new(config))));
        let server = LocalKinesis::start_with(ferrokinesis::store::StoreOptions::default(), wire).await.unwrap();
        let pipeline = stack.pipeline("");
        let yaml = std::fs::read_to_string(&pipeline).unwrap();
        std::fs::write(&pipeline, yaml.replace(&stack.bench.server.endpoint(), &server.endpoint())).unwrap();
        let environment = if trusted { vec![("AWS_CA_BUNDLE", bundle)] } else { vec![] };
        let said = check(&pipeline, &environment).await;
        let found = said.one(verdict, "host https://127.0.0.1");
        assert!(format!("{found}").contains(says), "{found}");
    }
}

#[tokio::test]
async fn clock_that_is_wrong_is_a_warning() {
    let stack = Stack::start().await;
    stack.plan.lock().unwrap().date = Some("Sun, 01 Nov 2020 00:00:00 GMT");
    let said = stack.check(&stack.pipeline("")).await;
    let found = said.one("warning", "clock");
    assert!(found["what"].as_str().unwrap().contains("ahead of that of the service") && said.code == 0, "{found}");
    assert!(found["remedy"].as_str().unwrap().contains("NTP"), "{found}");
}

#[tokio::test]
async fn stream_that_can_not_be_read_is_told() {
    let stack = Stack::start().await;
    let pipeline = stack.pipeline("");
    let summary = |status: &str, key: Option<&str>| {
        json!({ "StreamDescriptionSummary": {
            "StreamName": "orders", "StreamARN": STREAM, "StreamStatus": status, "RetentionPeriodHours": 24,
            "StreamCreationTimestamp": 1.0, "EnhancedMonitoring": [], "OpenShardCount": 1, "ConsumerCount": 1, "KeyId": key,
        } })
    };
    for (status, verdict, code) in [("CREATING", "warning", 0), ("DELETING", "failure", 4), ("UPDATING", "ok", 0)] {
        stack.answers("DescribeStreamSummary", 200, &summary(status, None));
        let said = stack.check(&pipeline).await;
        let found = said.one(verdict, "stream arn:");
        assert!(found["what"].as_str().unwrap().contains(status) && said.code == code, "{said:#?}");
    }
    stack.answers("DescribeStreamSummary", 200, &summary("ACTIVE", Some("1234abcd")));
    let said = stack.check(&pipeline).await;
    let note = said.one("note", "encryption_key 1234abcd of orders");
    let statement = &note["statement"];
    assert_eq!(statement["Action"], json!(["kms:Decrypt"]));
    assert_eq!(statement["Resource"], json!([format!("arn:aws:kms:us-east-1:{ACCOUNT}:key/1234abcd")]));
    stack.clear();

    let yaml = std::fs::read_to_string(&pipeline).unwrap();
    std::fs::write(&pipeline, yaml.replace("[orders]", "[orders, returns]")).unwrap();
    let said = stack.check(&pipeline).await;
    let found = said.one("failure", "stream returns");
    assert!(found["what"].as_str().unwrap().contains("not found in region us-east-1") && said.code == 4, "{found}");
    said.one("ok", "stream arn:");
    std::fs::write(&pipeline, yaml.replace("[orders]", &format!("[orders, \"{STREAM}\"]"))).unwrap();
    let said = stack.check(&pipeline).await;
    assert!(said.one("failure", "stream arn:")["what"].as_str().unwrap().contains("listed twice"), "{said:#?}");
    std::fs::write(&pipeline, yaml.replace("[orders]", "[\"orders:7\"]")).unwrap();
    let said = stack.check(&pipeline).await;
    assert_eq!(said.one("failure", "shards orders")["what"], "no shard shardId-000000000007");
}

#[tokio::test]
async fn consumer_that_is_absent_is_noted_and_one_too_many_is_a_failure() {
    let stack = Stack::start().await;
    let pipeline = stack.pipeline("");
    let yaml = std::fs::read_to_string(&pipeline).unwrap();
    std::fs::write(&pipeline, yaml.replace("consumer_name: reader", "consumer_name: other, deregister_on_close: true"))
        .unwrap();
    let said = stack.check(&pipeline).await;
    assert!(said.one("note", "consumer other")["what"].as_str().unwrap().contains("1 of 20"), "{said:#?}");
    for action in ["RegisterStreamConsumer", "DeregisterStreamConsumer"] {
        let note = said.one("note", &format!("permission kinesis:{action}"));
        assert_eq!(note["statement"]["Action"], json!([format!("kinesis:{action}")]));
    }
    said.one("ok", "permission kinesis:SubscribeToShard");
    assert_eq!(said.code, 0);

    for number in 1..20 {
        stack.register(&format!("consumer-{number}")).await;
    }
    let said = stack.check(&pipeline).await;
    let found = said.one("failure", "consumer other");
    assert!(found["what"].as_str().unwrap().contains("20 consumers") && said.code == 4, "{found}");
    assert!(stack.clear().iter().all(|asked| asked != "DeregisterStreamConsumer"));

    let arn = format!("{STREAM}/consumer/reader:1");
    std::fs::write(&pipeline, yaml.replace("consumer_name: reader", &format!("consumer_arn: \"{arn}\""))).unwrap();
    let said = stack.check(&pipeline).await;
    assert_eq!((&said.one("failure", &format!("consumer {arn}"))["what"], said.code), (&"not found".into(), 4));
}

#[tokio::test]
async fn consumer_is_looked_for_by_the_name_that_a_run_gives_it() {
    let stack = Stack::start().await;
    let unnamed = |pipeline: &str| {
        let yaml = std::fs::read_to_string(pipeline).unwrap();
        std::fs::write(pipeline, yaml.replace(", consumer_name: reader", "")).unwrap();
    };
    let pipeline = stack.pipeline("");
    unnamed(&pipeline);
    let said = stack.check(&pipeline).await;
    said.one("note", "consumer kinesis-input-leases-");

    let pipeline = stack.pipeline_with(&format!("checkpoint_file: \"{}\"", stack.bench.path("checkpoints")));
    unnamed(&pipeline);
    let said = stack.check(&pipeline).await;
    said.one("note", "consumer a new one of orders");
    assert_eq!(said.with("note").len(), 2, "and the permission to register it: {said:#?}");
    stack.bench.put(0..1).await;
    let mut program = stack.bench.program(&pipeline);
    until_written(&stack.bench, &mut program, 0).await;
    assert!(stop_softly(program).await.success());
    let said = stack.check(&pipeline).await;
    said.one("ok", "consumer kinesis-input-checkpoints-");
    assert_eq!((said.code, &said.document["verdict"]), (0, &"ok".into()), "{said:#?}");
}

#[tokio::test]
async fn table_that_can_not_be_used_is_told() {
    let stack = Stack::start().await;
    let pipeline = stack.pipeline("");
    for (status, verdict, code) in
        [("CREATING", "warning", 0), ("UPDATING", "ok", 0), ("ARCHIVED", "failure", 4), ("DELETING", "failure", 4)]
    {
        stack.plan.lock().unwrap().table = Some(status);
        let said = stack.check(&pipeline).await;
        let found = said.one(verdict, "table arn:");
        assert!(found["what"].as_str().unwrap().contains(status) && said.code == code, "{said:#?}");
        if verdict == "failure" {
            said.one("not_tried", "permission dynamodb:PutItem");
        }
    }
    stack.clear();
    stack.refuses("DescribeTable", "ValidationException");
    let said = stack.check(&pipeline).await;
    assert_eq!(said.one("failure", "table leases")["what"], "ValidationException: said by the test");
    stack.clear();

    let missing = |create: &str| {
        std::fs::read_to_string(stack.pipeline(create)).unwrap().replace("table: leases", "table: others")
    };
    let yaml = missing("");
    std::fs::write(&pipeline, yaml).unwrap();
    let said = stack.check(&pipeline).await;
    let found = said.one("failure", "table others");
    assert!(found["remedy"].as_str().unwrap().contains("`dynamodb.create: true`") && said.code == 4, "{found}");
    let yaml = missing(", create: true");
    std::fs::write(&pipeline, yaml).unwrap();
    let said = stack.check(&pipeline).await;
    assert!(said.one("note", "table others")["what"].as_str().unwrap().contains("a run makes it"), "{said:#?}");
    let note = said.one("note", "permission dynamodb:CreateTable");
    assert_eq!(note["statement"]["Resource"], json!([format!("arn:aws:dynamodb:us-east-1:{ACCOUNT}:table/others")]));
    said.one("ok", "permission dynamodb:PutItem");
    assert_eq!(said.code, 0);
    assert!(!stack.clear().contains(&"CreateTable".to_owned()));

    let delete = serde_json::from_value(json!({ "TableName": "leases" })).unwrap();
    stack.database.delete_table(delete).unwrap();
    stack.make_table("leaseKey", "other");
    let said = stack.check(&stack.pipeline("")).await;
    let found = said.one("failure", "table arn:");
    assert!(found["what"].as_str().unwrap().contains("HASH leaseKey (S)") && said.code == 4, "{found}");
    said.one("not_tried", "permission dynamodb:PutItem");
    assert!(!stack.clear().contains(&"PutItem".to_owned()));
}

#[tokio::test]
async fn checkpoint_file_that_can_not_be_used_is_told() {
    let stack = Stack::start().await;
    let missing = stack.bench.path("nowhere/checkpoints");
    let said = stack.check(&stack.pipeline_with(&format!("checkpoint_file: \"{missing}\""))).await;
    let found = said.one("failure", &format!("checkpoint_file {missing}"));
    assert!(found["remedy"].as_str().unwrap().contains("folder that exists") && said.code == 4, "{found}");

    // A file in use by a run, and then one that a run has left.
    stack.bench.put(0..1).await;
    let pipeline = stack.pipeline_with(&format!("checkpoint_file: \"{}\"", stack.bench.path("checkpoints")));
    let mut program = stack.bench.program(&pipeline);
    until_written(&stack.bench, &mut program, 0).await;
    let said = stack.check(&pipeline).await;
    let found = said.one("failure", "checkpoint_file");
    assert!(found["what"].as_str().unwrap().starts_with("in use by process ") && said.code == 4, "{found}");
    assert!(stop_softly(program).await.success());
    let before = std::fs::read(stack.bench.path("checkpoints")).unwrap();
    let said = stack.check(&pipeline).await;
    assert_eq!(
        (said.code, &said.one("ok", "checkpoint_file")["what"]),
        (0, &"can be read and written".into()),
        "{said:#?}"
    );
    assert_eq!(std::fs::read(stack.bench.path("checkpoints")).unwrap(), before);
}

#[cfg(target_os = "linux")]
#[tokio::test]
async fn folder_that_can_not_be_written_is_told() {
    let stack = Stack::start().await;
    // No user can make files there, and on some machines it is mounted for reading alone.
    let pipeline = stack.pipeline_with("checkpoint_file: /sys/checkpoints");
    let yaml = std::fs::read_to_string(&pipeline).unwrap();
    std::fs::write(&pipeline, yaml.replace(&stack.bench.path("out"), "/sys/out")).unwrap();
    let said = stack.check(&pipeline).await;
    for about in ["checkpoint_file /sys/checkpoints", "output /sys/out"] {
        let what = said.one("failure", about)["what"].as_str().unwrap();
        assert!(what.contains("Permission denied") || what.contains("Read-only"), "{what}");
    }
    assert_eq!(said.code, Exit::Input.code());
}

#[tokio::test]
async fn output_that_can_not_be_opened_ends_as_a_run_would() {
    let stack = Stack::start().await;
    let pipeline = stack.pipeline("");
    let yaml = std::fs::read_to_string(&pipeline).unwrap();
    let file = format!("file: {{ path: \"{}\", format: raw }}", stack.bench.path("out"));
    assert!(yaml.contains(&file));
    for (output, verdict, code, says) in [
        (
            format!("file: {{ path: \"{}\" }}", stack.bench.path("nowhere/out")),
            "failure",
            Exit::Failed,
            "make its folder",
        ),
        (format!("file: {{ path: \"{}\" }}", stack.bench.path("")), "failure", Exit::Failed, "it is a folder"),
        (
            format!(
                "{file}\n  middlewares: [{{dlq: {{endpoint: {{file: {{path: \"{}\"}}}}}}}}]",
                stack.bench.path("no/out")
            ),
            "failure",
            Exit::Failed,
            "make its folder",
        ),
        ("stdout: {}".to_owned(), "ok", Exit::Done, "standard output"),
        ("drop: {}".to_owned(), "ok", Exit::Done, "discards"),
    ] {
        std::fs::write(&pipeline, yaml.replace(&file, &output)).unwrap();
        let said = stack.check(&pipeline).await;
        let found = said.one(verdict, "output");
        assert!(found.to_string().contains(says) && said.code == code.code(), "{output}: {said:#?}");
    }
    std::fs::write(&pipeline, "input: {}\noutput: drop\n").unwrap();
    let output = command(&pipeline, &[]).output().await.unwrap();
    assert_eq!(output.status.code(), Some(Exit::Configuration.code().into()));
}

#[tokio::test]
async fn document_is_as_documented() {
    let page = include_str!("../../../docs/cli.md");
    let section = page.split("<!-- check:").nth(1).unwrap().split("<!-- end of check -->").next().unwrap();
    let documented: Vec<&str> =
        section.lines().filter_map(|line| line.strip_prefix("| `")?.split('`').next()).collect();
    let stack = Stack::start().await;
    stack.refuses("ListShards", "AccessDeniedException");
    let said = stack.check(&stack.pipeline("")).await;
    let mut fields: Vec<String> = said.document.as_object().unwrap().keys().cloned().collect();
    let found = said.one("failure", "permission kinesis:ListShards").as_object().unwrap();
    fields.extend(found.keys().map(|field| format!("findings[].{field}")));
    fields.extend(found["statement"].as_object().unwrap().keys().map(|field| format!("findings[].statement.{field}")));
    fields.sort();
    let mut expected = documented.clone();
    expected.sort_unstable();
    assert_eq!(fields, expected);
    for word in
        ["ok", "note", "not_tried", "warning", "failure", "credentials", "identity", "host", "clock", "permission"]
    {
        assert!(section.contains(&format!("`{word}`")), "{word}");
    }
    for word in ["table", "checkpoint_file", "stream", "encryption_key", "shards", "consumer", "output"] {
        assert!(section.contains(&format!("`{word}`")), "{word}");
    }
    assert!(said.errors.is_empty(), "{}", said.errors);
}
