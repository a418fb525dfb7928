//! What becomes of a worker whose credentials go bad, and heal?
//!
//! Its role is renewed by a fake of STS, which answers as it is told. What it gives is good for a quarter of an hour.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use aws_smithy_runtime_api::client::http::{
    HttpClient, HttpConnector, HttpConnectorFuture, HttpConnectorSettings, SharedHttpConnector,
};
use aws_smithy_runtime_api::client::orchestrator::{HttpRequest, HttpResponse};
use aws_smithy_runtime_api::client::result::ConnectorError;
use aws_smithy_runtime_api::client::runtime_components::RuntimeComponents;
use aws_smithy_types::DateTime;
use aws_smithy_types::body::SdkBody;
use aws_smithy_types::date_time::Format;
use kinesis_simulator::{Clock, InProcess};
use pipeline_plugin_api::State;
use tokio::time::sleep;

use crate::bench::{Bench, MINUTE, TABLE, secs};

/// How long what STS gives is good.
const GOOD_FOR: Duration = Duration::from_mins(15);

/// What STS says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Says {
    Keys,
    /// Keys that no request can be signed with.
    TokenWithLineBreak,
    Throttled,
    Denied,
    /// Something that is not the answer to the question.
    Nonsense,
    Nothing,
}

#[derive(Debug)]
struct Sts {
    says: Says,
    asked: usize,
}

/// STS, with the simulator behind it.
#[derive(Debug, Clone)]
struct Aside {
    sts: Arc<Mutex<Sts>>,
    simulator: InProcess,
    clock: Clock,
}

impl HttpClient for Aside {
    fn http_connector(&self, settings: &HttpConnectorSettings, parts: &RuntimeComponents) -> SharedHttpConnector {
        let simulator = self.simulator.http_connector(settings, parts);
        SharedHttpConnector::new(Connector { aside: self.clone(), simulator })
    }
}

#[derive(Debug)]
struct Connector {
    aside: Aside,
    simulator: SharedHttpConnector,
}

impl HttpConnector for Connector {
    fn call(&self, request: HttpRequest) -> HttpConnectorFuture {
        if !request.body().bytes().is_some_and(|body| body.starts_with(b"Action=AssumeRole")) {
            return self.simulator.call(request);
        }
        let mut sts = self.aside.sts.lock().unwrap_or_else(PoisonError::into_inner);
        sts.asked += 1;
        let error = |code: &str| format!("<ErrorResponse><Error><Code>{code}</Code></Error></ErrorResponse>");
        let (status, body) = match sts.says {
            Says::Keys => (200, self.aside.keys("token")),
            Says::TokenWithLineBreak => (200, self.aside.keys("to&#10;ken")),
            Says::Throttled => (400, error("Throttling")),
            Says::Denied => (403, error("AccessDenied")),
            Says::Nonsense => (200, "<html/>".to_owned()),
            Says::Nothing => return HttpConnectorFuture::ready(Err(ConnectorError::io("connection refused".into()))),
        };
        HttpConnectorFuture::ready(Ok(HttpResponse::new(status.try_into().unwrap(), SdkBody::from(body))))
    }
}

impl Aside {
    fn keys(&self, token: &str) -> String {
        let until = DateTime::from(self.clock.now().system_time() + GOOD_FOR).fmt(Format::DateTime).unwrap();
        format!(
            "<AssumeRoleResponse xmlns=\"https://sts.amazonaws.com/doc/2011-06-15/\"><AssumeRoleResult><Credentials>\
             <AccessKeyId>ASSUMED</AccessKeyId><SecretAccessKey>secret</SecretAccessKey>\
             <SessionToken>{token}</SessionToken><Expiration>{until}</Expiration>\
             </Credentials></AssumeRoleResult></AssumeRoleResponse>"
        )
    }
}

/// A worker of its own, so that what is told is told of the shard.
async fn goes_bad_and_heals(says: Says, told: &str) {
    let folder = tempfile::tempdir().unwrap();
    let store = format!("checkpoint_file: \"{}\"", folder.path().join("checkpoints").display());
    with_store(&store, says, told).await;
}

async fn with_store(store: &str, says: Says, told: &str) {
    let bench = Bench::new(1).await;
    let sts = Arc::new(Mutex::new(Sts { says: Says::Keys, asked: 0 }));
    let given = Arc::clone(&sts);
    let worker = bench.worker_with_role("a", store, |simulator, clock| Aside { sts: given, simulator, clock });
    worker.input.connect().await.unwrap();
    bench.put(0, 1..=3);
    assert_eq!(worker.numbers(3).await, [1, 2, 3]);
    let say = |says: Says| {
        let mut sts = sts.lock().unwrap_or_else(PoisonError::into_inner);
        sts.says = says;
        std::mem::take(&mut sts.asked)
    };
    say(says);
    // What it has is good for a while.
    assert!(worker.is_quiet(10 * MINUTE).await);
    assert_eq!(worker.status().state, State::Connected, "{says:?}");
    bench.put(0, 4..=6);
    assert_eq!(worker.numbers(3).await, [4, 5, 6]);
    // Neither ends nor panics when it is over, and says why nothing is read.
    assert!(worker.is_quiet(10 * MINUTE).await);
    let status = worker.status();
    assert_eq!(status.state, State::Degraded, "{says:?}");
    let reason = status.reason.unwrap_or_default();
    assert!(reason.contains(told), "{says:?}: {reason}");
    bench.put(0, 7..=9);
    say(says);
    assert!(worker.is_quiet(10 * MINUTE).await);
    let asked = say(Says::Keys);
    assert!((10..150).contains(&asked), "{says:?}: STS was asked {asked} times in ten minutes");
    let healed = bench.now();
    assert_eq!(worker.numbers(3).await, [7, 8, 9]);
    let waited = bench.now().since(healed);
    assert!(waited <= 2 * MINUTE, "{says:?}: {waited:?}");
    sleep(secs(1)).await;
    assert_eq!(worker.status().state, State::Connected, "{says:?}: {:?}", worker.status().reason);
    bench.close([worker]).await;
}

#[tokio::test(start_paused = true)]
async fn renewed_token_with_a_line_break_is_told_and_heals() {
    goes_bad_and_heals(Says::TokenWithLineBreak, "the session token has a line break in it").await;
}

#[tokio::test(start_paused = true)]
async fn role_that_is_throttled_is_told_and_heals() {
    goes_bad_and_heals(Says::Throttled, "Throttling").await;
}

#[tokio::test(start_paused = true)]
async fn role_that_is_denied_is_told_and_heals() {
    goes_bad_and_heals(Says::Denied, "AccessDenied").await;
}

#[tokio::test(start_paused = true)]
async fn role_that_nobody_knows_how_to_read_is_told_and_heals() {
    goes_bad_and_heals(Says::Nonsense, "Credentials: ").await;
}

#[tokio::test(start_paused = true)]
async fn role_that_is_out_of_reach_is_told_and_heals() {
    goes_bad_and_heals(Says::Nothing, "connection refused").await;
}

#[tokio::test(start_paused = true)]
async fn leases_that_can_not_be_renewed_for_want_of_credentials_are_told_and_heal() {
    with_store(
        &format!("dynamodb: {{table: {TABLE}, create: true}}"),
        Says::Throttled,
        "the leases could not be renewed",
    )
    .await;
}
