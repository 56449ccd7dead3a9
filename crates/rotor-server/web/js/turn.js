/** One turn of a conversation: its text, what is known of it, and what can be done with it. */

import { fill, h, iconButton, setText } from "./dom.js";
import { figures, integer, seconds } from "./format.js";
import { MarkdownView } from "./markdown.js";
import { tokensAddress } from "./router.js";
import { copyWith } from "./toast.js";

/** @typedef {import("./conversation.js").Turn} Turn */

/**
 * @typedef {object} Situation What a turn looks like besides its own data.
 * @property {import("./generation.js").Generation | undefined} generation While it streams in this tab.
 * @property {Turn["state"]} state As shown: a stream that another tab left counts as stopped.
 * @property {number} place Its place among its siblings, from 0.
 * @property {number} count How many siblings there are.
 * @property {number | null} context Tokens of the context.
 * @property {boolean} busy Whether any answer of the conversation is under way.
 * @property {boolean} usable Whether a request could be sent now.
 */

/**
 * @typedef {object} TurnActions
 * @property {(turn: Turn) => void} again A new answer beside this one.
 * @property {(turn: Turn) => void} goOn Continues the answer.
 * @property {(turn: Turn, text: string) => void} edit The turn with another text, beside this one.
 * @property {(turn: Turn, step: 1 | -1) => void} branch Shows a sibling.
 */

/** What is said of an answer that did not come to its end. */
const ENDINGS = {
    stopped: "Stopped here.",
    length: "The answer has reached the length it was given.",
    full: "The context is full: the model cannot take in more than this. Start a new conversation, or edit an earlier turn to go on from there.",
};

export class TurnView {
    #actions;
    #body;
    #thinking;
    #note = h("div", { class: "note-place" });
    #foot;
    /** @type {Turn} */
    #turn;
    /** @type {Situation} */
    #situation;

    /**
     * @param {Turn} turn
     * @param {TurnActions} actions
     */
    constructor(turn, actions) {
        this.#turn = turn;
        this.#actions = actions;
        const answer = turn.role === "assistant";
        this.#body = answer ? new AnswerBody() : new MessageBody();
        this.#thinking = answer ? new Thinking() : null;
        this.#foot = new Foot(this);
        this.element = h(
            "li",
            { class: `turn ${turn.role}`, data: { turn: turn.id } },
            h("h2", { class: "speaker" }, answer ? (turn.model ?? "Model") : "You"),
            this.#thinking?.element,
            this.#body.element,
            this.#note,
            this.#foot.element,
        );
    }

    get turn() {
        return this.#turn;
    }

    get actions() {
        return this.#actions;
    }

    /**
     * @param {Turn} turn
     * @param {Situation} situation
     */
    update(turn, situation) {
        [this.#turn, this.#situation] = [turn, situation];
        const streaming = situation.state === "streaming";
        this.element.setAttribute("aria-busy", String(streaming));
        this.#thinking?.update(turn, streaming);
        this.#body.update(turn, streaming);
        this.#updateNote(streaming);
        this.#foot.update(turn, situation);
    }

    edit() {
        const field = h("textarea", {
            class: "edit-field",
            value: this.#turn.content,
            "aria-label": "Edited text",
            dir: "auto",
            rows: 3,
        });
        const close = () => {
            form.replaceWith(this.#body.element);
            this.element.classList.remove("editing");
            this.element.querySelector(".edit")?.focus();
        };
        const save = (event) => {
            event.preventDefault();
            close();
            const text = field.value.trim();
            if (text && text !== this.#turn.content) this.#actions.edit(this.#turn, text);
        };
        const keydown = (event) => {
            if (event.key === "Escape") close();
            else if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) save(event);
            else return;
            event.preventDefault();
            event.stopPropagation();
        };
        const user = this.#turn.role === "user";
        const form = h(
            "form",
            { class: "edit-form", on: { submit: save, keydown } },
            field,
            h("button", { type: "submit", class: "button" }, user ? "Send as a new branch" : "Keep as a new branch"),
            h("button", { type: "button", class: "link", on: { click: close } }, "Cancel"),
        );
        this.#body.element.replaceWith(form);
        this.element.classList.add("editing");
        field.style.setProperty("height", `${Math.min(field.scrollHeight + 2, 400)}px`);
        field.focus();
    }

    #updateNote(streaming) {
        const { state, generation, usable } = this.#situation;
        if (streaming) {
            this.#note.dataset.key = "";
            fill(this.#note, !generation?.begun && generation && waiting(generation.progress));
            return;
        }
        const key = JSON.stringify([state, this.#turn.error, usable]);
        if (this.#note.dataset.key === key) return;
        this.#note.dataset.key = key;
        fill(this.#note, this.#ending(state, !usable));
    }

    /** How the answer ended, where that is not as it should. After an error, what came is continued. */
    #ending(state, disabled) {
        const turn = this.#turn;
        if (state === "error")
            return note(
                "error",
                turn.error?.message ?? "The answer failed.",
                this.#button("Try again", () => this.#actions.goOn(turn), disabled),
            );
        if (!ENDINGS[state]) return null;
        if (state === "full")
            return note(
                "",
                turn.error?.message ?? "",
                h("span", {}, ENDINGS.full),
                h("a", { href: "#/", class: "link" }, "New conversation"),
            );
        return note(
            "",
            ENDINGS[state],
            this.#button("Go on", () => this.#actions.goOn(turn), disabled),
        );
    }

    #button(label, click, disabled) {
        return h("button", { type: "button", class: "link", disabled, on: { click } }, label);
    }
}

function note(kind, text, ...rest) {
    return h("div", { class: `note ${kind}` }, text && h("span", { dir: "auto" }, text), rest);
}

function waiting(progress) {
    const known = progress && progress.total > 0;
    const text = known
        ? `Reading the prompt: ${integer(progress.processed)} of ${integer(progress.total)} tokens`
        : "Waiting for the first token";
    return h("p", { class: "waiting" }, text);
}

/** What the user said, as it was typed. */
class MessageBody {
    element = h("div", { class: "message", dir: "auto" });

    update(turn) {
        setText(this.element, turn.content);
    }
}

class AnswerBody {
    element = h("div", { class: "markdown" });
    #view = new MarkdownView(this.element);

    update(turn, streaming) {
        this.element.classList.toggle("streaming", streaming);
        this.#view.update(turn.content, !streaming);
    }
}

/** The thinking part, folded. */
class Thinking {
    #label = h("summary");
    #text = h("div", { class: "thinking-text", dir: "auto" });
    element = h("details", { class: "thinking" }, this.#label, this.#text);

    update({ reasoning = "", reasoningMs, tokens = [], content }, streaming) {
        this.element.hidden = !reasoning;
        if (!reasoning) return;
        const length = tokens.filter((token) => token.thinking).length;
        const parts = [
            streaming && !content ? "Thinking" : "Thought",
            length > 0 ? `${integer(length)} tokens` : `${integer(reasoning.split(/\s+/).length)} words`,
            reasoningMs && seconds(reasoningMs / 1000),
        ];
        setText(this.#label, parts.filter(Boolean).join(" · "));
        setText(this.#text, reasoning);
    }
}

/** Figures, buttons and branches below a turn. The line is always there, so nothing moves when a stream ends. */
class Foot {
    #view;
    #figures = h("span", { class: "figures" });
    #buttons = h("span", { class: "turn-buttons" });
    #branches = h("span", { class: "branches" });
    #key = "";

    constructor(view) {
        this.#view = view;
        this.element = h("div", { class: "foot" }, this.#figures, this.#buttons, this.#branches);
    }

    update(turn, situation) {
        setText(this.#figures, figuresOf(turn, situation.context));
        const key = JSON.stringify([
            situation.state,
            situation.place,
            situation.count,
            situation.busy,
            situation.usable,
            Boolean(turn.tokens?.length),
        ]);
        if (key === this.#key) return;
        this.#key = key;
        fill(this.#buttons, situation.state !== "streaming" && this.#buttonsOf(turn, situation));
        fill(this.#branches, situation.count > 1 && this.#branchesOf(turn, situation));
    }

    #buttonsOf(turn, { busy, usable }) {
        const button = (label, name, click, disabled = false) =>
            h("button", { type: "button", class: `link ${name}`, disabled, on: { click } }, label);
        const { actions } = this.#view;
        return [
            turn.content && button("Copy", "copy", ({ currentTarget }) => copyWith(currentTarget, this.#view.turn.content)),
            turn.role === "assistant" &&
                (turn.content || !turn.error) &&
                button("Again", "again", () => actions.again(this.#view.turn), !usable),
            turn.content && button("Edit", "edit", () => this.#view.edit(), busy || (turn.role === "user" && !usable)),
            turn.tokens?.length > 0 &&
                h("a", { class: "link tokens-link", href: tokensAddress(turn.conversation, turn.id) }, "Tokens"),
        ];
    }

    #branchesOf(turn, { place, count, busy }) {
        const step = (by, name, label) => {
            const outside = place + by < 0 || place + by >= count;
            const click = () => this.#view.actions.branch(this.#view.turn, by);
            return iconButton(name, label, { class: "icon-button small", disabled: busy || outside, on: { click } });
        };
        const figure = h(
            "span",
            { class: "branch-count", "aria-label": `Branch ${place + 1} of ${count}` },
            `${place + 1} / ${count}`,
        );
        return [step(-1, "left", "Previous branch"), figure, step(1, "right", "Next branch")];
    }
}

/** "42.1 tok/s · first 0.21 s · 812 of 4,096 · 512 cached", as far as it is known. */
function figuresOf({ role, timings, firstMs, edited }, context) {
    if (role !== "assistant") return "";
    if (edited) return "edited by you";
    const parts = [];
    if (timings?.predicted_per_second > 0) parts.push(`${figures(timings.predicted_per_second)} tok/s`);
    if (firstMs) parts.push(`first ${seconds(firstMs / 1000)}`);
    if (timings) {
        const used = (timings.cache_n ?? 0) + (timings.prompt_n ?? 0) + (timings.predicted_n ?? 0);
        parts.push(context ? `${integer(used)} of ${integer(context)}` : `${integer(used)} tokens`);
        if (timings.cache_n > 0) parts.push(`${integer(timings.cache_n)} cached`);
    }
    return parts.join(" · ");
}
