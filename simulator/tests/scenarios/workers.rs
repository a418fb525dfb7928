//! Several workers that share the shards through one table.

use kinesis_simulator::kinesis::shard_id;
use tokio::runtime::Builder;
use tokio::time::{advance, sleep};

use crate::bench::{Bench, Host, LEASE, MINUTE, all_read, secs};

#[tokio::test(start_paused = true)]
async fn kill_9() {
    let bench = Bench::new(1).await;
    let first = bench.connect("a").await;
    bench.put(0, 1..=3);
    assert_eq!(first.numbers(3).await, [1, 2, 3]);
    bench.until_stored(0, 3).await;
    bench.put(0, 4..=6);
    let held = first.hold(3).await;
    let second = bench.connect("b").await;
    assert!(second.is_quiet(MINUTE).await, "it has the other's shard");
    first.kill();
    let killed = bench.now();
    bench.put(0, 7..=9);
    assert_eq!(second.numbers(6).await, [4, 5, 6, 7, 8, 9]);
    let waited = bench.now().since(killed);
    assert!(waited + secs(5) >= LEASE && waited <= LEASE + secs(35), "taken after {waited:?}");
    drop(held);
    bench.until_stored(0, 9).await;
    bench.close([second]).await;
}

/// The process sleeps: its clock continues, and nothing in it runs. It therefore has a runtime of its own, which stands
/// still meanwhile.
#[test]
fn pause_longer_than_the_lease() {
    let runtime = || Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
    let (ours, paused) = (runtime(), runtime());
    let bench = ours.block_on(Bench::new(1));
    bench.put(0, 1..=9);
    let now = ours.block_on(async { bench.now() });
    let (first, held) = paused.block_on(async {
        let first = bench.worker_at("a", now);
        first.input.connect().await.unwrap();
        let done = first.take_at_most(3).await;
        assert_eq!(done.numbers, [1, 2, 3]);
        first.ack(done).await;
        let held = first.take_at_most(3).await;
        assert_eq!(held.numbers, [4, 5, 6]);
        bench.until_stored(0, 3).await;
        (first, held)
    });
    let began = ours.block_on(async { bench.now() });
    let second = ours.block_on(async {
        let second = bench.connect("b").await;
        bench.until_held(0, "b").await;
        assert_eq!(second.numbers(6).await, (4..=9).collect::<Vec<_>>());
        bench.until_stored(0, 9).await;
        second
    });
    let slept = ours.block_on(async { bench.now() }).since(began);
    paused.block_on(async {
        // The host asks first, before anything else in the process has noticed. Another worker owns what was read by
        // then.
        let asking = first.is_quiet(secs(5));
        let ((), is_quiet) = tokio::join!(biased; advance(slept), asking);
        assert!(is_quiet, "records of the other worker are delivered");
        first.ack(held).await;
        assert!(first.is_quiet(LEASE / 2).await, "it still reads");
        first.close().await;
    });
    assert_eq!(paused.metrics().num_alive_tasks(), 0, "tasks are left");
    ours.block_on(async {
        assert_eq!((bench.row(0).stored, bench.holder(0).as_deref()), (9, Some("b")));
        bench.put(0, 10..=12);
        assert_eq!(second.numbers(3).await, [10, 11, 12]);
        bench.close([second]).await;
    });
}

#[tokio::test(start_paused = true)]
async fn table_unreachable() {
    let bench = Bench::new(2).await;
    let (first, second) = (bench.connect("a").await, bench.connect("b").await);
    bench.until_shared("a", "b").await;
    let hosts = [Host::of(&first), Host::of(&second)];
    let read = || all_read(&[&hosts[0], &hosts[1]]);
    let mut next = 1;
    let mut put_both = || {
        for shard in 0..2 {
            bench.put(shard, next..=next);
            next += 1;
        }
    };
    for _ in 0..10 {
        put_both();
        sleep(secs(1)).await;
    }
    bench.until("all is read", || read().len() == 20).await;
    sleep(secs(3)).await;
    for worker in [&first, &second] {
        worker.link.cut_table(true);
    }
    let (cut, written) = (bench.now(), bench.written().len());
    let mut last_read = (read().len(), cut);
    for _ in 0..300 {
        put_both();
        sleep(secs(1)).await;
        if read().len() > last_read.0 {
            last_read = (read().len(), bench.now());
        }
    }
    // The host is given records as long as the leases are valid, and not a moment longer: another worker may hold them
    // then.
    let stopped = last_read.1.since(cut);
    assert!(stopped <= LEASE && stopped + secs(10) >= LEASE, "the last record came after {stopped:?}");
    assert_eq!(bench.written().len(), written);
    for worker in [&first, &second] {
        worker.link.cut_table(false);
    }
    bench.until_stored(0, 619).await;
    bench.until_stored(1, 620).await;
    let mut all = read();
    all.dedup();
    assert_eq!(all, (1..=620).collect::<Vec<_>>(), "a record is lost");
    bench.until_shared("a", "b").await;
    bench.close([first, second]).await;
}

#[tokio::test(start_paused = true)]
async fn clock_skew_of_minutes() {
    let bench = Bench::new(2).await;
    let (first, second, third) = (bench.worker("a"), bench.worker("b"), bench.worker("c"));
    first.clock.set_skew(300_000);
    second.clock.set_skew(-300_000);
    first.input.connect().await.unwrap();
    second.input.connect().await.unwrap();
    let of_second = bench.until_shared("a", "b").await;
    // A worker that stored a time that is long past, or far ahead, keeps its lease all the same.
    third.input.connect().await.unwrap();
    let leases = [0, 1].map(|shard| bench.row(shard).lease);
    let hosts = [&first, &second, &third].map(Host::of);
    for number in (1..=600).step_by(2) {
        bench.put(0, number..=number);
        bench.put(1, number + 1..=number + 1);
        sleep(secs(1)).await;
    }
    bench.until_stored(0, 599).await;
    bench.until_stored(1, 600).await;
    assert_eq!([0, 1].map(|shard| bench.row(shard).lease), leases, "a lease was taken");
    assert_eq!(all_read(&[&hosts[0], &hosts[1], &hosts[2]]), (1..=600).collect::<Vec<_>>(), "a gap, or a duplicate");
    // Dead workers are taken over when their leases have expired by the clock of the observer, which runs correctly.
    let [_first, of_second_host, _third] = hosts;
    drop(of_second_host);
    second.kill();
    let killed = bench.now();
    bench.until("it is taken over", || bench.holder(of_second).is_some_and(|holder| holder != "b")).await;
    let waited = bench.now().since(killed);
    assert!(waited + secs(5) >= LEASE && waited <= LEASE + secs(35), "taken after {waited:?}");
    bench.close([first, third]).await;
}

#[tokio::test(start_paused = true)]
async fn graceful_hand_over() {
    let bench = Bench::new(2).await;
    let first = bench.connect("a").await;
    bench.until_held(0, "a").await;
    bench.until_held(1, "a").await;
    let one = Host::of(&first);
    let mut last = 0;
    let mut put_for = async |seconds: u64| {
        for number in last + 1..=last + 4 * seconds {
            bench.put((number % 2) as u32, number..=number);
            sleep(secs(1) / 4).await;
        }
        last += 4 * seconds;
    };
    put_for(10).await;
    let second = bench.connect("b").await;
    let two = Host::of(&second);
    put_for(60).await;
    let moved = bench.until_shared("a", "b").await;
    let of_second = two.read().len();
    assert!(of_second > 0 && one.read().len() > of_second);
    // The shard comes back when the second worker stops gracefully.
    second.close().await;
    bench.until_held(moved, "a").await;
    put_for(30).await;
    sleep(secs(5)).await;
    assert_eq!(all_read(&[&one, &two]), (1..=last).collect::<Vec<_>>(), "a gap, or a duplicate");
    bench.close([first]).await;
}

#[tokio::test(start_paused = true)]
async fn merge_with_parents_on_two_workers() {
    let bench = Bench::new(2).await;
    let (first, second) = (bench.connect("a").await, bench.connect("b").await);
    let of_second = bench.until_shared("a", "b").await;
    bench.put(1 - of_second, 1..=3);
    bench.put(of_second, 4..=6);
    assert_eq!(first.numbers(3).await, [1, 2, 3]);
    let held = second.hold(3).await;
    bench.merge(0, 1).await;
    bench.put(2, 7..=9);
    bench.until_ended(1 - of_second).await;
    let host = Host::of(&first);
    sleep(3 * MINUTE).await;
    assert!(bench.subscribes(2).is_empty() && bench.holder(2).is_none(), "the child does not wait for both");
    for taken in held {
        second.ack(taken).await;
    }
    let other = Host::of(&second);
    bench.until_stored(2, 9).await;
    let mut both = [host.read(), other.read()].concat();
    both.sort_unstable();
    assert_eq!(both, [7, 8, 9]);
    assert!(bench.ended_at(of_second) <= Some(bench.subscribes(2)[0].at));
    // Each end was stored by the worker that had the parent.
    for (shard, by) in [(1 - of_second, "a"), (of_second, "b")] {
        let end = bench.written().into_iter().find(|written| written.shard == shard_id(shard) && written.is_end());
        assert_eq!(end.unwrap().by, by);
    }
    bench.close([first, second]).await;
}
