/** The mock server's models, their statistics, and its requests. */

import { randomFrom } from "./answers.mjs";

export const MODELS = [
    model("rotor-tiny", { builtin: true, status: { value: "loaded" } }),
    model("microsoft/bitnet-b1.58-2B-4T", { status: { value: "loaded" }, thinking: true }),
    model("tiny-base", { chat_template: false, status: { value: "unloaded" } }),
];

const LINEARS = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"];
const SHAPES = {
    small: { layers: 4, hidden: 256, inner: 512, heads: 4, keys: 2, head: 64, vocab: 3072, context: 512 },
    large: { layers: 30, hidden: 2560, inner: 6912, heads: 20, keys: 5, head: 128, vocab: 128256, context: 4096 },
};

function model(id, fields) {
    return {
        id,
        object: "model",
        created: 1764500000,
        owned_by: "rotor",
        builtin: false,
        chat_template: true,
        thinking: false,
        ...fields,
        meta: { architecture: "bitnet-b1.58", n_vocab: 3072, n_ctx_train: 512, n_embd: 256, n_params: 3145728, size: 2234880 },
    };
}

/** What `GET /rotor/models/{id}/statistics` answers. */
export function statistics({ id, builtin }, { machine, context }) {
    const shape = builtin ? SHAPES.small : SHAPES.large;
    const random = randomFrom(7);
    const layers = Array.from({ length: shape.layers }, (_, index) => ({
        index,
        linears: LINEARS.map((name) => linear(name, index, shape, random)),
    }));
    const all = layers.flatMap(({ linears }) => linears);
    const sum = (key) => all.reduce((total, one) => total + one[key], 0);
    const ternary = sum("minus") + sum("zero") + sum("plus");
    const embedding = shape.vocab * shape.hidden;
    const kv = 2 * 2 * shape.keys * shape.head * shape.layers;
    const read = ternary / 4 + embedding * 2;
    return {
        object: "rotor.statistics",
        id,
        name: id.split("/").at(-1),
        license: builtin ? "MIT OR Apache-2.0" : null,
        file: {
            name: builtin ? "rotor-tiny.gguf" : "ggml-model-i2_s.gguf",
            format: "GGUF",
            bytes: Math.round(read),
            sha256: "9f2c0f6f3c1be8f8b0a7c2f7a4ce14e0f0a2f1d3d38e9f5b7f4c1d2e3f405162",
        },
        architecture: "bitnet-b1.58",
        type: "i2_s",
        activations: "int8, one scale per token",
        parameters: { total: ternary + embedding, ternary },
        context: { trained: shape.context, served: Math.min(shape.context, context) },
        config: {
            vocab_size: shape.vocab,
            max_position_embeddings: shape.context,
            hidden_size: shape.hidden,
            intermediate_size: shape.inner,
            num_hidden_layers: shape.layers,
            num_attention_heads: shape.heads,
            num_key_value_heads: shape.keys,
            head_dim: shape.head,
            rms_norm_eps: 1e-5,
            rope_theta: 500000,
            hidden_act: "relu2",
        },
        memory: {
            linears_bytes: ternary / 4,
            embedding_bytes: embedding * 2,
            head_bytes: 0,
            kv_bytes_per_token: kv,
            kv_bytes: kv * shape.context,
            kv_budget_bytes: 4 * 2 ** 30,
            workspace_bytes: 786432 * shape.layers,
            machine_bytes: 16 * 2 ** 30,
        },
        trits: {
            minus: sum("minus"),
            zero: sum("zero"),
            plus: sum("plus"),
            entropy_bits_per_weight: 1.5493,
            scale_min: 0.6,
            scale_max: 2.8,
        },
        layers,
        embedding: { rows: shape.vocab, cols: shape.hidden, type: "f16" },
        head: null,
        kernels: { isa: "avx2", threads: 2, ternary: ["avx2"] },
        speed: machine
            ? {
                  machine: { threads: 2, read_bandwidth: 21.4e9, multiply_peak: 310e9 },
                  decode: {
                      tokens_per_second: (0.81 * 21.4e9) / read,
                      tokens_per_pass: 1,
                      bytes_per_pass: read,
                      multiply_adds_per_token: ternary + embedding,
                  },
                  prefill: {
                      tokens_per_second: (0.46 * 310e9) / ternary,
                      tokens_per_pass: 512,
                      bytes_per_pass: read,
                      multiply_adds_per_token: ternary,
                  },
              }
            : { machine: null, decode: null, prefill: null },
    };
}

function linear(name, layer, { hidden, inner, keys, head, layers }, random) {
    const rows = { k_proj: keys * head, v_proj: keys * head, gate_proj: inner, up_proj: inner }[name] ?? hidden;
    const cols = name === "down_proj" ? inner : hidden;
    const zeros = 0.3 + 0.2 * random() + 0.15 * (layer / layers) * (name === "down_proj" ? 1 : 0.3);
    const total = rows * cols;
    const zero = Math.round(total * zeros);
    const minus = Math.round((total - zero) * (0.49 + 0.02 * random()));
    const mean = 0.6 + random() * 2.2;
    const several = name === "down_proj";
    return {
        name,
        rows,
        cols,
        type: "i2_s",
        kernel: "avx2",
        minus,
        zero,
        plus: total - zero - minus,
        scales: {
            count: several ? rows : 1,
            min: several ? mean * 0.4 : mean,
            mean,
            max: several ? mean * 1.7 : mean,
            histogram: several ? bell(mean * 0.4, mean * 1.7, 24, rows) : null,
        },
        zeros_by_row: bell(zeros - 0.12, zeros + 0.12, 32, rows),
    };
}

/** A histogram like a bell. */
function bell(min, max, bins, total) {
    const weights = Array.from({ length: bins }, (_, bin) => Math.exp(-(((bin - bins / 2 + 0.5) / (bins / 5)) ** 2) / 2));
    const sum = weights.reduce((a, b) => a + b);
    return { min, max, counts: weights.map((weight) => Math.round((total * weight) / sum)) };
}

const CLIENTS = [
    ["openai-python 3.57.0", "openai.chat"],
    ["curl 8.5.0", "openai.completions"],
    ["anthropic-python 2.14.0", "anthropic.messages"],
    ["rotor page", "openai.chat"],
    ["openai-node 7.2.1", "openai.responses"],
    ["Open WebUI 0.9.4", "openai.chat"],
    ["lm-eval 0.5.0", "openai.completions"],
    ["llama.cpp-client 1.0", "llama.completion"],
];

/** What `GET /rotor/requests` answers. */
export function requestsState({ running, waiting, history }, cancelled) {
    const now = Date.now() / 1000;
    const open = (request) => !cancelled.has(request.id);
    return {
        object: "rotor.requests",
        now,
        limits: { running: 16, waiting: 64 },
        running: Array.from({ length: running }, (_, index) => runningRequest(index, now)).filter(open),
        waiting: Array.from({ length: waiting }, (_, index) => waitingRequest(index, now)).filter(open),
        kv: [{ model: "rotor-tiny", block_tokens: 64, total: 128, used: running * 7, cached: 12 }],
        history: { bucket_seconds: 60, buckets: history ? lastHour(now) : [] },
    };
}

function runningRequest(index, now) {
    const [client, dialect] = CLIENTS[index % CLIENTS.length];
    const prefill = index === 3;
    const prompt = 120 + index * 173;
    return {
        id: `req_${index}`,
        model: index % 3 ? "rotor-tiny" : "microsoft/bitnet-b1.58-2B-4T",
        client,
        address: "127.0.0.1",
        dialect,
        created: now - 3.2 - index * 9.7,
        state: prefill ? "prefill" : "decode",
        prompt_tokens: prompt,
        prompt_processed: prefill ? Math.round(prompt / 2) : prompt,
        cached_tokens: index * 64,
        generated_tokens: prefill ? 0 : 40 + index * 31,
        max_tokens: index % 2 ? 512 : null,
        tokens_per_second: prefill ? null : 41.7 - index * 1.3,
    };
}

function waitingRequest(index, now) {
    const [client, dialect] = CLIENTS[(index + 2) % CLIENTS.length];
    return {
        id: `wait_${index}`,
        model: "rotor-tiny",
        client,
        address: "127.0.0.1",
        dialect,
        created: now - 0.8,
        reason: ["queue", "memory", "model"][index % 3],
        prompt_tokens: 96,
    };
}

function lastHour(now) {
    const random = randomFrom(11);
    return Array.from({ length: 60 }, (_, index) => {
        const first = 180 + 120 * random() + (index > 40 ? 150 : 0);
        const per = 22 + 5 * random() + (index > 40 ? 9 : 0);
        return {
            start: now - 3600 + index * 60,
            requests: 1 + Math.floor(4 * random()),
            first_token_ms: { p50: first, p95: first * 1.9 },
            per_token_ms: { p50: per, p95: per * 1.35 },
        };
    });
}
