//! How are events written as bytes?

pub(crate) mod frame;
pub(crate) mod event;
