//! What do `/status` and `/fleet` say?
//!
//! These types are the form of both documents, for programs that read them. `docs/status.md` lists every field, and a
//! test compares. The page and `kinesis-input top` show the same documents.

use std::collections::HashMap;
use std::time::Duration;

use kinesis_input::Stream;
use kinesis_input::inspect::{self, Overview};
use kinesis_input::telemetry::report::{Change, ChangeKind, ConditionReport, Connected, Report, ShardReport, Used};
use pipeline_plugin_api::State;
use pipeline_plugin_api::config::schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// The version of the form of both documents.
pub(crate) const VERSION: u32 = 1;

/// What a run does at the moment.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[schemars(crate = "pipeline_plugin_api::config::schemars")]
pub(crate) struct Status {
    /// The version of the document's form. It grows when a field is removed or gets another meaning, not when one is added.
    pub(crate) version: u32,
    /// The version of the program.
    pub(crate) program: String,
    /// How long the program has run.
    pub(crate) uptime_seconds: f64,
    /// Whether `/ready` answers with 200.
    pub(crate) ready: bool,
    /// Why the run is not ready; `null` if it is.
    pub(crate) reason: Option<String>,
    /// The age of the oldest record that is not acknowledged, or not read, of all shards that this worker reads or that no worker reads; `null` while nothing is connected. The maximum over all workers is the lag of the streams.
    pub(crate) lag_seconds: Option<f64>,
    /// The records that were read and are not acknowledged.
    pub(crate) pending_messages: u64,
    /// The inputs of the pipeline.
    pub(crate) inputs: Vec<Input>,
}

/// An input.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[schemars(crate = "pipeline_plugin_api::config::schemars")]
pub(crate) struct Input {
    /// `disconnected`, `connected`, `degraded`, `ended`, `failed` or `closed`.
    pub(crate) state: String,
    /// Why the input is not healthy, in a sentence.
    pub(crate) reason: Option<String>,
    /// The streams, as a text for people.
    pub(crate) target: String,
    /// The name under which this worker holds leases.
    pub(crate) worker: String,
    /// The ARNs of the streams that are read.
    pub(crate) streams: Vec<String>,
    /// The greatest lag of the shards that this worker reads, or that no worker reads; `null` while it is not connected.
    pub(crate) lag_seconds: Option<f64>,
    /// How long there has been a shard that no worker reads, or that this worker can't read because its leases have expired; `null` if there is none.
    pub(crate) unread_seconds: Option<f64>,
    /// Whether the leases of this worker are valid; `null` where there are no leases to renew.
    pub(crate) leases_valid: Option<bool>,
    /// The number of live workers that share the lease table, including this one; `null` where no table is shared.
    pub(crate) workers: Option<u64>,
    /// The bound on memory; `null` while the input is not connected.
    pub(crate) pool: Option<Pool>,
    /// What was read and acknowledged in a second, over the last few seconds.
    pub(crate) rates: PerSecond,
    /// What is not read, delivered or stored, the longest first.
    pub(crate) conditions: Vec<Condition>,
    /// The shards that this worker reads or drains.
    pub(crate) shards: Vec<Shard>,
    /// What changed lately, the newest first; at most 200 changes.
    pub(crate) changes: Vec<Changed>,
}

/// The bound on memory.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[schemars(crate = "pipeline_plugin_api::config::schemars")]
pub(crate) struct Pool {
    /// The records between the socket and their final ack.
    pub(crate) records: Usage,
    /// The bytes that these records hold, and frames that are being read.
    pub(crate) bytes: Usage,
}

/// The usage of the pool.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, JsonSchema)]
#[schemars(crate = "pipeline_plugin_api::config::schemars")]
pub(crate) struct Usage {
    /// What is taken now.
    pub(crate) used: u64,
    /// The most that was ever taken at once.
    pub(crate) peak: u64,
    /// The configured limit.
    pub(crate) capacity: u64,
    /// The number of reservations that wait for space.
    pub(crate) waiting: u64,
}

/// Rates over the last few seconds.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize, JsonSchema)]
#[schemars(crate = "pipeline_plugin_api::config::schemars")]
pub(crate) struct PerSecond {
    /// Records read in a second; `null` until it is known.
    pub(crate) read_records: Option<f64>,
    /// Bytes read in a second; `null` until it is known.
    pub(crate) read_bytes: Option<f64>,
    /// Records acknowledged in a second; `null` until it is known.
    pub(crate) acked_records: Option<f64>,
}

/// A part of the input that is not read, delivered or stored.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[schemars(crate = "pipeline_plugin_api::config::schemars")]
pub(crate) struct Condition {
    /// The stream, if the part belongs to one.
    pub(crate) stream: Option<String>,
    /// The shard, if the part belongs to one.
    pub(crate) shard: Option<String>,
    /// The reason, in a sentence.
    pub(crate) reason: String,
    /// How long it has lasted.
    pub(crate) for_seconds: f64,
}

/// A shard that this worker owns.
#[expect(clippy::struct_field_names, reason = "that is what the document calls its id")]
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[schemars(crate = "pipeline_plugin_api::config::schemars")]
pub(crate) struct Shard {
    /// The name of the stream, or its ARN if the input reads several streams of that name.
    pub(crate) stream: String,
    /// The id of the shard.
    pub(crate) shard: String,
    /// `reading`, or `draining` if only what is in flight is waited for.
    pub(crate) state: String,
    /// How long this worker has held the shard.
    pub(crate) held_seconds: f64,
    /// The sequence number up to which everything is acknowledged; `null` until something is, since this worker claimed the shard.
    pub(crate) position: Option<String>,
    /// The age of the oldest record that is not acknowledged, or not read.
    pub(crate) lag_seconds: f64,
    /// What was read and acknowledged in a second, over the last few seconds.
    pub(crate) rates: PerSecond,
    /// The records that were read since the claim.
    pub(crate) read_records: u64,
    /// The bytes of their data.
    pub(crate) read_bytes: u64,
    /// The records that were acknowledged since the claim.
    pub(crate) acked_records: u64,
    /// The records that were nacked since the claim.
    pub(crate) nacked_records: u64,
    /// The records that were read and are not acknowledged.
    pub(crate) pending_records: u64,
    /// Those of them that the output has.
    pub(crate) in_flight_records: u64,
    /// Whether a record that was read waits for `checkpoint_limit`.
    pub(crate) held_by_limit: bool,
    /// Why the shard is not read, delivered or stored; `null` if it is.
    pub(crate) condition: Option<String>,
    /// The last error of a subscription or a poll since the claim, whether or not reading went on.
    pub(crate) last_error: Option<String>,
    /// How long ago that was.
    pub(crate) last_error_seconds_ago: Option<f64>,
}

/// A change, or several of one kind that followed each other closely.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[schemars(crate = "pipeline_plugin_api::config::schemars")]
pub(crate) struct Changed {
    /// How long ago the last of them was.
    pub(crate) seconds_ago: f64,
    /// `claimed`, `took_over`, `released`, `lost`, `ended`, `leases_expired`, `leases_renewed`, `degraded` or `recovered`.
    pub(crate) kind: String,
    /// The stream of the last of them, if it concerns one.
    pub(crate) stream: Option<String>,
    /// The shard of the last of them, if it concerns one.
    pub(crate) shard: Option<String>,
    /// The other worker, or the reason.
    pub(crate) detail: Option<String>,
    /// How many changes they are.
    pub(crate) count: u64,
}

/// What the lease table says of all workers.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[schemars(crate = "pipeline_plugin_api::config::schemars")]
pub(crate) struct Fleet {
    /// The version of the document's form, as in `/status`.
    pub(crate) version: u32,
    /// Whether the input shares a lease table; otherwise the lists are empty.
    pub(crate) shared: bool,
    /// How long ago the table was read; `null` until it has been. It is read at most once in 30 seconds.
    pub(crate) read_seconds_ago: Option<f64>,
    /// Why the table could not be read at the last attempt; the lists are then those of the last attempt that succeeded.
    pub(crate) error: Option<String>,
    /// The workers that have a row in the table, by name.
    pub(crate) workers: Vec<FleetWorker>,
    /// The shards that have a row in the table.
    pub(crate) shards: Vec<FleetShard>,
}

/// A worker.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[schemars(crate = "pipeline_plugin_api::config::schemars")]
pub(crate) struct FleetWorker {
    /// The name of the worker.
    pub(crate) worker: String,
    /// How many shards it holds.
    pub(crate) shards: u64,
    /// How long it has run, by its own clock.
    pub(crate) runs_seconds: Option<i64>,
    /// How long ago it sent its last heartbeat, by its own clock.
    pub(crate) seen_seconds_ago: Option<i64>,
    /// Whether it reads shards that its configuration names, and takes no others.
    pub(crate) explicit: bool,
}

/// A row of a shard.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[schemars(crate = "pipeline_plugin_api::config::schemars")]
pub(crate) struct FleetShard {
    /// The stream, as the table spells it: its name or ARN.
    pub(crate) stream: String,
    /// The id of the shard.
    pub(crate) shard: String,
    /// `held`, `free`, `ended` or `unreadable`.
    pub(crate) state: String,
    /// The worker that holds the shard.
    pub(crate) owner: Option<String>,
    /// How long ago the owner sent its last heartbeat; `null` for other programs, and for owners without a row.
    pub(crate) owner_seen_seconds_ago: Option<i64>,
    /// Whether the owner is another program, such as Redpanda Connect.
    pub(crate) other_program: bool,
    /// How long ago the owner claimed the shard, by its own clock.
    pub(crate) held_seconds: Option<i64>,
    /// The worker that asked the owner for the shard.
    pub(crate) requester: Option<String>,
    /// The sequence number that is stored.
    pub(crate) position: Option<String>,
    /// What is wrong with the row.
    pub(crate) remark: Option<String>,
}

impl Status {
    /// Makes the document of these reports, without rates.
    pub(crate) fn new(reports: &[Report], uptime: Duration) -> Self {
        let inputs: Vec<_> = reports.iter().map(Input::new).collect();
        let reason = not_ready(reports);
        let lag = inputs.iter().filter_map(|input| input.lag_seconds).max_by(f64::total_cmp);
        let pending = inputs.iter().filter_map(|input| Some(input.pool.as_ref()?.records.used)).sum();
        Self {
            version: VERSION,
            program: env!("CARGO_PKG_VERSION").to_owned(),
            uptime_seconds: seconds(uptime),
            ready: reason.is_none(),
            reason,
            lag_seconds: lag,
            pending_messages: pending,
            inputs,
        }
    }
}

/// A shard that no worker reads for this long is not just on its way from one worker to another.
pub(crate) const UNREAD: Duration = Duration::from_mins(1);

/// Why the run is not ready: an input is not connected, its leases have expired, or a part of it is not read, delivered or
/// stored. An input that has nothing to read, because other workers read all shards, is ready.
pub(crate) fn not_ready(reports: &[Report]) -> Option<String> {
    if reports.is_empty() {
        return Some("the pipeline is starting".to_owned());
    }
    let of = |report: &Report| {
        let because = |what: &str| match &report.reason {
            Some(reason) => format!("{what}: {reason}"),
            None => what.to_owned(),
        };
        let connected = report.connected.as_ref();
        let leases_expired = connected.is_some_and(|connected| connected.leases_valid == Some(false));
        let unread =
            connected.filter(|connected| connected.shards.is_empty()).and_then(|connected| connected.unread_for);
        match report.state {
            State::Connected | State::Ended if leases_expired => Some("the leases have expired".to_owned()),
            State::Connected if unread.is_some_and(|unread| unread >= UNREAD) => {
                Some("nothing is read, although there are shards that no worker reads".to_owned())
            }
            State::Connected | State::Ended => None,
            State::Disconnected => Some(because("not connected")),
            State::Degraded => Some(because("degraded")),
            State::Failed => Some(because("failed")),
            _ => Some(because("closed")),
        }
    };
    reports.iter().find_map(of)
}

impl Input {
    fn new(report: &Report) -> Self {
        let empty = Self {
            state: state(report.state).to_owned(),
            reason: report.reason.clone(),
            target: report.target.clone(),
            worker: report.worker.to_string(),
            streams: Vec::new(),
            lag_seconds: None,
            unread_seconds: None,
            leases_valid: None,
            workers: None,
            pool: None,
            rates: PerSecond::default(),
            conditions: Vec::new(),
            shards: Vec::new(),
            changes: Vec::new(),
        };
        match &report.connected {
            None => empty,
            Some(connected) => empty.connected(connected),
        }
    }

    fn connected(self, connected: &Connected) -> Self {
        let name = |stream: &Stream| {
            let is_same = |other: &&Stream| other.name() == stream.name();
            let is_unique = connected.streams.iter().filter(is_same).count() <= 1;
            if is_unique { stream.name() } else { stream.arn() }.to_owned()
        };
        let conditions: HashMap<_, &str> = connected
            .conditions
            .iter()
            .filter_map(|one| Some(((one.stream.as_ref()?.arn(), one.shard.as_ref()?), one.reason.as_str())))
            .collect();
        let shard = |shard: &ShardReport| {
            let condition = conditions.get(&(shard.stream.arn(), &shard.shard));
            Shard::new(shard, name(&shard.stream), condition.copied())
        };
        let shards: Vec<_> = connected.shards.iter().map(shard).collect();
        Self {
            streams: connected.streams.iter().map(|stream| stream.arn().to_owned()).collect(),
            lag_seconds: Some(seconds(connected.lag)),
            unread_seconds: connected.unread_for.map(seconds),
            leases_valid: connected.leases_valid,
            workers: connected.workers,
            pool: Some(Pool { records: connected.records.into(), bytes: connected.bytes.into() }),
            conditions: connected.conditions.iter().map(|one| Condition::new(one, name)).collect(),
            changes: connected.changes.iter().map(|one| Changed::new(one, name)).collect(),
            shards,
            ..self
        }
    }
}

impl Shard {
    fn new(shard: &ShardReport, stream: String, condition: Option<&str>) -> Self {
        Self {
            stream,
            shard: shard.shard.to_string(),
            state: if shard.is_reading { "reading" } else { "draining" }.to_owned(),
            held_seconds: seconds(shard.held_for),
            position: shard.position.as_ref().map(ToString::to_string),
            lag_seconds: seconds(shard.lag),
            rates: PerSecond::default(),
            read_records: shard.read_records,
            read_bytes: shard.read_bytes,
            acked_records: shard.acked_records,
            nacked_records: shard.nacked_records,
            pending_records: shard.pending_records,
            in_flight_records: shard.in_flight_records,
            held_by_limit: shard.is_held_by_limit,
            condition: condition.map(ToOwned::to_owned),
            last_error: shard.last_error.as_ref().map(|(error, _)| error.clone()),
            last_error_seconds_ago: shard.last_error.as_ref().map(|(_, ago)| seconds(*ago)),
        }
    }
}

impl Condition {
    fn new(condition: &ConditionReport, name: impl Fn(&Stream) -> String) -> Self {
        Self {
            stream: condition.stream.as_ref().map(name),
            shard: condition.shard.as_ref().map(ToString::to_string),
            reason: condition.reason.clone(),
            for_seconds: seconds(condition.lasts),
        }
    }
}

impl Changed {
    fn new(change: &Change, name: impl Fn(&Stream) -> String) -> Self {
        Self {
            seconds_ago: seconds(change.ago),
            kind: kind(change.kind).to_owned(),
            stream: change.stream.as_ref().map(name),
            shard: change.shard.as_ref().map(ToString::to_string),
            detail: change.detail.clone(),
            count: change.count,
        }
    }
}

impl From<Used> for Usage {
    fn from(used: Used) -> Self {
        Self { used: used.used, peak: used.peak, capacity: used.capacity, waiting: used.waiting as u64 }
    }
}

impl Fleet {
    /// Makes the document of what was read from the tables.
    pub(crate) fn new(seen: &[Overview]) -> Self {
        let workers = seen.iter().flat_map(|seen| &seen.workers).map(|worker| FleetWorker {
            worker: worker.worker.clone(),
            shards: worker.shards as u64,
            runs_seconds: worker.runs_seconds,
            seen_seconds_ago: worker.seen_seconds_ago,
            explicit: worker.explicit,
        });
        let shards = seen.iter().flat_map(|seen| &seen.shards).map(|shard| FleetShard {
            stream: shard.stream.clone(),
            shard: shard.shard.clone(),
            state: held(shard.state).to_owned(),
            owner: shard.owner.clone(),
            owner_seen_seconds_ago: shard.owner_seen_seconds_ago,
            other_program: shard.other_program,
            held_seconds: shard.held_seconds,
            requester: shard.requester.clone(),
            position: shard.sequence_number.clone(),
            remark: shard.remark.clone(),
        });
        Self {
            version: VERSION,
            shared: !seen.is_empty(),
            read_seconds_ago: Some(0.0),
            error: None,
            workers: workers.collect(),
            shards: shards.collect(),
        }
    }

    /// The document before anything was read.
    pub(crate) fn unread() -> Self {
        Self { version: VERSION, ..Self::default() }
    }
}

/// Milliseconds are precise enough, and short.
fn seconds(duration: Duration) -> f64 {
    duration.as_millis() as f64 / 1000.0
}

fn state(state: State) -> &'static str {
    match state {
        State::Disconnected => "disconnected",
        State::Connected => "connected",
        State::Degraded => "degraded",
        State::Ended => "ended",
        State::Failed => "failed",
        _ => "closed",
    }
}

fn kind(kind: ChangeKind) -> &'static str {
    match kind {
        ChangeKind::Claimed => "claimed",
        ChangeKind::TookOver => "took_over",
        ChangeKind::Released => "released",
        ChangeKind::Lost => "lost",
        ChangeKind::Ended => "ended",
        ChangeKind::LeasesExpired => "leases_expired",
        ChangeKind::LeasesRenewed => "leases_renewed",
        ChangeKind::Degraded => "degraded",
        ChangeKind::Recovered => "recovered",
        _ => "changed",
    }
}

pub(crate) fn held(state: inspect::State) -> &'static str {
    match state {
        inspect::State::Held => "held",
        inspect::State::Free => "free",
        inspect::State::Ended => "ended",
        inspect::State::Unreadable => "unreadable",
        _ => "unknown",
    }
}

#[cfg(test)]
mod tests {
    use std::fmt::Write as _;
    use std::path::Path;

    use pipeline_plugin_api::config::schemars;
    use serde_json::Value;

    use super::*;

    /// A row for each field below a schema, with its path, its type and its description.
    fn rows(schema: &Value, definitions: &Value, path: &str, rows: &mut String) {
        let resolved = |schema: &Value| match schema["$ref"].as_str() {
            Some(name) => definitions[name.rsplit('/').next().unwrap()].clone(),
            None => schema.clone(),
        };
        for (name, field) in schema["properties"].as_object().unwrap() {
            let description = field["description"].as_str().unwrap_or_else(|| panic!("{path}{name} is not described"));
            let some = field["anyOf"].as_array().map_or(field, |any| &any[0]);
            let (inner, list) = match &some["items"] {
                Value::Null => (resolved(some), ""),
                items => (resolved(items), "[]"),
            };
            let types = match &inner["type"] {
                Value::Array(types) => types.iter().filter_map(Value::as_str).collect::<Vec<_>>().join(" or "),
                one => one.as_str().unwrap().to_owned(),
            };
            let types = if list.is_empty() { types } else { format!("list of {types}s") };
            let types = if field["anyOf"].is_array() { format!("{types} or null") } else { types };
            writeln!(rows, "| `{path}{name}` | {types} | {description} |").unwrap();
            if inner["properties"].is_object() {
                self::rows(&inner, definitions, &format!("{path}{name}{list}."), rows);
            }
        }
    }

    fn table<T: JsonSchema>() -> String {
        let schema = schemars::schema_for!(T).to_value();
        let mut table = String::from("| field | | what it says |\n|---|---|---|\n");
        rows(&schema, &schema["$defs"], "", &mut table);
        table
    }

    #[test]
    fn page_of_the_status_lists_every_field() {
        let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/status.md");
        let page = std::fs::read_to_string(&file).unwrap();
        let mut right = page.clone();
        for (name, table) in [("status", table::<Status>()), ("fleet", table::<Fleet>())] {
            let start = format!("<!-- {name}: compared with the code by a test -->\n");
            let (before, rest) = right.split_once(&start).unwrap();
            let (_, after) = rest.split_once(&format!("<!-- end of {name} -->")).unwrap();
            right = format!("{before}{start}{table}<!-- end of {name} -->{after}");
        }
        if std::env::var_os("UPDATE_DOCS").is_some() {
            std::fs::write(file, &right).unwrap();
        }
        assert!(page == right || std::env::var_os("UPDATE_DOCS").is_some(), "run the test with UPDATE_DOCS=1");
    }
}
