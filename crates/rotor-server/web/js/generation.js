/**
 * An answer while it is made: the request, what came of it so far, and its end, whichever it is.
 *
 * Generations belong to the page, not to a view: one goes on while the user looks at the model or at another conversation.
 */

import * as api from "./api.js";
import { preferences } from "./preferences.js";
import { server } from "./server.js";

/** @typedef {import("./conversation.js").Turn} Turn */
/** @typedef {import("./conversation.js").Token} Token */

/** Most often a streaming turn is stored, in milliseconds; a reload loses no more, unless storing takes long. */
const SAVE_MS = 300;
/** Storing may take one part in so many of the time: a long answer with its tokens is copied each time. */
const SAVE_SHARE = 30;
const ALTERNATIVES = 5;
/** In a context of so few tokens an answer without a limit would leave no room for the next message. */
const SMALL_CONTEXT = 1024;

/** This tab, kept over a reload: a turn that it was streaming is known to be interrupted. */
export const TAB = tabId();

/** Answers under way in this tab, by turn id. @type {Map<string, Generation>} */
export const generations = new Map();

/** Turns that this tab has written since it was opened, by id: what is read from the store may be older. @type {Map<string, Turn>} */
const written = new Map();

/** The newer of a stored turn and what this tab has of it. */
export function newest(stored, known = written.get(stored.id)) {
    return known && (known.saved ?? 0) >= (stored.saved ?? 0) ? known : stored;
}

export class Generation extends EventTarget {
    #controller = new AbortController();
    #store;
    #saved = 0;
    /** Milliseconds that the last copy into the store took. */
    #cost = 0;
    #started = 0;
    #thinkingSince = 0;
    #discarded = false;
    /** How far the prompt is: tokens computed, of how many. @type {{ processed: number, total: number } | null} */
    progress = null;
    /** Whether any token came. */
    begun = false;

    /**
     * From here on the turn counts as under way.
     *
     * @param {import("./store.js").Store} store
     * @param {Turn} turn The answer; what it already has is continued.
     */
    constructor(store, turn) {
        super();
        this.#store = store;
        this.turn = turn;
        Object.assign(turn, { state: "streaming", owner: TAB, error: null });
        generations.set(turn.id, this);
        written.set(turn.id, turn);
    }

    /**
     * Runs to the end; never fails, the turn says how it went.
     *
     * @param {Turn[]} path The turns before the answer.
     */
    async run(path) {
        const { turn } = this;
        this.#started = performance.now();
        await this.#save();
        try {
            await this.#receive(path);
        } catch (error) {
            this.#fail(error);
        }
        this.#endThinking();
        delete turn.owner;
        generations.delete(turn.id);
        await this.#save();
        this.dispatchEvent(new Event("end"));
    }

    stop() {
        this.#controller.abort();
    }

    /** Ends it and stores nothing more: its conversation was deleted. */
    discard() {
        this.#discarded = true;
        this.stop();
    }

    async #receive(path) {
        const model = server.models.find(({ id }) => id === this.turn.model);
        const chat = model?.chat_template !== false;
        const body = chat ? chatRequest(path, this.turn, model) : textRequest(path, this.turn, model);
        const endpoint = chat ? "v1/chat/completions" : "v1/completions";
        let [reason, used] = [null, 0];
        for await (const chunk of api.stream(endpoint, body, this.#controller.signal)) {
            for (const choice of chunk.choices ?? []) {
                this.#append(choice);
                reason = choice.finish_reason ?? reason;
            }
            if (chunk.timings) this.turn.timings = chunk.timings;
            if (chunk.prompt_progress) this.progress = chunk.prompt_progress;
            if (chunk.usage) used = chunk.usage.total_tokens;
            this.#changed();
        }
        this.turn.state = reason === "length" ? this.#lengthState(used) : "done";
    }

    #append({ delta = {}, text = "", logprobs }) {
        const [content, thought] = [delta.content ?? text, delta.reasoning_content ?? ""];
        if (thought) this.#thinkingSince ||= performance.now();
        if (content) this.#endThinking();
        if ((content || thought) && !this.begun) {
            this.begun = true;
            this.turn.firstMs = performance.now() - this.#started;
        }
        this.turn.content += content;
        if (thought) this.turn.reasoning = (this.turn.reasoning ?? "") + thought;
        const tokens = tokensOf(logprobs, thought !== "");
        if (tokens.length > 0) (this.turn.tokens ??= []).push(...tokens);
    }

    #endThinking() {
        if (!this.#thinkingSince) return;
        this.turn.reasoningMs = (this.turn.reasoningMs ?? 0) + performance.now() - this.#thinkingSince;
        this.#thinkingSince = 0;
    }

    #lengthState(used) {
        return used >= contextOf({ id: this.turn.model }) ? "full" : "length";
    }

    #fail(error) {
        const { turn } = this;
        if (this.#controller.signal.aborted) {
            turn.state = "stopped";
            return;
        }
        turn.state = error.code === "context_length_exceeded" ? "full" : "error";
        turn.error = { message: error.message, status: error.status ?? 0, code: error.code ?? "" };
        if (error instanceof api.Unreachable || error.status === 401) server.refresh();
    }

    #changed() {
        this.dispatchEvent(new Event("change"));
        if (performance.now() - this.#saved > Math.max(SAVE_MS, SAVE_SHARE * this.#cost)) this.#save();
    }

    #save() {
        this.#saved = performance.now();
        if (this.#discarded) return undefined;
        const stored = this.#store.saveTurn(this.turn);
        this.#cost = performance.now() - this.#saved;
        return stored;
    }
}

/** What every request has. */
function common(model) {
    return {
        model: model?.id,
        stream: true,
        stream_options: { include_usage: true },
        return_progress: true,
        timings_per_token: true,
    };
}

function chatRequest(path, turn, model) {
    const system = preferences.get("system");
    const messages = path.filter(({ content }) => content).map(({ role, content }) => ({ role, content }));
    if (system) messages.unshift({ role: "system", content: system });
    const continued = turn.content || turn.reasoning;
    const unlimited = preferences.get("max_completion_tokens") === null;
    if (continued) {
        const reasoning = turn.reasoning ? { reasoning_content: turn.reasoning } : {};
        messages.push({ role: "assistant", content: turn.content, ...reasoning });
    }
    return {
        ...common(model),
        messages,
        logprobs: true,
        top_logprobs: ALTERNATIVES,
        ...(continued ? { continue_final_message: true, add_generation_prompt: false } : {}),
        ...(contextOf(model) <= SMALL_CONTEXT && unlimited ? { max_completion_tokens: quarter(model) } : {}),
        ...preferences.request(model),
    };
}

/** For a model without a chat template: it goes on with all the text so far. */
function textRequest(path, turn, model) {
    const { max_completion_tokens: length, chat_template_kwargs: _, ...sampling } = preferences.request(model);
    const prompt = path.map(({ content }) => content).join("") + turn.content;
    return { ...common(model), prompt, logprobs: ALTERNATIVES, ...sampling, max_tokens: length ?? quarter(model) };
}

/** Tokens of a model's context; infinite where it is not known. */
function contextOf(model) {
    return server.propsOf(model)?.default_generation_settings?.n_ctx ?? Infinity;
}

/** The length of an answer where the user has not set any, as a part of the context. */
function quarter(model) {
    const context = contextOf(model);
    return Number.isFinite(context) ? Math.floor(context / 4) : 256;
}

/**
 * The tokens of a chunk, from either dialect's form of log-probabilities.
 *
 * @returns {Token[]}
 */
function tokensOf(logprobs, thinking) {
    if (logprobs?.content) return logprobs.content.map((entry) => chatToken(entry, thinking));
    if (!logprobs?.tokens) return [];
    return logprobs.tokens.map((text, index) => ({
        text,
        logprob: logprobs.token_logprobs[index] ?? 0,
        top: Object.entries(logprobs.top_logprobs?.[index] ?? {})
            .map(([other, logprob]) => ({ text: other, logprob }))
            .sort((a, b) => b.logprob - a.logprob),
    }));
}

function chatToken({ id = null, token, bytes, logprob, rank, drafted, top_logprobs: top = [] }, thinking) {
    const result = { id, text: token, logprob };
    // Bytes are kept only where the text does not say them.
    if (bytes === null || (bytes && token.includes("\ufffd"))) result.bytes = bytes;
    const place = top.findIndex((other) => other.token === token && String(other.bytes) === String(bytes));
    if (rank ?? place >= 0) result.rank = rank ?? place + 1;
    if (drafted) result.drafted = true;
    if (thinking) result.thinking = true;
    if (top.length > 0) result.top = top.map((other) => chatToken({ ...other, top_logprobs: [] }, false));
    return result;
}

function tabId() {
    const fresh = Array.from(crypto.getRandomValues(new Uint8Array(8)), (byte) => byte.toString(36)).join("");
    try {
        const known = sessionStorage.getItem("rotor.tab") ?? fresh;
        sessionStorage.setItem("rotor.tab", known);
        return known;
    } catch {
        return fresh;
    }
}
