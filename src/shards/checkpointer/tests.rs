//! What does the checkpointer store and when, whose requests does it follow, and how does it release leases?

use futures::FutureExt;
use pipeline_plugin_api::{Demand, Receipt, Verdicts};
use tokio::task::JoinHandle;
use tokio::time::Instant;

use super::*;
use crate::delivery::Delivery;
use crate::delivery::in_flight::next_batch;
use crate::delivery::outbox::{LaneHandle, Outbox};
use crate::delivery::redelivery::RedeliveryPolicy;
use crate::lease::memory::{MemoryStore, Trouble};
use crate::lease::validity::LeaseValidity;
use crate::lease::{Checkpoint, Claim, ClaimFrom, FileStore, Lease, Presence, SharedStore};
use crate::model::ShardNames;
use crate::pool::Pool;
use crate::reading::wire::Event;
use crate::records::RecordTable;

const SECOND: Duration = Duration::from_secs(1);
const LEASE: Duration = Duration::from_secs(30);
const GRACE: Duration = Duration::from_secs(10);
/// The time after which an idle lease is renewed in a shared store.
const IDLE: Duration = Duration::from_secs(45);

/// A checkpointer, and the store as its worker sees it.
struct Bench<S> {
    store: Arc<S>,
    outbox: Arc<Outbox>,
    checkpointer: Arc<Checkpointer>,
    tasks: TaskTracker,
}

/// A shard that the checkpointer holds.
struct Shard {
    key: Key,
    progress: Arc<Progress>,
    stop: CancellationToken,
    lane: LaneHandle,
    outbox: Arc<Outbox>,
}

impl Bench<MemoryStore> {
    fn new() -> Self {
        Self::on(MemoryStore::default())
    }

    /// Makes each later write take `time`. Writes in progress are not affected.
    fn slow(&self, time: Duration) {
        self.store.trouble("update", Some(Trouble::Slow(time)));
    }

    fn close_table(&self, closed: bool) {
        lock(&self.store.table.core).closed = closed;
    }

    /// Returns the number of attempted row writes.
    fn writes(&self) -> u64 {
        lock(&self.store.table.core).by_call.get("update").copied().unwrap_or_default()
    }

    /// Returns another worker's view of the table.
    fn other(&self, name: &str) -> MemoryStore {
        MemoryStore::new(&self.store.table, name)
    }

    /// Makes another worker take the shard, as if this worker were dead.
    async fn take_by_other(&self, shard: &str) {
        take(&self.other("other"), shard).await;
    }

    /// Makes another worker request the shard.
    async fn ask(&self, shard: &str, worker: &str, instead_of: Option<&str>) {
        let (hold, instead_of) = (self.row(shard).await.hold.unwrap(), instead_of.map(WorkerId::from));
        assert!(self.other(worker).ask(&stream(), &shard.into(), &hold, instead_of.as_ref()).await.unwrap());
    }
}

impl<S: LeaseStore> Bench<S> {
    fn on(store: S) -> Self {
        let (store, outbox) = (Arc::new(store), Arc::new(Outbox::new(64, Arc::new(LeaseValidity::unlimited()))));
        let fatal = FatalHandler::new(|cause| panic!("{cause}"));
        let checkpointer = Checkpointer::new(Arc::clone(&store) as _, Arc::default(), fatal, LEASE, GRACE);
        Self { store, outbox, checkpointer: Arc::new(checkpointer), tasks: TaskTracker::new() }
    }

    /// Claims a shard and adds it to the checkpointer.
    async fn add(&self, shard: &str) -> Shard {
        let lease = take(&*self.store, shard).await;
        let names = Arc::new(ShardNames { stream: stream(), shard: shard.into() });
        let (lane, outbox) = (self.outbox.lane(&names), Arc::clone(&self.outbox));
        let progress = Arc::new(Progress::new(names, 1000, RedeliveryPolicy::UNTIL_ACCEPTED));
        let stop = CancellationToken::new();
        self.checkpointer.add(OwnedShard::new(lease, Arc::clone(&progress), stop.clone(), Arc::clone(&self.outbox)));
        Shard { key: (stream(), shard.into()), progress, stop, lane, outbox }
    }

    /// Stores the checkpoints that are due, in parallel to the test.
    fn flush(&self) -> JoinHandle<Result<(), StoreError>> {
        let checkpointer = Arc::clone(&self.checkpointer);
        self.tasks.spawn(async move { checkpointer.flush().await })
    }

    /// Stores the end of a shard, in parallel to the test.
    fn end(&self, shard: &Shard) -> JoinHandle<EndStored> {
        let (checkpointer, progress) = (Arc::clone(&self.checkpointer), Arc::clone(&shard.progress));
        self.tasks.spawn(async move { checkpointer.store_end(&progress, None).await })
    }

    /// Stores the checkpoints that are due.
    async fn flushed(&self) {
        self.checkpointer.flush().await.unwrap();
    }

    /// Compares the leases with the rows of the store. All workers are alive, or none is.
    async fn reconcile(&self, alive: bool) {
        let rows = self.store.rows(&stream()).await.unwrap();
        self.checkpointer.reconcile(&stream(), &rows, |_| alive);
    }

    fn rebalance_is_wanted(&self) -> bool {
        self.checkpointer.rebalance_wanted().now_or_never().is_some()
    }

    async fn row(&self, shard: &str) -> Row {
        self.store.rows(&stream()).await.unwrap().into_iter().find(|row| row.shard == shard.into()).unwrap()
    }

    async fn holder(&self, shard: &str) -> Option<WorkerId> {
        self.row(shard).await.hold.map(|hold| hold.worker)
    }

    async fn checkpoint(&self, shard: &str) -> Option<Checkpoint> {
        self.row(shard).await.checkpoint
    }
}

impl Shard {
    /// Adds a record to the outbox.
    async fn push(&mut self, number: u64) {
        let table = self.event(&[number]);
        let first = self.progress.track(&table, at(number));
        let pool = Pool::new(1, 1);
        let (record, bytes) = (pool.reserve_records(1).await, Arc::new(pool.reserve(1).await));
        let delivery = Delivery::new(&self.progress, &table, 0..1, first, record, &bytes);
        self.lane.push(delivery).await.unwrap();
    }

    /// Delivers a record to the host.
    async fn deliver(&mut self, number: u64) -> Receipt {
        self.push(number).await;
        let batch = next_batch(&self.outbox, Demand::new(1, SECOND)).await.unwrap();
        batch.into_parts().1
    }

    async fn ack(&mut self, number: u64) {
        self.deliver(number).await.settle_in_test(Verdicts::ACK).unwrap();
    }

    /// Moves the position of the shard by an event without records.
    fn pass(&self, number: u64) {
        self.progress.track(&self.event(&[]), at(number));
    }

    fn event(&self, numbers: &[u64]) -> Arc<RecordTable> {
        let record = |number: &u64| serde_json::json!({ "SequenceNumber": number.to_string(), "Data": "" });
        let event = serde_json::json!({ "Records": numbers.iter().map(record).collect::<Vec<_>>() });
        let rows = Event::parse(event.to_string().as_bytes()).unwrap().rows;
        Arc::new(RecordTable::new(&self.progress.names, rows))
    }

    fn done(&self) -> u64 {
        self.progress.checkpoint().1
    }
}

fn stream() -> Stream {
    Stream::new("orders", "arn:orders")
}

fn at(number: u64) -> SequenceNumber {
    SequenceNumber::new(&number.to_string()).unwrap()
}

#[expect(clippy::unnecessary_wraps, reason = "rows hold it so")]
fn after(number: u64) -> Option<Checkpoint> {
    Some(Checkpoint::After(at(number)))
}

/// Takes a shard from any holder.
async fn take(store: &dyn LeaseStore, shard: &str) -> Lease {
    let rows = store.rows(&stream()).await.unwrap();
    let hold = rows.iter().find(|row| row.shard == shard.into()).and_then(|row| row.hold.as_ref());
    match store.claim(&stream(), &shard.into(), hold.map_or(ClaimFrom::Nobody, ClaimFrom::Holder)).await.unwrap() {
        Claim::Owned(lease, _) => lease,
        Claim::HeldBy(holder) => panic!("held by {holder}"),
    }
}

// Checkpoints that are stored, and when.

#[tokio::test(start_paused = true)]
async fn idle_lease_in_a_shared_store_is_renewed_after_one_and_a_half_lease_periods() {
    let bench = Bench::new();
    let _shard = bench.add("a").await;
    sleep(IDLE.saturating_sub(SECOND)).await;
    bench.flushed().await;
    assert_eq!(bench.writes(), 0);
    sleep(SECOND).await;
    bench.flushed().await;
    bench.flushed().await;
    assert_eq!(bench.writes(), 1);
}

#[tokio::test(start_paused = true)]
async fn renewal_does_not_rewrite_a_stored_position() {
    let bench = Bench::new();
    let mut shard = bench.add("a").await;
    shard.ack(1).await;
    bench.flushed().await;
    // The checkpoint that was stored is still known at the second renewal.
    for _ in 0..2 {
        sleep(IDLE).await;
        let checkpoints: Vec<_> = bench.checkpointer.due().into_iter().map(|(due, _)| due.checkpoint).collect();
        assert_eq!(checkpoints, [None]);
        bench.flushed().await;
    }
}

#[tokio::test(start_paused = true)]
async fn position_that_moves_without_acks_is_stored_by_the_renewal() {
    let bench = Bench::new();
    let mut shard = bench.add("a").await;
    shard.pass(1);
    bench.flushed().await;
    assert_eq!(bench.checkpoint("a").await, None);
    // The same holds after an acknowledged record.
    shard.ack(2).await;
    bench.flushed().await;
    shard.pass(3);
    bench.flushed().await;
    assert_eq!(bench.checkpoint("a").await, after(2));
    sleep(IDLE).await;
    bench.flushed().await;
    assert_eq!(bench.checkpoint("a").await, after(3));
}

#[tokio::test(start_paused = true)]
async fn idle_position_in_an_exclusive_store_is_stored_every_five_minutes_if_it_moved() {
    let folder = tempfile::tempdir().unwrap();
    let bench = Bench::on(FileStore::open(&folder.path().join("checkpoints")).await.unwrap());
    let shard = bench.add("a").await;
    shard.pass(1);
    sleep(IDLE_PERIOD.saturating_sub(SECOND)).await;
    assert!(bench.checkpointer.due().is_empty());
    sleep(SECOND).await;
    bench.flushed().await;
    assert_eq!(bench.checkpoint("a").await, after(1));
    sleep(2 * IDLE_PERIOD).await;
    assert!(bench.checkpointer.due().is_empty());
}

#[tokio::test(start_paused = true)]
async fn failed_write_is_reported_and_retried_alone() {
    let bench = Bench::new();
    let (mut stored, mut failed) = (bench.add("a").await, bench.add("b").await);
    stored.ack(1).await;
    failed.ack(1).await;
    bench.slow(SECOND);
    let flush = bench.flush();
    // The table is closed between the two writes.
    sleep(SECOND * 3 / 2).await;
    bench.close_table(true);
    flush.await.unwrap().unwrap_err();
    bench.close_table(false);
    assert_eq!((bench.checkpoint("a").await, bench.checkpoint("b").await), (after(1), None));
    bench.flushed().await;
    assert_eq!((bench.checkpoint("b").await, bench.writes()), (after(1), 3));
}

#[tokio::test(start_paused = true)]
async fn errors_do_not_end_periodic_flushes() {
    let bench = Bench::new();
    let mut shard = bench.add("a").await;
    shard.ack(1).await;
    bench.close_table(true);
    let checkpointer = Arc::clone(&bench.checkpointer);
    bench.tasks.spawn(async move { checkpointer.run(SECOND).await });
    sleep(5 * SECOND).await;
    bench.close_table(false);
    sleep(2 * SECOND).await;
    assert_eq!(bench.checkpoint("a").await, after(1));
}

#[tokio::test(start_paused = true)]
async fn answer_to_an_older_lease_does_not_count_for_the_newer() {
    let bench = Bench::new();
    let (mut old, mut slow) = (bench.add("a").await, bench.add("b").await);
    old.ack(1).await;
    slow.ack(1).await;
    bench.slow(SECOND);
    let flush = bench.flush();
    // The first row is written; its answer arrives together with that of the second.
    sleep(SECOND * 3 / 2).await;
    bench.take_by_other("a").await;
    bench.reconcile(true).await;
    let mut new = bench.add("a").await;
    flush.await.unwrap().unwrap();
    new.ack(2).await;
    bench.flushed().await;
    assert_eq!(bench.checkpoint("a").await, after(2));
}

#[tokio::test(start_paused = true)]
async fn loss_of_an_older_lease_does_not_end_the_newer() {
    let bench = Bench::new();
    let mut old = bench.add("a").await;
    old.ack(1).await;
    bench.slow(SECOND);
    let flush = bench.flush();
    sleep(SECOND / 2).await;
    bench.take_by_other("a").await;
    bench.reconcile(true).await;
    assert!(old.stop.is_cancelled());
    let new = bench.add("a").await;
    flush.await.unwrap().unwrap();
    assert_eq!((new.stop.is_cancelled(), bench.checkpointer.len()), (false, 1));
}

#[tokio::test(start_paused = true)]
async fn release_that_is_retried_does_not_release_a_newer_lease() {
    let bench = Bench::new();
    let mut old = bench.add("a").await;
    old.ack(1).await;
    bench.close_table(true);
    bench.checkpointer.begin_release(&old.key, ReleaseReason::Expired);
    // The release fails, and the lease is lost before the release is retried.
    sleep(Duration::from_millis(1)).await;
    bench.close_table(false);
    bench.take_by_other("a").await;
    bench.flushed().await;
    assert_eq!(bench.checkpointer.len(), 0);
    let new = bench.add("a").await;
    sleep(LEASE).await;
    assert_eq!((new.stop.is_cancelled(), bench.checkpointer.len()), (false, 1));
    assert!(bench.holder("a").await.is_some(), "the lease of another claim was released");
}

// Writes are done one after the other.

#[tokio::test(start_paused = true)]
async fn flush_waits_for_the_one_before_it() {
    let bench = Bench::new();
    let mut shard = bench.add("a").await;
    shard.ack(1).await;
    bench.slow(10 * SECOND);
    let (start, older) = (Instant::now(), bench.flush());
    sleep(SECOND).await;
    shard.ack(2).await;
    bench.slow(SECOND);
    bench.flushed().await;
    assert_eq!((start.elapsed(), older.is_finished()), (11 * SECOND, true));
    assert_eq!(bench.checkpoint("a").await, after(2));
}

#[tokio::test(start_paused = true)]
async fn release_waits_for_a_flush_in_progress() {
    let bench = Bench::new();
    let mut shard = bench.add("a").await;
    shard.ack(1).await;
    bench.slow(10 * SECOND);
    let flush = bench.flush();
    sleep(SECOND).await;
    bench.slow(SECOND);
    bench.checkpointer.begin_release(&shard.key, ReleaseReason::Expired);
    flush.await.unwrap().unwrap();
    assert!(bench.holder("a").await.is_some());
    sleep(2 * SECOND).await;
    assert_eq!(bench.holder("a").await, None);
}

#[tokio::test(start_paused = true)]
async fn shard_end_waits_for_a_flush_in_progress() {
    let bench = Bench::new();
    let mut shard = bench.add("a").await;
    shard.ack(1).await;
    bench.slow(10 * SECOND);
    let (start, flush) = (Instant::now(), bench.flush());
    sleep(SECOND).await;
    bench.slow(SECOND);
    assert_eq!(bench.checkpointer.store_end(&shard.progress, None).await, EndStored::Stored);
    assert_eq!((start.elapsed(), flush.is_finished()), (11 * SECOND, true));
}

#[tokio::test(start_paused = true)]
async fn flush_waits_for_a_release_or_a_shard_end_in_progress() {
    for ends in [false, true] {
        let bench = Bench::new();
        let (shard, mut other) = (bench.add("a").await, bench.add("b").await);
        other.ack(1).await;
        bench.slow(10 * SECOND);
        let start = Instant::now();
        if ends {
            bench.end(&shard);
        } else {
            bench.checkpointer.begin_release(&shard.key, ReleaseReason::Expired);
        }
        sleep(SECOND).await;
        bench.slow(SECOND);
        bench.flushed().await;
        assert_eq!((start.elapsed(), bench.holder("a").await), (11 * SECOND, None), "ends: {ends}");
    }
}

#[tokio::test(start_paused = true)]
async fn shard_end_in_progress_is_not_overtaken_by_the_final_release() {
    let bench = Bench::new();
    let shard = bench.add("a").await;
    bench.slow(10 * SECOND);
    let end = bench.end(&shard);
    sleep(SECOND).await;
    bench.slow(SECOND);
    bench.checkpointer.finish().await.unwrap();
    assert_eq!(
        (end.await.unwrap(), bench.checkpoint("a").await),
        (EndStored::Stored, Some(Checkpoint::ShardEnd(None)))
    );
}

// The loss of a shard.

#[tokio::test(start_paused = true)]
async fn loss_reported_by_a_write_stops_reading_and_triggers_a_rebalance() {
    let bench = Bench::new();
    let mut shard = bench.add("a").await;
    shard.ack(1).await;
    let late = shard.deliver(2).await;
    bench.take_by_other("a").await;
    bench.flushed().await;
    assert_eq!((shard.stop.is_cancelled(), bench.checkpointer.len(), bench.rebalance_is_wanted()), (true, 0, true));
    late.settle_in_test(Verdicts::ACK).unwrap();
    assert_eq!(shard.done(), 1, "an ack moved the checkpoint of a lost shard");
}

#[tokio::test(start_paused = true)]
async fn lost_shard_delivers_nothing() {
    let bench = Bench::new();
    let mut shard = bench.add("a").await;
    shard.push(1).await;
    bench.take_by_other("a").await;
    bench.reconcile(true).await;
    assert!(shard.stop.is_cancelled());
    assert!(next_batch(&bench.outbox, Demand::new(1, SECOND)).await.unwrap().is_empty());
}

#[tokio::test(start_paused = true)]
async fn shard_without_a_row_is_lost() {
    let bench = Bench::new();
    let shard = bench.add("a").await;
    bench.checkpointer.reconcile(&stream(), &[], |_| true);
    assert_eq!((shard.stop.is_cancelled(), bench.checkpointer.len()), (true, 0));
}

#[tokio::test(start_paused = true)]
async fn rows_of_one_stream_do_not_affect_another() {
    let bench = Bench::new();
    let shard = bench.add("a").await;
    let other = Stream::new("payments", "arn:payments");
    bench.checkpointer.reconcile(&other, &[], |_| true);
    assert!(!shard.stop.is_cancelled());
    assert_eq!(bench.checkpointer.held(&other), BTreeSet::new());
    assert_eq!(bench.checkpointer.held(&stream()), ["a".into()].into());
}

// Requests of other workers.

#[tokio::test(start_paused = true)]
async fn request_reported_by_a_write_triggers_a_rebalance() {
    let bench = Bench::new();
    let mut shard = bench.add("a").await;
    bench.ask("a", "other", None).await;
    shard.ack(1).await;
    bench.flushed().await;
    assert!(bench.rebalance_is_wanted());
}

#[tokio::test(start_paused = true)]
async fn dead_requester_triggers_no_rebalance_until_it_is_replaced() {
    let bench = Bench::new();
    let mut shard = bench.add("a").await;
    bench.ask("a", "other", None).await;
    bench.reconcile(false).await;
    shard.ack(1).await;
    bench.flushed().await;
    assert_eq!((shard.stop.is_cancelled(), bench.rebalance_is_wanted()), (false, false));
    bench.ask("a", "third", Some("other")).await;
    shard.ack(2).await;
    bench.flushed().await;
    assert!(bench.rebalance_is_wanted());
}

#[tokio::test(start_paused = true)]
async fn request_for_a_shard_being_released_triggers_no_rebalance() {
    let bench = Bench::new();
    let mut shard = bench.add("a").await;
    shard.ack(1).await;
    let _late = shard.deliver(2).await;
    bench.ask("a", "other", None).await;
    bench.reconcile(true).await;
    bench.flushed().await;
    assert_eq!((bench.checkpoint("a").await, bench.rebalance_is_wanted()), (after(1), false));
}

#[tokio::test(start_paused = true)]
async fn live_requester_gets_the_shard_and_is_woken() {
    let bench = Bench::new();
    let mut shard = bench.add("a").await;
    shard.ack(1).await;
    bench.other("other").heartbeat(&Presence::default()).await.unwrap();
    bench.ask("a", "other", None).await;
    bench.reconcile(true).await;
    assert!(shard.stop.is_cancelled());
    sleep(SECOND).await;
    assert_eq!((bench.holder("a").await, bench.checkpoint("a").await), (Some("other".into()), after(1)));
    assert_eq!(lock(&bench.store.table.core).workers[&"other".into()].wake_ups, 1);
    assert_eq!((bench.checkpointer.len(), bench.rebalance_is_wanted()), (0, true));
}

// The release of a lease.

#[tokio::test(start_paused = true)]
async fn lease_is_released_once_nothing_of_the_shard_is_in_flight() {
    let bench = Bench::new();
    let mut shard = bench.add("a").await;
    let last = shard.deliver(1).await;
    bench.checkpointer.release_all();
    sleep(SECOND).await;
    assert!(bench.holder("a").await.is_some());
    last.settle_in_test(Verdicts::ACK).unwrap();
    sleep(SECOND).await;
    assert_eq!((bench.holder("a").await, bench.checkpoint("a").await), (None, after(1)));
}

#[tokio::test(start_paused = true)]
async fn acks_after_the_grace_period_do_not_count() {
    let bench = Bench::new();
    let mut shard = bench.add("a").await;
    shard.ack(1).await;
    let late = shard.deliver(2).await;
    bench.slow(2 * SECOND);
    bench.checkpointer.begin_release(&shard.key, ReleaseReason::Expired);
    sleep(GRACE + SECOND).await;
    // The write of the last checkpoint is in progress.
    late.settle_in_test(Verdicts::ACK).unwrap();
    assert_eq!((shard.done(), bench.holder("a").await.is_some()), (1, true));
    sleep(2 * SECOND).await;
    assert_eq!((bench.holder("a").await, bench.checkpoint("a").await), (None, after(1)));
}

#[tokio::test(start_paused = true)]
async fn lease_is_released_once_however_often_the_release_begins() {
    let bench = Bench::new();
    let shard = bench.add("a").await;
    bench.slow(SECOND);
    bench.checkpointer.begin_release(&shard.key, ReleaseReason::HandOver("other".into()));
    bench.checkpointer.release_all();
    sleep(10 * SECOND).await;
    assert_eq!((bench.writes(), bench.checkpointer.len()), (1, 0));
}

#[tokio::test(start_paused = true)]
async fn loss_during_a_release_is_noticed_by_the_write() {
    let bench = Bench::new();
    let mut shard = bench.add("a").await;
    let _late = shard.deliver(1).await;
    bench.checkpointer.begin_release(&shard.key, ReleaseReason::Expired);
    bench.take_by_other("a").await;
    // The rows may have been read before the release.
    bench.reconcile(true).await;
    assert_eq!(bench.checkpointer.len(), 1);
    sleep(GRACE + SECOND).await;
    assert_eq!((bench.checkpointer.len(), bench.holder("a").await), (0, Some("other".into())));
}

#[tokio::test(start_paused = true)]
async fn failed_release_is_retried_until_it_succeeds() {
    let bench = Bench::new();
    let mut shard = bench.add("a").await;
    shard.ack(1).await;
    bench.close_table(true);
    bench.checkpointer.release_all();
    sleep(60 * SECOND).await;
    assert_eq!(bench.checkpointer.len(), 1);
    bench.close_table(false);
    sleep(2 * LATEST_RETRY).await;
    assert_eq!((bench.holder("a").await, bench.checkpoint("a").await), (None, after(1)));
}

#[tokio::test(start_paused = true)]
async fn concurrent_releases_are_limited() {
    let bench = Bench::new();
    let mut shards = Vec::new();
    for shard in 0..RELEASES_AT_ONCE + 4 {
        shards.push(bench.add(&shard.to_string()).await);
    }
    bench.slow(SECOND);
    bench.checkpointer.release_all();
    sleep(SECOND * 3 / 2).await;
    assert_eq!(bench.checkpointer.len(), 4);
    sleep(SECOND).await;
    assert_eq!(bench.checkpointer.len(), 0);
}

// The end of a shard.

#[tokio::test(start_paused = true)]
async fn shard_end_is_stored_with_the_last_position_and_later_acks_do_not_count() {
    let bench = Bench::new();
    let mut shard = bench.add("a").await;
    let late = shard.deliver(1).await;
    assert_eq!(bench.checkpointer.store_end(&shard.progress, Some(at(9))).await, EndStored::Stored);
    assert_eq!((bench.holder("a").await, bench.checkpoint("a").await), (None, Some(Checkpoint::ShardEnd(Some(at(9))))));
    assert_eq!(bench.checkpointer.len(), 0);
    late.settle_in_test(Verdicts::ACK).unwrap();
    assert_eq!(shard.done(), 0);
}

#[tokio::test(start_paused = true)]
async fn end_of_a_lost_shard_is_not_reported_as_stored() {
    for seen in [false, true] {
        let bench = Bench::new();
        let shard = bench.add("a").await;
        bench.take_by_other("a").await;
        if seen {
            bench.reconcile(true).await;
        }
        assert_eq!(bench.checkpointer.store_end(&shard.progress, None).await, EndStored::Lost, "seen: {seen}");
        assert_eq!((bench.checkpoint("a").await, bench.checkpointer.len()), (None, 0), "seen: {seen}");
        assert!(shard.stop.is_cancelled());
    }
}

#[tokio::test(start_paused = true)]
async fn failed_shard_end_is_retried_until_it_succeeds() {
    let bench = Bench::new();
    let shard = bench.add("a").await;
    bench.close_table(true);
    let open = async {
        sleep(60 * SECOND).await;
        bench.close_table(false);
    };
    let (stored, ()) = tokio::join!(bench.checkpointer.store_end(&shard.progress, None), open);
    assert_eq!((stored, bench.checkpoint("a").await), (EndStored::Stored, Some(Checkpoint::ShardEnd(None))));
}

// The end of the input.

#[tokio::test(start_paused = true)]
async fn finish_stores_all_positions_and_later_acks_do_not_count() {
    let bench = Bench::new();
    let mut shard = bench.add("a").await;
    shard.ack(1).await;
    let late = shard.deliver(2).await;
    bench.checkpointer.finish().await.unwrap();
    late.settle_in_test(Verdicts::ACK).unwrap();
    assert_eq!((shard.done(), bench.checkpointer.len()), (1, 0));
    assert_eq!((bench.holder("a").await, bench.checkpoint("a").await), (None, after(1)));
}

#[tokio::test(start_paused = true)]
async fn finish_does_not_wait_for_acks() {
    let bench = Bench::new();
    let mut shard = bench.add("a").await;
    let _late = shard.deliver(1).await;
    bench.checkpointer.begin_release(&shard.key, ReleaseReason::Expired);
    sleep(SECOND).await;
    let start = Instant::now();
    bench.checkpointer.finish().await.unwrap();
    assert_eq!((start.elapsed(), bench.holder("a").await), (Duration::ZERO, None));
    assert!(bench.checkpointer.releases.is_empty(), "a release continues after finish");
}

#[tokio::test(start_paused = true)]
async fn finish_reports_a_failed_write_and_stores_the_others() {
    let bench = Bench::new();
    let (_stored, _failed) = (bench.add("a").await, bench.add("b").await);
    bench.slow(SECOND);
    let close = async {
        sleep(SECOND * 3 / 2).await;
        bench.close_table(true);
    };
    let (finished, ()) = tokio::join!(bench.checkpointer.finish(), close);
    bench.close_table(false);
    finished.unwrap_err();
    assert_eq!((bench.holder("a").await, bench.holder("b").await), (None, Some("worker".into())));
}

#[tokio::test(start_paused = true)]
async fn finish_does_not_wait_long_for_an_unresponsive_store() {
    let bench = Bench::new();
    let _shard = bench.add("a").await;
    bench.store.freeze(true);
    let start = Instant::now();
    let error = bench.checkpointer.finish().await.unwrap_err().to_string();
    assert_eq!((start.elapsed(), error.contains("did not answer")), (FINISHED_WITHIN, true), "{error}");
}
