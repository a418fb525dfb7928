//! The pool, alone and under every interleaving.
//!
//! `pool.rs` is compiled here a second time, against a lock whose schedules are explored.

use std::future::Future;
use std::pin::pin;
use std::task::{Context, Poll, Waker};

use shuttle::sync::atomic::{AtomicU64, Ordering};

#[allow(dead_code, unreachable_pub, clippy::duplicate_mod, reason = "compiled a second time, on purpose")]
#[path = "pool.rs"]
mod pool;

mod sync {
    pub(crate) use shuttle::sync::{Arc, Mutex, MutexGuard};

    pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
        mutex.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

use pool::{Acquire, Permit, Pool};

/// One schedule is enough for a test with one task.
fn alone(test: impl Fn() + Send + Sync + 'static) {
    shuttle::check_random(test, 1);
}

fn poll(acquire: &mut Acquire) -> Option<Permit> {
    match pin!(acquire).poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(permit) => Some(permit),
        Poll::Pending => None,
    }
}

fn now(mut acquire: Acquire) -> Option<Permit> {
    poll(&mut acquire)
}

#[test]
fn dropped_permit_frees_its_space() {
    alone(|| {
        let pool = Pool::new(10, 100);
        let permit = now(pool.reserve(100)).unwrap();
        assert!(now(pool.reserve(1)).is_none());
        drop(permit);
        assert_eq!((pool.bytes().used, pool.bytes().peak, pool.bytes().returned), (0, 100, 100));
        drop(now(pool.reserve(20)));
        assert_eq!((pool.bytes().peak, pool.bytes().returned), (100, 120));
    });
}

#[test]
fn event_larger_than_the_pool() {
    alone(|| {
        let pool = Pool::new(10, 100);
        let small = now(pool.reserve(1)).unwrap();
        let mut large = pool.reserve(1000);
        assert!(poll(&mut large).is_none(), "admitted beside another");
        drop(small);
        let large = poll(&mut large).unwrap();
        assert!(now(pool.reserve(1)).is_none(), "another admitted beside it");
        drop(large);
        assert_eq!(pool.bytes().used, 0);
    });
}

#[test]
fn waiters_are_served_in_order_even_if_a_later_one_would_fit() {
    alone(|| {
        let pool = Pool::new(10, 100);
        let held = now(pool.reserve(60)).unwrap();
        let mut large = pool.reserve(50);
        let mut small = pool.reserve(10);
        assert!(poll(&mut large).is_none() && poll(&mut small).is_none());
        drop(held);
        assert!(poll(&mut large).is_some());
        assert!(poll(&mut small).is_some());
    });
}

#[test]
fn waiter_that_leaves_the_queue_admits_the_next() {
    alone(|| {
        let pool = Pool::new(10, 100);
        let _held = now(pool.reserve(60)).unwrap();
        let mut large = pool.reserve(50);
        let mut small = pool.reserve(10);
        assert!(poll(&mut large).is_none() && poll(&mut small).is_none());
        drop(large);
        assert!(poll(&mut small).is_some());
    });
}

#[test]
fn permit_shrinks_splits_and_counts_its_growth() {
    alone(|| {
        let pool = Pool::new(10, 100);
        let mut permit = now(pool.reserve(80)).unwrap();
        permit.shrink_to(30);
        assert_eq!(pool.bytes().used, 30);
        let part = permit.split(10);
        assert_eq!((part.amount(), permit.amount(), pool.bytes().used), (10, 20, 30));
        drop(part);
        permit.shrink_to(150);
        assert_eq!(pool.bytes().used, 150);
        drop(permit);
        assert_eq!(pool.bytes().used, 0);
    });
}

#[test]
fn waiting_records_are_not_queued_behind_waiting_bytes() {
    alone(|| {
        let pool = Pool::new(10, 100);
        let delivered = now(pool.reserve_records(10)).unwrap();
        let _event = now(pool.reserve(100)).unwrap();
        let mut next_frame = pool.reserve(50);
        assert!(poll(&mut next_frame).is_none());
        let mut records = pool.reserve_records(5);
        assert!(poll(&mut records).is_none());
        assert_eq!((pool.records().used, pool.records().capacity, pool.records().waiting), (10, 10, 1));
        drop(delivered);
        assert!(poll(&mut records).is_some(), "the event would hold its bytes indefinitely");
    });
}

/// Tasks take, hold and return permits, and some of them give up while they wait: at any point, in any order, no task
/// waits indefinitely, the bound holds, and in the end all permits are returned.
#[test]
fn cancelled_waiters() {
    shuttle::check_random(
        || {
            let pool = Pool::new(3, 1);
            let held = sync::Arc::new(AtomicU64::new(0));
            let tasks: Vec<_> = [(1, false), (2, true), (3, false), (2, true), (1, false)]
                .into_iter()
                .map(|(amount, gives_up)| {
                    let (pool, held) = (pool.clone(), sync::Arc::clone(&held));
                    shuttle::future::spawn(async move {
                        let mut wait = pool.reserve_records(amount);
                        if gives_up {
                            // Polled once with the task's own waker, then dropped wherever the schedule has got to.
                            let first = std::future::poll_fn(|cx| Poll::Ready(pin!(&mut wait).poll(cx))).await;
                            shuttle::future::yield_now().await;
                            drop((first, wait));
                            return;
                        }
                        let permit = wait.await;
                        let now = held.fetch_add(amount, Ordering::SeqCst) + amount;
                        assert!(now <= 3, "{now} held of 3");
                        shuttle::future::yield_now().await;
                        held.fetch_sub(amount, Ordering::SeqCst);
                        drop(permit);
                    })
                })
                .collect();
            shuttle::future::block_on(async {
                for task in tasks {
                    task.await.unwrap();
                }
            });
            assert_eq!((pool.records().used, pool.records().waiting), (0, 0));
        },
        2000,
    );
}
