//! Are our leases good?
//!
//! The keeper shows every few seconds that this worker is alive, which renews all its leases at once. It waits for
//! nothing but the store: not for reading, not for delivery. If it could not show itself for a lease period, others may
//! have taken our shards: then it stops reading them all before anything else is done.

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

/// The shortest timeout of a beat.
const SHORTEST_TIMEOUT: Duration = Duration::from_secs(1);
/// How long it may take to take back what a connect showed that was given up.
const TAKE_BACK_WITHIN: Duration = Duration::from_secs(5);
/// How long to wait after a beat that failed, at first.
const FIRST_RETRY: Duration = Duration::from_millis(300);

/// What a heartbeat finds out that concerns the rest of the input.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum LeaseEvent {
    /// The leases are past their time: every shard has to be given up.
    Expired,
    /// The leases count again.
    Recovered,
    /// Another worker asks this one to rebalance at once.
    Woken,
    /// Another process goes by the name of this worker, as the text says. No heartbeat follows.
    Replaced(String),
}

/// Hears of every [`LeaseEvent`], at once: when it returns, what follows from the event has been started.
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

/// Shows that this worker is alive.
#[derive(Debug)]
pub(crate) struct Heartbeat {
    pub(crate) store: Arc<dyn LeaseStore>,
    pub(crate) presence: Presence,
    pub(crate) lease: Duration,
    pub(crate) every: Duration,
    pub(crate) validity: Arc<LeaseValidity>,
    pub(crate) health: Arc<Health>,
    /// Hears of what concerns the rest of the input.
    pub(crate) on_event: EventHandler,
    pub(crate) wake_ups: u64,
}

/// How often to beat: three in a lease, so that one or two may fail, and often enough to hear of requests in time.
pub(crate) fn heartbeat_period(lease: Duration, commit: Duration) -> Duration {
    (lease / 3).min(commit)
}

/// How long a beat may be on its way: as long as until the next one is due, and a second at least where the lease leaves
/// room for that. A table that takes longer than a short `commit_period` is no reason to give up the leases.
pub(crate) fn heartbeat_timeout(lease: Duration, commit: Duration) -> Duration {
    heartbeat_period(lease, commit).max(SHORTEST_TIMEOUT).min(lease / 3)
}

/// The first beat. From when the tenure runs, and how often we were nudged.
///
/// # Cancel safety
///
/// A beat that is on its way can't be called back. If this is dropped, one of `tasks` waits for its answer and takes back what
/// it showed, so that the others don't wait for a worker that is not there.
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
        // Whatever the answer: the beat may have been written.
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
    /// Beats for ever, or until another process goes by our name.
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
            // Who slept for long finds out here, before others are told that we are alive.
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
                    // That our leases are over is not found out later for it.
                    sleep_until(if over { again } else { again.min(self.validity.end()) }).await;
                    ticks.reset_immediately();
                }
            }
        }
    }

    /// Whether our leases are over; if that is new, everything is stopped.
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
    fn three_beats_to_a_lease() {
        let seconds = Duration::from_secs;
        assert_eq!(heartbeat_period(seconds(30), seconds(5)), seconds(5));
        assert_eq!(heartbeat_period(seconds(6), seconds(5)), seconds(2));
    }

    #[test]
    fn a_short_commit_period_leaves_time_for_a_beat() {
        let millis = Duration::from_millis;
        assert_eq!(heartbeat_timeout(millis(30_000), millis(5_000)), millis(5_000));
        assert_eq!(heartbeat_timeout(millis(30_000), millis(100)), millis(1_000));
        assert_eq!(heartbeat_timeout(millis(1_500), millis(100)), millis(500));
    }
}
