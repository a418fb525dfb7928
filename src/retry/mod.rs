//! What does each error mean, and what is done about it?
//!
//! This is the only table of errors: every caller of the service uses it, and none decides on its own. The module is
//! pure.

pub(crate) mod backoff;

use std::fmt;
use std::time::Duration;

/// A second subscription within this time after the first one began is refused (`ResourceInUseException`); after it,
/// the second one takes over.
pub(crate) const TAKEOVER_AFTER: Duration = Duration::from_secs(5);
/// How often a fault that only a person can fix is retried: permissions, keys, credentials.
pub(crate) const SLOW_RETRY: Duration = Duration::from_secs(10);
/// The longest delay of such a retry.
pub(crate) const SLOW_RETRY_CEILING: Duration = Duration::from_mins(1);

/// The code of the fault that no credentials could be obtained: they were available when the input connected, and may
/// be available again.
pub(crate) const NO_CREDENTIALS: &str = "Credentials";
/// The code of the fault that the address of a host could not be found.
pub(crate) const NO_SUCH_HOST: &str = "HostNotFound";

/// A fault between the input and the service, as data.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fault {
    /// The origin of the fault.
    pub origin: Origin,
    /// The code of the service (`ResourceInUseException`), or one of the input's own.
    pub code: String,
    /// The message of the service, or of the layer that failed.
    pub message: String,
}

/// The origin of a fault.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Origin {
    /// The answer to a call.
    Call,
    /// A frame inside a subscription's stream.
    Stream,
    /// The connection, or the bytes that came over it.
    Wire,
    /// A failure before a request was sent: no credentials, no region, a request that can't be built.
    Local,
}

impl Fault {
    /// Creates a fault of the connection.
    pub fn wire(code: &str, message: impl fmt::Display) -> Self {
        Self { origin: Origin::Wire, code: code.into(), message: message.to_string() }
    }

    /// Returns whether the address of a host could not be found.
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

/// The reaction of a reader to a fault.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Remedy {
    /// Try again after the usual backoff.
    Retry,
    /// Get a new iterator for the position behind the last record that was read.
    RenewIterator,
    /// The shard or the stream is read too fast, by this reader or by others: wait longer.
    SlowDown,
    /// Subscribe again, but not before this long after the last successful subscription.
    RetryAfterTakeover,
    /// A person has to fix the cause. Retry slowly, and report it in the status meanwhile.
    RetrySlowly,
    /// The consumer, the shard or the stream may be gone: check each of them before the next retry.
    LookAgain,
    /// The start position is refused. If it was a stored one, it has expired.
    StartExpired,
    /// No reaction would help: the input fails.
    Fatal,
}

/// Decides the reaction of a subscription to a fault.
pub(crate) fn subscription(fault: &Fault) -> Remedy {
    let code = fault.code.as_str();
    match (fault.origin, code) {
        // The frame is cut, corrupt or unknown, or there was silence, a reset or a time-out: the next connection may
        // be better.
        (Origin::Wire, _) => Remedy::Retry,
        (_, "ResourceInUseException") => Remedy::RetryAfterTakeover,
        (_, "ResourceNotFoundException") => Remedy::LookAgain,
        (Origin::Call, "InvalidArgumentException") => Remedy::StartExpired,
        // The server does not support subscriptions.
        (Origin::Call, "UnknownOperationException") => Remedy::Fatal,
        // The request is invalid as it stands, for this shard.
        (Origin::Call, "ValidationException" | "SerializationException") => Remedy::RetrySlowly,
        (_, code) if needs_a_person(code) => Remedy::RetrySlowly,
        (Origin::Local, _) => Remedy::RetrySlowly,
        // This covers throttling, internal failures, 5xx, and all unknown codes.
        _ => Remedy::Retry,
    }
}

/// Decides the reaction to a fault of GetRecords.
pub(crate) fn records(fault: &Fault) -> Remedy {
    match (fault.origin, fault.code.as_str()) {
        // The iterator belongs to another time or another stream: the position decides.
        (Origin::Call, "ExpiredIteratorException" | "InvalidArgumentException") => Remedy::RenewIterator,
        _ => iterator(fault),
    }
}

/// Decides the reaction to a fault of `GetShardIterator`.
pub(crate) fn iterator(fault: &Fault) -> Remedy {
    match (fault.origin, fault.code.as_str()) {
        (
            Origin::Call,
            "ProvisionedThroughputExceededException"
            | "LimitExceededException"
            | "ThrottlingException"
            | "KMSThrottlingException",
        ) => Remedy::SlowDown,
        (Origin::Call, "ResourceInUseException") => Remedy::Retry,
        _ => subscription(fault),
    }
}

/// Whether the service does not know the encoding of a call, so that another one should be tried.
pub(crate) fn is_unknown_encoding(fault: &Fault) -> bool {
    fault.origin == Origin::Call
        && matches!(
            fault.code.as_str(),
            "SerializationException" | "UnknownOperationException" | "UnsupportedMediaType" | "Status415"
        )
}

/// Faults of permissions, keys and credentials: they don't pass by themselves, but are often fixed during the wait.
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

/// The reaction of a control call (describe, register, list) to a fault.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Control {
    /// Retry after the usual backoff.
    Retry,
    /// The call can't work as it is configured: tell the host, with advice.
    Fatal,
    /// The requested resource does not exist.
    NotFound,
    /// The resource exists already, or is being changed.
    InUse,
}

/// Decides the reaction of a control call to a fault.
///
/// A missing permission is fatal at connect, because a person is watching then; in a running subscription it is not.
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

/// What a call shows that was made to find out whether it is allowed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Trial {
    /// The service would have carried it out: it refused the call for another reason than a permission.
    Allowed,
    /// The permission is missing.
    Denied,
    /// The credentials are not accepted, whatever is called.
    BadCredentials,
    /// The service did not answer.
    Unanswered,
    /// The answer says nothing about the permission.
    Unclear,
}

/// Decides what the fault of a trial shows. The service looks at permissions before it looks at what the call names.
pub(crate) fn trial(fault: &Fault) -> Trial {
    match (fault.origin, fault.code.as_str()) {
        (_, "AccessDeniedException" | "AccessDenied") => Trial::Denied,
        (Origin::Local, NO_CREDENTIALS) => Trial::BadCredentials,
        (Origin::Wire | Origin::Local, _) => Trial::Unanswered,
        (_, code) if code.starts_with("KMS") => Trial::Allowed,
        (_, code) if needs_a_person(code) => Trial::BadCredentials,
        (
            _,
            "ResourceNotFoundException"
            | "ResourceInUseException"
            | "InvalidArgumentException"
            | "ValidationException"
            | "ConditionalCheckFailedException"
            | "ProvisionedThroughputExceededException",
        ) => Trial::Allowed,
        _ => Trial::Unclear,
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
    fn polling_reacts_to_its_own_errors() {
        for (code, of_records, of_iterator) in [
            ("ExpiredIteratorException", Remedy::RenewIterator, Remedy::Retry),
            ("InvalidArgumentException", Remedy::RenewIterator, Remedy::StartExpired),
            ("ProvisionedThroughputExceededException", Remedy::SlowDown, Remedy::SlowDown),
            ("LimitExceededException", Remedy::SlowDown, Remedy::SlowDown),
            ("KMSThrottlingException", Remedy::SlowDown, Remedy::SlowDown),
            ("KMSDisabledException", Remedy::RetrySlowly, Remedy::RetrySlowly),
            ("ResourceNotFoundException", Remedy::LookAgain, Remedy::LookAgain),
            ("AccessDeniedException", Remedy::RetrySlowly, Remedy::RetrySlowly),
            ("InternalFailure", Remedy::Retry, Remedy::Retry),
        ] {
            assert_eq!(records(&fault(Origin::Call, code)), of_records, "{code}");
            assert_eq!(iterator(&fault(Origin::Call, code)), of_iterator, "{code}");
        }
        assert_eq!(records(&fault(Origin::Wire, "ExpiredIteratorException")), Remedy::Retry);
        for code in ["SerializationException", "UnknownOperationException", "Status415"] {
            assert!(is_unknown_encoding(&fault(Origin::Call, code)), "{code}");
        }
        assert!(!is_unknown_encoding(&fault(Origin::Call, "ExpiredIteratorException")));
    }

    #[test]
    fn fault_for_a_person_is_retried_slowly_and_fatal_at_connect() {
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
    fn trial_tells_a_missing_permission_from_everything_else() {
        for (origin, code, shown) in [
            (Origin::Call, "AccessDeniedException", Trial::Denied),
            (Origin::Call, "AccessDenied", Trial::Denied),
            (Origin::Call, "ResourceNotFoundException", Trial::Allowed),
            (Origin::Call, "ConditionalCheckFailedException", Trial::Allowed),
            (Origin::Call, "KMSAccessDeniedException", Trial::Allowed),
            (Origin::Call, "UnrecognizedClientException", Trial::BadCredentials),
            (Origin::Call, "InvalidSignatureException", Trial::BadCredentials),
            (Origin::Call, "ExpiredTokenException", Trial::BadCredentials),
            (Origin::Local, NO_CREDENTIALS, Trial::BadCredentials),
            (Origin::Wire, "Connection", Trial::Unanswered),
            (Origin::Local, "Dispatch", Trial::Unanswered),
            (Origin::Call, "ThrottlingException", Trial::Unclear),
            (Origin::Call, "InternalFailure", Trial::Unclear),
            (Origin::Call, "UnknownOperationException", Trial::Unclear),
        ] {
            assert_eq!(trial(&fault(origin, code)), shown, "{origin:?} {code}");
        }
    }

    #[test]
    fn fault_shows_its_code_and_the_message_of_the_service() {
        let shown = |code: &str, message: &str| Fault::wire(code, message).to_string();
        assert_eq!(
            [shown("reset", "by peer"), shown("reset", ""), shown("", "by peer")],
            ["reset: by peer", "reset", "by peer"]
        );
    }

    #[test]
    fn fault_for_a_person_at_connect_fails_at_once() {
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
