//! What becomes of a worker whose credentials fail and recover?
//!
//! The credentials of its role are valid for a quarter of an hour, and then the simulator issues those that a test
//! chooses.

use std::time::Duration;

use kinesis_simulator::Settings;
use kinesis_simulator::faults::RoleCredentials;
use pipeline_plugin_api::State;
use tokio::time::sleep;

use crate::bench::{Bench, MINUTE, TABLE, secs};

/// The worker uses a store of its own, so that the reported reason concerns the shard.
async fn fails_and_recovers(bad: RoleCredentials, expected_reason: &str) {
    let folder = tempfile::tempdir().unwrap();
    let store = format!("checkpoint_file: \"{}\"", folder.path().join("checkpoints").display());
    with_store(&store, bad, expected_reason).await;
}

async fn with_store(store: &str, bad: RoleCredentials, expected_reason: &str) {
    let mut settings = Settings::default();
    settings.role_lifetime = Duration::from_mins(15);
    let bench = Bench::with(1, settings).await;
    let worker = bench.worker_with_role("a", store);
    worker.input.connect().await.unwrap();
    bench.put(0, 1..=3);
    assert_eq!(worker.numbers(3).await, [1, 2, 3]);
    worker.link.set_credentials(bad);
    // The credentials that it has are valid for a while.
    assert!(worker.is_quiet(10 * MINUTE).await);
    assert_eq!(worker.status().state, State::Connected, "{bad:?}");
    bench.put(0, 4..=6);
    assert_eq!(worker.numbers(3).await, [4, 5, 6]);
    // When they have expired, the worker neither ends nor panics, and reports why nothing is read.
    assert!(worker.is_quiet(10 * MINUTE).await);
    let status = worker.status();
    assert_eq!(status.state, State::Degraded, "{bad:?}");
    let reason = status.reason.unwrap_or_default();
    assert!(reason.contains(expected_reason), "{bad:?}: {reason}");
    bench.put(0, 7..=9);
    let asked = || bench.calls_of("AssumeRole").len();
    let before = asked();
    assert!(worker.is_quiet(10 * MINUTE).await);
    let asked = asked() - before;
    worker.link.set_credentials(RoleCredentials::Usable);
    assert!((10..150).contains(&asked), "{bad:?}: STS was asked {asked} times in ten minutes");
    let healed = bench.now();
    assert_eq!(worker.numbers(3).await, [7, 8, 9]);
    let waited = bench.now().since(healed);
    assert!(waited <= 2 * MINUTE, "{bad:?}: {waited:?}");
    // The shards are listed again at the next rebalance.
    while worker.status().state != State::Connected && bench.now().since(healed) < 3 * MINUTE {
        sleep(secs(1)).await;
    }
    assert_eq!(worker.status().state, State::Connected, "{bad:?}: {:?}", worker.status().reason);
    bench.close([worker]).await;
}

#[tokio::test(start_paused = true)]
async fn renewed_token_with_a_line_break_is_reported_and_recovers() {
    fails_and_recovers(RoleCredentials::Garbled, "the session token has a line break in it").await;
}

#[tokio::test(start_paused = true)]
async fn throttled_role_is_reported_and_recovers() {
    fails_and_recovers(RoleCredentials::Throttled, "Throttling").await;
}

#[tokio::test(start_paused = true)]
async fn denied_role_is_reported_and_recovers() {
    fails_and_recovers(RoleCredentials::Denied, "AccessDenied").await;
}

#[tokio::test(start_paused = true)]
async fn unreadable_role_answer_is_reported_and_recovers() {
    fails_and_recovers(RoleCredentials::Odd, "Credentials: ").await;
}

#[tokio::test(start_paused = true)]
async fn unreachable_role_is_reported_and_recovers() {
    fails_and_recovers(RoleCredentials::OutOfReach, "connection refused").await;
}

#[tokio::test(start_paused = true)]
async fn leases_without_credentials_are_reported_and_recover() {
    with_store(
        &format!("dynamodb: {{table: {TABLE}, create: true}}"),
        RoleCredentials::Throttled,
        "the leases have expired",
    )
    .await;
}
