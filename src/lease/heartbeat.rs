//! What keeps the leases of this worker valid?
//!
//! The heartbeat shows every few seconds that this worker is alive, which renews all its leases at once. It waits for
//! nothing but the store: neither for reading nor for delivery. If no heartbeat succeeds for a lease period, other
//! workers may have taken over the shards of this worker. Reading of all shards then stops before anything else is
//! done.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::oneshot;
use tokio::time::{Instant, MissedTickBehavior, interval, sleep_until, timeout};
use tokio_util::task::TaskTracker;

use super::validity::LeaseValidity;
use super::{HeartbeatAnswer, LeaseStore, Presence, SharedStore, StoreError};
use crate::retry::backoff::Backoff;
use crate::telemetry;
use crate::telemetry::health::{Health, Part};

/// The shortest timeout of a heartbeat, where the lease leaves room for it.
const SHORTEST_TIMEOUT: Duration = Duration::from_secs(1);
/// How long the worker's row may take to be removed after a connect that was dropped.
const TAKE_BACK_WITHIN: Duration = Duration::from_secs(5);
/// The first delay after a failed heartbeat.
const FIRST_RETRY: Duration = Duration::from_millis(300);

/// An event of the heartbeat that concerns the rest of the input.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum LeaseEvent {
    /// The leases have expired: every shard must be given up.
    Expired,
    /// The leases are valid again.
    Recovered,
    /// Another worker asks this one to rebalance at once.
    Woken,
    /// Another process uses the name of this worker, as the text says. No further heartbeat is sent.
    Replaced(String),
}

/// The handler that is called at once with every [`LeaseEvent`]. When it returns, what follows from the event has been
/// started.
pub(crate) struct EventHandler(Box<dyn Fn(LeaseEvent) + Send + Sync>);

impl EventHandler {
    pub(crate) fn new(hear: impl Fn(LeaseEvent) + Send + Sync + 'static) -> Self {
        Self(Box::new(hear))
    }
}

impl fmt::Debug for EventHandler {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("EventHandler")
    }
}

/// The task that shows that this worker is alive.
#[derive(Debug)]
pub(crate) struct Heartbeat {
    /// The store that the heartbeats are written to.
    pub(crate) store: Arc<dyn LeaseStore>,
    /// What the heartbeats publish about this worker.
    pub(crate) presence: Presence,
    /// The lease period, by which each successful heartbeat extends the validity.
    pub(crate) lease: Duration,
    /// The time between two heartbeats.
    pub(crate) every: Duration,
    /// The validity of the leases, which the heartbeat extends and ends.
    pub(crate) validity: Arc<LeaseValidity>,
    /// The health, which is told about failed heartbeats and expired leases.
    pub(crate) health: Arc<Health>,
    /// The handler of the events that concern the rest of the input.
    pub(crate) on_event: EventHandler,
    /// The number of wake-ups at the last heartbeat. A heartbeat that returns another number causes
    /// [`LeaseEvent::Woken`].
    pub(crate) wake_ups: u64,
}

/// The time between two heartbeats: at most a third of the lease period, so that one or two may fail, and at most the
/// commit period, so that requests of other workers are seen in time.
pub(crate) fn heartbeat_period(lease: Duration, commit: Duration) -> Duration {
    (lease / 3).min(commit)
}

/// The timeout of a heartbeat: the time until the next one is due, and at least one second where the lease leaves room
/// for it. A table that takes longer than a short `commit_period` is no reason to give up the leases.
pub(crate) fn heartbeat_timeout(lease: Duration, commit: Duration) -> Duration {
    heartbeat_period(lease, commit).max(SHORTEST_TIMEOUT).min(lease / 3)
}

/// Sends the first heartbeat. Returns the validity of the leases, which counts from before the heartbeat was sent, and
/// the number of wake-ups so far.
///
/// # Cancel safety
///
/// A heartbeat on its way can't be called back. If this future is dropped, one of `tasks` waits for the answer and
/// removes the worker's row, so that the other workers don't wait for a worker that does not exist.
pub(crate) async fn begin(
    store: &Arc<dyn LeaseStore>,
    presence: Presence,
    lease: Duration,
    tasks: &TaskTracker,
) -> Result<(LeaseValidity, u64), StoreError> {
    let start = Instant::now();
    let (answer, answered) = oneshot::channel();
    let store = Arc::clone(store);
    tasks.spawn(async move {
        let Some(shared) = store.shared() else { return };
        let outcome = match shared.heartbeat(&presence).await {
            Ok(HeartbeatAnswer::Replaced) => Err(replaced(shared)),
            other => other,
        };
        // The row is removed whatever the answer says, because the heartbeat may have been written.
        if answer.send(outcome).is_err()
            && let Ok(Err(error)) = timeout(TAKE_BACK_WITHIN, shared.leave()).await
        {
            telemetry::heartbeat_failed(&error, 1);
        }
    });
    match answered.await {
        Ok(Ok(HeartbeatAnswer::Alive { wake_ups })) => Ok((LeaseValidity::until(start + lease), wake_ups)),
        Ok(Err(error)) => Err(error),
        Ok(Ok(HeartbeatAnswer::Replaced)) | Err(_) => Err(StoreError::Failed {
            what: "show that this worker is alive",
            cause: "the task that does so ended".into(),
        }),
    }
}

fn replaced(store: &dyn SharedStore) -> StoreError {
    StoreError::Replaced { worker: store.me().to_string() }
}

impl Heartbeat {
    /// Sends heartbeats indefinitely, or until another process uses the name of this worker.
    pub(crate) async fn run(mut self) {
        let Some(store) = self.store.shared() else { return };
        let mut ticks = interval(self.every);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        ticks.tick().await;
        self.health.meter.leases_valid();
        let mut backoff = Backoff::new(FIRST_RETRY.min(self.every), self.every);
        let mut over = false;
        loop {
            ticks.tick().await;
            // A process that was suspended for long finds out here, before its next heartbeat tells the other workers
            // that it is alive.
            over = self.check(over);
            let start = Instant::now();
            let heartbeat = store.heartbeat(&self.presence);
            let mut heartbeat = std::pin::pin!(heartbeat);
            let outcome = loop {
                tokio::select! {
                    biased;
                    () = sleep_until(self.validity.end()), if !over => over = self.check(over),
                    outcome = &mut heartbeat => break outcome,
                }
            };
            match outcome {
                Ok(HeartbeatAnswer::Alive { wake_ups }) => {
                    self.validity.extend(start + self.lease);
                    backoff.reset();
                    self.health.recovered(&Part::LeaseTable);
                    if over {
                        self.health.leases_renewed();
                        over = false;
                        (self.on_event.0)(LeaseEvent::Recovered);
                    }
                    if wake_ups != self.wake_ups {
                        self.wake_ups = wake_ups;
                        (self.on_event.0)(LeaseEvent::Woken);
                    }
                }
                Ok(HeartbeatAnswer::Replaced) => {
                    (self.on_event.0)(LeaseEvent::Replaced(replaced(store).to_string()));
                    return;
                }
                Err(error) => {
                    let again = Instant::now() + backoff.next_delay(fastrand::f64());
                    telemetry::heartbeat_failed(&error, backoff.tries());
                    self.health.failing(Part::LeaseTable, &format!("the leases can't be renewed: {error}"));
                    // The wait ends when the leases expire, so that the retry delay does not hide the expiry.
                    sleep_until(if over { again } else { again.min(self.validity.end()) }).await;
                    ticks.reset_immediately();
                }
            }
        }
    }

    /// Returns whether the leases are expired. If that is new, everything is stopped.
    fn check(&self, before: bool) -> bool {
        let over = self.validity.is_expired();
        if over && !before {
            self.validity.expire();
            (self.on_event.0)(LeaseEvent::Expired);
            self.health.leases_expired(self.lease);
        }
        over
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lease_period_has_three_heartbeats() {
        let seconds = Duration::from_secs;
        assert_eq!(heartbeat_period(seconds(30), seconds(5)), seconds(5));
        assert_eq!(heartbeat_period(seconds(6), seconds(5)), seconds(2));
    }

    #[test]
    fn short_commit_period_leaves_time_for_a_heartbeat() {
        let millis = Duration::from_millis;
        assert_eq!(heartbeat_timeout(millis(30_000), millis(5_000)), millis(5_000));
        assert_eq!(heartbeat_timeout(millis(30_000), millis(100)), millis(1_000));
        assert_eq!(heartbeat_timeout(millis(1_500), millis(100)), millis(500));
    }
}
