//! Which process, and which of its connects, wrote a heartbeat?

use std::sync::atomic::{AtomicU64, Ordering};

/// The lives of one input: each of its connects has one.
#[derive(Debug)]
pub(crate) struct Lives {
    /// A random number that tells the input from others that use the same name.
    input: u64,
    connects: AtomicU64,
}

impl Lives {
    /// Creates the lives of an input.
    pub(crate) fn new() -> Self {
        Self { input: fastrand::u64(..), connects: AtomicU64::new(0) }
    }

    /// Begins the life of the next connect.
    pub(crate) fn next(&self) -> Life {
        let of_input = format!("{:016x}-", self.input);
        let connect = self.connects.fetch_add(1, Ordering::Relaxed);
        Life { text: format!("{of_input}{connect}"), of_input }
    }
}

/// The life of one connect.
#[derive(Debug)]
pub(crate) struct Life {
    text: String,
    of_input: String,
}

impl Life {
    pub(super) fn text(&self) -> &str {
        &self.text
    }

    /// What all lives of the same input begin with.
    pub(super) fn of_input(&self) -> &str {
        &self.of_input
    }
}
