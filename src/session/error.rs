//! Why can an input not be connected?

use std::time::Duration;

use pipeline_plugin_api::InputError;

use crate::aws::credentials::AccessError;
use crate::lease::StoreError;
use crate::reading::fan_out::consumer::ConsumerError;
use crate::retry::Fault;

/// How long a host should wait before it retries after a temporary failure.
const TRY_AGAIN: Duration = Duration::from_secs(1);

/// The reason why the input can't be connected.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ConnectError {
    /// The region or the credentials can't be obtained.
    #[error(transparent)]
    Access(#[from] AccessError),
    /// The checkpoint store can't be used.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The stream does not exist.
    #[error("stream {stream}: not found in region {region}; check the name, the region and the account")]
    NoSuchStream {
        /// The stream, as it was configured.
        stream: String,
        /// The region in which the stream was looked up.
        region: String,
    },
    /// The host of the region's endpoint can't be found: the region is mistyped, or names can't be resolved.
    #[error(
        "stream {stream}: {fault}; if {region} is not the name of an AWS region, correct `region`, otherwise check the network"
    )]
    HostNotFound {
        /// The stream, as it was configured.
        stream: String,
        /// The region, as it was configured.
        region: String,
        /// The error that the call returned.
        fault: Fault,
    },
    /// Two entries refer to the same stream.
    #[error("stream {stream}: listed twice, as {first} and as {second}; leave one")]
    SameStream {
        /// The stream's name.
        stream: String,
        /// The first entry.
        first: String,
        /// The second entry.
        second: String,
    },
    /// The configuration names shards that don't exist.
    #[error("stream {stream}: no shard {shards}; see them all with `aws kinesis list-shards`")]
    NoSuchShard {
        /// The stream.
        stream: String,
        /// The shards.
        shards: String,
    },
    /// The service refused a call, and would refuse it again.
    #[error("stream {stream}: {doing}: {fault}; check the credentials, their permissions and the region")]
    Refused {
        /// The stream, as it was configured.
        stream: String,
        /// The step that failed.
        doing: &'static str,
        /// The error that the call returned.
        fault: Fault,
    },
    /// The service could not be reached, or was busy.
    #[error("stream {stream}: {doing}: {fault}")]
    Unreachable {
        /// The stream, as it was configured.
        stream: String,
        /// The step that failed.
        doing: &'static str,
        /// The error that the call returned.
        fault: Fault,
    },
    /// The reader threads can't be started.
    #[error("enhanced_fan_out.reader_threads: {0}")]
    Threads(#[from] std::io::Error),
    /// The consumer can't be used.
    #[error(transparent)]
    Consumer(#[from] ConsumerError),
    /// A panic happened during the connect.
    #[error("connecting failed ({0}); this is a bug, please report it")]
    Panicked(String),
    /// The consumer belongs to another stream.
    #[error("enhanced_fan_out.consumer_arn: {arn} is no consumer of stream {stream}")]
    ForeignConsumer {
        /// The consumer.
        arn: String,
        /// The stream.
        stream: String,
    },
}

impl From<ConnectError> for InputError {
    fn from(error: ConnectError) -> Self {
        let passing = matches!(
            error,
            ConnectError::Unreachable { .. }
                | ConnectError::HostNotFound { .. }
                | ConnectError::Threads(_)
                | ConnectError::Panicked(_)
                | ConnectError::Access(AccessError::CredentialsUnavailable(_))
                | ConnectError::Store(StoreError::Failed { .. })
                | ConnectError::Consumer(ConsumerError::NotActive { .. })
        );
        if passing { Self::BackOff { after: TRY_AGAIN, cause: error.into() } } else { Self::Fatal(error.into()) }
    }
}
