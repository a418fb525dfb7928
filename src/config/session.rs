//! How is AWS reached: with which credentials, over which sockets?

use std::borrow::Cow;
use std::fmt;

use pipeline_plugin_api::config::schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use pipeline_plugin_api::config::{Duration, Optional, Secret};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

/// Credentials for AWS. `Debug` shows no secrets.
///
/// A profile takes precedence over an id; a role is then assumed with either; the machine's role takes precedence
/// over all of them.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[schemars(crate = "pipeline_plugin_api::config::schemars")]
#[serde(deny_unknown_fields, default)]
#[schemars(extend("x-advanced" = true))]
#[non_exhaustive]
pub struct Credentials {
    /// A profile of `~/.aws/credentials`. Used rather than `id`.
    #[schemars(extend("x-advanced" = true))]
    pub profile: Optional<String>,

    /// The id of an access key; needs `secret`.
    #[schemars(extend("x-advanced" = true))]
    pub id: Optional<String>,

    /// The secret of the access key.
    #[schemars(extend("x-advanced" = true))]
    pub secret: Secret,

    /// The session token, for credentials that expire.
    #[schemars(extend("x-advanced" = true))]
    pub token: Secret,

    /// Use the role of the EC2 instance this runs on, rather than anything else here.
    #[schemars(extend("x-advanced" = true))]
    pub from_ec2_role: bool,

    /// The ARN of a role to assume.
    #[schemars(extend("x-advanced" = true))]
    pub role: Optional<String>,

    /// An external id to give when assuming the role.
    #[schemars(extend("x-advanced" = true))]
    pub role_external_id: Optional<String>,

    /// How long before they expire credentials are renewed. Empty or `0`: AWS's own default.
    #[schemars(extend("x-advanced" = true, "examples" = ["10s"]))]
    pub expiry_window: Optional<Duration>,
}

/// The settings of TCP sockets.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[schemars(crate = "pipeline_plugin_api::config::schemars")]
#[serde(deny_unknown_fields, default)]
#[non_exhaustive]
pub struct Tcp {
    /// How long opening a connection may take, and the TLS handshake after it. `0s` means `5s`.
    #[schemars(extend("x-advanced" = true))]
    pub connect_timeout: Duration,

    /// Probes on a connection that is idle.
    #[schemars(extend("x-advanced" = true))]
    pub keep_alive: KeepAlive,

    /// How long sent data may go unacknowledged before the connection is given up; `0s` for as long as the system
    /// allows. On Linux only. Must be shorter than `keep_alive.idle`.
    #[schemars(extend("x-advanced" = true))]
    pub tcp_user_timeout: Duration,
}

/// The probes on an idle TCP connection.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, JsonSchema)]
#[schemars(crate = "pipeline_plugin_api::config::schemars")]
#[serde(deny_unknown_fields, default)]
#[non_exhaustive]
pub struct KeepAlive {
    /// How long a connection must be idle before the first probe. `0s` means `15s`; a negative duration turns probes off.
    #[schemars(extend("x-advanced" = true))]
    pub idle: KeepAliveIdle,

    /// The time between two probes. `0s` means `15s`.
    #[schemars(extend("x-advanced" = true))]
    pub interval: Duration,

    /// The number of unanswered probes after which the connection is given up. `0` means `9`.
    #[schemars(extend("x-advanced" = true))]
    pub count: u32,
}

impl Default for KeepAlive {
    fn default() -> Self {
        Self { idle: KeepAliveIdle::After(DEFAULT_PROBE), interval: DEFAULT_PROBE, count: DEFAULT_PROBES }
    }
}

const DEFAULT_PROBE: Duration = Duration::from_secs(15);
const DEFAULT_PROBES: u32 = 9;

impl KeepAlive {
    /// When the first probe is sent; `None` if probes are off.
    pub fn idle(&self) -> Option<Duration> {
        match self.idle {
            KeepAliveIdle::Off => None,
            KeepAliveIdle::After(idle) if idle.is_zero() => Some(DEFAULT_PROBE),
            KeepAliveIdle::After(idle) => Some(idle),
        }
    }

    /// The time between two probes.
    pub fn interval(&self) -> Duration {
        if self.interval.is_zero() { DEFAULT_PROBE } else { self.interval }
    }

    /// The number of unanswered probes after which the connection is given up.
    pub fn count(&self) -> u32 {
        if self.count == 0 { DEFAULT_PROBES } else { self.count }
    }
}

/// When the first probe is sent: the only setting in which a negative duration has a meaning.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum KeepAliveIdle {
    /// Never: it was written as a negative duration.
    Off,
    /// After this long; zero stands for the default.
    After(Duration),
}

impl Serialize for KeepAliveIdle {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Off => serializer.serialize_str("-1s"),
            Self::After(idle) => idle.serialize(serializer),
        }
    }
}

impl<'de> Deserialize<'de> for KeepAliveIdle {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Visitor;

        impl de::Visitor<'_> for Visitor {
            type Value = KeepAliveIdle;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a duration such as `15s` or `-1s`")
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<KeepAliveIdle, E> {
                let (negative, size) = text.strip_prefix('-').map_or((false, text), |size| (true, size));
                let size: Duration = size.parse().map_err(E::custom)?;
                let off = negative && !size.is_zero();
                Ok(if off { KeepAliveIdle::Off } else { KeepAliveIdle::After(size) })
            }
        }

        deserializer.deserialize_str(Visitor)
    }
}

impl JsonSchema for KeepAliveIdle {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> Cow<'static, str> {
        "KeepAliveIdle".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        let pattern = Duration::PATTERN.replacen('^', "^-?", 1);
        json_schema!({ "type": "string", "pattern": pattern, "x-type": "duration" })
    }
}

/// The pattern of what [`is_url`] takes, and of none at all, for the schema.
pub(super) const ENDPOINT: &str = r"^(https?://\S+)?$";

/// Returns whether an endpoint is a URL: without a scheme the AWS SDK would fail only at the first request.
pub(super) fn is_url(endpoint: &str) -> bool {
    let host = endpoint.strip_prefix("https://").or_else(|| endpoint.strip_prefix("http://"));
    host.is_some_and(|host| !host.is_empty() && !host.contains(char::is_whitespace))
}

/// Returns whether this can be the name of a region. New regions need no new version.
pub(crate) fn is_region(name: &str) -> bool {
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-';
    !name.is_empty() && name.len() <= 63 && name.bytes().all(is_plain)
}

/// The reason why this can't be a key or token, to complete a sentence that begins with its name.
pub(crate) fn odd_key(value: &str) -> Option<&'static str> {
    match value {
        "" => Some("is empty"),
        value if value.bytes().any(|byte| byte == b'\n' || byte == b'\r') => Some("has a line break in it"),
        value if !value.bytes().all(|byte| byte.is_ascii_graphic()) => {
            Some("has blanks or other characters in it that no key has")
        }
        _ => None,
    }
}
