//! What would a run need, and is it there?
//!
//! [`check`] tries it without reading, and starts and registers nothing: it looks for credentials, calls what answers
//! without consequences, and makes the other calls so that they can't succeed. What can't be tried is said.
//!
//! ```text
//! credentials ─▶ identity ─▶ table or file ─▶ each stream: its key, shards, consumer, and the permission for each call ─▶ clock
//!                   each step tells the hosts that it has called
//! ```
//!
//! ```no_run
//! # async fn show(config: kinesis_input::Config) {
//! let found = kinesis_input::check::check(&config, |finding| println!("{}", finding.what)).await;
//! let worst = found.iter().map(|finding| finding.verdict).max();
//! # }
//! ```

mod access;
mod finding;
mod hosts;
mod judge;
mod store;
mod streams;

use std::future::Future;
use std::io;
use std::path::Path;

use tokio::time::timeout;

use crate::config::Config;
use crate::lease::can_make_files_beside;
use crate::retry::Fault;

use finding::Telling;
pub use finding::{Finding, Subject, Verdict};

/// Tries everything that a run of this configuration would need. Each finding is reported at once, and all are returned.
///
/// A call that is not answered within 10 s is reported as such, and what depends on it is not tried.
///
/// # Cancel safety
///
/// Nothing is left behind when this is dropped.
pub async fn check(config: &Config, mut tell: impl FnMut(&Finding) + Send) -> Vec<Finding> {
    let mut telling = Telling::new(&mut tell);
    let access = Box::pin(access::open(config, &mut telling)).await;
    let identity = store::check(config, access.as_ref(), &mut telling).await;
    match &access {
        Some(access) => {
            streams::check(config, access, identity.as_deref(), &mut telling).await;
            telling.add_all(access.hosts.clock());
        }
        None => streams::not_tried(config, &mut telling),
    }
    telling.found
}

/// Finds out whether a program could write this file, without making it or changing it. The result has the name of the
/// file as `name`.
pub fn file_that_is_written(subject: Subject, path: &Path) -> Finding {
    let finding = |verdict, what: String| Finding::new(subject, path.display().to_string(), verdict, what);
    let found = match path.metadata() {
        Ok(found) if found.is_dir() => Err(io::ErrorKind::IsADirectory.into()),
        // Opening a pipe would wait for its reader.
        Ok(found) if !found.is_file() => {
            return finding(Verdict::Note, "it is no regular file; only a run opens it".into());
        }
        Ok(_) => std::fs::OpenOptions::new().append(true).open(path).map(|_| "can be written"),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            can_make_files_beside(path).map(|()| "doesn't exist; a run can make it")
        }
        Err(error) => Err(error),
    };
    match found {
        Ok(what) => finding(Verdict::Ok, what.into()),
        Err(error) => {
            let (what, remedy) = judge::unwritable(path, &error);
            finding(Verdict::Failure, what).remedy(remedy)
        }
    }
}

/// Waits for the answer to a call, but not for long.
async fn within<T>(call: impl Future<Output = Result<T, Fault>>) -> Result<T, Fault> {
    let silence = || Fault::wire("Timeout", format_args!("no answer within {} s", access::CALL.as_secs()));
    timeout(access::CALL, call).await.map_err(|_| silence())?
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn call_without_an_answer_is_given_up() {
        let fault = within(std::future::pending::<Result<(), Fault>>()).await.unwrap_err();
        assert_eq!(crate::retry::trial(&fault), crate::retry::Trial::Unanswered, "{fault}");
        assert!(fault.to_string().contains("no answer within 10 s"), "{fault}");
    }
}
