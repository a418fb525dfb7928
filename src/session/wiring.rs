//! Who hears of what?

use std::sync::Arc;

use tokio::sync::Notify;

use super::completion::Ending;
use crate::lease::heartbeat::{EventHandler, LeaseEvent};
use crate::shards::checkpointer::Checkpointer;
use crate::supervise::FatalHandler;

/// What breaks for good ends the input.
pub(super) fn fatal(ending: &Arc<Ending>) -> FatalHandler {
    let ending = Arc::clone(ending);
    FatalHandler::new(move |cause| ending.fail(cause))
}

/// Of leases that have expired, the checkpointer hears before anything else happens. `look` has the coordinator rebalance.
pub(super) fn lease_events(checkpointer: &Arc<Checkpointer>, look: &Arc<Notify>, fatal: &FatalHandler) -> EventHandler {
    let (checkpointer, look, fatal) = (Arc::clone(checkpointer), Arc::clone(look), fatal.clone());
    EventHandler::new(move |event| match event {
        LeaseEvent::Expired => checkpointer.all_over(),
        LeaseEvent::Recovered | LeaseEvent::Woken => look.notify_one(),
        LeaseEvent::Replaced(cause) => {
            checkpointer.all_over();
            fatal.report(cause);
        }
    })
}
