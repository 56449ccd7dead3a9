/**
 * Conversations in IndexedDB, or in memory where the browser forbids it.
 *
 * Turns are records of their own and a tab writes only turns that it made, so two tabs never overwrite each other's text.
 * What a conversation itself holds (title, time, shown branches) is changed in one transaction that reads it first. Every
 * change is told to the other tabs.
 */

const NAME = "rotor";
const VERSION = 1;
const EXPORT_FORMAT = "rotor.conversations";

/** @typedef {import("./conversation.js").Conversation} Conversation */
/** @typedef {import("./conversation.js").Turn} Turn */

export class Store extends EventTarget {
    /** @type {IDBDatabase | null} */
    #database = null;
    /** @type {BroadcastChannel | null} */
    #channel = null;
    #memory = { conversations: new Map(), turns: new Map() };

    /** Whether conversations outlive the page. */
    get keeps() {
        return this.#database !== null;
    }

    /** Opens the database; never fails, see `keeps`. */
    async open() {
        try {
            this.#database = await openDatabase();
            this.#channel = new BroadcastChannel("rotor");
            this.#channel.onmessage = ({ data }) => this.#emit(data.conversation, data.removed, true);
        } catch {
            this.#database = null;
        }
    }

    /** @returns {Promise<Conversation[]>} Newest first. */
    async conversations() {
        const all = await this.#all("conversations");
        return all.sort((a, b) => b.updated - a.updated);
    }

    /** @returns {Promise<Conversation | undefined>} */
    conversation(id) {
        return this.#get("conversations", id);
    }

    /** @returns {Promise<Turn[]>} All turns of a conversation, in no order. */
    async turns(conversation) {
        if (!this.#database) return [...this.#memory.turns.values()].filter((turn) => turn.conversation === conversation);
        const index = this.#database.transaction("turns").objectStore("turns").index("conversation");
        return settled(index.getAll(conversation));
    }

    /** Ids of conversations with `text` in the title or a turn. */
    async search(text) {
        const wanted = text.toLowerCase();
        const holds = (value) => value?.toLowerCase().includes(wanted);
        const found = new Set();
        for (const turn of await this.#all("turns")) if (holds(turn.content)) found.add(turn.conversation);
        for (const { id, title } of await this.#all("conversations")) if (holds(title)) found.add(id);
        return found;
    }

    /** Stores a conversation that is new. */
    async add(conversation) {
        await this.#put("conversations", conversation);
        this.#tell(conversation.id);
    }

    /**
     * Changes what is stored of a conversation; nothing happens where it was deleted.
     *
     * @param {string} id
     * @param {(conversation: Conversation) => void} change
     */
    async update(id, change) {
        if (!this.#database) {
            const conversation = this.#memory.conversations.get(id);
            if (conversation) change(conversation);
        } else {
            const transaction = this.#database.transaction("conversations", "readwrite");
            const conversations = transaction.objectStore("conversations");
            const conversation = await settled(conversations.get(id));
            if (conversation) {
                change(conversation);
                conversations.put(conversation);
            }
            await finished(transaction);
        }
        this.#tell(id);
    }

    /** Stores a turn that this tab made. Where there is no room for it the event `full` is sent, and the turn lives in the page. */
    async saveTurn(turn) {
        turn.saved = Date.now();
        try {
            await this.#put("turns", turn);
        } catch {
            this.dispatchEvent(new Event("full"));
        }
        this.#tell(turn.conversation);
    }

    /**
     * Deletes conversations with their turns.
     *
     * @param {string[]} ids
     * @returns {Promise<{ conversations: Conversation[], turns: Turn[] }>} What was there, for `restore`.
     */
    async remove(ids) {
        const gone = { conversations: [], turns: [] };
        for (const id of ids) {
            const conversation = await this.conversation(id);
            if (conversation) gone.conversations.push(conversation);
            gone.turns.push(...(await this.turns(id)));
        }
        await this.#write((put, remove) => {
            for (const { id } of gone.conversations) remove("conversations", id);
            for (const { id } of gone.turns) remove("turns", id);
        });
        for (const id of ids) this.#tell(id, true);
        return gone;
    }

    /** Puts back what `remove` took, or adds what was imported; what is there with the same id stays as it is. */
    async restore({ conversations, turns }) {
        const known = new Set(await this.#ids("conversations"));
        const knownTurns = new Set(await this.#ids("turns"));
        const added = conversations.filter(({ id }) => !known.has(id));
        await this.#write((put) => {
            for (const conversation of added) put("conversations", conversation);
            for (const turn of turns) if (!knownTurns.has(turn.id)) put("turns", turn);
        });
        for (const { id } of conversations) this.#tell(id);
        return added.length;
    }

    /** Everything, as one JSON text. */
    async exported() {
        const [conversations, turns] = [await this.conversations(), await this.#all("turns")];
        return JSON.stringify({ format: EXPORT_FORMAT, version: VERSION, conversations, turns }, null, 1);
    }

    /**
     * Adds the conversations of an exported file.
     *
     * @param {string} text
     * @returns {Promise<number>} How many were not there before.
     * @throws {Error} With a sentence for the user; then nothing was added.
     */
    async import(text) {
        return this.restore(parseExport(text));
    }

    async #write(action) {
        if (!this.#database) {
            action(
                (kind, value) => this.#memory[kind].set(value.id, value),
                (kind, id) => this.#memory[kind].delete(id),
            );
            return;
        }
        const transaction = this.#database.transaction(["conversations", "turns"], "readwrite");
        action(
            (kind, value) => transaction.objectStore(kind).put(value),
            (kind, id) => transaction.objectStore(kind).delete(id),
        );
        await finished(transaction);
    }

    #put(kind, value) {
        return this.#write((put) => put(kind, value));
    }

    async #get(kind, id) {
        if (!this.#database) return this.#memory[kind].get(id);
        return settled(this.#database.transaction(kind).objectStore(kind).get(id));
    }

    async #ids(kind) {
        if (!this.#database) return [...this.#memory[kind].keys()];
        return settled(this.#database.transaction(kind).objectStore(kind).getAllKeys());
    }

    async #all(kind) {
        if (!this.#database) return [...this.#memory[kind].values()];
        return settled(this.#database.transaction(kind).objectStore(kind).getAll());
    }

    #tell(conversation, removed = false) {
        this.#emit(conversation, removed, false);
        this.#channel?.postMessage({ conversation, removed });
    }

    /** The event `change` has the conversation's id, whether it was deleted, and whether another tab did it. */
    #emit(conversation, removed, elsewhere) {
        this.dispatchEvent(new CustomEvent("change", { detail: { conversation, removed, elsewhere } }));
    }
}

function openDatabase() {
    const request = indexedDB.open(NAME, VERSION);
    request.onupgradeneeded = () => {
        request.result.createObjectStore("conversations", { keyPath: "id" });
        request.result.createObjectStore("turns", { keyPath: "id" }).createIndex("conversation", "conversation");
    };
    return settled(request);
}

function settled(request) {
    return new Promise((resolve, reject) => {
        request.onsuccess = () => resolve(request.result);
        request.onerror = () => reject(request.error);
    });
}

function finished(transaction) {
    return new Promise((resolve, reject) => {
        transaction.oncomplete = () => resolve(undefined);
        transaction.onerror = transaction.onabort = () => reject(transaction.error);
    });
}

function parseExport(text) {
    let data;
    try {
        data = JSON.parse(text);
    } catch {
        throw new Error("This file is no JSON. Choose a file that this page exported.");
    }
    if (data?.format !== EXPORT_FORMAT)
        throw new Error(`This JSON file holds no conversations: its "format" is not "${EXPORT_FORMAT}".`);
    if (data.version !== VERSION) throw new Error(`This file has version ${data.version}; this page reads version ${VERSION}.`);
    const { conversations, turns } = data;
    if (!isList(conversations, isConversation)) throw new Error('The file\'s "conversations" are damaged. Nothing was imported.');
    if (!isList(turns, isTurn)) throw new Error('The file\'s "turns" are damaged. Nothing was imported.');
    for (const turn of turns) if (turn.state === "streaming") turn.state = "stopped";
    return { conversations, turns };
}

const isList = (value, valid) => Array.isArray(value) && value.every(valid);
const isText = (value) => typeof value === "string";

function isConversation(value) {
    return (
        isText(value?.id) &&
        isText(value.title) &&
        Number.isFinite(value.updated) &&
        typeof value.selected === "object" &&
        value.selected !== null
    );
}

function isTurn(value) {
    const parent = value?.parent === null || isText(value?.parent);
    const tokens =
        value?.tokens === undefined || isList(value.tokens, (token) => isText(token?.text) && Number.isFinite(token.logprob));
    return (
        parent &&
        tokens &&
        isText(value.id) &&
        isText(value.conversation) &&
        isText(value.content) &&
        ["user", "assistant"].includes(value.role)
    );
}
