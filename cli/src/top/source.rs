//! What do the workers, or the lease table, say?

use std::fmt;
use std::time::Duration;

use http_body_util::{BodyExt, Empty, Limited};
use hyper::body::Bytes;
use hyper::client::conn::http1;
use hyper::{Request, StatusCode, Uri};
use hyper_util::rt::TokioIo;
use kinesis_input::inspect::{InspectError, LeaseTable, TableAt};
use serde::de::DeserializeOwned;
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio::time::timeout;

use crate::Exit;
use crate::http::status::{Fleet, Status};

/// How long a worker may take to answer.
const ANSWERS_WITHIN: Duration = Duration::from_secs(5);
/// The largest answer that is read.
const ANSWER_BYTES: usize = 64 << 20;

/// The address of a worker that serves its status.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct HttpWorker {
    host: String,
    port: u16,
}

impl HttpWorker {
    /// Reads `http://host:port`, `host:port` or a port of this machine.
    pub(crate) fn parse(text: &str) -> Result<Self, String> {
        let wrong = || "expected `http://host:port`, `host:port` or a port of this machine".to_owned();
        if let Ok(port) = text.strip_prefix(':').unwrap_or(text).parse() {
            return Ok(Self { host: "127.0.0.1".into(), port });
        }
        let whole = if text.contains("://") { text.to_owned() } else { format!("http://{text}") };
        let uri: Uri = whole.parse().map_err(|_| wrong())?;
        if uri.scheme_str() != Some("http") {
            return Err("workers answer over `http://` only".to_owned());
        }
        let host = uri.host().ok_or_else(wrong)?;
        Ok(Self { host: host.to_owned(), port: uri.port_u16().unwrap_or(80) })
    }

    async fn get<T: DeserializeOwned>(&self, path: &str) -> Result<T, String> {
        let answered = timeout(ANSWERS_WITHIN, self.read(path)).await;
        let body = answered.map_err(|_| format!("no answer within {} s", ANSWERS_WITHIN.as_secs()))??;
        serde_json::from_slice(&body).map_err(|error| format!("what answers there is no worker: {error}"))
    }

    async fn read(&self, path: &str) -> Result<Bytes, String> {
        // An address of IPv6 is in brackets, which only belong to a URL.
        let host = self.host.trim_start_matches('[').trim_end_matches(']');
        let stream = TcpStream::connect((host, self.port)).await.map_err(|error| error.to_string())?;
        let (mut sender, connection) =
            http1::handshake(TokioIo::new(stream)).await.map_err(|error| error.to_string())?;
        let request = Request::get(path).header("host", self.to_string()).body(Empty::<Bytes>::new());
        let request = request.map_err(|error| error.to_string())?;
        let answer = async {
            let answer = sender.send_request(request).await.map_err(|error| error.to_string())?;
            if answer.status() != StatusCode::OK {
                return Err(format!("{path} answers with {}", answer.status()));
            }
            let body = Limited::new(answer.into_body(), ANSWER_BYTES).collect().await;
            body.map(http_body_util::Collected::to_bytes).map_err(|error| error.to_string())
        };
        let mut answer = std::pin::pin!(answer);
        tokio::select! {
            answered = &mut answer => answered,
            // The connection may end as soon as the answer is there.
            _ = connection => answer.await,
        }
    }
}

impl fmt::Display for HttpWorker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.host, self.port)
    }
}

/// What was said at one time.
#[derive(Debug, Default)]
pub(crate) struct Seen {
    /// The answer of each worker, by its address.
    pub(crate) workers: Vec<(String, Result<Status, String>)>,
    /// What the lease table says, if it is known.
    pub(crate) fleet: Fleet,
}

/// Where to ask.
#[derive(Debug)]
pub(crate) enum Source {
    Workers(Vec<HttpWorker>),
    Table(Box<LeaseTable>),
}

impl Source {
    pub(crate) fn workers(workers: Vec<HttpWorker>) -> Self {
        Self::Workers(workers)
    }

    /// Opens a lease table.
    pub(crate) async fn table(at: &TableAt) -> Result<Self, (Exit, String)> {
        let opened = LeaseTable::open(at).await.map_err(|error: InspectError| (Exit::Input, error.to_string()))?;
        Ok(Self::Table(Box::new(opened)))
    }

    /// Asks all workers at once, or reads the table.
    pub(crate) async fn ask(&self) -> Seen {
        match self {
            Self::Workers(workers) => ask(workers).await,
            Self::Table(table) => {
                let fleet = match table.overview(None).await {
                    Ok(seen) => Fleet::new(&[seen]),
                    Err(error) => Fleet { error: Some(error.to_string()), ..Fleet::unread() },
                };
                Seen { workers: Vec::new(), fleet }
            }
        }
    }
}

async fn ask(workers: &[HttpWorker]) -> Seen {
    let mut asking = JoinSet::new();
    for (at, worker) in workers.iter().enumerate() {
        let worker = worker.clone();
        asking.spawn(async move { (at, worker.to_string(), worker.get::<Status>("/status").await) });
    }
    let mut answers = asking.join_all().await;
    answers.sort_by_key(|(at, ..)| *at);
    let mut seen = Seen::default();
    // Each worker knows the whole table, and reads it seldom. One answer is enough.
    for (at, _, answer) in &answers {
        if answer.is_ok()
            && let Ok(fleet) = workers[*at].get::<Fleet>("/fleet").await
        {
            seen.fleet = fleet;
            break;
        }
    }
    seen.workers = answers.into_iter().map(|(_, worker, answer)| (worker, answer)).collect();
    seen
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn worker_is_a_url_a_host_or_a_port() {
        let parsed = |text| HttpWorker::parse(text).map(|worker| worker.to_string());
        for (text, expected) in [
            ("9100", "127.0.0.1:9100"),
            (":9100", "127.0.0.1:9100"),
            ("orders-0:9100", "orders-0:9100"),
            ("http://orders-0:9100/", "orders-0:9100"),
            ("http://[::1]:9100", "[::1]:9100"),
        ] {
            assert_eq!(parsed(text).as_deref(), Ok(expected));
        }
        for wrong in ["https://orders", "a b", ""] {
            assert!(parsed(wrong).is_err(), "{wrong}");
        }
    }
}
