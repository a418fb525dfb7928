//! Which fields of the configuration have no effect yet?
//!
//! Such a field is parsed, so that configurations can be written for later versions. Running with it would not do
//! what it says, so connect refuses it, and lint reports it.

use pipeline_plugin_api::config::Findings;

use super::{Config, Tcp};

/// The first field that this version does not support, with advice.
pub(crate) fn first(config: &Config) -> Option<(&'static str, &'static str)> {
    all(config).into_iter().next()
}

/// Reports all fields that would be refused.
pub(crate) fn lint(config: &Config, findings: &mut Findings) {
    for (field, what) in all(config) {
        findings.invalid(field, what, "");
    }
}

fn all(config: &Config) -> Vec<(&'static str, &'static str)> {
    let polling = "polling is not built yet; set enhanced_fan_out.enabled to true";
    let period = "polling is not built yet; remove the field";
    let tcp = "settings of sockets have no effect yet; remove the block";
    let refused = [
        if config.enhanced_fan_out.enabled { None } else { Some(("enhanced_fan_out.enabled", polling)) },
        if config.poll_period.is_zero() { None } else { Some(("poll_period", period)) },
        if config.tcp == Tcp::default() { None } else { Some(("tcp", tcp)) },
    ];
    refused.into_iter().flatten().collect()
}
