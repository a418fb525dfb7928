//! A worker that is told that a shard was just subscribed to, waits until that may be done again.

use std::time::Duration;

use kinesis_simulator::Call;
use kinesis_simulator::kinesis::parse_shard_id;

use super::{Broken, Oracle};

impl Oracle {
    /// A worker asked Kinesis for something.
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
                format!("{} asks for {shard} again {after:?} after it was granted, and was told so", call.by),
            );
        } else {
            refused.push(call.by.to_owned());
        }
    }
}
