//! Held against transformers: the checkpoints of tests/data/hf-tiny and the logits it computed for them.

mod common;

use common::{Expected, fixtures, logits, runtimes};
use rotor::formats::{OpenOptions, Source};
use rotor::model::Model;
use rotor_kernels::attention::KvType;

/// The numeric contract: at most 1e-4 of the largest logit, and the same best token everywhere.
#[test]
fn logits_are_those_of_transformers() {
    for folder in fixtures() {
        let expected = Expected::read(&folder);
        let source = Source::open(&folder, &OpenOptions::default()).unwrap_or_else(|e| panic!("{folder:?}: {e}"));
        for runtime in runtimes() {
            let model = Model::load(&source, &runtime, &mut |_| {}).unwrap();
            let found = logits(&model, &expected.ids, expected.ids.len(), KvType::F32);
            let largest = expected.logits.iter().fold(0f32, |m, v| m.max(v.abs()));
            let difference = expected.logits.iter().zip(&found).map(|(e, f)| (e - f).abs()).fold(0f32, f32::max);
            let name = folder.file_name().unwrap().to_string_lossy().into_owned();
            println!("{name} on {}: {:.1e} of the largest logit", runtime.kernels.isa(), difference / largest);
            assert!(difference <= 1e-4 * largest, "{name}: {difference} of {largest}");
            let vocab = model.config().vocab_size;
            let best = |rows: &[f32]| -> Vec<usize> {
                let row = |row: &[f32]| (0..vocab).max_by(|a, b| row[*a].total_cmp(&row[*b])).unwrap();
                rows.chunks_exact(vocab).map(row).collect()
            };
            assert_eq!(best(&expected.logits), best(&found), "{name}: best tokens");
        }
    }
}
