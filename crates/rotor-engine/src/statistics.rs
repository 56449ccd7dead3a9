//! What the weights of a model look like: how many of the ternary ones are -1, 0 and +1, how many zeros a row has, and how large
//! the scales are.

use crate::error::FormatError;
use crate::formats::{Part, Role, Source, Weight};
use crate::forms::TernaryTensor;
use crate::linear::head_type;
use crate::planes::kernels;
use crate::skipping::Packing;
use crate::threads::over_rows;
use rotor_kernels::ternary::Choice;
use serde::Serialize;

/// Bins of a histogram.
const BINS: usize = 32;

/// The weights of one ternary tensor, or of several together.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct TritStatistics {
    /// Weights that are -1.
    pub minus: u64,
    /// Weights that are 0.
    pub zero: u64,
    /// Weights that are +1.
    pub plus: u64,
    /// The smallest scale; not a number where there is none.
    pub scale_min: f32,
    /// The largest scale.
    pub scale_max: f32,
}

/// A ternary tensor's name and form, and its statistics.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct TensorStatistics {
    /// The name in the file.
    pub name: String,
    /// The form its trits are stored in.
    #[serde(rename = "type")]
    pub form: &'static str,
    /// What they look like.
    #[serde(flatten)]
    pub trits: TritStatistics,
}

impl Default for TritStatistics {
    fn default() -> Self {
        Self { minus: 0, zero: 0, plus: 0, scale_min: f32::NAN, scale_max: f32::NAN }
    }
}

impl TritStatistics {
    /// All weights.
    pub fn total(&self) -> u64 {
        self.minus + self.zero + self.plus
    }

    /// The share of weights that are 0.
    pub fn sparsity(&self) -> f64 {
        self.zero as f64 / self.total().max(1) as f64
    }

    /// Bits a weight needs at least in a code that knows no more than these shares: at most log2(3) = 1.585.
    pub fn entropy(&self) -> f64 {
        let total = self.total().max(1) as f64;
        let bits = |count: u64| {
            let share = count as f64 / total;
            if count == 0 { 0.0 } else { -share * share.log2() }
        };
        bits(self.minus) + bits(self.zero) + bits(self.plus)
    }

    /// Of two tensors, or parts of one, together.
    #[must_use]
    pub fn join(self, other: Self) -> Self {
        Self {
            minus: self.minus + other.minus,
            zero: self.zero + other.zero,
            plus: self.plus + other.plus,
            // `min` and `max` of f32 leave out what is not a number.
            scale_min: self.scale_min.min(other.scale_min),
            scale_max: self.scale_max.max(other.scale_max),
        }
    }

    /// Counts the trits of a tensor.
    ///
    /// # Errors
    ///
    /// Those of [`TernaryTensor::read_row`].
    pub fn of(tensor: &TernaryTensor<'_>) -> Result<Self, FormatError> {
        Ok(Self::of_rows(tensor, &count_rows(tensor)?))
    }

    /// The sum over the rows of a tensor, and the range of its scales.
    fn of_rows(tensor: &TernaryTensor<'_>, rows: &[RowCounts]) -> Self {
        let scaled = tensor.scales.values().iter().fold(Self::default(), |range, &scale| {
            range.join(Self { scale_min: scale, scale_max: scale, ..Self::default() })
        });
        rows.iter().fold(scaled, |mut sum, row| {
            sum.minus += u64::from(row.minus);
            sum.plus += u64::from(row.plus);
            sum.zero += (tensor.cols as u64).saturating_sub(u64::from(row.minus) + u64::from(row.plus));
            sum
        })
    }
}

/// How many weights of a row are not 0.
#[derive(Clone, Copy, Debug)]
struct RowCounts {
    minus: u32,
    plus: u32,
}

/// Counts the trits of every row, rows as they are stored.
fn count_rows(tensor: &TernaryTensor<'_>) -> Result<Vec<RowCounts>, FormatError> {
    let parts = over_rows(0..tensor.rows, |rows| {
        let mut trits = vec![0i8; tensor.cols];
        let count_row = |row| {
            tensor.read_stored_row(row, &mut trits)?;
            let (plus, minus) = count(&trits);
            // A row has fewer columns than 2^32: shapes are capped when a file is opened.
            Ok(RowCounts { minus: minus as u32, plus: plus as u32 })
        };
        rows.map(count_row).collect::<Result<Vec<_>, _>>()
    })?;
    Ok(parts.concat())
}

/// How many are +1, and how many -1.
fn count(trits: &[i8]) -> (u64, u64) {
    (kernels().count_trits(trits, 1), kernels().count_trits(trits, -1))
}

/// The statistics of every ternary tensor of a model, in the order of the graph. This reads all weights.
///
/// # Errors
///
/// [`FormatError`] for weights that cannot be read.
pub fn ternary(source: &Source) -> Result<Vec<TensorStatistics>, FormatError> {
    let mut found = Vec::new();
    for role in source.roles() {
        let weight = match role {
            Role::TokenEmbedding | Role::Output => source.matrix(role)?,
            role if role.is_linear() => Some(source.linear(role)?.weight),
            _ => None,
        };
        if let Some(Weight::Ternary(tensor)) = weight {
            let trits = TritStatistics::of(&tensor)?;
            source.release(tensor.bytes);
            found.push(TensorStatistics { name: tensor.name.to_owned(), form: tensor.form.name(), trits });
        }
    }
    Ok(found)
}

/// How many of some values lie in each of equally wide bins from the least to the greatest.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Histogram {
    /// The least value, where the first bin begins.
    pub min: f64,
    /// The greatest value, where the last bin ends.
    pub max: f64,
    /// Values in each bin; one bin where all values are the same.
    pub counts: Vec<u64>,
}

impl Histogram {
    /// The histogram of finite values, with at most 32 bins; `None` where there are no values.
    pub fn of(values: impl Iterator<Item = f64> + Clone) -> Option<Histogram> {
        let range = |(low, high): (f64, f64), value: f64| (low.min(value), high.max(value));
        let (min, max) = values.clone().fold((f64::INFINITY, f64::NEG_INFINITY), range);
        if min > max {
            return None;
        }
        let bins = if min < max { BINS } else { 1 };
        let mut counts = vec![0; bins];
        for value in values {
            let share = if min < max { (value - min) / (max - min) } else { 0.0 };
            counts[((share * bins as f64) as usize).min(bins - 1)] += 1;
        }
        Some(Histogram { min, max, counts })
    }
}

/// How large the scales of a tensor are.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct ScaleStatistics {
    /// How many there are: one for the tensor, or one for each row or group.
    pub count: usize,
    /// The least.
    pub min: f32,
    /// The mean.
    pub mean: f64,
    /// The greatest.
    pub max: f32,
    /// How they are spread; `None` where there is one.
    pub histogram: Option<Histogram>,
}

/// The trits of a matrix, row by row, and its scales.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct TernaryStatistics {
    /// The kernel that multiplies it.
    pub kernel: &'static str,
    /// Weights that are -1.
    pub minus: u64,
    /// Weights that are 0.
    pub zero: u64,
    /// Weights that are +1.
    pub plus: u64,
    /// Its scales.
    pub scales: ScaleStatistics,
    /// The share of zeros in each row.
    pub zeros_by_row: Option<Histogram>,
}

/// A matrix of the graph.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct MatrixStatistics {
    /// The last part of the module's name in transformers, as `q_proj`; `None` for the embedding and the head.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<&'static str>,
    /// Outputs.
    pub rows: usize,
    /// Inputs.
    pub cols: usize,
    /// The form or type that it is stored in, or that the head was encoded in when the model was loaded.
    #[serde(rename = "type")]
    pub type_name: &'static str,
    /// What its trits look like; `None` for a matrix that is not ternary.
    #[serde(flatten)]
    pub ternary: Option<TernaryStatistics>,
}

/// The matrices of a model.
#[derive(Clone, Debug, PartialEq)]
pub struct ModelStatistics {
    /// The linears of each layer, in the order of the graph.
    pub layers: Vec<Vec<MatrixStatistics>>,
    /// The token embedding, `[vocab, hidden]`.
    pub embedding: Option<MatrixStatistics>,
    /// The head; `None` where the embedding serves as one.
    pub head: Option<MatrixStatistics>,
    /// All ternary weights together.
    pub trits: TritStatistics,
}

impl ModelStatistics {
    /// Looks at every weight of a model that is loaded for the kernels of `choice`. This reads them all.
    ///
    /// # Errors
    ///
    /// [`FormatError`] for weights that cannot be read.
    pub fn of(source: &Source, choice: &Choice) -> Result<ModelStatistics, FormatError> {
        let mut trits = TritStatistics::default();
        let mut look = |role, weight: &Weight<'_>, name, dense_type: Option<&'static str>| {
            let (seen, found) = match weight {
                Weight::Ternary(tensor) => {
                    matrix_of_trits(source, tensor, Packing::of(source, role, tensor, choice).name())?
                }
                Weight::Dense(tensor) => {
                    let type_name = dense_type.unwrap_or_else(|| tensor.dtype.name());
                    let (rows, cols) = (tensor.rows, tensor.cols);
                    (MatrixStatistics { name: None, rows, cols, type_name, ternary: None }, TritStatistics::default())
                }
            };
            trits = trits.join(found);
            Ok::<_, FormatError>(MatrixStatistics { name, ..seen })
        };
        let mut layers = Vec::with_capacity(source.config().num_hidden_layers);
        for layer in 0..source.config().num_hidden_layers {
            let linears = Part::LINEARS.iter().map(|&part| {
                let role = Role::Layer(layer, part);
                look(role, &source.linear(role)?.weight, part.module_name(), None)
            });
            layers.push(linears.collect::<Result<_, _>>()?);
        }
        let mut matrix = |role| -> Result<Option<MatrixStatistics>, FormatError> {
            let Some(weight) = source.matrix(role)? else { return Ok(None) };
            let encoded = head_type(source, &weight)?;
            look(role, &weight, None, encoded.map(|dtype| dtype.name())).map(Some)
        };
        let (embedding, head) = (matrix(Role::TokenEmbedding)?, matrix(Role::Output)?);
        Ok(ModelStatistics { layers, embedding, head, trits })
    }
}

/// A ternary matrix, and its trits to be added to those of the whole model.
fn matrix_of_trits(
    source: &Source,
    tensor: &TernaryTensor<'_>,
    kernel: &'static str,
) -> Result<(MatrixStatistics, TritStatistics), FormatError> {
    let row_counts = count_rows(tensor)?;
    source.release(tensor.bytes);
    let trits = TritStatistics::of_rows(tensor, &row_counts);
    let values = tensor.scales.values();
    let wide = || values.iter().map(|&scale| f64::from(scale));
    let cols = tensor.cols.max(1) as f64;
    let ternary = TernaryStatistics {
        kernel,
        minus: trits.minus,
        zero: trits.zero,
        plus: trits.plus,
        scales: ScaleStatistics {
            count: values.len(),
            min: trits.scale_min,
            mean: wide().sum::<f64>() / values.len().max(1) as f64,
            max: trits.scale_max,
            histogram: (values.len() > 1).then(|| Histogram::of(wide())).flatten(),
        },
        zeros_by_row: Histogram::of(row_counts.iter().map(|row| 1.0 - f64::from(row.minus + row.plus) / cols)),
    };
    let (rows, cols) = (tensor.rows, tensor.cols);
    let matrix = MatrixStatistics { name: None, rows, cols, type_name: tensor.form.name(), ternary: Some(ternary) };
    Ok((matrix, trits))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entropy_is_that_of_the_shares() {
        let shares = |minus, zero, plus| TritStatistics { minus, zero, plus, ..TritStatistics::default() };
        assert_eq!(shares(0, 7, 0).entropy(), 0.0);
        assert_eq!(shares(4, 0, 4).entropy(), 1.0);
        assert_eq!(shares(1, 2, 1).entropy(), 1.5);
        assert!((shares(5, 5, 5).entropy() - 3f64.log2()).abs() < 1e-12);
        assert_eq!(shares(0, 0, 0).entropy(), 0.0);
        assert_eq!(shares(1, 2, 1).sparsity(), 0.5);
    }

    #[test]
    fn histograms_hold_every_value() {
        let values = [0.0, 0.5, 1.0, 1.0];
        let found = Histogram::of(values.into_iter()).unwrap();
        assert_eq!((found.min, found.max, found.counts.len()), (0.0, 1.0, BINS));
        assert_eq!((found.counts[0], found.counts[16], found.counts[31]), (1, 1, 2));
        let same = Histogram::of([0.25, 0.25].into_iter()).unwrap();
        assert_eq!((same.min, same.max, same.counts), (0.25, 0.25, vec![2]));
        assert_eq!(Histogram::of(std::iter::empty()), None);
    }

    #[test]
    fn every_matrix_of_the_built_in_model_is_looked_at() {
        let source = crate::demo::open(&crate::formats::OpenOptions::default()).unwrap();
        let runtime = crate::runtime::Runtime::new(1).unwrap();
        let found = ModelStatistics::of(&source, &runtime.choice).unwrap();
        let config = source.config();
        assert_eq!(found.layers.len(), config.num_hidden_layers);
        let names: Vec<_> = found.layers[0].iter().filter_map(|linear| linear.name).collect();
        assert_eq!(names, ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]);
        let whole = ternary(&source).unwrap();
        let whole = whole.iter().map(|tensor| tensor.trits).fold(TritStatistics::default(), TritStatistics::join);
        assert_eq!(found.trits, whole);
        for linear in found.layers.iter().flatten() {
            let ternary = linear.ternary.as_ref().unwrap();
            assert_eq!(ternary.minus + ternary.zero + ternary.plus, (linear.rows * linear.cols) as u64);
            let zeros = ternary.zeros_by_row.as_ref().unwrap();
            assert_eq!(zeros.counts.iter().sum::<u64>(), linear.rows as u64);
            assert!(0.0 <= zeros.min && zeros.max <= 1.0);
            assert_eq!((ternary.scales.count, &ternary.scales.histogram), (1, &None));
        }
        let embedding = found.embedding.unwrap();
        assert_eq!((embedding.rows, embedding.cols), (config.vocab_size, config.hidden_size));
        assert_eq!(found.head, None);
    }

    #[test]
    fn joining_leaves_out_scales_that_are_not_there() {
        let one = TritStatistics { scale_min: 0.5, scale_max: 0.5, plus: 1, ..TritStatistics::default() };
        let two = TritStatistics { scale_min: 0.25, scale_max: 2.0, ..TritStatistics::default() };
        let joined = TritStatistics::default().join(one).join(two);
        assert_eq!((joined.scale_min, joined.scale_max, joined.plus), (0.25, 2.0, 1));
    }
}
