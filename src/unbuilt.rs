//! Which fields of the configuration have no effect yet?
//!
//! Such a field parses and lints, so that a configuration can be written for what is to come; but running with it would
//! do something else than it says, so connect refuses it.

use crate::config::{Batching, Config, Tcp};
use crate::connect::ConnectError;

/// Refuses what this version can't do.
pub(crate) fn refuse(config: &Config) -> Result<(), ConnectError> {
    match first(config) {
        Some((field, what)) => Err(ConnectError::NotBuilt { field, what }),
        None => Ok(()),
    }
}

fn first(config: &Config) -> Option<(&'static str, &'static str)> {
    if !config.enhanced_fan_out.enabled {
        let what = "polling is not built yet; set enhanced_fan_out.enabled to true";
        return Some(("enhanced_fan_out.enabled", what));
    }
    if !config.poll_period.is_zero() {
        return Some(("poll_period", "polling is not built yet; remove the field"));
    }
    if config.batching != Batching::default() {
        let what = "batching by the input is not built yet; remove the block, and batch in the pipeline";
        return Some(("batching", what));
    }
    if config.tcp != Tcp::default() {
        return Some(("tcp", "settings of sockets have no effect yet; remove the block"));
    }
    None
}
