/** The keyboard: what each key does, in one list that is also what `?` shows. */

import { h } from "./dom.js";

/**
 * @typedef {object} KeyActions
 * @property {() => void} message
 * @property {() => void} escape
 * @property {(by: 1 | -1) => void} branch
 */

const KEYS = [
    [["/"], "Go to the message"],
    [["Enter"], "Send the message"],
    [["Shift", "Enter"], "New line in the message"],
    [["Esc"], "Stop the answer, or close what is open"],
    [["[", "]"], "Previous and next branch"],
    [["←", "→"], "Previous and next token, in the Tokens view"],
    [["?"], "This list"],
];

/** @param {KeyActions} actions */
export function listen(actions) {
    const dialog = helpDialog();
    document.body.append(dialog);
    addEventListener("keydown", (event) => {
        // Many layouts have the brackets behind AltGr, which counts as Ctrl and Alt on some systems.
        const chord = (event.ctrlKey || event.metaKey || event.altKey) && !event.getModifierState("AltGraph");
        if (event.defaultPrevented || chord) return;
        // The dialog closes itself on Escape.
        if (dialog.open) return;
        if (event.key === "Escape") return actions.escape();
        if (typing(event.target)) return;
        const action = {
            "/": () => actions.message(),
            "[": () => actions.branch(-1),
            "]": () => actions.branch(1),
            "?": () => dialog.showModal(),
        }[event.key];
        if (!action) return;
        event.preventDefault();
        action();
    });
}

function typing(target) {
    if (target instanceof HTMLInputElement) return !["checkbox", "radio", "range", "button"].includes(target.type);
    return target instanceof HTMLTextAreaElement || target instanceof HTMLSelectElement;
}

function helpDialog() {
    const close = () => dialog.close();
    const rows = KEYS.map(([keys, text]) => [
        h(
            "dt",
            {},
            keys.map((key) => h("kbd", {}, key)),
        ),
        h("dd", {}, text),
    ]);
    const dialog = h(
        "dialog",
        { class: "help", "aria-labelledby": "help-title" },
        h("h2", { id: "help-title" }, "Keys"),
        h("dl", { class: "keys" }, rows),
        h("button", { type: "button", class: "button", on: { click: close } }, "Close"),
    );
    return dialog;
}
