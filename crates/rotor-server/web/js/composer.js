/** The field for the next message, with Send, or Stop while an answer streams. */

import { h, iconButton } from "./dom.js";

const MAX_HEIGHT = 240;

export class Composer {
    #actions;
    #busy = false;

    /**
     * @param {{ send: (text: string) => void, stop: () => void }} actions
     */
    constructor(actions) {
        this.#actions = actions;
        this.field = h("textarea", {
            id: "message",
            rows: 1,
            placeholder: "Message",
            "aria-label": "Message",
            dir: "auto",
            enterKeyHint: "send",
            on: { input: () => this.#fit(), keydown: (event) => this.#key(event) },
        });
        this.#button = iconButton("send", "Send", { class: "icon-button send", on: { click: () => this.#press() } });
        this.#stop = iconButton("stop", "Stop", { class: "icon-button send stop", on: { click: () => actions.stop() } });
        this.#stop.hidden = true;
        this.element = h(
            "div",
            { class: "composer" },
            h("div", { class: "composer-box" }, this.field, this.#button, this.#stop),
            h(
                "p",
                { class: "hint" },
                h("kbd", {}, "Enter"),
                " sends · ",
                h("kbd", {}, "Shift"),
                "+",
                h("kbd", {}, "Enter"),
                " new line · ",
                h("kbd", {}, "?"),
                " all keys",
            ),
        );
    }

    #button;
    #stop;

    /** Whether an answer is under way: then the button stops it. */
    set busy(busy) {
        if (busy === this.#busy) return;
        const focused = document.activeElement === (this.#busy ? this.#stop : this.#button);
        this.#busy = busy;
        this.#button.hidden = busy;
        this.#stop.hidden = !busy;
        if (focused) (busy ? this.#stop : this.#button).focus();
    }

    /** Whether messages can be sent. */
    set enabled(enabled) {
        this.#button.disabled = !enabled;
    }

    set placeholder(text) {
        this.field.placeholder = text;
    }

    #key(event) {
        const touch = matchMedia("(pointer: coarse)").matches;
        if (event.key !== "Enter" || event.shiftKey || event.isComposing || touch) return;
        event.preventDefault();
        this.#press();
    }

    #press() {
        const text = this.field.value.trim();
        if (this.#busy || this.#button.disabled || !text) return;
        this.field.value = "";
        this.#fit();
        this.#actions.send(text);
    }

    /** As high as its text, up to a limit. */
    #fit() {
        const { field } = this;
        field.style.setProperty("height", "auto");
        field.style.setProperty("height", `${Math.min(field.scrollHeight, MAX_HEIGHT)}px`);
    }
}
