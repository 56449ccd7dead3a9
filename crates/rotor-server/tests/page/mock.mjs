/**
 * A server made of canned answers, for the page's tests and for working on the page: `node mock.mjs [PORT]`.
 *
 * The last user message chooses the answer by a word in it (see `answers.mjs`). `POST /mock` with a JSON object changes
 * how the server behaves, for instance `{"loading": 0.4}` or `{"models": []}`; `{}` changes nothing and shows it all.
 */

import { createServer } from "node:http";
import { readFile } from "node:fs/promises";
import { extname, join, normalize } from "node:path";
import { fileURLToPath } from "node:url";
import { answerTo, tokensOf } from "./answers.mjs";
import { MODELS, requestsState, statistics } from "./canned.mjs";

const WEB = fileURLToPath(new URL("../../web/", import.meta.url));
const TYPES = {
    ".html": "text/html",
    ".css": "text/css",
    ".js": "text/javascript",
    ".mjs": "text/javascript",
    ".svg": "image/svg+xml",
};
const HEADERS = {
    "Content-Security-Policy":
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-cache",
};

/** How the server behaves until `POST /mock` says otherwise. */
const DEFAULTS = {
    models: MODELS,
    loading: null,
    key: null,
    context: 4096,
    running: 0,
    waiting: 0,
    history: true,
    delay: 12,
    machine: true,
};

/**
 * Starts the server on a loopback port, a free one unless told otherwise.
 *
 * @returns {Promise<{ url: string, set: (changes: object) => void, reset: () => void, close: () => Promise<void>, requests: object[] }>}
 */
export async function startMock(port = 0) {
    const mock = { state: { ...DEFAULTS }, requests: [], cancelled: new Set() };
    const server = createServer((request, response) =>
        handle(mock, request, response).catch((error) => sendError(response, 500, error.message)),
    );
    await new Promise((resolve) => server.listen(port, "127.0.0.1", resolve));
    return {
        url: `http://127.0.0.1:${server.address().port}/`,
        set: (changes) => Object.assign(mock.state, changes),
        reset() {
            mock.state = { ...DEFAULTS };
            mock.requests.length = 0;
            mock.cancelled.clear();
        },
        requests: mock.requests,
        close() {
            server.closeAllConnections();
            return new Promise((resolve) => server.close(resolve));
        },
    };
}

async function handle(mock, request, response) {
    const { state } = mock;
    const url = new URL(request.url, "http://mock");
    const path = decodeURIComponent(url.pathname);
    if (request.method === "GET" && (await sendFile(path, response))) return;
    const body = request.method === "POST" ? JSON.parse(await text(request)) : null;
    if (path === "/mock") return sendJson(response, 200, Object.assign(state, body));
    if (state.key && request.headers.authorization !== `Bearer ${state.key}`)
        return sendError(response, 401, "A valid API key is needed.", "authentication_error", "invalid_api_key");
    if (path === "/v1/models") return sendJson(response, 200, { object: "list", data: modelsOf(state) });
    if (path === "/props") return sendJson(response, 200, propsOf(state));
    if (path === "/v1/chat/completions" || path === "/v1/completions") return complete(mock, path, body, request, response);
    if (path === "/rotor/requests") return sendJson(response, 200, requestsState(state, mock.cancelled));
    if (path.startsWith("/rotor/requests/") && request.method === "DELETE") return cancel(mock, path.split("/")[3], response);
    const model = /^\/rotor\/models\/(.+)\/statistics$/.exec(path)?.[1];
    if (model) return sendStatistics(state, model, response);
    sendError(response, 404, `There is nothing at ${path}.`, "not_found_error");
}

async function sendFile(path, response) {
    const name = normalize(path === "/" ? "/index.html" : path).slice(1);
    const type = TYPES[extname(name)];
    if (!type || name.startsWith("..")) return false;
    const content = await readFile(join(WEB, name)).catch(() => null);
    if (!content) return false;
    response
        .writeHead(200, { ...HEADERS, "Content-Type": type === "image/svg+xml" ? type : `${type}; charset=utf-8` })
        .end(content);
    return true;
}

function modelsOf({ models, loading }) {
    return models.map((model, index) =>
        index === 0 && loading !== null ? { ...model, status: { value: "loading", progress: loading } } : model,
    );
}

function propsOf({ context }) {
    const params = { temperature: 0.8, top_k: 40, top_p: 0.95, min_p: 0.05, seed: -1, max_tokens: -1 };
    return { default_generation_settings: { n_ctx: context, params }, total_slots: 16, build_info: "rotor mock" };
}

function sendStatistics(state, id, response) {
    const model = state.models.find((candidate) => candidate.id === id);
    if (!model) return sendError(response, 404, `There is no model ${id}.`, "invalid_request_error", "model_not_found");
    if (model.status.value !== "loaded")
        return sendError(response, 409, `${id} is not loaded.`, "invalid_request_error", "model_not_loaded");
    sendJson(response, 200, statistics(model, state));
}

function cancel(mock, id, response) {
    mock.cancelled.add(id);
    response.writeHead(204).end();
}

/** Streams the canned answer, or fails as the message asks for. */
async function complete(mock, path, body, request, response) {
    mock.requests.push({ path, body });
    if (!body.stream) return load(mock, body, response);
    const chat = path === "/v1/chat/completions";
    const turns = chat ? body.messages : [{ role: "user", content: body.prompt }];
    const asked = turns.filter(({ role }) => role === "user").at(-1).content;
    const given = chat && turns.at(-1).role === "assistant" ? turns.at(-1).content : "";
    const answer = answerTo(asked);
    if (answer.fails)
        return sendError(response, answer.fails.status, answer.fails.message, answer.fails.type, answer.fails.code, answer.fails);
    response.writeHead(200, { "Content-Type": "text/event-stream", "Cache-Control": "no-cache" });
    const stream = new ChunkStream(mock.state, body, chat, response, promptTokens(turns));
    request.socket.on("close", () => (stream.closed = true));
    await stream.run(answer, given);
}

/** A request that is only made to have a model loaded. */
function load(mock, body, response) {
    mock.state.models = mock.state.models.map((model) =>
        model.id === body.model ? { ...model, status: { value: "loaded" } } : model,
    );
    sendJson(response, 200, { choices: [{ text: "." }] });
}

class ChunkStream {
    closed = false;
    #generated = 0;
    #started = 0;

    constructor(state, body, chat, response, prompt) {
        Object.assign(this, { state, body, chat, response, prompt });
    }

    async run(answer, given) {
        if (this.chat)
            this.#chunk([{ index: 0, delta: { role: "assistant", content: "" }, logprobs: null, finish_reason: null }]);
        await this.#readPrompt(answer.prefill ?? 0);
        this.#started = performance.now();
        const rest =
            given && answer.text.startsWith(given)
                ? answer.text.slice(given.length)
                : given
                  ? " and so it went on, another way."
                  : answer.text;
        if (answer.thinking && !given) await this.#tokens(answer.thinking, true, answer.delay);
        const whole = await this.#tokens(rest, false, answer.delay, answer.breakAfter);
        if (this.closed) return;
        if (answer.cut) return this.response.destroy();
        if (answer.event && !whole) return this.response.end(`data: ${JSON.stringify({ error: answer.event })}\n\n`);
        this.#finish(answer.reason ?? "stop", answer.fills);
    }

    async #readPrompt(milliseconds) {
        for (let step = 0; step < 10 && milliseconds && !this.closed; step += 1) {
            const progress = {
                total: this.prompt,
                cache: 0,
                processed: Math.round((this.prompt * step) / 10),
                time_ms: (milliseconds * step) / 10,
            };
            this.#send({ choices: [], prompt_progress: progress });
            this.response.write(": still here\n\n");
            await pause(milliseconds / 10);
        }
    }

    /** Sends a text token by token; false where it broke off after `breakAfter`. */
    async #tokens(content, thinking, delay = this.state.delay, breakAfter = Infinity) {
        for (const [index, token] of tokensOf(content).entries()) {
            if (this.closed || index >= breakAfter) return false;
            this.#generated += 1;
            this.#chunk([this.chat ? chatChoice(token, thinking) : textChoice(token)]);
            if (delay > 0) await pause(delay);
        }
        return true;
    }

    #finish(reason, fills) {
        const total = fills ? this.state.context : this.prompt + this.#generated;
        this.#chunk([{ index: 0, delta: {}, text: "", logprobs: null, finish_reason: reason }]);
        this.#send({
            choices: [],
            usage: {
                prompt_tokens: this.prompt,
                completion_tokens: this.#generated,
                total_tokens: total,
                prompt_tokens_details: { cached_tokens: 8 },
            },
        });
        this.response.end("data: [DONE]\n\n");
    }

    #chunk(choices) {
        const elapsed = Math.max(performance.now() - this.#started, 1);
        const timings = {
            cache_n: 8,
            prompt_n: Math.max(this.prompt - 8, 1),
            prompt_ms: 60,
            prompt_per_second: 200,
            predicted_n: this.#generated,
            predicted_ms: elapsed,
            predicted_per_second: (this.#generated / elapsed) * 1000,
        };
        this.#send({ choices, ...(this.#generated > 0 ? { timings } : {}) });
    }

    #send(fields) {
        if (this.closed) return;
        const object = this.chat ? "chat.completion.chunk" : "text_completion";
        this.response.write(
            `data: ${JSON.stringify({ id: "chatcmpl-mock", object, created: 1764500000, model: this.body.model, ...fields })}\n\n`,
        );
    }
}

function chatChoice(token, thinking) {
    const { text: content, ...rest } = token;
    const delta = thinking ? { reasoning_content: content } : { content };
    return { index: 0, delta, logprobs: { content: rest.entries }, finish_reason: null };
}

function textChoice({ text: content, entries }) {
    return {
        index: 0,
        text: content,
        logprobs: {
            tokens: entries.map(({ token }) => token),
            token_logprobs: entries.map(({ logprob }) => logprob),
            top_logprobs: entries.map(({ top_logprobs: top }) =>
                Object.fromEntries(top.map(({ token, logprob }) => [token, logprob])),
            ),
            text_offset: entries.map(() => 0),
        },
        finish_reason: null,
    };
}

function promptTokens(turns) {
    return turns.reduce((sum, { content }) => sum + 4 + Math.ceil(content.length / 4), 0);
}

function sendJson(response, status, value) {
    response.writeHead(status, { "Content-Type": "application/json" }).end(JSON.stringify(value));
}

function sendError(response, status, message, type = "server_error", code = null, { retryAfter, ...more } = {}) {
    if (response.headersSent) return response.destroy();
    const headers = retryAfter ? { "Retry-After": String(retryAfter) } : {};
    for (const key of ["status", "message", "type", "code"]) delete more[key];
    response
        .writeHead(status, { "Content-Type": "application/json", ...headers })
        .end(JSON.stringify({ error: { message, type, param: null, code, ...more } }));
}

async function text(request) {
    const parts = [];
    for await (const part of request) parts.push(part);
    return Buffer.concat(parts).toString();
}

const pause = (milliseconds) => new Promise((resolve) => setTimeout(resolve, milliseconds));

if (process.argv[1] === fileURLToPath(import.meta.url)) {
    const mock = await startMock(Number(process.argv[2] ?? 8080));
    console.log(`listening on ${mock.url}`);
}
