//! How does one process keep its leases in a file?
//!
//! The file is a redb database: a commit is on the disk before it returns, and a process that is killed at any point
//! leaves either the state before a commit or the one after it. Next to the file is `<file>.lock`, which is locked by
//! the process that uses the file and contains that process's name.

use std::collections::HashMap;
use std::fmt;
use std::fs::{File, OpenOptions, TryLockError};
use std::io::{self, Read, Seek, Write as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use redb::{Database, DatabaseError, Durability, ReadableDatabase, ReadableTable, TableDefinition};
use serde::{Deserialize, Serialize};
use tokio::time::{Instant, sleep};

use super::{
    Checkpoint, Claim, ClaimFrom, Commit, CommitOutcome, Lease, LeaseStore, Release, Row, StoreError, forward,
};
use crate::model::{SequenceNumber, ShardId, StartPosition, Stream};
use crate::sync::{Mutex, lock};

/// The checkpoints, by stream ARN and shard: each is a [`StoredPlace`] as JSON.
const CHECKPOINTS: TableDefinition<'_, (&str, &str), &str> = TableDefinition::new("places");
/// The checkpoints of streams that were deleted and recreated, by stream ARN and shard: the last one that was set
/// aside.
const FORMER: TableDefinition<'_, (&str, &str), &str> = TableDefinition::new("former");
/// The timestamp that "latest" means, by stream ARN, in milliseconds since 1970.
const PINS: TableDefinition<'_, &str, i64> = TableDefinition::new("latest");
/// The description of the file itself: its format and its name.
pub(super) const ABOUT: TableDefinition<'_, &str, &str> = TableDefinition::new("about");
pub(super) const FORMAT: &str = "1";
/// How long to wait for a file that is in use, and how often to check. An input that was dropped without a close, or a
/// process that is being replaced, releases the file within moments.
const LETS_GO_WITHIN: Duration = Duration::from_secs(2);
const LOOK_AGAIN: Duration = Duration::from_millis(20);

/// A checkpoint, as the file stores it. Fields may be added; unknown fields are ignored.
#[derive(Debug, Serialize, Deserialize)]
struct StoredPlace {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    after: Option<String>,
    /// A record behind it that is an aggregate, and the last of its user records that is processed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    within: Option<(String, u32)>,
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    ended: bool,
    /// When the stream of the checkpoint was created, in milliseconds since 1970.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    created: Option<i64>,
    /// Where the shard begins as long as it has no checkpoint.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    begins: Option<StoredBegin>,
}

/// Where a shard begins that has no checkpoint.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
enum StoredBegin {
    Oldest,
    /// At a time, in milliseconds since 1970.
    Time(i64),
    /// At a record.
    Record(String),
}

/// A row of the file.
#[derive(Debug, Default)]
struct Stored {
    checkpoint: Option<Checkpoint>,
    created: Option<i64>,
    begins: Option<StartPosition>,
}

/// The store that keeps its leases in a file.
#[derive(Debug, Clone)]
pub(crate) struct FileStore {
    inner: Arc<Inner>,
}

struct Inner {
    /// The open database; `None` after a failure. Because redb accepts nothing after a disk error, the file is then
    /// opened again, which repairs it.
    database: Mutex<Option<Database>>,
    disk: Disk,
    path: PathBuf,
    identity: String,
    /// The shards that are claimed, with the epoch of each claim. They are kept in memory: a process that has ended
    /// owns nothing.
    claims: Mutex<Claims>,
    /// The lock, which is held as long as the store exists. It comes after `database`, so that it is dropped last.
    _lock: LockFile,
}

/// Opens the database of a path. If the flag is set, it creates a missing file.
type Opener = dyn Fn(&Path, bool) -> Result<Database, DatabaseError> + Send + Sync;

/// The disk that a file is on.
#[derive(Clone)]
pub(crate) struct Disk {
    open: Arc<Opener>,
    /// Whether its work takes time, so that it runs on threads where blocking is allowed.
    blocks: bool,
}

impl Disk {
    /// A disk that opens its databases with this function, and takes no time.
    pub(crate) fn simulated(
        open: impl Fn(&Path, bool) -> Result<Database, DatabaseError> + Send + Sync + 'static,
    ) -> Self {
        Self { open: Arc::new(open), blocks: false }
    }

    /// Runs work that waits for the disk.
    async fn work<T: Send + 'static>(
        &self,
        what: &'static str,
        work: impl FnOnce() -> Result<T, StoreError> + Send + 'static,
    ) -> Result<T, StoreError> {
        if !self.blocks {
            return work();
        }
        match tokio::task::spawn_blocking(work).await {
            Ok(done) => done,
            Err(stopped) => Err(StoreError::Failed { what, cause: stopped.to_string() }),
        }
    }
}

/// The disk of the machine.
impl Default for Disk {
    fn default() -> Self {
        Self { open: Arc::new(open_database), blocks: true }
    }
}

impl fmt::Debug for Disk {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Disk").field("blocks", &self.blocks).finish_non_exhaustive()
    }
}

#[derive(Debug, Default)]
struct Claims {
    epoch: u64,
    owned: HashMap<(Stream, ShardId), u64>,
}

impl FileStore {
    /// Opens the file, or creates it.
    ///
    /// # Errors
    ///
    /// It fails if another process uses the file, if the file can't be read or written, or if it is not a checkpoint
    /// file.
    pub(crate) async fn open(path: &Path) -> Result<Self, StoreError> {
        Self::open_on(path, &Disk::default()).await
    }

    /// Opens the file on this disk, as [`open`](Self::open) does on that of the machine.
    pub(crate) async fn open_on(path: &Path, disk: &Disk) -> Result<Self, StoreError> {
        let give_up = Instant::now() + LETS_GO_WITHIN;
        loop {
            let (path, on) = (path.to_owned(), disk.clone());
            match disk.work("open the checkpoint file", move || Self::open_now(path, on)).await {
                Err(StoreError::InUse { .. }) if Instant::now() < give_up => sleep(LOOK_AGAIN).await,
                outcome => return outcome,
            }
        }
    }

    fn open_now(path: PathBuf, disk: Disk) -> Result<Self, StoreError> {
        let lock = LockFile::take(&path)?;
        let database = (disk.open)(&path, true).map_err(|error| opening(&path, &error))?;
        let identity = Self::prepare(&database, &path)?;
        let database = Mutex::new(Some(database));
        let inner = Inner { database, disk, path, identity, claims: Mutex::default(), _lock: lock };
        Ok(Self { inner: Arc::new(inner) })
    }

    /// Creates the tables, checks the format and finds the name of the file.
    fn prepare(database: &Database, path: &Path) -> Result<String, StoreError> {
        let what = "prepare the checkpoint file";
        let write = database.begin_write().map_err(failed(what))?;
        let identity = {
            write.open_table(CHECKPOINTS).map_err(failed(what))?;
            write.open_table(FORMER).map_err(failed(what))?;
            write.open_table(PINS).map_err(failed(what))?;
            let mut about = write.open_table(ABOUT).map_err(failed(what))?;
            let format = about.get("format").map_err(failed(what))?.map(|value| value.value().to_owned());
            match format.as_deref() {
                None => {
                    about.insert("format", FORMAT).map_err(failed(what))?;
                }
                Some(FORMAT) => {}
                Some(other) => return Err(other_format(path, other)),
            }
            let known = about.get("identity").map_err(failed(what))?.map(|value| value.value().to_owned());
            if let Some(identity) = known {
                identity
            } else {
                let identity = new_identity(path);
                about.insert("identity", identity.as_str()).map_err(failed(what))?;
                identity
            }
        };
        write.commit().map_err(failed(what))?;
        Ok(identity)
    }
}

fn open_database(path: &Path, create: bool) -> Result<Database, DatabaseError> {
    let mut builder = Database::builder();
    // A file that another program changed then causes an error and no panic.
    builder.set_check_integrity_on_open(true);
    if create { builder.create(path) } else { builder.open(path) }
}

impl fmt::Debug for Inner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FileStore").field("path", &self.path).finish_non_exhaustive()
    }
}

/// Makes the name of a new file: its own file name, and a part that no other file has.
fn new_identity(path: &Path) -> String {
    let stem = path.file_stem().map(|stem| stem.to_string_lossy().into_owned()).unwrap_or_default();
    let stem: String = stem.chars().filter(|c| c.is_ascii_alphanumeric() || "_.-".contains(*c)).take(64).collect();
    format!("{stem}-{:012x}", fastrand::u64(..) >> 16)
}

#[async_trait]
impl LeaseStore for FileStore {
    async fn identity(&self) -> Result<String, StoreError> {
        Ok(self.inner.identity.clone())
    }

    async fn rows(&self, stream: &Stream) -> Result<Vec<Row>, StoreError> {
        let (inner, stream) = (Arc::clone(&self.inner), stream.clone());
        let what = "read checkpoints";
        inner
            .work(what, move |_, database| {
                let read = database.begin_read().map_err(failed(what))?;
                let table = read.open_table(CHECKPOINTS).map_err(failed(what))?;
                let mut rows = Vec::new();
                for entry in table.range((stream.arn(), "")..).map_err(failed(what))? {
                    let (key, value) = entry.map_err(failed(what))?;
                    let (arn, shard) = key.value();
                    if arn != stream.arn() {
                        break;
                    }
                    rows.push(row(shard, value.value()));
                }
                Ok(rows)
            })
            .await
    }

    async fn pin_latest(&self, stream: &Stream, now: i64) -> Result<i64, StoreError> {
        let (inner, stream) = (Arc::clone(&self.inner), stream.clone());
        let what = "store the meaning of latest";
        inner
            .work(what, move |_, database| {
                let write = begin_write(database, what)?;
                let pinned = {
                    let mut table = write.open_table(PINS).map_err(failed(what))?;
                    let known = table.get(stream.arn()).map_err(failed(what))?.map(|value| value.value());
                    if let Some(pinned) = known {
                        pinned
                    } else {
                        table.insert(stream.arn(), now).map_err(failed(what))?;
                        now
                    }
                };
                write.commit().map_err(failed(what))?;
                Ok(pinned)
            })
            .await
    }

    async fn claim(&self, stream: &Stream, shard: &ShardId, _: ClaimFrom<'_>) -> Result<Claim, StoreError> {
        let (inner, stream, shard) = (Arc::clone(&self.inner), stream.clone(), shard.clone());
        let what = "claim a shard";
        inner
            .work(what, move |inner, database| {
                let checkpoint = {
                    let read = database.begin_read().map_err(failed(what))?;
                    let table = read.open_table(CHECKPOINTS).map_err(failed(what))?;
                    match table.get((stream.arn(), shard.as_str())).map_err(failed(what))? {
                        Some(value) => {
                            let Stored { checkpoint, created, .. } = inner.read(value.value())?;
                            if stream.is_other_life(created) {
                                return Ok(Claim::HeldBy("another life of the stream".into()));
                            }
                            if matches!(checkpoint, Some(Checkpoint::ShardEnd(_))) {
                                return Ok(Claim::HeldBy("nobody: it has ended".into()));
                            }
                            checkpoint
                        }
                        None => None,
                    }
                };
                let mut claims = lock(&inner.claims);
                if claims.owned.contains_key(&(stream.clone(), shard.clone())) {
                    return Ok(Claim::HeldBy("this process".into()));
                }
                claims.epoch += 1;
                let epoch = claims.epoch;
                claims.owned.insert((stream.clone(), shard.clone()), epoch);
                Ok(Claim::Owned(Lease { stream, shard, epoch }, checkpoint))
            })
            .await
    }

    /// Stores all of the writes on the disk, or none.
    async fn commit(&self, writes: Vec<Commit>) -> Vec<Result<CommitOutcome, StoreError>> {
        self.store(writes).await
    }

    async fn release(&self, releases: Vec<Release>) -> Vec<Result<CommitOutcome, StoreError>> {
        let keys: Vec<_> = releases.iter().map(|one| ((one.stream.clone(), one.shard.clone()), one.epoch)).collect();
        let writes = releases.into_iter().map(|one| {
            let Release { stream, shard, epoch, checkpoint, to: _ } = one;
            Commit { stream, shard, epoch, checkpoint }
        });
        let written = self.store(writes.collect()).await;
        let mut claims = lock(&self.inner.claims);
        for ((key, epoch), written) in keys.into_iter().zip(&written) {
            if written.is_ok() && claims.owned.get(&key) == Some(&epoch) {
                claims.owned.remove(&key);
            }
        }
        written
    }

    async fn forget(&self, stream: &Stream, row: &Row) -> Result<(), StoreError> {
        let (inner, stream, row) = (Arc::clone(&self.inner), stream.clone(), row.clone());
        let what = "forget a shard that is gone";
        inner
            .work(what, move |_, database| {
                let write = begin_write(database, what)?;
                {
                    let mut table = write.open_table(CHECKPOINTS).map_err(failed(what))?;
                    remove_unchanged(&mut table, &stream, &row).map_err(failed(what))?;
                }
                write.commit().map_err(failed(what))
            })
            .await
    }

    async fn set_aside(&self, stream: &Stream, row: &Row) -> Result<bool, StoreError> {
        let (inner, stream, row) = (Arc::clone(&self.inner), stream.clone(), row.clone());
        let what = "set aside the checkpoint of a former stream";
        inner
            .work(what, move |inner, database| {
                let write = begin_write(database, what)?;
                let is_unchanged = {
                    let mut table = write.open_table(CHECKPOINTS).map_err(failed(what))?;
                    let removed = remove_unchanged(&mut table, &stream, &row).map_err(failed(what))?;
                    if let Some(text) = &removed {
                        let mut former = write.open_table(FORMER).map_err(failed(what))?;
                        former.insert((stream.arn(), row.shard.as_str()), text.as_str()).map_err(failed(what))?;
                    }
                    removed.is_some()
                };
                write.commit().map_err(failed(what))?;
                lock(&inner.claims).owned.remove(&(stream, row.shard));
                Ok(is_unchanged)
            })
            .await
    }
}

impl FileStore {
    /// Writes positions in place of what is stored, all or none of them. No shard may be claimed.
    pub(crate) async fn place(
        &self,
        stream: &Stream,
        positions: Vec<(ShardId, Option<Checkpoint>, Option<StartPosition>)>,
    ) -> Result<(), StoreError> {
        let (inner, stream) = (Arc::clone(&self.inner), stream.clone());
        let what = "store positions";
        inner
            .work(what, move |_, database| {
                let write = begin_write(database, what)?;
                {
                    let mut table = write.open_table(CHECKPOINTS).map_err(failed(what))?;
                    for (shard, checkpoint, begins) in positions {
                        let stored = Stored { checkpoint, created: stream.created(), begins };
                        let text = stored_text(stored).map_err(failed(what))?;
                        table.insert((stream.arn(), shard.as_str()), text.as_str()).map_err(failed(what))?;
                    }
                }
                write.commit().map_err(failed(what))
            })
            .await
    }

    async fn store(&self, writes: Vec<Commit>) -> Vec<Result<CommitOutcome, StoreError>> {
        let inner = Arc::clone(&self.inner);
        let count = writes.len();
        let stored = inner.work("store checkpoints", move |inner, database| inner.store(database, writes)).await;
        match stored {
            Ok(written) => written.into_iter().map(Ok).collect(),
            Err(error) => vec![Err(error); count],
        }
    }
}

impl Inner {
    /// Runs work on the database. If it fails, the next call opens the file again.
    async fn work<T: Send + 'static>(
        self: Arc<Self>,
        what: &'static str,
        work: impl FnOnce(&Self, &Database) -> Result<T, StoreError> + Send + 'static,
    ) -> Result<T, StoreError> {
        let disk = self.disk.clone();
        let work = move || {
            let mut slot = lock(&self.database);
            // The slot stays empty if this panics.
            let database = match slot.take() {
                Some(database) => database,
                None => self.reopen()?,
            };
            let done = work(&self, &database);
            if !matches!(done, Err(StoreError::Failed { .. })) {
                *slot = Some(database);
            }
            done
        };
        disk.work(what, work).await
    }

    /// Opens the file again, which must still be the same file.
    fn reopen(&self) -> Result<Database, StoreError> {
        let what = "open the checkpoint file again";
        if !self.path.exists() {
            let cause = format!("{} is gone; it was moved or removed while it was in use", self.path.display());
            return Err(StoreError::Failed { what, cause });
        }
        let database = (self.disk.open)(&self.path, false).map_err(failed(what))?;
        if FileStore::prepare(&database, &self.path)? != self.identity {
            let what = "another file was put in its place while it was in use; restart to use it".into();
            return Err(StoreError::Foreign { path: self.path.clone(), what });
        }
        Ok(database)
    }

    fn store(&self, database: &Database, writes: Vec<Commit>) -> Result<Vec<CommitOutcome>, StoreError> {
        let what = "store checkpoints";
        let write = begin_write(database, what)?;
        let mut written = Vec::with_capacity(writes.len());
        {
            let mut table = write.open_table(CHECKPOINTS).map_err(failed(what))?;
            for one in writes {
                let owned = {
                    let claims = lock(&self.claims);
                    claims.owned.get(&(one.stream.clone(), one.shard.clone())) == Some(&one.epoch)
                };
                if !owned {
                    written.push(CommitOutcome::Lost { holder: "this process".into() });
                    continue;
                }
                let key = (one.stream.arn(), one.shard.as_str());
                let before = match table.get(key).map_err(failed(what))? {
                    Some(value) => self.read(value.value())?,
                    None => Stored::default(),
                };
                let checkpoint = forward(before.checkpoint.as_ref(), one.checkpoint);
                // Where the shard begins counts until there is a checkpoint.
                let begins = before.begins.filter(|_| checkpoint.is_none());
                let stored = Stored { checkpoint: checkpoint.clone(), created: one.stream.created(), begins };
                let text = stored_text(stored).map_err(failed(what))?;
                table.insert(key, text.as_str()).map_err(failed(what))?;
                written.push(CommitOutcome::Stored { checkpoint, requester: None });
            }
        }
        write.commit().map_err(failed(what))?;
        Ok(written)
    }

    fn read(&self, text: &str) -> Result<Stored, StoreError> {
        stored(text).map_err(|what| StoreError::Foreign { path: self.path.clone(), what })
    }
}

fn begin_write(database: &Database, what: &'static str) -> Result<redb::WriteTransaction, StoreError> {
    let mut write = database.begin_write().map_err(failed(what))?;
    // The write is on the disk before the commit returns, so that it survives a power failure too.
    write.set_durability(Durability::Immediate).map_err(failed(what))?;
    Ok(write)
}

/// Reads a row, or says what is wrong with it.
fn stored(text: &str) -> Result<Stored, String> {
    let StoredPlace { after, within, ended, created, begins } =
        serde_json::from_str(text).map_err(|error| format!("a checkpoint in it can't be read: {error}"))?;
    let number = |text: &str| SequenceNumber::stored(text).map_err(|error| format!("a checkpoint in it is {error}"));
    let after = after.as_deref().map(number).transpose()?;
    let within = within.map(|(text, sub)| Ok::<_, String>((number(&text)?, sub))).transpose()?;
    let begins = match begins {
        None => None,
        Some(StoredBegin::Oldest) => Some(StartPosition::Oldest),
        Some(StoredBegin::Time(time)) => Some(StartPosition::At(time)),
        Some(StoredBegin::Record(text)) => Some(StartPosition::AtRecord(number(&text)?)),
    };
    Ok(Stored { checkpoint: Checkpoint::stored(ended, after, within), created, begins })
}

/// Makes the row of a shard. A checkpoint that can't be read is an error of the shard, not of the file.
fn row(shard: &str, text: &str) -> Row {
    match stored(text) {
        Ok(Stored { checkpoint, created, begins }) => Row { begins, created, ..Row::new(shard, checkpoint) },
        Err(what) => Row { unreadable: Some(what), ..Row::new(shard, None) },
    }
}

/// Removes a row that has not changed since it was read. Returns the stored text, if it was removed.
fn remove_unchanged(
    table: &mut redb::Table<'_, (&'static str, &'static str), &'static str>,
    stream: &Stream,
    row: &Row,
) -> Result<Option<String>, redb::StorageError> {
    let key = (stream.arn(), row.shard.as_str());
    let now = table.get(key)?.map(|value| value.value().to_owned());
    let unchanged = now.filter(|now| self::row(row.shard.as_str(), now) == *row);
    if unchanged.is_some() {
        table.remove(key)?;
    }
    Ok(unchanged)
}

fn stored_text(stored: Stored) -> Result<String, serde_json::Error> {
    let Stored { checkpoint, created, begins } = stored;
    let checkpoint = checkpoint.as_ref();
    let after = checkpoint.and_then(Checkpoint::position).map(ToString::to_string);
    let within = checkpoint.and_then(Checkpoint::within).map(|within| (within.record.to_string(), within.sub));
    let ended = matches!(checkpoint, Some(Checkpoint::ShardEnd(_)));
    let begins = begins.and_then(|begins| match begins {
        StartPosition::Oldest => Some(StoredBegin::Oldest),
        StartPosition::At(time) => Some(StoredBegin::Time(time)),
        StartPosition::AtRecord(record) => Some(StoredBegin::Record(record.to_string())),
        StartPosition::After(_) => None,
    });
    serde_json::to_string(&StoredPlace { after, within, ended, created, begins })
}

fn failed<E: fmt::Display>(what: &'static str) -> impl Fn(E) -> StoreError {
    move |error| StoreError::Failed { what, cause: error.to_string() }
}

pub(super) fn opening(path: &Path, error: &DatabaseError) -> StoreError {
    match error {
        DatabaseError::DatabaseAlreadyOpen => {
            return StoreError::InUse { path: path.into(), holder: "another process".into() };
        }
        DatabaseError::Storage(redb::StorageError::Io(cause)) if passes(cause) => return out_of_order(path, cause),
        _ => {}
    }
    let advice = "choose a path that this process may write, or remove the file to begin anew";
    StoreError::Unusable { path: path.into(), cause: error.to_string(), advice }
}

/// Whether an error of the disk may be gone later without a change of the configuration.
fn passes(error: &io::Error) -> bool {
    const EIO: i32 = 5;
    let too_many_open_files = [23, 24];
    matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded | io::ErrorKind::Interrupted)
        || error.raw_os_error().is_some_and(|code| code == EIO || too_many_open_files.contains(&code))
}

fn out_of_order(path: &Path, error: &io::Error) -> StoreError {
    StoreError::Failed { what: "open the checkpoint file", cause: format!("{}: {error}", path.display()) }
}

/// The lock file of a checkpoint file.
pub(super) fn lock_path(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".lock");
    PathBuf::from(name)
}

/// Locks the lock file of a checkpoint file. `unusable` makes the error of a file that can't be locked.
pub(super) fn lock_handle(
    handle: &mut File,
    path: &Path,
    unusable: impl FnOnce(io::Error) -> StoreError,
) -> Result<(), StoreError> {
    match handle.try_lock() {
        Ok(()) => Ok(()),
        Err(TryLockError::WouldBlock) => {
            let mut holder = String::new();
            // If the text can't be read, the holder stays unknown; what matters is that the file is locked.
            let _ = handle.read_to_string(&mut holder);
            let holder = holder.trim();
            let holder = if holder.is_empty() { "another process" } else { holder };
            Err(StoreError::InUse { path: path.into(), holder: holder.into() })
        }
        Err(TryLockError::Error(error)) => Err(unusable(error)),
    }
}

/// The error of a file whose format this version doesn't know.
pub(super) fn other_format(path: &Path, format: &str) -> StoreError {
    let what = format!("it has format {format}, and this version knows {FORMAT}; use the version that wrote it");
    StoreError::Foreign { path: path.into(), what }
}

/// The file `<file>.lock`, which is locked as long as this value exists. One line in it names the process that locked
/// it.
#[derive(Debug)]
struct LockFile {
    // The lock is released with the handle, also when the process is killed.
    _handle: File,
}

impl LockFile {
    fn take(path: &Path) -> Result<Self, StoreError> {
        let lock_path = lock_path(path);
        let unusable = |error: io::Error| {
            if passes(&error) {
                return out_of_order(path, &error);
            }
            let advice = "choose a path in a folder that exists and that this process may write";
            StoreError::Unusable { path: path.into(), cause: error.to_string(), advice }
        };
        let mut handle = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(&lock_path)
            .map_err(unusable)?;
        lock_handle(&mut handle, path, unusable)?;
        let command = std::env::args_os().next().unwrap_or_default();
        let command = Path::new(&command).file_name().unwrap_or_default().to_string_lossy().into_owned();
        handle.set_len(0).and_then(|()| handle.rewind()).map_err(unusable)?;
        writeln!(handle, "process {} ({command})", std::process::id()).map_err(unusable)?;
        Ok(Self { _handle: handle })
    }
}

#[cfg(test)]
#[path = "file_tests.rs"]
mod tests;
