//! Every file that fuzzing has found worth keeping, through the code that the fuzzers run.

#[path = "../../../fuzz/src/lib.rs"]
#[expect(clippy::expect_used, reason = "what fuzzers build themselves is sound")]
mod fuzz;

use std::path::Path;

/// Runs a target's corpus; its files are named where they fail.
fn replay(name: &str) {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fuzz/corpus").join(name);
    let (_, target) = fuzz::TARGETS.into_iter().find(|target| target.0 == name).unwrap();
    let mut files: Vec<_> = std::fs::read_dir(&folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.sort();
    assert!(!files.is_empty(), "{} is empty", folder.display());
    for file in files {
        println!("{}", file.display());
        target(&std::fs::read(&file).unwrap());
    }
}
