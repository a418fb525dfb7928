//! Which worker owns which shard of a lease table?

use std::fmt::Write as _;
use std::io::{self, BufRead, IsTerminal, Write as _};
use std::time::Duration;

use clap::Args;
use kinesis_input::inspect::{InspectError, LeaseTable, Overview, Released, SeenShard, SeenWorker, State};

use crate::Exit;
use crate::http::status::held;
use crate::http::text::duration;
use crate::table::TableArguments;

/// The arguments of `kinesis-input leases`.
#[derive(Debug, Args)]
pub(crate) struct Leases {
    #[command(flatten)]
    table: TableArguments,
    /// Only this stream, as the table calls it: by name or ARN.
    #[arg(long)]
    stream: Option<String>,
    /// Don't ask the streams how far behind each shard is.
    #[arg(long)]
    table_only: bool,
    /// Print JSON.
    #[arg(long)]
    json: bool,
    /// Release the leases of this worker, which is gone for good and did not stop gracefully. Asks for confirmation
    /// first.
    #[arg(long, value_name = "WORKER", conflicts_with_all = ["stream", "table_only"])]
    release: Option<String>,
    /// Don't ask for confirmation before releasing.
    #[arg(long, requires = "release")]
    yes: bool,
    /// For how many seconds a worker is observed before it is considered gone.
    #[arg(long, value_name = "SECONDS", default_value_t = 15, requires = "release")]
    watch: u64,
}

/// The reason why nothing is shown or released.
#[derive(Debug, thiserror::Error)]
enum Refusal {
    #[error(transparent)]
    Inspect(#[from] InspectError),
    #[error("{0}")]
    Usage(String),
    #[error("nothing was released")]
    NotConfirmed,
}

impl Refusal {
    fn exit(&self) -> Exit {
        match self {
            Self::Usage(_) | Self::Inspect(InspectError::NoSuchWorker(_)) => Exit::Usage,
            Self::Inspect(InspectError::Access(_) | InspectError::Store(_)) => Exit::Input,
            Self::Inspect(_) | Self::NotConfirmed => Exit::Failed,
        }
    }
}

/// Returns the text to print, or an error message and the exit code.
pub(crate) async fn leases(arguments: &Leases) -> Result<String, (Exit, String)> {
    let done = async {
        let table = LeaseTable::open(&arguments.table.at()).await?;
        match &arguments.release {
            None => show(&table, arguments).await,
            Some(worker) => release(&table, worker, arguments).await,
        }
    };
    done.await.map_err(|refusal: Refusal| (refusal.exit(), refusal.to_string()))
}

async fn show(table: &LeaseTable, arguments: &Leases) -> Result<String, Refusal> {
    let mut seen = table.overview(arguments.stream.as_deref()).await?;
    if !arguments.table_only {
        table.ask_how_far_behind(&mut seen).await;
    }
    Ok(if arguments.json { json(&seen) } else { text(&seen) })
}

async fn release(table: &LeaseTable, worker: &str, arguments: &Leases) -> Result<String, Refusal> {
    if !arguments.yes {
        let seen = table.overview(None).await?;
        let namespace = arguments.table.namespace();
        let is_its =
            |shard: &&SeenShard| shard.namespace.as_deref() == namespace && shard.owner.as_deref() == Some(worker);
        let held = seen.shards.iter().filter(is_its).count();
        let is_it = |shown: &&SeenWorker| shown.namespace.as_deref() == namespace && shown.worker == worker;
        let shown = seen.workers.iter().find(is_it);
        if held == 0 && shown.is_none() {
            return Err(InspectError::NoSuchWorker(worker.to_owned()).into());
        }
        let ago = shown
            .and_then(|shown| shown.seen_seconds_ago)
            .map_or("not known when".to_owned(), |ago| format!("{} ago", duration(ago.unsigned_abs())));
        confirm(
            &format!(
                "{worker} holds {held} shards and showed itself last {ago}.\n\
             Others take them at once, and read again what it had not stored. Its name, to release them: "
            ),
            worker,
        )?;
    }
    let released = table.release(worker, Duration::from_secs(arguments.watch)).await?;
    Ok(if arguments.json { json(&released) } else { summary(worker, released) })
}

fn confirm(question: &str, expected: &str) -> Result<(), Refusal> {
    if !io::stdin().is_terminal() {
        return Err(Refusal::Usage("there is no terminal to ask on; `--yes` releases without asking".into()));
    }
    if answer(question) == expected { Ok(()) } else { Err(Refusal::NotConfirmed) }
}

/// Asks on the terminal. A question that can't be asked has an empty answer.
pub(crate) fn answer(question: &str) -> String {
    let mut answer = String::new();
    let _ = io::stderr().write_all(question.as_bytes());
    let _ = io::stdin().lock().read_line(&mut answer);
    answer.trim().to_owned()
}

fn summary(worker: &str, Released { shards, changed, .. }: Released) -> String {
    let mut summary = format!("{worker}: released {shards} shards");
    if changed > 0 {
        // Writing to a string can't fail.
        let _ = write!(summary, "; {changed} had changed hands and were left alone");
    }
    summary + "\n"
}

pub(crate) fn json(value: &impl serde::Serialize) -> String {
    // The keys of maps are text, and nothing else can fail.
    serde_json::to_string_pretty(value).unwrap_or_default() + "\n"
}

/// Two tables and a line with the totals. Both have the namespace of each row, if any has one.
fn text(seen: &Overview) -> String {
    let with_namespaces = seen.shards.iter().any(|shard| shard.namespace.is_some())
        || seen.workers.iter().any(|worker| worker.namespace.is_some());
    let namespaced = |namespace: &str, cells: &[String]| -> Vec<String> {
        let first = with_namespaces.then(|| namespace.to_owned());
        first.into_iter().chain(cells.iter().cloned()).collect()
    };
    let heading = |cells: &[&str]| namespaced("NAMESPACE", &cells.iter().map(ToString::to_string).collect::<Vec<_>>());
    let name = |namespace: &Option<String>| namespace.clone().unwrap_or_else(|| "-".into());
    let mut shards = vec![heading(&["STREAM", "SHARD", "STATE", "OWNER", "HELD FOR", "BEHIND", "REMARKS"])];
    shards.extend(seen.shards.iter().map(|shard| {
        let cells = [
            shard.stream.clone(),
            shard.shard.clone(),
            held(shard.state).to_owned(),
            shard.owner.clone().unwrap_or_else(|| "-".into()),
            shard.held_seconds.map_or("-".into(), |held| duration(held.unsigned_abs())),
            shard.behind_ms.map_or("-".into(), |behind| duration(behind.div_ceil(1000))),
            remarks(shard),
        ];
        namespaced(&name(&shard.namespace), &cells)
    }));
    let mut workers = vec![heading(&["WORKER", "SHARDS", "RUNS FOR", "SEEN", "READS"])];
    workers.extend(seen.workers.iter().map(|worker| {
        let ago = |seconds: Option<i64>| seconds.map_or("?".into(), |seconds| duration(seconds.unsigned_abs()));
        let cells = [
            worker.worker.clone(),
            worker.shards.to_string(),
            ago(worker.runs_seconds),
            ago(worker.seen_seconds_ago) + " ago",
            if worker.explicit { "shards by name" } else { "its share" }.to_owned(),
        ];
        namespaced(&name(&worker.namespace), &cells)
    }));
    let count = |state| seen.shards.iter().filter(|shard| shard.state == state).count();
    let furthest = seen.shards.iter().filter_map(|shard| Some((shard.behind_ms?, shard))).max_by_key(|(ms, _)| *ms);
    let lag = furthest.map_or(String::new(), |(ms, shard)| {
        let namespace = shard.namespace.as_ref().map_or(String::new(), |namespace| format!("{namespace} "));
        format!("; lag {}, of {namespace}{} {}", duration(ms.div_ceil(1000)), shard.stream, shard.shard)
    });
    format!(
        "{}\n{}\n{} shards: {} held, {} free, {} ended{lag}\n",
        columns(&workers),
        columns(&shards),
        seen.shards.len(),
        count(State::Held),
        count(State::Free),
        count(State::Ended),
    )
}

fn remarks(shard: &SeenShard) -> String {
    let mut remarks = Vec::new();
    if let Some(remark) = &shard.remark {
        remarks.push(remark.clone());
    }
    if let Some(worker) = &shard.requester {
        remarks.push(format!("requested by {worker}"));
    }
    if shard.other_program {
        remarks.push("held by another program".into());
    } else if shard.owner.is_some() && shard.owner_seen_seconds_ago.is_none() {
        remarks.push("its owner no longer writes heartbeats".into());
    }
    if shard.sequence_number.is_none() && shard.state != State::Ended {
        remarks.push("nothing stored yet".into());
    }
    remarks.join("; ")
}

/// Rows under each other, each column as wide as its widest cell.
pub(crate) fn columns<R: AsRef<[String]>>(rows: &[R]) -> String {
    let mut out = String::new();
    let columns = rows.first().map_or(0, |row| row.as_ref().len());
    let width = |cell: Option<&String>| cell.map_or(0, |cell| cell.chars().count());
    let widths: Vec<usize> = (0..columns)
        .map(|column| rows.iter().map(|row| width(row.as_ref().get(column))).max().unwrap_or_default())
        .collect();
    for row in rows {
        let mut line = String::new();
        for (cell, &width) in row.as_ref().iter().zip(&widths) {
            // Writing to a string can't fail.
            let _ = write!(line, "{cell:<width$}  ");
        }
        out += line.trim_end();
        out.push('\n');
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_as_wide_as_their_widest_cell() {
        let rows = [["A", "LONG", ""], ["wider", "b", "c"]].map(|row| row.map(str::to_owned));
        assert_eq!(columns(&rows), "A      LONG\nwider  b     c\n");
    }
}
