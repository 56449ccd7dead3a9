//! The tensors of a model, whatever container they came in: a name, a shape, a type, and bytes known to be there.

use super::map::FileBytes;
use crate::error::FormatError;
use crate::forms::{FORMS, TernaryForm};
use rotor_kernels::DenseType;
use std::borrow::Cow;
use std::collections::HashMap;
use std::ops::Range;
use std::path::{Path, PathBuf};

/// What the bytes of a tensor are, as far as rotor reads them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Storage {
    /// Ordinary numbers.
    Dense(DenseType),
    /// Packed trits (GGUF). Of I2_S the layout is not known yet.
    Ternary(TernaryForm),
    /// Packed trits whose layout is in a kernel config (GGUF).
    Tl(TlKind),
    /// Bytes: packed trits (safetensors).
    U8,
    /// Words: packed codes of MLX (safetensors).
    U32,
    /// A type rotor does not read; the tensor has a name and a place, no more.
    Unreadable,
}

/// Types that come with ternary models and are not ternary, and what they are.
const NOT_TERNARY: [(&str, &str); 3] = [
    ("seq_2bit", "its weights are -3, -1, 1 and 3 times a scale, never zero"),
    ("fv5", "its weights have five values"),
    ("fv5b", "its weights have eight bits"),
];

/// The layouts of lookup-table kernels.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum TlKind {
    Tl1,
    Tl2,
}

/// One tensor.
#[derive(Debug)]
pub(super) struct Tensor {
    pub(super) name: String,
    /// Row-major: the last dimension varies fastest.
    pub(super) shape: Vec<usize>,
    pub(super) storage: Storage,
    /// The type as people know it.
    pub(super) type_name: Cow<'static, str>,
    /// Which file of the table holds it.
    pub(super) file: usize,
    /// Where in that file.
    pub(super) range: Range<usize>,
}

impl Tensor {
    /// Rows and columns, where the shape is a matrix once leading ones are dropped.
    fn as_matrix(&self) -> Option<(usize, usize)> {
        let leading = self.shape.iter().take_while(|&&dim| dim == 1).count().min(self.shape.len().saturating_sub(2));
        match self.shape.get(leading..) {
            Some(&[rows, cols]) => Some((rows, cols)),
            Some(&[cols]) => Some((1, cols)),
            _ => None,
        }
    }

    /// Checks that the tensor is a `[rows, cols]` matrix (a vector counts as one row).
    pub(super) fn expect_shape(&self, rows: usize, cols: usize) -> Result<(), FormatError> {
        if self.as_matrix() == Some((rows, cols)) {
            return Ok(());
        }
        let expected = if rows == 1 { format!("[{cols}]") } else { format!("[{rows}, {cols}]") };
        Err(FormatError::invalid(format!("shape of tensor {:?}", self.name), expected, format!("{:?}", self.shape)))
    }

    /// The dense type, or an error that names the type found.
    pub(super) fn expect_dense(&self) -> Result<DenseType, FormatError> {
        match self.storage {
            Storage::Dense(dtype) => Ok(dtype),
            _ => Err(self.unreadable()),
        }
    }

    /// The error for a type that cannot be read here.
    pub(super) fn unreadable(&self) -> FormatError {
        let dense: Vec<_> = DenseType::ALL.iter().map(|dtype| dtype.name()).collect();
        let ternary: Vec<_> = FORMS.iter().filter(|form| form.gguf_type.is_some()).map(|form| form.name).collect();
        let relative = NOT_TERNARY.iter().find(|(name, _)| *name == self.type_name);
        let why = relative.map_or(String::new(), |(_, why)| format!("{why}; "));
        FormatError::unsupported(
            format!("type {} of tensor {:?}", self.type_name, self.name),
            format!("{why}read here are {}; for linears also {} and packed u8", dense.join(", "), ternary.join(", ")),
        )
    }
}

/// A tensor's place in its [`TensorTable`].
pub(super) type TensorId = usize;

/// All tensors of a model and the files that hold them.
#[derive(Debug, Default)]
pub(super) struct TensorTable {
    files: Vec<FileBytes>,
    tensors: Vec<Tensor>,
    by_name: HashMap<String, TensorId>,
    /// The files by name, those that have one.
    paths: Vec<PathBuf>,
    /// What keeps the tensors from being read, the first thing that was found.
    flaw: Option<FormatError>,
}

impl TensorTable {
    /// Adds a file with its tensors, whose `file` is set here; `path` is where it came from, if it has a name. Of a file that
    /// is cut short the tensors are there to be listed, with the bytes there are, and the table has a flaw.
    ///
    /// # Errors
    ///
    /// [`FormatError::Duplicate`] for a name that is there already.
    pub(super) fn add_file(
        &mut self,
        path: Option<&Path>,
        file: FileBytes,
        tensors: Vec<Tensor>,
    ) -> Result<(), FormatError> {
        let in_file = |error: FormatError| match path {
            Some(path) => error.in_file(path),
            None => error,
        };
        let found = file.as_slice().len();
        let needed = tensors.iter().map(|tensor| tensor.range.end).max().unwrap_or(0);
        if needed > found {
            self.set_flaw(in_file(FormatError::Incomplete { needed: needed as u64, found: found as u64 }));
        }
        for tensor in tensors {
            if self.by_name.insert(tensor.name.clone(), self.tensors.len()).is_some() {
                return Err(in_file(FormatError::Duplicate { what: "tensor", name: tensor.name }));
            }
            let end = tensor.range.end.min(found);
            let range = tensor.range.start.min(end)..end;
            self.tensors.push(Tensor { file: self.files.len(), range, ..tensor });
        }
        self.files.push(file);
        self.paths.extend(path.map(Path::to_path_buf));
        Ok(())
    }

    /// Notes what keeps the tensors from being read, unless something is known already.
    pub(super) fn set_flaw(&mut self, flaw: FormatError) {
        self.flaw.get_or_insert(flaw);
    }

    /// What keeps the tensors from being read; it is given out once.
    pub(super) fn take_flaw(&mut self) -> Option<FormatError> {
        self.flaw.take()
    }

    /// The files the tensors are in.
    pub(super) fn paths(&self) -> &[PathBuf] {
        &self.paths
    }

    /// Looks a tensor up.
    pub(super) fn find(&self, name: &str) -> Option<TensorId> {
        self.by_name.get(name).copied()
    }

    /// The name of the file that a tensor is in, where there is such a tensor and its file has a name.
    pub(super) fn file_of(&self, name: &str) -> Option<&str> {
        let path = self.paths.get(self.tensor(self.find(name)?).file)?;
        path.file_name()?.to_str()
    }

    /// The tensor of an id that this table gave out.
    pub(super) fn tensor(&self, id: TensorId) -> &Tensor {
        &self.tensors[id]
    }

    /// The bytes of a tensor of this table.
    pub(super) fn bytes(&self, tensor: &Tensor) -> &[u8] {
        // `add_file` let only ranges inside the file through, and files do not change their length.
        &self.files[tensor.file].as_slice()[tensor.range.clone()]
    }

    /// The numbers of a dense tensor.
    pub(super) fn decode(&self, id: TensorId) -> Result<Vec<f32>, FormatError> {
        let tensor = self.tensor(id);
        let dtype = tensor.expect_dense()?;
        let bytes = self.bytes(tensor);
        // As many values as the bytes hold, so that nothing is allocated from a shape alone.
        let mut values = vec![0f32; bytes.len() / dtype.block_bytes() * dtype.block_len()];
        dtype.decode(bytes, &mut values);
        Ok(values)
    }

    /// All tensors, in file order.
    pub(super) fn iter(&self) -> impl Iterator<Item = (TensorId, &Tensor)> {
        self.tensors.iter().enumerate()
    }

    /// See [`FileBytes::release`].
    pub(super) fn release(&self, bytes: &[u8]) {
        let _ = self.files.iter().any(|file| file.release(bytes));
    }
}
