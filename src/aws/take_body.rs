//! How is the body of an answer taken before the SDK reads it?

use std::sync::Arc;

use aws_sdk_kinesis::config::interceptors::BeforeDeserializationInterceptorContextMut;
use aws_sdk_kinesis::config::{ConfigBag, Intercept, RuntimeComponents};
use aws_smithy_runtime_api::box_error::BoxError;
use aws_smithy_runtime_api::client::orchestrator::HttpResponse;
use aws_smithy_types::body::SdkBody;

use super::{Encoding, cbor};
use crate::sync::{Mutex, lock};

/// The status of a call whose encoding the service does not know.
pub(super) const UNSUPPORTED_MEDIA_TYPE: u16 = 415;

/// An interceptor that takes the body out of a good answer, before the SDK reads it, and out of an error in CBOR, which
/// the SDK can't read. Clones share the body.
#[derive(Debug, Clone, Default)]
pub struct TakeBody(Arc<Mutex<Option<Taken>>>);

/// A body that was taken out of an answer.
#[derive(Debug)]
pub(super) struct Taken {
    pub(super) body: SdkBody,
    pub(super) encoding: Encoding,
    /// The length of the body, if the answer says so.
    pub(super) len: Option<u64>,
    /// What the head of an answer says that is an error.
    pub(super) refused: Option<Refusal>,
}

/// The head of an error.
#[derive(Debug)]
pub(super) struct Refusal {
    pub(super) status: u16,
    /// The code of the error, if it is in a header.
    pub(super) kind: Option<String>,
}

impl Taken {
    /// Takes the body out of an answer.
    pub(super) fn of(answer: &mut HttpResponse) -> Self {
        let encoding = match answer.headers().get("content-type") {
            Some(kind) if kind.starts_with(cbor::CONTENT_TYPE) => Encoding::Cbor,
            _ => Encoding::Json,
        };
        let kind = || answer.headers().get("x-amzn-errortype").map(ToOwned::to_owned);
        let status = answer.status();
        let refused = (!status.is_success()).then(|| Refusal { status: status.as_u16(), kind: kind() });
        let len = answer.headers().get("content-length").and_then(|len| len.parse().ok());
        Self { body: std::mem::replace(answer.body_mut(), SdkBody::empty()), encoding, len, refused }
    }
}

impl TakeBody {
    /// Returns the body, if a good answer has come. A second call returns `None`.
    pub fn good(&self) -> Option<SdkBody> {
        self.taken().filter(|taken| taken.refused.is_none()).map(|taken| taken.body)
    }

    /// Returns what was taken. A second call returns `None`.
    pub(super) fn taken(&self) -> Option<Taken> {
        lock(&self.0).take()
    }
}

#[aws_smithy_runtime_api::client::interceptors::dyn_dispatch_hint]
impl Intercept for TakeBody {
    fn name(&self) -> &'static str {
        "TakeBody"
    }

    fn modify_before_deserialization(
        &self,
        context: &mut BeforeDeserializationInterceptorContextMut<'_>,
        _runtime_components: &RuntimeComponents,
        _config: &mut ConfigBag,
    ) -> Result<(), BoxError> {
        let taken = Taken::of(context.response_mut());
        // The SDK can read the other errors.
        if matches!(taken.refused, None | Some(Refusal { status: UNSUPPORTED_MEDIA_TYPE, .. }))
            || taken.encoding == Encoding::Cbor
        {
            *lock(&self.0) = Some(taken);
        } else {
            *context.response_mut().body_mut() = taken.body;
        }
        Ok(())
    }
}
