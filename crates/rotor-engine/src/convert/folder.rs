//! The files of a Hugging Face folder beside its weights.

use super::keys::{chat_template, usable_tokenizer};
use super::pieces::{Content, Piece};
use super::report::WrittenFile;
use crate::error::FormatError;
use crate::formats::metadata::Metadata;
use crate::formats::{COPIED, Part, Role, Source, SourceMetadata};
use crate::tokenizer::TokenizerDescription;
use crate::write::vocabulary::hugging_face::to_hugging_face;
use crate::write::{AtomicFile, PackedWeights, config_json};
use rotor_kernels::DenseType;
use serde_json::{Map, Value, json};
use std::path::Path;

/// Writes everything but the weights; notes say what is left out.
pub(super) fn write(
    source: &Source,
    pieces: &[Piece<'_>],
    folder: &Path,
    lossy_tokenizer: bool,
    notes: &mut Vec<String>,
) -> Result<Vec<WrittenFile>, FormatError> {
    let mut files = Vec::new();
    let mut put = |name: &str, bytes: &[u8]| -> Result<(), FormatError> {
        let mut file = AtomicFile::create(&folder.join(name))?;
        file.hash();
        file.write(bytes)?;
        let (bytes, sha256) = file.commit_hashed()?;
        files.push(WrittenFile { name: name.into(), bytes, sha256 });
        Ok(())
    };
    match source.metadata() {
        SourceMetadata::HuggingFace(config) => {
            put("config.json", &pretty(&packed_config(config, pieces)))?;
            for name in COPIED {
                if let Some(bytes) = source.side_file(name)? {
                    put(name, &bytes)?;
                }
            }
        }
        SourceMetadata::Gguf(metadata) => {
            let tokenizer = usable_tokenizer(source, notes);
            put("config.json", &pretty(&made_config(source, metadata, pieces, tokenizer.as_ref())))?;
            if let Some(tokenizer) = &tokenizer {
                let files = to_hugging_face(tokenizer, chat_template(source, notes).as_deref())?;
                let (files, left_out) = files.accept("a Hugging Face folder", lossy_tokenizer)?;
                notes.extend(left_out);
                files.named().into_iter().try_for_each(|(name, bytes)| put(name, &bytes))?;
            }
        }
    }
    Ok(files)
}

pub(super) fn pretty(json: &Value) -> Vec<u8> {
    format!("{json:#}\n").into_bytes()
}

/// The source's config.json, saying that weights are packed and their scales multiply.
fn packed_config(config: &Map<String, Value>, pieces: &[Piece<'_>]) -> Value {
    let mut config = config.clone();
    // What MLX says of its packs, also in the other field, holds no more.
    if config.remove("quantization").is_some() {
        config.remove("quantization_config");
    }
    let is_new = !config.contains_key("quantization_config");
    let quantization = config.entry("quantization_config").or_insert_with(|| json!({}));
    if !quantization.is_object() {
        *quantization = json!({});
    }
    for (key, value) in
        [("quant_method", "bitnet"), ("linear_class", "autobitlinear"), ("quantization_mode", "offline")]
    {
        quantization[key] = value.into();
    }
    let dense = dense_linears(pieces);
    if is_new && !dense.is_empty() {
        quantization["modules_to_not_convert"] = std::iter::once("lm_head".to_owned()).chain(dense).collect();
    }
    Value::Object(config)
}

/// config.json from the keys of a GGUF.
fn made_config(
    source: &Source,
    metadata: &Metadata,
    pieces: &[Piece<'_>],
    tokenizer: Option<&TokenizerDescription>,
) -> Value {
    let config = source.config();
    let tied = !pieces.iter().any(|piece| piece.role == Some(Role::Output));
    let norms_in_linears = source.input_norm_name(Role::Layer(0, Part::AttnQ)).is_some();
    let weights = PackedWeights { tied, scales_multiply: true, norms_in_linears };
    let mut json = config_json(config, weights, tokenizer);
    if let Ok(Some(name)) = metadata.str("general.name") {
        json["_name_or_path"] = name.into();
    }
    let embedding = pieces.iter().find_map(|piece| match (piece.role, &piece.content) {
        (Some(Role::TokenEmbedding), Content::Dense { dtype, .. }) => Some(*dtype),
        _ => None,
    });
    json["torch_dtype"] = match embedding {
        Some(DenseType::F16) => "float16".into(),
        Some(DenseType::Bf16) => "bfloat16".into(),
        _ => "float32".into(),
    };
    let dense = dense_linears(pieces);
    if !dense.is_empty() {
        json["quantization_config"]["modules_to_not_convert"] =
            std::iter::once("lm_head".to_owned()).chain(dense).collect();
    }
    json
}

/// The modules of linears that are not ternary.
fn dense_linears(pieces: &[Piece<'_>]) -> Vec<String> {
    let is_dense_linear = |piece: &&Piece<'_>| {
        matches!(piece.role, Some(Role::Layer(_, part)) if Part::LINEARS.contains(&part))
            && matches!(piece.content, Content::Dense { .. })
    };
    let modules = pieces.iter().filter(is_dense_linear);
    modules.map(|piece| piece.name.trim_end_matches(".weight").to_owned()).collect()
}
