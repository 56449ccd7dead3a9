//! Any form to any form that can hold it.
//!
//! A conversion never holds a model in memory: strips of a tensor are decoded, encoded and written, on all cores, and the
//! source's pages let go. What a target cannot hold is refused by name before anything is written, or, where only the weights
//! tell, before the file has its name.

mod card;
mod dense;
mod folder;
mod keys;
mod options;
mod pieces;
mod plan;
mod report;
mod rotor;

pub use options::{ConvertOptions, Target};
pub use report::{Recoded, Report, TernaryReport, WrittenFile};

use crate::compare::{Allowed, compare_allowing};
use crate::error::FormatError;
use crate::formats::{OpenOptions, Source, SourceMetadata, metadata_json};
use crate::forms::TernaryForm;
use crate::write::gguf::{self, GgufHeader};
use crate::write::safetensors::{self, SafetensorsHeader};
use crate::write::{AtomicFolder, Progress, TensorFile};
use ::safetensors::Dtype;
use options::Container;
use pieces::Piece;
use plan::{Planned, Stored};
use std::path::Path;

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
    source.file().refuse_overwriting(output)?;
    let target = options.target;
    let (mut pieces, mut notes) = pieces::pieces(source, target)?;
    notes.extend(keys::left_behind(source, target));
    let renamed = target.naming(source) != source.naming();
    dense::choose(source, &mut pieces, target, renamed, options.head)?;
    let conversion = Conversion { source, options, notes };
    match target.container() {
        Container::Gguf => conversion.write_gguf(pieces, output, progress),
        Container::Folder => conversion.write_folder(pieces, output, progress),
        Container::Rotor => conversion.write_rotor(pieces, output, progress),
    }
}

/// What every kind of output needs.
struct Conversion<'a> {
    source: &'a Source,
    options: &'a ConvertOptions,
    notes: Vec<String>,
}

impl Conversion<'_> {
    fn write_gguf(
        mut self,
        pieces: Vec<Piece<'_>>,
        output: &Path,
        progress: &mut Tell<'_>,
    ) -> Result<Report, FormatError> {
        let mut header = keys::header(self.source, self.options, &mut self.notes)?;
        let planned = plan::plan(pieces, self.options.target)?;
        keys::put_exact_scales(&mut header, &planned);
        announce_gguf(&mut header, &planned);
        let file = header.create(output)?;
        self.write_file(file, &planned, output, progress)
    }

    fn write_rotor(
        self,
        pieces: Vec<Piece<'_>>,
        output: &Path,
        progress: &mut Tell<'_>,
    ) -> Result<Report, FormatError> {
        let mut header = SafetensorsHeader::new();
        rotor::put_metadata(&mut header, self.source, &pieces)?;
        let mut planned = plan::plan(pieces, self.options.target)?;
        rotor::put_shapes(&mut header, &planned)?;
        announce_safetensors(&mut header, &mut planned);
        let file = header.create(output)?;
        self.write_file(file, &planned, output, progress)
    }

    /// Writes one file, which is the whole output.
    fn write_file(
        self,
        mut file: TensorFile,
        planned: &[Planned<'_>],
        output: &Path,
        progress: &mut Tell<'_>,
    ) -> Result<Report, FormatError> {
        self.write_data(planned, &mut file, progress)?;
        if self.options.verify {
            let (written, whole) = file.flushed()?;
            file = whole;
            let open = self.open_options();
            let found = match self.options.target.container() {
                Container::Rotor => Source::open_rotor(&written, &open)?,
                Container::Gguf | Container::Folder => Source::open(&written, &open)?,
            };
            self.verify(&found, progress)?;
        }
        let (bytes, sha256) = file.finish_hashed()?;
        let name = output.file_name().unwrap_or_default().to_string_lossy().into_owned();
        Ok(self.report(planned, vec![WrittenFile { name, bytes, sha256 }]))
    }

    fn write_folder(
        mut self,
        pieces: Vec<Piece<'_>>,
        output: &Path,
        progress: &mut Tell<'_>,
    ) -> Result<Report, FormatError> {
        const WEIGHTS: &str = "model.safetensors";
        let folder = AtomicFolder::create(output)?;
        let mut files =
            folder::write(self.source, &pieces, folder.path(), self.options.lossy_tokenizer, &mut self.notes)?;
        let mut planned = plan::plan(pieces, self.options.target)?;
        let mut header = SafetensorsHeader::new();
        folder_metadata(&mut header, self.source);
        announce_safetensors(&mut header, &mut planned);
        let mut file = header.create(&folder.path().join(WEIGHTS))?;
        self.write_data(&planned, &mut file, progress)?;
        let (bytes, sha256) = file.finish_hashed()?;
        files.push(WrittenFile { name: WEIGHTS.into(), bytes, sha256 });
        if self.options.verify {
            self.verify(&Source::open(folder.path(), &self.open_options())?, progress)?;
        }
        folder.commit()?;
        Ok(self.report(&planned, files))
    }

    fn write_data(
        &self,
        planned: &[Planned<'_>],
        file: &mut TensorFile,
        progress: &mut Tell<'_>,
    ) -> Result<(), FormatError> {
        let mut tell = |done, total| progress(Phase::Writing, done, total);
        let mut progress = Progress::new(file.total(), &mut tell);
        planned.iter().try_for_each(|tensor| tensor.write(self.source, file, &mut progress))
    }

    /// How to open what was written: nothing is left to be found out.
    fn open_options(&self) -> OpenOptions {
        let i2s_layout = if let TernaryForm::I2S(layout) = self.options.target.form() { Some(layout) } else { None };
        OpenOptions { i2s_layout, ..OpenOptions::default() }
    }

    /// Compares what was written with the source: every trit, every scale, every number.
    fn verify(&self, found: &Source, progress: &mut Tell<'_>) -> Result<(), FormatError> {
        let mut tell = |done, total| progress(Phase::Verifying, done, total);
        // A tokenizer that had to be left out, whole or in part, is among the notes.
        let tokenizer = self.options.lossy_tokenizer || found.tokenizer()?.is_none();
        let comparison =
            compare_allowing(self.source, found, Allowed { head: self.options.head, tokenizer }, &mut tell)?;
        let config = comparison.config.first().map(ToString::to_string);
        let tokenizer = comparison.tokenizer.first().map(ToString::to_string);
        let different = config.or(tokenizer).or(comparison.tensors.first().map(ToString::to_string));
        match different {
            None => Ok(()),
            Some(found) => Err(FormatError::invalid("what was written", "the model that was read", found)),
        }
    }

    fn report(self, planned: &[Planned<'_>], files: Vec<WrittenFile>) -> Report {
        let report = Report::new(self.options.target.name(), planned, self.notes);
        Report { files, verified: self.options.verify, ..report }
    }
}

fn announce_gguf(header: &mut GgufHeader, planned: &[Planned<'_>]) {
    for tensor in planned {
        let type_id = match tensor.stored {
            Stored::Dense(dtype) => gguf::type_id(dtype),
            // Every form that is written to a GGUF has an id.
            Stored::Ternary(form) => form.info().gguf_type.unwrap_or(gguf::I2_S),
        };
        header.tensor(&tensor.name, &tensor.shape, type_id, tensor.bytes);
    }
}

/// Wide types come first: safetensors has no padding to align the others with.
fn announce_safetensors(header: &mut SafetensorsHeader, planned: &mut [Planned<'_>]) {
    planned.sort_by_key(|tensor| std::cmp::Reverse(dtype(tensor).bitsize()));
    for tensor in planned {
        match (tensor.stored, tensor.dense_shape()) {
            (Stored::Dense(quantised), Some((rows, cols))) if safetensors::dtype(quantised).is_none() => {
                header.tensor(&tensor.name, Dtype::U8, &[rows, quantised.row_bytes(cols).unwrap_or(0)]);
            }
            _ => header.tensor(&tensor.name, dtype(tensor), &tensor.shape),
        }
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
fn folder_metadata(header: &mut SafetensorsHeader, source: &Source) {
    header.metadata("format", "pt");
    match source.metadata() {
        SourceMetadata::Gguf(metadata) => {
            let architecture = metadata.str("general.architecture").ok().flatten().unwrap_or_default();
            let general = metadata_json::to_json(&keys::without_place(
                metadata,
                architecture,
                source.config().architecture.info(),
            ));
            header.metadata(keys::GENERAL, &general.to_string());
        }
        SourceMetadata::HuggingFace(_) => {
            keys::own_texts(&source.safetensors_metadata()).for_each(|(key, text)| header.metadata(key, text));
        }
    }
}

#[cfg(test)]
mod tests;
