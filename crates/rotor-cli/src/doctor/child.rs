//! The tests of one ISA in a process of their own.

use crate::terminal::print_json;
use anyhow::Context as _;
use rotor::machine::{Isa, Kernels, SelfTest};
use serde_json::{Value, json};
use std::process::{Child, Command, ExitCode, ExitStatus, Stdio};
use std::time::{Duration, Instant};

/// Far more than the tests take on the slowest machine.
const PATIENCE: Duration = Duration::from_secs(60);

/// How the tests of an ISA went.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Outcome {
    /// The CPU does not claim to have it.
    Unavailable,
    /// All kernels are right.
    Passed(Vec<SelfTest>),
    /// Some are not.
    Failed(Vec<SelfTest>),
    /// The process came to an end, or was ended, before the tests did.
    Died(String),
}

impl Outcome {
    /// Whether something is wrong.
    pub(super) fn is_failure(&self) -> bool {
        matches!(self, Outcome::Failed(_) | Outcome::Died(_))
    }

    /// In a word or two.
    pub(super) fn summary(&self) -> &str {
        match self {
            Outcome::Unavailable => "not available",
            Outcome::Passed(_) => "passed",
            Outcome::Failed(_) => "failed",
            Outcome::Died(how) => how,
        }
    }

    pub(super) fn tests(&self) -> &[SelfTest] {
        match self {
            Outcome::Passed(tests) | Outcome::Failed(tests) => tests,
            Outcome::Unavailable | Outcome::Died(_) => &[],
        }
    }
}

/// In the child: tests one ISA and prints the results.
pub(super) fn self_test(name: &str) -> anyhow::Result<ExitCode> {
    let isa = Isa::from_name(name)?;
    let kernels = Kernels::for_isa(isa).with_context(|| format!("this CPU cannot execute {isa}"))?;
    let tests = kernels.self_tests();
    let rows = tests.iter().map(|test| json!({"kernel": test.kernel, "failure": test.failure}));
    print_json(&Value::Array(rows.collect()))?;
    Ok(ExitCode::SUCCESS)
}

/// In the parent: has a child test `isa`.
pub(super) fn run(isa: Isa) -> Outcome {
    let program = match std::env::current_exe() {
        Ok(program) => program,
        Err(error) => return Outcome::Died(format!("no child: {error}")),
    };
    let mut command = Command::new(program);
    command.args(["doctor", "--self-test", isa.name()]);
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null());
    match command.spawn() {
        Ok(child) => finish(child, PATIENCE),
        Err(error) => Outcome::Died(format!("no child: {error}")),
    }
}

/// Waits for a child and reads what it found. The results are a few hundred bytes, so a pipe holds them until it has ended.
fn finish(mut child: Child, patience: Duration) -> Outcome {
    let start = Instant::now();
    loop {
        match child.try_wait() {
            Ok(None) if start.elapsed() < patience => std::thread::sleep(Duration::from_millis(2)),
            Ok(Some(_)) => break,
            Ok(None) | Err(_) => {
                // A child that cannot be ended is left to itself.
                let _ = child.kill();
                return Outcome::Died("no end in sight".into());
            }
        }
    }
    match child.wait_with_output() {
        Ok(output) if output.status.success() => {
            parse(&output.stdout).unwrap_or_else(|| Outcome::Died("no results".into()))
        }
        Ok(output) => Outcome::Died(cause(output.status)),
        Err(error) => Outcome::Died(format!("no results: {error}")),
    }
}

fn parse(stdout: &[u8]) -> Option<Outcome> {
    let rows: Value = serde_json::from_slice(stdout).ok()?;
    let test = |row: &Value| {
        let text = |key: &str| row.get(key).and_then(Value::as_str).map(str::to_owned);
        Some(SelfTest { kernel: text("kernel")?, failure: text("failure") })
    };
    let tests: Vec<SelfTest> = rows.as_array()?.iter().map(test).collect::<Option<_>>()?;
    let failed = tests.iter().any(|test| test.failure.is_some());
    Some(if failed { Outcome::Failed(tests) } else { Outcome::Passed(tests) })
}

/// What ended a process.
fn cause(status: ExitStatus) -> String {
    #[cfg(unix)]
    {
        use std::os::unix::process::ExitStatusExt;
        match status.signal() {
            Some(4) => return "an illegal instruction".into(),
            Some(7) => return "a bus error".into(),
            Some(11) => return "a segmentation fault".into(),
            Some(signal) => return format!("signal {signal}"),
            None => {}
        }
    }
    // What Windows calls STATUS_ILLEGAL_INSTRUCTION.
    const ILLEGAL_INSTRUCTION: i32 = 0xc000_001d_u32.cast_signed();
    match status.code() {
        Some(ILLEGAL_INSTRUCTION) => "an illegal instruction".into(),
        _ => status.to_string(),
    }
}

#[cfg(all(test, unix))]
mod tests {
    use super::*;

    fn shell(script: &str) -> Outcome {
        let child = Command::new("sh").args(["-c", script]).stdout(Stdio::piped()).spawn().expect("a shell");
        finish(child, Duration::from_secs(2))
    }

    #[test]
    fn a_child_that_dies_is_reported() {
        assert_eq!(shell("kill -ILL $$"), Outcome::Died("an illegal instruction".into()));
        assert_eq!(shell("kill -SEGV $$"), Outcome::Died("a segmentation fault".into()));
        assert_eq!(shell("exit 3"), Outcome::Died("exit status: 3".into()));
        assert_eq!(shell("echo no JSON"), Outcome::Died("no results".into()));
        assert_eq!(shell("exec sleep 60"), Outcome::Died("no end in sight".into()));
    }

    #[test]
    fn results_say_whether_all_is_well() {
        let test = |failure: Option<&str>| SelfTest { kernel: "float".into(), failure: failure.map(str::to_owned) };
        let passed = shell(r#"echo '[{"kernel": "float", "failure": null}]'"#);
        assert_eq!(passed, Outcome::Passed(vec![test(None)]));
        let failed = shell(r#"echo '[{"kernel": "float", "failure": "x"}]'"#);
        assert_eq!(failed, Outcome::Failed(vec![test(Some("x"))]));
        assert!(failed.is_failure() && !passed.is_failure() && !Outcome::Unavailable.is_failure());
    }
}
