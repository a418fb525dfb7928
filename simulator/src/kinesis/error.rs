//! Which errors does the service answer with?

use std::fmt;

/// An error of the service, as it goes over the wire.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServiceError {
    /// The name of the error, such as `ResourceNotFoundException`.
    pub code: &'static str,
    /// The message for a person.
    pub message: String,
    /// The HTTP status, if the error is the answer to a call.
    pub status: u16,
}

impl ServiceError {
    /// An error that is the caller's fault.
    pub fn new(code: &'static str, message: impl Into<String>) -> Self {
        Self { code, message: message.into(), status: 400 }
    }

    /// An internal error of the service.
    pub fn internal() -> Self {
        Self { code: "InternalFailure", message: "Internal service error.".into(), status: 500 }
    }

    pub(super) fn invalid(message: impl Into<String>) -> Self {
        Self::new("InvalidArgumentException", message)
    }

    pub(super) fn validation(message: impl Into<String>) -> Self {
        Self::new("ValidationException", message)
    }

    pub(super) fn missing(name: &str) -> Self {
        Self::validation(format!(
            "1 validation error detected: Value null at '{name}' failed to satisfy constraint: Member must not be null"
        ))
    }

    pub(super) fn not_found(message: impl Into<String>) -> Self {
        Self::new("ResourceNotFoundException", message)
    }

    pub(super) fn in_use(message: impl Into<String>) -> Self {
        Self::new("ResourceInUseException", message)
    }

    pub(super) fn limit(message: impl Into<String>) -> Self {
        Self::new("LimitExceededException", message)
    }

    pub(super) fn throughput(message: impl Into<String>) -> Self {
        Self::new("ProvisionedThroughputExceededException", message)
    }

    /// The body of an answer with this error.
    pub fn to_json(&self) -> serde_json::Value {
        serde_json::json!({ "__type": self.code, "message": self.message })
    }
}

impl fmt::Display for ServiceError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.code, self.message)
    }
}

impl std::error::Error for ServiceError {}
