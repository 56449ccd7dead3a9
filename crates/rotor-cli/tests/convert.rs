//! Converting, extracting and comparing through the real binary.

#![expect(clippy::unwrap_used, reason = "a test says what is wrong by panicking")]

mod common;

use common::{Ran, checkpoint, path_text, rotor, tiny};
use serde_json::Value;
use sha2::{Digest, Sha256};
use std::fs;
use std::path::Path;

fn json(run: &Ran) -> Value {
    assert_eq!(run.code, 0, "{}", run.stderr);
    serde_json::from_str(&run.stdout).unwrap()
}

fn names(folder: &Path) -> Vec<String> {
    let entries = fs::read_dir(folder).unwrap();
    let mut names: Vec<_> = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

/// The output of a model's logits.
fn logits(model: &Path, folder: &Path) -> Vec<u8> {
    let out = folder.join("logits.safetensors");
    let run = rotor(["logits", path_text(model), "--ids", "1,2,3,4", "-o", path_text(&out)]);
    assert_eq!(run.code, 0, "{}", run.stderr);
    fs::read(out).unwrap()
}

#[test]
fn a_model_goes_round_through_every_kind_of_file() {
    let folder = tempfile::tempdir().unwrap();
    // The first conversion notes how finely activations are kept; from then on nothing changes.
    let source = folder.path().join("source.gguf");
    assert_eq!(rotor(["convert", path_text(&tiny()), path_text(&source), "--type", "i2_s"]).code, 0);
    let expected = logits(&source, folder.path());
    assert!(logits(&tiny(), folder.path()) == expected);
    let text = "Round trips of a café's résumé.";
    let ids = rotor(["tokenize", path_text(&source), "--ids", text]).stdout;
    let mut from = source.clone();
    for (to, form) in [
        ("a.safetensors", "rotor"),
        ("b.gguf", "tq2_0"),
        ("c", "hf"),
        ("d.safetensors", "bitnet"),
        ("e.gguf", "i2_s_64"),
    ] {
        let to = folder.path().join(to);
        let report = json(&rotor(["convert", path_text(&from), path_text(&to), "--type", form, "--verify", "--json"]));
        assert_eq!((&report["form"], &report["verified"]), (&form.into(), &true.into()));
        assert_eq!(report["ternary"].as_array().unwrap().len(), 28);
        assert!(logits(&to, folder.path()) == expected, "{form}");
        assert_eq!(rotor(["tokenize", path_text(&to), "--ids", text]).stdout, ids, "{form}");
        from = to;
    }
    let back = folder.path().join("back.gguf");
    let via_planes = folder.path().join("a.safetensors");
    let run = rotor(["convert", path_text(&via_planes), path_text(&back), "--type", "i2_s"]);
    assert!(run.stdout.contains("28 of them ternary") && run.stdout.contains("every scale is held exactly"), "{run:?}");
    assert!(fs::read(&back).unwrap() == fs::read(&source).unwrap(), "byte for byte");
}

#[test]
fn the_report_names_the_sha_256_of_the_file() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("m.gguf");
    let report = json(&rotor(["convert", path_text(&tiny()), path_text(&out), "--type", "tq1_0", "--json"]));
    let file = &report["files"][0];
    assert_eq!((&file["name"], &file["bytes"]), (&"m.gguf".into(), &fs::metadata(&out).unwrap().len().into()));
    let expected: String = Sha256::digest(fs::read(&out).unwrap()).iter().map(|byte| format!("{byte:02x}")).collect();
    assert_eq!(file["sha256"].as_str().unwrap(), expected);
}

#[test]
fn diff_tells_the_same_from_the_different() {
    let (source, folder) = (tiny(), tempfile::tempdir().unwrap());
    let (planes, coarse) = (folder.path().join("planes.safetensors"), folder.path().join("coarse.gguf"));
    rotor(["convert", path_text(&source), path_text(&planes), "--type", "rotor"]);
    rotor(["convert", path_text(&source), path_text(&coarse), "--type", "i2_s", "--head", "q4_k"]);
    let same = rotor(["diff", path_text(&source), path_text(&planes)]);
    assert_eq!(same.code, 0);
    assert!(same.stdout.starts_with("the same model: 46 tensors"), "{same:?}");
    let different = rotor(["diff", path_text(&planes), path_text(&coarse)]);
    assert_eq!(different.code, 1);
    assert!(different.stdout.starts_with("token_embd.weight: ") && different.stderr.is_empty(), "{different:?}");
    let other = rotor(["diff", path_text(&source), path_text(&checkpoint("llama-packed")), "--json"]);
    let object: Value = serde_json::from_str(&other.stdout).unwrap();
    assert_eq!((other.code, &object["same"]), (1, &false.into()));
    assert!(object["config"].as_array().unwrap().iter().any(|one| one["name"] == "architecture"), "{object}");
}

#[test]
fn extract_writes_arrays() {
    let (source, folder) = (tiny(), tempfile::tempdir().unwrap());
    let extract = |arguments: &[&str], file: &str| {
        let out = folder.path().join(file);
        rotor(["extract", path_text(&source), "-o", path_text(&out), "--json"].iter().chain(arguments))
    };
    let layer = json(&extract(&["--layer", "1", "--as", "planes"], "layer.npz"));
    assert_eq!(layer["arrays"].as_array().unwrap().len(), 4 + 3 * 7);
    let one = json(&extract(&["--tensor", "blk.0.ffn_down", "--as", "i8"], "one.npy"));
    assert_eq!(one["arrays"][0]["shape"], serde_json::json!([256, 768]));
    assert_eq!(one["scales_left_out"][0][0], "blk.0.ffn_down.scale");
    assert_eq!(fs::metadata(folder.path().join("one.npy")).unwrap().len(), 128 + 256 * 768);
    for (arguments, file, why) in [
        (["--layer", "4", "--as", "f32"], "x.npz", "the model has layers 0 to 3"),
        (["--layer", "0", "--as", "f32"], "x.npy", "it holds one"),
        (["--tensor", "nothing", "--as", "f32"], "x.npz", "tensor \"nothing\" is missing"),
        (["--tensor", "token_embd", "--as", "i8"], "x.npz", "it is not ternary"),
        (["--tensor", "blk.0.attn_q", "--as", "i8"], "x.txt", "known are .safetensors, .npz and .npy"),
    ] {
        let run = extract(&arguments, file);
        assert_eq!(run.code, 1);
        assert!(run.error().contains(why), "{run:?}");
    }
    assert_eq!(names(folder.path()), ["layer.npz", "one.npy"]);
    assert_eq!(rotor(["extract", path_text(&source), "-o", "x.npz", "--as", "i8"]).code, 2);
}

#[test]
fn inspect_counts_trits() {
    let object = json(&rotor(["inspect", path_text(&tiny()), "--json", "--trits"]));
    let total = &object["trits_total"];
    assert!((total["sparsity"].as_f64().unwrap() - 0.4).abs() < 0.01, "{total}");
    assert!((total["entropy_bits_per_weight"].as_f64().unwrap() - 1.571).abs() < 0.01, "{total}");
    assert!(total["scale_min"].as_f64().unwrap() < total["scale_max"].as_f64().unwrap());
}

#[test]
fn wrong_usage_is_told_apart_from_failure() {
    let source = tiny();
    let source = path_text(&source);
    for arguments in
        [vec!["convert", source, "x.gguf"], vec!["convert", source, "x.gguf", "--type", "q4_0"], vec!["diff", source]]
    {
        assert_eq!(rotor(&arguments).code, 2, "{arguments:?}");
    }
    let itself = rotor(["convert", source, source, "--type", "tq2_0"]);
    assert_eq!(itself.code, 1);
    assert!(itself.error().contains("another file than the input"), "{itself:?}");
}

/// A shell's limit on the size of files stands for a full disk.
#[cfg(unix)]
mod interrupted {
    use super::*;
    use std::os::unix::process::ExitStatusExt;
    use std::process::{Command, Output};

    fn limited(script: &str, out: &Path) -> Output {
        let mut shell = Command::new("sh");
        shell.args(["-c", script, "sh", env!("CARGO_BIN_EXE_rotor"), path_text(&tiny()), path_text(out)]);
        shell.output().unwrap()
    }

    #[test]
    fn a_process_that_is_killed_leaves_no_output() {
        let folder = tempfile::tempdir().unwrap();
        let out = folder.path().join("m.gguf");
        fs::write(&out, "old").unwrap();
        let mut child = common::command(["synth", "falcon3-10b", path_text(&out)]).spawn().unwrap();
        while names(folder.path()).len() == 1 {
            assert!(child.try_wait().unwrap().is_none(), "it ended before anything was written");
            std::thread::sleep(std::time::Duration::from_millis(1));
        }
        child.kill().unwrap();
        assert!(child.wait().unwrap().signal().is_some());
        assert_eq!(fs::read(&out).unwrap(), b"old");
        // Nobody was left to remove it, and its name tells what it is.
        assert!(names(folder.path()).iter().all(|name| name == "m.gguf" || name.ends_with(".part")));
    }

    #[test]
    fn a_disk_that_is_full_is_told_and_nothing_is_left() {
        let folder = tempfile::tempdir().unwrap();
        for (out, form) in [("m.gguf", "tq2_0"), ("m.safetensors", "rotor"), ("folder", "hf")] {
            let out = folder.path().join(out);
            let script = format!("trap '' XFSZ; ulimit -f 200; exec \"$1\" convert \"$2\" \"$3\" --type {form}");
            let output = limited(&script, &out);
            let error = String::from_utf8(output.stderr).unwrap();
            assert_eq!(output.status.code(), Some(1), "{error}");
            assert!(error.starts_with("error: cannot write ") && error.contains("too large"), "{error}");
            assert_eq!(names(folder.path()), [""; 0], "{form}");
        }
    }
}
