//! Every bad input gives one clear sentence on stderr and exit code 1, or 2 for wrong usage.

#![expect(clippy::unwrap_used, reason = "a test says what is wrong by panicking")]

mod common;

use common::{checkpoint, path_text, rotor, rotor_with_input, tiny};
#[cfg(target_os = "linux")]
use common::{command, ran};
use std::fs;
use std::path::Path;

/// Checks that every command that opens a file refuses this one, and returns what it says.
fn refused(model: &Path) -> String {
    let told = does_not_run(model);
    for run in [rotor(["inspect", path_text(model)]), rotor(["tokenize", path_text(model), "x"])] {
        assert_eq!((run.code, run.stdout.as_str()), (1, ""), "{run:?}");
        assert_eq!(run.error(), told);
    }
    told
}

/// Checks that every command that computes with a model refuses this one, and returns what it says.
fn does_not_run(model: &Path) -> String {
    let model = path_text(model);
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("l.safetensors");
    let runs = [
        rotor(["run", model, "-p", "x"]),
        rotor(["logits", model, "--ids", "1", "-o", path_text(&out)]),
        rotor_with_input(["perplexity", model, "-"], b"x"),
    ];
    for run in &runs {
        assert_eq!((run.code, run.stdout.as_str()), (1, ""), "{run:?}");
        assert_eq!(run.error(), runs[0].error());
    }
    assert!(fs::read_dir(folder.path()).unwrap().next().is_none(), "nothing is left behind");
    runs[0].error().to_owned()
}

#[test]
fn files_that_are_no_models() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("m.gguf");
    let mut wrong_version = b"GGUF".to_vec();
    wrong_version.extend(99u32.to_le_bytes());
    wrong_version.extend([0; 16]);
    let files: [&[u8]; 5] = [b"", b"GGUF", b"GGML", b"this is a text, and no model", &wrong_version];
    for bytes in files {
        fs::write(&path, bytes).unwrap();
        let told = refused(&path);
        assert!(told.contains("m.gguf"), "{told}");
    }
}

#[test]
fn a_model_cut_short() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("m.gguf");
    let whole = fs::read(tiny()).unwrap();
    // What still has its keys and tensors can be shown; `any_file.rs` has that.
    type Say = fn(&Path) -> String;
    let cases: [(usize, Say); 3] =
        [(whole.len() / 100, refused), (whole.len() / 2, does_not_run), (whole.len() - 1, does_not_run)];
    for (length, refused) in cases {
        fs::write(&path, &whole[..length]).unwrap();
        let told = refused(&path);
        assert!(told.contains("m.gguf") && told.contains("is cut short"), "{told}");
    }
}

#[test]
fn places_where_there_is_no_model() {
    let folder = tempfile::tempdir().unwrap();
    let told = refused(&folder.path().join("absent.gguf"));
    // Each system says it in its own words: "No such file or directory", "The system cannot find the file specified".
    let words = told.split_once("absent.gguf: ").map(|(_, words)| words).unwrap_or_default();
    assert!(if cfg!(windows) { !words.is_empty() } else { words.starts_with("No such file") }, "{told}");
    let told = refused(folder.path());
    assert!(told.contains("config.json"), "{told}");
}

#[test]
fn folders_that_cannot_be_written_to() {
    let (folder, model) = (tempfile::tempdir().unwrap(), tiny());
    let missing = folder.path().join("no").join("out");
    for arguments in [
        ["synth", "tiny", path_text(&missing), "--seed", "1", "--type", "hf"],
        ["synth", "tiny", path_text(&missing), "--seed", "1", "--type", "i2_s"],
        ["logits", path_text(&model), "--ids", "1", "--kv", "f32", "-o"],
    ] {
        let last = (arguments[0] == "logits").then(|| path_text(&missing));
        let run = rotor(arguments.into_iter().chain(last));
        assert_eq!(run.code, 1);
        assert!(run.error().contains(path_text(&missing)), "{run:?}");
    }
}

#[test]
fn an_output_that_is_the_model_or_a_part_of_it() {
    let model = tiny();
    let before = fs::read(&model).unwrap();
    let run = rotor(["logits", path_text(&model), "--ids", "1", "-o", path_text(&model)]);
    assert_eq!(run.code, 1);
    assert!(run.error().contains("expected another file than the input"), "{run:?}");
    assert_eq!(fs::read(&model).unwrap(), before);

    let folder = checkpoint("llama-packed");
    let inside = folder.join("model.safetensors");
    let run = rotor(["logits", path_text(&folder), "--ids", "1", "-o", path_text(&inside)]);
    assert_eq!(run.code, 1);
    assert!(run.error().contains("expected another file than the input"), "{run:?}");
}

#[test]
fn prompts_that_do_not_fit_or_are_no_text() {
    let model = tiny();
    let model = path_text(&model);
    let run = rotor(["run", model, "-c", "16", "-p", &"long ".repeat(20)]);
    assert_eq!(run.code, 1);
    assert!(run.error().contains("but the context holds 16"), "{run:?}");
    let run = rotor(["run", model, "--kv-memory", "1K", "-p", "long"]);
    assert_eq!(run.code, 1);
    assert!(run.error().contains("raise --kv-memory"), "{run:?}");
    for command in [["run", model].as_slice(), &["tokenize", model], &["perplexity", model, "-"]] {
        let run = rotor_with_input(command, b"ab\xff\xfe");
        assert_eq!((run.code, run.stdout.as_str()), (1, ""));
        assert!(run.error().contains("the standard input is not valid UTF-8"), "{run:?}");
    }
    let run = rotor_with_input(["run", model], b"");
    assert_eq!(run.code, 1);
    assert!(run.error().contains("the standard input is empty"), "{run:?}");
    let run = rotor_with_input(["perplexity", model, "-"], b"too short");
    assert_eq!(run.code, 1);
    assert!(run.error().contains("but one chunk needs 512"), "{run:?}");
    let run = rotor(["perplexity", model, "/no/such/text"]);
    assert_eq!(run.code, 1);
    assert!(run.error().contains("cannot read /no/such/text"), "{run:?}");
}

#[test]
fn token_ids_outside_the_vocabulary() {
    let (model, folder) = (tiny(), tempfile::tempdir().unwrap());
    let (model, out) = (path_text(&model), folder.path().join("l.safetensors"));
    for run in [
        rotor(["logits", model, "--ids", "1,1024", "-o", path_text(&out)]),
        rotor(["tokenize", model, "--decode", "1 1024"]),
    ] {
        assert_eq!(run.code, 1);
        assert_eq!(run.error(), "error: token id 1024 is out of range: the vocabulary has 1024 tokens");
    }
    let run = rotor(["run", model, "-p", "x", "--logit-bias", "1024=1"]);
    assert_eq!(run.code, 1);
    assert!(run.error().contains("token ids below 1024"), "{run:?}");
    assert!(!out.exists());
}

#[test]
fn a_folder_without_a_tokenizer_says_what_is_missing() {
    let model = checkpoint("bitnet-packed");
    let model = path_text(&model);
    for run in [
        rotor(["run", model, "-p", "x"]),
        rotor(["tokenize", model, "x"]),
        rotor_with_input(["perplexity", model, "-"], b"x"),
    ] {
        assert_eq!(run.code, 1);
        assert!(run.error().contains("no tokenizer") && run.error().contains("tokenizer.json"), "{run:?}");
    }
}

/// The model, with the key of its merges under a name that nobody knows.
fn without_merges(folder: &Path) -> std::path::PathBuf {
    let path = folder.join("m.gguf");
    let mut bytes = fs::read(tiny()).unwrap();
    let key = b"tokenizer.ggml.merges";
    let at = bytes.windows(key.len()).position(|window| window == key).unwrap();
    bytes[at + key.len() - 1] = b'X';
    fs::write(&path, bytes).unwrap();
    path
}

#[test]
fn a_broken_tokenizer_stops_only_what_needs_text() {
    let folder = tempfile::tempdir().unwrap();
    let model = without_merges(folder.path());
    let (model, out) = (path_text(&model), folder.path().join("out"));
    let why = "tokenizer.ggml.merges: expected the merges that make its tokens of several bytes, found none";
    assert_eq!(rotor(["tokenize", model, "x"]).error(), format!("error: {why}"));
    for run in [rotor(["run", model, "-p", "x"]), rotor_with_input(["perplexity", model, "-"], b"x")] {
        assert_eq!(run.code, 1, "{run:?}");
        assert!(run.stderr.contains("needs the model's tokenizer, which cannot be used") && run.stderr.contains(why));
    }
    let logits = rotor(["logits", model, "--ids", "1,2", "-o", path_text(&folder.path().join("l.safetensors"))]);
    assert!(logits.code == 0 && logits.stderr.contains("warning: the tokenizer cannot be used, token ids can: "));
    let inspect = rotor(["inspect", model]);
    assert!(inspect.code == 0 && inspect.stdout.contains(why), "{inspect:?}");
    let convert = rotor(["convert", model, path_text(&out), "--type", "hf", "--verify"]);
    assert!(convert.code == 0 && convert.stdout.contains("the tokenizer is left out, since it cannot be used"));
    assert!(!out.join("tokenizer.json").exists());
}

#[test]
fn a_tokenizer_that_the_target_cannot_hold() {
    let folder = tempfile::tempdir().unwrap();
    let (model, hf, out) = (tiny(), folder.path().join("hf"), folder.path().join("out.gguf"));
    assert_eq!(rotor(["convert", path_text(&model), path_text(&hf), "--type", "hf"]).code, 0);
    let json = fs::read_to_string(hf.join("tokenizer.json")).unwrap();
    let normalised = json.replace(r#""normalizer":null"#, r#""normalizer":{"type":"NFC"}"#);
    assert_ne!(normalised, json);
    fs::write(hf.join("tokenizer.json"), normalised).unwrap();
    let convert = ["convert", path_text(&hf), path_text(&out), "--type", "i2_s", "--verify"];
    let refused = rotor(convert);
    assert!(refused.code == 1 && refused.error().contains(r#"the normalizer {"type":"NFC"}"#), "{refused:?}");
    assert!(!out.exists());
    let lossy = rotor(convert.into_iter().chain(["--lossy-tokenizer"]));
    assert!(lossy.stdout.contains(r#"left out of the tokenizer: the normalizer {"type":"NFC"}"#), "{lossy:?}");
    let diff = rotor(["diff", path_text(&hf), path_text(&out)]);
    assert!(diff.code == 1 && diff.stdout.contains("normalizer of the tokenizer: "), "{diff:?}");
    assert_eq!(rotor(["diff", path_text(&model), path_text(&out)]).code, 0);
}

#[test]
fn a_chat_with_a_model_that_cannot() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("m.gguf");
    let bytes = fs::read(tiny()).unwrap();
    // The key is still there, under a name that means nothing.
    let key = b"tokenizer.chat_template";
    let at = bytes.windows(key.len()).position(|window| window == key).unwrap();
    let mut without = bytes;
    without[at..at + key.len()].copy_from_slice(b"tokenizer.chat_nonsense");
    fs::write(&path, without).unwrap();
    let run = rotor(["run", path_text(&path), "--chat", "-p", "x"]);
    assert_eq!(run.code, 1);
    let warning = "warning: metadata key tokenizer.chat_nonsense is not known, and so not used\n";
    let error = "error: the model has no chat template: use it to complete text";
    assert_eq!(run.stderr.trim_end(), format!("{warning}{error}"));
    assert_eq!(rotor(["run", path_text(&path), "-p", "x", "-n", "1"]).code, 0);
}

#[test]
fn wrong_usage() {
    let model = tiny();
    let model = path_text(&model);
    let cases: [&[&str]; 16] = [
        &[],
        &["nonsense"],
        &["run", model, "--nonsense"],
        &["run", model, "-p", "x", "-t", "0"],
        &["run", model, "-p", "x", "-t", "1025"],
        &["run", model, "-p", "x", "-c", "-1"],
        &["run", model, "-p", "x", "-n", "many"],
        &["run", model, "-p", "x", "--temp", "-1"],
        &["run", model, "-p", "x", "--top-p", "NaN"],
        &["run", model, "-p", "x", "--logit-bias", "5"],
        &["run", model, "-p", "x", "--kv", "f64"],
        &["logits", model, "--ids", "1,x", "-o", "/tmp/x"],
        &["logits", model, "--ids", "", "-o", "/tmp/x"],
        &["perplexity", model, "-", "--ctx", "3"],
        &["synth", "gpt-5", "/tmp/x"],
        &["tokenize", model, "--decode", "one two"],
    ];
    for arguments in cases {
        let run = rotor(arguments);
        assert_eq!((run.code, run.stdout.as_str()), (2, ""), "{arguments:?}: {run:?}");
        assert!(!run.stderr.is_empty());
    }
}

#[cfg(target_os = "linux")]
#[test]
fn a_full_disk_under_stdout() {
    let model = tiny();
    for arguments in [
        ["run", path_text(&model), "-p", "x"].as_slice(),
        &["inspect", path_text(&model)],
        &["tokenize", path_text(&model), "x"],
        &["completions", "bash"],
    ] {
        let full = fs::OpenOptions::new().write(true).open("/dev/full").unwrap();
        let run = ran(command(arguments).stdout(full).stderr(std::process::Stdio::piped()).output().unwrap());
        assert_eq!(run.code, 1, "{arguments:?}");
        assert_eq!(run.error(), "error: cannot write to the standard output: No space left on device");
    }
}

/// A limit on the size of files fails writes as a full disk does, wherever the test runs.
#[cfg(target_os = "linux")]
#[test]
fn a_full_disk_under_a_file() {
    let (model, folder) = (tiny(), tempfile::tempdir().unwrap());
    let binary = env!("CARGO_BIN_EXE_rotor");
    let out = folder.path().join("out");
    fs::write(&out, "what was there").unwrap();
    let ids = vec!["1"; 64].join(",");
    for arguments in [
        vec!["logits", path_text(&model), "--ids", &ids, "-o", path_text(&out)],
        vec!["synth", "tiny", path_text(&out)],
    ] {
        // 100 blocks of 512 or 1024 bytes, less than either file. The signal that comes with it is ignored.
        let script = "trap '' XFSZ; ulimit -f 100; exec \"$@\"";
        let output =
            std::process::Command::new("sh").args(["-c", script, "sh", binary]).args(&arguments).output().unwrap();
        let run = ran(output);
        assert_eq!(run.code, 1, "{run:?}");
        assert!(run.error().starts_with(&format!("error: cannot write {}: ", out.display())), "{run:?}");
        assert_eq!(fs::read_to_string(&out).unwrap(), "what was there");
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1, "nothing else is left behind");
    }
}
