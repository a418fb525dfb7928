//! The workers: `kinesis-input run`, each a process of its own whose output is read here.

use std::path::PathBuf;
use std::process::Stdio;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt, BufReader};
use tokio::process::{Child, ChildStdout, Command};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::timeout;

use crate::AnyError;
use crate::check::Check;
use crate::servers::TABLE;
use crate::writer::{REGION, STREAM};

/// A lease in the fleet's pipelines.
pub const LEASE: Duration = Duration::from_secs(6);
/// How long a worker may take to stop softly.
const STOPS_WITHIN: Duration = Duration::from_mins(1);
/// What a pipe holds, at most: the output of a worker goes on for so much while it isn't read.
const PIPE: usize = 64 << 10;

/// Where everything is.
pub struct Place {
    pub folder: PathBuf,
    pub kinesis: String,
    pub table: String,
}

/// All workers.
pub struct Fleet {
    place: Place,
    check: Arc<Mutex<Check>>,
    pub workers: Vec<Worker>,
    named: u32,
    /// Soft stops that did not end well.
    unclean: u32,
}

/// One worker.
pub struct Worker {
    pub name: String,
    process: Child,
    /// Since when its output isn't read.
    blocked: watch::Sender<Option<Instant>>,
    reading: JoinSet<()>,
}

impl Fleet {
    pub fn new(place: Place, check: Arc<Mutex<Check>>) -> Self {
        Self { place, check, workers: Vec::new(), named: 0, unclean: 0 }
    }

    /// Starts another worker.
    pub fn add(&mut self) -> Result<(), AnyError> {
        self.named += 1;
        let name = format!("worker-{}", self.named);
        let pipeline = self.place.folder.join(format!("{name}.yaml"));
        std::fs::write(&pipeline, self.yaml(&name))?;
        let mut process = Command::new(std::env::current_exe()?)
            .args(["--role", "worker", "--pipeline"])
            .arg(&pipeline)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()?;
        let out = process.stdout.take().ok_or("no output")?;
        let (blocked, is_blocked) = watch::channel(None);
        let mut reading = JoinSet::new();
        reading.spawn(read(out, name.clone(), Arc::clone(&self.check), is_blocked));
        self.workers.push(Worker { name, process, blocked, reading });
        Ok(())
    }

    /// The pipeline, as its author would write it, with shorter periods: what takes a minute there takes seconds here.
    fn yaml(&self, name: &str) -> String {
        let Place { kinesis, table, .. } = &self.place;
        format!(
            "input:
  aws_kinesis:
    streams: [{STREAM}]
    region: {REGION}
    endpoint: {kinesis}
    credentials: {{ id: fleet, secret: fleet }}
    dynamodb:
      table: {TABLE}
      create: true
      region: {REGION}
      endpoint: {table}
      credentials: {{ id: fleet, secret: fleet }}
    client_id: {name}
    commit_period: 1s
    lease_period: {}s
    rebalance_period: 3s
    enhanced_fan_out: {{ enabled: true, consumer_name: fleet }}
output: stdout
",
            LEASE.as_secs()
        )
    }

    /// Stops a worker softly: everything it has is acked and stored when it ends.
    pub async fn stop(&mut self, at: usize) -> Result<(), AnyError> {
        let mut worker = self.workers.remove(at);
        worker.signal("TERM").await?;
        let ended = timeout(STOPS_WITHIN, worker.process.wait()).await;
        let well = matches!(&ended, Ok(Ok(status)) if status.success());
        if !well {
            eprintln!("         {} did not stop well: {ended:?}", worker.name);
            self.unclean += 1;
            worker.process.kill().await?;
        }
        // What it wrote at last is read too.
        while worker.reading.join_next().await.is_some() {}
        Ok(())
    }

    /// Kills a worker, with no time to do anything.
    pub async fn kill(&mut self, at: usize) -> Result<(), AnyError> {
        let mut worker = self.workers.remove(at);
        worker.process.kill().await?;
        while worker.reading.join_next().await.is_some() {}
        Ok(())
    }

    /// Stops all; how many soft stops there were in all that did not end well.
    pub async fn stop_all(&mut self) -> Result<u32, AnyError> {
        while !self.workers.is_empty() {
            self.stop(0).await?;
        }
        Ok(self.unclean)
    }
}

impl Worker {
    /// Sends its process a signal.
    pub async fn signal(&self, signal: &str) -> Result<(), AnyError> {
        let process = self.process.id().ok_or_else(|| format!("{} has ended by itself", self.name))?;
        let status = Command::new("kill").args([format!("-{signal}"), process.to_string()]).status().await?;
        if status.success() { Ok(()) } else { Err(format!("{} has ended by itself", self.name).into()) }
    }

    /// Reads its output no more, or again.
    pub fn block(&self, blocked: bool) {
        self.blocked.send_replace(blocked.then(Instant::now));
    }
}

/// Reads an output line by line. A line that is cut by a kill is none: it was not acked.
async fn read(out: ChildStdout, name: String, check: Arc<Mutex<Check>>, mut blocked: watch::Receiver<Option<Instant>>) {
    let mut out = BufReader::new(out);
    let (mut line, mut buffer) = (Vec::new(), vec![0; 16 << 10]);
    // Bytes that lay in the pipe all the time while it was not read, and since when.
    let mut lay: Option<(Instant, usize)> = None;
    loop {
        let since = *blocked.borrow_and_update();
        if let Some(since) = since {
            // Its sender lives as long as the worker.
            let _ = blocked.wait_for(Option::is_none).await;
            lay = Some((since, PIPE));
        }
        let read = tokio::select! {
            read = out.read(&mut buffer) => read.unwrap_or(0),
            changed = blocked.changed() => if changed.is_ok() { continue } else { out.read(&mut buffer).await.unwrap_or(0) },
        };
        if read == 0 {
            return;
        }
        let now = Instant::now();
        let mut written = (now, now);
        if let Some((since, left)) = &mut lay {
            written.0 = *since;
            *left = left.saturating_sub(read);
            if *left == 0 {
                lay = None;
            }
        }
        let mut check = check.lock().unwrap_or_else(PoisonError::into_inner);
        for byte in &buffer[..read] {
            if *byte == b'\n' {
                check.take(&String::from_utf8_lossy(&line), written, &name);
                line.clear();
            } else {
                line.push(*byte);
            }
        }
    }
}
