//! What does the checkpointer store and when, whose requests does it follow, and how does it release leases?

use futures::FutureExt;
use pipeline_plugin_api::{Demand, Receipt, Verdicts};
use tokio::task::JoinHandle;
use tokio::time::Instant;

use super::*;
use crate::delivery::Delivery;
use crate::delivery::in_flight::next_batch;
use crate::delivery::outbox::{LaneHandle, Outbox};
use crate::lease::memory::{MemoryStore, Trouble};
use crate::lease::validity::LeaseValidity;
use crate::lease::{Checkpoint, Claim, ClaimFrom, FileStore, Lease, Presence, SharedStore};
use crate::model::ShardNames;
use crate::pool::Pool;
use crate::reading::fan_out::wire::Event;
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

    /// Makes each write take this long from now on. Writes in progress are not affected.
    fn slow(&self, time: Duration) {
        self.store.trouble("update", Some(Trouble::Slow(time)));
    }

    fn close_table(&self, closed: bool) {
        lock(&self.store.table.core).closed = closed;
    }

    /// Returns how many writes of rows were attempted.
    fn writes(&self) -> u64 {
        lock(&self.store.table.core).by_call.get("update").copied().unwrap_or_default()
    }

    /// Returns another worker's view of the table.
    fn other(&self, name: &str) -> MemoryStore {
        MemoryStore::new(&self.store.table, name)
    }

    /// Makes another worker take the shard, as if this worker were dead.
    async fn rob(&self, shard: &str) {
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
        let progress = Arc::new(Progress::new(names, 1000, true));
        let stop = CancellationToken::new();
        self.checkpointer.add(OwnedShard::new(lease, Arc::clone(&progress), stop.clone(), Arc::clone(&self.outbox)));
        Shard { key: (stream(), shard.into()), progress, stop, lane, outbox }
    }

    /// Stores what is due, in parallel to the test.
    fn flush(&self) -> JoinHandle<Result<(), StoreError>> {
        let checkpointer = Arc::clone(&self.checkpointer);
        self.tasks.spawn(async move { checkpointer.flush().await })
    }

    /// Stores the end of a shard, in parallel to the test.
    fn end(&self, shard: &Shard) -> JoinHandle<EndStored> {
        let (checkpointer, progress) = (Arc::clone(&self.checkpointer), Arc::clone(&shard.progress));
        self.tasks.spawn(async move { checkpointer.store_end(&progress, None).await })
    }

    /// Stores what is due.
    async fn flushed(&self) {
        self.checkpointer.flush().await.unwrap();
    }

    /// Compares the leases with the rows of the store. All workers are alive, or none is.
    async fn look(&self, alive: bool) {
        let rows = self.store.rows(&stream()).await.unwrap();
        self.checkpointer.reconcile(&stream(), &rows, |_| alive);
    }

    fn is_worth_a_look(&self) -> bool {
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
        let (record, bytes) = (pool.admit(1).await, Arc::new(pool.reserve(1).await));
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

// Which checkpoints are stored, and when?

#[tokio::test(start_paused = true)]
async fn an_idle_lease_is_renewed_after_one_and_a_half_lease_periods_where_others_look() {
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
async fn a_renewal_does_not_write_a_place_again() {
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
async fn a_place_that_moves_without_acks_waits_for_the_renewal() {
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
async fn where_nobody_else_looks_an_idle_place_is_stored_every_five_minutes_if_it_moved() {
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
async fn the_error_of_one_write_is_told_and_that_one_is_tried_again() {
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
async fn errors_do_not_end_the_storing() {
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
async fn an_answer_to_an_older_lease_counts_nothing_for_the_newer() {
    let bench = Bench::new();
    let (mut old, mut slow) = (bench.add("a").await, bench.add("b").await);
    old.ack(1).await;
    slow.ack(1).await;
    bench.slow(SECOND);
    let flush = bench.flush();
    // The first row is written; its answer arrives together with that of the second.
    sleep(SECOND * 3 / 2).await;
    bench.rob("a").await;
    bench.look(true).await;
    let mut new = bench.add("a").await;
    flush.await.unwrap().unwrap();
    new.ack(2).await;
    bench.flushed().await;
    assert_eq!(bench.checkpoint("a").await, after(2));
}

#[tokio::test(start_paused = true)]
async fn the_loss_of_an_older_lease_does_not_end_the_newer() {
    let bench = Bench::new();
    let mut old = bench.add("a").await;
    old.ack(1).await;
    bench.slow(SECOND);
    let flush = bench.flush();
    sleep(SECOND / 2).await;
    bench.rob("a").await;
    bench.look(true).await;
    assert!(old.stop.is_cancelled());
    let new = bench.add("a").await;
    flush.await.unwrap().unwrap();
    assert_eq!((new.stop.is_cancelled(), bench.checkpointer.len()), (false, 1));
}

#[tokio::test(start_paused = true)]
async fn a_lease_that_is_given_back_is_the_one_that_was_left() {
    let bench = Bench::new();
    let mut old = bench.add("a").await;
    old.ack(1).await;
    bench.close_table(true);
    bench.checkpointer.begin_release(&old.key, ReleaseReason::Expired);
    // The release fails, and the lease is lost before the release is retried.
    sleep(Duration::from_millis(1)).await;
    bench.close_table(false);
    bench.rob("a").await;
    bench.flushed().await;
    assert_eq!(bench.checkpointer.len(), 0);
    let new = bench.add("a").await;
    sleep(LEASE).await;
    assert_eq!((new.stop.is_cancelled(), bench.checkpointer.len()), (false, 1));
    assert!(bench.holder("a").await.is_some(), "the lease of another claim was given back");
}

// Are writes done one after the other?

#[tokio::test(start_paused = true)]
async fn a_flush_waits_for_the_one_before_it() {
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
async fn a_lease_is_not_given_back_while_a_flush_is_on_its_way() {
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
async fn an_end_is_not_stored_while_a_flush_is_on_its_way() {
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
async fn nothing_is_flushed_while_a_lease_is_given_back_or_an_end_is_stored() {
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
async fn an_end_that_is_on_its_way_is_not_overtaken_by_the_end_of_all() {
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

// What follows from the loss of a shard?

#[tokio::test(start_paused = true)]
async fn a_loss_that_a_write_tells_of_stops_the_reading_and_calls_for_a_look() {
    let bench = Bench::new();
    let mut shard = bench.add("a").await;
    shard.ack(1).await;
    let late = shard.deliver(2).await;
    bench.rob("a").await;
    bench.flushed().await;
    assert_eq!((shard.stop.is_cancelled(), bench.checkpointer.len(), bench.is_worth_a_look()), (true, 0, true));
    late.settle_in_test(Verdicts::ACK).unwrap();
    assert_eq!(shard.done(), 1, "an ack moves what is another's");
}

#[tokio::test(start_paused = true)]
async fn nothing_of_a_lost_shard_goes_out() {
    let bench = Bench::new();
    let mut shard = bench.add("a").await;
    shard.push(1).await;
    bench.rob("a").await;
    bench.look(true).await;
    assert!(shard.stop.is_cancelled());
    assert!(next_batch(&bench.outbox, Demand::new(1, SECOND)).await.unwrap().is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_shard_that_the_store_does_not_know_is_lost() {
    let bench = Bench::new();
    let shard = bench.add("a").await;
    bench.checkpointer.reconcile(&stream(), &[], |_| true);
    assert_eq!((shard.stop.is_cancelled(), bench.checkpointer.len()), (true, 0));
}

#[tokio::test(start_paused = true)]
async fn what_a_stream_shows_says_nothing_of_another() {
    let bench = Bench::new();
    let shard = bench.add("a").await;
    let other = Stream::new("payments", "arn:payments");
    bench.checkpointer.reconcile(&other, &[], |_| true);
    assert!(!shard.stop.is_cancelled());
    assert_eq!(bench.checkpointer.held(&other), BTreeSet::new());
    assert_eq!(bench.checkpointer.held(&stream()), ["a".into()].into());
}

// What follows from requests of other workers?

#[tokio::test(start_paused = true)]
async fn a_request_that_a_write_tells_of_calls_for_a_look() {
    let bench = Bench::new();
    let mut shard = bench.add("a").await;
    bench.ask("a", "other", None).await;
    shard.ack(1).await;
    bench.flushed().await;
    assert!(bench.is_worth_a_look());
}

#[tokio::test(start_paused = true)]
async fn who_asked_and_is_dead_gets_nothing_and_calls_for_no_look_but_who_asks_instead_does() {
    let bench = Bench::new();
    let mut shard = bench.add("a").await;
    bench.ask("a", "other", None).await;
    bench.look(false).await;
    shard.ack(1).await;
    bench.flushed().await;
    assert_eq!((shard.stop.is_cancelled(), bench.is_worth_a_look()), (false, false));
    bench.ask("a", "third", Some("other")).await;
    shard.ack(2).await;
    bench.flushed().await;
    assert!(bench.is_worth_a_look());
}

#[tokio::test(start_paused = true)]
async fn a_request_for_what_is_being_given_back_calls_for_no_look() {
    let bench = Bench::new();
    let mut shard = bench.add("a").await;
    shard.ack(1).await;
    let _late = shard.deliver(2).await;
    bench.ask("a", "other", None).await;
    bench.look(true).await;
    bench.flushed().await;
    assert_eq!((bench.checkpoint("a").await, bench.is_worth_a_look()), (after(1), false));
}

#[tokio::test(start_paused = true)]
async fn who_asks_and_is_alive_is_passed_the_shard_and_told_so() {
    let bench = Bench::new();
    let mut shard = bench.add("a").await;
    shard.ack(1).await;
    bench.other("other").heartbeat(&Presence::default()).await.unwrap();
    bench.ask("a", "other", None).await;
    bench.look(true).await;
    assert!(shard.stop.is_cancelled());
    sleep(SECOND).await;
    assert_eq!((bench.holder("a").await, bench.checkpoint("a").await), (Some("other".into()), after(1)));
    assert_eq!(lock(&bench.store.table.core).workers[&"other".into()].wake_ups, 1);
    assert_eq!((bench.checkpointer.len(), bench.is_worth_a_look()), (0, true));
}

// How is a lease released?

#[tokio::test(start_paused = true)]
async fn a_lease_is_given_back_once_the_host_has_nothing_of_the_shard() {
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
async fn acks_are_waited_for_as_long_as_the_grace_lasts_and_count_for_nothing_later() {
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
async fn a_lease_is_given_back_once_however_often_that_is_wanted() {
    let bench = Bench::new();
    let shard = bench.add("a").await;
    bench.slow(SECOND);
    bench.checkpointer.begin_release(&shard.key, ReleaseReason::HandOver("other".into()));
    bench.checkpointer.release_all();
    sleep(10 * SECOND).await;
    assert_eq!((bench.writes(), bench.checkpointer.len()), (1, 0));
}

#[tokio::test(start_paused = true)]
async fn who_gives_a_lease_back_hears_of_its_loss_from_the_store() {
    let bench = Bench::new();
    let mut shard = bench.add("a").await;
    let _late = shard.deliver(1).await;
    bench.checkpointer.begin_release(&shard.key, ReleaseReason::Expired);
    bench.rob("a").await;
    // The rows may have been read before the release.
    bench.look(true).await;
    assert_eq!(bench.checkpointer.len(), 1);
    sleep(GRACE + SECOND).await;
    assert_eq!((bench.checkpointer.len(), bench.holder("a").await), (0, Some("other".into())));
}

#[tokio::test(start_paused = true)]
async fn giving_a_lease_back_is_tried_until_the_store_takes_it() {
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
async fn so_many_leases_are_given_back_at_once_and_no_more() {
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

// How is the end of a shard stored?

#[tokio::test(start_paused = true)]
async fn an_end_is_stored_with_the_last_place_and_acks_move_nothing_behind_it() {
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
async fn the_end_of_a_lost_shard_is_not_told_as_stored() {
    for seen in [false, true] {
        let bench = Bench::new();
        let shard = bench.add("a").await;
        bench.rob("a").await;
        if seen {
            bench.look(true).await;
        }
        assert_eq!(bench.checkpointer.store_end(&shard.progress, None).await, EndStored::Lost, "seen: {seen}");
        assert_eq!((bench.checkpoint("a").await, bench.checkpointer.len()), (None, 0), "seen: {seen}");
        assert!(shard.stop.is_cancelled());
    }
}

#[tokio::test(start_paused = true)]
async fn an_end_is_tried_until_the_store_takes_it() {
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

// What happens at the end of the input?

#[tokio::test(start_paused = true)]
async fn in_the_end_all_places_are_stored_and_acks_move_nothing_more() {
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
async fn in_the_end_nobody_waits_for_acks() {
    let bench = Bench::new();
    let mut shard = bench.add("a").await;
    let _late = shard.deliver(1).await;
    bench.checkpointer.begin_release(&shard.key, ReleaseReason::Expired);
    sleep(SECOND).await;
    let start = Instant::now();
    bench.checkpointer.finish().await.unwrap();
    assert_eq!((start.elapsed(), bench.holder("a").await), (Duration::ZERO, None));
    assert!(bench.checkpointer.releases.is_empty(), "it goes on after the end");
}

#[tokio::test(start_paused = true)]
async fn in_the_end_the_error_of_one_write_is_told_and_the_others_are_stored() {
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
async fn in_the_end_a_store_that_does_not_answer_is_not_waited_for_long() {
    let bench = Bench::new();
    let _shard = bench.add("a").await;
    bench.store.freeze(true);
    let start = Instant::now();
    let told = bench.checkpointer.finish().await.unwrap_err().to_string();
    assert_eq!((start.elapsed(), told.contains("did not answer")), (FINISHED_WITHIN, true), "{told}");
}
