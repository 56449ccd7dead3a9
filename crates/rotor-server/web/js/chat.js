/** The conversation: its turns, the field below them, and what happens when something is sent. */

import { fill, h, icon } from "./dom.js";
import { ancestors, newConversation, newTurn, pathOf, select, siblings } from "./conversation.js";
import { Generation, generations, newest, TAB } from "./generation.js";
import { Composer } from "./composer.js";
import { emptyState } from "./empty.js";
import { copiedBy } from "./markdown.js";
import { chatAddress, currentRoute, replaceAddress, settingsAddress } from "./router.js";
import { server } from "./server.js";
import { copyWith } from "./toast.js";
import { TurnView } from "./turn.js";

/** @typedef {import("./conversation.js").Turn} Turn */

/** A reader this close to the end, in pixels, is followed. */
const NEAR_END = 48;
/** A stream of another tab that was not stored for so long, in milliseconds, has ended without saying so. */
const ABANDONED_MS = 5000;

export class ChatView {
    #store;
    #announcer;
    #onTitle;
    /** @type {import("./conversation.js").Conversation | null} */
    conversation = null;
    /** @type {Turn[]} All turns, of every branch. */
    #turns = [];
    /** @type {Map<string, TurnView>} */
    #views = new Map();
    #list = h("ol", { class: "turns" });
    #empty = h("div", { class: "empty" });
    #column = h("div", { class: "column" }, this.#empty, this.#list);
    #scroll = h("div", { class: "scroll" }, this.#column);
    #jump = h("button", { type: "button", class: "jump", hidden: true }, icon("down"), "Jump to the newest");
    #following = true;
    /** How far the reader has scrolled, kept while another view is shown. */
    #place = 0;
    #frame = 0;

    /**
     * @param {import("./store.js").Store} store
     * @param {import("./announce.js").Announcer} announcer
     * @param {() => void} onTitle Is called when the title may have changed.
     */
    constructor(store, announcer, onTitle) {
        this.#store = store;
        this.#announcer = announcer;
        this.#onTitle = onTitle;
        this.composer = new Composer({ send: (text) => this.send(text), stop: () => this.stop() });
        this.element = h(
            "section",
            { class: "chat", "aria-label": "Conversation" },
            this.#scroll,
            h("div", { class: "jump-place" }, this.#jump),
            this.composer.element,
        );
        this.#scroll.addEventListener("scroll", () => this.#scrolled(), { passive: true });
        this.#scroll.addEventListener("click", (event) => this.#copyBlock(event));
        this.#jump.addEventListener("click", () => this.#toEnd());
        server.addEventListener("change", () => this.#renderSoon());
        store.addEventListener("change", ({ detail }) => this.#stored(detail));
    }

    /** A turn of the conversation, by its id. */
    turn(id) {
        return this.#turns.find((turn) => turn.id === id);
    }

    /** Is called when the view has come back to the screen, which costs an element its place. */
    shown() {
        this.#scroll.scrollTop = this.#following ? this.#scroll.scrollHeight : this.#place;
        this.#render();
    }

    get title() {
        return this.conversation?.title ?? "New conversation";
    }

    /** The answer of this conversation that is under way in this tab. */
    get #running() {
        return this.#path()
            .map(({ id }) => generations.get(id))
            .find(Boolean);
    }

    /**
     * Shows a conversation; `null` is a new one.
     *
     * @returns {Promise<boolean>} Whether it exists.
     */
    async show(id) {
        if (id && id === this.conversation?.id) return true;
        const conversation = id ? await this.#store.conversation(id) : null;
        if (id && !conversation) return false;
        this.conversation = conversation;
        this.#turns = [];
        this.#views.clear();
        this.#list.replaceChildren();
        this.#following = true;
        await this.#reload();
        return true;
    }

    /** Follows what other tabs do, and deletion by any. */
    #stored({ conversation, removed, elsewhere }) {
        if (removed)
            for (const generation of generations.values())
                if (generation.turn.conversation === conversation) generation.discard();
        if (conversation !== this.conversation?.id) return;
        if (removed) this.#forget();
        else if (elsewhere) this.#reload();
    }

    /** The conversation was deleted: a new one takes its place. */
    #forget() {
        const route = currentRoute();
        if (route.conversation === this.conversation.id)
            replaceAddress(route.view === "settings" ? settingsAddress(null) : chatAddress(null));
        this.conversation = null;
        this.#turns = [];
        this.#onTitle();
        this.#render();
    }

    /** Reads the conversation again, with what other tabs have added to it. */
    async #reload() {
        const shown = this.conversation;
        const stored = shown ? await this.#store.turns(shown.id) : [];
        const current = shown ? await this.#store.conversation(shown.id) : null;
        if (this.conversation !== shown) return;
        if (current && shown) Object.assign(shown, { title: current.title, updated: current.updated });
        // A turn that was added a moment ago may not have been stored when this was read.
        const turns = new Map(this.#turns.map((turn) => [turn.id, turn]));
        for (const turn of stored) turns.set(turn.id, newest(turn));
        this.#turns = [...turns.values()];
        for (const turn of this.#turns) this.#adopt(turn);
        this.#onTitle();
        this.#render();
    }

    /** What a stored turn that says "streaming" is really doing. */
    #adopt(turn) {
        const generation = generations.get(turn.id);
        if (generation) this.#listen(generation);
        else if (turn.state === "streaming" && turn.owner === TAB) this.#interrupted(turn);
        else if (turn.state === "streaming") setTimeout(() => this.#renderSoon(), ABANDONED_MS);
    }

    #interrupted(turn) {
        turn.state = "stopped";
        delete turn.owner;
        this.#store.saveTurn(turn);
    }

    async send(text) {
        if (!server.usable) return;
        await this.#ensureConversation(text);
        const [{ id: conversation }, last] = [this.conversation, this.#path().at(-1)];
        const user = newTurn({ conversation, parent: last?.id ?? null, role: "user", content: text });
        const stored = this.#add(user);
        this.#toEnd();
        await this.#answer({ conversation, parent: user.id }, {}, stored);
    }

    stop() {
        this.#running?.stop();
    }

    /** Steps through the branches of the turn with the focus, else of the last turn that has any. */
    stepBranch(by) {
        const focused = document.activeElement?.closest?.(".turn")?.dataset.turn;
        const branched = this.#path().filter((turn) => siblings(this.#turns, turn.parent).length > 1);
        const turn = branched.find(({ id }) => id === focused) ?? branched.at(-1);
        if (turn && !this.#running) this.#showSibling(turn, by);
    }

    /**
     * Begins an answer that has some text already, as a new branch.
     *
     * @param {Turn} turn The answer it departs from.
     * @param {string} content
     * @param {import("./conversation.js").Token[]} tokens Those of `content`.
     */
    async departFrom(turn, content, tokens) {
        if (this.#running || !server.usable) return;
        const { reasoning, reasoningMs } = turn;
        await this.#answer(turn, { content, tokens, ...(reasoning ? { reasoning, reasoningMs } : {}) });
    }

    async rename(title) {
        if (!this.conversation) return;
        this.conversation.title = title;
        await this.#store.update(this.conversation.id, (stored) => (stored.title = title));
        this.#onTitle();
    }

    async #ensureConversation(text) {
        if (this.conversation) return;
        this.conversation = newConversation(text);
        await this.#store.add(this.conversation);
        replaceAddress(
            currentRoute().view === "settings" ? settingsAddress(this.conversation.id) : chatAddress(this.conversation.id),
        );
        this.#onTitle();
    }

    /**
     * Adds an answer and has it made.
     *
     * @param {Pick<Turn, "conversation" | "parent">} place Where in which conversation.
     * @param {Partial<Turn>} [fields] What it begins with.
     * @param {Promise<void>} [before] What must be stored before it.
     */
    async #answer({ conversation, parent }, fields = {}, before = Promise.resolve()) {
        const turn = newTurn({ conversation, parent, role: "assistant", model: server.model.id, ...fields });
        const generation = new Generation(this.#store, turn);
        await this.#run(generation, Promise.all([before, this.#add(turn)]));
    }

    /** Adds a turn and shows it, if its conversation is still the one on the screen. */
    async #add(turn) {
        if (turn.conversation === this.conversation?.id) {
            this.#turns.push(turn);
            select(this.conversation, turn);
        }
        await this.#store.saveTurn(turn);
        await this.#store.update(turn.conversation, (stored) => {
            select(stored, turn);
            stored.updated = Date.now();
        });
    }

    /** Has an answer made once it is `stored`. Its path is taken at once: the user may look at something else meanwhile. */
    async #run(generation, stored) {
        const path = ancestors(this.#turns, generation.turn);
        this.#announcer.begin(generation.turn.content.length);
        this.#listen(generation);
        this.#render();
        await stored;
        await generation.run(path);
    }

    #listen(generation) {
        if (generation.watched === this) return;
        generation.watched = this;
        generation.addEventListener("change", () => this.#renderSoon());
        generation.addEventListener("end", () => {
            if (this.conversation?.id === generation.turn.conversation) this.#announcer.say(generation.turn.content, true);
            this.#renderSoon();
        });
    }

    /** @type {import("./turn.js").TurnActions} */
    #actions = {
        again: (turn) => this.#answer(turn),
        goOn: (turn) => {
            turn.model = server.model.id;
            return this.#run(new Generation(this.#store, turn));
        },
        edit: (turn, text) => {
            const { conversation, parent, role, model } = turn;
            const edited = newTurn({
                conversation,
                parent,
                role,
                content: text,
                ...(role === "assistant" ? { model, edited: true } : {}),
            });
            const stored = this.#add(edited);
            if (role === "user") return this.#answer({ conversation, parent: edited.id }, {}, stored);
            this.#render();
            return stored;
        },
        branch: (turn, by) => this.#showSibling(turn, by),
    };

    async #showSibling(turn, by) {
        const all = siblings(this.#turns, turn.parent);
        const sibling = all[all.findIndex(({ id }) => id === turn.id) + by];
        if (!sibling) return;
        select(this.conversation, sibling);
        this.#render();
        this.#announcer.tell(`Branch ${all.indexOf(sibling) + 1} of ${all.length}`);
        await this.#store.update(this.conversation.id, (stored) => select(stored, sibling));
    }

    #path() {
        return this.conversation ? pathOf(this.conversation, this.#turns) : [];
    }

    #renderSoon() {
        this.#frame ||= requestAnimationFrame(() => {
            this.#frame = 0;
            this.#render();
        });
    }

    #render() {
        const path = this.#path();
        const running = this.#running;
        const views = path.map((turn) => this.#viewOf(turn));
        if (
            views.length !== this.#list.children.length ||
            views.some((view, index) => view.element !== this.#list.children[index])
        ) {
            this.#list.replaceChildren(...views.map((view) => view.element));
        }
        path.forEach((turn, index) => views[index].update(turn, this.#situation(turn, Boolean(running))));
        this.#renderEmpty(path.length === 0);
        this.#renderComposer(running);
        if (running) this.#announcer.say(running.turn.content, false);
        if (this.#following) this.#scroll.scrollTop = this.#scroll.scrollHeight;
        this.#renderJump();
    }

    #viewOf(turn) {
        if (!this.#views.has(turn.id)) this.#views.set(turn.id, new TurnView(turn, this.#actions));
        return this.#views.get(turn.id);
    }

    /** @returns {import("./turn.js").Situation} */
    #situation(turn, busy) {
        const all = siblings(this.#turns, turn.parent);
        const abandoned =
            turn.state === "streaming" && !generations.has(turn.id) && Date.now() - (turn.saved ?? 0) > ABANDONED_MS;
        return {
            generation: generations.get(turn.id),
            state: abandoned ? "stopped" : turn.state,
            place: all.findIndex(({ id }) => id === turn.id),
            count: all.length,
            context: server.propsOf({ id: turn.model })?.default_generation_settings?.n_ctx ?? null,
            busy,
            usable: !busy && server.usable,
        };
    }

    #renderEmpty(empty) {
        this.#list.hidden = empty;
        this.#empty.hidden = !empty;
        if (!empty) return;
        const key = JSON.stringify([server.phase, server.model?.id, server.model?.status?.value]);
        if (this.#empty.dataset.key === key) return;
        this.#empty.dataset.key = key;
        fill(
            this.#empty,
            emptyState(server, (text) => this.send(text)),
        );
    }

    #renderComposer(running) {
        this.composer.busy = Boolean(running);
        this.composer.enabled = server.usable;
        this.composer.placeholder = server.phase === "ready" && !server.model ? "The server has no model" : "Message";
    }

    #scrolled() {
        const { scrollTop, scrollHeight, clientHeight } = this.#scroll;
        this.#following = scrollHeight - scrollTop - clientHeight < NEAR_END;
        this.#place = scrollTop;
        this.#renderJump();
    }

    /** While an answer grows out of sight there is a way to it. */
    #renderJump() {
        this.#jump.hidden = this.#following || !this.#running;
    }

    #toEnd() {
        this.#following = true;
        this.#scroll.scrollTop = this.#scroll.scrollHeight;
        this.#render();
    }

    #copyBlock({ target }) {
        const button = target.closest?.("figure button");
        const text = button && copiedBy(button);
        if (text) copyWith(button, text);
    }
}
