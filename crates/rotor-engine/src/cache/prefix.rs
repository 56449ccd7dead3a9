//! Beginnings that were computed before, whichever sequence they were for.
//!
//! A tree of blocks: each node is a block with the tokens its positions belong to, and its path from the root is all that
//! comes before it, so that a block is only found by a sequence that begins with the very same tokens. Full blocks enter the
//! tree as soon as they are computed, the last, partly filled one when its sequence ends. The children of a node are sorted
//! by their tokens: the one that shares most with a sequence is a neighbour of where the sequence's next tokens would be.
//! When memory is short the leaf that was not used for longest goes first; blocks that a sequence uses stay.

use super::{BlockPool, SequenceCache, common_prefix};
use rotor_kernels::attention::KvBlock;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::ops::Bound::{Excluded, Included, Unbounded};
use std::sync::Arc;

/// The root, which has no block.
const ROOT: u64 = 0;

/// Where in the tree a sequence is: the node of its last full block that is there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    node: u64,
    blocks: usize,
}

impl Place {
    /// Before the first block.
    pub const START: Place = Place { node: ROOT, blocks: 0 };
}

/// Blocks of sequences that have ended or still run, by the tokens they hold.
#[derive(Debug)]
pub struct PrefixCache {
    pool: Arc<BlockPool>,
    nodes: HashMap<u64, Node>,
    /// `(last use, node)` of every node without children, the root aside.
    leaves: BTreeSet<(u64, u64)>,
    next_node: u64,
    clock: u64,
}

#[derive(Debug)]
struct Node {
    parent: u64,
    tokens: Box<[u32]>,
    /// `None` for the root.
    block: Option<Arc<KvBlock>>,
    children: BTreeMap<Box<[u32]>, u64>,
    used: u64,
}

impl PrefixCache {
    /// An empty tree of blocks of this pool.
    pub fn new(pool: &Arc<BlockPool>) -> PrefixCache {
        let (pool, nodes) = (Arc::clone(pool), HashMap::new());
        let mut cache = PrefixCache { pool, nodes, leaves: BTreeSet::new(), next_node: ROOT + 1, clock: 0 };
        cache.clear();
        cache
    }

    /// Blocks in the tree.
    pub fn blocks(&self) -> usize {
        self.nodes.len() - 1
    }

    /// Lets a cache that holds a beginning of `tokens` share the blocks of more of it, and returns how many tokens it holds
    /// more than before. All of `tokens` is never found: the last one is computed for its logits.
    pub fn find(&mut self, cache: &mut SequenceCache, place: &mut Place, tokens: &[u32]) -> usize {
        let held = cache.len();
        let wanted = &tokens[..tokens.len().saturating_sub(1).min(cache.capacity())];
        // Blocks that the sequence has computed itself are before this one.
        while place.blocks == cache.len() / KvBlock::POSITIONS {
            let begin = place.blocks * KvBlock::POSITIONS;
            let rest = wanted.get(begin..).unwrap_or_default();
            let rest = &rest[..rest.len().min(KvBlock::POSITIONS)];
            let Some((child, shared)) = self.closest(place.node, rest) else { break };
            if begin + shared <= cache.len() {
                break;
            }
            self.touch(child);
            let Some(block) = self.nodes.get(&child).and_then(|node| node.block.clone()) else { break };
            cache.truncate(begin);
            cache.push_block(block, &rest[..shared]);
            if shared < KvBlock::POSITIONS {
                break;
            }
            *place = Place { node: child, blocks: place.blocks + 1 };
        }
        cache.len() - held
    }

    /// Puts the full blocks of a cache into the tree, from `place` on. Where the tree has such a block already, the cache
    /// shares it from now on: what it computed is the same, bit for bit.
    pub fn keep(&mut self, cache: &mut SequenceCache, place: &mut Place) {
        while (place.blocks + 1) * KvBlock::POSITIONS <= cache.len() {
            let begin = place.blocks * KvBlock::POSITIONS;
            let tokens = &cache.tokens()[begin..begin + KvBlock::POSITIONS];
            let known = self.nodes.get(&place.node).and_then(|node| node.children.get(tokens).copied());
            let node = match known {
                Some(node) => {
                    if let Some(block) = self.nodes.get(&node).and_then(|node| node.block.clone()) {
                        cache.replace_block(place.blocks, block);
                    }
                    self.touch(node);
                    node
                }
                None => self.insert(place.node, tokens.into(), Arc::clone(&cache.blocks()[place.blocks])),
            };
            *place = Place { node, blocks: place.blocks + 1 };
        }
    }

    /// As [`PrefixCache::keep`], of a sequence that has ended: its last block stays too, however few positions are filled.
    pub fn keep_all(&mut self, cache: &mut SequenceCache, mut place: Place) {
        self.keep(cache, &mut place);
        let rest = &cache.tokens()[place.blocks * KvBlock::POSITIONS..];
        let shared = self.closest(place.node, rest).map_or(0, |(_, shared)| shared);
        if shared < rest.len() {
            self.insert(place.node, rest.into(), Arc::clone(&cache.blocks()[place.blocks]));
        }
    }

    /// Lets go of the block that no sequence uses and that was not used for longest. Where there is none, of a partly filled
    /// one that a sequence uses, which then need not copy it before it goes on. Returns whether there was either.
    pub fn evict(&mut self) -> bool {
        let is = |condition: fn(&Node, &Arc<KvBlock>) -> bool| {
            self.leaves.iter().map(|(_, id)| *id).find(|id| {
                self.nodes.get(id).is_some_and(|node| node.block.as_ref().is_some_and(|block| condition(node, block)))
            })
        };
        let unused = is(|_, block| Arc::strong_count(block) == 1);
        let Some(node) = unused.or_else(|| is(|node, _| node.tokens.len() < KvBlock::POSITIONS)) else { return false };
        self.remove(node);
        true
    }

    /// Lets go of everything. Sequences keep what they use.
    pub fn clear(&mut self) {
        let root = Node { parent: ROOT, tokens: [].into(), block: None, children: BTreeMap::new(), used: 0 };
        for (_, node) in self.nodes.drain() {
            if let Some(block) = node.block {
                self.pool.give_back(block);
            }
        }
        self.leaves.clear();
        self.nodes.insert(ROOT, root);
    }

    /// The child that begins as `tokens` do for longest, and for how many tokens.
    fn closest(&self, parent: u64, tokens: &[u32]) -> Option<(u64, usize)> {
        let children = &self.nodes.get(&parent)?.children;
        let before = children.range::<[u32], _>((Unbounded, Included(tokens))).next_back();
        let after = children.range::<[u32], _>((Excluded(tokens), Unbounded)).next();
        let neighbours = before.into_iter().chain(after).map(|(key, node)| (*node, common_prefix(key, tokens)));
        neighbours.filter(|(_, shared)| *shared > 0).max_by_key(|(_, shared)| *shared)
    }

    fn insert(&mut self, parent: u64, tokens: Box<[u32]>, block: Arc<KvBlock>) -> u64 {
        // A partly filled block whose tokens this one begins with has nothing left to give.
        if let Some((node, shared)) = self.closest(parent, &tokens)
            && self.nodes.get(&node).is_some_and(|node| node.children.is_empty() && node.tokens.len() == shared)
        {
            self.remove(node);
        }
        let id = self.next_node;
        self.next_node += 1;
        if let Some(node) = self.nodes.get_mut(&parent) {
            node.children.insert(tokens.clone(), id);
            self.leaves.remove(&(node.used, parent));
        }
        self.nodes.insert(id, Node { parent, tokens, block: Some(block), children: BTreeMap::new(), used: 0 });
        self.touch(id);
        id
    }

    /// Notes that a node was used just now.
    fn touch(&mut self, id: u64) {
        let Some(node) = self.nodes.get_mut(&id) else { return };
        self.clock += 1;
        self.leaves.remove(&(node.used, id));
        node.used = self.clock;
        if node.children.is_empty() {
            self.leaves.insert((node.used, id));
        }
    }

    fn remove(&mut self, id: u64) {
        let Some(node) = self.nodes.remove(&id) else { return };
        self.leaves.remove(&(node.used, id));
        if let Some(block) = node.block {
            self.pool.give_back(block);
        }
        if let Some(parent) = self.nodes.get_mut(&node.parent) {
            parent.children.remove(&node.tokens);
            if parent.children.is_empty() && node.parent != ROOT {
                self.leaves.insert((parent.used, node.parent));
            }
        }
    }
}

impl Drop for PrefixCache {
    fn drop(&mut self) {
        self.clear();
    }
}
