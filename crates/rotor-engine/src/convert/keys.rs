//! The keys of a GGUF: passed through from one, or made from the files of a Hugging Face folder.

use super::card;
use super::options::{Container, ConvertOptions, Target};
use super::plan::Planned;
use crate::architectures::ArchitectureInfo;
use crate::error::FormatError;
use crate::formats::metadata::{Metadata, Value};
use crate::formats::metadata_json;
use crate::formats::{GgufVocabulary, I2S_LAYOUT_KEY, Source, SourceMetadata, keys, tokenizer_key};
use crate::forms::{I2sLayout, Scales, TernaryForm, exact_scales_key};
use crate::tokenizer::{Tokenizer, TokenizerDescription};
use crate::write::gguf::GgufHeader;
use crate::write::put_config_keys;
use crate::write::vocabulary::gguf::to_gguf;
use crate::write::vocabulary::put_gguf_keys;
use std::collections::BTreeMap;
use std::path::Path;

/// `general.file_type` of a file whose linears have the form. Two projects gave the number 40 to two forms.
fn file_type(form: TernaryForm) -> u32 {
    match form {
        TernaryForm::Tq1_0 => 36,
        TernaryForm::Tq2_0 => 37,
        TernaryForm::Q2_0 => 41,
        // I2_S and Q1_0; nothing else is written to a GGUF.
        _ => 40,
    }
}

/// Adds the exact scales of tensors whose form rounds them.
pub(super) fn put_exact_scales(header: &mut GgufHeader, planned: &[Planned<'_>]) {
    for tensor in planned {
        let Some(trits) = tensor.ternary().filter(|trits| *trits.encoder.scales() != trits.scales) else { continue };
        let key = exact_scales_key(&tensor.name);
        match &trits.scales {
            Scales::Tensor(scale) => header.f32(&key, *scale),
            Scales::Rows(values) | Scales::Groups { values, .. } => header.f32s(&key, values),
        }
    }
}

/// Whether a key is about the file it is in and not about the model.
pub(super) fn is_of_the_file(key: &str) -> bool {
    key.starts_with("split.") || key == I2S_LAYOUT_KEY || key.starts_with(exact_scales_key("").as_str())
}

/// A header with the source's keys and no tensor yet; notes say what could not go over.
pub(super) fn header(
    source: &Source,
    options: &ConvertOptions,
    notes: &mut Vec<String>,
) -> Result<GgufHeader, FormatError> {
    let target = options.target;
    let mut header = GgufHeader::new();
    match source.metadata() {
        SourceMetadata::Gguf(metadata) => pass_through(&mut header, metadata, target.form()),
        SourceMetadata::HuggingFace(_) => made(&mut header, source, options, notes)?,
    }
    // Without a word a reader has to look at the weights, and takes the usual layout where they do not tell.
    if target.form() == TernaryForm::I2S(I2sLayout::Blocks64) {
        header.string(I2S_LAYOUT_KEY, "64");
    }
    Ok(header)
}

/// Every key as it is, but for those about the file itself.
fn pass_through(header: &mut GgufHeader, metadata: &Metadata, form: TernaryForm) {
    for (key, value) in metadata.iter() {
        match (key, value) {
            ("general.file_type", _) => header.u32(key, file_type(form)),
            ("general.alignment", &Value::U32(alignment)) => header.alignment(alignment),
            // The parts of a split become one file, and scales are rounded anew.
            (key, _) if is_of_the_file(key) => {}
            (key, value) => header.value(key, value),
        }
    }
}

fn made(
    header: &mut GgufHeader,
    source: &Source,
    options: &ConvertOptions,
    notes: &mut Vec<String>,
) -> Result<(), FormatError> {
    let config = source.config();
    let vocabulary = vocabulary(source, options.lossy_tokenizer, notes)?;
    let architecture = config.architecture.info().gguf_name(config.hidden_act);
    header.string("general.architecture", architecture);
    general(header, source)?;
    header.u32("general.file_type", file_type(options.target.form()));
    header.u32("general.quantization_version", 2);
    put_config_keys(header, architecture, config, vocabulary.as_ref().map(|vocabulary| vocabulary.model.as_str()));
    if let Some(vocabulary) = vocabulary {
        put_gguf_keys(header, &vocabulary, chat_template(source, notes).as_deref());
    }
    Ok(())
}

/// The chat template; one that cannot be read is left out and listed.
pub(super) fn chat_template(source: &Source, notes: &mut Vec<String>) -> Option<String> {
    source.chat_template().unwrap_or_else(|error| {
        notes.push(format!("the chat template is left out: {error}"));
        None
    })
}

/// Name, licence and the like: as a GGUF had them from which the folder was made, or as its model card says.
fn general(header: &mut GgufHeader, source: &Source) -> Result<(), FormatError> {
    if let Some(kept) = kept_general(source)? {
        kept.iter().for_each(|(key, value)| header.value(key, value));
        return Ok(());
    }
    let card = source.side_file("README.md")?.unwrap_or_default();
    let card = String::from_utf8_lossy(&card);
    if !card::has_name(&card) {
        let folder = source.folder().and_then(Path::file_name).map(|name| name.to_string_lossy().into_owned());
        if let Some(name) = source.config().name.clone().or(folder) {
            header.string("general.name", &name);
        }
    }
    card::put(header, &card);
    Ok(())
}

/// Where a folder keeps the keys of the GGUF it was made from for which its own files have no place.
pub(super) const GENERAL: &str = "rotor.general";

/// The keys that were kept there, where the folder was made from a GGUF.
fn kept_general(source: &Source) -> Result<Option<Metadata>, FormatError> {
    let texts = source.safetensors_metadata();
    let Some(text) = texts.get(GENERAL) else { return Ok(None) };
    let pairs = serde_json::from_str(text).map_err(|error| FormatError::invalid(GENERAL, "a JSON object", error))?;
    // Anybody may have written it: a key that is made here must not be there too.
    let config = source.config();
    let info = config.architecture.info();
    let kept = metadata_json::from_json(pairs)?;
    Ok(Some(without_place(&kept, info.gguf_name(config.hidden_act), info)))
}

/// The texts of a safetensors file that go into the next one: all but those that a Rotor file makes anew.
pub(super) fn own_texts(texts: &BTreeMap<String, String>) -> impl Iterator<Item = (&str, &str)> {
    let is_own = |key: &str| key == GENERAL || !key.starts_with("rotor.");
    texts.iter().map(|(key, text)| (key.as_str(), text.as_str())).filter(move |(key, _)| is_own(key))
}

/// The keys for which a folder has no place: names and licences, and whatever this program does not understand. `architecture`
/// is the name below which the hyper-parameters are.
pub(super) fn without_place(metadata: &Metadata, architecture: &str, info: &ArchitectureInfo) -> Metadata {
    const OF_THE_FILE: [&str; 4] =
        ["general.architecture", "general.file_type", "general.quantization_version", "general.alignment"];
    let is_expressed = |key: &str| {
        is_of_the_file(key)
            || OF_THE_FILE.contains(&key)
            || ["rotor.", "tokenizer."].iter().any(|prefix| key.starts_with(prefix))
            || keys::is_read_from_gguf(key, architecture, info)
    };
    let mut kept = Metadata::default();
    for (key, value) in metadata.iter().filter(|(key, _)| !is_expressed(key)) {
        kept.set(key, value.clone());
    }
    kept
}

/// What does not go over from `source` to a file of another kind, in sentences: keys that are not understood and have no place
/// there, files of a folder that are not a part of the model.
pub(super) fn left_behind(source: &Source, target: Target) -> Vec<String> {
    let info = source.config().architecture.info();
    let (mut names, mut files) = (Vec::new(), Vec::new());
    match source.metadata() {
        SourceMetadata::Gguf(metadata) if target.container() == Container::Folder => {
            names.extend(metadata.iter().map(|(key, _)| key).filter(|key| tokenizer_key::is_unknown(key)));
        }
        SourceMetadata::Gguf(_) => {}
        SourceMetadata::HuggingFace(config) => {
            if target.is_gguf() {
                names.extend(config.keys().map(String::as_str).filter(|key| !keys::is_understood_field(key, info)));
            }
            files = source.other_files();
        }
    }
    let sentence = |what: &str, names: Vec<String>| {
        (!names.is_empty()).then(|| format!("{what} that stay behind: {}", names.join(", ")))
    };
    let names = names.into_iter().map(str::to_owned).collect();
    sentence("keys without a place in the output", names).into_iter().chain(sentence("other files", files)).collect()
}

/// The vocabulary as GGUF keys hold it. One that rotor cannot use is left out: the model runs without it, on ids.
fn vocabulary(source: &Source, lossy: bool, notes: &mut Vec<String>) -> Result<Option<GgufVocabulary>, FormatError> {
    let Some(tokenizer) = usable_tokenizer(source, notes) else { return Ok(None) };
    let (vocabulary, left_out) = to_gguf(&tokenizer).accept("a GGUF", lossy)?;
    notes.extend(left_out);
    Ok(Some(vocabulary))
}

/// The source's tokenizer, or `None` and a note about why the output has none.
pub(super) fn usable_tokenizer(source: &Source, notes: &mut Vec<String>) -> Option<TokenizerDescription> {
    match source.tokenizer_description() {
        Ok(Some(tokenizer)) => match Tokenizer::from_description(&tokenizer) {
            Ok(_) => Some(tokenizer),
            Err(why) => left_out(notes, &why),
        },
        Ok(None) => {
            notes.push("the source has no tokenizer, and so the output has none".into());
            None
        }
        Err(why) => left_out(notes, &why),
    }
}

fn left_out<T>(notes: &mut Vec<String>, why: &dyn std::fmt::Display) -> Option<T> {
    notes.push(format!("the tokenizer is left out, since it cannot be used: {why}"));
    None
}
