//! What does the embedding program provide in place of the system's defaults?

use aws_smithy_async::time::SharedTimeSource;
use aws_smithy_runtime_api::client::http::SharedHttpClient;

use crate::lease::Disk;

/// The parts that the embedding program provides in place of the system's defaults.
#[derive(Debug, Clone, Default)]
pub(crate) struct Overrides {
    /// The HTTP client for all calls, in place of the built-in ones.
    pub(crate) client: Option<SharedHttpClient>,
    /// The certificates to trust in addition to the system's, in PEM.
    pub(crate) trusted: Vec<u8>,
    /// The source of times that are written or sent. Waiting uses tokio's clock.
    pub(crate) time: Option<SharedTimeSource>,
    /// The disk that the checkpoint file is on.
    pub(crate) disk: Disk,
}
