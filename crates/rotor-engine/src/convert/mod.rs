//! Any form to any form that can hold it.
//!
//! A conversion never holds a model in memory: strips of a tensor are decoded, encoded and written, on all cores, and the
//! source's pages let go. What a target cannot hold is refused by name before anything is written, or, where only the weights
//! tell, before the file has its name.

mod card;
mod dense;
mod folder;
mod keys;
mod pieces;
mod plan;
mod report;

pub use report::{Recoded, Report, TernaryReport, WrittenFile};

use crate::compare::{Allowed, compare_allowing};
use crate::error::FormatError;
use crate::formats::{Naming, OpenOptions, Source, SourceMetadata};
use crate::forms::{I2sLayout, TernaryForm};
use crate::write::gguf::{self, GgufHeader};
use crate::write::safetensors::{self, SafetensorsHeader};
use crate::write::{AtomicFolder, Progress, TensorFile, refuse_overwriting};
use ::safetensors::Dtype;
use plan::{Planned, Stored};
use rotor_kernels::DenseType;
use std::path::Path;
use std::str::FromStr;

/// What to convert to; the `--type` of the command line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Target {
    /// A GGUF with I2_S linears.
    I2S(I2sLayout),
    /// A Hugging Face folder with packed linears whose scales multiply.
    HuggingFace,
}

impl Target {
    /// Every target.
    pub const ALL: [Target; 3] =
        [Target::I2S(I2sLayout::Blocks128), Target::I2S(I2sLayout::Blocks64), Target::HuggingFace];

    /// The name people type.
    pub const fn name(self) -> &'static str {
        match self {
            Target::I2S(I2sLayout::Blocks128) => "i2_s",
            Target::I2S(I2sLayout::Blocks64) => "i2_s_64",
            Target::HuggingFace => "hf",
        }
    }

    /// Whether the output is a GGUF file.
    const fn is_gguf(self) -> bool {
        matches!(self, Target::I2S(_))
    }

    /// The form of its linears.
    const fn form(self) -> TernaryForm {
        match self {
            Target::I2S(layout) => TernaryForm::I2S(layout),
            Target::HuggingFace => TernaryForm::HfPacked,
        }
    }
}

impl FromStr for Target {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let known = || Target::ALL.map(Target::name).join(", ");
        Target::ALL
            .into_iter()
            .find(|target| target.name() == text)
            .ok_or_else(|| format!("known types are {}", known()))
    }
}

/// How to convert.
#[derive(Clone, Copy, Debug)]
pub struct ConvertOptions {
    /// What to.
    pub target: Target,
    /// The type of the embedding and the head; `None` keeps the source's numbers exactly.
    pub head: Option<DenseType>,
    /// Reads everything again and compares it before the output has its name.
    pub verify: bool,
}

/// What a conversion is busy with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// Writing; progress counts bytes.
    Writing,
    /// Reading again; progress counts tensors.
    Verifying,
}

/// Hears of what is done and of how much there is in all.
pub type Tell<'a> = dyn FnMut(Phase, u64, u64) + 'a;

/// Converts an opened model to the file or folder `output`.
///
/// # Errors
///
/// [`FormatError::Unsupported`], naming the tensor, for what the target cannot hold; [`FormatError::Invalid`] for weights that
/// are not sound or an output that is part of the source; [`FormatError::Io`] from the disk. No output is left behind, and
/// one that was there stays.
pub fn convert(
    source: &Source,
    output: &Path,
    options: &ConvertOptions,
    progress: &mut Tell<'_>,
) -> Result<Report, FormatError> {
    let inputs: Vec<&Path> = source.paths().iter().map(AsRef::as_ref).chain(source.folder()).collect();
    refuse_overwriting(&inputs, output)?;
    let naming = if options.target == Target::HuggingFace { Naming::HuggingFace } else { Naming::Gguf };
    let (mut pieces, mut notes) = pieces::pieces(source, naming)?;
    dense::choose(source, &mut pieces, options.target, naming != source.naming(), options.head)?;
    if options.target == Target::HuggingFace {
        return to_folder(source, pieces, output, options, notes, progress);
    }
    let mut header = keys::header(source, options.target, &mut notes)?;
    let planned = plan::plan(pieces, options.target)?;
    announce_gguf(&mut header, &planned);
    let mut file = header.create(output)?;
    write_data(source, &planned, &mut file, &mut |done, total| progress(Phase::Writing, done, total))?;
    let mut report = Report::new(options.target.name(), &planned, notes);
    if options.verify {
        verify(source, &file.flushed()?, options, progress)?;
        report.verified = true;
    }
    let (bytes, sha256) = file.finish_hashed()?;
    report.files.push(WrittenFile { name: file_name(output), bytes, sha256 });
    Ok(report)
}

fn file_name(path: &Path) -> String {
    path.file_name().unwrap_or_default().to_string_lossy().into_owned()
}

fn announce_gguf(header: &mut GgufHeader, planned: &[Planned<'_>]) {
    for tensor in planned {
        let type_id = match tensor.stored {
            Stored::Dense(dtype) => gguf::type_id(dtype),
            Stored::Ternary(_) => gguf::I2_S,
        };
        header.tensor(&tensor.name, &tensor.shape, type_id, tensor.bytes);
    }
}

fn write_data(
    source: &Source,
    planned: &[Planned<'_>],
    file: &mut TensorFile,
    progress: &mut dyn FnMut(u64, u64),
) -> Result<(), FormatError> {
    let mut progress = Progress::new(file.total(), progress);
    planned.iter().try_for_each(|tensor| tensor.write(source, file, &mut progress))
}

fn to_folder(
    source: &Source,
    pieces: Vec<pieces::Piece<'_>>,
    output: &Path,
    options: &ConvertOptions,
    notes: Vec<String>,
    progress: &mut Tell<'_>,
) -> Result<Report, FormatError> {
    let folder = AtomicFolder::create(output)?;
    let mut files = folder::write(source, &pieces, folder.path())?;
    let mut planned = plan::plan(pieces, options.target)?;
    let mut header = SafetensorsHeader::new();
    folder_metadata(&mut header, source)?;
    // Wide types first: safetensors has no padding to align the others with.
    planned.sort_by_key(|tensor| std::cmp::Reverse(dtype(tensor).bitsize()));
    for tensor in &planned {
        header.tensor(&tensor.name, dtype(tensor), &tensor.shape);
    }
    let mut file = header.create(&folder.path().join("model.safetensors"))?;
    write_data(source, &planned, &mut file, &mut |done, total| progress(Phase::Writing, done, total))?;
    let (bytes, sha256) = file.finish_hashed()?;
    if options.verify {
        verify(source, folder.path(), options, progress)?;
    }
    folder.commit()?;
    files.push(WrittenFile { name: "model.safetensors".into(), bytes, sha256 });
    let report = Report::new(options.target.name(), &planned, notes);
    Ok(Report { files, verified: options.verify, ..report })
}

/// Opens what was written and compares it with the source: every trit, every scale, every number.
fn verify(
    source: &Source,
    written: &Path,
    options: &ConvertOptions,
    progress: &mut Tell<'_>,
) -> Result<(), FormatError> {
    let i2s_layout = if let Target::I2S(layout) = options.target { Some(layout) } else { None };
    let open = OpenOptions { i2s_layout, hidden_act: None, no_mmap: false };
    let found = Source::open(written, &open)?;
    let allowed = Allowed { f16_scales: false, head: options.head };
    let mut tell = |done, total| progress(Phase::Verifying, done, total);
    let comparison = compare_allowing(source, &found, allowed, &mut tell)?;
    let first = comparison.config.first().map(|difference| difference.to_string());
    let first = first.or(comparison.tensors.first().map(|difference| difference.to_string()));
    match first {
        None => Ok(()),
        Some(found) => Err(FormatError::invalid("what was written", "the same model", found)),
    }
}

/// What safetensors calls a tensor's type; packed trits and quantised numbers are bytes.
fn dtype(tensor: &Planned<'_>) -> Dtype {
    match tensor.stored {
        Stored::Dense(dtype) => safetensors::dtype(dtype).unwrap_or(Dtype::U8),
        Stored::Ternary(_) => Dtype::U8,
    }
}

/// The `__metadata__` of a folder's weights: a folder's own, or what only a GGUF has keys for.
fn folder_metadata(header: &mut SafetensorsHeader, source: &Source) -> Result<(), FormatError> {
    header.metadata("format", "pt");
    match source.metadata() {
        SourceMetadata::Gguf(metadata) => header.metadata(keys::GENERAL, &keys::general_of(metadata)?),
        SourceMetadata::HuggingFace(_) => {
            for (key, text) in source.safetensors_metadata().iter().filter(|(key, _)| key.as_str() != "format") {
                header.metadata(key, text);
            }
        }
    }
    Ok(())
}
