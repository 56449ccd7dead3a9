//! Repeated measurements of one rate.

use serde_json::{Value, json};

/// Rates of something per second, in the order they were measured; at least one.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Rates(Vec<f64>);

impl Rates {
    /// `None` where there are none, or some are no numbers.
    pub(super) fn new(samples: Vec<f64>) -> Option<Rates> {
        (!samples.is_empty() && samples.iter().all(|rate| rate.is_finite())).then_some(Rates(samples))
    }

    /// In the order they were measured.
    pub(super) fn samples(&self) -> &[f64] {
        &self.0
    }

    pub(super) fn min(&self) -> f64 {
        self.0.iter().copied().fold(f64::INFINITY, f64::min)
    }

    pub(super) fn max(&self) -> f64 {
        self.0.iter().copied().fold(f64::NEG_INFINITY, f64::max)
    }

    /// The middle one, or the mean of the two in the middle.
    pub(super) fn median(&self) -> f64 {
        let mut sorted = self.0.clone();
        sorted.sort_by(f64::total_cmp);
        let middle = sorted.len() / 2;
        if sorted.len().is_multiple_of(2) { (sorted[middle - 1] + sorted[middle]) / 2.0 } else { sorted[middle] }
    }

    pub(super) fn json(&self) -> Value {
        json!({"min": self.min(), "median": self.median(), "max": self.max()})
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_is_in_the_middle() {
        let median = |samples: &[f64]| Rates::new(samples.to_vec()).unwrap().median();
        assert_eq!((median(&[3.0]), median(&[9.0, 1.0, 2.0]), median(&[4.0, 1.0, 3.0, 2.0])), (3.0, 2.0, 2.5));
        let rates = Rates::new(vec![2.0, 8.0, 5.0]).unwrap();
        assert_eq!((rates.min(), rates.max()), (2.0, 8.0));
        assert!(Rates::new(Vec::new()).is_none() && Rates::new(vec![1.0, f64::INFINITY]).is_none());
    }
}
