//! Where rows and columns lie.

use super::BLOCK_ROWS;
use crate::noise::Noise;
use std::sync::{Arc, Mutex, PoisonError};

/// A shuffle.
#[derive(Debug)]
pub(super) struct Places {
    /// The place of each number.
    pub(super) of: Vec<u32>,
    /// The number at each place.
    pub(super) at: Vec<u32>,
}

impl Places {
    /// The same shuffle for the same count.
    fn shuffled(count: usize) -> Places {
        let mut of: Vec<u32> = (0..count as u32).collect();
        let mut noise = Noise::new(count as u32);
        for end in (1..count).rev() {
            of.swap(end, noise.next() as usize % (end + 1));
        }
        let mut at = vec![0; count];
        for (number, place) in of.iter().enumerate() {
            at[*place as usize] = number as u32;
        }
        Places { of, at }
    }

    /// A shuffle that all who ask for this count share, so that it stays in the caches from layer to layer.
    pub(super) fn shared(count: usize) -> Arc<Places> {
        static KNOWN: Mutex<Vec<Arc<Places>>> = Mutex::new(Vec::new());
        let mut known = KNOWN.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(places) = known.iter().find(|places| places.of.len() == count) {
            return Arc::clone(places);
        }
        let places = Arc::new(Places::shuffled(count));
        known.push(Arc::clone(&places));
        places
    }

    /// Of rows: a shuffle of [`BLOCK_ROWS`] that all blocks have.
    pub(super) fn of_block() -> Arc<Places> {
        Places::shared(BLOCK_ROWS)
    }

    /// The place of a row, by the shuffle of a block.
    pub(super) fn row(&self, row: u32) -> u32 {
        let within = row % BLOCK_ROWS as u32;
        row - within + self.of[within as usize]
    }
}
