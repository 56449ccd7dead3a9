//! Templates, control tokens and what people type.

#![expect(clippy::unwrap_used, reason = "a test says what is wrong by panicking")]

mod common;

use common::{Ran, command, path_text, ran, rotor, rotor_with_input, tiny};
use serde_json::Value;
use std::fs;
use tempfile::TempDir;

/// The synthetic model as a folder, with a chat template of the test's own.
fn with_template(template: &[u8]) -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    let model = folder.path().join("model");
    let made = rotor(["synth", "tiny", path_text(&model), "--type", "hf"]);
    assert_eq!(made.code, 0, "{}", made.stderr);
    fs::write(model.join("chat_template.jinja"), template).unwrap();
    folder
}

/// Tokens of the prompt, or the error.
fn prompt_tokens(run: &Ran) -> u64 {
    assert_eq!(run.code, 0, "{}", run.stderr);
    let object: Value = serde_json::from_str(&run.stdout).unwrap();
    object["timings"]["prompt_n"].as_u64().unwrap()
}

#[test]
fn a_template_that_does_not_compile_stops_chats_and_nothing_else() {
    for (template, told) in [
        (&b"{% nope %}{{ messages }}"[..], "the chat template cannot be read: syntax error: unknown statement nope"),
        (b"{{ messages }}\xff", "chat_template.jinja: expected UTF-8, found an invalid byte at 14, counted from 0"),
    ] {
        let folder = with_template(template);
        let model = folder.path().join("model");
        let model = path_text(&model);
        let run = rotor(["run", model, "-p", "hello", "-n", "2"]);
        assert_eq!(run.code, 0, "{}", run.stderr);
        assert!(run.stderr.contains("warning: ") && run.stderr.contains(told), "{}", run.stderr);
        let out = |name: &str| folder.path().join(name);
        let logits = out("l.safetensors");
        for run in [
            rotor(["logits", model, "--ids", "1,2", "-o", path_text(&logits)]),
            rotor_with_input(
                ["perplexity", model, "-", "-c", "8"],
                "hello world in the hello world ".repeat(9).as_bytes(),
            ),
            rotor(["bench", model, "-p", "4", "-n", "2", "-r", "1"]),
            rotor(["tokenize", model, "hello", "--ids"]),
            rotor(["inspect", model]),
        ] {
            assert_eq!(run.code, 0, "{}", run.stderr);
        }
        let converted = rotor(["convert", model, path_text(&out("m.gguf")), "--type", "i2_s", "--verify"]);
        assert_eq!(converted.code, 0, "{}", converted.stderr);
        let chat = rotor(["run", model, "--chat", "-p", "hello"]);
        assert_eq!((chat.code, chat.stdout.as_str()), (1, ""));
        assert!(chat.error().contains(told), "{}", chat.stderr);
    }
}

#[test]
fn line_ends_of_a_template_do_not_matter() {
    let template = "{% for message in messages %}\n{{ message.content }}\n{% endfor %}\nAnswer:\n";
    let [lf, crlf] = [template.to_owned(), template.replace('\n', "\r\n")].map(|template| {
        let folder = with_template(template.as_bytes());
        prompt_tokens(&rotor([
            "run",
            path_text(&folder.path().join("model")),
            "--chat",
            "-p",
            "x",
            "-n",
            "1",
            "--json",
        ]))
    });
    assert_eq!(lf, crlf);
}

#[test]
fn the_newline_of_a_pipe_is_no_part_of_a_message() {
    let model = tiny();
    let piped = |chat: bool, text: &str| {
        let arguments = ["run", path_text(&model), "-n", "1", "--json"].into_iter().chain(chat.then_some("--chat"));
        prompt_tokens(&rotor_with_input(arguments, text.as_bytes()))
    };
    assert_eq!(piped(true, "hello"), piped(true, "hello\n"));
    assert_eq!(piped(true, "hello"), piped(true, "hello\r\n"));
    assert!(piped(false, "hello") < piped(false, "hello\n"), "a text to be completed is taken as it is");
}

/// The id of a token of the synthetic model.
fn token(text: &str) -> String {
    let run = rotor(["tokenize", path_text(&tiny()), text, "--special", "--no-bos", "--ids"]);
    assert_eq!(run.code, 0, "{}", run.stderr);
    run.stdout.trim().to_owned()
}

#[test]
fn a_stop_string_that_spells_a_control_token_stops_there() {
    let model = tiny();
    let bias = format!("{}=1000", token("<|start_header_id|>"));
    let run = |stop: &str| {
        let arguments = ["run", path_text(&model), "-p", "hello", "-n", "5", "--json", "--logit-bias", &bias, "--stop"];
        rotor(arguments.into_iter().chain([stop]))
    };
    let stopped: Value = serde_json::from_str(&run("<|start_header_id|>").stdout).unwrap();
    assert_eq!((stopped["finish_reason"].as_str(), stopped["tokens"].as_array().unwrap().len()), (Some("stop"), 1));
    let mixed = run("<|start_header_id|>user");
    assert_eq!((mixed.code, mixed.stdout.as_str()), (1, ""));
    assert!(mixed.error().contains("give \"<|start_header_id|>\" alone"), "{}", mixed.stderr);
}

#[test]
fn control_tokens_in_a_prompt_are_named_and_can_be_asked_for() {
    let model = tiny();
    let model = path_text(&model);
    let prompt = "<|begin_of_text|><|start_header_id|>user<|end_header_id|>hi<|eot_id|><|eot_id|>";
    let plain = rotor(["run", model, "-p", prompt, "-n", "1", "--json"]);
    let named =
        "warning: the prompt spells <|begin_of_text|>, <|start_header_id|>, <|end_header_id|>, <|eot_id|>, taken";
    assert!(plain.stderr.contains(named), "{}", plain.stderr);
    let special = rotor(["run", model, "-p", prompt, "-n", "1", "--json", "--special", "--show-prompt"]);
    assert!(!special.stderr.contains("warning"), "{}", special.stderr);
    assert!(prompt_tokens(&special) < 20 && prompt_tokens(&plain) > 60, "{special:?}");
    let begin = special.stderr.matches("\n     768 <|begin_of_text|>").count();
    assert_eq!(begin, 1, "the first token is not doubled: {}", special.stderr);
    let chat = rotor(["run", model, "-p", prompt, "--chat", "--special"]);
    assert_eq!(chat.code, 2);
    assert!(chat.error().contains("--special is for texts to be completed"), "{}", chat.stderr);
}

#[test]
fn the_prompt_of_a_chat_is_shown_with_its_tokens() {
    let model = tiny();
    let shown = rotor(["run", path_text(&model), "--chat", "-p", "hi", "-n", "1", "--show-prompt"]);
    assert!(shown.stderr.starts_with("prompt of ") && shown.stderr.contains("<|eot_id|>"), "{}", shown.stderr);
    let last = shown.stderr.lines().rfind(|line| line.ends_with('"')).unwrap();
    assert!(last.trim_start().split_once(' ').unwrap().0.parse::<u32>().is_ok(), "{last}");
}

#[test]
fn a_run_that_fails_prints_nothing() {
    let model = tiny();
    let run = rotor(["run", path_text(&model), "-p", &"too long ".repeat(20), "-c", "8"]);
    assert_eq!((run.code, run.stdout.as_str()), (1, ""));
}

#[test]
fn a_wrong_value_is_told_about_itself() {
    let model = tiny();
    let model = path_text(&model);
    for (arguments, told) in [
        (&["--seed", "-1"][..], "leave the option out for another seed each time"),
        (&["-t", "-1"], "expected a whole number from 1 to 1024"),
        (&["-t", "0"], "expected a whole number from 1 to 1024"),
        (&["--top-k", "-1"], "expected a whole number from 0 on"),
        (&["-c", "-1"], "expected a whole number from 0 to "),
        (&["--temp", "-1"], "temperature must be between 0 and 100, not -1"),
        (&["--temp", "warm"], "expected a number"),
        (&["-n", "-2"], "expected a whole number of tokens, or -1 for no limit"),
        (&["--seed", ""], "the value of --seed <N> is empty"),
        (&["hello"], "a text goes after -p"),
        (&["-m", model], "the model is named twice"),
    ] {
        let run = rotor(["run", model, "-p", "x"].iter().chain(arguments));
        assert_eq!((run.code, run.stdout.as_str()), (2, ""), "{arguments:?}: {run:?}");
        assert!(run.stderr.contains(told), "{arguments:?}: {}", run.stderr);
        assert!(!run.stderr.contains("-- -"), "{}", run.stderr);
    }
    for (variable, told) in [("ROTOR_MODEL", "ROTOR_MODEL is empty"), ("ROTOR_SEED", "ROTOR_SEED is empty")] {
        let run = ran(command(["run", "-p", "x"]).env(variable, "").output().unwrap());
        assert_eq!(run.code, 2);
        assert!(run.stderr.contains(told), "{}", run.stderr);
    }
}

#[test]
fn a_model_may_be_named_as_other_programs_name_it() {
    let model = tiny();
    let model = path_text(&model);
    let alone = rotor(["run", model, "-p", "x", "-n", "4"]);
    for arguments in [["run", "-m", model], ["run", "--model", model]] {
        let run = rotor(arguments.iter().chain(&["-p", "x", "-n", "4"]));
        assert_eq!((run.code, &run.stdout), (0, &alone.stdout), "{}", run.stderr);
    }
    assert_eq!(rotor(["inspect", "-m", model]).code, 0);
    let ids = rotor(["tokenize", model, "hello", "--ids"]);
    assert_eq!(rotor(["tokenize", "-m", model, "hello", "--ids"]).stdout, ids.stdout);
    assert_eq!(rotor_with_input(["tokenize", "-m", model, "--ids"], b"hello").stdout, ids.stdout);
    let mut from_stdin = command(["tokenize", "-m", model, "--decode"]);
    let run = ran(from_stdin.env("ROTOR_MODEL", "9").stdin(std::process::Stdio::null()).output().unwrap());
    assert_eq!((run.code, run.stdout.trim()), (0, ""), "what the environment names is no text: {}", run.stderr);
    let twice = rotor(["tokenize", model, "-m", model, "hello"]);
    assert!(twice.code == 2 && twice.stderr.contains("the model is named twice"), "{}", twice.stderr);
    let text = "hello world ".repeat(9);
    assert_eq!(rotor_with_input(["perplexity", "-m", model, "-", "-c", "8"], text.as_bytes()).code, 0);
    let mut from_environment = command(["run", "-m", model, "-p", "x", "-n", "4"]);
    let run = ran(from_environment.env("ROTOR_MODEL", "/no/such/file").output().unwrap());
    assert_eq!((run.code, run.stdout), (0, alone.stdout), "{}", run.stderr);
}

#[test]
fn every_command_has_a_line_that_says_what_it_does() {
    let help = rotor(["--help"]).stdout;
    for line in [
        "convert      Convert a model between files and forms, without loss",
        "extract      Write one tensor or one layer as plain arrays",
        "diff         Tell whether two files hold the same model",
    ] {
        assert!(help.contains(line), "{line}: {help}");
    }
}

/// What the README shows a newcomer is how what the newcomer sees begins, whatever the CPU.
#[test]
fn the_first_text_is_the_one_in_the_readme() {
    let readme = fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/../../README.md")).unwrap();
    let command = "$ rotor run -p \"Once upon a time\"\n";
    let shown = readme.split_once(command).unwrap().1.split_once("```").unwrap().0;
    let words = |text: &str| text.split_whitespace().collect::<Vec<_>>().join(" ");
    let (run, shown) = (rotor(["run", "-p", "Once upon a time"]), words(shown));
    let beginning = shown.strip_suffix(" ...").unwrap();
    assert!(beginning.len() > 500 && words(&run.stdout).starts_with(beginning), "{}{}", run.stdout, run.stderr);
    assert_eq!(rotor(["run", "-p", "Once upon a time"]).stdout, run.stdout);
}

#[test]
fn the_built_in_model_goes_on_with_a_conversation() {
    let run = |arguments: &[&str]| rotor(["run", "-n", "8", "--temp", "0"].iter().chain(arguments));
    let chat = run(&["--chat", "-p", "Once upon a time"]);
    assert_eq!(chat.code, 0, "{}", chat.stderr);
    assert_eq!(chat.stdout, run(&["-p", "Once upon a time"]).stdout, "its template is the text itself");
}
