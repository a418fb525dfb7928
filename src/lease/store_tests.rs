//! Which tests must every store pass, and which must every shared store pass?

use std::sync::Arc;

use futures::future::join_all;

use super::memory::{MemoryStore, MemoryTable};
use super::*;

fn stream() -> Stream {
    Stream::new("orders", "arn:aws:kinesis:eu-west-1:123456789012:stream/orders")
}

#[expect(clippy::unnecessary_wraps, reason = "rows hold it so")]
fn at(number: &str) -> Option<Checkpoint> {
    Some(Checkpoint::After(SequenceNumber::new(number).unwrap()))
}

fn is_lost(written: &Result<CommitOutcome, StoreError>) -> bool {
    matches!(written, Ok(CommitOutcome::Lost { .. }))
}

fn is_stored(written: &Result<CommitOutcome, StoreError>) -> bool {
    matches!(written, Ok(CommitOutcome::Stored { .. }))
}

async fn claim(store: &dyn LeaseStore, shard: &str, from: ClaimFrom<'_>) -> (Lease, Option<Checkpoint>) {
    match store.claim(&stream(), &shard.into(), from).await.unwrap() {
        Claim::Owned(lease, checkpoint) => (lease, checkpoint),
        Claim::HeldBy(holder) => panic!("held by {holder}"),
    }
}

async fn is_refused(store: &dyn LeaseStore, shard: &str, from: ClaimFrom<'_>) -> bool {
    matches!(store.claim(&stream(), &shard.into(), from).await.unwrap(), Claim::HeldBy(_))
}

async fn row(store: &dyn LeaseStore, shard: &str) -> Option<Row> {
    store.rows(&stream()).await.unwrap().into_iter().find(|row| row.shard == shard.into())
}

async fn release(
    store: &dyn LeaseStore,
    lease: Lease,
    checkpoint: Option<Checkpoint>,
    to: Option<WorkerId>,
) -> CommitOutcome {
    let [written] = <[_; 1]>::try_from(store.release(vec![Release::new(&lease, checkpoint, to)]).await).unwrap();
    written.unwrap()
}

/// Tests a store, which is one worker's view of a table.
pub(crate) async fn every_store_keeps_what_it_promises(store: &dyn LeaseStore) {
    // The store's name and the meaning of "latest" don't change.
    assert_eq!(store.identity().await.unwrap(), store.identity().await.unwrap());
    assert_eq!(store.pin_latest(&stream(), 100).await.unwrap(), 100);
    assert_eq!(store.pin_latest(&stream(), 200).await.unwrap(), 100);

    let (lease, checkpoint) = claim(store, "shard-1", ClaimFrom::Nobody).await;
    assert_eq!(checkpoint, None);
    assert!(is_refused(store, "shard-1", ClaimFrom::Nobody).await);

    // Checkpoints move forward, and never back.
    for (write, stored) in [(at("10"), at("10")), (at("9"), at("10")), (at("12"), at("12"))] {
        let written = store.commit(vec![Commit::new(&lease, write)]).await;
        assert_eq!(written, [Ok(CommitOutcome::Stored { checkpoint: stored.clone(), requester: None })]);
        assert_eq!(row(store, "shard-1").await.unwrap().checkpoint, stored);
    }
    // A renewal changes no checkpoint.
    assert!(is_stored(&store.commit(vec![Commit::new(&lease, None)]).await[0]));
    assert_eq!(row(store, "shard-1").await.unwrap().checkpoint, at("12"));
    assert_eq!(store.rows(&Stream::new("other", "arn:aws:kinesis:eu-west-1:1:stream/other")).await.unwrap(), []);

    // A lease that was released can't be used for a write any more.
    let late = Commit::new(&lease, at("99"));
    let later = Commit::new(&lease, Some(Checkpoint::ShardEnd(None)));
    release(store, lease, at("13"), None).await;
    assert!(is_lost(&store.commit(vec![late]).await[0]));
    let (lease, checkpoint) = claim(store, "shard-1", ClaimFrom::Nobody).await;
    assert_eq!(checkpoint, at("13"));
    assert!(is_lost(&store.commit(vec![later]).await[0]));

    // A write under a lost lease doesn't keep others from being stored.
    let (second, _) = claim(store, "shard-2", ClaimFrom::Nobody).await;
    let foreign = Commit { epoch: second.epoch.wrapping_add(1), ..Commit::new(&second, at("7")) };
    let written = store.commit(vec![foreign, Commit::new(&lease, at("14"))]).await;
    assert!(is_lost(&written[0]) && is_stored(&written[1]));

    // The shard end is final.
    let last = SequenceNumber::new("14").unwrap();
    assert!(is_stored(
        &store.commit(vec![Commit::new(&lease, Some(Checkpoint::ShardEnd(Some(last.clone()))))]).await[0]
    ));
    store.commit(vec![Commit::new(&lease, at("15"))]).await;
    release(store, lease, None, None).await;
    let ended = row(store, "shard-1").await.unwrap();
    assert_eq!((ended.checkpoint.clone(), ended.hold.clone()), (Some(Checkpoint::ShardEnd(Some(last))), None));
    // And an ended shard can't be claimed: the row would be left held if its claimer died.
    assert!(is_refused(store, "shard-1", ClaimFrom::Nobody).await);
    assert_eq!(row(store, "shard-1").await, Some(ended.clone()));

    // Who read nothing of a shard before its end knows no position, and leaves the one that is stored.
    let (lease, _) = claim(store, "shard-read-by-another", ClaimFrom::Nobody).await;
    store.commit(vec![Commit::new(&lease, at("14"))]).await;
    store.commit(vec![Commit::new(&lease, Some(Checkpoint::ShardEnd(None)))]).await;
    let last = Some(SequenceNumber::new("14").unwrap());
    let read_before = row(store, "shard-read-by-another").await.unwrap();
    assert_eq!(read_before.checkpoint, Some(Checkpoint::ShardEnd(last)));
    release(store, lease, None, None).await;

    // A position inside an aggregate lies behind the record before it, and before the whole aggregate.
    let within = |after: Option<&str>, record: &str, sub| {
        let number = |text: &str| SequenceNumber::new(text).unwrap();
        Some(Checkpoint::Within(Within { after: after.map(number), record: number(record), sub }))
    };
    let (lease, _) = claim(store, "shard-aggregates", ClaimFrom::Nobody).await;
    for (write, stored) in [
        (within(None, "9", 3), within(None, "9", 3)),
        (within(None, "9", 12), within(None, "9", 12)),
        (within(None, "9", 4), within(None, "9", 12)),
        (at("8"), within(None, "9", 12)),
        (at("9"), at("9")),
        (within(None, "9", 15), at("9")),
        (within(None, "100", 0), within(Some("9"), "100", 0)),
        (within(Some("99"), "100", 1), within(Some("99"), "100", 1)),
        (within(None, "100", 2), within(Some("99"), "100", 2)),
        (within(Some("99"), "98", 7), within(Some("99"), "100", 2)),
    ] {
        let written = store.commit(vec![Commit::new(&lease, write.clone())]).await;
        assert_eq!(written, [Ok(CommitOutcome::Stored { checkpoint: stored.clone(), requester: None })], "{write:?}");
        assert_eq!(row(store, "shard-aggregates").await.unwrap().checkpoint, stored, "{write:?}");
    }
    release(store, lease, within(None, "100", 3), None).await;
    let (lease, checkpoint) = claim(store, "shard-aggregates", ClaimFrom::Nobody).await;
    assert_eq!(checkpoint, within(Some("99"), "100", 3));
    release(store, lease, at("101"), None).await;
    assert_eq!(row(store, "shard-aggregates").await.unwrap().checkpoint, at("101"));

    // The row of a shard that is gone from the stream is removed if it has not changed.
    let before = Row { checkpoint: at("13"), ..ended.clone() };
    store.forget(&stream(), &before).await.unwrap();
    assert!(row(store, "shard-1").await.is_some());
    store.forget(&stream(), &ended).await.unwrap();
    assert_eq!(row(store, "shard-1").await, None);
}

/// Tests the views that two workers have of the same table.
pub(crate) async fn every_shared_store_keeps_what_it_promises(a: &dyn SharedStore, b: &dyn SharedStore) {
    let presence = Presence {
        streams: [stream().arn().to_owned()].into(),
        lease: Some(Duration::from_millis(30_500)),
        ..Presence::default()
    };
    // Both workers are seen, and a heartbeat changes the row that is seen.
    assert_eq!(a.heartbeat(&presence).await.unwrap(), HeartbeatAnswer::Alive { wake_ups: 0 });
    b.heartbeat(&Presence { explicit: true, ..presence.clone() }).await.unwrap();
    let workers = a.workers().await.unwrap();
    let seen = |workers: &[Worker], who: &WorkerId| workers.iter().find(|worker| worker.id == *who).cloned().unwrap();
    let before = seen(&workers, b.me());
    assert_eq!(before.presence, Presence { explicit: true, ..presence.clone() });
    b.heartbeat(&presence).await.unwrap();
    let after = seen(&a.workers().await.unwrap(), b.me());
    assert_ne!(before.heartbeat, after.heartbeat);

    // A worker whose row has changed meanwhile is not removed.
    a.remove_dead_worker(&before).await.unwrap();
    assert_eq!(a.workers().await.unwrap().len(), 2);

    // The next heartbeat returns the wake-up.
    b.wake(a.me()).await.unwrap();
    assert_eq!(a.heartbeat(&presence).await.unwrap(), HeartbeatAnswer::Alive { wake_ups: 1 });
    b.wake(&"absent".into()).await.unwrap();
    assert_eq!(a.workers().await.unwrap().len(), 2, "a nudge makes no worker");

    // The holder sees a request with its next commit and in the row; only one worker can request a shard.
    let (lease, _) = claim(a, "shard-3", ClaimFrom::Nobody).await;
    let held = row(a, "shard-3").await.unwrap().hold.unwrap();
    assert_eq!((&held.worker, held.epoch), (a.me(), Some(lease.epoch)));
    assert!(b.ask(&stream(), &"shard-3".into(), &held, None).await.unwrap());
    assert!(b.ask(&stream(), &"shard-3".into(), &held, None).await.unwrap(), "asking twice is asking once");
    assert!(!a.ask(&stream(), &"shard-3".into(), &held, None).await.unwrap());
    assert!(!a.ask(&stream(), &"shard-3".into(), &held, Some(&"someone".into())).await.unwrap());
    assert!(
        a.ask(&stream(), &"shard-3".into(), &held, Some(b.me())).await.unwrap(),
        "in place of a requester that is gone"
    );
    assert!(b.ask(&stream(), &"shard-3".into(), &held, Some(a.me())).await.unwrap());
    let written = a.commit(vec![Commit::new(&lease, at("5"))]).await;
    assert_eq!(written, [Ok(CommitOutcome::Stored { checkpoint: at("5"), requester: Some(b.me().clone()) })]);
    assert_eq!(row(b, "shard-3").await.unwrap().requester.as_ref(), Some(b.me()));

    // A renewal changes the row of the lease, but not its identity.
    let renewed = row(b, "shard-3").await.unwrap().hold.unwrap();
    assert_eq!(renewed.epoch, held.epoch);
    assert!(is_refused(b, "shard-3", ClaimFrom::Unchanged(&held)).await, "it was renewed");
    assert!(is_refused(b, "shard-3", ClaimFrom::Nobody).await);

    // A shard that was handed over belongs to the requester, and to no other worker.
    release(a, lease, at("6"), Some(b.me().clone())).await;
    let passed = row(b, "shard-3").await.unwrap();
    assert_eq!(passed.requester, None);
    let passed = passed.hold.unwrap();
    assert_eq!(&passed.worker, b.me());
    assert!(is_refused(a, "shard-3", ClaimFrom::Nobody).await);
    let (lease, checkpoint) = claim(b, "shard-3", ClaimFrom::Holder(&passed)).await;
    assert_eq!(checkpoint, at("6"));

    // A request can be withdrawn: then the shard is handed over to no worker.
    let held = row(a, "shard-3").await.unwrap().hold.unwrap();
    assert!(a.ask(&stream(), &"shard-3".into(), &held, None).await.unwrap());
    assert_eq!(a.withdraw(&stream(), &"shard-3".into()).await.unwrap(), None);
    assert_eq!(row(a, "shard-3").await.unwrap().requester, None);
    assert!(matches!(release(b, lease, at("6"), Some(a.me().clone())).await, CommitOutcome::Stored { .. }));
    assert_eq!(row(a, "shard-3").await.unwrap().hold, None);
    // The request can't be withdrawn if the shard was handed over before.
    let (lease, _) = claim(b, "shard-3", ClaimFrom::Nobody).await;
    let held = row(a, "shard-3").await.unwrap().hold.unwrap();
    assert!(a.ask(&stream(), &"shard-3".into(), &held, None).await.unwrap());
    release(b, lease, at("6"), Some(a.me().clone())).await;
    let passed = a.withdraw(&stream(), &"shard-3".into()).await.unwrap().unwrap();
    assert_eq!(&passed.worker, a.me());
    let (lease, _) = claim(a, "shard-3", ClaimFrom::Holder(&passed)).await;
    release(a, lease, None, None).await;
    let (lease, _) = claim(b, "shard-3", ClaimFrom::Nobody).await;

    // After a shard is taken by force, the old lease is invalid for a commit, a shard end or a release.
    let held = row(a, "shard-3").await.unwrap().hold.unwrap();
    let (taken, checkpoint) = claim(a, "shard-3", ClaimFrom::Holder(&held)).await;
    assert_eq!(checkpoint, at("6"));
    assert!(is_lost(&b.commit(vec![Commit::new(&lease, at("7"))]).await[0]));
    assert!(is_lost(&b.commit(vec![Commit::new(&lease, Some(Checkpoint::ShardEnd(None)))]).await[0]));
    assert!(
        matches!(release(b, lease, at("8"), None).await, CommitOutcome::Lost { holder } if holder == a.me().as_str())
    );
    assert_eq!(row(b, "shard-3").await.unwrap().checkpoint, at("6"));
    assert!(is_refused(b, "shard-3", ClaimFrom::Holder(&held)).await, "it is another lease now");

    // A lease that was not renewed can be taken over.
    let held = row(b, "shard-3").await.unwrap().hold.unwrap();
    let (lease, _) = claim(b, "shard-3", ClaimFrom::Unchanged(&held)).await;
    assert!(is_lost(&a.commit(vec![Commit::new(&taken, at("9"))]).await[0]));
    release(b, lease, None, None).await;

    // The shard end is stored for a shard without a row, and for no other.
    assert!(a.end(&stream(), &"shard-4".into()).await.unwrap());
    let ended = row(a, "shard-4").await.unwrap();
    assert_eq!((ended.checkpoint, ended.hold, ended.foreign), (Some(Checkpoint::ShardEnd(None)), None, false));
    assert!(!b.end(&stream(), &"shard-4".into()).await.unwrap());
    let before = row(a, "shard-3").await;
    assert!(!a.end(&stream(), &"shard-3".into()).await.unwrap());
    assert_eq!(row(a, "shard-3").await, before);

    // A worker that leaves is not seen any more.
    b.leave().await.unwrap();
    assert_eq!(a.workers().await.unwrap().iter().map(|worker| &worker.id).collect::<Vec<_>>(), [a.me()]);
    let last = seen(&a.workers().await.unwrap(), a.me());
    b.remove_dead_worker(&last).await.unwrap();
    assert_eq!(b.workers().await.unwrap(), []);
}

/// Several workers claim the same shard at the same time, in every way in which a claim is possible.
pub(crate) async fn a_race_has_one_winner(stores: Vec<Arc<dyn SharedStore>>) {
    async fn race(stores: &[Arc<dyn SharedStore>], hold: Option<&Hold>) -> (Arc<dyn SharedStore>, Lease) {
        let claims = join_all(stores.iter().map(|store| async move {
            let from = hold.map_or(ClaimFrom::Nobody, ClaimFrom::Unchanged);
            (store, store.claim(&stream(), &"contested".into(), from).await.unwrap())
        }));
        let won = claims.await.into_iter().filter_map(|(store, claim)| match claim {
            Claim::Owned(lease, _) => Some((Arc::clone(store), lease)),
            Claim::HeldBy(_) => None,
        });
        let [winner] = <[_; 1]>::try_from(won.collect::<Vec<_>>()).expect("one winner");
        winner
    }
    let (winner, _lease) = race(&stores, None).await;
    let held = row(&*winner as &dyn LeaseStore, "contested").await.unwrap().hold.unwrap();
    assert_eq!(&held.worker, winner.me());
    let (second, lease) = race(&stores, Some(&held)).await;
    assert!(is_stored(&second.commit(vec![Commit::new(&lease, at("1"))]).await[0]));
    let held = row(&*second as &dyn LeaseStore, "contested").await.unwrap().hold.unwrap();
    let (stream, shard) = (stream(), ShardId::from("contested"));
    let asked = join_all(stores.iter().map(|store| store.ask(&stream, &shard, &held, None))).await;
    let heard = asked.into_iter().filter(|asked| *asked.as_ref().unwrap()).count();
    assert_eq!(heard, 1, "one request is heard");
}

#[tokio::test]
async fn memory_store_keeps_the_contract_of_all_stores() {
    every_store_keeps_what_it_promises(&MemoryStore::default()).await;
    let table = Arc::new(MemoryTable::default());
    let (a, b) = (MemoryStore::new(&table, "a"), MemoryStore::new(&table, "b"));
    every_shared_store_keeps_what_it_promises(&a, &b).await;
    let stores = (0..50).map(|at| Arc::new(MemoryStore::new(&table, &format!("w{at}"))) as Arc<dyn SharedStore>);
    a_race_has_one_winner(stores.collect()).await;
}

#[tokio::test]
async fn file_store_keeps_the_contract_of_all_stores() {
    let folder = tempfile::tempdir().unwrap();
    let store = FileStore::open(&folder.path().join("checkpoints")).await.unwrap();
    every_store_keeps_what_it_promises(&store).await;
}

#[tokio::test]
async fn later_process_of_a_name_takes_precedence() {
    let table = Arc::new(MemoryTable::default());
    let (before, after) = (MemoryStore::new(&table, "a"), MemoryStore::new(&table, "a"));
    let presence = Presence::default();
    assert!(matches!(before.heartbeat(&presence).await.unwrap(), HeartbeatAnswer::Alive { .. }));
    assert!(matches!(after.heartbeat(&presence).await.unwrap(), HeartbeatAnswer::Alive { .. }));
    assert_eq!(before.heartbeat(&presence).await.unwrap(), HeartbeatAnswer::Replaced);
    // The old process, when it leaves, does not remove the row of the new one.
    before.leave().await.unwrap();
    assert_eq!(after.workers().await.unwrap().len(), 1);
}
