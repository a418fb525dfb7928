//! Which inputs can a host build?
