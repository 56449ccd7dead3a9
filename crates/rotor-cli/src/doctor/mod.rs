//! `rotor doctor`: what this machine can do, whether the kernels are right on it, and what limits it.
//!
//! An instruction that the CPU lacks kills the process that executes it. So the tests of each ISA run in a child, which is
//! this program again with a hidden argument; where a child dies it is reported, and the doctor lives on.

mod child;
mod report;

use crate::terminal::{message, print, print_json, printable};
use anyhow::Context as _;
use child::Outcome;
use clap::builder::FalseyValueParser;
use rotor::machine::{Cpu, HugePages, Isa, Kernels, Limit, Memory, RoofMeter, Roofs, limits};
use rotor::runtime::{Remembered, Runtime};
use std::process::ExitCode;

/// Check this machine: CPU features, self-tests of all kernels, memory, limits, and what it can do at most.
///
/// Exits with 1 where a kernel computes wrong results or cannot be executed although the CPU claims what it needs.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Print one JSON object.
    #[arg(long, value_parser = FalseyValueParser::new(), env = "ROTOR_JSON", hide_env = true)]
    json: bool,
    /// Test the kernels of one ISA in this process, and print the results as JSON.
    #[arg(long, value_name = "ISA", hide = true, env = "ROTOR_SELF_TEST", hide_env = true)]
    self_test: Option<String>,
}

/// An ISA and how its kernels did.
#[derive(Debug)]
struct IsaReport {
    isa: Isa,
    outcome: Outcome,
}

/// All there is to say about this machine.
#[derive(Debug)]
struct Report {
    cpu: Cpu,
    isas: Vec<IsaReport>,
    chosen: Isa,
    why: String,
    kernels: Vec<String>,
    /// What trials with shapes of matrices found.
    remembered: Remembered,
    memory: Memory,
    huge_pages: HugePages,
    limits: Vec<Limit>,
    /// For one thread and for all; empty where there is no memory to measure with.
    roofs: Vec<Roofs>,
    /// In sentences.
    problems: Vec<String>,
}

pub(crate) fn execute(args: &Args) -> anyhow::Result<ExitCode> {
    if let Some(name) = &args.self_test {
        return child::self_test(name);
    }
    let report = examine()?;
    if args.json {
        print_json(&report::json(&report))?;
    } else {
        print(&printable(&report::text(&report)))?;
    }
    for problem in &report.problems {
        message(format_args!("problem: {}", printable(problem)));
    }
    let healthy = report.isas.iter().all(|report| !report.outcome.is_failure());
    Ok(if healthy { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn examine() -> anyhow::Result<Report> {
    let isas: Vec<IsaReport> = Isa::ALL
        .into_iter()
        .map(|isa| IsaReport { isa, outcome: if isa.is_available() { child::run(isa) } else { Outcome::Unavailable } })
        .collect();
    let (chosen, why) = choose(&isas)?;
    let kernels = Kernels::for_isa(chosen).with_context(|| format!("this CPU cannot execute {chosen}"))?;
    let mut problems: Vec<String> = isas.iter().filter_map(problem).collect();
    let cpu = Cpu::read();
    let memory = Memory::read();
    let (roofs, huge_pages) = match measure(kernels, &cpu) {
        Ok(measured) => measured,
        Err(error) => {
            problems.push(format!("there is no memory to measure read bandwidth with: {error}"));
            (Vec::new(), HugePages::read())
        }
    };
    Ok(Report {
        kernels: kernels.ternary_kernels().iter().map(|kernel| kernel.name().to_owned()).collect(),
        remembered: Runtime::with_kernels(kernels, cpu.usable_threads).remembered(),
        cpu,
        isas,
        chosen,
        why,
        memory,
        huge_pages,
        limits: limits(),
        roofs,
        problems,
    })
}

/// The ISA that a run takes, and why.
fn choose(isas: &[IsaReport]) -> anyhow::Result<(Isa, String)> {
    let preferred = Isa::from_env()?;
    let named = std::env::var_os("ROTOR_ISA").is_some_and(|name| !name.is_empty());
    let passed = |report: &&IsaReport| matches!(report.outcome, Outcome::Passed(_));
    let lower = isas.iter().rev().skip_while(|report| report.isa != preferred);
    let chosen = lower.into_iter().find(passed).map_or(Isa::Scalar, |report| report.isa);
    let why = match (chosen == preferred, named) {
        (true, true) => "ROTOR_ISA names it".to_owned(),
        (true, false) => "the best this CPU has".to_owned(),
        (false, _) => format!("the best that passes its tests, {preferred} does not"),
    };
    Ok((chosen, why))
}

fn problem(report: &IsaReport) -> Option<String> {
    match &report.outcome {
        Outcome::Unavailable | Outcome::Passed(_) => None,
        Outcome::Failed(tests) => {
            let (kernel, failure) = tests.iter().find_map(|test| Some((&test.kernel, test.failure.as_ref()?)))?;
            Some(format!("the {kernel} kernels of {} compute wrong results on this CPU: {failure}", report.isa))
        }
        Outcome::Died(how) => Some(format!(
            "the tests of {} ended with {how}, although the CPU claims to have it; ROTOR_ISA names another ISA to use",
            report.isa
        )),
    }
}

/// The roofs for one thread and for all, and how much of the memory read lies on huge pages.
fn measure(kernels: &'static Kernels, cpu: &Cpu) -> std::io::Result<(Vec<Roofs>, HugePages)> {
    let all = Runtime::with_kernels(kernels, cpu.usable_threads);
    let meter = RoofMeter::new(&all.pool)?;
    let huge_pages = HugePages::read();
    let mut roofs = Vec::new();
    if cpu.usable_threads > 1 {
        roofs.push(meter.measure(&Runtime::with_kernels(kernels, 1)));
    }
    roofs.push(meter.measure(&all));
    Ok((roofs, huge_pages))
}
