//! What if a resolver does not answer?

use std::time::Duration;

use fastrand::Rng;

use super::World;
use super::events::Later;

/// The longest time that a resolver does not answer.
const LONGEST: u64 = 60;

impl World {
    /// Lets the resolver of a worker hang for a while, if that is due. In three of four seeds none ever does.
    pub(super) fn resolver_event(&mut self) {
        if !self.plan.resolvers_hang || self.now < self.next_hang {
            return;
        }
        self.next_hang = self.now + Duration::from_millis(self.resolver.u64(20_000..200_000));
        let up: Vec<usize> = self.fleet.keys().copied().collect();
        let Some(at) = self.resolver.choice(&up).copied() else { return };
        self.say(&format!("the resolver of {} hangs", self.fleet[&at].name));
        self.fleet[&at].link.hang(true);
        self.events += 1;
        let until = self.now + Duration::from_millis(self.resolver.u64(500..LONGEST * 1000));
        self.later.push((until, Later::Resolve(at)));
        // Now and then the worker is stopped meanwhile.
        if self.resolver.u32(0..4) == 0 {
            let stop = self.now + Duration::from_millis(self.resolver.u64(0..10_000));
            self.later.push((stop, Later::Stop(at)));
        }
    }

    /// The generator of this file's faults.
    pub(super) fn resolver_generator(seed: u64) -> Rng {
        Rng::with_seed(seed ^ 0x6e61_6d65_0000)
    }
}
