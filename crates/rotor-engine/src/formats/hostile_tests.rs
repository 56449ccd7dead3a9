//! Files made to break a reader. Each test is named after a way in which some reader was broken, and the property
//! tests change sound files by the thousand: an error is right, a wrong model would be a pity, a panic is a bug.

use super::testing::{TestGguf, any_trit, array, f32s, i2s, string, tiny_bitnet, tiny_llama};
use super::*;
use crate::FormatError;
use crate::forms::I2sLayout;
use proptest::prelude::*;
use rotor_kernels::DenseType;

fn open(bytes: Vec<u8>) -> Result<Source, FormatError> {
    Source::from_bytes(bytes, &OpenOptions::default())
}

/// Asserts that the file is refused with a message that holds `message`.
#[track_caller]
fn refused(file: &TestGguf, message: &str) {
    refused_bytes(file.build(), message);
}

#[track_caller]
fn refused_bytes(bytes: Vec<u8>, message: &str) {
    match open(bytes) {
        Ok(_) => panic!("accepted what should fail with {message:?}"),
        Err(error) => assert!(error.to_string().contains(message), "{error} does not contain {message:?}"),
    }
}

const Q: &str = "blk.0.attn_q.weight";

#[test]
fn counts_that_overflow_cve_2024_21802_and_21825_and_25664() {
    for count in [u64::MAX, 1 << 61, (1 << 61) - 1, 1 << 32, 100_000] {
        refused(&TestGguf { tensor_count: Some(count), ..tiny_bitnet() }, "tensor count: expected at most");
        refused(&TestGguf { pair_count: Some(count), ..tiny_bitnet() }, "metadata count: expected at most");
    }
    // A count that the file could hold, but does not.
    refused(&TestGguf { tensor_count: Some(40), ..tiny_bitnet() }, "tensor");
    refused(&TestGguf { pair_count: Some(40), ..tiny_bitnet() }, "metadata key");
}

#[test]
fn string_and_array_lengths_that_overflow_cve_2024_21836_and_23496_and_25665() {
    for len in [u64::MAX, u64::MAX - 7, 1 << 61, 1 << 31] {
        let text = len.to_le_bytes().to_vec();
        refused(&tiny_bitnet().raw("general.name", 8, text), "value of metadata key general.name is cut short");
        for element in [0u32, 6, 8, 12] {
            let claimed = [element.to_le_bytes().to_vec(), len.to_le_bytes().to_vec()].concat();
            refused(&tiny_bitnet().raw("x", 9, claimed), "metadata key x");
        }
    }
    let inner = [8u32.to_le_bytes().to_vec(), 1u64.to_le_bytes().to_vec(), u64::MAX.to_le_bytes().to_vec()].concat();
    refused(&tiny_bitnet().raw("x", 9, inner), "string 0 of metadata key x is cut short");
}

#[test]
fn dimension_counts_out_of_range_cve_2024_23605_and_25666() {
    for count in [0usize, 5, 100] {
        refused(&tiny_bitnet().edit(Q, |t| t.dims = vec![1; count]), "number of dimensions of tensor");
    }
    let mut bytes = TestGguf::new().tensor("a", &[1], 24, vec![0]).build();
    bytes[24 + 8 + 1..24 + 8 + 1 + 4].copy_from_slice(&u32::MAX.to_le_bytes());
    refused_bytes(bytes, "expected 1 to 4, found 4294967295");
}

#[test]
fn dimensions_whose_product_overflows_cve_2026_33298() {
    let cases: [&[u64]; 6] = [
        &[0, 16],
        &[1 << 32, 1 << 32],
        &[u64::MAX],
        &[u64::MAX, u64::MAX, u64::MAX, u64::MAX],
        &[1 << 63, 2],
        &[1 << 63],
    ];
    for dims in cases {
        refused(&tiny_bitnet().edit(Q, |t| t.dims = dims.into()), "expected 1 to 2^63-1 elements");
    }
    for type_id in [0, 12, 28, 36] {
        let file = tiny_bitnet().edit(Q, |t| (t.dims, t.type_id) = (vec![1 << 62], type_id));
        refused(&file, Q);
    }
}

#[test]
fn sizes_whose_sum_overflows_cve_2025_53630() {
    // Two tensors of 2^63 - 64 bytes each: their padded sum wraps to nearly nothing. Of 2^61 bytes, none wraps.
    let two = |bytes| TestGguf::new().tensor("a", &[bytes], 24, vec![0; 32]).tensor("b", &[bytes], 24, vec![0; 32]);
    refused(
        &two(0x7fff_ffff_ffff_ffc0),
        "data of tensor \"a\" is cut short: needs 9223372036854775744 bytes, found 64",
    );
    refused(&two(1 << 61), "data of tensor \"b\": expected bytes behind those of \"a\"");
}

#[test]
fn tensor_counts_times_their_overhead_cve_2026_27940() {
    for count in [u64::MAX / 33, u64::MAX / 33 + 1, u64::MAX / 64 + 1] {
        refused(&TestGguf { tensor_count: Some(count), ..tiny_bitnet() }, "tensor count: expected at most");
    }
}

#[test]
fn padding_that_wraps_to_zero_llama_cpp_24759() {
    for size in [u64::MAX - 3, u64::MAX - 31, i64::MAX as u64] {
        refused(&tiny_bitnet().edit(Q, |t| (t.dims, t.type_id) = (vec![size], 24)), Q);
        refused(&tiny_bitnet().edit(Q, |t| t.offset = Some(size)), Q);
    }
    for offset in [u64::MAX - 31, 1 << 63, 1 << 40] {
        refused(&tiny_bitnet().edit(Q, |t| t.offset = Some(offset)), "is cut short");
    }
}

#[test]
fn alignments_that_are_none_llama_cpp_26318_and_24997_and_cve_2025_0317() {
    for bad in [0, 3, 13, 1 << 31] {
        refused(
            &tiny_bitnet().u32("general.alignment", bad),
            "metadata key general.alignment: expected a power of two",
        );
    }
    refused(&tiny_bitnet().raw("general.alignment", 5, vec![32, 0, 0, 0]), "expected a value of type u32");
}

#[test]
fn hyper_parameters_that_are_trusted_llama_cpp_25821_and_26051() {
    let cases = [
        ("block_count", 0, "number of layers: expected 1 to 1024, found 0"),
        ("block_count", 513, "tensor \"blk.1.attn_norm.weight\" is missing"),
        ("block_count", u32::MAX, "number of layers: expected 1 to 1024"),
        ("attention.head_count", 0, "expected a multiple of the 0 heads"),
        ("attention.head_count", 3, "expected a multiple of the 3 heads"),
        ("attention.head_count", 16, "rope.dimension_count: expected an even number of up to"),
        ("attention.head_count_kv", 0, "number of key-value heads: expected 1 to 2"),
        ("attention.head_count_kv", u32::MAX, "number of key-value heads: expected 1 to 2"),
        ("attention.key_length", 7, "rope.dimension_count: expected an even number of up to"),
        (
            "rope.dimension_count",
            16,
            "rope.dimension_count: expected an even number of up to 8, the head size, found 16",
        ),
        ("embedding_length", 0, "rope.dimension_count: expected an even number of up to 0"),
        ("embedding_length", u32::MAX, "expected a multiple of the 2 heads"),
        ("embedding_length", 1 << 31, "hidden size: expected 1 to"),
        ("feed_forward_length", 0, "feed-forward width: expected 1 to"),
        ("feed_forward_length", 33, "expected [33], found [32]"),
        ("context_length", 0, "context length: expected 1 to"),
        ("context_length", u32::MAX, "context length: expected 1 to"),
        ("vocab_size", 9, "expected 8, the rows of token_embd.weight, found 9"),
    ];
    for (key, value, message) in cases {
        refused(&tiny_bitnet().u32(&format!("bitnet-b1.58.{key}"), value), message);
    }
    let odd = tiny_bitnet().u32("bitnet-b1.58.attention.key_length", 7).without("bitnet-b1.58.rope.dimension_count");
    refused(&odd, "head size: expected an even number");
    for bad in [f32::NAN, f32::INFINITY, -1.0, 2.0] {
        let message = if bad.is_finite() { "RMSNorm epsilon" } else { "expected a finite number" };
        refused(&tiny_bitnet().f32("bitnet-b1.58.attention.layer_norm_rms_epsilon", bad), message);
    }
    for bad in [0.0, -1.0] {
        refused(&tiny_bitnet().f32("bitnet-b1.58.rope.freq_base", bad), "RoPE base: expected a positive number");
    }
}

#[test]
fn token_texts_of_any_kind_cve_2025_49847() {
    let long = vec![b'x'; 1 << 20];
    let texts: Vec<&[u8]> = vec![b"", b"\0", b"\xff\xfe", &long, b"a", b"b", b"c", b"d"];
    let source = open(tiny_bitnet().strings("tokenizer.ggml.tokens", &texts).build()).unwrap();
    let Ok(Some(TokenizerSource::Gguf(vocabulary))) = source.tokenizer() else { panic!("no vocabulary") };
    assert_eq!(vocabulary.tokens, texts);
    let claimed =
        [8u32.to_le_bytes().to_vec(), 8u64.to_le_bytes().to_vec(), (1u64 << 31).to_le_bytes().to_vec()].concat();
    refused(
        &tiny_bitnet().raw("tokenizer.ggml.tokens", 9, claimed),
        "string 0 of metadata key tokenizer.ggml.tokens is cut",
    );
}

#[test]
fn byte_tokens_that_are_none_llama_cpp_25969() {
    let mut types = vec![1i32.to_le_bytes().to_vec(); 8];
    types[2] = 6i32.to_le_bytes().to_vec();
    let with = |text: &[u8]| {
        let tokens: Vec<&[u8]> = vec![b"a", b"b", text, b"d", b"e", b"f", b"g", b"h"];
        tiny_bitnet().strings("tokenizer.ggml.tokens", &tokens).raw("tokenizer.ggml.token_type", 9, array(5, &types))
    };
    for bad in [&b"<0x-1>"[..], b"<0xZZ>", b"<0x1FF>", b"<0x>", b"<0x", b"", b"x", b"<0x+1>"] {
        let what = "tokenizer.ggml.tokens[2]: expected a byte, <0x00> to <0xFF>";
        assert!(no_text(&with(bad)).contains(what), "{}", no_text(&with(bad)));
    }
    assert!(open(with(b"<0xfF>").build()).unwrap().tokenizer_description().is_ok());
}

/// Why the tokenizer of a file that opens cannot be used.
fn no_text(file: &TestGguf) -> String {
    match open(file.build()).unwrap().tokenizer_description() {
        Ok(found) => format!("no error, but {found:?}"),
        Err(error) => error.to_string(),
    }
}

#[test]
fn vocabulary_arrays_out_of_step_llama_cpp_27226() {
    let refused = |file: &TestGguf, expected: &str| assert!(no_text(file).contains(expected), "{}", no_text(file));
    refused(
        &tiny_bitnet().strings("tokenizer.ggml.tokens", &[&b"a"[..]; 9]),
        "tokenizer.ggml.token_type: expected 9 entries, one for each token, found 8",
    );
    let nine = vec![1i32.to_le_bytes().to_vec(); 9];
    let length = ": expected 8 entries, one for each token, found";
    let types = tiny_bitnet().raw("tokenizer.ggml.token_type", 9, array(5, &nine));
    refused(&types, &format!("tokenizer.ggml.token_type{length} 9"));
    let one = vec![1f32.to_le_bytes().to_vec()];
    let scores = tiny_bitnet().raw("tokenizer.ggml.scores", 9, array(6, &one));
    refused(&scores, &format!("tokenizer.ggml.scores{length} 1"));
    let nan = vec![f32::NAN.to_le_bytes().to_vec(); 8];
    refused(&tiny_bitnet().raw("tokenizer.ggml.scores", 9, array(6, &nan)), "expected an array of numbers");
    refused(&tiny_bitnet().strings("tokenizer.ggml.merges", &[b"\xff a"]), "tokenizer.ggml.merges[0]");
    refused(&tiny_bitnet().without("tokenizer.ggml.tokens"), "metadata key tokenizer.ggml.tokens is missing");
    refused(&tiny_bitnet().u32("tokenizer.ggml.tokens", 1), "expected an array of strings");
}

#[test]
fn token_ids_out_of_range_llama_cpp_26511() {
    let warnings = |file: &TestGguf| {
        let tokenizer = open(file.build()).unwrap().tokenizer_description().unwrap().unwrap();
        tokenizer.warnings().to_vec()
    };
    for key in ["bos", "eos", "eot", "eom", "unknown", "padding"] {
        for id in [8, u32::MAX] {
            let key = format!("tokenizer.ggml.{key}_token_id");
            let expected = format!("{key} is {id}, but there are 8 tokens: it is left out");
            assert_eq!(warnings(&tiny_bitnet().u32(&key, id)), [expected]);
        }
    }
    let minus_one = tiny_bitnet().raw("tokenizer.ggml.padding_token_id", 5, vec![0xff; 4]);
    let expected = "tokenizer.ggml.padding_token_id is -1, which is no token id: it is left out";
    assert_eq!(warnings(&minus_one), [expected]);
}

#[test]
fn tensors_beyond_the_file_cve_2026_7482() {
    let file = tiny_bitnet();
    let whole = file.build();
    // The last tensor ends in padding; cutting more than that cuts the tensor.
    refused_bytes(whole[..whole.len() - 33].to_vec(), "is cut short");
    refused(&tiny_bitnet().edit("blk.0.ffn_down.weight", |t| t.bytes.truncate(40)), "is cut short");
    refused(&tiny_bitnet().edit(Q, |t| t.offset = Some(1 << 20)), "is cut short");
    refused(
        &tiny_bitnet().edit(Q, |t| t.offset = Some(17)),
        "offset of tensor \"blk.0.attn_q.weight\": expected a multiple",
    );
    refused(&tiny_bitnet().edit(Q, |t| t.offset = Some(0)), "expected bytes behind those of");
}

#[test]
fn tiny_files_and_nested_arrays_cve_2024_39720_and_12055_and_12886_and_2025_0312_to_1975() {
    for len in 0..64 {
        assert!(open(vec![0; len]).is_err(), "{len} zeros");
        assert!(open(tiny_bitnet().build()[..len].to_vec()).is_err(), "{len} bytes of a sound file");
    }
    let mut nested = array(7, &[vec![1]]);
    for _ in 0..256 {
        nested = array(9, &[nested]);
    }
    refused(&tiny_bitnet().raw("x", 9, nested), "arrays of arrays are not read");
    // Nothing is unpacked on the way in, so there is nothing that a small archive could blow up to.
    refused_bytes([&[0x1f, 0x8b, 8, 0][..], &[0; 64]].concat(), "magic");
}

/// The converter reads through the same checks as everything else: what does not open is not converted, and a tensor that
/// is short by a byte is not filled up with what lies behind it.
#[test]
fn tensors_beyond_the_file_are_not_converted_cve_2026_7482() {
    let folder = tempfile::tempdir().unwrap();
    let (path, out) = (folder.path().join("short.gguf"), folder.path().join("out.safetensors"));
    let (sound, padding) = (tiny_bitnet(), 32);
    let whole = sound.build();
    let last = sound.tensors.last().unwrap().bytes.len();
    let unpadded = whole.len() - (last.next_multiple_of(padding) - last);
    let options = crate::convert::ConvertOptions {
        target: "rotor".parse().unwrap(),
        head: None,
        verify: true,
        lossy_tokenizer: false,
    };
    for (len, opens) in [(whole.len(), true), (unpadded, true), (unpadded - 1, false)] {
        std::fs::write(&path, &whole[..len]).unwrap();
        let source = Source::open(&path, &OpenOptions::default());
        assert_eq!(source.is_ok(), opens, "{len} of {} bytes", whole.len());
        let converted = source.and_then(|source| crate::convert::convert(&source, &out, &options, &mut |_, _, _| {}));
        assert_eq!(converted.is_ok(), opens);
        assert_eq!(std::fs::remove_file(&out).is_ok(), opens, "only what is sound leaves a file");
    }
}

#[test]
fn a_file_that_shrinks_while_it_is_open_bitnet_527() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("shrinks.gguf");
    std::fs::write(&path, tiny_bitnet().build()).unwrap();
    let options = OpenOptions { no_mmap: true, ..OpenOptions::default() };
    let source = Source::open(&path, &options).unwrap();
    std::fs::write(&path, b"").unwrap();
    assert_eq!(source.vector(Role::OutputNorm).unwrap(), Some(vec![1.5; 16]));
}

#[test]
fn scales_that_are_not_finite() {
    for scale in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
        let file = tiny_bitnet().edit(Q, |t| t.bytes[64..68].copy_from_slice(&scale.to_le_bytes()));
        refused(&file, "scale of tensor \"blk.0.attn_q.weight\": expected a finite number");
    }
}

#[test]
fn shapes_that_do_not_fit_the_hyper_parameters() {
    refused(
        &tiny_bitnet().edit(Q, |t| t.dims = vec![8, 32]),
        "shape of tensor \"blk.0.attn_q.weight\": expected [16, 16]",
    );
    refused(&tiny_bitnet().edit(Q, |t| t.dims = vec![256]), "expected [16, 16], found [256]");
    refused(&tiny_bitnet().edit(Q, |t| t.dims = vec![16, 8, 2]), "expected [16, 16], found [2, 8, 16]");
    refused(&tiny_bitnet().edit("token_embd.weight", |t| t.dims = vec![128]), "expected two dimensions");
    refused(&tiny_bitnet().edit("output_norm.weight", |t| t.dims = vec![8, 2]), "expected [16], found [2, 8]");
    let padded = tiny_bitnet().edit(Q, |t| t.dims = vec![16, 16, 1, 1]);
    assert!(open(padded.build()).is_ok());
    let narrow = tiny_bitnet().tensor(Q, &[10, 10], 36, i2s(I2sLayout::Blocks128, 16, 16, any_trit));
    refused(&narrow, "expected a number of elements that is a multiple of 128, found 100");
}

#[test]
fn every_tensor_is_needed_or_known_to_be_optional() {
    for tensor in tiny_bitnet().tensors {
        refused(&tiny_bitnet().without_tensor(&tensor.name), &format!("tensor {:?} is missing", tensor.name));
    }
    for tensor in tiny_llama().tensors.into_iter().filter(|tensor| tensor.name != "output.weight") {
        refused(&tiny_llama().without_tensor(&tensor.name), &format!("tensor {:?} is missing", tensor.name));
    }
    refused(&tiny_bitnet().without("general.architecture"), "metadata key general.architecture is missing");
    refused(&tiny_bitnet().u32("general.architecture", 1), "metadata key general.architecture: expected UTF-8 text");
    refused(&TestGguf::new(), "a GGUF file without tensors is not supported");
}

#[test]
fn every_truncation_is_an_error() {
    for file in [tiny_bitnet(), tiny_llama()] {
        let last = file.tensors.last().unwrap().bytes.len();
        let mut bytes = file.build();
        let padding = last.next_multiple_of(32) - last;
        bytes.truncate(bytes.len() - padding);
        assert!(open(bytes.clone()).is_ok());
        for len in 0..bytes.len() {
            assert!(open(bytes[..len].to_vec()).is_err(), "{len} of {} bytes", bytes.len());
        }
    }
}

/// Uses whatever opened: every tensor of the graph is read.
fn exercise(source: &Source) {
    let _ = source.tokenizer();
    let _ = source.chat_template();
    let mut row = Vec::new();
    for layer in 0..source.config().num_hidden_layers {
        for part in Part::LINEARS {
            let Ok(linear) = source.linear(Role::Layer(layer, part)) else { continue };
            if let Weight::Ternary(tensor) = linear.weight {
                row.resize(tensor.cols, 0);
                let _ = tensor.read_row(tensor.rows - 1, &mut row);
            }
        }
    }
    for role in [Role::OutputNorm, Role::Layer(0, Part::AttnNorm)] {
        let _ = source.vector(role);
    }
    for tensor in source.tensors() {
        assert!(tensor.bytes.len() <= 1 << 20);
    }
}

/// Bytes that readers stumble over.
const INTERESTING: [u64; 12] =
    [0, 1, 9, 31, 0x7f, 0xff, 0xffff, 0x7fff_ffff, 0xffff_ffff, 1 << 61, i64::MAX as u64, u64::MAX];

/// A change to a file: where, as a fraction of its length, and what.
#[derive(Clone, Debug)]
enum Mutation {
    Byte(f64, u8),
    Word(f64, usize, usize),
    Remove(f64, usize),
    Repeat(f64, usize),
    Truncate(f64),
}

fn mutations() -> impl Strategy<Value = Vec<Mutation>> {
    let place = 0.0..1.0f64;
    let mutation = prop_oneof![
        4 => (place.clone(), any::<u8>()).prop_map(|(at, byte)| Mutation::Byte(at, byte)),
        6 => (place.clone(), 0..INTERESTING.len(), prop_oneof![Just(4usize), Just(8)])
            .prop_map(|(at, word, width)| Mutation::Word(at, word, width)),
        1 => (place.clone(), 1..64usize).prop_map(|(at, len)| Mutation::Remove(at, len)),
        1 => (place.clone(), 1..64usize).prop_map(|(at, len)| Mutation::Repeat(at, len)),
        1 => place.prop_map(Mutation::Truncate),
    ];
    proptest::collection::vec(mutation, 1..4)
}

/// Applies changes within the first `front` bytes, where the fields are.
fn mutated(mut bytes: Vec<u8>, front: usize, mutations: &[Mutation]) -> Vec<u8> {
    for mutation in mutations {
        let place = |at: f64| ((at * front as f64) as usize).min(bytes.len().saturating_sub(1));
        match *mutation {
            _ if bytes.is_empty() => {}
            Mutation::Byte(at, byte) => {
                let at = place(at);
                bytes[at] = byte;
            }
            Mutation::Word(at, word, width) => {
                let at = place(at);
                let end = (at + width).min(bytes.len());
                bytes[at..end].copy_from_slice(&INTERESTING[word].to_le_bytes()[..end - at]);
            }
            Mutation::Remove(at, len) => {
                let at = place(at);
                bytes.drain(at..(at + len).min(bytes.len()));
            }
            Mutation::Repeat(at, len) => {
                let at = place(at);
                let copy = bytes[at..(at + len).min(bytes.len())].to_vec();
                bytes.splice(at..at, copy);
            }
            Mutation::Truncate(at) => bytes.truncate(place(at)),
        }
    }
    bytes
}

/// A sound safetensors file.
fn small_safetensors() -> Vec<u8> {
    let header = r#"{"__metadata__":{"format":"pt"},"a.weight":{"dtype":"U8","shape":[4,2],"data_offsets":[0,8]},"b":{"dtype":"F32","shape":[2],"data_offsets":[8,16]}}"#;
    let mut bytes = (header.len() as u64).to_le_bytes().to_vec();
    bytes.extend(header.as_bytes());
    bytes.resize(bytes.len() + 16, 1);
    bytes
}

#[test]
fn every_truncation_of_a_safetensors_file_is_an_error() {
    let bytes = small_safetensors();
    let names = safetensors_names(&bytes).unwrap();
    assert_eq!(names, [("a.weight".to_owned(), None), ("b".to_owned(), Some(DenseType::F32))]);
    for len in 0..bytes.len() {
        assert!(safetensors_names(&bytes[..len]).is_err(), "{len} bytes");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(4000))]

    #[test]
    fn no_change_to_a_gguf_file_makes_the_reader_panic(changes in mutations(), llama: bool, whole: bool) {
        let file = if llama { tiny_llama() } else { tiny_bitnet() };
        let bytes = file.build();
        let data: usize = file.tensors.iter().map(|t| t.bytes.len().next_multiple_of(32)).sum();
        let front = if whole { bytes.len() } else { bytes.len() - data };
        if let Ok(source) = open(mutated(bytes, front, &changes)) {
            exercise(&source);
        }
    }

    #[test]
    fn no_change_to_a_safetensors_file_makes_the_reader_panic(changes in mutations()) {
        let bytes = small_safetensors();
        let len = bytes.len();
        let _ = safetensors_names(&mutated(bytes, len, &changes));
    }

    #[test]
    fn no_bytes_make_the_readers_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        let _ = safetensors_names(&bytes);
        let gguf = [&b"GGUF\x03\0\0\0"[..], &bytes].concat();
        prop_assert!(open(gguf).is_err());
    }

    #[test]
    fn no_metadata_value_makes_the_reader_panic(key in 0..16usize, type_id in 0..14u32, value in proptest::collection::vec(any::<u8>(), 0..24)) {
        let keys: Vec<String> = tiny_llama().pairs.into_iter().map(|(key, ..)| key).collect();
        let key = keys[key % keys.len()].clone();
        for value in [value.clone(), string(&value), f32s([f32::NAN]), u64::MAX.to_le_bytes().to_vec()] {
            if let Ok(source) = open(tiny_llama().raw(&key, type_id, value).build()) {
                exercise(&source);
            }
        }
    }
}

/// The seeds that the fuzzers start from; they are what the tests here start from too.
#[test]
fn the_seeds_of_the_fuzzers_are_sound() {
    let corpus = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fuzz/corpus");
    let seed = |name: &str| std::fs::read(corpus.join(name)).unwrap();
    assert_eq!(seed("gguf/tiny-bitnet"), tiny_bitnet().build());
    assert_eq!(seed("gguf/tiny-llama"), tiny_llama().build());
    assert_eq!(seed("safetensors/small"), small_safetensors());
    for name in ["safetensors/tiny-rotor", "safetensors/tiny-codes"] {
        exercise(&open(seed(name)).unwrap());
    }
}
