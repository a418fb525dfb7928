//! On which threads are shards read?
//!
//! Shards are read on a few threads of the input's own. A connection and the shards that it carries then share a
//! core: decrypted bytes are decoded while they are in that core's cache, and no thread on another core has to be
//! woken up for each piece. Spread over all threads of a host, reading costs a quarter more (docs/performance.md). A
//! host that blocks its threads does not keep a connection from being answered either.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::runtime::{Builder, Handle};
use tokio::sync::oneshot;
use tokio_util::sync::{CancellationToken, DropGuard};

use crate::aws::Service;
use crate::sync::{Mutex, lock};

/// A thread that shards are read on, or all threads of the host, with connections of its own.
#[derive(Debug, Clone)]
pub(crate) struct Thread {
    /// The runtime that the tasks of the thread run on.
    pub(crate) handle: Handle,
    pub(crate) service: Arc<dyn Service>,
}

/// The threads of an input. They end, with all tasks that run on them, when this value is dropped.
#[derive(Debug)]
pub(crate) struct Threads {
    all: Vec<Thread>,
    next: AtomicUsize,
    own: Mutex<Vec<Own>>,
}

#[derive(Debug)]
struct Own {
    stop: DropGuard,
    /// The thread drops the sender when it ends.
    ended: oneshot::Receiver<()>,
}

impl Threads {
    /// Reads on the threads of the caller's runtime.
    pub(crate) fn here(service: Arc<dyn Service>) -> Self {
        let all = vec![Thread { handle: Handle::current(), service }];
        Self { all, next: AtomicUsize::new(0), own: Mutex::default() }
    }

    /// Starts `count` threads, each with the service that `service` creates; uses the caller's threads if `count` is
    /// 0.
    pub(crate) fn start(count: usize, mut service: impl FnMut() -> Arc<dyn Service>) -> io::Result<Self> {
        if count == 0 {
            return Ok(Self::here(service()));
        }
        let (mut all, mut running) = (Vec::new(), Vec::new());
        for number in 0..count {
            let (handle, own) = Own::start(number)?;
            all.push(Thread { handle, service: service() });
            running.push(own);
        }
        Ok(Self { all, next: AtomicUsize::new(0), own: Mutex::new(running) })
    }

    /// The thread that gets the next shard; the threads alternate.
    pub(crate) fn next(&self) -> &Thread {
        let turn = self.next.fetch_add(1, Ordering::Relaxed);
        // There is at least one.
        &self.all[turn % self.all.len()]
    }

    /// Waits until the threads have ended; no shard may be read after this call.
    pub(crate) async fn end(&self) {
        let own = std::mem::take(&mut *lock(&self.own));
        for Own { stop, ended } in own {
            drop(stop);
            // The sender is only ever dropped.
            let _ = ended.await;
        }
    }
}

impl Own {
    fn start(number: usize) -> io::Result<(Handle, Self)> {
        let runtime = Builder::new_current_thread().enable_all().build()?;
        let handle = runtime.handle().clone();
        let stop = CancellationToken::new();
        let stopped = stop.clone();
        let (ending, ended) = oneshot::channel::<()>();
        // A host may send its logs elsewhere on each of its threads.
        let logs = tracing::dispatcher::get_default(Clone::clone);
        std::thread::Builder::new().name(format!("kinesis-read-{number}")).spawn(move || {
            tracing::dispatcher::with_default(&logs, || {
                runtime.block_on(stopped.cancelled());
                // This ends all remaining tasks and the connections. It does not wait for name resolution: the system
                // may take minutes to give up on a name.
                runtime.shutdown_background();
                drop(ending);
            });
        })?;
        Ok((handle, Self { stop: stop.drop_guard(), ended }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scenarios::a_service;

    #[tokio::test]
    async fn shards_are_assigned_to_threads_in_turn_and_the_threads_end() {
        let threads = Threads::start(2, a_service).unwrap();
        let mut names = Vec::new();
        for _ in 0..4 {
            let name = threads.next().handle.spawn(async { std::thread::current().name().map(ToOwned::to_owned) });
            names.push(name.await.unwrap().unwrap());
        }
        assert_eq!(names, ["kinesis-read-0", "kinesis-read-1", "kinesis-read-0", "kinesis-read-1"]);
        let (alive, gone) = oneshot::channel::<()>();
        threads.next().handle.spawn(async move {
            let _held = alive;
            std::future::pending::<()>().await;
        });
        threads.end().await;
        assert!(gone.await.is_err(), "a task outlived its thread");
    }

    #[tokio::test]
    async fn stop_with_a_hanging_resolver() {
        let threads = Threads::start(1, a_service).unwrap();
        let (answer, answered) = std::sync::mpsc::channel::<()>();
        let (asking, asked) = oneshot::channel();
        // The resolver works like this: a call into the system that can't be cancelled.
        threads.next().handle.spawn_blocking(move || {
            let _ = asking.send(());
            answered.recv()
        });
        asked.await.unwrap();
        tokio::time::timeout(std::time::Duration::from_mins(1), threads.end())
            .await
            .expect("it waits for the resolver");
        drop(answer);
    }
}
