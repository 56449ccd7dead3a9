//! Measurements as a table for people and as JSON for programs.

use super::compare::RivalOutcome;
use super::model::{Measured, Row};
use crate::terminal::printable;
use crate::units;
use rotor::machine::Roofs;
use serde_json::{Value, json};
use std::fmt::Write as _;

/// Of a unit in a billion.
const GIGA: f64 = 1e9;

impl Measured {
    /// The roofs of a row's number of threads.
    fn roofs(&self, row: &Row) -> Option<&Roofs> {
        self.roofs.iter().find(|roofs| roofs.threads == row.threads)
    }

    /// Multiply-adds with weights per second at the median.
    pub(super) fn multiply_adds(&self, row: &Row) -> f64 {
        let per_token = self.cost.multiply_adds(row.test) as f64 / row.test.tokens() as f64;
        row.rates.median() * per_token
    }

    /// The share of the read bandwidth that a row's bytes per token take at the median.
    fn bandwidth_share(&self, row: &Row) -> Option<f64> {
        let bytes = self.cost.bytes_per_token(row.test)?;
        Some(row.rates.median() * bytes / self.roofs(row)?.read_bandwidth)
    }

    fn yardstick_multiple(&self, row: &Row) -> Option<f64> {
        Some(self.multiply_adds(row) / self.roofs(row)?.yardstick)
    }
}

/// One object; the roofs at its top are those of the most threads.
pub(super) fn json(measured: &Measured) -> Value {
    let top = measured.roofs.iter().max_by_key(|roofs| roofs.threads);
    let mut object = json!({
        "model": measured.name,
        "isa": measured.isa,
        "kernels": measured.kernels,
        "read_bandwidth_gb_s": top.map(|roofs| roofs.read_bandwidth / GIGA),
        "yardstick_gmac_s": top.map(|roofs| roofs.yardstick / GIGA),
        "roofs": measured.roofs.iter().map(|roofs| json!({
            "threads": roofs.threads,
            "read_bandwidth_gb_s": roofs.read_bandwidth / GIGA,
            "yardstick_gmac_s": roofs.yardstick / GIGA,
        })).collect::<Vec<_>>(),
        "results": measured.rows.iter().map(|row| row_json(measured, row)).collect::<Vec<_>>(),
    });
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
    if let Some(bytes) = measured.cost.bytes_per_token(row.test) {
        object["bytes_per_token"] = json!(bytes);
        object["bandwidth_share"] = json!(units::finite(measured.bandwidth_share(row)));
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
    let mut page = format!("{}, kernels of {}\n", printable(&measured.name), measured.isa);
    for roofs in &measured.roofs {
        let (read, multiply) = (roofs.read_bandwidth / GIGA, roofs.yardstick / GIGA);
        // Writing to a string does not fail.
        let _ = writeln!(
            page,
            "the machine on {}: reads {read:.1} GB/s; the plain multiply kernel does {multiply:.0} Gmac/s",
            threads(roofs.threads)
        );
    }
    let _ = writeln!(
        page,
        "\n{:<18}{:>7}  {:>28}  {:>8}  {:>9}  {:>9}  {:>9}",
        "test", "threads", "tokens/s: min, median, max", "Gmac/s", "of plain", "MB/token", "bandwidth"
    );
    for row in &measured.rows {
        page.push_str(&row_text(measured, row));
    }
    for rival in &measured.rivals {
        page.push_str(&rival_text(measured, rival));
    }
    page
}

fn row_text(measured: &Measured, row: &Row) -> String {
    let rates = format!("{:.2} {:>8.2} {:>8.2}", row.rates.min(), row.rates.median(), row.rates.max());
    let multiple = measured.yardstick_multiple(row).map_or_else(String::new, |multiple| format!("{multiple:.2} x"));
    let bytes = measured.cost.bytes_per_token(row.test).map_or_else(String::new, |bytes| format!("{:.1}", bytes / 1e6));
    let share = measured.bandwidth_share(row).map_or_else(String::new, |share| format!("{:.0} %", share * 100.0));
    let rate = measured.multiply_adds(row) / GIGA;
    let line = format!(
        "{:<18}{:>7}  {rates:>28}  {rate:>8.1}  {multiple:>9}  {bytes:>9}  {share:>9}",
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

fn threads(count: usize) -> String {
    if count == 1 { "1 thread".into() } else { format!("{count} threads") }
}
