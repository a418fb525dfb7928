//! How is a record represented in memory?

mod batch;
mod deaggregate;
mod kpl;
#[cfg(test)]
mod kpl_tests;
mod page;
mod resident;

pub use batch::KinesisRecord;
pub(crate) use batch::RecordTable;
pub(crate) use deaggregate::{Found, deaggregate};
pub(crate) use kpl::Kind;
pub(crate) use page::Filling;
#[cfg(test)]
pub(crate) use page::PAGE;
pub use page::{Page, Record, Rows, bytes_needed};
pub(crate) use resident::{allocatable, resident};

/// Returns what the data of a record is.
pub(crate) fn kpl_kind(data: &[u8]) -> Kind {
    kpl::read(data, None)
}
