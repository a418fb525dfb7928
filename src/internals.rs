//! What benchmarks and fuzzing need of the inside. Nothing here is promised to stay.

pub use crate::aws::http::{Settings, Sockets, SubscriptionClient};
pub use crate::aws::take_body::TakeBody;
pub use crate::model::ChildShard;
pub use crate::reading::fan_out::Frames;
pub use crate::reading::wire;
pub use crate::records::{Page, Record, Rows, bytes_needed};
pub use crate::retry::{Fault, Origin};

/// Puts the user records of aggregates into the place of the records that hold them. `range` gives the first and the
/// last hash key of the shard in decimal; user records outside say so.
pub fn deaggregate(rows: &mut Rows, range: Option<(&str, &str)>) {
    let range = range.and_then(|(start, end)| crate::model::HashRange::new(start, end));
    crate::records::deaggregate(rows, range);
}
