//! How is a driver read as a stream?

use std::fmt;
use std::pin::Pin;
use std::task::{Context, Poll};

use futures_core::Stream;

use super::{Delivery, Driver, DriverError};

/// The deliveries of a [`Driver`] as a [`Stream`], made by [`Driver::into_stream`].
///
/// The stream connects and reads. When the input has ended or a stop was requested, it closes the input, and then
/// it ends. Closing waits for the deliveries in flight, so they have to be settled while the stream is polled for
/// more.
///
/// # Errors
///
/// An error is the last item, and the input is closed by then: [`DriverError::Input`] if the input can't continue,
/// [`DriverError::Close`] if only closing failed.
///
/// # Cancel safety
///
/// A call of `next` that is dropped has taken no message, and the next call continues from there. A stream that is
/// dropped reads nothing more and does not close the input; deliveries in flight may still be settled.
#[must_use = "a stream does nothing unless it is polled"]
pub struct Deliveries {
    /// The pending step; `None` once the stream has ended.
    step: Option<Step>,
}

/// Waits for the next item, or for the end. The driver is returned while there may be more items.
type Step = Pin<Box<dyn Future<Output = (Option<Driver>, Option<Item>)> + Send>>;

type Item = Result<Delivery, DriverError>;

impl Deliveries {
    pub(super) fn new(driver: Driver) -> Self {
        Self { step: Some(Box::pin(step(driver))) }
    }
}

/// Returns the next delivery, or closes the input and returns the error that ends the stream.
async fn step(mut driver: Driver) -> (Option<Driver>, Option<Item>) {
    let read = match driver.next().await {
        Ok(Some(delivery)) => return (Some(driver), Some(Ok(delivery))),
        Ok(None) => Ok(()),
        Err(error) => Err(DriverError::Input(error)),
    };
    let closed = driver.close().await.map_err(DriverError::Close);
    (None, read.and(closed).err().map(Err))
}

impl Stream for Deliveries {
    type Item = Item;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Item>> {
        let Some(waiting) = &mut self.step else { return Poll::Ready(None) };
        let Poll::Ready((driver, item)) = waiting.as_mut().poll(context) else { return Poll::Pending };
        self.step = driver.map(|driver| Box::pin(step(driver)) as Step);
        Poll::Ready(item)
    }
}

impl fmt::Debug for Deliveries {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Deliveries").field("ended", &self.step.is_none()).finish_non_exhaustive()
    }
}
