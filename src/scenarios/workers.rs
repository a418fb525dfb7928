//! Several workers that share shards through one table.

use std::sync::Arc;
use std::time::Duration;

use pipeline_plugin_api::{Demand, InputError, State, Verdicts};
use tokio::time::{Instant, sleep, timeout};

use super::bench::{Bench, close, is_quiet, numbers, take, take_and_ack};
use super::script::{Answer, Piece, Script, body, end, event, listed, records};
use crate::lease::memory::{MemoryStore, MemoryTable};
use crate::lease::{Hold, LeaseStore, Place, Presence, Row, SharedStore};
use crate::names::{SequenceNumber, ShardId, Stream, WorkerId};
use crate::session::Session;
use crate::sync::lock;
use crate::topology::Start;

const LEASE: Duration = Duration::from_secs(30);
const PERIOD: Duration = Duration::from_secs(30);
const MINUTE: Duration = Duration::from_mins(1);

fn secs(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

fn place(number: u64) -> SequenceNumber {
    SequenceNumber::new(&number.to_string()).unwrap()
}

fn stream() -> Stream {
    Stream::new("orders", "arn:orders")
}

/// These records, and then for an hour what an idle shard says.
fn then_idle(numbers: std::ops::RangeInclusive<u64>) -> Answer {
    let last = *numbers.end();
    let idle = (0..720).flat_map(move |_| [Piece::Wait(secs(5)), event([], Some(last), &[])]);
    body(std::iter::once(records(numbers)).chain(idle))
}

/// A table, and workers by name.
struct Table(Arc<MemoryTable>);

impl Table {
    fn new() -> Self {
        Self(Arc::default())
    }

    fn worker(&self, name: &str) -> Arc<MemoryStore> {
        Arc::new(MemoryStore::new(&self.0, name))
    }

    fn row(&self, shard: &str) -> Option<Row> {
        lock(&self.0.core).rows.get(&(stream(), shard.into())).cloned()
    }

    fn holder(&self, shard: &str) -> Option<WorkerId> {
        self.row(shard).and_then(|row| row.hold).map(|hold| hold.worker)
    }

    fn place(&self, shard: &str) -> Place {
        self.row(shard).map(|row| row.place).unwrap_or_default()
    }

    fn close(&self, closed: bool) {
        lock(&self.0.core).closed = closed;
    }

    /// Waits until a row is as it should be.
    async fn until(&self, shard: &str, what: &str, mut is: impl FnMut(&Row) -> bool) {
        let wait = async {
            while !self.row(shard).is_some_and(|row| is(&row)) {
                sleep(Duration::from_millis(50)).await;
            }
        };
        timeout(10 * MINUTE, wait).await.unwrap_or_else(|_| panic!("{what}: {:?}", self.row(shard)));
    }

    async fn until_held(&self, shard: &str, by: &str) {
        self.until(shard, by, |row| row.hold.as_ref().is_some_and(|hold| hold.worker.as_str() == by)).await;
    }

    /// Waits until each of these has so many shards.
    async fn until_counts(&self, workers: &[&str], counts: &[usize]) {
        let wait = async {
            while self.counts(workers) != counts {
                sleep(Duration::from_millis(50)).await;
            }
        };
        timeout(10 * MINUTE, wait).await.unwrap_or_else(|_| panic!("{:?}", self.counts(workers)));
    }

    /// How many shards each of these has.
    fn counts(&self, workers: &[&str]) -> Vec<usize> {
        let core = lock(&self.0.core);
        let holds = |worker: &str| {
            core.rows
                .values()
                .filter(|row| row.hold.as_ref().is_some_and(|hold| hold.worker.as_str() == worker))
                .count()
        };
        workers.iter().map(|worker| holds(worker)).collect()
    }
}

#[tokio::test(start_paused = true)]
async fn graceful_hand_over() {
    let script = Script::new(["one", "two"]);
    for shard in ["one", "two"] {
        script.answer(shard, [then_idle(1..=3), then_idle(4..=4)]);
    }
    let (bench, table) = (Bench::new(script, ""), Table::new());
    let a = bench.join(&table.worker("a")).await;
    let mut receipts = Vec::new();
    for _ in 0..2 {
        let (_, taken, receipt) = take(&a).await;
        assert_eq!(taken, [1, 2, 3]);
        receipts.push(receipt);
    }
    let b = bench.join(&table.worker("b")).await;
    // It asks, and the holder waits for what is out.
    let asked = async {
        loop {
            for shard in ["one", "two"] {
                if table.row(shard).is_some_and(|row| row.wanted_by == Some("b".into())) {
                    return shard;
                }
            }
            sleep(Duration::from_millis(50)).await;
        }
    };
    let moved = timeout(PERIOD, asked).await.expect("nobody asks");
    sleep(secs(1)).await;
    assert_eq!(table.holder(moved), Some("a".into()));
    for receipt in receipts {
        receipt.settle(Verdicts::ACK).unwrap();
    }
    table.until_held(moved, "b").await;
    assert_eq!(table.place(moved), Place::After(place(3)));
    bench.script.called(3).await;
    assert_eq!(bench.script.calls_of(moved)[1].start, Start::After(place(3)), "a duplicate, or a gap");
    assert_eq!(table.counts(&["a", "b"]), [1, 1]);
    // It goes on behind what the other one had, and nothing moves any more.
    assert_eq!(numbers(&b, 1).await, [4]);
    assert!(is_quiet(&b, 5 * MINUTE).await);
    assert_eq!(bench.script.calls().len(), 3);
    close(&a).await;
    close(&b).await;
    assert_eq!(table.counts(&["a", "b"]), [0, 0]);
}

#[tokio::test(start_paused = true)]
async fn a_shard_that_is_not_handed_over_is_taken_by_force() {
    let script = Script::new(["one", "two"]);
    for shard in ["one", "two"] {
        script.answer(shard, [then_idle(1..=3), then_idle(1..=3)]);
    }
    let (bench, table) = (Bench::new(script, ""), Table::new());
    let store = table.worker("a");
    let a = bench.join(&store).await;
    let mut receipts = Vec::new();
    for _ in 0..2 {
        receipts.push(take(&a).await.2);
    }
    let b = bench.join(&table.worker("b")).await;
    let hung = async {
        loop {
            for shard in ["one", "two"] {
                if table.row(shard).is_some_and(|row| row.wanted_by.is_some()) {
                    return shard;
                }
            }
            sleep(Duration::from_millis(10)).await;
        }
    };
    let moved = timeout(PERIOD, hung).await.expect("nobody asks");
    // It beats on, but can't give the shard back: only that call hangs, as far as the other can see.
    store.freeze(true);
    let asked = Instant::now();
    table.until_held(moved, "b").await;
    // commit_period 1 s and steal_grace_period 2 s, and the next round.
    assert!(asked.elapsed() >= secs(2) && asked.elapsed() <= secs(5), "after {:?}", asked.elapsed());
    store.freeze(false);
    let (shard, taken, again) = take(&b).await;
    assert_eq!((&*shard, taken), (moved, vec![1, 2, 3]), "what was not acked comes again");
    // What the old one acks now counts for nothing.
    for receipt in receipts {
        receipt.settle(Verdicts::ACK).unwrap();
    }
    sleep(secs(5)).await;
    assert_eq!(table.place(moved), Place::Nowhere);
    again.settle(Verdicts::ACK).unwrap();
    table.until(moved, "stored", |row| row.place == Place::After(place(3))).await;
    close(&a).await;
    close(&b).await;
}

#[tokio::test(start_paused = true)]
async fn pause_longer_than_the_lease() {
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
    table.until("one", "stored", |row| row.place == Place::After(place(3))).await;
    // The one before comes to, with an ack that is late: it stores nothing, and reads nothing.
    store.freeze(false);
    receipt.settle(Verdicts::ACK).unwrap();
    assert!(is_quiet(&a, 10 * MINUTE).await, "it still reads");
    assert_eq!((table.holder("one"), table.place("one")), (Some("b".into()), Place::After(place(3))));
    close(&a).await;
    close(&b).await;
}

#[tokio::test(start_paused = true)]
async fn a_worker_that_cannot_renew_stops_before_others_may_take_its_shards() {
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
            batch.into_parts().1.settle(Verdicts::ACK).unwrap();
        }
    };
    let last = last.await;
    let after = last.duration_since(frozen);
    assert!(after <= LEASE && after + secs(5) >= LEASE, "the last record came after {after:?}");
    store.freeze(false);
    close(&a).await;
}

#[tokio::test(start_paused = true)]
async fn what_was_read_is_not_handed_out_once_the_lease_is_over() {
    let script = Script::new(["one"]);
    script.answer("one", [then_idle(1..=5), then_idle(1..=6)]);
    let (bench, table) = (Bench::new(script, ""), Table::new());
    let store = table.worker("a");
    let a = bench.join(&store).await;
    bench.script.called(1).await;
    sleep(secs(1)).await;
    store.freeze(true);
    sleep(LEASE + secs(1)).await;
    // Another worker may read them by now.
    assert!(is_quiet(&a, MINUTE).await);
    store.freeze(false);
    assert_eq!(numbers(&a, 6).await, [1, 2, 3, 4, 5, 6]);
    close(&a).await;
}

#[tokio::test(start_paused = true)]
async fn table_unreachable() {
    let script = Script::new(["one", "two"]);
    for shard in ["one", "two"] {
        // Each subscription begins where the one before may have got to.
        let answer = |first: u64| {
            let numbers = move |at: u64| first + at * 10 + 1..=first + at * 10 + 10;
            body((0..200).flat_map(move |at| [records(numbers(at)), Piece::Wait(secs(1))]))
        };
        script.answer(shard, (0..6).map(|at| answer(at * 10_000)));
    }
    let (bench, table) = (Bench::new(script, ""), Table::new());
    let a = bench.join(&table.worker("a")).await;
    let b = bench.join(&table.worker("b")).await;
    let stored = |shard: &&str| matches!(table.place(shard), Place::After(_));
    while table.counts(&["a", "b"]) != [1, 1] || !["one", "two"].iter().all(stored) {
        for session in [&a, &b] {
            let batch = session.read(Demand::new(1000, Duration::from_millis(200))).await.unwrap();
            if !batch.is_empty() {
                batch.into_parts().1.settle(Verdicts::ACK).unwrap();
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
            batch.into_parts().1.settle(Verdicts::ACK).unwrap();
        }
    };
    let read = async { tokio::join!(read(&a), read(&b)) };
    let (from_a, from_b) = timeout(5 * MINUTE, read).await.unwrap();
    assert!(from_a > 0 && from_b > 0, "it reads on as long as its lease is good");
    assert_eq!(held(&table), before, "nothing was stored");
    let calls = bench.script.calls().len();
    table.close(false);
    // What was acked is stored, and each goes on from there.
    bench.script.called(calls + 2).await;
    for call in &bench.script.calls()[calls..] {
        let before = before.iter().find(|row| row.shard == call.shard).unwrap();
        let Start::After(start) = &call.start else { panic!("{call:?}") };
        let Place::After(stored) = &before.place else { panic!("{before:?}") };
        assert!(start > stored, "what was acked while the table was away is read again: {start} after {stored}");
    }
    // Whoever sees the table first may have claimed both; then one of them goes back.
    table.until_counts(&["a", "b"], &[1, 1]).await;
    close(&a).await;
    close(&b).await;
}

#[tokio::test(start_paused = true)]
async fn renewal_during_two_minutes_of_backpressure() {
    let script = Script::new(["one", "two"]);
    for shard in ["one", "two"] {
        // Each of many subscriptions: one that nothing is taken from is closed and opened again.
        script.answer(shard, (0..20).map(|_| body((0..10).map(|at| records(at * 10 + 1..=at * 10 + 10)))));
    }
    let more = "enhanced_fan_out: {enabled: true, max_pending_records: 50}";
    let (bench, table) = (Bench::new(script, more), Table::new());
    let a = bench.join(&table.worker("a")).await;
    table.until_held("one", "a").await;
    table.until_held("two", "a").await;
    let epochs = |table: &Table| ["one", "two"].map(|shard| table.row(shard).unwrap().hold.unwrap().epoch);
    let before = epochs(&table);
    // Nobody takes anything, and somebody else watches that may take shards, but none of these.
    let other = table.worker("b");
    let presence = Presence { streams: ["arn:orders".to_owned()].into(), explicit: true };
    let watching = async {
        loop {
            other.beat(&presence).await.unwrap();
            sleep(secs(5)).await;
        }
    };
    let _ = timeout(3 * MINUTE, watching).await;
    assert_eq!(epochs(&table), before, "a lease was lost, or claimed from itself");
    let worker = other.workers().await.unwrap().into_iter().find(|worker| worker.id.as_str() == "a").unwrap();
    sleep(secs(2)).await;
    let later = other.workers().await.unwrap().into_iter().find(|worker| worker.id.as_str() == "a").unwrap();
    assert_ne!(worker.beat, later.beat, "it stopped showing itself");
    assert!(take_and_ack(&a, 100).await.len() >= 100);
    close(&a).await;
}

#[tokio::test(start_paused = true)]
async fn merge_with_parents_on_two_workers() {
    let script = Script::new(["one", "two"]);
    let child: &[(&str, &[&str])] = &[("child", &["one", "two"])];
    let idle = |at| (0..12).flat_map(move |_| [Piece::Wait(secs(5)), event([], Some(at), &[])]);
    for shard in ["one", "two"] {
        // Whoever gets it later goes on behind the second record.
        let first = std::iter::once(records(1..=2)).chain(idle(2)).chain([end([3], child)]);
        script.answer(shard, [body(first), body(idle(2).chain([end([3], child)]))]);
    }
    script.answer("child", [then_idle(10..=11)]);
    let (bench, table) = (Bench::new(script, ""), Table::new());
    let (a, b) = (bench.join(&table.worker("a")).await, bench.join(&table.worker("b")).await);
    let (mut late, mut shards) = (None, Vec::new());
    let begun = Instant::now();
    while late.is_none() || shards.len() < 6 {
        assert!(begun.elapsed() < 10 * MINUTE, "{shards:?}");
        for session in [&a, &b] {
            let batch = session.read(Demand::new(1000, secs(1))).await.unwrap();
            if batch.is_empty() {
                continue;
            }
            let records = batch.messages().iter().map(|message| {
                let record = crate::record::KinesisRecord::of(message).unwrap();
                (record.shard().to_string(), record.sequence_number().to_string())
            });
            let records: Vec<_> = records.collect();
            shards.extend(records.iter().map(|(shard, _)| shard.clone()));
            let receipt = batch.into_parts().1;
            if records.iter().any(|(_, number)| number == "3") && late.is_none() {
                late = Some((records[0].0.clone(), receipt));
            } else {
                receipt.settle(Verdicts::ACK).unwrap();
            }
        }
        bench.script.list(vec![
            listed("one", &[], true),
            listed("two", &[], true),
            listed("child", &["one", "two"], false),
        ]);
    }
    assert!(is_quiet(&a, MINUTE).await && is_quiet(&b, MINUTE).await);
    assert!(bench.script.calls_of("child").is_empty(), "a parent is not acked to its end");
    let (shard, receipt) = late.unwrap();
    receipt.settle(Verdicts::ACK).unwrap();
    table.until(&shard, "ended", |row| matches!(row.place, Place::End(_))).await;
    let begun = async {
        while bench.script.calls_of("child").is_empty() {
            sleep(secs(1)).await;
        }
    };
    timeout(PERIOD + secs(5), begun).await.expect("nobody reads the child");
    assert_eq!(bench.script.calls_of("child").len(), 1);
    close(&a).await;
    close(&b).await;
}

/// Another program that holds a shard, and renews it as Connect does: every commit period, by the whole row.
async fn connect_renews(table: &Table, shard: &str, mut number: u64) {
    let key = (stream(), ShardId::from(shard));
    loop {
        {
            let mut core = lock(&table.0.core);
            let row = core.rows.get_mut(&key).unwrap();
            if row.hold.as_ref().is_none_or(|hold| hold.worker.as_str() != "theirs") {
                // It yields: the last place, and nothing else.
                row.place = Place::After(place(number));
                return;
            }
            number += 1;
            row.place = Place::After(place(number));
            row.hold = Some(Hold { worker: "theirs".into(), epoch: None, stamp: number.to_string() });
        }
        sleep(secs(1)).await;
    }
}

fn connect_row(shard: &str, number: u64) -> Row {
    let hold = Hold { worker: "theirs".into(), epoch: None, stamp: "0".into() };
    Row { shard: shard.into(), place: Place::After(place(number)), hold: Some(hold), wanted_by: None, foreign: true }
}

/// What rows say of time is by the clocks of others, and decides nothing.
#[tokio::test(start_paused = true)]
async fn clock_skew_of_minutes() {
    let script = Script::new(["renewed", "left"]);
    for shard in ["renewed", "left"] {
        script.answer(shard, [then_idle(1000..=1000)]);
    }
    let (bench, table) = (Bench::new(script, ""), Table::new());
    for (shard, stamp) in [("renewed", ""), ("left", "2999-01-01T00:00:00Z")] {
        let mut row = connect_row(shard, 100);
        row.hold.as_mut().unwrap().stamp = stamp.into();
        if shard == "left" {
            row.hold.as_mut().unwrap().worker = "gone".into();
        }
        lock(&table.0.core).rows.insert((stream(), shard.into()), row);
    }
    // Alive, with a clock that is decades behind.
    let renewing = async {
        for count in 0.. {
            if let Some(hold) = &mut lock(&table.0.core).rows.get_mut(&(stream(), "renewed".into())).unwrap().hold {
                hold.stamp = format!("1999-12-31T23:{:02}:{:02}Z", count / 60 % 60, count % 60);
            }
            sleep(secs(1)).await;
        }
    };
    let run = async {
        let ours = bench.join(&table.worker("ours")).await;
        table.until_held("left", "ours").await;
        sleep(5 * MINUTE).await;
        assert_eq!(table.holder("renewed"), Some("theirs".into()));
        close(&ours).await;
    };
    let begun = Instant::now();
    tokio::select! {
        () = renewing => {}
        done = timeout(LEASE + PERIOD + 6 * MINUTE, run) => done.unwrap(),
    }
    assert!(begun.elapsed() <= LEASE + PERIOD + 5 * MINUTE + secs(5), "taken after {:?}", begun.elapsed());
}

#[tokio::test(start_paused = true)]
async fn worker_from_connect_in_the_same_table() {
    let script = Script::new(["one", "two", "three"]);
    for shard in ["one", "two", "three"] {
        script.answer(shard, [then_idle(1000..=1000)]);
    }
    let (bench, table) = (Bench::new(script, ""), Table::new());
    for shard in ["one", "two", "three"] {
        lock(&table.0.core).rows.insert((stream(), shard.into()), connect_row(shard, 100));
    }
    let renewing = async {
        tokio::join!(
            connect_renews(&table, "one", 100),
            connect_renews(&table, "two", 100),
            connect_renews(&table, "three", 100)
        )
    };
    let run = async {
        let begun = Instant::now();
        let ours = bench.join(&table.worker("ours")).await;
        // One of three is our share; theirs is two, and is left to them.
        sleep(5 * MINUTE).await;
        assert_eq!(table.counts(&["ours", "theirs"]), [1, 2]);
        let calls = bench.script.calls();
        assert_eq!(calls.len(), 1);
        // It was waited for their last commit.
        let Start::After(start) = &calls[0].start else { panic!("{:?}", calls[0]) };
        assert_eq!(Place::After(start.clone()), table.place(calls[0].shard.as_str()));
        assert!(*start > place(100));
        assert!(calls[0].at - begun >= secs(3), "after {:?}", calls[0].at - begun);
        ours
    };
    let ours = tokio::select! {
        ours = run => ours,
        _ = renewing => panic!("nothing is left to them"),
    };
    // They are gone: what they held is taken once it was not renewed for a lease.
    sleep(LEASE + 2 * PERIOD).await;
    assert_eq!(table.counts(&["ours", "theirs"]), [3, 0]);
    close(&ours).await;
}

/// Programs that know no beats go by the row: Connect takes one that was not renewed for three lease periods.
#[tokio::test(start_paused = true)]
async fn the_row_of_an_idle_shard_is_renewed_for_other_programs() {
    let script = Script::new(["one"]);
    script.answer("one", [then_idle(1..=1)]);
    let (bench, table) = (Bench::new(script, ""), Table::new());
    let a = bench.join(&table.worker("a")).await;
    take_and_ack(&a, 1).await;
    table.until("one", "stored", |row| row.place == Place::After(place(1))).await;
    let stamp = || table.row("one").and_then(|row| row.hold).map(|hold| hold.stamp);
    for _ in 0..10 {
        let before = stamp();
        sleep(2 * LEASE).await;
        assert_ne!(stamp(), before, "nothing was written for two lease periods");
    }
    close(&a).await;
}

#[tokio::test(start_paused = true)]
async fn a_shard_that_connect_takes_is_let_go_of() {
    let script = Script::new(["one"]);
    let go_on = (100..200).flat_map(|at| [Piece::Wait(secs(1)), records(at..=at)]);
    script.answer("one", [body([records(1..=3), Piece::Wait(secs(5))].into_iter().chain(go_on))]);
    let (bench, table) = (Bench::new(script, ""), Table::new());
    let ours = bench.join(&table.worker("ours")).await;
    take_and_ack(&ours, 3).await;
    table.until("one", "stored", |row| row.place == Place::After(place(3))).await;
    // It changes the holder, and begins after its own lease period.
    if let Some(row) = lock(&table.0.core).rows.get_mut(&(stream(), "one".into())) {
        row.hold = Some(Hold { worker: "theirs".into(), epoch: None, stamp: "x".into() });
    }
    let taken = Instant::now();
    let renewing = connect_renews(&table, "one", 3);
    let seen = async {
        while bench.script.calls().len() < 2 && ours.checkpointer.len() > 0 {
            sleep(Duration::from_millis(100)).await;
        }
        let noticed = taken.elapsed();
        assert!(is_quiet(&ours, secs(20)).await, "what was read of it is delivered");
        noticed
    };
    let noticed = tokio::select! {
        () = renewing => panic!("it was taken back"),
        seen = timeout(MINUTE, seen) => seen.unwrap(),
    };
    assert!(noticed <= LEASE, "noticed after {noticed:?}");
    assert_eq!(ours.checkpointer.len(), 0);
    close(&ours).await;
}

#[tokio::test(start_paused = true)]
async fn explicit_shard_after_crash() {
    let script = Script::new(["one", "two"]);
    script.answer("one", [body([records(1..=3), Piece::Hang])]);
    let (bench, table) = (Bench::new(script, "streams: ['orders:one']"), Table::new());
    // Who read it is gone, without a word.
    let dead = table.worker("dead");
    dead.beat(&Presence::default()).await.unwrap();
    dead.claim(&stream(), &"one".into(), crate::lease::From::Nobody).await.unwrap();
    let session = bench.join(&table.worker("a")).await;
    let start = Instant::now();
    assert_eq!(numbers(&session, 3).await, [1, 2, 3]);
    assert!(start.elapsed() >= LEASE && start.elapsed() <= LEASE + secs(5), "after {:?}", start.elapsed());
    assert_eq!(table.holder("two"), None);
    close(&session).await;
}

#[tokio::test(start_paused = true)]
async fn an_explicit_shard_that_a_live_worker_reads_is_an_error() {
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
async fn a_shard_that_was_asked_for_by_name_is_not_balanced_away() {
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
async fn who_comes_back_under_his_name_has_his_shards_at_once() {
    let (bench, table) = (Bench::new(Script::new(["one", "two"]), ""), Table::new());
    let before = bench.join(&table.worker("a")).await;
    table.until_held("one", "a").await;
    table.until_held("two", "a").await;
    // Crashed: nothing is given back.
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
async fn two_processes_of_one_name_are_told() {
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
    let gone = Row { shard: "gone".into(), place: Place::End(None), hold: None, wanted_by: None, foreign: false };
    lock(&table.0.core).rows.insert((stream(), "gone".into()), gone);
    let session = bench.join(&table.worker("a")).await;
    sleep(MINUTE).await;
    assert_eq!(table.row("gone"), None);
    assert!(table.row("one").is_some());
    close(&session).await;
}
