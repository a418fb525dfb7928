//! How much memory does a process have for what it was asked for?
//!
//! More than was asked for: allocators round up, and what lives long stands between what doesn't. A flood of small records from
//! 1,000 shards (`cargo bench --bench consume -- --measure flood --shards 1000`) has a sixth more resident than is held. So a
//! fifth is counted with everything, and what the configuration allows is what the process takes.

/// The memory behind so many allocated bytes.
pub(crate) fn resident(allocated: u64) -> u64 {
    allocated.saturating_add(allocated / 5)
}

/// How many bytes may be allocated where so much memory may be taken.
pub(crate) fn allocatable(resident: u64) -> u64 {
    resident - resident.div_ceil(6)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_may_be_allocated_takes_no_more_than_is_allowed() {
        for allowed in [0, 1, 5, 6, 64 << 10, 512 << 10, (16 << 20) + 3] {
            assert!(resident(allocatable(allowed)) <= allowed, "{allowed}");
            assert!(allocatable(allowed) >= allowed / 6 * 5, "{allowed}");
        }
        assert_eq!(resident(u64::MAX), u64::MAX);
    }
}
