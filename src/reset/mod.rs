//! How is a stream, or a part of it, read again from another position?
//!
//! A [`Reset`] changes where shards are read from, in a lease table or a checkpoint file, while no worker reads them. It
//! is planned first, and a plan that is carried out changes only rows that are still as they were.

mod plan;

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::time::SystemTime;

use serde::Serialize;

use crate::aws::Service;
use crate::aws::sdk::Aws;
use crate::inspect::{CALL, InspectError, StreamError, TableAt, sessions};
use crate::lease::{FileStore, LeaseStore, StoreError, Table};
use crate::model::{SequenceNumber, ShardId, StartPosition, Stream, millis};

pub use crate::inspect::Done;
pub use plan::{Action, Line};

/// Where the positions are that are reset.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct ResetAt {
    /// The stream, by name or ARN, as the pipelines call it.
    pub stream: String,
    /// The session, and the lease table. Its name is not used if there is a file.
    pub table: TableAt,
    /// The checkpoint file of the pipeline, if it has one in place of a table.
    pub file: Option<PathBuf>,
}

/// Where shards are read from after a reset.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum To {
    /// The oldest record that the stream still has.
    Oldest,
    /// What is written from now on, by the clock of the service.
    Latest,
    /// The first record that arrived at this time or later.
    Time(SystemTime),
    /// This record, of the one shard that is reset.
    Record(SequenceNumber),
}

/// The reason why nothing is planned or carried out.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ResetError {
    /// No region or no credentials were found, or the table can't be used.
    #[error(transparent)]
    Inspect(#[from] InspectError),
    /// The table or the file can't be used.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The stream can't be read.
    #[error(transparent)]
    Stream(#[from] StreamError),
    /// A record belongs to one shard, and none or several are named.
    #[error("a sequence number is a position in one shard: name it")]
    OneShard,
    /// The plan can't be carried out.
    #[error("nothing was written: {0}")]
    Refused(String),
}

/// A plan of a reset. Nothing is written yet.
#[derive(Debug, Clone, Serialize)]
#[non_exhaustive]
pub struct Plan {
    /// What happens to each shard.
    pub lines: Vec<Line>,
    #[serde(skip)]
    writes: Vec<plan::Write>,
    /// The name under which the table has the stream.
    #[serde(skip)]
    id: String,
}

impl Plan {
    /// The number of positions that will be written.
    pub fn writes(&self) -> usize {
        self.writes.len()
    }

    /// Why nothing can be carried out; empty if it can.
    pub fn refusals(&self) -> Vec<String> {
        let refused = self.lines.iter().filter(|line| line.action == Action::Refuse);
        refused.map(|line| format!("{}: {}", line.shard, line.why)).collect()
    }
}

/// A reset of one stream.
#[derive(Debug)]
pub struct Reset {
    store: Store,
    streams: Aws,
    stream: Stream,
    /// The stream as it was given.
    configured: String,
}

#[derive(Debug)]
enum Store {
    Table(Table),
    File(FileStore),
}

impl Reset {
    /// Finds the stream, and opens the table or the file. A file must not be in use.
    ///
    /// # Errors
    ///
    /// An error is returned without a region, without credentials, or without such a stream, table or file.
    pub async fn open(at: &ResetAt) -> Result<Self, ResetError> {
        let (session, streams) = sessions(&at.table).await?;
        let found = streams.describe_stream(&at.stream).await;
        let stream = found.map_err(|fault| StreamError::new(&at.stream, "looking for it", &fault))?;
        let store = match &at.file {
            Some(path) if !path.exists() => {
                let what = "it doesn't exist".to_owned();
                return Err(StoreError::Foreign { path: path.clone(), what }.into());
            }
            Some(path) => Store::File(FileStore::open(path).await?),
            None => {
                let Some(table) = Table::find(&session, &at.table.config(), CALL).await? else {
                    let what = "it doesn't exist".to_owned();
                    return Err(StoreError::Table { table: at.table.table.clone(), what }.into());
                };
                Store::Table(table)
            }
        };
        Ok(Self { store, streams, stream, configured: at.stream.clone() })
    }

    /// Plans the reset of these shards, or of all if none are named.
    ///
    /// # Errors
    ///
    /// An error is returned when the stream, the table or the file can't be read, and for a record that is none of the
    /// shard.
    pub async fn plan(&self, to: &To, shards: &[String]) -> Result<Plan, ResetError> {
        let shards: BTreeSet<ShardId> = shards.iter().map(|shard| shard.as_str().into()).collect();
        let target = self.target(to, &shards).await?;
        let listing = self.streams.list_shards(&self.stream).await;
        let listing = listing.map_err(|fault| StreamError::new(self.stream.name(), "listing the shards", &fault))?;
        let (id, rows) = match &self.store {
            Store::Table(table) => table.look(&self.stream, &self.configured).await?,
            Store::File(file) => (String::new(), file.rows(&self.stream).await?),
        };
        let known = plan::Known { listing: &listing, rows: &rows, target: &target, shards: &shards };
        let (lines, writes) = plan::plan(&known);
        Ok(Plan { lines, writes, id })
    }

    /// Carries out a plan. Rows that changed since it was made are not touched.
    ///
    /// # Errors
    ///
    /// An error is returned when the plan has refusals, or when the table or the file can't be written. Positions that
    /// were written before the error stay; the same plan can be made and carried out again.
    pub async fn carry_out(&self, plan: Plan) -> Result<Done, ResetError> {
        let refusals = plan.refusals();
        if !refusals.is_empty() {
            return Err(ResetError::Refused(refusals.join("; ")));
        }
        let mut done = Done { written: 0, changed: Vec::new() };
        match &self.store {
            // The lock on the file shows that nothing has changed.
            Store::File(file) => {
                done.written = plan.writes.len();
                let positions = plan.writes.into_iter().map(|write| (write.shard, write.checkpoint, write.begins));
                file.place(&self.stream, positions.collect()).await?;
            }
            Store::Table(table) => {
                for write in &plan.writes {
                    let (checkpoint, begins) = (write.checkpoint.as_ref(), write.begins.as_ref());
                    let instead_of = write.instead_of.as_ref();
                    let written =
                        table.import(&plan.id, &self.stream, &write.shard, checkpoint, begins, instead_of).await?;
                    done.note(&write.shard, written);
                    if !written {
                        // The ancestors of a shard must not go back without it.
                        return Ok(done);
                    }
                }
            }
        }
        Ok(done)
    }

    async fn target(&self, to: &To, shards: &BTreeSet<ShardId>) -> Result<plan::Target, ResetError> {
        Ok(match to {
            To::Oldest => plan::Target::Oldest,
            To::Latest => plan::Target::Latest(millis(self.streams.time().unwrap_or_else(SystemTime::now)).max(0)),
            To::Time(time) => plan::Target::Time(millis(*time).max(0)),
            To::Record(record) => {
                let (Some(shard), 1) = (shards.first(), shards.len()) else { return Err(ResetError::OneShard) };
                let at = StartPosition::AtRecord(record.clone());
                let found = self.streams.shard_iterator(&self.stream, shard, &at).await;
                found
                    .map_err(|fault| StreamError::new(self.stream.name(), "finding the record in the shard", &fault))?;
                plan::Target::Record(record.clone())
            }
        })
    }
}
