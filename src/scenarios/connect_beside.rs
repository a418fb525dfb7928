//! Workers of Redpanda Connect or Bento in the same table.

use std::time::Duration;

use tokio::time::{Instant, sleep, timeout};

use super::bench::{Bench, close, is_quiet, take_and_ack};
use super::script::{Piece, Script, body, end, event, listed, records};
use super::table::{LEASE, MINUTE, PERIOD, Table, checkpoint, connect_renews, connect_row, secs, stream, then_idle};
use crate::lease::memory::Trouble;
use crate::lease::{Checkpoint, Hold};
use crate::model::StartPosition;
use crate::sync::lock;

/// The times in rows are by the clocks of others, and decide nothing.
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
    // The worker is alive, with a clock that is decades behind.
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
        done = timeout(3 * LEASE + PERIOD + 6 * MINUTE, run) => done.unwrap(),
    }
    assert!(begun.elapsed() <= 3 * LEASE + PERIOD + 5 * MINUTE + secs(5), "taken after {:?}", begun.elapsed());
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
        // Our share is one of three; theirs is two, and is left to them.
        sleep(5 * MINUTE).await;
        assert_eq!(table.counts(&["ours", "theirs"]), [1, 2]);
        let calls = bench.script.calls();
        assert_eq!(calls.len(), 1);
        // The worker waited for their last commit.
        let StartPosition::After(start) = &calls[0].start else { panic!("{:?}", calls[0]) };
        assert_eq!(Some(Checkpoint::After(start.clone())), table.checkpoint(calls[0].shard.as_str()));
        assert!(*start > checkpoint(100));
        assert!(calls[0].at - begun >= secs(3), "after {:?}", calls[0].at - begun);
        ours
    };
    let ours = tokio::select! {
        ours = run => ours,
        _ = renewing => panic!("nothing is left to them"),
    };
    // They are gone: their shards are taken over once they were not renewed for three lease periods.
    sleep(2 * LEASE + PERIOD / 2).await;
    assert_eq!(table.counts(&["ours", "theirs"]), [1, 2]);
    sleep(2 * PERIOD).await;
    assert_eq!(table.counts(&["ours", "theirs"]), [3, 0]);
    close(&ours).await;
}

/// Programs without heartbeats are judged by the row: Connect takes one that was not renewed for three lease periods.
#[tokio::test(start_paused = true)]
async fn row_of_an_idle_shard_is_renewed_for_other_programs() {
    let script = Script::new(["one"]);
    script.answer("one", [then_idle(1..=1)]);
    let (bench, table) = (Bench::new(script, ""), Table::new());
    let a = bench.join(&table.worker("a")).await;
    take_and_ack(&a, 1).await;
    table.until("one", "stored", |row| row.checkpoint == Some(Checkpoint::After(checkpoint(1)))).await;
    let stamp = || table.row("one").and_then(|row| row.hold).map(|hold| hold.stamp);
    for _ in 0..10 {
        let before = stamp();
        sleep(2 * LEASE).await;
        assert_ne!(stamp(), before, "nothing was written for two lease periods");
    }
    close(&a).await;
}

#[tokio::test(start_paused = true)]
async fn shard_that_connect_takes_is_released() {
    let script = Script::new(["one"]);
    let go_on = (100..200).flat_map(|at| [Piece::Wait(secs(1)), records(at..=at)]);
    script.answer("one", [body([records(1..=3), Piece::Wait(secs(5))].into_iter().chain(go_on))]);
    let (bench, table) = (Bench::new(script, ""), Table::new());
    let ours = bench.join(&table.worker("ours")).await;
    take_and_ack(&ours, 3).await;
    table.until("one", "stored", |row| row.checkpoint == Some(Checkpoint::After(checkpoint(3)))).await;
    // Connect changes the holder, and begins after its own lease period.
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
        assert!(is_quiet(&ours, secs(20)).await, "records that were read from the shard are delivered");
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
async fn shard_that_connect_ends_is_not_read_again() {
    let (bench, table) = (Bench::new(Script::new(["one", "two"]), ""), Table::new());
    lock(&table.0.core).rows.insert((stream(), "one".into()), connect_row("one", 100));
    let a = bench.join(&table.worker("a")).await;
    table.until_held("two", "a").await;
    sleep(secs(2)).await;
    // Connect has read the shard to its end, and removes the row. The last listing still shows the shard open.
    bench.script.list(vec![listed("one", &[], true), listed("child", &["one"], false), listed("two", &[], false)]);
    lock(&table.0.core).rows.remove(&(stream(), "one".into()));
    table.wake("a").await;
    table.until_held("child", "a").await;
    sleep(MINUTE).await;
    assert!(bench.script.calls_of("one").is_empty(), "read again: {:?}", bench.script.calls_of("one"));
    close(&a).await;
}

/// Connect is done with a parent, which therefore has no row, and reads a child.
#[tokio::test(start_paused = true)]
async fn stop_during_the_end_of_a_connect_shard_leaves_no_partial_write() {
    let (bench, table) = (Bench::new(Script::new(["child"]), ""), Table::new());
    bench.script.list(vec![listed("parent", &[], true), listed("child", &["parent"], false)]);
    let mut row = connect_row("child", 100);
    row.hold.as_mut().unwrap().worker = "gone".into();
    lock(&table.0.core).rows.insert((stream(), "child".into()), row);
    let store = table.worker("a");
    for call in ["claim", "end"] {
        store.trouble(call, Some(Trouble::LateAnswer(Duration::from_millis(100))));
    }
    let a = bench.join(&store).await;
    table.until("parent", "noted", |_| true).await;
    close(&a).await;
    assert!(matches!(table.checkpoint("parent"), Some(Checkpoint::ShardEnd(_))), "{:?}", table.row("parent"));
    let b = bench.join(&table.worker("b")).await;
    sleep(5 * MINUTE).await;
    assert!(bench.script.calls_of("parent").is_empty(), "read again: {:?}", bench.script.calls_of("parent"));
    assert!(!bench.script.calls_of("child").is_empty());
    close(&b).await;
}

/// After Connect has taken a shard, it waits for up to two lease periods before it reads the shard, and renews nothing
/// meanwhile.
#[tokio::test(start_paused = true)]
async fn shard_that_connect_takes_is_left_alone_until_connect_reads_it() {
    let script = Script::new(["one", "two", "three"]);
    for shard in ["one", "two", "three"] {
        script.answer(shard, (0..5).map(|_| then_idle(1..=1)));
    }
    let (bench, table) = (Bench::new(script, ""), Table::new());
    let a = bench.join(&table.worker("a")).await;
    take_and_ack(&a, 3).await;
    sleep(MINUTE).await;
    if let Some(row) = lock(&table.0.core).rows.get_mut(&(stream(), "one".into())) {
        row.hold = Some(Hold { worker: "theirs".into(), epoch: None, stamp: "x".into() });
    }
    sleep(2 * LEASE + secs(1)).await;
    assert_eq!(table.holder("one"), Some("theirs".into()));
    // Connect never began to read the shard.
    table.until_held("one", "a").await;
    close(&a).await;
}

/// Connect claims the children of a shard before it is done with the shard, and may die with both.
#[tokio::test(start_paused = true)]
async fn child_is_not_taken_from_connect_before_its_parent_is_done() {
    let script = Script::new(["child"]);
    let idle = (0..60).flat_map(|_| [Piece::Wait(secs(5)), event([], Some(101), &[])]);
    script.answer("parent", [body(idle.chain([end([102], &[("child", &["parent"])])]))]);
    let (bench, table) = (Bench::new(script, ""), Table::new());
    bench.script.list(vec![listed("parent", &[], true), listed("child", &["parent"], false)]);
    for shard in ["parent", "child"] {
        lock(&table.0.core).rows.insert((stream(), shard.into()), connect_row(shard, 100));
    }
    let a = bench.join(&table.worker("a")).await;
    table.until_held("parent", "a").await;
    sleep(4 * MINUTE).await;
    assert_eq!(table.holder("child"), Some("theirs".into()));
    assert!(bench.script.calls_of("child").is_empty());
    take_and_ack(&a, 1).await;
    table.until_held("child", "a").await;
    assert!(matches!(table.checkpoint("parent"), Some(Checkpoint::ShardEnd(_))));
    close(&a).await;
}
