//! Does a record hold several records that a producer packed into one?
//!
//! Amazon's Kinesis Producer Library (KPL) aggregates records in this way. Deaggregation is not implemented yet:
//! until then aggregated records are delivered whole, counted, and logged.

/// The magic bytes of an aggregate, from the KPL's published format.
const MAGIC: [u8; 4] = [0xF3, 0x89, 0x9A, 0xC2];
/// The length of the MD5 sum at the end of an aggregate.
const SUM_LEN: usize = 16;

/// Returns whether the data has the form of an aggregate.
pub(crate) fn looks_aggregated(data: &[u8]) -> bool {
    data.starts_with(&MAGIC) && data.len() > MAGIC.len() + SUM_LEN
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn aggregate_is_recognized_by_its_mark_and_its_least_length() {
        let mut data = MAGIC.to_vec();
        data.extend([0; SUM_LEN]);
        assert!(!looks_aggregated(&data));
        data.push(0);
        assert!(looks_aggregated(&data));
        assert!(!looks_aggregated(&data[1..]));
    }
}
