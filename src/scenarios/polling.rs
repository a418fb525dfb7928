//! Shards that are polled.

use std::time::Duration;

use ciborium::Value;
use pipeline_plugin_api::{Demand, State, Verdicts};
use tokio::time::{Instant, sleep, timeout};

use super::bench::{Bench, close, is_quiet, numbers, take, take_and_ack};
use super::script::{Piece, PollCall, Polled, Script, answer, fault, got, got_end, got_large, listed};
use crate::aws::Encoding;
use crate::lease::Checkpoint;
use crate::model::{ListedShard, SequenceNumber, StartPosition};

/// A bench that polls, with `more` lines of configuration.
fn polling(script: Script, more: &str) -> Bench {
    let fan_out = if more.contains("enhanced_fan_out") { "" } else { "enhanced_fan_out: {enabled: false}\n" };
    Bench::new(script, &format!("{fan_out}{more}"))
}

/// The answers to the calls for a large record in a small pool: 100 records do not fit, nor do 12, nor one, before
/// space for it is reserved.
fn until_it_fits(number: u64, bytes: usize) -> impl Iterator<Item = Polled> {
    (0..4).map(move |_| got_large(number, bytes))
}

fn secs(secs: u64) -> Duration {
    Duration::from_secs(secs)
}

fn after(number: u64) -> StartPosition {
    StartPosition::After(SequenceNumber::new(&number.to_string()).unwrap())
}

/// The times between calls, in milliseconds.
fn gaps(calls: &[PollCall]) -> Vec<u128> {
    calls.windows(2).map(|pair| (pair[1].at - pair[0].at).as_millis()).collect()
}

/// The positions at which iterators were asked for.
fn starts(bench: &Bench) -> Vec<StartPosition> {
    bench.script.calls().into_iter().map(|call| call.start).collect()
}

/// The process stands still between a claim and the first call, and meanwhile the stream is recreated.
#[tokio::test(start_paused = true)]
async fn shard_without_a_position_is_not_read_from_another_stream() {
    let script = Script::new(["s"]);
    script.create_stream(1);
    script.list(vec![listed("s", &[], true), listed("child", &["s"], false)]);
    script.poll("s", [got([1], 500), got_end([2], &[("child", &["s"])])]);
    let bench = polling(script, "");
    let session = bench.open().await;
    assert_eq!(take_and_ack(&session, 1).await[0].1, 1);
    // In the other stream "child" has parents that are not read yet.
    bench.script.create_stream(2);
    let begin = Some(SequenceNumber::new("100").unwrap());
    let listed = |id, parents: &[&str]| ListedShard { begin: begin.clone(), ..listed(id, parents, false) };
    bench.script.list(vec![listed("new", &[]), listed("child", &["new"])]);
    bench.script.poll("new", [got([101], 0)]);
    bench.script.poll("child", [got([102], 0)]);
    let came = take_and_ack(&session, 2).await;
    assert_eq!(came.iter().map(|(_, number)| *number).collect::<Vec<_>>(), [2, 101]);
    assert!(bench.script.polls_of("child").is_empty());
    close(&session).await;
}

#[tokio::test(start_paused = true)]
async fn polled_shard_is_read_to_its_end_and_its_child_after_it() {
    let script = Script::new(["s"]);
    script.list(vec![listed("s", &[], true), listed("child", &["s"], false)]);
    script.poll("s", [got(1..=3, 500), got([], 400), got(4..=5, 0), got_end([6], &[("child", &["s"])])]);
    script.poll("child", [got([7], 0)]);
    let bench = polling(script, "");
    let session = bench.open().await;
    let came = take_and_ack(&session, 7).await;
    assert_eq!(came.iter().map(|(_, number)| *number).collect::<Vec<_>>(), [1, 2, 3, 4, 5, 6, 7]);
    assert_eq!(came[6].0, "child");
    sleep(secs(2)).await;
    assert!(matches!(bench.stored("s").await, Some(Checkpoint::ShardEnd(_))));
    assert_eq!(gaps(&bench.script.polls_of("s")), [200, 200, 200]);
    assert_eq!(starts(&bench), [StartPosition::Oldest, StartPosition::Oldest], "one iterator for each shard");
    close(&session).await;
}

#[tokio::test(start_paused = true)]
async fn idle_shard_is_polled_once_a_second_and_a_gap_at_the_ordinary_pace() {
    let script = Script::new(["s"]);
    script.poll("s", (0..5).map(|_| got([], 1000)));
    let bench = polling(script, "");
    let session = bench.open().await;
    bench.script.polled(8).await;
    let gaps_between = gaps(&bench.script.polls());
    assert_eq!(gaps_between[..5], [200; 5]);
    // Idle shards are asked in rounds of 50 ms.
    assert!(gaps_between[5..].iter().all(|gap| (1000..=1050).contains(gap)), "{gaps_between:?}");
    close(&session).await;
    let bench = polling(Script::new(["s"]), "poll_period: 3s");
    let session = bench.open().await;
    bench.script.polled(3).await;
    let gaps_between = gaps(&bench.script.polls());
    assert!(gaps_between.iter().all(|gap| (3000..=3050).contains(gap)), "{gaps_between:?}");
    close(&session).await;
}

#[tokio::test(start_paused = true)]
async fn throttled_by_others() {
    let script = Script::new(["s"]);
    let throttled = || Polled::Refused(fault("ProvisionedThroughputExceededException"));
    script.poll("s", [got([1], 500), throttled(), throttled(), throttled(), throttled(), got([2], 0)]);
    let bench = polling(script, "");
    let session = bench.open().await;
    assert_eq!(numbers(&session, 2).await, [1, 2]);
    let gaps = gaps(&bench.script.polls()[1..]);
    for (gap, (least, most)) in gaps.iter().zip([(500, 1000), (1000, 2000), (2000, 4000), (4000, 8000)]) {
        assert!((least..=most).contains(gap), "{gaps:?}");
    }
    assert_eq!(starts(&bench), [StartPosition::Oldest], "the iterator is still good");
    assert_eq!(session.status().state, State::Connected);
    close(&session).await;
}

/// Records that were read and not acknowledged would come twice if the last acknowledged one counted, and with a start
/// at the latest record those in between would be lost.
#[tokio::test(start_paused = true)]
async fn expired_iterator_continues_behind_the_last_record_that_was_read() {
    let script = Script::new(["s"]);
    script.poll("s", [got(1..=3, 500), Polled::Refused(fault("ExpiredIteratorException")), got([4], 0)]);
    let bench = polling(script, "start_from_oldest: false");
    let session = bench.open().await;
    let (_, first, unacked) = take(&session).await;
    assert_eq!((first, numbers(&session, 1).await), (vec![1, 2, 3], vec![4]));
    assert!(matches!(starts(&bench)[..], [StartPosition::At(_), ref renewed] if *renewed == after(3)));
    unacked.settle_in_test(Verdicts::ACK).unwrap();
    close(&session).await;
}

#[tokio::test(start_paused = true)]
async fn iterator_that_grew_old_during_a_wait_is_renewed_before_it_is_used() {
    let script = Script::new(["s"]);
    script.poll("s", until_it_fits(1, 8000));
    script.poll("s", [got([2], 0)]);
    let bench = polling(script, "enhanced_fan_out: {enabled: false, max_pending_bytes: 12KiB}");
    let session = bench.open().await;
    let (_, first, receipt) = take(&session).await;
    assert_eq!(first, [1]);
    sleep(secs(360)).await;
    let calls = bench.script.polls().len();
    receipt.settle_in_test(Verdicts::ACK).unwrap();
    assert_eq!(numbers(&session, 1).await, [2]);
    assert_eq!(starts(&bench), [StartPosition::Oldest, after(1)]);
    assert_eq!(bench.script.polls()[calls].iterator, "s/first", "the old one would be refused");
    close(&session).await;
}

/// Otherwise every shard could bring 10 MiB that nothing has counted.
#[tokio::test(start_paused = true)]
async fn nothing_is_asked_for_before_there_is_space_for_it() {
    let script = Script::new(["a", "b"]);
    script.poll("a", until_it_fits(1, 8000));
    script.poll("b", [Polled::Silence]);
    let bench = polling(script, "enhanced_fan_out: {enabled: false, max_pending_bytes: 12KiB}");
    let session = bench.open().await;
    let (_, _, receipt) = take(&session).await;
    let calls = bench.script.polls().len();
    assert!(is_quiet(&session, secs(100)).await);
    assert!(bench.script.polls().len() <= calls + 1, "it was asked for without space");
    assert!(session.pool.bytes().peak <= 48 << 10, "{:?}", session.pool.bytes());
    receipt.settle_in_test(Verdicts::ACK).unwrap();
    sleep(secs(40)).await;
    assert!(bench.script.polls().len() > calls + 1);
    close(&session).await;
}

#[tokio::test(start_paused = true)]
async fn answer_larger_than_its_space_is_asked_for_again() {
    for announces_len in [true, false] {
        let script = Script::new(["s"]);
        let large = |number| match got_large(number, 900_000) {
            Polled::Body { encoding, pieces, .. } => Polled::Body { encoding, pieces, announces_len },
            other => other,
        };
        script.poll("s", (0..4).map(|_| large(1)));
        script.poll("s", [large(2), got([3], 0)]);
        let bench = polling(script, "");
        let session = bench.open().await;
        let (_, first, receipt) = take(&session).await;
        assert_eq!(first, [1]);
        receipt.settle_in_test(Verdicts::ACK).unwrap();
        let calls = bench.script.polls();
        assert!(calls.len() > 1 && calls[0].limit == 100, "the first answer fitted");
        assert_eq!(starts(&bench), [StartPosition::Oldest], "the same iterator serves again");
        assert!(session.pool.bytes().peak < 40 << 20, "{:?}", session.pool.bytes());
        // What fitted is not asked for twice.
        let mut rest = numbers(&session, 1).await;
        while rest.last() != Some(&3) {
            rest.extend(numbers(&session, 1).await);
        }
        assert!(rest.ends_with(&[2, 3]), "{rest:?}");
        close(&session).await;
    }
}

#[tokio::test(start_paused = true)]
async fn answer_larger_than_the_pool() {
    let script = Script::new(["s"]);
    script.poll("s", (0..10).map(|_| got_large(1, 300_000)));
    let bench = polling(script, "enhanced_fan_out: {enabled: false, max_pending_bytes: 64KiB}");
    let session = bench.open().await;
    let (_, first, receipt) = timeout(secs(60), take(&session)).await.expect("it never fits");
    assert_eq!(first, [1]);
    receipt.settle_in_test(Verdicts::ACK).unwrap();
    close(&session).await;
}

#[tokio::test(start_paused = true)]
async fn contradictory_answer_is_no_end_of_the_shard() {
    for contradiction in [
        answer([1], 0, false, &[], 8),
        answer([1], 0, true, &[("child", &["s"])], 8),
        answer([1], 0, false, &[("child", &[])], 8),
    ] {
        let script = Script::new(["s"]);
        script.poll("s", [contradiction, got([2], 0)]);
        let bench = polling(script, "");
        let session = bench.open().await;
        assert_eq!(numbers(&session, 2).await, [1, 2]);
        assert_eq!(starts(&bench), [StartPosition::Oldest, after(1)]);
        close(&session).await;
    }
}

/// Some local servers say that there is no next iterator, name no children, and count how long ago the end was.
#[tokio::test(start_paused = true)]
async fn closed_shard_without_a_next_iterator_has_ended() {
    let script = Script::new(["s"]);
    script.list(vec![listed("s", &[], true), listed("child", &["s"], false)]);
    script.poll("s", [got([1], 0), answer([], 5, false, &[], 8), answer([2], 0, false, &[], 8)]);
    script.poll("s", (0..90).map(|_| answer([], 5, false, &[], 8)));
    script.poll("child", [got([3], 0)]);
    let bench = polling(script, "");
    let session = bench.open().await;
    assert_eq!(numbers(&session, 3).await, [1, 2, 3]);
    close(&session).await;
}

/// Others go on with iterators indefinitely.
#[tokio::test(start_paused = true)]
async fn closed_shard_that_brings_nothing_for_minutes_has_ended() {
    let script = Script::new(["s"]);
    script.poll("s", [got([1], 0)]);
    script.poll("child", [got([2], 0)]);
    let bench = polling(script, "");
    let session = bench.open().await;
    assert_eq!(numbers(&session, 1).await, [1]);
    assert!(is_quiet(&session, secs(1000)).await, "an open shard may be idle indefinitely");
    bench.script.list(vec![listed("s", &[], true), listed("child", &["s"], false)]);
    assert_eq!(timeout(secs(600), numbers(&session, 1)).await.expect("the child is never read"), [2]);
    close(&session).await;
}

/// An answer in CBOR with one record.
fn in_cbor(number: &str) -> Polled {
    let map = |fields: Vec<(&str, Value)>| {
        Value::Map(fields.into_iter().map(|(name, value)| (Value::from(name), value)).collect())
    };
    let record = map(vec![("SequenceNumber", number.into()), ("Data", Value::Bytes(vec![1, 2, 3]))]);
    let answer = map(vec![("Records", Value::Array(vec![record])), ("NextShardIterator", "s/cbor".into())]);
    let mut bytes = Vec::new();
    ciborium::into_writer(&answer, &mut bytes).unwrap();
    Polled::Body { encoding: Encoding::Cbor, pieces: vec![Piece::Bytes(bytes)], announces_len: true }
}

fn encodings(bench: &Bench) -> Vec<Encoding> {
    bench.script.polls().into_iter().map(|call| call.encoding).collect()
}

#[tokio::test(start_paused = true)]
async fn cbor_is_asked_for_and_json_where_it_is_not_known() {
    use Encoding::{Cbor, Json};
    let script = Script::new(["s"]);
    script.poll("s", [in_cbor("1"), in_cbor("2")]);
    let bench = polling(script, "");
    let session = bench.open().await;
    assert_eq!(numbers(&session, 2).await, [1, 2]);
    assert_eq!(encodings(&bench)[..2], [Cbor, Cbor]);
    close(&session).await;
    for code in ["SerializationException", "UnknownOperationException", "Status415"] {
        let script = Script::new(["s"]);
        script.poll("s", [Polled::Refused(fault(code)), got([1], 0), got([2], 0)]);
        let bench = polling(script, "");
        let session = bench.open().await;
        assert_eq!(numbers(&session, 2).await, [1, 2]);
        assert_eq!(encodings(&bench)[..3], [Cbor, Json, Json], "for good");
        assert_eq!(session.status().state, State::Connected);
        close(&session).await;
    }
    // An answer in JSON is read as such.
    let script = Script::new(["s"]);
    script.poll("s", [got([1], 0), got([2], 0)]);
    let bench = polling(script, "");
    let session = bench.open().await;
    assert_eq!(numbers(&session, 2).await, [1, 2]);
    assert_eq!(encodings(&bench)[..2], [Cbor, Json]);
    close(&session).await;
    for (encoding, expected) in [("json", Json), ("cbor", Cbor)] {
        let bench = polling(Script::new(["s"]), &format!("polling: {{encoding: {encoding}}}"));
        let session = bench.open().await;
        bench.script.polled(3).await;
        assert_eq!(encodings(&bench)[..3], [expected; 3]);
        close(&session).await;
    }
}

/// Their first calls are under way when the first of them is refused.
#[tokio::test(start_paused = true)]
async fn shards_find_out_together_that_there_is_no_cbor() {
    let script = Script::new(["a", "b"]);
    script.poll("a", [Polled::RefusesCbor(fault("UnknownOperationException")), got([1], 0)]);
    script.poll("b", [Polled::RefusesCbor(fault("UnknownOperationException")), got([2], 0)]);
    let bench = polling(script, "");
    let session = bench.open().await;
    let mut came = numbers(&session, 2).await;
    came.sort_unstable();
    assert_eq!(came, [1, 2]);
    assert_eq!(encodings(&bench)[0], Encoding::Cbor);
    assert_eq!(session.status().state, State::Connected);
    close(&session).await;
}

#[tokio::test(start_paused = true)]
async fn poll_without_an_answer_is_repeated() {
    let hang = || {
        let Polled::Body { encoding, mut pieces, .. } = got([1], 0) else { unreachable!() };
        let Piece::Bytes(bytes) = &mut pieces[0] else { unreachable!() };
        bytes.truncate(20);
        pieces.push(Piece::Hang);
        Polled::Body { encoding, pieces, announces_len: false }
    };
    let broken = || {
        let Polled::Body { encoding, mut pieces, .. } = got([1], 0) else { unreachable!() };
        pieces.insert(0, Piece::Broken);
        Polled::Body { encoding, pieces, announces_len: false }
    };
    let cut = || {
        let Polled::Body { encoding, mut pieces, .. } = got([1], 0) else { unreachable!() };
        let Piece::Bytes(bytes) = &mut pieces[0] else { unreachable!() };
        bytes.pop();
        Polled::Body { encoding, pieces, announces_len: false }
    };
    let script = Script::new(["s"]);
    script.poll("s", [Polled::Silence, hang(), broken(), cut(), got([1], 0)]);
    let bench = polling(script, "");
    let session = bench.open().await;
    let start = Instant::now();
    assert_eq!(numbers(&session, 1).await, [1]);
    assert!(start.elapsed() < secs(60), "after {:?}", start.elapsed());
    close(&session).await;
}

#[tokio::test(start_paused = true)]
async fn polling_begins_where_the_configuration_or_the_checkpoint_says() {
    for (more, expected) in [
        ("", StartPosition::Oldest),
        ("start_at_timestamp: 2026-11-01T00:00:00Z", StartPosition::At(1_793_491_200_000)),
    ] {
        let bench = polling(Script::new(["s"]), more);
        let session = bench.open().await;
        bench.script.polled(1).await;
        assert_eq!(starts(&bench), [expected]);
        close(&session).await;
    }
    // Records before the time are skipped, and an iterator that is renewed before it came starts by time again.
    let script = Script::new(["s"]);
    let expired = || Polled::Refused(fault("ExpiredIteratorException"));
    script.poll("s", [got(1..=2, 5), expired(), got([3], 5), got([4_000_000_000], 0), expired()]);
    // These records arrive in 2096, according to the script.
    let bench = polling(script, "start_at_timestamp: 2300-01-01T00:00:00Z");
    let session = bench.open().await;
    let time = StartPosition::At(10_413_792_000_000);
    bench.script.polled(7).await;
    assert_eq!(starts(&bench)[..2], [time.clone(), time]);
    session.close(secs(10)).await.unwrap();
    // A restart continues behind what was stored.
    let script = Script::new(["s"]);
    script.poll("s", [got(1..=3, 0)]);
    let bench = polling(script, "");
    let session = bench.open().await;
    assert_eq!(numbers(&session, 3).await, [1, 2, 3]);
    close(&session).await;
    let session = bench.open().await;
    bench.script.polled(bench.script.polls().len() + 1).await;
    assert_eq!(*starts(&bench).last().unwrap(), after(3));
    close(&session).await;
}

#[tokio::test(start_paused = true)]
async fn faults_of_iterators_and_keys_are_retried() {
    let script = Script::new(["s"]);
    script.refuse_iterators(["InternalFailure", "LimitExceededException"].map(fault));
    script.poll(
        "s",
        ["KMSThrottlingException", "KMSDisabledException", "InternalFailure"].map(|code| Polled::Refused(fault(code))),
    );
    script.poll("s", [got([1], 0)]);
    let bench = polling(script, "");
    let session = bench.open().await;
    assert_eq!(timeout(secs(120), numbers(&session, 1)).await.expect("it gave up"), [1]);
    close(&session).await;
}

#[tokio::test(start_paused = true)]
async fn expired_checkpoint_is_reported_and_reading_continues_at_the_oldest_record() {
    let script = Script::new(["s"]);
    script.poll("s", [got([7], 0)]);
    let bench = polling(script, "");
    let session = bench.open().await;
    assert_eq!(numbers(&session, 1).await, [7]);
    close(&session).await;
    bench.script.refuse_iterators([fault("InvalidArgumentException")]);
    bench.script.poll("s", [got([9], 0)]);
    let session = bench.open().await;
    assert_eq!(numbers(&session, 1).await, [9]);
    assert_eq!(starts(&bench)[1..], [after(7), StartPosition::Oldest]);
    close(&session).await;
}

/// The service might take a position in the former stream for one in the new stream.
#[tokio::test(start_paused = true)]
async fn position_in_a_former_stream_is_not_used_in_the_new_one() {
    let script = Script::new(["s"]);
    script.create_stream(1);
    script.poll("s", [got(1..=3, 500), Polled::Refused(fault("InvalidArgumentException"))]);
    let bench = polling(script, "");
    let session = bench.open().await;
    assert_eq!(numbers(&session, 3).await, [1, 2, 3]);
    bench.script.create_stream(2);
    bench.script.poll("s", [got(4..=5, 0)]);
    assert_eq!(numbers(&session, 2).await, [4, 5]);
    assert_eq!(starts(&bench), [StartPosition::Oldest, StartPosition::Oldest], "the new stream is read from its start");
    session.close(secs(10)).await.unwrap();
}

/// The stop may come while a call is under way.
#[tokio::test(start_paused = true)]
async fn stop_during_a_poll_gives_its_space_back() {
    let script = Script::new(["a", "b"]);
    script.poll("a", [Polled::Silence]);
    let bench = polling(script, "");
    let session = bench.open().await;
    bench.script.polled(2).await;
    assert!(session.pool.bytes().used > 0, "nothing is reserved");
    let _ = session.read(Demand::new(1, Duration::from_millis(1))).await.unwrap();
    close(&session).await;
}
