//! Scenarios of what must not go wrong, run by a scripted service on virtual time.
//!
//! - [`script`]: the service; [`bench`](mod@bench): a session that reads it.
//! - `aggregates`: records that producers packed into one; `batches`: what is handed out together;
//!   `faults`: what goes wrong with subscriptions; `shards`: ends, parents and children; `bounds`: the pool and acks;
//!   `stalls`: what must not block other shards; `logs`: what an operator sees in metrics and in the log; `reports`: what an
//!   operator is told on request; `polling`: shards that are polled; `redelivery`: records that are rejected again and again;
//!   `workers`: several workers that share shards in one `table`; `connect_beside`: workers of Connect among them; `edges`:
//!   faults outside a well-behaved world: recreated streams, panics, stores and hosts that fail for long.

mod aggregates;
mod batches;
mod bench;
mod bounds;
mod connect_beside;
mod costs;
mod edges;
mod faults;
mod logs;
mod polling;
mod redelivery;
mod reports;
mod script;
mod shards;
mod stalls;
mod table;
mod workers;

/// A service with one silent shard.
pub(crate) fn a_service() -> std::sync::Arc<dyn crate::aws::Service> {
    std::sync::Arc::new(script::Script::new(["a"]))
}

/// A service with one silent shard, and what splits that shard.
pub(crate) fn service_that_splits() -> (std::sync::Arc<dyn crate::aws::Service>, impl FnOnce()) {
    let script = std::sync::Arc::new(script::Script::new(["a"]));
    let service = std::sync::Arc::clone(&script);
    let split = move || {
        let children = ["b", "c"].map(|id| script::listed(id, &["a"], false));
        script.list(std::iter::once(script::listed("a", &[], true)).chain(children).collect());
    };
    (service, split)
}
