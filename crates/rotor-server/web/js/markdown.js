/**
 * An answer's Markdown as elements, rendered again while it grows.
 *
 * Text only ever arrives at the end, so every block but the last is final: its elements are kept, and a frame costs what the
 * last block costs. A last block of code grows by appending to its text node. Reference definitions may change earlier blocks,
 * so the finished text is rendered once more where it has any.
 *
 * Raw HTML is shown as text, images become links (nothing is fetched from elsewhere), and DOMPurify sees everything before the
 * page does.
 */

import { Marked } from "../vendor/marked.esm.js";
import DOMPurify from "../vendor/purify.es.mjs";
import { h } from "./dom.js";

const marked = new Marked({
    gfm: true,
    renderer: {
        html: ({ text }) => escapeHtml(text),
        image: ({ href, text }) => `<a href="${escapeHtml(href)}">image: ${escapeHtml(text || href)}</a>`,
    },
});

const ALLOWED = {
    ALLOWED_TAGS: [
        "a",
        "blockquote",
        "br",
        "code",
        "del",
        "em",
        "h1",
        "h2",
        "h3",
        "h4",
        "h5",
        "h6",
        "hr",
        "input",
        "li",
        "ol",
        "p",
        "pre",
        "strong",
        "table",
        "tbody",
        "td",
        "th",
        "thead",
        "tr",
        "ul",
    ],
    ALLOWED_ATTR: ["align", "checked", "class", "disabled", "href", "start", "type"],
    // These hold no addresses, so the rule for addresses is not for them.
    ADD_URI_SAFE_ATTR: ["align", "checked", "disabled", "start", "type"],
    ALLOWED_URI_REGEXP: /^(?:https?|mailto):/i,
    RETURN_DOM_FRAGMENT: true,
};

/** Headings of an answer stand below the page's own: an answer's first level is the page's third. */
const HEADING_SHIFT = 2;

export class MarkdownView {
    #element;
    /** The text whose elements are final. */
    #final = "";
    /** The text behind it that is on the screen. */
    #tail = "";
    /** @type {ChildNode[]} */
    #tailNodes = [];
    #hasDefinitions = false;

    /** @param {HTMLElement} element Holds the blocks and nothing else. */
    constructor(element) {
        this.#element = element;
    }

    /**
     * Shows `text`.
     *
     * @param {string} text
     * @param {boolean} finished Whether nothing more will come.
     */
    update(text, finished) {
        text = text.replace(/\r\n?/g, "\n");
        if (!text.startsWith(this.#final) || (finished && this.#hasDefinitions)) this.#reset();
        const tail = text.slice(this.#final.length);
        if (tail === this.#tail) return;
        const blocks = marked.lexer(tail);
        this.#hasDefinitions ||= Object.keys(blocks.links).length > 0;
        if (!this.#growCode(blocks)) this.#render(blocks);
        this.#tail = text.slice(this.#final.length);
    }

    #reset() {
        this.#element.replaceChildren();
        [this.#final, this.#tail, this.#tailNodes, this.#hasDefinitions] = ["", "", [], false];
    }

    #render(blocks) {
        for (const node of this.#tailNodes) node.remove();
        let last = blocks.length - 1;
        while (last > 0 && blocks[last].type === "space") last -= 1;
        const done = blocks.slice(0, Math.max(last, 0));
        this.#element.append(elementsOf(done, blocks.links));
        this.#final += done.map(({ raw }) => raw).join("");
        const tail = elementsOf(blocks.slice(Math.max(last, 0)), blocks.links);
        this.#tailNodes = [...tail.childNodes];
        this.#element.append(tail);
    }

    /** Whether all that is not final is one block of code, which has only become longer; then it has. */
    #growCode(blocks) {
        if (blocks.length !== 1 || blocks[0].type !== "code" || this.#tailNodes.length !== 1) return false;
        const code = this.#tailNodes[0].querySelector?.("pre > code");
        const text = code?.firstChild;
        const language = languageOf(blocks[0].lang);
        if (!(text instanceof Text) || code.dataset.language !== language) return false;
        const wanted = blocks[0].text.endsWith("\n") ? blocks[0].text : `${blocks[0].text}\n`;
        const shown = text.data.replace(/\n$/, "");
        if (!wanted.startsWith(shown)) return false;
        text.replaceData(shown.length, text.length - shown.length, wanted.slice(shown.length));
        return true;
    }
}

/** A finished text as elements. */
export function renderMarkdown(text) {
    const element = h("div", { class: "markdown" });
    new MarkdownView(element).update(text, true);
    return element;
}

function elementsOf(blocks, links) {
    const html = marked.parser(Object.assign([...blocks], { links }));
    const fragment = DOMPurify.sanitize(html, ALLOWED);
    for (const pre of fragment.querySelectorAll("pre")) pre.replaceWith(codeBlock(pre));
    for (const table of fragment.querySelectorAll("table")) tableBlock(table);
    for (const link of fragment.querySelectorAll("a")) outside(link);
    for (const heading of fragment.querySelectorAll("h1, h2, h3, h4, h5, h6")) lower(heading);
    for (const box of fragment.querySelectorAll("input")) box.setAttribute("aria-label", box.checked ? "done" : "to do");
    // Each block has the direction of its first letter; what is inside of a list or a quotation follows the whole.
    for (const block of [...fragment.children, ...fragment.querySelectorAll("td, th")])
        if (!block.matches("figure")) block.dir = "auto";
    return fragment;
}

/** Code with its language and a copy button; it scrolls sideways, its lines are never broken. */
function codeBlock(pre) {
    const code = pre.querySelector("code") ?? pre;
    const language = languageOf(/language-(\S+)/.exec(code.className)?.[1]);
    return h(
        "figure",
        { class: "block code" },
        h("figcaption", {}, h("span", {}, language || "text"), h("button", { type: "button", class: "link copy-code" }, "Copy")),
        h("pre", { tabIndex: 0, dir: "ltr" }, h("code", { data: { language } }, document.createTextNode(code.textContent))),
    );
}

/** The language of a code block: its info string up to the first space. */
function languageOf(info) {
    return /\S*/.exec(info ?? "")[0];
}

/** A table with a copy button; one wider than the column scrolls in a box of its own, which the keyboard can reach. */
function tableBlock(table) {
    const box = h("div", { class: "table", tabIndex: 0, role: "region", "aria-label": "Table" });
    const copy = h("button", { type: "button", class: "link copy-table" }, "Copy");
    table.replaceWith(h("figure", { class: "block" }, h("figcaption", {}, h("span", {}, "table"), copy), box));
    box.append(table);
}

/**
 * The text that a copy button of an answer stands for, or `null` for another element: code as it is, a table as lines of cells
 * with tabs between them, which spreadsheets take.
 *
 * @param {Element} button
 */
export function copiedBy(button) {
    const block = button.closest("figure");
    if (button.matches(".copy-code")) return block.querySelector("code").textContent;
    if (!button.matches(".copy-table")) return null;
    const rows = [...block.querySelectorAll("tr")];
    return rows.map((row) => [...row.cells].map((cell) => cell.textContent.trim()).join("\t")).join("\n");
}

function outside(link) {
    link.target = "_blank";
    link.rel = "noopener noreferrer";
    if (link.textContent.startsWith("image: ")) link.append(` (${link.getAttribute("href")})`);
    if (!link.hasAttribute("href")) link.replaceWith(...link.childNodes);
}

function lower(heading) {
    const level = Math.min(Number(heading.localName[1]) + HEADING_SHIFT, 6);
    const lowered = h(`h${level}`);
    lowered.append(...heading.childNodes);
    heading.replaceWith(lowered);
}

function escapeHtml(text) {
    return text.replace(/[&<>"']/g, (character) => `&#${character.charCodeAt(0)};`);
}
