//! `rotor bench`: the shape of what it prints. How fast anything is, no test can know.

#![expect(clippy::unwrap_used, reason = "a test says what is wrong by panicking")]

mod common;

use common::{Ran, path_text, rotor, tiny};
use serde_json::Value;
use std::fs;

fn json(run: &Ran) -> Value {
    assert_eq!(run.code, 0, "{}", run.stderr);
    serde_json::from_str(&run.stdout).unwrap()
}

fn positive(value: &Value) -> f64 {
    let number = value.as_f64().unwrap_or_else(|| panic!("expected a number, found {value}"));
    assert!(number > 0.0, "{number}");
    number
}

fn tests_of(object: &Value) -> Vec<(String, u64)> {
    let results = object["results"].as_array().unwrap().iter();
    results.map(|row| (row["test"].as_str().unwrap().to_owned(), row["threads"].as_u64().unwrap())).collect()
}

#[test]
fn a_model_as_json() {
    let model = tiny();
    let arguments = ["bench", path_text(&model), "-p", "8,0,5", "-n", "3", "-d", "0,16", "-b", "1,2", "-r", "3"];
    let object = json(&rotor(arguments.iter().chain(&["-t", "1,2,1", "--json"])));
    for key in ["read_bandwidth_gb_s", "yardstick_gmac_s"] {
        positive(&object[key]);
    }
    assert!(object["isa"].is_string() && object["kernels"].as_array().is_some_and(|names| !names.is_empty()));
    let names = ["pp8", "pp5", "tg3", "tg3 b2", "pp8 @ d16", "pp5 @ d16", "tg3 @ d16", "tg3 b2 @ d16"];
    let expected: Vec<_> = [1, 2].iter().flat_map(|threads| names.map(|name| (name.to_owned(), *threads))).collect();
    assert_eq!(tests_of(&object), expected);
    for row in object["results"].as_array().unwrap() {
        let rates = ["min", "median", "max"].map(|key| positive(&row["tokens_per_second"][key]));
        assert!(rates[0] <= rates[1] && rates[1] <= rates[2], "{rates:?}");
        assert_eq!(row["samples"].as_array().unwrap().len(), 3);
        positive(&row["gmac_s"]);
        let is_generation = row["test"].as_str().unwrap().starts_with("tg");
        for key in ["bytes_per_token", "bandwidth_share", "wall_multiple"] {
            assert_eq!(row.get(key).is_some(), is_generation, "{row}");
            row.get(key).map(positive);
        }
    }
    let bytes = |index: usize| object["results"][index]["bytes_per_token"].as_f64().unwrap();
    // A deeper context is more to read; sequences that go together share the weights.
    assert!(bytes(2) < bytes(6) && bytes(3) < bytes(2));
}

#[test]
fn requests_that_come_and_go() {
    let model = tiny();
    let arguments = ["bench", path_text(&model), "--streams", "1,3", "-p", "9", "-n", "8", "-r", "2", "-t", "1"];
    let object = json(&rotor(arguments.iter().chain(&["--json"])));
    let results = object["results"].as_array().unwrap();
    assert_eq!(results.iter().map(|row| row["streams"].as_u64().unwrap()).collect::<Vec<_>>(), [1, 3]);
    for row in results {
        let lengths: Vec<[u64; 2]> = serde_json::from_value(row["lengths"].clone()).unwrap();
        assert_eq!(lengths.len() as u64, row["streams"].as_u64().unwrap());
        assert!(
            lengths.iter().all(|[prompt, answer]| (5..=13).contains(prompt) && (6..=10).contains(answer)),
            "{lengths:?}"
        );
        for key in ["tokens_per_second", "decode_tokens_per_second", "multiple_of_one"] {
            positive(&row[key]);
        }
        positive(&row["in_step_tokens_per_second"]["median"]);
        for key in ["first_token_ms", "between_tokens_ms"] {
            assert!(positive(&row[key]["median"]) <= positive(&row[key]["p95"]), "{row}");
        }
        assert_eq!((&row["draft_n"], &row["threads"]), (&0.into(), &1.into()));
    }
    assert_eq!(results[0]["multiple_of_one"], 1.0);
    let guessing = rotor(arguments.iter().chain(&["--speculate", "lookup"]));
    assert_eq!(guessing.code, 0, "{}", guessing.stderr);
    assert!(guessing.stdout.contains("3 of pp9 + tg8"), "{}", guessing.stdout);
    for (wrong, told) in [
        (&["-p", "0"][..], "--streams needs prompts and answers"),
        (&["-d", "5"], "cannot be used with"),
        (&["--streams", "0"], "expected a whole number from 1 to 1024"),
        (&["--speculate", "on"], "possible values: lookup, off"),
    ] {
        let run = rotor(["bench", path_text(&model), "--streams", "2"].iter().chain(wrong));
        assert!(run.code == 2 && run.stderr.contains(told), "{wrong:?}: {}", run.stderr);
    }
}

/// A head that is read in part is fewer bytes, of which the rows that were multiplied exactly are told.
#[test]
fn what_is_read_of_a_head_is_told() {
    let rows = |read: &str| {
        let object = json(&rotor(["bench", "-p", "0", "-n", "4", "-b", "1,2", "-r", "1", "--json", "--read", read]));
        object["results"].as_array().unwrap().clone()
    };
    for (least, all) in rows("least").iter().zip(rows("all")) {
        assert!(positive(&least["head_rows_per_token"]) >= 1.0 && all.get("head_rows_per_token").is_none());
        assert!(positive(&least["bytes_per_token"]) < positive(&all["bytes_per_token"]));
        assert!((positive(&all["wall_multiple"]) - positive(&all["bandwidth_share"])).abs() < 1e-9);
        assert!(positive(&least["wall_multiple"]) > positive(&least["bandwidth_share"]));
    }
}

/// The programs are those that every Unix has.
#[cfg(unix)]
#[test]
fn other_programs_take_turns_with_it() {
    let (model, folder) = (tiny(), tempfile::tempdir().unwrap());
    let theirs = folder.path().join("theirs of old.json");
    let rows = r#"[{"n_prompt": 8, "n_gen": 0, "n_threads": 1, "avg_ts": 2.0, "samples_ts": [1.0, 2.0, 9.0]},
                   {"n_prompt": 0, "n_gen": 64, "n_threads": 1, "avg_ts": 3.0}]"#;
    fs::write(&theirs, rows).unwrap();
    let printing = format!("fake=cat '{}'", theirs.display());
    let itself =
        format!("itself={} bench '{}' -p 8 -n 0 -r 1 -t 1 --json", env!("CARGO_BIN_EXE_rotor"), model.display());
    let arguments = ["bench", path_text(&model), "-p", "8", "-n", "2", "-r", "2", "-t", "1", "--rounds", "2"];
    let programs = ["--compare", &printing, "--compare", &itself];
    let arguments = arguments.iter().chain(&programs);
    let object = json(&rotor(arguments.clone().chain(&["--json"])));
    let ours = positive(&object["results"][0]["tokens_per_second"]["median"]);
    assert_eq!(object["results"][0]["samples"].as_array().unwrap().len(), 4, "two turns of two repetitions");
    let [fake, itself] = object["compare"].as_array().unwrap().as_slice() else { panic!("{object}") };
    assert_eq!((&fake["name"], &itself["name"]), (&"fake".into(), &"itself".into()));
    assert_eq!(fake["results"][0]["tokens_per_second"], serde_json::json!({"min": 1.0, "median": 2.0, "max": 9.0}));
    assert!((positive(&fake["results"][0]["ratio"]) - ours / 2.0).abs() < 1e-9 * ours);
    assert_eq!((&fake["results"][1]["test"], &fake["results"][1]["ratio"]), (&"tg64".into(), &Value::Null));
    positive(&itself["results"][0]["ratio"]);

    let page = rotor(arguments).stdout;
    assert!(page.contains("tokens/s: min, median, max") && page.contains("against fake: cat "), "{page}");
    assert!(page.contains(" /     2.00 = ") && page.contains("it alone: 3.00"), "{page}");
}

/// The programs are those that every Unix has.
#[cfg(unix)]
#[test]
fn programs_that_do_not_measure_are_refused() {
    let model = tiny();
    let run =
        |command: &str| rotor(["bench", path_text(&model), "-p", "1", "-n", "0", "-r", "1", "--compare", command]);
    for (command, told) in [
        ("a=/no/such/program -x", "--compare a: cannot run \"/no/such/program\": No such file"),
        ("a=cat /no/such/file", "--compare a: the command failed (exit status: 1): cat: "),
        ("a=echo hello", "--compare a: expected the results of llama-bench"),
    ] {
        let run = run(command);
        assert_eq!((run.code, run.stdout.as_str()), (1, ""), "{run:?}");
        assert!(run.error().contains(told), "{run:?}");
    }
}

#[test]
fn wrong_usage() {
    let model = tiny();
    let cases: [(&[&str], &str); 8] = [
        (&["-p", "0", "-n", "0"], "nothing to measure"),
        (&["-p", "128", "-c", "64"], "the tests need a context of 128 tokens"),
        (&["-p", "x"], "expected a whole number"),
        (&["-t", "1,0"], "expected a whole number from 1 to 1024"),
        (&["-r", "0"], "expected a whole number from 1 to 1000"),
        (&["-b", "0"], "expected a whole number from 1"),
        (&["--compare", "llama-bench"], "expected NAME=COMMAND"),
        (&["--rounds", "3"], "--compare"),
    ];
    for (arguments, told) in cases {
        let run = rotor(["bench", path_text(&model)].iter().chain(arguments));
        assert_eq!((run.code, run.stdout.as_str()), (2, ""), "{run:?}");
        assert!(run.stderr.contains(told), "{run:?}");
    }
    for (arguments, told) in [
        (["kernels", "--shapes", "64"], "expected ROWSxCOLS"),
        (["kernels", "--tokens", "0"], "expected a whole number from 1"),
        (["kernels", "--compare", "a=b"], "--compare"),
    ] {
        let run = rotor(["bench"].iter().chain(&arguments));
        assert_eq!((run.code, run.stdout.as_str()), (2, ""), "{run:?}");
        assert!(run.stderr.contains(told), "{run:?}");
    }
}

#[test]
fn kernels_one_by_one() {
    let folder = tempfile::tempdir().unwrap();
    let svg = folder.path().join("kernels.svg");
    let arguments = ["bench", "kernels", "--shapes", "64x256", "--tokens", "1,16", "-r", "1", "-t", "1", "--svg"];
    let object = json(&rotor(arguments.iter().chain(&[path_text(&svg), "--json"])));
    let kernels = object["kernels"].as_array().unwrap();
    let rows = object["results"].as_array().unwrap();
    assert_eq!(rows.len(), 2 * kernels.len());
    for row in rows {
        let [weights, multiply_adds, tokens] = ["gweights_s", "gmac_s", "tokens"].map(|key| positive(&row[key]));
        assert!((weights * tokens - multiply_adds).abs() < 1e-9 * multiply_adds, "{row}");
        assert!(kernels.contains(&row["kernel"]) && row["shape"] == "64x256");
        for key in ["gb_s", "yardstick_multiple"] {
            positive(&row[key]);
        }
    }
    let drawn = fs::read_to_string(&svg).unwrap();
    let named = |kernel: &Value| drawn.contains(&format!(">{}</text>", kernel.as_str().unwrap()));
    assert!(drawn.starts_with("<svg ") && kernels.iter().all(named));
}

#[test]
fn a_drawing_of_a_model() {
    let (model, folder) = (tiny(), tempfile::tempdir().unwrap());
    let svg = folder.path().join("model.svg");
    let arguments = ["bench", path_text(&model), "-p", "4", "-n", "2", "-r", "1", "-t", "1", "--svg"];
    let run = rotor(arguments.iter().chain(&[path_text(&svg)]));
    assert_eq!(run.code, 0, "{run:?}");
    let drawn = fs::read_to_string(&svg).unwrap();
    assert!(drawn.contains(">generation</text>") && drawn.contains(">pp4</text>"), "{drawn}");

    let refused = rotor(arguments.iter().chain(&[path_text(&model)]));
    assert_eq!(refused.code, 1);
    assert!(refused.error().contains("expected another file than the input"), "{refused:?}");
    let nowhere = rotor(arguments.iter().chain(&["/no/such/folder/x.svg"]));
    assert_eq!((nowhere.code, nowhere.stdout.as_str()), (1, ""));
    assert!(nowhere.error().contains("/no/such/folder"), "{nowhere:?}");
}
