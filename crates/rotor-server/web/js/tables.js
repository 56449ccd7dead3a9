/** Tables whose rows become cards on narrow screens: each cell carries its column's name. */

import { h } from "./dom.js";

/**
 * @param {string[]} heads The last may be empty where its column holds buttons.
 * @param {import("./dom.js").Child[][]} rows
 * @param {string} label
 */
export function rowsTable(heads, rows, label) {
    const cell = (value, index) => h("td", { data: { head: heads[index] } }, value);
    const acting = heads[heads.length - 1] === "";
    return h(
        "table",
        { class: acting ? "rows acting" : "rows", "aria-label": label },
        h(
            "thead",
            {},
            h(
                "tr",
                {},
                heads.map((head) => h("th", { scope: "col" }, head || h("span", { class: "unseen" }, "Actions"))),
            ),
        ),
        h(
            "tbody",
            {},
            rows.map((row) => h("tr", {}, row.map(cell))),
        ),
    );
}
