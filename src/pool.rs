//! How much may be read and not yet acknowledged, over all shards?
//!
//! The pending pool bounds memory. Bytes are reserved before they leave the socket, records are reserved once an
//! event is decoded, and both are released on the final ack. Space is granted first come, first served over all
//! shards.
//!
//! ```text
//! frame prelude ─▶ reserve(bytes) ─▶ body, decode ─▶ shrink_to(bytes kept) ─▶ reserve_records(records) ─▶ … ─▶ final ack: drop
//! ```
//!
//! Bytes and records have separate queues. A decoded event that waits for records holds bytes; behind a waiter for
//! bytes in the same queue, each could wait for the other indefinitely.

use std::collections::{BTreeMap, HashSet};
use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::OnceLock;
use std::task::{Context, Poll, Waker};

use super::sync::{Arc, Mutex, lock};

/// The pending pool. It is cheap to clone; all clones share one pool.
#[derive(Debug, Clone)]
pub(crate) struct Pool {
    bytes: Arc<Budget>,
    records: Arc<Budget>,
    on_wait: Arc<OnWait>,
}

/// What is called when a reservation begins to wait. It is set at most once, before the pool is used.
#[derive(Default)]
struct OnWait(OnceLock<Box<dyn Fn() + Send + Sync>>);

impl fmt::Debug for OnWait {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("OnWait")
    }
}

/// The usage of the pool for one quantity.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Usage {
    /// The amount that is taken now.
    pub used: u64,
    /// The highest amount that was ever taken at once.
    pub peak: u64,
    /// The configured limit.
    pub capacity: u64,
    /// The number of reservations that wait for space.
    pub waiting: usize,
    /// The total amount that was ever released.
    pub returned: u64,
}

impl Pool {
    /// Creates a pool for these numbers of records and bytes; each is at least one.
    pub(crate) fn new(max_records: u64, max_bytes: u64) -> Self {
        let on_wait = Arc::new(OnWait::default());
        let budget = |capacity| Arc::new(Budget::new(capacity, Arc::clone(&on_wait)));
        Self { bytes: budget(max_bytes), records: budget(max_records), on_wait }
    }

    /// Calls this each time that a reservation begins to wait. What holds space and need not can then release it in time.
    pub(crate) fn on_wait(&self, call: impl Fn() + Send + Sync + 'static) {
        let _ = self.on_wait.0.set(Box::new(call));
    }

    /// Whether any reservation waits.
    pub(crate) fn has_waiters(&self) -> bool {
        self.bytes.has_waiters() || self.records.has_waiters()
    }

    /// Waits until `bytes` more may be held. A reservation larger than the whole pool is granted when nothing else is
    /// held.
    ///
    /// # Cancel safety
    ///
    /// A dropped wait leaves the queue and releases space that it was granted.
    pub(crate) fn reserve(&self, bytes: u64) -> Acquire {
        Budget::acquire(&self.bytes, bytes)
    }

    /// Waits until `records` more may be pending. This is cancel safe like [`reserve`](Self::reserve).
    pub(crate) fn reserve_records(&self, records: u64) -> Acquire {
        Budget::acquire(&self.records, records)
    }

    /// The usage of the pool in records.
    pub(crate) fn records(&self) -> Usage {
        self.records.usage()
    }

    /// The usage of the pool in bytes.
    pub(crate) fn bytes(&self) -> Usage {
        self.bytes.usage()
    }
}

/// One quantity with a limit, granted first come, first served.
#[derive(Debug)]
struct Budget {
    core: Mutex<Core>,
    on_wait: Arc<OnWait>,
}

/// The state of a quantity. It is pure: each method returns the wakers, and the caller wakes them after the lock is
/// released.
#[derive(Debug)]
struct Core {
    capacity: u64,
    used: u64,
    peak: u64,
    returned: u64,
    /// The waiters by ticket. Tickets only grow, so the first one has waited longest.
    waiting: BTreeMap<u64, Waiter>,
    /// Tickets that were granted but not yet polled; their amounts are part of `used`.
    served: HashSet<u64>,
    next_ticket: u64,
}

#[derive(Debug)]
struct Waiter {
    amount: u64,
    waker: Waker,
}

impl Core {
    fn fits(&self, amount: u64) -> bool {
        // Any amount fits into an empty pool: an event larger than the pool could otherwise never be read.
        self.used == 0 || self.used.checked_add(amount).is_some_and(|sum| sum <= self.capacity)
    }

    fn take(&mut self, amount: u64) {
        self.used += amount;
        self.peak = self.peak.max(self.used);
    }

    /// Grants space to the first waiters in the queue, as long as their amounts fit.
    fn serve(&mut self) -> Vec<Waker> {
        let mut wake = Vec::new();
        while let Some(first) = self.waiting.first_entry() {
            let amount = first.get().amount;
            if !self.fits(amount) {
                break;
            }
            // `fits` needs `self`, so the entry is looked up again.
            let Some((ticket, waiter)) = self.waiting.pop_first() else { break };
            self.take(amount);
            self.served.insert(ticket);
            wake.push(waiter.waker);
        }
        wake
    }

    fn give_back(&mut self, amount: u64) -> Vec<Waker> {
        self.used -= amount;
        self.returned += amount;
        self.serve()
    }
}

impl Budget {
    fn new(capacity: u64, on_wait: Arc<OnWait>) -> Self {
        let core = Core {
            capacity: capacity.max(1),
            used: 0,
            peak: 0,
            returned: 0,
            waiting: BTreeMap::new(),
            served: HashSet::new(),
            next_ticket: 0,
        };
        Self { core: Mutex::new(core), on_wait }
    }

    fn has_waiters(&self) -> bool {
        !lock(&self.core).waiting.is_empty()
    }

    fn acquire(budget: &Arc<Self>, amount: u64) -> Acquire {
        Acquire { budget: Arc::clone(budget), amount, state: Waiting::Unasked }
    }

    fn usage(&self) -> Usage {
        let core = lock(&self.core);
        Usage {
            used: core.used,
            peak: core.peak,
            capacity: core.capacity,
            waiting: core.waiting.len(),
            returned: core.returned,
        }
    }

    fn give_back(&self, amount: u64) {
        if amount > 0 {
            let wake = lock(&self.core).give_back(amount);
            wake.into_iter().for_each(Waker::wake);
        }
    }
}

/// A wait for space. It joins the queue when it is first polled.
#[derive(Debug)]
#[must_use = "a future does nothing unless it is awaited"]
pub(crate) struct Acquire {
    budget: Arc<Budget>,
    amount: u64,
    state: Waiting,
}

#[derive(Debug, Clone, Copy)]
enum Waiting {
    Unasked,
    InQueue(u64),
    Done,
}

impl Future for Acquire {
    type Output = Permit;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Permit> {
        let this = &mut *self;
        let mut core = lock(&this.budget.core);
        match this.state {
            Waiting::Unasked => {
                if core.waiting.is_empty() && core.fits(this.amount) {
                    core.take(this.amount);
                } else {
                    let ticket = core.next_ticket;
                    core.next_ticket += 1;
                    core.waiting.insert(ticket, Waiter { amount: this.amount, waker: cx.waker().clone() });
                    this.state = Waiting::InQueue(ticket);
                    drop(core);
                    if let Some(call) = this.budget.on_wait.0.get() {
                        call();
                    }
                    return Poll::Pending;
                }
            }
            Waiting::InQueue(ticket) => {
                if !core.served.remove(&ticket) {
                    if let Some(waiter) = core.waiting.get_mut(&ticket) {
                        waiter.waker.clone_from(cx.waker());
                    }
                    return Poll::Pending;
                }
            }
            // The future was polled again after it was ready, which no executor does.
            Waiting::Done => return Poll::Pending,
        }
        drop(core);
        this.state = Waiting::Done;
        Poll::Ready(Permit { budget: Arc::clone(&this.budget), amount: this.amount })
    }
}

impl Drop for Acquire {
    fn drop(&mut self) {
        let Waiting::InQueue(ticket) = self.state else { return };
        let wake = {
            let mut core = lock(&self.budget.core);
            if core.served.remove(&ticket) {
                core.give_back(self.amount)
            } else {
                core.waiting.remove(&ticket);
                // The next waiter may need less space, and fit.
                core.serve()
            }
        };
        wake.into_iter().for_each(Waker::wake);
    }
}

/// A permit for space in the pool, which is released when the permit is dropped.
#[derive(Debug)]
pub(crate) struct Permit {
    budget: Arc<Budget>,
    amount: u64,
}

impl Permit {
    /// The amount of space that the permit holds.
    pub(crate) fn amount(&self) -> u64 {
        self.amount
    }

    /// Keeps `amount` and releases the rest at once. If more is kept than was reserved, the pool counts it, so that
    /// the next reservation waits longer.
    pub(crate) fn shrink_to(&mut self, amount: u64) {
        if amount > self.amount {
            lock(&self.budget.core).take(amount - self.amount);
        } else {
            self.budget.give_back(self.amount - amount);
        }
        self.amount = amount;
    }

    /// Splits off a permit for `amount` (at most all) of this one.
    #[must_use]
    pub(crate) fn split(&mut self, amount: u64) -> Self {
        let amount = amount.min(self.amount);
        self.amount -= amount;
        Self { budget: Arc::clone(&self.budget), amount }
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        self.budget.give_back(self.amount);
    }
}
