//! Rows as bit planes without the detour by trits, for the forms whose layout is near enough.

use super::form::{I2sLayout, TernaryForm, TernaryTensor};
use crate::planes::{self, code_bytes, plane_bytes};
use rotor_kernels::planes::Strided;

/// Writes a stored row's planes; `false`, with anything in them, where the form has no such way or the row is not sound.
pub(super) fn planes(tensor: &TernaryTensor<'_>, row: usize, bit0: &mut [u8], bit1: &mut [u8]) -> bool {
    let (cols, width) = (tensor.cols, plane_bytes(tensor.cols));
    match tensor.form {
        TernaryForm::I2S(layout) if cols.is_multiple_of(128) => {
            let layout = match layout {
                I2sLayout::Blocks128 => Strided::High32,
                I2sLayout::Blocks64 => Strided::High16,
                I2sLayout::Rows4 | I2sLayout::Sequential => return false,
            };
            row_of(tensor.bytes, row, cols / 4)
                .is_some_and(|packed| !planes::kernels().unstride(layout, packed, bit0, bit1))
        }
        TernaryForm::Tq2_0 if cols.is_multiple_of(256) => {
            let Some(stored) = row_of(tensor.bytes, row, cols / 256 * 66) else { return false };
            let planes = bit0.as_chunks_mut::<32>().0.iter_mut().zip(bit1.as_chunks_mut::<32>().0);
            let blocks = stored.as_chunks::<66>().0.iter().zip(planes);
            let wrong = |(block, (bit0, bit1)): (&[u8; 66], (&mut [u8; 32], &mut [u8; 32]))| {
                planes::kernels().unstride(Strided::Low32, &block[..64], bit0, bit1)
            };
            !blocks.map(wrong).fold(false, |any, wrong| any | wrong)
        }
        TernaryForm::BitNet => row_of(tensor.bytes, row, code_bytes(cols))
            .is_some_and(|codes| planes::codes_to_planes((1, cols), codes, bit0, bit1).is_ok()),
        TernaryForm::Rotor => {
            let rows = (row_of(tensor.bytes, row, width), row_of(tensor.bit1, row, width));
            let (Some(plus), Some(minus)) = rows else { return false };
            bit0.copy_from_slice(plus);
            bit1.copy_from_slice(minus);
            let padding = |plane: &[u8]| plane.last().map_or(0, |last| last & !planes::last_byte_mask(cols));
            let both = plus.iter().zip(minus).fold(0, |both, (plus, minus)| both | plus & minus);
            both | padding(plus) | padding(minus) == 0
        }
        _ => false,
    }
}

/// Row `row` of `width` bytes each, where it is there.
fn row_of(bytes: &[u8], row: usize, width: usize) -> Option<&[u8]> {
    let begin = row.checked_mul(width)?;
    bytes.get(begin..begin.checked_add(width)?)
}
