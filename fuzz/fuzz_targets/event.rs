//! Is an event read as it should be?
#![no_main]

use kinesis_input_fuzz::event;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: &[u8]| event::check_input(input));
