//! Does the checkpoint file keep what was stored, whatever the disk does?

use super::*;

#[tokio::test]
async fn checkpoints_are_kept_across_a_restart() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("checkpoints");
    let stream = Stream::new("orders", "arn:orders");
    let shard = ShardId::from("shard-1");
    let checkpoint = Some(Checkpoint::After(SequenceNumber::new("42").unwrap()));
    let identity = {
        let store = FileStore::open(&path).await.unwrap();
        let Claim::Owned(lease, _) = store.claim(&stream, &shard, ClaimFrom::Nobody).await.unwrap() else {
            panic!("held")
        };
        store.commit(vec![Commit::new(&lease, checkpoint.clone())]).await.remove(0).unwrap();
        store.pin_latest(&stream, 7).await.unwrap();
        store.identity().await.unwrap()
    };
    let store = FileStore::open(&path).await.unwrap();
    // The lease of the earlier process ended with that process.
    let Claim::Owned(_, found) = store.claim(&stream, &shard, ClaimFrom::Nobody).await.unwrap() else { panic!("held") };
    assert_eq!(found, checkpoint);
    assert_eq!(store.identity().await.unwrap(), identity);
    assert_eq!(store.pin_latest(&stream, 9).await.unwrap(), 7);
}

#[tokio::test(start_paused = true)]
async fn file_that_is_about_to_be_released_is_waited_for() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("checkpoints");
    let held = FileStore::open(&path).await.unwrap();
    let letting_go = async {
        sleep(LETS_GO_WITHIN / 2).await;
        drop(held);
    };
    let (opened, ()) = tokio::join!(FileStore::open(&path), letting_go);
    opened.unwrap();
}

#[tokio::test(start_paused = true)]
async fn second_process_is_refused_with_the_name_of_the_holder() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("checkpoints");
    let held = FileStore::open(&path).await.unwrap();
    let refused = FileStore::open(&path).await.unwrap_err().to_string();
    assert!(refused.contains(&format!("process {}", std::process::id())), "{refused}");
    drop(held);
    FileStore::open(&path).await.unwrap();
}

#[tokio::test]
async fn missing_folder_or_file_of_another_kind_is_an_error() {
    let folder = tempfile::tempdir().unwrap();
    let missing = FileStore::open(&folder.path().join("no/such/file")).await.unwrap_err().to_string();
    assert!(missing.contains("folder that exists"), "{missing}");
    let other = folder.path().join("notes.txt");
    std::fs::write(&other, "not a database at all, but long enough to be looked at".repeat(100)).unwrap();
    let other = FileStore::open(&other).await.unwrap_err();
    assert!(matches!(other, StoreError::Unusable { .. }), "{other}");
}

/// A disk that refuses some operations.
#[derive(Debug)]
struct FailingDisk {
    file: redb::backends::FileBackend,
    trouble: Arc<Mutex<Option<Trouble>>>,
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum Trouble {
    /// The disk is full: it accepts no more bytes and no greater length.
    Full,
    /// Every write and every sync fails.
    Io,
    /// The disk was mounted read-only.
    ReadOnly,
    /// Reads fail too.
    Dead,
}

impl FailingDisk {
    fn fails(&self, is_read: bool) -> io::Result<()> {
        let code = match *lock(&self.trouble) {
            Some(Trouble::Full) if !is_read => 28,
            Some(Trouble::Io) if !is_read => 5,
            Some(Trouble::ReadOnly) if !is_read => 30,
            Some(Trouble::Dead) => 5,
            _ => return Ok(()),
        };
        Err(io::Error::from_raw_os_error(code))
    }
}

impl redb::StorageBackend for FailingDisk {
    fn len(&self) -> io::Result<u64> {
        self.fails(true)?;
        self.file.len()
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        self.fails(true)?;
        self.file.read(offset, out)
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.fails(false)?;
        self.file.set_len(len)
    }

    fn sync_data(&self) -> io::Result<()> {
        self.fails(false)?;
        self.file.sync_data()
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.fails(false)?;
        self.file.write(offset, data)
    }
}

/// A store on a [`FailingDisk`], and the lease of a shard that is claimed.
struct OnDisk {
    folder: tempfile::TempDir,
    trouble: Arc<Mutex<Option<Trouble>>>,
    disk: Disk,
    store: FileStore,
    lease: Lease,
}

impl OnDisk {
    async fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let trouble = Arc::<Mutex<Option<Trouble>>>::default();
        let on_disk = Arc::clone(&trouble);
        let opener = move |path: &Path, create: bool| {
            let file = OpenOptions::new().read(true).write(true).create(create).truncate(false).open(path)?;
            let disk = FailingDisk { file: redb::backends::FileBackend::new(file)?, trouble: Arc::clone(&on_disk) };
            Database::builder().create_with_backend(disk)
        };
        let disk = Disk::simulated(opener);
        let store = FileStore::open_now(folder.path().join("checkpoints"), disk.clone()).unwrap();
        let stream = Stream::new("orders", "arn:orders");
        let claim = store.claim(&stream, &"s".into(), ClaimFrom::Nobody).await.unwrap();
        let Claim::Owned(lease, _) = claim else { panic!("held") };
        Self { folder, trouble, disk, store, lease }
    }

    async fn write(&self, number: u64) -> Result<CommitOutcome, StoreError> {
        let checkpoint = Some(Checkpoint::After(SequenceNumber::new(&number.to_string()).unwrap()));
        self.store.commit(vec![Commit::new(&self.lease, checkpoint)]).await.remove(0)
    }

    async fn checkpoint(&self) -> Option<Checkpoint> {
        self.store.rows(&self.lease.stream).await.unwrap().remove(0).checkpoint
    }

    /// Stores checkpoints during and after trouble: the store recovers by itself, and no earlier checkpoint is
    /// lost.
    async fn survives(&self, trouble: Trouble) {
        self.write(1).await.unwrap();
        *lock(&self.trouble) = Some(trouble);
        for number in 2..10 {
            let error = self.write(number).await.unwrap_err();
            assert!(matches!(error, StoreError::Failed { .. }), "{error}");
        }
        *lock(&self.trouble) = None;
        let before = self.checkpoint().await;
        assert_eq!(before, Some(Checkpoint::After(SequenceNumber::new("1").unwrap())), "{trouble:?}");
        self.write(10).await.unwrap();
        assert_eq!(self.checkpoint().await, Some(Checkpoint::After(SequenceNumber::new("10").unwrap())));
    }
}

#[tokio::test]
async fn checkpoint_file_survives_a_full_disk() {
    OnDisk::new().await.survives(Trouble::Full).await;
}

#[tokio::test]
async fn checkpoint_file_survives_an_io_error() {
    for trouble in [Trouble::Io, Trouble::Dead] {
        OnDisk::new().await.survives(trouble).await;
    }
}

#[tokio::test]
async fn checkpoint_file_survives_a_read_only_spell() {
    OnDisk::new().await.survives(Trouble::ReadOnly).await;
}

/// The disk may have space again a minute later, but no path gets better by itself.
#[tokio::test]
async fn file_on_a_full_disk_is_opened_later() {
    for (trouble, passes) in
        [(Trouble::Full, true), (Trouble::Io, true), (Trouble::Dead, true), (Trouble::ReadOnly, false)]
    {
        let on_disk = OnDisk::new().await;
        *lock(&on_disk.trouble) = Some(trouble);
        let opened = FileStore::open_on(&on_disk.folder.path().join("another"), &on_disk.disk).await;
        let error = opened.unwrap_err();
        assert_eq!(matches!(error, StoreError::Failed { .. }), passes, "{trouble:?}: {error}");
    }
}

#[tokio::test]
async fn failure_at_any_write_loses_nothing_that_was_stored() {
    let on_disk = OnDisk::new().await;
    for round in 1..40 {
        on_disk.write(round * 10).await.unwrap();
        *lock(&on_disk.trouble) = Some([Trouble::Full, Trouble::Io, Trouble::Dead][round as usize % 3]);
        for _ in 0..round % 4 {
            let _ = on_disk.write(round * 10 + 1).await;
        }
        *lock(&on_disk.trouble) = None;
        let Some(Checkpoint::After(checkpoint)) = on_disk.checkpoint().await else { panic!("lost") };
        assert!(checkpoint.as_str().parse::<u64>().unwrap() >= round * 10);
    }
}

#[tokio::test]
async fn replaced_or_removed_file_is_not_used() {
    let (ours, other) = (OnDisk::new().await, OnDisk::new().await);
    ours.write(1).await.unwrap();
    let path = ours.folder.path().join("checkpoints");
    *lock(&ours.trouble) = Some(Trouble::Io);
    ours.write(2).await.unwrap_err();
    std::fs::remove_file(&path).unwrap();
    *lock(&ours.trouble) = None;
    let gone = ours.write(2).await.unwrap_err().to_string();
    assert!(gone.contains("moved or removed"), "{gone}");
    drop(other.store);
    std::fs::rename(other.folder.path().join("checkpoints"), &path).unwrap();
    let replaced = ours.write(2).await.unwrap_err().to_string();
    assert!(replaced.contains("another file was put in its place"), "{replaced}");
}
