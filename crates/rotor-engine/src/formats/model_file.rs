//! A file or folder as it was opened, whatever it holds: its keys and the names, shapes and places of its tensors.
//!
//! Opening is one step and binding another. Anything that has the form of a GGUF, a safetensors file or a model folder opens,
//! so that it can be shown: a model of an unknown architecture, a download that is cut short, an adapter. Whether it is a
//! model that runs is asked by [`ModelFile::bind`](super::ModelFile::bind), which says what keeps it from being one.

use super::map::{FileBytes, kind_of};
use super::metadata::Metadata;
use super::parts::Role;
use super::rotor::{self, Origin};
use super::summary::{SourceKind, SourceMetadata, TensorSummary};
use super::table::TensorTable;
use super::tokenizer_source::TokenizerSource;
use super::{foreign, gguf, hf};
use crate::config::limits;
use crate::error::FormatError;
use crate::tokenizer::{TokenizerDescription, TokenizerError, ids_needed};
use crate::write::refuse_overwriting;
use std::io::Read;
use std::path::{Path, PathBuf};

/// An opened file or folder.
#[derive(Debug)]
pub struct ModelFile {
    pub(super) table: TensorTable,
    pub(super) contents: Contents,
    pub(super) kind: SourceKind,
    pub(super) warnings: Vec<String>,
    /// The file or folder as it was named; `None` for bytes in memory.
    pub(super) path: Option<PathBuf>,
}

/// What is particular to a container.
#[derive(Debug)]
pub(super) enum Contents {
    Gguf(Metadata),
    HuggingFace(hf::Folder),
}

impl ModelFile {
    /// Opens a GGUF file (of a split one the first part, which brings the others along), a safetensors file or a folder in
    /// Hugging Face layout. What a file is, its first bytes tell and not its name.
    ///
    /// # Errors
    ///
    /// [`FormatError::Io`] from the system, [`FormatError::NotAModel`] for files of another kind, or an error that names what
    /// is broken in the header.
    pub fn open(path: &Path, no_mmap: bool) -> Result<Self, FormatError> {
        if path.is_dir() {
            return hf::open(path, no_mmap).map(|folder| Self::from_folder(folder, Some(path)));
        }
        match front(path)?.as_slice() {
            front if front.starts_with(b"GGUF") => {
                gguf::open(path, no_mmap).map(|file| Self::from_gguf(file, Some(path)))
            }
            front if hf::looks_sound(front) => match rotor::open(path, no_mmap)? {
                Some(file) => Self::from_rotor(file, Some(path)),
                None => hf::open(path, no_mmap).map(|folder| Self::from_folder(folder, Some(path))),
            },
            front => Err(foreign::recognised(front).unwrap_or_else(|| unknown(front)).in_file(path)),
        }
    }

    /// Opens a GGUF or Rotor file that is in memory.
    ///
    /// # Errors
    ///
    /// As [`open`](Self::open).
    pub fn from_bytes(bytes: Vec<u8>) -> Result<Self, FormatError> {
        Self::from_memory(FileBytes::Owned(bytes))
    }

    pub(super) fn from_memory(bytes: FileBytes) -> Result<Self, FormatError> {
        if hf::looks_sound(bytes.as_slice()) {
            return Self::from_rotor(rotor::single(bytes)?, None);
        }
        gguf::single(bytes).map(|file| Self::from_gguf(file, None))
    }

    /// A Rotor file under whatever name it has.
    pub(super) fn open_rotor(path: &Path, no_mmap: bool) -> Result<Self, FormatError> {
        let missing = || FormatError::missing(format!("{} in {}", rotor::key::VERSION, path.display()));
        Self::from_rotor(rotor::open(path, no_mmap)?.ok_or_else(missing)?, Some(path))
    }

    fn from_gguf(file: gguf::File, path: Option<&Path>) -> Self {
        let gguf::File { metadata, table, warnings } = file;
        Self::new(table, Contents::Gguf(metadata), SourceKind::Gguf, warnings, path)
    }

    fn from_folder(opened: hf::Opened, path: Option<&Path>) -> Self {
        let hf::Opened { folder, table } = opened;
        Self::new(table, Contents::HuggingFace(folder), SourceKind::HuggingFace, Vec::new(), path)
    }

    fn from_rotor(file: rotor::File, path: Option<&Path>) -> Result<Self, FormatError> {
        let rotor::File { table, origin, texts } = file;
        let contents = match origin {
            Origin::Gguf(metadata) => Contents::Gguf(metadata),
            Origin::HuggingFace(files) => Contents::HuggingFace(hf::Folder::in_memory(files, texts)?),
        };
        Ok(Self::new(table, contents, SourceKind::Rotor, Vec::new(), path))
    }

    fn new(
        table: TensorTable,
        contents: Contents,
        kind: SourceKind,
        warnings: Vec<String>,
        path: Option<&Path>,
    ) -> Self {
        Self { table, contents, kind, warnings, path: path.map(Path::to_path_buf) }
    }

    /// What the file is instead of a language model with its weights, and what to do; `None` where nothing tells. Names of
    /// architectures are judged where hyper-parameters are read.
    pub(super) fn nature(&self) -> Option<(&'static str, &'static str)> {
        const ADAPTER: (&str, &str) =
            ("an adapter (LoRA)", "it changes another model's weights; merge it into that model first");
        let names = || self.table.iter().map(|(_, tensor)| tensor.name.as_str());
        let Contents::Gguf(metadata) = &self.contents else {
            let is_adapter = names().next().is_some() && names().all(|name| name.contains(".lora_"));
            return is_adapter.then_some(ADAPTER);
        };
        match metadata.str("general.type").ok().flatten().unwrap_or_default() {
            "adapter" => Some(ADAPTER),
            "mmproj" => Some((
                "a vision projector (mmproj)",
                "it reads images for another model; name the language model's file",
            )),
            "imatrix" => Some((
                "an importance matrix (imatrix)",
                "it holds statistics for quantising another model, and no weights",
            )),
            _ if names().next().is_none() && metadata.get(gguf::tokenizer_key::TOKENS).is_some() => {
                Some(("a vocabulary without weights", "it can be used to tokenize, and not to run"))
            }
            _ if names().next().is_none() => Some(("a GGUF file without tensors", "name the file of the model itself")),
            _ if names().all(|name| name.contains(".lora_")) => Some(ADAPTER),
            _ => None,
        }
    }

    /// Whether it was opened as a folder.
    pub(super) fn is_folder(&self) -> bool {
        self.path.as_deref().is_some_and(Path::is_dir)
    }

    /// The container.
    pub fn kind(&self) -> SourceKind {
        self.kind
    }

    /// The files that weights lie in; none for bytes in memory.
    pub fn paths(&self) -> &[PathBuf] {
        self.table.paths()
    }

    /// What is odd about the file without being wrong, in sentences.
    pub fn warnings(&self) -> &[String] {
        &self.warnings
    }

    /// Refuses to write `output` over a file of this input, however the two are spelled: the files of its weights, all other
    /// files of a folder (but for GGUF files, which a folder's reader never looks at), and for a single safetensors file what
    /// is read beside it.
    ///
    /// # Errors
    ///
    /// [`FormatError::Invalid`] that names the input.
    pub fn refuse_overwriting(&self, output: &Path) -> Result<(), FormatError> {
        let mut inputs = self.table.paths().to_vec();
        inputs.extend(self.path.clone());
        if let Contents::HuggingFace(hf::Folder { files: hf::Files::Folder(folder), .. }) = &self.contents {
            let is_gguf = |path: &PathBuf| path.extension().is_some_and(|ending| ending.eq_ignore_ascii_case("gguf"));
            if self.is_folder() {
                let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
                inputs.extend(entries.map(|entry| entry.path()).filter(|path| !is_gguf(path)));
            } else {
                inputs.extend(hf::COPIED.iter().chain(&[hf::CONFIG]).map(|name| folder.join(name)));
            }
        }
        let inputs: Vec<&Path> = inputs.iter().map(PathBuf::as_path).collect();
        refuse_overwriting(&inputs, output)
    }

    /// All tensors in file order.
    pub fn tensors(&self) -> impl Iterator<Item = TensorSummary<'_>> {
        self.table.iter().map(|(_, tensor)| TensorSummary {
            name: &tensor.name,
            shape: &tensor.shape,
            type_name: &tensor.type_name,
            bytes: self.table.bytes(tensor),
        })
    }

    /// What the file says about itself.
    pub fn metadata(&self) -> SourceMetadata<'_> {
        match &self.contents {
            Contents::Gguf(metadata) => SourceMetadata::Gguf(metadata),
            Contents::HuggingFace(folder) => SourceMetadata::HuggingFace(&folder.config),
        }
    }

    /// What a tokenizer is built from, which needs no weights; `None` where the file has none.
    ///
    /// # Errors
    ///
    /// [`FormatError::Io`] for a tokenizer file that cannot be read, or an error that names the key that is broken.
    pub fn tokenizer(&self) -> Result<Option<TokenizerSource>, FormatError> {
        match &self.contents {
            Contents::Gguf(metadata) => {
                let vocabulary = gguf::vocabulary(metadata)?;
                Ok(vocabulary.map(|vocabulary| TokenizerSource::Gguf(Box::new(vocabulary))))
            }
            Contents::HuggingFace(folder) => hf::tokenizer(folder),
        }
    }

    /// What the file says about its tokenizer, with every default resolved; `None` where it says nothing.
    ///
    /// # Errors
    ///
    /// Where the tokenizer cannot be read, or is of a kind that rotor does not know.
    pub fn tokenizer_description(&self) -> Result<Option<TokenizerDescription>, TokenizerError> {
        let Some(source) = self.tokenizer()? else { return Ok(None) };
        let rows = match (self.embedding_rows(), &source) {
            (Some(rows), _) => rows.min(limits::VOCAB),
            (None, TokenizerSource::Gguf(vocabulary)) => vocabulary.tokens.len(),
            (None, TokenizerSource::HuggingFace(files)) => ids_needed(&files.tokenizer)?,
        };
        TokenizerDescription::read(&source, rows).map(Some)
    }

    /// Rows of the embedding, as far as the file tells without being bound.
    fn embedding_rows(&self) -> Option<usize> {
        match &self.contents {
            Contents::Gguf(_) => {
                let embedding =
                    self.table.find(&(gguf::stem(Role::TokenEmbedding) + ".weight")).map(|id| self.table.tensor(id));
                embedding.and_then(|tensor| tensor.shape.first().copied())
            }
            Contents::HuggingFace(folder) => folder.vocab_size(),
        }
    }

    /// The chat template as the file has it, in Jinja; `None` where there is none.
    ///
    /// # Errors
    ///
    /// A template that is not UTF-8, or a file that has one and cannot be read.
    pub fn chat_template(&self) -> Result<Option<String>, FormatError> {
        match &self.contents {
            Contents::Gguf(metadata) => Ok(metadata.str(gguf::tokenizer_key::CHAT_TEMPLATE)?.map(str::to_owned)),
            Contents::HuggingFace(folder) => hf::chat_template(folder),
        }
    }
}

/// The first bytes of a file, as many as tell what it is.
fn front(path: &Path) -> Result<Vec<u8>, FormatError> {
    let failed = |action| move |source| FormatError::Io { action, path: path.to_path_buf(), source };
    // Looked at by name first: opening a pipe would wait for its writer.
    let metadata = std::fs::metadata(path).map_err(failed("open"))?;
    if !metadata.is_file() {
        return Err(FormatError::invalid("path", "a regular file", kind_of(metadata.file_type())).in_file(path));
    }
    let mut front = Vec::new();
    let file = std::fs::File::open(path).map_err(failed("open"))?;
    file.take(foreign::LOOKED_AT as u64).read_to_end(&mut front).map_err(failed("read"))?;
    Ok(front)
}

/// The error for a file of which nothing is known.
fn unknown(front: &[u8]) -> FormatError {
    let found = front[..front.len().min(4)].escape_ascii();
    FormatError::invalid("first bytes", "those of a GGUF or safetensors file", format!("\"{found}\""))
}
