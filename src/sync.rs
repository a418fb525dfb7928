//! Which lock does the shared state use?
//!
//! `pool.rs` gets its lock from this module, so that a test can compile the same file with a lock whose every
//! interleaving is explored.

pub(crate) use std::sync::{Arc, Mutex, MutexGuard};

/// Locks a mutex even if a holder panicked: the shared state under a lock is complete at every point where a panic
/// could occur.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}
