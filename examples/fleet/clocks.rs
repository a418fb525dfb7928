//! How can the clocks of the workers differ? A wall clock can jump while its worker runs, and monotonic clocks can be
//! unrelated.
//!
//! The wall clock is libfaketime's, which is loaded into the worker's process and reads the offset from a file. A
//! monotonic clock can't jump, but each worker can have one of its own, by a time namespace, so that any comparison of
//! the clocks of two workers is far off. Both are tried first, and what is not available is reported.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{SystemTime, UNIX_EPOCH};

use tokio::process::Command;

use crate::AnyError;

/// The paths where Debian, Fedora, Arch and others install the library.
const LIBRARY_PATHS: [&str; 5] = [
    "/usr/lib/x86_64-linux-gnu/faketime/libfaketimeMT.so.1",
    "/usr/lib/aarch64-linux-gnu/faketime/libfaketimeMT.so.1",
    "/usr/lib64/faketime/libfaketimeMT.so.1",
    "/usr/lib/faketime/libfaketimeMT.so.1",
    "/usr/local/lib/faketime/libfaketimeMT.so.1",
];
/// The number of seconds that the trials add to a clock.
const TRIAL: u64 = 1_000_000;

/// The faults of clocks that are available here.
#[derive(Debug, Default)]
pub struct Clocks {
    /// The library, if wall clocks can jump.
    library: Option<PathBuf>,
    /// Whether workers can have monotonic clocks of their own.
    pub apart: bool,
}

impl Clocks {
    /// Tries which faults are available. The library is the one that is named, or one that is installed.
    pub async fn find(named: Option<&Path>) -> Result<Self, AnyError> {
        let mut clocks = Self::default();
        let paths = LIBRARY_PATHS.iter().map(Path::new).filter(|_| named.is_none());
        for library in named.into_iter().chain(paths).filter(|library| library.exists()) {
            let mut command = Command::new("date");
            command.arg("+%s").env("LD_PRELOAD", library).env("FAKETIME", format!("+{TRIAL}"));
            let now = SystemTime::now().duration_since(UNIX_EPOCH)?.as_secs();
            if first_number(command).await.is_some_and(|printed| printed > now + TRIAL / 2) {
                clocks.library = Some(library.to_owned());
                break;
            }
        }
        if let (Some(named), None) = (named, &clocks.library) {
            return Err(format!("{} does not change a program's clock", named.display()).into());
        }
        let mut command = Command::new("unshare");
        command.args(apart(TRIAL)).args(["cat", "/proc/uptime"]);
        clocks.apart = first_number(command).await.is_some_and(|printed| printed >= TRIAL);
        Ok(clocks)
    }

    pub fn can_jump(&self) -> bool {
        self.library.is_some()
    }

    /// A command that runs this program with clocks of its own. The process of the command is that of the program.
    pub fn command(&self, program: &OsStr, offset_file: &Path, seconds_apart: u64) -> Result<Command, AnyError> {
        let mut command = if self.apart {
            let mut command = Command::new("unshare");
            command.args(apart(seconds_apart)).arg(program);
            command
        } else {
            Command::new(program)
        };
        if let Some(library) = &self.library {
            set(offset_file, 0)?;
            command
                .env("LD_PRELOAD", library)
                .env("FAKETIME_TIMESTAMP_FILE", offset_file)
                .env("FAKETIME_CACHE_DURATION", "1")
                .env("FAKETIME_DONT_FAKE_MONOTONIC", "1");
        }
        Ok(command)
    }

    /// Removes the files that the library leaves behind for a process that was killed.
    pub fn clean_up(&self, process: u32) {
        if self.library.is_some() {
            for kind in ["faketime_shm", "sem.faketime_sem"] {
                let _ = std::fs::remove_file(format!("/dev/shm/{kind}_{process}"));
            }
        }
    }
}

/// Sets the offset of the wall clock that reads this file. The file is replaced as a whole, so that no half of it is
/// read.
pub fn set(offset_file: &Path, seconds: i64) -> Result<(), AnyError> {
    let new = offset_file.with_extension("new");
    std::fs::write(&new, format!("{seconds:+}\n"))?;
    Ok(std::fs::rename(new, offset_file)?)
}

fn apart(seconds: u64) -> Vec<String> {
    let seconds = seconds.to_string();
    ["--time", "--monotonic", &seconds, "--boottime", &seconds].map(str::to_owned).into()
}

/// The whole number that a command prints first.
async fn first_number(mut command: Command) -> Option<u64> {
    let output = command.stdin(Stdio::null()).stderr(Stdio::null()).output().await.ok()?;
    let output = String::from_utf8(output.stdout).ok()?;
    output.split(|letter: char| !letter.is_ascii_digit()).next()?.parse().ok()
}
