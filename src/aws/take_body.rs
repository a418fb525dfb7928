//! How is the body of an answer taken before the SDK reads it?

use std::sync::Arc;

use aws_sdk_kinesis::config::interceptors::BeforeDeserializationInterceptorContextMut;
use aws_sdk_kinesis::config::{ConfigBag, Intercept, RuntimeComponents};
use aws_smithy_runtime_api::box_error::BoxError;
use aws_smithy_types::body::SdkBody;

use crate::sync::{Mutex, lock};

/// An interceptor that takes the body out of a good answer, before the SDK reads it. Clones share the body.
#[derive(Debug, Clone, Default)]
pub struct TakeBody(Arc<Mutex<Option<SdkBody>>>);

impl TakeBody {
    /// Returns the body, if a good answer has come. A second call returns `None`.
    pub fn taken(&self) -> Option<SdkBody> {
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
        if response.status().is_success() {
            let body = std::mem::replace(response.body_mut(), SdkBody::empty());
            *lock(&self.0) = Some(body);
        }
        Ok(())
    }
}
