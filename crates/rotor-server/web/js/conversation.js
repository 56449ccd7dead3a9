/**
 * A conversation as a tree of turns: what was said, and every other way it went on.
 *
 * An edited turn is a new sibling of the old one, so nothing is ever overwritten. `selected` names the child that is shown
 * below each turn; following it from the root gives the path that is on the screen and is sent to the model.
 */

/**
 * @typedef {object} Token One generated token.
 * @property {string} text With U+FFFD where it is not whole characters.
 * @property {number[] | null} [bytes] Where they differ from those of `text`; `null` for a control token.
 * @property {number | null} [id]
 * @property {number} logprob Natural logarithm.
 * @property {number} [rank] 1 for the most probable.
 * @property {boolean} [drafted] Proposed by speculation and accepted.
 * @property {boolean} [thinking]
 * @property {Token[]} [top] The most probable tokens, best first.
 */

/**
 * @typedef {object} Turn
 * @property {string} id
 * @property {string} conversation Id of its conversation.
 * @property {string | null} parent Id of the turn it answers.
 * @property {"user" | "assistant"} role
 * @property {string} content
 * @property {number} created Milliseconds.
 * @property {"done" | "streaming" | "stopped" | "length" | "full" | "error"} state
 * @property {string} [model]
 * @property {string} [reasoning] Text of the thinking part.
 * @property {number} [reasoningMs]
 * @property {Token[]} [tokens]
 * @property {{ message: string, status: number, code: string } | null} [error]
 * @property {Record<string, number>} [timings] The server's, of the last request.
 * @property {number} [firstMs] From sending to the first token.
 * @property {boolean} [edited] The text is the user's, not the model's.
 * @property {string} [owner] The tab that writes it while it streams.
 * @property {number} [saved] When it was last stored, in milliseconds.
 */

/**
 * @typedef {object} Conversation
 * @property {string} id
 * @property {string} title
 * @property {number} created Milliseconds.
 * @property {number} updated Milliseconds.
 * @property {Record<string, string>} selected By parent id ("" for the root), the child that is shown.
 */

/** The key of the root in `selected`. */
const ROOT = "";

const TITLE_LENGTH = 48;

/** A new id; random enough for one person's browser, and made without `crypto.randomUUID`, which needs a secure context. */
export function newId() {
    const bytes = crypto.getRandomValues(new Uint8Array(10));
    return Array.from(bytes, (byte) => byte.toString(36).padStart(2, "0")).join("");
}

/** @returns {Conversation} */
export function newConversation(firstText, now = Date.now()) {
    return { id: newId(), title: titleOf(firstText), created: now, updated: now, selected: {} };
}

/** A title from the first words of a message. */
export function titleOf(text) {
    const line = text.trim().replace(/\s+/g, " ");
    if (line.length <= TITLE_LENGTH) return line || "Untitled";
    const cut = line.slice(0, TITLE_LENGTH);
    return `${cut.slice(0, Math.max(cut.lastIndexOf(" "), TITLE_LENGTH / 2)).trimEnd()}…`;
}

/**
 * A turn that is not stored yet.
 *
 * @param {Partial<Turn> & { conversation: string, parent: string | null, role: Turn["role"] }} fields
 * @returns {Turn}
 */
export function newTurn(fields) {
    return { id: newId(), content: "", created: Date.now(), state: "done", ...fields };
}

/** Turns with the same parent, oldest first. */
export function siblings(turns, parent) {
    return turns.filter((turn) => turn.parent === parent).sort((a, b) => a.created - b.created || (a.id < b.id ? -1 : 1));
}

/**
 * The turns on the screen, from the first to the last.
 *
 * @param {Conversation} conversation
 * @param {Turn[]} turns All turns of the conversation.
 * @returns {Turn[]}
 */
export function pathOf(conversation, turns) {
    const path = [];
    let parent = null;
    while (true) {
        const children = siblings(turns, parent);
        if (children.length === 0) return path;
        const chosen = conversation.selected[parent ?? ROOT];
        const turn = children.find((child) => child.id === chosen) ?? children[children.length - 1];
        path.push(turn);
        parent = turn.id;
    }
}

/** The turns that lead to `turn`, from the first on, without itself. */
export function ancestors(turns, turn) {
    const before = [];
    for (let parent = turn.parent; parent !== null;) {
        const found = turns.find(({ id }) => id === parent);
        if (!found) break;
        before.unshift(found);
        parent = found.parent;
    }
    return before;
}

/** Shows `turn` below its parent. */
export function select(conversation, turn) {
    conversation.selected[turn.parent ?? ROOT] = turn.id;
}

/** A token's bytes; empty for a control token. */
export function tokenBytes(token) {
    if (token.bytes === null) return new Uint8Array();
    return token.bytes ? Uint8Array.from(token.bytes) : new TextEncoder().encode(token.text);
}

/**
 * The answer's text up to token `index`, with another token in its place.
 *
 * @param {Turn} turn
 * @param {number} index
 * @param {Token} replacement
 * @returns {string | null} `null` where the bytes do not end with a whole character.
 */
export function textWith(turn, index, replacement) {
    const kept = (turn.tokens ?? []).slice(0, index).filter((token) => !token.thinking);
    const bytes = [...kept, replacement].flatMap((token) => [...tokenBytes(token)]);
    try {
        return new TextDecoder("utf-8", { fatal: true, ignoreBOM: true }).decode(Uint8Array.from(bytes));
    } catch {
        return null;
    }
}

/** Surprise in bits. */
export function bits(token) {
    return -token.logprob / Math.LN2;
}
