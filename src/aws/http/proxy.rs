//! Which proxy does a request go through, and what does the proxy answer?
//!
//! Proxies come from the environment (`HTTPS_PROXY`, `HTTP_PROXY`, `ALL_PROXY`, `NO_PROXY`). Every error at a proxy
//! names the proxy, because the server behind it is not the cause; the proxy's user and password are never shown.

use std::sync::Arc;
use std::{fmt, io};

use http::{HeaderValue, Uri};
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::client::legacy::connect::dns::Name;
use hyper_util::client::proxy::matcher::{Intercept, Matcher};
use pipeline_plugin_api::causes;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tower_service::Service;

use super::origin::{Origin, Spread};

/// The longest answer to a CONNECT that is read.
const LONGEST_ANSWER: usize = 8 << 10;

/// The proxies of the environment.
#[derive(Clone)]
pub(super) struct Proxies(Arc<Matcher>);

/// A proxy that a request goes through.
pub(super) struct Proxy(Intercept);

/// The reason why a proxy let a request fail.
#[derive(Debug, Clone, thiserror::Error)]
pub(super) enum ProxyError {
    #[error("proxy {proxy} answered {answer}: {what}")]
    Refused { proxy: String, answer: String, what: String },
    #[error("proxy {proxy} can't be reached: {cause}")]
    Unreachable { proxy: String, cause: String },
    #[error("proxy {proxy} did not answer as a proxy does: {cause}")]
    Odd { proxy: String, cause: String },
}

impl Proxies {
    pub(super) fn of_environment() -> Self {
        Self(Arc::new(Matcher::from_env()))
    }

    #[cfg(test)]
    pub(super) fn all_through(proxy: &str) -> Self {
        Self(Arc::new(Matcher::builder().all(proxy).build()))
    }

    pub(super) fn of(&self, uri: &Uri) -> Option<Proxy> {
        self.0.intercept(uri).map(Proxy)
    }
}

impl fmt::Debug for Proxies {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // The addresses of proxies may contain passwords.
        f.write_str("Proxies")
    }
}

impl Proxy {
    /// The address of the proxy without user and password.
    pub(super) fn name(&self) -> String {
        let uri = self.0.uri();
        let port = uri.port_u16().unwrap_or(80);
        format!("{}://{}:{port}", uri.scheme_str().unwrap_or("http"), uri.host().unwrap_or_default())
    }

    /// Opens a connection to `origin` through the proxy.
    pub(super) async fn tunnel<R>(&self, connector: &HttpConnector<R>, origin: &Origin) -> Result<TcpStream, ProxyError>
    where
        R: Service<Name, Response = <Spread as Service<Name>>::Response, Error = io::Error>
            + Clone
            + Send
            + Sync
            + 'static,
        R::Future: Send,
    {
        let mut connector = connector.clone();
        let reached = connector.call(self.0.uri().clone()).await;
        let unreachable = |cause: String| ProxyError::Unreachable { proxy: self.name(), cause };
        let mut socket = reached.map_err(|error| unreachable(causes(&error)))?.into_inner();
        let request = connect_request(origin, self.0.basic_auth());
        socket.write_all(&request).await.map_err(|error| unreachable(error.to_string()))?;
        let answer = self.answer(&mut socket).await?;
        match answer.split_ascii_whitespace().nth(1) {
            Some(status) if status.len() == 3 && status.starts_with('2') => Ok(socket),
            Some(status) if answer.starts_with("HTTP/1.") => {
                let answer = answer.split_once(' ').map_or(status, |(_, rest)| rest);
                Err(self.refused(answer, origin))
            }
            _ => Err(self.odd("what it sent is no HTTP/1")),
        }
    }

    /// Reads the first line of the proxy's answer. The bytes after the answer belong to the server, which sends
    /// nothing before it is asked.
    async fn answer(&self, socket: &mut TcpStream) -> Result<String, ProxyError> {
        let mut answer = Vec::new();
        loop {
            let read = socket.read_buf(&mut answer).await.map_err(|error| self.odd(&error.to_string()))?;
            if answer.windows(4).any(|end| end == b"\r\n\r\n") {
                let line = answer.split(|byte| *byte == b'\r').next().unwrap_or_default();
                return Ok(String::from_utf8_lossy(line).chars().filter(|char| !char.is_control()).take(120).collect());
            }
            if read == 0 {
                return Err(self.odd("it closed the connection"));
            }
            if answer.len() > LONGEST_ANSWER {
                return Err(self.odd("its answer is too long"));
            }
        }
    }

    /// The error of a proxy that answered with a status other than success.
    pub(super) fn refused(&self, answer: &str, origin: &Origin) -> ProxyError {
        let what = if answer.starts_with("407") {
            "it wants another user and password in its URL".to_owned()
        } else {
            format!("it lets no connection through to {}:{}", origin.host, origin.port)
        };
        ProxyError::Refused { proxy: self.name(), answer: answer.to_owned(), what }
    }

    fn odd(&self, cause: &str) -> ProxyError {
        ProxyError::Odd { proxy: self.name(), cause: cause.to_owned() }
    }
}

fn connect_request(origin: &Origin, auth: Option<&HeaderValue>) -> Vec<u8> {
    let Origin { host, port, .. } = origin;
    let mut request = format!("CONNECT {host}:{port} HTTP/1.1\r\nHost: {host}:{port}\r\n").into_bytes();
    if let Some(auth) = auth {
        request.extend_from_slice(b"Proxy-Authorization: ");
        request.extend_from_slice(auth.as_bytes());
        request.extend_from_slice(b"\r\n");
    }
    request.extend_from_slice(b"\r\n");
    request
}

#[cfg(test)]
mod tests {
    use tokio::net::TcpListener;
    use tokio::task::JoinSet;

    use super::super::dial::Dialer;
    use super::super::sockets::Sockets;
    use super::*;

    /// The result of a connection through a proxy that gives this answer, and the request that the proxy got.
    async fn through(answer: &'static str) -> (Result<(), String>, String) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let proxies = Proxies::all_through(&format!("http://user:hidden@127.0.0.1:{port}"));
        let mut serving = JoinSet::new();
        serving.spawn(async move {
            let (mut socket, _) = listener.accept().await.unwrap();
            let mut asked = Vec::new();
            while !asked.ends_with(b"\r\n\r\n") {
                assert!(socket.read_buf(&mut asked).await.unwrap() > 0);
            }
            socket.write_all(answer.as_bytes()).await.unwrap();
            String::from_utf8(asked).unwrap()
        });
        let uri = Uri::from_static("http://kinesis.example/");
        let origin = Origin::of(&uri).unwrap();
        let dialed = Dialer::new(Vec::new(), &Sockets::default(), proxies).plain(&origin, &uri).await;
        let outcome = dialed.map(drop).map_err(|error| error.to_string().replace(&port.to_string(), "PORT"));
        (outcome, serving.join_next().await.unwrap().unwrap())
    }

    #[tokio::test]
    async fn refusal_of_a_proxy_names_it_and_its_status_and_no_password() {
        let (outcome, asked) = through("HTTP/1.1 200 Connection established\r\n\r\n").await;
        assert_eq!(outcome, Ok(()));
        assert!(asked.starts_with("CONNECT kinesis.example:80 HTTP/1.1\r\n"), "{asked}");
        // The base64 text is `user:hidden`.
        assert!(asked.contains("\r\nProxy-Authorization: Basic dXNlcjpoaWRkZW4=\r\n"), "{asked}");
        for (answer, expected) in [
            (
                "HTTP/1.1 407 Proxy Authentication Required\r\nX: y\r\n\r\n",
                "proxy http://127.0.0.1:PORT answered 407 Proxy Authentication Required: it wants another user and password in its URL",
            ),
            (
                "HTTP/1.0 403 Forbidden\r\n\r\n",
                "proxy http://127.0.0.1:PORT answered 403 Forbidden: it lets no connection through to kinesis.example:80",
            ),
            ("HTTP/1.1 502\r\n\r\n", "proxy http://127.0.0.1:PORT answered 502: it lets no connection"),
            ("SSH-2.0 what\r\n\r\n", "proxy http://127.0.0.1:PORT did not answer as a proxy does"),
            ("HTTP/1.1 200 OK", "proxy http://127.0.0.1:PORT did not answer as a proxy does: it closed the connection"),
        ] {
            let (outcome, _) = through(answer).await;
            let outcome = outcome.expect_err(answer);
            assert!(outcome.starts_with(expected) && !outcome.contains("hidden"), "{outcome}");
        }
    }

    #[tokio::test]
    async fn unreachable_proxy_is_named() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        drop(listener);
        let proxies = Proxies::all_through(&format!("user:hidden@127.0.0.1:{port}"));
        let uri = Uri::from_static("http://kinesis.example/");
        let dialed =
            Dialer::new(Vec::new(), &Sockets::default(), proxies).plain(&Origin::of(&uri).unwrap(), &uri).await;
        let outcome = dialed.map(drop).unwrap_err().to_string();
        assert!(outcome.starts_with(&format!("proxy http://127.0.0.1:{port} can't be reached")), "{outcome}");
        assert!(!outcome.contains("hidden"), "{outcome}");
    }
}
