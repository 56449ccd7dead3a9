/** Short messages in a corner, some with a way back. */

import { h } from "./dom.js";

const SHOWN_MS = 10_000;

/**
 * Shows `message` for ten seconds, or as long as the pointer or the focus is on it.
 *
 * @param {string} message
 * @param {{ label: string, run: () => void }} [action]
 */
export function toast(message, action) {
    const close = () => element.remove();
    const later = () => setTimeout(() => (element.matches(":hover, :focus-within") ? later() : close()), SHOWN_MS);
    const run = () => {
        close();
        action.run();
    };
    const element = h(
        "div",
        { class: "toast" },
        h("span", {}, message),
        action && h("button", { type: "button", class: "link", on: { click: run } }, action.label),
    );
    document.getElementById("toasts").append(element);
    later();
}

/** Copies `text` and says so on `button` for a moment; without a secure context, by way of a selection. */
export async function copyWith(button, text) {
    const label = button.textContent;
    const copied = await copy(text);
    button.textContent = copied ? "Copied" : "Copying failed";
    setTimeout(() => (button.textContent = label), 1500);
}

async function copy(text) {
    try {
        await navigator.clipboard.writeText(text);
        return true;
    } catch {
        const area = h("textarea", { class: "unseen", value: text, readOnly: true });
        document.body.append(area);
        area.select();
        const copied = document.execCommand("copy");
        area.remove();
        return copied;
    }
}
