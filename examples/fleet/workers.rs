//! The workers: `kinesis-input run`, each a process of its own whose output is read here, with links of its own to the
//! stream and to the table.

use std::ffi::OsStr;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::Stdio;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt, BufReader};
use tokio::process::{Child, ChildStdout, Command};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

use crate::AnyError;
use crate::check::{Check, Hurt, Witness, WorkerId};
use crate::clocks::{self, Clocks};
use crate::links::{Link, State};
use crate::servers::TABLE;
use crate::writer::{REGION, STREAM};

/// The commit period in the fleet's pipelines.
pub const COMMIT: Duration = Duration::from_secs(1);
/// The lease period in the fleet's pipelines.
pub const LEASE: Duration = Duration::from_secs(6);
/// How long a worker may take to stop gracefully.
const STOPS_WITHIN: Duration = Duration::from_mins(1);
/// The most that a pipe holds: a worker can still write this much while its output isn't read.
const PIPE: usize = 64 << 10;

/// The paths and addresses of the run.
pub struct Setup {
    pub folder: PathBuf,
    pub kinesis: SocketAddr,
    pub table: SocketAddr,
    /// Another build of the program, which every second worker uses.
    pub other: Option<PathBuf>,
    pub clocks: Clocks,
}

/// All workers.
pub struct Fleet {
    setup: Setup,
    check: Arc<Mutex<Check>>,
    pub workers: Vec<Worker>,
    random: fastrand::Rng,
    named: u32,
    /// The number of graceful stops that did not end well.
    unclean: u32,
}

/// One worker.
pub struct Worker {
    pub name: String,
    id: WorkerId,
    stream: Arc<Link>,
    table: Arc<Link>,
    witness: Witness,
    process: Child,
    pipeline: PathBuf,
    /// The file with the offset of its wall clock.
    offset: PathBuf,
    /// Since when its output isn't read.
    blocked: watch::Sender<Option<Instant>>,
    reading: JoinSet<()>,
}

impl Fleet {
    pub fn new(setup: Setup, check: Arc<Mutex<Check>>, seed: u64) -> Self {
        let random = fastrand::Rng::with_seed(seed);
        Self { setup, check, workers: Vec::new(), random, named: 0, unclean: 0 }
    }

    fn check(&self) -> MutexGuard<'_, Check> {
        self.check.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Starts another worker. Every second one is the other program, if there is one.
    pub async fn add(&mut self) -> Result<(), AnyError> {
        self.named += 1;
        let name = format!("worker-{}", self.named);
        let id = self.check().worker(&name);
        let stream = Arc::new(Link::start(self.setup.kinesis, None).await?);
        let witness = Witness { check: Arc::clone(&self.check), worker: id };
        let table = Arc::new(Link::start(self.setup.table, Some(witness.clone())).await?);
        let pipeline = self.setup.folder.join(format!("{name}.yaml"));
        let offset = self.setup.folder.join(format!("{name}.clock"));
        std::fs::write(&pipeline, yaml(&name, stream.address, table.address))?;
        let this = std::env::current_exe()?;
        let other = self.setup.other.as_ref().filter(|_| self.named.is_multiple_of(2));
        let program = other.unwrap_or(&this);
        let apart = self.random.u64(..30 * 24 * 3600);
        let mut command = self.setup.clocks.command(program.as_os_str(), &offset, apart)?;
        let arguments = if other.is_some() {
            ["run", "--log-level", "warn"].map(OsStr::new)
        } else {
            ["--role", "worker", "--pipeline"].map(OsStr::new)
        };
        let mut process = command
            .args(arguments)
            .arg(&pipeline)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()?;
        let out = process.stdout.take().ok_or("no output")?;
        let (blocked, is_blocked) = watch::channel(None);
        let mut reading = JoinSet::new();
        reading.spawn(read(out, id, Arc::clone(&self.check), is_blocked));
        self.workers.push(Worker { name, id, stream, table, witness, process, pipeline, offset, blocked, reading });
        Ok(())
    }

    /// Stops a worker gracefully: everything it has is acked and stored when it ends.
    pub async fn stop(&mut self, at: usize) -> Result<(), AnyError> {
        let mut worker = self.workers.remove(at);
        worker.signal("TERM").await?;
        let process = worker.process.id();
        let ended = timeout(STOPS_WITHIN, worker.process.wait()).await;
        let well = matches!(&ended, Ok(Ok(status)) if status.success());
        if !well {
            eprintln!("         {} did not stop properly: {ended:?}", worker.name);
            self.unclean += 1;
            let hurt = self.check().hurt(Hurt::Killed, Some(worker.id), Instant::now());
            worker.process.kill().await?;
            self.check().healed(hurt, Instant::now());
        }
        self.ended(worker, process).await;
        Ok(())
    }

    /// Kills a worker, with no time to do anything.
    pub async fn kill(&mut self, at: usize) -> Result<(), AnyError> {
        let mut worker = self.workers.remove(at);
        let process = worker.process.id();
        let hurt = self.check().hurt(Hurt::Killed, Some(worker.id), Instant::now());
        worker.process.kill().await?;
        self.check().healed(hurt, Instant::now());
        self.ended(worker, process).await;
        Ok(())
    }

    /// Reads what it wrote last, and removes its files.
    async fn ended(&self, mut worker: Worker, process: Option<u32>) {
        while worker.reading.join_next().await.is_some() {}
        let _ = (std::fs::remove_file(&worker.pipeline), std::fs::remove_file(&worker.offset));
        if let Some(process) = process {
            self.setup.clocks.clean_up(process);
        }
    }

    /// Pauses a worker's process for this long.
    pub async fn pause(&self, at: usize, length: Duration) -> Result<(), AnyError> {
        let worker = &self.workers[at];
        let hurt = self.check().hurt(Hurt::Stopped, Some(worker.id), Instant::now());
        worker.signal("STOP").await?;
        sleep(length).await;
        worker.signal("CONT").await?;
        self.check().healed(hurt, Instant::now());
        Ok(())
    }

    /// Does not read a worker's output for this long.
    pub async fn block(&self, at: usize, length: Duration) {
        let worker = &self.workers[at];
        let hurt = self.check().hurt(Hurt::Output, Some(worker.id), Instant::now());
        worker.blocked.send_replace(Some(Instant::now()));
        sleep(length).await;
        worker.blocked.send_replace(None);
        self.check().healed(hurt, Instant::now());
    }

    /// Stops all workers. Returns how many graceful stops did not end well in the whole run.
    pub async fn stop_all(&mut self) -> Result<u32, AnyError> {
        while !self.workers.is_empty() {
            self.stop(0).await?;
        }
        Ok(self.unclean)
    }

    /// Starts one more worker when everything was read and stored, and stops it. It should be given nothing.
    pub async fn start_last_worker(&mut self, length: Duration) -> Result<u32, AnyError> {
        self.add().await?;
        if let Some(worker) = self.workers.last() {
            self.check().start_last_worker(worker.id);
        }
        sleep(length).await;
        self.stop_all().await
    }
}

impl Worker {
    /// Puts its link to the stream into a state for this long.
    pub fn hold_up_stream(&self, state: State, length: Duration) -> impl Future<Output = ()> + Send + 'static {
        let stream = Arc::clone(&self.stream);
        async move {
            stream.set(state);
            sleep(length).await;
            stream.set(State::Open);
        }
    }

    /// The same for its link to the table, which it needs to store what it was given.
    pub fn hold_up_table(&self, state: State, length: Duration) -> impl Future<Output = ()> + Send + 'static {
        let (table, witness) = (Arc::clone(&self.table), self.witness.clone());
        async move {
            let hurt = witness.begin();
            table.set(state);
            sleep(length).await;
            table.set(State::Open);
            witness.end(hurt);
        }
    }

    /// Sends its process a signal.
    async fn signal(&self, signal: &str) -> Result<(), AnyError> {
        let process = self.process.id().ok_or_else(|| format!("{} has ended by itself", self.name))?;
        let status = Command::new("kill").args([format!("-{signal}"), process.to_string()]).status().await?;
        if status.success() { Ok(()) } else { Err(format!("{} has ended by itself", self.name).into()) }
    }

    /// Sets the offset of its wall clock, if that is possible.
    pub fn set_clock(&self, seconds: i64) -> Result<(), AnyError> {
        clocks::set(&self.offset, seconds)
    }
}

/// The pipeline, as its author would write it, with shorter periods: a minute there is some seconds here.
fn yaml(name: &str, stream: SocketAddr, table: SocketAddr) -> String {
    format!(
        "input:
  aws_kinesis:
    streams: [{STREAM}]
    region: {REGION}
    endpoint: http://{stream}
    credentials: {{ id: fleet, secret: fleet }}
    dynamodb:
      table: {TABLE}
      create: true
      region: {REGION}
      endpoint: http://{table}
      credentials: {{ id: fleet, secret: fleet }}
    client_id: {name}
    commit_period: {}s
    lease_period: {}s
    rebalance_period: 3s
    enhanced_fan_out: {{ enabled: true, consumer_name: fleet }}
output: stdout
",
        COMMIT.as_secs(),
        LEASE.as_secs()
    )
}

/// Reads an output line by line. A line that was cut by a kill does not count: it was not acked.
async fn read(
    out: ChildStdout,
    worker: WorkerId,
    check: Arc<Mutex<Check>>,
    mut blocked: watch::Receiver<Option<Instant>>,
) {
    let mut out = BufReader::new(out);
    let (mut line, mut buffer) = (Vec::new(), vec![0; 16 << 10]);
    // The bytes that were in the pipe all the time while it was not read, and since when.
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
                check.take(&String::from_utf8_lossy(&line), written, worker);
                line.clear();
            } else {
                line.push(*byte);
            }
        }
    }
}
