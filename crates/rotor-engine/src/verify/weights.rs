//! The numbers in a model's file: are they such as a trained model has?
//!
//! A file can be whole by its header and still hold a hole of zeros, another layout than its readers take it for, or the
//! inverse of its scales. Trained ternary tensors look alike: none of the three values is rare, hardly a row is all zero, and
//! scales and norms are finite and neither vanishing nor huge.

use super::{Check, Outcome};
use crate::error::FormatError;
use crate::formats::{Role, Source, Weight};
use crate::forms::TernaryTensor;
use crate::planes::kernels;
use crate::threads::over_rows;

/// The least share of zeros, and the largest, that trained tensors were found to have, with room on both sides.
const ZEROS: std::ops::RangeInclusive<f64> = 0.02..=0.95;

/// Bits per weight below which a tensor is no trained one: a trained one has 1.3 to 1.585.
const LEAST_ENTROPY: f64 = 0.3;

/// The share of rows without a nonzero weight that passes without a word.
const DEAD_ROWS: f64 = 0.01;

/// Scales and norms outside of this are unusual.
const USUAL: std::ops::RangeInclusive<f32> = 1e-8..=1e5;

/// Tensors that are named in a report.
const NAMED: usize = 3;

/// What the rows of ternary tensors hold.
#[derive(Clone, Copy, Debug, Default)]
struct Counts {
    plus: u64,
    minus: u64,
    total: u64,
    rows: u64,
    dead: u64,
}

impl Counts {
    fn add(mut self, other: Counts) -> Counts {
        self.plus += other.plus;
        self.minus += other.minus;
        self.total += other.total;
        self.rows += other.rows;
        self.dead += other.dead;
        self
    }

    fn zeros(&self) -> f64 {
        1.0 - (self.plus + self.minus) as f64 / self.total.max(1) as f64
    }

    fn entropy(&self) -> f64 {
        let bits = |count: u64| {
            let share = count as f64 / self.total.max(1) as f64;
            if count == 0 { 0.0 } else { -share * share.log2() }
        };
        bits(self.plus) + bits(self.minus) + bits(self.total - self.plus - self.minus)
    }

    fn of(tensor: &TernaryTensor<'_>) -> Result<Counts, FormatError> {
        let parts = over_rows(0..tensor.rows, |rows| {
            let (mut counts, mut trits) = (Counts::default(), vec![0i8; tensor.cols]);
            for row in rows {
                tensor.read_stored_row(row, &mut trits)?;
                let (plus, minus) = (kernels().count_trits(&trits, 1), kernels().count_trits(&trits, -1));
                let dead = u64::from(plus + minus == 0);
                counts = counts.add(Counts { plus, minus, total: trits.len() as u64, rows: 1, dead });
            }
            Ok(counts)
        })?;
        Ok(parts.into_iter().fold(Counts::default(), Counts::add))
    }
}

/// Names of tensors that something is the matter with.
#[derive(Default)]
struct Odd(Vec<String>);

impl Odd {
    fn check(self, name: &'static str, outcome: Outcome, what: &str, otherwise: String) -> Check {
        if self.0.is_empty() {
            return Check::new(name, Outcome::Ok, otherwise);
        }
        let more = if self.0.len() > NAMED { format!(" and {} more", self.0.len() - NAMED) } else { String::new() };
        Check::new(name, outcome, format!("{what}: {}{more}", self.0[..self.0.len().min(NAMED)].join(", ")))
    }
}

/// What has been found so far.
#[derive(Default)]
struct Survey {
    all: Counts,
    tensors: usize,
    norms: usize,
    /// Shares of -1, 0 and +1 that no trained tensor has.
    shares: Odd,
    dead_rows: Odd,
    broken_scales: Odd,
    unusual_scales: Odd,
    broken_norms: Odd,
    unusual_norms: Odd,
}

/// Reads every weight, scale and norm of a model and tells whether they are such as a trained model has. `progress` hears of
/// tensors done and tensors in all.
///
/// # Errors
///
/// [`FormatError`] for weights that cannot be read.
pub fn weights(source: &Source, progress: &mut dyn FnMut(u64, u64)) -> Result<Vec<Check>, FormatError> {
    let (mut survey, roles) = (Survey::default(), source.roles());
    for (index, &role) in roles.iter().enumerate() {
        progress(index as u64, roles.len() as u64);
        let weight = match role {
            Role::TokenEmbedding | Role::Output => source.matrix(role)?,
            role if role.is_linear() => Some(source.linear(role)?.weight),
            role => {
                survey.norm(role, source.vector(role)?);
                None
            }
        };
        if let Some(Weight::Ternary(tensor)) = weight {
            survey.ternary(&tensor)?;
            source.release(tensor.bytes);
        }
    }
    progress(roles.len() as u64, roles.len() as u64);
    Ok(survey.checks())
}

impl Survey {
    fn norm(&mut self, role: Role, values: Option<Vec<f32>>) {
        let Some(values) = values else { return };
        self.norms += 1;
        let largest = values.iter().fold(0.0_f32, |largest, value| largest.max(value.abs()));
        if values.iter().any(|value| !value.is_finite()) || largest == 0.0 {
            self.broken_norms.0.push(format!("{role:?}"));
        } else if !USUAL.contains(&largest) {
            self.unusual_norms.0.push(format!("{role:?} up to {largest:e}"));
        }
    }

    fn ternary(&mut self, tensor: &TernaryTensor<'_>) -> Result<(), FormatError> {
        let counts = Counts::of(tensor)?;
        self.tensors += 1;
        self.all = self.all.add(counts);
        let one_sided = counts.plus == 0 || counts.minus == 0;
        if one_sided || !ZEROS.contains(&counts.zeros()) || counts.entropy() < LEAST_ENTROPY {
            self.shares.0.push(format!("{} with {:.1} % zeros", tensor.name, counts.zeros() * 100.0));
        }
        if counts.dead as f64 > DEAD_ROWS * counts.rows as f64 {
            self.dead_rows.0.push(format!("{} with {} of {} rows", tensor.name, counts.dead, counts.rows));
        }
        // A block without a nonzero weight has no scale of its own, and zero is as good as any.
        let scales = tensor.scales.values();
        if scales.iter().any(|scale| !scale.is_finite()) || scales.iter().all(|scale| *scale == 0.0) {
            self.broken_scales.0.push(tensor.name.to_owned());
        } else if let Some(scale) = scales.iter().find(|scale| **scale != 0.0 && !USUAL.contains(&scale.abs())) {
            self.unusual_scales.0.push(format!("{} has {scale:e}", tensor.name));
        }
        Ok(())
    }

    fn checks(self) -> Vec<Check> {
        let all = self.all;
        let trits = format!(
            "{} ternary tensors, {:.1} % zeros, {:.3} bits a weight",
            self.tensors,
            all.zeros() * 100.0,
            all.entropy()
        );
        let numbers = |name, broken: Odd, unusual: Odd, fine: String| match broken.0.is_empty() {
            true => unusual.check(name, Outcome::Warning, "unusually small or large", fine),
            false => broken.check(name, Outcome::Failed, "not finite, or all zero", String::new()),
        };
        let rows = format!("{} of {} all zero", all.dead, all.rows);
        let norms = format!("{}, finite and of a usual size", self.norms);
        vec![
            self.shares.check("trits", Outcome::Warning, "unlike trained tensors", trits),
            self.dead_rows.check("rows", Outcome::Warning, "rows that are all zero", rows),
            numbers("scales", self.broken_scales, self.unusual_scales, "finite and of a usual size".into()),
            numbers("norms", self.broken_norms, self.unusual_norms, norms),
        ]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::formats::OpenOptions;
    use crate::synth::{Preset, SynthOptions, synthesize};

    #[test]
    fn a_hole_of_zeros_is_noticed() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("tiny.gguf");
        synthesize(Preset::Tiny, &path, &SynthOptions::default(), &mut |_, _| {}).unwrap();
        let outcomes = || -> Vec<(&'static str, Outcome, String)> {
            let source = Source::open(&path, &OpenOptions::default()).unwrap();
            let checks = weights(&source, &mut |_, _| {}).unwrap();
            checks.into_iter().map(|check| (check.name, check.outcome, check.found)).collect()
        };
        assert!(outcomes().iter().all(|(_, outcome, _)| *outcome == Outcome::Ok), "{:?}", outcomes());

        // The code of 0 is 01 in I2_S: half of one tensor becomes zeros.
        let mut bytes = std::fs::read(&path).unwrap();
        let source = Source::open(&path, &OpenOptions::default()).unwrap();
        let tensor = source.tensors().find(|tensor| tensor.name == "blk.1.ffn_up.weight").unwrap();
        let at = bytes.windows(64).position(|window| window == &tensor.bytes[..64]).unwrap();
        let half = tensor.bytes.len() / 2;
        drop(source);
        bytes[at..at + half].fill(0b0101_0101);
        std::fs::write(&path, bytes).unwrap();
        let found = outcomes();
        let rows = found.iter().find(|(name, ..)| *name == "rows").unwrap();
        assert!(rows.1 == Outcome::Warning && rows.2.contains("blk.1.ffn_up.weight"), "{found:?}");
    }
}
