//! Numbers as people read them.

/// A number of bytes, in decimal units.
pub(crate) fn bytes(count: u64) -> String {
    scaled(count, "B")
}

/// A number of things, in decimal units (`2.08 G`).
pub(crate) fn count(count: u64) -> String {
    scaled(count, "").trim_end().to_owned()
}

fn scaled(count: u64, unit: &str) -> String {
    let steps = [(1_000_000_000_000, "T"), (1_000_000_000, "G"), (1_000_000, "M"), (1_000, "k")];
    match steps.iter().find(|(step, _)| count >= *step) {
        Some((step, prefix)) => format!("{:.2} {prefix}{unit}", count as f64 / *step as f64),
        None => format!("{count} {unit}"),
    }
}

/// A rate of tokens, where there is one.
pub(crate) fn rate(per_second: Option<f64>) -> String {
    match per_second {
        Some(rate) if rate.is_finite() => format!(", {rate:.1} tokens/s"),
        _ => String::new(),
    }
}

/// A number that JSON can hold: JSON has no infinities.
pub(crate) fn finite(number: Option<f64>) -> Option<f64> {
    number.filter(|number| number.is_finite())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_have_the_largest_unit_that_fits() {
        assert_eq!(bytes(999), "999 B");
        assert_eq!(bytes(1_000), "1.00 kB");
        assert_eq!(bytes(1_187_801_280), "1.19 GB");
        assert_eq!(count(12), "12");
        assert_eq!(count(2_084_044_800), "2.08 G");
    }

    #[test]
    fn a_rate_is_left_out_where_there_is_none() {
        assert_eq!(rate(Some(12.34)), ", 12.3 tokens/s");
        assert_eq!(rate(None), "");
        assert_eq!(rate(Some(f64::INFINITY)), "");
        assert_eq!(finite(Some(f64::NAN)), None);
    }
}
