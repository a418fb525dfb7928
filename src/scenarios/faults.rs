//! What goes wrong with subscriptions?

use std::time::Duration;

use pipeline_plugin_api::{InputError, State};
use tokio::time::Instant;

use super::bench::{Bench, close, is_quiet, numbers};
use super::script::{Answer, Piece, Script, body, bytes, end, event, exception, fault, large, records};
use crate::model::{SequenceNumber, StartPosition};
use crate::retry::{Fault, NO_SUCH_HOST};

fn after(number: u64) -> StartPosition {
    StartPosition::After(SequenceNumber::new(&number.to_string()).unwrap())
}

fn secs(secs: u64) -> Duration {
    Duration::from_secs(secs)
}

/// Whatever breaks a subscription after records 1 to 3, reading continues behind them, without duplicates or losses.
async fn continues_after(broken: impl IntoIterator<Item = Piece>) -> Bench {
    let script = Script::new(["s"]);
    let first = std::iter::once(records(1..=3)).chain(broken);
    script.answer("s", [body(first), body([records(4..=6), Piece::Hang])]);
    let bench = Bench::new(script, "");
    let session = bench.open().await;
    assert_eq!(numbers(&session, 6).await, [1, 2, 3, 4, 5, 6]);
    let starts: Vec<_> = bench.script.calls().into_iter().map(|call| call.start).collect();
    assert_eq!(starts, [StartPosition::Oldest, after(3)]);
    close(&session).await;
    bench
}

#[tokio::test(start_paused = true)]
async fn truncated_frame() {
    let whole = bytes(records(4..=6));
    for cut in [1, 11, 12, 13, whole.len() - 1] {
        continues_after([Piece::Bytes(whole[..cut].to_vec())]).await;
    }
}

#[tokio::test(start_paused = true)]
async fn rst_no_error_mid_event() {
    let whole = bytes(records(4..=6));
    continues_after([Piece::Bytes(whole[..40].to_vec()), Piece::Broken]).await;
    continues_after([Piece::Broken]).await;
}

#[tokio::test(start_paused = true)]
async fn bad_crc() {
    let mut bent = bytes(records(4..=6));
    let last = bent.len() - 1;
    bent[last] ^= 1;
    continues_after([Piece::Bytes(bent)]).await;
}

#[tokio::test(start_paused = true)]
async fn error_frame() {
    use kinesis_testkit::frame::frame;
    let headers = [(":message-type", "error"), (":error-code", "InternalError"), (":error-message", "oops")];
    continues_after([Piece::Bytes(frame(&headers, b""))]).await;
    for code in ["InternalFailureException", "KMSThrottlingException", "SomethingNewException"] {
        continues_after([exception(code)]).await;
    }
}

#[tokio::test(start_paused = true)]
async fn unknown_event() {
    use kinesis_testkit::frame::frame;
    let headers = [(":message-type", "event"), (":event-type", "Tomorrow")];
    continues_after([Piece::Bytes(frame(&headers, b"{}"))]).await;
    // A payload that is not JSON, and JSON of another kind.
    continues_after([Piece::Bytes(kinesis_testkit::frame::event("{\"Records\":["))]).await;
    continues_after([Piece::Bytes(kinesis_testkit::frame::event("[]"))]).await;
}

#[tokio::test(start_paused = true)]
async fn subscription_expires_after_five_minutes() {
    let heartbeats = (0..59).flat_map(|heartbeat| [Piece::Wait(secs(5)), event([], Some(10 + heartbeat), &[])]);
    let script = Script::new(["s"]);
    script.answer(
        "s",
        [
            body(std::iter::once(records(1..=3)).chain(heartbeats).chain([Piece::Wait(secs(5))])),
            body([records(100..=101), Piece::Hang]),
        ],
    );
    let bench = Bench::new(script, "");
    let session = bench.open().await;
    assert_eq!(numbers(&session, 5).await, [1, 2, 3, 100, 101]);
    let calls = bench.script.calls();
    // The subscription begins behind the last empty event, not behind the last record, and as soon as the first step of
    // the backoff allows.
    assert_eq!(calls[1].start, after(68));
    assert!(calls[1].at - calls[0].at < secs(301), "{:?}", calls[1].at - calls[0].at);
    assert_eq!(session.status().state, State::Connected);
    close(&session).await;
}

#[tokio::test(start_paused = true)]
async fn half_open_connection() {
    let script = Script::new(["s"]);
    script.answer("s", [body([records(1..=3), Piece::Hang]), body([records(4..=6), Piece::Hang])]);
    let bench = Bench::new(script, "");
    let session = bench.open().await;
    let start = Instant::now();
    assert_eq!(numbers(&session, 6).await, [1, 2, 3, 4, 5, 6]);
    assert!(start.elapsed() >= secs(35) && start.elapsed() < secs(36), "{:?}", start.elapsed());
    close(&session).await;
}

#[tokio::test(start_paused = true)]
async fn initial_response_never_arrives() {
    let script = Script::new(["s"]);
    // The cases are no answer at all, an answer without a frame, and a frame.
    script.answer("s", [Answer::Silence, Answer::Body(vec![Piece::Hang]), body([records(1..=3), Piece::Hang])]);
    let bench = Bench::new(script, "");
    let session = bench.open().await;
    let start = Instant::now();
    assert_eq!(numbers(&session, 3).await, [1, 2, 3]);
    assert!(start.elapsed() < secs(42), "{:?}", start.elapsed());
    close(&session).await;
}

#[tokio::test(start_paused = true)]
async fn malformed_shard_end() {
    let shapes: [Piece; 3] = [
        event([], None, &[]),
        event([], Some(3), &[("child", &[])]),
        event([], None, &[("child", &["s"]), ("other", &[])]),
    ];
    for malformed in shapes {
        let script = Script::new(["s"]);
        script.answer("s", [body([records(1..=3), malformed, Piece::Hang]), body([records(4..=6), Piece::Hang])]);
        let bench = Bench::new(script, "");
        let session = bench.open().await;
        let start = Instant::now();
        assert_eq!(numbers(&session, 6).await, [1, 2, 3, 4, 5, 6]);
        assert!(start.elapsed() < secs(5), "it waited for the connection to fall silent");
        assert!(bench.script.calls().iter().all(|call| call.shard == "s".into()));
        close(&session).await;
    }
}

#[tokio::test(start_paused = true)]
async fn resource_in_use_inside_five_seconds() {
    let script = Script::new(["s"]);
    script.answer(
        "s",
        [body([records(1..=3)]), Answer::Refused(fault("ResourceInUseException")), body([records(4..=6), Piece::Hang])],
    );
    let bench = Bench::new(script, "");
    let session = bench.open().await;
    assert_eq!(numbers(&session, 6).await, [1, 2, 3, 4, 5, 6]);
    let calls = bench.script.calls();
    assert_eq!(calls.len(), 3, "one retry");
    let waited = calls[2].at - calls[0].at;
    assert!(waited >= secs(5) && waited < secs(6), "{waited:?}");
    close(&session).await;
}

#[tokio::test(start_paused = true)]
async fn taken_over_subscription_is_resumed_after_five_seconds() {
    let bench = continues_after([Piece::Wait(secs(1)), exception("ResourceInUseException")]).await;
    let calls = bench.script.calls();
    assert!(calls[1].at - calls[0].at >= secs(5));
}

#[tokio::test(start_paused = true)]
async fn resource_in_use_though_nothing_was_granted_to_us() {
    let script = Script::new(["s"]);
    // Either another worker just released the shard, or the subscription was granted to us without an answer.
    script.answer("s", [Answer::Refused(fault("ResourceInUseException")), body([records(1..=3), Piece::Hang])]);
    let bench = Bench::new(script, "");
    let session = bench.open().await;
    assert_eq!(numbers(&session, 3).await, [1, 2, 3]);
    let calls = bench.script.calls();
    assert_eq!(calls.len(), 2, "one retry");
    assert!(calls[1].at - calls[0].at >= secs(5));
    close(&session).await;
}

#[tokio::test(start_paused = true)]
async fn success_without_events() {
    let script = Script::new(["s"]);
    script.answer("s", (0..30).map(|_| body([])));
    let bench = Bench::new(script, "");
    let session = bench.open().await;
    bench.script.called(30).await;
    let calls = bench.script.calls();
    let gaps: Vec<_> = calls.windows(2).map(|pair| pair[1].at - pair[0].at).collect();
    assert!(gaps[0] >= Duration::from_millis(150) && gaps[0] <= Duration::from_millis(301), "{:?}", gaps[0]);
    assert!(gaps[5..].iter().all(|gap| *gap >= Duration::from_millis(2400)), "{gaps:?}");
    assert!(gaps.iter().all(|gap| *gap <= Duration::from_millis(5001)), "{gaps:?}");
    close(&session).await;
}

#[tokio::test(start_paused = true)]
async fn progress_resets_the_backoff() {
    let script = Script::new(["s"]);
    let failures = || (0..8).map(|_| Answer::Refused(fault("InternalFailureException")));
    script.answer("s", failures().chain([body([records(1..=3)]), body([records(4..=6), Piece::Hang])]));
    let bench = Bench::new(script, "");
    let session = bench.open().await;
    numbers(&session, 6).await;
    let calls = bench.script.calls();
    let gap = calls[9].at - calls[8].at;
    assert!(gap <= Duration::from_millis(301), "{gap:?}");
    close(&session).await;
}

async fn recovers_when_granted(code: &str) {
    let script = Script::new(["s"]);
    script.refuse_all(Some(fault(code)));
    let bench = Bench::new(script, "");
    let session = bench.open().await;
    assert!(is_quiet(&session, secs(600)).await);
    let tries = bench.script.calls().len();
    assert!((5..40).contains(&tries), "{tries} tries in ten minutes");
    let status = session.status();
    assert_eq!(status.state, State::Degraded);
    assert!(status.reason.is_some_and(|reason| reason.contains(code) && reason.contains('s')), "says why");
    bench.script.refuse_all(None);
    bench.script.answer("s", [body([records(1..=3), Piece::Hang])]);
    let start = Instant::now();
    assert_eq!(numbers(&session, 3).await, [1, 2, 3]);
    assert!(start.elapsed() <= secs(61));
    assert_eq!(session.status().state, State::Connected);
    close(&session).await;
}

#[tokio::test(start_paused = true)]
async fn access_denied() {
    recovers_when_granted("AccessDeniedException").await;
}

#[tokio::test(start_paused = true)]
async fn kms_denied() {
    recovers_when_granted("KMSAccessDeniedException").await;
}

#[tokio::test(start_paused = true)]
async fn credentials_rotate() {
    recovers_when_granted("ExpiredTokenException").await;
}

#[tokio::test(start_paused = true)]
async fn consumer_deleted_and_recreated() {
    let script = Script::new(["s"]);
    script.answer("s", [body([records(1..=3), Piece::Wait(secs(60)), exception("ResourceNotFoundException")])]);
    let bench = Bench::new(script, "");
    let session = bench.open().await;
    assert_eq!(numbers(&session, 3).await, [1, 2, 3]);
    bench.script.consumer("arn:orders/consumer/two");
    bench.script.answer("s", [body([records(4..=6), Piece::Hang])]);
    assert_eq!(numbers(&session, 3).await, [4, 5, 6]);
    let last = bench.script.calls().pop().unwrap();
    assert_eq!((last.arn.as_str(), last.start), ("arn:orders/consumer/two", after(3)));
    close(&session).await;
}

#[tokio::test(start_paused = true)]
async fn stored_sequence_expired() {
    let bench = Bench::new(Script::new(["s"]), "");
    bench.script.answer("s", [body([records(1..=3), Piece::Hang])]);
    let session = bench.open().await;
    numbers(&session, 3).await;
    close(&session).await;
    bench
        .script
        .answer("s", [Answer::Refused(fault("InvalidArgumentException")), body([records(50..=52), Piece::Hang])]);
    let session = bench.open().await;
    assert_eq!(numbers(&session, 3).await, [50, 51, 52]);
    let starts: Vec<_> = bench.script.calls().into_iter().map(|call| call.start).collect();
    assert_eq!(starts[1..], [after(3), StartPosition::Oldest]);
    close(&session).await;
}

#[tokio::test(start_paused = true)]
async fn limit_exceeded_on_mass_subscribe() {
    let shards: Vec<_> = (0..500).map(|shard| format!("shard-{shard:03}")).collect();
    let script = Script::new(&shards);
    script.limit_rate(50);
    for shard in &shards {
        script.answer(shard, [body([records([1]), Piece::Hang])]);
    }
    let bench = Bench::new(script, "");
    let start = Instant::now();
    let session = bench.open().await;
    assert_eq!(numbers(&session, 500).await.len(), 500);
    // Ten seconds at least; the backoff may cost three times that, and no more.
    assert!(start.elapsed() < secs(40), "{:?}", start.elapsed());
    let calls = bench.script.calls();
    assert!(calls.len() < 2500, "{} calls for 500 shards", calls.len());
    close(&session).await;
}

#[tokio::test(start_paused = true)]
async fn large_event_does_not_hide_a_small_one_behind_it() {
    let script = Script::new(["s"]);
    script.answer("s", [body([large(1, 300_000), records(2..=3), end([4], &[("child", &["s"])])])]);
    let bench = Bench::new(script, "");
    let session = bench.open().await;
    assert_eq!(numbers(&session, 4).await, [1, 2, 3, 4]);
    close(&session).await;
}

#[tokio::test(start_paused = true)]
async fn unknown_host_is_retried_with_a_hint_about_the_region() {
    let script = Script::new(["s"]);
    script.lose_stream(Fault::wire(NO_SUCH_HOST, "kinesis.eu-wst-1.amazonaws.com: Name or service not known"));
    let bench = Bench::new(script, "");
    let error = bench.open_in("eu-wst-1").await.unwrap_err();
    let shown = error.to_string();
    assert!(shown.contains("if eu-wst-1 is not the name of an AWS region, correct `region`"), "{shown}");
    assert!(matches!(InputError::from(error), InputError::BackOff { .. }));
}
