//! What the graph needs, found among the tensors of a file and checked against the hyper-parameters.
//!
//! Both containers end here: their own code only says which name each [`Role`] has and how a linear is stored. What is
//! left over matters as much as what is found, because a bias or a norm that nobody applies would be silently wrong.

use super::RowOrder;
use super::parts::{Part, Role};
use super::table::{Storage, TensorId, TensorTable};
use crate::config::Config;
use crate::error::FormatError;
use crate::forms::TernaryForm;
use rotor_kernels::DenseType;
use std::collections::{BTreeMap, HashSet};

/// How a matrix is stored.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Form {
    Dense(DenseType),
    /// `form` says I2_S without knowing its layout, which is found or given for the whole file.
    Ternary {
        form: TernaryForm,
        scales: ScalePlace,
        /// The tensor of `bit1`, for Rotor planes.
        bit1: Option<TensorId>,
    },
}

/// Where the scales of a ternary matrix are.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum ScalePlace {
    /// One, read with the graph.
    Known(f32),
    /// In the blocks or rows of the weights.
    Inside,
    /// The mean magnitude of the weights.
    Absmean,
    /// In a tensor of shape `[1]`, `[rows]` or `[rows, groups]`.
    Tensor(TensorId),
}

/// A matrix of the graph.
#[derive(Clone, Copy, Debug)]
pub(super) struct Matrix {
    pub(super) tensor: TensorId,
    pub(super) rows: usize,
    pub(super) cols: usize,
    pub(super) form: Form,
    pub(super) row_order: RowOrder,
}

/// One of the seven projections of a layer.
#[derive(Clone, Copy, Debug)]
pub(super) struct Linear {
    pub(super) matrix: Matrix,
    pub(super) output_scale: f32,
    pub(super) input_norm: Option<TensorId>,
}

/// Every tensor of the graph by the role it plays.
#[derive(Debug, Default)]
pub(super) struct Graph {
    pub(super) linears: BTreeMap<Role, Linear>,
    pub(super) matrices: BTreeMap<Role, Matrix>,
    pub(super) vectors: BTreeMap<Role, TensorId>,
}

impl Part {
    /// The seven projections.
    pub const LINEARS: [Part; 7] =
        [Part::AttnQ, Part::AttnK, Part::AttnV, Part::AttnOutput, Part::FfnGate, Part::FfnUp, Part::FfnDown];
}

impl Role {
    /// Whether this is one of the seven projections of a layer.
    pub fn is_linear(self) -> bool {
        matches!(self, Role::Layer(_, part) if Part::LINEARS.contains(&part))
    }

    /// The shape this role has, as rows and columns; a vector has one row.
    pub fn shape(self, config: &Config) -> (usize, usize) {
        let (hidden, ffn) = (config.hidden_size, config.intermediate_size);
        match self {
            Role::TokenEmbedding | Role::Output => (config.vocab_size, hidden),
            Role::OutputNorm => (1, hidden),
            Role::Layer(_, part) => match part {
                Part::AttnNorm | Part::AttnPostNorm | Part::FfnNorm | Part::FfnPostNorm => (1, hidden),
                Part::AttnQNorm | Part::AttnKNorm => (1, config.head_dim),
                Part::AttnSubNorm => (1, config.q_dim()),
                Part::FfnSubNorm => (1, ffn),
                Part::AttnQ => (config.q_dim(), hidden),
                Part::AttnK | Part::AttnV => (config.kv_dim(), hidden),
                Part::AttnOutput => (hidden, config.q_dim()),
                Part::FfnGate | Part::FfnUp => (ffn, hidden),
                Part::FfnDown => (hidden, ffn),
            },
        }
    }
}

/// Takes tensors out of a table one role at a time and remembers which.
pub(super) struct Binder<'a> {
    pub(super) table: &'a TensorTable,
    pub(super) config: &'a Config,
    used: HashSet<TensorId>,
}

impl<'a> Binder<'a> {
    pub(super) fn new(table: &'a TensorTable, config: &'a Config) -> Self {
        Self { table, config, used: HashSet::new() }
    }

    /// The first of `names` that exists.
    pub(super) fn find(&mut self, names: &[String]) -> Option<TensorId> {
        let id = names.iter().find_map(|name| self.table.find(name))?;
        self.used.insert(id);
        Some(id)
    }

    /// As [`find`](Self::find), where one has to exist.
    pub(super) fn require(&mut self, names: &[String]) -> Result<TensorId, FormatError> {
        self.find(names).ok_or_else(|| FormatError::missing(format!("tensor \"{}\"", names.join("\" or \""))))
    }

    /// A vector of numbers.
    pub(super) fn vector(&mut self, names: &[String], len: usize) -> Result<TensorId, FormatError> {
        let id = self.require(names)?;
        self.table.tensor(id).expect_shape(1, len)?;
        self.table.tensor(id).expect_dense()?;
        Ok(id)
    }

    /// The single finite number of a scale tensor.
    pub(super) fn scalar(&self, id: TensorId) -> Result<f32, FormatError> {
        let tensor = self.table.tensor(id);
        if tensor.shape.iter().any(|&dim| dim != 1) {
            return Err(FormatError::invalid(
                format!("shape of tensor {:?}", tensor.name),
                "[1]",
                format!("{:?}", tensor.shape),
            ));
        }
        let values = self.table.decode(id)?;
        match values.as_slice() {
            &[value] if value.is_finite() => Ok(value),
            other => Err(FormatError::invalid(
                format!("tensor {:?}", tensor.name),
                "one finite number",
                format!("{other:?}"),
            )),
        }
    }

    /// Planes or codes with their scales beside them, as Rotor files have them; `id` is the tensor `stem.weight`.
    pub(super) fn beside(&mut self, id: TensorId, form: TernaryForm, stem: &str) -> Result<Form, FormatError> {
        let bit1 = if form == TernaryForm::Rotor { Some(self.second_plane(id, stem)?) } else { None };
        let scales = self.require(&[format!("{stem}.scale")])?;
        self.table.tensor(scales).expect_dense()?;
        Ok(Form::Ternary { form, scales: ScalePlace::Tensor(scales), bit1 })
    }

    /// `bit1`, which is as long as `bit0`.
    fn second_plane(&mut self, bit0: TensorId, stem: &str) -> Result<TensorId, FormatError> {
        let id = self.require(&[format!("{stem}.bit1")])?;
        let (bit0, bit1) = (self.table.tensor(bit0), self.table.tensor(id));
        let rows = bit0.shape.first().copied().unwrap_or(0);
        let expected = [rows, bit0.range.len().checked_div(rows).unwrap_or(0)];
        if bit1.storage == Storage::U8 && bit1.shape == expected {
            return Ok(id);
        }
        let found = format!("{} {:?}", bit1.type_name, bit1.shape);
        Err(FormatError::invalid(format!("tensor {:?}", bit1.name), format!("u8 {expected:?}, as bit0"), found))
    }

    /// The tensors that no role has taken.
    pub(super) fn unused(&self) -> impl Iterator<Item = &str> {
        self.table.iter().filter(|(id, _)| !self.used.contains(id)).map(|(_, tensor)| tensor.name.as_str())
    }
}
