//! The tests that every store has to pass, and those that every shared one has to.

use std::sync::Arc;

use futures::future::join_all;

use super::memory::{MemoryStore, MemoryTable};
use super::*;

fn stream() -> Stream {
    Stream::new("orders", "arn:aws:kinesis:eu-west-1:123456789012:stream/orders")
}

fn at(number: &str) -> Place {
    Place::After(SequenceNumber::new(number).unwrap())
}

fn is_lost(written: &Result<Written, StoreError>) -> bool {
    matches!(written, Ok(Written::Lost { .. }))
}

fn is_stored(written: &Result<Written, StoreError>) -> bool {
    matches!(written, Ok(Written::Stored { .. }))
}

async fn claim(store: &dyn LeaseStore, shard: &str, from: From<'_>) -> (Lease, Place) {
    match store.claim(&stream(), &shard.into(), from).await.unwrap() {
        Claim::Owned(lease, place) => (lease, place),
        Claim::HeldBy(holder) => panic!("held by {holder}"),
    }
}

async fn is_refused(store: &dyn LeaseStore, shard: &str, from: From<'_>) -> bool {
    matches!(store.claim(&stream(), &shard.into(), from).await.unwrap(), Claim::HeldBy(_))
}

async fn row(store: &dyn LeaseStore, shard: &str) -> Option<Row> {
    store.rows(&stream()).await.unwrap().into_iter().find(|row| row.shard == shard.into())
}

async fn release(store: &dyn LeaseStore, lease: Lease, place: Place, to: Option<WorkerId>) -> Written {
    let [written] = <[_; 1]>::try_from(store.release(vec![lease.back(place, to)]).await).unwrap();
    written.unwrap()
}

/// A store is one worker's view of a table.
pub(crate) async fn every_store_keeps_what_it_promises(store: &dyn LeaseStore) {
    // Its name and the meaning of "latest" don't change.
    assert_eq!(store.identity().await.unwrap(), store.identity().await.unwrap());
    assert_eq!(store.pin_latest(&stream(), 100).await.unwrap(), 100);
    assert_eq!(store.pin_latest(&stream(), 200).await.unwrap(), 100);

    let (lease, place) = claim(store, "shard-1", From::Nobody).await;
    assert_eq!(place, Place::Nowhere);
    assert!(is_refused(store, "shard-1", From::Nobody).await);

    // Places move on, and never back.
    for (write, stored) in [(at("10"), at("10")), (at("9"), at("10")), (at("12"), at("12"))] {
        let written = store.commit(vec![Write::new(&lease, write)]).await;
        assert_eq!(written, [Ok(Written::Stored { place: stored.clone(), wanted_by: None })]);
        assert_eq!(row(store, "shard-1").await.unwrap().place, stored);
    }
    // A renewal changes no place.
    assert!(is_stored(&store.commit(vec![Write::new(&lease, Place::Nowhere)]).await[0]));
    assert_eq!(row(store, "shard-1").await.unwrap().place, at("12"));
    assert_eq!(store.rows(&Stream::new("other", "arn:aws:kinesis:eu-west-1:1:stream/other")).await.unwrap(), []);

    // Who let go of a lease can't write with it any more.
    let late = Write::new(&lease, at("99"));
    let later = Write::new(&lease, Place::End(None));
    release(store, lease, at("13"), None).await;
    assert!(is_lost(&store.commit(vec![late]).await[0]));
    let (lease, place) = claim(store, "shard-1", From::Nobody).await;
    assert_eq!(place, at("13"));
    assert!(is_lost(&store.commit(vec![later]).await[0]));

    // One that was lost doesn't keep others from being stored.
    let (second, _) = claim(store, "shard-2", From::Nobody).await;
    let foreign = Write { epoch: second.epoch.wrapping_add(1), ..Write::new(&second, at("7")) };
    let written = store.commit(vec![foreign, Write::new(&lease, at("14"))]).await;
    assert!(is_lost(&written[0]) && is_stored(&written[1]));

    // The end is final.
    let last = SequenceNumber::new("14").unwrap();
    assert!(is_stored(&store.commit(vec![Write::new(&lease, Place::End(Some(last.clone())))]).await[0]));
    store.commit(vec![Write::new(&lease, at("15"))]).await;
    release(store, lease, Place::Nowhere, None).await;
    let ended = row(store, "shard-1").await.unwrap();
    assert_eq!((ended.place.clone(), ended.hold.clone()), (Place::End(Some(last)), None));

    // What is gone from the stream is forgotten, if nothing has changed.
    let before = Row { place: at("13"), ..ended.clone() };
    store.forget(&stream(), &before).await.unwrap();
    assert!(row(store, "shard-1").await.is_some());
    store.forget(&stream(), &ended).await.unwrap();
    assert_eq!(row(store, "shard-1").await, None);
}

/// Two workers' views of the same table.
pub(crate) async fn every_shared_store_keeps_what_it_promises(a: &dyn SharedStore, b: &dyn SharedStore) {
    let presence = Presence {
        streams: [stream().arn().to_owned()].into(),
        lease: Some(Duration::from_millis(30_500)),
        ..Presence::default()
    };
    // Both are seen, and a beat changes what is seen.
    assert_eq!(a.beat(&presence).await.unwrap(), Beat::Alive { nudges: 0 });
    b.beat(&Presence { explicit: true, ..presence.clone() }).await.unwrap();
    let workers = a.workers().await.unwrap();
    let seen = |workers: &[Worker], who: &WorkerId| workers.iter().find(|worker| worker.id == *who).cloned().unwrap();
    let before = seen(&workers, b.me());
    assert_eq!(before.presence, Presence { explicit: true, ..presence.clone() });
    b.beat(&presence).await.unwrap();
    let after = seen(&a.workers().await.unwrap(), b.me());
    assert_ne!(before.beat, after.beat);

    // Who changed meanwhile isn't buried.
    a.bury(&before).await.unwrap();
    assert_eq!(a.workers().await.unwrap().len(), 2);

    // A nudge is told with the next beat.
    b.nudge(a.me()).await.unwrap();
    assert_eq!(a.beat(&presence).await.unwrap(), Beat::Alive { nudges: 1 });
    b.nudge(&"nobody".into()).await.unwrap();
    assert_eq!(a.workers().await.unwrap().len(), 2, "a nudge makes no worker");

    // A request is seen by the holder, with its next commit and in the row; only one can ask.
    let (lease, _) = claim(a, "shard-3", From::Nobody).await;
    let held = row(a, "shard-3").await.unwrap().hold.unwrap();
    assert_eq!((&held.worker, held.epoch), (a.me(), Some(lease.epoch)));
    assert!(b.ask(&stream(), &"shard-3".into(), &held, None).await.unwrap());
    assert!(b.ask(&stream(), &"shard-3".into(), &held, None).await.unwrap(), "asking twice is asking once");
    assert!(!a.ask(&stream(), &"shard-3".into(), &held, None).await.unwrap());
    assert!(!a.ask(&stream(), &"shard-3".into(), &held, Some(&"someone".into())).await.unwrap());
    assert!(a.ask(&stream(), &"shard-3".into(), &held, Some(b.me())).await.unwrap(), "in place of one who is gone");
    assert!(b.ask(&stream(), &"shard-3".into(), &held, Some(a.me())).await.unwrap());
    let written = a.commit(vec![Write::new(&lease, at("5"))]).await;
    assert_eq!(written, [Ok(Written::Stored { place: at("5"), wanted_by: Some(b.me().clone()) })]);
    assert_eq!(row(b, "shard-3").await.unwrap().wanted_by.as_ref(), Some(b.me()));

    // A renewal changes what is seen of the lease, but not which lease it is.
    let renewed = row(b, "shard-3").await.unwrap().hold.unwrap();
    assert_eq!(renewed.epoch, held.epoch);
    assert!(is_refused(b, "shard-3", From::Unchanged(&held)).await, "it was renewed");
    assert!(is_refused(b, "shard-3", From::Nobody).await);

    // Passed on, it belongs to who asked, and to nobody else.
    release(a, lease, at("6"), Some(b.me().clone())).await;
    let passed = row(b, "shard-3").await.unwrap();
    assert_eq!(passed.wanted_by, None);
    let passed = passed.hold.unwrap();
    assert_eq!(&passed.worker, b.me());
    assert!(is_refused(a, "shard-3", From::Nobody).await);
    let (lease, place) = claim(b, "shard-3", From::Holder(&passed)).await;
    assert_eq!(place, at("6"));

    // A request can be taken back: then nobody gets it.
    let held = row(a, "shard-3").await.unwrap().hold.unwrap();
    assert!(a.ask(&stream(), &"shard-3".into(), &held, None).await.unwrap());
    assert_eq!(a.withdraw(&stream(), &"shard-3".into()).await.unwrap(), None);
    assert_eq!(row(a, "shard-3").await.unwrap().wanted_by, None);
    assert!(matches!(release(b, lease, at("6"), Some(a.me().clone())).await, Written::Stored { .. }));
    assert_eq!(row(a, "shard-3").await.unwrap().hold, None);
    // Unless it was granted before.
    let (lease, _) = claim(b, "shard-3", From::Nobody).await;
    let held = row(a, "shard-3").await.unwrap().hold.unwrap();
    assert!(a.ask(&stream(), &"shard-3".into(), &held, None).await.unwrap());
    release(b, lease, at("6"), Some(a.me().clone())).await;
    let passed = a.withdraw(&stream(), &"shard-3".into()).await.unwrap().unwrap();
    assert_eq!(&passed.worker, a.me());
    let (lease, _) = claim(a, "shard-3", From::Holder(&passed)).await;
    release(a, lease, Place::Nowhere, None).await;
    let (lease, _) = claim(b, "shard-3", From::Nobody).await;

    // Taken by force, the old lease is worth nothing, for a commit, an end or a release.
    let held = row(a, "shard-3").await.unwrap().hold.unwrap();
    let (taken, place) = claim(a, "shard-3", From::Holder(&held)).await;
    assert_eq!(place, at("6"));
    assert!(is_lost(&b.commit(vec![Write::new(&lease, at("7"))]).await[0]));
    assert!(is_lost(&b.commit(vec![Write::new(&lease, Place::End(None))]).await[0]));
    assert!(matches!(release(b, lease, at("8"), None).await, Written::Lost { holder } if holder == a.me().as_str()));
    assert_eq!(row(b, "shard-3").await.unwrap().place, at("6"));
    assert!(is_refused(b, "shard-3", From::Holder(&held)).await, "it is another lease now");

    // One that was not renewed can be taken.
    let held = row(b, "shard-3").await.unwrap().hold.unwrap();
    let (lease, _) = claim(b, "shard-3", From::Unchanged(&held)).await;
    assert!(is_lost(&a.commit(vec![Write::new(&taken, at("9"))]).await[0]));
    release(b, lease, Place::Nowhere, None).await;

    // The end of a shard that nothing is stored of is stored, and of no other.
    assert!(a.end(&stream(), &"shard-4".into()).await.unwrap());
    let ended = row(a, "shard-4").await.unwrap();
    assert_eq!((ended.place, ended.hold, ended.foreign), (Place::End(None), None, false));
    assert!(!b.end(&stream(), &"shard-4".into()).await.unwrap());
    let before = row(a, "shard-3").await;
    assert!(!a.end(&stream(), &"shard-3".into()).await.unwrap());
    assert_eq!(row(a, "shard-3").await, before);

    // Who leaves is not seen any more.
    b.leave().await.unwrap();
    assert_eq!(a.workers().await.unwrap().iter().map(|worker| &worker.id).collect::<Vec<_>>(), [a.me()]);
    let last = seen(&a.workers().await.unwrap(), a.me());
    b.bury(&last).await.unwrap();
    assert_eq!(b.workers().await.unwrap(), []);
}

/// Many ask for the same shard at the same time, in every way in which one may ask.
pub(crate) async fn a_race_has_one_winner(stores: Vec<Arc<dyn SharedStore>>) {
    async fn race(stores: &[Arc<dyn SharedStore>], hold: Option<&Hold>) -> (Arc<dyn SharedStore>, Lease) {
        let claims = join_all(stores.iter().map(|store| async move {
            let from = hold.map_or(From::Nobody, From::Unchanged);
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
    assert!(is_stored(&second.commit(vec![Write::new(&lease, at("1"))]).await[0]));
    let held = row(&*second as &dyn LeaseStore, "contested").await.unwrap().hold.unwrap();
    let (stream, shard) = (stream(), ShardId::from("contested"));
    let asked = join_all(stores.iter().map(|store| store.ask(&stream, &shard, &held, None))).await;
    let heard = asked.into_iter().filter(|asked| *asked.as_ref().unwrap()).count();
    assert_eq!(heard, 1, "one request is heard");
}

#[tokio::test]
async fn memory() {
    every_store_keeps_what_it_promises(&MemoryStore::default()).await;
    let table = Arc::new(MemoryTable::default());
    let (a, b) = (MemoryStore::new(&table, "a"), MemoryStore::new(&table, "b"));
    every_shared_store_keeps_what_it_promises(&a, &b).await;
    let stores = (0..50).map(|at| Arc::new(MemoryStore::new(&table, &format!("w{at}"))) as Arc<dyn SharedStore>);
    a_race_has_one_winner(stores.collect()).await;
}

#[tokio::test]
async fn file() {
    let folder = tempfile::tempdir().unwrap();
    let store = FileStore::open(&folder.path().join("checkpoints")).await.unwrap();
    every_store_keeps_what_it_promises(&store).await;
}

#[tokio::test]
async fn who_begins_later_goes_by_the_name() {
    let table = Arc::new(MemoryTable::default());
    let (before, after) = (MemoryStore::new(&table, "a"), MemoryStore::new(&table, "a"));
    let presence = Presence::default();
    assert!(matches!(before.beat(&presence).await.unwrap(), Beat::Alive { .. }));
    assert!(matches!(after.beat(&presence).await.unwrap(), Beat::Alive { .. }));
    assert_eq!(before.beat(&presence).await.unwrap(), Beat::Replaced);
    // And its goodbye doesn't take the other one's row.
    before.leave().await.unwrap();
    assert_eq!(after.workers().await.unwrap().len(), 1);
}
