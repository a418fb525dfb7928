//! How much memory does the program hold if its output is blocked? Measured from outside.

use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use tokio::sync::oneshot;
use tokio::task::JoinSet;

use kinesis_testkit::replay::stream::Shape;
use kinesis_testkit::replay::{Load, Seen, serve};

const SHARDS: usize = 1000;
const MIB: u64 = 1 << 20;
/// The pool that the pipeline configures.
const POOL: u64 = 32 * MIB;
const WINDOW: u64 = 64 << 10;
/// The memory that the program may take beside the pool and the windows. Tasks of a build that is not optimized are
/// larger.
const CONSTANT: u64 = if cfg!(debug_assertions) { 96 * MIB } else { 64 * MIB };

/// A process that is killed at the end of the test.
struct Program(Child);

impl Drop for Program {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Program {
    /// The peak resident size.
    fn peak(&self) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.0.id())).unwrap();
        let line = status.lines().find(|line| line.starts_with("VmHWM:")).unwrap();
        line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() << 10
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn outputs_blocked_with_1000_shards() {
    let folder = tempfile::tempdir().unwrap();
    let key = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    let certificate = folder.path().join("certificate");
    std::fs::write(&certificate, key.cert.pem()).unwrap();
    let load = Load {
        shape: Shape { record_bytes: 1024, event_bytes: 256 << 10, user_record_bytes: None },
        shards: SHARDS,
        bytes_per_shard: u64::MAX,
        rate: None,
        rising: false,
    };
    let seen = Arc::<Seen>::default();
    let (sender, receiver) = oneshot::channel();
    let mut server = JoinSet::new();
    {
        let seen = Arc::clone(&seen);
        let (certificate, key) = (key.cert.pem(), key.signing_key.serialize_pem());
        server.spawn(async move {
            let sender = |address| sender.send(address).map_err(|_| "the receiver is gone".into());
            serve(load, certificate.as_bytes(), key.as_bytes(), sender, seen).await.map_err(|error| error.to_string())
        });
    }
    let port = receiver.await.unwrap().port();
    let pipeline = folder.path().join("pipeline.yaml");
    let yaml = format!(
        "input:\n  aws_kinesis:\n    streams: [bench]\n    region: us-east-1\n    endpoint: https://localhost:{port}\n    \
         credentials: {{id: test, secret: test}}\n    checkpoint_file: {}\n    enhanced_fan_out: {{enabled: true, \
         max_pending_bytes: {POOL}B, stream_window: {WINDOW}B}}\noutput:\n  stdout: {{}}\n",
        folder.path().join("checkpoints").display(),
    );
    std::fs::write(&pipeline, yaml).unwrap();
    // A pipe that is not read is an output that is blocked.
    let program = Command::new(env!("CARGO_BIN_EXE_kinesis-input"))
        .arg("run")
        .arg(&pipeline)
        .env("SSL_CERT_FILE", &certificate)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn();
    let program = Program(program.unwrap());
    // All windows are full, and the pool has taken more than they hold: most of its size.
    let enough = SHARDS as u64 * WINDOW + POOL * 2 / 3;
    loop {
        let changed = seen.changed.notified();
        if seen.full.load(Ordering::Relaxed) == SHARDS && seen.sent.load(Ordering::Relaxed) >= enough {
            break;
        }
        assert!(server.try_join_next().is_none(), "the server ended");
        changed.await;
    }
    let peak = program.peak();
    let promised = CONSTANT + POOL + SHARDS as u64 * WINDOW;
    assert!(peak <= promised, "{} MiB resident, {} promised", peak / MIB, promised / MIB);
    // The pool holds it back: what was sent is in the windows and the pool, and nothing more.
    let sent = seen.sent.load(Ordering::Relaxed);
    assert!(sent <= SHARDS as u64 * WINDOW + 2 * POOL, "{} MiB were taken", sent / MIB);
}
