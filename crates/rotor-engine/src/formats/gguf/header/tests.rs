use super::super::super::testing::{TestGguf, array, string, tiny_bitnet};
use super::*;
use rotor_kernels::DenseType;

/// A complete file, byte for byte: what the writer's own example gives.
#[rustfmt::skip]
const WORKED_EXAMPLE: [u8; 288] = {
    let mut bytes = [0u8; 288];
    let front: [u8; 0xc5] = [
        0x47, 0x47, 0x55, 0x46, 0x03, 0x00, 0x00, 0x00, 0x02, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00,
        0x02, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x14, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00,
        0x67, 0x65, 0x6e, 0x65, 0x72, 0x61, 0x6c, 0x2e, 0x61, 0x72, 0x63, 0x68, 0x69, 0x74, 0x65, 0x63,
        0x74, 0x75, 0x72, 0x65, 0x08, 0x00, 0x00, 0x00, 0x0c, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00,
        0x62, 0x69, 0x74, 0x6e, 0x65, 0x74, 0x2d, 0x62, 0x31, 0x2e, 0x35, 0x38, 0x18, 0x00, 0x00, 0x00,
        0x00, 0x00, 0x00, 0x00, 0x62, 0x69, 0x74, 0x6e, 0x65, 0x74, 0x2d, 0x62, 0x31, 0x2e, 0x35, 0x38,
        0x2e, 0x62, 0x6c, 0x6f, 0x63, 0x6b, 0x5f, 0x63, 0x6f, 0x75, 0x6e, 0x74, 0x04, 0x00, 0x00, 0x00,
        0x01, 0x00, 0x00, 0x00, 0x08, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x61, 0x2e, 0x77, 0x65,
        0x69, 0x67, 0x68, 0x74, 0x02, 0x00, 0x00, 0x00, 0x02, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00,
        0x03, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00,
        0x00, 0x00, 0x00, 0x00, 0x01, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x62, 0x01, 0x00, 0x00,
        0x00, 0x01, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x01, 0x00, 0x00, 0x00, 0x20, 0x00, 0x00,
        0x00, 0x00, 0x00, 0x00, 0x00,
    ];
    let data: [u8; 24] = [
        0x00, 0x00, 0x80, 0x3f, 0x00, 0x00, 0x00, 0x40, 0x00, 0x00, 0x40, 0x40,
        0x00, 0x00, 0x80, 0x40, 0x00, 0x00, 0xa0, 0x40, 0x00, 0x00, 0xc0, 0x40,
    ];
    let mut i = 0;
    while i < front.len() { bytes[i] = front[i]; i += 1; }
    i = 0;
    while i < data.len() { bytes[0xe0 + i] = data[i]; i += 1; }
    bytes[0x101] = 0x47;
    bytes
};

fn error(file: &TestGguf) -> String {
    error_of(&file.build())
}

fn error_of(bytes: &[u8]) -> String {
    Header::parse(bytes).unwrap_err().to_string()
}

#[test]
fn a_complete_file_is_read() {
    let header = Header::parse(&WORKED_EXAMPLE).unwrap();
    assert_eq!(header.metadata.str("general.architecture").unwrap(), Some("bitnet-b1.58"));
    assert_eq!(header.metadata.usize("bitnet-b1.58.block_count").unwrap(), Some(1));
    let [a, b] = header.tensors.as_slice() else { panic!("{:?}", header.tensors) };
    assert_eq!((a.name.as_str(), a.shape.as_slice()), ("a.weight", &[3, 2][..]));
    assert_eq!((a.storage, a.range.clone()), (Storage::Dense(DenseType::F32), 0xe0..0xf8));
    assert_eq!((b.name.as_str(), b.shape.as_slice()), ("b", &[1][..]));
    assert_eq!((b.storage, b.range.clone()), (Storage::Dense(DenseType::F16), 0x100..0x102));
    assert!(header.warnings.is_empty());
}

#[test]
fn the_builder_writes_the_complete_file() {
    let file = TestGguf::new()
        .str("general.architecture", "bitnet-b1.58")
        .u32("bitnet-b1.58.block_count", 1)
        .tensor("a.weight", &[2, 3], 0, WORKED_EXAMPLE[0xe0..0xf8].to_vec())
        .tensor("b", &[1], 1, vec![0, 0x47]);
    assert_eq!(file.build(), WORKED_EXAMPLE);
}

#[test]
fn every_type_of_value_is_read_as_typed() {
    let file = TestGguf::new()
        .raw("u8", 0, vec![200])
        .raw("i8", 1, vec![0xff])
        .raw("u16", 2, vec![1, 2])
        .raw("i16", 3, vec![0xfe, 0xff])
        .raw("u32", 4, vec![1, 0, 0, 0x80])
        .raw("i32", 5, vec![0xff; 4])
        .raw("f32", 6, vec![0, 0, 0x80, 0x3f])
        .raw("bool", 7, vec![1])
        .raw("string", 8, string("x"))
        .raw("u64", 10, vec![0xff; 8])
        .raw("i64", 11, vec![0xff; 8])
        .raw("f64", 12, 0.1f64.to_le_bytes().to_vec())
        .raw("bools", 9, array(7, &[vec![1], vec![0]]))
        .raw("words", 9, array(2, &[vec![1, 0], vec![2, 0]]))
        .raw("empty", 9, array(6, &[]));
    let header = Header::parse(&file.build()).unwrap();
    let values: Vec<Value> = header.metadata.iter().map(|(_, value)| value.clone()).collect();
    assert_eq!(
        values,
        [
            Value::U8(200),
            Value::I8(-1),
            Value::U16(513),
            Value::I16(-2),
            Value::U32(0x8000_0001),
            Value::I32(-1),
            Value::F32(1.0),
            Value::Bool(true),
            Value::String(b"x".to_vec()),
            Value::U64(u64::MAX),
            Value::I64(-1),
            Value::F64(0.1),
            Value::Array(Array::Bool(vec![true, false])),
            Value::Array(Array::U16(vec![1, 2])),
            Value::Array(Array::F32(vec![])),
        ]
    );
}

#[test]
fn what_is_no_gguf_is_refused_in_a_sentence() {
    assert_eq!(error_of(b""), "magic number is cut short: needs 4 bytes, found 0");
    assert_eq!(error_of(b"GGUF"), "version is cut short: needs 4 bytes, found 0");
    assert_eq!(error_of(b"PK\x03\x04 and more"), "magic number: expected \"GGUF\", found \"PK\\x03\\x04\"");
    let version = |version| error(&TestGguf { version, ..TestGguf::new() });
    assert!(version(0).contains("expected 2 or 3, found 0"));
    assert!(version(1).starts_with("GGUF version 1 is not supported"));
    assert!(version(4).contains("expected 2 or 3, found 4"));
    assert!(version(0x0300_0000).starts_with("a big-endian GGUF file is not supported"));
    assert!(Header::parse(&TestGguf { version: 2, ..TestGguf::new() }.build()).is_ok());
}

#[test]
fn a_file_without_tensors_is_a_header() {
    let header = Header::parse(&TestGguf::new().str("general.architecture", "llama").build()).unwrap();
    assert!(header.tensors.is_empty());
}

#[test]
fn keys_and_names_are_unique_and_not_empty() {
    let mut twice = TestGguf::new().u32("a", 1);
    twice.pairs.push(("a".into(), 4, vec![0; 4]));
    assert_eq!(error(&twice), "metadata key \"a\" occurs twice");
    assert_eq!(error(&TestGguf::new().u32("", 1)), "metadata key 0: expected a name, found an empty one");
    let long = "k".repeat(65_536);
    assert!(error(&TestGguf::new().u32(&long, 1)).contains("at most 65535"));
    let name = "n".repeat(65);
    assert!(error(&TestGguf::new().tensor(&name, &[1], 24, vec![0])).contains("at most 64"));
}

#[test]
fn values_outside_their_type_are_refused() {
    assert_eq!(error(&TestGguf::new().raw("k", 7, vec![2])), "truth value of metadata key k: expected 0 or 1, found 2");
    assert!(error(&TestGguf::new().raw("k", 13, vec![0; 8])).contains("a type from 0 to 12, found 13"));
    assert!(error(&TestGguf::new().raw("k", 9, array(13, &[]))).contains("a type from 0 to 12, found 13"));
    assert!(error(&TestGguf::new().raw("k", 9, array(7, &[vec![9]]))).contains("0 or 1, found 9"));
}

#[test]
fn alignment_is_a_power_of_two_of_type_u32() {
    let key = "general.alignment";
    for bad in [0u32, 1, 3, 4, 13, 1 << 21, 1 << 31] {
        let message = error(&tiny_bitnet().u32(key, bad));
        assert_eq!(
            message,
            format!("metadata key general.alignment: expected a power of two from 8 to 1048576, found {bad}")
        );
    }
    let typed = tiny_bitnet().raw(key, 5, 32i32.to_le_bytes().to_vec());
    assert!(error(&typed).contains("a value of type u32"));
    for good in [8, 64, 4096] {
        let file = TestGguf { alignment: good, ..tiny_bitnet().u32(key, good as u32) };
        assert_eq!(Header::parse(&file.build()).unwrap().tensors.len(), file.tensors.len());
    }
}

#[test]
fn unused_bytes_between_tensors_are_a_warning() {
    let mut file = TestGguf::new().tensor("a", &[8], 0, vec![0; 128]).tensor("b", &[8], 0, vec![0; 32]);
    assert_eq!(Header::parse(&file.build()).unwrap().warnings.len(), 1);
    file.tensors[0].dims = vec![32];
    assert!(Header::parse(&file.build()).unwrap().warnings.is_empty());
}

#[test]
fn an_unknown_type_is_no_error_until_it_is_needed() {
    let file = TestGguf::new().tensor("exotic", &[7], 999, vec![0; 7]);
    let header = Header::parse(&file.build()).unwrap();
    assert_eq!((header.tensors[0].storage, &*header.tensors[0].type_name), (Storage::Unreadable, "id 999"));
}
