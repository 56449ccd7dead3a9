/** Reads a streaming answer aloud for screen readers: whole sentences, never single tokens. */

const SENTENCE_END = /[.!?…。！？]["'”’)\]]*\s|\n/g;

export class Announcer {
    #element;
    #said = 0;

    /** @param {Element} element A live region. */
    constructor(element) {
        this.#element = element;
    }

    /** Begins with a new answer, which has `length` characters that need not be said. */
    begin(length = 0) {
        this.#said = length;
    }

    /** Says the sentences of `text` that have become complete; all of it where it is `finished`. */
    say(text, finished) {
        const fresh = text.slice(this.#said);
        const ends = [...fresh.matchAll(SENTENCE_END)];
        const length = finished
            ? fresh.length
            : ends.length > 0
              ? ends[ends.length - 1].index + ends[ends.length - 1][0].length
              : 0;
        if (length === 0) return;
        this.#said += length;
        this.#element.textContent = fresh.slice(0, length).trim();
    }

    /** Says a short message. */
    tell(message) {
        this.#element.textContent = message;
    }
}
