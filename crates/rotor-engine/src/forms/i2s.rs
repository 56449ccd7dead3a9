//! I2_S, the form of Microsoft's GGUF files: one flat stream of 2-bit codes, cut into blocks.
//!
//! A block of `4 * B` elements takes `B` bytes. Element `r` of a block lives in byte `r % B`, and in its bits 7:6, 5:4,
//! 3:2 or 1:0 for `r / B` = 0, 1, 2, 3. `B` is 32 where the file was written by an x86 build or by the Python packers, 16
//! where a NEON build wrote it. Code = trit + 1. After the stream follow one f32 scale and 28 filler bytes.
//!
//! The stream does not know rows: a row of a width that 128 does not divide begins inside a block.

use super::form::I2sLayout;

/// Bytes after the packed trits: one f32 and filler.
pub(super) const TAIL: usize = 32;

/// Elements that the stream must be a multiple of, in either layout: the reference packers cut off what is over.
pub(super) const STREAM_UNIT: usize = 128;

/// Bytes of the stream, without [`TAIL`].
pub(super) fn packed_len(layout: I2sLayout, rows: usize, cols: usize) -> Option<usize> {
    let elements = rows.checked_mul(cols)?;
    let is_whole = layout != I2sLayout::Rows4 || rows.is_multiple_of(4);
    (is_whole && elements.is_multiple_of(STREAM_UNIT)).then_some(elements / 4)
}

/// Rows after which the stream is at the beginning of a block again.
pub(super) fn strip_rows(cols: usize) -> usize {
    STREAM_UNIT >> cols.trailing_zeros().min(STREAM_UNIT.trailing_zeros())
}

/// Decodes a row of `out.len()` columns; `None` where `bytes` ends before it.
pub(super) fn decode_row(layout: I2sLayout, bytes: &[u8], row: usize, out: &mut [i8]) -> Option<()> {
    let first = row.checked_mul(out.len())?;
    match layout {
        I2sLayout::Blocks128 => decode::<32>(bytes, first, out),
        I2sLayout::Blocks64 => decode::<16>(bytes, first, out),
        I2sLayout::Sequential => decode_sequential(bytes, first, out),
        I2sLayout::Rows4 => decode_rows4(bytes, row, out),
    }
}

/// Element `e` in slot `e % 4` of byte `e / 4`.
fn decode_sequential(bytes: &[u8], first: usize, out: &mut [i8]) -> Option<()> {
    let packed = bytes.get(first / 4..first.checked_add(out.len())?.div_ceil(4))?;
    for (at, out) in (first % 4..).zip(out) {
        *out = (packed.get(at / 4)? >> (6 - 2 * (at % 4)) & 3) as i8 - 1;
    }
    Some(())
}

/// Row `4g + s` in slot `s` of the bytes of row group `g`.
fn decode_rows4(bytes: &[u8], row: usize, out: &mut [i8]) -> Option<()> {
    let begin = (row / 4).checked_mul(out.len())?;
    let packed = bytes.get(begin..begin.checked_add(out.len())?)?;
    for (out, byte) in out.iter_mut().zip(packed) {
        *out = (byte >> (6 - 2 * (row % 4)) & 3) as i8 - 1;
    }
    Some(())
}

/// Encodes whole blocks of `4 * B` elements: `trits.len()` is `4 * packed.len()` and a multiple of 128.
pub(super) fn encode<const B: usize>(trits: &[i8], packed: &mut [u8]) {
    let (blocks, _) = packed.as_chunks_mut::<B>();
    for (packed, trits) in blocks.iter_mut().zip(trits.chunks_exact(4 * B)) {
        packed.fill(0);
        for (slot, trits) in trits.chunks_exact(B).enumerate() {
            for (byte, &trit) in packed.iter_mut().zip(trits) {
                *byte |= ((trit + 1) as u8) << (6 - 2 * slot);
            }
        }
    }
}

/// Decodes the elements from `first` on, `out.len()` of them, wherever in a block they begin and end.
fn decode<const B: usize>(bytes: &[u8], first: usize, out: &mut [i8]) -> Option<()> {
    let (block, skip) = (first / (4 * B), first % (4 * B));
    let (mut packed, _) = bytes.get(block * B..)?.as_chunks::<B>();
    let mut rest = out;
    if skip > 0 {
        let (head, tail) = rest.split_at_mut(rest.len().min(4 * B - skip));
        decode_part(packed.split_off_first()?, skip, head);
        rest = tail;
    }
    let (whole, last) = rest.split_at_mut(rest.len() / (4 * B) * (4 * B));
    let (full, after) = packed.split_at_checked(whole.len() / (4 * B))?;
    for (packed, out) in full.iter().zip(whole.chunks_exact_mut(4 * B)) {
        decode_block(packed, out);
    }
    if !last.is_empty() {
        decode_part(after.first()?, 0, last);
    }
    Some(())
}

/// Decodes one block of `4 * B` elements. Code 3 comes out as 2, which is no trit.
fn decode_block<const B: usize>(packed: &[u8; B], out: &mut [i8]) {
    for (slot, out) in out.chunks_exact_mut(B).enumerate() {
        for (out, &byte) in out.iter_mut().zip(packed) {
            *out = ((byte >> (6 - 2 * slot)) & 3) as i8 - 1;
        }
    }
}

/// Decodes the elements of one block from `skip` on.
fn decode_part<const B: usize>(packed: &[u8; B], skip: usize, out: &mut [i8]) {
    let mut block = [0; STREAM_UNIT];
    decode_block(packed, &mut block[..4 * B]);
    out.copy_from_slice(&block[skip..skip + out.len()]);
}

#[cfg(test)]
mod tests {
    use super::super::testing::encode_i2s;
    use super::super::tests::{encode, random_trits, read_all, tensor};
    use super::*;
    use crate::forms::TernaryForm;

    /// The worked example of docs/formats.md.
    fn example() -> Vec<i8> {
        let mut trits = vec![0; 128];
        for (at, trit) in [(0, 1), (1, -1), (2, 1), (33, 1), (64, -1), (127, 1)] {
            trits[at] = trit;
        }
        trits
    }

    #[test]
    fn worked_example_in_both_layouts() {
        let mut blocks_128 = [0x55; 32];
        blocks_128[..3].copy_from_slice(&[0x91, 0x25, 0x95]);
        blocks_128[31] = 0x56;
        let mut blocks_64 = [0x55; 32];
        blocks_64[..2].copy_from_slice(&[0x95, 0x19]);
        blocks_64[2] = 0x95;
        blocks_64[16] = 0x15;
        blocks_64[31] = 0x56;
        for (layout, expected) in [(I2sLayout::Blocks128, blocks_128), (I2sLayout::Blocks64, blocks_64)] {
            let form = TernaryForm::I2S(layout);
            assert_eq!(encode(form, 1, 128, &example())[..32], expected, "{layout:?}");
            assert_eq!(read_all(&tensor(form, 1, 128, &expected)).unwrap(), example(), "{layout:?}");
        }
    }

    #[test]
    fn rows_of_the_3b_models_width_begin_inside_blocks() {
        // 8640 = 67.5 * 128: every second row begins at element 64 of a block.
        let trits = random_trits(7, 4 * 8640);
        for layout in [I2sLayout::Blocks128, I2sLayout::Blocks64] {
            let form = TernaryForm::I2S(layout);
            let bytes = encode(form, 4, 8640, &trits);
            assert_eq!(read_all(&tensor(form, 4, 8640, &bytes)).unwrap(), trits, "{layout:?}");
        }
    }

    #[test]
    fn worked_examples_of_the_layouts_that_are_only_read() {
        let mut sequential = vec![0x55; 32];
        for (at, byte) in [(0, 0x89), (8, 0x65), (16, 0x15), (31, 0x56)] {
            sequential[at] = byte;
        }
        let form = TernaryForm::I2S(I2sLayout::Sequential);
        assert_eq!(read_all(&tensor(form, 1, 128, &sequential)).unwrap(), example());
        // Four rows of four weights, side by side in four bytes.
        let rows = [[1, 0, -1, 0], [-1, 1, 0, 0], [0, 1, 1, -1], [1, -1, -1, 1]];
        for (row, expected) in rows.iter().enumerate() {
            let mut found = [9; 4];
            decode_row(I2sLayout::Rows4, &[0x86, 0x68, 0x18, 0x52], row, &mut found).unwrap();
            assert_eq!(found, *expected, "row {row}");
        }
    }

    #[test]
    fn layouts_that_are_only_read_come_back_for_any_shape() {
        for (rows, cols) in [(4, 32), (8, 80), (128, 3), (12, 160)] {
            let trits = random_trits(9, rows * cols);
            for layout in [I2sLayout::Rows4, I2sLayout::Sequential] {
                let bytes = encode_i2s(layout, cols, &trits);
                let form = TernaryForm::I2S(layout);
                assert_eq!(read_all(&tensor(form, rows, cols, &bytes)).unwrap(), trits, "{layout:?} [{rows}, {cols}]");
            }
        }
        assert_eq!(packed_len(I2sLayout::Rows4, 6, 128), None);
    }

    #[test]
    fn code_three_is_reported_wherever_it_stands() {
        for (byte, bits, column) in [(0, 0xc0, 0), (0, 0x03, 96), (31, 0x30, 63)] {
            let mut bytes = vec![0x55; 64];
            bytes[32 + byte] |= bits;
            let error = read_all(&tensor(TernaryForm::I2S(I2sLayout::Blocks128), 2, 128, &bytes)).unwrap_err();
            let place = format!("1 invalid, the first at row 1, column {column}");
            assert!(error.to_string().ends_with(&place), "{error}");
        }
    }

    #[test]
    fn a_stream_that_is_no_multiple_of_128_is_refused() {
        assert_eq!(packed_len(I2sLayout::Blocks128, 3, 100), None);
        assert_eq!(packed_len(I2sLayout::Blocks128, 32, 100), Some(800));
        assert_eq!(packed_len(I2sLayout::Blocks64, usize::MAX, 2), None);
        assert_eq!(strip_rows(100), 32);
        assert_eq!(strip_rows(2560), 1);
    }
}
