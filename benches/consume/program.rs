//! What does the whole program cost, as a user runs it? Its metrics say what is acknowledged, the kernel what it took.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use crate::AnyError;
use crate::client::{Job, Reading};
use crate::process::{Server, Stage, Taken};
use crate::ways::Cost;
use kinesis_testkit::replay::Load;

/// The ways in which the program is run, and the output of each.
pub const PATHS: [(&str, &str); 3] =
    [("program-drop", "drop: {}"), ("program-poll", "drop: {}"), ("program-file", "file: {path: FILE, format: raw}")];
/// How often the program is asked for its metrics.
const ASKED_EVERY: Duration = Duration::from_millis(20);
/// A program that acknowledges nothing for this long is given up.
const PATIENCE: Duration = Duration::from_mins(1);

/// A running program. It ends when this is dropped.
struct Running {
    child: Child,
    address: String,
}

/// Runs the program with an output until enough is acknowledged.
pub fn read(
    program: &Path,
    (name, output): (&str, &str),
    stage: &Stage,
    server: &Server,
    load: &Load,
    reading: Reading,
    bytes: u64,
) -> Result<(Cost, Taken), AnyError> {
    let folder = tempfile::tempdir()?;
    let reading =
        if name == "program-poll" { Reading { poll: Some(crate::client::Encoding::Cbor), ..reading } } else { reading };
    let job = Job {
        endpoint: format!("https://localhost:{}", server.port),
        certificate: stage.certificate(),
        load: *load,
        reading,
        bytes,
    };
    let block = job.block(&folder.path().join("checkpoints"));
    let block: String = block.lines().flat_map(|line| ["    ", line, "\n"]).collect();
    let output = output.replace("FILE", &folder.path().join("records").display().to_string());
    let pipeline = folder.path().join("pipeline.yaml");
    std::fs::write(&pipeline, format!("input:\n  aws_kinesis:\n{block}output:\n  {output}\n"))?;
    Running::start(program, &pipeline, &stage.certificate())?.measure(load.shape.record_bytes as u64, bytes)
}

impl Running {
    fn start(program: &Path, pipeline: &Path, certificate: &PathBuf) -> Result<Self, AnyError> {
        let mut command = Command::new(program);
        command.arg("run").arg(pipeline).args(["--http", "127.0.0.1:0"]).env("AWS_CA_BUNDLE", certificate);
        // Regions, credentials and proxies of the machine must not affect a benchmark.
        command.env("AWS_EC2_METADATA_DISABLED", "true").stdin(Stdio::null()).stdout(Stdio::null());
        let mut child = command.stderr(Stdio::piped()).spawn()?;
        let stderr = BufReader::new(child.stderr.take().ok_or("no pipe")?);
        let mut running = Self { child, address: String::new() };
        let mut said = Vec::new();
        let mut lines = stderr.lines();
        for line in lines.by_ref() {
            let line = line?;
            if let Some((_, address)) = line.split_once("http://") {
                running.address = address.chars().take_while(|c| c.is_ascii_digit() || ".:".contains(*c)).collect();
                break;
            }
            said.push(line);
        }
        if running.address.is_empty() {
            return Err(format!("the program ended: {}", said.join("\n")).into());
        }
        // What it says later would otherwise fill the pipe.
        std::thread::spawn(move || lines.for_each(drop));
        Ok(running)
    }

    /// From the first tenth of the bytes to the last, as for the other ways of reading.
    fn measure(&self, record_bytes: u64, goal: u64) -> Result<(Cost, Taken), AnyError> {
        let mut start = None;
        let (mut last, mut changed) = (0, Instant::now());
        loop {
            let bytes = self.acked()? * record_bytes;
            let (taken, now) = (Taken::of(self.child.id()), Instant::now());
            if bytes >= goal / 10 {
                let (before, began, cpu) = *start.get_or_insert((bytes, now, taken.cpu_seconds));
                if bytes >= goal {
                    let seconds = now.duration_since(began).as_secs_f64();
                    let cost = Cost { bytes: bytes - before, cpu_seconds: taken.cpu_seconds - cpu, seconds };
                    return Ok((cost, taken));
                }
            }
            if bytes != last {
                (last, changed) = (bytes, now);
            } else if changed.elapsed() > PATIENCE {
                return Err(format!("only {bytes} bytes were acknowledged").into());
            }
            sleep(ASKED_EVERY);
        }
    }

    /// The number of acknowledged records of all shards.
    fn acked(&self) -> Result<u64, AnyError> {
        let mut stream = TcpStream::connect(&self.address)?;
        write!(stream, "GET /metrics HTTP/1.1\r\nhost: {}\r\nconnection: close\r\n\r\n", self.address)?;
        let mut page = String::new();
        stream.read_to_string(&mut page)?;
        let lines = page.lines().filter(|line| line.starts_with("kinesis_input_acked_records_total"));
        Ok(lines.filter_map(|line| line.rsplit(' ').next()?.parse::<u64>().ok()).sum())
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// How many megabytes a second the disk takes, if every 256 KiB are synced.
pub fn disk(bytes: u64) -> Result<f64, AnyError> {
    const PIECE: usize = 256 << 10;
    let mut file = tempfile::tempfile()?;
    let piece = vec![b'.'; PIECE];
    let (begun, pieces) = (Instant::now(), (bytes / PIECE as u64).clamp(1, 1000));
    for _ in 0..pieces {
        file.write_all(&piece)?;
        file.sync_data()?;
    }
    Ok((pieces * PIECE as u64) as f64 / 1e6 / begun.elapsed().as_secs_f64())
}
