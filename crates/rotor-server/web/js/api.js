/**
 * The server's endpoints, as README.md beside `index.html` describes them.
 *
 * Addresses are relative to the page, so that a reverse proxy may put all of it below a prefix.
 */

import { events } from "./sse.js";
import { keepForSession, keepForGood, kept } from "./storage.js";

const KEY = "rotor.key";

/** An answer of the server that is an error, in the form of any dialect. */
export class ApiError extends Error {
    /**
     * @param {number} status HTTP status; 0 for an error in the middle of a stream.
     * @param {{ message?: string, type?: string, code?: any }} error
     */
    constructor(status, error) {
        super(error.message || `The server answered with status ${status}.`);
        this.status = status;
        this.type = error.type ?? "";
        this.code = String(error.code ?? "");
    }
}

/** The server cannot be reached, or went away in the middle of an answer. */
export class Unreachable extends Error {}

/** The API key in use, or `""`. */
export function apiKey() {
    return kept(KEY) ?? "";
}

/**
 * Uses `key` from now on; kept until the tab is closed, or for good.
 *
 * @param {string} key
 * @param {boolean} remember
 */
export function setApiKey(key, remember) {
    keepForSession(KEY, key || null);
    keepForGood(KEY, (remember && key) || null);
}

export const models = async () => (await json("v1/models")).data;

export const props = (model) => json(`props?model=${encodeURIComponent(model)}`);

export const statistics = (model) => json(`rotor/models/${encodeURIComponent(model)}/statistics`);

export const requests = () => json("rotor/requests");

export const cancelRequest = (id) => request(`rotor/requests/${encodeURIComponent(id)}`, { method: "DELETE" });

/** Has an unloaded model loaded, by the smallest request that names it; resolves when it has answered. */
export const loadModel = (model) => json("v1/completions", post({ model, prompt: " ", max_tokens: 1 }));

/**
 * Streams a completion: the parsed chunks up to `[DONE]`.
 *
 * @param {"v1/chat/completions" | "v1/completions"} path
 * @param {object} body
 * @param {AbortSignal} signal
 * @throws {ApiError} Also for an error event in mid-stream.
 * @throws {Unreachable} Also for a stream that ends without `[DONE]`.
 */
export async function* stream(path, body, signal) {
    const response = await request(path, { ...post(body), signal });
    try {
        for await (const data of events(response.body)) {
            if (data === "[DONE]") return;
            const chunk = JSON.parse(data);
            if (chunk.error) throw new ApiError(0, chunk.error);
            yield chunk;
        }
    } catch (error) {
        if (error instanceof ApiError || signal.aborted) throw error;
        throw new Unreachable("The connection broke in the middle of the answer.");
    }
    throw new Unreachable("The server ended the answer in the middle.");
}

async function json(path, init) {
    return (await request(path, init)).json();
}

async function request(path, init = {}) {
    const headers = new Headers(init.headers);
    headers.set("X-Rotor-Client", "page");
    if (apiKey()) headers.set("Authorization", `Bearer ${apiKey()}`);
    let response;
    try {
        response = await fetch(new URL(path, document.baseURI), { ...init, headers, cache: "no-store" });
    } catch (error) {
        if (init.signal?.aborted) throw error;
        throw new Unreachable("The server cannot be reached.");
    }
    if (!response.ok) throw await errorOf(response);
    return response;
}

async function errorOf(response) {
    const body = await response.json().catch(() => ({}));
    const error = typeof body.error === "string" ? { message: body.error } : (body.error ?? {});
    return new ApiError(response.status, error);
}

function post(body) {
    return { method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify(body) };
}
