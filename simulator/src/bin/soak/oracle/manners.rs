//! A worker that is refused a subscription, because the last one to the shard was made a moment ago, waits until a new
//! one is allowed.

use std::time::Duration;

use kinesis_simulator::Call;
use kinesis_simulator::kinesis::parse_shard_id;

use super::{Broken, Oracle};

impl Oracle {
    /// Notes that a worker called Kinesis.
    pub(crate) fn called(&mut self, call: &Call<'_>, takeover: Duration) {
        self.advance(call.at);
        if call.operation != "SubscribeToShard" {
            return;
        }
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
