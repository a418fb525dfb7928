//! What of exports to OpenTelemetry is left without the feature `otlp`? The refusal of `--otlp`, and types without values.

use pipeline_plugin_api::Batch;

use crate::metrics::Recorded;
use crate::{Exit, StopHandle};

#[derive(Debug, thiserror::Error)]
#[error("this program can't export to OpenTelemetry: `--otlp` needs one that is built with the feature `otlp`")]
pub(crate) struct SettingError;

impl SettingError {
    #[expect(clippy::unused_self, reason = "the same shape with the feature")]
    pub(crate) fn exit(&self) -> Exit {
        Exit::Usage
    }
}

#[derive(Debug)]
pub(crate) enum Settings {}

impl Settings {
    pub(crate) fn of_process() -> Result<Option<Self>, SettingError> {
        Err(SettingError)
    }
}

#[derive(Debug)]
pub(crate) enum Exports {}

impl Exports {
    pub(crate) fn start(settings: &Settings, _: &Recorded) -> Result<Self, String> {
        match *settings {}
    }

    pub(crate) fn traces(&self) -> Option<Traces> {
        match *self {}
    }

    #[expect(clippy::unused_async, reason = "the same shape with the feature")]
    pub(crate) async fn end(self, _: &StopHandle) {
        match self {}
    }
}

#[derive(Debug, Clone)]
pub(crate) enum Traces {}

impl Traces {
    pub(crate) fn watch(&self, _: Batch) -> Batch {
        match *self {}
    }
}
