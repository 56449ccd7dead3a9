//! What a sequence remembers of the tokens that were computed.
//!
//! A [`SequenceCache`] is one value with a part for each kind of layer. Layers of attention keep a table of blocks of keys
//! and values, 64 positions each, taken from a [`BlockPool`]; the table is copied and the blocks are shared where
//! sequences have a common beginning, and a block is copied before something is written to it that another owner must not
//! see. Layers with a recurrent state will keep theirs beside the table.

mod pool;
mod prefix;

pub use pool::{BlockPool, PoolError, block_bytes, bytes_per_token};
pub use prefix::{Place, PrefixCache};

use crate::config::Config;
use rotor_kernels::attention::{KvBlock, KvType};
use std::sync::Arc;

/// The tokens of a sequence that were computed, and what each kind of layer keeps of them.
#[derive(Debug)]
pub struct SequenceCache {
    tokens: Vec<u32>,
    capacity: usize,
    attention: BlockTable,
}

/// What layers of attention keep: blocks in the order of positions, at least as many as the tokens need.
#[derive(Debug)]
struct BlockTable {
    pool: Arc<BlockPool>,
    blocks: Vec<Arc<KvBlock>>,
}

impl SequenceCache {
    /// A cache with room for `capacity` tokens in a pool of its own. Memory is taken as it is used.
    pub fn new(config: &Config, capacity: usize, kind: KvType) -> SequenceCache {
        let blocks = capacity.div_ceil(KvBlock::POSITIONS) as u64;
        let pool = BlockPool::new(config, kind, block_bytes(config, kind).saturating_mul(blocks));
        SequenceCache::in_pool(&pool, capacity)
    }

    /// A cache with room for `capacity` tokens, as far as the pool has blocks.
    pub fn in_pool(pool: &Arc<BlockPool>, capacity: usize) -> SequenceCache {
        let attention = BlockTable { pool: Arc::clone(pool), blocks: Vec::new() };
        SequenceCache { tokens: Vec::new(), capacity, attention }
    }

    /// Tokens held.
    pub fn len(&self) -> usize {
        self.tokens.len()
    }

    /// Whether no token is held.
    pub fn is_empty(&self) -> bool {
        self.tokens.is_empty()
    }

    /// Tokens there is room for.
    pub fn capacity(&self) -> usize {
        self.capacity
    }

    /// The tokens held, in order.
    pub fn tokens(&self) -> &[u32] {
        &self.tokens
    }

    /// Length of the longest common prefix of what is held and `tokens`: that many need no computing.
    pub fn common_prefix(&self, tokens: &[u32]) -> usize {
        common_prefix(&self.tokens, tokens)
    }

    /// Forgets all but the first `len` tokens; blocks that none of these are in go back.
    pub fn truncate(&mut self, len: usize) {
        self.tokens.truncate(len);
        self.attention.truncate(self.tokens.len().div_ceil(KvBlock::POSITIONS));
    }

    /// Another cache that holds the same. The memory is shared until either goes on.
    pub fn fork(&self) -> SequenceCache {
        let pool = Arc::clone(&self.attention.pool);
        let attention = BlockTable { pool, blocks: self.attention.blocks.clone() };
        SequenceCache { tokens: self.tokens.clone(), capacity: self.capacity, attention }
    }

    /// Becomes a copy of the first `len` tokens of another cache that shares no memory with it, for measurements in which
    /// every sequence is to read its own.
    ///
    /// # Errors
    /// If the pool has not so many blocks; then nothing is held.
    ///
    /// # Panics
    /// If the caches are of different models or types, or `len` exceeds what `from` holds or this can hold.
    pub fn copy_prefix(&mut self, from: &SequenceCache, len: usize) -> Result<(), PoolError> {
        assert!(len <= from.len() && len <= self.capacity, "{len} tokens");
        self.truncate(0);
        self.reserve(len)?;
        for (position, from) in (0..len).step_by(KvBlock::POSITIONS).zip(from.blocks()) {
            self.block_mut(position).0.copy_from(from);
        }
        self.push(&from.tokens[..len]);
        Ok(())
    }

    /// Takes the memory for `new` more tokens and makes sure that no other owner sees what will be written there.
    ///
    /// # Errors
    /// If the pool has no further block. What is held stays as it is; blocks that could be had are kept for the next try.
    pub fn reserve(&mut self, new: usize) -> Result<(), PoolError> {
        self.attention.reserve(self.tokens.len(), new)
    }

    /// Keys and values of all positions held or reserved.
    pub(crate) fn blocks(&self) -> &[Arc<KvBlock>] {
        &self.attention.blocks
    }

    /// The block of a position that [`SequenceCache::reserve`] has made room for, and the position's place in it.
    pub(crate) fn block_mut(&mut self, position: usize) -> (&mut KvBlock, usize) {
        let block = &mut self.attention.blocks[position / KvBlock::POSITIONS];
        let block = Arc::get_mut(block).expect("`reserve` left this block with one owner");
        (block, position % KvBlock::POSITIONS)
    }

    /// Appends a block that another owner has filled with these tokens at least. Whole blocks are held so far.
    fn push_block(&mut self, block: Arc<KvBlock>, tokens: &[u32]) {
        debug_assert!(self.len().is_multiple_of(KvBlock::POSITIONS), "whole blocks");
        self.attention.truncate(self.len() / KvBlock::POSITIONS);
        self.attention.blocks.push(block);
        self.tokens.extend_from_slice(tokens);
    }

    /// Shares a block that holds the same, and lets go of its own.
    fn replace_block(&mut self, index: usize, block: Arc<KvBlock>) {
        let own = std::mem::replace(&mut self.attention.blocks[index], block);
        self.attention.pool.give_back(own);
    }

    /// Notes that these tokens were computed.
    pub(crate) fn push(&mut self, tokens: &[u32]) {
        self.tokens.extend_from_slice(tokens);
    }
}

impl BlockTable {
    fn truncate(&mut self, blocks: usize) {
        for block in self.blocks.drain(blocks.min(self.blocks.len())..) {
            self.pool.give_back(block);
        }
    }

    fn reserve(&mut self, held: usize, new: usize) -> Result<(), PoolError> {
        if new == 0 {
            return Ok(());
        }
        let (first, needed) = (held / KvBlock::POSITIONS, (held + new).div_ceil(KvBlock::POSITIONS));
        for block in self.blocks.iter_mut().skip(first) {
            if Arc::get_mut(block).is_none() {
                let mut own = self.pool.take()?;
                own.copy_from(block);
                self.pool.give_back(std::mem::replace(block, Arc::new(own)));
            }
        }
        while self.blocks.len() < needed {
            self.blocks.push(Arc::new(self.pool.take()?));
        }
        Ok(())
    }
}

impl Drop for BlockTable {
    fn drop(&mut self) {
        self.truncate(0);
    }
}

/// Tokens that two sequences have in common at their beginnings.
pub(crate) fn common_prefix(a: &[u32], b: &[u32]) -> usize {
    a.iter().zip(b).take_while(|(a, b)| a == b).count()
}
