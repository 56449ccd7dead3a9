/** What stands between the header and the view: the server's state, and whether anything is kept. */

import { setApiKey } from "./api.js";
import { fill, h } from "./dom.js";
import { server } from "./server.js";

/**
 * Shows the state in `element` and keeps it current.
 *
 * @param {HTMLElement} element
 * @param {import("./store.js").Store} store
 */
export function showStatus(element, store) {
    let shown = "";
    let storageNoticeOpen = true;
    const closeNotice = () => {
        storageNoticeOpen = false;
        update();
    };
    const update = () => {
        const notice = !store.keeps && storageNoticeOpen;
        const key = JSON.stringify([server.phase, server.message, server.model?.id, server.model?.status, notice]);
        // Rebuilding the key's form would lose what is being typed into it.
        if (key === shown && server.phase !== "gone") return;
        shown = key;
        fill(element, serverBanner(), notice && storageNotice(closeNotice));
    };
    server.addEventListener("change", update);
    setInterval(() => tick(element), 250);
    update();
}

function serverBanner() {
    const model = server.model;
    switch (server.phase) {
        case "gone":
            return banner("warning", "The server cannot be reached.", h("span", { class: "countdown figures" }), retryButton());
        case "locked":
            return keyForm();
        case "starting":
            return banner("", "The server is starting.");
        case "failing":
            return banner("warning", server.message, retryButton());
        case "connecting":
            return null;
    }
    if (!model) return null;
    const { value, progress = 0, message } = model.status ?? {};
    if (value === "failed") return banner("warning", message ?? `${model.id} could not be loaded.`, retryButton());
    if (value !== "loading") return null;
    const label = `Loading ${model.id}`;
    return banner(
        "",
        label,
        h("progress", { max: 1, value: progress, "aria-label": label }),
        h("span", { class: "figures" }, `${Math.floor(progress * 100)} %`),
    );
}

/** Counts down without waiting for the server's next event. */
function tick(element) {
    const countdown = element.querySelector(".countdown");
    if (!countdown) return;
    const left = Math.max(0, Math.ceil((server.retryAt - Date.now()) / 1000));
    countdown.textContent = left > 0 ? `Trying again in ${left} s.` : "Trying now.";
}

function banner(kind, ...children) {
    const [text, ...rest] = children;
    return h("div", { class: `banner ${kind}` }, h("span", { class: "banner-text" }, text), rest);
}

function retryButton() {
    return h("button", { type: "button", class: "link", on: { click: () => server.refresh() } }, "Try now");
}

function storageNotice(close) {
    const button = h("button", { type: "button", class: "link", on: { click: close } }, "Understood");
    return banner(
        "",
        "This browser blocks storage for this page. Everything works, but nothing is kept: conversations end with this tab.",
        button,
    );
}

function keyForm() {
    const input = h("input", {
        type: "password",
        name: "key",
        required: true,
        autocomplete: "off",
        "aria-label": "API key",
        placeholder: "API key",
    });
    const remember = h("input", { type: "checkbox", name: "remember" });
    const submit = (event) => {
        event.preventDefault();
        setApiKey(input.value.trim(), remember.checked);
        server.refresh();
    };
    return h(
        "form",
        { class: "banner", on: { submit } },
        h("span", { class: "banner-text" }, "This server asks for an API key."),
        input,
        h("label", { class: "check" }, remember, "Keep it in this browser"),
        h("button", { type: "submit", class: "button" }, "Use"),
    );
}
