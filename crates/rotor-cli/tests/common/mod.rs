//! Runs the real binary.

#![allow(dead_code, reason = "each test file is a crate of its own and uses what it needs")]

pub(crate) mod gguf;

use std::ffi::OsStr;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::LazyLock;

/// A folder with a synthetic model, made once for all tests of a file.
static MODELS: LazyLock<tempfile::TempDir> = LazyLock::new(|| {
    let folder = tempfile::tempdir().unwrap();
    let made = rotor(["synth", "tiny", path_text(&folder.path().join("tiny.gguf"))]);
    assert_eq!(made.code, 0, "{}", made.stderr);
    folder
});

/// The synthetic model.
pub(crate) fn tiny() -> PathBuf {
    MODELS.path().join("tiny.gguf")
}

/// A checkpoint made by transformers, without a tokenizer.
pub(crate) fn checkpoint(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../rotor-engine/tests/data/hf-tiny").join(name)
}

/// A path as an argument.
pub(crate) fn path_text(path: &Path) -> &str {
    path.to_str().unwrap()
}

/// How a run ended.
#[derive(Debug)]
pub(crate) struct Ran {
    pub(crate) code: i32,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

impl Ran {
    /// The one sentence of a failed run.
    pub(crate) fn error(&self) -> &str {
        let errors: Vec<&str> = self.stderr.lines().filter(|line| line.starts_with("error: ")).collect();
        assert_eq!(errors.len(), 1, "one sentence: {}", self.stderr);
        assert!(!self.stderr.contains("panicked") && !self.stderr.contains("os error"), "{}", self.stderr);
        errors[0]
    }
}

/// The command with a clean environment, its stdin empty.
pub(crate) fn command<S: AsRef<OsStr>>(arguments: impl IntoIterator<Item = S>) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_rotor"));
    for (name, _) in std::env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("ROTOR_")) {
        command.env_remove(name);
    }
    command.args(arguments).stdin(Stdio::null());
    command
}

/// Runs the command to its end.
pub(crate) fn rotor<S: AsRef<OsStr>>(arguments: impl IntoIterator<Item = S>) -> Ran {
    ran(command(arguments).output().unwrap())
}

/// Runs the command with `input` on stdin.
pub(crate) fn rotor_with_input<S: AsRef<OsStr>>(arguments: impl IntoIterator<Item = S>, input: &[u8]) -> Ran {
    let mut command = command(arguments);
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    // A run that fails early need not read it.
    let _ = child.stdin.take().unwrap().write_all(input);
    ran(child.wait_with_output().unwrap())
}

/// The result of a finished process.
pub(crate) fn ran(output: Output) -> Ran {
    Ran {
        code: output.status.code().unwrap(),
        stdout: String::from_utf8(output.stdout).unwrap(),
        stderr: String::from_utf8(output.stderr).unwrap(),
    }
}
