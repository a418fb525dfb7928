//! How does the body of an answer arrive, piece by piece?

use std::future::poll_fn;
use std::pin::Pin;
use std::time::Duration;

use aws_smithy_types::body::SdkBody;
use bytes::Bytes;
use http_body::Body;
use pipeline_plugin_api::causes;
use tokio::time::timeout;

use crate::retry::Fault;

/// Waits for the next piece of a body, for at most this long; `None` at its end. `silence` makes the fault of a body from
/// which nothing came.
///
/// # Cancel safety
///
/// A dropped call has taken nothing.
pub(super) async fn next_piece(
    body: &mut SdkBody,
    within: Duration,
    silence: impl FnOnce() -> Fault,
) -> Result<Option<Bytes>, Fault> {
    loop {
        match timeout(within, poll_fn(|cx| Pin::new(&mut *body).poll_frame(cx))).await {
            Err(_) => return Err(silence()),
            Ok(None) => return Ok(None),
            Ok(Some(Err(error))) => return Err(Fault::wire("Connection", causes(&*error))),
            Ok(Some(Ok(frame))) => {
                // Trailers hold nothing that a reader needs.
                if let Ok(data) = frame.into_data()
                    && !data.is_empty()
                {
                    return Ok(Some(data));
                }
            }
        }
    }
}
