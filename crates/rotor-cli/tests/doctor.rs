//! `rotor doctor`: what it prints, and that it survives what it tests.

#![expect(clippy::unwrap_used, reason = "a test says what is wrong by panicking")]

mod common;

use common::{command, ran, rotor};
use serde_json::Value;

#[test]
fn a_healthy_machine() {
    let run = rotor(["doctor", "--json"]);
    assert_eq!(run.code, 0, "{run:?}");
    let object: Value = serde_json::from_str(&run.stdout).unwrap();
    assert_eq!(object["problems"], Value::Array(Vec::new()));
    for key in ["read_bandwidth_gb_s", "yardstick_gmac_s"] {
        assert!(object[key].as_f64().unwrap() > 0.0, "{key}");
    }
    let isas = object["isas"].as_array().unwrap();
    for isa in isas {
        let available = isa["available"].as_bool().unwrap();
        assert_eq!(isa["self_test"], if available { "passed" } else { "not available" }, "{isa}");
        assert_eq!(isa["tests"].as_array().unwrap().is_empty(), !available);
    }
    let chosen = isas.iter().rev().find(|isa| isa["available"] == true).unwrap();
    assert_eq!((&object["isa"], &object["why"]), (&chosen["isa"], &"the best this CPU has".into()));
    assert!(object["cpu"]["usable_threads"].as_u64().unwrap() > 0 && object["memory"].is_object());
    assert!(!object["kernels"].as_array().unwrap().is_empty());
}

#[test]
fn the_page_has_a_line_for_everything() {
    let output = command(["doctor"]).env("ROTOR_ISA", "scalar").output().unwrap();
    let run = ran(output);
    assert_eq!(run.code, 0, "{run:?}");
    for heading in ["\nProcessor\n", "\nKernels\n", "\nMemory\n", "\nMeasured\n"] {
        assert!(run.stdout.contains(heading), "{}", run.stdout);
    }
    assert!(run.stdout.contains("passed; chosen: ROTOR_ISA names it"), "{}", run.stdout);
}

#[test]
fn what_a_trial_found_is_shown() {
    let cpu = rotor::machine::Cpu::read();
    let folder = tempfile::tempdir().unwrap();
    let entry = serde_json::json!({
        "cpu": cpu.name.unwrap_or_default(), "isa": "scalar", "threads": cpu.usable_threads,
        "rows": 64, "cols": 96, "kernel": "trios",
    });
    let cache = serde_json::json!({"version": env!("CARGO_PKG_VERSION"), "entries": [entry]});
    std::fs::create_dir(folder.path().join("rotor")).unwrap();
    let page = || {
        let output = command(["doctor"]).env("ROTOR_ISA", "scalar").env("XDG_CACHE_HOME", folder.path()).output();
        ran(output.unwrap()).stdout
    };
    assert!(page().contains("not measured yet"));
    std::fs::write(folder.path().join("rotor/kernels.json"), cache.to_string()).unwrap();
    assert!(page().contains("trios for 64x96"), "{}", page());
}

#[test]
fn one_isa_in_the_process_itself() {
    let run = rotor(["doctor", "--self-test", "scalar"]);
    let tests: Value = serde_json::from_str(&run.stdout).unwrap();
    assert!(tests.as_array().unwrap().iter().all(|test| test["kernel"].is_string() && test["failure"].is_null()));
    let unknown = rotor(["doctor", "--self-test", "sse9"]);
    assert_eq!(unknown.code, 1);
    assert!(unknown.error().contains("found \"sse9\""), "{unknown:?}");
}

#[test]
fn an_isa_that_is_not_there() {
    let output = command(["doctor"]).env("ROTOR_ISA", "sse9").output().unwrap();
    let run = ran(output);
    assert_eq!((run.code, run.stdout.as_str()), (1, ""));
    assert!(run.error().contains("ROTOR_ISA: expected one of scalar"), "{run:?}");
}
