//! Faults outside a well-behaved world: recreated streams, panics, rows by hand, stores and hosts that fail for long.

use std::sync::atomic::Ordering;
use std::time::Duration;

use pipeline_plugin_api::{Demand, InputError, State, Verdicts};
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};
use tracing::Level;

use super::bench::{Bench, close, is_quiet, numbers, take, take_any, take_at_most};
use super::logs::{Counts, Log};
use super::script::{Answer, Piece, Script, body, end, event, fault, large, listed, records};
use super::table::{LEASE, MINUTE, Table, checkpoint, reads, secs, stream, then_idle};
use crate::lease::memory::Trouble;
use crate::lease::{Checkpoint, Hold, Row, SharedStore};
use crate::model::{ListedShard, SequenceNumber, StartPosition};
use crate::session::Session;
use crate::sync::lock;

fn begins(at: u64, listed: ListedShard) -> ListedShard {
    ListedShard { begin: Some(checkpoint(at)), ..listed }
}

/// A stream of one shard that is split and read to its end, with its rows in the store.
async fn read_a_split(bench: &Bench) -> Session {
    bench.script.create_stream(1);
    bench.script.answer("a", [body([end([1, 2], &[("b", &["a"]), ("c", &["a"])])])]);
    bench.script.answer("b", [then_idle(3..=4)]);
    bench.script.answer("c", [body([Piece::Wait(secs(1)), records([5]), Piece::Hang])]);
    let session = bench.open().await;
    let mut all = numbers(&session, 5).await;
    all.sort_unstable();
    assert_eq!(all, [1, 2, 3, 4, 5]);
    session
}

/// Deletes the stream and recreates it with one shard of the id that the first had.
fn recreate_stream(bench: &Bench) {
    bench.script.create_stream(2);
    bench.script.list(vec![begins(100, listed("a", &[], false))]);
    bench.script.answer("a", [body([records(101..=120), Piece::Hang])]);
}

/// What was acknowledged above a gap counts when the gap closes during a close, though the rest of its event was never
/// delivered.
#[tokio::test(start_paused = true)]
async fn ack_above_a_gap_counts_when_the_gap_closes_during_a_close() {
    let script = Script::new(["s"]);
    script.answer("s", [body([records(1..=2), records(3..=6), Piece::Hang])]);
    let bench = Bench::new(script, "");
    let session = bench.open().await;
    let (_, first, gap) = take_at_most(&session, 2).await;
    let (_, second, above) = take_at_most(&session, 1).await;
    assert_eq!((first, second), (vec![1, 2], vec![3]));
    above.settle_in_test(Verdicts::ACK).unwrap();
    let ack = async {
        sleep(secs(1)).await;
        gap.settle_in_test(Verdicts::ACK).unwrap();
    };
    tokio::join!(close(&session), ack);
    assert_eq!(bench.stored("s").await, Some(Checkpoint::After(SequenceNumber::new("3").unwrap())));
}

#[tokio::test(start_paused = true)]
async fn recreated_stream_is_read_after_a_restart() {
    let log = Log::default();
    let _listening = log.listen();
    let bench = Bench::new(Script::new(["a"]), "");
    close(&read_a_split(&bench).await).await;
    recreate_stream(&bench);
    let session = bench.open().await;
    assert_eq!(numbers(&session, 20).await, (101..=120).collect::<Vec<_>>());
    close(&session).await;
    assert_eq!(bench.stored("a").await, Some(Checkpoint::After(checkpoint(120))));
    let warnings = log.at(Level::WARN);
    assert_eq!(warnings.len(), 1, "{warnings:?}");
    for said in ["recreated", "created_before=\"1970-01-01T00:00:00.001Z\"", "created_now=\"1970-01-01T00:00:00.002Z\""]
    {
        assert!(warnings[0].contains(said), "{warnings:?}");
    }
    // The rows are set aside, not deleted, and only once.
    assert_eq!(bench.store.memory.former(), [("a", 2), ("b", 4), ("c", 5)].map(|(id, at)| (id.into(), checkpoint(at))));
    let session = bench.open().await;
    assert!(is_quiet(&session, secs(60)).await);
    close(&session).await;
    assert_eq!(log.at(Level::WARN).len(), 1);
}

#[tokio::test(start_paused = true)]
async fn recreated_stream_is_read_while_running() {
    let log = Log::default();
    let _listening = log.listen();
    let bench = Bench::new(Script::new(["a"]), "");
    let session = read_a_split(&bench).await;
    bench.script.lose_stream(fault("ResourceNotFoundException"));
    bench.script.refuse_all(Some(fault("ResourceNotFoundException")));
    // Open subscriptions break, and the stream is gone for a minute.
    assert!(is_quiet(&session, MINUTE).await);
    assert_eq!(session.status().state, State::Degraded);
    assert!(session.status().reason.unwrap().contains("does not exist"), "{:?}", session.status());
    bench.script.refuse_all(None);
    recreate_stream(&bench);
    assert_eq!(numbers(&session, 20).await, (101..=120).collect::<Vec<_>>());
    assert_eq!(session.status().state, State::Connected, "{:?}", session.status());
    close(&session).await;
    assert_eq!(bench.stored("a").await, Some(Checkpoint::After(checkpoint(120))));
    assert_eq!(
        log.at(Level::WARN).iter().filter(|line| line.contains("the stream was deleted and recreated")).count(),
        1
    );
}

/// A store of one process is not read in each round, so what could not be set aside is remembered.
#[tokio::test(start_paused = true)]
async fn recreated_stream_is_read_once_the_store_can_be_written_again() {
    let bench = Bench::new(Script::new(["a"]), "");
    let session = read_a_split(&bench).await;
    bench.script.lose_stream(fault("ResourceNotFoundException"));
    bench.script.refuse_all(Some(fault("ResourceNotFoundException")));
    assert!(is_quiet(&session, secs(10)).await);
    bench.store.fails.store(true, Ordering::Relaxed);
    bench.script.refuse_all(None);
    recreate_stream(&bench);
    assert!(is_quiet(&session, MINUTE * 2).await, "its row is still that of the former stream");
    assert_eq!(session.status().state, State::Degraded, "{:?}", session.status());
    bench.store.fails.store(false, Ordering::Relaxed);
    assert_eq!(numbers(&session, 20).await, (101..=120).collect::<Vec<_>>());
    assert!(is_quiet(&session, MINUTE).await);
    assert_eq!(session.status().state, State::Connected, "{:?}", session.status());
    close(&session).await;
    assert_eq!(bench.stored("a").await, Some(Checkpoint::After(checkpoint(120))));
}

/// A number that is refused because it is of a former stream is no expired one.
#[tokio::test(start_paused = true)]
async fn position_in_a_former_stream_is_not_taken_for_an_expired_one() {
    let log = Log::default();
    let _listening = log.listen();
    let script = Script::new(["a"]);
    script.create_stream(1);
    script.answer("a", [body([records(1..=2), Piece::Wait(secs(1))])]);
    let bench = Bench::new(script, "");
    let session = bench.open().await;
    assert_eq!(numbers(&session, 2).await, [1, 2]);
    bench.script.answer("a", [Answer::Refused(fault("InvalidArgumentException"))]);
    recreate_stream(&bench);
    // The consumer is found by its name, as on servers that keep it.
    bench.script.consumer("arn:orders/consumer/of-1");
    assert_eq!(numbers(&session, 20).await, (101..=120).collect::<Vec<_>>());
    close(&session).await;
    assert_eq!(log.at(Level::ERROR), Vec::<String>::new());
}

#[tokio::test(start_paused = true)]
async fn recreated_stream_is_noticed_by_where_its_shards_begin() {
    // The service does not say when the stream was created.
    let bench = Bench::new(Script::new(["a"]), "rebalance_period: 10s");
    bench.script.list(vec![begins(1, listed("a", &[], false))]);
    bench.script.answer("a", [then_idle(1..=3)]);
    let session = bench.open().await;
    numbers(&session, 3).await;
    bench.script.list(vec![begins(100, listed("a", &[], false))]);
    bench.script.answer("a", [body([records(101..=103), Piece::Hang])]);
    assert_eq!(numbers(&session, 3).await, [101, 102, 103]);
    close(&session).await;
    assert_eq!(bench.stored("a").await, Some(Checkpoint::After(checkpoint(103))));
}

#[tokio::test(start_paused = true)]
async fn end_that_an_earlier_version_stored_is_not_believed_of_an_open_shard() {
    // The rows don't say which stream they belong to; of two, one has no number either.
    for last in [Some(checkpoint(5)), None] {
        let bench = Bench::new(Script::new(["a"]), "");
        bench.store.memory.put(Row::new("a", Some(Checkpoint::ShardEnd(last.clone()))));
        bench.script.list(vec![begins(100, listed("a", &[], false))]);
        bench.script.answer("a", [body([records(101..=103), Piece::Hang])]);
        let session = bench.open().await;
        assert_eq!(numbers(&session, 3).await, [101, 102, 103], "{last:?}");
        close(&session).await;
    }
}

#[tokio::test(start_paused = true)]
async fn recreated_stream_is_read_by_workers_that_share_it() {
    let bench = Bench::new(Script::new(["a", "b"]), "");
    bench.script.create_stream(1);
    bench.script.list(["a", "b"].map(|id| begins(1, listed(id, &[], false))).to_vec());
    for shard in ["a", "b"] {
        bench.script.answer(shard, [then_idle(1..=3)]);
    }
    let table = Table::new();
    let (one, two) = (bench.join(&table.worker("one")).await, bench.join(&table.worker("two")).await);
    drain(&[&one, &two], 6).await;
    table.until_counts(&["one", "two"], &[1, 1]).await;
    bench.script.create_stream(2);
    bench.script.list(["a", "b"].map(|id| begins(100, listed(id, &[], false))).to_vec());
    for shard in ["a", "b"] {
        // Each worker may read the shard for a moment, before the other's rows are out of the way.
        bench.script.answer(shard, (0..8).map(|_| body([records(101..=103), Piece::Hang])));
    }
    let got = drain(&[&one, &two], 6).await;
    assert!((101..=103).all(|number| got.iter().filter(|got| **got == number).count() >= 2), "{got:?}");
    let stored = async {
        while !["a", "b"].iter().all(|shard| table.checkpoint(shard) == Some(Checkpoint::After(checkpoint(103)))) {
            drain(&[&one, &two], 0).await;
        }
    };
    timeout(5 * MINUTE, stored).await.unwrap();
    for shard in ["a", "b"] {
        assert_eq!(table.row(shard).unwrap().created, Some(2));
    }
    close(&one).await;
    close(&two).await;
}

/// Takes and acks until the expected records came, and for one second longer.
async fn drain(sessions: &[&Session], count: usize) -> Vec<u64> {
    let mut got = Vec::new();
    let all = async {
        loop {
            let mut came = 0;
            for session in sessions {
                let batch = session.read(Demand::new(1000, Duration::from_millis(500))).await.unwrap();
                let numbers: Vec<u64> = (batch.messages().iter())
                    .map(|message| crate::KinesisRecord::of(message).unwrap().sequence_number())
                    .map(|number| number.as_str().parse().unwrap())
                    .collect();
                came += numbers.len();
                got.extend(numbers);
                if !batch.is_empty() {
                    batch.into_parts().1.settle_in_test(Verdicts::ACK).unwrap();
                }
            }
            if came == 0 && got.len() >= count {
                return;
            }
        }
    };
    timeout(10 * MINUTE, all).await.expect("it does not come");
    got
}

#[tokio::test(start_paused = true)]
async fn shard_gone_needs_a_listing_newer_than_the_shard() {
    let bench = Bench::new(Script::new(["a"]), "rebalance_period: 1h\nlease_period: 2h");
    bench.script.answer("a", [body([Piece::Wait(secs(1)), end([1], &[("b", &["a"])])])]);
    // The child is not found at first, and the listing of a moment ago does not contain it; for some seconds, the next
    // does not either.
    bench.script.answer("b", (0..2).map(|_| Answer::Refused(fault("ResourceNotFoundException"))));
    bench.script.answer("b", [body([records([2]), Piece::Hang])]);
    let session = bench.open().await;
    assert_eq!(numbers(&session, 2).await, [1, 2]);
    assert!(bench.script.calls_of("b").len() == 3);
    close(&session).await;
    assert_eq!(bench.stored("b").await, Some(Checkpoint::After(checkpoint(2))));
}

#[tokio::test(start_paused = true)]
async fn shard_missing_from_listings_for_long_ends() {
    let bench = Bench::new(Script::new(["a", "other"]), "");
    bench.script.answer("a", (0..20).map(|_| Answer::Refused(fault("ResourceNotFoundException"))));
    bench.script.answer("other", [then_idle(1..=1)]);
    let session = bench.open().await;
    bench.script.list(vec![listed("other", &[], false)]);
    numbers(&session, 1).await;
    assert!(is_quiet(&session, 2 * MINUTE).await);
    assert_eq!(bench.stored("a").await, Some(Checkpoint::ShardEnd(None)));
    close(&session).await;
}

#[tokio::test(start_paused = true)]
async fn hand_made_position_stops_its_shard_alone() {
    let log = Log::default();
    let _listening = log.listen();
    let bench = Bench::new(Script::new(["a", "b"]), "");
    let unreadable = Some("its SequenceNumber is not a sequence number: \"LATEST\"".to_owned());
    let table = Table::new();
    let bad = Row { unreadable: unreadable.clone(), ..Row::new("a", None) };
    lock(&table.0.core).rows.insert((stream(), "a".into()), bad);
    bench.script.answer("b", [then_idle(1..=3)]);
    let session = bench.join(&table.worker("one")).await;
    assert_eq!(numbers(&session, 3).await, [1, 2, 3]);
    assert!(is_quiet(&session, 2 * MINUTE).await);
    assert!(bench.script.calls_of("a").is_empty());
    assert_eq!(table.row("a").unwrap().unreadable, unreadable, "it was touched");
    let status = session.status();
    assert_eq!(status.state, State::Degraded);
    assert!(status.reason.is_some_and(|reason| reason.contains("orders a") && reason.contains("LATEST")));
    assert!(log.at(Level::WARN).iter().any(|line| line.contains("shard=a ") && line.contains("LATEST")));
    // Once corrected, the shard is read without a restart.
    lock(&table.0.core).rows.insert((stream(), "a".into()), Row::new("a", Some(Checkpoint::After(checkpoint(9)))));
    bench.script.answer("a", [then_idle(10..=12)]);
    assert_eq!(numbers(&session, 3).await, [10, 11, 12]);
    assert_eq!(session.status().state, State::Connected);
    close(&session).await;
}

#[tokio::test(start_paused = true)]
async fn lease_claimed_under_a_validity_is_started_under_it() {
    let script = Script::new(["a"]);
    script.answer("a", (0..20).map(|_| then_idle(1..=3)));
    let (bench, table) = (Bench::new(script, ""), Table::new());
    let slow = table.worker("slow");
    // The claim is answered only when the leases had expired and were renewed again.
    slow.trouble("claim", Some(Trouble::LateAnswer(4 * LEASE)));
    let one = bench.join(&slow).await;
    table.until_held("a", "slow").await;
    slow.trouble("heartbeat", Some(Trouble::Fails));
    let two = bench.join(&table.worker("other")).await;
    table.until_held("a", "other").await;
    assert_eq!(numbers(&two, 3).await, [1, 2, 3]);
    slow.trouble("heartbeat", None);
    // The worker starts while the other one holds the shard, and for a while no worker reads the table.
    slow.trouble("rows", Some(Trouble::Slow(LEASE)));
    let came = one.read(Demand::new(1000, 5 * LEASE)).await.unwrap();
    assert!(came.is_empty(), "records of a shard that another worker holds are delivered");
    assert_eq!(table.holder("a"), Some("other".into()));
    close(&one).await;
    close(&two).await;
}

#[tokio::test(start_paused = true)]
async fn panicking_task_is_noticed() {
    for (call, restarted) in [("heartbeat", false), ("rows", false), ("commit", true), ("release", false)] {
        let (counts, log) = (Counts::default(), Log::default());
        let (_recording, _listening) = (counts.record(), log.listen());
        let script = Script::new(["a"]);
        script.answer("a", (0..3).map(|at| then_idle(at * 10 + 1..=at * 10 + 5)));
        let (bench, table) = (Bench::new(script, ""), Table::new());
        let store = table.worker("one");
        let session = bench.join(&store).await;
        numbers(&session, 3).await;
        store.trouble(call, Some(Trouble::Panics));
        if call == "release" {
            let row = table.row("a").unwrap();
            // A live worker requests the shard.
            let other = table.worker("other");
            other.heartbeat(&reads("arn:orders")).await.unwrap();
            assert!(other.ask(&stream(), &"a".into(), row.hold.as_ref().unwrap(), None).await.unwrap());
            table.wake("one").await;
        }
        if restarted {
            assert!(is_quiet(&session, 10 * secs(1)).await);
            store.trouble(call, None);
            sleep(secs(5)).await;
            assert!(matches!(table.checkpoint("a"), Some(Checkpoint::After(_))), "{call}: it does not store any more");
            assert_ne!(session.status().state, State::Failed);
        } else {
            let ended = timeout(2 * MINUTE, async {
                loop {
                    match session.read(Demand::new(1000, secs(1))).await {
                        Ok(_) => {}
                        Err(error) => return error,
                    }
                }
            });
            let error = ended.await.unwrap_or_else(|_| panic!("{call}: it was not noticed"));
            assert!(
                matches!(&error, InputError::Fatal(_)) && error.to_string().contains("injected by the test"),
                "{error}"
            );
            assert_eq!(session.status().state, State::Failed, "{call}");
            store.trouble(call, None);
        }
        assert!(counts.of("kinesis_input_panics_total", "") >= 1, "{call}");
        assert!(log.at(Level::ERROR).iter().any(|line| line.contains("injected by the test")), "{call}");
        session.close(secs(10)).await.unwrap();
        assert_eq!(session.pool.records().used, 0);
    }
}

#[tokio::test(start_paused = true)]
async fn panicking_shard_task_is_noticed() {
    let script = Script::new(["a", "b"]);
    script.answer("a", [Answer::Panic]);
    script.answer("b", [then_idle(1..=3)]);
    let bench = Bench::new(script, "");
    let session = bench.open().await;
    let error = timeout(MINUTE, async {
        loop {
            if let Err(error) = session.read(Demand::new(1000, secs(1))).await {
                return error;
            }
        }
    });
    let error = error.await.unwrap();
    assert!(matches!(&error, InputError::Fatal(_)) && error.to_string().contains("orders a"), "{error}");
    close(&session).await;
}

/// An event is larger than the pool, six other shards fill the pool, and each ack takes longer than a reader waits.
#[tokio::test(start_paused = true)]
async fn oversize_event_comes_with_late_acks() {
    let others = ["s0", "s1", "s2", "s3", "s4", "s5"];
    let script = Script::new(others.into_iter().chain(["big"]));
    let oversize = |_| body([Piece::Wait(secs(9)), large(1000, 100_000), Piece::Hang]);
    script.answer("big", (0..200).map(oversize));
    for (at, shard) in others.into_iter().enumerate() {
        // A subscription continues behind the records that were taken, so each has all records that may be left.
        let every = secs(5 + at as u64 % 5);
        let busy = |from: u64| body((0..60).flat_map(move |at| [Piece::Wait(every), records([from * 60 + at + 1])]));
        script.answer(shard, (0..40).map(busy));
    }
    let bench = Bench::new(script, "enhanced_fan_out: {enabled: true, max_pending_bytes: 64KiB}");
    let session = bench.open().await;
    let mut acks = JoinSet::new();
    let came = timeout(30 * MINUTE, async {
        loop {
            let (came, receipt) = take_any(&session, 1000).await;
            if came.iter().any(|(shard, _)| shard == "big") {
                return;
            }
            acks.spawn(async move {
                sleep(secs(32)).await;
                receipt.settle_in_test(Verdicts::ACK).unwrap();
            });
        }
    });
    came.await.expect("the event never comes");
    session.close(secs(1)).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn one_unacknowledged_message_beside_a_busy_shard() {
    let log = Log::default();
    let _listening = log.listen();
    let script = Script::new(["held", "busy"]);
    script.answer(
        "held",
        (0..200).map(|_| body((0..10).map(|at| records(at * 5 + 1..=at * 5 + 5)).chain([Piece::Hang]))),
    );
    script.answer("busy", (0..20).map(|_| body((0..60).flat_map(|at| [Piece::Wait(secs(5)), records([at + 1])]))));
    let bench = Bench::new(script, "checkpoint_limit: 10");
    let session = bench.open().await;
    let mut kept = Vec::new();
    let started = tokio::time::Instant::now();
    let mut degraded_after = None;
    while started.elapsed() < 10 * MINUTE {
        let (shard, _, receipt) = take(&session).await;
        if shard == "held" {
            kept.push(receipt);
        } else {
            receipt.settle_in_test(Verdicts::ACK).unwrap();
        }
        if session.status().state == State::Degraded {
            degraded_after.get_or_insert(started.elapsed());
        }
    }
    assert!(degraded_after.is_some_and(|after| after <= MINUTE + secs(5)), "{degraded_after:?}");
    let reason = session.status().reason.unwrap();
    assert!(reason.contains("orders held") && reason.contains("acknowledges none"), "{reason}");
    let warnings = log.at(Level::WARN);
    let blocked = warnings.iter().filter(|line| line.contains("acknowledges nothing") && line.contains("shard=held "));
    assert!((8..=10).contains(&blocked.count()), "{warnings:?}");
    for receipt in kept {
        receipt.settle_in_test(Verdicts::ACK).unwrap();
    }
    let (_, _, receipt) = take(&session).await;
    receipt.settle_in_test(Verdicts::ACK).unwrap();
    sleep(secs(2)).await;
    assert_eq!(session.status().state, State::Connected, "{:?}", session.status());
    session.close(secs(10)).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn undecodable_event_is_degraded_within_a_minute() {
    let script = Script::new(["a"]);
    let bad = || {
        let mut bytes = super::script::bytes(records([1]));
        let last = bytes.len() - 1;
        bytes[last] ^= 1;
        body([Piece::Bytes(bytes), Piece::Hang])
    };
    script.answer("a", (0..1000).map(|_| bad()));
    let bench = Bench::new(script, "");
    let session = bench.open().await;
    assert!(is_quiet(&session, MINUTE).await);
    let status = session.status();
    assert_eq!(status.state, State::Degraded);
    assert!(status.reason.as_ref().is_some_and(|reason| reason.contains("orders a")), "{status:?}");
    close(&session).await;
}

#[tokio::test(start_paused = true)]
async fn store_unreachable_is_degraded_within_a_minute() {
    let log = Log::default();
    let _listening = log.listen();
    let script = Script::new(["a"]);
    script.answer("a", (0..3).map(|at| then_idle(at * 10 + 1..=at * 10 + 5)));
    let bench = Bench::new(script, "");
    let session = bench.open().await;
    bench.store.fails.store(true, Ordering::Relaxed);
    numbers(&session, 5).await;
    assert!(is_quiet(&session, MINUTE).await);
    let status = session.status();
    assert_eq!(status.state, State::Degraded);
    assert!(status.reason.as_ref().is_some_and(|reason| reason.contains("checkpoints can't be stored")), "{status:?}");
    // A session that is closed like this is not healthy.
    let closed = session.close(secs(10)).await;
    assert!(closed.is_err());
    assert!(!log.at(Level::INFO).iter().any(|line| line.contains("everything that was delivered is stored")));
    assert!(log.at(Level::ERROR).iter().any(|line| line.contains("could not be stored")));
}

#[tokio::test(start_paused = true)]
async fn end_that_can_not_be_stored_is_degraded_and_names_its_shard() {
    let script = Script::new(["a"]);
    script.answer("a", [body([end([1], &[("b", &["a"])])])]);
    script.answer("b", [then_idle(2..=3)]);
    let bench = Bench::new(script, "");
    let session = bench.open().await;
    bench.store.fails.store(true, Ordering::Relaxed);
    numbers(&session, 1).await;
    assert!(is_quiet(&session, MINUTE).await);
    let reason = session.status().reason.unwrap();
    assert!(reason.contains("can't be stored"), "{reason}");
    bench.store.fails.store(false, Ordering::Relaxed);
    assert_eq!(numbers(&session, 2).await, [2, 3]);
    sleep(secs(2)).await;
    assert_eq!(session.status().state, State::Connected, "{:?}", session.status());
    close(&session).await;
}

#[tokio::test(start_paused = true)]
async fn expired_leases_are_degraded_and_count_as_lag() {
    let counts = Counts::default();
    let _recording = counts.record();
    let script = Script::new(["a"]);
    script.answer("a", (0..9).map(|at| then_idle(at * 10 + 1..=at * 10 + 5)));
    let (bench, table) = (Bench::new(script, ""), Table::new());
    let session = bench.join(&table.worker("one")).await;
    numbers(&session, 5).await;
    table.close(true);
    sleep(LEASE + MINUTE).await;
    let status = session.status();
    assert_eq!(status.state, State::Degraded);
    assert!(status.reason.as_ref().is_some_and(|reason| reason.contains("no shard is read")), "{status:?}");
    let lag = counts.gauge("kinesis_input_lag_seconds", "").unwrap();
    assert!((50.0..100.0).contains(&lag), "{lag}");
    sleep(10 * MINUTE).await;
    assert!(counts.gauge("kinesis_input_lag_seconds", "").unwrap() > 600.0);
    table.close(false);
    numbers(&session, 5).await;
    sleep(secs(10)).await;
    assert_eq!(session.status().state, State::Connected, "{:?}", session.status());
    assert!(counts.gauge("kinesis_input_lag_seconds", "").unwrap() < 60.0);
    close(&session).await;
}

#[tokio::test(start_paused = true)]
async fn lag_grows_with_the_clock() {
    let counts = Counts::default();
    let _recording = counts.record();
    let lag = |shard: &str| counts.gauge("kinesis_input_behind_latest_seconds", shard);
    let script = Script::new(["a"]);
    let idle = |last: u64| (0..12).flat_map(move |_| [Piece::Wait(secs(5)), event([], Some(last), &[])]);
    script.answer("a", [body([records([1])].into_iter().chain(idle(1)))]);
    let bench = Bench::new(script, "");
    let session = bench.open().await;
    let (_, _, receipt) = take(&session).await;
    sleep(secs(30)).await;
    // The record in flight arrived long after this test's clock began, so its arrival says nothing.
    receipt.settle_in_test(Verdicts::ACK).unwrap();
    sleep(secs(10)).await;
    assert_eq!(lag("a"), Some(0.0));
    // Nothing more comes, and no call succeeds: whatever is in the shard waits.
    bench.script.refuse_all(Some(fault("InternalFailureException")));
    sleep(5 * MINUTE).await;
    let before = lag("a").unwrap();
    sleep(MINUTE).await;
    let after = lag("a").unwrap();
    assert!(before > 180.0 && (59.0..61.0).contains(&(after - before)), "{before} {after}");
    close(&session).await;
}

#[tokio::test(start_paused = true)]
async fn dropped_session_leaves_nothing() {
    let script = Script::new(["a"]);
    script.answer("a", [then_idle(1..=5)]);
    let (bench, table) = (Bench::new(script, ""), Table::new());
    let session = bench.join(&table.worker("one")).await;
    numbers(&session, 5).await;
    // The leases have expired and can't be released.
    table.close(true);
    sleep(2 * LEASE).await;
    drop(session);
    sleep(secs(5)).await;
    assert_eq!(tokio::runtime::Handle::current().metrics().num_alive_tasks(), 0);
}

#[tokio::test(start_paused = true)]
async fn cancelled_connect_leaves_nothing() {
    let (bench, table) = (Bench::new(Script::new(["a"]), ""), Table::new());
    let store = table.worker("one");
    // The first heartbeat is written, and its answer is on the way when the host cancels.
    store.trouble("heartbeat", Some(Trouble::LateAnswer(secs(3))));
    assert!(timeout(secs(1), bench.join(&store)).await.is_err());
    assert_eq!(lock(&table.0.core).workers.len(), 1);
    sleep(secs(5)).await;
    assert!(lock(&table.0.core).workers.is_empty(), "the others would wait for it");
    assert_eq!(tokio::runtime::Handle::current().metrics().num_alive_tasks(), 0);
}

#[tokio::test(start_paused = true)]
async fn one_odd_answer_for_one_shard() {
    for code in ["InvalidArgumentException", "ValidationException", "SerializationException"] {
        let script = Script::new(["odd", "well"]);
        script.answer("odd", [Answer::Refused(fault(code)), body([records([9]), Piece::Hang])]);
        script.answer("well", [then_idle(1..=3)]);
        let bench = Bench::new(script, "");
        let session = bench.open().await;
        let mut all = numbers(&session, 3).await;
        sleep(secs(1)).await;
        assert_eq!(session.status().state, State::Degraded, "{code}");
        all.extend(numbers(&session, 1).await);
        assert_eq!(all, [1, 2, 3, 9], "{code}");
        assert_eq!(session.status().state, State::Connected, "{code}");
        close(&session).await;
    }
}

#[tokio::test(start_paused = true)]
async fn two_streams_one_table_cleanup() {
    let table = Table::new();
    let others = table.worker("aaa");
    let _beats = super::table::sends_heartbeats(others, reads("arn:others"));
    let gone = Row::new("gone", Some(Checkpoint::ShardEnd(None)));
    lock(&table.0.core).rows.insert((stream(), "gone".into()), gone);
    let bench = Bench::new(Script::new(["a"]), "");
    let session = bench.join(&table.worker("zzz")).await;
    let cleaned = async {
        while table.row("gone").is_some() {
            sleep(secs(1)).await;
        }
    };
    timeout(10 * MINUTE, cleaned).await.expect("the smallest name reads another stream");
    close(&session).await;
}

#[tokio::test(start_paused = true)]
async fn taken_over_subscriptions_are_reported_as_another_fleet() {
    let script = Script::new(["a"]);
    let taken =
        |at: u64| body([records([at + 1]), Piece::Wait(secs(6)), super::script::exception("ResourceInUseException")]);
    script.answer("a", (0..20).map(taken));
    let bench = Bench::new(script, "");
    let session = bench.open().await;
    numbers(&session, 5).await;
    let reason = session.status().reason.unwrap();
    assert!(reason.contains("another fleet") && reason.contains("consumer_name"), "{reason}");
    close(&session).await;
}

#[tokio::test(start_paused = true)]
async fn latest_is_pinned_by_the_clock_of_the_service() {
    let bench = Bench::new(Script::new(["a"]), "start_from_oldest: false");
    // The clock of the service is minutes behind ours: by ours, records that came since would be skipped.
    bench.script.tell_time(std::time::UNIX_EPOCH + secs(1_000));
    bench.script.answer("a", [then_idle(1..=1)]);
    let session = bench.open().await;
    numbers(&session, 1).await;
    assert_eq!(bench.script.calls()[0].start, StartPosition::At(1_000_000));
    close(&session).await;
}

/// The worker that hands a shard over stops at the same time, so that no worker is left.
#[tokio::test(start_paused = true)]
async fn shard_handed_to_the_last_worker_to_stop_is_released() {
    let (bench, table) = (Bench::new(Script::new(["a"]), "rebalance_period: 1h\nlease_period: 2h"), Table::new());
    let session = bench.join(&table.worker("one")).await;
    table.until_held("a", "one").await;
    let hold = Hold { worker: "one".into(), epoch: Some(99), stamp: "99".into() };
    lock(&table.0.core).rows.insert((stream(), "b".into()), Row { hold: Some(hold), ..Row::new("b", None) });
    close(&session).await;
    assert_eq!([table.holder("a"), table.holder("b")], [None, None]);
}
