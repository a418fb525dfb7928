//! How much memory does a process take for its allocations?
//!
//! A process takes more than it allocates: allocators round up, and long-lived allocations stand between short-lived
//! ones. A flood of small records from 1,000 shards (`cargo bench --bench consume -- --measure flood --shards 1000`)
//! has a sixth more memory resident than is allocated. A fifth is therefore added to every allocation, so that the
//! configured limit is the memory that the process takes.

/// The resident memory behind this many allocated bytes.
pub(crate) fn resident(allocated: u64) -> u64 {
    allocated.saturating_add(allocated / 5)
}

/// The number of bytes that may be allocated within this much resident memory.
pub(crate) fn allocatable(resident: u64) -> u64 {
    resident - resident.div_ceil(6)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn allocations_stay_within_the_allowance() {
        for allowed in [0, 1, 5, 6, 64 << 10, 512 << 10, (16 << 20) + 3] {
            assert!(resident(allocatable(allowed)) <= allowed, "{allowed}");
            assert!(allocatable(allowed) >= allowed / 6 * 5, "{allowed}");
        }
        assert_eq!(resident(u64::MAX), u64::MAX);
    }
}
