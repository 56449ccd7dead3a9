//! What the machine can do, in words and as JSON, for every report.

use rotor::machine::{Cpu, Roofs};
use serde_json::{Value, json};

/// Of a unit in a billion.
pub(super) const GIGA: f64 = 1e9;

/// The roofs of every number of threads; on top those of the most.
pub(super) fn put_roofs(object: &mut Value, roofs: &[Roofs]) {
    let top = roofs.iter().max_by_key(|roofs| roofs.threads);
    object["read_bandwidth_gb_s"] = json!(top.map(|roofs| roofs.read_bandwidth / GIGA));
    object["yardstick_gmac_s"] = json!(top.map(|roofs| roofs.yardstick / GIGA));
    let row = |roofs: &Roofs| {
        json!({
            "threads": roofs.threads,
            "read_bandwidth_gb_s": roofs.read_bandwidth / GIGA,
            "yardstick_gmac_s": roofs.yardstick / GIGA,
            "multiply_peak_gmac_s": roofs.multiply_peak / GIGA,
        })
    };
    object["roofs"] = roofs.iter().map(row).collect();
}

/// A line for each number of threads.
pub(super) fn roofs_text(roofs: &[Roofs]) -> String {
    let line = |roofs: &Roofs| {
        let (read, multiply) = (roofs.read_bandwidth / GIGA, roofs.yardstick / GIGA);
        let (threads, peak) = (threads(roofs.threads), roofs.multiply_peak / GIGA);
        format!(
            "the machine on {threads}: reads {read:.1} GB/s; the plain multiply kernel does {multiply:.0} Gmac/s, at most {peak:.0}\n"
        )
    };
    roofs.iter().map(line).collect()
}

/// The processor, for the head of a chart.
pub(super) fn machine() -> String {
    let cpu = Cpu::read();
    let name = cpu.name.unwrap_or_else(|| std::env::consts::ARCH.into());
    match cpu.cores {
        Some(1) => format!("{name}, 1 core"),
        Some(cores) => format!("{name}, {cores} cores"),
        None => name,
    }
}

/// So many threads, in words.
pub(super) fn threads(count: usize) -> String {
    if count == 1 { "1 thread".into() } else { format!("{count} threads") }
}
