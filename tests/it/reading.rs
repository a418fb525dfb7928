//! The main path: records of every shard come out once, in order, across restarts and reshards.

use pipeline_plugin_api::{Demand, State, Verdict, Verdicts};
use std::time::Duration;

use crate::support::{Bench, Out, SOON, close, number, read, read_to_end, read_until};

/// What the blocks of Redpanda Connect and Bento may say about how shards are read.
#[tokio::test]
async fn records_are_read_however_the_block_says() {
    let bench = Bench::start().await;
    bench.create("orders", 2).await;
    bench.put("orders", 0, 20).await;
    for more in [
        "enhanced_fan_out: {enabled: false}",
        "enhanced_fan_out: {enabled: false}\npoll_period: 300ms",
        "enhanced_fan_out: {enabled: false}\npolling: {encoding: json}",
        "enhanced_fan_out: {enabled: false}\nbatching: {count: 5, period: 100ms}",
        "batching: {count: 5, period: 100ms}",
        "batching: {byte_size: 100, period: 100ms, jitter: 0.5}",
        "tcp: {connect_timeout: 1s, keep_alive: {idle: 30s, interval: 5s, count: 3}, tcp_user_timeout: 20s}",
    ] {
        let input = bench.input("orders", more);
        input.connect().await.unwrap_or_else(|error| panic!("{more}: {error}"));
        let mut out = Out::default();
        read_until(&*input, &mut out, 20).await;
        close(&*input).await;
        std::fs::remove_file(bench.checkpoints()).unwrap();
    }
}

#[tokio::test]
async fn every_record_comes_once_and_in_order() {
    let bench = Bench::start().await;
    bench.create("orders", 4).await;
    bench.put("orders", 0, 3000).await;
    let input = bench.input("orders", "");
    input.connect().await.unwrap();
    let mut out = Out::default();
    read_until(&*input, &mut out, 3000).await;
    bench.put("orders", 3000, 4000).await;
    read_until(&*input, &mut out, 4000).await;
    out.assert_exactly(0, 4000);
    assert_eq!(out.by_shard.len(), 4);
    assert_eq!(input.status().state, State::Connected);
    close(&*input).await;
}

#[tokio::test]
async fn restart_continues_where_it_stopped() {
    let bench = Bench::start().await;
    bench.create("orders", 2).await;
    bench.put("orders", 0, 1000).await;
    let mut out = Out::default();
    let first = bench.input("orders", "");
    first.connect().await.unwrap();
    read_until(&*first, &mut out, 1000).await;
    close(&*first).await;
    bench.put("orders", 1000, 1500).await;
    let second = bench.input("orders", "");
    second.connect().await.unwrap();
    read_until(&*second, &mut out, 1500).await;
    close(&*second).await;
    out.assert_exactly(0, 1500);
}

#[tokio::test]
async fn unacked_records_come_again_after_a_stop() {
    let bench = Bench::start().await;
    bench.create("orders", 1).await;
    bench.put("orders", 0, 10).await;
    let first = bench.input("orders", "");
    first.connect().await.unwrap();
    let (messages, receipt) = read(&*first).await.into_parts();
    assert_eq!(messages.len(), 10);
    // The first five and the eighth are acked: only the five may be stored.
    let verdicts = (0..10).map(|at| if at < 5 || at == 7 { Verdict::Ack } else { Verdict::NACK }).collect();
    first.ack(receipt, Verdicts::Each(verdicts)).await.unwrap();
    close(&*first).await;
    let second = bench.input("orders", "");
    second.connect().await.unwrap();
    let (messages, receipt) = read(&*second).await.into_parts();
    assert_eq!(messages.iter().map(number).collect::<Vec<_>>(), [5, 6, 7, 8, 9]);
    second.ack(receipt, Verdicts::ACK).await.unwrap();
    close(&*second).await;
}

#[tokio::test]
async fn splits_and_merges_are_followed_parents_first() {
    let bench = Bench::start().await;
    bench.create("orders", 2).await;
    bench.put("orders", 0, 1000).await;
    bench.split("orders", "shardId-000000000000").await;
    bench.put("orders", 1000, 2000).await;
    bench.merge("orders", "shardId-000000000003", "shardId-000000000001").await;
    bench.put("orders", 2000, 3000).await;
    let input = bench.input("orders", "");
    input.connect().await.unwrap();
    let mut out = Out::default();
    read_until(&*input, &mut out, 3000).await;
    // A reshard during the reading.
    bench.split("orders", "shardId-000000000004").await;
    bench.put("orders", 3000, 4000).await;
    read_until(&*input, &mut out, 4000).await;
    close(&*input).await;
    out.assert_exactly(0, 4000);
    assert_eq!(out.by_shard.len(), 7);
}

#[tokio::test]
async fn all_explicit_shards_ended() {
    let bench = Bench::start().await;
    bench.create("orders", 2).await;
    bench.put("orders", 0, 1000).await;
    bench.split("orders", "shardId-000000000000").await;
    bench.put("orders", 1000, 1100).await;
    let input = bench.input("orders:0", "");
    input.connect().await.unwrap();
    let mut out = Out::default();
    read_to_end(&*input, &mut out).await;
    assert_eq!(out.by_shard.keys().collect::<Vec<_>>(), ["shardId-000000000000"]);
    assert_eq!(input.status().state, State::Ended);
    close(&*input).await;
    // After a restart there is still nothing to read, and the input ends at once.
    let again = bench.input("orders:shardId-000000000000", "");
    again.connect().await.unwrap();
    read_to_end(&*again, &mut out).await;
    close(&*again).await;
}

#[tokio::test]
async fn several_streams_are_read_at_once_by_name_and_by_arn() {
    let bench = Bench::start().await;
    bench.create("orders", 2).await;
    bench.create("returns", 1).await;
    bench.put("orders", 0, 500).await;
    bench.put("returns", 500, 700).await;
    let input = bench.input("orders,arn:aws:kinesis:us-east-1:000000000000:stream/returns", "");
    input.connect().await.unwrap();
    let mut out = Out::default();
    read_until(&*input, &mut out, 700).await;
    close(&*input).await;
    assert_eq!(out.times.len(), 700);
}

#[tokio::test]
async fn latest_is_pinned_at_the_first_connect() {
    let bench = Bench::start().await;
    bench.create("orders", 2).await;
    bench.create("clock", 1).await;
    // The server counts arrivals in whole seconds: the pin has to be in a later second than the old records.
    bench.put("orders", 0, 100).await;
    bench.until_next_second("clock").await;
    let first = bench.input("orders", "start_from_oldest: false");
    first.connect().await.unwrap();
    close(&*first).await;
    // These are put while no input reads, in a later second than the pin.
    bench.until_next_second("clock").await;
    bench.put("orders", 100, 200).await;
    let second = bench.input("orders", "start_from_oldest: false");
    second.connect().await.unwrap();
    let mut out = Out::default();
    read_until(&*second, &mut out, 100).await;
    close(&*second).await;
    out.assert_exactly(100, 200);
}

#[tokio::test]
async fn empty_batch_is_an_answer() {
    let bench = Bench::start().await;
    bench.create("orders", 1).await;
    let input = bench.input("orders", "");
    input.connect().await.unwrap();
    let batch = input.read_batch(Demand::new(10, Duration::ZERO)).await.unwrap();
    assert!(batch.is_empty());
    bench.put("orders", 0, 30).await;
    let mut got = 0;
    while got < 30 {
        let (messages, receipt) = input
            .read_batch(Demand { max_wait: SOON.max_wait, ..Demand::new(7, Duration::ZERO) })
            .await
            .unwrap()
            .into_parts();
        assert!(!messages.is_empty() && messages.len() <= 7);
        got += messages.len();
        input.ack(receipt, Verdicts::ACK).await.unwrap();
    }
    close(&*input).await;
}

#[tokio::test]
async fn explicit_shard_after_crash() {
    let bench = Bench::start().await;
    bench.create("orders", 2).await;
    bench.put("orders", 0, 500).await;
    let mut out = Out::default();
    let first = bench.input("orders:0,orders:1", "");
    first.connect().await.unwrap();
    read_until(&*first, &mut out, 200).await;
    // The session is neither closed nor given time.
    drop(first);
    let second = bench.input("orders:0,orders:1", "");
    second.connect().await.unwrap();
    read_until(&*second, &mut out, 500).await;
    close(&*second).await;
    assert_eq!(out.len(), 500);
}

#[tokio::test]
async fn renamed_stream_entry() {
    let bench = Bench::start().await;
    bench.create("orders", 2).await;
    bench.put("orders", 0, 200).await;
    let mut out = Out::default();
    let entries = ["orders", "arn:aws:kinesis:us-east-1:000000000000:stream/orders", "orders"];
    for (round, entry) in (1..).zip(entries) {
        let input = bench.input(entry, "");
        input.connect().await.unwrap();
        read_until(&*input, &mut out, round * 200).await;
        close(&*input).await;
        bench.put("orders", round * 200, (round + 1) * 200).await;
    }
    out.assert_exactly(0, 600);
}
