//! Several workers that share shards through one table.

use std::collections::BTreeSet;
use std::ops::RangeInclusive;
use std::sync::Arc;
use std::time::Duration;

use pipeline_plugin_api::{Demand, InputError, Receipt, State, Verdicts};
use tokio::time::{Instant, sleep, timeout};

use super::bench::{Bench, close, is_quiet, numbers, take, take_and_ack, take_at_most};
use super::script::{Piece, Script, body, end, event, listed, records};
use super::table::{
    LEASE, MINUTE, PERIOD, Table, checkpoint, connect_renews, connect_row, reads, secs, sends_heartbeats, stream,
    then_idle,
};
use crate::lease::memory::{MemoryStore, Trouble};
use crate::lease::{Checkpoint, Claim, ClaimFrom, Commit, LeaseStore, Presence, Row, SharedStore};
use crate::model::StartPosition;
use crate::session::Session;
use crate::sync::lock;

/// Two shards with the records 1 to 3, whose next subscriptions bring `again`.
fn two_shards(again: RangeInclusive<u64>) -> Bench {
    let script = Script::new(["one", "two"]);
    for shard in ["one", "two"] {
        script.answer(shard, [then_idle(1..=3), then_idle(again.clone())]);
    }
    Bench::new(script, "")
}

/// `a` has two shards, whose records are in flight; `b` requests one of them.
struct Requested {
    a: Session,
    b: Session,
    receipts: Vec<Receipt>,
    moved: &'static str,
}

async fn b_requests_from_a(bench: &Bench, table: &Table, store: &Arc<MemoryStore>) -> Requested {
    let a = bench.join(store).await;
    let mut receipts = Vec::new();
    for _ in 0..2 {
        let (_, taken, receipt) = take(&a).await;
        assert_eq!(taken, [1, 2, 3]);
        receipts.push(receipt);
    }
    let b = bench.join(&table.worker("b")).await;
    let moved = table.until_requested(&["one", "two"]).await;
    assert_eq!(table.row(moved).and_then(|row| row.requester), Some("b".into()));
    Requested { a, b, receipts, moved }
}

#[tokio::test(start_paused = true)]
async fn graceful_hand_over() {
    let (bench, table) = (two_shards(4..=4), Table::new());
    // The owner waits for the deliveries in flight.
    let Requested { a, b, receipts, moved } = b_requests_from_a(&bench, &table, &table.worker("a")).await;
    sleep(secs(1)).await;
    assert_eq!(table.holder(moved), Some("a".into()));
    for receipt in receipts {
        receipt.settle_in_test(Verdicts::ACK).unwrap();
    }
    table.until_held(moved, "b").await;
    assert_eq!(table.checkpoint(moved), Some(Checkpoint::After(checkpoint(3))));
    bench.script.called(3).await;
    assert_eq!(bench.script.calls_of(moved)[1].start, StartPosition::After(checkpoint(3)), "a duplicate, or a gap");
    assert_eq!(table.counts(&["a", "b"]), [1, 1]);
    // Reading continues behind the records of the other worker, and no shard moves any more.
    assert_eq!(numbers(&b, 1).await, [4]);
    assert!(is_quiet(&b, 5 * MINUTE).await);
    assert_eq!(bench.script.calls().len(), 3);
    close(&a).await;
    close(&b).await;
    assert_eq!(table.counts(&["a", "b"]), [0, 0]);
}

#[tokio::test(start_paused = true)]
async fn stopped_worker_withdraws_its_requests() {
    let (bench, table) = (two_shards(4..=4), Table::new());
    let Requested { a, b, receipts, moved } = b_requests_from_a(&bench, &table, &table.worker("a")).await;
    close(&b).await;
    assert_eq!(table.requested(&["one", "two"]), None);
    // The owner was about to hand the shard over.
    for receipt in receipts {
        receipt.settle_in_test(Verdicts::ACK).unwrap();
    }
    sleep(secs(5)).await;
    assert_ne!(table.holder(moved), Some("b".into()), "no worker reads the shard before its lease expires");
    table.until_held(moved, "a").await;
    close(&a).await;
}

#[tokio::test(start_paused = true)]
async fn shard_that_is_not_handed_over_is_taken_by_force() {
    let (bench, table) = (two_shards(1..=3), Table::new());
    let store = table.worker("a");
    let Requested { a, b, receipts, moved } = b_requests_from_a(&bench, &table, &store).await;
    // It sends heartbeats, but can't release the shard: only its writes to the row hang.
    store.trouble("update", Some(Trouble::Slow(MINUTE)));
    let asked = Instant::now();
    table.until_held(moved, "b").await;
    // This is commit_period 1 s and steal_grace_period 2 s, and the next rebalance.
    assert!(asked.elapsed() >= secs(2) && asked.elapsed() <= secs(5), "after {:?}", asked.elapsed());
    store.trouble("update", None);
    let (shard, taken, again) = take(&b).await;
    assert_eq!((&*shard, taken), (moved, vec![1, 2, 3]), "unacked records are redelivered");
    // Acks at the old owner have no effect now.
    for receipt in receipts {
        receipt.settle_in_test(Verdicts::ACK).unwrap();
    }
    sleep(secs(5)).await;
    assert_eq!(table.checkpoint(moved), None);
    again.settle_in_test(Verdicts::ACK).unwrap();
    table.until(moved, "stored", |row| row.checkpoint == Some(Checkpoint::After(checkpoint(3)))).await;
    close(&a).await;
    close(&b).await;
}

/// It would read on until its lease expires, and everything would come twice.
#[tokio::test(start_paused = true)]
async fn holder_that_may_be_cut_off_keeps_its_shard_until_its_lease_expires() {
    let (bench, table) = (two_shards(1..=3), Table::new());
    let store = table.worker("a");
    let Requested { a, b, receipts, moved } = b_requests_from_a(&bench, &table, &store).await;
    drop(receipts);
    store.freeze(true);
    let frozen = Instant::now();
    table.until_held(moved, "b").await;
    assert!(frozen.elapsed() + secs(1) >= LEASE, "taken after {:?}", frozen.elapsed());
    store.freeze(false);
    close(&a).await;
    close(&b).await;
}

/// The process sleeps: its clock continues, and nothing in it runs.
#[tokio::test(start_paused = true)]
async fn pause_longer_than_the_lease() {
    let script = Script::new(["one"]);
    script.answer("one", [body([records(1..=3), records(4..=6), Piece::Hang]), then_idle(10..=12)]);
    let (bench, table) = (Bench::new(script, ""), Table::new());
    let a = bench.join(&table.worker("a")).await;
    let (_, taken, receipt) = take_at_most(&a, 3).await;
    assert_eq!(taken, [1, 2, 3]);
    sleep(secs(1)).await;
    let meanwhile = async {
        tokio::time::advance(LEASE + secs(20)).await;
    };
    let other = table.worker("b");
    let taking_over = async {
        // Another worker has waited until the lease expired, read the shard, and is done with it.
        other.heartbeat(&Presence::default()).await.unwrap();
        let hold = table.row("one").and_then(|row| row.hold).unwrap();
        let claim = other.claim(&stream(), &"one".into(), ClaimFrom::Holder(&hold)).await.unwrap();
        let Claim::Owned(lease, _) = claim else { panic!("{claim:?}") };
        let write = Commit::new(&lease, Some(Checkpoint::After(checkpoint(6))));
        other.commit(vec![write]).await.remove(0).unwrap();
    };
    // The host asks first, before anything else in the process has noticed.
    let asking = a.read(Demand::new(1000, secs(5)));
    let ((), batch, ()) = tokio::join!(biased; meanwhile, asking, taking_over);
    assert!(batch.unwrap().is_empty(), "records that the other worker has read are delivered");
    receipt.settle_in_test(Verdicts::ACK).unwrap();
    assert!(is_quiet(&a, LEASE / 2).await, "it still reads");
    assert_eq!(
        (table.holder("one"), table.checkpoint("one")),
        (Some("b".into()), Some(Checkpoint::After(checkpoint(6))))
    );
    // The other worker is gone, and reading continues behind it.
    table.until_held("one", "a").await;
    assert_eq!(numbers(&a, 3).await, [10, 11, 12]);
    assert_eq!(bench.script.calls().last().unwrap().start, StartPosition::After(checkpoint(6)));
    close(&a).await;
}

/// The leases expire in time though the call that would renew them gets no answer.
#[tokio::test(start_paused = true)]
async fn leases_expire_while_a_heartbeat_is_on_its_way() {
    let script = Script::new(["one"]);
    script.answer("one", [then_idle(1..=3)]);
    let (bench, table) = (Bench::new(script, ""), Table::new());
    let store = table.worker("a");
    let a = bench.join(&store).await;
    assert_eq!(numbers(&a, 3).await, [1, 2, 3]);
    store.trouble("heartbeat", Some(Trouble::LateAnswer(4 * LEASE)));
    let begin = Instant::now();
    let is_valid = || a.report(&"a".into()).connected.is_some_and(|connected| connected.leases_valid == Some(true));
    while is_valid() && begin.elapsed() < 2 * LEASE {
        sleep(secs(1)).await;
    }
    // From the last heartbeat that was answered.
    assert!(begin.elapsed() <= LEASE + secs(1), "{:?}", begin.elapsed());
    store.trouble("heartbeat", None);
    close(&a).await;
}

/// A claim can't be called back. One that is carried out after the worker has left would keep the shard from the others
/// until the lease is over.
#[tokio::test(start_paused = true)]
async fn claim_on_its_way_is_released_by_a_stop() {
    let (bench, table) = (Bench::new(Script::new(["one"]), ""), Table::new());
    let store = table.worker("a");
    store.trouble("claim", Some(Trouble::SlowAndSent(secs(2))));
    let a = bench.join(&store).await;
    // The first round has begun.
    while table.calls("workers") == 0 {
        sleep(Duration::from_millis(10)).await;
    }
    sleep(secs(1)).await;
    assert_eq!(table.calls("claimed"), 0);
    close(&a).await;
    sleep(secs(5)).await;
    assert_eq!((table.calls("claimed"), table.holder("one")), (1, None));
}

/// A round that takes longer than a lease says nothing of who was alive meanwhile.
#[tokio::test(start_paused = true)]
async fn worker_is_not_taken_for_dead_after_a_round_that_takes_long() {
    let script = Script::new(["one", "two"]);
    let split = [listed("parent", &[], true), listed("child", &["parent"], false)];
    script.list(["one", "two"].map(|id| listed(id, &[], false)).into_iter().chain(split).collect());
    let (bench, table) = (Bench::new(script, ""), Table::new());
    let other = table.worker("other");
    let _alive = sends_heartbeats(Arc::clone(&other), reads("arn:orders"));
    other.heartbeat(&reads("arn:orders")).await.unwrap();
    other.claim(&stream(), &"one".into(), ClaimFrom::Nobody).await.unwrap();
    // Another program reads the child, so it has finished the parent, whose end is to be stored.
    lock(&table.0.core).rows.insert((stream(), "child".into()), connect_row("child", 5));
    let renewing = connect_renews(&table, "child", 5);
    let store = table.worker("a");
    store.trouble("end", Some(Trouble::Slow(LEASE + secs(10))));
    let watching = async {
        let a = bench.join(&store).await;
        table.until("parent", "its end is stored", |row| matches!(row.checkpoint, Some(Checkpoint::ShardEnd(_)))).await;
        sleep(3 * PERIOD).await;
        assert_eq!(table.holder("one"), Some("other".into()), "it was alive all the time");
        close(&a).await;
    };
    tokio::select! {
        () = renewing => panic!("nobody asked for its shard"),
        () = watching => {}
    }
}

/// A worker that has lost a shard before its end was stored does not read its children: the new owner may not be done yet.
#[tokio::test(start_paused = true)]
async fn end_of_a_lost_shard_frees_no_children() {
    let script = Script::new(["one"]);
    script.answer("one", [body([end([1, 2], &[("child", &["one"])])])]);
    script.answer("child", [then_idle(3..=4)]);
    script.list(vec![listed("one", &[], true), listed("child", &["one"], false)]);
    let (bench, table) = (Bench::new(script, ""), Table::new());
    let a = bench.join(&table.worker("a")).await;
    let (_, taken, receipt) = take(&a).await;
    assert_eq!(taken, [1, 2]);
    let other = table.worker("b");
    other.heartbeat(&Presence::default()).await.unwrap();
    let hold = table.row("one").and_then(|row| row.hold).unwrap();
    let claim = other.claim(&stream(), &"one".into(), ClaimFrom::Holder(&hold)).await.unwrap();
    let Claim::Owned(lease, _) = claim else { panic!("{claim:?}") };
    receipt.settle_in_test(Verdicts::ACK).unwrap();
    sleep(secs(5)).await;
    assert!(bench.script.calls_of("child").is_empty(), "the end that counts is not stored yet");
    let end = Commit::new(&lease, Some(Checkpoint::ShardEnd(Some(checkpoint(2)))));
    other.commit(vec![end]).await.remove(0).unwrap();
    other.leave().await.unwrap();
    assert_eq!(numbers(&a, 2).await, [3, 4]);
    close(&a).await;
}

#[tokio::test(start_paused = true)]
async fn worker_cut_off_beyond_its_lease_stores_and_reads_nothing() {
    let script = Script::new(["one"]);
    script.answer("one", [then_idle(1..=3), then_idle(1..=3)]);
    let (bench, table) = (Bench::new(script, ""), Table::new());
    let store = table.worker("a");
    let a = bench.join(&store).await;
    let (_, _, receipt) = take(&a).await;
    let b = bench.join(&table.worker("b")).await;
    assert!(is_quiet(&b, MINUTE).await, "it has the other's shard");
    store.freeze(true);
    let frozen = Instant::now();
    table.until_held("one", "b").await;
    assert!(frozen.elapsed() + secs(1) >= LEASE, "taken after {:?}", frozen.elapsed());
    assert_eq!(numbers(&b, 3).await, [1, 2, 3]);
    table.until("one", "stored", |row| row.checkpoint == Some(Checkpoint::After(checkpoint(3)))).await;
    // The former owner recovers, with a late ack: it stores nothing, and reads nothing.
    store.freeze(false);
    receipt.settle_in_test(Verdicts::ACK).unwrap();
    assert!(is_quiet(&a, 10 * MINUTE).await, "it still reads");
    assert_eq!(
        (table.holder("one"), table.checkpoint("one")),
        (Some("b".into()), Some(Checkpoint::After(checkpoint(3))))
    );
    close(&a).await;
    close(&b).await;
}

#[tokio::test(start_paused = true)]
async fn worker_that_cannot_renew_stops_before_its_shards_may_be_taken() {
    let script = Script::new(["one"]);
    script.answer("one", [body((0..100).flat_map(|at| [records(at * 10 + 1..=at * 10 + 10), Piece::Wait(secs(1))]))]);
    let (bench, table) = (Bench::new(script, ""), Table::new());
    let store = table.worker("a");
    let a = bench.join(&store).await;
    take_and_ack(&a, 50).await;
    store.freeze(true);
    let frozen = Instant::now();
    let last = async {
        let mut last = Instant::now();
        loop {
            let batch = a.read(Demand::new(1000, 2 * LEASE)).await.unwrap();
            if batch.is_empty() {
                return last;
            }
            last = Instant::now();
            batch.into_parts().1.settle_in_test(Verdicts::ACK).unwrap();
        }
    };
    let last = last.await;
    let after = last.duration_since(frozen);
    assert!(after <= LEASE && after + secs(5) >= LEASE, "the last record came after {after:?}");
    store.freeze(false);
    close(&a).await;
}

#[tokio::test(start_paused = true)]
async fn expired_lease_stops_delivery() {
    let script = Script::new(["one"]);
    script.answer("one", [then_idle(1..=5), then_idle(1..=6)]);
    let (bench, table) = (Bench::new(script, ""), Table::new());
    let store = table.worker("a");
    let a = bench.join(&store).await;
    bench.script.called(1).await;
    sleep(secs(1)).await;
    store.freeze(true);
    sleep(LEASE + secs(1)).await;
    // Another worker may read the shards by now.
    assert!(is_quiet(&a, MINUTE).await);
    store.freeze(false);
    assert_eq!(numbers(&a, 6).await, [1, 2, 3, 4, 5, 6]);
    close(&a).await;
}

#[tokio::test(start_paused = true)]
async fn table_unreachable() {
    let script = Script::new(["one", "two"]);
    for shard in ["one", "two"] {
        // Each subscription begins where the one before may have ended.
        let answer = |first: u64| {
            let numbers = move |at: u64| first + at * 10 + 1..=first + at * 10 + 10;
            body((0..200).flat_map(move |at| [records(numbers(at)), Piece::Wait(secs(1))]))
        };
        script.answer(shard, (0..6).map(|at| answer(at * 10_000)));
    }
    let (bench, table) = (Bench::new(script, ""), Table::new());
    let a = bench.join(&table.worker("a")).await;
    let b = bench.join(&table.worker("b")).await;
    let stored = |shard: &&str| matches!(table.checkpoint(shard), Some(Checkpoint::After(_)));
    while table.counts(&["a", "b"]) != [1, 1] || !["one", "two"].iter().all(stored) {
        for session in [&a, &b] {
            let batch = session.read(Demand::new(1000, Duration::from_millis(200))).await.unwrap();
            if !batch.is_empty() {
                batch.into_parts().1.settle_in_test(Verdicts::ACK).unwrap();
            }
        }
    }
    let held = |table: &Table| -> Vec<_> { ["one", "two"].map(|shard| table.row(shard).unwrap()).to_vec() };
    let before = held(&table);
    table.close(true);
    let read = |session| async move {
        let mut got = 0;
        loop {
            let batch = Session::read(session, Demand::new(1000, MINUTE)).await.unwrap();
            if batch.is_empty() {
                return got;
            }
            got += batch.len();
            batch.into_parts().1.settle_in_test(Verdicts::ACK).unwrap();
        }
    };
    let read = async { tokio::join!(read(&a), read(&b)) };
    let (from_a, from_b) = timeout(5 * MINUTE, read).await.unwrap();
    assert!(from_a > 0 && from_b > 0, "it reads on as long as its lease is good");
    assert_eq!(held(&table), before, "nothing was stored");
    let calls = bench.script.calls().len();
    table.close(false);
    // The acked records are stored, and each shard continues from there.
    bench.script.called(calls + 2).await;
    for call in &bench.script.calls()[calls..] {
        let before = before.iter().find(|row| row.shard == call.shard).unwrap();
        let StartPosition::After(start) = &call.start else { panic!("{call:?}") };
        let Some(Checkpoint::After(stored)) = &before.checkpoint else { panic!("{before:?}") };
        assert!(start > stored, "records acked while the table was unreachable are read again: {start} after {stored}");
    }
    // The worker that sees the table first may have claimed both; then one of them moves back.
    table.until_counts(&["a", "b"], &[1, 1]).await;
    close(&a).await;
    close(&b).await;
}

#[tokio::test(start_paused = true)]
async fn renewal_during_two_minutes_of_backpressure() {
    let script = Script::new(["one", "two"]);
    for shard in ["one", "two"] {
        // There are many subscriptions, because one that is not read is closed and opened again.
        script.answer(shard, (0..20).map(|_| body((0..10).map(|at| records(at * 10 + 1..=at * 10 + 10)))));
    }
    let more = "enhanced_fan_out: {enabled: true, max_pending_records: 50}";
    let (bench, table) = (Bench::new(script, more), Table::new());
    let a = bench.join(&table.worker("a")).await;
    table.until_held("one", "a").await;
    table.until_held("two", "a").await;
    let epochs = |table: &Table| ["one", "two"].map(|shard| table.row(shard).unwrap().hold.unwrap().epoch);
    let before = epochs(&table);
    // No host takes anything, and another worker watches that may take shards, but none of these.
    let other = table.worker("b");
    let presence = Presence { explicit: true, ..reads("arn:orders") };
    let watching = async {
        loop {
            other.heartbeat(&presence).await.unwrap();
            sleep(secs(5)).await;
        }
    };
    let _ = timeout(3 * MINUTE, watching).await;
    assert_eq!(epochs(&table), before, "a lease was lost, or claimed from itself");
    let worker = other.workers().await.unwrap().into_iter().find(|worker| worker.id.as_str() == "a").unwrap();
    sleep(secs(2)).await;
    let later = other.workers().await.unwrap().into_iter().find(|worker| worker.id.as_str() == "a").unwrap();
    assert_ne!(worker.heartbeat, later.heartbeat, "it stopped showing itself");
    assert!(take_and_ack(&a, 100).await.len() >= 100);
    close(&a).await;
}

#[tokio::test(start_paused = true)]
async fn merge_with_parents_on_two_workers() {
    let script = Script::new(["one", "two"]);
    let child: &[(&str, &[&str])] = &[("child", &["one", "two"])];
    let idle = |at| (0..12).flat_map(move |_| [Piece::Wait(secs(5)), event([], Some(at), &[])]);
    for shard in ["one", "two"] {
        // The next owner continues behind the second record.
        let first = std::iter::once(records(1..=2)).chain(idle(2)).chain([end([3], child)]);
        script.answer(shard, [body(first), body(idle(2).chain([end([3], child)]))]);
    }
    script.answer("child", [then_idle(10..=11)]);
    let (bench, table) = (Bench::new(script, ""), Table::new());
    let (a, b) = (bench.join(&table.worker("a")).await, bench.join(&table.worker("b")).await);
    table.until_counts(&["a", "b"], &[1, 1]).await;
    let (mut late, mut shards, mut ended_by) = (None, Vec::new(), BTreeSet::new());
    let begun = Instant::now();
    while late.is_none() || shards.len() < 6 {
        assert!(begun.elapsed() < 10 * MINUTE, "{shards:?}");
        for (who, session) in [&a, &b].into_iter().enumerate() {
            let batch = session.read(Demand::new(1000, secs(1))).await.unwrap();
            if batch.is_empty() {
                continue;
            }
            let records = batch.messages().iter().map(|message| {
                let record = crate::records::KinesisRecord::of(message).unwrap();
                (record.shard().to_string(), record.sequence_number().to_string())
            });
            let records: Vec<_> = records.collect();
            shards.extend(records.iter().map(|(shard, _)| shard.clone()));
            let receipt = batch.into_parts().1;
            let at_its_end = records.iter().any(|(_, number)| number == "3");
            if at_its_end {
                ended_by.insert(who);
            }
            if at_its_end && late.is_none() {
                late = Some((records[0].0.clone(), receipt));
            } else {
                receipt.settle_in_test(Verdicts::ACK).unwrap();
            }
        }
        bench.script.list(vec![
            listed("one", &[], true),
            listed("two", &[], true),
            listed("child", &["one", "two"], false),
        ]);
    }
    assert_eq!(ended_by.len(), 2, "one worker read both parents");
    assert!(is_quiet(&a, MINUTE).await && is_quiet(&b, MINUTE).await);
    assert!(bench.script.calls_of("child").is_empty(), "a parent is not acked to its end");
    let (shard, receipt) = late.unwrap();
    receipt.settle_in_test(Verdicts::ACK).unwrap();
    table.until(&shard, "ended", |row| matches!(row.checkpoint, Some(Checkpoint::ShardEnd(_)))).await;
    let begun = async {
        while bench.script.calls_of("child").is_empty() {
            sleep(secs(1)).await;
        }
    };
    timeout(PERIOD + secs(5), begun).await.expect("no worker reads the child");
    assert_eq!(bench.script.calls_of("child").len(), 1);
    close(&a).await;
    close(&b).await;
}

#[tokio::test(start_paused = true)]
async fn explicit_shard_after_crash() {
    let script = Script::new(["one", "two"]);
    script.answer("one", [body([records(1..=3), Piece::Hang])]);
    let (bench, table) = (Bench::new(script, "streams: ['orders:one']"), Table::new());
    // The reader of the shard is gone without a release.
    let dead = table.worker("dead");
    dead.heartbeat(&Presence::default()).await.unwrap();
    dead.claim(&stream(), &"one".into(), ClaimFrom::Nobody).await.unwrap();
    let session = bench.join(&table.worker("a")).await;
    let start = Instant::now();
    assert_eq!(numbers(&session, 3).await, [1, 2, 3]);
    assert!(start.elapsed() >= LEASE && start.elapsed() <= LEASE + secs(5), "after {:?}", start.elapsed());
    assert_eq!(table.holder("two"), None);
    close(&session).await;
}

#[tokio::test(start_paused = true)]
async fn explicit_shard_of_a_live_worker_is_an_error() {
    let (bench, table) = (Bench::new(Script::new(["one"]), "streams: ['orders:one']"), Table::new());
    let first = bench.join(&table.worker("first")).await;
    table.until_held("one", "first").await;
    let second = bench.join(&table.worker("second")).await;
    let start = Instant::now();
    let error = second.read(Demand::new(10, MINUTE)).await.unwrap_err();
    let InputError::Fatal(error) = error else { panic!("{error:?}") };
    let error = error.to_string();
    assert!(error.contains("shard one") && error.contains("worker first"), "{error}");
    assert!(start.elapsed() < secs(10), "after {:?}", start.elapsed());
    assert_eq!(table.holder("one"), Some("first".into()));
    close(&second).await;
    close(&first).await;
}

#[tokio::test(start_paused = true)]
async fn explicit_shard_is_not_rebalanced() {
    let script = || Script::new(["one", "two", "three"]);
    let table = Table::new();
    let named = Bench::new(script(), "streams: ['orders:one,orders:two']");
    let shared = Bench::new(script(), "");
    let a = named.join(&table.worker("a")).await;
    table.until_held("two", "a").await;
    let b = shared.join(&table.worker("b")).await;
    sleep(5 * MINUTE).await;
    assert_eq!(table.counts(&["a", "b"]), [2, 1]);
    close(&a).await;
    close(&b).await;
}

#[tokio::test(start_paused = true)]
async fn restarted_worker_of_the_same_name_has_its_shards_at_once() {
    let (bench, table) = (Bench::new(Script::new(["one", "two"]), ""), Table::new());
    let before = bench.join(&table.worker("a")).await;
    table.until_held("one", "a").await;
    table.until_held("two", "a").await;
    // This is a crash: nothing is released.
    before.keep.token().cancel();
    before.stop.token().cancel();
    let calls = bench.script.calls().len();
    let start = Instant::now();
    let after = bench.join(&table.worker("a")).await;
    bench.script.called(calls + 2).await;
    assert!(start.elapsed() < secs(5), "after {:?}", start.elapsed());
    close(&after).await;
}

#[tokio::test(start_paused = true)]
async fn second_process_of_a_name_stops_the_first() {
    let (bench, table) = (Bench::new(Script::new(["one"]), ""), Table::new());
    let first = bench.join(&table.worker("same")).await;
    table.until_held("one", "same").await;
    let second = bench.join(&table.worker("same")).await;
    let error = first.read(Demand::new(10, MINUTE)).await.unwrap_err().to_string();
    assert!(error.contains("client_id same"), "{error}");
    assert_eq!(first.status().state, State::Failed);
    assert!(is_quiet(&second, MINUTE).await);
    assert_eq!(second.checkpointer.len(), 1);
    close(&first).await;
    assert_eq!(second.checkpointer.len(), 1, "its goodbye took the other one's lease");
    close(&second).await;
}

#[tokio::test(start_paused = true)]
async fn rows_of_shards_past_retention_are_removed() {
    let (bench, table) = (Bench::new(Script::new(["one"]), ""), Table::new());
    lock(&table.0.core).rows.insert((stream(), "gone".into()), Row::new("gone", Some(Checkpoint::ShardEnd(None))));
    let session = bench.join(&table.worker("a")).await;
    sleep(MINUTE).await;
    assert_eq!(table.row("gone"), None);
    assert!(table.row("one").is_some());
    close(&session).await;
}

#[tokio::test(start_paused = true)]
async fn row_of_a_shard_missing_from_the_last_listing_is_kept() {
    let (bench, table) = (Bench::new(Script::new(["one"]), ""), Table::new());
    let a = bench.join(&table.worker("a")).await;
    table.until_held("one", "a").await;
    let beating = sends_heartbeats(table.worker("b"), reads("arn:orders"));
    sleep(secs(3)).await;
    // A shard was created since and read by a third worker, which stopped gracefully and woke the others.
    bench.script.list(vec![
        listed("one", &[], false),
        listed("parent", &[], true),
        listed("child", &["parent"], false),
    ]);
    for (shard, checkpoint) in
        [("parent", Some(Checkpoint::ShardEnd(None))), ("child", Some(Checkpoint::After(checkpoint(777))))]
    {
        lock(&table.0.core).rows.insert((stream(), shard.into()), Row::new(shard, checkpoint));
    }
    table.wake("a").await;
    sleep(2 * MINUTE).await;
    assert_eq!(table.checkpoint("child"), Some(Checkpoint::After(checkpoint(777))));
    drop(beating);
    // Reading continues where that worker stopped.
    table.until_held("child", "a").await;
    // The lease is in the table before the shard is read.
    bench.script.called_for("child").await;
    assert_eq!(bench.script.calls_of("child")[0].start, StartPosition::After(checkpoint(777)));
    close(&a).await;
}

/// Queries of rows are slow, because the table is busy or the worker sleeps meanwhile; the others send heartbeats all
/// the time.
#[tokio::test(start_paused = true)]
async fn slow_rebalance_takes_nothing_from_live_workers() {
    for offset in [0, 700, 1400, 2100, 2800] {
        let script = Script::new(["one", "two", "three", "four"]);
        for shard in ["one", "two", "three", "four"] {
            script.answer(shard, (0..50).map(|_| then_idle(1..=1)));
        }
        let (bench, table) = (Bench::new(script, "lease_period: 10s\ncommit_period: 3s"), Table::new());
        let (sa, sb) = (table.worker("a"), table.worker("b"));
        let a = bench.join(&sa).await;
        take_and_ack(&a, 4).await;
        sleep(MINUTE).await;
        let b = bench.join(&sb).await;
        sleep(secs(3) + Duration::from_millis(offset)).await;
        assert_eq!(table.counts(&["a", "b"]), [4, 0]);
        sb.trouble("rows", Some(Trouble::Slow(secs(12))));
        sleep(secs(1)).await;
        sb.trouble("rows", None);
        for _ in 0..200 {
            assert!(table.counts(&["b"])[0] <= 2, "{offset}: it has more than its share");
            sleep(Duration::from_millis(100)).await;
        }
        close(&a).await;
        close(&b).await;
    }
}

/// A worker that claims a shard has sent a heartbeat before. The workers that a row shows are therefore alive by the
/// heartbeats that are read after it.
#[tokio::test(start_paused = true)]
async fn rebalance_reads_rows_before_heartbeats() {
    let script = Script::new(["one"]);
    script.answer("one", [then_idle(1..=1)]);
    let (bench, table) = (Bench::new(script, ""), Table::new());
    let store = table.worker("a");
    let a = bench.join(&store).await;
    sleep(MINUTE).await;
    let rebalances = table.calls("workers");
    store.trouble("rows", Some(Trouble::Slow(secs(10))));
    table.wake("a").await;
    sleep(secs(8)).await;
    assert_eq!(table.calls("workers"), rebalances, "heartbeats were read before the rows");
    sleep(secs(8)).await;
    assert!(table.calls("workers") > rebalances);
    close(&a).await;
}

#[tokio::test(start_paused = true)]
async fn worker_without_heartbeats_claims_nothing() {
    let script = Script::new(["one", "two"]);
    for shard in ["one", "two"] {
        script.answer(shard, (0..2000).map(|_| then_idle(1..=3)));
    }
    let (bench, table) = (Bench::new(script, ""), Table::new());
    let (sa, sb) = (table.worker("a"), table.worker("b"));
    let (a, b) = (bench.join(&sa).await, bench.join(&sb).await);
    table.until_counts(&["a", "b"], &[1, 1]).await;
    sb.trouble("heartbeat", Some(Trouble::Fails));
    table.until_counts(&["a", "b"], &[2, 0]).await;
    sleep(MINUTE).await;
    let calls = bench.script.calls().len();
    let before = (table.calls("claim"), table.calls("ask"));
    sleep(10 * MINUTE).await;
    assert_eq!(table.counts(&["a", "b"]), [2, 0]);
    assert_eq!((table.calls("claim"), table.calls("ask")), before);
    assert!(bench.script.calls().len() - calls <= 6, "subscriptions open anew: {}", bench.script.calls().len() - calls);
    // Its heartbeats are seen again.
    sb.trouble("heartbeat", None);
    table.until_counts(&["a", "b"], &[1, 1]).await;
    close(&a).await;
    close(&b).await;
}

#[tokio::test(start_paused = true)]
async fn dead_requester_gets_nothing_and_may_be_replaced() {
    let script = Script::new(["one", "two"]);
    for shard in ["one", "two"] {
        script.answer(shard, (0..10).map(|_| then_idle(1..=3)));
    }
    let (bench, table) = (Bench::new(script, ""), Table::new());
    let a = bench.join(&table.worker("a")).await;
    take_and_ack(&a, 6).await;
    let held = table.row("one").and_then(|row| row.hold).unwrap();
    // The worker requested the shard, and died.
    assert!(table.worker("dead").ask(&stream(), &"one".into(), &held, None).await.unwrap());
    sleep(MINUTE).await;
    let rebalances = table.calls("workers");
    sleep(10 * MINUTE).await;
    assert_eq!(table.counts(&["a", "dead"]), [2, 0]);
    assert!(
        table.calls("workers") - rebalances <= 25,
        "the worker rebalances all the time: {}",
        table.calls("workers") - rebalances
    );
    let b = bench.join(&table.worker("b")).await;
    table.until_counts(&["a", "b"], &[1, 1]).await;
    close(&a).await;
    close(&b).await;
}

#[tokio::test(start_paused = true)]
async fn close_during_a_claim_leaves_no_lease() {
    let (bench, table) = (Bench::new(Script::new(["one", "two", "three", "four"]), ""), Table::new());
    let store = table.worker("a");
    store.trouble("claim", Some(Trouble::LateAnswer(Duration::from_millis(100))));
    let a = bench.join(&store).await;
    while table.counts(&["a"]) == [0] {
        sleep(Duration::from_millis(5)).await;
    }
    close(&a).await;
    assert_eq!(table.counts(&["a"]), [0]);
}

#[tokio::test(start_paused = true)]
async fn close_does_not_wait_for_unanswered_claims() {
    let (bench, table) = (Bench::new(Script::new(["one", "two"]), ""), Table::new());
    let store = table.worker("a");
    store.trouble("claim", Some(Trouble::Slow(60 * MINUTE)));
    let a = bench.join(&store).await;
    sleep(secs(5)).await;
    let start = Instant::now();
    close(&a).await;
    assert!(start.elapsed() <= secs(5), "it took {:?}", start.elapsed());
}

/// The worker was killed, and restarted under the same name to read something else: it sends heartbeats, and knows
/// nothing of its leases.
#[tokio::test(start_paused = true)]
async fn leases_of_an_earlier_process_are_taken_though_the_name_is_alive() {
    for presence in [reads("arn:other"), Presence { explicit: true, ..reads("arn:orders") }] {
        let (bench, table) = (Bench::new(Script::new(["one", "two"]), ""), Table::new());
        let pod = table.worker("pod");
        pod.claim(&stream(), &"one".into(), ClaimFrom::Nobody).await.unwrap();
        let beating = sends_heartbeats(pod, presence);
        let a = bench.join(&table.worker("a")).await;
        let start = Instant::now();
        table.until_held("one", "a").await;
        assert!(start.elapsed() >= 3 * LEASE && start.elapsed() <= 3 * LEASE + PERIOD, "after {:?}", start.elapsed());
        drop(beating);
        close(&a).await;
    }
}

#[tokio::test(start_paused = true)]
async fn close_ends_though_the_table_does_not_answer() {
    let names: Vec<String> = (0..100).map(|number| format!("s{number}")).collect();
    let (bench, table) = (Bench::new(Script::new(&names), ""), Table::new());
    let store = table.worker("a");
    let a = bench.join(&store).await;
    table.until_counts(&["a"], &[100]).await;
    store.freeze(true);
    let start = Instant::now();
    let error = a.close(secs(10)).await.unwrap_err().to_string();
    assert!(error.contains("did not answer"), "{error}");
    assert!(start.elapsed() <= secs(25), "it took {:?}", start.elapsed());
}

#[tokio::test(start_paused = true)]
async fn consumer_in_use_by_others_is_not_deregistered() {
    let more = "enhanced_fan_out: {enabled: true, deregister_on_close: true}";
    for (others, deregistered) in [(true, 0), (false, 1)] {
        let (bench, table) = (Bench::new(Script::new(["one", "two"]).without_consumer(), more), Table::new());
        let a = bench.join(&table.worker("a")).await;
        let elsewhere = sends_heartbeats(table.worker("elsewhere"), reads("arn:other"));
        if others {
            let b = bench.join(&table.worker("b")).await;
            table.until_counts(&["a", "b"], &[1, 1]).await;
            close(&a).await;
            assert_eq!(bench.script.deregistered(), deregistered);
            close(&b).await;
        } else {
            close(&a).await;
            assert_eq!(bench.script.deregistered(), deregistered);
        }
        drop(elsewhere);
    }
}

/// The service limits how many subscriptions a second it admits, which a host should not notice.
#[tokio::test(start_paused = true)]
async fn six_workers_start_together() {
    let shards: Vec<String> = (0..24).map(|number| format!("s{number:02}")).collect();
    let script = Script::new(&shards);
    for shard in &shards {
        script.answer(shard, [then_idle(1..=1), then_idle(2..=2)]);
    }
    script.limit_rate(5);
    let (bench, table) = (Bench::new(script, ""), Table::new());
    let names = ["a", "b", "c", "d", "e", "f"];
    let mut sessions = Vec::new();
    for name in names {
        sessions.push(bench.join(&table.worker(name)).await);
    }
    let begun = Instant::now();
    table.until_counts(&names, &[4; 6]).await;
    assert!(begun.elapsed() <= 2 * PERIOD, "after {:?}", begun.elapsed());
    assert_eq!(table.calls("claimed"), 24, "a shard moved");
    for session in &sessions {
        assert_eq!(take_and_ack(session, 4).await.len(), 4);
        assert_eq!(session.status().state, State::Connected);
    }
    for session in &sessions {
        close(session).await;
    }
}

#[tokio::test(start_paused = true)]
async fn rolling_restart_of_five_moves_as_few_shards_as_it_has_to() {
    let shards: Vec<String> = (0..10).map(|number| format!("s{number}")).collect();
    let (bench, table) = (Bench::new(Script::new(&shards), ""), Table::new());
    let mut names: Vec<String> = (0..5).map(|number| format!("before-{number}")).collect();
    let mut sessions = Vec::new();
    for name in &names {
        sessions.push(bench.join(&table.worker(name)).await);
    }
    for restart in 0..5 {
        let now: Vec<&str> = names.iter().map(String::as_str).collect();
        table.until_counts(&now, &[2; 5]).await;
        sleep(2 * PERIOD).await;
        let before = table.calls("claimed");
        close(&sessions.remove(0)).await;
        names.remove(0);
        sleep(2 * PERIOD).await;
        names.push(format!("after-{restart}"));
        sessions.push(bench.join(&table.worker(&names[4])).await);
        let now: Vec<&str> = names.iter().map(String::as_str).collect();
        table.until_counts(&now, &[2; 5]).await;
        sleep(2 * PERIOD).await;
        // Two shards go to other workers, and two to the new one.
        assert_eq!(table.calls("claimed") - before, 4);
    }
    for session in &sessions {
        close(session).await;
    }
}

#[tokio::test(start_paused = true)]
async fn many_shards_are_handed_over_at_once_despite_slow_writes() {
    let shards: Vec<String> = (0..100).map(|number| format!("s{number:03}")).collect();
    let (bench, table) = (Bench::new(Script::new(&shards), ""), Table::new());
    let store = table.worker("a");
    let a = bench.join(&store).await;
    table.until_counts(&["a"], &[100]).await;
    store.trouble("update", Some(Trouble::Slow(Duration::from_millis(200))));
    let b = bench.join(&table.worker("b")).await;
    table.until_counts(&["a", "b"], &[50, 50]).await;
    assert_eq!(table.calls("taken"), 0, "some were taken by force");
    store.trouble("update", None);
    close(&a).await;
    close(&b).await;
}
