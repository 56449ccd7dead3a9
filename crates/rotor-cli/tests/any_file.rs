//! What people name as a model: files that are none, models of other programs, downloads that are not whole. Each is called
//! what it is, and whatever has keys and tensors is shown.

#![expect(clippy::unwrap_used, reason = "a test says what is wrong by panicking")]

mod common;

use common::gguf::Gguf;
use common::{checkpoint, path_text, rotor, tiny};
use rotor::formats::metadata::{Array, Value};
use serde_json::{Value as Json, json};
use std::fs;
use std::path::Path;

/// What `run` and `inspect` say of a file that neither can open, which is the same.
fn refused(path: &Path) -> String {
    let run = rotor(["run", path_text(path), "-p", "x"]);
    let inspect = rotor(["inspect", path_text(path)]);
    assert_eq!((run.code, run.stdout.as_str()), (1, ""), "{run:?}");
    assert_eq!((inspect.code, inspect.error()), (1, run.error()), "{inspect:?}");
    run.error().to_owned()
}

/// What keeps a file from running: `inspect` says it on top and shows the rest, `run` says it and fails.
fn obstacle(path: &Path) -> (String, String) {
    let inspect = rotor(["inspect", path_text(path)]);
    assert_eq!(inspect.code, 0, "{inspect:?}");
    let told = inspect.stdout.lines().nth(2).unwrap().strip_prefix("Does not run: ").unwrap().to_owned();
    let run = rotor(["run", path_text(path), "-p", "x"]);
    assert_eq!((run.code, run.stdout.as_str()), (1, ""), "{run:?}");
    assert!(run.error().ends_with(&told), "{told}: {run:?}");
    let json: Json = serde_json::from_str(&rotor(["inspect", path_text(path), "--json"]).stdout).unwrap();
    assert_eq!((&json["runs"], &json["obstacle"], &json["memory"]), (&json!(false), &json!(told), &Json::Null));
    (told, inspect.stdout)
}

fn edit_config(folder: &Path, edit: impl FnOnce(&mut Json)) {
    let path = folder.join("config.json");
    let mut config: Json = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
    edit(&mut config);
    fs::write(path, config.to_string()).unwrap();
}

/// A copy of a checkpoint.
fn copied(name: &str) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    for file in ["config.json", "model.safetensors"] {
        fs::copy(checkpoint(name).join(file), folder.path().join(file)).unwrap();
    }
    folder
}

#[test]
fn files_of_another_kind_are_called_what_they_are() {
    let folder = tempfile::tempdir().unwrap();
    let pointer = b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 1187801280\n";
    let cases: [(&[u8], &str); 10] = [
        (
            pointer,
            "a Git LFS pointer, which stands for a file that was not fetched, is not a model: run `git lfs pull`",
        ),
        (b"<!DOCTYPE html>\n<html><head>", "a web page is not a model: download the file"),
        (b"{\"error\":\"Repository not found\"}", "a JSON text ({\"error\":\"Repository not found\"}) is not a model"),
        (b"", "an empty file is not a model: download it again"),
        (b"tjgg\x03\0\0\0\0\x7d\0\0", "a GGML file of 2023, older than GGUF, is not a model: "),
        (b"PK\x03\x04\0\0\x08\x08archive/data.pkl", "a PyTorch checkpoint is not a model: it has to be converted"),
        (b"PK\x03\x04\0\0\x08\x08model.gguf", "a zip archive is not a model: unpack it"),
        (b"\x1f\x8b\x08\0\0\0\0\0", "a gzip archive is not a model: unpack it"),
        (&[0; 512], "a file of zeros is not a model: "),
        (b"nothing that is known \xff", "first bytes: expected those of a GGUF or safetensors file, found \"noth\""),
    ];
    for name in ["m.gguf", "m.safetensors", "m.gguf.part", "m"] {
        for (bytes, expected) in cases {
            let path = folder.path().join(name);
            fs::write(&path, bytes).unwrap();
            let told = refused(&path);
            assert!(told.starts_with(&format!("error: {}: {expected}", path.display())), "{told}");
        }
    }
    fs::write(folder.path().join("model.safetensors"), pointer).unwrap();
    fs::copy(checkpoint("bitnet-packed").join("config.json"), folder.path().join("config.json")).unwrap();
    assert!(obstacle(folder.path()).0.contains("model.safetensors: a Git LFS pointer, "));
    fs::write(folder.path().join("config.json"), pointer).unwrap();
    assert!(refused(folder.path()).contains("config.json: a Git LFS pointer, "));
}

#[test]
fn a_model_under_another_name_runs() {
    let folder = tempfile::tempdir().unwrap();
    let gguf = folder.path().join("model.safetensors");
    fs::copy(tiny(), &gguf).unwrap();
    assert_eq!(rotor(["run", path_text(&gguf), "-p", "x", "-n", "1"]).code, 0);
    let planes = folder.path().join("planes.gguf.part");
    let run = rotor(["convert", path_text(&gguf), path_text(&planes), "--type", "rotor"]);
    assert_eq!(run.code, 0, "{run:?}");
    assert_eq!(rotor(["run", path_text(&planes), "-p", "x", "-n", "1"]).code, 0);
}

#[cfg(unix)]
#[test]
fn what_cannot_be_read_from_any_place() {
    let folder = tempfile::tempdir().unwrap();
    let pipe = folder.path().join("m.gguf");
    assert!(std::process::Command::new("mkfifo").arg(&pipe).status().unwrap().success());
    assert!(refused(&pipe).contains("expected a regular file, found a pipe"));
    assert!(refused(Path::new("/dev/null")).ends_with("expected a regular file, found a device"));
    assert!(refused(&folder.path().join("absent.gguf")).contains("absent.gguf: No such file"));
}

#[test]
fn folders_that_hold_something_else_than_a_model() {
    let folder = tempfile::tempdir().unwrap();
    let model = folder.path().join("x.gguf");
    fs::create_dir(&model).unwrap();
    assert!(refused(&model).contains("config.json is missing: a model is a .gguf file or a folder"));
    fs::write(model.join("pytorch_model-00001-of-00002.bin"), "x").unwrap();
    fs::write(model.join("pytorch_model-00002-of-00002.bin"), "x").unwrap();
    let told = refused(&model);
    let others = "the folder holds pytorch_model-00001-of-00002.bin, pytorch_model-00002-of-00002.bin, which have to be converted";
    assert!(told.contains(others), "{told}");
    fs::copy(checkpoint("bitnet-packed").join("config.json"), model.join("config.json")).unwrap();
    let (told, page) = obstacle(&model);
    assert!(told.contains("model.safetensors or model.safetensors.index.json") && told.contains(others), "{told}");
    assert!(page.contains("num_hidden_layers"), "{page}");
    fs::copy(checkpoint("bitnet-packed").join("model.safetensors"), model.join("weights.safetensors")).unwrap();
    let (told, _) = obstacle(&model);
    assert!(told.ends_with("the folder holds weights.safetensors, name that file"), "{told}");
    assert_eq!(rotor(["inspect", path_text(&model.join("weights.safetensors"))]).code, 0);

    let adapter = tempfile::tempdir().unwrap();
    fs::write(adapter.path().join("adapter_config.json"), "{}").unwrap();
    fs::write(adapter.path().join("adapter_model.safetensors"), "x").unwrap();
    assert!(
        refused(adapter.path()).contains("an adapter (LoRA), is not supported: it changes another model's weights")
    );
}

#[test]
fn a_shard_that_is_missing_or_holds_other_tensors_than_the_index_says() {
    let folder = copied("bitnet-packed");
    let inside = |name: &str| folder.path().join(name);
    fs::rename(inside("model.safetensors"), inside("model-00001-of-00002.safetensors")).unwrap();
    let index = |shard: &str| {
        let weight_map = json!({ "model.norm.weight": "model-00001-of-00002.safetensors", "lm_head.weight": shard });
        fs::write(inside("model.safetensors.index.json"), json!({ "weight_map": weight_map }).to_string()).unwrap();
    };
    index("model-00002-of-00002.safetensors");
    let (told, page) = obstacle(folder.path());
    assert!(told.starts_with("cannot open ") && told.contains("model-00002-of-00002.safetensors: "), "{told}");
    assert!(page.contains("model.layers.0.self_attn.q_proj.weight"), "{page}");
    index("model-00001-of-00002.safetensors");
    let (told, _) = obstacle(folder.path());
    assert!(told.contains("tensor \"lm_head.weight\", which the index puts in model-00001"), "{told}");
}

#[test]
fn a_byte_order_mark_is_skipped() {
    let folder = copied("bitnet-packed");
    let config = folder.path().join("config.json");
    fs::write(&config, [b"\xef\xbb\xbf", fs::read(&config).unwrap().as_slice()].concat()).unwrap();
    let run = rotor(["inspect", path_text(folder.path())]);
    assert_eq!(run.code, 0, "{run:?}");
    assert!(!run.stdout.contains("Does not run"), "{run:?}");
}

#[test]
fn a_download_that_is_not_whole_tells_both_sizes() {
    let (folder, whole) = (tempfile::tempdir().unwrap(), fs::read(tiny()).unwrap());
    let path = folder.path().join("m.gguf.part");
    fs::write(&path, &whole[..whole.len() - 1000]).unwrap();
    let (told, page) = obstacle(&path);
    let (needed, found) = (whole.len(), whole.len() - 1000);
    let expected = format!("the file is cut short: it should have {needed} bytes and has {found}; download it again");
    assert_eq!(told, expected);
    assert!(page.contains("blk.0.attn_q.weight") && page.contains("general.architecture"), "{page}");
    assert_eq!(rotor(["tokenize", path_text(&path), "--ids", "hello"]).code, 0);

    let safetensors = copied("bitnet-packed");
    let weights = safetensors.path().join("model.safetensors");
    let whole = fs::read(&weights).unwrap();
    fs::write(&weights, &whole[..whole.len() / 2]).unwrap();
    let (told, page) = obstacle(safetensors.path());
    assert!(told.contains(&format!("it should have {} bytes and has {}", whole.len(), whole.len() / 2)), "{told}");
    assert!(page.contains("model.layers.0.self_attn.q_proj.weight"), "{page}");
}

#[test]
fn a_gguf_of_any_kind_is_shown_and_called_what_it_is() {
    let folder = tempfile::tempdir().unwrap();
    let sound = Gguf::of(&tiny());
    let architecture = sound.keys.iter().find(|(key, _)| key == "general.architecture").unwrap().1.clone();
    assert_eq!(architecture, Value::String(b"bitnet-b1.58".to_vec()));
    let lora = |name: &str| name.ends_with("attn_q.weight");
    let mut adapter = sound.clone().only(lora).text("general.type", "adapter");
    adapter.tensors.iter_mut().for_each(|tensor| tensor.0.push_str(".lora_a"));
    let cases = [
        (sound.clone().text("general.architecture", "qwen35"), "architecture \"qwen35\" is not supported"),
        (
            sound.clone().text("general.architecture", "clip"),
            "architecture \"clip\" is not supported: it is a vision projector",
        ),
        (sound.clone().text("general.type", "mmproj"), "a vision projector (mmproj) is not supported"),
        (sound.clone().text("general.type", "imatrix"), "an importance matrix (imatrix) is not supported"),
        (
            sound.clone().text("general.architecture", "controlvector"),
            "architecture \"controlvector\" is not supported: it is a control",
        ),
        (
            sound.clone().text("general.architecture", "dflash"),
            "architecture \"dflash\" is not supported: it is a drafter",
        ),
        (adapter, "an adapter (LoRA) is not supported: it changes another model's weights"),
        (sound.clone().only(|name| !name.starts_with("blk.0")), "tensor \"blk.0."),
        (sound.clone().only(|_| false), "a vocabulary without weights is not supported: it can be used to tokenize"),
    ];
    for (gguf, expected) in cases {
        let path = gguf.write(folder.path(), "m.gguf");
        let (told, page) = obstacle(&path);
        assert!(told.starts_with(expected), "{told:?}, not {expected:?}");
        assert!(page.contains("general.architecture = ") && page.contains("Tensors: "), "{page}");
        gguf.tensors.iter().for_each(|(name, ..)| assert!(page.contains(name.as_str()), "{name}: {page}"));
        let ids = rotor(["tokenize", path_text(&path), "--ids", "hello world"]);
        let expected = rotor(["tokenize", path_text(&tiny()), "--ids", "hello world"]);
        assert_eq!((ids.code, ids.stdout), (0, expected.stdout), "{}", ids.stderr);
    }
}

#[test]
fn longrope_without_its_tensors_runs_to_the_original_context_and_no_further() {
    let (folder, sound) = (tempfile::tempdir().unwrap(), Gguf::of(&tiny()));
    let path = sound
        .text("bitnet-b1.58.rope.scaling.type", "longrope")
        .set("bitnet-b1.58.rope.scaling.original_context_length", Value::U32(32))
        .write(folder.path(), "m.gguf");
    let (model, out) = (path_text(&path), folder.path().join("l.safetensors"));
    let logits = |count: usize| rotor(["logits", model, "--ids", &vec!["1"; count].join(","), "-o", path_text(&out)]);
    let within = logits(32);
    assert!(within.code == 0 && within.stderr.contains("it runs to 32 tokens, no further"), "{within:?}");
    for run in [logits(33), rotor(["embed", model, "--ids", &vec!["1"; 33].join(",")])] {
        assert_eq!(run.code, 1, "{run:?}");
        let told = "33 tokens are more than 32: RoPE scaling is longrope, and the file lacks its factors for more";
        assert!(run.error().contains(told), "{run:?}");
    }
}

#[test]
fn a_file_of_another_version_or_byte_order() {
    let (folder, whole) = (tempfile::tempdir().unwrap(), fs::read(tiny()).unwrap());
    let path = folder.path().join("m.gguf");
    for (version, expected) in [(1u32.to_le_bytes(), "GGUF version 1"), (3u32.to_be_bytes(), "a big-endian GGUF file")]
    {
        fs::write(&path, [b"GGUF", version.as_slice(), &whole[8..]].concat()).unwrap();
        let told = refused(&path);
        assert!(told.contains(&format!("{expected} is not supported")), "{told}");
    }
}

#[test]
fn a_part_of_a_split_is_shown_and_names_the_first() {
    let (folder, sound) = (tempfile::tempdir().unwrap(), Gguf::of(&tiny()));
    let part = |number: u16| sound.clone().set("split.no", Value::U16(number)).set("split.count", Value::U16(2));
    let second = part(1).write(folder.path(), "m-00002-of-00002.gguf");
    let (told, _) = obstacle(&second);
    assert_eq!(told, "part 2 of a split model is not supported: open its first file, m-00001-of-00002.gguf");
    fs::remove_file(&second).unwrap();
    let first = part(0).write(folder.path(), "m-00001-of-00002.gguf");
    let (told, _) = obstacle(&first);
    assert!(told.starts_with("cannot open ") && told.contains("m-00002-of-00002.gguf: "), "{told}");
}

#[test]
fn keys_that_change_the_numbers_are_refused_and_unknown_ones_are_named() {
    let (folder, sound) = (tempfile::tempdir().unwrap(), Gguf::of(&tiny()));
    let rotated = sound.clone().set("prism.hadamard.version", Value::U32(1)).write(folder.path(), "rotated.gguf");
    let (told, _) = obstacle(&rotated);
    assert!(told.starts_with("metadata key prism.hadamard.version is not supported: the weights are stored rotated"));
    let hf = folder.path().join("hf");
    let run = rotor(["convert", path_text(&rotated), path_text(&hf), "--type", "hf", "--verify"]);
    assert_eq!(run.code, 1);
    assert!(run.error().contains("prism.hadamard.version") && !hf.exists(), "{run:?}");
    let scaled = sound.clone().set("bitnet-b1.58.logit_scale", Value::F32(0.25)).write(folder.path(), "scaled.gguf");
    assert!(obstacle(&scaled).0.starts_with("metadata key bitnet-b1.58.logit_scale = 0.25 is not supported"));

    let unknown = sound.set("bitnet-b1.58.bold_idea", Value::F32(1.0)).write(folder.path(), "unknown.gguf");
    let run = rotor(["run", path_text(&unknown), "-p", "x", "-n", "1"]);
    assert_eq!(run.code, 0);
    assert!(run.stderr.contains("warning: metadata keys that rotor does not know") && run.stderr.contains("bold_idea"));
    let run = rotor(["diff", path_text(&tiny()), path_text(&unknown)]);
    let told = "unknown.gguf: metadata keys that rotor does not know and does not follow: bitnet-b1.58.bold_idea";
    assert!(run.code == 0 && run.stderr.contains(told), "{run:?}");
    let folder = copied("bitnet-packed");
    edit_config(folder.path(), |config| config["bold_idea"] = json!(1));
    let run = rotor(["inspect", path_text(folder.path())]);
    assert!(run.stdout.contains("fields of config.json that rotor does not know and does not follow: bold_idea"));
    edit_config(folder.path(), |config| config["scale_emb"] = json!(12));
    assert!(obstacle(folder.path()).0.contains("scale_emb = 12 in config.json is not supported"));
}

#[test]
fn a_conversion_carries_what_it_does_not_understand_or_says_what_it_leaves() {
    let (folder, sound) = (tempfile::tempdir().unwrap(), Gguf::of(&tiny()));
    let odd = sound
        .set("bitnet-b1.58.bold_idea", Value::Array(Array::U32(vec![1, 2])))
        .text("someone.note", "kept")
        .text("tokenizer.ggml.bold_idea", "left");
    let source = odd.write(folder.path(), "m.gguf");
    let (hf, planes, back) =
        (folder.path().join("hf"), folder.path().join("p.safetensors"), folder.path().join("b.gguf"));
    for (from, to, form) in [(&source, &hf, "hf"), (&hf, &planes, "rotor"), (&planes, &back, "tq2_0")] {
        let run = rotor(["convert", path_text(from), path_text(to), "--type", form, "--verify"]);
        assert_eq!(run.code, 0, "{run:?}");
        let is_left =
            run.stdout.contains("keys without a place in the output that stay behind: tokenizer.ggml.bold_idea");
        assert_eq!(is_left, form == "hf", "{run:?}");
    }
    let keys = rotor(["inspect", path_text(&back)]).stdout;
    assert!(keys.contains("bitnet-b1.58.bold_idea = array of 2") && keys.contains("someone.note = \"kept\""), "{keys}");

    edit_config(&hf, |config| config["another_idea"] = json!(1));
    fs::write(hf.join("modeling_idea.py"), "").unwrap();
    let run = rotor(["convert", path_text(&hf), path_text(&folder.path().join("c.gguf")), "--type", "i2_s"]);
    assert!(run.stdout.contains("keys without a place in the output that stay behind: another_idea"), "{run:?}");
    assert!(run.stdout.contains("other files that stay behind: modeling_idea.py"), "{run:?}");
}

#[test]
fn a_number_of_heads_for_each_layer() {
    let (folder, sound) = (tempfile::tempdir().unwrap(), Gguf::of(&tiny()));
    let key = "bitnet-b1.58.attention.head_count_kv";
    let (_, found) = sound.keys.iter().find(|(known, _)| known == key).unwrap();
    let heads = u32::try_from(found.as_usize().unwrap()).unwrap();
    let equal = sound.clone().set(key, Value::Array(Array::U32(vec![heads; 4]))).write(folder.path(), "equal.gguf");
    assert_eq!(rotor(["run", path_text(&equal), "-p", "x", "-n", "1"]).code, 0);
    let unequal = Value::Array(Array::I32(vec![heads as i32, 1, 1, 1]));
    let unequal = sound.set(key, unequal).write(folder.path(), "unequal.gguf");
    let (told, _) = obstacle(&unequal);
    let expected = format!("metadata key {key} = [{heads}, 1, 1, 1], which differs by layer, is not supported");
    assert!(told.starts_with(&expected), "{told}");

    let folder = copied("bitnet-packed");
    edit_config(folder.path(), |config| config["num_key_value_heads"] = json!([2, 2, 2]));
    assert!(rotor(["inspect", path_text(folder.path())]).stdout.contains("2 for keys and values"));
    edit_config(folder.path(), |config| config["num_key_value_heads"] = json!([2, 1, 2]));
    assert!(
        obstacle(folder.path()).0.contains("num_key_value_heads in config.json = [2, 1, 2], which differs by layer")
    );
}
