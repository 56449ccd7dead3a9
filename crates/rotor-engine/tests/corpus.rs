//! Every file that fuzzing has found worth keeping, through the code that the fuzzers run.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

#[path = "../../../fuzz/src/lib.rs"]
#[expect(unreachable_pub, reason = "there it is a crate, and public")]
mod fuzz;

use std::path::Path;

/// Runs a target's corpus; the file that fails is the last one printed.
fn replay(name: &str) {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fuzz/corpus").join(name);
    let (_, target) = fuzz::TARGETS.into_iter().find(|target| target.0 == name).unwrap();
    let mut files: Vec<_> = std::fs::read_dir(&folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.sort();
    assert!(files.len() >= 10, "{} holds {} files", folder.display(), files.len());
    for file in files {
        println!("{}", file.display());
        target(&std::fs::read(&file).unwrap());
    }
}

#[test]
fn gguf_files() {
    replay("gguf");
}

#[test]
fn safetensors_and_rotor_files() {
    replay("safetensors");
}

#[test]
fn configurations_and_tokenizers() {
    replay("hugging_face");
}

#[test]
fn blocks_of_every_form() {
    replay("forms");
}

#[test]
fn chat_templates() {
    replay("chat");
}
