//! Documents for tests.

use super::status::{
    Changed, Condition, Fleet, FleetShard, FleetWorker, Input, PerSecond, Pool, Shard, Status, Usage, VERSION,
};

/// A worker that reads this many shards; the last has the greatest lag.
pub(crate) fn status(shards: usize) -> Status {
    Status {
        version: VERSION,
        program: "0.1.0".into(),
        uptime_seconds: 3700.0,
        ready: true,
        reason: None,
        lag_seconds: Some(2.5),
        pending_messages: 300,
        inputs: vec![input(shards)],
    }
}

pub(crate) fn input(shards: usize) -> Input {
    Input {
        state: "connected".into(),
        reason: None,
        target: "orders".into(),
        worker: "worker-1".into(),
        streams: vec!["arn:aws:kinesis:eu-west-1:123456789012:stream/orders".into()],
        lag_seconds: Some(2.5),
        unread_seconds: None,
        leases_valid: Some(true),
        workers: Some(2),
        pool: Some(Pool { records: usage(300, 1000, 0), bytes: usage(1 << 20, 64 << 20, 0) }),
        rates: per_second(120.0),
        conditions: Vec::new(),
        shards: (0..shards).map(shard).collect(),
        changes: vec![change("claimed", None)],
    }
}

pub(crate) fn shard(number: usize) -> Shard {
    Shard {
        stream: "orders".into(),
        shard: format!("shardId-{number:012}"),
        state: "reading".into(),
        held_seconds: 60.0,
        position: Some(format!("4959033827149025660855969253836157109592157598913658888{number}")),
        lag_seconds: number as f64,
        rates: per_second(number as f64),
        read_records: 7,
        read_bytes: 700,
        acked_records: 6,
        nacked_records: 0,
        pending_records: 1,
        in_flight_records: 1,
        held_by_limit: false,
        condition: None,
        last_error: None,
        last_error_seconds_ago: None,
    }
}

pub(crate) fn per_second(records: f64) -> PerSecond {
    PerSecond { read_records: Some(records), read_bytes: Some(records * 100.0), acked_records: Some(records) }
}

pub(crate) fn usage(used: u64, capacity: u64, waiting: u64) -> Usage {
    Usage { used, peak: used, capacity, waiting }
}

pub(crate) fn condition(reason: &str) -> Condition {
    let shard = Some("shardId-000000000000".into());
    Condition { stream: Some("orders".into()), shard, reason: reason.into(), for_seconds: 90.0 }
}

pub(crate) fn change(kind: &str, detail: Option<&str>) -> Changed {
    Changed {
        seconds_ago: 12.0,
        kind: kind.into(),
        stream: Some("orders".into()),
        shard: Some("shardId-000000000000".into()),
        detail: detail.map(Into::into),
        count: 1,
    }
}

/// A second worker that holds one shard, and has sent no heartbeat for this long.
pub(crate) fn fleet(silent_seconds: i64) -> Fleet {
    let worker = |name: &str, shards, seen| FleetWorker {
        worker: name.into(),
        shards,
        runs_seconds: Some(3700),
        seen_seconds_ago: Some(seen),
        explicit: false,
    };
    let shard = |number: usize, state: &str, owner: Option<&str>| FleetShard {
        stream: "arn:aws:kinesis:eu-west-1:123456789012:stream/orders".into(),
        shard: format!("shardId-{number:012}"),
        state: state.into(),
        owner: owner.map(Into::into),
        owner_seen_seconds_ago: owner.map(|_| silent_seconds),
        other_program: false,
        held_seconds: Some(100),
        requester: None,
        position: Some("7".into()),
        remark: None,
    };
    Fleet {
        version: VERSION,
        shared: true,
        read_seconds_ago: Some(4.0),
        error: None,
        workers: vec![worker("worker-1", 1, 1), worker("worker-2", 1, silent_seconds)],
        shards: vec![
            shard(0, "held", Some("worker-1")),
            shard(5000, "held", Some("worker-2")),
            shard(5001, "ended", None),
        ],
    }
}
