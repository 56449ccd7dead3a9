/** The page's files by themselves: their size, their content, and the contrast of its colours. */

import assert from "node:assert/strict";
import { createHash } from "node:crypto";
import { readdir, readFile } from "node:fs/promises";
import { test } from "node:test";
import { fileURLToPath } from "node:url";
import { gzipSync } from "node:zlib";
import { after, before } from "node:test";
import { end, start, withPage } from "./browser.mjs";

before(start);
after(end);

const WEB = fileURLToPath(new URL("../../web/", import.meta.url));
const files = (await readdir(WEB, { recursive: true, withFileTypes: true }))
    .filter((entry) => entry.isFile())
    .map((entry) => `${entry.parentPath ?? entry.path}/${entry.name}`);
const served = files.filter((name) => /\.(html|css|m?js|svg)$/.test(name));

test("the whole page is under 120 kB compressed", async () => {
    const sizes = await Promise.all(served.map(async (name) => gzipSync(await readFile(name), { level: 9 }).length));
    const total = sizes.reduce((sum, size) => sum + size, 0);
    console.log(`# ${served.length} files, ${total} bytes compressed one by one`);
    assert.ok(total < 120_000, `${total} bytes`);
});

test("no inline script or style, and no address of elsewhere, in what is ours", async () => {
    for (const name of served.filter((file) => !file.includes("/vendor/"))) {
        const text = await readFile(name, "utf8");
        assert.doesNotMatch(text, /<script(?![^>]*\bsrc=)|<style|\sstyle=|\son[a-z]+="/, name);
        assert.doesNotMatch(text, /https?:\/\/(?!www\.w3\.org\/)[a-z]/, name);
    }
});

test("the libraries are those that vendor/README.md states", async () => {
    const readme = await readFile(`${WEB}vendor/README.md`, "utf8");
    for (const [, name, sum] of readme.matchAll(/^\| `([^`]+)` .*`([0-9a-f]{64})` \|$/gm)) {
        assert.equal(
            createHash("sha256")
                .update(await readFile(`${WEB}vendor/${name}`))
                .digest("hex"),
            sum,
            name,
        );
    }
});

test("the README's examples are JSON, and the mock server's answers have their keys", async () => {
    const { MODELS, requestsState, statistics } = await import("./canned.mjs");
    const readme = await readFile(`${WEB}README.md`, "utf8");
    const examples = [...readme.matchAll(/```json\n([\s\S]*?)```/g)].map(([, text]) => JSON.parse(text));
    const find = (object) => examples.find((example) => example.object === object);
    sameKeys(find("list").data[0], MODELS[0], "models");
    sameKeys(find("rotor.statistics"), statistics(MODELS[0], { machine: true, context: 512 }), "statistics");
    sameKeys(find("rotor.requests"), requestsState({ running: 8, waiting: 3, history: true }, new Set()), "requests");
});

/** Fails where one object has a key that the other lacks, at any depth; of a list its first element is compared. */
function sameKeys(one, other, path) {
    if (Array.isArray(one) && Array.isArray(other))
        return one.length && other.length ? sameKeys(one[0], other[0], `${path}[]`) : undefined;
    if (!isObject(one) || !isObject(other)) return undefined;
    assert.deepEqual(Object.keys(one).sort(), Object.keys(other).sort(), path);
    for (const key of Object.keys(one)) sameKeys(one[key], other[key], `${path}.${key}`);
}

const isObject = (value) => typeof value === "object" && value !== null;

/** Text on its ground, and the least contrast it may have. */
const PAIRS = [
    ["--ink", "--ground", 7],
    ["--ink", "--ground-side", 7],
    ["--ink", "--ground-raised", 7],
    ["--ink", "--ground-pressed", 7],
    ["--ink-small", "--ground", 4.5],
    ["--ink-small", "--ground-side", 4.5],
    ["--ink-small", "--ground-raised", 4.5],
    ["--ink-small", "--ground-pressed", 4.5],
    ["--accent", "--ground", 7],
    ["--accent", "--ground-raised", 4.5],
    ["--accent", "--ground-side", 4.5],
    ["--on-accent", "--accent", 7],
    ["--warning", "--warning-ground", 7],
    ["--line-strong", "--ground", 2.5],
];

for (const scheme of ["light", "dark"]) {
    test(`contrast in the ${scheme} scheme`, () =>
        withPage(
            async (page) => {
                const colours = await page.evaluate(
                    (names) => {
                        const canvas = new OffscreenCanvas(1, 1).getContext("2d", { willReadFrequently: true });
                        const pixel = (colour) => {
                            canvas.fillStyle = colour;
                            canvas.fillRect(0, 0, 1, 1);
                            return [...canvas.getImageData(0, 0, 1, 1).data].slice(0, 3);
                        };
                        const box = document.body.appendChild(document.createElement("div"));
                        const read = (set) => {
                            set(box);
                            return pixel(getComputedStyle(box).backgroundColor);
                        };
                        const named = Object.fromEntries(
                            names.map((name) => [
                                name,
                                read((element) => element.style.setProperty("background", `var(${name})`)),
                            ]),
                        );
                        box.removeAttribute("style");
                        for (let shade = 0; shade <= 6; shade += 1)
                            named[`shade-${shade}`] = read((element) => (element.className = `shade-${shade}`));
                        return named;
                    },
                    [...new Set(PAIRS.flatMap(([text, ground]) => [text, ground]))],
                );
                const shades = Array.from({ length: 7 }, (_, shade) => ["--ink", `shade-${shade}`, 7]);
                const short = [...PAIRS, ...shades].map(([text, ground, least]) => [
                    text,
                    ground,
                    contrast(colours[text], colours[ground]),
                    least,
                ]);
                for (const [text, ground, value] of short) console.log(`# ${scheme} ${text} on ${ground}: ${value.toFixed(2)}`);
                assert.deepEqual(
                    short.filter(([, , value, least]) => value < least),
                    [],
                );
            },
            { options: { colorScheme: scheme } },
        ));
}

function contrast(one, other) {
    const [high, low] = [luminance(one), luminance(other)].sort((a, b) => b - a);
    return (high + 0.05) / (low + 0.05);
}

function luminance(colour) {
    const [red, green, blue] = colour
        .map((value) => value / 255)
        .map((value) => (value <= 0.04045 ? value / 12.92 : ((value + 0.055) / 1.055) ** 2.4));
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue;
}
