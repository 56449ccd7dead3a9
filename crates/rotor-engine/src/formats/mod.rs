//! Where a model enters: GGUF files and Hugging Face folders, opened into one [`Source`].
//!
//! Opening parses and checks everything but the weights themselves: afterwards the hyper-parameters are a checked
//! [`Config`](crate::Config), and every tensor the graph needs is known to exist with the right shape, a readable type and bytes in range.
//! Weights stay borrowed bytes of the mapped file until they are packed.

mod beginning;
mod bind;
mod foreign;
pub(crate) mod gguf;
mod graph;
pub(crate) mod hf;
#[cfg(test)]
mod hostile_tests;
mod i2s_layout;
pub(crate) mod keys;
mod map;
pub mod metadata;
pub(crate) mod metadata_json;
mod model_file;
mod options;
pub(crate) mod parts;
mod roles;
pub(crate) mod rotor;
#[cfg(test)]
mod runs_tests;
mod source;
mod summary;
mod table;
#[cfg(test)]
mod testing;
#[cfg(test)]
mod tests;
pub(crate) mod tokenizer_source;
mod weight;

pub use crate::forms::RowOrder;
pub use beginning::{Beginning, check_beginning};
pub use hf::safetensors::names as safetensors_names;
pub use map::on_changed_file;
pub use model_file::ModelFile;
pub use options::{DenseActivations, LoadOptions, OpenOptions, Read};
pub use parts::{Part, Role};
pub use source::{Source, Unbound};
pub use summary::{SourceKind, SourceMetadata, TensorSummary};
pub use tokenizer_source::{GgufVocabulary, HuggingFaceTokenizer, TokenizerSource};
pub use weight::{DenseTensor, SourceLinear, Weight};

pub(crate) use gguf::{NORM_IN, row_order as gguf_row_order, stem as gguf_stem, tokenizer_key};
pub(crate) use hf::COPIED;
pub(crate) use i2s_layout::KEY as I2S_LAYOUT_KEY;
pub(crate) use roles::Naming;
