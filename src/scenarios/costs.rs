//! What does it cost to share shards through a table?

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use pipeline_plugin_api::{Demand, Verdicts};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep};

use super::bench::{Bench, close};
use super::script::{Answer, Piece, Script, body, event, records};
use crate::lease::memory::{MemoryStore, MemoryTable};
use crate::session::Session;
use crate::sync::lock;

const HOUR: Duration = Duration::from_hours(1);
const WORKERS: u64 = 2;
const SHARDS: u64 = 4;

/// A record a second, or one and then nothing, for three hours.
fn shard(busy: bool) -> Answer {
    let busy_part =
        (2..if busy { 10_800 } else { 2 }).flat_map(|n| [Piece::Wait(Duration::from_secs(1)), records([n])]);
    let idle_part =
        (0..2200).flat_map(|n: u64| [Piece::Wait(Duration::from_secs(5)), event([], Some(20_000 + n), &[])]);
    body(std::iter::once(records([1])).chain(busy_part).chain(idle_part))
}

async fn ack_all(session: Arc<Session>) {
    loop {
        if let Ok(batch) = session.read(Demand::new(1000, HOUR)).await {
            let (_, receipt) = batch.into_parts();
            receipt.settle_in_test(Verdicts::ACK).unwrap();
        }
    }
}

/// The calls of an hour, by kind, of two workers that share four shards.
async fn an_hour(busy: bool, settings: &str) -> BTreeMap<&'static str, u64> {
    let names: Vec<String> = (0..SHARDS).map(|number| format!("s{number}")).collect();
    let script = Script::new(&names);
    for name in &names {
        script.answer(name, [shard(busy), shard(busy), shard(busy)]);
    }
    let (bench, table) = (Bench::new(script, settings), Arc::<MemoryTable>::default());
    let mut sessions = Vec::new();
    let mut acking = JoinSet::new();
    for name in ["a", "b"] {
        let session = Arc::new(bench.join(&Arc::new(MemoryStore::new(&table, name))).await);
        acking.spawn(ack_all(Arc::clone(&session)));
        sessions.push(session);
    }
    // The shards are balanced and quiet.
    sleep(Duration::from_mins(5)).await;
    let start = Instant::now();
    lock(&table.core).by_call.clear();
    sleep(HOUR).await;
    let calls = lock(&table.core).by_call.clone();
    assert_eq!(start.elapsed(), HOUR);
    acking.shutdown().await;
    for session in &sessions {
        close(session).await;
    }
    calls
}

/// The figures of docs/scaling.md: `cargo test -p kinesis-input --lib calls_to_the_table -- --nocapture`.
#[tokio::test(start_paused = true)]
async fn calls_to_the_table_in_an_hour() {
    println!("| commit_period | lease_period | shards | writes a shard | beats a worker | reads a worker | others |");
    for (commit, lease, busy, most) in
        [("5s", "30s", true, 720), ("5s", "30s", false, 81), ("30s", "2m", true, 120), ("30s", "2m", false, 21)]
    {
        let settings = format!("commit_period: {commit}\nlease_period: {lease}");
        let mut calls = an_hour(busy, &settings).await;
        let mut take = |kind| calls.remove(kind).unwrap_or_default();
        let (writes, heartbeats) = (take("update"), take("heartbeat"));
        let reads = take("rows") + take("workers");
        let others: u64 = calls.values().sum();
        let kind = if busy { "busy" } else { "idle" };
        println!(
            "| {commit} | {lease} | {kind} | {:.0} | {:.0} | {:.0} | {others} |",
            writes as f64 / SHARDS as f64,
            heartbeats as f64 / WORKERS as f64,
            reads as f64 / WORKERS as f64,
        );
        assert!(writes <= most * SHARDS, "{writes} writes");
        // There is one stream: its rows and the heartbeats are read at each rebalance, every 27 to 30 s.
        assert!(reads <= 2 * 134 * WORKERS, "{reads} reads");
        assert_eq!(others, 0, "{calls:?}");
    }
}
