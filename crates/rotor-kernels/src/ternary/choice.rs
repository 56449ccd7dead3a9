//! Which kernel multiplies which matrix.

use super::kernel::TernaryKernel;
use crate::dispatch::Kernels;
use std::fmt;

/// The kernels chosen for the ternary matrices of a model, by their shape.
#[derive(Clone, Debug)]
pub struct Choice {
    kernels: &'static Kernels,
    /// For all shapes but those that were measured.
    general: &'static TernaryKernel,
    measured: Vec<((usize, usize), &'static TernaryKernel)>,
}

impl Choice {
    /// What is best on most CPUs of this ISA.
    pub fn unmeasured(kernels: &'static Kernels) -> Choice {
        Choice { kernels, general: kernels.ternary_kernels()[0], measured: Vec::new() }
    }

    /// The kernel named by `ROTOR_KERNEL` for every shape; `None` where the variable is not set.
    ///
    /// # Errors
    /// Where it names a kernel that the ISA does not have.
    pub fn from_env(kernels: &'static Kernels) -> Result<Option<Choice>, UnknownKernel> {
        match std::env::var("ROTOR_KERNEL") {
            Ok(name) if !name.is_empty() => match kernels.ternary_kernel(&name) {
                Some(general) => Ok(Some(Choice { kernels, general, measured: Vec::new() })),
                None => Err(UnknownKernel { name, kernels }),
            },
            _ => Ok(None),
        }
    }

    /// The kernel for a matrix `[rows, cols]`, with scales for groups of so many of its columns or without.
    ///
    /// # Panics
    /// If no kernel can take such groups, that is if they are not multiples of [`super::GROUP_ALIGN`].
    pub fn kernel_for(&self, shape: (usize, usize), group_cols: Option<usize>) -> &'static TernaryKernel {
        let fits = |kernel: &&TernaryKernel| group_cols.is_none_or(|cols| kernel.can_scale(cols));
        let measured = self.measured.iter().find(|(measured, _)| *measured == shape);
        let preferred = measured.map_or(self.general, |(_, kernel)| kernel);
        let all = std::iter::once(preferred).chain(self.kernels.ternary_kernels().iter().copied());
        all.into_iter().find(fits).expect("planes and codes can be cut anywhere that groups may end")
    }
}

/// `ROTOR_KERNEL` names a kernel that is not there.
#[derive(Clone, Debug)]
pub struct UnknownKernel {
    name: String,
    kernels: &'static Kernels,
}

impl fmt::Display for UnknownKernel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names: Vec<_> = self.kernels.ternary_kernels().iter().map(|kernel| kernel.name()).collect();
        let (isa, names) = (self.kernels.isa(), names.join(", "));
        write!(f, "ROTOR_KERNEL: expected one of {names}, which is what {isa} has, found {:?}", self.name)
    }
}

impl std::error::Error for UnknownKernel {}
