//! The bench of the scenarios: a session that reads a script.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use aws_smithy_async::time::{SharedTimeSource, SystemTimeSource};
use pipeline_plugin_api::config::{Document, Environment};
use pipeline_plugin_api::{Demand, Receipt, Verdicts};
use tokio_util::task::TaskTracker;

use super::script::Script;
use crate::Config;
use crate::lease::memory::MemoryStore;
use crate::lease::{Checkpoint, Claim, ClaimFrom, Commit, CommitOutcome, LeaseStore, Release, Row, StoreError};
use crate::model::{ShardId, Stream};
use crate::reading::threads::Threads;
use crate::records::KinesisRecord;
use crate::session::Session;
use crate::session::error::ConnectError;
use crate::session::open::Connecting;
use crate::sync::{Mutex, lock};

/// A store that fails on request, and counts its writes.
#[derive(Debug, Default)]
pub(super) struct Store {
    pub(super) memory: MemoryStore,
    pub(super) fails: AtomicBool,
    pub(super) writes: AtomicU64,
    /// The shard whose lease belongs to another worker.
    pub(super) lost: Mutex<Option<ShardId>>,
}

#[async_trait]
impl LeaseStore for Store {
    async fn identity(&self) -> Result<String, StoreError> {
        self.memory.identity().await
    }

    async fn rows(&self, stream: &Stream) -> Result<Vec<Row>, StoreError> {
        self.memory.rows(stream).await
    }

    async fn pin_latest(&self, stream: &Stream, now: i64) -> Result<i64, StoreError> {
        self.memory.pin_latest(stream, now).await
    }

    async fn claim(&self, stream: &Stream, shard: &ShardId, from: ClaimFrom<'_>) -> Result<Claim, StoreError> {
        self.memory.claim(stream, shard, from).await
    }

    async fn commit(&self, writes: Vec<Commit>) -> Vec<Result<CommitOutcome, StoreError>> {
        self.writes.fetch_add(writes.len() as u64, Ordering::Relaxed);
        let mut written = Vec::new();
        for write in writes {
            match self.refusal(write.shard()) {
                Some(refused) => written.push(refused),
                None => written.extend(self.memory.commit(vec![write]).await),
            }
        }
        written
    }

    async fn release(&self, releases: Vec<Release>) -> Vec<Result<CommitOutcome, StoreError>> {
        let mut written = Vec::new();
        for release in releases {
            if release.checkpoint().is_some() {
                self.writes.fetch_add(1, Ordering::Relaxed);
            }
            match self.refusal(release.shard()) {
                Some(refused) => written.push(refused),
                None => written.extend(self.memory.release(vec![release]).await),
            }
        }
        written
    }

    async fn forget(&self, stream: &Stream, row: &Row) -> Result<(), StoreError> {
        self.memory.forget(stream, row).await
    }

    async fn set_aside(&self, stream: &Stream, row: &Row) -> Result<bool, StoreError> {
        if self.fails.load(Ordering::Relaxed) {
            return Err(StoreError::Failed { what: "setting aside", cause: "injected by the test".into() });
        }
        self.memory.set_aside(stream, row).await
    }
}

impl Store {
    fn refusal(&self, shard: &ShardId) -> Option<Result<CommitOutcome, StoreError>> {
        if self.fails.load(Ordering::Relaxed) {
            return Some(Err(StoreError::Failed { what: "storing", cause: "injected by the test".into() }));
        }
        let lost = lock(&self.lost).as_ref() == Some(shard);
        lost.then(|| Ok(CommitOutcome::Lost { holder: "the thief".into() }))
    }
}

/// A script, a store that outlives sessions, and a configuration.
#[derive(Debug)]
pub(super) struct Bench {
    pub(super) script: Arc<Script>,
    pub(super) store: Arc<Store>,
    config: Config,
}

impl Bench {
    /// A bench with `more` lines of configuration.
    pub(super) fn new(script: Script, more: &str) -> Self {
        let streams = if more.contains("streams:") { "" } else { "streams: [orders]\n" };
        let fan_out = if more.contains("enhanced_fan_out") { "" } else { "enhanced_fan_out: {enabled: true}\n" };
        let period = if more.contains("commit_period") { "" } else { "commit_period: 1s\n" };
        let yaml = format!("{streams}checkpoint_file: memory\n{period}{fan_out}{more}\n");
        let document = Document::from_yaml("test.yaml", &yaml, &Environment::empty()).unwrap();
        let config = document.parse::<Config>(&[]).unwrap_or_else(|error| panic!("{error}")).config;
        Self { script: Arc::new(script), store: Arc::default(), config }
    }

    pub(super) async fn open(&self) -> Session {
        self.open_in("eu-west-1").await.unwrap_or_else(|error| panic!("{error}"))
    }

    pub(super) async fn open_in(&self, region: &str) -> Result<Session, ConnectError> {
        self.connect(Arc::clone(&self.store) as _, region).await
    }

    async fn connect(&self, store: Arc<dyn LeaseStore>, region: &str) -> Result<Session, ConnectError> {
        let connecting = Connecting {
            config: &self.config,
            threads: Arc::new(Threads::here(Arc::clone(&self.script) as _)),
            store,
            region: region.into(),
            time: SharedTimeSource::new(SystemTimeSource::new()),
            background: TaskTracker::new(),
        };
        connecting.open().await
    }

    /// A worker that shares a table with others.
    pub(super) async fn join(&self, store: &Arc<MemoryStore>) -> Session {
        let session = self.connect(Arc::clone(store) as _, "eu-west-1").await;
        session.unwrap_or_else(|error| panic!("{error}"))
    }

    /// The stored checkpoint of a shard.
    pub(super) async fn stored(&self, shard: &str) -> Option<Checkpoint> {
        let rows = self.store.rows(&Stream::new("orders", "arn:orders")).await.unwrap();
        rows.into_iter().find(|row| row.shard == shard.into()).map(|row| row.checkpoint).unwrap_or_default()
    }
}

/// A batch of one shard, as shard and sequence numbers. It takes all that is ready.
pub(super) async fn take(session: &Session) -> (String, Vec<u64>, Receipt) {
    take_at_most(session, 1000).await
}

/// A batch of one shard with at most this many records. It is one delivery if this is its size.
pub(super) async fn take_at_most(session: &Session, max: usize) -> (String, Vec<u64>, Receipt) {
    let (records, receipt) = take_any(session, max).await;
    let shard = records[0].0.clone();
    assert!(records.iter().all(|(other, _)| *other == shard), "a batch of several shards: {records:?}");
    (shard, records.into_iter().map(|(_, number)| number).collect(), receipt)
}

/// A batch of any shards, as shards and sequence numbers.
pub(super) async fn take_any(session: &Session, max: usize) -> (Vec<(String, u64)>, Receipt) {
    let batch = session.read(Demand::new(max, Duration::from_hours(1))).await.unwrap();
    assert!(!batch.is_empty(), "nothing came for an hour");
    let (messages, receipt) = batch.into_parts();
    let records = messages.iter().map(|message| {
        let record = KinesisRecord::of(message).unwrap();
        (record.shard().to_string(), record.sequence_number().as_str().parse().unwrap())
    });
    (records.collect(), receipt)
}

/// Takes and acks until this many records came. Returns them in order, with their shards.
pub(super) async fn take_and_ack(session: &Session, count: usize) -> Vec<(String, u64)> {
    let mut all = Vec::new();
    while all.len() < count {
        let (records, receipt) = take_any(session, 1000).await;
        all.extend(records);
        receipt.settle_in_test(Verdicts::ACK).unwrap();
    }
    all
}

/// The same as [`take_and_ack`], without the shards.
pub(super) async fn numbers(session: &Session, count: usize) -> Vec<u64> {
    take_and_ack(session, count).await.into_iter().map(|(_, number)| number).collect()
}

/// Whether nothing comes for this long.
pub(super) async fn is_quiet(session: &Session, time: Duration) -> bool {
    session.read(Demand::new(1000, time)).await.unwrap().is_empty()
}

/// Closes the session, and checks that nothing is left.
pub(super) async fn close(session: &Session) {
    session.close(Duration::from_secs(10)).await.unwrap();
    assert_eq!((session.pool.records().used, session.pool.bytes().used), (0, 0), "the pool is not empty");
    assert_eq!((session.pool.records().waiting, session.pool.bytes().waiting), (0, 0));
    assert!(session.tasks.is_empty(), "a task is left");
}
