/** Numbers, sizes and times as people read them. Figures use the English form everywhere, as the rest of the page does. */

const INTEGER = new Intl.NumberFormat("en", { maximumFractionDigits: 0 });

/** 4,096 */
export function integer(value) {
    return INTEGER.format(value);
}

/** Three significant figures where that needs a decimal point, else whole: 0.0213, 4.2, 42.1, 1,187. */
export function figures(value) {
    if (!Number.isFinite(value)) return "–";
    const size = Math.abs(value);
    if (size >= 100) return integer(value);
    if (size >= 10) return value.toFixed(1);
    if (size >= 1) return value.toFixed(2);
    return size === 0 ? "0" : String(Number(value.toPrecision(3)));
}

/** 812, 4.1 k, 2.36 M, 2.08 G. */
export function count(value) {
    return scaled(value, 1000, ["", " k", " M", " G", " T"]);
}

/** 812 B, 1.50 KiB, 521 MiB. */
export function bytes(value) {
    return scaled(value, 1024, [" B", " KiB", " MiB", " GiB", " TiB"]);
}

/** 0.21 s, 12.3 s, 2 min 5 s. */
export function seconds(value) {
    if (value < 10) return `${value.toFixed(2)} s`;
    if (value < 60) return `${value.toFixed(1)} s`;
    return `${Math.floor(value / 60)} min ${Math.round(value % 60)} s`;
}

/** 23.1 ms, 1.20 s. */
export function milliseconds(value) {
    return value < 1000 ? `${figures(value)} ms` : seconds(value / 1000);
}

/** A share of one as percent: 33.3 %, 0.04 %. */
export function percent(share) {
    const value = share * 100;
    if (value >= 99.95) return "100 %";
    if (value >= 10) return `${value.toFixed(1)} %`;
    return `${Number(value.toPrecision(2))} %`;
}

/** 14:05 */
export function clock(unixSeconds) {
    return new Date(unixSeconds * 1000).toLocaleTimeString("en-GB", { hour: "2-digit", minute: "2-digit" });
}

/**
 * The heading of the side bar under which a conversation of time `then` stands at time `now`, both in milliseconds.
 *
 * @param {number} then
 * @param {number} [now]
 */
export function dayGroup(then, now = Date.now()) {
    const midnight = new Date(now).setHours(0, 0, 0, 0);
    const day = 86_400_000;
    if (then >= midnight) return "Today";
    if (then >= midnight - day) return "Yesterday";
    if (then >= midnight - 6 * day) return "Last seven days";
    return new Date(then).toLocaleDateString("en-GB", { month: "long", year: "numeric" });
}

/** Spaces, line ends and tabs made visible, for tokens shown one at a time. */
export function visible(text) {
    return text.replaceAll(" ", "␣").replaceAll("\n", "↵").replaceAll("\t", "⇥");
}

function scaled(value, base, units) {
    let power = 0;
    while (Math.abs(value) >= base && power < units.length - 1) {
        value /= base;
        power += 1;
    }
    const text = power === 0 ? integer(value) : value >= 100 ? value.toFixed(0) : value.toPrecision(3);
    return text + units[power];
}
