//! What a command reads is safe from it, and may change under it.

#![expect(clippy::unwrap_used, reason = "a test says what is wrong by panicking")]

mod common;

use common::{path_text, rotor, tiny};
use std::fs;
use std::path::{Path, PathBuf};

/// A folder in Hugging Face layout with a tokenizer, as `hf` in the folder returned.
fn folder_model() -> (tempfile::TempDir, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let hf = folder.path().join("hf");
    let made = rotor(["synth", "tiny", path_text(&hf), "--type", "hf"]);
    assert_eq!(made.code, 0, "{made:?}");
    (folder, hf)
}

/// Checks that a command refuses to write to `output`, which stays as it is.
fn refuses(arguments: &[&str], output: &Path) {
    let before = fs::read(output).unwrap();
    let run = rotor(arguments);
    assert_eq!(run.code, 1, "{arguments:?}: {run:?}");
    assert!(run.error().contains("expected another file than the input"), "{arguments:?}: {run:?}");
    assert_eq!(fs::read(output).unwrap(), before, "{arguments:?}");
}

/// Every command that writes, writing to `output`.
fn refused_by_all(model: &Path, output: &Path) {
    let (model, out) = (path_text(model), path_text(output));
    refuses(&["convert", model, out, "--type", "i2_s"], output);
    refuses(&["convert", model, out, "--type", "rotor"], output);
    refuses(&["extract", model, "--layer", "0", "--as", "i8", "-o", out], output);
    refuses(&["logits", model, "--ids", "1", "-o", out], output);
    refuses(&["bench", model, "--svg", out], output);
}

#[test]
fn no_file_of_a_folder_is_an_output() {
    let (_folder, hf) = folder_model();
    fs::write(hf.join("modeling.py"), "code").unwrap();
    for name in ["config.json", "tokenizer.json", "tokenizer_config.json", "model.safetensors", "modeling.py"] {
        refused_by_all(&hf, &hf.join(name));
    }
    for name in ["config.json", "tokenizer.json", "model.safetensors"] {
        refused_by_all(&hf.join("model.safetensors"), &hf.join(name));
    }
    let out = hf.join("new.gguf");
    // A new file beside them is none of theirs, and may be written again.
    for _ in 0..2 {
        let run = rotor(["convert", path_text(&hf), path_text(&out), "--type", "i2_s"]);
        assert_eq!(run.code, 0, "{run:?}");
    }
}

#[cfg(unix)]
#[test]
fn an_input_by_another_name_is_the_input() {
    let (folder, hf) = folder_model();
    let (link, hard) = (folder.path().join("link"), folder.path().join("hard"));
    std::os::unix::fs::symlink(hf.join("tokenizer.json"), &link).unwrap();
    fs::hard_link(hf.join("config.json"), &hard).unwrap();
    refused_by_all(&hf, &link);
    refused_by_all(&hf, &hard);
    // The cache of a hub has the files in one place and links to them in another.
    let linked = folder.path().join("linked");
    fs::create_dir(&linked).unwrap();
    for entry in fs::read_dir(&hf).unwrap() {
        let entry = entry.unwrap();
        std::os::unix::fs::symlink(entry.path(), linked.join(entry.file_name())).unwrap();
    }
    refused_by_all(&linked, &hf.join("tokenizer.json"));
}

#[test]
fn files_that_options_name_are_inputs_too() {
    let (_folder, hf) = folder_model();
    let tokenizer = hf.join("tokenizer.json");
    refuses(&["synth", "tiny", path_text(&tokenizer), "--tokenizer", path_text(&tokenizer)], &tokenizer);
    let kernels = hf.with_file_name("kernel_config.ini");
    fs::write(&kernels, "[Kernels_0]\nm = 256\nk = 256\nbm = 128\nbk = 128\nbmm = 32\n").unwrap();
    let (model, out) = (tiny(), path_text(&kernels));
    refuses(&["convert", path_text(&model), out, "--type", "tq2_0", "--kernel-config", out], &kernels);
}

#[test]
fn every_command_that_opens_a_model_reads_it_without_mapping() {
    let (model, folder) = (tiny(), tempfile::tempdir().unwrap());
    let (model, out) = (path_text(&model), folder.path().join("out"));
    for arguments in [
        vec!["run", model, "-p", "x", "-n", "1"],
        vec!["inspect", model],
        vec!["tokenize", model, "x"],
        vec!["logits", model, "--ids", "1", "-o", path_text(&out)],
        vec!["convert", model, path_text(&out), "--type", "tq2_0", "--verify"],
        vec!["diff", model, model],
        vec!["bench", model, "-p", "4", "-n", "0", "-r", "1"],
    ] {
        let run = rotor(arguments.iter().copied().chain(["--no-mmap"]));
        assert_eq!(run.code, 0, "{arguments:?}: {run:?}");
    }
}

#[cfg(target_os = "linux")]
mod signals {
    use super::*;
    use common::command;
    use common::gguf::Gguf;
    use std::os::unix::process::ExitStatusExt;
    use std::process::{Command, Stdio};

    /// A model that takes a while to convert.
    fn large(folder: &Path) -> PathBuf {
        let path = folder.join("large.gguf");
        let made = rotor(["synth", "bitnet-large", path_text(&path), "--head", "q4_k"]);
        assert_eq!(made.code, 0, "{made:?}");
        path
    }

    #[test]
    fn a_file_that_shrinks_while_it_is_read_is_an_error() {
        let folder = tempfile::tempdir().unwrap();
        let (model, outputs) = (large(folder.path()), folder.path().join("outputs"));
        fs::create_dir(&outputs).unwrap();
        for (name, form) in [("m.gguf", "tq2_0"), ("hf", "hf")] {
            let whole = fs::metadata(&model).unwrap().len();
            let out = outputs.join(name);
            let arguments = ["convert", path_text(&model), path_text(&out), "--type", form, "--head", "f16"];
            let mut convert = command(arguments);
            let mut child = convert.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
            while fs::read_dir(&outputs).unwrap().next().is_none() {
                assert!(child.try_wait().unwrap().is_none(), "it ended before anything was written");
                std::thread::sleep(std::time::Duration::from_millis(1));
            }
            let file = fs::OpenOptions::new().write(true).open(&model).unwrap();
            file.set_len(8 << 20).unwrap();
            let run = common::ran(child.wait_with_output().unwrap());
            assert_eq!((run.code, run.stdout.as_str()), (1, ""), "{run:?}");
            assert_eq!(run.error(), format!("error: {} changed while it was read", model.display()));
            assert!(fs::read_dir(&outputs).unwrap().next().is_none(), "nothing is left behind");
            file.set_len(whole).unwrap();
        }
    }

    #[test]
    fn a_bus_error_of_another_cause_still_ends_the_process() {
        let mut child = command(["run", path_text(&tiny()), "-p", "x", "-n", "-1", "-c", "100000", "--ignore-eos"])
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        std::io::Read::read_exact(child.stdout.as_mut().unwrap(), &mut [0]).unwrap();
        assert!(Command::new("kill").args(["-BUS", &child.id().to_string()]).status().unwrap().success());
        let _ = std::io::Read::read_to_end(child.stdout.as_mut().unwrap(), &mut Vec::new());
        assert_eq!(child.wait().unwrap().signal(), Some(7));
    }

    /// The limits of the shell's `ulimit`, with the signals that come of them as they are by default.
    fn limited(limit: &str, arguments: &[&str]) -> std::process::Output {
        let script = format!("ulimit {limit}; exec env --default-signal=XFSZ,XCPU \"$@\"");
        let binary = env!("CARGO_BIN_EXE_rotor");
        Command::new("sh").args(["-c", &script, "sh", binary]).args(arguments).output().unwrap()
    }

    #[test]
    fn limits_on_files_and_processor_time_leave_nothing_behind() {
        let folder = tempfile::tempdir().unwrap();
        let out = folder.path().join("m.gguf");
        let run = common::ran(limited("-f 100", &["synth", "tiny", path_text(&out)]));
        assert_eq!(run.code, 1, "{run:?}");
        assert!(run.error().starts_with(&format!("error: cannot write {}: ", out.display())), "{run:?}");
        assert!(fs::read_dir(folder.path()).unwrap().next().is_none(), "nothing is left behind");
        let output = limited("-S -t 1", &["synth", "falcon3-10b", path_text(&out)]);
        assert_eq!(output.status.signal(), Some(24), "{output:?}");
        assert!(fs::read_dir(folder.path()).unwrap().next().is_none(), "nothing is left behind");
    }

    #[test]
    fn a_reader_without_a_map_does_not_mind_a_file_that_shrinks() {
        let folder = tempfile::tempdir().unwrap();
        let model = Gguf::of(&tiny()).write(folder.path(), "m.gguf");
        let arguments = ["run", path_text(&model), "-p", "x", "-n", "64", "--ignore-eos", "--no-mmap"];
        let expected = rotor(arguments).stdout;
        let mut child = command(arguments).stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
        let mut text = vec![0; 1];
        std::io::Read::read_exact(child.stdout.as_mut().unwrap(), &mut text).unwrap();
        fs::OpenOptions::new().write(true).open(&model).unwrap().set_len(0).unwrap();
        std::io::Read::read_to_end(child.stdout.as_mut().unwrap(), &mut text).unwrap();
        assert!(child.wait().unwrap().success());
        assert_eq!(String::from_utf8(text).unwrap(), expected);
    }
}

#[test]
fn a_schema_is_kept_to_or_refused_by_name() {
    let folder = tempfile::tempdir().unwrap();
    let schema = folder.path().join("schema.json");
    let run = |text: &str, more: &[&str]| {
        std::fs::write(&schema, text).unwrap();
        rotor(["run", "-p", "A king: ", "--json-schema", path_text(&schema)].iter().chain(more).copied())
    };
    let person = r#"{"type": "object", "properties": {"age": {"type": "integer", "minimum": 0, "maximum": 99}},
        "required": ["age"], "additionalProperties": false}"#;
    let kept = run(person, &[]);
    assert_eq!(kept.code, 0, "{}", kept.stderr);
    let found: serde_json::Value = serde_json::from_str(&kept.stdout).unwrap();
    assert!((0..=99).contains(&found["age"].as_i64().unwrap()), "{found}");
    let cut = run(person, &["-n", "2"]);
    assert!(cut.code == 0 && cut.stderr.contains("the JSON is not complete"), "{}", cut.stderr);
    for (text, told) in [
        ("{", "is no JSON"),
        ("[1]", "must be a JSON object"),
        (r#"{"not": {}}"#, "cannot be kept to"),
        (r#"{"type": "strin"}"#, "cannot be kept to"),
        ("\u{0}", "is no JSON"),
    ] {
        let refused = run(text, &[]);
        assert_eq!((refused.code, refused.stdout.as_str()), (1, ""), "{text}");
        assert!(refused.error().contains(told) && refused.error().contains("schema.json"), "{}", refused.stderr);
    }
    let missing = rotor(["run", "-p", "x", "--json-schema", "nowhere.json"]);
    assert!(missing.code == 1 && missing.error().contains("nowhere.json"), "{}", missing.stderr);
}
