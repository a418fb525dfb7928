//! What does a host request, and what does it receive?

use std::num::NonZeroUsize;
use std::time::Duration;

use crate::{Message, Receipt};

/// The number of messages that a host requests, and the time it is willing to wait for them.
///
/// An input hands out as many messages as are ready, up to these limits, and does not wait for more once it has one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Demand {
    /// The host receives at most this many messages.
    pub max_messages: NonZeroUsize,
    /// The host receives at most this many bytes of payload, or one message that is larger; `None` for no such limit.
    pub max_bytes: Option<u64>,
    /// The input waits at most this long for the first message; zero requests only messages that are available
    /// already.
    pub max_wait: Duration,
}

impl Demand {
    /// Creates a demand for at most `max_messages` (at least one), within `max_wait`, of any size.
    pub fn new(max_messages: usize, max_wait: Duration) -> Self {
        let max_messages = NonZeroUsize::new(max_messages).unwrap_or(NonZeroUsize::MIN);
        Self { max_messages, max_bytes: None, max_wait }
    }

    /// Limits the payloads to this many bytes together. A message that is larger comes alone.
    #[must_use]
    pub fn max_bytes(self, max_bytes: u64) -> Self {
        Self { max_bytes: Some(max_bytes), ..self }
    }
}

/// Messages in the order in which they have to be processed, and the receipt that settles them.
///
/// A batch may hold messages of several ordering keys, in any mix. A host that works in parallel keeps the order of each
/// [`Message::ordering_key`].
///
/// Dropping a batch nacks it, because its receipt is dropped.
#[derive(Debug)]
#[must_use = "a batch that is dropped is nacked"]
pub struct Batch {
    messages: Vec<Message>,
    receipt: Receipt,
}

impl Batch {
    /// Creates a batch of these messages. The `receipt` must expect as many verdicts as there are messages.
    pub fn new(messages: Vec<Message>, receipt: Receipt) -> Self {
        debug_assert_eq!(messages.len(), receipt.expected());
        Self { messages, receipt }
    }

    /// Creates an empty batch: no message arrived in time.
    pub fn empty() -> Self {
        Self { messages: Vec::new(), receipt: Receipt::empty() }
    }

    /// Returns the messages, oldest first.
    pub fn messages(&self) -> &[Message] {
        &self.messages
    }

    /// Returns the number of messages.
    pub fn len(&self) -> usize {
        self.messages.len()
    }

    /// Returns `true` if no message arrived in time.
    pub fn is_empty(&self) -> bool {
        self.messages.is_empty()
    }

    /// Splits the batch into the messages to process and the receipt that settles them.
    pub fn into_parts(self) -> (Vec<Message>, Receipt) {
        (self.messages, self.receipt)
    }
}
