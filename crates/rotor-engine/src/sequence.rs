//! One sequence: what it wants computed next, and what becomes of the numbers.
//!
//! The tokens of a sequence are its prompt and what was generated. Its cache holds the first of them; those that follow are
//! pending. So a prompt, its next chunk, a generated token and a sequence that has to be computed anew are one case: the
//! pending tokens are computed, and the logits of the last give another. A sequence may add a draft, tokens that it expects
//! to choose. They are computed in the same step; those after the first that the sampler did not choose are dropped, and the
//! cache is cut, so that a draft changes no choice.

use crate::cache::{PoolError, SequenceCache, common_prefix};
use crate::constraint::{Allowed, Constraint};
use crate::head::{Bounded, LogitRow, LogitRows, Need, Want};
use crate::model::{Step, Wanted};
use crate::request::{
    EmbedRequest, FinishReason, Finished, GenerateError, GenerateOptions, Generation, Pooling, Request, Token,
    TokenLogprobs,
};
use crate::sample::{Sampler, StopMatcher};
use crate::speculate::Guesser;
use crate::stop::Stops;
use crate::tokenizer::{TextStream, Tokenizer};
use rotor_kernels::clock::Instant;

/// A prompt and its continuation, or a text that is embedded.
#[derive(Debug)]
pub struct Sequence {
    /// The prompt, then what was generated.
    tokens: Vec<u32>,
    prompt_tokens: usize,
    /// Tokens of the prompt that another sequence had computed.
    cached_tokens: usize,
    cache: SequenceCache,
    /// Tokens that are computed in the next step: pending ones, then a draft.
    input: Vec<u32>,
    /// Tokens that may follow, a guess.
    draft: Vec<u32>,
    guesser: Guesser,
    drafts: Drafts,
    task: Task,
    clock: Clock,
}

#[derive(Debug)]
enum Task {
    Generate(Box<Generator>),
    Embed { pooling: Pooling, normalize: bool, sum: Vec<f32> },
}

/// Chooses the tokens of one continuation and makes text of them.
#[derive(Debug)]
struct Generator {
    choice: usize,
    sampler: Sampler,
    writer: Writer,
    constraint: Option<Box<dyn Constraint>>,
    /// What the constraint says where logits are not all there, `[vocab]`.
    mask: Vec<f32>,
    max_tokens: usize,
    /// Tokens that end the text.
    ends: Vec<u32>,
    logprobs: Option<usize>,
    finish: Option<FinishReason>,
}

/// Tokens of drafts.
#[derive(Clone, Copy, Debug, Default)]
struct Drafts {
    computed: usize,
    chosen: usize,
}

/// When a sequence reached which part of its life.
#[derive(Clone, Copy, Debug)]
struct Clock {
    asked: Instant,
    started: Option<Instant>,
    first_token: Option<Instant>,
}

impl Sequence {
    /// A sequence that generates. Its cache is empty.
    ///
    /// # Errors
    /// If the prompt is empty or leaves no room for a token, or an option is out of range.
    pub fn generate(
        request: Request,
        tokenizer: Option<&Tokenizer>,
        vocab_size: usize,
        cache: SequenceCache,
    ) -> Result<Sequence, GenerateError> {
        let Request { prompt, mut options, logprobs, constraint, .. } = request;
        check_prompt(&prompt, cache.capacity())?;
        let stops = Stops::new(tokenizer, &options.stop)?;
        options.stop = stops.texts;
        let mut ends = match tokenizer {
            Some(tokenizer) if !options.ignore_eos => tokenizer.end_of_generation().to_vec(),
            _ => Vec::new(),
        };
        ends.extend(stops.tokens);
        let generator = Generator {
            choice: 0,
            writer: Writer::new(tokenizer, &options),
            sampler: Sampler::new(options.sampling, vocab_size)?,
            constraint,
            mask: Vec::new(),
            max_tokens: options.max_tokens.unwrap_or(usize::MAX),
            ends,
            logprobs,
            finish: None,
        };
        Ok(Sequence::new(prompt, cache, Task::Generate(Box::new(generator))))
    }

    /// A sequence whose hidden states are pooled.
    ///
    /// # Errors
    /// If there are no tokens, or more than the cache has room for.
    pub fn embed(request: EmbedRequest, cache: SequenceCache) -> Result<Sequence, GenerateError> {
        check_prompt(&request.tokens, cache.capacity().saturating_add(1))?;
        let task = Task::Embed { pooling: request.pooling, normalize: request.normalize, sum: Vec::new() };
        Ok(Sequence::new(request.tokens, cache, task))
    }

    fn new(tokens: Vec<u32>, cache: SequenceCache, task: Task) -> Sequence {
        let clock = Clock { asked: Instant::now(), started: None, first_token: None };
        let (prompt_tokens, input, draft) = (tokens.len(), Vec::new(), Vec::new());
        let (guesser, drafts) = (Guesser::default(), Drafts::default());
        Sequence { tokens, prompt_tokens, cached_tokens: 0, cache, input, draft, guesser, drafts, task, clock }
    }

    /// Another continuation of the same prompt, which shares what was computed. Its seed is `choice` more than this one's.
    /// `None` if the sequence embeds, has generated something, or its constraint cannot be copied.
    pub fn fork(&self, choice: usize) -> Option<Sequence> {
        let Task::Generate(generator) = &self.task else { return None };
        if self.generated() > 0 {
            return None;
        }
        let constraint = match &generator.constraint {
            Some(constraint) => Some(constraint.fork()?),
            None => None,
        };
        let generator = Generator {
            choice,
            sampler: generator.sampler.reseeded(generator.sampler.seed().wrapping_add(choice as u64)),
            writer: generator.writer.clone(),
            constraint,
            mask: Vec::new(),
            ends: generator.ends.clone(),
            ..**generator
        };
        Some(Sequence {
            tokens: self.tokens.clone(),
            cache: self.cache.fork(),
            input: self.input.clone(),
            draft: Vec::new(),
            guesser: Guesser::default(),
            task: Task::Generate(Box::new(generator)),
            ..*self
        })
    }

    /// The prompt and what was generated after it.
    pub fn tokens(&self) -> &[u32] {
        &self.tokens
    }

    /// Tokens of the prompt.
    pub fn prompt_tokens(&self) -> usize {
        self.prompt_tokens
    }

    /// Tokens of the prompt that were found in memory.
    pub fn cached_tokens(&self) -> usize {
        self.cached_tokens
    }

    /// Tokens generated so far.
    pub fn generated(&self) -> usize {
        self.tokens.len() - self.prompt_tokens
    }

    /// Tokens of drafts that were computed, and those of them that were chosen.
    pub fn drafts(&self) -> (usize, usize) {
        (self.drafts.computed, self.drafts.chosen)
    }

    /// What was computed.
    pub fn cache(&self) -> &SequenceCache {
        &self.cache
    }

    /// As [`Sequence::cache`], for what shares, cuts and drops it.
    pub(crate) fn cache_mut(&mut self) -> &mut SequenceCache {
        &mut self.cache
    }

    /// Gives its memory back; all tokens are pending again.
    pub(crate) fn restart(&mut self) {
        self.cache.truncate(0);
        if self.clock.first_token.is_none() {
            self.cached_tokens = 0;
        }
        if let Task::Embed { sum, .. } = &mut self.task {
            sum.clear();
        }
    }

    /// What was computed, and the tokens that are to be.
    pub(crate) fn cache_and_tokens(&mut self) -> (&mut SequenceCache, &[u32]) {
        (&mut self.cache, &self.tokens)
    }

    /// Takes the memory for a step of `tokens` pending tokens.
    pub(crate) fn reserve(&mut self, tokens: usize) -> Result<(), PoolError> {
        self.cache.reserve(tokens + self.draft.len())
    }

    /// The most tokens that the cache may come to hold.
    pub(crate) fn longest(&self) -> usize {
        let generated = match &self.task {
            Task::Generate(generator) => generator.max_tokens.saturating_sub(1),
            Task::Embed { .. } => 0,
        };
        self.prompt_tokens.saturating_add(generated).min(self.cache.capacity())
    }

    /// Which of a request's choices this is.
    pub(crate) fn choice(&self) -> usize {
        match &self.task {
            Task::Generate(generator) => generator.choice,
            Task::Embed { .. } => 0,
        }
    }

    /// How much of its rows' logits it needs.
    pub(crate) fn need(&self) -> Need {
        match &self.task {
            Task::Generate(generator) => generator.need(),
            Task::Embed { .. } => Need::Nothing,
        }
    }

    /// Whether the head is needed for it.
    pub(crate) fn wants_logits(&self) -> bool {
        matches!(self.task, Task::Generate(_))
    }

    /// Whether what was computed before can be taken from elsewhere: an embedding is made of every token's hidden state.
    pub(crate) fn can_reuse(&self) -> bool {
        self.wants_logits()
    }

    /// Notes that `tokens` more were found in memory. Those computed again after a preemption do not count.
    pub(crate) fn found(&mut self, tokens: usize) {
        if self.clock.first_token.is_none() {
            self.cached_tokens += tokens;
        }
    }

    /// Tokens that are neither computed nor a draft.
    pub fn pending(&self) -> usize {
        self.tokens.len() - self.cache.len()
    }

    /// Whether its next step generates a token and computes nothing else.
    pub fn is_decoding(&self) -> bool {
        self.generated() > 0 && self.pending() == 1
    }

    /// Takes a guess of what will follow the pending tokens. It is computed with the last of them, and forgotten then. What
    /// exceeds the context or the most tokens that may be generated is left out.
    pub fn set_draft(&mut self, draft: &[u32]) {
        self.draft.clear();
        self.draft.extend_from_slice(&draft[..draft.len().min(self.draft_room())]);
    }

    /// Tokens of a draft that could be of use.
    fn draft_room(&self) -> usize {
        // The step chooses a token behind the draft, too.
        self.longest().saturating_sub(self.tokens.len())
    }

    /// Guesses what will follow: how likely each token, and all before it, will be chosen.
    pub(crate) fn guess(&mut self) -> Vec<f32> {
        let most = self.draft_room();
        self.guesser.guess(&self.tokens, most)
    }

    /// Makes the first `length` tokens of the last guess the draft of a step of all pending tokens. Where there is no memory
    /// for it, there is no draft.
    pub(crate) fn draft_guess(&mut self, length: usize) {
        let draft = self.guesser.draft(&self.tokens, length);
        self.set_draft(&draft);
        if !self.draft.is_empty() && self.reserve(self.pending()).is_err() {
            self.draft.clear();
        }
    }

    /// Tokens of the draft.
    pub fn draft(&self) -> usize {
        self.draft.len()
    }

    /// Computes `tokens` of the pending ones next, and the draft if these are all.
    pub(crate) fn step(&mut self, tokens: usize) -> Step<'_> {
        self.clock.started.get_or_insert_with(Instant::now);
        let held = self.cache.len();
        let wanted = self.wanted(tokens);
        if tokens < self.pending() {
            self.draft.clear();
        }
        self.input.clear();
        self.input.extend_from_slice(&self.tokens[held..held + tokens]);
        self.input.extend_from_slice(&self.draft);
        Step { cache: &mut self.cache, tokens: &self.input, wanted }
    }

    fn wanted(&self, tokens: usize) -> Wanted {
        match self.task {
            Task::Embed { .. } => Wanted::From(0),
            Task::Generate(_) if tokens == self.pending() => Wanted::From(tokens - 1),
            Task::Generate(_) => Wanted::None,
        }
    }

    /// Takes the logits of the rows that the last step wanted, and adds the tokens chosen to `chosen`. The logits are changed.
    /// Returns whether the sequence has ended.
    ///
    /// # Errors
    /// If a logit is not a number or the constraint cannot be kept; the sequence has ended then.
    pub(crate) fn take_logits(
        &mut self,
        logits: &mut LogitRows<'_>,
        chosen: &mut Vec<Token>,
    ) -> Result<bool, GenerateError> {
        let Task::Generate(generator) = &mut self.task else { return Ok(false) };
        self.drafts.computed += self.draft.len();
        for row in 0..logits.len() {
            if self.tokens.len() - self.prompt_tokens < generator.max_tokens {
                let Some(mut token) = generator.choose(logits.row(row), &self.tokens)? else { break };
                token.drafted = self.draft.get(row) == Some(&token.id);
                self.clock.first_token.get_or_insert_with(Instant::now);
                self.tokens.push(token.id);
                chosen.push(token);
            }
            generator.check_length(self.tokens.len(), self.prompt_tokens, self.cache.capacity());
            if self.draft.get(row) != self.tokens.last() {
                break;
            }
            self.drafts.chosen += 1;
            if generator.finish.is_some() {
                break;
            }
        }
        let ended = generator.finish.is_some();
        self.draft.clear();
        // The last token is pending; what was computed of the draft beyond it goes.
        self.cache.truncate(self.tokens.len() - 1);
        Ok(ended)
    }

    /// Takes the hidden states that the last step wanted, `[rows, hidden]`, and returns the embedding when it is complete.
    pub(crate) fn take_hidden(&mut self, hidden: &[f32], hidden_size: usize) -> Option<Vec<f32>> {
        let (pending, tokens) = (self.pending(), self.tokens.len());
        let Task::Embed { pooling, normalize, sum } = &mut self.task else { return None };
        let first = tokens - pending - hidden.len() / hidden_size;
        sum.resize(hidden_size, 0.0);
        for (at, row) in (first..).zip(hidden.chunks_exact(hidden_size)) {
            let taken = match pooling {
                Pooling::Mean => true,
                Pooling::First => at == 0,
                Pooling::Last => at + 1 == tokens,
            };
            if taken {
                sum.iter_mut().zip(row).for_each(|(sum, value)| *sum += value);
            }
        }
        if pending > 0 {
            return None;
        }
        let count = if *pooling == Pooling::Mean { tokens as f32 } else { 1.0 };
        let length = sum.iter().map(|value| f64::from(value / count).powi(2)).sum::<f64>().sqrt() as f32;
        let divisor = if *normalize && length > 0.0 { count * length } else { count };
        Some(sum.iter().map(|value| value / divisor).collect())
    }

    /// Ends the sequence; `None` for the reason that it has found itself. The text that was held back for a stop string is in
    /// the event, also where the caller broke off.
    pub(crate) fn finish(&mut self, reason: Option<FinishReason>) -> Finished {
        let now = Instant::now();
        let (choice, found, seed, text, stop) = match &mut self.task {
            Task::Generate(generator) => {
                let text = generator.writer.finish();
                let stop = generator.writer.stops.matched().map(str::to_owned);
                (generator.choice, generator.finish, generator.sampler.seed(), text, stop)
            }
            Task::Embed { .. } => (0, None, 0, String::new(), None),
        };
        let started = self.clock.started.unwrap_or(now);
        let first_token = self.clock.first_token.unwrap_or(now);
        let generation = Generation {
            tokens: self.tokens[self.prompt_tokens..].to_vec(),
            finish_reason: reason.or(found).unwrap_or(FinishReason::Stop),
            prompt_tokens: self.prompt_tokens,
            cached_tokens: self.cached_tokens,
            seed,
            draft_tokens: self.drafts.computed,
            accepted_tokens: self.drafts.chosen,
            queued: started - self.clock.asked,
            prefill: first_token - started,
            decode: now - first_token,
        };
        Finished { choice, text, stop, generation }
    }

    /// Length of the beginning that it has in common with another.
    pub(crate) fn common_prefix(&self, other: &Sequence) -> usize {
        common_prefix(&self.tokens, &other.tokens)
    }
}

fn check_prompt(prompt: &[u32], context: usize) -> Result<(), GenerateError> {
    if prompt.is_empty() {
        return Err(GenerateError::EmptyPrompt);
    }
    if prompt.len() >= context {
        return Err(GenerateError::PromptTooLong { tokens: prompt.len(), context });
    }
    Ok(())
}

/// A token's id, and its log-probabilities where they are wanted.
type Choice = (u32, Option<TokenLogprobs>);

impl Generator {
    /// How much of a row's logits a choice needs.
    fn need(&self) -> Need {
        let some = self.logprobs.is_none() && self.sampler.reach().is_some();
        if some { Need::Largest } else { Need::All }
    }

    /// The next token; `None` where the constraint ends the text. Whether the token ends it is in `finish` afterwards.
    fn choose(&mut self, logits: LogitRow<'_>, history: &[u32]) -> Result<Option<Token>, GenerateError> {
        let chosen = match logits {
            LogitRow::All(logits) => self.choose_among_all(logits, history)?,
            LogitRow::Bounded(row) => self.choose_by_bounds(row, history)?,
        };
        let Some((id, logprobs)) = chosen else {
            self.finish = Some(FinishReason::Stop);
            return Ok(None);
        };
        let mut text = String::new();
        if self.ends.contains(&id) {
            self.finish = Some(FinishReason::Stop);
        } else {
            if let Some(constraint) = &mut self.constraint {
                constraint.accept(id)?;
            }
            let stopped;
            (text, stopped) = self.writer.token(id);
            if stopped {
                self.finish = Some(FinishReason::Stop);
            }
        }
        Ok(Some(Token { choice: self.choice, id, text, drafted: false, logprobs }))
    }

    /// The next token's id by all logits, and their logarithms where they are wanted; `None` where the constraint ends the text.
    fn choose_among_all(&mut self, logits: &mut [f32], history: &[u32]) -> Result<Option<Choice>, GenerateError> {
        if let Some(bad) = logits.iter().find(|logit| logit.is_nan()) {
            return Err(GenerateError::NotFinite(*bad));
        }
        let observed = self.logprobs.map(|top| (top, logits.to_vec()));
        if let Some(constraint) = &mut self.constraint
            && constraint.mask(logits)? == Allowed::End
        {
            return Ok(None);
        }
        let id = self.sampler.sample(logits, history);
        Ok(Some((id, observed.map(|(top, logits)| log_probabilities(id, &logits, top)))))
    }

    /// The same by those logits that the choice can depend on.
    fn choose_by_bounds(&mut self, mut row: Bounded<'_>, history: &[u32]) -> Result<Option<Choice>, GenerateError> {
        let Some(reach) = self.sampler.reach().filter(|_| row.has_bounds(0)) else {
            return self.choose_among_all(row.all(0), history);
        };
        if let Some(constraint) = &mut self.constraint {
            self.mask.clear();
            self.mask.resize(row.vocab_size(), 0.0);
            if constraint.mask(&mut self.mask)? == Allowed::End {
                return Ok(None);
            }
        }
        let mask = self.constraint.as_ref().map(|_| self.mask.as_slice());
        let changed = self.sampler.changed(history);
        let id = match row.among(0, &Want { reach, changed: &changed, mask }) {
            Some(some) => self.sampler.sample_among(some, history),
            None => self.sampler.sample(row.all_allowed(0, mask), history),
        };
        Ok(Some((id, None)))
    }

    fn check_length(&mut self, tokens: usize, prompt: usize, context: usize) {
        if self.finish.is_none() && tokens - prompt >= self.max_tokens {
            self.finish = Some(FinishReason::Length);
        }
        if self.finish.is_none() && tokens > context {
            self.finish = Some(FinishReason::ContextFull);
        }
    }
}

/// `log softmax` of the chosen token and of the `top` likeliest, ties by the lower id.
fn log_probabilities(id: u32, logits: &[f32], top: usize) -> TokenLogprobs {
    let max = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let sum: f64 = logits.iter().map(|logit| f64::from(logit - max).exp()).sum();
    let of = |index: usize| logits.get(index).map_or(f64::NEG_INFINITY, |&logit| f64::from(logit - max) - sum.ln());
    let mut order: Vec<usize> = (0..logits.len()).collect();
    let likeliest = |a: &usize, b: &usize| logits[*b].total_cmp(&logits[*a]).then(a.cmp(b));
    let top = top.min(order.len());
    if top > 0 && top < order.len() {
        order.select_nth_unstable_by(top - 1, likeliest);
    }
    order.truncate(top);
    order.sort_unstable_by(likeliest);
    let top = order.into_iter().map(|index| (index as u32, of(index))).collect();
    TokenLogprobs { logprob: of(id as usize), top }
}

/// Turns generated ids into text for the caller.
#[derive(Clone, Debug)]
struct Writer {
    stream: Option<TextStream>,
    stops: StopMatcher,
    trim_start: bool,
}

impl Writer {
    fn new(tokenizer: Option<&Tokenizer>, options: &GenerateOptions) -> Self {
        Writer {
            stream: tokenizer.map(Tokenizer::continuation_decoder),
            stops: StopMatcher::new(&options.stop),
            trim_start: options.trim_start,
        }
    }

    /// The text that is certain after this token, and whether a stop string has ended it.
    fn token(&mut self, id: u32) -> (String, bool) {
        let Some(stream) = &mut self.stream else { return (String::new(), false) };
        let emitted = self.stops.push(stream.push(id).unwrap_or(""));
        (self.trimmed(emitted.text), emitted.stopped)
    }

    /// What is left when no further token comes.
    fn finish(&mut self) -> String {
        let Some(stream) = &mut self.stream else { return String::new() };
        let mut text = self.stops.push(stream.finish().unwrap_or("")).text;
        text.push_str(&self.stops.finish());
        self.trimmed(text)
    }

    fn trimmed(&mut self, text: String) -> String {
        let text = if self.trim_start { text.trim_start().to_owned() } else { text };
        self.trim_start &= text.is_empty();
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::Engine;
    use crate::formats::{OpenOptions, Source};
    use crate::model::Workspace;
    use crate::runtime::Runtime;
    use crate::sample::SamplingOptions;
    use crate::synth::{Preset, SynthOptions, synthesize};
    use rotor_kernels::attention::KvType;

    fn tiny() -> Engine {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("tiny.gguf");
        synthesize(Preset::Tiny, &path, &SynthOptions::default(), &mut |_, _| {}).unwrap();
        let source = Source::open(&path, &OpenOptions::default()).unwrap();
        Engine::from_source(&source, &Runtime::new(1).unwrap(), &mut |_| {}).unwrap()
    }

    /// Generates to the end, letting `propose` see the tokens before each step.
    fn generate(engine: &Engine, temperature: f32, mut propose: impl FnMut(&[u32]) -> Vec<u32>) -> (Vec<u32>, usize) {
        let (model, vocab_size) = (engine.model(), engine.model().config().vocab_size);
        let sampling = SamplingOptions { temperature, seed: Some(3), ..SamplingOptions::default() };
        let options =
            GenerateOptions { max_tokens: Some(100), sampling, ignore_eos: true, ..GenerateOptions::default() };
        let cache = SequenceCache::new(model.config(), 90, KvType::F16);
        let request = Request::new(vec![5, 9, 2], options);
        let mut sequence = Sequence::generate(request, None, vocab_size, cache).unwrap();
        let (mut workspace, mut steps) = (Workspace::new(model.runtime()), 0);
        loop {
            let draft = propose(sequence.tokens());
            sequence.set_draft(&draft);
            let pending = sequence.pending();
            sequence.reserve(pending).unwrap();
            let logits = model.forward(&mut [sequence.step(pending)], &mut workspace).unwrap();
            steps += 1;
            let mut logits = LogitRows::All { logits, vocab_size };
            if sequence.take_logits(&mut logits, &mut Vec::new()).unwrap() {
                assert_eq!(sequence.finish(None).generation.finish_reason, FinishReason::ContextFull);
                return (sequence.tokens, steps);
            }
            assert_eq!(sequence.cache.tokens(), &sequence.tokens[..sequence.tokens.len() - 1]);
        }
    }

    #[test]
    fn a_draft_changes_no_choice() {
        let engine = tiny();
        for temperature in [0.0, 1.0] {
            let (plain, steps) = generate(&engine, temperature, |_| Vec::new());
            assert_eq!((plain.len(), steps), (91, 88));
            let right = |held: &[u32], tokens: usize| plain.iter().skip(held.len()).take(tokens).copied().collect();
            let (found, steps) = generate(&engine, temperature, |held| right(held, 7));
            assert_eq!((found, steps), (plain.clone(), 11), "all are right");
            let (found, steps) = generate(&engine, temperature, |_| vec![1023; 5]);
            assert_eq!((found, steps), (plain.clone(), 88), "all are wrong");
            let (found, _) = generate(&engine, temperature, |held| {
                let mut draft: Vec<u32> = right(held, held.len() % 5);
                draft.extend([7, 7]);
                draft
            });
            assert_eq!(found, plain, "some are right");
        }
    }
}
