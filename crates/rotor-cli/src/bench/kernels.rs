//! The ternary kernels one by one, shape by shape.

use super::rates::Rates;
use super::roofline::{Chart, Panel, Point};
use super::{options::MeasureArgs, roofline, roofs};
use crate::progress::Bar;
use crate::terminal::{print, print_json};
use crate::values::whole_number;
use anyhow::Context as _;
use rotor::bench::kernels::Products;
use rotor::machine::{Memory, RoofMeter, Roofs};
use rotor::runtime::Runtime;
use rotor::write::AtomicFile;
use serde_json::{Value, json};
use std::fmt::Write as _;
use std::process::ExitCode;
use std::str::FromStr;
use std::time::Duration;

/// How long a measurement takes at least.
const SLICE: Duration = Duration::from_millis(100);
/// Most rows or columns of a matrix.
const MAX_SIDE: usize = 1 << 20;
/// Most tokens at once.
const MAX_TOKENS: usize = 4096;

/// Measure the ternary kernels one by one, on matrices that together are larger than the caches.
///
/// A product is timed with all it needs, from int8 activations to int32 sums. ROTOR_ISA chooses whose kernels.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Matrices, rows by columns, separated by commas [default: those of BitNet-b1.58-2B-4T].
    #[arg(long, value_name = "ROWSxCOLS,...", value_delimiter = ',', env = "ROTOR_SHAPES", hide_env = true)]
    #[arg(default_value = "2560x2560,640x2560,6912x2560,2560x6912", hide_default_value = true)]
    shapes: Vec<Shape>,
    /// Numbers of tokens multiplied at once, separated by commas.
    #[arg(long, value_name = "N,...", value_delimiter = ',', default_value = "1,2,4,8,16,32,128", value_parser = tokens)]
    #[arg(env = "ROTOR_TOKENS", hide_env = true)]
    tokens: Vec<usize>,
    #[command(flatten)]
    measure: MeasureArgs,
}

fn tokens(text: &str) -> Result<usize, String> {
    whole_number(text, 1, MAX_TOKENS)
}

/// Rows and columns of a matrix.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Shape {
    rows: usize,
    cols: usize,
}

impl FromStr for Shape {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let side = |text: &str| text.trim().parse().ok().filter(|side| (1..=MAX_SIDE).contains(side));
        let sides = text.split_once('x').and_then(|(rows, cols)| Some((side(rows)?, side(cols)?)));
        let (rows, cols) = sides.ok_or_else(|| format!("expected ROWSxCOLS, each from 1 to {MAX_SIDE}"))?;
        Ok(Shape { rows, cols })
    }
}

impl std::fmt::Display for Shape {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}x{}", self.rows, self.cols)
    }
}

/// One kernel on one matrix.
struct Row {
    kernel: &'static str,
    shape: Shape,
    tokens: usize,
    threads: usize,
    packed_bytes: usize,
    /// Products per second.
    rates: Rates,
}

impl Row {
    fn weights(&self) -> f64 {
        (self.shape.rows * self.shape.cols) as f64
    }

    /// Weights, bytes of weights, and multiply-adds a second, in billions.
    fn giga(&self) -> [f64; 3] {
        let weights = self.weights() * self.rates.median() / 1e9;
        [weights, self.packed_bytes as f64 * self.rates.median() / 1e9, weights * self.tokens as f64]
    }
}

struct Measured {
    isa: &'static str,
    kernels: Vec<&'static str>,
    roofs: Vec<Roofs>,
    rows: Vec<Row>,
}

pub(super) fn execute(args: &Args) -> anyhow::Result<ExitCode> {
    let svg = args.measure.svg.as_deref().map(AtomicFile::create).transpose()?;
    let measured = measure(args)?;
    if let Some(mut file) = svg {
        file.write(roofline::svg(&chart(&measured)).as_bytes())?;
        file.commit()?;
    }
    if args.measure.json {
        print_json(&to_json(&measured))?;
    } else {
        print(&text(&measured))?;
    }
    Ok(ExitCode::SUCCESS)
}

fn measure(args: &Args) -> anyhow::Result<Measured> {
    let runtimes = args.measure.threads().into_iter().map(Runtime::new).collect::<Result<Vec<_>, _>>()?;
    let widest = runtimes.iter().max_by_key(|runtime| runtime.pool.threads()).context("no number of threads")?;
    let meter = RoofMeter::new(&widest.pool).context("no memory to measure read bandwidth with")?;
    let roofs = runtimes.iter().map(|runtime| meter.measure(runtime)).collect();
    drop(meter);
    let kernels = widest.kernels.ternary_kernels();
    let memory = Memory::read().beyond_caches(kernels.len());
    let bar = Bar::steps("measuring");
    let mut rows = Vec::new();
    for (index, &shape) in args.shapes.iter().enumerate() {
        bar.set(index as u64, args.shapes.len() as u64);
        let products = kernels.iter().map(|kernel| Products::new(widest, kernel, (shape.rows, shape.cols), memory));
        let mut products = products
            .collect::<Result<Vec<_>, _>>()
            .with_context(|| format!("no memory for {} times {memory} bytes of matrices", kernels.len()))?;
        let mut measured = Vec::new();
        for runtime in &runtimes {
            for &tokens in &args.tokens {
                measured.extend(measure_in_turn(args.measure.repetitions, runtime, shape, tokens, &mut products)?);
            }
        }
        // A kernel's rows together, although the kernels took turns.
        for kernel in kernels.iter().map(|kernel| kernel.name()) {
            rows.extend(measured.extract_if(.., |row: &mut Row| row.kernel == kernel));
        }
    }
    Ok(Measured {
        isa: widest.kernels.isa().name(),
        kernels: kernels.iter().map(|kernel| kernel.name()).collect(),
        roofs,
        rows,
    })
}

/// All kernels on one shape, in turn: a machine whose speed drifts is then the same to each.
fn measure_in_turn(
    repetitions: usize,
    runtime: &Runtime,
    shape: Shape,
    tokens: usize,
    products: &mut [Products],
) -> anyhow::Result<Vec<Row>> {
    for products in products.iter_mut() {
        products.set_tokens(tokens);
        // A part of a slice wakes the threads and fills the scratch memory.
        products.run(runtime, SLICE / 5);
    }
    let mut rates = vec![Vec::new(); products.len()];
    for _ in 0..repetitions {
        for (rates, products) in rates.iter_mut().zip(products.iter_mut()) {
            rates.push(1.0 / products.run(runtime, SLICE));
        }
    }
    let rows = rates.into_iter().zip(products).map(|(rates, products)| {
        let rates = Rates::new(rates).with_context(|| format!("{shape} took no time that could be measured"))?;
        let (kernel, packed_bytes) = (products.kernel(), products.packed_bytes());
        Ok(Row { kernel, shape, tokens, threads: runtime.pool.threads(), packed_bytes, rates })
    });
    rows.collect()
}

fn yardstick_multiple(measured: &Measured, row: &Row) -> Option<f64> {
    let roofs = measured.roofs.iter().find(|roofs| roofs.threads == row.threads)?;
    Some(row.giga()[2] * 1e9 / roofs.yardstick)
}

fn to_json(measured: &Measured) -> Value {
    let rows = measured.rows.iter().map(|row| {
        let [weights, bytes, multiply_adds] = row.giga();
        json!({
            "kernel": row.kernel,
            "shape": row.shape.to_string(),
            "tokens": row.tokens,
            "threads": row.threads,
            "products_per_second": row.rates.json(),
            "gweights_s": weights,
            "gb_s": bytes,
            "gmac_s": multiply_adds,
            "yardstick_multiple": yardstick_multiple(measured, row),
        })
    });
    let mut object = json!({"isa": measured.isa, "kernels": measured.kernels});
    roofs::put_roofs(&mut object, &measured.roofs);
    object["results"] = rows.collect();
    object
}

fn text(measured: &Measured) -> String {
    let mut page = format!("kernels of {}\n{}\n", measured.isa, roofs::roofs_text(&measured.roofs));
    // Writing to a string does not fail.
    let _ = writeln!(
        page,
        "{:<14}{:<12}{:>7}{:>8}  {:>12}{:>8}  {:>24}  {:>9}",
        "kernel", "matrix", "threads", "tokens", "G weights/s", "GB/s", "Gmac/s: min, median, max", "of plain"
    );
    for row in &measured.rows {
        let [weights, bytes, median] = row.giga();
        let scale = median / row.rates.median();
        let rates = format!("{:.1} {median:>7.1} {:>7.1}", row.rates.min() * scale, row.rates.max() * scale);
        let multiple =
            yardstick_multiple(measured, row).map_or_else(String::new, |multiple| format!("{multiple:.2} x"));
        let (shape, threads, tokens) = (row.shape.to_string(), row.threads, row.tokens);
        let _ = writeln!(
            page,
            "{:<14}{shape:<12}{threads:>7}{tokens:>8}  {weights:>12.1}{bytes:>8.1}  {rates:>24}  {multiple:>9}",
            row.kernel
        );
    }
    page
}

fn chart(measured: &Measured) -> Chart {
    let panels = measured.roofs.iter().map(|roofs| {
        let rows = measured.rows.iter().filter(|row| row.threads == roofs.threads);
        let points = rows.map(|row| Point {
            series: row.kernel.to_owned(),
            variant: row.shape.to_string(),
            intensity: row.weights() * row.tokens as f64 / row.packed_bytes as f64,
            rate: row.giga()[2] * 1e9,
        });
        Panel::new(roofs, points.collect())
    });
    Chart {
        title: format!("Ternary kernels of {}", measured.isa),
        subtitle: roofs::machine(),
        panels: panels.collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shapes_are_rows_by_columns() {
        assert_eq!("640x2560".parse(), Ok(Shape { rows: 640, cols: 2560 }));
        for wrong in ["640", "0x5", "5x0", "x", "1x2x3", "-1x2", "9999999999x1"] {
            assert_eq!(wrong.parse::<Shape>().unwrap_err(), "expected ROWSxCOLS, each from 1 to 1048576", "{wrong}");
        }
    }
}
