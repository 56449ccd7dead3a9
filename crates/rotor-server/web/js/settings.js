/** The system prompt, the numbers of sampling, the theme, and what is kept in this browser. */

import { apiKey, setApiKey } from "./api.js";
import { fill, h } from "./dom.js";
import { preferences, SAMPLING } from "./preferences.js";
import { server } from "./server.js";
import { toast } from "./toast.js";

const THEMES = [
    ["", "System"],
    ["light", "Light"],
    ["dark", "Dark"],
];

export class SettingsView {
    title = "Settings";
    element = h("aside", { class: "panel", "aria-label": "Settings" });
    #store;
    #defaults = "";
    #onChange = () => this.#update();

    /** @param {import("./store.js").Store} store */
    constructor(store) {
        this.#store = store;
        server.addEventListener("change", this.#onChange);
        preferences.addEventListener("change", this.#onChange);
        this.#build();
    }

    leave() {
        server.removeEventListener("change", this.#onChange);
        preferences.removeEventListener("change", this.#onChange);
    }

    #build() {
        this.#defaults = this.#defaultsKey();
        fill(
            this.element,
            h("h2", { class: "panel-title" }, "Settings"),
            this.#system(),
            h(
                "fieldset",
                {},
                h("legend", {}, "Sampling"),
                SAMPLING.map((setting) => this.#number(setting)),
            ),
            server.model?.thinking && this.#thinking(),
            this.#theme(),
            this.#conversations(),
            apiKey() && this.#key(),
        );
        this.#update();
    }

    /** Builds again when the model's defaults change, else only brings the fields up to date. */
    #update() {
        if (this.#defaultsKey() !== this.#defaults && !this.element.contains(document.activeElement)) return this.#build();
        for (const field of this.element.querySelectorAll("[data-preference]")) {
            const value = preferences.get(field.dataset.preference);
            if (field !== document.activeElement) field.value = value ?? "";
            const reset = this.element.querySelector(`[data-reset="${field.dataset.preference}"]`);
            if (reset) reset.disabled = value === null;
        }
        for (const radio of this.element.querySelectorAll("[name=theme]"))
            radio.checked = radio.value === (preferences.get("theme") ?? "");
    }

    #defaultsKey() {
        return JSON.stringify([server.model?.id, server.propsOf(server.model), Boolean(apiKey())]);
    }

    #system() {
        const field = h("textarea", {
            id: "set-system",
            rows: 4,
            dir: "auto",
            data: { preference: "system" },
            placeholder: "None",
            on: { input: ({ target }) => preferences.set("system", target.value || null) },
        });
        return this.#field("set-system", "System prompt", field, "Stands in front of every conversation.", "system");
    }

    #number(setting) {
        const { field: name, prop = name, label, min, max, step, help } = setting;
        const known = server.propsOf(server.model)?.default_generation_settings?.params?.[prop];
        const id = `set-${name}`;
        const message = h("span", { class: "field-error", role: "alert" });
        const input = ({ target }) => {
            const error = problem(setting, target);
            message.textContent = error;
            target.setAttribute("aria-invalid", String(error !== ""));
            if (!error) preferences.set(name, target.value === "" ? null : Number(target.value));
        };
        const field = h("input", {
            id,
            type: "number",
            inputMode: "decimal",
            min,
            max,
            step: "any",
            data: { preference: name, step },
            placeholder: known === undefined ? "default" : String(round(known)),
            on: { input },
        });
        return this.#field(id, label, [field, message], `${help}${known === undefined ? "" : ` Default ${round(known)}.`}`, name);
    }

    #field(id, label, control, help, name) {
        const reset = () => {
            preferences.set(name, null);
            const field = this.element.querySelector(`#${id}`);
            field.value = "";
            field.dispatchEvent(new Event("input"));
            field.focus();
        };
        return h(
            "div",
            { class: "field" },
            h(
                "div",
                { class: "field-head" },
                h("label", { htmlFor: id }, label),
                h(
                    "button",
                    {
                        type: "button",
                        class: "link",
                        data: { reset: name },
                        "aria-label": `Reset ${label}`,
                        on: { click: reset },
                    },
                    "Reset",
                ),
            ),
            control,
            h("p", { class: "small", id: `${id}-help` }, help),
        );
    }

    #thinking() {
        const change = ({ target }) => preferences.set("thinking", target.checked ? null : false);
        return h(
            "fieldset",
            {},
            h("legend", {}, "Thinking"),
            h(
                "label",
                { class: "check" },
                h("input", { type: "checkbox", checked: preferences.get("thinking") !== false, on: { change } }),
                "Let the model think before it answers",
            ),
        );
    }

    #theme() {
        const change = ({ target }) => preferences.set("theme", target.value || null);
        const choice = ([value, label]) =>
            h(
                "label",
                { class: "choice" },
                h("input", { type: "radio", name: "theme", value, on: { change } }),
                h("span", {}, label),
            );
        return h("fieldset", {}, h("legend", {}, "Theme"), h("div", { class: "choices" }, THEMES.map(choice)));
    }

    #conversations() {
        const file = h("input", {
            type: "file",
            accept: "application/json,.json",
            class: "unseen",
            tabIndex: -1,
            "aria-label": "File to import",
            on: { change: () => this.#import(file) },
        });
        const button = (label, click, kind = "") =>
            h("button", { type: "button", class: `button ${kind}`, on: { click } }, label);
        return h(
            "fieldset",
            {},
            h("legend", {}, "Conversations"),
            h(
                "p",
                { class: "small" },
                this.#store.keeps
                    ? "They are kept in this browser and nowhere else."
                    : "Nothing is kept: this browser blocks storage for this page.",
            ),
            h(
                "div",
                { class: "button-row" },
                button("Export", () => this.#export()),
                button("Import", () => file.click()),
                button("Delete all", () => this.#deleteAll()),
                file,
            ),
        );
    }

    #key() {
        const forget = () => {
            setApiKey("", false);
            server.refresh();
            this.#build();
        };
        return h(
            "fieldset",
            {},
            h("legend", {}, "API key"),
            h(
                "div",
                { class: "button-row" },
                h("button", { type: "button", class: "button", on: { click: forget } }, "Forget the key"),
            ),
        );
    }

    async #export() {
        const url = URL.createObjectURL(new Blob([await this.#store.exported()], { type: "application/json" }));
        const day = new Date().toISOString().slice(0, 10);
        const link = h("a", { href: url, download: `rotor-conversations-${day}.json` });
        link.click();
        setTimeout(() => URL.revokeObjectURL(url), 10_000);
    }

    async #import(field) {
        const [file] = field.files;
        field.value = "";
        if (!file) return;
        try {
            const added = await this.#store.import(await file.text());
            toast(added === 1 ? "One conversation was imported." : `${added} conversations were imported.`);
        } catch (error) {
            toast(error.message);
        }
    }

    async #deleteAll() {
        const all = await this.#store.conversations();
        if (all.length === 0) return toast("There is nothing to delete.");
        const gone = await this.#store.remove(all.map(({ id }) => id));
        toast(all.length === 1 ? "One conversation deleted." : `${all.length} conversations deleted.`, {
            label: "Undo",
            run: () => this.#store.restore(gone),
        });
    }
}

/** What is wrong with a number, or `""`. */
function problem({ min, max, step }, field) {
    if (field.validity.badInput) return "This is no number.";
    if (field.value === "") return "";
    const value = Number(field.value);
    if (value < min || value > max) return `From ${min} to ${max.toLocaleString("en")}.`;
    return step === 1 && !Number.isInteger(value) ? "A whole number." : "";
}

/** Without the noise of an f32 that was written as f64. */
function round(value) {
    return Number(value.toPrecision(6));
}
