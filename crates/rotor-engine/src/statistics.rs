//! What the ternary weights of a model look like: how many are -1, 0 and +1, and how large their scales are.

use crate::error::FormatError;
use crate::formats::{Role, Source, Weight};
use crate::forms::TernaryTensor;
use crate::planes::kernels;
use crate::threads::over_rows;
use serde::Serialize;

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
        let parts = over_rows(0..tensor.rows, |rows| {
            let (mut counted, mut trits) = (Self::default(), vec![0i8; tensor.cols]);
            for row in rows {
                tensor.read_stored_row(row, &mut trits)?;
                let (plus, minus) = count(&trits);
                counted.plus += plus;
                counted.minus += minus;
                counted.zero += trits.len() as u64 - plus - minus;
            }
            Ok(counted)
        })?;
        let scaled = tensor.scales.values().iter().fold(Self::default(), |range, &scale| {
            range.join(Self { scale_min: scale, scale_max: scale, ..Self::default() })
        });
        Ok(parts.into_iter().fold(scaled, Self::join))
    }
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
    fn joining_leaves_out_scales_that_are_not_there() {
        let one = TritStatistics { scale_min: 0.5, scale_max: 0.5, plus: 1, ..TritStatistics::default() };
        let two = TritStatistics { scale_min: 0.25, scale_max: 2.0, ..TritStatistics::default() };
        let joined = TritStatistics::default().join(one).join(two);
        assert_eq!((joined.scale_min, joined.scale_max, joined.plus), (0.25, 2.0, 1));
    }
}
