//! How is a stream read again from another position?

use std::fmt::Write as _;
use std::io::{self, IsTerminal};
use std::path::PathBuf;

use clap::Args;
use kinesis_input::SequenceNumber;
use kinesis_input::inspect::TableAt;
use kinesis_input::reset::{self, Action, Done, Plan, ResetAt, ResetError, To};

use crate::Exit;
use crate::leases::{answer, columns, json};
use crate::table::AccessArguments;

/// The arguments of `kinesis-input reset`.
#[derive(Debug, Args)]
pub(crate) struct Reset {
    /// The stream, by name or ARN, as the pipelines call it.
    #[arg(long)]
    stream: String,
    /// Where to read from: `oldest`, `latest`, a time in RFC 3339, or the sequence number of a record of one shard.
    #[arg(long, value_name = "oldest|latest|TIME|NUMBER", value_parser = to)]
    to: To,
    /// Only these shards, and those that were split or merged from them. Otherwise all of the stream.
    #[arg(long = "shard", value_name = "SHARD")]
    shards: Vec<String>,
    /// The lease table: `dynamodb.table` of the pipelines.
    #[arg(long, value_name = "NAME", required_unless_present = "checkpoint_file")]
    table: Option<String>,
    /// The namespace of the rows in the table: `dynamodb.namespace` of the pipelines.
    #[arg(long, value_name = "NAME", requires = "table")]
    namespace: Option<String>,
    /// The checkpoint file of the pipeline, if it has one in place of a table.
    #[arg(long, value_name = "FILE", conflicts_with = "table")]
    checkpoint_file: Option<PathBuf>,
    #[command(flatten)]
    access: AccessArguments,
    /// Show what would happen, and write nothing.
    #[arg(long)]
    dry_run: bool,
    /// Don't ask for confirmation before writing.
    #[arg(long, conflicts_with = "dry_run")]
    yes: bool,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

/// The reason why nothing is shown or written.
#[derive(Debug, thiserror::Error)]
enum Refusal {
    #[error(transparent)]
    Reset(#[from] ResetError),
    #[error("{0}")]
    Usage(&'static str),
    #[error("nothing was written")]
    NotConfirmed,
}

impl Refusal {
    fn exit(&self) -> Exit {
        match self {
            Self::Usage(_) | Self::Reset(ResetError::OneShard) => Exit::Usage,
            Self::Reset(ResetError::Refused(_)) | Self::NotConfirmed => Exit::Failed,
            Self::Reset(_) => Exit::Input,
        }
    }
}

/// Reads a position, as a person writes it.
pub(crate) fn to(text: &str) -> Result<To, String> {
    match text {
        "oldest" => Ok(To::Oldest),
        "latest" => Ok(To::Latest),
        _ if text.bytes().all(|byte| byte.is_ascii_digit()) => {
            SequenceNumber::new(text).map(To::Record).map_err(|error| error.to_string())
        }
        _ => kinesis_input::kcl::time(text).map(To::Time).map_err(|error| {
            format!("expected `oldest`, `latest`, a sequence number or a time such as 2026-11-01T00:00:00Z: {error}")
        }),
    }
}

/// Returns the text to print, and an error message and the exit code if the plan is not carried out.
pub(crate) async fn reset(arguments: &Reset) -> (String, Option<(Exit, String)>) {
    let mut out = String::new();
    let done = run(arguments, &mut out).await;
    (out, done.err().map(|refusal| (refusal.exit(), refusal.to_string())))
}

async fn run(arguments: &Reset, out: &mut String) -> Result<(), Refusal> {
    if !arguments.dry_run && !arguments.yes && !io::stdin().is_terminal() {
        return Err(Refusal::Usage(
            "there is no terminal to ask on; `--yes` writes without asking, and `--dry-run` only shows",
        ));
    }
    let at = ResetAt {
        stream: arguments.stream.clone(),
        table: TableAt {
            namespace: arguments.namespace.clone(),
            ..arguments.access.at(arguments.table.as_deref().unwrap_or_default())
        },
        file: arguments.checkpoint_file.clone(),
    };
    let reset = reset::Reset::open(&at).await?;
    let plan = reset.plan(&arguments.to, &arguments.shards).await?;
    let shown = if arguments.json { json(&plan) } else { text(&plan) };
    let (refusals, writes) = (plan.refusals(), plan.writes());
    if arguments.dry_run || arguments.yes || !refusals.is_empty() {
        out.push_str(&shown);
    }
    if !refusals.is_empty() {
        return Err(ResetError::Refused(refusals.join("\n")).into());
    }
    if arguments.dry_run || writes == 0 {
        return Ok(());
    }
    let question = format!("{shown}What lies behind these positions is delivered again. Write {writes}? [yes/no] ");
    if !arguments.yes && answer(&question) != "yes" {
        return Err(Refusal::NotConfirmed);
    }
    let Done { written, changed, .. } = reset.carry_out(plan).await?;
    if !arguments.json {
        // Writing to a string can't fail.
        let _ = writeln!(out, "{written} positions were written");
    }
    if changed.is_empty() {
        return Ok(());
    }
    let changed = changed.join(", ");
    Err(ResetError::Refused(format!("the row of {changed} changed meanwhile; run the command again")).into())
}

/// The plan, for people.
fn text(plan: &Plan) -> String {
    let mut rows = vec![["SHARD", "NOW", "THEN", "", "WHY"].map(str::to_owned)];
    rows.extend(plan.lines.iter().map(|line| {
        let action = match line.action {
            Action::Write => "write",
            Action::Keep => "keep",
            Action::Refuse => "refuse",
            _ => "?",
        };
        [line.shard.clone(), line.before.clone(), line.after.clone(), action.to_owned(), line.why.clone()]
    }));
    let mut out = columns(&rows);
    // Writing to a string can't fail.
    let _ = writeln!(out, "{} shards, {} positions to write", plan.lines.len(), plan.writes());
    out
}
