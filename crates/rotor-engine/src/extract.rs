//! Single tensors or layers of a model as plain arrays, for programs that know nothing of models.
//!
//! A ternary tensor becomes two bit planes, 2-bit codes, bytes or numbers; its scales lie beside it. Rows are in the order of
//! the source.

mod npy;

use crate::error::FormatError;
use crate::formats::{DenseTensor, Role, Source, Weight};
use crate::forms::{Scales, TernaryTensor};
use crate::planes;
use crate::write::AtomicFile;
use crate::write::safetensors::SafetensorsHeader;
use ::safetensors::Dtype;
use npy::Npz;
use serde::Serialize;
use std::path::Path;
use std::str::FromStr;

/// What the trits of a tensor become.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ArrayForm {
    /// `NAME.bit0` and `NAME.bit1`, U8 `[rows, ceil(cols/8)]`.
    Planes,
    /// `NAME.codes`, U8 `[rows, ceil(cols/4)]`.
    BitNet,
    /// `NAME.weight`, I8 `[rows, cols]`, without the scale.
    I8,
    /// `NAME.weight`, F32 `[rows, cols]`, times the scale.
    F32,
}

impl ArrayForm {
    /// Every form.
    pub const ALL: [ArrayForm; 4] = [ArrayForm::Planes, ArrayForm::BitNet, ArrayForm::I8, ArrayForm::F32];

    /// The name people type.
    pub const fn name(self) -> &'static str {
        match self {
            ArrayForm::Planes => "planes",
            ArrayForm::BitNet => "bitnet",
            ArrayForm::I8 => "i8",
            ArrayForm::F32 => "f32",
        }
    }
}

impl FromStr for ArrayForm {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let known = || ArrayForm::ALL.map(ArrayForm::name).join(", ");
        ArrayForm::ALL.into_iter().find(|form| form.name() == text).ok_or_else(|| format!("known are {}", known()))
    }
}

/// Which tensors.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Selection<'a> {
    /// Every tensor of a layer.
    Layer(usize),
    /// The tensor of this name, with or without `.weight`.
    Tensor(&'a str),
}

/// An array in the file.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct ExtractedArray {
    /// Its name.
    pub name: String,
    /// `u8`, `i8` or `f32`.
    pub dtype: &'static str,
    /// Its shape.
    pub shape: Vec<usize>,
}

/// What was written.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Extracted {
    /// The arrays of the file.
    pub arrays: Vec<ExtractedArray>,
    /// Scales that a file of one array has no room for, by tensor.
    pub scales_left_out: Vec<(String, Vec<f32>)>,
}

/// An array to be made.
struct Array<'a> {
    name: String,
    shape: Vec<usize>,
    content: Content<'a>,
}

enum Content<'a> {
    Bit0(&'a TernaryTensor<'a>),
    Bit1(&'a TernaryTensor<'a>),
    Codes(&'a TernaryTensor<'a>),
    I8(&'a TernaryTensor<'a>),
    F32(&'a TernaryTensor<'a>),
    Scales(&'a Scales),
    Dense(&'a DenseTensor<'a>),
}

/// Writes the selected tensors of `source` to `output`: `.safetensors`, `.npz`, or `.npy` for one array.
///
/// # Errors
///
/// [`FormatError::Missing`] where there is no such layer or tensor, [`FormatError::Unsupported`] for another ending, for
/// several arrays in an `.npy`, or for a tensor without trits asked for as such; [`FormatError::Invalid`] for weights that are
/// not sound; [`FormatError::Io`] from the disk.
pub fn extract(
    source: &Source,
    selection: Selection<'_>,
    form: ArrayForm,
    output: &Path,
) -> Result<Extracted, FormatError> {
    source.file().refuse_overwriting(output)?;
    let weights = selected(source, selection)?;
    let is_layer = matches!(selection, Selection::Layer(_));
    let mut arrays = Vec::new();
    for weight in &weights {
        match weight {
            Weight::Ternary(tensor) => arrays.extend(ternary_arrays(tensor, form)),
            Weight::Dense(tensor) if form == ArrayForm::F32 || is_layer => arrays.push(dense_array(tensor)),
            Weight::Dense(tensor) => {
                let what = format!("tensor {:?} as {}", tensor.name, form.name());
                return Err(FormatError::unsupported(what, "it is not ternary; ask for f32"));
            }
        }
    }
    let ending = output.extension().and_then(|ending| ending.to_str()).unwrap_or_default().to_ascii_lowercase();
    let mut left_out = Vec::new();
    match ending.as_str() {
        "safetensors" => write_safetensors(&arrays, output)?,
        "npz" => write_npz(&arrays, output)?,
        "npy" => left_out = write_npy(&mut arrays, output)?,
        _ => {
            let what = format!("a file that ends with {ending:?}");
            return Err(FormatError::unsupported(what, "known are .safetensors, .npz and .npy"));
        }
    }
    let described = |array: &Array<'_>| ExtractedArray {
        name: array.name.clone(),
        dtype: array.dtype_name(),
        shape: array.shape.clone(),
    };
    Ok(Extracted { arrays: arrays.iter().map(described).collect(), scales_left_out: left_out })
}

/// The tensors asked for.
fn selected<'a>(source: &'a Source, selection: Selection<'_>) -> Result<Vec<Weight<'a>>, FormatError> {
    match selection {
        Selection::Layer(layer) => {
            let roles = source.roles().into_iter().filter(|role| matches!(role, Role::Layer(l, _) if *l == layer));
            let weights = roles.map(|role| weight(source, role)).collect::<Result<Vec<_>, _>>()?;
            if weights.is_empty() {
                let hint = format!(": the model has layers 0 to {}", source.config().num_hidden_layers - 1);
                return Err(FormatError::Missing { what: format!("layer {layer}"), hint });
            }
            Ok(weights)
        }
        Selection::Tensor(name) => {
            let roles = source.role_names();
            let with_ending = format!("{name}.weight");
            let role = roles.get(name).or_else(|| roles.get(with_ending.as_str()));
            match role {
                Some(&role) => Ok(vec![weight(source, role)?]),
                None => source.dense(name).map(|tensor| vec![Weight::Dense(tensor)]),
            }
        }
    }
}

fn weight(source: &Source, role: Role) -> Result<Weight<'_>, FormatError> {
    let found = match role {
        role if role.is_linear() => Some(source.linear(role)?.weight),
        Role::TokenEmbedding | Role::Output => source.matrix(role)?,
        _ => source.stored_vector(role).map(Weight::Dense),
    };
    found.ok_or_else(|| FormatError::missing(format!("the tensor of {role:?}")))
}

/// The name less its ending.
fn stem(name: &str) -> &str {
    [".weight", ".bit0", ".codes"].iter().find_map(|ending| name.strip_suffix(ending)).unwrap_or(name)
}

fn ternary_arrays<'a>(tensor: &'a TernaryTensor<'a>, form: ArrayForm) -> Vec<Array<'a>> {
    let (rows, cols, stem) = (tensor.rows, tensor.cols, stem(tensor.name));
    let array =
        |ending: &str, cols, content| Array { name: format!("{stem}.{ending}"), shape: vec![rows, cols], content };
    let mut arrays = match form {
        ArrayForm::Planes => vec![
            array("bit0", planes::plane_bytes(cols), Content::Bit0(tensor)),
            array("bit1", planes::plane_bytes(cols), Content::Bit1(tensor)),
        ],
        ArrayForm::BitNet => vec![array("codes", planes::code_bytes(cols), Content::Codes(tensor))],
        ArrayForm::I8 => vec![array("weight", cols, Content::I8(tensor))],
        ArrayForm::F32 => vec![array("weight", cols, Content::F32(tensor))],
    };
    if form != ArrayForm::F32 {
        let shape = match &tensor.scales {
            Scales::Tensor(_) => vec![1],
            Scales::Rows(_) => vec![rows],
            Scales::Groups { groups, .. } => vec![rows, *groups],
        };
        arrays.push(Array { name: format!("{stem}.scale"), shape, content: Content::Scales(&tensor.scales) });
    }
    arrays
}

fn dense_array<'a>(tensor: &'a DenseTensor<'a>) -> Array<'a> {
    let shape = if tensor.rows == 1 { vec![tensor.cols] } else { vec![tensor.rows, tensor.cols] };
    Array { name: tensor.name.to_owned(), shape, content: Content::Dense(tensor) }
}

impl Array<'_> {
    fn dtype(&self) -> Dtype {
        match self.content {
            Content::Bit0(_) | Content::Bit1(_) | Content::Codes(_) => Dtype::U8,
            Content::I8(_) => Dtype::I8,
            Content::F32(_) | Content::Scales(_) | Content::Dense(_) => Dtype::F32,
        }
    }

    fn dtype_name(&self) -> &'static str {
        match self.dtype() {
            Dtype::U8 => "u8",
            Dtype::I8 => "i8",
            _ => "f32",
        }
    }

    /// The array's bytes, little-endian and row-major.
    fn bytes(&self) -> Result<Vec<u8>, FormatError> {
        match self.content {
            Content::Scales(scales) => Ok(le_bytes(scales.values())),
            Content::Dense(tensor) => {
                let mut values = vec![0f32; tensor.bytes.len() / tensor.dtype.block_bytes() * tensor.dtype.block_len()];
                tensor.dtype.decode(tensor.bytes, &mut values);
                Ok(le_bytes(&values))
            }
            Content::Bit0(tensor) | Content::Bit1(tensor) => {
                let second = matches!(self.content, Content::Bit1(_));
                let len = planes::plane_bytes(tensor.cols);
                rows_of(tensor, len, |_, trits, out| {
                    let mut other = vec![0; len];
                    let (bit0, bit1) = if second { (other.as_mut_slice(), out) } else { (out, other.as_mut_slice()) };
                    planes::trits_to_planes((1, trits.len()), trits, bit0, bit1).is_ok()
                })
            }
            Content::Codes(tensor) => rows_of(tensor, planes::code_bytes(tensor.cols), |_, trits, out| {
                planes::encode_codes((1, trits.len()), trits, out).is_ok()
            }),
            Content::I8(tensor) => rows_of(tensor, tensor.cols, |_, trits, out| {
                out.iter_mut().zip(trits).for_each(|(out, trit)| *out = trit.cast_unsigned());
                true
            }),
            Content::F32(tensor) => rows_of(tensor, 4 * tensor.cols, |row, trits, out| {
                let (values, groups) = (out.as_chunks_mut::<4>().0, tensor.scales.groups());
                for (col, (out, &trit)) in values.iter_mut().zip(trits).enumerate() {
                    let scale = tensor.scales.get(row, col * groups / trits.len());
                    *out = (f32::from(trit) * scale).to_le_bytes();
                }
                true
            }),
        }
    }
}

fn le_bytes(values: &[f32]) -> Vec<u8> {
    values.iter().flat_map(|value| value.to_le_bytes()).collect()
}

/// Makes `row_bytes` bytes of every row's trits; `pack` says whether it could.
fn rows_of(
    tensor: &TernaryTensor<'_>,
    row_bytes: usize,
    pack: impl Fn(usize, &[i8], &mut [u8]) -> bool,
) -> Result<Vec<u8>, FormatError> {
    let mut bytes = vec![0; row_bytes * tensor.rows];
    let mut trits = vec![0; tensor.cols];
    for (row, out) in bytes.chunks_exact_mut(row_bytes).enumerate() {
        tensor.read_stored_row(row, &mut trits)?;
        if !pack(row, &trits, out) {
            return Err(FormatError::invalid(format!("tensor {:?}", tensor.name), "only -1, 0 and +1", "others"));
        }
    }
    Ok(bytes)
}

fn write_safetensors(arrays: &[Array<'_>], output: &Path) -> Result<(), FormatError> {
    // Wide types first: safetensors has no padding to align the others with.
    let mut order: Vec<&Array<'_>> = arrays.iter().collect();
    order.sort_by_key(|array| std::cmp::Reverse(array.dtype().bitsize()));
    let mut header = SafetensorsHeader::new();
    for array in &order {
        header.tensor(&array.name, array.dtype(), &array.shape);
    }
    let mut file = header.create(output)?;
    for array in order {
        file.write(array.bytes()?)?;
    }
    file.finish().map(|_| ())
}

/// Writes an array of numbers: `.npy`, or `.safetensors` with a tensor of this name.
///
/// # Errors
///
/// [`FormatError::Unsupported`] for another ending, [`FormatError::Io`] from the disk.
///
/// # Panics
///
/// If the values are not as many as the shape says.
pub fn write_numbers(name: &str, shape: [usize; 2], values: &[f32], output: &Path) -> Result<(), FormatError> {
    assert_eq!(values.len(), shape[0] * shape[1], "values of {shape:?}");
    let bytes: Vec<u8> = values.iter().flat_map(|value| value.to_le_bytes()).collect();
    match output.extension().and_then(|ending| ending.to_str()).map(str::to_ascii_lowercase).as_deref() {
        Some("npy") => {
            let mut file = AtomicFile::create(output)?;
            file.write(&npy::header(Dtype::F32, &shape))?;
            file.write(&bytes)?;
            file.commit()
        }
        Some("safetensors") => {
            let mut header = SafetensorsHeader::new();
            header.tensor(name, Dtype::F32, &shape);
            let mut file = header.create(output)?;
            file.write(bytes)?;
            file.finish().map(|_| ())
        }
        _ => Err(FormatError::unsupported(
            format!("a file named {}", output.display()),
            "known are .npy and .safetensors",
        )),
    }
}

fn write_npz(arrays: &[Array<'_>], output: &Path) -> Result<(), FormatError> {
    let mut archive = Npz::create(output)?;
    for array in arrays {
        archive.add(&array.name, &npy::header(array.dtype(), &array.shape), &array.bytes()?)?;
    }
    archive.finish()
}

/// Writes the only array there is besides scales, which have no room in such a file and are returned.
fn write_npy(arrays: &mut Vec<Array<'_>>, output: &Path) -> Result<Vec<(String, Vec<f32>)>, FormatError> {
    let (scales, others): (Vec<_>, Vec<_>) =
        std::mem::take(arrays).into_iter().partition(|array| matches!(array.content, Content::Scales(_)));
    let [array] = others.as_slice() else {
        let what = format!("{} arrays in an .npy", others.len());
        return Err(FormatError::unsupported(what, "it holds one; an .npz or .safetensors file holds several"));
    };
    let mut file = AtomicFile::create(output)?;
    file.write(&npy::header(array.dtype(), &array.shape))?;
    file.write(&array.bytes()?)?;
    file.commit()?;
    *arrays = others;
    let left_out = scales.iter().filter_map(|array| match array.content {
        Content::Scales(scales) => Some((array.name.clone(), scales.values().to_vec())),
        _ => None,
    });
    Ok(left_out.collect())
}

#[cfg(test)]
mod tests;
