/** The page's pictures of data, drawn at the width they have, so that their text is never scaled. */

import { h, svg } from "./dom.js";
import { figures, percent } from "./format.js";

/**
 * A chart that is drawn again when its width changes.
 *
 * @param {number} height Pixels.
 * @param {string} label What it shows, for those who do not see it.
 * @param {(width: number) => (SVGElement | null)[]} draw
 */
export function chart(height, label, draw) {
    const box = h("div", { class: "chart", vars: { "--height": `${height}px` } });
    const redraw = (width) => {
        if (width < 1) return;
        box.replaceChildren(
            svg("svg", { width, height, viewBox: `0 0 ${width} ${height}`, role: "img", "aria-label": label }, draw(width)),
        );
    };
    new ResizeObserver(([{ contentRect }]) => redraw(Math.floor(contentRect.width))).observe(box);
    return box;
}

/**
 * One bar of named parts, with a legend that gives their sizes.
 *
 * @param {{ name: string, value: number, text: string, kind: string }[]} parts `kind` is a class that colours a part.
 * @param {number} total What the whole bar stands for; more than the parts where some of it is free.
 */
export function stackedBar(parts, total) {
    const shown = parts.filter(({ value }) => value > 0);
    const segment = ({ name, value, text, kind }) =>
        h("span", { class: `segment ${kind}`, title: `${name}: ${text}`, vars: { "--share": value / total } });
    const entry = ({ name, text, kind }) =>
        h(
            "li",
            {},
            h("span", { class: `swatch ${kind}` }),
            h("span", { class: "legend-name" }, name),
            h("span", { class: "figures" }, text),
        );
    return h(
        "div",
        { class: "stacked" },
        h("div", { class: "stacked-bar", "aria-hidden": "true" }, shown.map(segment)),
        h("ul", { class: "legend" }, shown.map(entry)),
    );
}

/** The shares of -1, 0 and +1 as a small bar. */
export function tritBar({ minus, zero, plus }) {
    const total = minus + zero + plus || 1;
    const segment = (value, kind) => h("span", { class: `segment ${kind}`, vars: { "--share": value / total } });
    return h("span", { class: "trits" }, segment(minus, "minus"), segment(zero, "zero"), segment(plus, "plus"));
}

/** The shares of -1, 0 and +1 in words. */
export function tritText({ minus, zero, plus }) {
    const total = minus + zero + plus || 1;
    return `−1 ${percent(minus / total)} · 0 ${percent(zero / total)} · +1 ${percent(plus / total)}`;
}

/**
 * @param {{ min: number, max: number, counts: number[] }} data
 * @param {string} label
 * @param {(value: number) => string} [format]
 */
export function histogram({ min, max, counts }, label, format = figures) {
    const height = 112;
    const base = height - 20;
    const most = Math.max(...counts, 1);
    return chart(
        height,
        `${label}: ${counts.length} bins from ${format(min)} to ${format(max)}, the fullest has ${most}`,
        (width) => {
            const step = width / counts.length;
            const bar = (count, index) => {
                const size = Math.max((count / most) * (base - 4), count > 0 ? 1 : 0);
                return svg("rect", {
                    class: "mark",
                    x: index * step + 0.5,
                    y: base - size,
                    width: Math.max(step - 1, 1),
                    height: size,
                });
            };
            return [
                ...counts.map(bar),
                line(0, base + 0.5, width, base + 0.5, "axis"),
                text(0, height - 4, format(min), "start"),
                text(width, height - 4, format(max), "end"),
            ];
        },
    );
}

/**
 * Surprise over an answer: the height of each point is the largest value of the tokens that share its pixel.
 *
 * @param {number[]} values
 * @param {string} label
 */
export function sparkline(values, label) {
    const height = 56;
    const highest = Math.max(...values, 1);
    return chart(height, label, (width) => {
        const points = Math.min(values.length, Math.floor(width / 2));
        const heights = Array.from({ length: points }, (_, index) => {
            const [from, to] = [Math.floor((index * values.length) / points), Math.ceil(((index + 1) * values.length) / points)];
            return Math.max(...values.slice(from, to));
        });
        const x = (index) => (points > 1 ? (index / (points - 1)) * width : 0);
        const y = (value) => height - 2 - (value / highest) * (height - 8);
        const path = heights.map((value, index) => `${index ? "L" : "M"}${x(index).toFixed(1)} ${y(value).toFixed(1)}`).join("");
        return [
            line(0, height - 1.5, width, height - 1.5, "axis"),
            svg("path", { class: "area", d: `${path}L${width} ${height - 2}L0 ${height - 2}Z` }),
            svg("path", { class: "curve", d: path }),
            svg("line", { class: "cursor", x1: -9, y1: 0, x2: -9, y2: height, "data-tokens": values.length }),
        ];
    });
}

/** Moves the cursor of a sparkline to one of its values. */
export function pointAt(sparklineBox, index) {
    const cursor = sparklineBox.querySelector(".cursor");
    if (!cursor) return;
    const width = Number(cursor.ownerSVGElement.getAttribute("width"));
    const x = index < 0 ? -9 : (index / Math.max(Number(cursor.dataset.tokens) - 1, 1)) * width;
    cursor.setAttribute("x1", x);
    cursor.setAttribute("x2", x);
}

/**
 * Median and 95th percentile over the last hour.
 *
 * @param {{ start: number, p50: number, p95: number }[]} points
 * @param {{ label: string, from: number, to: number, format: (value: number) => string }} options `from` and `to` are Unix seconds.
 */
export function timeline(points, { label, from, to, format }) {
    const height = 132;
    const [top, base] = [18, height - 20];
    const highest = niceCeiling(Math.max(...points.map(({ p95 }) => p95), 1e-9));
    return chart(height, `${label}, at most ${format(highest)}`, (width) => {
        const x = ({ start }) => ((start - from) / (to - from)) * width;
        const y = (value) => base - (value / highest) * (base - top);
        const path = (key) =>
            points.map((point, index) => `${index ? "L" : "M"}${x(point).toFixed(1)} ${y(point[key]).toFixed(1)}`).join("");
        const last = points[points.length - 1];
        return [
            ...[0, 0.5, 1].map((share) => line(0, y(highest * share), width, y(highest * share), share ? "grid" : "axis")),
            text(0, top - 6, format(highest), "start"),
            text(0, height - 4, "1 h ago", "start"),
            text(width, height - 4, "now", "end"),
            points.length > 1 ? svg("path", { class: "curve faint", d: path("p95") }) : null,
            points.length > 1 ? svg("path", { class: "curve", d: path("p50") }) : null,
            last ? svg("circle", { class: "mark faint", cx: x(last), cy: y(last.p95), r: 2.5 }) : null,
            last ? svg("circle", { class: "mark", cx: x(last), cy: y(last.p50), r: 2.5 }) : null,
        ];
    });
}

/**
 * What was measured against what the machine allows, on logarithmic axes: multiply-adds for each byte of weights to the
 * right, multiply-adds per second upwards.
 *
 * @param {{ bandwidth: number, peak: number }} roofs
 * @param {{ name: string, intensity: number, rate: number, text: string }[]} dots
 */
export function roofline({ bandwidth, peak }, dots) {
    const height = 220;
    const [left, right, top, base] = [0, 12, 24, height - 36];
    const ridge = peak / bandwidth;
    const lowX = Math.min(...dots.map((dot) => dot.intensity), ridge) / 3;
    const highX = Math.max(...dots.map((dot) => dot.intensity), ridge) * 3;
    const highY = peak * 2;
    // Below the lowest dot there is room for its name.
    const lowY = Math.min(...dots.map((dot) => dot.rate), lowX * bandwidth) / 4;
    const scale = (value, low, high) => Math.log(value / low) / Math.log(high / low);
    const label = `Roofline. ${dots.map(({ name, text: figure }) => `${name}: ${figure}`).join(". ")}`;
    return chart(height, label, (width) => {
        const x = (value) => left + scale(value, lowX, highX) * (width - left - right);
        const y = (value) => base - scale(value, lowY, highY) * (base - top);
        const roof = `M${x(lowX)} ${y(lowX * bandwidth)}L${x(ridge)} ${y(peak)}L${x(highX)} ${y(peak)}`;
        const slope = (Math.atan2(y(peak) - y(lowX * bandwidth), x(ridge) - x(lowX)) * 180) / Math.PI;
        const middle = Math.sqrt(lowX * ridge);
        return [
            line(left, base + 0.5, width - right, base + 0.5, "axis"),
            text(width - right, height - 6, "multiply-adds for each byte of weights →", "end"),
            text(left, 12, "↑ multiply-adds per second", "start"),
            svg("path", { class: "roof", d: roof }),
            text(width - right, y(peak) - 8, "multiplying", "end"),
            svg(
                "text",
                {
                    class: "chart-text",
                    "text-anchor": "middle",
                    transform: `translate(${x(middle)} ${y(middle * bandwidth) - 8}) rotate(${slope})`,
                },
                "memory",
            ),
            ...dots.flatMap(({ name, intensity, rate }) => [
                line(x(intensity), y(rate), x(intensity), y(Math.min(intensity * bandwidth, peak)), "gap"),
                svg("circle", { class: "dot", cx: x(intensity), cy: y(rate), r: 5 }),
                text(x(intensity) + 10, y(rate) + 16, name, x(intensity) > width * 0.75 ? "end" : "start", "strong"),
            ]),
        ];
    });
}

function line(x1, y1, x2, y2, kind) {
    return svg("line", { class: kind, x1, y1, x2, y2 });
}

function text(x, y, content, anchor, kind = "") {
    return svg("text", { class: `chart-text ${kind}`, x, y, "text-anchor": anchor }, content);
}

/** The next of 1, 2, 5 times a power of ten. */
function niceCeiling(value) {
    const power = 10 ** Math.floor(Math.log10(value));
    return [1, 2, 5, 10].map((factor) => factor * power).find((step) => step >= value) ?? value;
}
