//! Is an answer of GetRecords in CBOR read as it should be?
#![cfg_attr(fuzzing, no_main)]

#[cfg(fuzzing)]
use kinesis_input_fuzz::cbor;
#[cfg(fuzzing)]
use libfuzzer_sys::fuzz_target;

#[cfg(fuzzing)]
fuzz_target!(|input: &[u8]| cbor::check(input));

/// Without a fuzzer there is nothing to do: the tests of the project run the corpus.
#[cfg(not(fuzzing))]
fn main() {}
