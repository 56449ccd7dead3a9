/**
 * Small values in the browser's storage, which may be forbidden: then they live as long as the page does.
 */

/** @type {Map<string, string>} Values that could not be stored. */
const memory = new Map();

/** The value of the session, else the one kept for good, else `null`. */
export function kept(name) {
    return memory.get(name) ?? attempt(() => sessionStorage.getItem(name) ?? localStorage.getItem(name)) ?? null;
}

/** Keeps `value` until the tab is closed; `null` forgets it. */
export function keepForSession(name, value) {
    keep("sessionStorage", name, value);
}

/** Keeps `value` for all tabs, until it is changed; `null` forgets it. */
export function keepForGood(name, value) {
    keep("localStorage", name, value);
}

function keep(area, name, value) {
    const stored = attempt(() => {
        if (value === null) window[area].removeItem(name);
        else window[area].setItem(name, value);
        return true;
    });
    if (stored || value === null) memory.delete(name);
    else memory.set(name, value);
}

/** The result of `action`, or `undefined` where storage is forbidden or full. */
function attempt(action) {
    try {
        return action();
    } catch {
        return undefined;
    }
}
