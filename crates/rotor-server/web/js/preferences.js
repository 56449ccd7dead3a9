/**
 * What the user set: kept in the browser, the same in all tabs, sent with every request where it differs from the default.
 */

import { keepForGood, kept } from "./storage.js";

const NAME = "rotor.preferences";

/**
 * The numbers of sampling, in the order in which they are shown. `field` is the request's name for it, `prop` that of its
 * default in the server's properties. A request with a value outside of `min` to `max` would be refused.
 */
export const SAMPLING = [
    { field: "temperature", label: "Temperature", min: 0, max: 2, step: 0.05, help: "0 always takes the most probable token." },
    { field: "top_k", label: "Top-k", min: 0, max: 100_000, step: 1, help: "Choose among this many tokens; 0 is all." },
    {
        field: "top_p",
        label: "Top-p",
        min: 0,
        max: 1,
        step: 0.01,
        help: "Choose among the fewest tokens that reach this probability.",
    },
    {
        field: "min_p",
        label: "Min-p",
        min: 0,
        max: 1,
        step: 0.01,
        help: "Leave out tokens below this share of the best one's probability.",
    },
    {
        field: "seed",
        label: "Seed",
        min: -1,
        max: 2 ** 31 - 1,
        step: 1,
        help: "The same seed gives the same answer; -1 is a new one each time.",
    },
    {
        field: "max_completion_tokens",
        prop: "max_tokens",
        label: "Length",
        min: -1,
        max: 1_000_000,
        step: 1,
        help: "Most tokens of an answer; -1 goes on to the end of the context.",
    },
];

class Preferences extends EventTarget {
    #values = read();

    constructor() {
        super();
        addEventListener("storage", ({ key }) => {
            if (key !== NAME) return;
            this.#values = read();
            this.dispatchEvent(new Event("change"));
        });
    }

    /** The user's value, or `null` for the default. */
    get(name) {
        return this.#values[name] ?? null;
    }

    /** Sets a value; `null` returns to the default. */
    set(name, value) {
        if (value === null || value === "") delete this.#values[name];
        else this.#values[name] = value;
        keepForGood(NAME, JSON.stringify(this.#values));
        this.dispatchEvent(new Event("change"));
    }

    /** The fields of a request that differ from the defaults. */
    request(model) {
        const fields = {};
        for (const { field } of SAMPLING) {
            const value = this.get(field);
            // Minus one stands for "no limit", which a request says by leaving it out.
            if (value !== null && !(field === "max_completion_tokens" && value < 1)) fields[field] = value;
        }
        if (model?.thinking && this.get("thinking") === false) fields.chat_template_kwargs = { enable_thinking: false };
        return fields;
    }
}

export const preferences = new Preferences();

/** Applies the theme that was chosen, and every later choice; "system" follows the system. */
export function followTheme() {
    const apply = () => {
        const theme = preferences.get("theme");
        if (theme) document.documentElement.dataset.theme = theme;
        else delete document.documentElement.dataset.theme;
    };
    preferences.addEventListener("change", apply);
    apply();
}

function read() {
    try {
        const values = JSON.parse(kept(NAME) ?? "{}");
        return typeof values === "object" && values !== null ? values : {};
    } catch {
        return {};
    }
}
