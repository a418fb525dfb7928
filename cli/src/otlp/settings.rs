//! Which settings of the environment does an export follow, and which does it refuse?
//!
//! The names and defaults are those of the OpenTelemetry specification. An empty variable counts as one that is not set.
//! A value that can't be followed is an error at the start, because exports that fail later are easily overlooked. No
//! error shows a value that may be a secret.

use std::ffi::OsString;
use std::time::Duration;

use hyper::header::{HeaderMap, HeaderName, HeaderValue};
use hyper::http::uri::{PathAndQuery, Scheme};
use hyper::{Uri, http};
use percent_encoding::percent_decode_str;

use crate::Exit;

/// Where telemetry goes if nothing says otherwise: a collector on this machine.
const DEFAULT_ENDPOINT: &str = "http://localhost:4318";
const DEFAULT_TIMEOUT: Duration = Duration::from_secs(10);
const DEFAULT_INTERVAL: Duration = Duration::from_mins(1);
const DEFAULT_SPAN_DELAY: Duration = Duration::from_secs(5);
const DEFAULT_SPAN_QUEUE: usize = 2048;
const DEFAULT_SPANS_AT_ONCE: usize = 512;
/// The one protocol that is built in.
const PROTOCOL: &str = "http/protobuf";
/// The samplers that the SDK has. Those whose name ends in `ratio` take an argument.
const SAMPLERS: [&str; 6] = [
    "always_on",
    "always_off",
    "traceidratio",
    "parentbased_always_on",
    "parentbased_always_off",
    "parentbased_traceidratio",
];

/// A setting that can't be followed.
#[derive(Debug, thiserror::Error)]
#[error("the environment variable `{name}` {problem}")]
pub(crate) struct SettingError {
    name: String,
    problem: String,
}

impl SettingError {
    /// The exit code of the program for this error.
    #[expect(clippy::unused_self, reason = "the same shape without the feature")]
    pub(crate) fn exit(&self) -> Exit {
        Exit::Configuration
    }
}

/// What the environment says about exports.
#[derive(Debug)]
pub(crate) struct Settings {
    /// `None` if no metrics are exported.
    pub(super) metrics: Option<MetricSettings>,
    /// `None` if no traces are exported.
    pub(super) traces: Option<TraceSettings>,
    /// The attributes of this process, as the environment gives them.
    pub(super) resource: Vec<(String, String)>,
}

#[derive(Debug)]
pub(super) struct MetricSettings {
    pub(super) target: Target,
    pub(super) interval: Duration,
}

/// The sampler is not here, because the SDK reads it by itself.
#[derive(Debug)]
pub(super) struct TraceSettings {
    pub(super) target: Target,
    /// Spans are exported at the latest after this long.
    pub(super) delay: Duration,
    /// How many spans may wait for their export.
    pub(super) queue: usize,
    /// How many spans a request has at most.
    pub(super) at_once: usize,
}

/// Where the requests of one signal go.
#[derive(Debug, Clone)]
pub(super) struct Target {
    pub(super) endpoint: Uri,
    /// Each value is marked as sensitive, so that `Debug` does not show it.
    pub(super) headers: HeaderMap,
    /// How long a request may take.
    pub(super) timeout: Duration,
}

impl Settings {
    /// Reads the environment of this process. `None` if it disables all telemetry.
    pub(crate) fn of_process() -> Result<Option<Self>, SettingError> {
        Self::read(|name| std::env::var_os(name))
    }

    /// The settings of these variables alone.
    #[cfg(test)]
    pub(super) fn of<const N: usize>(pairs: [(&str, &str); N]) -> Self {
        let value = |name: &str| pairs.iter().find(|(other, _)| *other == name).map(|(_, value)| value.into());
        Self::read(value).unwrap().unwrap()
    }

    fn read(variable: impl Fn(&str) -> Option<OsString>) -> Result<Option<Self>, SettingError> {
        let environment = Variables(&variable);
        if environment.switch("OTEL_SDK_DISABLED")? {
            tracing::warn!("nothing is exported: OTEL_SDK_DISABLED is `true`");
            return Ok(None);
        }
        let metrics = if environment.exports("METRICS")? { Some(environment.metrics()?) } else { None };
        let traces = if environment.exports("TRACES")? { Some(environment.traces()?) } else { None };
        Ok(Some(Self { metrics, traces, resource: environment.resource()? }))
    }
}

/// The variables of an environment.
struct Variables<'a>(&'a dyn Fn(&str) -> Option<OsString>);

impl Variables<'_> {
    fn get(&self, name: &str) -> Result<Option<String>, SettingError> {
        match (self.0)(name).map(OsString::into_string) {
            None => Ok(None),
            Some(Ok(value)) => Ok(Some(value.trim().to_owned()).filter(|value| !value.is_empty())),
            Some(Err(_)) => Err(wrong(name, "is not UTF-8")),
        }
    }

    /// The variable of a signal, or otherwise the one for all signals, with its name.
    fn of_signal(&self, signal: &str, what: &str) -> Result<Option<(String, String)>, SettingError> {
        for name in [format!("OTEL_EXPORTER_OTLP_{signal}_{what}"), format!("OTEL_EXPORTER_OTLP_{what}")] {
            if let Some(value) = self.get(&name)? {
                return Ok(Some((name, value)));
            }
        }
        Ok(None)
    }

    fn switch(&self, name: &str) -> Result<bool, SettingError> {
        match self.get(name)? {
            None => Ok(false),
            Some(value) if value.eq_ignore_ascii_case("true") => Ok(true),
            Some(value) if value.eq_ignore_ascii_case("false") => Ok(false),
            Some(_) => Err(wrong(name, "is neither `true` nor `false`")),
        }
    }

    fn number(&self, name: &str, default: usize) -> Result<usize, SettingError> {
        let Some(value) = self.get(name)? else { return Ok(default) };
        value.parse().ok().filter(|number| *number > 0).ok_or_else(|| wrong(name, "is not a whole number above 0"))
    }

    fn millis(&self, name: &str, default: Duration) -> Result<Duration, SettingError> {
        self.get(name)?.map_or(Ok(default), |value| millis(name, &value))
    }

    /// Whether a signal is exported at all.
    fn exports(&self, signal: &str) -> Result<bool, SettingError> {
        let name = format!("OTEL_{signal}_EXPORTER");
        match self.get(&name)?.as_deref() {
            None | Some("otlp") => Ok(true),
            Some("none") => Ok(false),
            Some(_) => Err(wrong(&name, "names an exporter that this program does not have; it has `otlp` and `none`")),
        }
    }

    fn metrics(&self) -> Result<MetricSettings, SettingError> {
        let target = self.target("METRICS")?;
        let preference = "OTEL_EXPORTER_OTLP_METRICS_TEMPORALITY_PREFERENCE";
        if self.get(preference)?.is_some_and(|value| !value.eq_ignore_ascii_case("cumulative")) {
            return Err(wrong(preference, "can only be `cumulative`: counters are exported as totals"));
        }
        Ok(MetricSettings { target, interval: self.millis("OTEL_METRIC_EXPORT_INTERVAL", DEFAULT_INTERVAL)? })
    }

    fn traces(&self) -> Result<TraceSettings, SettingError> {
        let target = self.target("TRACES")?;
        let (name, argument) = ("OTEL_TRACES_SAMPLER", "OTEL_TRACES_SAMPLER_ARG");
        if let Some(sampler) = self.get(name)? {
            if !SAMPLERS.contains(&sampler.as_str()) {
                return Err(wrong(name, format!("names no sampler of this program: it has {}", SAMPLERS.join(", "))));
            }
            let is_ratio = |value: String| value.parse().is_ok_and(|ratio: f64| (0.0..=1.0).contains(&ratio));
            if sampler.ends_with("ratio") && !self.get(argument)?.is_none_or(is_ratio) {
                return Err(wrong(argument, "is not a number from 0 to 1"));
            }
        }
        let queue = self.number("OTEL_BSP_MAX_QUEUE_SIZE", DEFAULT_SPAN_QUEUE)?;
        let at_once = self.number("OTEL_BSP_MAX_EXPORT_BATCH_SIZE", DEFAULT_SPANS_AT_ONCE.min(queue))?;
        if at_once > queue {
            return Err(wrong(
                "OTEL_BSP_MAX_EXPORT_BATCH_SIZE",
                format!("is more than the queue holds, which is {queue}"),
            ));
        }
        let delay = self.millis("OTEL_BSP_SCHEDULE_DELAY", DEFAULT_SPAN_DELAY)?;
        Ok(TraceSettings { target, delay, queue, at_once })
    }

    fn target(&self, signal: &str) -> Result<Target, SettingError> {
        if let Some((name, protocol)) = self.of_signal(signal, "PROTOCOL")?
            && protocol != PROTOCOL
        {
            let asked = match protocol.as_str() {
                "grpc" | "http/json" => format!("asks for `{protocol}`, which this program does not speak"),
                _ => "names no protocol of OTLP".to_owned(),
            };
            return Err(wrong(
                &name,
                format!("{asked}; it speaks `{PROTOCOL}`, for which collectors listen at port 4318"),
            ));
        }
        if let Some((name, compression)) = self.of_signal(signal, "COMPRESSION")?
            && compression != "none"
        {
            return Err(wrong(&name, "can only be `none`: this program does not compress exports"));
        }
        for what in ["CERTIFICATE", "CLIENT_CERTIFICATE", "CLIENT_KEY"] {
            if let Some((name, _)) = self.of_signal(signal, what)? {
                let instead = if what == "CERTIFICATE" { "; `SSL_CERT_FILE` names certificates to trust" } else { "" };
                return Err(wrong(&name, format!("is not supported{instead}")));
            }
        }
        let timeout = match self.of_signal(signal, "TIMEOUT")? {
            Some((name, value)) => millis(&name, &value)?,
            None => DEFAULT_TIMEOUT,
        };
        Ok(Target { endpoint: self.endpoint(signal)?, headers: self.headers(signal)?, timeout })
    }

    /// The URL of a signal is used as it is; to the one for all signals, the path of the signal is added.
    fn endpoint(&self, signal: &str) -> Result<Uri, SettingError> {
        let own = format!("OTEL_EXPORTER_OTLP_{signal}_ENDPOINT");
        if let Some(value) = self.get(&own)? {
            return url(&own, &value);
        }
        let shared = "OTEL_EXPORTER_OTLP_ENDPOINT";
        let base = url(shared, self.get(shared)?.as_deref().unwrap_or(DEFAULT_ENDPOINT))?;
        let query = base.query().map(|query| format!("?{query}")).unwrap_or_default();
        let path = format!("{}/v1/{}{query}", base.path().trim_end_matches('/'), signal.to_lowercase());
        let joined = path.parse::<PathAndQuery>().map_err(http::Error::from).and_then(|path| {
            let mut parts = base.into_parts();
            parts.path_and_query = Some(path);
            Uri::from_parts(parts).map_err(http::Error::from)
        });
        joined.map_err(|_| wrong(shared, NO_URL))
    }

    fn headers(&self, signal: &str) -> Result<HeaderMap, SettingError> {
        let mut headers = HeaderMap::new();
        let Some((variable, value)) = self.of_signal(signal, "HEADERS")? else { return Ok(headers) };
        for (at, pair) in pairs(&value).enumerate() {
            // What can't be parsed may be part of a secret.
            let (name, value) = pair.ok_or_else(|| wrong(&variable, not_a_pair(at)))?;
            let invalid = format!("has an entry whose name is no name of a header: the {}", nth(at));
            let name = HeaderName::try_from(name).map_err(|_| wrong(&variable, invalid))?;
            let mut value = HeaderValue::try_from(value)
                .map_err(|_| wrong(&variable, format!("has a value for `{name}` that a header can't have")))?;
            value.set_sensitive(true);
            headers.insert(name, value);
        }
        Ok(headers)
    }

    fn resource(&self) -> Result<Vec<(String, String)>, SettingError> {
        let (name, mut attributes) = ("OTEL_RESOURCE_ATTRIBUTES", Vec::new());
        for (at, pair) in pairs(&self.get(name)?.unwrap_or_default()).enumerate() {
            attributes.push(pair.ok_or_else(|| wrong(name, not_a_pair(at)))?);
        }
        // This one comes last, because it takes precedence.
        attributes.extend(self.get("OTEL_SERVICE_NAME")?.map(|service| ("service.name".to_owned(), service)));
        Ok(attributes)
    }
}

const NO_URL: &str = "is not a URL that begins with `http://` or `https://`";

fn url(name: &str, value: &str) -> Result<Uri, SettingError> {
    let uri: Uri = value.parse().map_err(|_| wrong(name, NO_URL))?;
    if ![Some(&Scheme::HTTP), Some(&Scheme::HTTPS)].contains(&uri.scheme()) || uri.host().is_none_or(str::is_empty) {
        return Err(wrong(name, NO_URL));
    }
    if uri.authority().is_some_and(|authority| authority.as_str().contains('@')) {
        return Err(wrong(name, "has a user or a password; put them into a header with `OTEL_EXPORTER_OTLP_HEADERS`"));
    }
    Ok(uri)
}

fn millis(name: &str, value: &str) -> Result<Duration, SettingError> {
    let millis = value.parse().ok().filter(|millis| *millis > 0);
    millis.map(Duration::from_millis).ok_or_else(|| wrong(name, "is not a whole number of milliseconds above 0"))
}

/// The entries of `key=value,key=value`, percent-decoded. `None` for one that is not of this form.
fn pairs(list: &str) -> impl Iterator<Item = Option<(String, String)>> {
    list.split(',').map(str::trim).filter(|entry| !entry.is_empty()).map(|entry| {
        let (key, value) = entry.split_once('=')?;
        let decoded = percent_decode_str(value.trim()).decode_utf8().ok()?;
        let key = key.trim();
        (!key.is_empty()).then(|| (key.to_owned(), decoded.into_owned()))
    })
}

fn not_a_pair(at: usize) -> String {
    format!("has an entry that is not `name=value`: the {}", nth(at))
}

fn nth(at: usize) -> String {
    match at {
        0 => "first".to_owned(),
        1 => "second".to_owned(),
        2 => "third".to_owned(),
        _ => format!("{}th", at + 1),
    }
}

fn wrong(name: &str, problem: impl Into<String>) -> SettingError {
    SettingError { name: name.to_owned(), problem: problem.into() }
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;
    use std::collections::BTreeSet;

    use super::*;

    fn read(pairs: &[(&str, &str)]) -> Result<Option<Settings>, SettingError> {
        let value = |name: &str| pairs.iter().find(|(other, _)| *other == name).map(|(_, value)| OsString::from(value));
        Settings::read(value)
    }

    fn targets<const N: usize>(pairs: [(&str, &str); N]) -> (Target, Target) {
        let settings = Settings::of(pairs);
        (settings.metrics.unwrap().target, settings.traces.unwrap().target)
    }

    #[test]
    fn defaults_are_those_of_the_standard() {
        let settings = read(&[]).unwrap().unwrap();
        let (metrics, traces) = (settings.metrics.unwrap(), settings.traces.unwrap());
        assert_eq!(metrics.target.endpoint, "http://localhost:4318/v1/metrics");
        assert_eq!(traces.target.endpoint, "http://localhost:4318/v1/traces");
        assert_eq!((metrics.target.timeout, metrics.interval), (Duration::from_secs(10), Duration::from_mins(1)));
        assert_eq!((traces.delay, traces.queue, traces.at_once), (Duration::from_secs(5), 2048, 512));
        assert!(settings.resource.is_empty() && metrics.target.headers.is_empty());
    }

    #[test]
    fn endpoint_of_a_signal_is_taken_as_it_is_and_the_shared_one_gets_a_path() {
        let (metrics, traces) = targets([
            ("OTEL_EXPORTER_OTLP_ENDPOINT", "https://collector.example/otlp/?tenant=a"),
            ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "http://traces.example:4318"),
        ]);
        assert_eq!(metrics.endpoint, "https://collector.example/otlp/v1/metrics?tenant=a");
        assert_eq!(traces.endpoint, "http://traces.example:4318/");
    }

    #[test]
    fn settings_of_a_signal_replace_the_shared_ones() {
        let (metrics, traces) = targets([
            ("OTEL_EXPORTER_OTLP_HEADERS", "authorization=Basic%20abc%3D, x-tenant = a ,"),
            ("OTEL_EXPORTER_OTLP_TRACES_HEADERS", "api-key=k"),
            ("OTEL_EXPORTER_OTLP_TIMEOUT", "5000"),
            ("OTEL_EXPORTER_OTLP_METRICS_TIMEOUT", "250"),
            ("OTEL_EXPORTER_OTLP_PROTOCOL", "http/protobuf"),
        ]);
        assert_eq!(
            (metrics.headers["authorization"].as_bytes(), &metrics.headers["x-tenant"]),
            (&b"Basic abc="[..], &HeaderValue::from_static("a"))
        );
        assert_eq!((traces.headers.len(), &traces.headers["api-key"]), (1, &HeaderValue::from_static("k")));
        assert_eq!((metrics.timeout, traces.timeout), (Duration::from_millis(250), Duration::from_secs(5)));
        assert!(!format!("{metrics:?}").contains("abc"), "{metrics:?}");
    }

    #[test]
    fn signals_and_all_of_it_can_be_disabled() {
        assert!(read(&[("OTEL_SDK_DISABLED", "TRUE")]).unwrap().is_none());
        let settings = read(&[("OTEL_TRACES_EXPORTER", "none"), ("OTEL_SDK_DISABLED", "false")]).unwrap().unwrap();
        assert!(settings.traces.is_none() && settings.metrics.is_some());
        let settings = read(&[("OTEL_METRICS_EXPORTER", "none"), ("OTEL_EXPORTER_OTLP_METRICS_PROTOCOL", "grpc")]);
        assert!(settings.unwrap().unwrap().metrics.is_none());
    }

    #[test]
    fn service_name_takes_precedence_over_the_attribute() {
        let settings = read(&[
            ("OTEL_RESOURCE_ATTRIBUTES", "service.name=a,team=data%2Cplatform"),
            ("OTEL_SERVICE_NAME", "orders"),
        ]);
        let resource = settings.unwrap().unwrap().resource;
        let expected = [("service.name", "a"), ("team", "data,platform"), ("service.name", "orders")];
        assert_eq!(resource, expected.map(|(key, value)| (key.to_owned(), value.to_owned())));
    }

    #[test]
    fn setting_that_can_not_be_followed_is_named_without_its_value() {
        for (name, value, part) in [
            ("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc", "`grpc`, which this program does not speak"),
            ("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "http/json", "`http/json`"),
            ("OTEL_EXPORTER_OTLP_PROTOCOL", "s3cret", "no protocol of OTLP"),
            ("OTEL_EXPORTER_OTLP_COMPRESSION", "gzip", "`none`"),
            ("OTEL_EXPORTER_OTLP_CERTIFICATE", "/s3cret", "`SSL_CERT_FILE`"),
            ("OTEL_EXPORTER_OTLP_METRICS_CLIENT_KEY", "/s3cret", "not supported"),
            ("OTEL_EXPORTER_OTLP_ENDPOINT", "s3cret:4318", "`http://` or `https://`"),
            ("OTEL_EXPORTER_OTLP_ENDPOINT", "ftp://s3cret", "`http://` or `https://`"),
            ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://s3cret example", "not a URL"),
            ("OTEL_EXPORTER_OTLP_METRICS_ENDPOINT", "https://s3cret:s3cret@collector.example", "a user or a password"),
            ("OTEL_EXPORTER_OTLP_HEADERS", "a=b,s3cret", "not `name=value`: the second"),
            ("OTEL_EXPORTER_OTLP_HEADERS", "s3cret word=b", "no name of a header: the first"),
            ("OTEL_EXPORTER_OTLP_TRACES_HEADERS", "x-key=s3cret%0A", "a value for `x-key`"),
            ("OTEL_EXPORTER_OTLP_HEADERS", "x-key=s3cret%FF", "not `name=value`: the first"),
            ("OTEL_EXPORTER_OTLP_TIMEOUT", "10s3cret", "milliseconds"),
            ("OTEL_METRIC_EXPORT_INTERVAL", "0", "milliseconds"),
            ("OTEL_EXPORTER_OTLP_METRICS_TEMPORALITY_PREFERENCE", "delta", "`cumulative`"),
            ("OTEL_RESOURCE_ATTRIBUTES", "s3cret", "not `name=value`"),
            ("OTEL_SDK_DISABLED", "s3cret", "neither"),
            ("OTEL_TRACES_SAMPLER", "jaeger_remote", "parentbased_traceidratio"),
            ("OTEL_TRACES_EXPORTER", "zipkin", "`otlp` and `none`"),
            ("OTEL_BSP_MAX_QUEUE_SIZE", "0", "above 0"),
            ("OTEL_BSP_MAX_EXPORT_BATCH_SIZE", "4096", "2048"),
        ] {
            let said = read(&[(name, value)]).unwrap_err().to_string();
            assert!(said.contains(&format!("`{name}`")) && said.contains(part), "{said}");
            assert!(!said.contains("s3cret"), "{said}");
        }
        let ratio = [("OTEL_TRACES_SAMPLER", "traceidratio"), ("OTEL_TRACES_SAMPLER_ARG", "2")];
        assert!(read(&ratio).unwrap_err().to_string().contains("from 0 to 1"));
    }

    /// `OTEL_EXPORTER_OTLP_TRACES_ENDPOINT` and the like are documented under the name for all signals.
    #[test]
    fn variables_that_are_read_are_documented() {
        let read = RefCell::new(BTreeSet::new());
        let value = |name: &str| {
            read.borrow_mut().insert(name.to_owned());
            (name == "OTEL_TRACES_SAMPLER").then(|| OsString::from("traceidratio"))
        };
        Settings::read(value).unwrap().unwrap();
        let read = read.into_inner();
        let shared = |name: &String| {
            let shared = name.replacen("_METRICS_", "_", 1).replacen("_TRACES_", "_", 1);
            if read.contains(&shared) { shared } else { name.clone() }
        };
        let expected: BTreeSet<_> = read.iter().map(shared).collect();
        let page = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/operations.md")).unwrap();
        let (_, table) = page.split_once("<!-- otlp: compared with the code by a test -->").unwrap();
        let (table, _) = table.split_once("<!-- end of otlp -->").unwrap();
        let spans =
            table.lines().flat_map(|row| row.split('|').nth(1).unwrap_or_default().split('`').skip(1).step_by(2));
        let documented: BTreeSet<_> = spans.map(str::to_owned).collect();
        assert_eq!(documented, expected);
    }
}
