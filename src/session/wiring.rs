//! Who hears of what?

use std::sync::Arc;

use tokio::sync::Notify;

use super::completion::Completion;
use crate::lease::heartbeat::{EventHandler, LeaseEvent};
use crate::shards::checkpointer::Checkpointer;
use crate::supervise::FatalHandler;

/// What breaks for good ends the input.
pub(super) fn fatal(completion: &Arc<Completion>) -> FatalHandler {
    let completion = Arc::clone(completion);
    FatalHandler::new(move |cause| completion.fail(cause))
}

/// Of leases that have expired, the checkpointer hears before anything else happens. `look` has the coordinator rebalance.
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
