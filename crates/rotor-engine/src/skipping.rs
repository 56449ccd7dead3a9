//! Linears of which a token need not read everything.
//!
//! Where a feed-forward network's gate is a squared ReLU, many of its activations are exactly zero: rows of the linear that the
//! gate multiplies need not be read where the gate lets nothing through, nor columns of the linear behind it where the int8
//! activation is zero. The logits stay the same ([`rotor_kernels::ternary::gate_up`] says why).

use crate::config::Activation;
use crate::formats::{Part, Read, Role, Source};
use crate::forms::{Scales, TernaryTensor};
use rotor_kernels::ternary::{Choice, GROUP_ALIGN, Precision, SkippingKernel, Skips, TernaryKernel};

/// Of a matrix of fewer weights nothing is worth leaving out: a core's own cache holds it.
const WORTH_SKIPPING: usize = 1 << 22;

/// How a ternary matrix is packed.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Packing {
    /// For a kernel that reads all of it.
    Tiles(&'static TernaryKernel),
    /// So that rows or columns can be left unread.
    Skipping(Skips, SkippingKernel),
}

impl Packing {
    /// Of the tensor with this role.
    pub(crate) fn of(source: &Source, role: Role, tensor: &TernaryTensor<'_>, choice: &Choice) -> Packing {
        let skipping = || {
            let (shape, skips) = ((tensor.rows, tensor.cols), skips(source, role)?);
            let kernel = choice.skipping_kernel_for(shape, skips)?;
            let kernel = match source.load_options().read {
                Read::Auto => {
                    Some(kernel).filter(|kernel| is_worth_skipping(shape) && choice.skips_well(shape, *kernel))
                }
                Read::All => None,
                Read::Least => Some(kernel.reading_least()),
            };
            let has_groups = matches!(tensor.scales, Scales::Groups { .. });
            kernel.filter(|_| !has_groups).map(|kernel| Packing::Skipping(skips, kernel))
        };
        skipping().unwrap_or_else(|| Packing::whole(tensor, choice))
    }

    /// Of a tensor of which everything is read.
    pub(crate) fn whole(tensor: &TernaryTensor<'_>, choice: &Choice) -> Packing {
        let group_cols = match &tensor.scales {
            Scales::Tensor(_) | Scales::Rows(_) => None,
            // A tensor whose groups no kernel can take is refused with its scales.
            Scales::Groups { groups, .. } => {
                Some(tensor.cols / (*groups).max(1)).filter(|cols| cols.is_multiple_of(GROUP_ALIGN))
            }
        };
        Packing::Tiles(choice.kernel_for((tensor.rows, tensor.cols), group_cols))
    }

    /// The name of the kernel.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Packing::Tiles(kernel) => kernel.name(),
            Packing::Skipping(_, kernel) => kernel.name(),
        }
    }

    /// Bytes of a packed matrix `[rows, cols]`.
    pub(crate) fn bytes(self, (rows, cols): (usize, usize)) -> usize {
        match self {
            Packing::Tiles(kernel) => kernel.packed_bytes(rows, cols),
            Packing::Skipping(skips, kernel) => kernel.packed_bytes((rows, cols), skips).unwrap_or_default(),
        }
    }
}

fn is_worth_skipping((rows, cols): (usize, usize)) -> bool {
    rows * cols >= WORTH_SKIPPING
}

/// The shapes of matrices of which something might be left unread if that pays, each once.
pub(crate) fn shapes(source: &Source) -> Vec<((usize, usize), Skips)> {
    let mut shapes = Vec::new();
    if source.load_options().read == Read::Auto {
        for (role, shape) in source.ternary_shapes() {
            let skips = skips(source, role).filter(|_| is_worth_skipping(shape));
            if let Some(skips) = skips.filter(|skips| !shapes.contains(&(shape, *skips))) {
                shapes.push((shape, skips));
            }
        }
    }
    shapes
}

/// What need not be read of the linear with this role, where a kernel can leave it out. The linears around a gate have to be
/// ternary and take int8 activations: of a float that is zero the sign may differ, which int8 has not.
fn skips(source: &Source, role: Role) -> Option<Skips> {
    let Role::Layer(layer, part) = role else { return None };
    let skips = match part {
        Part::FfnUp => Skips::Rows,
        Part::FfnDown => Skips::Columns,
        _ => return None,
    };
    let is_int8 = source.precision() == Precision::Int8;
    let plain =
        [Part::FfnGate, Part::FfnUp, Part::FfnDown].map(|part| source.is_plain_ternary(Role::Layer(layer, part)));
    let gated = source.config().hidden_act == Activation::ReluSquared;
    (gated && is_int8 && plain == [true; 3]).then_some(skips)
}
