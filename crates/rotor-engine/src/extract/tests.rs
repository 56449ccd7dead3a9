//! What is extracted is what a model reads.

use super::*;
use crate::convert::{ConvertOptions, convert};
use crate::formats::{OpenOptions, Part};
use crate::synth::{Preset, SynthOptions, synthesize};
use ::safetensors::SafeTensors;
use std::path::PathBuf;
use tempfile::TempDir;

fn model() -> (TempDir, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("m.gguf");
    synthesize(Preset::Tiny, &path, &SynthOptions::default(), &mut |_, _| {}).unwrap();
    (folder, path)
}

#[test]
fn every_form_holds_the_trits_and_scales_that_the_model_has() {
    let (folder, path) = model();
    let planes_file = folder.path().join("m.safetensors");
    let source = Source::open(&path, &OpenOptions::default()).unwrap();
    let options =
        ConvertOptions { target: "rotor".parse().unwrap(), head: None, verify: false, lossy_tokenizer: false };
    convert(&source, &planes_file, &options, &mut |_, _, _| {}).unwrap();
    for path in [path, planes_file] {
        let source = Source::open(&path, &OpenOptions::default()).unwrap();
        let Weight::Ternary(tensor) = source.linear(Role::Layer(2, Part::FfnUp)).unwrap().weight else {
            panic!("ternary");
        };
        let mut trits = vec![0; tensor.rows * tensor.cols];
        trits.chunks_exact_mut(tensor.cols).enumerate().for_each(|(r, row)| tensor.read_stored_row(r, row).unwrap());
        for form in ArrayForm::ALL {
            let out = folder.path().join("out.safetensors");
            extract(&source, Selection::Tensor("blk.2.ffn_up"), form, &out).unwrap();
            let bytes = std::fs::read(&out).unwrap();
            assert!(read_back(&SafeTensors::deserialize(&bytes).unwrap(), form, &tensor) == trits, "{form:?}");
        }
    }
}

/// The trits of a file, its scale being checked on the way.
fn read_back(file: &SafeTensors<'_>, form: ArrayForm, tensor: &TernaryTensor<'_>) -> Vec<i8> {
    let shape = (tensor.rows, tensor.cols);
    let data = |ending: &str| file.tensor(&format!("blk.2.ffn_up.{ending}")).unwrap().data().to_vec();
    let scale = tensor.scales.get(0, 0);
    if form != ArrayForm::F32 {
        assert_eq!(data("scale"), scale.to_le_bytes());
    }
    let mut trits = vec![0; tensor.rows * tensor.cols];
    match form {
        ArrayForm::Planes => planes::planes_to_trits(shape, &data("bit0"), &data("bit1"), &mut trits).unwrap(),
        ArrayForm::BitNet => planes::decode_codes(shape, &data("codes"), &mut trits).unwrap(),
        ArrayForm::I8 => trits = data("weight").into_iter().map(u8::cast_signed).collect(),
        ArrayForm::F32 => {
            let values = data("weight");
            let trit = |bytes: &[u8; 4]| (f32::from_le_bytes(*bytes) / scale) as i8;
            trits = values.as_chunks().0.iter().map(trit).collect();
        }
    }
    trits
}

#[test]
fn an_archive_holds_one_file_for_each_array() {
    let (folder, path) = model();
    let source = Source::open(&path, &OpenOptions::default()).unwrap();
    let out = folder.path().join("layer.npz");
    let extracted = extract(&source, Selection::Layer(3), ArrayForm::BitNet, &out).unwrap();
    let mut archive = zip::ZipArchive::new(std::fs::File::open(&out).unwrap()).unwrap();
    assert_eq!(archive.len(), extracted.arrays.len());
    for array in &extracted.arrays {
        let mut bytes = Vec::new();
        std::io::Read::read_to_end(&mut archive.by_name(&format!("{}.npy", array.name)).unwrap(), &mut bytes).unwrap();
        let width = if array.dtype == "f32" { 4 } else { 1 };
        let data = array.shape.iter().product::<usize>() * width;
        assert!(bytes.starts_with(b"\x93NUMPY\x01\x00") && bytes.len() % 64 == data % 64 && bytes.len() > data);
    }
}

#[test]
fn nothing_is_written_over_the_model() {
    let (_folder, path) = model();
    let source = Source::open(&path, &OpenOptions::default()).unwrap();
    let error = extract(&source, Selection::Layer(0), ArrayForm::I8, &path).unwrap_err().to_string();
    assert!(error.contains("another file than the input"), "{error}");
}
