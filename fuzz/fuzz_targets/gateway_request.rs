#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| sternline_fuzz_properties::check("gateway_request", data));
