/** The list of conversations by day, with search and deletion. */

import { fill, h, iconButton } from "./dom.js";
import { dayGroup } from "./format.js";
import { chatAddress, currentRoute, go } from "./router.js";
import { toast } from "./toast.js";

export class Sidebar {
    #store;
    #history = document.getElementById("history");
    #search = /** @type {HTMLInputElement} */ (document.getElementById("search"));
    #shown = "";
    #pending = 0;

    /** @param {import("./store.js").Store} store */
    constructor(store) {
        this.#store = store;
        store.addEventListener("change", () => this.refreshSoon());
        this.#search.addEventListener("input", () => this.refreshSoon());
        document.getElementById("scrim").addEventListener("click", () => this.close());
        document.getElementById("side").addEventListener("click", ({ target }) => target.closest("a") && this.close());
    }

    open() {
        document.body.classList.add("side-open");
        document.querySelector(".wordmark").focus();
    }

    close() {
        document.body.classList.remove("side-open");
    }

    get isOpen() {
        return document.body.classList.contains("side-open");
    }

    /** Refreshes once for all changes of the next moment: a streaming answer is stored several times a second. */
    refreshSoon() {
        this.#pending ||= setTimeout(() => {
            this.#pending = 0;
            this.refresh();
        }, 60);
    }

    async refresh() {
        const text = this.#search.value.trim();
        const found = text ? await this.#store.search(text) : null;
        const all = (await this.#store.conversations()).filter(({ id }) => !found || found.has(id));
        const route = currentRoute();
        for (const link of document.querySelectorAll(".views a")) mark(link, link.dataset.view === route.view);
        // Building the list anew would take the focus away from who walks through it.
        const state = JSON.stringify([
            text,
            route.conversation,
            all.map(({ id, title, updated }) => [id, title, dayGroup(updated)]),
        ]);
        if (state === this.#shown) return;
        this.#shown = state;
        fill(this.#history, all.length > 0 ? this.#groups(all, route.conversation) : emptyNote(text));
    }

    #groups(conversations, current) {
        const groups = new Map();
        for (const conversation of conversations) {
            const name = dayGroup(conversation.updated);
            groups.set(name, [...(groups.get(name) ?? []), conversation]);
        }
        return [...groups].map(([name, members]) => [
            h("h2", { class: "side-title" }, name),
            h(
                "ul",
                {},
                members.map((conversation) => this.#item(conversation, conversation.id === current)),
            ),
        ]);
    }

    #item({ id, title }, current) {
        const link = h("a", { href: chatAddress(id), title, dir: "auto" }, title);
        mark(link, current);
        return h(
            "li",
            {},
            link,
            iconButton("close", `Delete ${title}`, {
                class: "icon-button delete",
                on: { click: () => this.#delete(id, current) },
            }),
        );
    }

    async #delete(id, current) {
        const gone = await this.#store.remove([id]);
        const undo = async () => {
            await this.#store.restore(gone);
            if (current) go(chatAddress(id));
        };
        toast("Conversation deleted.", { label: "Undo", run: undo });
    }
}

function mark(link, current) {
    if (current) link.setAttribute("aria-current", "page");
    else link.removeAttribute("aria-current");
}

function emptyNote(text) {
    return h("p", { class: "side-note" }, text ? "Nothing found." : "Conversations appear here.");
}
