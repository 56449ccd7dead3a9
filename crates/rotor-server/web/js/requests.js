/** What the server is doing: who is answered, who waits, the memory they share, and how the last hour went. */

import * as api from "./api.js";
import { stackedBar, timeline } from "./charts.js";
import { fill, h } from "./dom.js";
import { figures, integer, milliseconds, seconds } from "./format.js";
import { server } from "./server.js";
import { clientSnippets, codeSample } from "./snippets.js";
import { rowsTable } from "./tables.js";
import { toast } from "./toast.js";

const POLL_MS = 1000;
const HOUR_S = 3600;

const REASONS = { queue: "all places are taken", memory: "no memory is free", model: "the model is loading" };

export class RequestsView {
    title = "Requests";
    element = h("section", { class: "view", "aria-label": "Requests" });
    #timer = 0;
    #left = false;
    #active = h("div");
    #memory = h("div");
    #history = h("div");
    #historyKey = "";
    #emptyKey = "";

    constructor() {
        fill(this.element, h("p", { class: "view-note" }, "Asking the server."));
        this.#poll();
    }

    leave() {
        this.#left = true;
        clearTimeout(this.#timer);
    }

    async #poll() {
        if (document.visibilityState === "visible") await this.#read();
        if (!this.#left) this.#timer = setTimeout(() => this.#poll(), POLL_MS);
    }

    async #read() {
        try {
            const state = await api.requests();
            if (this.#left) return;
            if (!this.#active.isConnected) fill(this.element, this.#active, this.#memory, this.#history);
            this.#render(state);
        } catch (error) {
            if (this.#left) return;
            if (error instanceof api.Unreachable && server.phase !== "gone") server.refresh();
            fill(this.element, h("p", { class: "view-note" }, error.message));
        }
    }

    #render({ now, running, waiting, limits, kv = [], history }) {
        const idle = running.length === 0 && waiting.length === 0;
        const emptyKey = idle ? `${server.model?.id}` : "";
        // Samples are built once, so that text can be selected in them while the view is asked for again.
        if (!idle || emptyKey !== this.#emptyKey) {
            keepingFocus(this.#active, () =>
                fill(
                    this.#active,
                    idle ? emptyState() : [this.#running(running, limits, now), this.#waiting(waiting, limits, now)],
                ),
            );
        }
        this.#emptyKey = emptyKey;
        fill(this.#memory, kv.length > 0 && part("Keys and values", kv.map(kvBar)));
        const historyKey = JSON.stringify(history?.buckets ?? []);
        if (historyKey !== this.#historyKey) fill(this.#history, historyPart(history, now));
        this.#historyKey = historyKey;
    }

    #running(requests, limits, now) {
        const title = `Running ${requests.length}${limits ? ` of ${limits.running}` : ""}`;
        if (requests.length === 0) return part(title, h("p", { class: "view-note" }, "Nothing runs."));
        const heads = ["Client", "Model", "Tokens", "Speed", "Cached", "Time", ""];
        return part(
            title,
            rowsTable(
                heads,
                requests.map((request) => this.#runningRow(request, now)),
                "Running requests",
            ),
        );
    }

    #runningRow(request, now) {
        const {
            id,
            model,
            state,
            prompt_tokens: prompt,
            prompt_processed: processed,
            generated_tokens: generated,
            max_tokens: most,
            tokens_per_second: speed,
            cached_tokens: cached,
        } = request;
        const tokens =
            state === "prefill"
                ? `prompt ${integer(processed)} of ${integer(prompt)}`
                : `${integer(prompt)} + ${integer(generated)}${most ? ` of ${integer(most)}` : ""}`;
        return [
            who(request),
            model,
            tokens,
            speed ? `${figures(speed)} tok/s` : "–",
            integer(cached),
            seconds(now - request.created),
            this.#stopButton(id, request),
        ];
    }

    #waiting(requests, limits, now) {
        if (requests.length === 0) return null;
        const heads = ["Client", "Model", "Waits because", "Prompt", "Time", ""];
        const row = (request) => [
            who(request),
            request.model,
            REASONS[request.reason] ?? request.reason,
            request.prompt_tokens ? integer(request.prompt_tokens) : "–",
            seconds(now - request.created),
            this.#stopButton(request.id, request),
        ];
        return part(
            `Waiting ${requests.length}${limits ? ` of ${limits.waiting}` : ""}`,
            rowsTable(heads, requests.map(row), "Waiting requests"),
        );
    }

    #stopButton(id, { client }) {
        const stop = async ({ currentTarget }) => {
            currentTarget.disabled = true;
            // A request that has ended by itself is what was wanted.
            await api.cancelRequest(id).catch((error) => error.status === 404 || toast(error.message));
            this.#read();
        };
        return h(
            "button",
            {
                type: "button",
                class: "button small",
                data: { request: id },
                "aria-label": `Stop the request of ${client}`,
                on: { click: stop },
            },
            "Stop",
        );
    }
}

function part(title, ...children) {
    return h("section", { class: "part" }, h("h2", { class: "part-title" }, title), children);
}

function who({ client, dialect, address }) {
    return h(
        "span",
        { class: "client" },
        h("span", {}, client || "unknown"),
        h("span", { class: "small" }, `${dialect}${address ? ` · ${address}` : ""}`),
    );
}

function kvBar({ model, block_tokens: size, total, used, cached = 0 }) {
    const free = Math.max(total - used - cached, 0);
    const entry = (name, value, kind) => ({ name, value, kind, text: `${integer(value)} blocks` });
    return h(
        "div",
        { class: "kv" },
        h("p", { class: "lead" }, `${model}: ${integer(total - free)} of ${integer(total)} blocks of ${size} tokens`),
        stackedBar(
            [entry("in use", used, "grey-4"), entry("kept for reuse", cached, "grey-2"), entry("free", free, "grey-0")],
            total,
        ),
    );
}

function historyPart(history, now) {
    const buckets = history?.buckets ?? [];
    if (buckets.length === 0) return null;
    const span = { from: now - HOUR_S, to: now };
    const picture = (key, title, label) => {
        const points = buckets.filter((bucket) => bucket[key]).map((bucket) => ({ start: bucket.start, ...bucket[key] }));
        return h(
            "figure",
            { class: "history-chart" },
            h("figcaption", {}, title),
            timeline(points, { ...span, label, format: milliseconds }),
        );
    };
    return part(
        "The last hour",
        h(
            "ul",
            { class: "legend inline" },
            h("li", {}, h("span", { class: "swatch curve-swatch" }), "median"),
            h("li", {}, h("span", { class: "swatch curve-swatch faint" }), "95th percentile"),
        ),
        h(
            "div",
            { class: "history-charts" },
            picture("first_token_ms", "Time to the first token", "Time to the first token"),
            picture("per_token_ms", "Time per token", "Time per token after the first"),
        ),
    );
}

function emptyState() {
    const snippets = clientSnippets(server.model?.id ?? "MODEL", Boolean(api.apiKey()));
    return part(
        "Nothing runs",
        h("p", { class: "lead" }, "Any client of OpenAI's interface can use this server. Point one here:"),
        h(
            "div",
            { class: "snippets" },
            snippets.map(([language, code]) => codeSample(code, language)),
        ),
    );
}

/** Runs `change`, after which the button of the same request has the focus again. */
function keepingFocus(element, change) {
    const focused = element.contains(document.activeElement) ? document.activeElement.dataset.request : null;
    change();
    if (focused) element.querySelector(`[data-request="${CSS.escape(focused)}"]`)?.focus();
}
