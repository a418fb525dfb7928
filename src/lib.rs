//! scaffold
mod sync;
pub mod names;
pub mod pool;
#[cfg(test)] mod pool_tests; pub mod ack; pub mod backoff; pub mod retry;
pub mod efo;
