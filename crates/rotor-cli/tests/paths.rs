//! Names that systems treat differently, and files that cannot be replaced.

#![expect(clippy::unwrap_used, reason = "a test says what is wrong by panicking")]

mod common;

use common::{path_text, rotor, tiny};
use std::fs;
use std::path::Path;

/// Writes a model to `folder`, reads it back, converts it there and compares the two.
fn there_and_back(folder: &Path) {
    let (model, planes) = (folder.join("ein Modell.gguf"), folder.join("ternär 三.safetensors"));
    fs::copy(tiny(), &model).unwrap();
    let run = rotor(["convert", path_text(&model), path_text(&planes), "--type", "rotor", "--verify"]);
    assert_eq!(run.code, 0, "{}", run.stderr);
    let run = rotor(["diff", path_text(&model), path_text(&planes)]);
    assert_eq!(run.code, 0, "{}", run.stderr);
    let run = rotor(["run", path_text(&planes), "-p", "x", "-n", "2"]);
    assert_eq!(run.code, 0, "{}", run.stderr);
    assert_eq!(fs::read_dir(folder).unwrap().count(), 2, "nothing else is left");
}

#[test]
fn spaces_and_letters_of_other_scripts() {
    let folder = tempfile::tempdir().unwrap();
    let inner = folder.path().join("Größe & (Ελλάδα) 模型");
    fs::create_dir(&inner).unwrap();
    there_and_back(&inner);
}

/// Windows takes paths of 260 characters unless they are written in a special way.
#[test]
fn long_paths() {
    let folder = tempfile::tempdir().unwrap();
    let inner = folder.path().join("a".repeat(120)).join("b".repeat(120)).join("c".repeat(120));
    fs::create_dir_all(&inner).unwrap();
    there_and_back(&inner);
}

#[test]
fn a_model_that_may_only_be_read() {
    let folder = tempfile::tempdir().unwrap();
    let model = folder.path().join("m.gguf");
    fs::copy(tiny(), &model).unwrap();
    let mut permissions = fs::metadata(&model).unwrap().permissions();
    permissions.set_readonly(true);
    fs::set_permissions(&model, permissions).unwrap();
    let run = rotor(["run", path_text(&model), "-p", "x", "-n", "2"]);
    assert_eq!(run.code, 0, "{}", run.stderr);
}

#[cfg(windows)]
mod windows {
    use super::*;
    use common::{command, ran};
    use std::os::windows::fs::OpenOptionsExt;
    use std::os::windows::process::CommandExt;

    /// Converts to `out`, which cannot be replaced; returns what is said of it.
    fn refused(out: &Path) -> String {
        let before = fs::metadata(out).unwrap().len();
        let run = rotor(["convert", path_text(&tiny()), path_text(out), "--type", "rotor"]);
        assert_eq!(run.code, 1, "{run:?}");
        assert_eq!(fs::metadata(out).unwrap().len(), before, "what was there is there");
        assert_eq!(fs::read_dir(out.parent().unwrap()).unwrap().count(), 1, "and nothing else");
        run.error().to_owned()
    }

    #[test]
    fn a_file_in_use_is_not_replaced_and_the_reason_is_told() {
        let folder = tempfile::tempdir().unwrap();
        let out = folder.path().join("m.safetensors");
        fs::write(&out, "old").unwrap();
        let open = fs::OpenOptions::new().read(true).share_mode(1).open(&out).unwrap();
        let told = refused(&out);
        assert!(told.ends_with("it is read-only, or a program has it open"), "{told}");
        drop(open);
        let run = rotor(["convert", path_text(&tiny()), path_text(&out), "--type", "rotor"]);
        assert_eq!(run.code, 0, "{}", run.stderr);
    }

    #[test]
    fn without_a_console() {
        const DETACHED_PROCESS: u32 = 8;
        let model = tiny();
        let mut command = command(["run", path_text(&model), "-p", "x", "-n", "2"]);
        let run = ran(command.creation_flags(DETACHED_PROCESS).output().unwrap());
        assert_eq!(run.code, 0, "{}", run.stderr);
    }
}
