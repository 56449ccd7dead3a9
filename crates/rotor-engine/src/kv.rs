//! The KV cache of one sequence.

use crate::config::Config;
use rotor_kernels::attention::{KvShape, KvStore, KvType};

/// Keys and values of every layer, and the tokens they belong to.
///
/// Memory is reserved for the whole capacity and taken only as positions are written.
#[derive(Debug)]
pub struct KvCache {
    store: KvStore,
    tokens: Vec<u32>,
    capacity: usize,
    kind: KvType,
}

impl KvCache {
    /// A cache with room for `capacity` tokens.
    ///
    /// # Errors
    /// Where the system refuses to reserve the memory.
    pub fn new(config: &Config, capacity: usize, kind: KvType) -> std::io::Result<KvCache> {
        let shape =
            KvShape { layers: config.num_hidden_layers, heads: config.num_key_value_heads, head_dim: config.head_dim };
        let store = KvStore::new(kind, shape, capacity)?;
        Ok(KvCache { store, tokens: Vec::with_capacity(capacity), capacity, kind })
    }

    /// Bytes one token takes.
    pub fn bytes_per_token(config: &Config, kind: KvType) -> usize {
        2 * config.num_hidden_layers * config.num_key_value_heads * kind.row_bytes(config.head_dim)
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

    /// How numbers are stored.
    pub fn kind(&self) -> KvType {
        self.kind
    }

    /// The tokens held, in order.
    pub fn tokens(&self) -> &[u32] {
        &self.tokens
    }

    /// Length of the longest common prefix of what is held and `tokens`: that many need no computing.
    pub fn common_prefix(&self, tokens: &[u32]) -> usize {
        self.tokens.iter().zip(tokens).take_while(|(a, b)| a == b).count()
    }

    /// Forgets all but the first `len` tokens.
    pub fn truncate(&mut self, len: usize) {
        self.tokens.truncate(len);
    }

    /// Takes over the first `len` tokens of another cache. The cost is that of copying them.
    ///
    /// # Panics
    /// If the caches are of different models or types, or `len` exceeds what `from` holds or this can hold.
    pub fn copy_prefix(&mut self, from: &KvCache, len: usize) {
        assert!(len <= from.len() && len <= self.capacity, "{len} tokens");
        self.store.copy_prefix(&from.store, len);
        self.tokens.clear();
        self.tokens.extend_from_slice(&from.tokens[..len]);
    }

    pub(crate) fn store(&self) -> &KvStore {
        &self.store
    }

    pub(crate) fn store_mut(&mut self) -> &mut KvStore {
        &mut self.store
    }

    pub(crate) fn push(&mut self, tokens: &[u32]) {
        self.tokens.extend_from_slice(tokens);
    }
}
