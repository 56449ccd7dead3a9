//! What a conversion did, for people and programs.

use super::plan::Planned;
use serde::Serialize;

/// What was converted and how it came out.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Report {
    /// The `--type` asked for.
    pub form: &'static str,
    /// Tensors in the file.
    pub tensors: usize,
    /// The ternary ones.
    pub ternary: Vec<TernaryReport>,
    /// Tensors of numbers whose type changed.
    pub recoded: Vec<Recoded>,
    /// The files written.
    pub files: Vec<WrittenFile>,
    /// Whether everything was read again and compared.
    pub verified: bool,
    /// What does not go without saying, in sentences.
    pub notes: Vec<String>,
}

/// A ternary tensor.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct TernaryReport {
    /// The name in the source.
    pub name: String,
    /// Rows.
    pub rows: usize,
    /// Columns.
    pub cols: usize,
    /// Weights that are 0.
    pub zeros: u64,
    /// The smallest scale.
    pub scale_min: f32,
    /// The largest scale.
    pub scale_max: f32,
    /// How far the target's scale is from the source's at most, relative to it.
    pub scale_rounding: f32,
}

/// A tensor of numbers whose type changed.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Recoded {
    /// The name in the target.
    pub name: String,
    /// The type in the source.
    pub from: &'static str,
    /// The type in the target.
    pub to: &'static str,
}

/// A file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct WrittenFile {
    /// Its name, without the folder.
    pub name: String,
    /// Its size.
    pub bytes: u64,
    /// Its SHA-256 in hexadecimal.
    pub sha256: String,
}

impl Report {
    pub(super) fn new(form: &'static str, planned: &[Planned<'_>], notes: Vec<String>) -> Self {
        let ternary = planned.iter().filter_map(TernaryReport::of).collect();
        let recoded = planned.iter().filter_map(|tensor| {
            let (from, to) = tensor.recoded()?;
            Some(Recoded { name: tensor.name.clone(), from: from.dtype.name(), to: to.name() })
        });
        let (tensors, recoded) = (planned.len(), recoded.collect());
        Self { form, tensors, ternary, recoded, files: Vec::new(), verified: false, notes }
    }

    /// Ternary weights in all.
    pub fn trits(&self) -> u64 {
        self.ternary.iter().map(TernaryReport::trits).sum()
    }

    /// Those that are 0.
    pub fn zeros(&self) -> u64 {
        self.ternary.iter().map(|tensor| tensor.zeros).sum()
    }

    /// The smallest and the largest scale.
    pub fn scale_range(&self) -> (f32, f32) {
        let range =
            |(min, max): (f32, f32), tensor: &TernaryReport| (min.min(tensor.scale_min), max.max(tensor.scale_max));
        self.ternary.iter().fold((f32::INFINITY, f32::NEG_INFINITY), range)
    }

    /// The largest relative rounding of a scale.
    pub fn scale_rounding(&self) -> f32 {
        self.ternary.iter().fold(0.0, |most, tensor| most.max(tensor.scale_rounding))
    }
}

impl TernaryReport {
    fn of(planned: &Planned<'_>) -> Option<Self> {
        let trits = planned.ternary()?;
        let scales = trits.scales.values();
        let rounding = scales.iter().zip(trits.encoder.scales().values()).filter(|(exact, held)| exact != held);
        let rounding = rounding.map(|(exact, held)| ((held - exact) / exact).abs()).fold(0.0, f32::max);
        Some(Self {
            name: trits.tensor.name.to_owned(),
            rows: trits.tensor.rows,
            cols: trits.tensor.cols,
            zeros: trits.zeros(),
            scale_min: scales.iter().copied().fold(f32::INFINITY, f32::min),
            scale_max: scales.iter().copied().fold(f32::NEG_INFINITY, f32::max),
            scale_rounding: rounding,
        })
    }

    /// Weights.
    pub fn trits(&self) -> u64 {
        self.rows as u64 * self.cols as u64
    }
}
