//! What does the lease table say of the other workers, and how old is that?
//!
//! The table is read only on request, and at most once in [`READ_EVERY`] for any number of requests: a read of the whole
//! table costs its owner money and capacity. Requests in between are answered from the last read.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use kinesis_input::StoreError;
use kinesis_input::inspect::Overview;
use tokio::sync::Notify;
use tokio::time::{Instant, timeout};

use super::status::Fleet;

/// The shortest time between two reads.
pub(crate) const READ_EVERY: Duration = Duration::from_secs(30);
/// A read that takes longer than this has failed. It ends before the next one may begin.
const READ_WITHIN: Duration = Duration::from_secs(20);
/// How long a look waits for a read that has begun. A slow table must not keep the page from its reader.
const LOOK_WITHIN: Duration = Duration::from_millis(700);

/// A read of the lease table of each input that shares one. It does nothing until it is awaited.
pub(crate) trait Reads: Future<Output = Vec<Result<Overview, StoreError>>> + Send + 'static {}

impl<F: Future<Output = Vec<Result<Overview, StoreError>>> + Send + 'static> Reads for F {}

/// The last content of the lease table.
#[derive(Debug, Default)]
pub(crate) struct FleetCache {
    state: Mutex<Cached>,
    read: Notify,
}

#[derive(Debug, Default)]
struct Cached {
    /// When the last read began.
    began: Option<Instant>,
    is_reading: bool,
    last: Option<(Instant, Arc<Fleet>)>,
    error: Option<String>,
}

impl FleetCache {
    fn state(&self) -> MutexGuard<'_, Cached> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns what is known, and begins a read if that is due; `reads` reads the table of each input that shares one.
    #[expect(clippy::disallowed_methods, reason = "a read goes on if the one who asked for it leaves")]
    pub(crate) async fn look(self: &Arc<Self>, reads: impl Reads) -> Fleet {
        let read = self.read.notified();
        let mut read = std::pin::pin!(read);
        // The waiter is registered before the read begins, so that its end is not missed.
        read.as_mut().enable();
        let is_due = {
            let mut state = self.state();
            let is_due = state.began.is_none_or(|began| began.elapsed() >= READ_EVERY);
            if is_due {
                (state.is_reading, state.began) = (true, Some(Instant::now()));
            }
            is_due
        };
        if is_due {
            let cache = Arc::clone(self);
            tokio::spawn(async move { cache.refresh(reads).await });
        }
        if self.state().is_reading {
            let _ = timeout(LOOK_WITHIN, read).await;
        }
        self.known()
    }

    async fn refresh(&self, reads: impl Reads) {
        let seen = match timeout(READ_WITHIN, reads).await {
            Ok(seen) => seen.into_iter().collect::<Result<Vec<_>, _>>().map_err(|error| error.to_string()),
            Err(_) => Err(format!("the lease table did not answer within {} s", READ_WITHIN.as_secs())),
        };
        let mut state = self.state();
        state.is_reading = false;
        match seen {
            Ok(seen) => (state.last, state.error) = (Some((Instant::now(), Arc::new(Fleet::new(&seen)))), None),
            Err(error) => state.error = Some(error),
        }
        drop(state);
        self.read.notify_waiters();
    }

    fn known(&self) -> Fleet {
        let (last, error) = {
            let state = self.state();
            (state.last.clone(), state.error.clone())
        };
        let (read_seconds_ago, fleet) = match last {
            Some((at, fleet)) => (Some(at.elapsed().as_millis() as f64 / 1000.0), Fleet::clone(&fleet)),
            None => (None, Fleet::unread()),
        };
        Fleet { read_seconds_ago, error, ..fleet }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU64, Ordering};

    use tokio::time::{advance, sleep};

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn table_is_read_once_in_half_a_minute_however_many_look() {
        let (cache, reads) = (Arc::new(FleetCache::default()), Arc::new(AtomicU64::new(0)));
        let look = || {
            let reads = Arc::clone(&reads);
            cache.look(async move {
                reads.fetch_add(1, Ordering::Relaxed);
                vec![Ok(Overview::default())]
            })
        };
        for _ in 0..10 {
            assert!(look().await.shared);
        }
        assert_eq!(reads.load(Ordering::Relaxed), 1);
        advance(Duration::from_secs(29)).await;
        assert_eq!(look().await.read_seconds_ago, Some(29.0));
        advance(Duration::from_secs(1)).await;
        assert_eq!(look().await.read_seconds_ago, Some(0.0));
        assert_eq!(reads.load(Ordering::Relaxed), 2);
        // Without a request nothing is read.
        sleep(READ_EVERY * 100).await;
        assert_eq!(reads.load(Ordering::Relaxed), 2);
    }

    #[tokio::test(start_paused = true)]
    async fn slow_table_keeps_nobody_waiting_and_its_last_content_stays() {
        let cache = Arc::new(FleetCache::default());
        let start = Instant::now();
        let fleet = cache.look(std::future::pending()).await;
        assert!(!fleet.shared && fleet.error.is_none() && start.elapsed() <= LOOK_WITHIN);
        advance(READ_EVERY).await;
        cache.look(async { vec![Ok(Overview::default())] }).await;
        advance(READ_EVERY).await;
        cache.look(std::future::pending()).await;
        sleep(READ_WITHIN).await;
        let fleet = cache.look(std::future::pending()).await;
        assert!(fleet.shared && fleet.read_seconds_ago >= Some(50.0), "{fleet:?}");
        assert!(fleet.error.is_some_and(|error| error.contains("did not answer")));
    }
}
