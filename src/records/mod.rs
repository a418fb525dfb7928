//! How is a record represented in memory?

mod batch;
pub(crate) mod kpl;
mod page;
mod resident;

pub use batch::KinesisRecord;
pub(crate) use batch::RecordTable;
pub(crate) use page::Filling;
#[cfg(test)]
pub(crate) use page::PAGE;
pub use page::{Page, Record, Rows, bytes_needed};
pub(crate) use resident::{allocatable, resident};
