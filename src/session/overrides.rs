//! What does the embedding program give in place of the system's?

use aws_smithy_async::time::SharedTimeSource;
use aws_smithy_runtime_api::client::http::SharedHttpClient;

/// What the embedding program gives instead of the system's.
#[derive(Debug, Clone, Default)]
pub(crate) struct Overrides {
    /// A client for everything, instead of ours.
    pub(crate) client: Option<SharedHttpClient>,
    /// Certificates to trust besides the system's, in PEM.
    pub(crate) trusted: Vec<u8>,
    /// What time it is, where times are written down or sent. What waits goes by tokio's clock.
    pub(crate) time: Option<SharedTimeSource>,
}
