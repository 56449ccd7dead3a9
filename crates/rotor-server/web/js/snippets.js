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
        { class: "code" },
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
    const header = needsKey ? ` \\\n  -H "Authorization: Bearer ${key}"` : "";
    return [
        [
            "curl",
            `curl ${base}/chat/completions${header} \\\n  -H "Content-Type: application/json" \\\n  -d '{"model": "${model}", "messages": [{"role": "user", "content": "Hello"}]}'`,
        ],
        [
            "Python",
            `from openai import OpenAI\n\nclient = OpenAI(base_url="${base}", api_key="${key}")\nanswer = client.chat.completions.create(\n    model="${model}",\n    messages=[{"role": "user", "content": "Hello"}],\n)\nprint(answer.choices[0].message.content)`,
        ],
        [
            "JavaScript",
            `import OpenAI from "openai";\n\nconst client = new OpenAI({ baseURL: "${base}", apiKey: "${key}" });\nconst answer = await client.chat.completions.create({\n  model: "${model}",\n  messages: [{ role: "user", content: "Hello" }],\n});\nconsole.log(answer.choices[0].message.content);`,
        ],
    ];
}
