//! What does a pipeline file contain?
//!
//! ```yaml
//! input:                  # any registered input
//!   aws_kinesis:
//!     streams: [orders]
//!     checkpoint_file: orders.checkpoints
//!   metadata: [kinesis_shard]   # optional
//! output:                 # `stdout`, `drop`, or any endpoint of mq-bridge
//!   file: { path: orders.jsonl, format: raw }
//! pipeline:               # optional
//!   batch_size: 4096
//! shutdown_timeout: 20s   # optional
//! ```

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use mq_bridge::models::{Endpoint, EndpointType, FileConfig, FileFormat, FileFsync, NameBy, RouteOptions};
use pipeline_plugin_api::Input;
use pipeline_plugin_api::config::schemars::{self, JsonSchema};
use pipeline_plugin_api::config::{
    ConfigSpec, Configuration, Diagnostic, Diagnostics, Document, Duration as Span, Environment,
};
use pipeline_plugin_api::registry::{BuildError, RegisteredInput, Registry};
use pipeline_plugin_mq_bridge::Metadata;
use serde::Deserialize;

/// The parts that a pipeline file may have.
const PARTS: [&str; 4] = ["input", "output", "pipeline", "shutdown_timeout"];
/// A field that Connect writes beside an input or an output.
const LABEL: &str = "label";
/// The field beside an input that says which metadata the output gets.
const METADATA: &str = "metadata";
/// The longest time that a graceful stop takes, if the file doesn't say.
const SHUTDOWN_TIMEOUT: Duration = Duration::from_secs(20);
/// How often an output file is synced at the latest. It usually is as soon as something is written.
const SYNC_MILLIS: u64 = 100;
/// How many batches may be written and not yet acknowledged. An output that defers its acknowledgments until it is flushed
/// (a file that is synced) is flushed by mq-bridge when half of them wait, so with three it is flushed as soon as a batch
/// is written, while the next ones are written already. One flush serves all that were written before it. With more, a
/// batch would wait for the interval of the output, and a shard for it, because `checkpoint_limit` lets no more in.
const COMMITS_AT_ONCE: usize = 3;

/// A pipeline that is ready to [`run`](crate::run()). Nothing is connected yet.
pub struct Pipeline {
    /// The source of the messages.
    pub input: Arc<dyn Input>,
    /// The destination of the messages.
    pub output: Endpoint,
    /// The metadata that the output gets.
    pub metadata: Metadata,
    /// How the input and the output are joined.
    pub options: RouteOptions,
    /// The longest time that a graceful stop takes, from the signal to the end.
    pub shutdown_timeout: Duration,
    /// What is odd about the file, for its author.
    pub warnings: Diagnostics,
}

/// The reason why there is no pipeline.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PipelineError {
    /// The file can't be read.
    #[error("can't read the pipeline file {}: {source}", path.display())]
    Read {
        /// The path of the file.
        path: PathBuf,
        /// The cause.
        source: std::io::Error,
    },
    /// Something in the file is wrong.
    #[error("{0}")]
    Wrong(#[from] Diagnostics),
    /// The input refused a configuration that looked right.
    #[error("{0}")]
    Input(#[source] BuildError),
}

/// How the input and the output are joined.
#[derive(Debug, Deserialize, JsonSchema)]
#[schemars(crate = "pipeline_plugin_api::config::schemars")]
#[serde(deny_unknown_fields, default)]
struct Settings {
    /// The most messages that go to the output at once.
    #[schemars(range(min = 1))]
    batch_size: usize,
    /// How many batches are written at a time. Above 1, messages of a shard may overtake each other on their way into
    /// outputs that don't keep order themselves.
    #[schemars(range(min = 1))]
    concurrency: usize,
    /// How long to wait before an output that failed is tried again.
    reconnect_interval: Span,
    /// How long the output may take to connect at the start.
    startup_timeout: Span,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            batch_size: 4096,
            concurrency: 1,
            reconnect_interval: Duration::from_secs(1).into(),
            startup_timeout: Duration::from_secs(10).into(),
        }
    }
}

impl Configuration for Settings {}

impl Settings {
    fn options(&self) -> RouteOptions {
        let millis = |span: Span| u64::try_from(span.as_millis()).unwrap_or(u64::MAX);
        RouteOptions {
            batch_size: self.batch_size,
            concurrency: self.concurrency,
            reconnect_interval_ms: millis(self.reconnect_interval),
            startup_timeout_ms: millis(self.startup_timeout),
            commit_concurrency_limit: COMMITS_AT_ONCE,
            ..RouteOptions::default()
        }
    }
}

impl Pipeline {
    /// A pipeline of parts that the caller provides, with the default settings.
    pub fn new(input: Arc<dyn Input>, output: Endpoint) -> Self {
        Self {
            input,
            metadata: if uses_metadata(&output) { Metadata::All } else { Metadata::none() },
            output,
            options: Settings::default().options(),
            shutdown_timeout: SHUTDOWN_TIMEOUT,
            warnings: Diagnostics::new(),
        }
    }

    /// Reads a pipeline file, with `${VAR}` filled in from the environment of this process.
    ///
    /// # Errors
    ///
    /// Fails with a [`PipelineError`] that contains everything that is wrong.
    pub fn load(path: &Path, registry: &Registry) -> Result<Self, PipelineError> {
        let document = open(path)?;
        Self::from_document(&document, registry)
    }

    /// Reads a pipeline from YAML text; `file` is for messages.
    ///
    /// # Errors
    ///
    /// Fails with a [`PipelineError`] that contains everything that is wrong.
    pub fn from_yaml(
        file: &str,
        text: &str,
        environment: &Environment,
        registry: &Registry,
    ) -> Result<Self, PipelineError> {
        Self::from_document(&Document::from_yaml(file, text, environment)?, registry)
    }

    pub(crate) fn from_document(document: &Document, registry: &Registry) -> Result<Self, PipelineError> {
        let (found, host) = check(document, registry, ConfigSpec::check);
        if found.has_errors() {
            return Err(found.into());
        }
        // Without errors all parts exist.
        let (Some(input), Some(host)) = (input(document, registry)?, host) else { return Err(found.into()) };
        let built = input.build(document, &["input", input.name()]).map_err(|error| match error {
            BuildError::Config(found) => PipelineError::Wrong(found),
            other => PipelineError::Input(other),
        })?;
        Ok(Self {
            input: built.input,
            output: host.output,
            metadata: host.metadata,
            options: host.settings.options(),
            shutdown_timeout: host.shutdown_timeout,
            warnings: found,
        })
    }
}

impl fmt::Debug for Pipeline {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // The configurations of the input and the output are left out, because they may contain secrets.
        f.debug_struct("Pipeline")
            .field("input", &self.input.status().target)
            .field("shutdown_timeout", &self.shutdown_timeout)
            .finish_non_exhaustive()
    }
}

/// Parses a file.
pub(crate) fn open(path: &Path) -> Result<Document, PipelineError> {
    let text = std::fs::read_to_string(path).map_err(|source| PipelineError::Read { path: path.to_owned(), source })?;
    Ok(Document::from_yaml(&path.display().to_string(), &text, &Environment::process())?)
}

/// The parts that do not belong to the input.
pub(crate) struct HostParts {
    output: Endpoint,
    metadata: Metadata,
    settings: Settings,
    shutdown_timeout: Duration,
}

/// Everything that is wrong or odd in a pipeline file, and the host's parts if they are right. `of_input` returns the
/// findings in the input's block.
pub(crate) fn check(
    document: &Document,
    registry: &Registry,
    of_input: fn(&ConfigSpec, &Document, &[&str]) -> Diagnostics,
) -> (Diagnostics, Option<HostParts>) {
    let mut found = Diagnostics::new();
    let parts = document.fields(&[]).unwrap_or_default();
    for part in parts.iter().filter(|part| !PARTS.contains(part)) {
        found.push(
            document
                .error_at(&[part], "a pipeline file has no such part")
                .with_help(format!("its parts are {}", list(PARTS))),
        );
    }
    match input(document, registry) {
        Ok(Some(input)) => found.extend(of_input(input.spec(), document, &["input", input.name()])),
        Ok(None) => {}
        Err(errors) => found.extend(errors),
    }
    let output = keep(output(document), &mut found);
    let keys = if document.fields(&["input"]).unwrap_or_default().contains(&METADATA) {
        keep(document.read::<Vec<String>>(&["input", METADATA]).map(Some), &mut found)
    } else {
        Some(None)
    };
    let settings = if parts.contains(&"pipeline") {
        keep(document.parse::<Settings>(&["pipeline"]).map(|parsed| parsed.config), &mut found)
    } else {
        Some(Settings::default())
    };
    let timeout = if parts.contains(&"shutdown_timeout") {
        keep(document.read::<Span>(&["shutdown_timeout"]).map(|span| *span), &mut found)
    } else {
        Some(SHUTDOWN_TIMEOUT)
    };
    let (Some(output), Some(keys), Some(settings), Some(shutdown_timeout)) = (output, keys, settings, timeout) else {
        return (found, None);
    };
    let metadata = match keys {
        _ if !uses_metadata(&output) => Metadata::none(),
        Some(keys) => Metadata::keys(keys),
        None => Metadata::All,
    };
    (found, Some(HostParts { output, metadata, settings, shutdown_timeout }))
}

/// Whether an output, or a middleware before it, can use the messages' metadata.
fn uses_metadata(output: &Endpoint) -> bool {
    let writes_payloads = match &output.endpoint_type {
        EndpointType::Null => true,
        EndpointType::File(file) => {
            file.format == FileFormat::Raw && file.name_by == NameBy::default() && file.idempotency.is_none()
        }
        EndpointType::Custom { name, .. } => *name == crate::run::stdout::NAME,
        _ => false,
    };
    !writes_payloads || !output.middlewares.is_empty()
}

fn keep<T>(result: Result<T, Diagnostics>, found: &mut Diagnostics) -> Option<T> {
    match result {
        Ok(value) => Some(value),
        Err(errors) => {
            found.extend(errors);
            None
        }
    }
}

/// The one input that the file names.
fn input<'r>(document: &Document, registry: &'r Registry) -> Result<Option<&'r RegisteredInput>, Diagnostics> {
    let known = || list(registry.iter().map(RegisteredInput::name));
    let fields = document.fields(&["input"]).unwrap_or_default();
    // The label that Connect writes beside an input names it in Connect's logs, and has no meaning here.
    let is_labeled = fields.contains(&LABEL);
    let names: Vec<&str> = fields.into_iter().filter(|name| ![LABEL, METADATA].contains(name)).collect();
    let [name] = names[..] else {
        let message = match &names[..] {
            [] => "a pipeline needs exactly one input, and there is none".to_owned(),
            names => format!("a pipeline needs exactly one input, and there are {}", list(names)),
        };
        let at = names.iter().find(|name| registry.get(name).is_none()).or(names.get(1));
        let path: Vec<&str> = std::iter::once("input").chain(at.copied()).collect();
        let help = format!("inputs are {}; beside one there may be a `{LABEL}` and `{METADATA}`", known());
        return Err(document.error_at(&path, message).with_help(help).into());
    };
    if is_labeled {
        document.read::<String>(&["input", LABEL])?;
    }
    match registry.get(name) {
        Some(input) => Ok(Some(input)),
        None => Err(unknown_input(document, name, registry.nearest(name), &known()).into()),
    }
}

fn unknown_input(document: &Document, name: &str, nearest: Option<&str>, known: &str) -> Diagnostic {
    let help = match nearest {
        Some(nearest) => format!("did you mean `{nearest}`?"),
        None => format!("inputs are {known}"),
    };
    document.error_at(&["input", name], format!("there is no input named `{name}`")).with_help(help)
}

/// The output; `stdout` and `drop` are ours, the rest are mq-bridge's.
fn output(document: &Document) -> Result<Endpoint, Diagnostics> {
    let mut fields = document.fields(&["output"]).unwrap_or_default();
    let is_labeled = fields.contains(&LABEL);
    fields.retain(|name| *name != LABEL);
    // An output is a word or a mapping: `output: stdout`, `output: {stdout: {}}`.
    let word = if fields.is_empty() { document.read::<String>(&["output"]).ok() } else { None };
    if word.as_deref() == Some("drop") || fields == ["drop"] {
        return Ok(Endpoint::new(EndpointType::Null));
    }
    if word.as_deref() == Some("stdout") || fields == ["stdout"] {
        return Ok(crate::run::stdout::endpoint());
    }
    if fields.is_empty() {
        let error = document.error_at(&["output"], "a pipeline needs an output");
        return Err(error.with_help("such as `stdout`, `drop`, or `file: {path: out.jsonl, format: raw}`").into());
    }
    let mut endpoint: Endpoint = if is_labeled {
        let mut fields: serde_json::Map<String, serde_json::Value> = document.read(&["output"])?;
        fields.remove(LABEL);
        let made = serde_json::from_value(fields.into());
        made.map_err(|error| document.error_at(&["output"], error.to_string()))?
    } else {
        document.read(&["output"])?
    };
    if let EndpointType::File(file) = &mut endpoint.endpoint_type
        && !document.fields(&["output", "file"]).unwrap_or_default().contains(&"fsync")
    {
        sync(file);
    }
    if let EndpointType::Custom { name, .. } = &endpoint.endpoint_type
        && mq_bridge::extensions::get_endpoint_factory(name).is_none()
    {
        return Err(document
            .error_at(&["output", name], format!("there is no output named `{name}`"))
            .with_help("outputs are `stdout`, `drop`, `file`, and those of mq-bridge that this program was built with")
            .into());
    }
    Ok(endpoint)
}

/// Sets the sync of an output file. A message counts as done only when it would survive a power failure, so what is
/// written is synced before it is acknowledged. One sync serves all batches that were written while the one before it ran.
fn sync(file: &mut FileConfig) {
    // mq-bridge itself syncs files that are named by source position, and a terminal or a pipe can't be synced.
    let special = std::fs::metadata(&file.path).is_ok_and(|found| !found.is_file());
    let parts = file.name_by == NameBy::SourcePosition || file.idempotency == Some(true);
    if !parts && !special {
        file.fsync = FileFsync::Periodic;
        file.fsync_interval_ms.get_or_insert(SYNC_MILLIS);
    }
}

fn list<S: AsRef<str>>(names: impl IntoIterator<Item = S>) -> String {
    names.into_iter().map(|name| format!("`{}`", name.as_ref())).collect::<Vec<_>>().join(", ")
}

/// The schema of the `pipeline` part.
pub(crate) fn settings_schema() -> serde_json::Value {
    schemars::schema_for!(Settings).to_value()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::registry;

    /// The metadata that the output of a pipeline gets.
    fn metadata(beside: &str, output: &str) -> Metadata {
        let yaml = format!(
            "input:\n  aws_kinesis: {{ streams: [a], checkpoint_file: f, region: r }}\n{beside}output: {output}\n"
        );
        Pipeline::from_yaml("file", &yaml, &Environment::empty(), &registry().unwrap()).unwrap().metadata
    }

    #[test]
    fn output_gets_the_metadata_that_it_can_use() {
        let keys = || Metadata::keys(["kinesis_shard".to_owned()]);
        let beside = "  metadata: [kinesis_shard]\n";
        for output in ["drop", "stdout", "{file: {path: out, format: raw}}"] {
            assert_eq!(metadata("", output), Metadata::none(), "{output}");
            assert_eq!(metadata(beside, output), Metadata::none(), "{output}");
        }
        let with_middleware = "{file: {path: out, format: raw}, middlewares: [{retry: {max_attempts: 3}}]}";
        for output in ["{file: {path: out}}", "{file: {path: out, format: json}}", with_middleware] {
            assert_eq!(metadata("", output), Metadata::All, "{output}");
            assert_eq!(metadata(beside, output), keys(), "{output}");
        }
        assert_eq!(metadata("  metadata: []\n", "{file: {path: out}}"), Metadata::none());
    }
}
