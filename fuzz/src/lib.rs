//! What the fuzzers call, one function for each parser of untrusted bytes.
//!
//! The fuzz targets are one line each, so that the test that replays the corpus (crates/rotor-engine/tests/corpus.rs) goes
//! through the same code on the stable toolchain. Bytes may be refused in any way an error allows; a panic, a hang or an
//! allocation without bounds is a bug, and so is a form that does not come back as it went in.

use rotor::DenseType;
use rotor::chat::{ChatTemplate, Conversation, Message, encode_chat};
use rotor::formats::{
    GgufVocabulary, HuggingFaceTokenizer, ModelFile, OpenOptions, Part, Role, RowOrder, Source, TokenizerSource, Weight,
};
use rotor::forms::{Encoder, FORMS, KernelConfig, Scales, TernaryForm, TernaryTensor, TlTile};
use rotor::forms::{absmean_scale, inner_scales};
use rotor::tokenizer::{SpecialTokens, Tokenizer, TokenizerDescription};
use rotor::write::vocabulary::gguf::to_gguf;
use rotor::write::vocabulary::hugging_face::to_hugging_face;
use rotor_kernels::{Isa, Kernels};
use serde_json::json;
use std::sync::OnceLock;

/// A fuzz target's name, which is its corpus's folder, and its entry.
pub type Target = (&'static str, fn(&[u8]));

/// Every fuzz target.
pub const TARGETS: [Target; 5] =
    [("gguf", gguf), ("safetensors", safetensors), ("hugging_face", hugging_face), ("forms", forms), ("chat", chat)];

/// A GGUF file: opened, and what opens is read, its vocabulary used. What does not run is shown.
pub fn gguf(data: &[u8]) {
    let Ok(file) = ModelFile::from_bytes(data.to_vec()) else { return };
    let source = match file.bind(&OpenOptions::default()) {
        Ok(source) => source,
        Err(unbound) => {
            let _ = unbound.file.tensors().map(|tensor| tensor.bytes.len()).sum::<usize>();
            if let Ok(Some(description)) = unbound.file.tokenizer_description() {
                let _ = Tokenizer::from_description(&description);
            }
            return;
        }
    };
    use_source(&source);
    let _ = source.vector(Role::OutputNorm);
    for part in Part::LINEARS {
        let Ok(linear) = source.linear(Role::Layer(0, part)) else { continue };
        if let Weight::Ternary(tensor) = linear.weight {
            let mut row = vec![0; tensor.cols];
            let _ = tensor.read_row(0, &mut row);
        }
    }
}

/// A safetensors file, and a Rotor file, whose weights are read where it is sound.
pub fn safetensors(data: &[u8]) {
    let _ = rotor::formats::safetensors_names(data);
    if let Ok(source) = Source::from_bytes(data.to_vec(), &OpenOptions::default()) {
        let _ = rotor::statistics::ternary(&source);
    }
}

/// The small files of a model folder, separated by bytes 0 (which JSON does not have): config.json, tokenizer.json,
/// tokenizer_config.json, generation_config.json, and a text to be encoded.
pub fn hugging_face(data: &[u8]) {
    let mut parts = data.split(|&byte| byte == 0);
    let [config, tokenizer, tokenizer_config, generation] = [(); 4].map(|()| parts.next().unwrap_or_default());
    let text = String::from_utf8_lossy(parts.next().unwrap_or_default());
    let files = [
        ("config.json", config),
        ("tokenizer.json", tokenizer),
        ("tokenizer_config.json", tokenizer_config),
        ("generation_config.json", generation),
    ];
    if let Ok(source) = Source::from_bytes(folder(&files), &OpenOptions::default()) {
        use_source(&source);
    }
    // Once more without the configuration, which is seldom sound.
    let files = HuggingFaceTokenizer {
        tokenizer: tokenizer.to_vec(),
        tokenizer_config: (!tokenizer_config.is_empty()).then(|| tokenizer_config.to_vec()),
        ..HuggingFaceTokenizer::default()
    };
    use_tokenizer(&TokenizerSource::HuggingFace(Box::new(files)), 512, &text);
}

/// A folder's small files beside the tensors of a model with hidden size 8, as a Rotor file: the one kind of file that
/// holds a folder in memory.
fn folder(files: &[(&str, &[u8])]) -> Vec<u8> {
    use ::safetensors::tensor::{Dtype, TensorView};
    const HIDDEN: usize = 8;
    let layer = |name: &str| format!("model.layers.0.{name}.weight");
    let mut shapes = vec![("model.embed_tokens.weight".to_owned(), vec![4, HIDDEN])];
    shapes.push(("model.norm.weight".to_owned(), vec![HIDDEN]));
    for norm in ["input_layernorm", "post_attention_layernorm"] {
        shapes.push((layer(norm), vec![HIDDEN]));
    }
    for part in ["q_proj", "k_proj", "v_proj", "o_proj"] {
        shapes.push((layer(&format!("self_attn.{part}")), vec![HIDDEN, HIDDEN]));
    }
    for part in ["gate_proj", "up_proj", "down_proj"] {
        shapes.push((layer(&format!("mlp.{part}")), vec![HIDDEN, HIDDEN]));
    }
    let present = files.iter().filter(|(_, bytes)| !bytes.is_empty());
    let texts: Option<serde_json::Map<String, serde_json::Value>> =
        present.map(|(name, bytes)| Some(((*name).to_owned(), std::str::from_utf8(bytes).ok()?.into()))).collect();
    let texts = serde_json::Value::from(texts.unwrap_or_default()).to_string();
    let metadata = [("rotor.version".to_owned(), "1".to_owned()), ("rotor.huggingface".to_owned(), texts)];
    let zeros = [0; 4 * HIDDEN * HIDDEN];
    let views = shapes.iter().map(|(name, shape)| {
        let bytes = &zeros[..4 * shape.iter().product::<usize>()];
        (name, TensorView::new(Dtype::F32, shape.clone(), bytes).expect("as many bytes as the shape has"))
    });
    ::safetensors::serialize(views, Some(metadata.into_iter().collect())).expect("sound tensors")
}

/// What runs of a source's side matter: its tokenizer, its template, its linears' trits.
fn use_source(source: &Source) {
    if let Ok(Some(template)) = source.chat_template() {
        let _ = ChatTemplate::new(&template, Some("<s>"), None);
    }
    if let Ok(Some(tokenizer)) = source.tokenizer() {
        use_tokenizer(&tokenizer, source.config().vocab_size, "A text, 2 numbers: 345.\n");
    }
}

fn use_tokenizer(source: &TokenizerSource, vocab_size: usize, text: &str) {
    let Ok(description) = TokenizerDescription::read(source, vocab_size) else { return };
    let Ok(tokenizer) = Tokenizer::from_description(&description) else { return };
    for special in [SpecialTokens::AsText, SpecialTokens::Parse] {
        let Ok(ids) = tokenizer.encode_with_bos(text, special) else { continue };
        assert!(ids.iter().all(|&id| (id as usize) < vocab_size), "an id beyond the embedding: {ids:?}");
        let _ = tokenizer.decode(&ids);
    }
    let every: Vec<u32> = (0..vocab_size.min(600)).map(|id| id as u32).collect();
    let _ = tokenizer.decode(&every);
    write_tokenizer(&description, vocab_size, text);
}

/// What the writers do not refuse is read again as the same tokenizer.
fn write_tokenizer(description: &TokenizerDescription, vocab_size: usize, text: &str) {
    let folder = to_hugging_face(description, Some("{{ messages }}")).expect("texts and numbers are JSON");
    if let Ok((files, _)) = folder.accept("a folder", false) {
        let files = HuggingFaceTokenizer {
            tokenizer: files.tokenizer,
            tokenizer_config: Some(files.tokenizer_config),
            eos_token_ids: description.ends(),
            bos_token_id: description.bos(),
            ..HuggingFaceTokenizer::default()
        };
        is_read_again(description, &TokenizerSource::HuggingFace(Box::new(files)), vocab_size, text);
    }
    if let Ok((keys, _)) = to_gguf(description).accept("a GGUF", false) {
        is_read_again(description, &TokenizerSource::Gguf(Box::new(keys)), vocab_size, text);
    }
}

fn is_read_again(description: &TokenizerDescription, written: &TokenizerSource, vocab_size: usize, text: &str) {
    let again = TokenizerDescription::read(written, vocab_size).expect("what was written is read");
    assert_eq!(description.differences(&again), [], "another tokenizer");
    let [first, second] =
        [description, &again].map(|each| Tokenizer::from_description(each).expect("it was built before"));
    for special in [SpecialTokens::AsText, SpecialTokens::Parse] {
        let Ok(ids) = first.encode_with_bos(text, special) else { continue };
        let again = second.encode_with_bos(text, special).expect("the first takes the text");
        assert_eq!(ids, again, "other ids");
        assert_eq!(first.decode(&ids), second.decode(&ids), "another text");
    }
}

/// A tag byte, a byte of rows, a byte of columns, and a tensor's bytes: every ternary form, every dense type, and the
/// configuration that TL1 and TL2 are read with.
pub fn forms(data: &[u8]) {
    let &[tag, rows, cols, ref bytes @ ..] = data else { return };
    let (rows, cols) = (usize::from(rows % 64) + 1, usize::from(cols) + 1);
    let known = FORMS.iter().filter_map(|info| info.form);
    let masters = [DenseType::F32, DenseType::F16, DenseType::Bf16].map(TernaryForm::Master);
    let tiles = [TernaryForm::Tl1(tile(bytes)), TernaryForm::Tl2(tile(bytes))];
    let ternary: Vec<_> = known.chain(masters).chain(tiles).collect();
    match usize::from(tag).checked_sub(ternary.len()) {
        None => ternary_form(ternary[usize::from(tag)], rows, cols, bytes),
        Some(index) => match DenseType::ALL.get(index) {
            Some(&dtype) => dense_type(dtype, cols, bytes),
            None => kernel_config(&String::from_utf8_lossy(bytes)),
        },
    }
}

/// A tile whose sizes come from the first bytes.
fn tile(bytes: &[u8]) -> TlTile {
    let size = |at: usize| usize::from(bytes.get(at).copied().unwrap_or(32));
    TlTile { rows: size(0), cols: size(1), step_rows: size(2) }
}

fn ternary_form(form: TernaryForm, rows: usize, cols: usize, bytes: &[u8]) {
    // The narrowest and the widest step that any form's blocks need, so that small inputs fill whole tensors.
    for cols in [cols, 64 * cols] {
        let Some(len) = form.packed_len(rows, cols).filter(|&len| len <= 1 << 16) else { continue };
        // Short data stays short: that is for the decoder to find.
        let bytes = &bytes[..bytes.len().min(2 * len)];
        let (first, second) =
            if form == TernaryForm::Rotor { bytes.split_at(bytes.len() / 2) } else { (bytes, &[][..]) };
        let tensor = tensor(form, (rows, cols), first, second);
        let _ = match form {
            TernaryForm::Master(dtype) => absmean_scale("t", dtype, &bytes[..bytes.len() / 4 * 4]).map(Scales::Tensor),
            _ => inner_scales(form, "t", (rows, cols), bytes),
        };
        let mut trits = vec![0; rows * cols];
        let mut decoded = trits.chunks_exact_mut(cols).enumerate().map(|(row, out)| tensor.read_stored_row(row, out));
        let sound = decoded.by_ref().collect::<Vec<_>>().iter().all(Result::is_ok);
        drop(decoded);
        check_planes(&tensor, &trits, sound);
        if sound {
            assert!(trits.iter().all(|trit| (-1..=1).contains(trit)), "{}: no trits", form.name());
            check_encoder(form, (rows, cols), &trits);
        }
    }
}

fn tensor<'a>(form: TernaryForm, (rows, cols): (usize, usize), bytes: &'a [u8], bit1: &'a [u8]) -> TernaryTensor<'a> {
    let (scales, row_order) = (Scales::Tensor(1.0), RowOrder::AsStored);
    TernaryTensor { name: "t", rows, cols, form, bytes, bit1, scales, row_order }
}

/// Rows as planes are the rows as trits.
fn check_planes(tensor: &TernaryTensor<'_>, trits: &[i8], sound: bool) {
    let width = rotor::planes::plane_bytes(tensor.cols);
    let (mut bit0, mut bit1, mut back) = (vec![0; width], vec![0; width], vec![0; tensor.cols]);
    for (row, trits) in trits.chunks_exact(tensor.cols).enumerate() {
        let read = tensor.read_stored_planes(row, &mut bit0, &mut bit1);
        assert!(read.is_ok() || !sound, "{}: row {row} is read as trits only", tensor.form.name());
        if sound {
            let unpacked = rotor::planes::planes_to_trits((1, tensor.cols), &bit0, &bit1, &mut back);
            assert!(unpacked.is_ok() && back == trits, "{}: row {row} differs as planes", tensor.form.name());
        }
    }
}

/// What the encoder writes is read as what it was given.
fn check_encoder(form: TernaryForm, (rows, cols): (usize, usize), trits: &[i8]) {
    let Ok(encoder) = Encoder::new("t", form, rows, cols, Scales::Tensor(1.0)) else { return };
    let mut bytes = vec![0; encoder.strips() * encoder.strip_bytes()];
    for (strip, out) in bytes.chunks_exact_mut(encoder.strip_bytes()).enumerate() {
        let mut read = |row: usize, out: &mut [i8]| {
            out.copy_from_slice(&trits[row * cols..][..cols]);
            Ok(())
        };
        encoder.encode_strip(strip, &mut read, out).expect("trits that the form itself has held");
    }
    let (first, second) = bytes.split_at(bytes.len() / encoder.tensors());
    let (tensor, mut back) = (tensor(form, (rows, cols), first, second), vec![0; cols]);
    for (row, trits) in trits.chunks_exact(cols).enumerate() {
        tensor.read_stored_row(row, &mut back).expect("what the encoder wrote");
        assert_eq!(back, trits, "{}: row {row} does not come back", form.name());
    }
}

fn dense_type(dtype: DenseType, blocks: usize, bytes: &[u8]) {
    let cols = blocks * dtype.block_len();
    let Some(row) = dtype.row_bytes(cols).and_then(|len| bytes.get(..len)) else { return };
    let (mut plain, mut vector) = (vec![0.0; cols], vec![0.0; cols]);
    dtype.decode(row, &mut plain);
    for kernels in Isa::available().filter_map(Kernels::for_isa) {
        kernels.decode_row(dtype, row, &mut vector);
        // Which of two NaNs a sum is depends on the order of its operands, and nobody asks.
        let same = |(a, b): (&f32, &f32)| a.to_bits() == b.to_bits() || (a.is_nan() && b.is_nan());
        let same = plain.iter().zip(&vector).all(same);
        assert!(same, "{} on {} differs", dtype.name(), kernels.isa());
    }
}

fn kernel_config(text: &str) {
    if let Ok(config) = KernelConfig::parse(text) {
        let _ = config.tile(256, 256);
    }
}

/// A template, then the texts of messages, separated by bytes 0: compiled, rendered, and encoded with a tokenizer that
/// has control tokens. Texts go in as contents, as reasoning, as the JSON of a call's arguments and of a tool; and a last
/// message is continued.
pub fn chat(data: &[u8]) {
    let mut parts = data.split(|&byte| byte == 0).map(|part| String::from_utf8_lossy(part));
    let source = parts.next().unwrap_or_default();
    let tokenizer = small_tokenizer();
    let Ok(Some(template)) = ChatTemplate::for_model(Some(&source), tokenizer) else { return };
    let roles = ["system", "user", "assistant"].into_iter().cycle();
    let messages: Vec<_> = roles.zip(parts.take(8)).map(|(role, text)| Message::new(role, text)).collect();
    let mut conversation = Conversation::from(messages.as_slice());
    let _ = template.spelled_tokens(tokenizer);
    let _ = encode_chat(tokenizer, &template, &conversation);
    conversation.add_generation_prompt = false;
    conversation.continue_final_message = true;
    let _ = encode_chat(tokenizer, &template, &conversation);
    conversation.continue_final_message = false;
    if let Some(text) = messages.first().map(|message| message.content.as_str()) {
        let call = json!({"type": "function", "function": {"name": "f", "arguments": text}});
        let part = json!([{"type": "text", "text": text}]);
        conversation
            .messages
            .push(json!({"role": "assistant", "content": part, "reasoning": text, "tool_calls": [call]}));
        conversation.messages.push(json!({"role": "tool", "tool_call_id": text, "content": null}));
        conversation.tools = serde_json::from_str(text).unwrap_or_else(|_| vec![json!({"description": text})]);
        conversation.template_arguments.insert("enable_thinking".into(), true.into());
        let _ = encode_chat(tokenizer, &template, &conversation);
    }
}

/// All bytes and two control tokens.
fn small_tokenizer() -> &'static Tokenizer {
    static TOKENIZER: OnceLock<Tokenizer> = OnceLock::new();
    TOKENIZER.get_or_init(|| {
        let mut tokens: Vec<Vec<u8>> = (33..=126).map(|byte| vec![byte]).collect();
        tokens.extend(["Ġ", "Ċ"].map(|text| text.as_bytes().to_vec()));
        let mut token_types = vec![1; tokens.len()];
        tokens.extend(["<s>", "<|eot_id|>"].map(|text| text.as_bytes().to_vec()));
        token_types.extend([3, 3]);
        let (model, pre) = ("gpt2".to_owned(), Some("llama-bpe".to_owned()));
        let (bos, eos) = (Some(96), Some(97));
        let vocabulary = GgufVocabulary { model, pre, tokens, token_types, bos, eos, ..GgufVocabulary::default() };
        Tokenizer::new(&TokenizerSource::Gguf(Box::new(vocabulary)), 98).expect("a sound vocabulary")
    })
}
