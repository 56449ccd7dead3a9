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
    /// The share of gates above zero, where it is given.
    active_gates: Option<f32>,
}

/// Columns of the residual stream, the last, that tell the signs of gates where their share is given: nothing adds to them.
const STEADY_COLUMNS: usize = 16;
/// What they hold.
const STEADY: f32 = 0.25;
/// What they are once a gate's input is normed, beside other columns of about 1: together four deviations of what these
/// contribute to a gate of 2,560 columns.
const STEADY_NORMED: f32 = 10.0;
/// What a sublayer adds to the variance of the residual stream.
const SUBLAYER_VARIANCE: f32 = 0.25;

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
    /// Columns at the end that all rows have alike.
    steady: usize,
}

impl Normal {
    pub(super) fn row(&self, row: usize, out: &mut [f32]) {
        Stream::new(self.seed, &self.tensor, row).normal(&self.quantiles, out);
        let first = out.len().saturating_sub(self.steady);
        out[first..].fill(STEADY);
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
        Self { seed, scales_multiply, hidden, tied, logit_scale, group_cols, active_gates: None }
    }

    /// Makes so many of the gates be above zero, whatever the text: a few columns of the residual stream are the same for all
    /// tokens and large once they are normed, and the gates' weights there have one sign.
    pub(super) fn set_active_gates(&mut self, share: Option<f32>) {
        self.active_gates = share;
    }

    /// The embedding or the head.
    pub(super) fn normal(&self, role: Role) -> Normal {
        let head = role == Role::Output || self.tied;
        let steady = if self.active_gates.is_some() && role == Role::TokenEmbedding { STEADY_COLUMNS } else { 0 };
        Normal { quantiles: normal_quantiles(self.sigma(head)), tensor: names::gguf(role), seed: self.seed, steady }
    }

    /// Deviation of the embedding, or of what serves as the head.
    fn sigma(&self, head: bool) -> f32 {
        if head { LOGITS * self.logit_scale / (self.hidden as f32).sqrt() } else { EMBEDDING }
    }

    /// A norm's weights: near 1 but off it, so that a norm that is left out shows.
    pub(super) fn norm(&self, role: Role, len: usize) -> Vec<f32> {
        let mut values = vec![0.0; len];
        Stream::new(self.seed, &names::gguf(role), 0).near_one(&mut values);
        if let (Some(_), Role::Layer(layer, Part::FfnNorm)) = (self.active_gates, role) {
            let sublayers = (2 * layer + 1) as f32;
            let size = (self.sigma(self.tied).powi(2) + SUBLAYER_VARIANCE * sublayers).sqrt();
            let weight = bf16::from_f32(STEADY_NORMED * size / STEADY).to_f32();
            values[len.saturating_sub(STEADY_COLUMNS)..].fill(weight);
        }
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
    pub(super) fn trits(&self, role: Role, name: &str, row: usize, out: &mut [i8]) {
        Stream::new(self.seed, name, row).trits(out);
        let (Some(share), Role::Layer(_, part)) = (self.active_gates, role) else { return };
        match part {
            Part::FfnGate => {
                let mut spread = [0.0];
                Stream::new(self.seed, &format!("{name}.active"), row).uniform(&mut spread);
                let first = out.len().saturating_sub(STEADY_COLUMNS);
                out[first..].fill(if spread[0] < share { 1 } else { -1 });
            }
            Part::AttnOutput | Part::FfnDown if row + STEADY_COLUMNS >= self.hidden => out.fill(0),
            _ => {}
        }
    }
}
