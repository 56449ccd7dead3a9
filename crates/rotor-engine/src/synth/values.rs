//! The numbers of a synthetic model, each a function of the seed, the tensor and the row alone.
//!
//! Their sizes keep a signal what it is through any number of layers: a linear gives about what goes in, a layer adds
//! half of a normalised signal to the residual stream, and logits come out with a deviation of about 3. Every number is
//! exact in f16, bf16 and f32, so that a model is the same in every file format.

use super::random::{Stream, normal_quantiles};
use crate::config::Config;
use crate::formats::{NORM_IN, Part, Role, gguf_stem};
use crate::forms::Scales;
use crate::write::names;
use half::bf16;

/// Share of weights that are not zero.
const DENSITY: f32 = 0.6;

/// Deviation of the logits.
const LOGITS: f32 = 3.0;

/// Deviation of the embedding where another matrix serves as the head.
const EMBEDDING: f32 = 0.5;

pub(super) struct Values {
    seed: u64,
    scales_multiply: bool,
    hidden: usize,
    tied: bool,
    /// Divides the logits.
    logit_scale: f32,
    group_cols: Option<usize>,
}

/// A tensor's scale, and what a Hugging Face file stores for it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Scale {
    /// Multiplies.
    pub(super) value: f32,
    /// `weight_scale`: BitNet's multiplies, Llama's divides.
    pub(super) stored: bf16,
}

/// The quantiles of one matrix of normally distributed numbers.
pub(super) struct Normal {
    quantiles: Box<[f32; 1 << 16]>,
    tensor: String,
    seed: u64,
}

impl Normal {
    pub(super) fn row(&self, row: usize, out: &mut [f32]) {
        Stream::new(self.seed, &self.tensor, row).normal(&self.quantiles, out);
    }
}

impl Values {
    pub(super) fn new(
        seed: u64,
        config: &Config,
        tied: bool,
        scales_multiply: bool,
        group_cols: Option<usize>,
    ) -> Self {
        let (hidden, logit_scale) = (config.hidden_size, config.logit_scale);
        Self { seed, scales_multiply, hidden, tied, logit_scale, group_cols }
    }

    /// The embedding or the head.
    pub(super) fn normal(&self, role: Role) -> Normal {
        let head = role == Role::Output || self.tied;
        let sigma = if head { LOGITS * self.logit_scale / (self.hidden as f32).sqrt() } else { EMBEDDING };
        Normal { quantiles: normal_quantiles(sigma), tensor: names::gguf(role), seed: self.seed }
    }

    /// A norm's weights: near 1 but off it, so that a norm that is left out shows.
    pub(super) fn norm(&self, role: Role, len: usize) -> Vec<f32> {
        let mut values = vec![0.0; len];
        Stream::new(self.seed, &names::gguf(role), 0).near_one(&mut values);
        values
    }

    /// A linear's scale, different for each so that a mix-up shows.
    pub(super) fn scale(&self, role: Role, cols: usize) -> Scale {
        let mut spread = [0.0];
        Stream::new(self.seed, &names::gguf(role), usize::MAX).near_one(&mut spread);
        let gain = match role {
            Role::Layer(_, Part::AttnOutput | Part::FfnDown) => 0.5,
            Role::Output => LOGITS,
            Role::TokenEmbedding if self.tied => LOGITS,
            _ => 1.0,
        };
        let ideal = gain * spread[0] / (DENSITY * cols as f32).sqrt();
        if self.scales_multiply {
            let stored = bf16::from_f32(ideal);
            return Scale { value: stored.to_f32(), stored };
        }
        let stored = bf16::from_f32(1.0 / ideal);
        Scale { value: 1.0 / stored.to_f32(), stored }
    }

    /// All scales of a linear, rows in the order of the graph: one, or one to each group of columns.
    pub(super) fn scales(&self, role: Role, rows: usize, cols: usize) -> Scales {
        let Scale { value, .. } = self.scale(role, cols);
        let Some(group_cols) = self.group_cols else { return Scales::Tensor(value) };
        let groups = cols / group_cols;
        let mut values = vec![0.0; rows * groups];
        let name = names::gguf(role) + ".scales";
        for (row, values) in values.chunks_exact_mut(groups).enumerate() {
            Stream::new(self.seed, &name, row).near_one(values);
            values.iter_mut().for_each(|spread| *spread *= value);
        }
        Scales::Groups { groups, values }
    }

    /// The norm in front of a linear.
    pub(super) fn norm_in(&self, role: Role, len: usize) -> Vec<f32> {
        let mut values = vec![0.0; len];
        Stream::new(self.seed, &(gguf_stem(role) + NORM_IN), 0).near_one(&mut values);
        values
    }

    /// The trits of the graph's row `row`.
    pub(super) fn trits(&self, name: &str, row: usize, out: &mut [i8]) {
        Stream::new(self.seed, name, row).trits(out);
    }
}
