//! How many weights are -1, 0 and +1.

use rotor::FormatError;
use rotor::formats::{Part, Role, Source, Weight};
use rotor::forms::{Scales, TernaryTensor};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};

/// The counts of a tensor.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Trits {
    pub(super) name: String,
    pub(super) form: &'static str,
    pub(super) minus: u64,
    pub(super) zero: u64,
    pub(super) plus: u64,
    /// The scale, where the whole tensor has one.
    pub(super) scale: Option<f32>,
}

impl Trits {
    pub(super) fn total(&self) -> u64 {
        self.minus + self.zero + self.plus
    }
}

/// A tensor's place in the order of the graph, and its counts; `None` where it is not ternary.
type Counted = (usize, Result<Option<Trits>, FormatError>);

/// Counts the trits of every ternary tensor, one tensor per core at a time.
pub(super) fn count(source: &Source) -> Result<Vec<Trits>, FormatError> {
    let layers = 0..source.config().num_hidden_layers;
    let roles: Vec<Role> = layers.flat_map(|layer| Part::LINEARS.map(|part| Role::Layer(layer, part))).collect();
    let next = AtomicUsize::new(0);
    let counted: Mutex<Vec<Counted>> = Mutex::new(Vec::new());
    let work = || {
        while let Some((index, &role)) =
            Some(next.fetch_add(1, Ordering::Relaxed)).and_then(|i| Some((i, roles.get(i)?)))
        {
            let result = source.linear(role).and_then(|linear| match linear.weight {
                Weight::Ternary(tensor) => count_tensor(&tensor).map(Some),
                Weight::Dense(_) => Ok(None),
            });
            counted.lock().unwrap_or_else(PoisonError::into_inner).push((index, result));
        }
    };
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    std::thread::scope(|scope| (0..threads).for_each(|_| drop(scope.spawn(work))));
    let mut counted = counted.into_inner().unwrap_or_else(PoisonError::into_inner);
    counted.sort_unstable_by_key(|(index, _)| *index);
    counted.into_iter().filter_map(|(_, result)| result.transpose()).collect()
}

fn count_tensor(tensor: &TernaryTensor<'_>) -> Result<Trits, FormatError> {
    let (mut plus, mut minus) = (0, 0);
    let mut row = vec![0i8; tensor.cols];
    for index in 0..tensor.rows {
        tensor.read_row(index, &mut row)?;
        plus += row.iter().filter(|&&trit| trit > 0).count() as u64;
        minus += row.iter().filter(|&&trit| trit < 0).count() as u64;
    }
    let scale = if let Scales::Tensor(scale) = tensor.scales { Some(scale) } else { None };
    let zero = tensor.rows as u64 * tensor.cols as u64 - plus - minus;
    Ok(Trits { name: tensor.name.to_owned(), form: tensor.form.name(), minus, zero, plus, scale })
}
