/** The weights of every layer and linear as a strip of small bars, each of which can be looked at closely. */

import { histogram, tritBar, tritText } from "./charts.js";
import { fill, h } from "./dom.js";
import { count, figures, integer, percent } from "./format.js";

const HINT = "Point at a bar for its figures, press it for its rows and scales.";

export class LayersSection {
    #layers;
    #names;
    #readout = h("p", { class: "readout figures", "aria-live": "polite" }, HINT);
    #detail = h("div", { class: "linear-detail" });
    #greatest;
    #chosen = null;

    constructor({ layers, trits }) {
        this.#layers = layers;
        this.#names = [...new Set(layers.flatMap(({ linears }) => linears.map(({ name }) => name)))];
        this.#greatest = Math.max(...layers.flatMap(({ linears }) => linears.map(({ scales }) => scales?.mean ?? 0)), 0);
        this.element = h(
            "section",
            { class: "part" },
            h("h2", { class: "part-title" }, "Layers"),
            trits &&
                h(
                    "p",
                    { class: "lead" },
                    `${tritText(trits)} of all ternary weights: ${figures(trits.entropy_bits_per_weight)} bits of information each.`,
                ),
            legend(this.#greatest),
            this.#readout,
            this.#strip(),
            this.#detail,
        );
    }

    #strip() {
        const heads = [
            h("th", { scope: "col" }, h("span", { class: "unseen" }, "Layer")),
            this.#names.map((name) => h("th", { scope: "col" }, shortName(name))),
        ];
        const rows = this.#layers.map((layer) =>
            h(
                "tr",
                {},
                h("th", { scope: "row" }, layer.index),
                this.#names.map((name) => this.#cell(layer, name)),
            ),
        );
        const table = h("table", { class: "strip" }, h("thead", {}, h("tr", {}, heads)), h("tbody", {}, rows));
        table.addEventListener("mouseleave", () => this.#read(this.#chosen));
        table.addEventListener("keydown", (event) => moveFocus(table, event));
        const first = table.querySelector("button");
        if (first) first.tabIndex = 0;
        return h("div", { class: "strip-box" }, table);
    }

    #cell(layer, name) {
        const linear = layer.linears.find((candidate) => candidate.name === name);
        if (!linear) return h("td");
        const about = { layer: layer.index, linear };
        const look = () => this.#read(about);
        const choose = ({ currentTarget }) => this.#choose(about, currentTarget);
        const button = h(
            "button",
            {
                type: "button",
                class: "cell",
                tabIndex: -1,
                "aria-label": readoutText(about),
                on: { mouseenter: look, focus: look, click: choose },
            },
            linear.minus === undefined || linear.minus === null ? h("span", { class: "trits dense" }) : tritBar(linear),
            linear.scales && h("span", { class: "scale", vars: { "--share": linear.scales.mean / (this.#greatest || 1) } }),
        );
        return h("td", {}, button);
    }

    #read(about) {
        this.#readout.textContent = about ? readoutText(about) : HINT;
    }

    #choose(about, button) {
        const again = this.#chosen === about || (this.#chosen?.layer === about.layer && this.#chosen?.linear === about.linear);
        this.element.querySelector(".cell[aria-pressed]")?.removeAttribute("aria-pressed");
        this.#chosen = again ? null : about;
        if (!again) button.setAttribute("aria-pressed", "true");
        fill(this.#detail, this.#chosen && detailOf(this.#chosen));
    }
}

function detailOf({ layer, linear }) {
    const { name, rows, cols, type, kernel, scales, zeros_by_row: zeros } = linear;
    const figure = (caption, picture) => h("figure", { class: "histogram" }, h("figcaption", {}, caption), picture);
    const pictures = [
        zeros && figure(`Share of zeros in each of ${integer(rows)} rows`, histogram(zeros, "Share of zeros by row", percent)),
        scales?.histogram && figure(`${integer(scales.count)} scales`, histogram(scales.histogram, "Scales")),
    ].filter(Boolean);
    return [
        h("h3", { class: "section-title" }, `Layer ${layer}, ${name}`),
        h(
            "p",
            { class: "small figures" },
            [
                `${integer(rows)} × ${integer(cols)}`,
                type,
                kernel && `kernel ${kernel}`,
                scales?.count === 1 && `one scale, ${figures(scales.mean)}`,
            ]
                .filter(Boolean)
                .join(" · "),
        ),
        pictures.length > 0
            ? h("div", { class: "histograms" }, pictures)
            : h("p", { class: "small" }, "Nothing more is known of it."),
    ];
}

function readoutText({ layer, linear }) {
    const { name, rows, cols, type, scales, minus } = linear;
    const parts = [`Layer ${layer}`, name, count(rows * cols)];
    if (minus === undefined || minus === null) return [...parts, `not ternary: ${type}`].join(" · ");
    return [...parts, tritText(linear), scales && scaleText(scales)].filter(Boolean).join(" · ");
}

function scaleText({ count: number, min, mean, max }) {
    return number === 1 ? `scale ${figures(mean)}` : `scales ${figures(min)} to ${figures(max)}`;
}

function legend(greatest) {
    const entry = (kind, name) => h("li", {}, h("span", { class: `swatch ${kind}` }), name);
    return h(
        "ul",
        { class: "legend inline" },
        entry("minus", "−1"),
        entry("zero", "0"),
        entry("plus", "+1"),
        greatest > 0 && h("li", {}, h("span", { class: "swatch scale-swatch" }), `mean scale, at most ${figures(greatest)}`),
    );
}

/** "q_proj" is "q" where seven names share a line. */
function shortName(name) {
    return name.replace(/_proj$/, "");
}

/** The arrow keys walk over the bars, which are one stop for the Tab key. */
function moveFocus(table, event) {
    const cell = event.target.closest("td");
    const [down, right] = { ArrowUp: [-1, 0], ArrowDown: [1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1] }[event.key] ?? [0, 0];
    if (!cell || (!down && !right)) return;
    event.preventDefault();
    const row = cell.parentElement;
    const next = table.rows[row.rowIndex + down]?.cells[cell.cellIndex + right]?.querySelector("button");
    if (!next) return;
    event.target.tabIndex = -1;
    next.tabIndex = 0;
    next.focus();
}
