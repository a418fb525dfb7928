//! How does a stream change over from Amazon's Kinesis Client Library (KCL) to this input, and back?
//!
//! The KCL keeps its leases and checkpoints in a DynamoDB table that has the name of the application. [`Migration`] reads
//! it and writes the positions to a table of this input, or the other way round. Both are done while neither side runs:
//! each is planned first, and a [`Plan`] says for each shard what happens and why, or why nothing can be done.
//!
//! ```no_run
//! # async fn show() -> Result<(), Box<dyn std::error::Error>> {
//! use kinesis_input::inspect::TableAt;
//! use kinesis_input::kcl::{ImportOptions, Migration, MigrationAt};
//!
//! let table = TableAt { table: "leases".into(), ..TableAt::default() };
//! let at = MigrationAt { application: "orders-app".into(), stream: "orders".into(), table };
//! let migration = Migration::open(&at).await?;
//! let plan = migration.plan_import(&ImportOptions::default()).await?;
//! if plan.refusals.is_empty() {
//!     migration.carry_out(plan).await?;
//! }
//! # Ok(())
//! # }
//! ```
//!
//! - `row`: what a row of the KCL says; `plan`: the import; `export`: the way back (all three pure); `table`: the KCL's table.

mod export;
mod plan;
mod row;
mod table;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, SystemTime};

use aws_types::SdkConfig;
use futures::stream::{self, StreamExt, TryStreamExt};
use serde::Serialize;
use tokio::time::sleep;

use crate::aws::Service;
use crate::aws::sdk::{Aws, First};
use crate::config::{DynamoDb, Timestamp};
use crate::inspect::{CALL, InspectError, StreamError, TableAt, sessions};
use crate::lease::{Checkpoint, Row, StoreError, Table};
use crate::model::{ListedShard, SequenceNumber, ShardId, StartPosition, Stream, millis};
use crate::records::{Kind, kpl_kind};
use plan::{Planned, RecordAt, Target};
use row::{KclLease, KclRow, StreamKey};
use table::{Form, KclTable, Seen};

pub use crate::inspect::Done;
pub use plan::{Action, Line};

/// The number of records and rows that are asked for at once.
const AT_ONCE: usize = 8;
/// For how many failover times the KCL's table is watched.
const WATCHED: f64 = 1.2;

/// The locations of the two tables and the stream.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct MigrationAt {
    /// The application of the KCL, whose lease table has its name.
    pub application: String,
    /// The stream, by name or ARN, as the pipelines call it.
    pub stream: String,
    /// The table of this input. The KCL's table is in the same account and region.
    pub table: TableAt,
}

/// How positions are imported.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ImportOptions {
    /// The failover time of the KCL (`failoverTimeMillis`). Its table is watched for longer than this.
    pub failover: Duration,
    /// The time at which the KCL begins, where its table says `AT_TIMESTAMP`.
    pub timestamp: Option<SystemTime>,
    /// Whether rows of this input are replaced that have no owner and are not further.
    pub overwrite: bool,
    /// Whether the table of this input is created if it doesn't exist.
    pub create: bool,
}

impl Default for ImportOptions {
    fn default() -> Self {
        Self { failover: Duration::from_secs(10), timestamp: None, overwrite: false, create: false }
    }
}

/// How positions are exported.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ExportOptions {
    /// The failover time of the KCL (`failoverTimeMillis`). Its table is watched for longer than this.
    pub failover: Duration,
    /// Whether rows are made of shards that the KCL has none of, and the table if it doesn't exist.
    pub create: bool,
}

impl Default for ExportOptions {
    fn default() -> Self {
        Self { failover: Duration::from_secs(10), create: false }
    }
}

/// The reason why nothing is planned or carried out.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum KclError {
    /// No region or no credentials were found, or the table of this input can't be used.
    #[error(transparent)]
    Inspect(#[from] InspectError),
    /// The table of this input can't be used.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The KCL's table can't be used.
    #[error("the table {table} of the KCL: {what}")]
    Table {
        /// The table's name.
        table: String,
        /// The problem.
        what: String,
    },
    /// The stream can't be asked.
    #[error(transparent)]
    Stream(#[from] StreamError),
    /// The KCL still runs, or was started since the plan was made.
    #[error(
        "the KCL still runs: {0} wrote to its table while it was watched; stop all workers of the application first"
    )]
    Running(String),
    /// The plan has refusals.
    #[error("nothing was written: {0}")]
    Refused(String),
}

/// A plan of an import or an export. Nothing is written yet.
#[derive(Debug, Clone, Serialize)]
#[non_exhaustive]
pub struct Plan {
    /// What happens to each shard.
    pub lines: Vec<Line>,
    /// What else has to be known.
    pub remarks: Vec<String>,
    /// Why nothing of the plan can be carried out; empty if it can.
    pub refusals: Vec<String>,
    #[serde(skip)]
    work: Work,
    /// The KCL's table as it was when the plan was made.
    #[serde(skip)]
    seen: Vec<Seen>,
}

#[derive(Debug, Clone)]
enum Work {
    Import { writes: Vec<plan::Write>, id: String, create: bool },
    Export { writes: Vec<export::Write>, form: Form, create: bool },
}

impl Plan {
    /// The number of positions that will be written.
    pub fn writes(&self) -> usize {
        match &self.work {
            Work::Import { writes, .. } => writes.len(),
            Work::Export { writes, .. } => writes.len(),
        }
    }
}

/// A change-over between the KCL and this input.
#[derive(Debug)]
pub struct Migration {
    session: SdkConfig,
    streams: Aws,
    kcl: KclTable,
    /// Our table.
    ours: DynamoDb,
    stream: Stream,
    /// The stream as it was given.
    configured: String,
}

impl Migration {
    /// Finds the stream. The tables are not touched yet.
    ///
    /// # Errors
    ///
    /// An error is returned without a region, without credentials, or without such a stream.
    pub async fn open(at: &MigrationAt) -> Result<Self, KclError> {
        let (session, streams) = sessions(&at.table).await?;
        let found = streams.describe_stream(&at.stream).await;
        let stream = found.map_err(|fault| StreamError::new(&at.stream, "looking for it", &fault))?;
        let kcl = KclTable::new(&session, &at.application);
        let (ours, configured) = (at.table.config(), at.stream.clone());
        Ok(Self { session, streams, kcl, ours, stream, configured })
    }

    /// Plans an import. The KCL's table is watched for longer than the failover time, and read only.
    ///
    /// # Errors
    ///
    /// An error is returned when the KCL still runs, or when a table or the stream can't be read.
    pub async fn plan_import(&self, options: &ImportOptions) -> Result<Plan, KclError> {
        if !self.kcl.exists().await? {
            return Err(KclError::Table { table: self.kcl_name(), what: "it doesn't exist".to_owned() });
        }
        let seen = self.watched(options.failover).await?;
        let ours = self.rows(options.create).await?;
        let (id, ours) = ours;
        let listing = self.listing().await?;
        let rows: Vec<_> = seen.iter().map(|(_, row, _)| row.clone()).collect();
        let planned = match plan::of_stream(&rows, &self.stream) {
            Err(refusals) => Planned { refusals, ..Planned::new() },
            Ok((leases, remarks)) => {
                let asked = leases.iter().filter_map(|lease| Some((&lease.shard, plan::record(lease)?)));
                let records = self.records(&listing, asked).await?;
                let known = plan::Known {
                    stream: &self.stream,
                    listing: &listing,
                    leases: &leases,
                    ours: &ours,
                    records: &records,
                    now: millis(self.streams.time().unwrap_or_else(SystemTime::now)).max(0),
                    timestamp: options.timestamp.map(|time| millis(time).max(0)),
                    overwrite: options.overwrite,
                };
                let mut planned = plan::import(&known);
                planned.remarks.extend(remarks);
                planned
            }
        };
        let Planned { lines, remarks, refusals, writes } = planned;
        Ok(Plan { lines, remarks, refusals, work: Work::Import { writes, id, create: options.create }, seen })
    }

    /// Plans an export. The KCL's table is watched for longer than the failover time.
    ///
    /// # Errors
    ///
    /// An error is returned when the KCL still runs, or when a table or the stream can't be read.
    pub async fn plan_export(&self, options: &ExportOptions) -> Result<Plan, KclError> {
        let seen = if self.kcl.exists().await? {
            self.watched(options.failover).await?
        } else if options.create {
            Vec::new()
        } else {
            let what = "it doesn't exist; `--create` makes it".to_owned();
            return Err(KclError::Table { table: self.kcl_name(), what });
        };
        let (_, ours) = self.rows(false).await?;
        let listing = self.listing().await?;
        let rows: Vec<_> = seen.iter().map(|(_, row, _)| row.clone()).collect();
        let is_lease = |row: &Result<KclRow, String>| !matches!(row, Ok(KclRow::Other));
        let has_leases = rows.iter().any(is_lease);
        let leases = if has_leases { plan::of_stream(&rows, &self.stream) } else { Ok((Vec::new(), Vec::new())) };
        let has_entities = seen.iter().any(|(_, _, item)| item.contains_key(row::ENTITY));
        let planned = match leases {
            Err(refusals) => Planned { refusals, ..Planned::new() },
            Ok((leases, remarks)) => {
                let asked = ours.iter().filter_map(|row| Some((&row.shard, export::record(row)?)));
                let records = self.records(&listing, asked).await?;
                let known = export::Known {
                    stream: &self.stream,
                    listing: &listing,
                    leases: &leases,
                    ours: &ours,
                    records: &records,
                    create: options.create,
                };
                let mut planned = export::export(&known);
                planned.remarks.extend(remarks);
                planned
            }
        };
        let stream = seen.iter().find_map(|(_, row, _)| match row {
            Ok(KclRow::Lease(KclLease { stream, .. })) => stream.clone(),
            _ => None,
        });
        // The stream is in the table: another creation time was refused above.
        let stream = stream.map(|key| StreamKey {
            account: key.account,
            name: self.stream.name().to_owned(),
            created: self.stream.created().map_or(key.created, |created| created.div_euclid(1000)),
        });
        let Planned { lines, remarks, refusals, writes } = planned;
        let work = Work::Export { writes, form: Form { stream, has_entities }, create: options.create };
        Ok(Plan { lines, remarks, refusals, work, seen })
    }

    /// Carries out a plan. Rows that changed since it was made are not touched.
    ///
    /// # Errors
    ///
    /// An error is returned when the plan has refusals, when the KCL was started since, or when a table can't be
    /// written. Positions that were written before the error stay; the same plan can be made and carried out again.
    pub async fn carry_out(&self, plan: Plan) -> Result<Done, KclError> {
        if !plan.refusals.is_empty() {
            return Err(KclError::Refused(plan.refusals.join("; ")));
        }
        let is_there = self.kcl.exists().await?;
        let now = if is_there { self.kcl.scan().await? } else { Vec::new() };
        running(&plan.seen, &now)?;
        let mut done = Done { written: 0, changed: Vec::new() };
        match plan.work {
            Work::Import { writes, id, create } => {
                let config = DynamoDb { create, ..self.ours.clone() };
                let table = Table::open(&self.session, &config, CALL).await?;
                for write in &writes {
                    let (checkpoint, begins): (Option<&Checkpoint>, Option<&StartPosition>) = match &write.target {
                        Target::Checkpoint(checkpoint) => (Some(checkpoint), None),
                        Target::Begins(begins) => (None, Some(begins)),
                    };
                    let instead_of = write.instead_of.as_ref();
                    let written = table.import(&id, &self.stream, &write.shard, checkpoint, begins, instead_of).await?;
                    done.note(&write.shard, written);
                }
            }
            Work::Export { writes, form, create } => {
                if !is_there && create {
                    self.kcl.create().await?;
                }
                for write in &writes {
                    let written = self.kcl.write(write, &form).await?;
                    done.note(&write.shard.id, written);
                }
            }
        }
        Ok(done)
    }

    fn kcl_name(&self) -> String {
        self.kcl.name().to_owned()
    }

    /// Reads the KCL's table twice, more than the failover time apart. A living worker renews each of its leases three
    /// times in that time.
    async fn watched(&self, failover: Duration) -> Result<Vec<Seen>, KclError> {
        let before = self.kcl.scan().await?;
        sleep(failover.mul_f64(WATCHED)).await;
        let after = self.kcl.scan().await?;
        running(&before, &after)?;
        Ok(after)
    }

    /// Reads our rows, and the name under which they are. Without the table there are none, if it is to be created.
    async fn rows(&self, create: bool) -> Result<(String, Vec<Row>), KclError> {
        match Table::find(&self.session, &self.ours, CALL).await? {
            Some(table) => Ok(table.look(&self.stream, &self.configured).await?),
            None if create => {
                let is_arn = self.configured.starts_with("arn:");
                Ok((if is_arn { self.stream.arn() } else { self.stream.name() }.to_owned(), Vec::new()))
            }
            None => Err(StoreError::Table {
                table: self.ours.table.clone(),
                what: "it doesn't exist; `--create` makes it at an import".to_owned(),
            }
            .into()),
        }
    }

    async fn listing(&self) -> Result<Vec<ListedShard>, KclError> {
        let listing = self.streams.list_shards(&self.stream).await;
        Ok(listing.map_err(|fault| StreamError::new(self.stream.name(), "listing its shards", &fault))?)
    }

    /// Reads the records that positions name, one call of GetRecords each.
    async fn records(
        &self,
        listing: &[ListedShard],
        asked: impl Iterator<Item = (&ShardId, &SequenceNumber)>,
    ) -> Result<BTreeMap<ShardId, RecordAt>, KclError> {
        let listed: BTreeSet<&ShardId> = listing.iter().map(|shard| &shard.id).collect();
        let asked: Vec<(ShardId, SequenceNumber)> = asked
            .filter(|(shard, _)| listed.contains(shard))
            .map(|(shard, number)| (shard.clone(), number.clone()))
            .collect();
        let asking = asked.into_iter().map(|(shard, number)| async move {
            let first = self.streams.first(&self.stream, &shard, &StartPosition::AtRecord(number.clone())).await;
            let found = match first {
                Ok(First::Record { number: found, data }) if found == number.as_str() => at(&data),
                Ok(First::Record { number: found, .. }) if is_behind(&found, &number) => RecordAt::Gone,
                // Only a record behind it proves that it is gone.
                Ok(First::Record { .. } | First::Nothing | First::Unknown) => RecordAt::Unknown,
                Err(fault) if fault.code == "InvalidArgumentException" => RecordAt::Foreign,
                Err(fault) => {
                    return Err(StreamError::new(self.stream.name(), "reading the record of a position", &fault).into());
                }
            };
            Ok((shard, found))
        });
        stream::iter(asking).buffer_unordered(AT_ONCE).try_collect().await
    }
}

fn is_behind(found: &str, number: &SequenceNumber) -> bool {
    SequenceNumber::stored(found).is_ok_and(|found| found > *number)
}

fn at(data: &[u8]) -> RecordAt {
    match kpl_kind(data) {
        Kind::Plain => RecordAt::Plain,
        Kind::Malformed(_) => RecordAt::Malformed,
        Kind::Aggregate(aggregate) => RecordAt::Aggregate(aggregate.len()),
    }
}

fn running(before: &[Seen], after: &[Seen]) -> Result<(), KclError> {
    let alive = plan::alive(before, after);
    if alive.is_empty() { Ok(()) } else { Err(KclError::Running(alive.into_iter().collect::<Vec<_>>().join(", "))) }
}

/// Reads a time in RFC 3339, as `start_at_timestamp` has it.
///
/// # Errors
///
/// An error says why the text is no such time.
pub fn time(text: &str) -> Result<SystemTime, String> {
    let time = text.parse::<Timestamp>().map_err(|error| error.to_string())?.system_time();
    if time < SystemTime::UNIX_EPOCH {
        return Err("it is before 1970".to_owned());
    }
    Ok(time)
}
