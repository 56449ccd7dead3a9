//! Do two models hold the same weights and the same tokenizer, whatever their forms?
//!
//! Tensors are matched by the role they play in the graph and read in the graph's row order, so a GGUF with interleaved rows
//! and a folder without are compared weight by weight. Ternary tensors have to agree in every trit and in every scale that
//! multiplies a trit other than 0; other tensors in every value.

use crate::config::Config;
use crate::config::fields::FIELDS;
use crate::error::FormatError;
use crate::formats::{DenseTensor, Role, Source, SourceLinear, Weight};
use crate::forms::TernaryTensor;
use crate::rope::Rotations;
use crate::threads::over_rows;
use crate::tokenizer::{TokenizerDescription, TokenizerDifference, TokenizerError};
use crate::write::names;
use rotor_kernels::DenseType;
use rotor_kernels::encode::encode_row;
use serde::Serialize;
use serde_json::Value;
use std::fmt;
use std::ops::Range;

/// Bytes of numbers that are compared before their pages are let go.
const RELEASE_AFTER: usize = 16 << 20;

/// How two models compare.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Comparison {
    /// Hyper-parameters that differ, and the chat template if it does.
    pub config: Vec<ConfigDifference>,
    /// What differs between the tokenizers: then texts become other ids, ids another text, or texts end elsewhere.
    pub tokenizer: Vec<TokenizerDifference>,
    /// Tensors that differ, by the names GGUF has for them.
    pub tensors: Vec<TensorDifference>,
    /// Tensors that were compared.
    pub compared: usize,
    /// Trits that were compared.
    pub trits: u64,
}

/// A hyper-parameter, or the chat template, that differs.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct ConfigDifference {
    /// Its name in `config.json`.
    pub name: &'static str,
    /// In the first model.
    pub first: String,
    /// In the second model.
    pub second: String,
}

/// A tensor that differs.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct TensorDifference {
    /// The name GGUF has for it.
    pub tensor: String,
    /// How it differs.
    #[serde(flatten)]
    pub difference: Difference,
}

/// How a tensor differs. Rows and columns are the graph's.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Difference {
    /// One of the models has it and the other has not, or it is of another shape or kind.
    Nature {
        /// What it is in the first model.
        first: String,
        /// And in the second.
        second: String,
    },
    /// Trits.
    Trits {
        /// How many.
        count: u64,
        /// Where the first is.
        row: usize,
        /// Where the first is.
        col: usize,
        /// The first model's trit there.
        first: i8,
        /// The second model's.
        second: i8,
    },
    /// Scales of trits other than 0.
    Scales {
        /// How many, counted in rows or parts of rows.
        count: u64,
        /// Where the first is.
        row: usize,
        /// The first model's scale there.
        first: f32,
        /// The second model's.
        second: f32,
    },
    /// Numbers.
    Values {
        /// How many.
        count: u64,
        /// Where the first is.
        row: usize,
        /// Where the first is.
        col: usize,
        /// The first model's number there.
        first: f32,
        /// The second model's.
        second: f32,
        /// The largest distance between two of them.
        largest: f32,
    },
}

/// What the second model may have otherwise than the first and still be what was asked for.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Allowed {
    /// The embedding and the head encoded to this type.
    pub(crate) head: Option<DenseType>,
    /// Another tokenizer, or none.
    pub(crate) tokenizer: bool,
}

impl fmt::Display for ConfigDifference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {} and {}", self.name, self.first, self.second)
    }
}

impl fmt::Display for TensorDifference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.tensor, self.difference)
    }
}

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Difference::Nature { first, second } => write!(f, "{first} and {second}"),
            Difference::Trits { count, row, col, first, second } => {
                write!(f, "{count} trits, the first at row {row}, column {col}: {first} and {second}")
            }
            Difference::Scales { count, row, first, second } => {
                write!(f, "{count} scales, the first in row {row}: {first:e} and {second:e}")
            }
            Difference::Values { count, row, col, first, second, largest } => write!(
                f,
                "{count} numbers, at most {largest:e} apart, the first at row {row}, column {col}: {first:e} and {second:e}"
            ),
        }
    }
}

impl Comparison {
    /// Whether nothing differs.
    pub fn is_same(&self) -> bool {
        self.config.is_empty() && self.tokenizer.is_empty() && self.tensors.is_empty()
    }
}

/// Compares two models; `progress` hears of tensors done and tensors in all.
///
/// # Errors
///
/// [`FormatError`] for weights that cannot be read.
pub fn compare(first: &Source, second: &Source, progress: &mut dyn FnMut(u64, u64)) -> Result<Comparison, FormatError> {
    compare_allowing(first, second, Allowed::default(), progress)
}

/// [`compare`], not counting what is allowed.
pub(crate) fn compare_allowing(
    first: &Source,
    second: &Source,
    allowed: Allowed,
    progress: &mut dyn FnMut(u64, u64),
) -> Result<Comparison, FormatError> {
    let mut roles = first.roles();
    roles.extend(second.roles());
    roles.sort_unstable();
    roles.dedup();
    let mut config = config_differences(first.config(), second.config());
    if !allowed.tokenizer {
        // A template goes with its tokenizer: without one it cannot be used.
        config.extend(template_difference(template(first).as_deref(), template(second).as_deref()));
    }
    let tokenizer = if allowed.tokenizer { Vec::new() } else { tokenizer_differences(first, second) };
    let mut found = Comparison { config, tokenizer, tensors: Vec::new(), compared: 0, trits: 0 };
    let total = roles.len() as u64;
    for (done, role) in (0..).zip(roles) {
        progress(done, total);
        let (differences, trits) = compare_role(first, second, role, allowed)?;
        found.compared += 1;
        found.trits += trits;
        let named = |difference| TensorDifference { tensor: names::gguf(role), difference };
        found.tensors.extend(differences.into_iter().map(named));
    }
    progress(total, total);
    Ok(found)
}

fn config_differences(first: &Config, second: &Config) -> Vec<ConfigDifference> {
    let text = |value: Value| value.as_str().map_or_else(|| value.to_string(), str::to_owned);
    let mut found = Vec::new();
    let (one, other) = (first.architecture.name(), second.architecture.name());
    if one != other {
        found.push(ConfigDifference { name: "architecture", first: one.into(), second: other.into() });
    }
    // The same turning may be described by a formula here and by its divisors there.
    let turn_alike = Rotations::of(first) == Rotations::of(second);
    for field in FIELDS.iter().filter(|field| !(turn_alike && (field.is_rotary)())) {
        let (one, other) = ((field.value)(first), (field.value)(second));
        if one != other {
            found.push(ConfigDifference { name: field.name, first: text(one), second: text(other) });
        }
    }
    found
}

fn tokenizer_differences(first: &Source, second: &Source) -> Vec<TokenizerDifference> {
    let nature = |found: &Result<Option<TokenizerDescription>, TokenizerError>| match found {
        Ok(Some(_)) => "one that can be used".to_owned(),
        Ok(None) => "none".to_owned(),
        Err(error) => error.to_string(),
    };
    let (first, second) = (first.tokenizer_description(), second.tokenizer_description());
    if let (Ok(Some(first)), Ok(Some(second))) = (&first, &second) {
        return first.differences(second);
    }
    // Two that are broken alike are one.
    let (first, second) = (nature(&first), nature(&second));
    if first == second { Vec::new() } else { vec![TokenizerDifference { name: "presence", first, second }] }
}

/// The chat template; one that cannot be read is none, for nobody can use it.
fn template(source: &Source) -> Option<String> {
    source.chat_template().unwrap_or_default()
}

/// Chat templates that differ, each from a little before the first character that does.
fn template_difference(first: Option<&str>, second: Option<&str>) -> Option<ConfigDifference> {
    const SHOWN: usize = 40;
    if first == second {
        return None;
    }
    let chars = |text: Option<&str>| text.unwrap_or_default().chars().collect::<Vec<_>>();
    let same = chars(first).iter().zip(&chars(second)).take_while(|(a, b)| a == b).count();
    let from = same.saturating_sub(SHOWN / 4);
    let shown = |text: Option<&str>| match text {
        None => "absent".to_owned(),
        Some(text) => format!("{:?} at character {from}", text.chars().skip(from).take(SHOWN).collect::<String>()),
    };
    Some(ConfigDifference { name: "chat_template", first: shown(first), second: shown(second) })
}

/// What fills a role.
enum Filled<'a> {
    Nothing,
    Vector(Vec<f32>),
    Linear(SourceLinear<'a>),
}

impl Filled<'_> {
    fn of(source: &Source, role: Role) -> Result<Filled<'_>, FormatError> {
        let plain = |weight| Filled::Linear(SourceLinear { weight, output_scale: 1.0, input_norm: None });
        match role {
            // A model of fewer layers has nothing there.
            Role::Layer(layer, _) if layer >= source.config().num_hidden_layers => Ok(Filled::Nothing),
            role if role.is_linear() => source.linear(role).map(Filled::Linear),
            Role::TokenEmbedding | Role::Output => Ok(source.matrix(role)?.map_or(Filled::Nothing, plain)),
            _ => Ok(source.vector(role)?.map_or(Filled::Nothing, Filled::Vector)),
        }
    }

    /// In a few words, for what cannot be compared.
    fn nature(&self) -> String {
        match self {
            Filled::Nothing => "absent".into(),
            Filled::Vector(values) => format!("{} numbers", values.len()),
            Filled::Linear(linear) => {
                let norm = if linear.input_norm.is_some() { " behind a norm of its own" } else { "" };
                match &linear.weight {
                    Weight::Ternary(tensor) => format!("ternary [{}, {}]{norm}", tensor.rows, tensor.cols),
                    Weight::Dense(tensor) => format!("dense [{}, {}]{norm}", tensor.rows, tensor.cols),
                }
            }
        }
    }
}

fn compare_role(
    first: &Source,
    second: &Source,
    role: Role,
    allowed: Allowed,
) -> Result<(Vec<Difference>, u64), FormatError> {
    let (a, b) = (Filled::of(first, role)?, Filled::of(second, role)?);
    if a.nature() != b.nature() {
        return Ok((vec![Difference::Nature { first: a.nature(), second: b.nature() }], 0));
    }
    match (&a, &b) {
        (Filled::Vector(a), Filled::Vector(b)) => Ok((Values::of(0, a, b).difference().into_iter().collect(), 0)),
        (Filled::Linear(a), Filled::Linear(b)) => {
            let is_head = matches!(role, Role::TokenEmbedding | Role::Output);
            let head = allowed.head.filter(|_| is_head);
            Linears { first, second, a, b }.compare(head)
        }
        // Two absent ones; `nature` told the others apart.
        _ => Ok((Vec::new(), 0)),
    }
}

/// Linears of the same nature.
struct Linears<'a> {
    first: &'a Source,
    second: &'a Source,
    a: &'a SourceLinear<'a>,
    b: &'a SourceLinear<'a>,
}

impl Linears<'_> {
    /// The differences, and how many trits were compared.
    fn compare(&self, head: Option<DenseType>) -> Result<(Vec<Difference>, u64), FormatError> {
        let Self { a, b, .. } = self;
        let mut differences = Vec::new();
        if let (Some(a), Some(b)) = (&a.input_norm, &b.input_norm) {
            differences.extend(Values::of(0, a, b).difference());
        }
        let mut trits = 0;
        match (&a.weight, &b.weight) {
            (Weight::Ternary(x), Weight::Ternary(y)) => {
                trits = x.rows as u64 * x.cols as u64;
                let scales = (ScalesOf::new(x, a.output_scale), ScalesOf::new(y, b.output_scale));
                let parts = over_rows(0..x.rows, |rows| compare_trits(x, y, &scales, rows))?;
                differences.extend(parts.into_iter().reduce(Trits::join).into_iter().flat_map(Trits::differences));
                self.release([x.bytes, x.bit1], [y.bytes, y.bit1]);
            }
            (Weight::Dense(x), Weight::Dense(y)) => {
                differences.extend(self.compare_dense(x, y, head)?.difference());
                if a.output_scale != b.output_scale {
                    let (first, second) = (a.output_scale, b.output_scale);
                    differences.push(Difference::Scales { count: 1, row: 0, first, second });
                }
            }
            // `nature` told them apart.
            _ => {}
        }
        Ok((differences, trits))
    }

    /// In parts, whose pages are let go: an embedding can be half of the model.
    fn compare_dense(
        &self,
        x: &DenseTensor<'_>,
        y: &DenseTensor<'_>,
        head: Option<DenseType>,
    ) -> Result<Values, FormatError> {
        let per_row = |tensor: &DenseTensor<'_>| tensor.bytes.len() / tensor.rows.max(1);
        let rows_at_once = (RELEASE_AFTER / per_row(x).max(per_row(y)).max(1)).max(1);
        let mut found = Values::default();
        for first in (0..x.rows).step_by(rows_at_once) {
            let rows = first..x.rows.min(first + rows_at_once);
            let parts = over_rows(rows.clone(), |rows| compare_dense(x, y, rows, head))?;
            found = parts.into_iter().fold(found, Values::join);
            // Where rows change places these are others' bytes; they are read again when their turn comes.
            let part = |tensor: &DenseTensor<'_>| rows.start * per_row(tensor)..rows.end * per_row(tensor);
            self.release([&x.bytes[part(x)], &[]], [&y.bytes[part(y)], &[]]);
        }
        Ok(found)
    }

    fn release(&self, first: [&[u8]; 2], second: [&[u8]; 2]) {
        first.into_iter().for_each(|bytes| self.first.release(bytes));
        second.into_iter().for_each(|bytes| self.second.release(bytes));
    }
}

/// The scales of a tensor by the graph's rows.
struct ScalesOf<'a> {
    tensor: &'a TernaryTensor<'a>,
    factor: f32,
    groups: usize,
}

impl<'a> ScalesOf<'a> {
    fn new(tensor: &'a TernaryTensor<'a>, factor: f32) -> Self {
        Self { tensor, factor, groups: tensor.scales.groups() }
    }

    /// The scale of column `col` of row `row`.
    fn at(&self, row: usize, col: usize) -> f32 {
        let group = col * self.groups / self.tensor.cols;
        self.factor * self.tensor.scales.get(self.tensor.row_order.stored_row(row), group)
    }
}

/// What differs in some rows of a ternary tensor.
#[derive(Default)]
struct Trits {
    trits: u64,
    first_trit: Option<(usize, usize, i8, i8)>,
    scales: u64,
    first_scale: Option<(usize, f32, f32)>,
}

impl Trits {
    /// Of two parts, the earlier rows first.
    fn join(self, later: Self) -> Self {
        Self {
            trits: self.trits + later.trits,
            first_trit: self.first_trit.or(later.first_trit),
            scales: self.scales + later.scales,
            first_scale: self.first_scale.or(later.first_scale),
        }
    }

    fn differences(self) -> impl Iterator<Item = Difference> {
        let count = self.trits;
        let trits =
            self.first_trit.map(|(row, col, first, second)| Difference::Trits { count, row, col, first, second });
        let count = self.scales;
        let scales = self.first_scale.map(|(row, first, second)| Difference::Scales { count, row, first, second });
        trits.into_iter().chain(scales)
    }
}

fn compare_trits(
    a: &TernaryTensor<'_>,
    b: &TernaryTensor<'_>,
    scales: &(ScalesOf<'_>, ScalesOf<'_>),
    rows: Range<usize>,
) -> Result<Trits, FormatError> {
    let (mut left, mut right) = (vec![0i8; a.cols], vec![0i8; a.cols]);
    let mut found = Trits::default();
    // Where the two have groups of different widths, every change of either begins a part.
    let parts = least_common_multiple(scales.0.groups, scales.1.groups).clamp(1, a.cols.max(1));
    for row in rows {
        a.read_row(row, &mut left)?;
        b.read_row(row, &mut right)?;
        if left != right {
            let differ = || left.iter().zip(&right).enumerate().filter(|(_, (a, b))| a != b);
            found.trits += differ().count() as u64;
            let first = differ().next().map(|(col, (&a, &b))| (row, col, a, b));
            found.first_trit = found.first_trit.or(first);
        }
        for part in 0..parts {
            let cols = part * a.cols / parts..(part + 1) * a.cols / parts;
            let (x, y) = (scales.0.at(row, cols.start), scales.1.at(row, cols.start));
            // A run of zeros has no scale of its own.
            if x.to_bits() != y.to_bits() && left[cols].iter().any(|&trit| trit != 0) {
                found.scales += 1;
                found.first_scale = found.first_scale.or(Some((row, x, y)));
            }
        }
    }
    Ok(found)
}

fn least_common_multiple(a: usize, b: usize) -> usize {
    let (mut x, mut y) = (a, b);
    while y != 0 {
        (x, y) = (y, x % y);
    }
    (a / x.max(1)).saturating_mul(b)
}

/// What differs in some rows of numbers.
#[derive(Default)]
struct Values {
    count: u64,
    first: Option<(usize, usize, f32, f32)>,
    largest: f32,
}

impl Values {
    fn of(row: usize, a: &[f32], b: &[f32]) -> Self {
        let mut found = Self::default();
        let differ = a.iter().zip(b).enumerate().filter(|(_, (a, b))| a.to_bits() != b.to_bits());
        for (col, (&a, &b)) in differ {
            found.count += 1;
            found.first = found.first.or(Some((row, col, a, b)));
            found.largest = found.largest.max((a - b).abs());
        }
        found
    }

    fn join(self, later: Self) -> Self {
        Self {
            count: self.count + later.count,
            first: self.first.or(later.first),
            largest: self.largest.max(later.largest),
        }
    }

    fn difference(self) -> Option<Difference> {
        let Values { count, largest, .. } = self;
        self.first.map(|(row, col, first, second)| Difference::Values { count, row, col, first, second, largest })
    }
}

fn compare_dense(
    a: &DenseTensor<'_>,
    b: &DenseTensor<'_>,
    rows: Range<usize>,
    head: Option<DenseType>,
) -> Result<Values, FormatError> {
    let (mut left, mut right) = (vec![0f32; a.cols], vec![0f32; a.cols]);
    let mut found = Values::default();
    for row in rows {
        read_numbers(a, row, &mut left)?;
        read_numbers(b, row, &mut right)?;
        if let Some(head) = head {
            let mut encoded = vec![0; head.row_bytes(a.cols).unwrap_or(0)];
            if encode_row(head, &left, &mut encoded).is_some() {
                head.decode(&encoded, &mut left);
            }
        }
        found = found.join(Values::of(row, &left, &right));
    }
    Ok(found)
}

/// The graph's row `row` as numbers.
fn read_numbers(tensor: &DenseTensor<'_>, row: usize, out: &mut [f32]) -> Result<(), FormatError> {
    let stored = tensor.row_order.stored_row(row);
    let bytes = tensor.dtype.row_bytes(tensor.cols).and_then(|len| tensor.bytes.get(stored * len..(stored + 1) * len));
    let Some(bytes) = bytes else {
        let (what, found) = (format!("tensor {:?}", tensor.name), tensor.bytes.len() as u64);
        return Err(FormatError::Truncated { what, needed: found + 1, found });
    };
    tensor.dtype.decode(bytes, out);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::formats::OpenOptions;
    use crate::synth::{Preset, SynthOptions, synthesize};

    fn tiny(seed: u64) -> Vec<u8> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("m.gguf");
        synthesize(Preset::Tiny, &path, &SynthOptions { seed, ..SynthOptions::default() }, &mut |_, _| {}).unwrap();
        std::fs::read(path).unwrap()
    }

    fn compared(first: &[u8], second: &[u8]) -> Comparison {
        let open = |bytes: &[u8]| Source::from_bytes(bytes.to_vec(), &OpenOptions::default()).unwrap();
        compare(&open(first), &open(second), &mut |_, _| {}).unwrap()
    }

    /// Where a tensor's bytes are in a file.
    fn bytes_of(file: &[u8], name: &str) -> Range<usize> {
        let source = Source::from_bytes(file.to_vec(), &OpenOptions::default()).unwrap();
        let bytes = source.tensors().find(|tensor| tensor.name == name).unwrap().bytes.to_vec();
        let start = file.windows(bytes.len()).position(|window| window == bytes).unwrap();
        start..start + bytes.len()
    }

    #[test]
    fn every_kind_of_difference_is_found_and_placed() {
        let model = tiny(1);
        assert!(compared(&model, &model).is_same());

        let at = bytes_of(&model, "blk.1.ffn_down.weight");
        let mut trit = model.clone();
        // Byte 32 of row 1: columns 0, 32, 64 and 96 of block 6; a row has 192 bytes.
        trit[at.start + 192] ^= 0b0100_0000 | (trit[at.start + 192] >> 1 & 0b0100_0000);
        let found = compared(&model, &trit);
        let [TensorDifference { tensor, difference: Difference::Trits { count: 1, row: 1, col: 0, .. } }] =
            found.tensors.as_slice()
        else {
            panic!("{found:?}");
        };
        assert_eq!(tensor, "blk.1.ffn_down.weight");

        let mut scale = model.clone();
        scale[at.end - 32] ^= 1;
        let found = compared(&model, &scale);
        assert!(matches!(found.tensors[0].difference, Difference::Scales { count: 256, row: 0, .. }), "{found:?}");

        let mut number = model.clone();
        number[bytes_of(&model, "token_embd.weight").start + 2 * (256 + 5)] ^= 1;
        let found = compared(&model, &number);
        assert!(
            matches!(found.tensors[0].difference, Difference::Values { count: 1, row: 1, col: 5, .. }),
            "{found:?}"
        );
    }

    #[test]
    fn every_hyper_parameter_that_changes_an_answer_counts() {
        use crate::config::LayerType;
        use crate::rope::RopeScaling;
        type Change = fn(&mut Config);
        let changes: [(Change, &str); 10] = [
            (|c| c.linear_norm_eps = 0.5, "linear_norm_eps: 1e-6 and 0.5"),
            (|c| c.rms_norm_eps = 1e-6, "rms_norm_eps: 0.00001 and 1e-6"),
            (|c| c.rope_theta = 1e6, "rope_theta: 500000.0 and 1000000.0"),
            (|c| c.rope_scaling = RopeScaling::Linear { factor: 4.0 }, "rope_scaling: "),
            (|c| c.partial_rotary_factor = 0.5, "partial_rotary_factor: 1.0 and 0.5"),
            (|c| c.query_pre_attn_scalar = Some(100.0), "query_pre_attn_scalar: null and 100.0"),
            (|c| c.embedding_scale = 12.0, "embedding_scale: 1.0 and 12.0"),
            (|c| c.residual_scale = 0.5, "residual_scale: 1.0 and 0.5"),
            (|c| c.logit_scale = 4.0, "logit_scale: 1.0 and 4.0"),
            (|c| c.layer_types = vec![LayerType::Sliding; 4], "layer_types: "),
        ];
        let model = Preset::Tiny.config();
        assert!(config_differences(&model, &model).is_empty());
        for (change, expected) in changes {
            let mut changed = model.clone();
            change(&mut changed);
            let found = config_differences(&model, &changed);
            assert!(found.len() == 1 && found[0].to_string().starts_with(expected), "{found:?} and not {expected:?}");
        }
        // Every field is looked at: nothing in the list is without a value to compare.
        assert_eq!(model.to_json().len(), FIELDS.len());
    }

    #[test]
    fn a_formula_and_the_divisors_it_gives_turn_alike() {
        use crate::rope::RopeScaling;
        let rope_scaling =
            RopeScaling::Llama3 { factor: 8.0, low_freq_factor: 1.0, high_freq_factor: 4.0, original: 8192 };
        let formula = Config { rope_scaling, ..Preset::Tiny.config() };
        let mut divisors = formula.rope_scaling.divisors(formula.rope_theta, formula.rotary_dim()).unwrap();
        let stored = |divisors| Config { rope_scaling: RopeScaling::Divisors(divisors), ..formula.clone() };
        assert!(config_differences(&formula, &stored(divisors.clone())).is_empty());
        divisors[5] *= 1.001;
        assert_eq!(config_differences(&formula, &stored(divisors)).len(), 1);
    }

    #[test]
    fn chat_templates_are_shown_where_they_part() {
        assert_eq!(template_difference(Some("abc"), Some("abc")), None);
        assert!(template_difference(None, None).is_none());
        let (first, second) = ("{{ messages }} and then", "{{ messages }} or then");
        let found = template_difference(Some(first), Some(second)).unwrap().to_string();
        assert_eq!(
            found,
            "chat_template: \"ssages }} and then\" at character 5 and \"ssages }} or then\" at character 5"
        );
        assert!(template_difference(Some(first), None).unwrap().to_string().ends_with(" and absent"));
    }

    #[test]
    fn another_seed_is_another_model() {
        let found = compared(&tiny(1), &tiny(2));
        assert!(found.config.is_empty() && found.tensors.len() > 40, "{found:?}");
    }
}
