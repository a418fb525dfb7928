//! Which fields of the configuration have no effect yet?
//!
//! Such a field is parsed, so that configurations can be written for later versions. Running with it would not do
//! what it says, so connect refuses it, and lint reports it.

use pipeline_plugin_api::config::Findings;

use super::{Batching, Config};

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
    let batching = "batching by the input is not built yet; remove the block, and batch in the pipeline";
    let refused = [if config.batching == Batching::default() { None } else { Some(("batching", batching)) }];
    refused.into_iter().flatten().collect()
}
