//! How does a stream change over from Amazon's KCL, and back?

use std::fmt::Write as _;
use std::io::{self, IsTerminal};
use std::time::{Duration, SystemTime};

use clap::{Args, Subcommand};
use kinesis_input::kcl::{Action, ExportOptions, ImportOptions, KclError, Migration, MigrationAt, Plan};

use crate::Exit;
use crate::leases::{answer, columns, json};
use crate::table::TableArguments;

/// The commands of `kinesis-input kcl`.
#[derive(Debug, Subcommand)]
pub(crate) enum Kcl {
    /// Take over the positions of an application of the KCL, which has been stopped. Nothing of the KCL's is changed.
    Import {
        #[command(flatten)]
        common: Common,
        /// The time at which the KCL begins, where its table says `AT_TIMESTAMP`; RFC 3339.
        #[arg(long, value_name = "TIME")]
        timestamp: Option<String>,
        /// Replace rows of ours that have no owner and are not further.
        #[arg(long)]
        overwrite: bool,
        /// Create the table of ours if it doesn't exist.
        #[arg(long)]
        create: bool,
    },
    /// Give positions to an application of the KCL, which does not run. Our table is not changed.
    Export {
        #[command(flatten)]
        common: Common,
        /// Make rows of shards that the KCL has none of, and its table if it doesn't exist.
        #[arg(long)]
        create: bool,
    },
}

#[derive(Debug, Args)]
pub(crate) struct Common {
    /// The application of the KCL, whose lease table has its name.
    #[arg(long, value_name = "NAME")]
    app: String,
    /// The stream, by name or ARN, as the pipelines call it.
    #[arg(long)]
    stream: String,
    #[command(flatten)]
    table: TableArguments,
    /// Show what would happen, and write nothing.
    #[arg(long)]
    dry_run: bool,
    /// Don't ask for confirmation before writing.
    #[arg(long, conflicts_with = "dry_run")]
    yes: bool,
    /// The failover time of the KCL in seconds: its table is watched for longer than this.
    #[arg(long, value_name = "SECONDS", default_value_t = 10)]
    failover: u64,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

/// The reason why nothing is shown or written.
#[derive(Debug, thiserror::Error)]
enum Refusal {
    #[error(transparent)]
    Kcl(#[from] KclError),
    #[error("{0}")]
    Usage(String),
    #[error("nothing was written")]
    NotConfirmed,
}

impl Refusal {
    fn exit(&self) -> Exit {
        match self {
            Self::Usage(_) => Exit::Usage,
            Self::Kcl(KclError::Running(_) | KclError::Refused(_)) | Self::NotConfirmed => Exit::Failed,
            Self::Kcl(_) => Exit::Input,
        }
    }
}

/// Returns the text to print, and an error message and the exit code if the plan is not carried out.
pub(crate) async fn kcl(command: &Kcl) -> (String, Option<(Exit, String)>) {
    let mut out = String::new();
    let done = Box::pin(run(command, &mut out)).await;
    (out, done.err().map(|refusal| (refusal.exit(), refusal.to_string())))
}

async fn run(command: &Kcl, out: &mut String) -> Result<(), Refusal> {
    let (Kcl::Import { common, .. } | Kcl::Export { common, .. }) = command;
    let failover = Duration::from_secs(common.failover);
    let at = MigrationAt { application: common.app.clone(), stream: common.stream.clone(), table: common.table.at() };
    // What is wrong with the command is said before the tables are watched.
    let timestamp = match command {
        Kcl::Import { timestamp: Some(timestamp), .. } => Some(time(timestamp)?),
        _ => None,
    };
    if !common.dry_run && !common.yes && !io::stdin().is_terminal() {
        return Err(Refusal::Usage(
            "there is no terminal to ask on; `--yes` writes without asking, and `--dry-run` only shows".into(),
        ));
    }
    let migration = Migration::open(&at).await?;
    let plan = match command {
        Kcl::Import { overwrite, create, .. } => {
            let options = ImportOptions { failover, timestamp, overwrite: *overwrite, create: *create };
            migration.plan_import(&options).await?
        }
        Kcl::Export { create, .. } => migration.plan_export(&ExportOptions { failover, create: *create }).await?,
    };
    let shown = if common.json { json(&plan) } else { text(&plan) };
    if !plan.refusals.is_empty() {
        out.push_str(&shown);
        return Err(KclError::Refused(plan.refusals.join("\n")).into());
    }
    if common.dry_run {
        out.push_str(&shown);
        return Ok(());
    }
    if common.yes {
        out.push_str(&shown);
    } else if plan.writes() > 0 && answer(&format!("{shown}Write {} positions? [yes/no] ", plan.writes())) != "yes" {
        return Err(Refusal::NotConfirmed);
    }
    let done = migration.carry_out(plan).await?;
    if common.json {
        return Ok(());
    }
    // Writing to a string can't fail.
    let _ = writeln!(out, "{} positions were written", done.written);
    if done.changed.is_empty() {
        return Ok(());
    }
    let changed = done.changed.join(", ");
    Err(KclError::Refused(format!("the rows of {changed} changed meanwhile; run the command again")).into())
}

fn time(text: &str) -> Result<SystemTime, Refusal> {
    kinesis_input::kcl::time(text).map_err(|error| Refusal::Usage(format!("--timestamp: {error}")))
}

/// The plan, for people.
fn text(plan: &Plan) -> String {
    let mut rows = vec![["SHARD", "KCL", "OURS", "", "WHY"].map(str::to_owned)];
    rows.extend(plan.lines.iter().map(|line| {
        let action = match line.action {
            Action::Write => "write",
            Action::Keep => "keep",
            Action::Skip => "skip",
            Action::Refuse => "refuse",
            _ => "?",
        };
        [line.shard.clone(), line.kcl.clone(), line.ours.clone(), action.to_owned(), line.why.clone()]
    }));
    let mut out = columns(&rows);
    for remark in &plan.remarks {
        out.push_str(remark);
        out.push('\n');
    }
    // Writing to a string can't fail.
    let _ = writeln!(out, "{} shards, {} positions to write", plan.lines.len(), plan.writes());
    out
}
