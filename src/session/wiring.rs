//! Which part is told of which event?

use std::sync::Arc;

use tokio::sync::Notify;

use super::completion::Completion;
use crate::lease::heartbeat::{EventHandler, LeaseEvent};
use crate::shards::checkpointer::Checkpointer;
use crate::supervise::FatalHandler;

/// Makes the handler of permanent failures, which ends the input.
pub(super) fn fatal(completion: &Arc<Completion>) -> FatalHandler {
    let completion = Arc::clone(completion);
    FatalHandler::new(move |cause| completion.fail(cause))
}

/// Makes the handler of lease events. When leases expire, the checkpointer is told before anything else happens.
/// `rebalance_now` makes the coordinator rebalance.
pub(super) fn lease_events(
    checkpointer: &Arc<Checkpointer>,
    rebalance_now: &Arc<Notify>,
    fatal: &FatalHandler,
) -> EventHandler {
    let (checkpointer, rebalance_now, fatal) = (Arc::clone(checkpointer), Arc::clone(rebalance_now), fatal.clone());
    EventHandler::new(move |event| match event {
        LeaseEvent::Expired => checkpointer.release_all(),
        LeaseEvent::Recovered | LeaseEvent::Woken => rebalance_now.notify_one(),
        LeaseEvent::Replaced(cause) => {
            checkpointer.release_all();
            fatal.report(cause);
        }
    })
}
