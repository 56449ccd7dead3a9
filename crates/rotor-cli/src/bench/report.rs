//! Measurements as a table for people and as JSON for programs.

use super::compare::RivalOutcome;
use super::measured::{Measured, Row};
use super::roofline::{Chart, Panel, Point};
use super::roofs::{GIGA, machine, put_roofs, roofs_text, threads};
use crate::terminal::printable;
use crate::units;
use serde_json::{Value, json};
use std::fmt::Write as _;

pub(super) fn json(measured: &Measured) -> Value {
    let mut object = json!({"model": measured.name, "isa": measured.isa, "kernels": measured.kernels});
    put_roofs(&mut object, &measured.roofs);
    object["results"] = measured.rows.iter().map(|row| row_json(measured, row)).collect();
    if !measured.rivals.is_empty() {
        object["compare"] = measured.rivals.iter().map(|rival| rival_json(measured, rival)).collect();
    }
    object
}

fn row_json(measured: &Measured, row: &Row) -> Value {
    let mut object = json!({
        "test": row.test.to_string(),
        "threads": row.threads,
        "tokens_per_second": row.rates.json(),
        "gmac_s": measured.multiply_adds(row) / GIGA,
        "yardstick_multiple": units::finite(measured.yardstick_multiple(row)),
        "depth": row.test.depth(),
        "batch": row.test.batch(),
        "samples": row.rates.samples(),
    });
    if let Some(bytes) = measured.bytes_per_token(row) {
        object["bytes_per_token"] = json!(bytes);
        object["bandwidth_share"] = json!(units::finite(measured.bandwidth_share(row)));
        object["wall_multiple"] = json!(units::finite(measured.wall_multiple(row)));
    }
    if let Some(rows) = row.taken.head_rows {
        object["head_rows_per_token"] = json!(rows);
    }
    if row.skips {
        object["up_rows_read"] = json!(row.taken.rows);
        object["down_columns_read"] = json!(row.taken.columns);
    }
    object
}

fn rival_json(measured: &Measured, rival: &RivalOutcome) -> Value {
    let results = rival.results().iter().map(|result| {
        let ours = measured.rows.iter().find(|row| result.is_of(&row.test.to_string(), row.threads));
        json!({
            "test": result.test,
            "threads": result.threads,
            "tokens_per_second": result.rates.json(),
            "ratio": ours.map(|row| row.rates.median() / result.rates.median()),
        })
    });
    json!({"name": rival.name(), "command": rival.command(), "results": results.collect::<Vec<_>>()})
}

/// The page for people.
pub(super) fn text(measured: &Measured) -> String {
    let (name, roofs) = (printable(&measured.name), roofs_text(&measured.roofs));
    let kernels = measured.kernels.join(", ");
    let mut page = format!("{name}, kernels of {}: {kernels}\n{roofs}\n", measured.isa);
    // Writing to a string does not fail.
    let _ = writeln!(
        page,
        "{:<18}{:>7}  {:>28}  {:>8}  {:>9}  {:>9}  {:>9}  {:>7}  {:>9}  {:>13}",
        "test",
        "threads",
        "tokens/s: min, median, max",
        "Gmac/s",
        "of plain",
        "MB/token",
        "bandwidth",
        "of wall",
        "head rows",
        "of up, down"
    );
    for row in &measured.rows {
        page.push_str(&row_text(measured, row));
    }
    for rival in &measured.rivals {
        page.push_str(&rival_text(measured, rival));
    }
    page
}

/// The tests of a model against the roofs; for each, the weights of the linears and the head as often as they are read.
pub(super) fn chart(measured: &Measured) -> Chart {
    let panels = measured.roofs.iter().map(|roofs| {
        let rows = measured.rows.iter().filter(|row| row.threads == roofs.threads);
        let points = rows.map(|row| Point {
            series: if row.test.is_prompt() { "prompts".into() } else { "generation".into() },
            variant: row.test.to_string(),
            intensity: measured.cost.multiply_adds(row.test) as f64 / measured.cost.bytes_read(row.test, &row.taken),
            rate: measured.multiply_adds(row),
        });
        Panel::new(roofs, points.collect())
    });
    let name = std::path::Path::new(&measured.name)
        .file_name()
        .map_or_else(|| measured.name.clone().into(), |n| n.to_string_lossy());
    Chart { title: format!("{name}, kernels of {}", measured.isa), subtitle: machine(), panels: panels.collect() }
}

fn row_text(measured: &Measured, row: &Row) -> String {
    let rates = format!("{:.2} {:>8.2} {:>8.2}", row.rates.min(), row.rates.median(), row.rates.max());
    let multiple = measured.yardstick_multiple(row).map_or_else(String::new, |multiple| format!("{multiple:.2} x"));
    let bytes = measured.bytes_per_token(row).map_or_else(String::new, |bytes| format!("{:.1}", bytes / 1e6));
    let share = measured.bandwidth_share(row).map_or_else(String::new, |share| format!("{:.0} %", share * 100.0));
    let wall = measured.wall_multiple(row).map_or_else(String::new, |multiple| format!("{multiple:.2} x"));
    let rows = row.taken.head_rows.map_or_else(String::new, |rows| format!("{rows:.1}"));
    let percent = |share: f64| format!("{:.0} %", share * 100.0);
    let skips =
        if row.skips { format!("{}, {}", percent(row.taken.rows), percent(row.taken.columns)) } else { String::new() };
    let rate = measured.multiply_adds(row) / GIGA;
    let line = format!(
        "{:<18}{:>7}  {rates:>28}  {rate:>8.1}  {multiple:>9}  {bytes:>9}  {share:>9}  {wall:>7}  {rows:>9}  {skips:>13}",
        row.test.to_string(),
        row.threads
    );
    format!("{}\n", line.trim_end())
}

fn rival_text(measured: &Measured, rival: &RivalOutcome) -> String {
    let mut page = format!("\nagainst {}: {}\n", printable(rival.name()), printable(&rival.command()));
    for result in rival.results() {
        let theirs = result.rates.median();
        let mut matched = false;
        for row in measured.rows.iter().filter(|row| result.is_of(&row.test.to_string(), row.threads)) {
            let ours = row.rates.median();
            let (test, count) = (printable(&result.test), threads(row.threads));
            let _ = writeln!(page, "  {test:<18}{count:>11}  {ours:>8.2} / {theirs:>8.2} = {:.2} x", ours / theirs);
            matched = true;
        }
        if !matched {
            let count = result.threads.map_or_else(String::new, threads);
            let _ = writeln!(page, "  {:<18}{count:>11}  it alone: {theirs:.2}", printable(&result.test));
        }
    }
    page
}
