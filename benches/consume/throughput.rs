//! What does a gigabyte cost? Payload per CPU second of each way of reading, beside the alternatives.

use std::collections::BTreeMap;
use std::time::Duration;

use serde_json::json;

use crate::process::{Stage, Taken, median};
use crate::ways::Cost;
use crate::{AnyError, Arguments, peers, program};
use kinesis_testkit::replay::Load;

/// The ways of reading, in the order of the table.
const PATHS: [&str; 8] = ["drain", "memory", "ours-decode", "ours", "sdk", "poll-json", "poll-cbor", "sdk-poll"];
/// A peer that is silent for this long is killed.
const PATIENCE: Duration = Duration::from_mins(5);
/// The ways that are not in the table unless `--paths` names them: our decoder without a network, and polling, which
/// needs a hundred shards to be as fast as four subscriptions.
const ASKED_FOR: [&str; 4] = ["memory", "poll-json", "poll-cbor", "sdk-poll"];

/// Runs all ways in turn, and prints the medians.
pub fn compare(arguments: &Arguments) -> Result<(), AnyError> {
    let (stage, reading) = (Stage::new()?, arguments.reading);
    let asked = |path: &str| arguments.paths.iter().any(|asked| asked == path);
    let paths: Vec<_> = PATHS
        .into_iter()
        .filter(|path| asked(path) || (arguments.paths.is_empty() && !ASKED_FOR.contains(path)))
        .collect();
    let peers = if arguments.peers { peers::build(&stage) } else { Vec::new() };
    let programs: Vec<_> = match &arguments.program {
        Some(program) => program::PATHS.iter().filter(|(name, _)| asked(name)).map(|path| (program, *path)).collect(),
        None => Vec::new(),
    };
    println!(
        "| record bytes | shards | path | payload MB per CPU second | least to most | MB/s | peak MiB | against drain | against sdk |"
    );
    println!("|---|---|---|---|---|---|---|---|---|");
    for record_bytes in &arguments.record_bytes {
        for shards in &arguments.shards {
            let bytes = arguments.megabytes << 20;
            let load = Load {
                // This is somewhat more than is read, so that no shard runs dry before the last is done. The peers warm
                // up first.
                bytes_per_shard: if peers.is_empty() { bytes / *shards as u64 * 2 } else { u64::MAX },
                // Amazon's library refuses sequence numbers that don't rise.
                rising: !peers.is_empty(),
                ..arguments.load(*record_bytes, *shards)
            };
            let server = stage.serve(&load)?;
            let mut runs: BTreeMap<&str, Vec<(Cost, Taken)>> = BTreeMap::new();
            for _ in 0..arguments.rounds {
                for path in &paths {
                    let mut reader = stage.read(path, &server, &load, reading, bytes)?;
                    let cost: Cost = reader.said()?;
                    let taken = reader.takes();
                    let line = json!({
                        "path": path, "record_bytes": record_bytes, "shards": shards, "cost": cost,
                        "peak_kib": taken.peak_kib,
                    });
                    eprintln!("{line}");
                    runs.entry(path).or_default().push((cost, taken));
                }
                for (program, path) in &programs {
                    if path.0 == "program-file" {
                        eprintln!("{}", json!({ "disk_mb_per_second": program::disk(bytes)? }));
                    }
                    let run = program::read(program, *path, &stage, &server, &load, reading, bytes)?;
                    let line = json!({ "path": path.0, "record_bytes": record_bytes, "shards": shards, "cost": run.0 });
                    eprintln!("{line}");
                    runs.entry(path.0).or_default().push(run);
                }
                for peer in peers.iter().filter(|peer| arguments.paths.is_empty() || asked(peer.name)) {
                    let mut reader = peer.read(&stage, &server, *shards, bytes)?;
                    match reader.said_within::<Cost>(PATIENCE) {
                        Ok(cost) => {
                            let taken = reader.takes();
                            eprintln!(
                                "{}",
                                json!({ "path": peer.name, "record_bytes": record_bytes, "cost": cost, "peak_kib": taken.peak_kib })
                            );
                            runs.entry(peer.name).or_default().push((cost, taken));
                        }
                        Err(error) => eprintln!("without a run of {}: {error}", peer.name),
                    }
                }
            }
            let names = programs.iter().map(|(_, (name, _))| *name);
            let measured = paths.iter().copied().chain(names).chain(peers.iter().map(|peer| peer.name));
            for path in measured.filter(|path| runs.contains_key(path)) {
                println!("| {record_bytes} | {shards} | {path} | {} |", row(path, &runs));
            }
        }
    }
    Ok(())
}

fn row(path: &str, runs: &BTreeMap<&str, Vec<(Cost, Taken)>>) -> String {
    let speeds = |path: &str| -> Vec<f64> {
        runs.get(path).into_iter().flatten().map(|(cost, _)| cost.megabytes_per_cpu_second()).collect()
    };
    let ratio = |other: &str| {
        let known = runs.contains_key(other);
        if known { format!("{:.2}", median(speeds(path)) / median(speeds(other))) } else { "-".to_owned() }
    };
    let own = speeds(path);
    let of = |value: fn(&(Cost, Taken)) -> f64| median(runs.get(path).into_iter().flatten().map(value));
    [
        format!("{:.0}", median(own.iter().copied())),
        format!(
            "{:.0} to {:.0}",
            own.iter().copied().fold(f64::INFINITY, f64::min),
            own.iter().copied().fold(0.0, f64::max)
        ),
        format!("{:.0}", of(|(cost, _)| cost.bytes as f64 / 1e6 / cost.seconds)),
        format!("{:.0}", of(|(_, taken)| taken.peak_kib as f64 / 1024.0)),
        ratio("drain"),
        ratio("sdk"),
    ]
    .join(" | ")
}
