//! The fuzz target for events: are they read as they should be?
#![cfg_attr(fuzzing, no_main)]

#[cfg(fuzzing)]
use kinesis_input_fuzz::event;
#[cfg(fuzzing)]
use libfuzzer_sys::fuzz_target;

#[cfg(fuzzing)]
fuzz_target!(|input: &[u8]| event::check_input(input));

/// Without a fuzzer there is nothing to do: the tests of the project run the corpus.
#[cfg(not(fuzzing))]
fn main() {}
