//! Every form that is read, those that are only read included, becomes every form that is written, over random shapes.

use super::testing::{encode, with_one_zero_in_four};
use super::{
    Encoder, FORMS, I2sLayout, RowOrder, Scales, TernaryForm, TernaryTensor, TlTile, absmean_scale, inner_scales,
};

use half::{bf16, f16};
use proptest::prelude::*;
use rotor_kernels::DenseType;

/// A scale that f16 holds.
const SCALE: f32 = 0.375;

/// A tensor that owns its bytes.
struct Stored {
    form: TernaryForm,
    shape: (usize, usize),
    bytes: Vec<u8>,
    bit1: Vec<u8>,
}

impl Stored {
    fn tensor(&self) -> TernaryTensor<'_> {
        let ((rows, cols), form) = (self.shape, self.form);
        let (scales, row_order) = (Scales::Tensor(SCALE), RowOrder::AsStored);
        TernaryTensor { name: "t", rows, cols, form, bytes: &self.bytes, bit1: &self.bit1, scales, row_order }
    }

    fn trits(&self) -> Vec<i8> {
        let tensor = self.tensor();
        let mut trits = vec![9; tensor.rows * tensor.cols];
        trits
            .chunks_exact_mut(tensor.cols)
            .enumerate()
            .for_each(|(row, out)| tensor.read_stored_row(row, out).unwrap());
        trits
    }

    /// The scales among the bytes, where the form has them there.
    fn scales(&self) -> Option<Scales> {
        let TernaryForm::Master(dtype) = self.form else {
            return inner_scales(self.form, "t", self.shape, &self.bytes).ok();
        };
        absmean_scale("t", dtype, &self.bytes).ok().map(Scales::Tensor)
    }

    fn new(form: TernaryForm, shape: (usize, usize), trits: &[i8]) -> Self {
        let mut bytes = match form {
            TernaryForm::Master(dtype) | TernaryForm::Unpacked(dtype) => {
                trits.iter().flat_map(|&trit| master(dtype, SCALE * f32::from(trit))).collect()
            }
            form => encode(form, shape, trits, SCALE),
        };
        let bit1 = if form == TernaryForm::Rotor { bytes.split_off(bytes.len() / 2) } else { Vec::new() };
        Self { form, shape, bytes, bit1 }
    }

    /// This tensor, read row by row, in another form.
    fn converted(&self, form: TernaryForm) -> Self {
        let (tensor, (rows, cols)) = (self.tensor(), self.shape);
        let encoder = Encoder::new("t", form, rows, cols, tensor.scales.clone()).unwrap();
        let mut bytes = vec![0; encoder.strips() * encoder.strip_bytes()];
        for (strip, out) in bytes.chunks_exact_mut(encoder.strip_bytes()).enumerate() {
            encoder.encode_strip(strip, &mut |row, out| tensor.read_stored_row(row, out), out).unwrap();
        }
        let bit1 = if encoder.tensors() == 2 { bytes.split_off(bytes.len() / 2) } else { Vec::new() };
        bytes.extend(encoder.tail());
        Self { form, shape: self.shape, bytes, bit1 }
    }
}

fn master(dtype: DenseType, weight: f32) -> Vec<u8> {
    match dtype {
        DenseType::F16 => f16::from_f32(weight).to_le_bytes().to_vec(),
        DenseType::Bf16 => bf16::from_f32(weight).to_le_bytes().to_vec(),
        _ => weight.to_le_bytes().to_vec(),
    }
}

/// Every form that is read, with tiles for those that have any.
fn read() -> impl Iterator<Item = TernaryForm> {
    let tiles = [
        TernaryForm::Tl1(TlTile { rows: 32, cols: 64, step_rows: 16 }),
        TernaryForm::Tl2(TlTile { rows: 32, cols: 96, step_rows: 32 }),
    ];
    let floats = [DenseType::F32, DenseType::F16, DenseType::Bf16];
    let floats = floats.map(TernaryForm::Master).into_iter().chain(floats.map(TernaryForm::Unpacked));
    FORMS.iter().filter_map(|info| info.form).chain(tiles).chain(floats)
}

/// What the rows, a power of two, and the columns of a form's shapes are multiples of here.
fn unit(form: TernaryForm) -> (usize, usize) {
    match form {
        TernaryForm::Tl1(tile) => (tile.rows, tile.cols),
        // Its size takes 256 columns for pairs, so that is the least it has.
        TernaryForm::Tl2(tile) => (tile.rows, 4 * tile.cols),
        TernaryForm::I2S(I2sLayout::Rows4) => (4, 32),
        TernaryForm::I2S(_) => (2, 64),
        form => (1, form.info().cols_multiple),
    }
}

/// The least common multiple.
fn common(a: usize, b: usize) -> usize {
    (a..).step_by(a).find(|multiple| multiple.is_multiple_of(b)).unwrap()
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(12) })]

    #[test]
    fn every_form_becomes_every_form_that_can_hold_it(seed: u64, rows in 1usize..6, cols in 1usize..200) {
        let mut rng = fastrand::Rng::with_seed(seed);
        for (from, to) in read().flat_map(|from| read().map(move |to| (from, to))) {
            // Q1_0 has no zeros, STQ1_0 has some in every row.
            if !to.info().is_written() || (from, to) == (TernaryForm::Stq1_0, TernaryForm::Q1_0) {
                continue;
            }
            let ((rows1, cols1), (rows2, cols2)) = (unit(from), unit(to));
            let shape = (rows.next_multiple_of(rows1.max(rows2)), cols.next_multiple_of(common(cols1, cols2)));
            let zeros = from != TernaryForm::Q1_0 && to != TernaryForm::Q1_0;
            let mut trits: Vec<i8> =
                (0..shape.0 * shape.1).map(|_| if zeros { rng.i8(-1..=1) } else { rng.i8(0..=1) * 2 - 1 }).collect();
            if from == TernaryForm::Stq1_0 {
                with_one_zero_in_four(&mut trits);
            }
            let first = Stored::new(from, shape, &trits);
            prop_assert_eq!(&first.trits(), &trits, "{}", from.name());
            let second = first.converted(to);
            prop_assert_eq!(&second.trits(), &trits, "{} to {}", from.name(), to.name());
            for stored in [&first, &second] {
                let is_master = matches!(stored.form, TernaryForm::Master(_));
                if let Some(scales) = stored.scales().filter(|_| !is_master) {
                    prop_assert_eq!(scales, Scales::Tensor(SCALE), "{} to {}", from.name(), to.name());
                }
            }
            if from.info().is_written() {
                prop_assert!(second.converted(from).bytes == first.bytes, "{} to {} and back", from.name(), to.name());
            }
        }
    }
}
