//! Which sequences share a step, and who gives way when memory is short.
//!
//! A step computes one token of every sequence that generates, and beside these some tokens of prompts. So that nobody waits
//! long, prompts share a chunk: [`BatchOptions::chunk`] tokens where nothing generates, [`BatchOptions::chunk_beside`] where
//! something does. Each prompt gets the same share of the chunk, and what a short one leaves goes to the longer ones. A
//! prompt whose next block another one of the step computes right now waits for that block. A step without prompts may compute
//! drafts of what sequences will say ([`crate::speculate`]).
//!
//! Sequences are admitted in the order of their requests, as far as there are places and memory for their prompts. One that
//! stands aside until its events are taken gives up its place and its memory where another one waits for them.
//!
//! When the running ones need more blocks than there are, beginnings that nobody uses go first, the least recently used before
//! the others; then the youngest sequence gives its blocks back, and is computed again when there is room. The numbers of a
//! token depend on nothing but the tokens before it, so its text is the same as if nothing had happened. The oldest never gives
//! way to a younger one that computes: a request is only taken if it can finish with all memory to itself, so every one finishes.

use crate::cache::{BlockPool, Place, PoolError, PrefixCache, SequenceCache, block_bytes};
use crate::config::Config;
use crate::cost::PREFILL_CHUNK;
use crate::head::{HeadCounts, LogitRows, Need};
use crate::machine::Memory;
use crate::model::{ForwardError, Model, Step, Workspace};
use crate::request::{EmbedRequest, Event, FinishReason, GenerateError, Request};
use crate::sequence::Sequence;
use crate::speculate::{Speculate, StepTimes};
use crate::tokenizer::Tokenizer;
use rotor_kernels::attention::{KvBlock, KvType};
use rotor_kernels::clock::Instant;
use rotor_kernels::ternary::SkipCounts;
use std::collections::VecDeque;
use std::sync::Arc;

/// Full contexts that there is memory for by default where the system does not say how much is free.
const UNKNOWN_MEMORY: u64 = 4;

/// How a batch uses memory and time.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BatchOptions {
    /// Tokens of each sequence, prompt and answer together.
    pub context: usize,
    /// How keys and values are stored.
    pub kv: KvType,
    /// Bytes for the keys and values of all sequences and of beginnings that are kept; `None` for half of the memory that is
    /// free when the batch is made, one full context at least; four where the system does not say what is free.
    pub kv_memory: Option<u64>,
    /// Sequences that share steps; further ones wait.
    pub sequences: usize,
    /// Tokens of prompts in a step in which nothing generates.
    pub chunk: usize,
    /// Tokens of prompts in a step in which something generates. A token waits for so many tokens of prompts at most.
    pub chunk_beside: usize,
    /// How sequences guess their next tokens. No token depends on it.
    pub speculate: Speculate,
}

impl BatchOptions {
    /// Sequences of `context` tokens, everything else as it is unless asked otherwise.
    pub fn new(context: usize) -> BatchOptions {
        BatchOptions {
            context,
            kv: KvType::F16,
            kv_memory: None,
            sequences: 16,
            chunk: PREFILL_CHUNK,
            chunk_beside: KvBlock::POSITIONS,
            speculate: Speculate::default(),
        }
    }

    /// Bytes of the keys and values of one full context, and of the copy of a last block that is shared with a beginning.
    pub(crate) fn context_bytes(&self, config: &Config) -> u64 {
        let blocks = self.context.div_ceil(KvBlock::POSITIONS) as u64;
        block_bytes(config, self.kv).saturating_mul(blocks.saturating_add(1))
    }

    fn budget(&self, config: &Config) -> u64 {
        let context = self.context_bytes(config);
        let unknown = context.saturating_mul(UNKNOWN_MEMORY);
        let default = || Memory::read().free().map_or(unknown, |free| free / 2).max(context);
        self.kv_memory.unwrap_or_else(default)
    }
}

/// Names a request within its batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RequestId(u64);

/// Sequences that share steps, and the memory they share.
#[derive(Debug)]
pub struct Batch {
    options: BatchOptions,
    intake: Intake,
    vocab_size: usize,
    pool: Arc<BlockPool>,
    prefixes: PrefixCache,
    workspace: Workspace,
    /// The oldest first.
    running: Vec<Entry>,
    /// The oldest first; those that stand aside are passed over.
    waiting: VecDeque<Entry>,
    next_id: u64,
    counts: Counts,
    times: StepTimes,
}

/// Checks requests before they enter a batch, so that a caller is told at once and on its own thread what cannot be.
#[derive(Clone, Debug)]
pub struct Intake {
    pool: Arc<BlockPool>,
    context: usize,
    sequences: usize,
    vocab_size: usize,
}

/// The end of a choice whose constraint was copied when the request was checked, and cannot be when it is to begin.
fn not_copied(choice: usize) -> Event {
    Event::Failed { choice, error: GenerateError::ConstraintNotCopied }
}

/// A request that was checked.
#[derive(Debug)]
pub struct Incoming {
    sequence: Sequence,
    forks: usize,
}

impl Intake {
    /// Makes a sequence of a request.
    ///
    /// # Errors
    /// If the prompt is empty, too long for the context or for the memory, or has ids outside the vocabulary; or an option is
    /// out of range.
    pub fn check(&self, request: Request, tokenizer: Option<&Tokenizer>) -> Result<Incoming, GenerateError> {
        self.check_ids(&request.prompt)?;
        let (choices, most) = (request.choices, self.sequences);
        if !(1..=most).contains(&choices) {
            return Err(GenerateError::Choices { choices, most });
        }
        let cache = SequenceCache::in_pool(&self.pool, self.context);
        let sequence = Sequence::generate(request, tokenizer, self.vocab_size, cache)?;
        if choices > 1 && sequence.fork(1).is_none() {
            return Err(GenerateError::ConstraintNotCopied);
        }
        self.check_memory(&sequence)?;
        Ok(Incoming { sequence, forks: choices - 1 })
    }

    /// Makes a sequence of a text whose embedding is wanted.
    ///
    /// # Errors
    /// If there are no tokens, or too many for the context or for the memory, or ids outside the vocabulary.
    pub fn check_embedding(&self, request: EmbedRequest) -> Result<Incoming, GenerateError> {
        self.check_ids(&request.tokens)?;
        // A rotation may depend on the room that there is: this text's must not depend on others.
        let room = self.context.min(request.tokens.len());
        let sequence = Sequence::embed(request, SequenceCache::in_pool(&self.pool, room))?;
        self.check_memory(&sequence)?;
        Ok(Incoming { sequence, forks: 0 })
    }

    fn check_ids(&self, ids: &[u32]) -> Result<(), ForwardError> {
        let vocab_size = self.vocab_size;
        let outside = |id: &&u32| usize::try_from(**id).map_or(true, |id| id >= vocab_size);
        ids.iter().find(outside).map_or(Ok(()), |&id| Err(ForwardError::TokenOutOfRange { id, vocab_size }))
    }

    fn check_memory(&self, sequence: &Sequence) -> Result<(), GenerateError> {
        let blocks = sequence.longest().div_ceil(KvBlock::POSITIONS);
        if blocks > self.pool.blocks() {
            let bytes = |blocks: usize| self.pool.block_bytes().saturating_mul(blocks as u64);
            return Err(GenerateError::MemoryTooSmall { needed: bytes(blocks), budget: bytes(self.pool.blocks()) });
        }
        Ok(())
    }
}

#[derive(Debug)]
struct Entry {
    id: RequestId,
    sequence: Sequence,
    place: Place,
    /// Further choices that will share its prompt.
    forks: usize,
    /// Tokens that the step at hand computes, its draft aside.
    take: usize,
    /// Whether it stands aside.
    held: bool,
    ended: bool,
}

/// What a batch has done since it was made.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Steps.
    pub steps: u64,
    /// Tokens of prompts that were computed, those computed again included.
    pub prompt_tokens: u64,
    /// Tokens of prompts that were found in memory.
    pub cached_tokens: u64,
    /// Tokens generated.
    pub generated_tokens: u64,
    /// How often a sequence gave its blocks back.
    pub preemptions: u64,
    /// Tokens that were guessed and computed ahead.
    pub draft_tokens: u64,
    /// How many of them were chosen then.
    pub accepted_tokens: u64,
}

/// What a batch is doing now.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Statistics {
    /// Sequences that share steps.
    pub running: usize,
    /// Sequences that wait for a place or for memory.
    pub waiting: usize,
    /// Blocks of the budget.
    pub blocks: usize,
    /// Blocks in use, by sequences or kept beginnings.
    pub used_blocks: usize,
    /// Blocks of beginnings that are kept; sequences may use them too.
    pub kept_blocks: usize,
    /// Bytes of a block.
    pub block_bytes: u64,
    /// Positions of a block.
    pub block_tokens: usize,
    /// Bytes of the numbers in flight during a step; see [`Workspace::bytes`].
    pub workspace_bytes: u64,
    /// What was done so far.
    pub counts: Counts,
    /// Every sequence, the oldest first.
    pub sequences: Vec<SequenceStatus>,
}

/// What one sequence is doing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SequenceStatus {
    /// Its request.
    pub request: RequestId,
    /// Which of the request's choices it is.
    pub choice: usize,
    /// What it does.
    pub state: SequenceState,
    /// Tokens of its prompt.
    pub prompt_tokens: usize,
    /// Tokens of its prompt that were found in memory.
    pub cached_tokens: usize,
    /// Tokens that are computed, generated ones included.
    pub computed_tokens: usize,
    /// Tokens generated.
    pub generated_tokens: usize,
}

/// See [`SequenceStatus::state`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SequenceState {
    /// It waits for a place or for memory.
    Waiting,
    /// Its prompt is being computed, or what it had computed before it gave way.
    Prompt,
    /// It generates.
    Decoding,
    /// It stands aside until its receiver takes what is there.
    Held,
}

impl Batch {
    /// An empty batch. Memory is taken as it is used.
    pub fn new(model: &Model, options: BatchOptions) -> Batch {
        let pool = BlockPool::new(model.config(), options.kv, options.budget(model.config()));
        let vocab_size = model.config().vocab_size;
        let (context, sequences) = (options.context, options.sequences);
        Batch {
            intake: Intake { pool: Arc::clone(&pool), context, sequences, vocab_size },
            vocab_size,
            prefixes: PrefixCache::new(&pool),
            workspace: Workspace::new(model.runtime()),
            running: Vec::new(),
            waiting: VecDeque::new(),
            next_id: 0,
            counts: Counts::default(),
            times: StepTimes::default(),
            options,
            pool,
        }
    }

    /// What it was made with.
    pub fn options(&self) -> &BatchOptions {
        &self.options
    }

    /// Takes a request; its events come from [`Batch::step`].
    ///
    /// # Errors
    /// As [`Intake::check`].
    pub fn add(&mut self, request: Request, tokenizer: Option<&Tokenizer>) -> Result<RequestId, GenerateError> {
        let incoming = self.intake.check(request, tokenizer)?;
        Ok(self.enqueue(incoming))
    }

    /// Takes a text whose embedding is wanted.
    ///
    /// # Errors
    /// As [`Intake::check_embedding`].
    pub fn add_embedding(&mut self, request: EmbedRequest) -> Result<RequestId, GenerateError> {
        let incoming = self.intake.check_embedding(request)?;
        Ok(self.enqueue(incoming))
    }

    /// Checks requests for this batch, on any thread.
    pub fn intake(&self) -> &Intake {
        &self.intake
    }

    /// Takes a request that was checked by this batch's [`Intake`].
    pub fn enqueue(&mut self, incoming: Incoming) -> RequestId {
        let Incoming { sequence, forks } = incoming;
        let (id, place) = (RequestId(self.next_id), Place::START);
        self.next_id += 1;
        self.waiting.push_back(Entry { id, sequence, place, forks, take: 0, held: false, ended: false });
        id
    }

    /// Whether a sequence waits for a place or for memory, and does not stand aside.
    pub fn has_waiting(&self) -> bool {
        self.waiting.iter().any(|entry| !entry.held)
    }

    /// Whether there is nothing to compute, be it that sequences stand aside.
    pub fn is_idle(&self) -> bool {
        self.running.iter().chain(&self.waiting).all(|entry| entry.held)
    }

    /// Whether a request has not ended.
    pub fn contains(&self, id: RequestId) -> bool {
        self.running.iter().chain(&self.waiting).any(|entry| entry.id == id)
    }

    /// Lets a request stand aside, or takes it back. It keeps its place and its memory until another one needs them.
    pub fn hold(&mut self, id: RequestId, held: bool) {
        let entries = self.running.iter_mut().chain(&mut self.waiting);
        entries.filter(|entry| entry.id == id).for_each(|entry| entry.held = held);
    }

    /// Ends a request now; what it computed is kept as a beginning for others. Returns the last events of its choices.
    pub fn cancel(&mut self, id: RequestId) -> Vec<Event> {
        let is_other = |entry: &Entry| entry.id != id;
        let (running, mut ended): (Vec<Entry>, Vec<Entry>) = self.running.drain(..).partition(is_other);
        let (waiting, waiting_ended): (VecDeque<Entry>, VecDeque<Entry>) = self.waiting.drain(..).partition(is_other);
        (self.running, self.waiting) = (running, waiting);
        ended.extend(waiting_ended);
        let mut events = Vec::new();
        for mut entry in ended {
            let forks: Vec<Option<Sequence>> = (1..=entry.forks).map(|choice| entry.sequence.fork(choice)).collect();
            events.push(Event::Finished(entry.sequence.finish(Some(FinishReason::Cancelled))));
            events.extend((1..).zip(forks).map(|(choice, fork)| match fork {
                Some(mut fork) => Event::Finished(fork.finish(Some(FinishReason::Cancelled))),
                None => not_copied(choice),
            }));
            self.keep_all(&mut entry);
        }
        events
    }

    /// Lets go of beginnings that are kept for later requests.
    pub fn forget(&mut self) {
        self.prefixes.clear();
    }

    /// A sequence of its own in the memory of the batch, and the numbers in flight, for computing beside the batch's steps.
    pub(crate) fn lend(&mut self) -> (SequenceCache, &mut Workspace) {
        (SequenceCache::in_pool(&self.pool, self.options.context), &mut self.workspace)
    }

    /// Makes the youngest sequence give its blocks back, as happens when memory is short.
    pub fn preempt(&mut self) {
        if let Some(entry) = self.running.pop() {
            self.counts.preemptions += 1;
            self.wait(entry);
        }
    }

    /// Makes the youngest sequence that stands aside give up its place and its blocks. Returns whether there was one.
    fn preempt_held(&mut self) -> bool {
        let Some(index) = self.running.iter().rposition(|entry| entry.held) else { return false };
        let entry = self.running.remove(index);
        self.counts.preemptions += 1;
        self.wait(entry);
        true
    }

    /// Lets a sequence wait, without the memory it had, behind those that are older.
    fn wait(&mut self, mut entry: Entry) {
        entry.sequence.restart();
        entry.place = Place::START;
        entry.take = 0;
        let at = self.waiting.partition_point(|other| other.order() < entry.order());
        self.waiting.insert(at, entry);
    }

    /// What choosing tokens from bounds of the logits has taken.
    pub fn head_counts(&self) -> HeadCounts {
        self.workspace.head_counts()
    }

    /// What a few tokens at a time have read of linears that can leave rows and columns unread.
    pub fn skip_counts(&self) -> SkipCounts {
        self.workspace.skip_counts()
    }

    /// What it is doing, and has done.
    pub fn statistics(&self) -> Statistics {
        let status = |entry: &Entry, state| SequenceStatus {
            request: entry.id,
            choice: entry.sequence.choice(),
            state,
            prompt_tokens: entry.sequence.prompt_tokens(),
            cached_tokens: entry.sequence.cached_tokens(),
            computed_tokens: entry.sequence.cache().len(),
            generated_tokens: entry.sequence.generated(),
        };
        let running = self.running.iter().map(|entry| status(entry, entry.state()));
        let waiting = self.waiting.iter().map(|entry| status(entry, SequenceState::Waiting));
        Statistics {
            running: self.running.len(),
            waiting: self.waiting.len(),
            blocks: self.pool.blocks(),
            used_blocks: self.pool.used(),
            kept_blocks: self.prefixes.blocks(),
            block_bytes: self.pool.block_bytes(),
            block_tokens: KvBlock::POSITIONS,
            workspace_bytes: self.workspace.bytes() as u64,
            counts: self.counts,
            sequences: running.chain(waiting).collect(),
        }
    }

    /// Computes the next tokens of those whose turn it is. Returns what happened, the events of a request in order.
    pub fn step(&mut self, model: &Model) -> Vec<(RequestId, Event)> {
        let mut events = Vec::new();
        self.admit();
        self.plan();
        self.reserve(&mut events);
        let decoded = self.draft();
        let start = Instant::now();
        let forks = self.compute(model, &mut events);
        if let Some(tokens) = decoded {
            self.times.note(tokens, start.elapsed());
        }
        self.settle(forks);
        events
    }

    /// Takes waiting sequences in, the oldest first, as long as there are places and memory for them. Those that stand aside
    /// give way to those that do not: a caller that reads many streams in turn would wait for ever otherwise.
    fn admit(&mut self) {
        while let Some(index) = self.waiting.iter().position(|entry| !entry.held) {
            let Some(mut entry) = self.waiting.remove(index) else { return };
            let places: usize = self.running.iter().map(|entry| 1 + entry.forks).sum();
            let fits = places + 1 + entry.forks <= self.options.sequences && self.has_memory_for(&mut entry);
            if !fits && !self.running.is_empty() {
                self.wait(entry);
                if self.preempt_held() {
                    continue;
                }
                return;
            }
            let at = self.running.partition_point(|other| other.order() < entry.order());
            self.running.insert(at, entry);
        }
    }

    /// Whether there is room for all that is to be computed, and for a block of each running sequence, which will want one
    /// before long.
    fn has_memory_for(&mut self, entry: &mut Entry) -> bool {
        find(&mut self.prefixes, entry);
        let blocks = entry.sequence.pending().div_ceil(KvBlock::POSITIONS) + 1 + self.running.len();
        while self.pool.blocks() - self.pool.used() < blocks {
            if !self.prefixes.evict() {
                return false;
            }
        }
        true
    }

    /// Decides how many tokens each sequence computes.
    fn plan(&mut self) {
        let mut prompts = Vec::new();
        let mut decodes = false;
        for index in 0..self.running.len() {
            let (older, rest) = self.running.split_at_mut(index);
            let Some(entry) = rest.first_mut() else { break };
            let decoding = entry.sequence.is_decoding();
            entry.take = usize::from(decoding && !entry.held);
            decodes |= entry.take > 0;
            if decoding || entry.held {
                continue;
            }
            find(&mut self.prefixes, entry);
            let computing = |&index: &usize| older.get(index).is_some_and(|older| entry.waits_for(older));
            if !prompts.iter().any(computing) {
                prompts.push(index);
            }
        }
        let mut left = if decodes { self.options.chunk_beside } else { self.options.chunk };
        // The shortest first: what it does not need of its share is the others'.
        prompts.sort_by_key(|&index| self.running.get(index).map(|entry| entry.sequence.pending()));
        for (at, &index) in prompts.iter().enumerate() {
            let share = (left / (prompts.len() - at)).max(1);
            if let Some(entry) = self.running.get_mut(index) {
                entry.take = entry.sequence.pending().min(share).min(left);
                left -= entry.take;
            }
        }
    }

    /// Gets the blocks of the step, the oldest sequence first.
    fn reserve(&mut self, events: &mut Vec<(RequestId, Event)>) {
        let mut index = 0;
        while let Some(entry) = self.running.get_mut(index) {
            let Err(error) = entry.reserve() else {
                index += 1;
                continue;
            };
            if self.prefixes.evict() {
                continue;
            }
            if self.running.len() > 1 {
                self.preempt();
            } else if let Some(entry) = self.running.pop() {
                // It has all the memory there is: the system gives less than the budget.
                events.push((entry.id, entry.failed(ForwardError::Memory(error).into())));
            }
        }
    }

    /// Lets sequences add drafts to a step that computes nothing but a token of each, as far as that pays and there is memory
    /// that nobody else wants. Returns the tokens of such a step.
    fn draft(&mut self) -> Option<usize> {
        let mut entries: Vec<&mut Entry> = self.running.iter_mut().filter(|entry| entry.take > 0).collect();
        if entries.is_empty() || !entries.iter().all(|entry| entry.sequence.is_decoding()) {
            return None;
        }
        if self.options.speculate == Speculate::Off {
            return Some(entries.len());
        }
        let chances: Vec<Vec<f32>> = entries.iter_mut().map(|entry| entry.sequence.guess()).collect();
        let lengths = self.options.speculate.drafts(&self.times, entries.len(), &chances);
        for (entry, length) in entries.iter_mut().zip(lengths) {
            entry.sequence.draft_guess(length);
        }
        Some(entries.iter().map(|entry| 1 + entry.sequence.draft()).sum())
    }

    /// Computes the step and hands out its rows. Returns the choices that begin with it.
    fn compute(&mut self, model: &Model, events: &mut Vec<(RequestId, Event)>) -> Vec<Entry> {
        let mut entries: Vec<&mut Entry> = self.running.iter_mut().filter(|entry| entry.take > 0).collect();
        if entries.is_empty() {
            return Vec::new();
        }
        // Those that want logits first, all of them before some, so that the head has rows that follow one another.
        let need = |sequence: &Sequence| match sequence.need() {
            Need::Largest if model.sketch().is_none() => Need::All,
            need => need,
        };
        entries.sort_by_key(|entry| need(&entry.sequence));
        for entry in &entries {
            self.counts.prompt_tokens += if entry.sequence.is_decoding() { 0 } else { entry.take as u64 };
        }
        self.counts.steps += 1;
        let mut steps: Vec<Step<'_>> = entries.iter_mut().map(|entry| entry.sequence.step(entry.take)).collect();
        let rows: Vec<usize> = steps.iter().map(|step| step.wanted.range(step.tokens.len()).len()).collect();
        let hidden = match model.hidden(&mut steps, &mut self.workspace) {
            Ok(hidden) => hidden,
            Err(error) => {
                for entry in entries {
                    entry.ended = true;
                    events.push((entry.id, entry.failed(error.clone().into())));
                }
                return Vec::new();
            }
        };
        let hidden_size = model.config().hidden_size;
        let rows_of = |wanted: Need| -> usize {
            entries.iter().zip(&rows).filter(|(entry, _)| need(&entry.sequence) == wanted).map(|(_, rows)| rows).sum()
        };
        let (all_rows, bounded_rows) = (rows_of(Need::All), rows_of(Need::Largest));
        let mut at = 0;
        for (entry, rows) in entries.iter_mut().zip(&rows) {
            if !entry.sequence.wants_logits() {
                entry.take_hidden(&hidden[at * hidden_size..(at + rows) * hidden_size], hidden_size, events);
            }
            at += rows;
        }
        let (mut all, mut bounded) = model.logits((all_rows, bounded_rows), &mut self.workspace);
        let (mut forks, mut at, vocab_size) = (Vec::new(), 0, self.vocab_size);
        for (entry, rows) in entries.into_iter().zip(rows) {
            match (need(&entry.sequence), &mut bounded) {
                (Need::Nothing, _) => {}
                (Need::Largest, Some(bounded)) => {
                    let own = LogitRows::Bounded(bounded.part(at..at + rows));
                    entry.take_logits(own, events, &mut forks);
                    at += rows;
                }
                _ => {
                    let logits;
                    (logits, all) = all.split_at_mut(rows * vocab_size);
                    entry.take_logits(LogitRows::All { logits, vocab_size }, events, &mut forks);
                }
            }
        }
        forks
    }

    /// Takes in new choices, keeps what was computed for others, and lets go of what has ended.
    fn settle(&mut self, forks: Vec<Entry>) {
        for fork in forks {
            let at = self.running.partition_point(|other| other.order() < fork.order());
            self.running.insert(at, fork);
        }
        let (ended, mut running): (Vec<Entry>, Vec<Entry>) =
            std::mem::take(&mut self.running).into_iter().partition(|entry| entry.ended);
        for mut entry in ended {
            self.count(&entry);
            self.keep_all(&mut entry);
        }
        for entry in running.iter_mut().filter(|entry| entry.sequence.can_reuse()) {
            self.prefixes.keep(entry.sequence.cache_mut(), &mut entry.place);
        }
        self.running = running;
    }
}

impl Batch {
    /// Leaves what an ended sequence computed behind for others.
    fn keep_all(&mut self, entry: &mut Entry) {
        if entry.sequence.can_reuse() {
            self.prefixes.keep_all(entry.sequence.cache_mut(), entry.place);
        }
    }

    fn count(&mut self, ended: &Entry) {
        self.counts.cached_tokens += ended.sequence.cached_tokens() as u64;
        self.counts.generated_tokens += ended.sequence.generated() as u64;
        let (computed, chosen) = ended.sequence.drafts();
        self.counts.draft_tokens += computed as u64;
        self.counts.accepted_tokens += chosen as u64;
    }
}

impl Entry {
    /// By age: requests in their order, and a request's choices in theirs.
    fn order(&self) -> (RequestId, usize) {
        (self.id, self.sequence.choice())
    }

    fn state(&self) -> SequenceState {
        match (self.held, self.sequence.is_decoding()) {
            (true, _) => SequenceState::Held,
            (false, true) => SequenceState::Decoding,
            (false, false) => SequenceState::Prompt,
        }
    }

    /// Whether an older sequence, whose turn it is too, is about to compute the block that this one needs next.
    fn waits_for(&self, older: &Entry) -> bool {
        let next = (self.sequence.cache().len() / KvBlock::POSITIONS + 1) * KvBlock::POSITIONS;
        self.sequence.can_reuse()
            && older.sequence.can_reuse()
            && older.sequence.cache().len() < next
            && next < self.sequence.tokens().len()
            && self.sequence.common_prefix(&older.sequence) >= next
    }

    fn reserve(&mut self) -> Result<(), PoolError> {
        match self.take {
            0 => Ok(()),
            take => self.sequence.reserve(take),
        }
    }

    fn failed(&self, error: GenerateError) -> Event {
        Event::Failed { choice: self.sequence.choice(), error }
    }

    fn take_hidden(&mut self, hidden: &[f32], hidden_size: usize, events: &mut Vec<(RequestId, Event)>) {
        let embedding = self.sequence.take_hidden(hidden, hidden_size);
        self.ended = embedding.is_some();
        events.push((self.id, self.progress()));
        events.extend(embedding.map(|embedding| (self.id, Event::Embedding(embedding))));
    }

    /// Takes the logits of the step, if it wanted any, and adds the choices that go on from the same ones to `forks`.
    fn take_logits(&mut self, mut logits: LogitRows<'_>, events: &mut Vec<(RequestId, Event)>, forks: &mut Vec<Entry>) {
        if self.sequence.generated() == 0 {
            events.push((self.id, self.progress()));
        }
        if logits.len() == 0 {
            return;
        }
        for choice in 1..=std::mem::take(&mut self.forks) {
            let Some(sequence) = self.sequence.fork(choice) else {
                events.push((self.id, not_copied(choice)));
                continue;
            };
            let mut fork = Entry { sequence, ..*self };
            logits.lend(|copy| fork.choose(copy, events));
            forks.push(fork);
        }
        self.choose(&mut logits, events);
    }

    fn choose(&mut self, logits: &mut LogitRows<'_>, events: &mut Vec<(RequestId, Event)>) {
        let mut tokens = Vec::new();
        let ended = self.sequence.take_logits(logits, &mut tokens);
        events.extend(tokens.into_iter().map(|token| (self.id, Event::Token(token))));
        self.ended = !matches!(ended, Ok(false));
        match ended {
            Ok(false) => {}
            Ok(true) => events.push((self.id, Event::Finished(self.sequence.finish(None)))),
            Err(error) => events.push((self.id, self.failed(error))),
        }
    }

    fn progress(&self) -> Event {
        let of = self.sequence.prompt_tokens();
        Event::Prompt { done: self.sequence.cache().len().min(of), of, cached: self.sequence.cached_tokens() }
    }
}

/// Lets a sequence share what others computed of its tokens.
fn find(prefixes: &mut PrefixCache, entry: &mut Entry) {
    if entry.sequence.can_reuse() && entry.sequence.pending() > 1 {
        let (cache, tokens) = entry.sequence.cache_and_tokens();
        let found = prefixes.find(cache, &mut entry.place, tokens);
        entry.sequence.found(found);
    }
}
