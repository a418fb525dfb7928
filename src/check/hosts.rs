//! Which hosts are called, and how do they answer?

use std::sync::Arc;
use std::time::SystemTime;

use aws_smithy_runtime_api::client::http::{
    HttpClient, HttpConnector, HttpConnectorFuture, HttpConnectorSettings, SharedHttpClient, SharedHttpConnector,
};
use aws_smithy_runtime_api::client::orchestrator::{HttpRequest, HttpResponse};
use aws_smithy_runtime_api::client::runtime_components::RuntimeComponents;
use aws_smithy_runtime_api::shared::IntoShared;
use http::Uri;
use pipeline_plugin_api::causes;

use super::finding::{Finding, Subject, Verdict};
use super::judge;
use crate::aws::http::HostNotFound;
use crate::aws::sdk::date;
use crate::model::millis;
use crate::sync::{Mutex, lock};

/// Notes what becomes of each request that goes through a client.
#[derive(Debug, Clone, Default)]
pub(super) struct Hosts(Arc<Mutex<Seen>>);

#[derive(Debug, Default)]
struct Seen {
    hosts: Vec<Host>,
    /// The greatest difference between the clocks that an answer showed, in milliseconds.
    skew: Option<i64>,
}

#[derive(Debug)]
struct Host {
    /// Scheme, host and port.
    name: String,
    is_secure: bool,
    outcome: Outcome,
    /// Whether it was called since the last news.
    is_called: bool,
    /// The verdict that was reported of it last.
    told: Option<Verdict>,
}

#[derive(Debug)]
enum Outcome {
    /// A request is on its way, or was given up.
    Asked,
    Answers,
    Fails {
        cause: String,
        /// Whether no address was found for it.
        is_unknown: bool,
    },
}

impl Hosts {
    /// A client that notes the hosts that are called through it.
    pub(super) fn watch(&self, client: SharedHttpClient) -> SharedHttpClient {
        Watched { client, hosts: self.clone() }.into_shared()
    }

    /// What is new about the hosts that were called since the last news. `verdict` is that of hosts that don't answer.
    pub(super) fn news(&self, verdict: Verdict) -> Vec<Finding> {
        let mut seen = lock(&self.0);
        let mut news = Vec::new();
        for host in seen.hosts.iter_mut().filter(|host| host.is_called) {
            host.is_called = false;
            let verdict = if matches!(host.outcome, Outcome::Answers) { Verdict::Ok } else { verdict };
            // A host that fails is reported again when more depends on it.
            if host.told == Some(verdict) || host.told.is_some_and(|told| told > verdict && verdict != Verdict::Ok) {
                continue;
            }
            host.told = Some(verdict);
            let found = |what: &str| Finding::new(Subject::Host, host.name.clone(), verdict, what);
            news.push(match &host.outcome {
                Outcome::Answers if host.is_secure => found("answers, and its certificate is trusted"),
                Outcome::Answers => found("answers, without TLS"),
                Outcome::Asked => found("no answer in time").remedy(judge::unreachable("", false)),
                Outcome::Fails { cause, is_unknown } => found(cause).remedy(judge::unreachable(cause, *is_unknown)),
            });
        }
        news
    }

    /// What the answers say of the clock of this machine.
    pub(super) fn clock(&self) -> Option<Finding> {
        lock(&self.0).skew.map(judge::clock)
    }

    fn asked(&self, name: &str, is_secure: bool) {
        self.note(name, is_secure, Outcome::Asked);
    }

    fn note(&self, name: &str, is_secure: bool, outcome: Outcome) {
        let mut seen = lock(&self.0);
        if let Some(host) = seen.hosts.iter_mut().find(|host| host.name == name) {
            (host.outcome, host.is_called) = (outcome, true);
        } else {
            let name = name.to_owned();
            seen.hosts.push(Host { name, is_secure, outcome, is_called: true, told: None });
        }
    }

    fn answered(&self, answer: &HttpResponse, sent: SystemTime) {
        let Some(date) = date(answer) else { return };
        // The service dates its answer about half-way, in whole seconds.
        let midway = i64::midpoint(millis(sent), millis(SystemTime::now()));
        let skew = millis(date) + 500 - midway;
        let mut seen = lock(&self.0);
        if seen.skew.is_none_or(|known| known.unsigned_abs() < skew.unsigned_abs()) {
            seen.skew = Some(skew);
        }
    }
}

#[derive(Debug)]
struct Watched {
    client: SharedHttpClient,
    hosts: Hosts,
}

impl HttpClient for Watched {
    fn http_connector(&self, settings: &HttpConnectorSettings, components: &RuntimeComponents) -> SharedHttpConnector {
        let connector = self.client.http_connector(settings, components);
        SharedHttpConnector::new(WatchedConnector { connector, hosts: self.hosts.clone() })
    }
}

#[derive(Debug)]
struct WatchedConnector {
    connector: SharedHttpConnector,
    hosts: Hosts,
}

impl HttpConnector for WatchedConnector {
    fn call(&self, request: HttpRequest) -> HttpConnectorFuture {
        let Some((name, is_secure)) = host(request.uri()) else { return self.connector.call(request) };
        self.hosts.asked(&name, is_secure);
        let (hosts, sent) = (self.hosts.clone(), SystemTime::now());
        let answering = self.connector.call(request);
        HttpConnectorFuture::new_boxed(Box::pin(async move {
            let answer = answering.await;
            match &answer {
                Ok(answer) => {
                    hosts.note(&name, is_secure, Outcome::Answers);
                    hosts.answered(answer, sent);
                }
                Err(error) => {
                    let (is_unknown, cause) = (HostNotFound::is_behind(error), causes(error));
                    // What comes before is the same for each failed connection.
                    let cause = cause.rsplit_once("client error (Connect): ").map_or(&*cause, |(_, rest)| rest);
                    hosts.note(&name, is_secure, Outcome::Fails { cause: cause.to_owned(), is_unknown });
                }
            }
            answer
        }))
    }
}

/// The scheme, host and port of a URL, and whether it is spoken to over TLS.
fn host(url: &str) -> Option<(String, bool)> {
    let url: Uri = url.parse().ok()?;
    let (scheme, host) = (url.scheme_str()?, url.host()?);
    let is_secure = scheme == "https";
    let port = url.port_u16().unwrap_or(if is_secure { 443 } else { 80 });
    Some((format!("{scheme}://{host}:{port}"), is_secure))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn host_without_an_address_is_perhaps_of_no_region() {
        let hosts = Hosts::default();
        let outcome = Outcome::Fails { cause: "its address could not be found".into(), is_unknown: true };
        hosts.note("https://kinesis.eu-wset-1.amazonaws.com:443", true, outcome);
        let found = hosts.news(Verdict::Failure);
        assert!(found[0].remedy.as_deref().unwrap().contains("`region`"), "{found:?}");
    }

    #[test]
    fn host_is_told_again_when_it_changes() {
        let hosts = Hosts::default();
        let told =
            || hosts.news(Verdict::Failure).into_iter().map(|found| (found.name, found.verdict)).collect::<Vec<_>>();
        let (name, is_secure) = host("https://kinesis.eu-west-1.amazonaws.com/").unwrap();
        assert_eq!((name.as_str(), is_secure), ("https://kinesis.eu-west-1.amazonaws.com:443", true));
        hosts.asked(&name, is_secure);
        assert_eq!(told(), [(name.clone(), Verdict::Failure)], "a request that was given up");
        hosts.note(&name, is_secure, Outcome::Answers);
        assert_eq!(told(), [(name.clone(), Verdict::Ok)]);
        assert_eq!(told(), []);
        let fails = || Outcome::Fails { cause: "reset".into(), is_unknown: false };
        let warned = || hosts.news(Verdict::Warning).into_iter().map(|found| found.verdict).collect::<Vec<_>>();
        hosts.note(&name, is_secure, fails());
        assert_eq!(warned(), [Verdict::Warning]);
        assert_eq!(told(), [], "it was not called again");
        hosts.note(&name, is_secure, fails());
        assert_eq!(told(), [(name.clone(), Verdict::Failure)], "more depends on it");
        hosts.note(&name, is_secure, fails());
        assert_eq!(warned(), []);
    }
}
