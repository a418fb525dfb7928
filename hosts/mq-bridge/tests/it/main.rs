//! Inputs as mq-bridge sees them: its conformance suite, and whole routes.

mod conformance;
mod input;
mod queue;
mod routes;
mod sharing;
