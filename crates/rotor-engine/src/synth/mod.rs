//! Synthetic models: the exact shapes of published ones with random weights, for measuring speed and memory and for tests
//! that need a whole model where none can be downloaded.
//!
//! The numbers depend on the seed alone, not on the file's form or the number of threads: a GGUF and a Hugging Face folder
//! of one seed are the same model.

mod plan;
mod preset;
mod random;
mod templates;
mod values;
mod vocabulary;

pub use preset::Preset;
pub use random::random_trits;

use crate::config::{Activation, Config};
use crate::error::FormatError;
use crate::formats::{GgufVocabulary, Role, TokenizerSource};
use crate::forms::{I2sLayout, TernaryForm};
use crate::tokenizer::TokenizerDescription;
use crate::write::gguf::{self, GgufHeader};
use crate::write::safetensors::{self, SafetensorsHeader};
use crate::write::vocabulary::hugging_face::to_hugging_face;
use crate::write::vocabulary::put_gguf_keys;
use crate::write::{
    AtomicFile, AtomicFolder, PackedWeights, Progress, TensorFile, config_json, names, put_config_keys,
    refuse_overwriting,
};
use ::safetensors::Dtype;
use plan::{Data, Planned};
use preset::Family;
use rotor_kernels::DenseType;
use std::path::{Path, PathBuf};
use values::Values;

/// `general.file_type` of a GGUF whose linears are I2_S.
const MOSTLY_I2_S: u32 = 40;

/// The file a synthetic model is written as.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SynthType {
    /// A GGUF with I2_S linears.
    I2S(I2sLayout),
    /// A Hugging Face folder with packed linears.
    HuggingFace,
}

/// How to synthesise.
#[derive(Clone, Debug)]
pub struct SynthOptions {
    /// GGUF or Hugging Face folder.
    pub form: SynthType,
    /// How the embedding and the head are stored; in a Hugging Face folder f32, f16 or bf16.
    pub head: DenseType,
    /// Where the random numbers begin.
    pub seed: u64,
    /// tokenizer.json or tiktoken ranks; without one a vocabulary is made up.
    pub tokenizer: Option<PathBuf>,
    /// The share of gates above zero, for models whose gate is a squared ReLU; `None` leaves it to chance, about half.
    pub active_gates: Option<f32>,
}

impl Default for SynthOptions {
    fn default() -> Self {
        Self {
            form: SynthType::I2S(I2sLayout::Blocks128),
            head: DenseType::F16,
            seed: 0,
            tokenizer: None,
            active_gates: None,
        }
    }
}

/// What was written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SynthReport {
    /// Number of tensors.
    pub tensors: usize,
    /// Number of ternary weights.
    pub ternary_weights: u64,
    /// Size of the GGUF, or of the folder's model.safetensors, in bytes.
    pub bytes: u64,
    /// Rows of the embedding.
    pub vocabulary: usize,
}

/// Everything about the model but its numbers.
struct Model {
    preset: Preset,
    config: Config,
    vocabulary: GgufVocabulary,
    values: Values,
}

/// Writes a synthetic model; `progress` hears of bytes done and bytes in all.
///
/// # Errors
///
/// [`FormatError::Io`] from the disk, naming the file; [`FormatError::Unsupported`] where the head's type does not fit the
/// model's width or the file; [`FormatError::Invalid`] for a tokenizer that cannot be read or has more tokens than the
/// preset.
pub fn synthesize(
    preset: Preset,
    out: &Path,
    options: &SynthOptions,
    progress: &mut dyn FnMut(u64, u64),
) -> Result<SynthReport, FormatError> {
    Model::new(preset, out, options)?.write(out, options, progress)
}

impl Model {
    fn new(preset: Preset, out: &Path, options: &SynthOptions) -> Result<Self, FormatError> {
        let mut config = preset.config();
        let vocabulary = match &options.tokenizer {
            Some(path) => {
                refuse_overwriting(&[path], out)?;
                vocabulary::from_file(path, preset, &mut config)?
            }
            None => vocabulary::made_up(preset, config.vocab_size),
        };
        if options.active_gates.is_some() && config.hidden_act != Activation::ReluSquared {
            let what = format!("a share of active gates in {preset}");
            return Err(FormatError::unsupported(what, "its gates are not squared ReLUs, which are zero below zero"));
        }
        let mut model = Self::with_config(preset, config, vocabulary, options.seed);
        model.values.set_active_gates(options.active_gates);
        Ok(model)
    }

    /// A model of the preset's kind, of other dimensions perhaps.
    fn with_config(preset: Preset, config: Config, vocabulary: GgufVocabulary, seed: u64) -> Self {
        let vocabulary = GgufVocabulary { architecture: preset.gguf_architecture().into(), ..vocabulary };
        let values = Values::new(seed, &config, preset.tied(), preset.scales_multiply(), preset.group_cols());
        Self { preset, config, vocabulary, values }
    }

    fn write(
        &self,
        out: &Path,
        options: &SynthOptions,
        progress: &mut dyn FnMut(u64, u64),
    ) -> Result<SynthReport, FormatError> {
        match options.form {
            SynthType::I2S(layout) => {
                let form = self.preset.form().map_or(TernaryForm::I2S(layout), |(form, _)| form);
                self.write_gguf(out, form, options.head, progress)
            }
            SynthType::HuggingFace if self.preset.form().is_some() || self.preset.norms_in_linears() => {
                let what = format!("{} in a Hugging Face folder", self.preset);
                Err(FormatError::unsupported(what, "packed folders are BitNet's; this model is written as a GGUF"))
            }
            SynthType::HuggingFace => self.write_folder(out, options, progress),
        }
    }

    fn write_gguf(
        &self,
        out: &Path,
        form: TernaryForm,
        head: DenseType,
        progress: &mut dyn FnMut(u64, u64),
    ) -> Result<SynthReport, FormatError> {
        let mut header = self.gguf_keys();
        let planned = self.gguf_plan(form, head)?;
        for tensor in &planned {
            let type_id = match tensor.data {
                Data::Normal(dtype) | Data::Norm(dtype) => gguf::type_id(dtype),
                Data::NormIn => gguf::type_id(DenseType::F32),
                Data::Trits(..) | Data::StoredScale => form.info().gguf_type.unwrap_or(gguf::I2_S),
            };
            let shape = [tensor.rows, tensor.cols];
            let shape = if matches!(tensor.data, Data::Norm(_) | Data::NormIn) { &shape[1..] } else { &shape };
            header.tensor(&tensor.name, shape, type_id, tensor.bytes());
        }
        self.write_data(header.create(out)?, &planned, progress)
    }

    fn gguf_plan(&self, form: TernaryForm, head: DenseType) -> Result<Vec<Planned>, FormatError> {
        let mut planned = Vec::new();
        for role in plan::roles(&self.config, self.preset.tied()) {
            let name = names::gguf(role);
            let is_matrix = matches!(role, Role::TokenEmbedding | Role::Output);
            if plan::is_linear(role) || is_matrix && self.preset.ternary_embedding() {
                planned.push(plan::linear(role, name, &self.config, form, &self.values)?);
            } else {
                planned.push(plan::dense(role, name, &self.config, head, DenseType::F32)?);
            }
            if plan::is_linear(role) && self.preset.norms_in_linears() {
                planned.push(plan::norm_in(role, &self.config));
            }
        }
        Ok(planned)
    }

    /// The keys of the published files, in their order.
    fn gguf_keys(&self) -> GgufHeader {
        let (config, mut header) = (&self.config, GgufHeader::new());
        let architecture = self.preset.gguf_architecture();
        header.string("general.architecture", architecture);
        header.string("general.name", config.name.as_deref().unwrap_or(self.preset.name()));
        header.u32("general.file_type", self.preset.form().map_or(MOSTLY_I2_S, |(_, file_type)| file_type));
        header.u32("general.quantization_version", 2);
        put_config_keys(&mut header, architecture, config, Some(&self.vocabulary.model));
        put_gguf_keys(&mut header, &self.vocabulary, self.template());
        header
    }

    fn write_folder(
        &self,
        out: &Path,
        options: &SynthOptions,
        progress: &mut dyn FnMut(u64, u64),
    ) -> Result<SynthReport, FormatError> {
        let folder = AtomicFolder::create(out)?;
        let planned = self.folder_plan(options.head)?;
        let mut header = SafetensorsHeader::new();
        header.metadata("format", "pt");
        for tensor in &planned {
            match &tensor.data {
                Data::Normal(dtype) => header.tensor(&tensor.name, self.dtype(*dtype)?, &[tensor.rows, tensor.cols]),
                Data::Norm(dtype) => header.tensor(&tensor.name, self.dtype(*dtype)?, &[tensor.cols]),
                Data::NormIn => header.tensor(&tensor.name, Dtype::F32, &[tensor.cols]),
                Data::StoredScale => header.tensor(&tensor.name, Dtype::BF16, &[1]),
                Data::Trits(encoder, _) => {
                    header.tensor(&tensor.name, Dtype::U8, &[encoder.strips(), encoder.strip_bytes()]);
                }
            }
        }
        let file = header.create(&folder.path().join("model.safetensors"))?;
        let report = self.write_data(file, &planned, progress)?;
        self.write_folder_texts(folder.path(), options.tokenizer.as_deref())?;
        folder.commit()?;
        Ok(report)
    }

    /// Wide types first: safetensors has no padding to align the others with.
    fn folder_plan(&self, head: DenseType) -> Result<Vec<Planned>, FormatError> {
        let mut planned = Vec::new();
        let (linears, others): (Vec<_>, Vec<_>) =
            plan::roles(&self.config, self.preset.tied()).into_iter().partition(|&role| plan::is_linear(role));
        for role in others {
            planned.push(plan::dense(
                role,
                names::hugging_face(self.config.architecture.info(), role),
                &self.config,
                head,
                DenseType::Bf16,
            )?);
        }
        for &role in &linears {
            let (rows, cols) = role.shape(&self.config);
            let name = format!("{}_scale", names::hugging_face(self.config.architecture.info(), role));
            planned.push(Planned { name, role, rows, cols, data: Data::StoredScale });
        }
        for role in linears {
            let name = names::hugging_face(self.config.architecture.info(), role);
            planned.push(plan::linear(role, name, &self.config, TernaryForm::HfPacked, &self.values)?);
        }
        Ok(planned)
    }

    fn dtype(&self, dtype: DenseType) -> Result<Dtype, FormatError> {
        safetensors::dtype(dtype).ok_or_else(|| {
            let what = format!("a head of type {} in a Hugging Face folder", dtype.name());
            FormatError::unsupported(what, "f32, f16 and bf16 are")
        })
    }

    fn write_folder_texts(&self, folder: &Path, tokenizer: Option<&Path>) -> Result<(), FormatError> {
        let write = |name: &str, bytes: &[u8]| {
            let mut file = AtomicFile::create(&folder.join(name))?;
            file.write(bytes)?;
            file.commit()
        };
        let (tied, scales_multiply) = (self.preset.tied(), self.preset.scales_multiply());
        let weights = PackedWeights { tied, scales_multiply, norms_in_linears: false };
        let source = TokenizerSource::Gguf(Box::new(self.vocabulary.clone()));
        let broken = |error| FormatError::invalid("the vocabulary", "one that rotor can use", error);
        let description = TokenizerDescription::read(&source, self.config.vocab_size).map_err(broken)?;
        let config = config_json(&self.config, weights, Some(&description));
        write("config.json", format!("{config:#}\n").as_bytes())?;
        let given = tokenizer.map(vocabulary::read).transpose()?.filter(|bytes| !vocabulary::is_ranks(bytes));
        let (mut files, _) = to_hugging_face(&description, self.template())?.accept("a Hugging Face folder", false)?;
        if let Some(bytes) = given {
            files.tokenizer = bytes;
        }
        files.named().iter().try_for_each(|(name, bytes)| write(name, bytes))
    }

    fn write_data(
        &self,
        mut file: TensorFile,
        planned: &[Planned],
        tell: &mut dyn FnMut(u64, u64),
    ) -> Result<SynthReport, FormatError> {
        let mut progress = Progress::new(file.total(), tell);
        for tensor in planned {
            tensor.write(&self.values, &mut file, &mut progress)?;
        }
        let trits = planned.iter().filter(|tensor| matches!(tensor.data, Data::Trits(..)));
        Ok(SynthReport {
            tensors: planned.len(),
            ternary_weights: trits.map(|tensor| tensor.rows as u64 * tensor.cols as u64).sum(),
            bytes: file.finish()?,
            vocabulary: self.config.vocab_size,
        })
    }

    fn template(&self) -> Option<&'static str> {
        match self.preset.family() {
            Family::BitNet => Some(crate::chat::BITNET),
            Family::Llama3 => Some(templates::LLAMA3),
            Family::Falcon3 => Some(templates::FALCON3),
            Family::FalconE | Family::Bonsai | Family::BitCpm => Some(templates::CHATML),
            Family::HyMt => Some(templates::HY_MT),
            Family::OneBit | Family::EmbeddingQwen | Family::EmbeddingGemma => None,
        }
    }
}

#[cfg(test)]
mod tests;
