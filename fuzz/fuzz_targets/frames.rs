//! Are frames read as they should be?
#![no_main]

use kinesis_input_fuzz::frames;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: &[u8]| frames::check_input(input));
