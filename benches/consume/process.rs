//! How are the server and the readers run, each in a process of its own, and what do they take from outside?

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

/// A folder with a certificate, and the program that plays all parts.
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

    /// Where the server's certificate is.
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

/// A server. It ends with this.
pub struct Server {
    pub port: u16,
    /// Where leases are kept, for those who keep them in a table.
    pub table_port: u16,
    _process: Process,
}

/// What a server says first.
#[derive(Debug, Serialize, Deserialize)]
pub struct Ports {
    pub port: u16,
    pub table_port: u16,
}

/// A process that tells what it has to say in lines. It ends with this.
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
            return Err(format!("a process ended without a word: {}", self.child.wait()?).into());
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
                // Our own child, which nobody has waited for yet.
                let _ = Command::new("kill").arg(id.to_string()).status();
            }
        });
        let line = self.said();
        drop(said);
        let _ = guard.join();
        line
    }

    /// What it takes now, seen from outside.
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

/// What a process takes.
#[derive(Debug, Clone, Copy, Default)]
pub struct Taken {
    /// Resident memory now.
    pub resident_kib: u64,
    /// The most that was ever resident.
    pub peak_kib: u64,
    /// CPU time of all threads, in user and system mode.
    pub cpu_seconds: f64,
}

impl Taken {
    /// By process id; nothing if it is gone.
    pub fn of(id: u32) -> Self {
        let status = std::fs::read_to_string(format!("/proc/{id}/status")).unwrap_or_default();
        let kib = |name: &str| {
            let line = status.lines().find(|line| line.starts_with(name)).unwrap_or_default();
            line.split_whitespace().nth(1).and_then(|kib| kib.parse().ok()).unwrap_or(0)
        };
        let stat = std::fs::read_to_string(format!("/proc/{id}/stat")).unwrap_or_default();
        let fields: Vec<_> = stat.rsplit(')').next().unwrap_or_default().split_whitespace().collect();
        // In ticks of a hundredth of a second, which is the kernel's promise to user space.
        let ticks = |at: usize| fields.get(at).and_then(|field| field.parse::<f64>().ok()).unwrap_or(0.0);
        Self { resident_kib: kib("VmRSS:"), peak_kib: kib("VmHWM:"), cpu_seconds: (ticks(11) + ticks(12)) / 100.0 }
    }

    /// This process.
    pub fn here() -> Self {
        Self::of(std::process::id())
    }
}

/// The value in the middle.
pub fn median(values: impl IntoIterator<Item = f64>) -> f64 {
    let mut values: Vec<f64> = values.into_iter().collect();
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}
