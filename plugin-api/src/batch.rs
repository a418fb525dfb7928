//! What does a host ask for, and what does it get?

use std::num::NonZeroUsize;
use std::time::Duration;

use crate::{Message, Receipt};

/// How much a host wants, and how long it is willing to wait for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Demand {
    /// At most so many messages.
    pub max_messages: NonZeroUsize,
    /// Wait at most so long for the first of them; zero asks only for what is there already.
    pub max_wait: Duration,
}

impl Demand {
    /// At most `max_messages` (at least one), within `max_wait`.
    pub fn new(max_messages: usize, max_wait: Duration) -> Self {
        Self { max_messages: NonZeroUsize::new(max_messages).unwrap_or(NonZeroUsize::MIN), max_wait }
    }
}

/// Messages in the order in which they have to be processed, and the receipt to settle them with.
///
/// Dropping a batch nacks it, for its receipt is dropped.
#[derive(Debug)]
#[must_use = "a batch that is dropped is nacked"]
pub struct Batch {
    messages: Vec<Message>,
    receipt: Receipt,
}

impl Batch {
    /// A batch of these messages. `receipt` must expect as many verdicts as there are messages.
    pub fn new(messages: Vec<Message>, receipt: Receipt) -> Self {
        debug_assert_eq!(messages.len(), receipt.expected());
        Self { messages, receipt }
    }

    /// Nothing came in time.
    pub fn empty() -> Self {
        Self { messages: Vec::new(), receipt: Receipt::empty() }
    }

    /// The messages, oldest first.
    pub fn messages(&self) -> &[Message] {
        &self.messages
    }

    /// How many messages there are.
    pub fn len(&self) -> usize {
        self.messages.len()
    }

    /// Whether nothing came in time.
    pub fn is_empty(&self) -> bool {
        self.messages.is_empty()
    }

    /// The messages to process and the receipt to settle them with.
    pub fn into_parts(self) -> (Vec<Message>, Receipt) {
        (self.messages, self.receipt)
    }
}
