//! An inspection as text for people and as JSON for programs.

use super::{Inspection, Model};
use crate::units::{bytes, count};
use rotor::chat::{ChatError, ChatTemplate};
use rotor::formats::metadata::{Array, Value};
use rotor::formats::{SourceMetadata, TensorSummary};
use rotor::rope::RopeScaling;
use rotor::statistics::{TensorStatistics, TritStatistics};
use rotor::tokenizer::Tokenizer;
use serde_json::{Map, Value as Json, json};
use std::fmt::Write as _;

/// Elements of an array that are shown.
const SHOWN_ELEMENTS: usize = 8;

/// Lines of `label value`, and headings.
struct Page(String);

impl Page {
    fn line(&mut self, label: &str, value: impl std::fmt::Display) {
        // Writing to a string does not fail.
        let _ = writeln!(self.0, "  {label:<22}{value}");
    }

    fn heading(&mut self, text: &str) {
        let _ = writeln!(self.0, "\n{text}");
    }
}

/// The page for people; `every` tensor or one line per type. Of what does not run every tensor is shown: nothing else tells
/// what it is.
pub(super) fn text(inspection: &Inspection<'_>, every: bool) -> String {
    let mut page = Page(format!("{}: {}\n", inspection.path.display(), inspection.file.kind().name()));
    match &inspection.model {
        Ok(model) => {
            hyper_parameters(&mut page, model);
            memory(&mut page, model);
        }
        Err(obstacle) => page.heading(&format!("Does not run: {obstacle}")),
    }
    tokenizer(&mut page, inspection);
    match &inspection.model {
        Ok(model) if !every => tensors_by_type(&mut page, inspection, model),
        model => all_tensors(&mut page, inspection, model.as_ref().ok()),
    }
    metadata(&mut page, inspection);
    if !inspection.warnings.is_empty() {
        page.heading("Warnings");
        for warning in &inspection.warnings {
            let _ = writeln!(page.0, "  {warning}");
        }
    }
    page.0
}

fn hyper_parameters(page: &mut Page, model: &Model<'_>) {
    let config = model.config;
    page.heading("Model");
    if let Some(name) = &config.name {
        page.line("name", name);
    }
    page.line("architecture", config.architecture.name());
    page.line("layers", config.num_hidden_layers);
    page.line("hidden size", config.hidden_size);
    page.line("feed-forward size", format!("{}, {}", config.intermediate_size, config.hidden_act.name()));
    let (heads, kv_heads) = (config.num_attention_heads, config.num_key_value_heads);
    page.line("heads", format!("{heads} of {}, {kv_heads} for keys and values", config.head_dim));
    page.line("vocabulary", config.vocab_size);
    page.line("context", config.max_position_embeddings);
    page.line("RoPE base", format!("{}{}", config.rope_theta, scaling(&config.rope_scaling)));
    page.line("norm epsilon", format!("{:e}", config.rms_norm_eps));
    if let Some((activations, reason)) = model.activations {
        page.line("activations", format!("{}: {reason}", activations.name()));
    }
    if let Some(window) = config.sliding_window {
        let sliding = (0..config.num_hidden_layers).filter(|&layer| config.is_sliding(layer)).count();
        page.line("sliding window", format!("{window} tokens in {sliding} layers"));
    }
    for (label, scale) in [
        ("embedding scale", config.embedding_scale),
        ("residual scale", config.residual_scale),
        ("logits divided by", config.logit_scale),
    ] {
        if scale != 1.0 {
            page.line(label, scale);
        }
    }
}

/// How rotary positions are stretched, to stand behind their base.
fn scaling(scaling: &RopeScaling) -> String {
    match scaling {
        RopeScaling::Default => String::new(),
        RopeScaling::Linear { factor } | RopeScaling::Llama3 { factor, .. } | RopeScaling::Yarn { factor, .. } => {
            format!(", {} by {factor}", scaling.name())
        }
        RopeScaling::Alpha { alpha } => format!(", stretched by alpha {alpha}"),
        RopeScaling::LongRope { .. } | RopeScaling::Divisors(_) => format!(", {}", scaling.name()),
    }
}

fn memory(page: &mut Page, model: &Model<'_>) {
    let plan = model.memory;
    page.heading("Memory");
    page.line("linears, packed", bytes(plan.linears));
    page.line("embedding", bytes(plan.embedding));
    page.line("head", if plan.head > 0 { bytes(plan.head) } else { "the embedding serves as head".into() });
    if plan.sketch > 0 {
        page.line("sketch of the head", format!("{}, so that not all of it is read for a token", bytes(plan.sketch)));
    }
    let context = model.context;
    let per_token = bytes(model.kv_bytes_per_token);
    page.line("keys and values", format!("{per_token} a token, {} at {context} tokens (f16)", bytes(model.kv_bytes())));
    page.line("together", bytes(plan.weights().saturating_add(model.kv_bytes())));
}

fn tokenizer(page: &mut Page, inspection: &Inspection<'_>) {
    page.heading("Tokenizer");
    let Some(tokenizer) = &inspection.tokenizer else {
        page.line("none", "run, tokenize and perplexity need one");
        return;
    };
    page.line("tokens", tokenizer.len());
    let name = |id: u32| format!("{id} {}", tokenizer.token_text(id).unwrap_or_default());
    if let Some(bos) = tokenizer.bos() {
        let added = if tokenizer.adds_bos() { "" } else { ", not put in front of texts" };
        page.line("beginning", format!("{}{added}", name(bos)));
    }
    let ends: Vec<String> = tokenizer.end_of_generation().iter().map(|&id| name(id)).collect();
    page.line("ends", if ends.is_empty() { "none".into() } else { ends.join(", ") });
    page.line("chat template", chat_template(inspection));
}

/// Whether there is a chat template, and what is wrong with it.
fn chat_template(inspection: &Inspection<'_>) -> String {
    let template = inspection.file.chat_template().map_err(ChatError::from);
    let compiled = template.and_then(|template| match (&inspection.tokenizer, template) {
        (Some(tokenizer), template) => Ok(ChatTemplate::for_model(template.as_deref(), tokenizer)?.is_some()),
        (None, template) => Ok(template.is_some()),
    });
    match compiled {
        Ok(true) => "yes".into(),
        Ok(false) => "no".into(),
        Err(error) => format!("broken: {error}"),
    }
}

/// Types in the order of their first tensor.
fn tensors_by_type(page: &mut Page, inspection: &Inspection<'_>, model: &Model<'_>) {
    let mut types: Vec<(&str, u64, u64, u64)> = Vec::new();
    for tensor in &inspection.tensors {
        let index = types.iter().position(|entry| entry.0 == tensor.type_name).unwrap_or_else(|| {
            types.push((tensor.type_name, 0, 0, 0));
            types.len() - 1
        });
        types[index].1 += 1;
        types[index].2 += elements(tensor);
        types[index].3 += tensor.bytes.len() as u64;
    }
    page.heading(&format!("Tensors: {}", inspection.tensors.len()));
    for (name, tensors, numbers, size) in types {
        page.line(name, format!("{tensors:>6}  {:>9} elements  {:>9}", count(numbers), bytes(size)));
    }
    if let Some(trits) = &model.trits {
        trit_shares(page, trits, false);
    }
}

fn elements(tensor: &TensorSummary<'_>) -> u64 {
    tensor.shape.iter().fold(1, |product: u64, &dim| product.saturating_mul(dim as u64))
}

fn all_tensors(page: &mut Page, inspection: &Inspection<'_>, model: Option<&Model<'_>>) {
    page.heading(&format!("Tensors: {}", inspection.tensors.len()));
    let width = inspection.tensors.iter().map(|tensor| tensor.name.chars().count()).max().unwrap_or(0);
    for tensor in &inspection.tensors {
        let TensorSummary { name, shape, type_name, bytes: stored } = tensor;
        let (stored, shape) = (bytes(stored.len() as u64), format!("{shape:?}"));
        let memory = model.and_then(|model| model.memory_of.get(*name));
        let memory = memory.map(|&memory| format!("{} in memory", bytes(memory)));
        let line = format!("  {name:width$}  {type_name:>5}  {stored:>10}  {shape:14}  {}", memory.unwrap_or_default());
        let _ = writeln!(page.0, "{}", line.trim_end());
    }
    if let Some(trits) = model.and_then(|model| model.trits.as_ref()) {
        trit_shares(page, trits, true);
    }
}

fn trit_shares(page: &mut Page, tensors: &[TensorStatistics], every: bool) {
    let all = tensors.iter().map(|tensor| tensor.trits).fold(TritStatistics::default(), TritStatistics::join);
    page.heading(&format!("Ternary weights: {} in {} tensors", count(all.total()), tensors.len()));
    page.line("all", shares(&all));
    let width = tensors.iter().map(|tensor| tensor.name.chars().count()).max().unwrap_or(0);
    for TensorStatistics { name, trits, .. } in tensors.iter().filter(|_| every) {
        let _ = writeln!(page.0, "  {name:width$}  {}", shares(trits));
    }
}

/// The histogram of trits, what it says of a code for them, and the scales.
fn shares(trits: &TritStatistics) -> String {
    let share = |count: u64| count as f64 / trits.total().max(1) as f64 * 100.0;
    let TritStatistics { minus, zero, plus, scale_min, scale_max } = *trits;
    let scales = if scale_min == scale_max {
        format!("scale {scale_min}")
    } else {
        format!("scales {scale_min} to {scale_max}")
    };
    format!(
        "-1 {:.2} %, 0 {:.2} %, +1 {:.2} %, entropy {:.4} bits per weight, {scales}",
        share(minus),
        share(zero),
        share(plus),
        trits.entropy(),
    )
}

fn metadata(page: &mut Page, inspection: &Inspection<'_>) {
    match inspection.file.metadata() {
        SourceMetadata::Gguf(metadata) => {
            page.heading(&format!("Metadata: {} keys", metadata.iter().len()));
            for (key, value) in metadata.iter() {
                let _ = writeln!(page.0, "  {key} = {}", value.preview());
            }
        }
        SourceMetadata::HuggingFace(config) => {
            page.heading("config.json");
            for (key, value) in config {
                let _ = writeln!(page.0, "  {key} = {}", shortened(value));
            }
        }
    }
}

/// Arrays of JSON with their first elements only.
fn shortened(value: &Json) -> Json {
    match value {
        Json::Array(elements) if elements.len() > SHOWN_ELEMENTS => {
            json!({ "length": elements.len(), "first": &elements[..SHOWN_ELEMENTS] })
        }
        other => other.clone(),
    }
}

/// The object for programs.
pub(super) fn json(inspection: &Inspection<'_>) -> Json {
    let Inspection { file, model, .. } = inspection;
    let (obstacle, model) = (model.as_ref().err(), model.as_ref().ok());
    let tensor = |tensor: &TensorSummary<'_>| {
        let TensorSummary { name, shape, type_name, bytes } = tensor;
        let memory = model.and_then(|model| model.memory_of.get(*name));
        json!({ "name": name, "type": type_name, "shape": shape, "bytes": bytes.len(), "memory_bytes": memory })
    };
    let mut object = json!({
        "path": inspection.path.display().to_string(),
        "kind": file.kind().name(),
        "runs": model.is_some(),
        "obstacle": obstacle,
        "name": model.map(|model| &model.config.name),
        "architecture": model.map(|model| model.config.architecture.name()),
        "config": model.map(|model| model.config.to_json()),
        "tensors": inspection.tensors.iter().map(tensor).collect::<Vec<_>>(),
        "metadata": metadata_json(file.metadata()),
        "tokenizer": inspection.tokenizer.as_ref().map(tokenizer_json),
        "chat_template": !matches!(file.chat_template(), Ok(None)),
        "memory": model.map(memory_json),
        "warnings": inspection.warnings,
    });
    if let Some(trits) = model.and_then(|model| model.trits.as_ref()) {
        let all = trits.iter().map(|tensor| tensor.trits).fold(TritStatistics::default(), TritStatistics::join);
        object["trits"] = trits.iter().map(trits_json).collect();
        object["trits_total"] = counts_json(&all);
    }
    object
}

fn memory_json(model: &Model<'_>) -> Json {
    let memory = model.memory;
    json!({
        "linears_bytes": memory.linears,
        "embedding_bytes": memory.embedding,
        "head_bytes": memory.head,
        "sketch_bytes": memory.sketch,
        "weights_bytes": memory.weights(),
        "context": model.context,
        "kv_bytes_per_token": model.kv_bytes_per_token,
        "kv_bytes": model.kv_bytes(),
        "total_bytes": memory.weights().saturating_add(model.kv_bytes()),
    })
}

fn trits_json(tensor: &TensorStatistics) -> Json {
    let TensorStatistics { name, form, trits } = tensor;
    let mut json = json!({ "name": name, "type": form });
    if let (Some(json), Json::Object(mut counts)) = (json.as_object_mut(), counts_json(trits)) {
        json.append(&mut counts);
    }
    json
}

fn counts_json(trits: &TritStatistics) -> Json {
    let TritStatistics { minus, zero, plus, scale_min, scale_max } = trits;
    json!({
        "minus": minus, "zero": zero, "plus": plus,
        "sparsity": trits.sparsity(), "entropy_bits_per_weight": trits.entropy(),
        "scale_min": scale_min, "scale_max": scale_max,
    })
}

fn tokenizer_json(tokenizer: &Tokenizer) -> Json {
    json!({
        "tokens": tokenizer.len(),
        "bos": tokenizer.bos(),
        "eos": tokenizer.eos(),
        "adds_bos": tokenizer.adds_bos(),
        "end_of_generation": tokenizer.end_of_generation(),
    })
}

fn metadata_json(metadata: SourceMetadata<'_>) -> Json {
    let pairs: Map<String, Json> = match metadata {
        SourceMetadata::Gguf(metadata) => metadata.iter().map(|(key, value)| (key.into(), value_json(value))).collect(),
        SourceMetadata::HuggingFace(config) => {
            config.iter().map(|(key, value)| (key.clone(), shortened(value))).collect()
        }
    };
    pairs.into()
}

fn value_json(value: &Value) -> Json {
    match value {
        Value::U8(v) => json!(v),
        Value::I8(v) => json!(v),
        Value::U16(v) => json!(v),
        Value::I16(v) => json!(v),
        Value::U32(v) => json!(v),
        Value::I32(v) => json!(v),
        Value::U64(v) => json!(v),
        Value::I64(v) => json!(v),
        Value::F32(v) => json!(v),
        Value::F64(v) => json!(v),
        Value::Bool(v) => json!(v),
        Value::String(v) => json!(String::from_utf8_lossy(v)),
        Value::Array(v) => array_json(v),
    }
}

fn array_json(array: &Array) -> Json {
    let first: Vec<Json> =
        (0..array.len().min(SHOWN_ELEMENTS)).filter_map(|i| Some(value_json(&array.get(i)?))).collect();
    if array.len() > SHOWN_ELEMENTS { json!({ "length": array.len(), "first": first }) } else { first.into() }
}
