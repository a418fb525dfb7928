//! What benchmarks and fuzzing need of the inside. Nothing here is promised to stay.

pub use crate::aws::http::{Settings, SubscriptionClient};
pub use crate::model::ChildShard;
pub use crate::reading::fan_out::{Frames, wire};
pub use crate::records::{Page, Record, Rows, bytes_needed};
pub use crate::retry::{Fault, Origin};
