//! How does a request get to the collector, and what is said of requests that fail?

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use hyper::header::{CONTENT_TYPE, HeaderValue, USER_AGENT};
use opentelemetry_http::{Bytes, HttpClient, HttpError, Request, Response};
use opentelemetry_proto::tonic::collector::metrics::v1::ExportMetricsServiceResponse;
use pipeline_plugin_api::{Reason, causes};
use prost::Message;
use tokio::runtime::Handle;
use tokio::task::JoinSet;

use super::settings::Target;

const CALLED: &str = concat!("kinesis-input/", env!("CARGO_PKG_VERSION"));
/// A connection that is not used for this long is closed.
const IDLE: Duration = Duration::from_secs(10);
/// A failure that lasts is logged again after this long.
const LOGGED_EVERY: Duration = Duration::from_mins(1);

/// The collector, as one signal sees it. Clones share their connections.
#[derive(Clone)]
pub(super) struct Collector(Arc<Inner>);

struct Inner {
    client: reqwest::Client,
    target: Target,
    /// Requests run here, because the SDK sends spans from a thread without a runtime.
    runtime: Handle,
    /// The reason why the last request failed; `None` once one has succeeded.
    failure: Mutex<Option<String>>,
}

impl Collector {
    /// A collector that is called over the current runtime.
    pub(super) fn new(target: &Target) -> Result<Self, String> {
        let builder = reqwest::Client::builder()
            .timeout(target.timeout)
            // A server may close a connection that is idle at the moment at which it is used again.
            .pool_idle_timeout(IDLE)
            // A redirect could carry headers with secrets to another host.
            .redirect(reqwest::redirect::Policy::none());
        let client =
            builder.build().map_err(|error| format!("no client for exports can be made: {}", causes(&error)))?;
        let (target, runtime) = (target.clone(), Handle::current());
        Ok(Self(Arc::new(Inner { client, target, runtime, failure: Mutex::default() })))
    }

    /// The URL, without its query, in which there may be a secret.
    pub(super) fn address(&self) -> String {
        let endpoint = &self.0.target.endpoint;
        let authority = endpoint.authority().map_or("", |authority| authority.as_str());
        format!("{}://{authority}{}", endpoint.scheme_str().unwrap_or("http"), endpoint.path())
    }

    /// Returns why the last request failed, once.
    pub(super) fn take_failure(&self) -> Option<String> {
        self.0.failure.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    /// Sends one request that the collector has to take. Cancel safe: a dropped call sends nothing more.
    pub(super) async fn post(&self, body: Vec<u8>) -> Result<(), String> {
        let mut request =
            Request::post(&self.0.target.endpoint).body(body.into()).map_err(|error| error.to_string())?;
        request.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/x-protobuf"));
        let sent = self.send(request).await;
        match self.take_failure() {
            Some(failure) => Err(failure),
            None => sent.map(drop).map_err(|error| error.to_string()),
        }
    }

    async fn send(&self, mut request: Request<Bytes>) -> Result<Response<Bytes>, HttpError> {
        let headers = request.headers_mut();
        // These take the place of those that the SDK reads from the environment by itself, and are marked as sensitive.
        headers.extend(self.0.target.headers.clone());
        headers.insert(USER_AGENT, HeaderValue::from_static(CALLED));
        let client = self.0.client.clone();
        let mut call = JoinSet::new();
        call.spawn_on(async move { client.send_bytes(request).await }, &self.0.runtime);
        let answered = match call.join_next().await {
            Some(Ok(answered)) => answered,
            // The program ends.
            _ => Err("the request was abandoned".into()),
        };
        let failure = match &answered {
            Ok(answer) if answer.status().is_success() => rejected(answer.body()),
            Ok(answer) => Some(format!("it answered {}", answer.status())),
            Err(error) => Some(self.reason(error)),
        };
        *self.0.failure.lock().unwrap_or_else(PoisonError::into_inner) = failure;
        answered
    }

    /// Without the URL, in which there may be a secret.
    fn reason(&self, error: &HttpError) -> String {
        let Some(request) = error.downcast_ref::<reqwest::Error>() else { return error.to_string() };
        if request.is_timeout() {
            return format!("it did not answer within {:?}", self.0.target.timeout);
        }
        std::error::Error::source(request).map_or_else(|| "the request failed".to_owned(), causes)
    }
}

/// What the collector did not take, although it took the request. Answers for metrics and for traces are alike.
fn rejected(answer: &[u8]) -> Option<String> {
    let partial = ExportMetricsServiceResponse::decode(answer).ok()?.partial_success?;
    let count = partial.rejected_data_points;
    (count > 0).then(|| format!("it rejected {count} of them: {}", Reason::new(partial.error_message)))
}

#[async_trait]
impl HttpClient for Collector {
    async fn send_bytes(&self, request: Request<Bytes>) -> Result<Response<Bytes>, HttpError> {
        self.send(request).await
    }
}

impl fmt::Debug for Collector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Collector")
    }
}

/// The log lines about exports: one in a minute at most, whatever fails.
#[derive(Debug, Default)]
pub(super) struct Notices(Mutex<Said>);

#[derive(Debug, Default)]
struct Said {
    /// When a failure was last logged.
    at: Option<Instant>,
    /// The signals whose failure was logged, and that have not been exported since.
    failing: Vec<&'static str>,
}

impl Notices {
    /// Reports that an export of a signal failed, and how many spans were lost so far because of failures.
    pub(super) fn failed(&self, signal: &'static str, collector: &Collector, cause: &str, lost_spans: u64) {
        let collector = collector.address();
        let mut said = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if said.at.is_none_or(|at| at.elapsed() >= LOGGED_EVERY) {
            said.at = Some(Instant::now());
            if !said.failing.contains(&signal) {
                said.failing.push(signal);
            }
            tracing::warn!(
                collector,
                cause,
                lost_spans,
                "the collector does not take {signal}; the pipeline goes on, and exports are tried again"
            );
        } else {
            tracing::debug!(collector, cause, lost_spans, "the collector does not take {signal}");
        }
    }

    /// Reports that an export of a signal succeeded.
    pub(super) fn succeeded(&self, signal: &'static str) {
        let mut said = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let before = said.failing.len();
        said.failing.retain(|failing| *failing != signal);
        if said.failing.len() < before {
            tracing::info!("the collector takes {signal} again");
        }
    }
}
