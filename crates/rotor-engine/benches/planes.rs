//! Speed of the codes, planes and forms of one layer on one thread, beside a memcpy of as many bytes in the same run.
//!
//! `cargo bench -p rotor-engine --bench planes [-- ROWS COLS]`. A line is one direction: the time of the fastest of many
//! rounds, the bytes read and written in that time, and the speed as a share of memcpy's.

use rotor::formats::RowOrder;
use rotor::forms::{Encoder, I2sLayout, Scales, TernaryForm, TernaryTensor};
use rotor::planes::{code_bytes, codes_to_planes, decode_codes, encode_codes, plane_bytes, planes_to_codes};
use rotor::planes::{planes_to_trits, trits_to_planes};
use std::hint::black_box;
use std::time::{Duration, Instant};

/// The fastest of the rounds that fit a second.
fn fastest(mut round: impl FnMut()) -> Duration {
    let begin = Instant::now();
    let mut best = Duration::MAX;
    while begin.elapsed() < Duration::from_secs(1) {
        let start = Instant::now();
        round();
        best = best.min(start.elapsed());
    }
    best
}

struct Report {
    memcpy_gb_s: f64,
}

impl Report {
    fn line(&self, what: &str, bytes: usize, time: Duration) {
        let gb_s = bytes as f64 / time.as_secs_f64() / 1e9;
        let share = 100.0 * gb_s / self.memcpy_gb_s;
        println!("{what:<20} {:>9.1} us {gb_s:>7.2} GB/s {share:>6.1} % of memcpy", time.as_secs_f64() * 1e6);
    }
}

/// A tensor's bytes in a form.
fn encoded(form: TernaryForm, (rows, cols): (usize, usize), trits: &[i8]) -> Vec<u8> {
    let encoder = Encoder::new("layer", form, rows, cols, Scales::Tensor(1.0)).expect("a shape for every form");
    let mut bytes = vec![0; encoder.strips() * encoder.strip_bytes()];
    for (strip, out) in bytes.chunks_exact_mut(encoder.strip_bytes()).enumerate() {
        let mut read = |row: usize, out: &mut [i8]| {
            out.copy_from_slice(&trits[row * cols..(row + 1) * cols]);
            Ok(())
        };
        encoder.encode_strip(strip, &mut read, out).expect("trits");
    }
    bytes
}

fn main() {
    let numbers: Vec<usize> = std::env::args().skip(1).filter_map(|argument| argument.parse().ok()).collect();
    let (rows, cols) = if let [rows, cols] = numbers[..] { (rows, cols) } else { (1024, 4096) };
    let shape = (rows, cols);
    let mut rng = fastrand::Rng::with_seed(1);
    let mut trits: Vec<i8> = (0..rows * cols).map(|_| rng.i8(-1..=1)).collect();
    let mut codes = vec![0; rows * code_bytes(cols)];
    let (mut bit0, mut bit1) = (vec![0; rows * plane_bytes(cols)], vec![0; rows * plane_bytes(cols)]);
    encode_codes(shape, &trits, &mut codes).expect("trits");
    let packed = codes.len() + bit0.len() + bit1.len();
    println!("{rows} x {cols} weights, one thread; bytes are those read and written");

    let (from, mut to) = (codes.clone(), vec![0u8; codes.len()]);
    let copy = fastest(|| black_box(&mut to).copy_from_slice(black_box(&from)));
    let report = Report { memcpy_gb_s: 2.0 * codes.len() as f64 / copy.as_secs_f64() / 1e9 };
    report.line("memcpy of the codes", 2 * codes.len(), copy);

    let time = fastest(|| codes_to_planes(shape, black_box(&codes), &mut bit0, &mut bit1).expect("sound codes"));
    report.line("codes to planes", packed, time);
    let time = fastest(|| planes_to_codes(shape, black_box(&bit0), &bit1, &mut codes).expect("sound planes"));
    report.line("planes to codes", packed, time);
    let unpacked = trits.len() + codes.len();
    let time = fastest(|| encode_codes(shape, black_box(&trits), &mut codes).expect("trits"));
    report.line("trits to codes", unpacked, time);
    let time = fastest(|| decode_codes(shape, black_box(&codes), &mut trits).expect("sound codes"));
    report.line("codes to trits", unpacked, time);
    let time = fastest(|| trits_to_planes(shape, black_box(&trits), &mut bit0, &mut bit1).expect("trits"));
    report.line("trits to planes", unpacked, time);
    let time = fastest(|| planes_to_trits(shape, black_box(&bit0), &bit1, &mut trits).expect("sound planes"));
    report.line("planes to trits", unpacked, time);

    for form in [
        TernaryForm::I2S(I2sLayout::Blocks128),
        TernaryForm::I2S(I2sLayout::Blocks64),
        TernaryForm::Tq1_0,
        TernaryForm::Tq2_0,
        TernaryForm::Q2_0,
        TernaryForm::HfPacked,
    ] {
        let bytes = encoded(form, shape, &trits);
        let tensor = TernaryTensor {
            name: "layer",
            rows,
            cols,
            form,
            bytes: &bytes,
            bit1: &[],
            scales: Scales::Tensor(1.0),
            row_order: RowOrder::AsStored,
        };
        let width = plane_bytes(cols);
        let time = fastest(|| {
            let planes = bit0.chunks_exact_mut(width).zip(bit1.chunks_exact_mut(width));
            for (row, (bit0, bit1)) in planes.enumerate() {
                black_box(&tensor).read_stored_planes(row, bit0, bit1).expect("sound bytes");
            }
        });
        report.line(&format!("{} to planes", form.name()), bytes.len() + bit0.len() + bit1.len(), time);
    }
}
