//! How are events written as bytes?

pub(crate) mod event;
pub(crate) mod frame;
