//! What would a run of a pipeline need, and is it there?

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};

use clap::Args;
use kinesis_input::Config;
use kinesis_input::check::{Finding, Subject, Verdict, check, file_that_is_written};
use mq_bridge::endpoints::check_publisher;
use mq_bridge::models::{Endpoint, EndpointType, FileConfig, Middleware, NameBy};
use pipeline_plugin_api::registry::Registry;
use serde::Serialize;

use crate::leases::json;
use crate::run::stdout;
use crate::{Exit, Pipeline, PipelineError, pipeline};

/// The version of the document that `--json` prints. It grows when a field is removed or gets another meaning.
const VERSION: u32 = 1;

/// The arguments of `kinesis-input check`.
#[derive(Debug, Args)]
pub(crate) struct Check {
    /// The pipeline file.
    pipeline: PathBuf,
    /// Print JSON: one object, at the end.
    #[arg(long)]
    json: bool,
}

/// The document that `--json` prints.
#[derive(Debug, Serialize)]
struct Document<'a> {
    version: u32,
    verdict: Verdict,
    findings: &'a [Finding],
}

/// Prints what is found as it is found. Returns the exit code.
pub(crate) async fn run(arguments: &Check, registry: &Registry) -> Result<Exit, (Exit, PipelineError)> {
    let wrong = |error| (Exit::Configuration, error);
    let document = pipeline::open(&arguments.pipeline).map_err(wrong)?;
    let pipeline = Pipeline::from_document(&document, registry).map_err(wrong)?;
    let parsed = document.parse::<Config>(&["input", "aws_kinesis"]);
    let config = parsed.map_err(|found| wrong(PipelineError::Wrong(found)))?.config;
    let tell = |finding: &Finding| {
        if !arguments.json {
            print(&line(finding));
        }
    };
    let mut found = check(&config, tell).await;
    for finding in output(&pipeline.output) {
        tell(&finding);
        found.push(finding);
    }
    if arguments.json {
        let verdict = found.iter().map(|finding| finding.verdict).max().unwrap_or(Verdict::Ok);
        print(&json(&Document { version: VERSION, verdict, findings: &found }));
    } else {
        print(&summary(&found));
    }
    Ok(exit(&found))
}

/// A reader that has exited, as `| head` does, is not waited for.
fn print(text: &str) {
    let mut out = io::stdout().lock();
    let _ = out.write_all(text.as_bytes()).and_then(|()| out.flush());
}

/// The code with which a run would end, as far as that is known.
fn exit(found: &[Finding]) -> Exit {
    let fails = |finding: &&Finding| matches!(finding.verdict, Verdict::Failure | Verdict::NotTried);
    let (output, input): (Vec<_>, Vec<_>) = found.iter().filter(fails).partition(|one| one.subject == Subject::Output);
    match (input.is_empty(), output.is_empty()) {
        (false, _) => Exit::Input,
        (true, false) => Exit::Failed,
        (true, true) => Exit::Done,
    }
}

/// A finding in a line.
fn line(finding: &Finding) -> String {
    let Finding { subject, name, verdict, what, remedy, statement, .. } = finding;
    let mut line = format!("{:<9}  {:<15}  {name}: {what}", verdict.words(), subject.words());
    if let Some(remedy) = remedy {
        line += "; ";
        line += remedy;
    }
    if let Some(statement) = statement {
        line += ": ";
        // A statement is text and lists of text, so this can't fail.
        line += &serde_json::to_string(statement).unwrap_or_default();
    }
    // What a service or a system says may have several lines.
    line.replace(['\n', '\r'], " ") + "\n"
}

fn summary(found: &[Finding]) -> String {
    let mut counts: BTreeMap<Verdict, usize> = BTreeMap::new();
    for finding in found {
        *counts.entry(finding.verdict).or_default() += 1;
    }
    let mut summary = String::new();
    for (verdict, count) in counts.iter().rev() {
        let comma = if summary.is_empty() { "" } else { ", " };
        let plural = if *count > 1 && !matches!(verdict, Verdict::Ok | Verdict::NotTried) { "s" } else { "" };
        // Writing to a string can't fail.
        let _ = write!(summary, "{comma}{count} {}{plural}", verdict.words());
    }
    summary + "\n"
}

/// What can be said of the output, and of outputs behind its middlewares, without opening them.
fn output(endpoint: &Endpoint) -> Vec<Finding> {
    let name = match &endpoint.endpoint_type {
        EndpointType::Null => "drop",
        EndpointType::Custom { name, .. } if *name == stdout::NAME => "stdout",
        other => other.name(),
    };
    let found = |verdict, what: String| Finding::new(Subject::Output, name, verdict, what);
    if let Err(error) = check_publisher("check", endpoint, None) {
        return vec![found(Verdict::Failure, format!("{error:#}"))];
    }
    let mut all = vec![match &endpoint.endpoint_type {
        EndpointType::File(file) => written(file),
        EndpointType::Null => found(Verdict::Ok, "discards everything".into()),
        EndpointType::Custom { name, .. } if *name == stdout::NAME => {
            found(Verdict::Ok, "the standard output of the run".into())
        }
        _ => found(Verdict::Note, "its settings are right; only a run connects to it".into()),
    }];
    for middleware in &endpoint.middlewares {
        if let Middleware::Dlq(dlq) = middleware {
            all.extend(output(&dlq.endpoint));
        }
    }
    all
}

fn written(file: &FileConfig) -> Finding {
    let path = Path::new(&file.path);
    if file.name_by == NameBy::SourcePosition || file.idempotency == Some(true) {
        // The path is the folder of many files.
        let part = path.join("part");
        let mut found = file_that_is_written(Subject::Output, if path.exists() { &part } else { path });
        found.name.clone_from(&file.path);
        return found;
    }
    file_that_is_written(Subject::Output, path)
}
