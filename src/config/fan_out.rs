//! How are shards read by enhanced fan-out?

use pipeline_plugin_api::config::schemars::JsonSchema;
use pipeline_plugin_api::config::{ByteSize, Duration, Optional};
use serde::Deserialize;

/// The block `enhanced_fan_out`.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, JsonSchema)]
#[schemars(crate = "pipeline_plugin_api::config::schemars")]
#[serde(deny_unknown_fields, default)]
#[non_exhaustive]
pub struct EnhancedFanOut {
    /// Whether to read by enhanced fan-out. If not, shards are polled.
    #[schemars(extend("x-example" = true))]
    pub enabled: bool,

    /// The name of the consumer to register at each stream. Empty: a name made from the lease table or the checkpoint
    /// file, the same after every restart. At most one of this and `consumer_arn`.
    #[schemars(regex(pattern = r"^[a-zA-Z0-9_.-]{0,128}$"))]
    pub consumer_name: Optional<String>,

    /// The ARN of a consumer that exists already, to be used instead of registering one. With one stream only, to which it
    /// must belong.
    #[schemars(extend("x-advanced" = true))]
    pub consumer_arn: Optional<String>,

    /// How long to wait for a consumer that was registered to become active.
    #[schemars(extend("x-advanced" = true))]
    pub consumer_activation_timeout: Duration,

    /// Whether to deregister the consumer when the input closes, if this process registered it.
    #[schemars(extend("x-advanced" = true))]
    pub deregister_on_close: bool,

    /// How many records may be held at once, over all shards, from the socket to the final acknowledgement.
    #[schemars(range(min = 1))]
    pub max_pending_records: usize,

    /// How much memory records may take at once, over all shards, from the socket to the final acknowledgement. A fifth is
    /// counted with every byte, for what an allocator needs beside. A single event that is larger is taken alone.
    pub max_pending_bytes: ByteSize,

    /// The longest wait between two attempts to subscribe; the first is 300ms.
    #[schemars(extend("x-advanced" = true))]
    pub max_resubscribe_interval: Duration,

    /// How much memory of each subscription may wait in its connection before it is read, from 64KiB to 16MiB. Five sixths of
    /// it are the window of its HTTP/2 stream. It adds to `max_pending_bytes`, for each shard.
    #[schemars(extend("x-advanced" = true))]
    pub stream_window: ByteSize,

    /// How many threads of their own read the shards, each with connections of its own; at most 64. One reads several
    /// hundred MB in a second. With 0 they are read on the threads of the host, which costs more.
    #[schemars(extend("x-advanced" = true))]
    #[schemars(range(max = 64))]
    pub reader_threads: usize,

    /// Has no effect: memory is bounded by `max_pending_records` and `max_pending_bytes`.
    #[schemars(extend("x-advanced" = true, "deprecated" = true))]
    #[schemars(extend("x-deprecated" = "it has no effect; use `max_pending_records` and `max_pending_bytes`"))]
    pub record_buffer_cap: usize,
}

impl Default for EnhancedFanOut {
    fn default() -> Self {
        Self {
            enabled: false,
            consumer_name: Optional::NONE,
            consumer_arn: Optional::NONE,
            consumer_activation_timeout: Duration::from_secs(60),
            deregister_on_close: false,
            max_pending_records: 50_000,
            max_pending_bytes: ByteSize::from_mib(256),
            max_resubscribe_interval: Duration::from_secs(5),
            stream_window: ByteSize::from_bytes(512 << 10),
            reader_threads: 1,
            record_buffer_cap: 0,
        }
    }
}
