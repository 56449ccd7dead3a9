//! Any bytes as a safetensors file, and as a Rotor file, whose weights are read where it is sound.

#![no_main]

use libfuzzer_sys::fuzz_target;
use rotor::formats::{OpenOptions, Source};

fuzz_target!(|data: &[u8]| {
    let _ = rotor::formats::safetensors_names(data);
    if let Ok(source) = Source::from_bytes(data.to_vec(), &OpenOptions::default()) {
        let _ = rotor::statistics::ternary(&source);
    }
});
