//! How do requests reach the simulated services?

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::Waker;

use aws_smithy_types::DateTime;
use aws_smithy_types::date_time::Format;
use bytes::Bytes;
use http::{Request, Response};
use serde_json::Value;

use crate::body::Body;
use crate::cbor;
use crate::clock::Clock;
use crate::dynamodb::{DynamoDb, Times, Watcher};
use crate::faults::{CallFault, Link};
use crate::kinesis::{Kinesis, Next, Reply, ServiceError, Settings, SubscriptionId};
use crate::sts;
use crate::time::Time;

/// Kinesis and DynamoDB of one account, for any number of clients. It is cheap to clone.
#[derive(Clone)]
pub struct Simulator {
    core: Arc<Mutex<Core>>,
}

struct Core {
    kinesis: Kinesis,
    dynamodb: DynamoDb,
    /// The wakers of the readers that wait for the next event of a subscription.
    waiting: BTreeMap<SubscriptionId, Waker>,
    log: Option<CallLog>,
    caller: Option<CallWatcher>,
}

/// A function that is given every call: when, over which link, which operation, its input, and its result.
pub type CallLog = Box<dyn FnMut(Time, &str, &str, &str, &str) + Send>;

/// A call that reached Kinesis.
#[derive(Debug, Clone, Copy)]
pub struct Call<'a> {
    /// When the call arrived.
    pub at: Time,
    /// The name of the link that it came over.
    pub by: &'a str,
    /// The name of the operation.
    pub operation: &'a str,
    /// The input of the call.
    pub asked: &'a Value,
    /// The error, if the call was refused.
    pub error: Option<&'a ServiceError>,
    /// Whether the answer is sent to the caller.
    pub answered: bool,
}

/// A function that is shown every call that reached Kinesis.
pub type CallWatcher = Box<dyn FnMut(&Call<'_>) + Send>;

/// The reason why a call got no answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NoAnswer {
    /// There was no connection.
    Refused,
    /// The connection broke.
    Reset,
}

impl fmt::Display for NoAnswer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Refused => "connection refused",
            Self::Reset => "connection reset by peer",
        })
    }
}

impl std::error::Error for NoAnswer {}

impl fmt::Debug for Simulator {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Simulator").finish_non_exhaustive()
    }
}

impl Simulator {
    /// An account without streams and tables.
    ///
    /// # Errors
    ///
    /// Fails if the database behind the tables can't be created.
    pub fn new(settings: Settings) -> Result<Self, dynoxide::DynoxideError> {
        let lag = settings.table_lag;
        let core = Core {
            kinesis: Kinesis::new(settings),
            dynamodb: DynamoDb::new(lag)?,
            waiting: BTreeMap::new(),
            log: None,
            caller: None,
        };
        Ok(Self { core: Arc::new(Mutex::new(core)) })
    }

    fn core(&self) -> MutexGuard<'_, Core> {
        self.core.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Calls Kinesis directly, beside its clients, and wakes the readers that it concerns.
    pub fn kinesis<T>(&self, what: impl FnOnce(&mut Kinesis) -> T) -> T {
        let mut core = self.core();
        let done = what(&mut core.kinesis);
        core.wake();
        done
    }

    /// Has every row of the table that is written shown to a watcher.
    pub fn watch_table(&self, watcher: Watcher) {
        self.core().dynamodb.watch(watcher);
    }

    /// Has every call that reaches Kinesis shown to a watcher.
    pub fn watch_calls(&self, watcher: CallWatcher) {
        self.core().caller = Some(watcher);
    }

    /// Calls the table directly, beside its clients. Returns the status and the body of the answer.
    pub fn table(&self, operation: &str, body: &Value) -> (u16, String) {
        self.core().dynamodb.call(operation, &body.to_string(), "", None)
    }

    /// Has descriptions of tables show this status. The tables are served all the same.
    pub fn set_table_status(&self, status: Option<&'static str>) {
        self.core().dynamodb.set_status(status);
    }

    /// Has every call logged.
    pub fn log_calls(&self, log: CallLog) {
        self.core().log = Some(log);
    }

    /// Answers a request that came over a link.
    ///
    /// # Errors
    ///
    /// Fails if the connection breaks, so that there is no answer.
    ///
    /// # Cancel safety
    ///
    /// If the future is dropped, the call may or may not have been carried out, as on every network.
    pub async fn answer(
        &self,
        request: Request<Bytes>,
        link: &Link,
        clock: &Clock,
    ) -> Result<Response<Body>, NoAnswer> {
        let target = request.headers().get("x-amz-target").and_then(|target| target.to_str().ok()).unwrap_or_default();
        let (service, operation) = target.rsplit_once('.').unwrap_or_default();
        let table = service.starts_with("DynamoDB");
        let encoding = Encoding::of(&request);
        let sent = clock.now();
        tokio::time::sleep(link.latency()).await;
        if link.is_cut(table) {
            return std::future::pending().await;
        }
        let fault = link.call_fault(operation, table);
        let mut after = None;
        match fault {
            None => {}
            Some(CallFault::Refused) => return self.lost(clock, link, operation, NoAnswer::Refused),
            Some(CallFault::Reset) => return self.lost(clock, link, operation, NoAnswer::Reset),
            Some(CallFault::Silence) => return std::future::pending().await,
            Some(CallFault::Panic) => client_panics(),
            Some(CallFault::Slow(how)) => tokio::time::sleep(how).await,
            Some(CallFault::Error { code, status }) => {
                self.log_call(clock.now(), link, operation, "", &code);
                let body = serde_json::json!({ "__type": code, "message": "injected by the simulator" });
                return Ok(encoding.answer(status, &body));
            }
            Some(fault @ (CallFault::AnswerLost | CallFault::AnswerSilent)) => after = Some(fault),
        }
        let answer = if target.is_empty() && sts::is_asked(request.body()) {
            let life = self.core().kinesis.settings().role_lifetime;
            match sts::answer(link.credentials(), clock.now(), life) {
                Ok((status, answer)) => {
                    self.log_call(
                        clock.now(),
                        link,
                        "AssumeRole",
                        "",
                        if status == 200 { "credentials" } else { &answer },
                    );
                    respond(status, "text/xml", answer.into())
                }
                Err(none) => return self.lost(clock, link, "AssumeRole", none),
            }
        } else if table {
            let delays = link.table_delays();
            let (there, back) = delays.unwrap_or_default();
            let call = TableCall { simulator: self.clone(), link: link.clone(), clock: clock.clone(), sent };
            let carried_out = call.carry_out(operation.to_owned(), request.body().clone(), there);
            #[expect(clippy::disallowed_methods, reason = "the task is the network's, which outlives the call")]
            let (status, answer) = match delays {
                None => carried_out.await,
                // A call that was sent arrives, whether the client still waits for it or not.
                Some(_) => tokio::spawn(carried_out).await.map_err(|_| NoAnswer::Reset)?,
            };
            if !back.is_zero() {
                tokio::time::sleep(back).await;
            }
            respond(status, "application/x-amz-json-1.0", answer.into())
        } else {
            self.kinesis_answer(operation, encoding, request.body(), link, clock, after.is_none())
        };
        match after {
            Some(CallFault::AnswerSilent) => std::future::pending().await,
            Some(_) => self.lost(clock, link, operation, NoAnswer::Reset),
            None => {
                tokio::time::sleep(link.latency()).await;
                if link.is_cut(table) {
                    return std::future::pending().await;
                }
                Ok(answer)
            }
        }
    }

    fn kinesis_answer(
        &self,
        operation: &str,
        encoding: Encoding,
        body: &Bytes,
        link: &Link,
        clock: &Clock,
        answered: bool,
    ) -> Response<Body> {
        let asked = encoding.read(body);
        let now = clock.now();
        let reply = asked
            .as_ref()
            .map_err(Clone::clone)
            .and_then(|asked| self.kinesis(|kinesis| kinesis.call(operation, asked, now)));
        if let (Some(watcher), Ok(asked)) = (&mut self.core().caller, &asked) {
            watcher(&Call { at: now, by: &link.name(), operation, asked, error: reply.as_ref().err(), answered });
        }
        if self.core().log.is_some() {
            let answer_text = match &reply {
                Ok(Reply::Json(answer)) => answer.to_string(),
                Ok(Reply::Subscription(id)) => format!("{id:?}"),
                Err(error) => error.to_string(),
            };
            self.log_call(now, link, operation, &asked.unwrap_or_default().to_string(), &answer_text);
        }
        let mut answer = match reply {
            Ok(Reply::Json(answer)) => encoding.answer(200, &answer),
            Ok(Reply::Subscription(id)) => {
                let body = Body::subscription(self.clone(), id, link.clone(), clock.clone());
                let mut answer = Response::new(body);
                let kind = http::HeaderValue::from_static("application/vnd.amazon.eventstream");
                answer.headers_mut().insert(http::header::CONTENT_TYPE, kind);
                answer
            }
            Err(error) => encoding.answer(error.status, &error.to_json()),
        };
        let seconds = (now.millis() / 1000).cast_signed();
        let date = DateTime::from_secs(seconds).fmt(Format::HttpDate).ok();
        if let Some(date) = date.and_then(|date| http::HeaderValue::try_from(date).ok()) {
            answer.headers_mut().insert(http::header::DATE, date);
        }
        answer
    }

    fn lost(&self, clock: &Clock, link: &Link, operation: &str, how: NoAnswer) -> Result<Response<Body>, NoAnswer> {
        self.log_call(clock.now(), link, operation, "", &how.to_string());
        Err(how)
    }

    fn log_call(&self, now: Time, link: &Link, operation: &str, asked: &str, answer_text: &str) {
        let mut core = self.core();
        if let Some(log) = &mut core.log {
            log(now, &link.name(), operation, asked, answer_text);
        }
    }

    /// The next event of a subscription. If there is none yet, `waker` is woken when something changes.
    pub(crate) fn next(&self, id: SubscriptionId, now: Time, waker: &Waker) -> Next {
        let mut core = self.core();
        let next = core.kinesis.next(id, now);
        if matches!(next, Next::Wait(_)) {
            core.waiting.insert(id, waker.clone());
        }
        core.wake();
        next
    }

    pub(crate) fn close(&self, id: SubscriptionId) {
        let mut core = self.core();
        core.waiting.remove(&id);
        core.kinesis.close(id);
    }
}

/// A call to the table that was sent.
struct TableCall {
    simulator: Simulator,
    link: Link,
    clock: Clock,
    sent: Time,
}

impl TableCall {
    /// Arrives after a delay, and is answered with a status and a body.
    async fn carry_out(self, operation: String, body: Bytes, after: std::time::Duration) -> (u16, String) {
        let Self { simulator, link, clock, sent } = self;
        if !after.is_zero() {
            tokio::time::sleep(after).await;
        }
        let body = std::str::from_utf8(&body).unwrap_or_default();
        let times = Times { sent, now: clock.now() };
        let (status, answer) = simulator.core().dynamodb.call(&operation, body, &link.name(), Some(times));
        simulator.log_call(times.now, &link, &operation, body, &answer);
        (status, answer)
    }
}

impl Core {
    fn wake(&mut self) {
        for id in self.kinesis.take_touched() {
            if let Some(waker) = self.waiting.remove(&id) {
                waker.wake();
            }
        }
    }
}

/// Panics in the task that makes the call, as if the client had a bug.
#[expect(clippy::panic, reason = "the panic is an injected fault")]
fn client_panics() -> ! {
    panic!("{}", crate::faults::PANIC)
}

/// The format of a Kinesis client's calls.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Encoding {
    Json,
    Cbor,
}

impl Encoding {
    fn of(request: &Request<Bytes>) -> Self {
        let kind = request.headers().get(http::header::CONTENT_TYPE).and_then(|kind| kind.to_str().ok());
        if kind == Some(cbor::CONTENT_TYPE) { Self::Cbor } else { Self::Json }
    }

    fn read(self, body: &Bytes) -> Result<Value, ServiceError> {
        match self {
            Self::Cbor => cbor::read(body),
            Self::Json if body.is_empty() => Ok(Value::Object(serde_json::Map::new())),
            Self::Json => serde_json::from_slice(body)
                .map_err(|error| ServiceError::new("SerializationException", error.to_string())),
        }
    }

    fn answer(self, status: u16, body: &Value) -> Response<Body> {
        match self {
            Self::Json => respond(status, "application/x-amz-json-1.1", body.to_string().into()),
            Self::Cbor => respond(status, cbor::CONTENT_TYPE, cbor::write(body).into()),
        }
    }
}

fn respond(status: u16, kind: &'static str, body: Bytes) -> Response<Body> {
    let mut answer = Response::new(Body::full(body));
    // Every status that is used is valid.
    *answer.status_mut() = http::StatusCode::from_u16(status).unwrap_or(http::StatusCode::INTERNAL_SERVER_ERROR);
    answer.headers_mut().insert(http::header::CONTENT_TYPE, http::HeaderValue::from_static(kind));
    answer
}
