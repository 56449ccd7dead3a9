//! `rotor embed`: where texts come from, where vectors go, and what is refused.

#![expect(clippy::unwrap_used, reason = "a test says what is wrong by panicking")]

mod common;

use common::gguf::Gguf;
use common::{Ran, path_text, rotor, rotor_with_input, tiny};
use rotor::formats::metadata::Value;
use std::fs;

/// The vectors on stdout, one a line.
fn vectors(run: &Ran) -> Vec<Vec<f32>> {
    assert_eq!(run.code, 0, "{}", run.stderr);
    run.stdout.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

#[test]
fn texts_become_vectors_of_length_one_wherever_they_come_from() {
    let (model, folder) = (tiny(), tempfile::tempdir().unwrap());
    let (model, file) = (path_text(&model), folder.path().join("texts.txt"));
    fs::write(&file, "hello world\nthe world\n").unwrap();
    let found = vectors(&rotor(["embed", model, path_text(&file)]));
    assert_eq!(found.len(), 2);
    for vector in &found {
        let length: f64 = vector.iter().map(|x| f64::from(*x).powi(2)).sum();
        assert!((length - 1.0).abs() < 1e-5, "{length}");
    }
    assert_ne!(found[0], found[1]);
    let input = br#"["hello world", "the world"]"#;
    for run in [
        rotor(["embed", "-m", model, path_text(&file)]),
        rotor_with_input(["embed", "-m", model], input),
        rotor_with_input(["embed", model, "-"], input),
    ] {
        assert_eq!(vectors(&run), found);
    }
    let last = vectors(&rotor(["embed", model, path_text(&file), "--pooling", "last"]));
    assert_ne!(last, found);
}

#[test]
fn a_list_may_hold_token_ids_and_a_text_is_the_same_among_others() {
    let model = tiny();
    let model = path_text(&model);
    let alone = vectors(&rotor(["embed", model, "--ids", "1,2,3"])).remove(0);
    let listed = vectors(&rotor_with_input(["embed", model], br#"["hello world", [1, 2, 3], [4]]"#));
    assert_eq!((listed.len(), &listed[1]), (3, &alone));
}

/// longrope has other factors in longer contexts: a long text beside a short one must not choose the short one's.
#[test]
fn a_longer_text_changes_nothing_where_rotations_depend_on_the_length() {
    let (folder, mut model) = (tempfile::tempdir().unwrap(), Gguf::of(&tiny()));
    for (name, factor) in [("short", 1f32), ("long", 3.0)] {
        let bytes = [factor; 32].iter().flat_map(|x| x.to_le_bytes()).collect();
        model.tensors.push((format!("rope_factors_{name}.weight"), vec![32], 0, bytes));
    }
    let path = model
        .text("bitnet-b1.58.rope.scaling.type", "longrope")
        .set("bitnet-b1.58.rope.scaling.original_context_length", Value::U32(32))
        .write(folder.path(), "m.gguf");
    let embed = |texts: &[Vec<u32>]| {
        let texts = serde_json::to_string(texts).unwrap();
        vectors(&rotor_with_input(["embed", path_text(&path)], texts.as_bytes()))
    };
    let (short, long) = (vec![1, 2, 3, 4], vec![5; 40]);
    let (alone, beside) = (embed(std::slice::from_ref(&short)), embed(&[short, long]));
    assert_eq!(alone[0], beside[0]);
}

#[test]
fn vectors_are_written_as_arrays_that_others_read() {
    let (model, folder) = (tiny(), tempfile::tempdir().unwrap());
    let model = path_text(&model);
    let found = vectors(&rotor(["embed", model, "--ids", "1,2,3"])).remove(0);
    let bytes: Vec<u8> = found.iter().flat_map(|x| x.to_le_bytes()).collect();
    for name in ["v.npy", "v.safetensors"] {
        let path = folder.path().join(name);
        let run = rotor(["embed", model, "--ids", "1,2,3", "-o", path_text(&path)]);
        assert_eq!((run.code, run.stdout.as_str()), (0, ""), "{}", run.stderr);
        assert!(run.stderr.contains("3 tokens in 0."), "{}", run.stderr);
        assert!(fs::read(&path).unwrap().ends_with(&bytes), "{name}");
    }
}

#[test]
fn what_has_no_vector_is_refused_and_nothing_is_overwritten() {
    let (model, folder) = (tiny(), tempfile::tempdir().unwrap());
    let (model, texts) = (path_text(&model), folder.path().join("texts.json"));
    fs::write(&texts, "[\"one\"]").unwrap();
    let texts = path_text(&texts);
    for (arguments, input, told) in [
        (&["embed", model][..], "one\n\ntwo", "text 2 is empty, and has no vector"),
        (&["embed", model], "", "there is no text"),
        (&["embed", model], "[[1], []]", "text 2 is empty, and has no vector"),
        (&["embed", model], "[[1], [1024]]", "token id 1024 is out of range"),
        (&["embed", model, "--ids", "1,4294967295"], "", "out of range"),
        (&["embed", model, texts, "-o", "vectors.txt"], "", "ends with .json, .npy or .safetensors"),
        (&["embed", model, texts, "-o", texts], "", "texts.json"),
        (&["embed", model, "-m", model, texts], "", "the model is named twice"),
    ] {
        let run = rotor_with_input(arguments, input.as_bytes());
        assert!(run.code != 0 && run.stdout.is_empty() && run.stderr.contains(told), "{arguments:?}: {}", run.stderr);
    }
    assert_eq!(fs::read_to_string(texts).unwrap(), "[\"one\"]");
}
