//! What goes wrong with the disk of a checkpoint file?

use std::time::Duration;

use fastrand::Rng;

use super::World;
use super::events::Later;
use crate::disk::Trouble;

/// The longest time that a disk is in trouble.
const LONGEST: u64 = 90;

impl World {
    /// Lets the disk fail for a while, if that is due.
    pub(super) fn disk_event(&mut self) {
        let Some(disk) = self.shared.disk.clone().filter(|_| self.now >= self.next_disk) else { return };
        let troubles = [Trouble::Full, Trouble::Full, Trouble::Write, Trouble::Flaky, Trouble::ReadOnly, Trouble::Dead];
        let trouble = troubles[self.disk.usize(0..troubles.len())];
        self.say(&format!("the disk is in trouble: {trouble:?}"));
        disk.set_trouble(Some(trouble));
        self.events += 1;
        let until = self.now + Duration::from_millis(self.disk.u64(200..LONGEST * 1000));
        self.later.push((until, Later::Disk));
        self.next_disk = until + Duration::from_millis(self.disk.u64(5_000..240_000));
    }

    /// Kills a worker. Where it has a disk, half of the time the power fails, too.
    pub(super) fn kill(&mut self, at: usize) {
        let Some(worker) = self.fleet.remove(&at) else { return };
        self.faults += worker.link.faults();
        drop(worker);
        if let Some(disk) = self.shared.disk.clone()
            && self.disk.bool()
        {
            self.say("the power fails");
            disk.lose_power();
        }
    }

    /// The generator of this file's faults.
    pub(super) fn disk_generator(seed: u64) -> Rng {
        Rng::with_seed(seed ^ 0x6469_736b_0000)
    }
}
