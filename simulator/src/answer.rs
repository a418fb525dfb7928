//! How is a request answered that comes over a link?

use std::time::Duration;

use aws_smithy_types::DateTime;
use aws_smithy_types::date_time::Format;
use bytes::Bytes;
use http::{Request, Response};
use serde_json::Value;

use crate::body::Body;
use crate::cbor;
use crate::clock::Clock;
use crate::dynamodb::Times;
use crate::faults::{AnswerFault, CallFault, Link, NoAnswer, PANIC};
use crate::kinesis::{CborSupport, Reply, ServiceError, shard_id};
use crate::simulator::{Call, Simulator};
use crate::sts;
use crate::time::Time;

/// How often a resolver that hangs is asked again.
const RESOLVED: Duration = Duration::from_millis(100);

impl Simulator {
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
        while link.hangs() {
            tokio::time::sleep(RESOLVED).await;
        }
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
            let life = self.role_lifetime();
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
        let now = clock.now();
        let support = self.kinesis(|kinesis| kinesis.settings().cbor);
        if encoding == Encoding::Cbor
            && let Some((status, code)) = refusal(support)
        {
            self.log_call(now, link, operation, "in CBOR", code);
            let body = serde_json::json!({ "__type": code });
            return Encoding::Json.answer(status, &body);
        }
        let asked = encoding.read(body);
        let encoding = if support == CborSupport::AnswersInJson { Encoding::Json } else { encoding };
        let reply = asked
            .as_ref()
            .map_err(Clone::clone)
            .and_then(|asked| self.kinesis(|kinesis| kinesis.call(operation, asked, now)));
        if let Ok(asked) = &asked {
            let error = reply.as_ref().err();
            self.show_call(&Call { at: now, by: &link.name(), operation, asked, error, answered });
        }
        if self.is_logging() {
            let answer_text = match &reply {
                Ok(Reply::Json(answer)) => answer.to_string(),
                Ok(Reply::Subscription(id)) => format!("{id:?}"),
                Err(error) => error.to_string(),
            };
            self.log_call(now, link, operation, &asked.unwrap_or_default().to_string(), &answer_text);
        }
        let mut answer = match reply {
            Ok(Reply::Json(answer)) if operation == "GetRecords" => {
                let asked = encoding.read(body).unwrap_or_default();
                records_answer(encoding, &asked, answer, link)
            }
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
}

/// How a service that does not know CBOR refuses a call in it.
fn refusal(support: CborSupport) -> Option<(u16, &'static str)> {
    match support {
        CborSupport::Full | CborSupport::AnswersInJson => None,
        CborSupport::SerializationException => Some((400, "SerializationException")),
        CborSupport::UnknownOperationException => Some((400, "UnknownOperationException")),
        CborSupport::UnsupportedMediaType => Some((415, "")),
    }
}

/// The answer of GetRecords, altered by a fault.
fn records_answer(encoding: Encoding, asked: &Value, mut answer: Value, link: &Link) -> Response<Body> {
    let child = |parents: &[&str]| serde_json::json!([{ "ShardId": shard_id(u32::MAX), "ParentShards": parents }]);
    let fault = link.answer_fault();
    match fault {
        None | Some(AnswerFault::Reset | AnswerFault::Silence) => {}
        Some(AnswerFault::Gap) => {
            let iterator = &asked["ShardIterator"];
            answer = serde_json::json!({ "Records": [], "MillisBehindLatest": 1, "NextShardIterator": iterator });
        }
        Some(AnswerFault::EndWithoutChildren | AnswerFault::ChildWithoutParents) => {
            if let Some(fields) = answer.as_object_mut() {
                fields.remove("NextShardIterator");
                fields.remove("ChildShards");
            }
            if fault == Some(AnswerFault::ChildWithoutParents) {
                answer["ChildShards"] = child(&[]);
            }
        }
        Some(AnswerFault::ChildrenWhileOpen) => {
            if answer.get("NextShardIterator").is_some() {
                answer["ChildShards"] = child(&["shardId-000000000000"]);
            }
        }
    }
    let whole = encoding.answer(200, &answer);
    let breaks = match fault {
        Some(AnswerFault::Reset) => true,
        Some(AnswerFault::Silence) => false,
        _ => return whole,
    };
    whole.map(|body| body.cut(link.draw(usize::MAX), breaks))
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
    async fn carry_out(self, operation: String, body: Bytes, after: Duration) -> (u16, String) {
        let Self { simulator, link, clock, sent } = self;
        if !after.is_zero() {
            tokio::time::sleep(after).await;
        }
        let body = std::str::from_utf8(&body).unwrap_or_default();
        let times = Times { sent, now: clock.now() };
        simulator.call_table(&operation, body, &link, times)
    }
}

/// Panics in the task that makes the call, as if the client had a bug.
#[expect(clippy::panic, reason = "the panic is an injected fault")]
fn client_panics() -> ! {
    panic!("{}", PANIC)
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
