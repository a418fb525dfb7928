//! What can an operator ask of a run over HTTP?
//!
//! ```text
//! /         a page for people          /status   the same as JSON     /metrics  for Prometheus
//! /health   the process is alive       /ready    the input works      /fleet    the lease table as JSON
//! ```
//!
//! - `status`: the form of the documents; `history`: rates and lag of the last half hour; `fleet`: the lease table, read
//!   seldom; `page`: the page; `chart`: its curves; `query`: what its reader asked for; `rows`: what it
//!   says of each shard; `text`: numbers for people.
//!
//! Every client that can connect is answered, so nothing here changes anything, shows a payload or a secret, or costs much: few
//! connections at once, each for a short time, with small requests.

mod chart;
mod fleet;
mod history;
mod page;
pub(crate) mod query;
pub(crate) mod rows;
#[cfg(test)]
pub(crate) mod sample;
pub(crate) mod status;
pub(crate) mod text;

use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use http_body_util::Full;
use hyper::body::Bytes;
use hyper::header::{ALLOW, CACHE_CONTROL, CONTENT_SECURITY_POLICY, CONTENT_TYPE, HeaderValue};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use kinesis_input::KinesisInput;
use metrics_exporter_prometheus::PrometheusHandle;
use serde::Serialize;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::time::{Instant, MissedTickBehavior, interval, sleep, timeout};

use fleet::FleetCache;
use history::{History, SAMPLE_EVERY};
use query::Query;
use status::{Fleet, Status};

/// The number of connections that are answered at once. The others wait to be accepted.
const CONNECTIONS: usize = 32;
/// How long a client may take to send its request.
const REQUEST_WITHIN: Duration = Duration::from_secs(5);
/// How long a connection may take as a whole.
const ANSWERED_WITHIN: Duration = Duration::from_secs(30);
/// The largest request, without its body, which is never read.
const REQUEST_BYTES: usize = 16 * 1024;
/// How long to wait after a connection could not be accepted, because too many files are open.
const ACCEPT_AGAIN: Duration = Duration::from_millis(100);

/// What the answers are made of.
#[derive(Debug)]
pub(crate) struct Observed {
    input: KinesisInput,
    metrics: Option<PrometheusHandle>,
    started: Instant,
    history: Mutex<History>,
    fleet: Arc<FleetCache>,
}

impl Observed {
    /// Observes the inputs that this plugin builds. Without `metrics` there is no `/metrics`.
    pub(crate) fn new(input: KinesisInput, metrics: Option<PrometheusHandle>) -> Arc<Self> {
        let (history, fleet) = (Mutex::default(), Arc::default());
        Arc::new(Self { input, metrics, started: Instant::now(), history, fleet })
    }

    fn history(&self) -> MutexGuard<'_, History> {
        self.history.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn sample(&self) {
        let status = Status::new(&self.input.reports(), self.started.elapsed());
        self.history().sample(Instant::now(), &status);
    }

    fn status(&self) -> Status {
        let status = Status::new(&self.input.reports(), self.started.elapsed());
        self.history().rates().add_to(status)
    }

    async fn fleet(&self) -> Fleet {
        let input = self.input.clone();
        self.fleet.look(async move { input.overviews().await }).await
    }

    async fn answer(&self, method: &Method, path: &str, query: Option<&str>) -> Response<Full<Bytes>> {
        if method != Method::GET && method != Method::HEAD {
            let mut refused = text(StatusCode::METHOD_NOT_ALLOWED, "only GET and HEAD are answered\n");
            refused.headers_mut().insert(ALLOW, HeaderValue::from_static("GET, HEAD"));
            return refused;
        }
        match path {
            "/" => {
                let query = Query::parse(query.unwrap_or_default());
                let fleet = self.fleet().await;
                let samples = self.history().samples();
                page(page::render(&self.status(), &fleet, &samples, Instant::now(), &query))
            }
            "/status" => json(&self.status()),
            "/fleet" => json(&self.fleet().await),
            "/health" => text(StatusCode::OK, "alive\n"),
            "/ready" => match status::not_ready(&self.input.reports()) {
                None => text(StatusCode::OK, "ready\n"),
                Some(reason) => text(StatusCode::SERVICE_UNAVAILABLE, format!("{reason}\n")),
            },
            "/metrics" => match &self.metrics {
                Some(metrics) => answer(StatusCode::OK, "text/plain; version=0.0.4; charset=utf-8", metrics.render()),
                None => text(StatusCode::NOT_FOUND, "there are no metrics\n"),
            },
            _ => text(StatusCode::NOT_FOUND, "there are /, /status, /fleet, /metrics, /health and /ready\n"),
        }
    }
}

/// Answers at `address` until the process ends. Returns the address, with its port.
#[expect(clippy::disallowed_methods, reason = "an operator may ask until the process ends")]
pub(crate) async fn serve(address: SocketAddr, observed: Arc<Observed>) -> io::Result<SocketAddr> {
    let listener = TcpListener::bind(address).await?;
    let address = listener.local_addr()?;
    let sampled = Arc::clone(&observed);
    tokio::spawn(async move {
        let mut ticks = interval(SAMPLE_EVERY);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            sampled.sample();
        }
    });
    tokio::spawn(accept(listener, observed));
    Ok(address)
}

#[expect(clippy::disallowed_methods, reason = "each connection ends within its time")]
async fn accept(listener: TcpListener, observed: Arc<Observed>) {
    let free = Arc::new(Semaphore::new(CONNECTIONS));
    loop {
        // The semaphore is never closed.
        let Ok(permit) = Arc::clone(&free).acquire_owned().await else { return };
        let Ok((client, _)) = listener.accept().await else {
            sleep(ACCEPT_AGAIN).await;
            continue;
        };
        let observed = Arc::clone(&observed);
        tokio::spawn(async move {
            // A client that breaks off or is slow affects nothing else.
            let _ = timeout(ANSWERED_WITHIN, connection(client, &observed)).await;
            drop(permit);
        });
    }
}

async fn connection(client: TcpStream, observed: &Observed) -> hyper::Result<()> {
    let service = service_fn(|request: Request<hyper::body::Incoming>| async move {
        let answered = observed.answer(request.method(), request.uri().path(), request.uri().query()).await;
        Ok::<_, Infallible>(answered)
    });
    let mut protocol = http1::Builder::new();
    protocol.timer(TokioTimer::new()).header_read_timeout(REQUEST_WITHIN).max_buf_size(REQUEST_BYTES).keep_alive(false);
    protocol.serve_connection(TokioIo::new(client), service).await
}

fn answer(status: StatusCode, content: &'static str, body: impl Into<Bytes>) -> Response<Full<Bytes>> {
    let mut answer = Response::new(Full::new(body.into()));
    *answer.status_mut() = status;
    let headers = answer.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(content));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert("x-content-type-options", HeaderValue::from_static("nosniff"));
    answer
}

fn text(status: StatusCode, body: impl Into<Bytes>) -> Response<Full<Bytes>> {
    answer(status, "text/plain; charset=utf-8", body)
}

fn json(value: &impl Serialize) -> Response<Full<Bytes>> {
    answer(StatusCode::OK, "application/json", crate::leases::json(value))
}

/// The headers let a browser load nothing from elsewhere, and run no script but the page's own.
fn page(body: String) -> Response<Full<Bytes>> {
    let mut answer = answer(StatusCode::OK, "text/html; charset=utf-8", body);
    let headers = answer.headers_mut();
    headers.insert(CONTENT_SECURITY_POLICY, HeaderValue::from_static(page::POLICY));
    headers.insert("referrer-policy", HeaderValue::from_static("no-referrer"));
    answer
}

#[cfg(test)]
mod tests;
