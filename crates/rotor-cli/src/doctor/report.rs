//! A report as text for people and as JSON for programs.

use super::{IsaReport, Report};
use crate::units::bytes;
use rotor::machine::{Limit, Memory, Roofs};
use rotor::runtime::Skips;
use serde_json::{Value, json};
use std::fmt::Write as _;

/// A billion.
const GIGA: f64 = 1e9;

pub(super) fn json(report: &Report) -> Value {
    let top = report.roofs.last();
    json!({
        "version": env!("CARGO_PKG_VERSION"),
        "cpu": {
            "name": report.cpu.name,
            "architecture": std::env::consts::ARCH,
            "features": features(report, true),
            "missing": features(report, false),
            "cores": report.cpu.cores,
            "usable_threads": report.cpu.usable_threads,
        },
        "isa": report.chosen.name(),
        "why": report.why,
        "kernels": report.kernels,
        "fastest": report.remembered.kernels.iter().map(fastest_json).collect::<Vec<_>>(),
        "skipping": report.remembered.skipping.iter().map(skipping_json).collect::<Vec<_>>(),
        "isas": report.isas.iter().map(isa_json).collect::<Vec<_>>(),
        "memory": {
            "total_bytes": report.memory.total,
            "available_bytes": report.memory.available,
            "container_limit_bytes": report.memory.limit,
            "last_level_cache_bytes": report.memory.last_level_cache,
        },
        "huge_pages": {"mode": report.huge_pages.mode, "in_use_bytes": report.huge_pages.in_use},
        "limits": report.limits.iter().map(limit_json).collect::<Vec<_>>(),
        "read_bandwidth_gb_s": top.map(|roofs| roofs.read_bandwidth / GIGA),
        "yardstick_gmac_s": top.map(|roofs| roofs.yardstick / GIGA),
        "roofs": report.roofs.iter().map(roofs_json).collect::<Vec<_>>(),
        "problems": report.problems,
    })
}

fn isa_json(report: &IsaReport) -> Value {
    let tests = report
        .outcome
        .tests()
        .iter()
        .map(|test| json!({"kernel": test.kernel, "passed": test.failure.is_none(), "failure": test.failure}));
    json!({
        "isa": report.isa.name(),
        "available": report.isa.is_available(),
        "self_test": report.outcome.summary(),
        "tests": tests.collect::<Vec<_>>(),
    })
}

fn fastest_json(((rows, cols), kernel): &((usize, usize), String)) -> Value {
    json!({"rows": rows, "cols": cols, "kernel": kernel})
}

fn skipping_json((shape, skips, dense_from): &((usize, usize), Skips, f64)) -> Value {
    json!({"rows": shape.0, "cols": shape.1, "skips": skips_name(*skips), "dense_from": dense_from})
}

/// What is left unread of matrices of a shape, and up to which share that pays.
fn skipping_words(((rows, cols), skips, dense_from): &((usize, usize), Skips, f64)) -> String {
    let what = skips_name(*skips);
    match dense_from {
        0.0 => format!("no {what} of {rows}x{cols}: that would be slower"),
        _ => format!("{what} of {rows}x{cols} while at most {:.0} % matter", 100.0 * dense_from),
    }
}

fn skips_name(skips: Skips) -> &'static str {
    match skips {
        Skips::Rows => "rows",
        Skips::Columns => "columns",
    }
}

fn limit_json(limit: &Limit) -> Value {
    json!({"name": limit.name, "value": limit.value, "unit": limit.unit})
}

fn roofs_json(roofs: &Roofs) -> Value {
    json!({
        "threads": roofs.threads,
        "read_bandwidth_gb_s": roofs.read_bandwidth / GIGA,
        "yardstick_gmac_s": roofs.yardstick / GIGA,
        "multiply_peak_gmac_s": roofs.multiply_peak / GIGA,
    })
}

fn features(report: &Report, has: bool) -> Vec<&'static str> {
    let features = report.cpu.features.iter();
    features.filter(|(_, present)| *present == has).map(|(feature, _)| *feature).collect()
}

/// Lines of `label value`, and headings.
struct Page(String);

impl Page {
    fn line(&mut self, label: &str, value: impl std::fmt::Display) {
        // Writing to a string does not fail.
        let _ = writeln!(self.0, "  {label:<22}{value}");
    }

    fn heading(&mut self, text: &str) {
        let _ = writeln!(self.0, "\n{text}");
    }
}

pub(super) fn text(report: &Report) -> String {
    let mut page = Page(format!("rotor {} on {}\n", env!("CARGO_PKG_VERSION"), std::env::consts::ARCH));
    page.heading("Processor");
    page.line("name", report.cpu.name.as_deref().unwrap_or("unknown"));
    let cores = report.cpu.cores.map_or_else(|| "unknown".into(), |cores| cores.to_string());
    page.line("cores", format!("{cores}, {} threads usable", report.cpu.usable_threads));
    page.line("has", features(report, true).join(" "));
    page.line("lacks", features(report, false).join(" "));
    kernels(&mut page, report);
    memory(&mut page, report);
    roofs(&mut page, &report.roofs);
    page.0
}

fn kernels(page: &mut Page, report: &Report) {
    page.heading("Kernels");
    for isa in &report.isas {
        let mut line = isa.outcome.summary().to_owned();
        if isa.isa == report.chosen {
            let _ = write!(line, "; chosen: {}", report.why);
        }
        page.line(isa.isa.name(), line);
        for test in isa.outcome.tests() {
            if let Some(failure) = &test.failure {
                page.line("", format!("{} is wrong: {failure}", test.kernel));
            }
        }
    }
    let tests = report.isas.iter().map(|isa| isa.outcome.tests().len()).sum::<usize>();
    page.line("tests", format!("{tests}, each ISA's in a process of its own, against the scalar reference"));
    page.line("ternary", report.kernels.join(", "));
    let fastest: Vec<_> =
        report.remembered.kernels.iter().map(|((rows, cols), kernel)| format!("{kernel} for {rows}x{cols}")).collect();
    match fastest.is_empty() {
        true => page.line("fastest", "not measured yet: loading a model above 256 MB does, once"),
        false => page.line("fastest", format!("{}, as measured when a model was loaded", fastest.join(", "))),
    }
    let skipping: Vec<_> = report.remembered.skipping.iter().map(skipping_words).collect();
    if !skipping.is_empty() {
        page.line("unread", skipping.join(", "));
    }
}

fn memory(page: &mut Page, report: &Report) {
    let Memory { total, available, limit, last_level_cache } = report.memory;
    let size = |size: Option<u64>| size.map_or_else(|| "unknown".into(), bytes);
    page.heading("Memory");
    page.line("total", size(total));
    page.line("available", size(available));
    page.line("container's limit", limit.map_or_else(|| "none".into(), bytes));
    page.line("largest cache", size(last_level_cache));
    let mode = report.huge_pages.mode.as_deref().unwrap_or("unknown");
    page.line("huge pages", format!("{mode}; {} in use by this process", size(report.huge_pages.in_use)));
    for limit in &report.limits {
        let value = if limit.unit == "bytes" { bytes(limit.value) } else { format!("{} {}", limit.value, limit.unit) };
        page.line(&limit.name.to_lowercase(), value);
    }
}

fn roofs(page: &mut Page, roofs: &[Roofs]) {
    page.heading("Measured");
    for roofs in roofs {
        let threads = if roofs.threads == 1 { "1 thread".into() } else { format!("{} threads", roofs.threads) };
        let (read, multiply) = (roofs.read_bandwidth / GIGA, roofs.yardstick / GIGA);
        let peak = roofs.multiply_peak / GIGA;
        page.line(&threads, format!("reads {read:.1} GB/s"));
        page.line(
            "",
            format!("multiplies {multiply:.0} G int8 numbers/s with the plain kernel, at most {peak:.0} G/s"),
        );
    }
}
