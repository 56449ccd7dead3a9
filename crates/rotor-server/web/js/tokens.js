/** How certain the model was of every token of one answer, and what else it might have said. */

import { pointAt, sparkline } from "./charts.js";
import { bits, textWith, tokenBytes } from "./conversation.js";
import { fill, h } from "./dom.js";
import { figures, integer, percent, visible } from "./format.js";
import { generations } from "./generation.js";
import { chatAddress, go } from "./router.js";
import { server } from "./server.js";

/** @typedef {import("./conversation.js").Token} Token */

/** From these probabilities down, tokens are shaded one step darker each. */
const SHADES = [0.9, 0.7, 0.5, 0.3, 0.1, 0.03];

export class TokensView {
    title = "Tokens";
    #chat;
    #turn;
    #thought = h("p", { class: "token-text", dir: "auto" });
    #answer = h("p", { class: "token-text", dir: "auto" });
    #detail = h("aside", { class: "token-detail", "aria-label": "The chosen token" });
    #sparkline = h("div");
    #summary = h("p", { class: "figures" });
    /** @type {HTMLElement[]} */
    #boxes = [];
    /** The token that was pressed; hovering shows others only in passing. */
    #pinned = -1;
    #shown = -1;

    /**
     * The view of a turn, or of nothing where there is no such turn.
     *
     * @param {import("./store.js").Store} store
     * @param {import("./chat.js").ChatView} chat Shows the turn's conversation.
     * @param {string} id
     */
    static async of(store, chat, id) {
        return new TokensView(chat, chat.turn(id));
    }

    constructor(chat, turn) {
        [this.#chat, this.#turn] = [chat, turn];
        const back = h("a", { class: "link", href: chatAddress(chat.conversation?.id) }, "Back to the conversation");
        this.element = h("section", { class: "view tokens-view", "aria-label": "Tokens" });
        if (!turn?.tokens?.length) {
            fill(this.element, back, h("p", { class: "view-note" }, "No probabilities are known for this answer."));
            return;
        }
        const text = h("div", { class: "token-columns" }, this.#texts(), this.#detail);
        fill(this.element, h("div", { class: "tokens-head" }, back, this.#summary, this.#sparkline, legend()), text);
        this.#listen();
        this.#grow();
        this.#show(0, false);
    }

    #texts() {
        const thoughts = this.#turn.tokens.some((token) => token.thinking);
        return h(
            "div",
            { class: "token-texts" },
            thoughts && [
                h("h2", { class: "section-title" }, "Thinking"),
                this.#thought,
                h("h2", { class: "section-title" }, "Answer"),
            ],
            this.#answer,
        );
    }

    #listen() {
        const place = ({ target }) => this.#boxes.indexOf(target.closest?.(".token"));
        const texts = this.element.querySelector(".token-texts");
        texts.addEventListener("mouseover", (event) => place(event) >= 0 && this.#show(place(event), false));
        texts.addEventListener("mouseleave", () => this.#pinned >= 0 && this.#show(this.#pinned, false));
        texts.addEventListener("click", (event) => place(event) >= 0 && this.#show(place(event), true));
        texts.addEventListener("keydown", (event) => this.#key(event));
        const generation = generations.get(this.#turn.id);
        let frame = 0;
        generation?.addEventListener("change", () => {
            frame ||= requestAnimationFrame(() => {
                frame = 0;
                this.#grow();
            });
        });
    }

    /** Adds the boxes of tokens that are not shown yet. */
    #grow() {
        const { tokens } = this.#turn;
        for (const token of tokens.slice(this.#boxes.length)) {
            const box = tokenBox(token);
            // The space in front of a word stays outside of its box, so that lines break between boxes.
            const space = / (?=\S)/y.test(token.text) && token.bytes === undefined ? " " : "";
            (token.thinking ? this.#thought : this.#answer).append(space, box);
            this.#boxes.push(box);
        }
        const values = tokens.map(bits);
        const mean = values.reduce((sum, value) => sum + value, 0) / values.length;
        const drafted = tokens.filter((token) => token.drafted).length;
        const parts = [
            `${integer(tokens.length)} tokens`,
            `${figures(mean)} bits per token on average, ${figures(Math.max(...values))} at most`,
            drafted > 0 && `${integer(drafted)} drafted`,
        ];
        this.#summary.textContent = parts.filter(Boolean).join(" · ");
        fill(this.#sparkline, sparkline(values, `Surprise in bits over the answer, at most ${figures(Math.max(...values))}`));
    }

    #key(event) {
        const step = { ArrowLeft: -1, ArrowRight: 1, Home: -Infinity, End: Infinity }[event.key];
        if (event.key === "Enter" || event.key === " ") {
            event.preventDefault();
            this.#show(this.#shown, true);
            this.#detail.querySelector("button")?.focus();
        } else if (step) {
            event.preventDefault();
            const next = Math.max(0, Math.min(this.#boxes.length - 1, this.#shown + step));
            this.#show(next, true);
            this.#boxes[next].focus();
        }
    }

    #show(index, pin) {
        if (pin) {
            this.#boxes[this.#pinned]?.classList.remove("pinned");
            this.#boxes[index].classList.add("pinned");
            this.#pinned = index;
        }
        // One stop for the Tab key, wherever the reader is.
        if (this.#boxes[this.#shown]) this.#boxes[this.#shown].tabIndex = -1;
        this.#boxes[index].tabIndex = 0;
        this.#shown = index;
        pointAt(this.#sparkline, index);
        fill(this.#detail, this.#facts(index), this.#alternatives(index));
    }

    #facts(index) {
        const token = this.#turn.tokens[index];
        const bytes = token.bytes && [...tokenBytes(token)].map((byte) => byte.toString(16).padStart(2, "0")).join(" ");
        const facts = [
            ["Probability", percent(Math.exp(token.logprob))],
            ["Rank", token.rank ? integer(token.rank) : `beyond ${token.top?.length ?? 0}`],
            ["Surprise", `${figures(bits(token))} bits`],
            ["Id", token.id ?? null],
            ["Bytes", bytes],
            ["Drafted", token.drafted ? "yes, and accepted" : null],
        ];
        const rows = facts
            .filter(([, value]) => value !== null && value !== undefined)
            .map(([name, value]) => h("div", {}, h("dt", {}, name), h("dd", {}, value)));
        return [
            h("p", { class: "token-place" }, `Token ${integer(index + 1)} of ${integer(this.#boxes.length)}`),
            h("h2", { class: "token-name" }, shownText(token)),
            h("dl", { class: "facts" }, rows),
        ];
    }

    #alternatives(index) {
        const token = this.#turn.tokens[index];
        const top = token.top ?? [];
        if (top.length === 0) return null;
        const reason = this.#whyNot(token);
        return [
            h("h3", { class: "section-title" }, reason ? "Alternatives" : "Go on from here with"),
            h(
                "ol",
                { class: "alternatives" },
                top.map((other, place) => h("li", {}, this.#alternative(index, other, place, reason))),
            ),
            reason && h("p", { class: "small" }, reason),
        ];
    }

    /** Why the answer cannot be continued from another token, or `null` where it can. */
    #whyNot(token) {
        if (token.thinking) return "A thinking part cannot be continued from another token.";
        if (generations.size > 0) return "Another answer is under way.";
        return server.usable ? null : "The server cannot take requests now.";
    }

    #alternative(index, other, place, reason) {
        const probability = Math.exp(other.logprob);
        const token = this.#turn.tokens[index];
        const chosen = other.text === token.text && String(other.bytes) === String(token.bytes);
        const content = reason || other.bytes === null || chosen ? null : textWith(this.#turn, index, other);
        const inside = [
            h("span", { class: "alternative-text" }, shownText(other)),
            h("span", { class: "alternative-bar", vars: { "--share": probability } }),
            h("span", { class: "figures" }, percent(probability)),
        ];
        if (content === null)
            return h(
                "span",
                { class: `alternative ${chosen ? "chosen" : ""}`, title: chosen ? "This one was chosen" : "" },
                inside,
            );
        const depart = () => {
            const kept = this.#turn.tokens.slice(0, index);
            this.#chat.departFrom(this.#turn, content, [...kept, { ...other, rank: place + 1, top: token.top }]);
            go(chatAddress(this.#chat.conversation.id));
        };
        return h(
            "button",
            {
                type: "button",
                class: "alternative",
                "aria-label": `Go on from here with ${shownText(other)}, ${percent(probability)}`,
                on: { click: depart },
            },
            inside,
        );
    }
}

function tokenBox(token) {
    const probability = Math.exp(token.logprob);
    const shade = SHADES.filter((limit) => probability < limit).length;
    const classes = ["token", `shade-${shade}`, token.drafted ? "drafted" : "", token.bytes !== undefined ? "raw" : ""];
    // A line end is shown and made.
    const text = token.bytes === undefined ? token.text.replace(/^ (?=\S)/, "").replaceAll("\n", "↵\n") : shownText(token);
    return h(
        "span",
        {
            class: classes.filter(Boolean).join(" "),
            role: "button",
            tabIndex: -1,
            "aria-label": `${shownText(token)}, ${percent(probability)}`,
        },
        text,
    );
}

/** A token by itself: its text with spaces made visible, or its bytes where it is no whole character. */
function shownText(token) {
    if (!token.bytes) return visible(token.text) || "(empty)";
    return [...tokenBytes(token)].map((byte) => `‹${byte.toString(16).toUpperCase().padStart(2, "0")}›`).join("");
}

function legend() {
    const label = (shade) =>
        shade === 0
            ? `≥ ${SHADES[0] * 100} %`
            : shade < SHADES.length
              ? `${SHADES[shade] * 100}`
              : `< ${SHADES[shade - 1] * 100} %`;
    const steps = Array.from({ length: SHADES.length + 1 }, (_, shade) =>
        h("span", { class: `legend-step shade-${shade}` }, label(shade)),
    );
    return h(
        "p",
        { class: "shade-legend" },
        h("span", {}, "Probability"),
        h("span", { class: "legend-steps" }, steps),
        h("span", { class: "drafted" }, "drafted and accepted"),
    );
}
