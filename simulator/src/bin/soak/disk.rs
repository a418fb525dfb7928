//! The disk that a checkpoint file is on: what is written, what is safe, and what goes wrong?
//!
//! As on a real disk, only what was synced survives a power failure; of the writes since then, any may have come
//! through. What the file says is read from the safe bytes alone, by the format that the program promises to keep.

use std::collections::BTreeMap;
use std::io;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use fastrand::Rng;
use redb::{Database, DatabaseError, ReadableDatabase as _, ReadableTable as _, StorageBackend, TableDefinition};
use serde_json::Value;

/// What is wrong with a disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Trouble {
    /// It is full.
    Full,
    /// Writes and syncs fail.
    Write,
    /// One operation in ten fails.
    Flaky,
    /// It was mounted read-only.
    ReadOnly,
    /// Reads fail too.
    Dead,
}

/// A disk with one file.
#[derive(Debug, Clone)]
pub(crate) struct Disk(Arc<Mutex<Core>>);

#[derive(Debug)]
struct Core {
    rng: Rng,
    /// The bytes as they are read.
    bytes: Vec<u8>,
    /// The bytes that survive a power failure.
    safe: Vec<u8>,
    /// The writes since the last sync, with their offsets.
    unsafe_writes: Vec<(usize, Vec<u8>)>,
    trouble: Option<Trouble>,
    /// Whether the safe bytes have changed since the file was last read.
    changed: bool,
}

/// The rows of a checkpoint file, by shard, and the times that "latest" means.
#[derive(Debug, Default)]
pub(crate) struct Content {
    pub(crate) rows: BTreeMap<String, Value>,
    pub(crate) pins: Vec<i64>,
}

impl Disk {
    pub(crate) fn new(seed: u64) -> Self {
        Self(Arc::new(Mutex::new(Core {
            rng: Rng::with_seed(seed),
            bytes: Vec::new(),
            safe: Vec::new(),
            unsafe_writes: Vec::new(),
            trouble: None,
            changed: false,
        })))
    }

    fn core(&self) -> MutexGuard<'_, Core> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Opens the database on the disk. The file itself holds nothing: it is only there.
    pub(crate) fn open(&self, path: &Path, create: bool) -> Result<Database, DatabaseError> {
        std::fs::OpenOptions::new().write(true).create(create).truncate(false).open(path)?;
        let mut builder = Database::builder();
        builder.set_check_integrity_on_open(true);
        builder.create_with_backend(OnDisk(self.clone()))
    }

    pub(crate) fn set_trouble(&self, trouble: Option<Trouble>) {
        self.core().trouble = trouble;
    }

    pub(crate) fn is_healthy(&self) -> bool {
        self.core().trouble.is_none()
    }

    pub(crate) fn is_read_only(&self) -> bool {
        self.core().trouble == Some(Trouble::ReadOnly)
    }

    /// The power fails: of what was not synced, any part is lost.
    pub(crate) fn lose_power(&self) {
        let core = &mut *self.core();
        core.drop_some();
        core.sync();
    }

    /// What the file says, if it has changed since the last call.
    pub(crate) fn read(&self) -> Result<Option<Content>, String> {
        let bytes = {
            let core = &mut *self.core();
            if !std::mem::take(&mut core.changed) {
                return Ok(None);
            }
            core.safe.clone()
        };
        let copy = Self::new(0);
        copy.core().bytes = bytes;
        content(&copy).map(Some).map_err(|error| format!("the checkpoint file can't be read: {error}"))
    }
}

fn content(disk: &Disk) -> Result<Content, redb::Error> {
    const ROWS: TableDefinition<'_, (&str, &str), &str> = TableDefinition::new("places");
    const PINS: TableDefinition<'_, &str, i64> = TableDefinition::new("latest");
    let database = Database::builder().create_with_backend(OnDisk(disk.clone()))?;
    let read = database.begin_read()?;
    let mut content = Content::default();
    // The file is prepared in one commit: it has all tables or none.
    let table = match read.open_table(ROWS) {
        Ok(table) => table,
        Err(redb::TableError::TableDoesNotExist(_)) => return Ok(content),
        Err(error) => return Err(error.into()),
    };
    for row in table.iter()? {
        let (key, value) = row?;
        content.rows.insert(key.value().1.to_owned(), serde_json::from_str(value.value()).unwrap_or_default());
    }
    for pin in read.open_table(PINS)?.iter()? {
        content.pins.push(pin?.1.value());
    }
    Ok(content)
}

impl Core {
    fn fails(&mut self, is_read: bool) -> io::Result<()> {
        const NO_SPACE: i32 = 28;
        const READ_ONLY: i32 = 30;
        const IO: i32 = 5;
        let code = match self.trouble {
            Some(Trouble::Full) if !is_read => NO_SPACE,
            Some(Trouble::ReadOnly) if !is_read => READ_ONLY,
            Some(Trouble::Write) if !is_read => IO,
            Some(Trouble::Flaky) if self.rng.u32(0..10) == 0 => IO,
            Some(Trouble::Dead) => IO,
            _ => return Ok(()),
        };
        Err(io::Error::from_raw_os_error(code))
    }

    /// Some of the writes since the last sync are lost, as after a sync that failed.
    fn drop_some(&mut self) {
        let writes = std::mem::take(&mut self.unsafe_writes);
        let length = self.bytes.len();
        self.bytes.clone_from(&self.safe);
        self.bytes.resize(length, 0);
        for (offset, data) in writes {
            if self.rng.bool() {
                put(&mut self.bytes, offset, &data);
                self.unsafe_writes.push((offset, data));
            }
        }
    }

    fn sync(&mut self) {
        self.unsafe_writes.clear();
        self.safe.clone_from(&self.bytes);
        self.changed = true;
    }
}

fn put(bytes: &mut Vec<u8>, offset: usize, data: &[u8]) {
    let end = offset + data.len();
    if bytes.len() < end {
        bytes.resize(end, 0);
    }
    bytes[offset..end].copy_from_slice(data);
}

/// The file, as the database sees it.
#[derive(Debug)]
struct OnDisk(Disk);

impl StorageBackend for OnDisk {
    fn len(&self) -> io::Result<u64> {
        let core = &mut *self.0.core();
        core.fails(true)?;
        Ok(core.bytes.len() as u64)
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        let core = &mut *self.0.core();
        core.fails(true)?;
        let from = offset as usize;
        let bytes = core.bytes.get(from..from + out.len()).ok_or(io::ErrorKind::UnexpectedEof)?;
        out.copy_from_slice(bytes);
        Ok(())
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        let core = &mut *self.0.core();
        core.fails(false)?;
        core.bytes.resize(len as usize, 0);
        Ok(())
    }

    fn sync_data(&self) -> io::Result<()> {
        let core = &mut *self.0.core();
        if let Err(error) = core.fails(false) {
            core.drop_some();
            return Err(error);
        }
        core.sync();
        Ok(())
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        let core = &mut *self.0.core();
        core.fails(false)?;
        put(&mut core.bytes, offset as usize, data);
        core.unsafe_writes.push((offset as usize, data.to_vec()));
        Ok(())
    }
}
