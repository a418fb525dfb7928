//! How is the body of an answer taken before the SDK reads it?

use std::sync::Arc;

use aws_sdk_kinesis::config::interceptors::BeforeDeserializationInterceptorContextMut;
use aws_sdk_kinesis::config::{ConfigBag, Intercept, RuntimeComponents};
use aws_smithy_runtime_api::box_error::BoxError;
use aws_smithy_types::body::SdkBody;

use super::{Encoding, cbor};
use crate::sync::{Mutex, lock};

/// The status of a call whose encoding the service does not know.
const UNSUPPORTED_MEDIA_TYPE: u16 = 415;

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
    /// The status of an answer that is an error.
    pub(super) refused: Option<u16>,
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
        let response = context.response_mut();
        let encoding = match response.headers().get("content-type") {
            Some(kind) if kind.starts_with(cbor::CONTENT_TYPE) => Encoding::Cbor,
            _ => Encoding::Json,
        };
        let refused = (!response.status().is_success()).then(|| response.status().as_u16());
        if matches!(refused, None | Some(UNSUPPORTED_MEDIA_TYPE)) || encoding == Encoding::Cbor {
            let len = response.headers().get("content-length").and_then(|len| len.parse().ok());
            let body = std::mem::replace(response.body_mut(), SdkBody::empty());
            *lock(&self.0) = Some(Taken { body, encoding, len, refused });
        }
        Ok(())
    }
}
