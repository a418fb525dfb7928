//! A value whose changes tasks can wait for.
//!
//! It resembles tokio's `watch`, except that the tasks are woken in the order in which they began to wait; in `watch`
//! the order is random, and a run would not be the same every time.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;

#[derive(Debug)]
pub(crate) struct Signal<T>(Arc<Core<T>>);

#[derive(Debug)]
struct Core<T> {
    value: Mutex<T>,
    changed: Notify,
}

impl<T> Clone for Signal<T> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

impl<T: Copy + PartialEq> Signal<T> {
    pub(crate) fn new(value: T) -> Self {
        Self(Arc::new(Core { value: Mutex::new(value), changed: Notify::new() }))
    }

    fn value(&self) -> MutexGuard<'_, T> {
        self.0.value.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn get(&self) -> T {
        *self.value()
    }

    pub(crate) fn set(&self, value: T) {
        *self.value() = value;
        self.0.changed.notify_waiters();
    }

    /// Waits until the value differs from `old`. Cancel safe.
    pub(crate) async fn is_not(&self, old: T) {
        loop {
            let changed = self.0.changed.notified();
            let mut changed = std::pin::pin!(changed);
            // The waiter is registered before the value is read, so that a change in between is not missed.
            changed.as_mut().enable();
            if self.get() != old {
                return;
            }
            changed.await;
        }
    }
}
