//! What the type ids of GGUF tensors mean and how many bytes a tensor of each type takes.
//!
//! Ids 36 to 44, 142 and 143 mean different things in different projects and nothing in the file says which project wrote it.
//! The room that tensors have (up to the next tensor's offset) tells, since the sizes differ; an id means one thing in a file.

use super::super::table::{Storage, TlKind};
use crate::error::FormatError;
use crate::forms::{I2sLayout, TernaryForm};
use rotor_kernels::DenseType;

/// How the size of a tensor follows from its shape.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Size {
    /// Rows of blocks: elements and bytes per block.
    Blocks(u64, u64),
    /// As blocks of 64 elements, with some bytes in front of every row.
    BlocksAndRowHeader { header: u64, block_bytes: u64 },
    /// A quarter byte per element and 32 bytes behind the whole tensor.
    QuarterByteAndTail,
    /// The three-in-five packing of TL2.
    Tl2,
    /// Nobody knows.
    Unknown,
}

/// A type id's meaning.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct GgmlType {
    pub(super) name: &'static str,
    pub(super) storage: Storage,
    size: Size,
}

const fn dense(dtype: DenseType) -> GgmlType {
    let size = Size::Blocks(dtype.block_len() as u64, dtype.block_bytes() as u64);
    GgmlType { name: dtype.name(), storage: Storage::Dense(dtype), size }
}

const fn other(name: &'static str, size: Size) -> GgmlType {
    GgmlType { name, storage: Storage::Unreadable, size }
}

const fn ternary(name: &'static str, form: TernaryForm, size: Size) -> GgmlType {
    GgmlType { name, storage: Storage::Ternary(form), size }
}

const I2_S: GgmlType = ternary("i2_s", TernaryForm::I2S(I2sLayout::Blocks128), Size::QuarterByteAndTail);
const TL1: GgmlType = GgmlType { name: "tl1", storage: Storage::Tl(TlKind::Tl1), size: Size::QuarterByteAndTail };
const TL2: GgmlType = GgmlType { name: "tl2", storage: Storage::Tl(TlKind::Tl2), size: Size::Tl2 };
/// Published as `Q2_0` before ggml gave that name to blocks of 64, and as `PQ2_0` since.
const Q2_0_128: GgmlType = ternary("q2_0_128", TernaryForm::Q2_0Group128, Size::Blocks(128, 34));
const STQ1_0: GgmlType = ternary("stq1_0", TernaryForm::Stq1_0, Size::Blocks(256, 42));
/// As two tools write it, in blocks of 256 or of 512: the same bytes.
const SEQ: GgmlType = other("seq_2bit", Size::Blocks(256, 65));
const MXFP4: GgmlType = other("mxfp4", Size::Blocks(32, 17));

/// Every type id in use, the likelier meaning first where there are two.
const TYPES: &[(u32, GgmlType)] = &[
    (0, dense(DenseType::F32)),
    (1, dense(DenseType::F16)),
    (2, dense(DenseType::Q4_0)),
    (3, dense(DenseType::Q4_1)),
    (4, other("q4_2 (removed)", Size::Unknown)),
    (5, other("q4_3 (removed)", Size::Unknown)),
    (6, dense(DenseType::Q5_0)),
    (7, dense(DenseType::Q5_1)),
    (8, dense(DenseType::Q8_0)),
    (9, other("q8_1", Size::Blocks(32, 36))),
    (10, other("q2_k", Size::Blocks(256, 84))),
    (11, other("q3_k", Size::Blocks(256, 110))),
    (12, dense(DenseType::Q4K)),
    (13, dense(DenseType::Q5K)),
    (14, dense(DenseType::Q6K)),
    (15, other("q8_k", Size::Blocks(256, 292))),
    (16, other("iq2_xxs", Size::Blocks(256, 66))),
    (17, other("iq2_xs", Size::Blocks(256, 74))),
    (18, other("iq3_xxs", Size::Blocks(256, 98))),
    (19, other("iq1_s", Size::Blocks(256, 50))),
    (20, other("iq4_nl", Size::Blocks(32, 18))),
    (21, other("iq3_s", Size::Blocks(256, 110))),
    (22, other("iq2_s", Size::Blocks(256, 82))),
    (23, other("iq4_xs", Size::Blocks(256, 136))),
    (24, other("i8", Size::Blocks(1, 1))),
    (25, other("i16", Size::Blocks(1, 2))),
    (26, other("i32", Size::Blocks(1, 4))),
    (27, other("i64", Size::Blocks(1, 8))),
    (28, other("f64", Size::Blocks(1, 8))),
    (29, other("iq1_m", Size::Blocks(256, 56))),
    (30, dense(DenseType::Bf16)),
    (31, other("q4_0_4_4 (removed)", Size::Blocks(32, 18))),
    (32, other("q4_0_4_8 (removed)", Size::Blocks(32, 18))),
    (33, other("q4_0_8_8 (removed)", Size::Blocks(32, 18))),
    (34, ternary("tq1_0", TernaryForm::Tq1_0, Size::Blocks(256, 54))),
    (35, ternary("tq2_0", TernaryForm::Tq2_0, Size::Blocks(256, 66))),
    (36, I2_S),
    (36, other("iq4_nl_4_4 (removed)", Size::Blocks(32, 18))),
    (37, other("iq4_nl_4_8 (removed)", Size::Blocks(32, 18))),
    (37, other("i8_s", Size::Unknown)),
    (38, TL1),
    (38, other("iq4_nl_8_8 (removed)", Size::Blocks(32, 18))),
    (39, TL2),
    (39, MXFP4),
    (40, other("nvfp4", Size::Blocks(64, 36))),
    (40, SEQ),
    (41, ternary("q1_0", TernaryForm::Q1_0, Size::Blocks(128, 18))),
    (41, SEQ),
    (42, ternary("q2_0", TernaryForm::Q2_0, Size::Blocks(64, 18))),
    (42, Q2_0_128),
    (42, STQ1_0),
    (43, STQ1_0),
    (43, other("fv5", Size::Blocks(256, 104))),
    (44, other("fv5b", Size::Blocks(256, 260))),
    (133, other("q6_0", Size::Blocks(32, 26))),
    (134, ternary("iq1_bn", TernaryForm::Iq1Bn, Size::BlocksAndRowHeader { header: 2, block_bytes: 13 })),
    (135, ternary("iq2_bn", TernaryForm::Iq2Bn, Size::BlocksAndRowHeader { header: 4, block_bytes: 16 })),
    (142, Q2_0_128),
    (142, other("iq2_tn (removed)", Size::Blocks(256, 66))),
    (143, ternary("ptq1_0", TernaryForm::Ptq1_0, Size::Blocks(128, 28))),
    (143, other("iq1_tn (removed)", Size::Blocks(256, 54))),
    (335, other("iq2_bn_r4", Size::Unknown)),
];

/// The meanings of an id.
fn candidates(id: u32) -> impl Iterator<Item = GgmlType> + Clone {
    TYPES.iter().filter(move |(known, _)| *known == id).map(|&(_, ty)| ty)
}

/// What is known about a tensor before its type is.
#[derive(Clone, Copy, Debug)]
pub(super) struct Evidence {
    /// Elements of a row.
    pub(super) cols: u64,
    /// All elements.
    pub(super) elements: u64,
    /// Bytes up to the next tensor, or to the end of the file.
    pub(super) room: u64,
    /// Whether that is the end of the file, which says little: files are cut short, and some have more at their end.
    pub(super) is_last: bool,
}

/// What a type id means in a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Meaning {
    Known(GgmlType),
    /// The tensors have the size of none of its meanings.
    NoSize,
    /// Nobody uses it.
    Unknown,
}

/// Resolves a type id by all tensors of a file that have it; `file_type` is `general.file_type`.
pub(super) fn resolve(id: u32, tensors: &[Evidence], alignment: u64, file_type: Option<u64>) -> Meaning {
    let Some(first) = candidates(id).next() else { return Meaning::Unknown };
    if candidates(id).nth(1).is_none() {
        return Meaning::Known(first);
    }
    let fills = |ty: &GgmlType, tensor: &Evidence| {
        let size = ty.byte_len(tensor.cols, tensor.elements).ok().flatten();
        size.and_then(|size| size.checked_next_multiple_of(alignment)) == Some(tensor.room) || size == Some(tensor.room)
    };
    let all_fill = |ty: &GgmlType| tensors.iter().all(|tensor| fills(ty, tensor));
    let but_the_last = |ty: &GgmlType| {
        let mut others = tensors.iter().filter(|tensor| !tensor.is_last).peekable();
        others.peek().is_some() && others.all(|tensor| fills(ty, tensor))
    };
    if let Some(exact) = candidates(id).find(all_fill).or_else(|| candidates(id).find(but_the_last)) {
        return Meaning::Known(exact);
    }
    let is_out_of_shape =
        |tensor: &Evidence| candidates(id).all(|ty| ty.byte_len(tensor.cols, tensor.elements).is_err());
    match (id, file_type) {
        (39, Some(39)) => Meaning::Known(TL2),
        (39, Some(38)) => Meaning::Known(MXFP4),
        // Old ids, in a file with gaps between its tensors, or a broken one: the usual meaning, whose size is checked next.
        (..40, _) => Meaning::Known(first),
        // What is wrong with the shape, or how much is missing, is told next.
        _ if tensors.iter().any(is_out_of_shape) || tensors.iter().all(|tensor| tensor.is_last) => {
            Meaning::Known(first)
        }
        _ => Meaning::NoSize,
    }
}

/// The names of an id's meanings.
pub(super) fn names(id: u32) -> String {
    candidates(id).map(|ty| ty.name).collect::<Vec<_>>().join(", ")
}

impl GgmlType {
    /// Bytes of a tensor of `elements` in rows of `cols`; `Ok(None)` where the size is not known.
    ///
    /// # Errors
    ///
    /// What a row or the number of elements has to be a multiple of.
    pub(super) fn byte_len(self, cols: u64, elements: u64) -> Result<Option<u64>, BadShape> {
        let rows = elements.checked_div(cols).unwrap_or(0);
        let blocks = |len: u64| if cols.is_multiple_of(len) { Ok(cols / len) } else { Err(BadShape::RowOf(len)) };
        let size = match self.size {
            Size::Blocks(len, bytes) => blocks(len)?.checked_mul(bytes).and_then(|row| row.checked_mul(rows)),
            Size::BlocksAndRowHeader { header, block_bytes } => blocks(64)?
                .checked_mul(block_bytes)
                .and_then(|row| row.checked_add(header))
                .and_then(|row| row.checked_mul(rows)),
            // The packers cut what does not fill a block of 128 and lose weights; a quarter byte needs 4 at least.
            Size::QuarterByteAndTail if !elements.is_multiple_of(128) => return Err(BadShape::TensorOf(128)),
            Size::QuarterByteAndTail => (elements / 4).checked_add(32),
            Size::Tl2 => tl2_bytes(cols, rows),
            Size::Unknown => return Ok(None),
        };
        size.map(Some).ok_or(BadShape::TooLarge)
    }
}

/// The size rule of TL2, in whole numbers and from left to right as its writer computes it.
fn tl2_bytes(cols: u64, rows: u64) -> Option<u64> {
    let triples = cols.checked_sub(256)?.checked_mul(rows)? / 3;
    let pairs = rows.checked_mul(256)? / 2;
    let packed = (triples.checked_mul(5)? / 8).checked_add(pairs.checked_mul(4)? / 8)?;
    packed.checked_next_multiple_of(32)?.checked_add(32)
}

/// Why a shape does not fit a type.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum BadShape {
    /// Rows have to be a multiple of this.
    RowOf(u64),
    /// The number of elements has to be a multiple of this.
    TensorOf(u64),
    /// The size does not fit 64 bits.
    TooLarge,
}

impl BadShape {
    /// As an error about the tensor `name`.
    pub(super) fn into_error(self, name: &str, ty: &str, cols: u64, elements: u64) -> FormatError {
        let what = format!("shape of tensor {name:?} (type {ty})");
        match self {
            BadShape::RowOf(block) => FormatError::invalid(what, format!("rows of a multiple of {block}"), cols),
            BadShape::TensorOf(block) => {
                FormatError::invalid(what, format!("a number of elements that is a multiple of {block}"), elements)
            }
            BadShape::TooLarge => {
                FormatError::invalid(what, "a size below 2^64 bytes", format!("{elements} elements in rows of {cols}"))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn evidence(cols: u64, rows: u64, room: u64) -> Evidence {
        Evidence { cols, elements: cols * rows, room, is_last: false }
    }

    /// The name of what an id means for these tensors.
    fn name(id: u32, tensors: &[Evidence], file_type: Option<u64>) -> &'static str {
        match resolve(id, tensors, 32, file_type) {
            Meaning::Known(ty) => ty.name,
            Meaning::NoSize => "no size",
            Meaning::Unknown => "unknown",
        }
    }

    fn first(id: u32) -> GgmlType {
        candidates(id).next().unwrap()
    }

    fn size(id: u32, cols: u64, rows: u64) -> Option<u64> {
        first(id).byte_len(cols, cols * rows).unwrap()
    }

    #[test]
    fn sizes_of_the_official_file() {
        assert_eq!(size(36, 2560, 2560), Some(1_638_432));
        assert_eq!(size(36, 2560, 640), Some(409_632));
        assert_eq!(size(36, 2560, 6912), Some(4_423_712));
        assert_eq!(size(1, 2560, 128_256), Some(656_670_720));
        assert_eq!(size(0, 2560, 1), Some(10_240));
    }

    #[test]
    fn sizes_of_types_with_rules_of_their_own() {
        assert_eq!(size(34, 512, 3), Some(3 * 2 * 54));
        assert_eq!(size(134, 128, 3), Some(3 * (2 + 2 * 13)));
        assert_eq!(size(135, 64, 2), Some(2 * (4 + 16)));
        // (1536-256)*4096/3*5/8 = 1092266.25 and 256*4096/2*4/8 = 262144: floor at each step, then up to 32, then 32 more.
        assert_eq!(size(39, 1536, 4096), Some((1_092_266u64 + 262_144).next_multiple_of(32) + 32));
        assert_eq!(size(4, 32, 1), None);
    }

    #[test]
    fn every_dense_type_has_the_id_of_its_place() {
        let ids = [0, 1, 2, 3, 6, 7, 8, 12, 13, 14, 30];
        for (id, dtype) in ids.into_iter().zip(DenseType::ALL) {
            assert_eq!(candidates(id).collect::<Vec<_>>(), [dense(dtype)], "id {id}");
        }
    }

    #[test]
    fn id_36_is_told_apart_by_the_room_it_has() {
        let i2_s = 256 * 128 / 4 + 32;
        let iq4 = 256 * 128 / 32 * 18;
        assert_eq!(name(36, &[evidence(256, 128, i2_s)], None), "i2_s");
        assert_eq!(name(36, &[evidence(256, 128, iq4)], None), "iq4_nl_4_4 (removed)");
        assert_eq!(name(36, &[evidence(256, 128, 999_999)], None), "i2_s");
    }

    #[test]
    fn id_38_is_told_apart_by_the_room_it_has() {
        assert_eq!(name(38, &[evidence(256, 128, 8192 + 32)], None), "tl1");
        assert_eq!(name(38, &[evidence(256, 128, 18432)], None), "iq4_nl_8_8 (removed)");
    }

    #[test]
    fn what_shares_an_id_is_told_apart_by_size() {
        let rows = |cols: u64, weights: u64, bytes: u64| evidence(cols, 64, cols * 64 / weights * bytes);
        for (id, weights, bytes, expected) in [
            (42, 64, 18, "q2_0"),
            (42, 128, 34, "q2_0_128"),
            (42, 256, 42, "stq1_0"),
            (43, 256, 42, "stq1_0"),
            (41, 128, 18, "q1_0"),
            (142, 128, 34, "q2_0_128"),
            (142, 256, 66, "iq2_tn (removed)"),
            (143, 128, 28, "ptq1_0"),
            (143, 256, 54, "iq1_tn (removed)"),
            (42, 256, 50, "no size"),
            (9999, 1, 1, "unknown"),
        ] {
            assert_eq!(
                name(id, &[rows(256, weights, bytes), rows(512, weights, bytes)], None),
                expected,
                "{id} {bytes}"
            );
        }
        // The last tensor of a file may be cut short, or have more behind it.
        let last = |room| Evidence { is_last: true, ..evidence(256, 64, room) };
        for room in [0, 999_999] {
            assert_eq!(name(42, &[rows(256, 128, 34), last(room)], None), "q2_0_128");
            assert_eq!(name(42, &[last(room)], None), "q2_0");
        }
        assert_eq!(name(42, &[rows(256, 128, 34), rows(256, 64, 18)], None), "no size");
        assert_eq!(name(42, &[evidence(100, 64, 1000)], None), "q2_0", "the shape is told next");
    }

    #[test]
    fn id_39_is_told_apart_by_its_room_and_then_by_the_file_type() {
        let mxfp4 = evidence(512, 64, 512 * 64 / 32 * 17);
        let tl2 = evidence(512, 64, tl2_bytes(512, 64).unwrap());
        let unclear = evidence(512, 64, 1_000_000);
        assert_eq!(name(39, &[mxfp4], None), "mxfp4");
        assert_eq!(name(39, &[tl2], None), "tl2");
        assert_eq!(name(39, &[unclear], Some(38)), "mxfp4");
        assert_eq!(name(39, &[unclear], Some(39)), "tl2");
        // The size outweighs the hint.
        assert_eq!(name(39, &[mxfp4], Some(39)), "mxfp4");
    }

    #[test]
    fn shapes_that_do_not_fit_are_refused() {
        let i2_s = first(36);
        assert_eq!(i2_s.byte_len(100, 100), Err(BadShape::TensorOf(128)));
        assert_eq!(first(14).byte_len(128, 1280), Err(BadShape::RowOf(256)));
        assert_eq!(first(0).byte_len(1 << 62, 1 << 62), Err(BadShape::TooLarge));
        assert_eq!(first(39).byte_len(128, 1280), Err(BadShape::TooLarge));
    }
}
