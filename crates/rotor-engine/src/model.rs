//! The forward pass.
//!
//! Weights, state and the numbers in flight are three types: [`Model`], [`SequenceCache`] and [`Workspace`].
//! [`Model::hidden`] reads top to bottom; it is the same for every file format, for one token or many, for one sequence or a
//! batch. It ends in the hidden states after the final norm, which is what embeddings are made of; [`Model::head`] turns
//! some of them into logits.

use crate::architectures::HeadNorms;
use crate::cache::{PoolError, SequenceCache};
use crate::config::{Activation, Config};
use crate::error::FormatError;
use crate::formats::{Part, Role, Source};
use crate::head::{Bounded, HeadCounts, HeadScratch, largest_columns};
use crate::linear::{self, Input, Linear, LinearScratch, Matrix, Outputs};
use crate::rope::{Rotation, Rotations};
use crate::runtime::Runtime;
use rotor_kernels::attention::{AttentionScratch, KvType, Sequence, Sequences, attention};
use rotor_kernels::sketch::Sketch;
use rotor_kernels::ternary::{SkipCounts, Skips};
use rotor_kernels::{Epilogue, Pool};
use std::ops::Range;
use std::sync::Arc;

/// The weights of one layer.
#[derive(Debug)]
struct Layer {
    attn_norm: Vec<f32>,
    q: Linear,
    k: Linear,
    v: Linear,
    q_norm: Option<Vec<f32>>,
    k_norm: Option<Vec<f32>>,
    attn_sub_norm: Option<Vec<f32>>,
    output: Linear,
    attn_post_norm: Option<Vec<f32>>,
    ffn_norm: Vec<f32>,
    gate: Linear,
    up: Linear,
    ffn_sub_norm: Option<Vec<f32>>,
    down: Linear,
    ffn_post_norm: Option<Vec<f32>>,
}

/// A model in memory, packed for the kernels of its runtime.
#[derive(Debug)]
pub struct Model {
    config: Config,
    runtime: Runtime,
    embedding: Matrix,
    layers: Vec<Layer>,
    output_norm: Vec<f32>,
    head: Option<Matrix>,
    /// What bounds the logits of a head that need not be read whole.
    sketch: Option<Sketch>,
    rotations: Rotations,
}

/// Some tokens of one sequence, to be appended to its cache.
#[derive(Debug)]
pub struct Step<'a> {
    /// The sequence so far.
    pub cache: &'a mut SequenceCache,
    /// The tokens to append; there may be none.
    pub tokens: &'a [u32],
    /// For which of them a row of hidden states, or of logits, is wanted.
    pub wanted: Wanted,
}

/// Which tokens of a [`Step`] want a row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wanted {
    /// None: more of the prompt follows.
    None,
    /// The last token's.
    Last,
    /// Those of the token with this index and all after it.
    From(usize),
}

impl Wanted {
    /// The range of wanted rows among `tokens`.
    pub fn range(self, tokens: usize) -> Range<usize> {
        match self {
            Wanted::None => tokens..tokens,
            Wanted::Last => tokens.saturating_sub(1)..tokens,
            Wanted::From(first) => first.min(tokens)..tokens,
        }
    }
}

/// Why a forward pass was refused. Nothing was computed, and every cache holds the tokens it held.
#[derive(Clone, Debug, thiserror::Error, PartialEq, Eq)]
pub enum ForwardError {
    /// A cache has no room for the tokens.
    #[error("the context is full: {held} tokens are held and {new} are to follow, but there is room for {capacity}")]
    ContextFull {
        /// Tokens held.
        held: usize,
        /// Tokens to append.
        new: usize,
        /// Room.
        capacity: usize,
    },
    /// The file lacks what longer contexts than this need.
    #[error(
        "{tokens} tokens are more than {longest}: RoPE scaling is longrope, and the file lacks its factors for more"
    )]
    BeyondRope {
        /// Tokens asked for.
        tokens: usize,
        /// Tokens that the file can place.
        longest: usize,
    },
    /// A token id is no row of the embedding.
    #[error("token id {id} is out of range: the vocabulary has {vocab_size} tokens")]
    TokenOutOfRange {
        /// The id.
        id: u32,
        /// Rows of the embedding.
        vocab_size: usize,
    },
    /// There is no memory for the keys and values of the tokens.
    #[error(transparent)]
    Memory(#[from] PoolError),
}

/// Why a head gets no sketch that could have one.
#[derive(Debug, thiserror::Error)]
pub enum SketchError {
    /// The hidden states of a few tokens, which it begins with, cannot be computed.
    #[error(transparent)]
    Forward(#[from] ForwardError),
    /// The system refuses the memory.
    #[error("no memory for the sketch of the head (`--read all` does without): {0}")]
    Memory(#[from] std::io::Error),
}

/// The numbers in flight of a forward pass, grown to the largest batch met and reused: a token allocates nothing.
#[derive(Debug)]
pub struct Workspace {
    /// The residual stream, `[tokens, hidden]`.
    x: Vec<f32>,
    /// Input of the linears at hand.
    input: Input,
    /// `[tokens, q_dim]`.
    q: Vec<f32>,
    /// `[tokens, kv_dim]`.
    k: Vec<f32>,
    v: Vec<f32>,
    /// `[tokens, intermediate]`.
    gate: Vec<f32>,
    /// Output of attention, `[tokens, q_dim]`, or heads before their norm.
    y: Vec<f32>,
    /// What turns heads, in layers that see everything and in those that see a window.
    angles: Angles,
    sliding_angles: Angles,
    /// What a sublayer adds to the residual stream, where it is normed or scaled first, before and after, `[2, tokens, hidden]`.
    added: Vec<f32>,
    linear: LinearScratch,
    attention: AttentionScratch,
    /// The tokens whose rows are wanted.
    wanted: Vec<usize>,
    /// Their hidden states after the final norm, `[wanted tokens, hidden]`.
    hidden: Vec<f32>,
    /// `[rows, vocab]`.
    logits: Vec<f32>,
    head: HeadScratch,
}

impl Workspace {
    /// An empty workspace.
    pub fn new(runtime: &Runtime) -> Workspace {
        Workspace {
            x: Vec::new(),
            input: Input::new(runtime),
            q: Vec::new(),
            k: Vec::new(),
            v: Vec::new(),
            gate: Vec::new(),
            y: Vec::new(),
            angles: Angles::default(),
            sliding_angles: Angles::default(),
            added: Vec::new(),
            linear: LinearScratch::default(),
            attention: AttentionScratch::default(),
            wanted: Vec::new(),
            hidden: Vec::new(),
            logits: Vec::new(),
            head: HeadScratch::default(),
        }
    }

    /// Bytes of the vectors it has grown to; what the kernels keep for themselves is not counted.
    pub fn bytes(&self) -> usize {
        let floats = [&self.x, &self.q, &self.k, &self.v, &self.gate, &self.y, &self.added, &self.hidden, &self.logits];
        let floats = floats.into_iter().map(Vec::capacity).sum::<usize>() * size_of::<f32>();
        floats + self.input.bytes() + self.linear.bytes()
    }

    /// What choosing tokens from bounds has taken so far.
    pub fn head_counts(&self) -> HeadCounts {
        self.head.counts
    }

    /// How many rows and columns a few tokens at a time have read of linears that can leave some unread.
    pub fn skip_counts(&self) -> SkipCounts {
        self.linear.skip_counts()
    }

    fn resize(&mut self, config: &Config, tokens: usize) {
        self.x.resize(tokens * config.hidden_size, 0.0);
        self.q.resize(tokens * config.q_dim(), 0.0);
        self.k.resize(tokens * config.kv_dim(), 0.0);
        self.v.resize(tokens * config.kv_dim(), 0.0);
        self.gate.resize(tokens * config.intermediate_size, 0.0);
    }
}

/// How large a matrix, or several together, is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MatrixSize {
    /// Weights.
    pub weights: u64,
    /// Bytes in memory.
    pub bytes: u64,
}

impl Model {
    /// Packs the weights of an opened source. `progress` is told the bytes of source weights taken in so far.
    ///
    /// # Errors
    /// Where a weight cannot be read or memory is refused; shapes and types were checked when the source was opened.
    pub fn load(source: &Source, runtime: &Runtime, progress: &mut dyn FnMut(u64)) -> Result<Model, FormatError> {
        let config = source.config().clone();
        let runtime = &Runtime { precision: source.precision(), ..runtime.clone() };
        let required = |role| source.vector(role)?.ok_or_else(|| FormatError::missing(format!("{role:?}")));
        let mut done = 0;
        let mut matrix = |role, progress: &mut dyn FnMut(u64)| -> Result<Option<Matrix>, FormatError> {
            let Some(weight) = source.matrix(role)? else { return Ok(None) };
            let matrix = Matrix::load_head(source, &weight, runtime)?;
            done += matrix.bytes() as u64;
            progress(done);
            Ok(Some(matrix))
        };
        let embedding = matrix(Role::TokenEmbedding, progress)?.ok_or_else(|| FormatError::missing("the embedding"))?;
        let head = matrix(Role::Output, progress)?;
        let mut layers = Vec::with_capacity(config.num_hidden_layers);
        for index in 0..config.num_hidden_layers {
            let role = |part| Role::Layer(index, part);
            let mut linear = |part| -> Result<Linear, FormatError> {
                let linear = Linear::load(source, role(part), runtime)?;
                done += linear.bytes() as u64;
                progress(done);
                Ok(linear)
            };
            layers.push(Layer {
                attn_norm: required(role(Part::AttnNorm))?,
                q: linear(Part::AttnQ)?,
                k: linear(Part::AttnK)?,
                v: linear(Part::AttnV)?,
                q_norm: source.vector(role(Part::AttnQNorm))?,
                k_norm: source.vector(role(Part::AttnKNorm))?,
                attn_sub_norm: source.vector(role(Part::AttnSubNorm))?,
                output: linear(Part::AttnOutput)?,
                attn_post_norm: source.vector(role(Part::AttnPostNorm))?,
                ffn_norm: required(role(Part::FfnNorm))?,
                gate: linear(Part::FfnGate)?,
                up: linear(Part::FfnUp)?,
                ffn_sub_norm: source.vector(role(Part::FfnSubNorm))?,
                down: linear(Part::FfnDown)?,
                ffn_post_norm: source.vector(role(Part::FfnPostNorm))?,
            });
        }
        let output_norm = required(Role::OutputNorm)?;
        let rotations = Rotations::of(&config);
        Ok(Model { config, runtime: runtime.clone(), embedding, layers, output_norm, head, sketch: None, rotations })
    }

    /// The hyper-parameters.
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// Kernels and threads.
    pub fn runtime(&self) -> &Runtime {
        &self.runtime
    }

    /// Computes on these threads from now on. Results do not depend on them.
    pub fn set_pool(&mut self, pool: Arc<Pool>) {
        self.runtime.pool = pool;
    }

    /// Bytes of weights in memory.
    pub fn weight_bytes(&self) -> usize {
        let head = self.head.as_ref().map_or(0, Matrix::bytes);
        let sketch = self.sketch.as_ref().map_or(0, Sketch::bytes);
        self.linears().map(Linear::bytes).sum::<usize>() + self.embedding.bytes() + head + sketch
    }

    /// The sketch of the head, where it has one.
    pub fn sketch(&self) -> Option<&Sketch> {
        self.sketch.as_ref()
    }

    /// Gives the head a sketch, unless its type or its shape allows none, so that tokens can be chosen without reading all of
    /// it. Logits stay the same. The columns of which the sketch knows most are those that are largest in the hidden states of
    /// `ids`.
    ///
    /// # Errors
    /// Where memory is refused, or `ids` are none of the vocabulary.
    pub fn sketch_head(&mut self, ids: &[u32]) -> Result<(), SketchError> {
        let Matrix::Dense(exact) = self.head_matrix() else { return Ok(()) };
        if Sketch::bytes_of(exact.dtype(), exact.rows(), exact.cols()).is_some() && !ids.is_empty() {
            let known = self.known_columns(ids)?;
            self.sketch = Sketch::new(exact, known, self.runtime.kernels, &self.runtime.pool)?;
        }
        Ok(())
    }

    /// The columns that are largest in the hidden states of `ids`.
    fn known_columns(&self, ids: &[u32]) -> Result<[usize; Sketch::KNOWN], ForwardError> {
        let mut cache = SequenceCache::new(&self.config, ids.len(), KvType::F16);
        let mut workspace = Workspace::new(&self.runtime);
        // The first token's hidden state is like no other's.
        let wanted = Wanted::From(ids.len().min(2) - 1);
        let hidden = self.hidden(&mut [Step { cache: &mut cache, tokens: ids, wanted }], &mut workspace)?;
        Ok(largest_columns(hidden, self.config.hidden_size))
    }

    fn linears(&self) -> impl Iterator<Item = &Linear> {
        self.layers.iter().flat_map(|l| [&l.q, &l.k, &l.v, &l.output, &l.gate, &l.up, &l.down])
    }

    /// The names of the kernels that multiply its ternary linears, each once.
    pub fn kernel_names(&self) -> Vec<&'static str> {
        let mut names = Vec::new();
        for name in self.linears().filter_map(Linear::kernel_name) {
            if !names.contains(&name) {
                names.push(name);
            }
        }
        names
    }

    /// All ternary linears.
    pub fn linears_size(&self) -> MatrixSize {
        let sizes = self.linears().map(|linear| ((linear.rows() * linear.cols()) as u64, linear.bytes() as u64));
        let (weights, bytes) = sizes.fold((0, 0), |sum, size| (sum.0 + size.0, sum.1 + size.1));
        MatrixSize { weights, bytes }
    }

    /// Bytes of the linears of which rows, or columns, can be left unread.
    pub(crate) fn skippable_bytes(&self, skips: Skips) -> u64 {
        self.linears().filter(|linear| linear.skips() == Some(skips)).map(|linear| linear.bytes() as u64).sum()
    }

    /// Bytes that all linears would have if nothing of any of them could be left unread.
    pub(crate) fn whole_bytes(&self) -> u64 {
        let bytes = |linear: &Linear| match linear.skips() {
            Some(_) => {
                let shape = (linear.rows(), linear.cols());
                self.runtime.choice.kernel_for(shape, None).packed_bytes(shape.0, shape.1)
            }
            None => linear.bytes(),
        };
        self.linears().map(|linear| bytes(linear) as u64).sum()
    }

    /// The matrix that logits are computed with.
    pub fn head_size(&self) -> MatrixSize {
        let head = self.head_matrix();
        MatrixSize { weights: (head.rows() * head.cols()) as u64, bytes: head.bytes() as u64 }
    }

    fn head_matrix(&self) -> &Matrix {
        self.head.as_ref().unwrap_or(&self.embedding)
    }

    /// Appends the tokens of every step to its cache and returns the logits of the wanted tokens, `[wanted tokens, vocab]`,
    /// steps in order.
    ///
    /// A token's logits do not depend on what else is in the batch, how a prompt is cut into steps, or the threads.
    ///
    /// # Errors
    /// As [`Model::hidden`].
    pub fn forward<'w>(
        &self,
        steps: &mut [Step<'_>],
        workspace: &'w mut Workspace,
    ) -> Result<&'w mut [f32], ForwardError> {
        let rows = self.hidden(steps, workspace)?.len() / self.config.hidden_size;
        Ok(self.head(0..rows, workspace))
    }

    /// Logits of some rows of the hidden states that [`Model::hidden`] left in the workspace, `[rows, vocab]`.
    ///
    /// # Panics
    /// If there are not so many rows.
    pub fn head<'w>(&self, rows: Range<usize>, workspace: &'w mut Workspace) -> &'w mut [f32] {
        let (cols, head) = (self.config.hidden_size, self.head_matrix());
        let Workspace { input, linear, hidden, logits, .. } = workspace;
        let hidden = &hidden[rows.start * cols..rows.end * cols];
        logits.resize(rows.len() * self.config.vocab_size, 0.0);
        if !rows.is_empty() {
            let scale = self.config.logit_scale;
            input.fill(&self.runtime, matches!(head, Matrix::Ternary { .. }), (rows.len(), cols), |row, out| {
                out.copy_from_slice(&hidden[row * cols..(row + 1) * cols]);
                if scale != 1.0 {
                    out.iter_mut().for_each(|value| *value /= scale);
                }
            });
            head.apply(&self.runtime, input, linear, Epilogue::Store, logits);
        }
        logits
    }

    /// Logits of the hidden states that [`Model::hidden`] left in the workspace: all of them of the first `all` rows, `[all,
    /// vocab]`, and of the next `bounded` rows as far as they will be asked for. `None` where the head has no sketch.
    pub(crate) fn logits<'w>(
        &'w self,
        (all, bounded): (usize, usize),
        workspace: &'w mut Workspace,
    ) -> (&'w mut [f32], Option<Bounded<'w>>) {
        self.head(0..all, workspace);
        let (cols, scale) = (self.config.hidden_size, self.config.logit_scale);
        let Workspace { hidden, logits, head: scratch, .. } = workspace;
        let (Some(sketch), Matrix::Dense(exact)) = (&self.sketch, self.head_matrix()) else {
            return (logits.as_mut_slice(), None);
        };
        scratch.x.clear();
        scratch.x.extend(hidden[all * cols..(all + bounded) * cols].iter().map(|value| value / scale));
        if bounded > 0 {
            sketch.bound(self.runtime.kernels, &self.runtime.pool, &scratch.x, &mut scratch.bounds);
        }
        (logits.as_mut_slice(), Some(Bounded { exact, runtime: &self.runtime, rows: 0..bounded, scratch }))
    }

    /// Appends the tokens of every step to its cache and returns the hidden states of the wanted tokens after the final
    /// norm, `[wanted tokens, hidden]`, steps in order. They stay in the workspace for [`Model::head`].
    ///
    /// # Errors
    /// If a cache has no room, the memory for keys and values is used up, or a token id is out of range.
    pub fn hidden<'w>(&self, steps: &mut [Step<'_>], workspace: &'w mut Workspace) -> Result<&'w [f32], ForwardError> {
        self.check(steps)?;
        for step in steps.iter_mut() {
            step.cache.reserve(step.tokens.len())?;
        }
        let tokens: usize = steps.iter().map(|step| step.tokens.len()).sum();
        if tokens == 0 {
            workspace.hidden.clear();
            return Ok(&workspace.hidden);
        }
        workspace.resize(&self.config, tokens);

        // x = embedding * scale
        self.embed(steps, &mut workspace.x);
        self.place(steps, workspace);
        for (index, layer) in self.layers.iter().enumerate() {
            // x += attention(RMSNorm(x));  x += feed-forward(RMSNorm(x))
            self.attend(index, layer, steps, workspace);
            self.feed_forward(layer, workspace);
        }
        // hidden = RMSNorm(x), for the tokens that want it
        self.select(steps, workspace);

        for step in steps {
            step.cache.push(step.tokens);
        }
        Ok(&workspace.hidden)
    }

    /// The sublayer of attention: `x += scale * post-norm(output(sub-norm(softmax(q k / sqrt(scalar)) v)))`.
    fn attend(&self, index: usize, layer: &Layer, steps: &mut [Step<'_>], workspace: &mut Workspace) {
        let config = &self.config;
        let window = config.sliding_window.filter(|_| config.is_sliding(index));
        let Workspace { x, input, q, k, v, y, angles, sliding_angles, added, linear, attention: scratch, .. } =
            workspace;
        let own_angles = self.rotations.sliding.is_some() && window.is_some();
        let angles = if own_angles { &*sliding_angles } else { &*angles };

        // h = RMSNorm(x);  q, k, v = linears of h
        self.norm(x, Some(&layer.attn_norm), &[&layer.q, &layer.k, &layer.v], input);
        let outputs = [Outputs::store(&layer.q, q), Outputs::store(&layer.k, k), Outputs::store(&layer.v, v)];
        self.apply(outputs, input, linear);

        // q, k = rotate(q, k), each head normed before (Qwen 3) or after (Hunyuan), if at all
        for (heads, norm) in [(&mut *q, &layer.q_norm), (&mut *k, &layer.k_norm)] {
            if config.architecture.info().head_norms == HeadNorms::BeforeRope {
                self.norm_heads(heads, norm.as_deref(), y);
                self.rotate(heads, angles);
            } else {
                self.rotate(heads, angles);
                self.norm_heads(heads, norm.as_deref(), y);
            }
        }
        self.remember(index, steps, k, v);

        // y = softmax(q k / sqrt(scalar)) v, over the window if there is one
        y.resize(q.len(), 0.0);
        let group = config.num_attention_heads / config.num_key_value_heads;
        let sequence = |number: usize| sequence(steps, index, window, number);
        let sequences = Sequences::new(steps.len(), &sequence);
        let Runtime { kernels, pool, .. } = &self.runtime;
        attention(kernels, pool, sequences, (group, config.query_pre_attn_scalar), q, scratch, y);

        // x += scale * post-norm(output(sub-norm(y)))
        self.norm(y, layer.attn_sub_norm.as_deref(), &[&layer.output], input);
        self.add_sublayer(&layer.output, layer.attn_post_norm.as_deref(), x, (input, linear, added));
    }

    /// The feed-forward sublayer: `x += scale * post-norm(down(sub-norm(activation(gate(h)) * up(h))))`, `h = RMSNorm(x)`.
    fn feed_forward(&self, layer: &Layer, Workspace { x, input, gate, added, linear, .. }: &mut Workspace) {
        let activation = match self.config.hidden_act {
            Activation::Silu => Epilogue::SiluMul,
            Activation::ReluSquared => Epilogue::Relu2Mul,
            Activation::GeluTanh => Epilogue::GeluMul,
        };
        self.norm(x, Some(&layer.ffn_norm), &[&layer.gate, &layer.up], input);
        self.apply([Outputs::store(&layer.gate, gate).then(&layer.up, activation)], input, linear);
        self.norm(gate, layer.ffn_sub_norm.as_deref(), &[&layer.down], input);
        self.add_sublayer(&layer.down, layer.ffn_post_norm.as_deref(), x, (input, linear, added));
    }

    /// The angles of every token's position, in layers that see everything and in those that see a window.
    fn place(&self, steps: &[Step<'_>], Workspace { angles, sliding_angles, .. }: &mut Workspace) {
        angles.fill(&self.config, steps, |positions| self.rotations.for_context(positions));
        if let Some(sliding) = &self.rotations.sliding {
            sliding_angles.fill(&self.config, steps, |_| sliding);
        }
    }

    /// The final norm of the tokens whose rows are wanted.
    fn select(&self, steps: &[Step<'_>], Workspace { x, wanted, hidden, .. }: &mut Workspace) {
        let (cols, Runtime { kernels, pool, .. }) = (self.config.hidden_size, &self.runtime);
        select_wanted(steps, wanted);
        hidden.resize(wanted.len() * cols, 0.0);
        pool.for_each_chunk(hidden, cols, |number, out| {
            let x = &x[wanted[number] * cols..(wanted[number] + 1) * cols];
            kernels.rms_norm(x, &self.output_norm, self.config.rms_norm_eps, out);
        });
    }

    fn apply<const N: usize>(&self, outputs: [Outputs<'_>; N], input: &mut Input, scratch: &mut LinearScratch) {
        linear::apply(&self.runtime, input, self.config.linear_norm_eps, scratch, outputs);
    }

    fn check(&self, steps: &[Step<'_>]) -> Result<(), ForwardError> {
        let longest = self.config.longest_context();
        for step in steps {
            let (held, new, capacity) = (step.cache.len(), step.tokens.len(), step.cache.capacity());
            if held.saturating_add(new) > longest {
                return Err(ForwardError::BeyondRope { tokens: held.saturating_add(new), longest });
            }
            if new > capacity - held {
                return Err(ForwardError::ContextFull { held, new, capacity });
            }
            let vocab_size = self.config.vocab_size;
            if let Some(&id) = step.tokens.iter().find(|id| **id as usize >= vocab_size) {
                return Err(ForwardError::TokenOutOfRange { id, vocab_size });
            }
        }
        Ok(())
    }

    fn embed(&self, steps: &[Step<'_>], x: &mut [f32]) {
        let ids = steps.iter().flat_map(|step| step.tokens);
        for (row, id) in x.chunks_exact_mut(self.config.hidden_size).zip(ids) {
            self.embedding.row(&self.runtime, *id as usize, row);
        }
        let scale = self.config.embedding_scale;
        if scale != 1.0 {
            x.iter_mut().for_each(|value| *value *= scale);
        }
    }

    /// Adds a sublayer's last linear to the residual stream `x`, normed and scaled where the model does that first.
    fn add_sublayer(
        &self,
        last: &Linear,
        post_norm: Option<&[f32]>,
        x: &mut [f32],
        (input, scratch, added): (&mut Input, &mut LinearScratch, &mut Vec<f32>),
    ) {
        let scale = self.config.residual_scale;
        if post_norm.is_none() && scale == 1.0 {
            return self.apply([Outputs::add(last, x)], input, scratch);
        }
        added.resize(2 * x.len(), 0.0);
        let (stored, normed) = added.split_at_mut(x.len());
        self.apply([Outputs::store(last, stored)], input, scratch);
        let (cols, Runtime { kernels, pool, .. }) = (self.config.hidden_size, &self.runtime);
        let row = |token: usize| token * cols..(token + 1) * cols;
        if let Some(weight) = post_norm {
            pool.for_each_chunk(normed, cols, |token, out| {
                kernels.rms_norm(&stored[row(token)], weight, self.config.rms_norm_eps, out);
            });
        }
        let added = if post_norm.is_some() { &*normed } else { &*stored };
        pool.for_each_chunk(x, cols, |token, x| {
            x.iter_mut().zip(&added[row(token)]).for_each(|(x, added)| *x += added * scale);
        });
    }

    /// The RMS norm of every token of `x`, or `x` as it is, as the input of `linears`.
    fn norm(&self, x: &[f32], weight: Option<&[f32]>, linears: &[&Linear], input: &mut Input) {
        let cols = linears[0].cols();
        input.fill_for(linears, &self.runtime, (x.len() / cols, cols), |token, out| {
            let x = &x[token * cols..(token + 1) * cols];
            match weight {
                Some(weight) => self.runtime.kernels.rms_norm(x, weight, self.config.rms_norm_eps, out),
                None => out.copy_from_slice(x),
            }
        });
    }

    /// Norms every head of every token, where the model has such a norm; `before` is memory for the heads as they were.
    fn norm_heads(&self, heads: &mut [f32], weight: Option<&[f32]>, before: &mut Vec<f32>) {
        let Some(weight) = weight else { return };
        before.clear();
        before.extend_from_slice(heads);
        let head_dim = self.config.head_dim;
        self.runtime.pool.for_each_chunk(heads, head_dim, |index, head| {
            let x = &before[index * head_dim..(index + 1) * head_dim];
            self.runtime.kernels.rms_norm(x, weight, self.config.rms_norm_eps, head);
        });
    }

    /// Rotates every head of every token.
    fn rotate(&self, heads: &mut [f32], angles: &Angles) {
        let (head_dim, rotary_dim) = (self.config.head_dim, self.config.rotary_dim());
        let half = rotary_dim / 2;
        let width = heads.len() * half / angles.cos.len();
        self.runtime.pool.for_each_chunk(heads, width, |token, heads| {
            let range = token * half..(token + 1) * half;
            let (cos, sin) = (&angles.cos[range.clone()], &angles.sin[range]);
            for head in heads.chunks_exact_mut(head_dim) {
                self.runtime.kernels.rotate(&mut head[..rotary_dim], cos, sin);
            }
        });
    }

    fn remember(&self, layer: usize, steps: &mut [Step<'_>], k: &[f32], v: &[f32]) {
        let width = self.config.kv_dim();
        let mut rows = k.chunks_exact(width).zip(v.chunks_exact(width));
        for step in steps {
            let held = step.cache.len();
            for (i, (k, v)) in rows.by_ref().take(step.tokens.len()).enumerate() {
                let (block, at) = step.cache.block_mut(held + i);
                block.write(self.runtime.kernels, layer, at, k, v);
            }
        }
    }
}

/// Cosines and sines of some tokens, `[tokens, rotary_dim / 2]`.
#[derive(Debug, Default)]
struct Angles {
    cos: Vec<f32>,
    sin: Vec<f32>,
}

impl Angles {
    /// Of position times inverse frequency, rounded to f32 as transformers does, times the attention factor. `rotation` gives
    /// the frequencies for a sequence with room for so many positions.
    fn fill<'r>(&mut self, config: &Config, steps: &[Step<'_>], rotation: impl Fn(usize) -> &'r Rotation) {
        self.cos.clear();
        self.sin.clear();
        for step in steps {
            let Rotation { inverse_frequencies, attention_factor } = rotation(step.cache.capacity());
            for position in (0..step.tokens.len()).map(|i| step.cache.len() + i) {
                for frequency in &inverse_frequencies[..config.rotary_dim() / 2] {
                    let angle = f64::from(position as f32 * frequency);
                    self.cos.push(angle.cos() as f32 * attention_factor);
                    self.sin.push(angle.sin() as f32 * attention_factor);
                }
            }
        }
    }
}

/// The numbers of the tokens whose rows are wanted, all steps counted through.
fn select_wanted(steps: &[Step<'_>], wanted: &mut Vec<usize>) {
    wanted.clear();
    let mut first = 0;
    for step in steps {
        wanted.extend(step.wanted.range(step.tokens.len()).map(|row| first + row));
        first += step.tokens.len();
    }
}

fn sequence<'a>(steps: &'a [Step<'_>], layer: usize, window: Option<usize>, number: usize) -> Sequence<'a> {
    Sequence {
        blocks: steps[number].cache.blocks(),
        layer,
        window,
        position: steps[number].cache.len(),
        row: steps[..number].iter().map(|step| step.tokens.len()).sum(),
        tokens: steps[number].tokens.len(),
    }
}
