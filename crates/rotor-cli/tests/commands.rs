//! What the commands print.

#![expect(clippy::unwrap_used, reason = "a test says what is wrong by panicking")]

mod common;

use common::{Ran, checkpoint, command, path_text, rotor, rotor_with_input, tiny};
use serde_json::Value;
use std::fs;
use std::io::Read;
use std::process::Stdio;

fn json(run: &Ran) -> Value {
    assert_eq!(run.code, 0, "{}", run.stderr);
    serde_json::from_str(&run.stdout).unwrap()
}

#[test]
fn the_text_does_not_depend_on_threads_or_on_how_it_is_given() {
    let model = tiny();
    let model = path_text(&model);
    let prompt = "A model that nobody has trained speaks in riddles. ".repeat(3);
    for sampling in [["--temp", "0"], ["--temp", "1.5"]] {
        let texts = ["1", "2", "3"].map(|threads| {
            let run = rotor(
                ["run", model, "-t", threads, "-n", "24", "--seed", "7", "--ignore-eos"]
                    .iter()
                    .chain(&sampling)
                    .chain(&["-p", &prompt]),
            );
            assert_eq!(run.code, 0, "{}", run.stderr);
            run.stdout
        });
        assert!(texts[0].len() > 1 && texts[0].ends_with('\n'), "{:?}", texts[0]);
        assert!(texts.iter().all(|text| *text == texts[0]), "{texts:?}");
        let piped = rotor_with_input(
            ["run", model, "-n", "24", "--seed", "7", "--ignore-eos"].iter().chain(&sampling),
            prompt.as_bytes(),
        );
        assert_eq!(piped.stdout, texts[0]);
    }
}

#[test]
fn a_run_prints_the_continuation_alone_and_its_rates_on_stderr() {
    let model = tiny();
    let run = rotor(["run", path_text(&model), "-p", "Once upon a time", "-n", "8"]);
    assert!(!run.stdout.contains("Once upon"), "{run:?}");
    assert!(run.stderr.starts_with("prompt: ") && run.stderr.contains("; generated: 8 tokens, "), "{run:?}");
    let nothing = rotor(["run", path_text(&model), "-p", "Once", "-n", "0"]);
    assert_eq!((nothing.code, nothing.stdout.as_str()), (0, "\n"));
}

#[test]
fn a_run_as_json() {
    let model = tiny();
    let arguments = ["run", path_text(&model), "-p", "Hello", "-n", "8", "--ignore-eos"];
    let plain = rotor(arguments);
    let object = json(&rotor(arguments.iter().chain(&["--json"])));
    assert_eq!(object["text"].as_str().unwrap().trim_end_matches('\n'), plain.stdout.trim_end_matches('\n'));
    assert_eq!(object["tokens"].as_array().unwrap().len(), 8);
    assert_eq!(object["finish_reason"], "length");
    for key in
        ["load_ms", "prompt_n", "prompt_ms", "prompt_per_second", "predicted_n", "predicted_ms", "predicted_per_second"]
    {
        assert!(object["timings"][key].as_f64().unwrap() > 0.0, "{key}: {object}");
    }
    let full = json(&rotor(["run", path_text(&model), "-p", "Hello", "-c", "12", "--ignore-eos", "--json"]));
    assert_eq!(full["finish_reason"], "context_full");
}

#[test]
fn how_much_of_the_head_is_read_changes_no_text() {
    for sampling in [["--temp", "0", "--repeat-penalty", "1.2"], ["--temp", "0.9", "--top-k", "20"]] {
        let run = |read: &str| {
            let arguments = ["run", "-p", "Once upon a time", "-n", "40", "--seed", "4", "--json", "--read", read];
            json(&rotor(arguments.iter().chain(&sampling)))
        };
        let (all, least) = (run("all"), run("least"));
        assert_eq!(all["tokens"], least["tokens"]);
        let count = |run: &Value, key: &str| run["timings"][key].as_u64().unwrap();
        assert_eq!((count(&all, "head_bounded_n"), count(&all, "head_rows")), (0, 0));
        assert!(count(&least, "head_rows") >= count(&least, "head_bounded_n") && count(&least, "head_bounded_n") > 0);
    }
    let wrong = rotor(["run", "-p", "Hello", "--read", "some"]);
    assert!(wrong.code == 2 && wrong.stderr.contains("auto"), "{}", wrong.stderr);
}

#[test]
fn a_chosen_seed_is_told_and_repeats_the_text() {
    let model = tiny();
    let arguments = ["run", path_text(&model), "-p", "Hello", "-n", "16", "--temp", "1", "--json"];
    let first = json(&rotor(arguments));
    let seed = first["seed"].to_string();
    let again = json(&rotor(arguments.iter().chain(&["--seed", &seed])));
    assert_eq!(first["tokens"], again["tokens"]);
}

#[test]
fn a_stop_string_ends_the_text_before_it() {
    let model = tiny();
    let arguments = ["run", path_text(&model), "-p", "42", "-n", "24"];
    let whole = rotor(arguments).stdout;
    let stop: String = whole.chars().skip(4).take(3).collect();
    let cut = json(&rotor(arguments.iter().chain(&["--stop", &stop, "--json"])));
    assert_eq!(cut["finish_reason"], "stop");
    assert_eq!(cut["text"].as_str().unwrap(), &whole[..whole.find(&stop).unwrap()]);
}

#[test]
fn a_chat_applies_the_template() {
    let model = tiny();
    let model = path_text(&model);
    let run = |more: &[&str]| json(&rotor(["run", model, "-p", "Hi", "-n", "8", "--json"].iter().chain(more)));
    let (plain, chat, system) = (run(&[]), run(&["--chat"]), run(&["-s", "Be brief."]));
    let prompt_tokens = |object: &Value| object["timings"]["prompt_n"].as_u64().unwrap();
    assert!(prompt_tokens(&plain) < prompt_tokens(&chat) && prompt_tokens(&chat) < prompt_tokens(&system));
    let piped = json(&rotor_with_input(["run", model, "-n", "8", "--json", "--chat"], b"Hi\n"));
    assert_eq!(piped["tokens"], chat["tokens"]);
}

#[test]
fn an_environment_variable_is_a_flag() {
    let model = tiny();
    let output = command(["run", "-p", "Hello"])
        .env("ROTOR_MODEL", &model)
        .env("ROTOR_MAX_TOKENS", "3")
        .env("ROTOR_JSON", "1")
        .output();
    let object: Value = serde_json::from_slice(&output.unwrap().stdout).unwrap();
    assert_eq!(object["tokens"].as_array().unwrap().len(), 3);
}

#[test]
fn inspecting_a_gguf() {
    let model = tiny();
    let object = json(&rotor(["inspect", path_text(&model), "--json", "--trits"]));
    assert_eq!((&object["kind"], &object["architecture"]), (&"GGUF".into(), &"bitnet".into()));
    assert_eq!(object["config"]["hidden_size"], 256);
    assert_eq!(object["tokenizer"]["tokens"], 1024);
    assert_eq!(object["metadata"]["tokenizer.ggml.tokens"]["length"], 1024);
    let tensors = object["tensors"].as_array().unwrap();
    let embedding = tensors.iter().find(|tensor| tensor["name"] == "token_embd.weight").unwrap();
    assert_eq!((&embedding["type"], &embedding["shape"]), (&"f16".into(), &serde_json::json!([1024, 256])));
    let (weights, all) =
        (object["memory"]["weights_bytes"].as_u64().unwrap(), object["memory"]["total_bytes"].as_u64().unwrap());
    assert!(weights > 0 && all > weights);
    assert_eq!(tensors.iter().filter_map(|tensor| tensor["memory_bytes"].as_u64()).sum::<u64>(), weights);
    let trits = object["trits"].as_array().unwrap();
    assert_eq!(trits.len(), 28);
    let sum = |key: &str| trits.iter().map(|tensor| tensor[key].as_u64().unwrap()).sum::<u64>() as f64;
    let zeros = sum("zero") / (sum("minus") + sum("zero") + sum("plus"));
    assert!((zeros - 0.4).abs() < 0.01, "{zeros}");

    let page = rotor(["inspect", path_text(&model), "--tensors"]).stdout;
    assert!(
        page.contains("  blk.3.ffn_down.weight ")
            && page.contains(" in memory")
            && page.contains("tokenizer.ggml.tokens = array of 1024"),
        "{page}"
    );
}

#[test]
fn inspecting_a_folder_without_a_tokenizer() {
    let model = checkpoint("bitnet-online");
    let object = json(&rotor(["inspect", path_text(&model), "--json"]));
    assert_eq!((&object["kind"], &object["tokenizer"]), (&"Hugging Face".into(), &Value::Null));
    assert!(object["metadata"]["quantization_config"].is_object());
    let page = rotor(["inspect", path_text(&model)]).stdout;
    assert!(page.contains("run, tokenize and perplexity need one"), "{page}");
}

#[test]
fn tokens_there_and_back() {
    let model = tiny();
    let model = path_text(&model);
    let text = "  é🦙\tcode();\r\n\n<|eot_id|> \u{0} end \n";
    let ids = rotor_with_input(["tokenize", model, "--ids"], text.as_bytes());
    assert_eq!(ids.stdout.lines().count(), 1);
    assert_eq!(rotor_with_input(["tokenize", model, "--decode"], ids.stdout.as_bytes()).stdout, text);

    let bos = rotor(["tokenize", model, "--ids", "a"]).stdout;
    let bare = rotor(["tokenize", model, "--ids", "--no-bos", "a"]).stdout;
    assert!(bos.starts_with("768 ") && bos.ends_with(&bare), "{bos:?} {bare:?}");
    let special = rotor(["tokenize", model, "--ids", "--no-bos", "--special", "<|eot_id|>"]).stdout;
    assert_eq!(special, "777\n");
    assert_eq!(
        rotor(["tokenize", model, "--decode", "--special", "768,64,777"]).stdout,
        "<|begin_of_text|>a<|eot_id|>"
    );
    assert_eq!(rotor(["tokenize", model, "--decode", "768,64,777"]).stdout, "a");
    let pieces = rotor(["tokenize", model, "a\u{e9}"]).stdout;
    assert_eq!(pieces, "768\t<|begin_of_text|>\n64\t\"a\"\n127\t\"\\xc3\"\n102\t\"\\xa9\"\n");
    assert_eq!(json(&rotor(["tokenize", model, "--json", "--ids", "a"])), serde_json::json!([768, 64]));
}

#[test]
fn logits_are_the_references() {
    let folder = tempfile::tempdir().unwrap();
    let (model, out) = (checkpoint("bitnet-packed"), folder.path().join("l.safetensors"));
    let read = |path: &std::path::Path, name: &str| {
        let bytes = fs::read(path).unwrap();
        let file = safetensors::SafeTensors::deserialize(&bytes).unwrap();
        let tensor = file.tensor(name).unwrap();
        (tensor.shape().to_vec(), tensor.data().to_vec())
    };
    let expected = model.join("expected.safetensors");
    let (shape, ids) = read(&expected, "input_ids");
    let width = ids.len() / shape.iter().product::<usize>();
    let ids: Vec<String> =
        ids.chunks_exact(width).map(|id| u32::from_le_bytes([id[0], id[1], id[2], id[3]]).to_string()).collect();
    let run = rotor(["logits", path_text(&model), "--ids", &ids.join(","), "-o", path_text(&out)]);
    assert_eq!((run.code, run.stdout.as_str()), (0, ""), "{}", run.stderr);

    let floats = |bytes: Vec<u8>| -> Vec<f32> {
        bytes.chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect()
    };
    let (shape, ours) = read(&out, "logits");
    assert_eq!(shape, [ids.len(), 512]);
    let (ours, theirs) = (floats(ours), floats(read(&expected, "logits").1));
    let largest = theirs.iter().fold(0.0, |largest: f32, logit| largest.max(logit.abs()));
    let difference = ours.iter().zip(&theirs).fold(0.0, |most: f32, (a, b)| most.max((a - b).abs()));
    assert!(difference <= 1e-4 * largest, "{difference} of {largest}");
}

#[test]
fn perplexity_ends_with_the_figure() {
    let model = tiny();
    let text = "The quick brown fox jumps over the lazy dog. ".repeat(8);
    let arguments = ["perplexity", path_text(&model), "-", "--ctx", "64", "--chunks", "2"];
    let run = rotor_with_input(arguments, text.as_bytes());
    assert_eq!(run.code, 0, "{}", run.stderr);
    let figure = run.stdout.strip_prefix("perplexity = ").unwrap().trim_end();
    let (value, error) = figure.split_once(" ± ").unwrap();
    let (value, error): (f64, f64) = (value.parse().unwrap(), error.parse().unwrap());
    assert!(run.stderr.contains("chunk 2/2: perplexity "), "{}", run.stderr);
    let object = json(&rotor_with_input(arguments.iter().chain(&["--json"]), text.as_bytes()));
    assert!((object["perplexity"].as_f64().unwrap() - value).abs() < 1e-4 * value);
    assert!((object["standard_error"].as_f64().unwrap() - error).abs() < 1e-4 * error + 1e-4);
    assert_eq!((&object["chunks"], &object["tokens_scored"]), (&2.into(), &62.into()));
}

#[test]
fn synthetic_models_in_both_forms_are_the_same_model() {
    let folder = tempfile::tempdir().unwrap();
    let hf = folder.path().join("hf");
    let made = rotor(["synth", "tiny", path_text(&hf), "--type", "hf"]);
    assert_eq!(made.code, 0, "{}", made.stderr);
    assert!(made.stdout.starts_with(&format!("wrote {}: tiny, ", hf.display())), "{}", made.stdout);
    let text = |model: &std::path::Path| rotor(["run", path_text(model), "-p", "Hello", "-n", "8"]).stdout;
    assert_eq!(text(&hf), text(&tiny()));
    let again = rotor(["synth", "tiny", path_text(&hf), "--type", "hf"]);
    assert_eq!(again.code, 1);
    assert!(again.error().contains("expected a new or an empty folder"), "{again:?}");
}

#[test]
fn completions_for_every_shell() {
    for shell in ["bash", "zsh", "fish", "powershell", "elvish"] {
        let run = rotor(["completions", shell]);
        assert_eq!(run.code, 0);
        assert!(run.stdout.contains("ROTOR_COMPLETE"), "{shell}");
    }
}

#[test]
fn a_reader_that_leaves_is_no_failure() {
    let model = tiny();
    for arguments in [
        ["run", path_text(&model), "-p", "Hello", "-n", "-1"].as_slice(),
        &["inspect", path_text(&model)],
        &["completions", "bash"],
    ] {
        let mut child = command(arguments).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let mut first = [0; 1];
        child.stdout.take().unwrap().read_exact(&mut first).unwrap();
        let output = child.wait_with_output().unwrap();
        assert_eq!(output.status.code(), Some(0), "{arguments:?}");
        assert!(!String::from_utf8_lossy(&output.stderr).contains("error"), "{arguments:?}");
    }
}

/// `env` sets what is done with signals, which the tests inherit from whoever runs them.
#[cfg(target_os = "linux")]
mod signals {
    use super::*;
    use std::os::unix::process::ExitStatusExt;
    use std::process::{Child, Command};

    fn with_signals(setting: &str, arguments: &[&str]) -> Command {
        let mut command = Command::new("env");
        command.args(["--default-signal=HUP,INT,TERM", setting, env!("CARGO_BIN_EXE_rotor")]).args(arguments);
        command
    }

    fn send(signal: &str, child: &Child) {
        assert!(Command::new("kill").args([signal, &child.id().to_string()]).status().unwrap().success());
    }

    #[test]
    fn ctrl_c_ends_a_run_with_a_whole_line() {
        let model = tiny();
        let arguments = ["run", path_text(&model), "-p", "Hello", "-n", "-1", "-c", "100000", "--ignore-eos"];
        let mut run = with_signals("--default-signal", &arguments);
        let mut child = run.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let mut stdout = child.stdout.take().unwrap();
        let mut text = vec![0; 1];
        stdout.read_exact(&mut text).unwrap();
        send("-INT", &child);
        stdout.read_to_end(&mut text).unwrap();
        let output = child.wait_with_output().unwrap();
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(130), "{stderr}");
        assert!(text.ends_with(b"\n"));
        assert!(stderr.contains("generated: "), "{stderr}");
    }

    /// Sends signals to a process that is writing a large file; returns its exit code, or the signal that ended it.
    fn ended_by(setting: &str, signals: &[&str]) -> (Option<i32>, Option<i32>) {
        let folder = tempfile::tempdir().unwrap();
        let out = folder.path().join("large.gguf");
        let mut synth = with_signals(setting, &["synth", "bitnet-large", path_text(&out)]);
        let mut child = synth.stderr(Stdio::null()).spawn().unwrap();
        let begun = || fs::read_dir(folder.path()).unwrap().next().is_some();
        while !begun() {
            assert!(child.try_wait().unwrap().is_none(), "it ended before anything was written");
            std::thread::sleep(std::time::Duration::from_millis(5));
        }
        signals.iter().for_each(|signal| send(signal, &child));
        let status = child.wait().unwrap();
        assert!(!begun(), "nothing is left behind");
        (status.code(), status.signal())
    }

    #[test]
    fn what_was_half_written_is_removed() {
        assert_eq!(ended_by("--default-signal", &["-INT"]), (Some(130), None));
        assert_eq!(ended_by("--default-signal", &["-TERM"]), (None, Some(15)));
        assert_eq!(ended_by("--default-signal", &["-HUP"]), (None, Some(1)));
    }

    #[test]
    fn signals_that_are_to_be_ignored_are_ignored() {
        assert_eq!(ended_by("--ignore-signal=HUP,INT", &["-HUP", "-INT", "-TERM"]), (None, Some(15)));
    }
}
