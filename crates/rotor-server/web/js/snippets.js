/** Samples of code with a copy button, and how to point a client at this server. */

import { h } from "./dom.js";
import { copyWith } from "./toast.js";

/**
 * A block of code as answers have them.
 *
 * @param {string} text
 * @param {string} language
 */
export function codeSample(text, language) {
    const copy = ({ currentTarget }) => copyWith(currentTarget, text);
    return h(
        "figure",
        { class: "block code" },
        h("figcaption", {}, h("span", {}, language), h("button", { type: "button", class: "link", on: { click: copy } }, "Copy")),
        h("pre", { tabIndex: 0 }, h("code", {}, text)),
    );
}

/**
 * How to reach this server from outside of the page: [language, code] each.
 *
 * @param {string} model
 * @param {boolean} needsKey
 * @returns {[string, string][]}
 */
export function clientSnippets(model, needsKey) {
    const base = new URL("v1", document.baseURI).href;
    const key = needsKey ? "YOUR_KEY" : "unused";
    return [
        ["curl", curl(base, model, needsKey)],
        ["Python", python(base, model, key)],
        ["JavaScript", javaScript(base, model, key)],
    ];
}

function curl(base, model, needsKey) {
    const key = needsKey ? ['  -H "Authorization: Bearer YOUR_KEY" \\'] : [];
    return [
        `curl ${base}/chat/completions \\`,
        ...key,
        '  -H "Content-Type: application/json" \\',
        `  -d '{"model": "${model}", "messages": [{"role": "user", "content": "Hello"}]}'`,
    ].join("\n");
}

function python(base, model, key) {
    return `from openai import OpenAI

client = OpenAI(base_url="${base}", api_key="${key}")
answer = client.chat.completions.create(
    model="${model}",
    messages=[{"role": "user", "content": "Hello"}],
)
print(answer.choices[0].message.content)`;
}

function javaScript(base, model, key) {
    return `import OpenAI from "openai";

const client = new OpenAI({ baseURL: "${base}", apiKey: "${key}" });
const answer = await client.chat.completions.create({
  model: "${model}",
  messages: [{ role: "user", content: "Hello" }],
});
console.log(answer.choices[0].message.content);`;
}
