//! What is the state of the simulated services, and what observes it?

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::Waker;
use std::time::Duration;

use serde_json::Value;

use crate::dynamodb::{DynamoDb, Times, Watcher};
use crate::faults::Link;
use crate::kinesis::{Kinesis, Next, ServiceError, Settings, SubscriptionId};
use crate::time::Time;

/// Kinesis and DynamoDB of one account, for any number of clients. It is cheap to clone.
#[derive(Clone)]
pub struct Simulator {
    core: Arc<Mutex<Core>>,
}

struct Core {
    kinesis: Kinesis,
    dynamodb: DynamoDb,
    /// The wakers of the readers that wait for the next event of a subscription.
    waiting: BTreeMap<SubscriptionId, Waker>,
    log: Option<CallLog>,
    caller: Option<CallWatcher>,
}

/// A function that is given every call: when, over which link, which operation, its input, and its result.
pub type CallLog = Box<dyn FnMut(Time, &str, &str, &str, &str) + Send>;

/// A call that reached Kinesis.
#[derive(Debug, Clone, Copy)]
pub struct Call<'a> {
    /// When the call arrived.
    pub at: Time,
    /// The name of the link that it came over.
    pub by: &'a str,
    /// The name of the operation.
    pub operation: &'a str,
    /// The input of the call.
    pub asked: &'a Value,
    /// The error, if the call was refused.
    pub error: Option<&'a ServiceError>,
    /// Whether the answer is sent to the caller.
    pub answered: bool,
}

/// A function that is shown every call that reached Kinesis.
pub type CallWatcher = Box<dyn FnMut(&Call<'_>) + Send>;

impl fmt::Debug for Simulator {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Simulator").finish_non_exhaustive()
    }
}

impl Simulator {
    /// An account without streams and tables.
    ///
    /// # Errors
    ///
    /// Fails if the database behind the tables can't be created.
    pub fn new(settings: Settings) -> Result<Self, dynoxide::DynoxideError> {
        let lag = settings.table_lag;
        let core = Core {
            kinesis: Kinesis::new(settings),
            dynamodb: DynamoDb::new(lag)?,
            waiting: BTreeMap::new(),
            log: None,
            caller: None,
        };
        Ok(Self { core: Arc::new(Mutex::new(core)) })
    }

    /// How many owners the account has: this handle, and whatever else was made of a clone and is not dropped yet.
    #[must_use]
    pub fn owners(&self) -> usize {
        Arc::strong_count(&self.core)
    }

    fn core(&self) -> MutexGuard<'_, Core> {
        self.core.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Calls Kinesis directly, beside its clients, and wakes the readers that it concerns.
    pub fn kinesis<T>(&self, what: impl FnOnce(&mut Kinesis) -> T) -> T {
        let mut core = self.core();
        let done = what(&mut core.kinesis);
        core.wake();
        done
    }

    /// Has every row of the table that is written shown to a watcher.
    pub fn watch_table(&self, watcher: Watcher) {
        self.core().dynamodb.watch(watcher);
    }

    /// Has every call that reaches Kinesis shown to a watcher.
    pub fn watch_calls(&self, watcher: CallWatcher) {
        self.core().caller = Some(watcher);
    }

    /// Calls the table directly, beside its clients. Returns the status and the body of the answer.
    pub fn table(&self, operation: &str, body: &Value) -> (u16, String) {
        self.core().dynamodb.call(operation, &body.to_string(), "", None)
    }

    /// Has descriptions of tables show this status. The tables are served all the same.
    pub fn set_table_status(&self, status: Option<&'static str>) {
        self.core().dynamodb.set_status(status);
    }

    /// Has every call logged.
    pub fn log_calls(&self, log: CallLog) {
        self.core().log = Some(log);
    }

    /// How long the credentials of a role are valid.
    pub(crate) fn role_lifetime(&self) -> Duration {
        self.core().kinesis.settings().role_lifetime
    }

    /// Carries out a call of a client to the table. Returns the status and the body of the answer.
    pub(crate) fn call_table(&self, operation: &str, body: &str, link: &Link, times: Times) -> (u16, String) {
        let (status, answer) = self.core().dynamodb.call(operation, body, &link.name(), Some(times));
        self.log_call(times.now, link, operation, body, &answer);
        (status, answer)
    }

    /// Shows a call that reached Kinesis to the watcher.
    pub(crate) fn show_call(&self, call: &Call<'_>) {
        if let Some(watcher) = &mut self.core().caller {
            watcher(call);
        }
    }

    /// Whether calls are logged.
    pub(crate) fn is_logging(&self) -> bool {
        self.core().log.is_some()
    }

    /// Logs a call.
    pub(crate) fn log_call(&self, now: Time, link: &Link, operation: &str, asked: &str, answer_text: &str) {
        let mut core = self.core();
        if let Some(log) = &mut core.log {
            log(now, &link.name(), operation, asked, answer_text);
        }
    }

    /// The next event of a subscription. If there is none yet, `waker` is woken when something changes.
    pub(crate) fn next(&self, id: SubscriptionId, now: Time, waker: &Waker) -> Next {
        let mut core = self.core();
        let next = core.kinesis.next(id, now);
        if matches!(next, Next::Wait(_)) {
            core.waiting.insert(id, waker.clone());
        }
        core.wake();
        next
    }

    pub(crate) fn close(&self, id: SubscriptionId) {
        let mut core = self.core();
        core.waiting.remove(&id);
        core.kinesis.close(id);
    }
}

impl Core {
    fn wake(&mut self) {
        for id in self.kinesis.take_touched() {
            if let Some(waker) = self.waiting.remove(&id) {
                waker.wake();
            }
        }
    }
}
