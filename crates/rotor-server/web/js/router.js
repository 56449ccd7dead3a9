/**
 * The address holds what is shown, so Back works and a view can be bookmarked:
 * `#/`, `#/c/ID`, `#/c/ID/tokens/TURN`, `#/c/ID/settings`, `#/model`, `#/requests`, `#/settings`.
 */

/**
 * @typedef {object} Route
 * @property {"chat" | "tokens" | "model" | "requests" | "settings"} view
 * @property {string | null} conversation
 * @property {string | null} turn
 */

/** @returns {Route} What the address asks for; a new conversation where it says nothing known. */
export function currentRoute() {
    const [first, id, second, turn] = location.hash.replace(/^#\/?/, "").split("/").map(decodeURIComponent);
    if (first === "c" && id && second === "tokens" && turn) return { view: "tokens", conversation: id, turn };
    if (first === "c" && id && second === "settings") return { view: "settings", conversation: id, turn: null };
    if (first === "c" && id) return { view: "chat", conversation: id, turn: null };
    if (first === "model" || first === "requests" || first === "settings") return { view: first, conversation: null, turn: null };
    return { view: "chat", conversation: null, turn: null };
}

export function chatAddress(conversation) {
    return conversation ? `#/c/${encodeURIComponent(conversation)}` : "#/";
}

export function tokensAddress(conversation, turn) {
    return `${chatAddress(conversation)}/tokens/${encodeURIComponent(turn)}`;
}

/** The settings, beside a conversation where one is open. */
export function settingsAddress(conversation) {
    return conversation ? `${chatAddress(conversation)}/settings` : "#/settings";
}

/** Goes to `address` as a link would. */
export function go(address) {
    location.hash = address;
}

/** Puts `address` in place of the current one, without an event: the view is there already. */
export function replaceAddress(address) {
    history.replaceState(null, "", address);
}
