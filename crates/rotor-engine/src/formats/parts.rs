//! The parts of the graph that tensors fill, whatever their files call them.

/// A part of the graph that a tensor fills, the same for every file format.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Role {
    /// `[vocab, hidden]`.
    TokenEmbedding,
    /// `[hidden]`, before the head.
    OutputNorm,
    /// `[vocab, hidden]`; absent where the embedding serves as the head.
    Output,
    /// A tensor of layer `.0`.
    Layer(usize, Part),
}

/// A tensor's place inside a layer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Part {
    /// `[hidden]`, before q, k and v.
    AttnNorm,
    /// Linear `[q_dim, hidden]`.
    AttnQ,
    /// Linear `[kv_dim, hidden]`.
    AttnK,
    /// Linear `[kv_dim, hidden]`.
    AttnV,
    /// `[head_dim]`, over each query head (Qwen 3).
    AttnQNorm,
    /// `[head_dim]`, over each key head (Qwen 3).
    AttnKNorm,
    /// `[q_dim]`, before the output projection (BitNet).
    AttnSubNorm,
    /// Linear `[hidden, q_dim]`.
    AttnOutput,
    /// `[hidden]`, over what attention adds to the residual stream (Gemma 3).
    AttnPostNorm,
    /// `[hidden]`, before gate and up.
    FfnNorm,
    /// Linear `[intermediate, hidden]`.
    FfnGate,
    /// Linear `[intermediate, hidden]`.
    FfnUp,
    /// `[intermediate]`, before the down projection (BitNet).
    FfnSubNorm,
    /// Linear `[hidden, intermediate]`.
    FfnDown,
    /// `[hidden]`, over what the feed-forward layer adds to the residual stream (Gemma 3).
    FfnPostNorm,
}
