//! The memory of all sequences: blocks of keys and values, counted against a budget.
//!
//! A block is shared by counting its owners ([`Arc`]); the last owner brings it back. Few blocks wait here for the next
//! sequence, the others go back to the system, which hands out new ones in less time than a token takes.

use crate::config::Config;
use rotor_kernels::attention::{KvBlock, KvShape, KvType};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Unused blocks that are kept: as many as a prompt's chunk of 512 tokens fills.
const KEPT: usize = 512 / KvBlock::POSITIONS;

/// Why there is no further block.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PoolError {
    /// All blocks of the budget are in use.
    #[error("the memory for keys and values is full: all {blocks} blocks of {block_bytes} bytes are in use")]
    Full {
        /// Blocks of the budget.
        blocks: usize,
        /// Bytes of a block.
        block_bytes: u64,
    },
    /// The system refused memory within the budget.
    #[error("the system has no memory for another {bytes} bytes of keys and values: {reason}")]
    System {
        /// Bytes of a block.
        bytes: u64,
        /// The system's answer.
        reason: String,
    },
}

/// Blocks of keys and values of one model.
#[derive(Debug)]
pub struct BlockPool {
    kind: KvType,
    shape: KvShape,
    block_bytes: u64,
    blocks: usize,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    used: usize,
    unused: Vec<KvBlock>,
}

impl BlockPool {
    /// A pool of at most `budget` bytes for sequences of the model with this configuration. No memory is taken yet.
    pub fn new(config: &Config, kind: KvType, budget: u64) -> Arc<BlockPool> {
        let shape =
            KvShape { layers: config.num_hidden_layers, heads: config.num_key_value_heads, head_dim: config.head_dim };
        let block_bytes = block_bytes(config, kind);
        let blocks = usize::try_from(budget / block_bytes.max(1)).unwrap_or(usize::MAX);
        Arc::new(BlockPool { kind, shape, block_bytes, blocks, state: Mutex::default() })
    }

    /// How keys and values are stored.
    pub fn kind(&self) -> KvType {
        self.kind
    }

    /// Bytes of a block.
    pub fn block_bytes(&self) -> u64 {
        self.block_bytes
    }

    /// Blocks of the budget.
    pub fn blocks(&self) -> usize {
        self.blocks
    }

    /// Blocks in use by sequences and by the prefix cache, a shared block counted once.
    pub fn used(&self) -> usize {
        self.state().used
    }

    /// A block that nobody else owns. What it holds is unspecified.
    pub(super) fn take(&self) -> Result<KvBlock, PoolError> {
        let mut state = self.state();
        if state.used >= self.blocks {
            return Err(PoolError::Full { blocks: self.blocks, block_bytes: self.block_bytes });
        }
        let block = match state.unused.pop() {
            Some(block) => block,
            None => KvBlock::new(self.kind, self.shape)
                .map_err(|error| PoolError::System { bytes: self.block_bytes, reason: error.to_string() })?,
        };
        state.used += 1;
        Ok(block)
    }

    /// Ends one ownership of a block of this pool.
    pub(super) fn give_back(&self, block: Arc<KvBlock>) {
        // Of several owners that let go at once, exactly one gets the block.
        let Some(block) = Arc::into_inner(block) else { return };
        let mut state = self.state();
        state.used -= 1;
        if state.unused.len() < KEPT {
            state.unused.push(block);
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Bytes that one position takes.
pub fn bytes_per_token(config: &Config, kind: KvType) -> u64 {
    let row = kind.row_bytes(config.head_dim) as u64;
    [2, config.num_hidden_layers as u64, config.num_key_value_heads as u64].into_iter().fold(row, u64::saturating_mul)
}

/// Bytes of a block.
pub fn block_bytes(config: &Config, kind: KvType) -> u64 {
    bytes_per_token(config, kind).saturating_mul(KvBlock::POSITIONS as u64)
}
