//! Small random models in any form and of any shape.

use crate::architectures::Architecture;
use crate::config::Config;
use crate::formats::{OpenOptions, Role, RowOrder, Source};
use crate::forms::{Encoder, Scales, TernaryForm};
use crate::rope;
use crate::write::gguf::{GgufHeader, type_id};
use crate::write::{names, put_config_keys};
use fastrand::Rng;
use rotor_kernels::DenseType;
use std::path::Path;

/// Which scales the linears have.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum ScaleKind {
    Tensor,
    /// One per row; f16 holds them exactly, as the form these models are written in has to.
    Rows,
    /// One for each so many columns.
    Groups(usize),
}

/// A model to be made.
#[derive(Clone, Debug)]
pub(super) struct Model {
    pub(super) architecture: Architecture,
    pub(super) hidden: usize,
    pub(super) intermediate: usize,
    pub(super) heads: usize,
    pub(super) layers: usize,
    pub(super) zeros: bool,
    pub(super) scales: ScaleKind,
    pub(super) tied: bool,
    /// What multiplies the outputs of the linears, as a tensor of its own.
    pub(super) output_scale: Option<f32>,
    pub(super) ternary_embedding: bool,
    pub(super) seed: u64,
    /// Changes hyper-parameters.
    pub(super) adjust: fn(&mut Config),
}

impl Model {
    pub(super) fn new(seed: u64) -> Self {
        Self {
            architecture: Architecture::BitNet,
            hidden: 256,
            intermediate: 256,
            heads: 4,
            layers: 1,
            zeros: true,
            scales: ScaleKind::Tensor,
            tied: true,
            output_scale: None,
            ternary_embedding: false,
            seed,
            adjust: |_| {},
        }
    }

    fn config(&self) -> Config {
        let mut config = Config {
            vocab_size: 40,
            max_position_embeddings: 64,
            hidden_size: self.hidden,
            intermediate_size: self.intermediate,
            num_hidden_layers: self.layers,
            num_attention_heads: self.heads,
            num_key_value_heads: self.heads / 2,
            head_dim: self.hidden / self.heads,
            rms_norm_eps: 1e-5,
            hidden_act: self.architecture.info().gguf[0].hidden_act,
            ..Config::new(self.architecture)
        };
        (self.adjust)(&mut config);
        config
    }

    /// The scales of a linear, in the order of the file's rows.
    fn scales(&self, rng: &mut Rng, rows: usize, cols: usize) -> Scales {
        // Of few bits, but for a tensor's own: those are anything f32 holds.
        let mut coarse = |n: usize| (0..n).map(|_| f32::from(rng.u8(64..=255)) / 4096.0).collect::<Vec<_>>();
        match self.scales {
            ScaleKind::Tensor => Scales::Tensor(coarse(1)[0] * 1.000_123),
            ScaleKind::Rows => Scales::Rows(coarse(rows)),
            ScaleKind::Groups(width) => Scales::Groups { groups: cols / width, values: coarse(rows * cols / width) },
        }
    }

    /// Writes the model as a GGUF with linears of `form`.
    pub(super) fn write(&self, form: TernaryForm, path: &Path) {
        let (config, mut rng) = (self.config(), Rng::with_seed(self.seed));
        let architecture = self.architecture.info().gguf[0].name;
        let mut header = GgufHeader::new();
        header.string("general.architecture", architecture);
        header.string("general.name", "random");
        header.strings("general.tags", &["a", "b"]);
        header.u32("general.file_type", 40);
        put_config_keys(&mut header, architecture, &config, None);
        let mut tensors = Vec::new();
        let heads = [Role::TokenEmbedding].into_iter().chain((!self.tied).then_some(Role::Output));
        let info = self.architecture.info();
        let layers = (0..self.layers).flat_map(|l| info.parts().map(move |part| Role::Layer(l, part)));
        for role in heads.chain(layers).chain([Role::OutputNorm]) {
            let (rows, cols) = role.shape(&config);
            let name = names::gguf(role);
            if role.is_linear() || (self.ternary_embedding && role == Role::TokenEmbedding) {
                let scales = self.scales(&mut rng, rows, cols);
                let trits: Vec<i8> = (0..rows * cols).map(|_| self.trit(&mut rng)).collect();
                let bytes = encoded(form, (rows, cols), &trits, scales);
                header.tensor(&name, &[rows, cols], form.info().gguf_type.unwrap(), bytes.len() as u64);
                tensors.push(bytes);
                if let Some(scale) = self.output_scale.filter(|_| role.is_linear()) {
                    header.tensor(&name.replace(".weight", ".scale"), &[1], type_id(DenseType::F32), 4);
                    tensors.push(scale.to_le_bytes().to_vec());
                }
            } else {
                let dtype = if rows == 1 { DenseType::F32 } else { DenseType::F16 };
                let bytes: Vec<u8> = match dtype {
                    DenseType::F32 => (0..cols).flat_map(|_| (0.5 + rng.f32()).to_le_bytes()).collect(),
                    _ => (0..rows * cols).flat_map(|_| half::f16::from_f32(rng.f32() - 0.5).to_le_bytes()).collect(),
                };
                let shape = if rows == 1 { vec![cols] } else { vec![rows, cols] };
                header.tensor(&name, &shape, type_id(dtype), bytes.len() as u64);
                tensors.push(bytes);
            }
        }
        for (name, values) in rope::tensors(&config) {
            header.tensor(name, &[values.len()], type_id(DenseType::F32), 4 * values.len() as u64);
            tensors.push(values.iter().flat_map(|value| value.to_le_bytes()).collect());
        }
        let mut file = header.create(path).unwrap();
        tensors.iter().for_each(|bytes| file.write(bytes.as_slice()).unwrap());
        file.finish().unwrap();
    }

    fn trit(&self, rng: &mut Rng) -> i8 {
        if self.zeros { rng.i8(-1..=1) } else { 1 - 2 * rng.i8(0..=1) }
    }
}

/// A tensor's bytes.
pub(super) fn encoded(form: TernaryForm, (rows, cols): (usize, usize), trits: &[i8], scales: Scales) -> Vec<u8> {
    let encoder = Encoder::new("t", form, rows, cols, scales).unwrap();
    let mut bytes = vec![0; encoder.strips() * encoder.strip_bytes()];
    for (strip, out) in bytes.chunks_exact_mut(encoder.strip_bytes()).enumerate() {
        let mut read = |row: usize, out: &mut [i8]| {
            out.copy_from_slice(&trits[row * cols..(row + 1) * cols]);
            Ok(())
        };
        encoder.encode_strip(strip, &mut read, out).unwrap();
    }
    bytes.extend(encoder.tail());
    bytes
}

/// Opens a model.
pub(super) fn open(path: &Path) -> Source {
    Source::open(path, &OpenOptions::default()).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// The names of everything in a folder.
pub(super) fn listed(folder: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(folder).unwrap();
    let mut names: Vec<_> = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

/// The order of a llama's query rows.
pub(super) fn interleaved(model: &Model) -> RowOrder {
    RowOrder::RopeInterleaved { head_dim: model.hidden / model.heads }
}
