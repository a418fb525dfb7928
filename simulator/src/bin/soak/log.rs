//! A log of everything that happens in a run, line by line, for the replay of a seed.

use std::fmt;
use std::fs::File;
use std::hash::{DefaultHasher, Hasher};
use std::io::{BufWriter, Write};
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use kinesis_simulator::Time;

/// A log, or none. It is cheap to clone.
#[derive(Clone, Default)]
pub(crate) struct Log(Option<Arc<Mutex<Core>>>);

struct Core {
    file: BufWriter<File>,
    start: Option<Time>,
    hash: DefaultHasher,
}

impl Log {
    pub(crate) fn to(path: &Path) -> std::io::Result<Self> {
        let file = BufWriter::new(File::create(path)?);
        Ok(Self(Some(Arc::new(Mutex::new(Core { file, start: None, hash: DefaultHasher::new() })))))
    }

    pub(crate) fn is_on(&self) -> bool {
        self.0.is_some()
    }

    /// Logs that a part of the world did something at this time.
    pub(crate) fn line(&self, at: Time, source: &str, what: &str) {
        self.detailed(at, source, what, "");
    }

    /// The same, with details whose form may differ from run to run: the attributes of a row come in any order.
    pub(crate) fn detailed(&self, at: Time, source: &str, what: &str, details: &str) {
        let Some(core) = &self.0 else { return };
        let mut core = core.lock().unwrap_or_else(PoisonError::into_inner);
        let start = *core.start.get_or_insert(at);
        let line = format!("{:>12.3} {source:<10} {what}", at.since(start).as_secs_f64());
        core.hash.write(line.as_bytes());
        // A log that can't be written is recognized by its length.
        let _ = writeln!(core.file, "{line} {details}");
    }

    /// A hash of the log: two logs with the same content have the same one.
    pub(crate) fn fingerprint(&self) -> Option<u64> {
        let mut core = self.0.as_ref()?.lock().unwrap_or_else(PoisonError::into_inner);
        let _ = core.file.flush();
        Some(core.hash.finish())
    }
}

impl fmt::Debug for Log {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Log").field(&self.is_on()).finish()
    }
}
