/**
 * Building elements without a framework.
 *
 * The page's content security policy forbids `style` attributes, so inline sizes and colours are set as custom properties
 * through the CSS object model (`vars`), which the policy allows.
 */

const SVG = "http://www.w3.org/2000/svg";

/**
 * @typedef {object} Props
 * @property {string} [class]
 * @property {Record<string, (event: any) => void>} [on] Listeners by event type.
 * @property {Record<string, string | number>} [vars] Custom properties, with their leading dashes.
 * @property {Record<string, string | number>} [data] Data attributes.
 */

/** @typedef {Node | string | number | null | undefined | false | Child[]} Child */

/**
 * Creates an HTML element. Other props are set as properties where the element has them, else as attributes;
 * `null`, `undefined` and `false` leave an attribute out.
 *
 * @param {string} tag
 * @param {Props & Record<string, any>} [props]
 * @param {...Child} children
 * @returns {any} The element.
 */
export function h(tag, props = {}, ...children) {
    return build(document.createElement(tag), props, children);
}

/**
 * Creates an SVG element. All props but `on`, `vars` and `data` are attributes.
 *
 * @param {string} tag
 * @param {Props & Record<string, any>} [props]
 * @param {...Child} children
 * @returns {SVGElement}
 */
export function svg(tag, props = {}, ...children) {
    return /** @type {SVGElement} */ (build(document.createElementNS(SVG, tag), props, children));
}

/**
 * Replaces everything in `element`.
 *
 * @param {Element} element
 * @param {...Child} children
 */
export function fill(element, ...children) {
    element.replaceChildren(...flatten(children));
}

/**
 * Sets `textContent` only where it changes, so that idle frames cost no layout.
 *
 * @param {Element} element
 * @param {string} text
 */
export function setText(element, text) {
    if (element.textContent !== text) element.textContent = text;
}

/** A button that only shows a picture, named for those who do not see it. */
export function iconButton(name, label, props = {}) {
    return h("button", { type: "button", class: "icon-button", "aria-label": label, title: label, ...props }, icon(name));
}

const ICONS = {
    menu: "M3 5h14M3 10h14M3 15h14",
    send: "M10 16V4M4.5 9.5 10 4l5.5 5.5",
    stop: "M5.5 5.5h9v9h-9z",
    close: "M5 5l10 10M15 5 5 15",
    down: "M10 4v12M4.5 10.5 10 16l5.5-5.5",
    left: "M12.5 4.5 7 10l5.5 5.5",
    right: "M7.5 4.5 13 10l-5.5 5.5",
    plus: "M10 4v12M4 10h12",
};

/** One of the page's few line drawings, 20 by 20, in the colour of the text around it. */
export function icon(name) {
    return svg(
        "svg",
        { viewBox: "0 0 20 20", class: `icon icon-${name}`, "aria-hidden": "true" },
        svg("path", { d: ICONS[name] }),
    );
}

function build(element, { class: names, on = {}, vars = {}, data = {}, ...rest }, children) {
    if (names) element.setAttribute("class", names);
    for (const [type, listener] of Object.entries(on)) element.addEventListener(type, listener);
    for (const [name, value] of Object.entries(vars)) element.style.setProperty(name, String(value));
    for (const [name, value] of Object.entries(data)) element.dataset[name] = String(value);
    for (const [name, value] of Object.entries(rest)) assign(element, name, value);
    element.append(...flatten(children));
    return element;
}

function assign(element, name, value) {
    if (value === null || value === undefined) return;
    if (element.namespaceURI !== SVG && name in element && !name.includes("-")) {
        element[name] = value;
    } else if (value !== false) {
        element.setAttribute(name, String(value));
    }
}

function flatten(children) {
    return children.flat(Infinity).filter((child) => child !== null && child !== undefined && child !== false);
}
