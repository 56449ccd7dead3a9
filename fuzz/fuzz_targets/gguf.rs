//! Any bytes as a GGUF file: opened, and what opens is read.

#![no_main]

use libfuzzer_sys::fuzz_target;
use rotor::formats::{OpenOptions, Part, Role, Source, Weight};

fuzz_target!(|data: &[u8]| {
    let Ok(source) = Source::from_bytes(data.to_vec(), &OpenOptions::default()) else { return };
    let _ = source.tokenizer();
    let _ = source.vector(Role::OutputNorm);
    for part in Part::LINEARS {
        let Ok(linear) = source.linear(Role::Layer(0, part)) else { continue };
        if let Weight::Ternary(tensor) = linear.weight {
            let mut row = vec![0; tensor.cols];
            let _ = tensor.read_row(0, &mut row);
        }
    }
});
