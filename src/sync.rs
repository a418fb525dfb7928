//! Which lock do the shared rooms use?
//!
//! `pool.rs` names its lock through here, so that a test can compile the very same file against a lock whose
//! every interleaving is explored.

pub(crate) use std::sync::{Arc, Mutex, MutexGuard};

/// Takes a lock whose holder may have panicked: what the shared rooms keep under a lock is whole at every point
/// where a panic could leave it.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}
