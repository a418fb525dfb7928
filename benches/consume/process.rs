//! How are the server and the readers run, each in a process of its own, and what do they consume?

use std::io::{BufRead, BufReader};
use std::path::PathBuf;
use std::process::{Child, ChildStdout, Command, Stdio};
use std::sync::mpsc;
use std::time::Duration;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::AnyError;
use crate::client::{Job, Reading};
use kinesis_testkit::replay::Load;

/// A folder with a certificate, and the program that acts in all roles.
pub struct Stage {
    folder: tempfile::TempDir,
    program: PathBuf,
}

impl Stage {
    pub fn new() -> Result<Self, AnyError> {
        let folder = tempfile::tempdir()?;
        let key = rcgen::generate_simple_self_signed(["localhost".to_owned()])?;
        std::fs::write(folder.path().join("cert"), key.cert.pem())?;
        std::fs::write(folder.path().join("key"), key.signing_key.serialize_pem())?;
        Ok(Self { folder, program: std::env::current_exe()? })
    }

    /// The path of the server's certificate.
    pub fn certificate(&self) -> PathBuf {
        self.folder.path().join("cert")
    }

    /// Starts a server.
    pub fn serve(&self, load: &Load) -> Result<Server, AnyError> {
        let mut command = Command::new(&self.program);
        command.arg("serve").arg(self.folder.path()).arg(serde_json::to_string(load)?);
        let mut process = Process::start(command)?;
        let Ports { port, table_port } = process.said()?;
        Ok(Server { port, table_port, _process: process })
    }

    /// Starts a reader of what a server sends.
    pub fn read(
        &self,
        way: &str,
        server: &Server,
        load: &Load,
        reading: Reading,
        bytes: u64,
    ) -> Result<Process, AnyError> {
        let job = Job {
            endpoint: format!("https://localhost:{}", server.port),
            certificate: self.certificate(),
            load: *load,
            reading,
            bytes,
        };
        let mut command = Command::new(&self.program);
        command.args(["read", way, &serde_json::to_string(&job)?]);
        Process::start(command)
    }
}

/// A server. It ends when this is dropped.
pub struct Server {
    pub port: u16,
    /// The port of the lease table, for readers that keep leases in a table.
    pub table_port: u16,
    _process: Process,
}

/// The first line of a server.
#[derive(Debug, Serialize, Deserialize)]
pub struct Ports {
    pub port: u16,
    pub table_port: u16,
}

/// A process that reports its results in lines. It ends when this is dropped.
pub struct Process {
    child: Child,
    lines: BufReader<ChildStdout>,
}

impl Process {
    pub fn start(mut command: Command) -> Result<Self, AnyError> {
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?;
        let lines = BufReader::new(child.stdout.take().ok_or("no pipe")?);
        Ok(Self { child, lines })
    }

    /// The next line.
    pub fn line(&mut self) -> Result<String, AnyError> {
        let mut line = String::new();
        if self.lines.read_line(&mut line)? == 0 {
            return Err(format!("a process ended without output: {}", self.child.wait()?).into());
        }
        Ok(line.trim().to_owned())
    }

    /// The next line, read as JSON.
    pub fn said<T: DeserializeOwned>(&mut self) -> Result<T, AnyError> {
        let line = self.line()?;
        serde_json::from_str(&line).map_err(|_| format!("a process said: {line}").into())
    }

    /// The next line, read as JSON, if it comes in time; otherwise the process is ended.
    pub fn said_within<T: DeserializeOwned>(&mut self, patience: Duration) -> Result<T, AnyError> {
        let id = self.child.id();
        let (said, awaited) = mpsc::channel::<()>();
        let guard = std::thread::spawn(move || {
            if awaited.recv_timeout(patience) == Err(mpsc::RecvTimeoutError::Timeout) {
                // This is our own child, which has not been waited for yet.
                let _ = Command::new("kill").arg(id.to_string()).status();
            }
        });
        let line = self.said();
        drop(said);
        let _ = guard.join();
        line
    }

    /// The resources that the process uses now, seen from outside.
    pub fn takes(&self) -> Taken {
        Taken::of(self.child.id())
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The resources that a process uses.
#[derive(Debug, Clone, Copy, Default)]
pub struct Taken {
    /// The resident size now.
    pub resident_kib: u64,
    /// The peak resident size.
    pub peak_kib: u64,
    /// CPU time of all threads, in user and system mode.
    pub cpu_seconds: f64,
}

impl Taken {
    /// Those of a process id; all zero if the process is gone.
    pub fn of(id: u32) -> Self {
        let status = std::fs::read_to_string(format!("/proc/{id}/status")).unwrap_or_default();
        let kib = |name: &str| {
            let line = status.lines().find(|line| line.starts_with(name)).unwrap_or_default();
            line.split_whitespace().nth(1).and_then(|kib| kib.parse().ok()).unwrap_or(0)
        };
        let stat = std::fs::read_to_string(format!("/proc/{id}/stat")).unwrap_or_default();
        let fields: Vec<_> = stat.rsplit(')').next().unwrap_or_default().split_whitespace().collect();
        // The kernel reports ticks of a hundredth of a second to user space.
        let ticks = |at: usize| fields.get(at).and_then(|field| field.parse::<f64>().ok()).unwrap_or(0.0);
        Self { resident_kib: kib("VmRSS:"), peak_kib: kib("VmHWM:"), cpu_seconds: (ticks(11) + ticks(12)) / 100.0 }
    }

    /// Those of this process.
    pub fn here() -> Self {
        Self::of(std::process::id())
    }
}

/// The median.
pub fn median(values: impl IntoIterator<Item = f64>) -> f64 {
    let mut values: Vec<f64> = values.into_iter().collect();
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}
