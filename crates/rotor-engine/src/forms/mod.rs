//! Ternary forms: how published files store trits, one file per family.
//!
//! Every form answers one question: which trits does row `r` hold? Packing, conversion and inspection are written
//! against that answer ([`TernaryTensor::read_row`]), so a form is one file here and one row in [`FORMS`].
//! The other direction is [`Encoder`]: it asks for rows and gives bytes, a strip at a time.

mod blocks;
mod encode;
mod form;
mod hf_packed;
mod i2s;
mod iq_bn;
mod master;
mod mlx;
#[cfg(test)]
mod pairs_tests;
mod ptq1_0;
mod quick;
mod read;
mod row;
mod row_order;
mod scales;
mod stored;
mod stq1_0;
mod table;
#[cfg(test)]
pub(crate) mod testing;
mod tl;
pub(crate) mod unpacked;

pub use encode::{Encoder, ReadRow};
pub use form::{I2sLayout, TernaryForm, TernaryTensor};
pub use master::absmean_scale;
pub use row_order::RowOrder;
pub use scales::Scales;
pub(crate) use stored::exact_scales;
pub use stored::{exact_scales_key, inner_scales};
pub use table::{FORMS, FormInfo, ScaleCapability};
pub use tl::{KernelConfig, TlTile};

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::FormatError;
    use crate::planes;
    use proptest::prelude::*;
    use rotor_kernels::DenseType;

    /// A tensor over `bytes` with scale 1 and rows as stored.
    pub(super) fn tensor(form: TernaryForm, rows: usize, cols: usize, bytes: &[u8]) -> TernaryTensor<'_> {
        TernaryTensor {
            name: "blk.0.attn_q.weight",
            rows,
            cols,
            form,
            bytes,
            bit1: &[],
            scales: Scales::Tensor(1.0),
            row_order: RowOrder::AsStored,
        }
    }

    /// All rows of a tensor, one after the other, in the graph's order.
    pub(super) fn read_all(tensor: &TernaryTensor<'_>) -> Result<Vec<i8>, FormatError> {
        let mut trits = vec![0; tensor.rows * tensor.cols];
        for (row, out) in trits.chunks_exact_mut(tensor.cols).enumerate() {
            tensor.read_row(row, out)?;
        }
        Ok(trits)
    }

    /// `n` trits from a seed.
    pub(super) fn random_trits(seed: u64, n: usize) -> Vec<i8> {
        let mut rng = fastrand::Rng::with_seed(seed);
        std::iter::repeat_with(|| rng.i8(-1..=1)).take(n).collect()
    }

    /// Packs `trits` with scale 1; the scale that a form appends included.
    pub(super) fn encode(form: TernaryForm, rows: usize, cols: usize, trits: &[i8]) -> Vec<u8> {
        encode_with(form, rows, cols, trits, Scales::Tensor(1.0))
    }

    /// As [`encode`], with other scales.
    pub(super) fn encode_with(form: TernaryForm, rows: usize, cols: usize, trits: &[i8], scales: Scales) -> Vec<u8> {
        testing::encode_scaled(form, (rows, cols), trits, scales)
    }

    /// Every form that is written.
    fn written() -> impl Iterator<Item = TernaryForm> {
        FORMS.iter().filter(|form| form.is_written()).filter_map(|form| form.form)
    }

    /// A tensor over what [`encode_with`] made.
    fn encoded(form: TernaryForm, rows: usize, cols: usize, bytes: &[u8]) -> TernaryTensor<'_> {
        let mut tensor = tensor(form, rows, cols, bytes);
        if form == TernaryForm::Rotor {
            (tensor.bytes, tensor.bit1) = bytes.split_at(bytes.len() / 2);
        }
        tensor
    }

    /// The shape next to `(rows, cols)` that a form can hold.
    fn fitting(form: TernaryForm, rows: usize, cols: usize) -> (usize, usize) {
        let info = form.info();
        let cols = cols.next_multiple_of(info.cols_multiple);
        let whole_rows = info.weights_multiple >> cols.trailing_zeros().min(7);
        (rows.next_multiple_of(whole_rows.max(1)), cols)
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(60))]

        #[test]
        fn encoding_then_reading_is_the_identity(seed: u64, rows in 1usize..20, cols in 1usize..300) {
            // Half of the shapes with whole blocks in every row, which have a quicker way to planes.
            let cols = if seed % 2 == 0 { cols.next_multiple_of(128) } else { cols };
            for form in written() {
                let (rows, cols) = fitting(form, rows, cols);
                let mut trits = random_trits(seed, rows * cols);
                if form == TernaryForm::Q1_0 {
                    trits.iter_mut().for_each(|trit| *trit |= 1);
                }
                let bytes = encode(form, rows, cols, &trits);
                let tensor = encoded(form, rows, cols, &bytes);
                prop_assert!(tensor.bytes.len() >= form.packed_len(rows, cols).unwrap());
                let width = planes::plane_bytes(cols);
                let (mut bit0, mut bit1) = (vec![9; rows * width], vec![9; rows * width]);
                let strips = bit0.chunks_exact_mut(width).zip(bit1.chunks_exact_mut(width));
                for (row, (bit0, bit1)) in strips.enumerate() {
                    tensor.read_stored_planes(row, bit0, bit1).unwrap();
                }
                let mut by_planes = vec![9; trits.len()];
                planes::planes_to_trits((rows, cols), &bit0, &bit1, &mut by_planes).unwrap();
                prop_assert_eq!(&by_planes, &trits, "{} as planes", form.name());
                prop_assert_eq!(read_all(&tensor).unwrap(), trits, "{}", form.name());
            }
        }

        /// Any bytes are decoded or refused, in every form and for every shape it can hold.
        #[test]
        fn any_bytes_are_decoded_or_refused(seed: u64, rows in 1usize..9, cols in 1usize..400, cut in 0usize..40) {
            let mut rng = fastrand::Rng::with_seed(seed);
            let tile = TlTile { rows: 32, cols: 24, step_rows: 32 };
            let tile1 = TlTile { rows: 32, cols: 64, step_rows: 16 };
            let others = [TernaryForm::Tl1(tile1), TernaryForm::Tl2(tile), TernaryForm::Master(DenseType::F16)];
            for form in FORMS.iter().filter_map(|form| form.form).chain(others) {
                let (rows, cols) = match form {
                    TernaryForm::Tl1(_) | TernaryForm::Tl2(_) => (32 * rows, cols.next_multiple_of(192)),
                    TernaryForm::I2S(I2sLayout::Rows4) => fitting(form, 4 * rows, cols),
                    _ => fitting(form, rows, cols),
                };
                let len = form.packed_len(rows, cols).unwrap();
                let [bytes, bit1] = [0, 1].map(|_| (0..len.saturating_sub(cut)).map(|_| rng.u8(..)).collect::<Vec<_>>());
                let mut tensor = tensor(form, rows, cols, &bytes);
                tensor.bit1 = &bit1;
                let whole = read_all(&tensor);
                let width = planes::plane_bytes(cols);
                let (mut bit0, mut bit1) = (vec![9; width], vec![9; width]);
                let by_planes = (0..rows).all(|row| tensor.read_stored_planes(row, &mut bit0, &mut bit1).is_ok());
                prop_assert_eq!(by_planes, whole.is_ok(), "{}", form.name());
                if let Ok(trits) = whole {
                    prop_assert_eq!(cut, 0, "{}", form.name());
                    prop_assert!(trits.iter().all(|trit| (-1..=1).contains(trit)), "{}", form.name());
                }
            }
        }

        /// Scales of blocks come back through every form that can hold them, as few as say the same.
        #[test]
        fn scales_come_back(seed: u64, rows in 1usize..5, blocks in 1usize..5, kind in 0usize..3) {
            let mut rng = fastrand::Rng::with_seed(seed);
            let cols = 256 * blocks;
            // The first weight of every block is not zero, so every block has its scale.
            let mut trits = random_trits(seed, rows * cols);
            trits.iter_mut().step_by(64).for_each(|trit| *trit = 1);
            let count = [1, rows, rows * blocks][kind];
            let values: Vec<f32> = (0..count).map(|i| rng.f32().mul_add(0.001, i as f32 + 1.0)).collect();
            let scales = Scales::from_values(rows, cols, values).unwrap();
            for form in [TernaryForm::Tq1_0, TernaryForm::Tq2_0, TernaryForm::Q2_0] {
                let encoder = Encoder::new("t", form, rows, cols, scales.clone()).unwrap();
                let bytes = encode_with(form, rows, cols, &trits, scales.clone());
                let found = inner_scales(form, "t", (rows, cols), &bytes).unwrap();
                prop_assert_eq!(found.values().len(), scales.values().len());
                for row in 0..rows {
                    for col in 0..cols {
                        let of = |scales: &Scales| scales.get(row, col * scales.groups() / cols);
                        prop_assert_eq!(of(&found), of(encoder.scales()));
                    }
                }
                prop_assert_eq!(exact_scales(found, (rows, cols), scales.values().to_vec()), scales.clone());
            }
        }
    }

    #[test]
    fn interleaved_rows_come_out_in_the_order_of_the_graph() {
        let (rows, cols, head_dim) = (16, 128, 8);
        let trits = random_trits(1, rows * cols);
        let bytes = encode(TernaryForm::HfPacked, rows, cols, &trits);
        let mut tensor = tensor(TernaryForm::HfPacked, rows, cols, &bytes);
        tensor.row_order = RowOrder::RopeInterleaved { head_dim };
        let mut out = vec![0; cols];
        // Stored row 2j + h of a head is the graph's row h * head_dim/2 + j.
        for (row, stored) in [(0, 0), (1, 2), (3, 6), (4, 1), (7, 7), (8, 8), (12, 9)] {
            tensor.read_row(row, &mut out).unwrap();
            assert_eq!(out, trits[stored * cols..(stored + 1) * cols], "row {row}");
        }
    }

    #[test]
    fn invalid_codes_are_counted_and_placed() {
        let mut bytes = encode(TernaryForm::HfPacked, 8, 5, &[0; 40]);
        bytes[7] |= 0b1100_0000; // Row 1 of the last quarter of two rows, column 2: row 7.
        bytes[4] |= 0b0000_1100; // Row 0 of the second quarter, column 4: row 2.
        let error = read_all(&tensor(TernaryForm::HfPacked, 8, 5, &bytes)).unwrap_err();
        assert_eq!(
            error.to_string(),
            "tensor \"blk.0.attn_q.weight\": expected only codes for -1, 0 and +1, found 2 invalid, the first at row 2, column 4"
        );
    }

    #[test]
    fn bytes_that_end_before_the_row_are_an_error_in_every_form() {
        for form in written() {
            let bytes = encode(form, 4, 256, &[1; 1024]);
            let packed = form.packed_len(4, 256).unwrap();
            let whole = encoded(form, 4, 256, &bytes);
            for len in 0..packed {
                let cut = TernaryTensor { bytes: &whole.bytes[..len], ..whole.clone() };
                assert!(
                    matches!(
                        read_all(&cut),
                        Err(FormatError::Truncated { needed, found, .. }) if needed == packed as u64 && found == len as u64
                    ),
                    "{form:?} cut to {len} bytes"
                );
            }
            assert_eq!(read_all(&whole).unwrap(), [1; 1024], "{form:?}");
        }
    }
}
