//! What a test of a model is, and what it computes and reads: the figures that a rate is held against.

use crate::cache::bytes_per_token;
use crate::model::Model;
use rotor_kernels::attention::KvType;
use rotor_kernels::ternary::Skips;
use std::fmt;

/// Tokens of a prompt that are computed together: enough to share each weight's decoding among many, few enough that the
/// numbers in flight stay small.
pub const PREFILL_CHUNK: usize = 512;

/// What is timed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Test {
    /// A prompt of so many tokens, logits for the last.
    Prompt {
        /// Tokens computed.
        tokens: usize,
        /// Tokens in the context before them.
        depth: usize,
    },
    /// Tokens one after the other, logits for each.
    Generate {
        /// Tokens computed of each sequence.
        tokens: usize,
        /// Tokens in each context before them.
        depth: usize,
        /// Sequences that are computed together, a token of each in a step.
        batch: usize,
    },
}

impl Test {
    /// Tokens computed in one run, those of all sequences together.
    pub fn tokens(self) -> usize {
        match self {
            Test::Prompt { tokens, .. } => tokens,
            Test::Generate { tokens, batch, .. } => tokens * batch,
        }
    }

    /// Whether it is a prompt.
    pub fn is_prompt(self) -> bool {
        matches!(self, Test::Prompt { .. })
    }

    /// Tokens in the context at the start.
    pub fn depth(self) -> usize {
        match self {
            Test::Prompt { depth, .. } | Test::Generate { depth, .. } => depth,
        }
    }

    /// Sequences computed together.
    pub fn batch(self) -> usize {
        match self {
            Test::Prompt { .. } => 1,
            Test::Generate { batch, .. } => batch,
        }
    }

    /// Room that each sequence needs.
    pub fn context(self) -> usize {
        match self {
            Test::Prompt { tokens, depth } | Test::Generate { tokens, depth, .. } => depth + tokens,
        }
    }
}

/// As llama-bench names them, with the number of sequences where there are several: `pp128`, `tg32 @ d2048`, `tg32 b8`.
impl fmt::Display for Test {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Test::Prompt { tokens, .. } => write!(f, "pp{tokens}")?,
            Test::Generate { tokens, batch: 1, .. } => write!(f, "tg{tokens}")?,
            Test::Generate { tokens, batch, .. } => write!(f, "tg{tokens} b{batch}")?,
        }
        if self.depth() > 0 { write!(f, " @ d{}", self.depth()) } else { Ok(()) }
    }
}

/// What a model's matrices cost: every linear is read once for each step and multiplied once for each token, the head where
/// logits are wanted. Of a head with a sketch, the sketch is read for each step and some rows for each token.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Cost {
    /// Weights of all linears but the head.
    pub linear_weights: u64,
    /// Bytes of them in memory.
    pub linear_bytes: u64,
    /// Bytes that they would have if all of every linear were read.
    pub whole_linear_bytes: u64,
    /// Bytes of those of which rows can be left unread.
    pub rows_bytes: u64,
    /// Bytes of those of which columns can be.
    pub columns_bytes: u64,
    /// Weights of the head.
    pub head_weights: u64,
    /// Bytes of it in memory.
    pub head_bytes: u64,
    /// Bytes of one of its rows.
    pub row_bytes: u64,
    /// Bytes of its sketch; 0 where it has none.
    pub sketch_bytes: u64,
    /// Bytes of keys and values of one position.
    pub kv_bytes: u64,
}

/// What tokens took, in the mean, of what need not be read whole.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Taken {
    /// Rows of the head that were multiplied exactly for a token chosen from a sketch; `None` where the head was read.
    pub head_rows: Option<f64>,
    /// The share of rows that were read of linears that can leave rows unread.
    pub rows: f64,
    /// The share of columns.
    pub columns: f64,
}

impl Taken {
    /// Everything.
    pub const ALL: Taken = Taken { head_rows: None, rows: 1.0, columns: 1.0 };
}

impl Cost {
    /// The cost of `model`, keys and values kept as `kv`.
    pub fn of(model: &Model, kv: KvType) -> Cost {
        let kv_bytes = bytes_per_token(model.config(), kv);
        let (linears, head) = (model.linears_size(), model.head_size());
        Cost {
            linear_weights: linears.weights,
            linear_bytes: linears.bytes,
            whole_linear_bytes: model.whole_bytes(),
            rows_bytes: model.skippable_bytes(Skips::Rows),
            columns_bytes: model.skippable_bytes(Skips::Columns),
            head_weights: head.weights,
            head_bytes: head.bytes,
            row_bytes: head.bytes / (model.config().vocab_size as u64).max(1),
            sketch_bytes: model.sketch().map_or(0, |sketch| sketch.bytes() as u64),
            kv_bytes,
        }
    }

    /// Multiply-adds with weights, attention left out, of a run of `test`.
    pub fn multiply_adds(&self, test: Test) -> u64 {
        let heads = match test {
            Test::Prompt { .. } => 1,
            Test::Generate { .. } => test.tokens() as u64,
        };
        self.linear_weights * test.tokens() as u64 + self.head_weights * heads
    }

    /// Bytes that a run of `test` reads: all weights once for each step (a chunk of a prompt is one), and for each step the
    /// keys and values before it. Of a head with a sketch that was used, the sketch and the rows that were multiplied are read.
    pub fn bytes_read(&self, test: Test, taken: &Taken) -> f64 {
        let unread = self.rows_bytes as f64 * (1.0 - taken.rows) + self.columns_bytes as f64 * (1.0 - taken.columns);
        self.bytes(test, self.linear_bytes as f64 - unread, taken.head_rows)
    }

    fn bytes(&self, test: Test, linear_bytes: f64, head_rows: Option<f64>) -> f64 {
        let (steps, heads, batch) = match test {
            Test::Prompt { tokens, .. } => (tokens.div_ceil(PREFILL_CHUNK), 1, 1),
            Test::Generate { tokens, batch, .. } => (tokens, tokens, batch),
        };
        let head = match head_rows {
            Some(rows) => self.sketch_bytes as f64 + rows * (self.row_bytes * batch as u64) as f64,
            None => self.head_bytes as f64,
        };
        let weights = linear_bytes * steps as f64 + head * heads as f64;
        let tokens = test.context() - test.depth();
        // Mean positions of a step: the depth, and half of what is computed.
        let positions = test.depth() as f64 + (tokens as f64 + 1.0) / 2.0;
        weights + self.kv_bytes as f64 * positions * (steps * batch) as f64
    }

    /// Bytes that generating reads for each token: its share of all weights, and the keys and values of its sequence at half
    /// of the run. `None` for prompts, whose chunks share what is read.
    pub fn bytes_per_token(&self, test: Test, taken: &Taken) -> Option<f64> {
        (!test.is_prompt()).then(|| self.bytes_read(test, taken) / test.tokens() as f64)
    }

    /// The same if all of every weight were read, packed for that.
    pub fn whole_bytes_per_token(&self, test: Test) -> Option<f64> {
        let bytes = self.bytes(test, self.whole_linear_bytes as f64, None);
        (!test.is_prompt()).then(|| bytes / test.tokens() as f64)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::Engine;
    use crate::formats::{OpenOptions, Source};
    use crate::runtime::Runtime;
    use crate::synth::{Preset, SynthOptions, synthesize};

    fn tiny() -> Engine {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("tiny.gguf");
        synthesize(Preset::Tiny, &path, &SynthOptions::default(), &mut |_, _| {}).unwrap();
        let source = Source::open(&path, &OpenOptions::default()).unwrap();
        Engine::from_source(&source, &Runtime::new(1).unwrap(), &mut |_| {}).unwrap()
    }

    #[test]
    fn tests_are_named_as_llama_bench_names_them() {
        let names = [
            Test::Prompt { tokens: 128, depth: 0 },
            Test::Prompt { tokens: 128, depth: 2048 },
            Test::Generate { tokens: 32, depth: 0, batch: 1 },
            Test::Generate { tokens: 32, depth: 64, batch: 8 },
        ];
        assert_eq!(names.map(|test| test.to_string()), ["pp128", "pp128 @ d2048", "tg32", "tg32 b8 @ d64"]);
    }

    #[test]
    fn the_cost_counts_every_weight_once() {
        let engine = tiny();
        let cost = Cost::of(engine.model(), KvType::F16);
        assert_eq!((cost.linear_bytes + cost.head_bytes) as usize, engine.model().weight_bytes());
        assert_eq!(cost.head_weights, 1024 * 256);
        // Two bits a weight, or less where the kernel packs them denser.
        let bits = 8.0 * cost.linear_bytes as f64 / cost.linear_weights as f64;
        assert!((1.6..=2.0).contains(&bits), "{bits} bits a weight");
        let generate = Test::Generate { tokens: 3, depth: 10, batch: 2 };
        assert_eq!(cost.multiply_adds(generate), 6 * (cost.linear_weights + cost.head_weights));
        let weights = (cost.linear_bytes + cost.head_bytes) as f64 / 2.0;
        assert_eq!(cost.bytes_per_token(generate, &Taken::ALL), Some(weights + 12.0 * cost.kv_bytes as f64));
        assert_eq!(cost.whole_bytes_per_token(generate), cost.bytes_per_token(generate, &Taken::ALL));
        assert_eq!(cost.bytes_per_token(Test::Prompt { tokens: 3, depth: 0 }, &Taken::ALL), None);
        // Of a head with a sketch a step reads the sketch, and a token its rows.
        let cost = Cost { sketch_bytes: 1000, ..cost };
        assert_eq!(cost.row_bytes, 2 * 256);
        let weights = (cost.linear_bytes + 1000) as f64 / 2.0 + 7.5 * 512.0;
        let taken = Taken { head_rows: Some(7.5), ..Taken::ALL };
        assert_eq!(cost.bytes_per_token(generate, &taken), Some(weights + 12.0 * cost.kv_bytes as f64));
        // Of linears with unread rows and columns, what is left.
        let cost = Cost { rows_bytes: 400, columns_bytes: 200, ..cost };
        let half = Taken { rows: 0.5, columns: 0.25, ..taken };
        let unread = (200.0 + 150.0) / 2.0;
        assert_eq!(cost.bytes_per_token(generate, &half), Some(weights - unread + 12.0 * cost.kv_bytes as f64));
    }
}
