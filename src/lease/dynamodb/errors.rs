//! What does a call to the table that failed mean for its caller?

use aws_sdk_dynamodb::error::{ProvideErrorMetadata, SdkError};
use aws_sdk_dynamodb::operation::update_item::UpdateItemError;
use pipeline_plugin_api::causes;

use super::row::Item;
use crate::lease::StoreError;

/// Returns the present row if a condition was not met.
pub(super) fn refused<R: std::fmt::Debug + Send + Sync + 'static>(
    what: &'static str,
    error: SdkError<UpdateItemError, R>,
) -> Result<Item, StoreError> {
    match error {
        SdkError::ServiceError(context) => match context.into_err() {
            UpdateItemError::ConditionalCheckFailedException(refused) => Ok(refused.item.unwrap_or_default()),
            error => Err(not_done(what, &error)),
        },
        error => Err(failed(what, &error)),
    }
}

pub(super) fn failed<E, R>(what: &'static str, error: &SdkError<E, R>) -> StoreError
where
    E: ProvideErrorMetadata + std::error::Error + 'static,
    R: std::fmt::Debug,
{
    match error {
        SdkError::ServiceError(context) => not_done(what, context.err()),
        error => StoreError::Failed { what, cause: cause(error) },
    }
}

/// Says why a call failed: in the words of the service, if it answered.
pub(crate) fn cause<E, R>(error: &SdkError<E, R>) -> String
where
    E: ProvideErrorMetadata + std::error::Error + 'static,
    R: std::fmt::Debug,
{
    match error {
        SdkError::ServiceError(context) => described(context.err()),
        SdkError::TimeoutError(_) => "the table did not answer in time".into(),
        SdkError::DispatchFailure(failure) => {
            failure.as_connector_error().map_or_else(|| "the request could not be sent".into(), |error| causes(error))
        }
        SdkError::ConstructionFailure(_) => {
            format!(
                "the request could not be built: {}",
                std::error::Error::source(error).map(causes).unwrap_or_default()
            )
        }
        SdkError::ResponseError(_) => "the answer could not be read".into(),
        _ => "an error that this version does not know".into(),
    }
}

/// Translates a service error that says why the call was not done.
pub(super) fn not_done(
    what: &'static str,
    error: &(impl ProvideErrorMetadata + std::error::Error + 'static),
) -> StoreError {
    let cause = described(error);
    match error.code() {
        Some("AccessDeniedException" | "UnrecognizedClientException" | "MissingAuthenticationTokenException") => {
            StoreError::Refused { what, cause }
        }
        _ => StoreError::Failed { what, cause },
    }
}

/// Returns the message of the service.
fn described(error: &(impl ProvideErrorMetadata + std::error::Error + 'static)) -> String {
    match (error.code(), error.message()) {
        (Some(code), Some(message)) => format!("{code}: {message}"),
        (Some(code), None) => code.to_owned(),
        _ => causes(error),
    }
}

/// Whether a condition was not met.
pub(crate) fn is_refusal<E: ProvideErrorMetadata, R>(error: &SdkError<E, R>) -> bool {
    error.as_service_error().and_then(ProvideErrorMetadata::code) == Some("ConditionalCheckFailedException")
}
