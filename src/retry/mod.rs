//! What does each error mean, and what is done about it?
//!
//! The one table of errors. Everyone who talks to the service asks here, nobody decides on their own. Pure.

pub(crate) mod backoff;

use std::fmt;
use std::time::Duration;

/// After a subscription began, a second one within this time is refused (`ResourceInUseException`); after it, the
/// second takes over.
pub(crate) const TAKEOVER_AFTER: Duration = Duration::from_secs(5);
/// How often to try what only a person can mend: permissions, keys, credentials.
pub(crate) const SLOW_RETRY: Duration = Duration::from_secs(10);
/// The longest such retry.
pub(crate) const SLOW_RETRY_CEILING: Duration = Duration::from_mins(1);

/// What a fault is called when the credentials could not be had: they were there when the input connected, and may be again.
pub(crate) const NO_CREDENTIALS: &str = "Credentials";
/// What a fault is called when the address of a host could not be found.
pub(crate) const NO_SUCH_HOST: &str = "HostNotFound";

/// Something that went wrong between us and the service, as data.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fault {
    /// Where it came from.
    pub origin: Origin,
    /// The service's name for it (`ResourceInUseException`), or ours.
    pub code: String,
    /// What the service, or the layer that failed, says about it.
    pub message: String,
}

/// Where a fault came from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Origin {
    /// The answer to a call.
    Call,
    /// A frame inside a subscription's stream.
    Stream,
    /// The connection, or what came over it.
    Wire,
    /// Before anything was sent: no credentials, no region, a request that can't be built.
    Local,
}

impl Fault {
    /// A fault of the connection.
    pub fn wire(code: &str, message: impl fmt::Display) -> Self {
        Self { origin: Origin::Wire, code: code.into(), message: message.to_string() }
    }

    /// Whether the address of a host could not be found.
    pub(crate) fn is_no_such_host(&self) -> bool {
        self.origin == Origin::Wire && self.code == NO_SUCH_HOST
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.code.as_str(), self.message.as_str()) {
            (code, "") => f.write_str(code),
            ("", message) => f.write_str(message),
            (code, message) => write!(f, "{code}: {message}"),
        }
    }
}

impl std::error::Error for Fault {}

/// What a subscription does about a fault.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Remedy {
    /// Subscribe again after the usual backoff.
    Retry,
    /// Subscribe again, but not before this long after the last successful subscription.
    RetryAfterTakeover,
    /// Somebody has to mend something. Try again slowly, and say so in the status meanwhile.
    RetrySlowly,
    /// The consumer, the shard or the stream may be gone: look at each before the next try.
    LookAgain,
    /// The place to start from is refused. If it was a stored one, it has expired.
    StartExpired,
    /// Nothing that we could do would help: the input fails.
    Fatal,
}

/// What a subscription does about a fault.
pub(crate) fn subscription(fault: &Fault) -> Remedy {
    let code = fault.code.as_str();
    match (fault.origin, code) {
        // A frame that is cut, corrupt or unknown, silence, a reset, a time-out: the next connection may be better.
        (Origin::Wire, _) => Remedy::Retry,
        (_, "ResourceInUseException") => Remedy::RetryAfterTakeover,
        (_, "ResourceNotFoundException") => Remedy::LookAgain,
        (Origin::Call, "InvalidArgumentException") => Remedy::StartExpired,
        // Whoever answers knows no subscriptions.
        (Origin::Call, "UnknownOperationException") => Remedy::Fatal,
        // The request is wrong as it stands, for this shard.
        (Origin::Call, "ValidationException" | "SerializationException") => Remedy::RetrySlowly,
        (_, code) if needs_a_person(code) => Remedy::RetrySlowly,
        (Origin::Local, _) => Remedy::RetrySlowly,
        // Throttling, internal failures, 5xx, and whatever is invented tomorrow.
        _ => Remedy::Retry,
    }
}

/// Permissions, keys and credentials: what doesn't heal by itself, but is often healed while we wait.
fn needs_a_person(code: &str) -> bool {
    matches!(
        code,
        "AccessDeniedException"
            | "AccessDenied"
            | "UnrecognizedClientException"
            | "InvalidClientTokenId"
            | "InvalidSignatureException"
            | "SignatureDoesNotMatch"
            | "IncompleteSignature"
            | "MissingAuthenticationToken"
            | "ExpiredTokenException"
            | "ExpiredToken"
            | "OptInRequired"
            | "KMSAccessDeniedException"
            | "KMSDisabledException"
            | "KMSInvalidStateException"
            | "KMSNotFoundException"
            | "KMSOptInRequired"
    )
}

/// What a control call (describe, register, list) does about a fault.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Control {
    /// Try again after the usual backoff.
    Retry,
    /// It can't work as it is configured: tell the host, with what to do.
    Fatal,
    /// There is no such thing.
    NotFound,
    /// It is there already, or is being changed.
    InUse,
}

/// What a control call does about a fault.
///
/// At connect a missing permission is fatal, for somebody is looking; in a running subscription it is not.
pub(crate) fn control(fault: &Fault) -> Control {
    match (fault.origin, fault.code.as_str()) {
        (_, "ResourceNotFoundException") => Control::NotFound,
        (_, "ResourceInUseException") => Control::InUse,
        (Origin::Local, NO_CREDENTIALS) => Control::Retry,
        (Origin::Local, _)
        | (
            Origin::Call,
            "InvalidArgumentException" | "ValidationException" | "SerializationException" | "UnknownOperationException",
        ) => Control::Fatal,
        (_, code) if needs_a_person(code) => Control::Fatal,
        _ => Control::Retry,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fault(origin: Origin, code: &str) -> Fault {
        Fault { origin, code: code.into(), message: String::new() }
    }

    #[test]
    fn each_error_of_the_service_has_its_remedy() {
        let table = [
            (Origin::Call, "ResourceInUseException", Remedy::RetryAfterTakeover),
            (Origin::Stream, "ResourceInUseException", Remedy::RetryAfterTakeover),
            (Origin::Call, "ResourceNotFoundException", Remedy::LookAgain),
            (Origin::Stream, "ResourceNotFoundException", Remedy::LookAgain),
            (Origin::Call, "InvalidArgumentException", Remedy::StartExpired),
            (Origin::Call, "LimitExceededException", Remedy::Retry),
            (Origin::Call, "AccessDeniedException", Remedy::RetrySlowly),
            (Origin::Call, "ExpiredTokenException", Remedy::RetrySlowly),
            (Origin::Call, "InternalFailure", Remedy::Retry),
            (Origin::Call, "ServiceUnavailable", Remedy::Retry),
            (Origin::Call, "SomethingNew", Remedy::Retry),
            (Origin::Stream, "KMSAccessDeniedException", Remedy::RetrySlowly),
            (Origin::Stream, "KMSDisabledException", Remedy::RetrySlowly),
            (Origin::Stream, "KMSInvalidStateException", Remedy::RetrySlowly),
            (Origin::Stream, "KMSNotFoundException", Remedy::RetrySlowly),
            (Origin::Stream, "KMSOptInRequired", Remedy::RetrySlowly),
            (Origin::Stream, "KMSThrottlingException", Remedy::Retry),
            (Origin::Stream, "InternalFailureException", Remedy::Retry),
            (Origin::Call, "ValidationException", Remedy::RetrySlowly),
            (Origin::Call, "SerializationException", Remedy::RetrySlowly),
            (Origin::Call, "UnknownOperationException", Remedy::Fatal),
            (Origin::Stream, "ValidationException", Remedy::Retry),
            (Origin::Stream, "InvalidArgumentException", Remedy::Retry),
            (Origin::Wire, "reset", Remedy::Retry),
            (Origin::Wire, "AccessDeniedException", Remedy::Retry),
            (Origin::Local, "Request", Remedy::RetrySlowly),
            (Origin::Local, NO_CREDENTIALS, Remedy::RetrySlowly),
        ];
        for (origin, code, remedy) in table {
            assert_eq!(subscription(&fault(origin, code)), remedy, "{origin:?} {code}");
        }
    }

    #[test]
    fn what_only_a_person_can_mend_is_tried_slowly_and_fatal_at_connect() {
        for code in [
            "AccessDeniedException",
            "AccessDenied",
            "UnrecognizedClientException",
            "InvalidClientTokenId",
            "InvalidSignatureException",
            "SignatureDoesNotMatch",
            "IncompleteSignature",
            "MissingAuthenticationToken",
            "ExpiredTokenException",
            "ExpiredToken",
            "OptInRequired",
            "KMSAccessDeniedException",
            "KMSDisabledException",
            "KMSInvalidStateException",
            "KMSNotFoundException",
            "KMSOptInRequired",
        ] {
            assert_eq!(subscription(&fault(Origin::Call, code)), Remedy::RetrySlowly, "{code}");
            assert_eq!(control(&fault(Origin::Call, code)), Control::Fatal, "{code}");
        }
    }

    #[test]
    fn a_fault_is_told_by_its_name_and_what_the_service_says() {
        let told = |code: &str, message: &str| Fault::wire(code, message).to_string();
        assert_eq!(
            [told("reset", "by peer"), told("reset", ""), told("", "by peer")],
            ["reset: by peer", "reset", "by peer"]
        );
    }

    #[test]
    fn at_connect_what_a_person_has_to_mend_is_told_at_once() {
        assert_eq!(control(&fault(Origin::Call, "AccessDeniedException")), Control::Fatal);
        assert_eq!(control(&fault(Origin::Local, "Request")), Control::Fatal);
        assert_eq!(control(&fault(Origin::Local, NO_CREDENTIALS)), Control::Retry);
        assert_eq!(control(&fault(Origin::Call, "LimitExceededException")), Control::Retry);
        assert_eq!(control(&fault(Origin::Wire, "connect")), Control::Retry);
        assert_eq!(control(&fault(Origin::Call, "ResourceNotFoundException")), Control::NotFound);
        assert_eq!(control(&fault(Origin::Call, "ResourceInUseException")), Control::InUse);
        for code in
            ["InvalidArgumentException", "ValidationException", "SerializationException", "UnknownOperationException"]
        {
            assert_eq!(control(&fault(Origin::Call, code)), Control::Fatal, "{code}");
        }
    }
}
