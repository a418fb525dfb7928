//! How do the records of an event become the user records that producers packed into them?
//!
//! This module is pure: rows in, rows out. Data is not copied, and what is kept of an aggregate is at most half of its
//! size, so the space that was reserved for the event's frame holds it.

use super::kpl::{self, Kind};
use super::page::{Rows, Unpacked};
use crate::model::HashRange;

/// What was found in the records of an event.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Found {
    /// How many records were aggregates.
    pub(crate) aggregates: usize,
    /// How many aggregates contradict themselves and stay whole, and what is wrong with the last of them.
    pub(crate) malformed: usize,
    pub(crate) reason: Option<&'static str>,
}

/// Replaces aggregates by their user records. Those outside `range`, if it is given, say so.
pub(crate) fn deaggregate(rows: &mut Rows, range: Option<HashRange>) -> Found {
    let mut found = Found::default();
    rows.unpack_each(|page| {
        let mut unpacked = Vec::new();
        for (row, record) in page.iter().enumerate() {
            match kpl::read(record.data_ref(), range) {
                Kind::Plain => {}
                Kind::Malformed(reason) => {
                    found.malformed += 1;
                    found.reason = Some(reason);
                }
                Kind::Aggregate(aggregate) => {
                    found.aggregates += 1;
                    unpacked.push(Unpacked { row: row as u32, first: 0, aggregate });
                }
            }
        }
        unpacked
    });
    found
}
