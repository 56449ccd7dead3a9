//! Tells the two I2_S layouts apart, which only files that rotor wrote do. docs/formats.md, "I2_S".
//!
//! Reading a row with the wrong layout permutes its columns inside every aligned group of 128 (where rows are a multiple
//! of 128 long), the same way in every row. So the zeros of a row can be counted without knowing the layout, and those of a
//! column cannot. A feed-forward unit is a row of `ffn_up` and `ffn_gate` and a column of `ffn_down`, and training ties the
//! two together: a unit that died has zeros in all three, and one that is seldom used has many in all three. The layout
//! that brings rows and columns together is the right one. Random weights tie nothing together, and then the layout that
//! nearly every file has is assumed.
//!
//! A few layers are enough. Zeros are counted eight bytes at a time, so that a layer of a 2B model takes a few milliseconds.

use super::graph::{Form, Graph};
use super::metadata::Metadata;
use super::parts::{Part, Role};
use super::table::TensorTable;
use crate::error::FormatError;
use crate::forms::{I2sLayout, TernaryForm};

/// The layout that nearly every file has.
pub(super) const DEFAULT: I2sLayout = I2sLayout::Blocks128;

/// The key under which rotor writes a layout other than the usual one.
pub(crate) const KEY: &str = "rotor.i2s_layout";

/// The layout that the file names.
pub(super) fn named(metadata: &Metadata) -> Result<Option<I2sLayout>, FormatError> {
    match metadata.str(KEY)? {
        None => Ok(None),
        Some("128") => Ok(Some(I2sLayout::Blocks128)),
        Some("64") => Ok(Some(I2sLayout::Blocks64)),
        Some(other) => Err(FormatError::unsupported(format!("{KEY} {other:?}"), "known are \"128\" and \"64\"")),
    }
}

/// Most layers to look at.
const MAX_LAYERS: usize = 6;
/// Elements of a block of the longer layout: rows of a multiple of it keep their columns inside their groups.
const GROUP: usize = 128;
/// Dead units whose columns the layouts disagree about that settle the question without another layer.
const ENOUGH_DEAD_UNITS: usize = 8;
/// How far apart the correlations must lie, in standard deviations of the correlation of unrelated numbers.
const CLEAR: f64 = 6.0;
/// How far apart they must lie to be worth a word.
const DOUBTFUL: f64 = 4.5;

const LAYOUTS: [I2sLayout; 2] = [I2sLayout::Blocks128, I2sLayout::Blocks64];

/// What looking at the weights found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Detection {
    /// The weights fit this layout and not the other.
    Found(I2sLayout),
    /// The weights do not tell; [`DEFAULT`] is the best guess. `doubtful` where the other layout fits a little better.
    Unclear { doubtful: bool },
}

/// What one layer says.
#[derive(Clone, Copy, Debug, Default)]
struct Findings {
    /// Units whose rows are zero and whose column the layouts disagree about.
    dead_units: usize,
    /// Those of them whose column is zero too, by layout.
    dead_columns: [usize; 2],
    /// Sums of the correlation between zeros in rows and in columns, by layout, weighted by units.
    correlation: [f64; 2],
    units: usize,
}

/// Looks at the feed-forward weights of a few layers.
pub(super) fn detect(table: &TensorTable, graph: &Graph) -> Detection {
    let layers: Vec<usize> = graph
        .linears
        .keys()
        .filter_map(|role| if let Role::Layer(layer, Part::FfnDown) = role { Some(*layer) } else { None })
        .collect();
    let mut findings = Findings::default();
    for layer in spread(&layers) {
        let Some(more) = look_at(table, graph, layer) else { continue };
        findings.dead_units += more.dead_units;
        findings.units += more.units;
        for layout in 0..LAYOUTS.len() {
            findings.dead_columns[layout] += more.dead_columns[layout];
            findings.correlation[layout] += more.correlation[layout];
        }
        if findings.dead_units >= ENOUGH_DEAD_UNITS && findings.by_dead_units().is_some() {
            break;
        }
    }
    match findings.by_dead_units().or_else(|| findings.by_correlation(CLEAR)) {
        Some(layout) => Detection::Found(layout),
        None => {
            Detection::Unclear { doubtful: findings.by_correlation(DOUBTFUL).is_some_and(|leaning| leaning != DEFAULT) }
        }
    }
}

/// At most [`MAX_LAYERS`] of the layers, evenly spread, the second first: dead units are known to be common there.
fn spread(layers: &[usize]) -> Vec<usize> {
    let count = layers.len().min(MAX_LAYERS);
    let mut picked: Vec<usize> = (0..count).filter_map(|i| layers.get(i * layers.len() / count).copied()).collect();
    if let Some(first) = picked.first_mut()
        && let Some(&second) = layers.get(1)
        && layers.len() > MAX_LAYERS
    {
        *first = second;
    }
    picked
}

/// `None` where the layer's weights are not I2_S or too narrow to tell anything.
fn look_at(table: &TensorTable, graph: &Graph, layer: usize) -> Option<Findings> {
    let packed = |part| {
        let matrix = &graph.linears.get(&Role::Layer(layer, part))?.matrix;
        let is_i2s = matches!(matrix.form, Form::Ternary { form: TernaryForm::I2S(_), .. });
        let is_usable = is_i2s && matrix.cols.is_multiple_of(GROUP);
        let bytes = table.bytes(table.tensor(matrix.tensor)).get(..matrix.rows * matrix.cols / 4)?;
        is_usable.then_some((bytes, matrix.cols))
    };
    let (gate, hidden) = packed(Part::FfnGate)?;
    let (up, _) = packed(Part::FfnUp)?;
    let (down, units) = packed(Part::FfnDown)?;
    let rows: Vec<u32> = zeros_of_rows(gate, hidden).zip(zeros_of_rows(up, hidden)).map(|(g, u)| g + u).collect();
    let slots = zeros_of_slots(down, units);
    for bytes in [gate, up, down] {
        table.release(bytes);
    }
    let columns = LAYOUTS.map(|layout| (0..units).map(|unit| slots[slot_of(layout, unit)]).collect::<Vec<u32>>());
    let (all_of_row, all_of_column) = (2 * hidden as u32, (down.len() * 4 / units) as u32);
    let disputed = |unit: &usize| slot_of(LAYOUTS[0], *unit) != slot_of(LAYOUTS[1], *unit);
    let dead: Vec<usize> = (0..units).filter(|&unit| rows[unit] == all_of_row).filter(disputed).collect();
    Some(Findings {
        dead_units: dead.len(),
        dead_columns: [0, 1].map(|l| dead.iter().filter(|&&unit| columns[l][unit] == all_of_column).count()),
        correlation: [0, 1].map(|l| correlation(&rows, &columns[l]) * units as f64),
        units,
    })
}

impl Findings {
    /// The layout for which every dead unit has a dead column, if the other is not like that.
    fn by_dead_units(&self) -> Option<I2sLayout> {
        match self.dead_columns.map(|columns| self.dead_units > 0 && columns == self.dead_units) {
            [true, false] => Some(LAYOUTS[0]),
            [false, true] => Some(LAYOUTS[1]),
            _ => None,
        }
    }

    /// The layout for which rows and columns go together better by so many standard deviations.
    fn by_correlation(&self, deviations: f64) -> Option<I2sLayout> {
        // Of n pairs of unrelated numbers the correlation scatters by 1/sqrt(n); the sums here are n times as large.
        let clear = deviations * (self.units as f64).sqrt();
        let [first, second] = self.correlation;
        let best = if first >= second { LAYOUTS[0] } else { LAYOUTS[1] };
        (first.max(second) > clear && (first - second).abs() > clear).then_some(best)
    }
}

/// Where the zeros of column `unit` are counted by [`zeros_of_slots`]: four slots for each byte of a row.
fn slot_of(layout: I2sLayout, unit: usize) -> usize {
    let (group, within) = (unit / GROUP, unit % GROUP);
    let (byte, slot) = match layout {
        I2sLayout::Blocks64 => (16 * (within / 64) + within % 16, within % 64 / 16),
        // The other layouts are taken only where they are asked for.
        _ => (within % 32, within / 32),
    };
    (32 * group + byte) * 4 + slot
}

/// Ones in the lower bit of every code that is 01, the zero.
const fn zero_codes(word: u64) -> u64 {
    word & !(word >> 1) & 0x5555_5555_5555_5555
}

/// How many zeros each row has. A row is a multiple of 32 bytes.
fn zeros_of_rows(packed: &[u8], cols: usize) -> impl Iterator<Item = u32> {
    packed
        .chunks_exact(cols / 4)
        .map(|row| row.as_chunks().0.iter().map(|&w| zero_codes(u64::from_le_bytes(w)).count_ones()).sum())
}

/// How many zeros each slot of each byte of a row has, over all rows; slot 0 is the high bits.
fn zeros_of_slots(packed: &[u8], cols: usize) -> Vec<u32> {
    /// Rows that counters of eight bits can take.
    const FLUSH: usize = 255;
    let words = cols / 4 / 8;
    let mut totals = vec![0u32; cols];
    // Eight counters to a word, a word for each slot of each word of a row.
    let mut counters = vec![[0u64; 4]; words];
    for rows in packed.chunks(FLUSH * (cols / 4)) {
        for row in rows.chunks_exact(cols / 4) {
            for (counters, &word) in counters.iter_mut().zip(row.as_chunks().0) {
                let zeros = zero_codes(u64::from_le_bytes(word));
                for (slot, counter) in counters.iter_mut().enumerate() {
                    *counter += zeros >> (6 - 2 * slot) & 0x0101_0101_0101_0101;
                }
            }
        }
        for (totals, counters) in totals.chunks_exact_mut(32).zip(&mut counters) {
            for (slot, counter) in counters.iter_mut().enumerate() {
                for (byte, count) in std::mem::take(counter).to_le_bytes().into_iter().enumerate() {
                    totals[4 * byte + slot] += u32::from(count);
                }
            }
        }
    }
    totals
}

/// Pearson's correlation; 0 where one side does not vary.
fn correlation(a: &[u32], b: &[u32]) -> f64 {
    let n = a.len() as f64;
    let mean = |values: &[u32]| values.iter().map(|&v| f64::from(v)).sum::<f64>() / n;
    let (mean_a, mean_b) = (mean(a), mean(b));
    let (mut ab, mut aa, mut bb) = (0.0, 0.0, 0.0);
    for (&a, &b) in a.iter().zip(b) {
        let (a, b) = (f64::from(a) - mean_a, f64::from(b) - mean_b);
        ab += a * b;
        aa += a * a;
        bb += b * b;
    }
    if aa > 0.0 && bb > 0.0 { ab / (aa * bb).sqrt() } else { 0.0 }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{TINY_LINEARS, TestGguf, f32s, i2s, tiny_bitnet};
    use super::super::{OpenOptions, Source};
    use super::*;

    const UNITS: usize = 512;
    const HIDDEN: usize = 128;

    /// A BitNet layer of 512 units whose trits depend on what `unit` says of a unit: how likely a zero is, of 256.
    fn model(layout: I2sLayout, zero_chance: impl Fn(usize) -> u32 + Sync) -> TestGguf {
        let mut file = tiny_bitnet()
            .u32("bitnet-b1.58.embedding_length", HIDDEN as u32)
            .u32("bitnet-b1.58.feed_forward_length", UNITS as u32)
            .u32("bitnet-b1.58.attention.key_length", 8)
            .tensor("token_embd.weight", &[HIDDEN as u64, 8], 0, f32s([1.0; HIDDEN * 8]))
            .tensor("blk.0.ffn_sub_norm.weight", &[UNITS as u64], 0, f32s([1.0; UNITS]));
        for name in ["output_norm", "blk.0.attn_norm", "blk.0.ffn_norm"] {
            file = file.tensor(&format!("{name}.weight"), &[HIDDEN as u64], 0, f32s([1.0; HIDDEN]));
        }
        let trit = |unit: usize, salt: usize| {
            let mut rng = fastrand::Rng::with_seed((unit * 100_003 + salt) as u64);
            if rng.u32(0..256) < zero_chance(unit) { 0 } else { [-1, 1][rng.usize(0..2)] }
        };
        for (index, (name, cols, rows)) in TINY_LINEARS.into_iter().enumerate() {
            let (rows, cols) = match name {
                "ffn_gate" | "ffn_up" => (UNITS, HIDDEN),
                "ffn_down" => (HIDDEN, UNITS),
                "attn_output" => (HIDDEN, 16),
                _ => (rows, cols.max(HIDDEN)),
            };
            let salt = index * 1000;
            let bytes =
                i2s(
                    layout,
                    rows,
                    cols,
                    |row, col| {
                        if name == "ffn_down" { trit(col, salt + row) } else { trit(row, salt + col) }
                    },
                );
            file = file.tensor(&format!("blk.0.{name}.weight"), &[cols as u64, rows as u64], 36, bytes);
        }
        file
    }

    fn detected(file: &TestGguf) -> I2sLayout {
        Source::from_bytes(file.build(), &OpenOptions::default()).unwrap().i2s_layout()
    }

    #[test]
    fn dead_units_tell() {
        // Three dead units, outside the columns that both layouts keep in the same place.
        let chance = |unit| if [20, 77, 300].contains(&unit) { 256 } else { 100 };
        for layout in LAYOUTS {
            assert_eq!(detected(&model(layout, chance)), layout);
        }
    }

    #[test]
    fn dead_units_that_both_layouts_place_alike_tell_nothing() {
        for layout in LAYOUTS {
            let chance = |unit| if [0, 128, 256 + 127].contains(&unit) { 256 } else { 100 };
            assert_eq!(detected(&model(layout, chance)), DEFAULT);
        }
    }

    #[test]
    fn units_of_different_density_tell() {
        for layout in LAYOUTS {
            let chance = |unit: usize| 40 + (unit * 7919 % 160) as u32;
            assert_eq!(detected(&model(layout, chance)), layout);
        }
    }

    #[test]
    fn random_weights_tell_nothing() {
        for layout in LAYOUTS {
            assert_eq!(detected(&model(layout, |_| 100)), DEFAULT);
        }
    }

    #[test]
    fn a_given_layout_is_not_questioned() {
        let file = model(I2sLayout::Blocks128, |unit| 40 + (unit * 7919 % 160) as u32);
        let options = OpenOptions { i2s_layout: Some(I2sLayout::Blocks64), ..OpenOptions::default() };
        assert_eq!(Source::from_bytes(file.build(), &options).unwrap().i2s_layout(), I2sLayout::Blocks64);
    }

    #[test]
    fn zeros_are_counted_by_row_and_by_slot() {
        let (rows, cols) = (600, 256);
        let trit = |row: usize, col: usize| [(0), 1, -1, 0][(row * 5 + col * 3 + row * col) % 4];
        for layout in LAYOUTS {
            let packed = i2s(layout, rows, cols, trit);
            let packed = &packed[..rows * cols / 4];
            let of_rows: Vec<u32> = zeros_of_rows(packed, cols).collect();
            for (row, &zeros) in of_rows.iter().enumerate() {
                assert_eq!(zeros as usize, (0..cols).filter(|&col| trit(row, col) == 0).count(), "row {row}");
            }
            let slots = zeros_of_slots(packed, cols);
            for col in 0..cols {
                let expected = (0..rows).filter(|&row| trit(row, col) == 0).count();
                assert_eq!(slots[slot_of(layout, col)] as usize, expected, "column {col}");
            }
        }
    }
}
