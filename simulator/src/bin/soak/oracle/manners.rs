//! A worker does not ask the service for more than it admits.
//!
//! A worker that is refused a subscription, because the last one to the shard was made a moment ago, waits until a new
//! one is allowed. A worker that polls a shard leaves 200 ms between two calls, and at least half a second after it was
//! told that the shard is read too fast.

use std::time::Duration;

use kinesis_simulator::Call;
use kinesis_simulator::kinesis::{parse_shard_id, shard_of_iterator};

use super::{Broken, Oracle};

/// The least time between two calls on a shard, and after one that was refused because the shard is read too fast.
const GAP: Duration = Duration::from_millis(200);
const THROTTLED: Duration = Duration::from_millis(500);

impl Oracle {
    /// Notes that a worker called Kinesis.
    pub(crate) fn called(&mut self, call: &Call<'_>, takeover: Duration) {
        self.advance(call.at);
        match call.operation {
            "SubscribeToShard" => self.subscribed(call, takeover),
            "GetRecords" => self.polled(call),
            _ => {}
        }
    }

    fn polled(&mut self, call: &Call<'_>) {
        let iterator = call.asked["ShardIterator"].as_str().unwrap_or_default();
        let Some(shard) = shard_of_iterator(iterator) else { return };
        let throttled = call.error.is_some_and(|error| error.code == "ProvisionedThroughputExceededException");
        let gap = if throttled { THROTTLED } else { GAP };
        // A worker that is restarted knows nothing of its former calls. One that is refused for another reason, or that
        // gets no answer, need not wait.
        let known = self.workers.entry(call.by.to_owned()).or_default();
        let next = known.next_poll.remove(&shard);
        if call.answered && (call.error.is_none() || throttled) {
            known.next_poll.insert(shard, call.at + gap);
        }
        if let Some(next) = next.filter(|next| call.at < *next) {
            let early = next.since(call.at);
            self.violate(Broken::Hasty, format!("{} polls shard {shard} {early:?} before its time", call.by));
        }
    }

    fn subscribed(&mut self, call: &Call<'_>, takeover: Duration) {
        let shard = call.asked["ShardId"].as_str().unwrap_or_default();
        let Some(id) = parse_shard_id(shard) else { return };
        let Some(error) = call.error else {
            self.grants.insert(id, (call.at, Vec::new()));
            return;
        };
        let Some((granted, refused)) = self.grants.get_mut(&id) else { return };
        if error.code != "ResourceInUseException" || !call.answered || call.at.since(*granted) >= takeover {
            return;
        }
        if refused.iter().any(|other| other == call.by) {
            let after = call.at.since(*granted);
            self.violate(
                Broken::Hasty,
                format!(
                    "{} subscribes to {shard} again {after:?} after it was granted, though it was refused before",
                    call.by
                ),
            );
        } else {
            refused.push(call.by.to_owned());
        }
    }
}
