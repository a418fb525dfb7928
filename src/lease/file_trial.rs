//! Could a process keep its leases in this file? It is tried without making the file, or changing it.

use std::fs::{File, OpenOptions};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};

use redb::{Database, DatabaseError, ReadOnlyDatabase, ReadableDatabase};

use super::StoreError;
use super::file::{ABOUT, FORMAT, lock_handle, lock_path, opening, other_format};

/// What was found of a file.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum FileSeen {
    /// It doesn't exist, and can be made.
    Missing,
    /// It is a checkpoint file that can be read and written.
    Ours {
        /// The name that consumers are named after; `None` if the file was not closed properly: the next process that
        /// opens it repairs it.
        identity: Option<String>,
    },
}

/// Looks at a file. For a moment it is locked, as by a process that uses it.
///
/// # Errors
///
/// It fails as opening the file would.
pub(crate) fn look_at(path: &Path) -> Result<FileSeen, StoreError> {
    let unusable = |error: &io::Error| StoreError::Unusable {
        path: path.into(),
        cause: error.to_string(),
        advice: "choose a path in a folder that exists and that this process may write",
    };
    let lock_path = lock_path(path);
    let exists = path.try_exists().map_err(|error| unusable(&error))?;
    let is_locked_once = lock_path.try_exists().map_err(|error| unusable(&error))?;
    if !exists || !is_locked_once {
        can_make_files_beside(path).map_err(|error| unusable(&error))?;
    }
    // It is held until the file was read.
    let _lock = if is_locked_once { Some(lock(path, &lock_path)?) } else { None };
    if !exists {
        return Ok(FileSeen::Missing);
    }
    OpenOptions::new().read(true).append(true).open(path).map_err(|error| unusable(&error))?;
    let mut builder = Database::builder();
    // A file that another program changed then causes an error and no panic.
    builder.set_check_integrity_on_open(true);
    match builder.open_read_only(path) {
        Ok(database) => Ok(FileSeen::Ours { identity: identity(&database, path)? }),
        Err(DatabaseError::RepairAborted) => Ok(FileSeen::Ours { identity: None }),
        Err(error) => Err(opening(path, &error)),
    }
}

fn lock(path: &Path, lock_path: &Path) -> Result<File, StoreError> {
    let unusable = |error: &io::Error| StoreError::Unusable {
        path: path.into(),
        cause: format!("its lock file: {error}"),
        advice: "let this process read and write the files beside it, or choose another path",
    };
    let mut handle = OpenOptions::new().read(true).write(true).open(lock_path).map_err(|error| unusable(&error))?;
    lock_handle(&mut handle, path, |error| unusable(&error))?;
    Ok(handle)
}

/// The name in the file, if it is of a format that is known.
fn identity(database: &ReadOnlyDatabase, path: &Path) -> Result<Option<String>, StoreError> {
    let foreign = |what: String| StoreError::Foreign { path: path.into(), what };
    let no_checkpoints = |cause: &dyn std::fmt::Display| foreign(format!("it is no checkpoint file: {cause}"));
    let read = database.begin_read().map_err(|error| no_checkpoints(&error))?;
    let about = match read.open_table(ABOUT) {
        Ok(about) => about,
        // A process that was killed while it made the file.
        Err(redb::TableError::TableDoesNotExist(_)) => return Ok(None),
        Err(error) => return Err(no_checkpoints(&error)),
    };
    let get = |key: &str| about.get(key).map(|value| value.map(|value| value.value().to_owned()));
    match get("format").map_err(|error| no_checkpoints(&error))? {
        Some(format) if format != FORMAT => Err(other_format(path, &format)),
        _ => get("identity").map_err(|error| no_checkpoints(&error)),
    }
}

/// Makes a file beside this one, and removes it.
pub(crate) fn can_make_files_beside(path: &Path) -> io::Result<()> {
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(format!(".check-{:012x}", fastrand::u64(..) >> 16));
    let probe: PathBuf = path.with_file_name(name);
    let mut file = OpenOptions::new().write(true).create_new(true).open(&probe)?;
    // A disk that is full takes the file and not its content.
    let written = file.write_all(b"-").and_then(|()| file.sync_all());
    drop(file);
    written.and(std::fs::remove_file(&probe))
}

#[cfg(test)]
mod tests {
    use super::super::{FileStore, LeaseStore as _};
    use super::*;

    fn names(folder: &Path) -> Vec<String> {
        let mut names: Vec<String> =
            std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    #[tokio::test]
    async fn file_is_looked_at_and_neither_made_nor_changed() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("checkpoints");
        assert_eq!(look_at(&path), Ok(FileSeen::Missing));
        assert!(names(folder.path()).is_empty(), "{:?}", names(folder.path()));

        let store = FileStore::open(&path).await.unwrap();
        let identity = store.identity().await.unwrap();
        let refused = look_at(&path).unwrap_err();
        assert!(matches!(&refused, StoreError::InUse { holder, .. } if holder.starts_with("process ")), "{refused}");
        drop(store);
        let before = std::fs::read(&path).unwrap();
        assert_eq!(look_at(&path), Ok(FileSeen::Ours { identity: Some(identity) }));
        assert_eq!(std::fs::read(&path).unwrap(), before);
        assert_eq!(names(folder.path()), ["checkpoints", "checkpoints.lock"]);
        FileStore::open(&path).await.unwrap();
    }

    #[test]
    fn path_where_no_file_can_be_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("text"), "no database").unwrap();
        for (name, says) in
            [("missing/file", "No such file"), ("text/file", "Not a directory"), ("text", "no redb"), ("", "directory")]
        {
            let refused = look_at(&folder.path().join(name)).unwrap_err();
            assert!(matches!(refused, StoreError::Unusable { .. }), "{name}: {says}: {refused:?}");
        }
        assert_eq!(names(folder.path()), ["text"]);
    }
}
