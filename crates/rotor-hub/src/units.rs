//! Sizes as people read them.

/// A number of bytes, in decimal units (`1.19 GB`).
pub fn bytes(count: u64) -> String {
    let steps = [(1_000_000_000_000, "TB"), (1_000_000_000, "GB"), (1_000_000, "MB"), (1_000, "kB")];
    match steps.iter().find(|(step, _)| count >= *step) {
        Some((step, unit)) => format!("{:.2} {unit}", count as f64 / *step as f64),
        None => format!("{count} B"),
    }
}
