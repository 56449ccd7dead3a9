//! What was measured of a model, and what follows from it.

use super::compare::RivalOutcome;
use super::rates::Rates;
use rotor::bench::{Cost, Taken, Test};
use rotor::machine::Roofs;

/// One test on one number of threads.
#[derive(Debug)]
pub(super) struct Row {
    pub(super) test: Test,
    pub(super) threads: usize,
    /// Tokens per second.
    pub(super) rates: Rates,
    /// What a token took of what need not be read whole.
    pub(super) taken: Taken,
    /// Whether there were linears of which a token could leave rows and columns unread.
    pub(super) skips: bool,
}

/// All that was measured.
#[derive(Debug)]
pub(super) struct Measured {
    pub(super) name: String,
    pub(super) isa: &'static str,
    pub(super) kernels: Vec<&'static str>,
    pub(super) cost: Cost,
    /// For each number of threads.
    pub(super) roofs: Vec<Roofs>,
    pub(super) rows: Vec<Row>,
    pub(super) rivals: Vec<RivalOutcome>,
}

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

    /// Bytes that a row's token reads.
    pub(super) fn bytes_per_token(&self, row: &Row) -> Option<f64> {
        self.cost.bytes_per_token(row.test, &row.taken)
    }

    /// The share of the read bandwidth that these bytes take at the median.
    pub(super) fn bandwidth_share(&self, row: &Row) -> Option<f64> {
        Some(row.rates.median() * self.bytes_per_token(row)? / self.roofs(row)?.read_bandwidth)
    }

    /// The rate at the median over the one that reading all weights at the full bandwidth would allow.
    pub(super) fn wall_multiple(&self, row: &Row) -> Option<f64> {
        let bytes = self.cost.whole_bytes_per_token(row.test)?;
        Some(row.rates.median() * bytes / self.roofs(row)?.read_bandwidth)
    }

    pub(super) fn yardstick_multiple(&self, row: &Row) -> Option<f64> {
        Some(self.multiply_adds(row) / self.roofs(row)?.yardstick)
    }
}
