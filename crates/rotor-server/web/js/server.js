/**
 * Where things stand with the server: which models it has, whether it can be reached, when it is asked again.
 */

import * as api from "./api.js";
import { keepForSession, kept } from "./storage.js";

const CHOSEN = "rotor.model";
const LOADING_MS = 500;
const IDLE_MS = 15_000;
/** Seconds between attempts while the server is gone; the last is repeated. */
const BACKOFF = [1, 2, 4, 8, 15];

/**
 * @typedef {object} Model As in `GET /v1/models`.
 * @property {string} id
 * @property {boolean} [builtin]
 * @property {boolean} [chat_template]
 * @property {boolean} [thinking]
 * @property {{ value: "unloaded" | "loading" | "loaded" | "failed", progress?: number, message?: string }} [status]
 */

class Server extends EventTarget {
    /** @type {"connecting" | "starting" | "ready" | "gone" | "locked" | "failing"} */
    phase = "connecting";
    /** @type {Model[]} */
    models = [];
    /** The sentence of an error that is no matter of waiting (phase `failing`). */
    message = "";
    /** When a server that is gone is asked again, in milliseconds. */
    retryAt = 0;
    #attempts = 0;
    #timer = 0;
    /** @type {Map<string, object>} */
    #props = new Map();

    /** The model that is asked, or `undefined` where the server has none. */
    get model() {
        const chosen = kept(CHOSEN);
        return (
            this.models.find(({ id }) => id === chosen) ??
            this.models.find(({ status }) => status?.value === "loaded") ??
            this.models[0]
        );
    }

    /** Whether a request can be sent now; a model that loads makes it wait, which is fine. */
    get usable() {
        return this.phase === "ready" && this.model !== undefined && this.model.status?.value !== "failed";
    }

    /** What is known of a model's defaults and context, or `null`. */
    propsOf(model) {
        return this.#props.get(model?.id) ?? null;
    }

    choose(id) {
        keepForSession(CHOSEN, id);
        this.#emit();
        this.refresh();
    }

    /** Asks the server now, and again later as the state asks for. */
    async refresh() {
        clearTimeout(this.#timer);
        try {
            this.models = await api.models();
            this.phase = "ready";
            this.#attempts = 0;
            await this.#readProps();
        } catch (error) {
            this.#fail(error);
        }
        this.#emit();
        this.#schedule();
    }

    async #readProps() {
        const model = this.model;
        if (!model || model.status?.value === "loading" || this.#props.get(model.id)?.default_generation_settings?.n_ctx) return;
        this.#props.set(model.id, await api.props(model.id));
    }

    #fail(error) {
        if (error instanceof api.Unreachable) {
            this.phase = "gone";
            this.retryAt = Date.now() + BACKOFF[Math.min(this.#attempts, BACKOFF.length - 1)] * 1000;
            this.#attempts += 1;
            // The server may come back with other models.
            this.#props.clear();
        } else if (error.status === 401) {
            this.phase = "locked";
        } else if (error.status === 503) {
            this.phase = "starting";
        } else {
            this.phase = "failing";
            this.message = error.message;
        }
    }

    #schedule() {
        clearTimeout(this.#timer);
        if (this.phase === "locked") return;
        const loading = this.models.some(({ status }) => status?.value === "loading");
        const wait =
            this.phase === "gone" ? this.retryAt - Date.now() : loading || this.phase === "starting" ? LOADING_MS : IDLE_MS;
        this.#timer = setTimeout(() => this.refresh(), wait);
    }

    #emit() {
        this.dispatchEvent(new Event("change"));
    }
}

export const server = new Server();
